"""Multi-task classification, under its published path."""

from geneformer.compat.mtl_classifier import MTLClassifier

__all__ = ["MTLClassifier"]
