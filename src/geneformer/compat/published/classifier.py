"""Cell and gene classification, under its published path."""

from geneformer.compat.classifier import Classifier

__all__ = ["Classifier"]
