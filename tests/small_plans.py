"""Perturbation runs small enough for a test: a narrow network on a few short cells."""

from functools import lru_cache

import pandas as pd

from geneformer.genes.lookup import resolve_panel
from geneformer.genes.vocabulary import Vocabulary
from geneformer.options import PerturbOptions, RuntimeOptions
from geneformer.perturbation.exact import PerturbedModel
from geneformer.perturbation.plan import Perturbation, PerturbationPlan, _read_entry, plan_perturbation
from golden import tiny_model
from small_cells import short_tokens

V1 = Vocabulary.load("V1")
KINDS = ["sick", "well", "sick", "other"]
"""States of the cells, in turns."""


def parsed(entry: str, options: PerturbOptions | None = None) -> Perturbation:
    """One entry as written; every gene has a token."""
    read = _read_entry(entry, options or PerturbOptions())
    return read.perturbation([step.genes for step in read.steps], resolve_panel(read.genes, V1, unknown="error"))


@lru_cache(maxsize=2)
def small_model(version="V1") -> PerturbedModel:
    """The tiny network of the golden values."""
    return PerturbedModel(f"tiny {version}", Vocabulary.load(version), tiny_model(version).bert)


def small_cells(number=8, longest=20, version="V1", **columns):
    """Cells of different lengths, with states in the column `kind`."""
    states = {"kind": [KINDS[row % len(KINDS)] for row in range(number)]} if "kind" not in columns else {}
    fingerprint = Vocabulary.load(version).fingerprint
    return short_tokens(version, number, longest, vocabulary=fingerprint, **states, **columns)


def planned(tokens=None, model=None, *, tokens_per_batch=None, **options) -> PerturbationPlan:
    """A run on the CPU, checked and ready."""
    runtime = RuntimeOptions(device="cpu", dtype="float32", progress=False, tokens_per_batch=tokens_per_batch)
    tokens = small_cells() if tokens is None else tokens
    return plan_perturbation(tokens, model or small_model(), PerturbOptions(**options), runtime)


def frame_of(effects) -> pd.DataFrame:
    """Effects with texts as texts."""
    frame = effects.to_frame()
    return frame.astype({name: str for name in frame.columns if name != "value"})
