"""Rank value encoding: genes of a cell ordered by count over median, as plain arrays; nothing here knows of files.

Cells are ranked some dozens at a time, so that what NumPy does to all their entries stays in a core's cache. Only the
sort runs cell by cell, and it sorts whole numbers: each holds the bits of a value and, below them, its gene.
"""

from collections.abc import Sequence
from itertools import pairwise
from typing import Any, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

TARGET_SUM = 10_000
"""Scaled counts of a cell sum up to this."""

_BLOCK_ENTRIES = 65_536
"""Entries ranked at once: small enough for a core's cache, large enough to hide the interpreter."""


class CellRows(NamedTuple):
    """Some cells over all genes in compressed rows; a `scipy.sparse.csr_matrix` has the same three arrays."""

    indptr: NDArray[Any]
    indices: NDArray[Any]
    data: NDArray[Any]

    @property
    def n_cells(self) -> int:
        """Cells."""
        return len(self.indptr) - 1

    def part(self, first: int, last: int) -> "CellRows":
        """Cells `first` to `last`, as views."""
        begin, end = int(self.indptr[first]), int(self.indptr[last])
        return CellRows(self.indptr[first : last + 1] - begin, self.indices[begin:end], self.data[begin:end])


class RankedCells(NamedTuple):
    """Tokens of some cells laid end to end; `n_genes` counts the expressed genes of each cell before any cut."""

    offsets: NDArray[np.int64]
    input_ids: NDArray[np.int32]
    counts: NDArray[np.float64] | None
    n_genes: NDArray[np.int64]


class RankedGenes(Protocol):
    """What ranking needs of a vocabulary; `Vocabulary` has it."""

    @property
    def token_ids(self) -> NDArray[np.int32]: ...  # noqa: D102
    @property
    def medians(self) -> NDArray[np.float64]: ...  # noqa: D102
    @property
    def cls_id(self) -> int | None: ...  # noqa: D102
    @property
    def eos_id(self) -> int | None: ...  # noqa: D102


class Ranker:
    """Ranks the cells of one matrix: token ids by decreasing count over median, equal values in vocabulary order.

    `positions` holds the vocabulary row of each column of the matrix, -1 for columns that are no gene of it. Threads
    may share a ranker.
    """

    def __init__(self, positions: NDArray[np.int32], vocabulary: RankedGenes, *, max_length: int) -> None:
        self.room = max_length - (vocabulary.cls_id is not None) - (vocabulary.eos_id is not None)
        self._positions = positions
        self._vocabulary = vocabulary
        columns_per_gene = np.bincount(positions[positions >= 0], minlength=len(vocabulary.token_ids))
        shared = (positions >= 0) & (columns_per_gene[positions] > 1)
        self._shared_columns = shared if shared.any() else None

    def rank(self, rows: CellRows, totals: NDArray[np.float64] | None = None) -> RankedCells:
        """Tokens of ``n`` cells, with counts scaled by `totals`, ``(n,)``, if these are given."""
        parts = []
        for first, last in _blocks(np.asarray(rows.indptr)):
            indptr, columns, counts = rows.part(first, last)
            block = CellRows(np.asarray(indptr, dtype=np.int64), columns.astype(np.intp), counts)
            parts.append(self._rank_block(block, None if totals is None else totals[first:last]))
        return join_cells(parts, with_counts=totals is not None)

    def _rank_block(self, block: CellRows, totals: NDArray[np.float64] | None) -> RankedCells:
        starts = block.indptr
        genes = self._positions.take(block.indices)
        counts = self._sum_per_gene(block, genes)
        expressed = (genes >= 0) & (counts != 0)
        if not expressed.all():
            genes, counts = genes[expressed], counts[expressed]
            starts = np.concatenate([[0], np.cumsum(expressed)])[starts]
        ordered = _order(genes, counts, starts, self._vocabulary.medians)
        n_genes = np.diff(starts)
        in_order = None if totals is None else _counts_of(ordered, genes, counts, starts, len(self._vocabulary.medians))
        n_tokens = n_genes
        if np.any(n_genes > self.room):
            n_tokens = np.minimum(n_genes, self.room)
            rank = np.arange(len(ordered)) - np.repeat(starts[:-1], n_genes)
            fits = rank < self.room
            ordered = ordered[fits]
            in_order = None if in_order is None else in_order[fits]
        if in_order is not None and totals is not None:
            in_order = in_order / np.repeat(totals, n_tokens) * TARGET_SUM
        return framed(self._vocabulary.token_ids.take(ordered), in_order, n_tokens, n_genes, self._vocabulary)

    def _sum_per_gene(self, block: CellRows, genes: NDArray[np.int32]) -> NDArray[np.float64]:
        """Counts with those of one gene in one cell added up in its first entry, the others being zero.

        A gene is there twice where columns share it, or where a cell lists a column twice, which sparse matrices may.
        """
        counts = block.data.astype(np.float64)
        if _lists_a_column_twice(block):
            entries = np.flatnonzero(genes >= 0)
        elif self._shared_columns is not None:
            entries = np.flatnonzero(self._shared_columns.take(block.indices))
        else:
            return counts
        cells = np.searchsorted(block.indptr, entries, side="right")
        pairs = cells * len(self._vocabulary.medians) + genes[entries]
        _, first, pair = np.unique(pairs, return_index=True, return_inverse=True)
        sums = np.bincount(pair, weights=counts[entries])
        counts[entries] = 0
        counts[entries[first]] = sums
        return counts


def _blocks(indptr: NDArray[Any]) -> list[tuple[int, int]]:
    """Consecutive runs of cells with about `_BLOCK_ENTRIES` entries each."""
    n = len(indptr) - 1
    cuts = [0]
    while cuts[-1] < n:
        start = cuts[-1]
        stop = int(np.searchsorted(indptr, indptr[start] + _BLOCK_ENTRIES, side="right")) - 1
        cuts.append(min(max(stop, start + 1), n))
    return list(pairwise(cuts))


def _lists_a_column_twice(block: CellRows) -> bool:
    """Whether any cell does; cheap where columns rise within cells."""
    first_entries = block.indptr[1:-1]
    first_entries = first_entries[(first_entries > 0) & (first_entries < len(block.indices))]
    falls = block.indices[1:] <= block.indices[:-1]
    falls[first_entries - 1] = False
    if not falls.any():
        return False
    ascending = block.indices.astype(np.uint32)
    for start, stop in pairwise(block.indptr.tolist()):
        ascending[start:stop].sort()
    same = ascending[1:] == ascending[:-1]
    same[first_entries - 1] = False
    return bool(same.any())


def _order(
    genes: NDArray[np.int32], counts: NDArray[np.float64], starts: NDArray[np.int64], medians: NDArray[np.float64]
) -> NDArray[np.int32]:
    """Genes of every cell by decreasing count over median, equal values in vocabulary order.

    Positive doubles order as their bits do. Counted down from the highest of the block, the bits of a value leave room
    for its gene in one 64-bit number, so that one sort of numbers gives both the order and the genes. Where the lowest
    bits of values have to go to make that room, values that have become equal are looked at again.
    """
    if not len(genes):
        return genes
    values = counts / medians.take(genes)
    packed = values.view(np.uint64)
    highest = packed.max()
    gene_bits = max(len(medians) - 1, 1).bit_length()
    lost_bits = max(int(highest - packed.min()).bit_length() + gene_bits - 64, 0)
    np.subtract(highest, packed, out=packed)
    np.right_shift(packed, np.uint64(lost_bits), out=packed)
    np.left_shift(packed, np.uint64(gene_bits), out=packed)
    np.bitwise_or(packed, genes.astype(np.uint64), out=packed)
    for start, stop in pairwise(starts.tolist()):
        packed[start:stop].sort()
    ordered = (packed & np.uint64((1 << gene_bits) - 1)).astype(np.int32)
    if lost_bits:
        equal = np.flatnonzero(packed[1:] - packed[:-1] < np.uint64(1 << gene_bits))
        for cell in np.unique(np.searchsorted(starts, equal, side="right") - 1):
            span = slice(int(starts[cell]), int(starts[cell + 1]))
            exact = np.lexsort((genes[span], -(counts[span] / medians[genes[span]])))
            ordered[span] = genes[span][exact]
    return ordered


def _counts_of(
    ordered: NDArray[np.integer[Any]],
    genes: NDArray[np.integer[Any]],
    counts: NDArray[np.float64],
    starts: NDArray[np.int64],
    n_genes: int,
) -> NDArray[np.float64]:
    """Counts of every cell in the order of its genes."""
    in_order = np.empty_like(counts)
    count_of_gene = np.empty(n_genes)
    genes, ordered = genes.astype(np.intp), ordered.astype(np.intp)
    for start, stop in pairwise(starts.tolist()):
        count_of_gene[genes[start:stop]] = counts[start:stop]
        in_order[start:stop] = count_of_gene[ordered[start:stop]]
    return in_order


def framed(
    ids: NDArray[np.int32],
    counts: NDArray[np.float64] | None,
    n_tokens: NDArray[np.int64],
    n_genes: NDArray[np.int64],
    vocabulary: RankedGenes,
) -> RankedCells:
    """Tokens of each cell between `<cls>` and `<eos>`, where the vocabulary has them; nothing in empty cells."""
    filled = n_tokens > 0
    first = filled & (vocabulary.cls_id is not None)
    last = filled & (vocabulary.eos_id is not None)
    offsets = np.concatenate([[0], np.cumsum(n_tokens + first + last)]).astype(np.int64)
    if offsets[-1] == len(ids):
        return RankedCells(offsets, ids, counts, n_genes)
    is_gene = np.ones(int(offsets[-1]), dtype=bool)
    is_gene[offsets[:-1][first]] = False
    is_gene[offsets[1:][last] - 1] = False
    tokens = np.empty(len(is_gene), dtype=np.int32)
    tokens[is_gene] = ids
    if vocabulary.cls_id is not None:
        tokens[offsets[:-1][first]] = vocabulary.cls_id
    if vocabulary.eos_id is not None:
        tokens[offsets[1:][last] - 1] = vocabulary.eos_id
    if counts is not None:
        scaled = np.zeros(len(tokens))
        scaled[is_gene] = counts
        counts = scaled
    return RankedCells(offsets, tokens, counts, n_genes)


def join_cells(parts: Sequence[RankedCells], *, with_counts: bool) -> RankedCells:
    """Consecutive runs of ranked cells as one."""
    if len(parts) == 1:
        return parts[0]
    begins = np.cumsum([0, *(int(part.offsets[-1]) for part in parts)], dtype=np.int64)
    offsets = [part.offsets[:-1] + begin for part, begin in zip(parts, begins, strict=False)]
    counts = [part.counts for part in parts if part.counts is not None]
    return RankedCells(
        np.concatenate([*offsets, begins[-1:]]),
        np.concatenate([np.empty(0, np.int32), *(part.input_ids for part in parts)]),
        np.concatenate([np.empty(0), *counts]) if with_counts else None,
        np.concatenate([np.empty(0, np.int64), *(part.n_genes for part in parts)]),
    )
