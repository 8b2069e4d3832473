"""Collators, under their published path."""

from typing import Any

from geneformer.compat.classification.collators import (
    DataCollatorForCellClassification,
    DataCollatorForGeneClassification,
)
from geneformer.compat.left_out import published_name
from geneformer.compat.pretraining.precollator import GeneformerPreCollator as PrecollatorForGeneAndCellClassification

__all__ = [
    "DataCollatorForCellClassification",
    "DataCollatorForGeneClassification",
    "PrecollatorForGeneAndCellClassification",
]


def __getattr__(name: str) -> Any:
    return published_name(__name__, name)
