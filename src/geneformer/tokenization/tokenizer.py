"""From counts to a tokenized dataset: inputs checked, ranked in order, written as they come, and reported on."""

import warnings
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Self

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from geneformer import keys
from geneformer._version import __version__
from geneformer.errors import (
    FilterPassError,
    GeneformerWarning,
    InvalidTotalsError,
    NoCellsError,
    OutOfRangeError,
    UnknownColumnError,
)
from geneformer.files.atomic import check_output
from geneformer.files.manifest import InputFile, Manifest, describe_inputs
from geneformer.genes.lookup import INDEX, GeneMatch, check_matched_share, resolve_genes
from geneformer.genes.vocabulary import Vocabulary, lists, numbers, values_of
from geneformer.genes.vocabulary import texts as texts_of_arrow_arrays
from geneformer.options import TokenizeOptions
from geneformer.options._fields import nearest, to_table
from geneformer.tokenization.checks import check_sample, checked
from geneformer.tokenization.ranking import CellRows, RankedCells, RankedGenes, Ranker
from geneformer.tokenization.readers.counts import open_counts, resolve_inputs, source_names
from geneformer.tokenization.readers.matrices import has_column, select_cells, texts
from geneformer.tokenization.readers.source import CountSource
from geneformer.tokenization.report import SourceReport, TokenizeReport
from geneformer.tokens.dataset import TokenizedDataset, arrow_column
from geneformer.tokens.storage import MARKERS, DatasetWriter, read_dataset

if TYPE_CHECKING:
    from anndata import AnnData

_YES = {"true", "t", "yes", "y", "1", "1.0", "pass", "passed"}
_NO = {"false", "f", "no", "n", "0", "0.0", "fail", "failed"}
_BLOCK = 200_000


@dataclass(frozen=True, slots=True)
class OutputColumn:
    """A column of the dataset that comes from the tables of cells."""

    name: str
    origin: str
    kind: pa.DataType


def kept_cells(source: CountSource) -> NDArray[np.bool_] | None:
    """Cells that `filter_pass` marks, ``(n,)``; None where there is no such column."""
    if keys.FILTER_PASS not in source.obs.names:
        return None
    seen = value_counts(source, keys.FILTER_PASS)
    unclear = {value: n for value, n in seen.items() if str(value).strip().lower() not in _YES | _NO}
    if unclear:
        msg = (
            f"{source.label}: obs column `filter_pass` holds {_listed(unclear)}, which cannot be read as yes or no. "
            "Use true and false, yes and no, 1 and 0, or pass and fail; or drop the column to keep all cells."
        )
        raise FilterPassError(msg)
    kept = np.empty(source.n_cells, dtype=bool)
    for start in range(0, source.n_cells, _BLOCK):
        values = source.obs.column(keys.FILTER_PASS, start, min(start + _BLOCK, source.n_cells)).dictionary_encode()
        verdicts = np.array([str(value).strip().lower() in _YES for value in values.dictionary.to_pylist()], dtype=bool)
        kept[start : start + len(values)] = verdicts[values.indices.to_numpy()]
    return kept


def filter_values(source: CountSource) -> str:
    """What stands in `filter_pass`, for messages."""
    return _listed(value_counts(source, keys.FILTER_PASS))


def value_counts(source: CountSource, column: str) -> dict[object, int]:
    """How often each value of a column of cells occurs."""
    seen: dict[object, int] = {}
    for start in range(0, source.n_cells, _BLOCK):
        values = source.obs.column(column, start, min(start + _BLOCK, source.n_cells))
        for entry in values.value_counts().to_pylist():
            seen[entry["values"]] = seen.get(entry["values"], 0) + entry["counts"]
    return seen


def _listed(seen: dict[object, int]) -> str:
    commonest = sorted(seen.items(), key=lambda item: -item[1])[:8]
    more = ", …" if len(seen) > len(commonest) else ""
    return ", ".join(f"{value!r} in {n:,} cells" for value, n in commonest) + more


def given_totals(source: CountSource, kept: NDArray[np.bool_] | None) -> NDArray[np.float64] | None:
    """Totals in `n_counts`, ``(n,)``; None where there is no such column."""
    if keys.N_COUNTS not in source.obs.names:
        return None
    try:
        column = source.obs.column(keys.N_COUNTS, 0, source.n_cells)
        if not (pa.types.is_floating(column.type) or pa.types.is_integer(column.type)):
            column = column.cast(pa.float64())
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError) as error:
        msg = f"{source.label}: obs column `n_counts` does not hold numbers ({error}). Drop it to have it computed."
        raise InvalidTotalsError(msg) from error
    totals = np.asarray(values_of(column), dtype=np.float64)
    wrong = ~(np.isfinite(totals) & (totals >= 0))
    if kept is not None:
        wrong &= kept
    if wrong.any():
        raise invalid_total(source, np.flatnonzero(wrong), totals)
    return totals


def invalid_total(source: CountSource, cells: NDArray[np.int64], totals: NDArray[np.float64]) -> InvalidTotalsError:
    """The refusal of totals that cannot be."""
    cell = int(cells[0])
    name = source.cell_names(cell, cell + 1)[0]
    msg = (
        f'{source.label}: obs column `n_counts` is {totals[cell]:g} in cell "{name}" and wrong in {len(cells):,} cells '
        "in all. A total is a number above zero. Correct it, or drop the column to have it computed from the counts."
    )
    return InvalidTotalsError(msg)


def plan_columns(sources: Sequence[CountSource], keep: tuple[str, ...] | None) -> tuple[list[OutputColumn], list[str]]:
    """Columns of `obs` that go into the dataset, with one type for all sources; and remarks on them."""
    available = list(dict.fromkeys(name for source in sources for name in source.obs.names))
    remarks = []
    for name in keep or ():
        lacking = [source.label for source in sources if not has_column(source.obs, name)]
        if len(lacking) == len(sources):
            listed = ", ".join(available) or "no columns"
            msg = f'No obs column "{name}". There is {listed}.{nearest(name, available)}'
            raise UnknownColumnError(msg)
        if lacking:
            remarks.append(f'Column "{name}" is missing in {", ".join(lacking)} and left empty there.')
    taken = set(keys.RESERVED)
    columns = []
    for name in available if keep is None else dict.fromkeys(keep):
        written = name
        while written in taken:
            written = f"obs_{written}"
        taken.add(written)
        kinds = [source.obs.kind(name) for source in sources if has_column(source.obs, name)]
        columns.append(OutputColumn(written, name, _common_kind(kinds)))
    return columns, remarks


def _common_kind(kinds: list[pa.DataType]) -> pa.DataType:
    """A type that holds the values of all sources."""
    if len(set(kinds)) == 1:
        return kinds[0]
    if all(pa.types.is_integer(kind) for kind in kinds):
        return pa.int64()
    if all(pa.types.is_integer(kind) or pa.types.is_floating(kind) for kind in kinds):
        return pa.float64()
    return pa.string()


_DISAGREEMENT = 0.01
_PIECE = 65_536


@dataclass(frozen=True, slots=True)
class PreparedSource:
    """A source that passed every check that needs no full reading."""

    source: CountSource
    name: str
    positions: NDArray[np.int32]
    kept: NDArray[np.bool_] | None
    totals: NDArray[np.float64] | None


@dataclass(slots=True)
class Tally:
    """What came of some cells, in sums that can be added up."""

    n_cells: int = 0
    n_filtered: int = 0
    n_truncated: int = 0
    n_missing: int = 0
    n_disagreeing: int = 0
    given: float = 0.0
    counted: float = 0.0

    def add(self, other: Self) -> None:
        """Add another tally to this one."""
        for each in fields(self):
            setattr(self, each.name, getattr(self, each.name) + getattr(other, each.name))


@dataclass(frozen=True, slots=True)
class UnitResult:
    """Tokens of a run of cells."""

    ranked: RankedCells
    cells: NDArray[np.int64]
    empty: NDArray[np.int64]
    gene_counts: NDArray[np.float64]
    tally: Tally


def rank_source(prepared: PreparedSource, ranker: Ranker, options: TokenizeOptions, first: int) -> Iterator[UnitResult]:
    """Results of all cells of a source from `first` on, `options.chunk_size` cells each."""
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


_FEW_GENES = 0.2
"""A matrix with fewer columns than this share of the vocabulary was probably reduced to chosen genes."""

_NAMES_AT_ONCE = 100_000


@dataclass(frozen=True, slots=True)
class Preparation:
    """Inputs ready to be tokenized."""

    sources: tuple[PreparedSource, ...]
    matches: tuple[GeneMatch, ...]
    columns: tuple[OutputColumn, ...]
    remarks: tuple[str, ...]

    @property
    def n_cells(self) -> int:
        """Cells of all inputs."""
        return sum(prepared.source.n_cells for prepared in self.sources)


def prepare(
    inputs: "Iterable[str | Path | AnnData]", vocabulary: Vocabulary, options: TokenizeOptions, stack: ExitStack
) -> Preparation:
    """Open and check all inputs; `stack` closes them."""
    sources: list[CountSource] = []
    for item in resolve_inputs(inputs):
        sources.append(open_counts(item, options.layer))
        stack.callback(sources[-1].close)
    if not any(source.n_cells for source in sources):
        msg = f"There are no cells in {', '.join(source.label for source in sources)}."
        raise NoCellsError(msg)
    columns, remarks = plan_columns(sources, options.keep)
    prepared, matches = [], []
    for source, name in zip(sources, source_names(sources), strict=True):
        ready, match, more = _prepare_source(source, name, vocabulary, options)
        prepared.append(ready)
        matches.append(match)
        remarks.extend(more)
    if not any(_n_kept(ready) for ready in prepared):
        filtered = [ready.source for ready in prepared if ready.kept is not None]
        told = "; ".join(f"{source.label}: {filter_values(source)}" for source in filtered)
        total = sum(source.n_cells for source in sources)
        msg = f"0 of {total:,} cells have `filter_pass` true. Values seen: {told}. Correct the column, or drop it."
        raise NoCellsError(msg)
    remarks.extend(_differing_genes(prepared, matches))
    return Preparation(tuple(prepared), tuple(matches), tuple(columns), tuple(remarks))


def _prepare_source(
    source: CountSource, name: str, vocabulary: Vocabulary, options: TokenizeOptions
) -> tuple[PreparedSource, GeneMatch, list[str]]:
    names = {INDEX: source.var.index(0, source.n_genes)}
    for column in source.var.names:
        if source.var.kind(column) == pa.string() or column == options.gene_ids:
            names[column] = texts(source.var, column)
    match = _match(names, vocabulary, options)
    check_sample(source, options)
    _check_share_of_sample(source, match, options)
    kept = kept_cells(source)
    totals = given_totals(source, kept)
    ready = PreparedSource(source, name, match.positions, kept, totals)
    remarks = []
    if source.n_genes < _FEW_GENES * len(vocabulary.genes):
        remarks.append(
            f"{source.label} has only {source.n_genes:,} genes: it looks reduced to chosen genes. Ranks compare all "
            "genes of a cell; give the full matrix if there is one."
        )
    repeated = _n_repeated_names(source)
    if repeated:
        remarks.append(
            f"{source.label}: {repeated:,} cells share their name with another one; `cell_id` does not tell them apart."
        )
    if source.n_other_features:
        remarks.append(f"{source.label}: {source.n_other_features:,} features that are no genes are left out.")
    if kept is not None and not kept.any():
        remarks.append(f"{source.label}: no cell has `filter_pass` true ({filter_values(source)}).")
    return ready, match, remarks


def _match(names: dict[str, Any], vocabulary: Vocabulary, options: TokenizeOptions) -> GeneMatch:
    """Ensembl ids by the vocabulary's own tables alone, as published; symbols also by the history of another."""
    match = resolve_genes(names, vocabulary, options.gene_ids, borrow=False)
    if match.kind == "ensembl" or vocabulary.tables.has_aliases:
        return match
    return resolve_genes(names, vocabulary, options.gene_ids)


def _check_share_of_sample(source: CountSource, match: GeneMatch, options: TokenizeOptions) -> None:
    """Refuse early where a sample of whole cells has next to nothing in the vocabulary; the end decides exactly."""
    if not source.matrix.seekable:
        return
    sample = source.sample()
    values = np.nan_to_num(np.asarray(sample.values, dtype=np.float64), posinf=0.0, neginf=0.0)
    counts = np.bincount(sample.genes, weights=values, minlength=source.n_genes)
    check_matched_share(match, counts, options.min_matched / 2)


def _n_repeated_names(source: CountSource) -> int:
    hashes = np.empty(source.n_cells, dtype=np.int64)
    for start in range(0, source.n_cells, _NAMES_AT_ONCE):
        names = source.cell_names(start, min(start + _NAMES_AT_ONCE, source.n_cells))
        hashes[start : start + len(names)] = [hash(name) for name in names]
    return source.n_cells - len(np.unique(hashes))


def _n_kept(ready: PreparedSource) -> int:
    return ready.source.n_cells if ready.kept is None else int(ready.kept.sum())


def _differing_genes(prepared: list[PreparedSource], matches: list[GeneMatch]) -> list[str]:
    """A remark where inputs measure clearly different genes: their zeros then differ in meaning."""
    if len(matches) < 2:
        return []
    gene_sets = [np.unique(match.positions[match.positions >= 0]) for match in matches]
    everywhere = gene_sets[0]
    for genes in gene_sets[1:]:
        everywhere = np.intersect1d(everywhere, genes)
    largest = max(range(len(gene_sets)), key=lambda number: len(gene_sets[number]))
    if len(everywhere) >= 0.9 * len(gene_sets[largest]):
        return []
    listed = ", ".join(f"{ready.name} {len(genes):,}" for ready, genes in zip(prepared[:6], gene_sets[:6], strict=True))
    return [
        f"The inputs measure different genes ({listed}; {len(everywhere):,} in all of them): a gene missing from one "
        "looks like a gene not expressed there."
    ]


_MOST_NAMES = 10_000
_SELECTED = 1.2
"""Given totals above the counts by this factor: genes were taken away after counting."""


@dataclass(slots=True)
class _Open:
    """What is known of the source that is being read."""

    gene_counts: NDArray[np.float64]
    tally: Tally = field(default_factory=Tally)
    n_empty: int = 0
    empty_cells: list[str] = field(default_factory=list)


class Account:
    """Adds up results, in the order of the cells."""

    def __init__(self, preparation: Preparation, options: TokenizeOptions, max_length: int) -> None:
        self._preparation = preparation
        self._options = options
        self._finished: list[dict[str, Any]] = []
        self._lengths = np.zeros(max_length + 1, dtype=np.int64)
        self._open = self._next()
        self._finish_read()

    @property
    def source(self) -> int:
        """Number of the source that is being read; the number of sources at the end."""
        return len(self._finished)

    @property
    def cell(self) -> int:
        """Cells of that source that were read."""
        return self._open.tally.n_cells

    @property
    def n_cells(self) -> int:
        """Cells read so far."""
        return sum(int(done["n_cells"]) for done in self._finished) + self.cell

    def add(self, result: UnitResult) -> None:
        """Take up the next result."""
        current, source = self._open, self._preparation.sources[self.source].source
        current.gene_counts += result.gene_counts
        current.tally.add(result.tally)
        current.n_empty += len(result.empty)
        for cell in result.empty[: max(_MOST_NAMES - len(current.empty_cells), 0)]:
            current.empty_cells.append(str(source.cell_names(int(cell), int(cell) + 1)[0]))
        self._lengths += np.bincount(np.diff(result.ranked.offsets), minlength=len(self._lengths))
        self._finish_read()

    def state(self) -> dict[str, Any]:
        """Everything `restore` needs, as JSON can hold it."""
        return {
            "finished": self._finished,
            "lengths": self._lengths.tolist(),
            "gene_counts": self._open.gene_counts.tolist(),
            "tally": asdict(self._open.tally),
            "n_empty": self._open.n_empty,
            "empty_cells": self._open.empty_cells,
        }

    def restore(self, state: Mapping[str, Any]) -> None:
        """Go on where a killed run stood."""
        self._finished = list(state["finished"])
        self._lengths = np.array(state["lengths"], dtype=np.int64)
        self._open = _Open(
            np.array(state["gene_counts"], dtype=np.float64),
            Tally(**state["tally"]),
            int(state["n_empty"]),
            list(state["empty_cells"]),
        )

    def report(self) -> TokenizeReport:
        """The report, once all cells are in."""
        n = int(self._lengths.sum())
        present = np.flatnonzero(self._lengths)
        spread = (int(present[0]), self._median(), int(present[-1])) if n else (0, 0.0, 0)
        remarks = [*self._preparation.remarks]
        remarks.extend(done["remark"] for done in self._finished if done["remark"])
        sources = [{key: value for key, value in done.items() if key != "remark"} for done in self._finished]
        return TokenizeReport(
            sources=tuple(
                SourceReport(**{**source, "empty_cells": tuple(source["empty_cells"])}) for source in sources
            ),
            tokens_per_cell=spread,
            warnings=tuple(remarks),
            accepted_normalized=self._options.accept_normalized,
        )

    def _median(self) -> float:
        below = np.cumsum(self._lengths)
        low, high = (int(np.searchsorted(below, rank)) for rank in ((below[-1] + 1) // 2, below[-1] // 2 + 1))
        return (low + high) / 2

    def _next(self) -> _Open:
        sources = self._preparation.sources
        n_genes = sources[self.source].source.n_genes if self.source < len(sources) else 0
        return _Open(np.zeros(n_genes))

    def _finish_read(self) -> None:
        """Close the books of the sources that are read to their end, those without cells included."""
        sources = self._preparation.sources
        while self.source < len(sources) and self.cell == sources[self.source].source.n_cells:
            self._finished.append(self._closed())
            self._open = self._next()

    def _closed(self) -> dict[str, Any]:
        ready, match = self._preparation.sources[self.source], self._preparation.matches[self.source]
        current, tally = self._open, self._open.tally
        share = check_matched_share(match, current.gene_counts, self._options.min_matched)
        report = SourceReport(
            name=ready.name,
            path=None if ready.source.path is None else str(ready.source.path),
            place=ready.source.place,
            n_cells=tally.n_cells,
            n_filtered=tally.n_filtered,
            n_empty=current.n_empty,
            empty_cells=tuple(current.empty_cells),
            n_written=tally.n_cells - tally.n_filtered - current.n_empty,
            n_truncated=tally.n_truncated,
            n_missing=tally.n_missing,
            n_other_features=ready.source.n_other_features,
            matched_share=share,
            genes=match.report(current.gene_counts).as_dict(),
        )
        return {**asdict(report), "remark": _totals_remark(ready.source.label, tally)}


def _totals_remark(label: str, tally: Tally) -> str:
    """What is wrong with given totals that disagree with the counts."""
    if not tally.n_disagreeing:
        return ""
    kept = tally.n_cells - tally.n_filtered
    told = (
        f"{label}: `n_counts` differs by more than 1 % from the sum of the counts in {tally.n_disagreeing:,} of "
        f"{kept:,} cells"
    )
    if tally.given > _SELECTED * tally.counted:
        share = tally.counted / tally.given
        return (
            f"{told}; the counts are {share:.0%} of it: genes were probably removed. Give the full matrix if there is "
            "one."
        )
    return f"{told}. It is used for scaled counts as it is; the order of tokens does not depend on it."


class Collector:
    """Gathers batches of cells."""

    def __init__(self, schema: pa.Schema) -> None:
        self._schema = schema
        self._batches: list[pa.RecordBatch] = []

    def append(
        self,
        offsets: NDArray[np.int64],
        values: NDArray[np.int32],
        columns: Mapping[str, Any],
        *,
        counts: NDArray[np.float64] | None = None,
        progress: Mapping[str, Any] | None = None,
    ) -> None:
        """Add a batch of cells, see `DatasetWriter.append`."""
        if len(offsets) < 2:
            return
        arrays = {keys.INPUT_IDS: lists(offsets, values)}
        if counts is not None:
            arrays[keys.COUNTS] = lists(offsets, counts)
        arrays[keys.LENGTH] = numbers(np.diff(offsets))
        whole = {**columns, **arrays}
        ordered = [arrow_column(field.name, whole[field.name], field.type) for field in self._schema]
        self._batches.append(pa.record_batch(ordered, schema=self._schema))

    def dataset(self, vocabulary: str | None) -> TokenizedDataset:
        """All cells so far."""
        table = pa.Table.from_batches(self._batches, schema=self._schema)
        return TokenizedDataset(table, vocabulary=vocabulary)


def max_length_of(options: TokenizeOptions, vocabulary: Vocabulary) -> int:
    """Most tokens of a cell, special tokens included."""
    if options.max_length is None:
        return vocabulary.input_size
    if options.max_length > vocabulary.input_size:
        msg = (
            f'max_length={options.max_length} is more than vocabulary "{vocabulary.name}" is made for. It takes at '
            f"most {vocabulary.input_size}."
        )
        raise OutOfRangeError(msg)
    return options.max_length


@dataclass(frozen=True, kw_only=True, slots=True)
class UnframedGenes:
    """Genes of a vocabulary for cells without `<cls>` and `<eos>`."""

    token_ids: NDArray[np.int32]
    medians: NDArray[np.float64]
    cls_id: int | None = None
    eos_id: int | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class RowForm:
    """How rows are built; by default as everywhere in this package."""

    names: Mapping[str, str] | None = None
    id_type: Literal["int16", "int32"] = "int32"
    special_tokens: bool = True
    max_length: int | None = None
    names_vocabulary: bool = True

    def schema(self, preparation: Preparation, *, counts: bool) -> pa.Schema:
        """Columns of the dataset, in order."""
        fields = [(keys.INPUT_IDS, pa.list_(pa.type_for_alias(self.id_type)))]
        fields += [(keys.COUNTS, pa.list_(pa.float64()))] if counts else []
        length = (keys.LENGTH, pa.int64())
        if self.names is None:
            own = [(keys.CELL_ID, pa.string()), (keys.SOURCE, pa.string())]
            return pa.schema([*fields, *own, *((c.name, c.kind) for c in preparation.columns), length])
        described = [(self.names[column.origin], column.kind) for column in preparation.columns]
        last = [] if self._has_cell_id else [(keys.CELL_ID, pa.string())]
        return pa.schema([*fields, *described, length, *last])

    def described(self, preparation: Preparation, number: int, result: UnitResult) -> dict[str, Any]:
        """What is known about the cells of a result of source `number`, by column."""
        ready = preparation.sources[number]
        if not len(result.cells):
            return {}
        start, stop = int(result.cells[0]), int(result.cells[-1]) + 1
        columns: dict[str, Any] = {}
        if not self._has_cell_id:
            names = ready.source.cell_names(start, stop)
            columns[keys.CELL_ID] = texts_of_arrow_arrays(names[result.cells - start].tolist())
        if self.names is None:
            columns[keys.SOURCE] = texts_of_arrow_arrays([ready.name] * len(result.cells))
        for column in preparation.columns:
            written = column.name if self.names is None else self.names[column.origin]
            if not has_column(ready.source.obs, column.origin):
                columns[written] = pa.nulls(len(result.cells), column.kind)
                continue
            columns[written] = ready.source.obs.column(column.origin, start, stop)
            if len(result.cells) < stop - start:
                columns[written] = columns[written].take(numbers(result.cells - start))
        return columns

    def genes(self, vocabulary: Vocabulary) -> RankedGenes:
        """What cells are ranked by."""
        if self.special_tokens:
            return vocabulary
        return UnframedGenes(token_ids=vocabulary.token_ids, medians=vocabulary.medians)

    def longest(self, options: TokenizeOptions, vocabulary: Vocabulary) -> int:
        """Most tokens of a cell."""
        return max_length_of(options, vocabulary) if self.max_length is None else self.max_length

    def fingerprint(self, vocabulary: Vocabulary) -> str | None:
        """What the dataset says about its vocabulary."""
        return vocabulary.fingerprint if self.names_vocabulary else None

    def as_dict(self) -> dict[str, Any]:
        """The form as JSON can hold it."""
        return {
            "names": None if self.names is None else dict(self.names),
            "id_type": self.id_type,
            "special_tokens": self.special_tokens,
            "max_length": self.max_length,
        }

    @property
    def _has_cell_id(self) -> bool:
        return self.names is not None and keys.CELL_ID in self.names.values()


def results(
    preparation: Preparation,
    genes: RankedGenes,
    options: TokenizeOptions,
    max_length: int,
    *,
    source: int = 0,
    cell: int = 0,
) -> Iterator[UnitResult]:
    """Results of all cells from `cell` of `source` on, `options.chunk_size` cells each."""
    for number in range(source, len(preparation.sources)):
        ready = preparation.sources[number]
        first = cell if number == source else 0
        ranker = Ranker(ready.positions, genes, max_length=max_length)
        if options.workers == 1 or not ready.source.matrix.seekable:
            yield from rank_source(ready, ranker, options, first)
        else:
            yield from _by_threads(ready, ranker, options, first)
        # Frees what sorting by cells may have put into memory or onto the disk; nothing asks this source again.
        ready.source.close()


def _spans(ready: PreparedSource, size: int, first: int) -> Iterator[tuple[int, int]]:
    """The cells of each result; the first may begin within one after a resume."""
    n = ready.source.n_cells
    while first < n:
        stop = min(first - first % size + size, n)
        yield first, stop
        first = stop


def _by_threads(ready: PreparedSource, ranker: Ranker, options: TokenizeOptions, first: int) -> Iterator[UnitResult]:
    waiting: deque[Future[UnitResult]] = deque()
    with ThreadPoolExecutor(options.workers) as threads:
        for span in _spans(ready, options.chunk_size, first):
            if len(waiting) > options.workers:
                yield waiting.popleft().result()
            waiting.append(threads.submit(rank_unit, ready, ranker, options, span))
        while waiting:
            yield waiting.popleft().result()


Progress = Callable[[int, int], object]
"""Told after every run of cells: cells done, cells in all."""

SHARD_BYTES = 64 * 2**20
"""Size of the files of a dataset, and what a killed run loses at most."""

_HASH_LIMIT = 4 * 2**30


def tokenize_counts(
    inputs: "str | Path | AnnData | Iterable[str | Path | AnnData]",
    options: TokenizeOptions | None = None,
    *,
    output: str | Path | None = None,
    vocabulary: Vocabulary | None = None,
    overwrite: bool = False,
    resume: bool = True,
    progress: Progress | None = None,
    shard_bytes: int = SHARD_BYTES,
    form: RowForm | None = None,
) -> tuple[TokenizedDataset, TokenizeReport]:
    """Rank value encodings of all cells, in the order of the inputs; and what came of them."""
    options = options or TokenizeOptions()
    vocabulary = vocabulary or Vocabulary.load(options.vocabulary)
    form = form or RowForm()
    job = _Job(options, vocabulary, form, progress)
    if output is not None:
        check_output(output, overwrite=overwrite, markers=MARKERS)
    with ExitStack() as stack:
        preparation = prepare(_several(inputs), vocabulary, options, stack)
        _warn(preparation.remarks)
        if output is None:
            collector = Collector(form.schema(preparation, counts=options.counts))
            report = job.run(collector, preparation)
            dataset = collector.dataset(form.fingerprint(vocabulary))
        else:
            described = _described(preparation)
            in_memory = any(ready.source.path is None for ready in preparation.sources)
            with DatasetWriter(
                output,
                counts=options.counts,
                schema=form.schema(preparation, counts=options.counts),
                identity=_identity(described, options, vocabulary, form),
                overwrite=overwrite,
                resume=resume and not in_memory and not overwrite,
                shard_bytes=shard_bytes,
            ) as writer:
                report = job.run(writer, preparation, writer.progress)
                writer.finish(_manifest(described, options, form.fingerprint(vocabulary), report))
            dataset = read_dataset(output)
    _warn(report.warnings[len(preparation.remarks) :])
    return dataset, report


class _Job:
    """One pass over the inputs."""

    def __init__(
        self, options: TokenizeOptions, vocabulary: Vocabulary, form: RowForm, progress: Progress | None
    ) -> None:
        self.options = options
        self.form = form
        self.progress = progress
        self.genes = form.genes(vocabulary)
        self.max_length = form.longest(options, vocabulary)

    def run(
        self, writer: Collector | DatasetWriter, preparation: Preparation, state: Mapping[str, Any] | None = None
    ) -> TokenizeReport:
        """Rank all cells that `state` does not have already, and hand them to the writer."""
        account = Account(preparation, self.options, self.max_length)
        if state is not None:
            account.restore(state)
        self._tell(account, preparation)
        for result in results(
            preparation, self.genes, self.options, self.max_length, source=account.source, cell=account.cell
        ):
            described = self.form.described(preparation, account.source, result)
            account.add(result)
            ranked = result.ranked
            writer.append(ranked.offsets, ranked.input_ids, described, counts=ranked.counts, progress=account.state())
            self._tell(account, preparation)
            del result, ranked, described  # before the next ones are in memory
        return account.report()

    def _tell(self, account: Account, preparation: Preparation) -> None:
        if self.progress is not None:
            self.progress(account.n_cells, preparation.n_cells)


def _several(inputs: Any) -> list[Any]:
    return [inputs] if isinstance(inputs, (str, Path)) or hasattr(inputs, "obs_names") else list(inputs)


def _warn(remarks: Iterable[str]) -> None:
    for remark in remarks:
        warnings.warn(remark, GeneformerWarning, stacklevel=3)


def _described(preparation: Preparation) -> tuple[InputFile, ...]:
    files = [file for ready in preparation.sources for file in ready.source.files]
    return describe_inputs(files, hash_limit=_HASH_LIMIT)


def _identity(
    described: tuple[InputFile, ...], options: TokenizeOptions, vocabulary: Vocabulary, form: RowForm
) -> dict[str, Any]:
    """What must be the same for a run to go on; how many workers there are does not matter."""
    chosen = asdict(options)
    del chosen["workers"]
    inputs = [[Path(file.path).name, file.size, file.sha256, file.modified] for file in described]
    return {
        "inputs": inputs,
        "options": chosen,
        "vocabulary": vocabulary.fingerprint,
        "form": form.as_dict(),
        "version": __version__,
    }


def _manifest(
    described: tuple[InputFile, ...], options: TokenizeOptions, fingerprint: str | None, report: TokenizeReport
) -> Manifest:
    return Manifest(
        task="tokenize",
        vocabulary=fingerprint,
        inputs=described,
        options=to_table(options),
        results=report.to_dict(),
    )
