"""Embeddings, under their published path."""

from geneformer.compat.emb_extractor import EmbExtractor, get_embs

__all__ = ["EmbExtractor", "get_embs"]
