"""`geneformer classify` from the shell's side: fit, predict and evaluate, and pictures of a fine-tuned model."""

import json
import shutil
from pathlib import Path

import anndata
import numpy as np
import pandas as pd
import pytest
from scipy import sparse
from typer.testing import CliRunner

import geneformer as gf
from geneformer import cli
from geneformer.files.manifest import Manifest
from geneformer.finetuning.estimators import CellClassifier
from geneformer.finetuning.reports import ClassificationReport
from geneformer.options import RuntimeOptions
from small_finetuning import labeled_blood, same_weights, tiny_model

CPU = ["--device", "cpu", "--dtype", "float32", "--no-progress"]
TRAIN = [
    "--max-steps", 2, "--tokens-per-batch", 600, "--learning-rate", 0.01, "--valid", 0.25, "--test", 0.25,
    "--baselines", "none", *CPU,
]  # fmt: skip
RUNTIME = RuntimeOptions(device="cpu", dtype="float32", progress=False, tokens_per_batch=600)

pytestmark = [pytest.mark.contract, pytest.mark.filterwarnings("ignore::geneformer.errors.GeneformerWarning")]


def call(*arguments):
    return CliRunner().invoke(cli.app, [str(argument) for argument in arguments])


def told(*arguments):
    result = call(*arguments, "--json")
    assert result.exit_code == 0, result.output
    return json.loads(result.stdout)


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """Cells, a model and a classifier, as files."""
    place = tmp_path_factory.mktemp("classify")
    tiny_model(place / "model", seed=3)
    adata = labeled_blood(40)
    adata.X = sparse.csr_matrix(adata.X)
    adata.write_h5ad(place / "cells.h5ad")
    report = told("classify", "fit", place / "cells.h5ad", "-l", "kind", "--groups", "donor", "-m", place / "model",
                  "-o", place / "fitted", *TRAIN)  # fmt: skip
    (place / "report.json").write_text(json.dumps(report))
    return place


@pytest.fixture
def cells(place):
    return anndata.read_h5ad(place / "cells.h5ad")


def test_fit_writes_what_the_class_learns(place, cells):
    report = json.loads((place / "report.json").read_text())
    ours = CellClassifier.load(place / "fitted", runtime=RUNTIME)
    options = {"max_steps": 2, "tokens_per_batch": 600, "learning_rate": 0.01, "valid": 0.25, "test": 0.25}
    theirs = CellClassifier(place / "model", **options, baselines="none", device="cpu", dtype="float32", progress=False)
    theirs.fit(cells, "kind", groups="donor")
    assert same_weights(ours.network_, theirs.network_)
    assert np.array_equal(ours.predict_proba(cells), theirs.predict_proba(cells))
    assert (report["output"], report["classes"], report["steps"]) == (str(place / "fitted"), list(ours.classes_), 2)
    assert report["split"]["groups"] == "donor"
    assert report["test"]["macro_f1"]["mean"] == theirs.report_.evaluation.metrics["macro_f1"].mean
    assert Manifest.read(place / "fitted").task == "cell_classifier"


def test_cells_that_are_left_out_are_counted_by_reason(place, cells, tmp_path):
    keep = np.ones(cells.n_obs)
    keep[0] = 0
    cells.X = sparse.csr_matrix(cells.X.multiply(keep[:, None]))
    cells.obs["kind"] = cells.obs["kind"].astype(object)
    cells.obs.loc[cells.obs_names[1:4], "kind"] = None
    cells.write_h5ad(tmp_path / "gaps.h5ad")
    report = told(
        "classify", "evaluate", tmp_path / "gaps.h5ad", "-m", place / "fitted", "-o", tmp_path / "report", *CPU
    )
    left_out = {"without a gene of the vocabulary": 1, "without a label in kind": 3}
    assert report["cells_left_out"] == left_out
    report = told(
        "classify", "cross-validate", tmp_path / "gaps.h5ad", "-l", "kind", "-m", place / "model", "--folds", 2,
        "--max-steps", 1, "--tokens-per-batch", 600, "--valid", 0, "--baselines", "none", "-o", tmp_path / "folds",
        *CPU,
    )  # fmt: skip
    assert report["cells_left_out"] == left_out


def test_fit_ends_with_a_table_and_leaves_nothing_else(place, tmp_path):
    given = ["-l", "kind", "-m", place / "model", *TRAIN, "--baselines", "all", "--n-top-genes", 50]
    result = call("classify", "fit", place / "cells.h5ad", "-o", tmp_path / "fitted", *given)
    assert result.exit_code == 0, result.output
    assert result.stdout == ""
    for line in (
        "Parameters trained",
        "Optimizer steps",
        "random initialisation",
        "majority class",
        "library size",
    ):
        assert line in result.stderr, line
    assert [path.name for path in tmp_path.iterdir()] == ["fitted"]


def test_fit_takes_options_from_a_file_and_goes_on_after_a_kill(place, tmp_path):
    (tmp_path / "options.toml").write_text(
        '[finetune]\nmax_steps = 4\neval_steps = 2\ntokens_per_batch = 600\n[classify]\nbaselines = "none"\n'
        "[split]\nvalid = 0.25\ntest = 0.25\n"
    )
    given = ["-l", "kind", "-m", place / "model", "--config", tmp_path / "options.toml", *CPU]
    whole = told("classify", "fit", place / "cells.h5ad", "-o", tmp_path / "whole", *given)
    assert whole["steps"] == 4
    broken = CellClassifier(
        place / "model", max_steps=4, eval_steps=2, tokens_per_batch=600, valid=0.25, test=0.25, baselines="none",
        device="cpu", dtype="float32", progress=False,
    )  # fmt: skip
    with pytest.raises(KeyboardInterrupt):
        broken.fit([place / "cells.h5ad"], "kind", output=tmp_path / ".resumed.training", callbacks=[Interrupt()])
    refused = call("classify", "fit", place / "cells.h5ad", "-o", tmp_path / "resumed", *given)
    assert refused.exit_code == 1
    assert "--resume" in refused.stderr
    shutil.copytree(tmp_path / ".resumed.training", tmp_path / ".whole.training")
    told("classify", "fit", place / "cells.h5ad", "-o", tmp_path / "resumed", *given, "--resume")
    files = {path.relative_to(tmp_path / "whole") for path in (tmp_path / "whole").rglob("*") if path.is_file()}
    for name in files - {Path("geneformer_manifest.json")}:
        assert (tmp_path / "whole" / name).read_bytes() == (tmp_path / "resumed" / name).read_bytes(), name
    # Checkpoints that a run left behind in its very last moment are no reason to refuse the next.
    told("classify", "fit", place / "cells.h5ad", "-o", tmp_path / "whole", *given, "--overwrite")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["options.toml", "resumed", "whole"]


def Interrupt():
    from transformers import TrainerCallback

    class Stop(TrainerCallback):
        def on_step_begin(self, args, state, control, **_):
            if state.global_step == 3:
                raise KeyboardInterrupt

    return Stop()


@pytest.mark.parametrize("suffix", [".h5ad", ".parquet", ".csv"])
def test_predict_writes_every_cell(place, cells, tmp_path, suffix):
    emptied = cells.copy()
    keep = np.arange(40) % 10 != 4
    emptied.X = sparse.csr_matrix(sparse.diags(keep.astype(np.float32)) @ emptied.X)
    emptied.write_h5ad(tmp_path / "emptied.h5ad")
    report = told(
        "classify", "predict", tmp_path / "emptied.h5ad", "-m", place / "fitted", "-o", tmp_path / f"out{suffix}", *CPU
    )
    classifier = CellClassifier.load(place / "fitted", runtime=RUNTIME)
    expected = classifier.predict(cells)
    expected[~keep] = "unknown"
    if suffix == ".h5ad":
        frame = anndata.read_h5ad(tmp_path / "out.h5ad").obs
        names = list(frame.index)
    else:
        frame = pd.read_csv(tmp_path / "out.csv") if suffix == ".csv" else pd.read_parquet(tmp_path / "out.parquet")
        names = list(frame["cell_id"])
    assert names == list(cells.obs_names)
    assert list(frame["geneformer_kind"]) == list(expected)
    assert np.array_equal(frame["geneformer_kind_probability"].isna(), ~keep)
    assert report["counts"]["unknown"] == 4
    assert sum(report["counts"].values()) == 40


def test_predict_reads_tokens_and_knows_a_threshold(place, tmp_path):
    tokenized = call("tokenize", place / "cells.h5ad", "-o", tmp_path / "cells.dataset", "--max-length", 64)
    assert tokenized.exit_code == 0, tokenized.output
    told("classify", "predict", place / "cells.h5ad", "-m", place / "fitted", "-o", tmp_path / "a.csv", *CPU)
    told("classify", "predict", tmp_path / "cells.dataset", "-m", place / "fitted", "-o", tmp_path / "b.csv", *CPU)
    a, b = (pd.read_csv(tmp_path / f"{name}.csv") for name in "ab")
    assert list(a["geneformer_kind"]) == list(b["geneformer_kind"])
    assert np.allclose(a["probability kind 0"], b["probability kind 0"], atol=1e-6)
    assert list(b["donor"]) == list(anndata.read_h5ad(place / "cells.h5ad").obs["donor"])
    given = ["-m", place / "fitted", "--unknown-below", 1.0, "-o", tmp_path / "c.csv", *CPU]
    assert told("classify", "predict", place / "cells.h5ad", *given)["counts"] == {"unknown": 40}


def test_evaluate_writes_a_report(place, cells, tmp_path):
    given = ["-m", place / "fitted", "--groups", "donor", *CPU]
    report = told("classify", "evaluate", place / "cells.h5ad", "-o", tmp_path / "report", *given)
    expected = CellClassifier.load(place / "fitted", runtime=RUNTIME).evaluate(cells, groups="donor").evaluation
    assert report["metrics"]["accuracy"]["mean"] == expected.metrics["accuracy"].mean
    assert ClassificationReport.load(tmp_path / "report").evaluation.n == 40
    assert "## Confusion matrix" in (tmp_path / "report" / "report.md").read_text()
    shown = call("classify", "evaluate", place / "cells.h5ad", "-o", tmp_path / "report", *given, "--overwrite")
    assert shown.exit_code == 0, shown.output
    assert "macro F1" in shown.stderr


@pytest.mark.parametrize(
    ("code", "arguments"),
    [
        ("GF208", ["fit", "IN", "-l", "kin", "-m", "MODEL", "-o", "OUT"]),
        ("GF208", ["fit", "IN", "-l", "kind", "--groups", "donr", "-m", "MODEL", "-o", "OUT"]),
        ("GF701", ["fit", "IN", "-l", "same", "-m", "MODEL", "-o", "OUT"]),
        ("GF702", ["fit", "IN", "-l", "none", "-m", "MODEL", "-o", "OUT"]),
        ("GF703", ["fit", "IN", "-l", "kind", "--rare-below", 30, "-m", "MODEL", "-o", "OUT"]),
        ("GF201", ["fit", "missing.h5ad", "-l", "kind", "-m", "MODEL", "-o", "OUT"]),
        ("GF304", ["fit", "IN", "-l", "kind", "-m", "minni", "-o", "OUT"]),
        ("GF102", ["fit", "IN", "-l", "kind", "-m", "MODEL", "-o", "OUT", "--epochs", -1]),
        ("GF401", ["fit", "IN", "-l", "kind", "-m", "MODEL", "-o", "FITTED"]),
        ("GF402", ["fit", "IN", "-l", "kind", "-m", "MODEL", "-o", "OUT", "--resume"]),
        ("GF305", ["predict", "IN", "-m", "MODEL", "-o", "OUT.csv"]),
        ("GF209", ["predict", "IN", "-m", "FITTED", "-o", "OUT.txt"]),
        ("GF102", ["predict", "IN", "-m", "FITTED", "-o", "OUT.csv", "--unknown-below", 2]),
        ("GF201", ["predict", "missing.h5ad", "-m", "FITTED", "-o", "OUT.csv"]),
        ("GF305", ["evaluate", "IN", "-m", "MODEL", "-o", "OUT"]),
        ("GF208", ["evaluate", "IN", "-m", "FITTED", "-l", "kin", "-o", "OUT"]),
        ("GF702", ["evaluate", "IN", "-m", "FITTED", "-l", "donor", "-o", "OUT"]),
    ],
    ids=lambda value: value if isinstance(value, str) else " ".join(map(str, value[:1] + value[2:4])),
)
def test_a_refusal_writes_nothing(place, tmp_path, code, arguments):
    adata = anndata.read_h5ad(place / "cells.h5ad")
    adata.obs["same"], adata.obs["none"] = "x", np.nan
    (tmp_path / "in").mkdir()
    adata.write_h5ad(tmp_path / "in" / "cells.h5ad")
    places = {
        "IN": tmp_path / "in" / "cells.h5ad", "MODEL": place / "model", "FITTED": place / "fitted",
        "OUT": tmp_path / "out", "OUT.csv": tmp_path / "out.csv", "OUT.txt": tmp_path / "out.txt",
    }  # fmt: skip
    flags = [*CPU, *(TRAIN[:10] if arguments[0] == "fit" else [])]
    result = call("classify", *(places.get(argument, argument) for argument in arguments), *flags)
    assert result.exit_code == 1, result.output
    assert code in result.stderr
    assert "Traceback" not in result.output
    assert [path.name for path in tmp_path.iterdir()] == ["in"]


def test_one_command_draws_what_a_fine_tuned_model_sees(place, cells, tmp_path):
    report = told(
        "embed", place / "cells.h5ad", "-m", place / "fitted", "-o", tmp_path / "cells.h5ad", "--layer", 0,
        "--umap", tmp_path / "umap.png", "--heatmap", tmp_path / "heatmap.svg", "--color", "kind", *CPU,
    )  # fmt: skip
    assert (report["umap"], report["heatmap"]) == (str(tmp_path / "umap.png"), str(tmp_path / "heatmap.svg"))
    assert (tmp_path / "umap.png").read_bytes()[:8] == b"\x89PNG\r\n\x1a\n"
    assert all(f"kind {i}" in (tmp_path / "heatmap.svg").read_text() for i in range(3))
    classifier = gf.load_classifier(place / "fitted", runtime=RUNTIME)
    assert np.allclose(
        anndata.read_h5ad(tmp_path / "cells.h5ad").obsm["X_geneformer"], classifier.embed(cells), atol=1e-6
    )
    assert sorted(path.name for path in tmp_path.iterdir()) == ["cells.h5ad", "heatmap.svg", "umap.png"]


@pytest.mark.parametrize(
    ("code", "flags"),
    [
        ("GF208", ["--umap", "a.png", "--color", "kinds"]),
        ("GF100", ["--color", "kind"]),
        ("GF100", ["--umap", "a.png", "--pooling", "gene"]),
        ("GF101", ["--heatmap", "a.bmp"]),
        ("GF401", ["--umap", "there.png"]),
    ],
)
def test_pictures_that_cannot_be_drawn_are_refused_first(place, tmp_path, monkeypatch, code, flags):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "there.png").write_text("mine")
    result = call("embed", place / "cells.h5ad", "-m", place / "model", "-o", "out.csv", *flags, *CPU)
    assert result.exit_code == 1, result.output
    assert code in result.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["there.png"]
    assert (tmp_path / "there.png").read_text() == "mine"
