"""Single cells as plain vectors: ranked, cut to a length and framed, outside any file."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from geneformer.tokenization.ranking import RankedCells, RankedGenes, framed


def rank_genes(gene_vector: ArrayLike, gene_tokens: ArrayLike) -> NDArray[Any]:
    """Tokens by descending value; equal values keep their order.

    Parameters
    ----------
    gene_vector
        Value of each gene: count over median, ``(g,)``.
    gene_tokens
        Token of each gene, ``(g,)``.
    """
    ranked: NDArray[Any] = np.asarray(gene_tokens)[np.argsort(-np.asarray(gene_vector), kind="stable")]
    return ranked


def tokenize_cell(gene_vector: ArrayLike, gene_tokens: ArrayLike) -> NDArray[Any]:
    """Tokens of the genes with a value other than zero, by descending value.

    Parameters
    ----------
    gene_vector
        Value of each gene: count over median, ``(g,)``.
    gene_tokens
        Token of each gene, ``(g,)``.
    """
    values = np.asarray(gene_vector)
    present = values != 0
    return rank_genes(values[present], np.asarray(gene_tokens)[present])


def frame_cells(
    cells: Sequence[ArrayLike], counts: Sequence[ArrayLike] | None, genes: RankedGenes, *, max_length: int
) -> RankedCells:
    """Ranked tokens of some cells, each cut to its first ones and framed by special tokens.

    Parameters
    ----------
    cells
        Tokens of each cell by rank, special tokens not among them.
    counts
        Scaled count of each token.
    genes
        Says which special tokens there are.
    max_length
        Most tokens of a cell, special tokens included.
    """
    room = max_length - (genes.cls_id is not None) - (genes.eos_id is not None)
    lengths = np.array([len(np.asarray(cell)) for cell in cells], dtype=np.int64)
    ids = np.concatenate([np.empty(0, np.int32), *(np.asarray(cell, dtype=np.int32)[:room] for cell in cells)])
    scaled = None
    if counts is not None:
        scaled = np.concatenate([np.empty(0), *(np.asarray(cell, dtype=np.float64)[:room] for cell in counts)])
    return framed(ids, scaled, np.minimum(lengths, room), lengths, genes)
