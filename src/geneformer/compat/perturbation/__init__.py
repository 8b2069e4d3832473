"""Perturbation and its statistics under the published names."""
