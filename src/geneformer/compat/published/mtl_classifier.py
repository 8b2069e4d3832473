"""Multi-task classification, under its published path."""

from geneformer.compat.multi_task.mtl_classifier import MTLClassifier

__all__ = ["MTLClassifier"]
