"""Which counts of which genes are worth putting in order, learnt from the cells that come."""

import numpy as np
from numpy.typing import NDArray

from geneformer.tokenization.pair_order import PairOrder

_LEAST_COUNT = 8
"""Counts up to this are put in order for every gene; more for genes in which larger ones are seen."""

_MOST_PAIRS = 2**20
"""Pairs of gene and count that are put in order at most."""


class GrowingOrder:
    """Pairs of genes and counts in order; none at first, and anew as soon as that pays. Threads may share it.

    Parameters
    ----------
    positions
        Row of the vocabulary for each column of the counts, -1 for none, ``(columns,)``.
    medians
        Median of each gene, ``(genes,)``.

    Attributes
    ----------
    pairs
        What is in order now; None where there is little to rank, or where counts are too large to be put in order.
    """

    def __init__(self, positions: NDArray[np.int32], medians: NDArray[np.float64]) -> None:
        self.pairs: PairOrder | None = None
        self._positions, self._medians = positions, medians
        self._limits = np.zeros(len(medians), dtype=np.int64)
        self._limits[positions[positions >= 0]] = _LEAST_COUNT
        self._seen = np.zeros(len(medians) + 1, dtype=np.int32)
        self._n_noted = 0

    def note(self, genes: NDArray[np.int32], counts: NDArray[np.int32]) -> None:
        """Take notice of entries that were ranked without being in order.

        Once there were as many of them as there are pairs, to order these again costs no more than they did.

        Parameters
        ----------
        genes, counts
            Vocabulary row, -1 for none, and count of each entry.
        """
        n_pairs = int(self._limits.sum())
        if n_pairs > _MOST_PAIRS or not len(genes):
            return
        np.maximum.at(self._seen, genes, counts)
        self._n_noted += len(genes)
        if self._n_noted < n_pairs:
            return
        seen = self._seen[:-1].astype(np.int64)
        limits = np.where(seen > self._limits, 2 * seen, self._limits)
        self._limits, self._n_noted = limits, 0
        self.pairs = PairOrder(self._positions, self._medians, limits) if limits.sum() <= _MOST_PAIRS else None
