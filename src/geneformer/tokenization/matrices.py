"""Count matrices read a few cells at a time, wherever they are: memory, HDF5 or Zarr; rows, columns or dense."""

from collections.abc import Iterator
from typing import Any, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from geneformer.tokenization.ranking import CellRows

MAX_ENTRIES = 250_000
"""Most entries of a sparse matrix in memory at a time, so that deep cells do not cost more than many cells."""

MAX_DENSE = 8_000_000
"""Most elements of a dense matrix in memory at a time."""

_SAMPLE_PLACES = 3


class Sample(NamedTuple):
    """A few entries of a matrix and where they stand: each array ``(entries,)``."""

    cells: NDArray[np.int64]
    genes: NDArray[np.int64]
    values: NDArray[Any]


class RowMatrix(Protocol):
    """A matrix of cells by genes that hands out runs of cells."""

    @property
    def shape(self) -> tuple[int, int]:
        """Cells and genes."""

    @property
    def seekable(self) -> bool:
        """Whether any run of cells is reached without reading those before it."""

    def chunks(self, size: int, start: int, stop: int) -> Iterator[CellRows]:
        """Cells `start` to `stop` in order, at most `size` at a time."""

    def sample(self, entries: int) -> Sample:
        """About `entries` entries from different places."""


class SparseRows:
    """Compressed rows whose arrays are sliced where they lie (NumPy, HDF5, Zarr).

    Parameters
    ----------
    indptr, indices, data
        The three arrays; the first is held in memory.
    shape
        Cells and genes.
    """

    seekable = True

    def __init__(self, indptr: Any, indices: Any, data: Any, shape: tuple[int, int]) -> None:
        self.indptr = np.asarray(indptr[:])
        self.indices = indices
        self.data = data
        self.shape = shape

    def chunks(self, size: int, start: int, stop: int) -> Iterator[CellRows]:
        """Cells `start` to `stop` in order, at most `size` at a time."""
        while start < stop:
            limit = int(np.searchsorted(self.indptr, self.indptr[start] + MAX_ENTRIES, side="right")) - 1
            end = min(start + size, stop, max(limit, start + 1))
            yield self.rows(start, end)
            start = end

    def rows(self, start: int, stop: int) -> CellRows:
        """Cells `start` to `stop`."""
        first, last = int(self.indptr[start]), int(self.indptr[stop])
        indptr = self.indptr[start : stop + 1].astype(np.int64) - first
        return CellRows(indptr, np.asarray(self.indices[first:last]), np.asarray(self.data[first:last]))

    def sample(self, entries: int) -> Sample:
        """About `entries` entries from the first, middle and last cells."""
        n = self.shape[0]
        per_cell = max(int(self.indptr[-1]) // max(n, 1), 1)
        spans = sampled_spans(n, max(min(entries // per_cell, 300), 12))
        return joined([triples(self.rows(start, stop), start) for start, stop in spans])


class DenseRows:
    """A dense matrix, zeros left out on the way.

    Parameters
    ----------
    array
        Anything sliced in two dimensions.
    transposed
        Genes are the rows, as loom keeps them.
    """

    seekable = True

    def __init__(self, array: Any, *, transposed: bool = False) -> None:
        self.array = array
        self.transposed = transposed
        rows, columns = array.shape
        self.shape: tuple[int, int] = (columns, rows) if transposed else (rows, columns)

    def chunks(self, size: int, start: int, stop: int) -> Iterator[CellRows]:
        """Cells `start` to `stop` in order, at most `size` at a time."""
        size = min(size, max(MAX_DENSE // max(self.shape[1], 1), 1))
        for first in range(start, stop, size):
            yield self.rows(first, min(first + size, stop))

    def rows(self, start: int, stop: int) -> CellRows:
        """Cells `start` to `stop`."""
        block = self.array[:, start:stop] if self.transposed else self.array[start:stop]
        block = np.asarray(block)
        return from_dense(block.T if self.transposed else block)

    def sample(self, entries: int) -> Sample:
        """About `entries` entries from the first, middle and last cells."""
        n = self.shape[0]
        spans = sampled_spans(n, max(min(entries // max(self.shape[1], 1), 96), 12))
        return joined([triples(self.rows(start, stop), start) for start, stop in spans])


def sampled_spans(n: int, cells: int) -> list[tuple[int, int]]:
    """About `cells` of `n` cells: from the start, the middle and the end."""
    each = -(-cells // _SAMPLE_PLACES)
    if n <= each * _SAMPLE_PLACES:
        return [(0, n)] if n else []
    return [(start, start + each) for start in (0, (n - each) // 2, n - each)]


def from_dense(block: NDArray[Any]) -> CellRows:
    """Compressed rows of a dense block, ``(n, g)``."""
    cells, genes = np.nonzero(block)
    indptr = np.concatenate([[0], np.cumsum(np.bincount(cells, minlength=len(block)))]).astype(np.int64)
    return CellRows(indptr, genes, block[cells, genes])


def triples(rows: CellRows, first: int) -> Sample:
    """Entries of some rows with the number of their cell, counted from `first`."""
    cells = np.repeat(np.arange(len(rows.indptr) - 1), np.diff(rows.indptr)) + first
    return Sample(cells, np.asarray(rows.indices, dtype=np.int64), np.asarray(rows.data))


def joined(parts: list[Sample]) -> Sample:
    """Samples from several places as one."""
    if not parts:
        none = np.empty(0, np.int64)
        return Sample(none, none, none)
    return Sample(*(np.concatenate(column) for column in zip(*parts, strict=True)))


def select_columns(rows: CellRows, renumbered: NDArray[np.int32]) -> CellRows:
    """Rows reduced to some columns.

    Parameters
    ----------
    rows
        The rows.
    renumbered
        New number of each column, -1 for those to leave out.
    """
    columns = renumbered[rows.indices]
    keep = columns >= 0
    indptr = np.concatenate([[0], np.cumsum(keep)])[rows.indptr]
    return CellRows(indptr, columns[keep], rows.data[keep])


def select_cells(rows: CellRows, keep: NDArray[np.bool_]) -> CellRows:
    """Rows reduced to the cells marked in `keep`, ``(n,)``."""
    if keep.all():
        return rows
    lengths = np.diff(rows.indptr)
    entries = np.repeat(keep, lengths)
    indptr = np.concatenate([[0], np.cumsum(lengths[keep])]).astype(np.int64)
    return CellRows(indptr, rows.indices[entries], rows.data[entries])
