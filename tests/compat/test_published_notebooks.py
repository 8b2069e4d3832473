"""Notebooks written for the published package run cell by cell in a Jupyter kernel, and are readable there."""

import json
from types import SimpleNamespace

import pandas as pd
import pytest

import published_notebooks
from notebooks import executed

pytestmark = [pytest.mark.contract, pytest.mark.slow]


@pytest.fixture(scope="module", params=["EARLIER", "LATER"])
def notebook(request, published_inputs, tmp_path_factory):
    """The cells of a notebook by what they begin with, after they ran."""
    out = tmp_path_factory.mktemp(request.param)
    cells = [f"DATA, OUT = {str(published_inputs)!r}, {str(out)!r}", *getattr(published_notebooks, request.param)]
    return SimpleNamespace(era=request.param, out=out, cells=executed(cells, out))


def test_every_cell_runs(notebook):
    files = {
        "EARLIER": (
            "annotation/model.safetensors", "annotation/eval_results.json", "embs/blood.csv",
            "embs/map_umap_cell_type.pdf", "embs/map_heatmap_cell_type.pdf", "stats/blood.csv",
        ),
        "LATER": (
            "kinds_eval_metrics_dict.pkl", "kinds_test_conf_mat.pdf", "kinds_test_pred.pdf", "genes_roc.pdf",
            "states.pkl", "stats/ferritin.csv",
        ),
    }  # fmt: skip
    assert not [name for name in files[notebook.era] if not (notebook.out / name).is_file()]
    if notebook.era == "EARLIER":
        ranking = pd.read_csv(notebook.out / "stats" / "blood.csv", index_col=0)
        assert {"Shift_to_goal_end", "Shift_to_alt_end_NK cells", "Goal_end_FDR"} <= set(ranking.columns)
        assert "HLA-DRA" in ranking["Gene_name"].tolist()
        embeddings = pd.read_csv(notebook.out / "embs" / "blood.csv", index_col=0)
        assert embeddings["cell_type"].value_counts().to_dict() == {"B cells": 20, "NK cells": 20}


def test_figures_are_shown_where_they_are_drawn(notebook):
    drawn = [cell for cell in notebook.cells if ".plot_" in cell.source]
    assert len(drawn) == {"EARLIER": 2, "LATER": 3}[notebook.era]
    for cell in drawn:
        assert sum("image/png" in output.get("data", {}) for output in cell.outputs) == 1, cell.source


def test_what_is_said_is_short(notebook):
    """No walls of warnings, no bars of libraries beside ours, no empty boxes; a plain Trainer says what it says."""
    for cell in notebook.cells:
        said = "".join(output.get("text", "") for output in cell.outputs)
        assert len(said.splitlines()) < 12 or "from_pretrained" in cell.source, cell.source + said
        if "Trainer(" not in cell.source:
            assert "it/s]" not in json.dumps(cell.outputs)


def test_what_falls_back_is_said(notebook):
    said = "".join(output.get("text", "") for cell in notebook.cells for output in cell.outputs)
    sentences = {
        "EARLIER": [
            "is of V1, and is read with that dictionary", 'V1 has no <cls> token: emb_mode is "cell"',
            "is of V1, and is perturbed as such", "state_embs_dict is not given", "holds a run of V1",
        ],
        "LATER": [
            "quantize saves memory on an accelerator", "The cells are of V1, and genes are looked up as such",
            'model_type="MTLCellClassifier-Quantized" saves memory on an accelerator',
        ],
    }  # fmt: skip
    assert not [sentence for sentence in sentences[notebook.era] if sentence not in said]
