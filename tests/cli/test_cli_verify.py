"""`geneformer verify`: whether inputs, model and files of a result are those it was made from."""

import json
import shutil

import anndata as ad
import pytest
from typer.testing import CliRunner

import geneformer as gf
import geneformer.cli
from geneformer.files.manifest import Manifest
from geneformer.models.loading import load_model
from small_cells import blood
from small_runs import write_architecture

TRAINED = ["--max-steps", "1", "--max-length", "32"]
QUIET = ["--device", "cpu", "--no-progress"]


def run(*arguments):
    return CliRunner().invoke(geneformer.cli.app, [str(argument) for argument in arguments])


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """Cells, a model, and what commands made of them."""
    folder = tmp_path_factory.mktemp("results")
    cells, model = folder / "cells.h5ad", folder / "model"
    adata = blood(6)
    adata.obs["half"] = ["a", "b"] * 3
    adata.write_h5ad(cells)
    shutil.copytree(load_model("mini").folder, model)
    given = [cells, "--model", model, *QUIET]
    for command in (
        ["tokenize", cells, "-o", folder / "t.dataset", "--no-progress"],
        ["embed", *given, "-o", folder / "e.h5ad"],
        ["embed", *given, "-o", folder / "e.parquet"],
        ["predict-masked", *given, "-o", folder / "m.parquet", "--genes", "B2M"],
        [
            "pretrain",
            folder / "t.dataset",
            "-o",
            folder / "pretrained",
            *TRAINED,
            "--architecture",
            write_architecture(folder),
            *QUIET,
        ],
        [
            "classify",
            "fit",
            cells,
            "-o",
            folder / "fitted",
            "--model",
            model,
            "--label",
            "half",
            *TRAINED,
            "--valid",
            "0",
            "--test",
            "0",
            "--baselines",
            "none",
            *QUIET,
        ],
        ["perturb", "run", *given, "-o", folder / "run", "--genes", "B2M", "--min-cells", "1"],
    ):
        done = run(*command)
        assert done.exit_code == 0, done.output
    return folder


RESULTS = ["t.dataset", "e.h5ad", "e.parquet", "m.parquet", "run", "fitted"]


@pytest.mark.parametrize("name", RESULTS)
def test_a_result_is_as_it_was_made(place, name):
    done = run("verify", place / name, "--json")
    assert done.exit_code == 0, done.output
    found = json.loads(done.stdout)
    expected = {str(place / "cells.h5ad")} | ({str(place / "model")} if name != "t.dataset" else set())
    assert found["inputs"] == dict.fromkeys(expected, "unchanged")
    assert set(found["outputs"].values()) == ({"unchanged"} if (place / name).is_dir() else set())
    assert found["versions"]["torch"] == "unchanged"


@pytest.mark.parametrize("name", RESULTS)
def test_inputs_that_changed_are_named(place, name, tmp_path):
    kept = shutil.copy(place / "cells.h5ad", tmp_path)
    try:
        adata = ad.read_h5ad(place / "cells.h5ad")
        adata.X[0, 0] += 1
        adata.write_h5ad(place / "cells.h5ad")
        done = run("verify", place / name)
        assert done.exit_code == 1
        assert "GF404" in done.output
        assert "cells.h5ad (changed)" in done.output.replace("\n", "")
        (place / "cells.h5ad").unlink()
        assert "cells.h5ad (missing)" in run("verify", place / name).output.replace("\n", "")
    finally:
        shutil.copy(kept, place / "cells.h5ad")


def test_a_pretrained_model_is_what_came_of_its_cells(place, tmp_path):
    done = run("verify", place / "pretrained", "--json")
    assert done.exit_code == 0, done.output
    found = json.loads(done.stdout)
    assert found["inputs"] == {str(place / "t.dataset"): "unchanged"}
    assert set(found["outputs"]) == {"config.json", "model.safetensors", "pretraining.json"}
    folder = shutil.copytree(place / "pretrained", tmp_path / "out")
    (folder / "checkpoints" / "more").mkdir(parents=True)
    assert run("verify", folder).exit_code == 0  # checkpoints come and go
    (folder / "config.json").write_text("{}")
    assert "config.json (changed)" in run("verify", folder).output.replace("\n", "")
    (folder / "geneformer_manifest.json").unlink()
    assert "does not say what it was made from" in run("verify", folder).output.replace("\n", " ")


def test_a_fit_does_not_claim_cells_that_changed_before_it_was_saved(place, tmp_path):
    cells = shutil.copy(place / "cells.h5ad", tmp_path)
    quick = {"max_steps": 1, "max_length": 32, "valid": 0, "test": 0, "baselines": "none", "progress": False}
    classifier = gf.CellClassifier(place / "model", **quick).fit(cells, "half")
    (tmp_path / "cells.h5ad").write_bytes(b"other cells")
    classifier.save(tmp_path / "fitted")
    gf.load_classifier(tmp_path / "fitted").save(tmp_path / "again")  # what it was made from goes along
    assert Manifest.read(tmp_path / "again").inputs == Manifest.read(tmp_path / "fitted").inputs != ()
    found = json.loads(run("verify", tmp_path / "fitted", "--json").stdout or "{}")
    assert not found
    assert "cells.h5ad (changed)" in run("verify", tmp_path / "fitted").output.replace("\n", "")


def test_files_that_changed_are_named(place, tmp_path):
    for name in ("t.dataset", "run"):
        copy = shutil.copytree(place / name, tmp_path / name)
        changed = max(copy.iterdir(), key=lambda path: path.stat().st_size)
        changed.write_bytes(changed.read_bytes()[:-1] + b"?")
        assert f"{changed.name} (changed)" in run("verify", copy).output.replace("\n", "")


def test_what_says_nothing_is_refused(tmp_path):
    (tmp_path / "a.csv").write_text("a,b\n")
    assert "does not say what it was made from" in run("verify", tmp_path / "a.csv").output.replace("\n", " ")
    assert "GF202" not in run("verify", tmp_path / "a.csv").output
    assert run("verify", tmp_path / "nothing").exit_code == 1
