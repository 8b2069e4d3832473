"""Batches of cells with the classes of their genes, and which cells have any of them."""

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from geneformer.data.dataset import Packed, TokenizedDataset
from geneformer.engine.training import Key
from geneformer.models.losses import MISSING

Ints = NDArray[np.int64]

_CELLS_AT_ONCE = 2048


class GeneBatches:
    """Batches from keys: cells end to end, and the class of every token.

    Parameters
    ----------
    dataset
        Tokenized cells.
    rows
        Cells the keys count through, ``(n,)``.
    class_of
        Class by token id, `losses.MISSING` for those without, ``(V,)``.
    max_length
        Most tokens of one cell.
    """

    def __init__(self, dataset: TokenizedDataset, rows: Ints, class_of: Ints, max_length: int) -> None:
        self.dataset, self.rows, self.class_of, self.max_length = dataset, rows, class_of, max_length

    @property
    def lengths(self) -> Ints:
        """Tokens each cell brings to a batch, ``(n,)``."""
        return np.minimum(self.dataset.lengths[self.rows], self.max_length)

    def __call__(self, keys: Sequence[Key]) -> dict[str, Any]:
        """The batch as tensors."""
        packed = self.dataset.gather(self.rows[[row for _, row in keys]], max_length=self.max_length)
        return {
            "input_ids": torch.from_numpy(packed.input_ids.astype(np.int64)),
            "cu_seqlens": torch.from_numpy(packed.cu_seqlens),
            "labels": torch.from_numpy(self.class_of[packed.input_ids]),
        }


def cells_with(dataset: TokenizedDataset, class_of: Ints, max_length: int) -> Ints:
    """Rows of the cells that have any labeled gene among the tokens that are read, sorted.

    Parameters
    ----------
    dataset
        Tokenized cells.
    class_of
        Class by token id, `losses.MISSING` for those without, ``(V,)``.
    max_length
        Most tokens of one cell.
    """
    is_labeled = class_of != MISSING
    has_any = np.zeros(len(dataset), dtype=bool)
    for rows, packed in _pieces(dataset, max_length):
        before = np.concatenate([[0], np.cumsum(is_labeled[packed.input_ids])])
        has_any[rows] = np.diff(before[packed.cu_seqlens]) > 0
    return np.flatnonzero(has_any).astype(np.int64)


def count_cells(dataset: TokenizedDataset, size: int, max_length: int) -> Ints:
    """Cells each token occurs in, by token id, ``(size,)``.

    Parameters
    ----------
    dataset
        Tokenized cells.
    size
        Tokens of the vocabulary.
    max_length
        Most tokens of one cell.
    """
    counts = np.zeros(size, dtype=np.int64)
    for _, packed in _pieces(dataset, max_length):
        counts += np.bincount(packed.input_ids, minlength=size)
    return counts


def mean_ranks(dataset: TokenizedDataset, size: int, max_length: int) -> NDArray[np.float64]:
    """Place of each token in the cells it occurs in, from 0 (first) to 1 (last), on average; NaN where it never does.

    Parameters
    ----------
    dataset
        Tokenized cells.
    size
        Tokens of the vocabulary.
    max_length
        Most tokens of one cell.
    """
    sums, counts = np.zeros(size), np.zeros(size)
    for _, packed in _pieces(dataset, max_length):
        lengths = np.diff(packed.cu_seqlens)
        place = np.arange(len(packed.input_ids)) - np.repeat(packed.cu_seqlens[:-1], lengths)
        sums += np.bincount(packed.input_ids, (place + 0.5) / np.repeat(lengths, lengths), minlength=size)
        counts += np.bincount(packed.input_ids, minlength=size)
    with np.errstate(invalid="ignore"):
        means: NDArray[np.float64] = sums / counts
    return means


def _pieces(dataset: TokenizedDataset, max_length: int) -> Iterator[tuple[Ints, Packed]]:
    """All cells, some at a time."""
    for start in range(0, len(dataset), _CELLS_AT_ONCE):
        rows = np.arange(start, min(start + _CELLS_AT_ONCE, len(dataset)))
        yield rows, dataset.gather(rows, max_length=max_length)
