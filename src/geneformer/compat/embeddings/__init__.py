"""Embeddings under the published names."""
