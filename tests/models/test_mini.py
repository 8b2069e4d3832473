"""The checkpoint that ships with the package: it is there, it fits, and every example that uses it runs."""

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest

import geneformer as gf
from geneformer.datasets import pbmc3k
from geneformer.options import PretrainOptions
from geneformer.options._fields import read_options

pytestmark = [pytest.mark.contract, pytest.mark.filterwarnings("ignore::geneformer.errors.GeneformerWarning")]

RECIPES = Path(__file__).resolve().parents[2] / "recipes"


@pytest.fixture(scope="module")
def mini():
    return gf.load_model("mini")


def test_it_is_small_and_complete(mini):
    files = {path.name: path.stat().st_size for path in mini.folder.rglob("*") if path.is_file()}
    assert {"config.json", "model.safetensors"} <= files.keys()
    assert sum(files.values()) <= 12 * 2**20
    assert mini.has_head
    assert mini.vocabulary == gf.Vocabulary.load("V1")


@pytest.mark.parametrize(
    ("record", "recipe"),
    [
        ("first_stage.json", "mini.toml"),
        ("second_stage.json", "mini_second_stage.toml"),
        ("pretraining.json", "mini_third_stage.toml"),
    ],
)
def test_the_recipes_are_those_it_was_made_by(mini, record, recipe):
    told = json.loads((mini.folder / record).read_text())
    options = dataclasses.asdict(PretrainOptions(**read_options(RECIPES / recipe, PretrainOptions)[PretrainOptions]))
    expected = json.loads(json.dumps(options))
    assert told["options"].items() <= expected.items()
    assert told["steps"] == options["max_steps"]
    assert told["metrics"]["eval_top1"] > 5 * told["metrics"]["baseline_top1"]


def test_it_beats_chance_by_far(mini):
    """Masked genes of real cells come out far ahead of where guessing would put them."""
    table = gf.tl.predict_masked(
        pbmc3k()[:25].copy(), genes=("CD3D", "LYZ", "MS4A1"), model="mini", n_predictions=1, progress=False
    )
    assert len(table) > 10
    assert table["rank_of_masked"].median() < len(mini.vocabulary.genes) / 20


def test_its_embeddings_tell_cells_apart():
    cells = pbmc3k()
    cells = cells[cells.obs["cell_type"].isin(["B cells", "CD14+ Monocytes", "NK cells"])][:90].copy()
    gf.tl.embed(cells, model="mini", progress=False)
    values = cells.obsm["X_geneformer"] - cells.obsm["X_geneformer"].mean(0)
    values /= np.linalg.norm(values, axis=1, keepdims=True)
    likeness = values @ values.T
    np.fill_diagonal(likeness, -1)
    labels = cells.obs["cell_type"].to_numpy()
    assert (labels[likeness.argmax(1)] == labels).mean() > 0.8
