"""Perturbation, under its published path."""

from typing import Any

from geneformer.compat.paths import published_name
from geneformer.compat.perturber import InSilicoPerturber

__all__ = ["InSilicoPerturber"]


def __getattr__(name: str) -> Any:
    return published_name(__name__, name)
