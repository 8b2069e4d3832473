"""Pretraining, under its published path."""

from typing import Any

from geneformer.compat.collators import GeneformerPreCollator
from geneformer.compat.paths import published_name
from geneformer.compat.pretrainer import GeneformerPretrainer

__all__ = ["GeneformerPreCollator", "GeneformerPretrainer"]


def __getattr__(name: str) -> Any:
    return published_name(__name__, name)
