"""Pretraining, under its published path."""

from typing import Any

from geneformer.compat.left_out import published_name
from geneformer.compat.pretraining.precollator import GeneformerPreCollator
from geneformer.compat.pretraining.pretrainer import GeneformerPretrainer

__all__ = ["GeneformerPreCollator", "GeneformerPretrainer"]


def __getattr__(name: str) -> Any:
    return published_name(__name__, name)
