"""Plots. Every function draws, saves where asked to, and returns its axes; none changes matplotlib's settings."""

from geneformer.pl._classification import calibration, confusion_matrix, predictions, roc
from geneformer.pl._embedding import embedding, heatmap
from geneformer.pl._network import network, network_benchmark, network_heatmap, network_regulators, network_states
from geneformer.pl._perturbation import perturbation
from geneformer.pl._training_curve import training_curve

__all__ = [
    "calibration",
    "confusion_matrix",
    "embedding",
    "heatmap",
    "network",
    "network_benchmark",
    "network_heatmap",
    "network_regulators",
    "network_states",
    "perturbation",
    "predictions",
    "roc",
    "training_curve",
]
