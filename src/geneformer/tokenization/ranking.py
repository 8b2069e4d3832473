"""Rank value encoding: genes of a cell ordered by count over median, as plain arrays; nothing here knows of files."""

from dataclasses import dataclass
from itertools import pairwise
from typing import Any, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

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


@dataclass(frozen=True, slots=True)
class _Entries:
    """Expressed genes of a block of cells."""

    starts: NDArray[np.int64]
    positions: NDArray[np.int32]
    counts: NDArray[np.float64]


def rank_cells(
    rows: CellRows,
    positions: NDArray[np.int32],
    vocabulary: RankedGenes,
    *,
    max_length: int,
    totals: NDArray[np.float64] | None = None,
) -> RankedCells:
    """Token ids of every cell by decreasing count over median; equal values keep vocabulary order.

    A cell's total scales all its genes alike, so that it has no say in their order.

    Parameters
    ----------
    rows
        Counts of ``n`` cells: finite, not negative.
    positions
        Row of the vocabulary for each column of the counts, -1 for none, ``(columns,)``. Columns that share one are
        summed.
    vocabulary
        Token ids, medians and special tokens.
    max_length
        Most tokens of a cell, special tokens included.
    totals
        Total of each cell, ``(n,)``. Scaled counts come back only when it is given.
    """
    shared = _shared_columns(positions, len(vocabulary.token_ids))
    specials = (vocabulary.cls_id is not None) + (vocabulary.eos_id is not None)
    parts = []
    for first, last in _blocks(np.asarray(rows.indptr)):
        entries = _expressed(rows, first, last, positions, shared)
        ordered, counts = _order(entries, vocabulary.medians, with_counts=totals is not None)
        lengths = np.diff(entries.starts)
        kept = np.minimum(lengths, max_length - specials)
        if np.any(kept < lengths):
            index = _ragged_index(entries.starts[:-1], kept)
            ordered = ordered[index]
            counts = counts[index] if counts is not None else None
        if counts is not None and totals is not None:
            counts = counts / np.repeat(totals[first:last], kept) * TARGET_SUM
        parts.append((vocabulary.token_ids[ordered], counts, kept, lengths))
    if not parts:
        none = np.empty(0, np.float64) if totals is not None else None
        return RankedCells(np.zeros(1, np.int64), np.empty(0, np.int32), none, np.empty(0, np.int64))
    ids, scaled, kept_all, lengths_all = zip(*parts, strict=True)
    kept = np.concatenate(kept_all)
    counts = np.concatenate(scaled) if totals is not None else None
    return _framed(np.concatenate(ids), counts, kept, np.concatenate(lengths_all), vocabulary)


def _blocks(indptr: NDArray[Any]) -> list[tuple[int, int]]:
    """Consecutive runs of cells with about `_BLOCK_ENTRIES` entries each."""
    n = len(indptr) - 1
    cuts = [0]
    while cuts[-1] < n:
        start = cuts[-1]
        stop = int(np.searchsorted(indptr, indptr[start] + _BLOCK_ENTRIES, side="right")) - 1
        cuts.append(min(max(stop, start + 1), n))
    return list(pairwise(cuts))


def _shared_columns(positions: NDArray[np.int32], n_genes: int) -> NDArray[np.bool_] | None:
    """Which columns share a gene with another one; nothing when none does."""
    matched = positions >= 0
    times = np.bincount(positions[matched], minlength=n_genes)
    if not np.any(times > 1):
        return None
    shared = np.zeros(len(positions), dtype=bool)
    shared[matched] = times[positions[matched]] > 1
    return shared


def _expressed(
    rows: CellRows, first: int, last: int, positions: NDArray[np.int32], shared: NDArray[np.bool_] | None
) -> _Entries:
    """Entries above zero in genes of the vocabulary, one per gene."""
    offset, end = int(rows.indptr[first]), int(rows.indptr[last])
    starts = np.asarray(rows.indptr[first : last + 1], dtype=np.int64) - offset
    columns, data = rows.indices[offset:end], rows.data[offset:end]
    genes = positions[columns]
    repeated = _repeats(columns, starts)
    keep = (genes >= 0) & (data != 0)
    summed = repeated if shared is None else shared[columns] | repeated
    counts = data.astype(np.float64)
    if np.any(summed):
        _sum_into_first(counts, keep, genes, starts, np.flatnonzero(keep & summed))
    if not keep.all():
        starts = np.concatenate([[0], np.cumsum(keep)])[starts]
        genes, counts = genes[keep], counts[keep]
    return _Entries(starts, genes, counts)


def _repeats(columns: NDArray[Any], starts: NDArray[np.int64]) -> bool:
    """Whether a cell may list a column twice: columns that do not rise."""
    falls = columns[1:] <= columns[:-1]
    inner = starts[1:-1]
    falls[inner[(inner > 0) & (inner < len(columns))] - 1] = False
    return bool(falls.any())


def _sum_into_first(
    counts: NDArray[np.float64],
    keep: NDArray[np.bool_],
    genes: NDArray[np.int32],
    starts: NDArray[np.int64],
    where: NDArray[np.int64],
) -> None:
    """Add up entries of one gene in one cell; the first takes the sum, the others are not kept."""
    cells = np.searchsorted(starts, where, side="right")
    group = cells * (int(genes.max()) + 1) + genes[where]
    ascending = np.sort(group)
    doubled = np.unique(ascending[1:][ascending[1:] == ascending[:-1]])
    if not len(doubled):
        return
    # Few entries have a double, even where many could: only those are worth an indirect sort.
    involved = doubled[np.minimum(np.searchsorted(doubled, group), len(doubled) - 1)] == group
    where, group = where[involved], group[involved]
    _, leader, member = np.unique(group, return_index=True, return_inverse=True)
    counts[where[leader]] = np.bincount(member, weights=counts[where])
    keep[where] = False
    keep[where[leader]] = True


def _order(
    entries: _Entries, medians: NDArray[np.float64], *, with_counts: bool
) -> tuple[NDArray[np.int32], NDArray[np.float64] | None]:
    """Vocabulary rows of every cell by decreasing value, and their counts.

    Value and row are packed into one integer each, because sorting integers in place is several times faster than an
    indirect sort. Where the value has more bits than there is room for, its last ones are cut off, and cells in which
    that makes a difference are sorted again in full.
    """
    genes = entries.positions
    if not len(genes):
        return genes, (entries.counts if with_counts else None)
    values = entries.counts / medians[genes]
    packed = values.view(np.uint64)  # positive doubles order as their bits do
    highest = packed.max()
    room = max(int(genes.max()).bit_length(), 1)
    shift = max(int(highest - packed.min()).bit_length() + room - 64, 0)
    np.subtract(highest, packed, out=packed)
    np.right_shift(packed, np.uint64(shift), out=packed)
    np.left_shift(packed, np.uint64(room), out=packed)
    np.bitwise_or(packed, genes.astype(np.uint64), out=packed)
    bounds = entries.starts.tolist()
    cells = list(pairwise(bounds))
    counts = None
    if with_counts:
        order = np.empty(len(genes), dtype=np.int64)
        for start, stop in cells:
            order[start:stop] = packed[start:stop].argsort()
            order[start:stop] += start
        packed, counts = packed[order], entries.counts[order]
    else:
        for start, stop in cells:
            packed[start:stop].sort()
    ordered = (packed & np.uint64((1 << room) - 1)).astype(np.int32)
    if shift:
        equal = np.flatnonzero(packed[1:] - packed[:-1] < np.uint64(1 << room))
        _resolve(ordered, counts, equal, entries, medians)
    return ordered, counts


def _resolve(
    ordered: NDArray[np.int32],
    counts: NDArray[np.float64] | None,
    equal: NDArray[np.int64],
    entries: _Entries,
    medians: NDArray[np.float64],
) -> None:
    """Sort those cells again in which values that differ looked equal to the next one, at the places `equal`."""
    for cell in np.unique(np.searchsorted(entries.starts, equal, side="right") - 1):
        span = slice(int(entries.starts[cell]), int(entries.starts[cell + 1]))
        genes, cell_counts = entries.positions[span], entries.counts[span]
        values = cell_counts / medians[genes]
        place = np.empty(int(genes.max()) + 1, dtype=np.int64)
        place[genes] = np.arange(len(genes))
        in_order = values[place[ordered[span]]]
        if np.any(in_order[1:] > in_order[:-1]):
            again = np.lexsort((genes, -values))
            ordered[span] = genes[again]
            if counts is not None:
                counts[span] = cell_counts[again]


def _ragged_index(starts: NDArray[np.int64], lengths: NDArray[np.int64]) -> NDArray[np.int64]:
    """Index of the first `lengths` elements behind each of `starts`."""
    ends = np.cumsum(lengths)
    index: NDArray[np.int64] = np.arange(int(ends[-1])) + np.repeat(starts - (ends - lengths), lengths)
    return index


def _framed(
    ids: NDArray[np.int32],
    counts: NDArray[np.float64] | None,
    kept: NDArray[np.int64],
    n_genes: NDArray[np.int64],
    vocabulary: RankedGenes,
) -> RankedCells:
    """Tokens with `<cls>` first and `<eos>` last, where the vocabulary has them and the cell is not empty."""
    before = np.where((kept > 0) & (vocabulary.cls_id is not None), 1, 0)
    after = np.where((kept > 0) & (vocabulary.eos_id is not None), 1, 0)
    offsets = np.concatenate([[0], np.cumsum(kept + before + after)]).astype(np.int64)
    if offsets[-1] == len(ids):
        return RankedCells(offsets, ids, counts, n_genes)
    where = _ragged_index(offsets[:-1] + before, kept)
    framed = np.empty(int(offsets[-1]), dtype=np.int32)
    framed[where] = ids
    filled = kept > 0
    if vocabulary.cls_id is not None:
        framed[offsets[:-1][filled]] = vocabulary.cls_id
    if vocabulary.eos_id is not None:
        framed[offsets[1:][filled] - 1] = vocabulary.eos_id
    if counts is not None:
        scaled = np.zeros(len(framed))
        scaled[where] = counts
        counts = scaled
    return RankedCells(offsets, framed, counts, n_genes)
