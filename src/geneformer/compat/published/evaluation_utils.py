"""Evaluation of classifiers, under its published path."""

from typing import Any

from geneformer.compat.classifier import (
    classifier_predict,
    get_cross_valid_roc_metrics,
    get_metrics,
    plot_confusion_matrix,
    plot_predictions,
    plot_ROC,
    py_softmax,
    vote,
)
from geneformer.compat.paths import published_name

__all__ = [
    "classifier_predict",
    "get_cross_valid_roc_metrics",
    "get_metrics",
    "plot_ROC",
    "plot_confusion_matrix",
    "plot_predictions",
    "py_softmax",
    "vote",
]


def __getattr__(name: str) -> Any:
    return published_name(__name__, name)
