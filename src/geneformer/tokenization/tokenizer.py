"""From counts to a tokenized dataset: inputs are checked, then cells are ranked, written and reported unit by unit.

A unit is `chunk_size` cells of one source. Whatever reads and ranks them, threads or none, units come out in the order
of the cells, and a killed run goes on behind the last unit that was written.
"""

import warnings
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack
from contextvars import copy_context
from dataclasses import asdict, dataclass, fields
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Self

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from geneformer import keys
from geneformer._version import __version__
from geneformer.display import Summarized, Summary
from geneformer.errors import GeneformerWarning, NoCellsError, OptionError, OutOfRangeError
from geneformer.files.atomic import check_output, refuse_overlap
from geneformer.files.manifest import InputFile, Manifest, describe_inputs
from geneformer.genes.lookup import check_matched_share, foreign_species, suspicion
from geneformer.genes.vocabulary import Vocabulary
from geneformer.options import TokenizeOptions
from geneformer.options._fields import came_as, to_table
from geneformer.tokenization.checks import Preparation, PreparedSource, checked, invalid_total, prepare
from geneformer.tokenization.ranking import CellRows, RankedCells, RankedGenes, Ranker, join_cells
from geneformer.tokens.dataset import TokenizedDataset, arrow_column, arrow_lists, arrow_numbers, arrow_texts
from geneformer.tokens.storage import MARKERS, DatasetWriter, read_dataset

if TYPE_CHECKING:
    from anndata import AnnData

Progress = Callable[[int, int], object]
"""Called after every unit of cells with the cells done and the cells in all."""

SHARD_BYTES = 64 * 2**20
"""Size of the files of a dataset, and what a killed run loses at most."""

_HASH_LIMIT = 4 * 2**30

_DISAGREEMENT = 0.01
"""Given totals that differ from the sum of the counts by more than this share are reported."""

_MIXED = 0.1
"""Share of identifiers of another species from which on cells are asked which species they are of."""

_PIECE = 65_536
"""Entries added up at once, few enough for a core's cache."""


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
    form: "RowForm | None" = None,
) -> tuple[TokenizedDataset, "TokenizeReport"]:
    """Rank value encodings of all cells, in the order of the inputs; and what came of them."""
    options = options or TokenizeOptions()
    vocabulary = vocabulary or Vocabulary.load(options.vocabulary)
    form = form or RowForm()
    form.longest(options, vocabulary)
    one_alone = isinstance(inputs, (str, Path)) or hasattr(inputs, "obs_names")
    several: Any = [inputs] if one_alone or not isinstance(inputs, Sequence) else list(inputs)
    for given in several:
        if not isinstance(given, (str, Path)) and not hasattr(given, "obs_names"):
            msg = f"{came_as('The counts', inputs)}. Pass AnnData with raw counts, or paths of files with them."
            raise OptionError(msg)
    if output is not None:
        check_output(output, overwrite=overwrite, markers=MARKERS)
        refuse_overlap([output], (given for given in several if isinstance(given, (str, Path))))
    with ExitStack() as stack:
        preparation = prepare(several, vocabulary, options, stack)
        _warn(preparation.remarks)
        schema = form.schema(preparation, counts=options.counts)
        run = partial(
            _write_units, preparation=preparation, options=options, vocabulary=vocabulary, form=form, progress=progress
        )
        if output is None:
            collector = _Collector(schema)
            report = run(collector)
            dataset = collector.dataset(form.fingerprint(vocabulary), report)
        else:
            files = [file for ready in preparation.sources for file in ready.source.files]
            described = describe_inputs(files, hash_limit=_HASH_LIMIT)
            in_memory = any(ready.source.path is None for ready in preparation.sources)
            with DatasetWriter(
                output,
                counts=options.counts,
                schema=schema,
                identity=_identity(described, options, vocabulary, form),
                overwrite=overwrite,
                resume=resume and not in_memory and not overwrite,
                shard_bytes=shard_bytes,
            ) as writer:
                report = run(writer, writer.progress)
                manifest = Manifest(
                    task="tokenize",
                    vocabulary=form.fingerprint(vocabulary),
                    inputs=described,
                    options=to_table(options),
                    results=report.to_dict(),
                )
                writer.finish(manifest)
            dataset = read_dataset(output)
    _warn(report.warnings[len(preparation.remarks) :])
    return dataset, report


def _write_units(
    writer: "_Collector | DatasetWriter",
    state: Mapping[str, Any] | None = None,
    *,
    preparation: Preparation,
    options: TokenizeOptions,
    vocabulary: Vocabulary,
    form: "RowForm",
    progress: Progress | None,
) -> "TokenizeReport":
    """Rank all cells that are not in `state` already, and hand them to the writer."""
    genes, max_length = form.genes(vocabulary), form.longest(options, vocabulary)
    account = Account(preparation, options, max_length)
    if state is not None:
        account.restore(state)
    if progress is not None:
        progress(account.n_cells, preparation.n_cells)
    for number, ready in enumerate(preparation.sources):
        if number < account.source:
            continue
        cells = _CellsOfSource(ready, Ranker(ready.match.positions, genes, max_length=max_length), options)
        for unit in cells.units(account.cell):
            described = form.described(preparation, number, unit)
            account.add(unit)
            ranked = unit.ranked
            writer.append(ranked.offsets, ranked.input_ids, described, counts=ranked.counts, progress=account.state())
            if progress is not None:
                progress(account.n_cells, preparation.n_cells)
            del unit, ranked, described  # before the next ones are in memory
        # Frees what sorting by cells may have put into memory or onto the disk; nothing asks this source again.
        ready.source.close()
    report = account.report()
    if not report.n_written:
        msg = (
            f"None of {preparation.n_cells:,} cells has a count in a gene of vocabulary {vocabulary.name}: there is "
            f"nothing to write ({', '.join(ready.source.label for ready in preparation.sources)}). Give counts that "
            "are not zero."
        )
        raise NoCellsError(msg)
    return report


@dataclass(slots=True)
class Tally:
    """What came of some cells, in sums that can be added up."""

    n_cells: int = 0
    n_filtered: int = 0
    n_truncated: int = 0
    n_missing: int = 0
    n_rounded: int = 0
    n_sparse: int = 0
    n_elsewhere: int = 0
    n_disagreeing: int = 0
    given: float = 0.0
    counted: float = 0.0

    def add(self, other: Self) -> None:
        """Add another tally to this one."""
        for each in fields(self):
            setattr(self, each.name, getattr(self, each.name) + getattr(other, each.name))


@dataclass(frozen=True, slots=True)
class RankedUnit:
    """Tokens of a run of cells: `cells` have some, `empty` have none; all are numbered within their source."""

    ranked: RankedCells
    cells: NDArray[np.int64]
    empty: NDArray[np.int64]
    gene_counts: NDArray[np.float64]
    tally: Tally


_LITTLE_MATCHED = 0.75
"""Where less than this share of the counts is in the vocabulary, that is told."""

_FEW_GENES, _WHOLE_TRANSCRIPTOME = 20, 1000
"""Cells with fewer genes than these are no cells, where at least so many genes were measured."""

_MOST_NAMES = 10_000
_SELECTED = 1.2
"""Given totals above the counts by this factor: genes were taken away after counting."""


class Account:
    """Adds up units of cells in their order, one source after the other; a killed run goes on from its `state`."""

    def __init__(self, preparation: Preparation, options: TokenizeOptions, max_length: int) -> None:
        self._preparation = preparation
        self._options = options
        self._finished: list[dict[str, Any]] = []
        self._lengths = np.zeros(max_length + 1, dtype=np.int64)
        self._empty_cells: list[str]
        self._open_next()

    @property
    def source(self) -> int:
        """Number of the source that is being read; the number of sources at the end."""
        return len(self._finished)

    @property
    def cell(self) -> int:
        """Cells of that source that were read."""
        return self._tally.n_cells

    @property
    def n_cells(self) -> int:
        """Cells read so far."""
        return sum(int(source["n_cells"]) for source in self._finished) + self.cell

    def add(self, unit: RankedUnit) -> None:
        """Take up the next unit."""
        source = self._preparation.sources[self.source].source
        self._gene_counts += unit.gene_counts
        self._tally.add(unit.tally)
        self._n_empty += len(unit.empty)
        for cell in unit.empty[: max(_MOST_NAMES - len(self._empty_cells), 0)].tolist():
            self._empty_cells.append(str(source.cell_names(cell, cell + 1)[0]))
        self._lengths += np.bincount(np.diff(unit.ranked.offsets), minlength=len(self._lengths))
        if self.cell == source.n_cells:
            self._finish_source()

    def state(self) -> dict[str, Any]:
        """Everything `restore` needs, as JSON can hold it."""
        return {
            "finished": self._finished,
            "lengths": self._lengths.tolist(),
            "gene_counts": self._gene_counts.tolist(),
            "tally": asdict(self._tally),
            "n_empty": self._n_empty,
            "empty_cells": self._empty_cells,
        }

    def restore(self, state: Mapping[str, Any]) -> None:
        """Go on where a killed run stood."""
        self._finished = list(state["finished"])
        self._lengths = np.array(state["lengths"], dtype=np.int64)
        self._gene_counts = np.array(state["gene_counts"], dtype=np.float64)
        self._tally = Tally(**state["tally"])
        self._n_empty = int(state["n_empty"])
        self._empty_cells = list(state["empty_cells"])

    def report(self) -> "TokenizeReport":
        """The report, once all cells are in."""
        sources, remarks = [], [*self._preparation.remarks]
        for finished in self._finished:
            fields_of_report = {**finished, "empty_cells": tuple(finished["empty_cells"])}
            remarks.extend(fields_of_report.pop("remarks"))
            sources.append(SourceReport(**fields_of_report))
        return TokenizeReport(
            sources=tuple(sources),
            tokens_per_cell=self._spread(),
            warnings=tuple(remarks),
            accepted_normalized=self._options.accept_normalized,
        )

    def _spread(self) -> tuple[int, float, int]:
        """Least, median and most tokens of a cell."""
        cells_up_to = np.cumsum(self._lengths)
        n = int(cells_up_to[-1])
        if not n:
            return 0, 0.0, 0
        ranks = [1, (n + 1) // 2, n // 2 + 1, n]
        least, low, high, most = np.searchsorted(cells_up_to, ranks).tolist()
        return least, (low + high) / 2, most

    def _open_next(self) -> None:
        """Turn to the next source; one without cells is at its end already."""
        more = self.source < len(self._preparation.sources)
        source = self._preparation.sources[self.source].source if more else None
        self._gene_counts = np.zeros(source.n_genes if source is not None else 0)
        self._tally = Tally()
        self._n_empty = 0
        self._empty_cells = []
        if source is not None and not source.n_cells:
            self._finish_source()

    def _finish_source(self) -> None:
        ready = self._preparation.sources[self.source]
        source, match, tally = ready.source, ready.match, self._tally
        report = SourceReport(
            name=ready.name,
            path=None if source.path is None else str(source.path),
            place=source.place,
            n_cells=tally.n_cells,
            n_filtered=tally.n_filtered,
            n_empty=self._n_empty,
            empty_cells=tuple(self._empty_cells),
            n_written=tally.n_cells - tally.n_filtered - self._n_empty,
            n_truncated=tally.n_truncated,
            n_missing=tally.n_missing,
            n_other_features=source.n_other_features,
            matched_share=check_matched_share(match, self._gene_counts, self._options.min_matched),
            genes=match.report(self._gene_counts),
        )
        remarks = [_totals_remark(source.label, tally), *_remarks(ready, tally, report)]
        self._finished.append({**asdict(report), "remarks": [remark for remark in remarks if remark]})
        self._open_next()


def _totals_remark(label: str, tally: Tally) -> str:
    """What is wrong with given totals that disagree with the counts."""
    if not tally.n_disagreeing:
        return ""
    n_cells = tally.n_cells - tally.n_filtered
    disagreement = (
        f"{label}: `n_counts` differs by more than 1 % from the sum of the counts in {tally.n_disagreeing:,} of "
        f"{n_cells:,} cells"
    )
    if tally.given > _SELECTED * tally.counted:
        share = tally.counted / tally.given
        advice = "genes were probably removed. Give the full matrix if there is one."
        return f"{disagreement}; the counts are {share:.0%} of it: {advice}"
    return f"{disagreement}. It is used for scaled counts as it is; the order of tokens does not depend on it."


def _remarks(ready: PreparedSource, tally: Tally, report: "SourceReport") -> Iterator[str]:
    """What looks wrong with a source once all of it was read."""
    label, n_cells = ready.source.label, tally.n_cells - tally.n_filtered
    if tally.n_rounded:
        yield f"{label}: {tally.n_rounded:,} values were off a whole number by rounding errors, and were rounded."
    if tally.n_elsewhere:
        species, share = foreign_species(ready.match)
        yield (
            f"{label}: {share:.0%} of the identifiers are {species} genes, and {tally.n_elsewhere:,} of {n_cells:,} "
            "cells have most of their counts there: they are poor human cells. Mark them false in `filter_pass`, or "
            "remove them."
        )
    elif 0 < report.matched_share < _LITTLE_MATCHED:
        most = ", ".join(f'"{name}"' for name in report.genes["left_out_most_counts"])
        yield (
            f"{label}: {1 - report.matched_share:.0%} of the counts lie outside vocabulary "
            f'"{ready.match.vocabulary.name}" and are left out, most of them in {most or "genes without a name"}.'
            f"{suspicion(ready.match)}"
        )
    if ready.source.n_genes >= _WHOLE_TRANSCRIPTOME and 2 * tally.n_sparse > n_cells:
        yield (
            f"{label}: {tally.n_sparse:,} of {n_cells:,} cells have fewer than {_FEW_GENES} genes: most are empty "
            "droplets, as in an unfiltered matrix. Give the filtered one."
        )


class _CellsOfSource:
    """Ranks the cells of one source."""

    def __init__(self, ready: PreparedSource, ranker: Ranker, options: TokenizeOptions) -> None:
        self.ready = ready
        self.ranker = ranker
        self.options = options
        self.n_cells = ready.source.n_cells
        self.matched = ready.match.positions >= 0 if foreign_species(ready.match)[1] >= _MIXED else None

    def units(self, first: int) -> Iterator[RankedUnit]:
        """Units of cells from `first` on."""
        size, workers = self.options.chunk_size, self.options.workers
        if workers == 1 or not self.ready.source.matrix.seekable:
            parts: list[RankedUnit] = []
            for cell, rows in _read_ahead(self._chunks(first, self.n_cells)):
                parts.append(self._rank(cell, rows))
                stop = cell + rows.n_cells
                if stop % size == 0 or stop == self.n_cells:
                    unit, parts = _join_units(parts), []
                    yield unit
                    del unit
            return
        waiting: deque[Future[RankedUnit]] = deque()
        with ThreadPoolExecutor(workers) as threads:
            while first < self.n_cells:
                stop = min(first - first % size + size, self.n_cells)
                if len(waiting) > workers:
                    yield waiting.popleft().result()
                waiting.append(threads.submit(copy_context().run, self._unit, first, stop))
                first = stop
            while waiting:
                yield waiting.popleft().result()

    def _unit(self, first: int, stop: int) -> RankedUnit:
        return _join_units([self._rank(cell, rows) for cell, rows in self._chunks(first, stop)])

    def _chunks(self, first: int, stop: int) -> Iterator[tuple[int, CellRows]]:
        """Cells as they are read, with the number of the first of them; cut where a unit ends."""
        size = self.options.chunk_size
        for rows in self.ready.source.chunks(size, first, stop):
            begin = 0
            while begin < rows.n_cells:
                end = min(rows.n_cells, begin + size - (first + begin) % size)
                yield first + begin, rows.part(begin, end)
                begin = end
            first += rows.n_cells

    def _rank(self, first: int, rows: CellRows) -> RankedUnit:
        """Tokens of cells that are in memory, `first` being the number of the first one."""
        source, passing = self.ready.source, self.ready.passing
        tally = Tally(n_cells=rows.n_cells)
        cells = np.arange(first, first + rows.n_cells)
        if passing is not None:
            marks = passing[first : first + rows.n_cells]
            tally.n_filtered = int((~marks).sum())
            cells, rows = cells[marks], _select(rows, marks)
        rows, tally.n_missing, tally.n_rounded = checked(rows, cells, source, self.options)
        ranked = self.ranker.rank(rows, self._totals(cells, rows, tally))
        tally.n_truncated = int((ranked.n_genes > self.ranker.room).sum())
        tally.n_sparse = int((ranked.n_genes < _FEW_GENES).sum())
        if self.matched is not None:
            ours = _row_sums(rows, np.where(self.matched[rows.indices], rows.data, 0))
            tally.n_elsewhere = int((ours < _row_sums(rows, rows.data) / 2).sum())
        gene_counts = np.zeros(source.n_genes)
        for start in range(0, len(rows.data), _PIECE):
            span = slice(start, start + _PIECE)
            gene_counts += np.bincount(rows.indices[span], weights=rows.data[span], minlength=source.n_genes)
        filled = ranked.n_genes > 0
        empty = cells[~filled]
        if len(empty):
            offsets = np.concatenate([ranked.offsets[:-1][filled], ranked.offsets[-1:]])
            ranked = RankedCells(offsets, ranked.input_ids, ranked.counts, ranked.n_genes[filled])
        return RankedUnit(ranked, cells[filled], empty, gene_counts, tally)

    def _totals(self, cells: NDArray[np.int64], rows: CellRows, tally: Tally) -> NDArray[np.float64] | None:
        """Totals to scale the counts by where these are kept: those given, else the sums; given ones are checked."""
        totals, scale = self.ready.totals, self.options.counts
        if totals is None and not scale:
            return None
        sums = _row_sums(rows, rows.data)
        if totals is None:
            return np.where(sums > 0, sums, 1.0)
        given = totals[cells]
        impossible = (given <= 0) & (sums > 0)
        if impossible.any():
            raise invalid_total(self.ready.source, cells[impossible], totals)
        tally.n_disagreeing = int(np.sum(np.abs(given - sums) > _DISAGREEMENT * np.maximum(given, sums)))
        tally.given, tally.counted = float(given.sum()), float(sums.sum())
        return np.where(given > 0, given, 1.0) if scale else None


def _row_sums(rows: CellRows, data: NDArray[Any]) -> NDArray[np.float64]:
    """Sums of the cells; each is of the cell's own entries alone, so that its neighbors change no rounding."""
    sums = np.zeros(rows.n_cells)
    filled = np.diff(rows.indptr) > 0
    if filled.any():
        sums[filled] = np.add.reduceat(data, rows.indptr[:-1][filled], dtype=np.float64)
    return sums


def _read_ahead(chunks: Iterator[tuple[int, CellRows]]) -> Iterator[tuple[int, CellRows]]:
    """The chunks, each read while the one before it is worked on: unpacking leaves the interpreter free."""
    with ThreadPoolExecutor(1) as reader:
        coming = reader.submit(next, chunks, None)
        while (chunk := coming.result()) is not None:
            coming = reader.submit(next, chunks, None)
            yield chunk


def _select(rows: CellRows, marks: NDArray[np.bool_]) -> CellRows:
    """Rows reduced to the cells in `marks`, ``(n,)``."""
    if marks.all():
        return rows
    lengths = np.diff(rows.indptr)
    entries = np.repeat(marks, lengths)
    indptr = np.concatenate([[0], np.cumsum(lengths[marks])]).astype(np.int64)
    return CellRows(indptr, rows.indices[entries], rows.data[entries])


def _join_units(parts: list[RankedUnit]) -> RankedUnit:
    """Consecutive runs of cells as one."""
    if len(parts) == 1:
        return parts[0]
    tally = Tally()
    for part in parts:
        tally.add(part.tally)
    return RankedUnit(
        join_cells([part.ranked for part in parts], with_counts=parts[0].ranked.counts is not None),
        np.concatenate([part.cells for part in parts]),
        np.concatenate([part.empty for part in parts]),
        np.sum([part.gene_counts for part in parts], axis=0),
        tally,
    )


@dataclass(frozen=True, kw_only=True, slots=True)
class RowForm:
    """How rows are built; by default as everywhere in this package."""

    names: Mapping[str, str] | None = None
    id_type: Literal["int16", "int32"] = "int32"
    special_tokens: bool = True
    max_length: int | None = None
    names_vocabulary: bool = True
    rows: bool = False

    def schema(self, preparation: Preparation, *, counts: bool) -> pa.Schema:
        """Columns of the dataset, in order."""
        fields = [(keys.INPUT_IDS, pa.list_(pa.type_for_alias(self.id_type)))]
        fields += [(keys.COUNTS, pa.list_(pa.float64()))] if counts else []
        length = (keys.LENGTH, pa.int64())
        if self.names is None:
            own = [(keys.CELL_ID, pa.string()), (keys.SOURCE, pa.string())]
            own += [(keys.ROW, pa.int64())] if self.rows else []
            return pa.schema([*fields, *own, *((c.name, c.kind) for c in preparation.columns), length])
        described = [(self.names[column.origin], column.kind) for column in preparation.columns]
        last = [] if self._has_cell_id else [(keys.CELL_ID, pa.string())]
        return pa.schema([*fields, *described, length, *last])

    def described(self, preparation: Preparation, number: int, unit: RankedUnit) -> dict[str, Any]:
        """What describes the cells of a unit of source `number`, by column."""
        ready = preparation.sources[number]
        if not len(unit.cells):
            return {}
        start, stop = int(unit.cells[0]), int(unit.cells[-1]) + 1
        columns: dict[str, Any] = {}
        if not self._has_cell_id:
            names = ready.source.cell_names(start, stop)
            columns[keys.CELL_ID] = arrow_texts(names[unit.cells - start].tolist())
        if self.names is None:
            columns[keys.SOURCE] = arrow_texts([ready.name] * len(unit.cells))
        if self.rows:
            before = sum(earlier.source.n_cells for earlier in preparation.sources[:number])
            columns[keys.ROW] = arrow_numbers(unit.cells + before)
        for column in preparation.columns:
            written = column.name if self.names is None else self.names[column.origin]
            if column.origin not in ready.source.obs:
                columns[written] = pa.nulls(len(unit.cells), column.kind)
                continue
            columns[written] = ready.source.obs.column(column.origin, start, stop)
            if len(unit.cells) < stop - start:
                columns[written] = columns[written].take(arrow_numbers(unit.cells - start))
        return columns

    def genes(self, vocabulary: Vocabulary) -> RankedGenes:
        """What cells are ranked by."""
        if self.special_tokens:
            return vocabulary
        return UnframedGenes(token_ids=vocabulary.token_ids, medians=vocabulary.medians)

    def longest(self, options: TokenizeOptions, vocabulary: Vocabulary) -> int:
        """Most tokens of a cell, special tokens included."""
        if self.max_length is not None:
            return self.max_length
        if options.max_length is None:
            return vocabulary.input_size
        if options.max_length > vocabulary.input_size:
            msg = (
                f'max_length={options.max_length} is more than vocabulary "{vocabulary.name}" is made for. It takes at '
                f"most {vocabulary.input_size}."
            )
            raise OutOfRangeError(msg)
        return options.max_length

    def fingerprint(self, vocabulary: Vocabulary) -> str | None:
        """The vocabulary that the dataset names as its own."""
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


@dataclass(frozen=True, kw_only=True, slots=True)
class UnframedGenes:
    """Genes of a vocabulary for cells without `<cls>` and `<eos>`."""

    token_ids: NDArray[np.int32]
    medians: NDArray[np.float64]
    cls_id: int | None = None
    eos_id: int | None = None


class _Collector:
    """Gathers batches of cells in memory, as `DatasetWriter` does on the disk."""

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
        arrays = {keys.INPUT_IDS: arrow_lists(offsets, values)}
        if counts is not None:
            arrays[keys.COUNTS] = arrow_lists(offsets, counts)
        arrays[keys.LENGTH] = arrow_numbers(np.diff(offsets))
        complete = {**columns, **arrays}
        ordered = [arrow_column(field.name, complete[field.name], field.type) for field in self._schema]
        self._batches.append(pa.record_batch(ordered, schema=self._schema))

    def dataset(self, vocabulary: str | None, report: "TokenizeReport") -> TokenizedDataset:
        """All cells so far."""
        table = pa.Table.from_batches(self._batches, schema=self._schema)
        return TokenizedDataset(table, vocabulary=vocabulary, report=report.to_dict())


def _warn(remarks: Iterable[str]) -> None:
    for remark in remarks:
        warnings.warn(remark, GeneformerWarning, stacklevel=3)


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


@dataclass(frozen=True, kw_only=True, slots=True)
class SourceReport:
    """What came of one input.

    Attributes
    ----------
    name, path, place
        The cells' `source`, where it is, and which of its matrices was read.
    n_cells
        Cells read.
    n_filtered
        Cells left out by `filter_pass`.
    n_empty, empty_cells
        Cells without a gene of the vocabulary, and names of the first ten thousand of them.
    n_written
        Cells in the dataset.
    n_truncated
        Cells with more genes than there was room for.
    n_missing
        Missing values taken for zero.
    n_other_features
        Columns left out because they are no genes.
    matched_share
        Share of the counts in genes of the vocabulary.
    genes
        How gene identifiers were matched.
    """

    name: str
    path: str | None
    place: str
    n_cells: int
    n_filtered: int
    n_empty: int
    empty_cells: tuple[str, ...]
    n_written: int
    n_truncated: int
    n_missing: int
    n_other_features: int
    matched_share: float
    genes: Mapping[str, Any]


@dataclass(frozen=True, kw_only=True, slots=True, repr=False)
class TokenizeReport(Summarized):
    """What tokenizing did.

    Attributes
    ----------
    sources
        One report per input.
    tokens_per_cell
        Least, median and most tokens of a cell; zeros without cells.
    warnings
        What was repaired or looks wrong.
    accepted_normalized
        Whether values that are no counts were allowed.
    """

    sources: tuple[SourceReport, ...]
    tokens_per_cell: tuple[int, float, int]
    warnings: tuple[str, ...]
    accepted_normalized: bool

    @property
    def n_cells(self) -> int:
        """Cells read."""
        return sum(source.n_cells for source in self.sources)

    @property
    def n_written(self) -> int:
        """Cells in the dataset."""
        return sum(source.n_written for source in self.sources)

    @property
    def n_filtered(self) -> int:
        """Cells left out by `filter_pass`."""
        return sum(source.n_filtered for source in self.sources)

    @property
    def n_empty(self) -> int:
        """Cells without a gene of the vocabulary."""
        return sum(source.n_empty for source in self.sources)

    @property
    def n_truncated(self) -> int:
        """Cells with more genes than there was room for."""
        return sum(source.n_truncated for source in self.sources)

    def to_dict(self) -> dict[str, Any]:
        """The report as JSON can hold it, totals included."""
        totals = ("n_cells", "n_written", "n_filtered", "n_empty", "n_truncated")
        return {**{name: getattr(self, name) for name in totals}, **asdict(self)}

    def summary_of(self) -> Summary:
        """The same as lines of a table, with what was repaired or looks wrong."""
        return Summary(title=type(self).__name__, facts=self.rows(), note=" ".join(self.warnings)[:400])

    def rows(self) -> list[tuple[str, str]]:
        """Lines of a table for people: what, and how much."""
        least, median, most = self.tokens_per_cell
        lines = [
            ("cells read", f"{self.n_cells:,}"),
            ("cells tokenized", f"{self.n_written:,}"),
            ("left out: filter_pass", f"{self.n_filtered:,}"),
            ("left out: no gene of the vocabulary", f"{self.n_empty:,}{self.empty_names()}"),
            ("tokens per cell", f"median {median:,.0f}, from {least:,} to {most:,}"),
            ("cells with more genes than fit", f"{self.n_truncated:,}"),
        ]
        lines.extend((f"genes of {source.name}", _genes(source)) for source in self.sources)
        missing = sum(source.n_missing for source in self.sources)
        if missing:
            lines.append(("missing values taken for zero", f"{missing:,}"))
        if self.accepted_normalized:
            lines.append(("values", "not checked to be raw counts (--accept-normalized)"))
        return lines

    def empty_names(self) -> str:
        """Some of the cells without a gene, in parentheses."""
        names = [name for source in self.sources for name in source.empty_cells]
        return f" ({', '.join(names[:3])}{', …' if len(names) > 3 else ''})" if names else ""


def _genes(source: SourceReport) -> str:
    genes = source.genes
    parts = [f"{genes['genes_matched']:,} of {genes['genes_read']:,} matched"]
    if genes["genes_summed"]:
        parts.append(f"{genes['genes_summed']:,} summed into another")
    parts.append(f"{genes['genes_left_out']:,} left out")
    if source.n_other_features:
        parts.append(f"{source.n_other_features:,} other features left out")
    parts.append(f"{source.matched_share:.1%} of the counts")
    return ", ".join(parts)
