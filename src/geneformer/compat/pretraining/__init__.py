"""Pretraining under the published names."""
