"""Networks small enough for a test: a narrow model on a few short cells."""

from functools import lru_cache
from pathlib import Path

from geneformer.applications.network_inference import infer_network
from geneformer.applications.network_plan import plan_network
from geneformer.genes.vocabulary import Vocabulary
from geneformer.inference.cells import Cells
from geneformer.models.loading import LoadedModel
from geneformer.options import NetworkOptions, RuntimeOptions
from golden import tiny_model
from small_cells import short_tokens

QUIET = RuntimeOptions(device="cpu", dtype="float32", progress=False)


@lru_cache(maxsize=1)
def small_model() -> LoadedModel:
    """The tiny network of the golden values."""
    return LoadedModel("tiny V1", Path(), tiny_model("V1"), Vocabulary.load("V1"), has_head=True)


def small_cells(number=12, longest=40, **columns) -> Cells:
    """Cells of different lengths."""
    fingerprint = Vocabulary.load("V1").fingerprint
    return Cells.of(short_tokens("V1", number, longest, vocabulary=fingerprint, **columns))


def planned(cells=None, model=None, **options):
    """A network, checked and ready."""
    chosen = {"regulators": "all", "min_cells": 2, "n_bootstrap": 10, "n_null": 12} | options
    return plan_network(cells or small_cells(), model or small_model(), NetworkOptions(**chosen), QUIET)


def inferred(cells=None, model=None, **options):
    """The same, run."""
    return infer_network(planned(cells, model, **options))


def weights_of(network, method=None):
    """Weight by source and target."""
    edges = network.edges if method is None else network.edges[network.edges["method"] == method]
    return {(row.source, row.target): row.weight for row in edges.itertuples()}
