"""Tools with a fine-tuned model in the place of a pretrained one: the object, or its folder."""

from pathlib import Path

import numpy as np
import pytest

import geneformer as gf
from geneformer.errors import CheckpointError
from small_cells import blood

pytestmark = pytest.mark.filterwarnings("ignore:.*outside vocabulary:geneformer.errors.GeneformerWarning")

WRITTEN = Path(__file__).parents[1] / "data" / "written_before"
KINDS = ("cell_classifier", "cell_regressor", "gene_classifier", "expression_decoder", "multi_task_classifier")
QUIET = {"progress": False, "device": "cpu", "dtype": "float32"}


@pytest.fixture(scope="module")
def adata():
    return blood(12)


@pytest.mark.parametrize("kind", KINDS)
def test_its_encoder_is_read(kind, adata):
    fitted = gf.load_classifier(WRITTEN / kind)
    genes = fitted.pairing.vocabulary.genes[:6].tolist()
    values = {}
    for name, model in (("object", fitted), ("folder", WRITTEN / kind), ("loaded", gf.load_model(fitted))):
        cells = gf.tl.embed(adata, model=model, copy=True, **QUIET)
        pairs = gf.tl.attention(adata, model=model, genes=tuple(genes), copy=True, **QUIET)
        values[name] = cells.obsm["X_geneformer"], pairs.varp["geneformer_attention"].toarray()
        assert cells.uns["geneformer"]["X_geneformer"]["model"] in (type(fitted).__name__, str(model))
    for cells, pairs in values.values():
        np.testing.assert_array_equal(cells, values["folder"][0])
        np.testing.assert_array_equal(pairs, values["folder"][1])
    with pytest.raises(CheckpointError, match="no vocabulary head"):
        gf.tl.predict_masked(adata, genes=(genes[0],), model=fitted, **QUIET)


def test_cells_are_perturbed_as_it_sees_them(adata):
    classifier, genes = gf.load_classifier(WRITTEN / "cell_classifier"), gf.load_classifier(WRITTEN / "gene_classifier")
    gene = str(classifier.pairing.vocabulary.genes[3])
    for model, kinds in ((classifier, {"similarity", "probability_shift"}), (genes, {"similarity"})):
        run = gf.tl.perturb(adata, genes=[gene], edit="overexpress", model=model, copy=True, **QUIET)
        assert set(run.uns["geneformer_perturbation"]["effects"]["effect"]) == kinds


def test_a_model_that_is_loaded_is_used_as_it_is(adata):
    loaded = gf.load_model("mini")
    assert gf.load_model(loaded) is loaded
    estimator = gf.CellClassifier(model=loaded)
    assert estimator.base() is loaded
    assert repr(estimator) == "CellClassifier()"
