"""Multi-task classification, under its published path."""

from typing import Any

from geneformer.compat.mtl_classifier import MTLClassifier
from geneformer.compat.paths import published_name

__all__ = ["MTLClassifier"]


def __getattr__(name: str) -> Any:
    return published_name(__name__, name)
