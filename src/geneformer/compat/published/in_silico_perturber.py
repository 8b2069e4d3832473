"""Perturbation, under its published path."""

from geneformer.compat.in_silico_perturber import InSilicoPerturber

__all__ = ["InSilicoPerturber"]
