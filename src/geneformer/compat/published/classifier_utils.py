"""Parts of the classifier that scripts call by themselves, under their published path."""

from geneformer.compat.cell_selection import downsample_and_shuffle, remove_cols, rename_cols, subsample_by_class
from geneformer.compat.classification.training_defaults import compute_metrics, get_default_train_args, get_num_classes

__all__ = [
    "compute_metrics",
    "downsample_and_shuffle",
    "get_default_train_args",
    "get_num_classes",
    "remove_cols",
    "rename_cols",
    "subsample_by_class",
]
