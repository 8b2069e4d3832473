"""The worked examples of `docs/architecture.md` run, in order, in one namespace; what they promise is looked at."""

import re
from pathlib import Path

import numpy as np
import pytest

import geneformer as gf
from golden import GOLDEN

DOCS = Path(__file__).parents[1] / "docs"

pytestmark = pytest.mark.filterwarnings("ignore::geneformer.errors.GeneformerWarning")


@pytest.fixture(scope="module")
def examples():
    from geneformer.perturbation import edits

    before, names = dict(edits._EDITS), {}
    for block in re.findall(
        r"^```python\n(.*?)^```", (DOCS / "architecture.md").read_text(encoding="utf-8"), re.M | re.S
    ):
        exec(compile(block, "architecture.md", "exec"), names)
    yield names
    edits._EDITS.clear()
    edits._EDITS.update(before)


@pytest.fixture(scope="module")
def adata():
    import anndata as ad

    return ad.read_h5ad(GOLDEN / "pbmc_120_cells.h5ad")


def test_the_target_is_learnt_in_logarithms(examples, adata):
    cells = adata[:60].copy()
    cells.obs["age"] = np.linspace(1.0, 90.0, cells.n_obs)
    quick = {"max_steps": 2, "baselines": "none", "progress": False, "max_length": 64}
    model = examples["CellAge"](model="mini", **quick).fit(cells, "age")
    assert (model.predict(cells) > 0).all()
    assert model.scale_["center"] == pytest.approx(np.log(cells.obs["age"]).mean(), abs=0.5)


def test_the_reader_gives_the_counts(examples, adata, tmp_path):
    counts = np.asarray(adata.X[:5].todense())
    np.savez(
        tmp_path / "cells.npz",
        counts=counts,
        cells=adata.obs_names[:5].to_numpy(str),
        genes=adata.var_names.to_numpy(str),
    )
    source = examples["open_npz"](tmp_path / "cells.npz")
    assert (source.n_cells, source.n_genes) == counts.shape
    assert sum(rows.data.sum() for rows in source.chunks(2)) == counts.sum()


def test_the_edit_is_known_by_name(examples):
    from geneformer.perturbation.edits import Step, edit_cell

    assert edit_cell([5, 6, 7], [Step("swap", (5,))], [], 10).tokens.tolist() == [7, 6, 5]


def test_the_command_has_flags_and_an_outcome(examples, capsys):
    import inspect

    assert {"cells", "device", "json", "config"} <= set(inspect.signature(examples["lengths"]).parameters)


def test_the_application_ranks(examples, adata):
    ranking = examples["most_influential"](adata[:6].copy(), ["CD3D", "LYZ"], top=2)
    assert len(ranking) == 2
    assert gf is not None
