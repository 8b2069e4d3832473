"""Count matrices read a few cells at a time, wherever they are: memory, HDF5 or Zarr; rows, columns or dense."""

import tempfile
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from geneformer.tokenization.ranking import CellRows

MAX_ENTRIES = 250_000
"""Most entries of a sparse matrix in memory at a time, so that deep cells do not cost more than many cells."""

MAX_DENSE = 8_000_000
"""Most elements of a dense matrix in memory at a time."""

BUCKET_ENTRIES = 1_000_000
"""Entries sorted by cell in memory at a time."""

_MOST_BUCKETS = 256
"""Files open at a time."""


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
        """Whether any run of cells is reached without reading those before it, by several threads at once."""

    def chunks(self, size: int, start: int, stop: int) -> Iterator[CellRows]:
        """Cells `start` to `stop` in order, at most `size` at a time."""

    def sample(self, entries: int) -> Sample:
        """About `entries` entries from different places."""


class SparseRows:
    """Compressed rows whose arrays are sliced where they lie (NumPy, HDF5, Zarr)."""

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
            first, last = int(self.indptr[start]), int(self.indptr[end])
            indptr = self.indptr[start : end + 1].astype(np.int64) - first
            yield CellRows(indptr, np.asarray(self.indices[first:last]), np.asarray(self.data[first:last]))
            start = end

    def sample(self, entries: int) -> Sample:
        """About `entries` entries from the first, middle and last cells."""
        per_cell = max(int(self.indptr[-1]) // max(self.shape[0], 1), 1)
        return sample_cells(self, max(min(entries // per_cell, 300), 12))


class DenseRows:
    """A dense matrix, zeros left out on the way."""

    seekable = True

    def __init__(self, array: Any, *, transposed: bool = False) -> None:
        self.array = array
        self.transposed = transposed
        self.shape: tuple[int, int] = tuple(array.shape[::-1] if transposed else array.shape)

    def chunks(self, size: int, start: int, stop: int) -> Iterator[CellRows]:
        """Cells `start` to `stop` in order, at most `size` at a time."""
        size = min(size, max(MAX_DENSE // max(self.shape[1], 1), 1))
        for first in range(start, stop, size):
            last = min(first + size, stop)
            block = self.array[:, first:last] if self.transposed else self.array[first:last]
            yield from_dense(np.asarray(block).T if self.transposed else np.asarray(block))

    def sample(self, entries: int) -> Sample:
        """About `entries` entries from the first, middle and last cells."""
        return sample_cells(self, max(min(entries // max(self.shape[1], 1), 96), 12))


class SortedOnDisk:
    """A matrix that is not stored by cell: read once from start to end into buckets of cells, then sorted by bucket.

    Memory holds one bucket at a time. The buckets of a large matrix are temporary files.
    """

    seekable = False

    def __init__(self, entries: Callable[[], Iterable[Sample]], shape: tuple[int, int], *, expected: int) -> None:
        self.entries = entries
        self.shape = shape
        n_buckets = min(max(expected // BUCKET_ENTRIES, 1), _MOST_BUCKETS, max(shape[0], 1))
        self._cells_per_bucket = max(-(-shape[0] // n_buckets), 1)
        self._folder: tempfile.TemporaryDirectory[str] | None = None
        self._bucket: tuple[int, CellRows] | None = None

    def chunks(self, size: int, start: int, stop: int) -> Iterator[CellRows]:
        """Cells `start` to `stop` in order, at most `size` at a time."""
        while start < stop:
            number, first = divmod(start, self._cells_per_bucket)
            rows = self._rows(number)
            last = min(first + size, first + stop - start, rows.n_cells)
            yield rows.part(first, last)
            start += last - first

    def sample(self, entries: int) -> Sample:
        """The first entries."""
        parts, n_read = [], 0
        for block in self.entries():
            parts.append(Sample(*(column[: entries - n_read] for column in block)))
            n_read += len(parts[-1].cells)
            if n_read >= entries:
                break
        return _joined(parts)

    def close(self) -> None:
        """Delete the temporary files."""
        if self._folder is not None:
            self._folder.cleanup()
        self._folder = self._bucket = None

    def _rows(self, number: int) -> CellRows:
        """The cells of a bucket; the last one asked for stays in memory."""
        if self._bucket is None and self._folder is None:
            self._sort()
        if self._bucket is None or self._bucket[0] != number:
            folder = self._folder.name if self._folder is not None else ""
            self._bucket = number, self._compressed(np.fromfile(Path(folder, str(number)), dtype=_ENTRY), number)
        return self._bucket[1]

    def _sort(self) -> None:
        n_buckets = -(-self.shape[0] // self._cells_per_bucket)
        if n_buckets == 1:
            blocks = [_packed(block) for block in self.entries()]
            self._bucket = 0, self._compressed(np.concatenate([np.empty(0, _ENTRY), *blocks]), 0)
            return
        folder = tempfile.TemporaryDirectory(prefix="geneformer-")
        with ExitStack() as stack:
            files = [stack.enter_context(Path(folder.name, str(number)).open("wb")) for number in range(n_buckets)]
            for block in self.entries():
                buckets = (block.cells // self._cells_per_bucket).astype(np.uint16)
                ordered = _packed(block)[np.argsort(buckets, kind="stable")]
                ends = np.cumsum(np.bincount(buckets, minlength=n_buckets))
                for file, piece in zip(files, np.split(ordered, ends[:-1]), strict=True):
                    file.write(piece.tobytes())
        self._folder = folder

    def _compressed(self, entries: NDArray[Any], number: int) -> CellRows:
        """Compressed rows of one bucket; entries of a cell keep the order they came in."""
        first = number * self._cells_per_bucket
        n_cells = min(self._cells_per_bucket, self.shape[0] - first)
        cells = entries["cell"] - first
        order = np.argsort(cells.astype(np.uint16) if n_cells <= 65_536 else cells, kind="stable")
        indptr = np.concatenate([[0], np.cumsum(np.bincount(cells, minlength=n_cells))]).astype(np.int64)
        return CellRows(indptr, entries["gene"][order], entries["count"][order])


_ENTRY = np.dtype([("cell", "<i4"), ("gene", "<i4"), ("count", "<f8")])
"""An entry on the disk."""


def _packed(block: Sample) -> NDArray[Any]:
    packed = np.empty(len(block.cells), dtype=_ENTRY)
    packed["cell"], packed["gene"], packed["count"] = block
    return packed


def by_columns(indptr: Any, indices: Any, data: Any, shape: tuple[int, int]) -> SortedOnDisk:
    """A matrix of compressed columns, cells by genes, as cells."""
    starts = np.asarray(indptr[:], dtype=np.int64)
    total = int(starts[-1]) if len(starts) else 0

    def entries() -> Iterator[Sample]:
        for first in range(0, total, BUCKET_ENTRIES):
            last = min(first + BUCKET_ENTRIES, total)
            genes = np.searchsorted(starts, np.arange(first, last), side="right") - 1
            yield Sample(np.asarray(indices[first:last], dtype=np.int64), genes, np.asarray(data[first:last]))

    return SortedOnDisk(entries, shape, expected=total)


def from_dense(block: NDArray[Any]) -> CellRows:
    """Compressed rows of a dense block, ``(n, g)``."""
    cells, genes = np.nonzero(block)
    indptr = np.concatenate([[0], np.cumsum(np.bincount(cells, minlength=len(block)))]).astype(np.int64)
    return CellRows(indptr, genes, block[cells, genes])


def sample_cells(matrix: RowMatrix, n_cells: int) -> Sample:
    """All entries of about `n_cells` cells, from the start, the middle and the end of a matrix."""
    n, each = matrix.shape[0], -(-n_cells // 3)
    starts = (0, (n - each) // 2, n - each) if n > 3 * each else range(0, n, each)
    parts = []
    for start in starts:
        first = start
        for rows in matrix.chunks(each, start, min(start + each, n)):
            parts.append(triples(rows, first))
            first += rows.n_cells
    return _joined(parts)


def triples(rows: CellRows, first: int) -> Sample:
    """Entries of some rows with the number of their cell, counted from `first`."""
    cells = np.repeat(np.arange(rows.n_cells), np.diff(rows.indptr)) + first
    return Sample(cells, np.asarray(rows.indices, dtype=np.int64), np.asarray(rows.data))


def _joined(parts: list[Sample]) -> Sample:
    none = np.empty(0, np.int64)
    return Sample(*(np.concatenate(column) for column in zip(*parts, strict=True))) if parts else Sample(*[none] * 3)
