"""Entries of one cell that stand for the same gene, found and summed."""

from dataclasses import dataclass
from itertools import pairwise
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

_MARK_BYTES = 2**20
"""Memory to leave marks in: small enough for a core's cache."""

_FEW_MARKS = 2_000
"""Marks per filling of that memory below which sorting is faster."""


@dataclass(frozen=True, slots=True)
class SharedGenes:
    """Which columns share their gene with another one.

    Attributes
    ----------
    positions
        Row of the vocabulary for each column, -1 for none, ``(columns,)``.
    shared
        The columns that do, ``(columns,)``; None when none does.
    """

    positions: NDArray[np.int32]
    shared: NDArray[np.bool_] | None

    @classmethod
    def of(cls, positions: NDArray[np.int32], n_genes: int) -> Self:
        """Find them among the rows of the vocabulary for each column."""
        matched = positions >= 0
        times = np.bincount(positions[matched], minlength=n_genes)
        if not np.any(times > 1):
            return cls(positions, None)
        shared = np.zeros(len(positions), dtype=bool)
        shared[matched] = times[positions[matched]] > 1
        return cls(positions, shared)

    def summed(self, columns: NDArray[np.intp], counts: NDArray[Any], starts: NDArray[np.int64]) -> NDArray[Any]:
        """Counts with those of each gene in each cell added up in one entry, the others being zero.

        Parameters
        ----------
        columns, counts
            Entries of some cells, ``(entries,)``.
        starts
            Where each cell starts, and the total, ``(n + 1,)``.
        """
        if _lists_twice(columns, starts, len(self.positions)):
            where = np.flatnonzero(self.positions.take(columns) >= 0)
        elif self.shared is not None:
            where = np.flatnonzero(self.shared.take(columns))
        else:
            return counts
        genes = self.positions.take(columns.take(where))
        cells = np.searchsorted(starts, where, side="right")
        return _into_first(counts, where, cells * (int(self.positions.max()) + 1) + genes)


def _lists_twice(columns: NDArray[np.intp], starts: NDArray[np.int64], n_columns: int) -> bool:
    """Whether a cell lists a column twice; cheap where columns rise within cells."""
    falls = columns[1:] <= columns[:-1]
    inner = starts[1:-1]
    falls[inner[(inner > 0) & (inner < len(columns))] - 1] = False
    if not falls.any():
        return False
    number = np.arange(len(columns), dtype=np.min_scalar_type(len(columns)))
    n_cells = len(starts) - 1
    at_once = max(_MARK_BYTES // (n_columns * number.itemsize), 1)
    if len(columns) * at_once < _FEW_MARKS * n_cells:
        places = np.repeat(np.arange(n_cells) * n_columns, np.diff(starts)) + columns
        places.sort()
        return bool(np.any(places[1:] == places[:-1]))
    places = np.repeat(np.arange(n_cells) % at_once * n_columns, np.diff(starts)) + columns
    marks = np.empty(at_once * n_columns, dtype=number.dtype)
    for start, stop in pairwise(np.append(starts[:-1:at_once], starts[-1]).tolist()):
        # Where two entries leave their marks in one place, the first does not find its own.
        marks[places[start:stop]] = number[start:stop]
        if not np.array_equal(marks.take(places[start:stop]), number[start:stop]):
            return True
    return False


def _into_first(counts: NDArray[Any], where: NDArray[np.intp], group: NDArray[np.int64]) -> NDArray[Any]:
    """Add up the entries `where` by their group; the first of each takes the sum."""
    ascending = np.sort(group)
    doubled = np.unique(ascending[1:][ascending[1:] == ascending[:-1]])
    if not len(doubled):
        return counts
    # Few entries have a double, even where many could: only those are worth an indirect sort.
    involved = doubled[np.minimum(np.searchsorted(doubled, group), len(doubled) - 1)] == group
    where, group = where[involved], group[involved]
    _, leader, member = np.unique(group, return_index=True, return_inverse=True)
    counts = counts.astype(np.float64)
    sums = np.bincount(member, weights=counts[where])
    counts[where] = 0
    counts[where[leader]] = sums
    return counts
