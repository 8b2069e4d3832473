"""Every pair of a gene and a count in the order of its value, so that ranking a cell is sorting small integers."""

from typing import Any, Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

_ABSENT: Final = np.uint32(2**32 - 1)
_LARGER: Final = np.uint32(2**32 - 2)


class Keys(NamedTuple):
    """Entries as numbers that sort by decreasing value, equal values in the order of the vocabulary.

    Attributes
    ----------
    keys
        Key of each entry, ``(entries,)``; the largest number where nothing is expressed.
    between, genes, counts
        Keys of pairs beyond those in order, rising, with their vocabulary rows and counts, ``(pairs,)``.
    """

    keys: NDArray[np.uint32]
    between: NDArray[np.uint32]
    genes: NDArray[np.int32]
    counts: NDArray[np.int32]


class PairOrder:
    """Counts from one up to some limit of each gene, all of them by decreasing count over median.

    Keys of neighbors in this order lie so far apart that the larger counts of a few entries find room between them.

    Parameters
    ----------
    positions
        Row of the vocabulary for each column of the counts, -1 for none, ``(columns,)``.
    medians
        Median of each gene, ``(genes,)``.
    limits
        Largest count of each gene that is in order, ``(genes,)``; above zero for the genes in `positions`.
    """

    def __init__(self, positions: NDArray[np.int32], medians: NDArray[np.float64], limits: NDArray[np.int64]) -> None:
        present = np.flatnonzero(limits)
        sizes = limits[present]
        number = np.repeat(np.arange(len(present), dtype=np.int32), sizes)
        firsts = np.cumsum(sizes) - sizes
        counts = np.arange(1, len(number) + 1, dtype=np.int32) - firsts.astype(np.int32)[number]
        falling = counts / -medians[present][number]
        order = np.argsort(falling, kind="stable").astype(np.int32)
        self._positions, self._medians = positions, medians
        self._falling = falling[order]
        self._genes = present.astype(np.int32)[number[order]]
        self._counts = counts[order]
        self._bits = np.uint32(32 - (len(order) + 2).bit_length())
        # Before the counts of a gene there is a slot for zero and behind them one for whatever is larger; the first
        # slot of all is for columns that are no gene.
        keys = np.full(1 + len(number) + 2 * len(present), _LARGER)
        rising = np.arange(1, len(order) + 1, dtype=np.uint32) << self._bits
        keys[(2 + np.arange(len(number), dtype=np.int32) + 2 * number)[order]] = rising
        zeros = 1 + firsts + 2 * np.arange(len(present))
        keys[0] = keys[zeros] = _ABSENT
        self._keys = keys
        self._zeros = _by_column(present, zeros, positions, len(medians))
        self._lasts = _by_column(present, sizes + 1, positions, len(medians))

    def keys(self, columns: NDArray[np.intp], counts: NDArray[np.int32]) -> Keys | None:
        """Keys of some entries, or nothing where there is not enough room for all the larger counts."""
        slots = self._lasts.take(columns)
        np.minimum(slots, counts, out=slots)
        slots += self._zeros.take(columns)
        keys = self._keys.take(slots)
        larger = np.flatnonzero(keys == _LARGER)
        genes, counts = self._positions.take(columns.take(larger)), counts.take(larger)
        falling = counts / -self._medians[genes]
        order = np.lexsort((genes, falling))
        larger, genes, counts, falling = larger[order], genes[order], counts[order], falling[order]
        new = np.append(True, (genes[1:] != genes[:-1]) | (counts[1:] != counts[:-1]))[: len(order)]
        pair = np.cumsum(new) - 1
        genes, counts, falling = genes[new], counts[new], falling[new]
        before = self._n_before(genes, falling)
        step = np.arange(1, len(before) + 1) - np.searchsorted(before, before)
        if step.max(initial=0) >> int(self._bits):
            return None
        between = (before.astype(np.uint32) << self._bits) + step.astype(np.uint32)
        keys[larger] = between[pair]
        return Keys(keys, between, genes, counts)

    def _n_before(self, genes: NDArray[np.int32], falling: NDArray[np.float64]) -> NDArray[np.intp]:
        """How many of the pairs in order come before each of some others."""
        before = np.searchsorted(self._falling, falling)
        behind = np.searchsorted(self._falling, falling, side="right")
        for place in np.flatnonzero(before < behind):
            equal = self._genes[before[place] : behind[place]]
            before[place] += np.searchsorted(equal, genes[place])
        return before

    def entries(
        self, placed: Keys, keys: NDArray[np.uint32], *, with_counts: bool
    ) -> tuple[NDArray[np.int32], NDArray[np.float64] | None]:
        """Vocabulary rows of keys, and their counts if wanted.

        Parameters
        ----------
        placed
            Where the keys come from.
        keys
            Some of them in any order, those apart that stand for nothing.
        with_counts
            Whether counts come back.
        """
        ranks = (keys >> self._bits) - np.uint32(1)
        genes = self._genes.take(ranks, mode="clip")
        counts = self._counts.take(ranks, mode="clip").astype(np.float64) if with_counts else None
        if len(placed.between):
            where = np.flatnonzero(keys & ((np.uint32(1) << self._bits) - np.uint32(1)))
            pair = np.searchsorted(placed.between, keys[where])
            genes[where] = placed.genes[pair]
            if counts is not None:
                counts[where] = placed.counts[pair]
        return genes, counts


def expressed(keys: NDArray[np.uint32]) -> NDArray[np.bool_]:
    """Which keys stand for a gene."""
    marks: NDArray[np.bool_] = keys != _ABSENT
    return marks


def _by_column(
    genes: NDArray[np.intp], values: NDArray[Any], positions: NDArray[np.int32], n_genes: int
) -> NDArray[np.int32]:
    """A value of each gene spread over the columns, zero where a column is no gene."""
    by_gene = np.zeros(n_genes + 1, dtype=np.int32)
    by_gene[genes] = values
    return by_gene[positions]
