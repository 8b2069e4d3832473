"""Statistics of perturbation, under their published path."""

from typing import Any

from geneformer.compat.paths import published_name
from geneformer.compat.perturber_stats import InSilicoPerturberStats

__all__ = ["InSilicoPerturberStats"]


def __getattr__(name: str) -> Any:
    return published_name(__name__, name)
