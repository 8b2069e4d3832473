"""Plots. Every function draws, saves where told to, and returns its axes; none changes matplotlib's settings."""

from geneformer.pl._embedding import embedding
from geneformer.pl._heatmap import heatmap
from geneformer.pl._training_curve import training_curve

__all__ = ["embedding", "heatmap", "training_curve"]
