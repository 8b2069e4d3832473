"""`geneformer annotate` and `gf.tl.annotate`: labels of a reference, whatever the cells came in."""

import json

import anndata as ad
import numpy as np
import pandas as pd
import pytest
from scipy import sparse
from typer.testing import CliRunner

import geneformer as gf
from geneformer import cli
from geneformer.cli.annotate import to_markdown
from geneformer.finetuning.annotation import Annotation
from geneformer.finetuning.reports import ClassificationReport
from geneformer.inference.slots import Slots
from small_finetuning import labeled_blood, tiny_model

pytestmark = pytest.mark.filterwarnings("ignore::geneformer.errors.GeneformerWarning")

CPU = ["--device", "cpu", "--dtype", "float32", "--no-progress"]


def call(*arguments):
    return CliRunner().invoke(cli.app, [*map(str, arguments), *CPU, "--json"])


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A reference, cells to be labeled of which one has no count, and a model."""
    place = tmp_path_factory.mktemp("annotate")
    tiny_model(place / "model", seed=3)
    adata = labeled_blood(60)
    adata.X = sparse.csr_matrix(adata.X).astype(np.float32)
    adata[:40].copy().write_h5ad(place / "reference.h5ad")
    rest = adata[40:].copy()
    del rest.obs["kind"]
    rest.X = sparse.csr_matrix(sparse.diags((np.arange(20) != 3).astype(np.float32)) @ rest.X)
    rest.write_h5ad(place / "cells.h5ad")
    return place


@pytest.fixture(scope="module")
def annotated(place):
    result = call("annotate", place / "cells.h5ad", "-r", place / "reference.h5ad", "-l", "kind", "-m", place / "model",
                  "--groups", "donor", "-o", place / "out", "--n-neighbors", 5)  # fmt: skip
    assert result.exit_code == 0, result.output
    return json.loads(result.stdout)


def test_the_folder_holds_cells_table_pictures_and_report(place, annotated):
    from geneformer.cli.annotate import FILES

    assert {path.name for path in (place / "out").iterdir()} == {*FILES, "geneformer_manifest.json"}
    table, found = pd.read_csv(place / "out" / "cells.csv"), ad.read_h5ad(place / "out" / "cells.h5ad")
    given = ad.read_h5ad(place / "cells.h5ad")
    assert (found.X != given.X).nnz == 0
    assert found.obsm["X_umap"].shape == (20, 2)
    called = found.obs["geneformer_kind"]
    assert called.iloc[3] == "unknown"
    assert list(table["geneformer_kind"]) == list(called.drop(called.index[3]))
    assert annotated["composition"] == table["geneformer_kind"].value_counts().to_dict()
    report = ClassificationReport.load(place / "out" / "reference")
    assert set(report.baselines) == {"principal components"}
    assert len(report.cell_ids) == 40
    text = (place / "out" / "report.md").read_text()
    assert str(report.evaluation.metrics["accuracy"]) in text
    assert "whole groups of `donor`" in text


def test_labels_with_bars_stay_in_their_column_of_the_report(place, annotated):
    report = ClassificationReport.load(place / "out" / "reference")
    figures = {**annotated, "composition": {"T | NK": annotated["cells"]}}
    text = to_markdown(Annotation(slots=Slots(), report=report, figures=figures), "kind")
    assert f"| T \\| NK | {annotated['cells']} | 100.0% |" in text


def test_the_function_gives_the_same(place, annotated):
    reference, cells = (ad.read_h5ad(place / f"{name}.h5ad") for name in ("reference", "cells"))
    gf.tl.annotate(cells, reference, label="kind", groups="donor", model=place / "model", n_neighbors=5, device="cpu",
                   dtype="float32", progress=False)  # fmt: skip
    found = ad.read_h5ad(place / "out" / "cells.h5ad")
    for name in ("geneformer_kind", "geneformer_kind_nearest"):
        assert list(cells.obs[name]) == list(found.obs[name])
    for name in ("geneformer_kind_probability", "geneformer_kind_distance"):
        np.testing.assert_allclose(cells.obs[name], found.obs[name], rtol=1e-4)
    np.testing.assert_allclose(cells.obsm["X_geneformer"], found.obsm["X_geneformer"], atol=1e-5)
    unknown = (cells.obs["geneformer_kind_distance"] > 1) | cells.obs["geneformer_kind_distance"].isna()
    assert ((cells.obs["geneformer_kind"] == "unknown") == unknown).all()
    noted = cells.uns["geneformer"]["geneformer_kind"]
    report = ClassificationReport.load(place / "out" / "reference")
    assert noted["held_out_accuracy"] == report.evaluation.metrics["accuracy"].mean
    # Files come as tokens, with the counts of their genes; AnnData with all counts.
    assert noted["baseline_accuracy"] == pytest.approx(
        report.baselines["principal components"].metrics["accuracy"].mean, abs=0.1
    )


@pytest.mark.parametrize(
    ("code", "flags"),
    [
        ("GF208", ["-l", "kin", "-o", "new"]),
        ("GF208", ["-l", "kind", "--groups", "nobody", "-o", "new"]),
        ("GF100", ["-l", "kind", "--pooling", "gene", "-o", "new"]),
        ("GF102", ["-l", "kind", "--false-rejection", 0.9, "-o", "new"]),
        ("GF401", ["-l", "kind", "-o", "out"]),
    ],
)
def test_what_cannot_be_done_is_refused_first(place, annotated, tmp_path, monkeypatch, code, flags):
    monkeypatch.chdir(place)
    before = sorted(path.name for path in place.iterdir())
    result = call("annotate", "cells.h5ad", "-r", "reference.h5ad", "-m", "model", *flags)
    assert result.exit_code == 1
    assert code in result.output
    assert sorted(path.name for path in place.iterdir()) == before
