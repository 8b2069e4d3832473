"""Rank value encoding: genes of a cell ordered by count over median, as plain arrays; nothing here knows of files."""

from dataclasses import dataclass
from itertools import pairwise
from typing import Any, Final, NamedTuple, Protocol, Self

import numpy as np
from numpy.typing import NDArray

_MARK_BYTES = 2**20
"""Memory to leave marks in: small enough for a core's cache."""

_FEW_MARKS = 2_000
"""Marks per filling of that memory below which sorting is faster."""


@dataclass(frozen=True, slots=True)
class SharedGenes:
    """Which columns share their gene with another one."""

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
        """Counts with those of each gene in each cell added up in one entry, the others being zero."""
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


_ABSENT: Final = np.uint32(2**32 - 1)
_LARGER: Final = np.uint32(2**32 - 2)


class Keys(NamedTuple):
    """Entries as numbers that sort by decreasing value, equal values in the order of the vocabulary."""

    keys: NDArray[np.uint32]
    between: NDArray[np.uint32]
    genes: NDArray[np.int32]
    counts: NDArray[np.int32]


class PairOrder:
    """Counts from one up to some limit of each gene, all of them by decreasing count over median."""

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
        """Vocabulary rows of keys, and their counts if wanted."""
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


_LEAST_COUNT = 8
"""Counts up to this are put in order for every gene; more for genes in which larger ones are seen."""

_MOST_PAIRS = 2**20
"""Pairs of gene and count that are put in order at most."""


class GrowingOrder:
    """Pairs of genes and counts in order; none at first, and anew as soon as that pays. Threads may share it."""

    def __init__(self, positions: NDArray[np.int32], medians: NDArray[np.float64]) -> None:
        self.pairs: PairOrder | None = None
        self._positions, self._medians = positions, medians
        self._limits = np.zeros(len(medians), dtype=np.int64)
        self._limits[positions[positions >= 0]] = _LEAST_COUNT
        self._seen = np.zeros(len(medians) + 1, dtype=np.int32)
        self._n_noted = 0

    def note(self, genes: NDArray[np.int32], counts: NDArray[np.int32]) -> None:
        """Take notice of entries that were ranked without being in order."""
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


def order_by_value(
    genes: NDArray[np.int32],
    counts: NDArray[np.float64],
    starts: NDArray[np.int64],
    medians: NDArray[np.float64],
    *,
    with_counts: bool,
) -> tuple[NDArray[np.int32], NDArray[np.float64] | None]:
    """Vocabulary rows of every cell by decreasing value, and their counts if wanted."""
    if not len(genes):
        return genes, (counts if with_counts else None)
    values = counts / medians[genes]
    packed = values.view(np.uint64)  # positive doubles order as their bits do
    highest = packed.max()
    room = max(int(genes.max()).bit_length(), 1)
    shift = max(int(highest - packed.min()).bit_length() + room - 64, 0)
    np.subtract(highest, packed, out=packed)
    np.right_shift(packed, np.uint64(shift), out=packed)
    np.left_shift(packed, np.uint64(room), out=packed)
    np.bitwise_or(packed, genes.astype(np.uint64), out=packed)
    cells = list(pairwise(starts.tolist()))
    in_order = None
    if with_counts:
        order = np.empty(len(genes), dtype=np.int64)
        for start, stop in cells:
            order[start:stop] = packed[start:stop].argsort()
            order[start:stop] += start
        packed, in_order = packed[order], counts[order]
    else:
        for start, stop in cells:
            packed[start:stop].sort()
    ordered = (packed & np.uint64((1 << room) - 1)).astype(np.int32)
    if shift:
        equal = np.flatnonzero(packed[1:] - packed[:-1] < np.uint64(1 << room))
        for cell in np.unique(np.searchsorted(starts, equal, side="right") - 1):
            span = slice(int(starts[cell]), int(starts[cell + 1]))
            again = _resolved(ordered[span], genes[span], counts[span], medians)
            if again is not None:
                ordered[span] = genes[span][again]
                if in_order is not None:
                    in_order[span] = counts[span][again]
    return ordered, in_order


def _resolved(
    ordered: NDArray[np.int32], genes: NDArray[np.int32], counts: NDArray[np.float64], medians: NDArray[np.float64]
) -> NDArray[np.intp] | None:
    """The exact order of a cell whose values looked equal where they differ; None where that made no difference."""
    values = counts / medians[genes]
    place = np.empty(int(genes.max()) + 1, dtype=np.int64)
    place[genes] = np.arange(len(genes))
    in_order = values[place[ordered]]
    return np.lexsort((genes, -values)) if np.any(in_order[1:] > in_order[:-1]) else None


TARGET_SUM = 10_000
"""Scaled counts of a cell sum up to this."""

_BLOCK_ENTRIES = 65_536
"""Entries ranked at once: small enough for a core's cache, large enough to hide the interpreter."""


class CellRows(NamedTuple):
    """Some cells over all genes in compressed rows; a `scipy.sparse.csr_matrix` has the same three arrays."""

    indptr: NDArray[Any]
    indices: NDArray[Any]
    data: NDArray[Any]


class RankedCells(NamedTuple):
    """Tokens of some cells laid end to end."""

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
    """Entries of some cells, one per gene that is expressed."""

    columns: NDArray[np.intp]
    counts: NDArray[Any]
    starts: NDArray[np.int64]


class _Ordered(NamedTuple):
    """Vocabulary rows of some cells in the order of their tokens, with counts if wanted, and how many there are."""

    genes: NDArray[np.int32]
    counts: NDArray[np.float64] | None
    lengths: NDArray[np.int64]


class Ranker:
    """Ranks the cells of one matrix: token ids by decreasing count over median, equal values in vocabulary order."""

    def __init__(self, positions: NDArray[np.int32], vocabulary: RankedGenes, *, max_length: int) -> None:
        specials = (vocabulary.cls_id is not None) + (vocabulary.eos_id is not None)
        self.room = max_length - specials
        self._positions = positions
        self._vocabulary = vocabulary
        self._shared = SharedGenes.of(positions, len(vocabulary.token_ids))
        self._order = GrowingOrder(positions, vocabulary.medians)

    def rank(self, rows: CellRows, totals: NDArray[np.float64] | None = None) -> RankedCells:
        """Tokens of ``n`` cells."""
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
