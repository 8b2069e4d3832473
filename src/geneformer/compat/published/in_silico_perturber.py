"""Perturbation, under its published path."""

from geneformer.compat.perturbation.in_silico_perturber import InSilicoPerturber

__all__ = ["InSilicoPerturber"]
