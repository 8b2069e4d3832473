"""Embeddings, under their published path."""

from geneformer.compat.embeddings.emb_extractor import EmbExtractor, get_embs
from geneformer.compat.embeddings.labeled import label_cell_embs, label_gene_embs

__all__ = ["EmbExtractor", "get_embs", "label_cell_embs", "label_gene_embs"]
