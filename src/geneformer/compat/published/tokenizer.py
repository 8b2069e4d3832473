"""Tokenizing, under its published path, with the dictionaries that scripts take from here."""

from typing import TYPE_CHECKING, Any

from geneformer.compat.paths import published_name
from geneformer.compat.tokenizer import TranscriptomeTokenizer, rank_genes, tokenize_cell

if TYPE_CHECKING:
    from geneformer.compat.dictionaries import (
        ENSEMBL_DICTIONARY_FILE,
        ENSEMBL_DICTIONARY_FILE_30M,
        ENSEMBL_MAPPING_FILE,
        ENSEMBL_MAPPING_FILE_30M,
        GENE_MEDIAN_FILE,
        GENE_MEDIAN_FILE_30M,
        TOKEN_DICTIONARY_FILE,
        TOKEN_DICTIONARY_FILE_30M,
    )

__all__ = [
    "ENSEMBL_DICTIONARY_FILE",
    "ENSEMBL_DICTIONARY_FILE_30M",
    "ENSEMBL_MAPPING_FILE",
    "ENSEMBL_MAPPING_FILE_30M",
    "GENE_MEDIAN_FILE",
    "GENE_MEDIAN_FILE_30M",
    "TOKEN_DICTIONARY_FILE",
    "TOKEN_DICTIONARY_FILE_30M",
    "TranscriptomeTokenizer",
    "rank_genes",
    "tokenize_cell",
]


def __getattr__(name: str) -> Any:
    return published_name(__name__, name)
