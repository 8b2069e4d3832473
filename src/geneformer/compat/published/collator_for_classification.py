"""Collators, under their published path."""

from geneformer.compat.collator_for_classification import (
    DataCollatorForCellClassification,
    DataCollatorForGeneClassification,
)

__all__ = ["DataCollatorForCellClassification", "DataCollatorForGeneClassification"]
