"""Rank value encoding: genes of a cell ordered by count over median, as plain arrays; nothing here knows of files."""

from itertools import pairwise
from typing import Any, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from geneformer.tokenization.doubles import SharedGenes
from geneformer.tokenization.growing_order import GrowingOrder
from geneformer.tokenization.pair_order import expressed
from geneformer.tokenization.value_order import order_by_value

TARGET_SUM = 10_000
"""Scaled counts of a cell sum up to this."""

_BLOCK_ENTRIES = 65_536
"""Entries ranked at once: small enough for a core's cache, large enough to hide the interpreter."""


class CellRows(NamedTuple):
    """Some cells over all genes in compressed rows; a `scipy.sparse.csr_matrix` has the same three arrays.

    Attributes
    ----------
    indptr
        Where each cell starts, and the total, ``(n + 1,)``.
    indices
        Column of each entry, ``(entries,)``; any order, duplicates allowed.
    data
        Count of each entry, ``(entries,)``; zeros allowed.
    """

    indptr: NDArray[Any]
    indices: NDArray[Any]
    data: NDArray[Any]


class RankedCells(NamedTuple):
    """Tokens of some cells laid end to end.

    Attributes
    ----------
    offsets
        Where each cell starts, and the total, ``(n + 1,)``. A cell without a gene of the vocabulary has no tokens.
    input_ids
        Token ids, ``(T,)``.
    counts
        Count per token scaled to 10,000 per cell, 0 at special tokens, ``(T,)``, when asked for.
    n_genes
        Genes of the vocabulary that each cell expresses, before any cut, ``(n,)``.
    """

    offsets: NDArray[np.int64]
    input_ids: NDArray[np.int32]
    counts: NDArray[np.float64] | None
    n_genes: NDArray[np.int64]


class RankedGenes(Protocol):
    """What ranking needs of a vocabulary; `geneformer.vocab.Vocabulary` has it."""

    @property
    def token_ids(self) -> NDArray[np.int32]: ...  # noqa: D102
    @property
    def medians(self) -> NDArray[np.float64]: ...  # noqa: D102
    @property
    def cls_id(self) -> int | None: ...  # noqa: D102
    @property
    def eos_id(self) -> int | None: ...  # noqa: D102


class _Block(NamedTuple):
    """Entries of some cells, one per gene that is expressed.

    Attributes
    ----------
    columns, counts
        Column and count of each entry, ``(entries,)``; the count is zero where another entry has it.
    starts
        Where each cell starts, and the total, ``(n + 1,)``.
    """

    columns: NDArray[np.intp]
    counts: NDArray[Any]
    starts: NDArray[np.int64]


class _Ordered(NamedTuple):
    """Vocabulary rows of some cells in the order of their tokens, with counts if wanted, and how many there are."""

    genes: NDArray[np.int32]
    counts: NDArray[np.float64] | None
    lengths: NDArray[np.int64]


class Ranker:
    """Ranks the cells of one matrix: token ids by decreasing count over median, equal values in vocabulary order.

    A cell's total scales all its genes alike, so that it has no say in their order. Threads may share a ranker.

    Parameters
    ----------
    positions
        Row of the vocabulary for each column of the counts, -1 for none, ``(columns,)``. Columns that share one are
        summed.
    vocabulary
        Token ids, medians and special tokens.
    max_length
        Most tokens of a cell, special tokens included.
    """

    def __init__(self, positions: NDArray[np.int32], vocabulary: RankedGenes, *, max_length: int) -> None:
        specials = (vocabulary.cls_id is not None) + (vocabulary.eos_id is not None)
        self.room = max_length - specials
        self._positions = positions
        self._vocabulary = vocabulary
        self._shared = SharedGenes.of(positions, len(vocabulary.token_ids))
        self._order = GrowingOrder(positions, vocabulary.medians)

    def rank(self, rows: CellRows, totals: NDArray[np.float64] | None = None) -> RankedCells:
        """Tokens of ``n`` cells.

        Parameters
        ----------
        rows
            Their counts: finite, not negative.
        totals
            Total of each cell, ``(n,)``. Scaled counts come back only when it is given.
        """
        parts = []
        for first, last in _blocks(np.asarray(rows.indptr)):
            ordered, counts, lengths = self._ordered(_block(rows, first, last, self._shared), totals is not None)
            kept = np.minimum(lengths, self.room)
            if np.any(kept < lengths):
                index = _ragged_index(np.cumsum(lengths) - lengths, kept)
                ordered = ordered[index]
                counts = counts[index] if counts is not None else None
            if counts is not None and totals is not None:
                counts = counts / np.repeat(totals[first:last], kept) * TARGET_SUM
            parts.append((self._vocabulary.token_ids.take(ordered), counts, kept, lengths))
        if not parts:
            none = np.empty(0, np.float64) if totals is not None else None
            return RankedCells(np.zeros(1, np.int64), np.empty(0, np.int32), none, np.empty(0, np.int64))
        ids, scaled, kept_all, lengths_all = zip(*parts, strict=True)
        kept = np.concatenate(kept_all)
        counts = np.concatenate(scaled) if totals is not None else None
        return framed(np.concatenate(ids), counts, kept, np.concatenate(lengths_all), self._vocabulary)

    def _ordered(self, block: _Block, with_counts: bool) -> _Ordered:
        pairs, whole = self._order.pairs, _whole(block.counts)
        placed = None if pairs is None or whole is None else pairs.keys(block.columns, whole)
        if pairs is None or placed is None:
            genes = self._positions.take(block.columns)
            if whole is not None:
                self._order.note(genes, whole)
            return self._by_value(genes, block.counts.astype(np.float64), block.starts, with_counts)
        self._order.note(placed.genes, placed.counts)
        for start, stop in pairwise(block.starts.tolist()):
            placed.keys[start:stop].sort()
        marks = expressed(placed.keys)
        keys = placed.keys if marks.all() else placed.keys[marks]
        return _Ordered(*pairs.entries(placed, keys, with_counts=with_counts), _n_marked(marks, block.starts))

    def _by_value(
        self, genes: NDArray[np.int32], counts: NDArray[np.float64], starts: NDArray[np.int64], with_counts: bool
    ) -> _Ordered:
        marks = (genes >= 0) & (counts != 0)
        lengths = _n_marked(marks, starts)
        if not marks.all():
            genes, counts, starts = genes[marks], counts[marks], np.concatenate([[0], np.cumsum(lengths)])
        return _Ordered(
            *order_by_value(genes, counts, starts, self._vocabulary.medians, with_counts=with_counts), lengths
        )


def rank_cells(
    rows: CellRows,
    positions: NDArray[np.int32],
    vocabulary: RankedGenes,
    *,
    max_length: int,
    totals: NDArray[np.float64] | None = None,
) -> RankedCells:
    """Tokens of some cells by a `Ranker` of their own."""
    return Ranker(positions, vocabulary, max_length=max_length).rank(rows, totals)


def _blocks(indptr: NDArray[Any]) -> list[tuple[int, int]]:
    """Consecutive runs of cells with about `_BLOCK_ENTRIES` entries each."""
    n = len(indptr) - 1
    cuts = [0]
    while cuts[-1] < n:
        start = cuts[-1]
        stop = int(np.searchsorted(indptr, indptr[start] + _BLOCK_ENTRIES, side="right")) - 1
        cuts.append(min(max(stop, start + 1), n))
    return list(pairwise(cuts))


def _block(rows: CellRows, first: int, last: int, genes: SharedGenes) -> _Block:
    offset, end = int(rows.indptr[first]), int(rows.indptr[last])
    starts = np.asarray(rows.indptr[first : last + 1], dtype=np.int64) - offset
    columns = rows.indices[offset:end].astype(np.intp)
    return _Block(columns, genes.summed(columns, rows.data[offset:end], starts), starts)


def _whole(counts: NDArray[Any]) -> NDArray[np.int32] | None:
    """Counts as small integers, or nothing where they are not."""
    with np.errstate(invalid="ignore"):
        whole = counts.astype(np.int32)
    same = counts.dtype.kind == "b" or (
        whole.min(initial=0) >= 0 and np.array_equal(whole.astype(counts.dtype), counts)
    )
    return whole if same else None


def _n_marked(marks: NDArray[np.bool_], starts: NDArray[np.int64]) -> NDArray[np.int64]:
    """How many entries of each cell are marked."""
    lengths = np.diff(starts)
    filled = lengths > 0
    lengths[filled] = np.add.reduceat(marks, starts[:-1][filled], dtype=np.int64)
    return lengths


def _ragged_index(starts: NDArray[np.int64], lengths: NDArray[np.int64]) -> NDArray[np.int64]:
    """Index of the first `lengths` elements behind each of `starts`."""
    ends = np.cumsum(lengths)
    index: NDArray[np.int64] = np.arange(int(ends[-1])) + np.repeat(starts - (ends - lengths), lengths)
    return index


def framed(
    ids: NDArray[np.int32],
    counts: NDArray[np.float64] | None,
    kept: NDArray[np.int64],
    n_genes: NDArray[np.int64],
    vocabulary: RankedGenes,
) -> RankedCells:
    """Tokens with `<cls>` first and `<eos>` last, where the vocabulary has them and the cell is not empty."""
    filled = kept > 0
    first = filled & (vocabulary.cls_id is not None)
    last = filled & (vocabulary.eos_id is not None)
    offsets = np.concatenate([[0], np.cumsum(kept + first + last)]).astype(np.int64)
    if offsets[-1] == len(ids):
        return RankedCells(offsets, ids, counts, n_genes)
    where = np.ones(int(offsets[-1]), dtype=bool)
    where[offsets[:-1][first]] = False
    where[offsets[1:][last] - 1] = False
    framed = np.empty(len(where), dtype=np.int32)
    framed[where] = ids
    if vocabulary.cls_id is not None:
        framed[offsets[:-1][first]] = vocabulary.cls_id
    if vocabulary.eos_id is not None:
        framed[offsets[1:][last] - 1] = vocabulary.eos_id
    if counts is not None:
        scaled = np.zeros(len(framed))
        scaled[where] = counts
        counts = scaled
    return RankedCells(offsets, framed, counts, n_genes)
