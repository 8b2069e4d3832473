"""Commands that run or make models: what they write, what they tell, and that refusals write nothing."""

import json

import anndata
import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest
import torch
from transformers import BertForMaskedLM
from typer.testing import CliRunner

import geneformer as gf
from geneformer import cli
from geneformer.models.hub import PICKLED_WEIGHTS, WEIGHTS
from geneformer.tokenization.tokenizer import tokenize_counts
from golden import save_tiny_checkpoint
from small_cells import blood, write_blood
from small_runs import write_architecture, write_cells

pytestmark = pytest.mark.contract

QUIET = ("--device", "cpu", "--dtype", "float32", "--no-progress")
SHORT = ("--max-steps", 4, "--tokens-per-batch", 500, "--save-steps", 2, "--eval-steps", 2, "--logging-steps", 1)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return save_tiny_checkpoint("V1", tmp_path_factory.mktemp("V1"))


@pytest.fixture(scope="module")
def counts(tmp_path_factory):
    return write_blood(tmp_path_factory.mktemp("cells") / "blood.h5ad", 10)


def call(*arguments):
    return CliRunner().invoke(cli.app, [*map(str, arguments)])


def told(*arguments):
    result = call(*arguments, "--json")
    assert result.exit_code == 0, result.output
    return json.loads(result.stdout)


def refused(code, *arguments):
    result = call(*arguments)
    assert result.exit_code == 1
    assert code in result.stderr
    assert "Traceback" not in result.output
    return result


def test_embed_writes_what_the_function_gives(counts, folder, tmp_path):
    report = told("embed", counts, "-m", folder, "-o", tmp_path / "out.h5ad", *QUIET)
    assert report == {"output": str(tmp_path / "out.h5ad"), "n": 10, "hidden_size": 32}
    adata = blood(10)
    gf.tl.embed(adata, model=folder, device="cpu", dtype="float32", progress=False)
    found = anndata.read_h5ad(tmp_path / "out.h5ad")
    assert list(found.obs_names) == list(adata.obs_names)
    np.testing.assert_allclose(found.obsm["X_geneformer"], adata.obsm["X_geneformer"], atol=2e-6)


def test_embed_reads_tokens_and_writes_tables(counts, folder, tmp_path):
    tokenize_counts([counts], output=tmp_path / "tokens.dataset")
    for name in ("out.parquet", "out.csv"):
        result = call("embed", tmp_path / "tokens.dataset", "-m", folder, "-o", tmp_path / name, "--layer", 0, *QUIET)
        assert result.exit_code == 0, result.output
        assert result.stdout == ""
        assert "layer 0" in result.stderr
    one, other = pd.read_parquet(tmp_path / "out.parquet"), pd.read_csv(tmp_path / "out.csv")
    assert list(one["cell_id"]) == list(other["cell_id"]) == list(blood(10).obs_names)
    np.testing.assert_allclose(one["31"], other["31"], rtol=1e-5)
    report = told(
        "embed", tmp_path / "tokens.dataset", "-m", folder, "-o", tmp_path / "g.csv", "--pooling", "gene", *QUIET
    )
    genes = pd.read_csv(tmp_path / "g.csv", index_col="ensembl_id")
    assert len(genes) == report["n"]
    assert genes["n_cells"].max() == 10


def test_attention(counts, folder, tmp_path):
    arguments = ("attention", counts, "-m", folder, "--genes", "B2M", "--genes", "ENSG00000205542", *QUIET)
    report = told(*arguments, "-o", tmp_path / "a.parquet")
    table = pd.read_parquet(tmp_path / "a.parquet")
    assert list(table.columns) == ["source", "target", "attention", "n_cells"]
    assert len(table) == report["n"] == 4
    noted = json.loads(pq.read_schema(tmp_path / "a.parquet").metadata[b"geneformer"])
    given = {"per": "pair", "layer": 0, "min_weight": 0.0, "genes": ["B2M", "ENSG00000205542"], "unknown": "drop"}
    assert noted["attention"] == given
    assert call(*arguments, "-o", tmp_path / "a.csv").exit_code == 0
    assert pd.read_csv(tmp_path / "a.csv").shape == table.shape


def test_attention_per_cell(counts, folder, tmp_path):
    arguments = ("attention", counts, "-m", folder, "--per", "cell", "--genes", "B2M", "--genes", "CD3D", *QUIET)
    report = told(*arguments, "-o", tmp_path / "a.csv")
    table = pd.read_csv(tmp_path / "a.csv")
    assert list(table.columns) == ["cell_id", "gene", "symbol", "attention"]
    assert set(table["symbol"]) == {"B2M", "CD3D"}
    assert (report["n"], report["genes"]) == (len(table), 2)
    assert call(*arguments, "-o", tmp_path / "a.h5ad").exit_code == 0
    cells = anndata.read_h5ad(tmp_path / "a.h5ad")
    assert list(cells.obs_names) == list(blood(10).obs_names)
    assert list(cells.var["symbol"]) == ["B2M", "CD3D"] or list(cells.var["symbol"]) == ["CD3D", "B2M"]
    assert cells.X.nnz == len(table)
    assert cells.uns["geneformer"]["geneformer_attention"]["attention"]["per"] == "cell"


def test_predict_masked(counts, folder, tmp_path):
    report = told(
        "predict-masked",
        counts,
        "-m",
        folder,
        "--genes",
        "B2M",
        "--n-predictions",
        3,
        "-o",
        tmp_path / "p.csv",
        *QUIET,
    )
    table = pd.read_csv(tmp_path / "p.csv")
    assert (report["masked"], report["n"]) == (10, 30) == (len(table) // 3, len(table))
    direct = gf.tl.predict_masked(
        blood(10), genes=("B2M",), model=folder, n_predictions=3, device="cpu", dtype="float32"
    )
    assert list(table["predicted_gene"]) == list(direct["predicted_gene"])
    assert list(table["cell_id"]) == list(direct["cell_id"])


@pytest.mark.parametrize(
    ("code", "arguments"),
    [
        ("GF209", ["embed", "IN", "-m", "MODEL", "-o", "OUT.txt"]),
        ("GF209", ["attention", "IN", "-m", "MODEL", "-o", "OUT.h5ad"]),
        ("GF304", ["embed", "IN", "-m", "minni", "-o", "OUT.csv"]),
        ("GF201", ["embed", "missing.h5ad", "-m", "MODEL", "-o", "OUT.csv"]),
        ("GF301", ["embed", "IN", "-m", "MODEL", "--vocabulary", "V2", "-o", "OUT.csv"]),
        ("GF300", ["embed", "IN", "-m", "MODEL", "--pooling", "cls", "-o", "OUT.csv"]),
        ("GF102", ["embed", "IN", "-m", "MODEL", "--layer", "-9", "-o", "OUT.csv"]),
        ("GF501", ["embed", "IN", "-m", "MODEL", "-o", "OUT.csv", "--device", "warp"]),
        ("GF801", ["attention", "IN", "-m", "MODEL", "-o", "OUT.csv", "--genes", "NOTAGENE"]),
        ("GF100", ["predict-masked", "IN", "-m", "MODEL", "-o", "OUT.csv"]),
        ("GF201", ["pretrain", "missing.h5ad", "-o", "OUT"]),
        ("GF402", ["pretrain", "IN", "-o", "OUT", "--resume"]),
        ("GF304", ["models", "nothing"]),
        ("GF305", ["models", "--convert", "HERE", "-o", "OUT"]),
        ("GF100", ["models", "--convert", "HERE"]),
    ],
)
def test_refusals_write_nothing(counts, folder, tmp_path, code, arguments):
    places = {"IN": counts, "MODEL": folder, "HERE": counts.parent}
    places |= {name: tmp_path / name for name in ("OUT", "OUT.csv", "OUT.txt", "OUT.h5ad")}
    result = call(*(places.get(word, word) for word in arguments))
    assert result.exit_code == 1, result.output
    assert code in result.stderr
    assert "Traceback" not in result.output
    assert not list(tmp_path.iterdir())


def test_files_that_are_there_stay(counts, folder, tmp_path):
    path = tmp_path / "out.csv"
    path.write_text("mine")
    for command in (["embed"], ["attention"], ["predict-masked", "--genes", "B2M"]):
        refused("GF401", *command, counts, "-m", folder, "-o", path, *QUIET)
    assert path.read_text() == "mine"
    assert call("attention", counts, "-m", folder, "--genes", "B2M", "-o", path, "--overwrite", *QUIET).exit_code == 0
    assert path.read_text() != "mine"


@pytest.fixture(scope="module")
def pretrained(tmp_path_factory):
    """A run on two files of counts, and what it told."""
    folder = tmp_path_factory.mktemp("pretrained")
    paths = write_cells(folder, cells=16)
    recipe = folder / "recipe.toml"
    recipe.write_text(f'[pretrain]\narchitecture = "{write_architecture(folder)}"\nheld_out = 0.25\nseed = 5\n')
    report = told("pretrain", *paths, "-o", folder / "run", "--config", recipe, *SHORT, "--device", "cpu")
    return folder, paths, recipe, report


def test_pretrain_on_counts(pretrained):
    folder, _, _, report = pretrained
    assert report["steps"] == 4
    assert {"eval_loss", "baseline_top10"} <= report["metrics"].keys()
    written = {path.name for path in (folder / "run").iterdir()}
    assert {"config.json", "model.safetensors", "pretraining.json", "checkpoints", "tokens.dataset"} <= written
    BertForMaskedLM.from_pretrained(folder / "run")
    assert gf.load_model(folder / "run").vocabulary.name == "V1"
    record = json.loads((folder / "run" / "pretraining.json").read_text())
    assert (record["n_train"], record["n_held_out"], record["options"]["seed"]) == (24, 8, 5)


def test_pretrain_on_datasets_is_the_same(pretrained, tmp_path):
    folder, paths, recipe, report = pretrained
    tokenize_counts(paths, output=tmp_path / "tokens.dataset")
    again = told(
        "pretrain", tmp_path / "tokens.dataset", "-o", tmp_path / "run", "--config", recipe, *SHORT, "--device", "cpu"
    )
    assert again["metrics"] == report["metrics"]
    assert (tmp_path / "run" / WEIGHTS).read_bytes() == (folder / "run" / WEIGHTS).read_bytes()


def test_pretrain_does_not_mix_runs(pretrained):
    folder, paths, recipe, report = pretrained
    again = ("pretrain", *paths, "-o", folder / "run", "--config", recipe, "--device", "cpu")
    before = (folder / "run" / WEIGHTS).read_bytes()
    refused("GF401", *again, *SHORT)
    refused("GF402", *again, *SHORT, "--resume", "--seed", 6)
    assert (folder / "run" / WEIGHTS).read_bytes() == before
    assert told(*again, *SHORT, "--resume")["metrics"] == report["metrics"]


def test_models_are_listed_and_described(folder):
    assert told("models")["models"] == gf.list_models()
    listed = call("models").stderr
    assert all(name in listed for name in gf.list_models())
    described = told("models", folder)
    assert (described["Layers"], described["Hidden size"], described["Positions"]) == ("3", "32", "2048")
    assert described["Vocabulary"].startswith("V1 (")


def test_old_weights_are_converted_once(folder, tmp_path):
    from safetensors.torch import load_file

    old = tmp_path / "old"
    old.mkdir()
    (old / "config.json").write_bytes((folder / "config.json").read_bytes())
    torch.save(load_file(folder / WEIGHTS), old / PICKLED_WEIGHTS)
    refused("GF307", "models", old)
    assert told("models", "--convert", old, "-o", tmp_path / "new") == {"output": str(tmp_path / "new")}
    assert told("models", tmp_path / "new")["Layers"] == "3"
    refused("GF401", "models", "--convert", old, "-o", tmp_path / "new")
    assert told("models", "--convert", old, "-o", tmp_path / "new", "--overwrite")
