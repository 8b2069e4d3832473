"""Statistics of perturbation, under their published path."""

from geneformer.compat.perturbation.in_silico_perturber_stats import InSilicoPerturberStats

__all__ = ["InSilicoPerturberStats"]
