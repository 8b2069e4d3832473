"""Pretraining, under its published path."""

from geneformer.compat.pretraining.precollator import GeneformerPreCollator
from geneformer.compat.pretraining.pretrainer import GeneformerPretrainer

__all__ = ["GeneformerPreCollator", "GeneformerPretrainer"]
