"""A run of cells from counts to tokens: the piece of work that threads share and a resumed run skips."""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, fields
from typing import Self

import numpy as np
from numpy.typing import NDArray

from geneformer.options import TokenizeOptions
from geneformer.tokenization.cells import invalid_total
from geneformer.tokenization.checks import checked
from geneformer.tokenization.matrices import select_cells
from geneformer.tokenization.ranking import CellRows, RankedCells, Ranker
from geneformer.tokenization.source import CountSource

_DISAGREEMENT = 0.01
_PIECE = 65_536


@dataclass(frozen=True, slots=True)
class PreparedSource:
    """A source that passed every check that needs no full reading.

    Attributes
    ----------
    source
        The counts.
    name
        What the cells' `source` says.
    positions
        Row of the vocabulary for each column of the counts, -1 for none, ``(g,)``.
    kept
        Cells to keep, ``(n,)``; None for all.
    totals
        Given totals, ``(n,)``; None to compute them.
    """

    source: CountSource
    name: str
    positions: NDArray[np.int32]
    kept: NDArray[np.bool_] | None
    totals: NDArray[np.float64] | None


@dataclass(slots=True)
class Tally:
    """What came of some cells, in sums that can be added up.

    Attributes
    ----------
    n_cells
        Cells read.
    n_filtered
        Cells that `filter_pass` left out.
    n_truncated
        Cells with more genes than there was room for.
    n_missing
        Missing values taken for zero.
    n_disagreeing
        Cells whose `n_counts` differs by more than 1 % from the sum of their counts.
    given, counted
        Sums of `n_counts` and of the counts, over kept cells with `n_counts`.
    """

    n_cells: int = 0
    n_filtered: int = 0
    n_truncated: int = 0
    n_missing: int = 0
    n_disagreeing: int = 0
    given: float = 0.0
    counted: float = 0.0

    def add(self, other: Self) -> None:
        """Add another tally to this one."""
        for field in fields(self):
            setattr(self, field.name, getattr(self, field.name) + getattr(other, field.name))


@dataclass(frozen=True, slots=True)
class UnitResult:
    """Tokens of a run of cells.

    Attributes
    ----------
    ranked
        Tokens of the cells that are left.
    cells
        Their numbers in the source, ``(n,)``.
    empty
        Numbers of cells without a gene of the vocabulary.
    gene_counts
        Sum of each column over the kept cells, ``(g,)``.
    tally
        What came of the cells.
    """

    ranked: RankedCells
    cells: NDArray[np.int64]
    empty: NDArray[np.int64]
    gene_counts: NDArray[np.float64]
    tally: Tally


def rank_source(prepared: PreparedSource, ranker: Ranker, options: TokenizeOptions, first: int) -> Iterator[UnitResult]:
    """Results of all cells of a source from `first` on, `options.chunk_size` cells each.

    Cuts between results depend on nothing but the chunk size, so that they are the same however the cells are read.
    """
    source, size = prepared.source, options.chunk_size
    pieces: list[UnitResult] = []
    for start, rows in _aligned(_read_ahead(source.chunks(size, first)), first, size):
        pieces.append(rank_rows(prepared, ranker, options, start, rows))
        stop = start + len(rows.indptr) - 1
        if stop % size == 0 or stop == source.n_cells:
            joined, pieces = join_results(pieces), []
            yield joined
            del joined


def rank_unit(prepared: PreparedSource, ranker: Ranker, options: TokenizeOptions, span: tuple[int, int]) -> UnitResult:
    """Result of the cells in `span`, for sources that are read at any place."""
    start = span[0]
    pieces = []
    for rows in prepared.source.chunks(options.chunk_size, *span):
        pieces.append(rank_rows(prepared, ranker, options, start, rows))
        start += len(rows.indptr) - 1
    return join_results(pieces)


def rank_rows(
    prepared: PreparedSource, ranker: Ranker, options: TokenizeOptions, first: int, rows: CellRows
) -> UnitResult:
    """Result of cells that are in memory, `first` being the number of the first one."""
    source = prepared.source
    tally = Tally(n_cells=len(rows.indptr) - 1)
    cells = np.arange(first, first + tally.n_cells)
    if prepared.kept is not None:
        kept = prepared.kept[first : first + tally.n_cells]
        tally.n_filtered = int((~kept).sum())
        cells = cells[kept]
        rows = select_cells(rows, kept)
    rows, tally.n_missing = checked(rows, cells, source, options)
    totals = _totals(prepared, options, cells, rows, tally)
    ranked = ranker.rank(rows, totals)
    gene_counts = _gene_counts(rows, source.n_genes)
    tally.n_truncated = int((ranked.n_genes > ranker.room).sum())
    filled = ranked.n_genes > 0
    empty = cells[~filled]
    if len(empty):
        offsets = np.concatenate([ranked.offsets[:-1][filled], ranked.offsets[-1:]])
        ranked = RankedCells(offsets, ranked.input_ids, ranked.counts, ranked.n_genes[filled])
    return UnitResult(ranked, cells[filled], empty, gene_counts, tally)


def join_results(pieces: list[UnitResult]) -> UnitResult:
    """Results of consecutive runs of cells as one."""
    if len(pieces) == 1:
        return pieces[0]
    tally = Tally()
    for piece in pieces:
        tally.add(piece.tally)
    ranked = [piece.ranked for piece in pieces]
    starts = np.cumsum([0, *(int(part.offsets[-1]) for part in ranked)])
    offsets = [part.offsets[:-1] + start for part, start in zip(ranked, starts, strict=False)]
    counts = [part.counts for part in ranked if part.counts is not None]
    return UnitResult(
        RankedCells(
            np.concatenate([*offsets, starts[-1:]]).astype(np.int64),
            np.concatenate([part.input_ids for part in ranked]),
            np.concatenate(counts) if counts else None,
            np.concatenate([part.n_genes for part in ranked]),
        ),
        np.concatenate([piece.cells for piece in pieces]),
        np.concatenate([piece.empty for piece in pieces]),
        np.sum([piece.gene_counts for piece in pieces], axis=0),
        tally,
    )


def _read_ahead(chunks: Iterator[CellRows]) -> Iterator[CellRows]:
    """The chunks, each read while the one before it is worked on: unpacking leaves the interpreter free."""
    with ThreadPoolExecutor(1) as reader:
        coming = reader.submit(next, chunks, None)
        while (rows := coming.result()) is not None:
            coming = reader.submit(next, chunks, None)
            yield rows


def _aligned(chunks: Iterator[CellRows], first: int, size: int) -> Iterator[tuple[int, CellRows]]:
    """Chunks cut where a multiple of `size` lies within them, with the number of their first cell."""
    for rows in chunks:
        begin, n = 0, len(rows.indptr) - 1
        while begin < n:
            end = min(n, begin + size - (first + begin) % size)
            span = slice(int(rows.indptr[begin]), int(rows.indptr[end]))
            indptr = rows.indptr[begin : end + 1] - rows.indptr[begin]
            yield first + begin, CellRows(indptr, rows.indices[span], rows.data[span])
            begin = end
        first += n


def _totals(
    prepared: PreparedSource, options: TokenizeOptions, cells: NDArray[np.int64], rows: CellRows, tally: Tally
) -> NDArray[np.float64] | None:
    """Totals that scale the counts, if these are wanted: those given, else the sums; given ones are checked."""
    if prepared.totals is None and not options.counts:
        return None
    sums = _sums(rows)
    if prepared.totals is None:
        return np.where(sums > 0, sums, 1.0)
    given = prepared.totals[cells]
    impossible = (given <= 0) & (sums > 0)
    if impossible.any():
        raise invalid_total(prepared.source, cells[impossible], prepared.totals)
    tally.n_disagreeing = int(np.sum(np.abs(given - sums) > _DISAGREEMENT * np.maximum(given, sums)))
    tally.given, tally.counted = float(given.sum()), float(sums.sum())
    return np.where(given > 0, given, 1.0) if options.counts else None


def _gene_counts(rows: CellRows, n_genes: int) -> NDArray[np.float64]:
    """Sum of each column, a piece at a time that stays in a core's cache."""
    sums = np.zeros(n_genes)
    for start in range(0, len(rows.data), _PIECE):
        span = slice(start, start + _PIECE)
        sums += np.bincount(rows.indices[span], weights=rows.data[span], minlength=n_genes)
    return sums


def _sums(rows: CellRows) -> NDArray[np.float64]:
    """Sum of each cell, of its own entries alone, so that its neighbors change no rounding."""
    sums = np.zeros(len(rows.indptr) - 1)
    filled = np.diff(rows.indptr) > 0
    if filled.any():
        sums[filled] = np.add.reduceat(rows.data, rows.indptr[:-1][filled], dtype=np.float64)
    return sums
