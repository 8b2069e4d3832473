"""Plots. Every function draws, saves where told to, and returns its axes; none changes matplotlib's settings."""

from geneformer.pl._confusion_matrix import confusion_matrix
from geneformer.pl._embedding import embedding
from geneformer.pl._heatmap import heatmap
from geneformer.pl._perturbation import perturbation
from geneformer.pl._predictions import predictions
from geneformer.pl._roc import roc
from geneformer.pl._training_curve import training_curve

__all__ = ["confusion_matrix", "embedding", "heatmap", "perturbation", "predictions", "roc", "training_curve"]
