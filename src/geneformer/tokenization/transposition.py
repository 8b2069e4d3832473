"""Entries that come in any order handed out cell by cell, sorted on disk so that memory stays bounded."""

import tempfile
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from geneformer.tokenization.matrices import Sample, joined
from geneformer.tokenization.ranking import CellRows

BUCKET_ENTRIES = 1_000_000
"""Entries sorted in memory at a time."""

_MOST_BUCKETS = 256
"""Files open at a time."""

_ENTRY = np.dtype([("cell", "<i4"), ("gene", "<i4"), ("count", "<f8")])


class SortedOnDisk:
    """A matrix whose storage is not by cell: read once from start to end, then handed out by cells.

    Entries go into buckets of neighboring cells, one temporary file each, and every bucket is sorted when its turn
    comes. A small matrix has one bucket and never touches the disk.

    Parameters
    ----------
    entries
        Starts a pass over the matrix: blocks of cell, gene and count.
    shape
        Cells and genes.
    expected
        About how many entries there are.
    """

    seekable = False

    def __init__(self, entries: Callable[[], Iterable[Sample]], shape: tuple[int, int], *, expected: int) -> None:
        self.entries = entries
        self.shape = shape
        n_buckets = min(max(expected // BUCKET_ENTRIES, 1), _MOST_BUCKETS, max(shape[0], 1))
        self._cells_per_bucket = max(-(-shape[0] // n_buckets), 1)
        self._n_buckets = -(-shape[0] // self._cells_per_bucket)
        self._folder: tempfile.TemporaryDirectory[str] | None = None
        self._only_bucket: NDArray[Any] | None = None

    def chunks(self, size: int, start: int, stop: int) -> Iterator[CellRows]:
        """Cells `start` to `stop` in order, at most `size` at a time."""
        if start >= stop:
            return
        if self._folder is None and self._only_bucket is None:
            self._sort()
        per_bucket = self._cells_per_bucket
        for number in range(start // per_bucket, (stop - 1) // per_bucket + 1):
            first = number * per_bucket
            rows = _compressed(self._bucket(number), first, min(per_bucket, self.shape[0] - first))
            low, high = max(start - first, 0), min(stop - first, per_bucket)
            for begin in range(low, high, size):
                yield _slice(rows, begin, min(begin + size, high))

    def sample(self, entries: int) -> Sample:
        """The first entries."""
        parts, found = [], 0
        for block in self.entries():
            parts.append(Sample(*(column[: entries - found] for column in block)))
            found += len(parts[-1].cells)
            if found >= entries:
                break
        return joined(parts)

    def close(self) -> None:
        """Delete the temporary files."""
        if self._folder is not None:
            self._folder.cleanup()
            self._folder = None
        self._only_bucket = None

    def _sort(self) -> None:
        if self._n_buckets == 1:
            blocks = [_packed(block) for block in self.entries()]
            self._only_bucket = np.concatenate(blocks) if blocks else np.empty(0, _ENTRY)
            return
        folder = tempfile.TemporaryDirectory(prefix="geneformer-")
        with ExitStack() as stack:
            names = [Path(folder.name, str(number)) for number in range(self._n_buckets)]
            files = [stack.enter_context(name.open("wb")) for name in names]
            for block in self.entries():
                buckets = (block.cells // self._cells_per_bucket).astype(np.uint16)
                order = np.argsort(buckets, kind="stable")
                ordered = _packed(Sample(*(column[order] for column in block)))
                ends = np.cumsum(np.bincount(buckets, minlength=self._n_buckets))
                for number, piece in enumerate(np.split(ordered, ends[:-1])):
                    if len(piece):
                        files[number].write(piece.tobytes())
        self._folder = folder

    def _bucket(self, number: int) -> NDArray[Any]:
        if self._only_bucket is not None:
            return self._only_bucket
        folder = self._folder.name if self._folder is not None else ""
        return np.fromfile(Path(folder, str(number)), dtype=_ENTRY)


def by_columns(indptr: Any, indices: Any, data: Any, shape: tuple[int, int]) -> SortedOnDisk:
    """A matrix of compressed columns, cells by genes, as cells.

    Parameters
    ----------
    indptr, indices, data
        The three arrays; the first is held in memory.
    shape
        Cells and genes.
    """
    starts = np.asarray(indptr[:], dtype=np.int64)
    total = int(starts[-1]) if len(starts) else 0

    def entries() -> Iterator[Sample]:
        for first in range(0, total, BUCKET_ENTRIES):
            last = min(first + BUCKET_ENTRIES, total)
            genes = np.searchsorted(starts, np.arange(first, last), side="right") - 1
            yield Sample(np.asarray(indices[first:last], dtype=np.int64), genes, np.asarray(data[first:last]))

    return SortedOnDisk(entries, shape, expected=total)


def _packed(block: Sample) -> NDArray[Any]:
    packed = np.empty(len(block.cells), dtype=_ENTRY)
    packed["cell"], packed["gene"], packed["count"] = block
    return packed


def _compressed(entries: NDArray[Any], first: int, n_cells: int) -> CellRows:
    """Compressed rows of one bucket; entries of a cell keep the order they came in."""
    cells = entries["cell"] - first
    order = np.argsort(cells.astype(np.uint16) if n_cells <= 65_536 else cells, kind="stable")
    indptr = np.concatenate([[0], np.cumsum(np.bincount(cells, minlength=n_cells))]).astype(np.int64)
    return CellRows(indptr, entries["gene"][order], entries["count"][order])


def _slice(rows: CellRows, start: int, stop: int) -> CellRows:
    indptr = rows.indptr[start : stop + 1]
    span = slice(int(indptr[0]), int(indptr[-1]))
    return CellRows(indptr - indptr[0], rows.indices[span], rows.data[span])
