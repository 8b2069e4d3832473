"""Multi-task classification, under its published path."""

from typing import Any

from geneformer.compat.left_out import published_name
from geneformer.compat.multi_task.mtl_classifier import MTLClassifier

__all__ = ["MTLClassifier"]


def __getattr__(name: str) -> Any:
    return published_name(__name__, name)
