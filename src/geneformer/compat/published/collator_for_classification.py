"""Collators, under their published path."""

from geneformer.compat.classification.collators import (
    DataCollatorForCellClassification,
    DataCollatorForGeneClassification,
)

__all__ = ["DataCollatorForCellClassification", "DataCollatorForGeneClassification"]
