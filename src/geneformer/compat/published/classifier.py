"""Cell and gene classification, under its published path."""

from typing import Any

from geneformer.compat.classifier import Classifier
from geneformer.compat.paths import published_name

__all__ = ["Classifier"]


def __getattr__(name: str) -> Any:
    return published_name(__name__, name)
