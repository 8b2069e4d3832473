"""Which cells and genes were read is told once, and stands with every result, in the same entries."""

import json

import anndata as ad
import numpy as np
import pytest

import geneformer as gf
from geneformer import keys
from geneformer.datasets import pbmc3k
from geneformer.tokenization.tokenizer import tokenize_counts

pytestmark = pytest.mark.filterwarnings("ignore::geneformer.errors.GeneformerWarning")


@pytest.fixture(scope="module")
def adata():
    """Thirty cells, one of them without a gene that is known, and two genes that nobody knows."""
    cells = pbmc3k()[:30, :8000].copy()
    names = cells.var_names.to_numpy().astype(object)
    by_counts = np.argsort(-np.asarray(cells.X.sum(axis=0)).ravel())
    names[by_counts[:2]] = ["NOBODY-1", "NOBODY-2"]
    counts = cells.X.tolil()
    counts[3] = 0
    counts[3, by_counts[0]] = 5
    return ad.AnnData(counts.tocsr(), obs=cells.obs[["cell_type"]].assign(half=["a", "b"] * 15), var={"gene": names})


def expected(matched):
    assert set(matched) == {
        "cells_read", "cells_used", "cells_filtered", "cells_without_genes", "cells_shortened", "genes_read",
        "genes_matched", "genes_summed", "genes_left_out", "share_of_counts_matched", "left_out_most_counts",
    }  # fmt: skip
    assert (matched["cells_read"], matched["cells_used"], matched["cells_without_genes"]) == (30, 29, 1)
    assert matched["genes_read"] == 8000 == matched["genes_matched"] + matched["genes_left_out"]
    assert 0.5 < matched["share_of_counts_matched"] < 1
    assert {"NOBODY-1", "NOBODY-2"} <= set(matched["left_out_most_counts"])


def test_functions_note_it_and_it_goes_into_a_file(adata, tmp_path, caplog):
    cells = adata.copy()
    gf.tl.embed(cells, progress=False)
    assert [record.getMessage().partition(",")[0] for record in caplog.records] == ["Read 29 of 30 cells"]
    gf.tl.perturb(cells, genes=["LYZ"], edit="overexpress", max_cells=2, progress=False)
    expected(cells.uns[keys.UNS][keys.EMBEDDING][keys.MATCHED])
    expected(json.loads(cells.uns[keys.PERTURBATION]["provenance"])[keys.MATCHED])
    cells.write_h5ad(tmp_path / "cells.h5ad")
    expected(ad.read_h5ad(tmp_path / "cells.h5ad").uns[keys.UNS][keys.EMBEDDING][keys.MATCHED])


def test_a_fit_and_its_predictions_say_it(adata):
    classifier = gf.CellClassifier(max_steps=1, baselines="none", test=0.2, max_length=64, progress=False)
    classifier.fit(adata, "half")
    expected(classifier.matched_)
    expected(classifier.report_.settings[keys.MATCHED])
    cells = adata.copy()
    gf.tl.classify(cells, classifier)
    expected(cells.uns[keys.UNS]["geneformer_half"][keys.MATCHED])


def test_tokens_keep_it_on_the_way_through_a_folder(adata, tmp_path):
    adata.write_h5ad(tmp_path / "cells.h5ad")
    tokens, _ = tokenize_counts([tmp_path / "cells.h5ad"], output=tmp_path / "cells.dataset")
    expected(tokens.matched)
    expected(gf.read_dataset(tmp_path / "cells.dataset").take([0, 1]).matched)


def test_it_is_not_told_to_those_who_want_warnings_alone(adata, caplog):
    with gf.settings.override(verbosity="warning"):
        gf.pp.tokenize(adata)
    assert not caplog.records
    gf.pp.tokenize(adata)
    assert "left out with the most counts: NOBODY-" in caplog.text
