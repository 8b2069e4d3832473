"""Cell and gene classification, under its published path."""

from geneformer.compat.classification.classifier import Classifier

__all__ = ["Classifier"]
