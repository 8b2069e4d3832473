"""Pretraining, under its published path."""

from geneformer.compat.pretrainer import GeneformerPretrainer

__all__ = ["GeneformerPretrainer"]
