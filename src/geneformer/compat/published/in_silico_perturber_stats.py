"""Statistics of perturbation, under their published path."""

from typing import Any

from geneformer.compat.left_out import published_name
from geneformer.compat.perturbation.in_silico_perturber_stats import InSilicoPerturberStats

__all__ = ["InSilicoPerturberStats"]


def __getattr__(name: str) -> Any:
    return published_name(__name__, name)
