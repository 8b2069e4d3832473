"""Embeddings, under their published path."""

from typing import Any

from geneformer.compat.emb_extractor import EmbExtractor, get_embs, label_cell_embs, label_gene_embs
from geneformer.compat.paths import published_name

__all__ = ["EmbExtractor", "get_embs", "label_cell_embs", "label_gene_embs"]


def __getattr__(name: str) -> Any:
    return published_name(__name__, name)
