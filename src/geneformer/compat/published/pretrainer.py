"""Pretraining, under its published path."""

from geneformer.compat.precollator import GeneformerPreCollator
from geneformer.compat.pretrainer import GeneformerPretrainer

__all__ = ["GeneformerPreCollator", "GeneformerPretrainer"]
