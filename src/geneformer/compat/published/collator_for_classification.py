"""Collators, under their published path."""

from typing import Any

from geneformer.compat.collators import DataCollatorForCellClassification, DataCollatorForGeneClassification
from geneformer.compat.collators import GeneformerPreCollator as PrecollatorForGeneAndCellClassification
from geneformer.compat.paths import published_name

__all__ = [
    "DataCollatorForCellClassification",
    "DataCollatorForGeneClassification",
    "PrecollatorForGeneAndCellClassification",
]


def __getattr__(name: str) -> Any:
    return published_name(__name__, name)
