"""Parts of the classifier that scripts call by themselves, under their published path."""

from typing import Any

from geneformer.compat.cells import (
    downsample_and_shuffle,
    label_gene_classes,
    remove_cols,
    rename_cols,
    subsample_by_class,
)
from geneformer.compat.classifier_training import compute_metrics, get_default_train_args, get_num_classes
from geneformer.compat.paths import published_name

__all__ = [
    "compute_metrics",
    "downsample_and_shuffle",
    "get_default_train_args",
    "get_num_classes",
    "label_gene_classes",
    "remove_cols",
    "rename_cols",
    "subsample_by_class",
]


def __getattr__(name: str) -> Any:
    return published_name(__name__, name)
