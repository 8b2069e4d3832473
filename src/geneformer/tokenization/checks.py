"""Open and check all inputs: whatever can be refused before the first cell is ranked.

Values are raw counts or they are refused: a sample is looked at before any work, and every value once more when it is
read.
"""

import os
import re
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from geneformer.errors import InputNotFoundError, UnknownColumnError
from geneformer.files import check_file
from geneformer.tokenization.readers.anndata import open_anndata, open_anndata_zarr, open_stored
from geneformer.tokenization.readers.loom import open_loom
from geneformer.tokenization.readers.source import (
    ACCEPTED,
    CountSource,
    genes_only,
    open_hdf5,
    reading,
    unknown_content,
)
from geneformer.tokenization.readers.tenx import (
    MATRIX_SUFFIXES,
    genomes_of,
    matrix_files,
    open_tenx_folder,
    open_tenx_h5,
)
from geneformer.tokenization.readers.text import open_text

if TYPE_CHECKING:
    from anndata import AnnData
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from functools import reduce
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from geneformer import keys
from geneformer.errors import (
    FilterPassError,
    GeneIdsNotFoundError,
    InvalidTotalsError,
    NoCellsError,
    NonFiniteCountsError,
    NotRawCountsError,
    UnreadableInputError,
    UnsupportedGeneIdsError,
    option,
)
from geneformer.genes.lookup import INDEX, GeneMatch, check_matched_share, find_genes, resolve_genes
from geneformer.genes.vocabulary import Vocabulary
from geneformer.options import TokenizeOptions
from geneformer.options._fields import nearest, some_of
from geneformer.tokenization.ranking import CellRows
from geneformer.tokenization.readers.source import RAW, Sample, place_of, triples
from geneformer.tokens.dataset import arrow_values

if TYPE_CHECKING:
    from anndata import AnnData


_SHOWN = 5
_SAME_SUM = 1e-3
_LOG_LIMIT = 30.0
"""No logarithm of a count is larger than this."""

_LARGEST = 1e12
"""No gene is counted that often in a cell."""

_NOISE, _LARGEST_NOISE = 1e-6, 1e-3
"""Counts that went through a logarithm and back are off by about this share, at most so much."""

_TRANSPOSED = 0.3
"""Where more names of cells than this share are genes, rows are genes."""

_MANY = 1000
"""Values from which on it is remarkable that all are 1."""

_YES = {"true", "t", "yes", "y", "1", "1.0", "pass", "passed"}
_NO = {"false", "f", "no", "n", "0", "0.0", "fail", "failed"}
_CELLS_AT_ONCE = 100_000
_FEW_GENES = 0.2
"""A matrix with fewer columns than this share of the vocabulary was probably reduced to chosen genes."""


@dataclass(frozen=True, slots=True)
class OutputColumn:
    """A column of the dataset that comes from the tables of cells."""

    name: str
    origin: str
    kind: pa.DataType


@dataclass(frozen=True, slots=True)
class PreparedSource:
    """A source that passed every check that needs no full reading."""

    source: CountSource
    name: str
    match: GeneMatch
    passing: NDArray[np.bool_] | None
    totals: NDArray[np.float64] | None
    only_ones: bool = False

    @property
    def n_passing(self) -> int:
        """Cells that `filter_pass` leaves."""
        return self.source.n_cells if self.passing is None else int(self.passing.sum())


@dataclass(frozen=True, slots=True)
class Preparation:
    """Inputs ready to be tokenized."""

    sources: tuple[PreparedSource, ...]
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
    remarks: list[str] = []
    given = resolve_inputs(inputs, remarks)
    remarks.extend(_given_twice(given))
    for item in given:
        sources.append(open_counts(item, options.layer))
        stack.callback(sources[-1].close)
    if not any(source.n_cells for source in sources):
        msg = f"There are no cells in {', '.join(source.label for source in sources)}."
        raise NoCellsError(msg)
    columns, of_columns = plan_columns(sources, options.keep)
    remarks.extend(of_columns)
    prepared = []
    for source, name in zip(sources, source_names(sources), strict=True):
        ready = _prepare_source(source, name, vocabulary, options)
        prepared.append(ready)
        remarks.extend(_source_remarks(ready, vocabulary))
    if not any(ready.n_passing for ready in prepared):
        filtered = [ready.source for ready in prepared if ready.passing is not None]
        values = "; ".join(f"{source.label}: {_listed(_filter_counts(source))}" for source in filtered)
        total = sum(source.n_cells for source in sources)
        msg = f"0 of {total:,} cells have `filter_pass` true. Values seen: {values}. Correct the column, or drop it."
        raise NoCellsError(msg)
    remarks.extend(_differing_genes(prepared))
    return Preparation(tuple(prepared), tuple(columns), tuple(remarks))


def _prepare_source(source: CountSource, name: str, vocabulary: Vocabulary, options: TokenizeOptions) -> PreparedSource:
    names: dict[str, Any] = {INDEX: source.var.index(0, source.n_genes)}
    for column in source.var.names:
        if source.var.kind(column) == pa.string() or column == options.gene_ids:
            names[column] = source.var.texts(column)
    # Ensembl ids are matched by the vocabulary's own tables alone, as published; symbols also by another's history.
    try:
        match = resolve_genes(names, vocabulary, options.gene_ids, borrow=False)
    except (GeneIdsNotFoundError, UnsupportedGeneIdsError) as error:
        if not _rows_are_genes(source, vocabulary):
            raise
        msg = f"{source.label}: the gene names stand in the rows (obs), not in var. Transpose it first: adata = adata.T"
        raise GeneIdsNotFoundError(msg) from error
    if match.kind != "ensembl" and not vocabulary.tables.has_aliases:
        match = resolve_genes(names, vocabulary, options.gene_ids)
    sample = source.sample()
    check_values(source, sample, options)
    if source.matrix.seekable:
        # Refuse early where whole cells have next to nothing in the vocabulary; the end decides exactly.
        values = np.nan_to_num(np.asarray(sample.values, dtype=np.float64), posinf=0.0, neginf=0.0)
        counts = np.bincount(sample.genes, weights=values, minlength=source.n_genes)
        check_matched_share(match, counts, options.min_matched / 2)
    passing = passing_cells(source)
    nonzero = sample.values[sample.values != 0]
    only_ones = len(nonzero) >= _MANY and bool((nonzero == 1).all())
    return PreparedSource(source, name, match, passing, given_totals(source, passing), only_ones)


def _given_twice(inputs: "list[Path | AnnData]") -> list[str]:
    """A remark on every file that is among the inputs more than once, under whatever names."""
    paths = [path for path in inputs if isinstance(path, Path) and path.exists()]
    times = Counter((path.stat().st_dev, path.stat().st_ino) for path in paths)
    places = {(path.stat().st_dev, path.stat().st_ino): path for path in reversed(paths)}
    return [
        f'"{places[file]}" is given {number} times: its cells are in the result as often.'
        for file, number in times.items()
        if number > 1
    ]


def _rows_are_genes(source: CountSource, vocabulary: Vocabulary) -> bool:
    """Whether the names of cells are names of genes."""
    names = source.cell_names(0, min(source.n_cells, 2000)).tolist()
    return bool(np.mean(find_genes(names, vocabulary) >= 0) > _TRANSPOSED) if names else False


def _source_remarks(ready: PreparedSource, vocabulary: Vocabulary) -> list[str]:
    """What looks wrong with a source but is no reason to refuse it."""
    source, remarks = ready.source, [*ready.source.remarks]
    if source.obs.left_out:
        listed = some_of((f'"{name}" ({fault})' for name, fault in source.obs.left_out.items()), _SHOWN)
        remarks.append(f"{source.label}: columns of cells are left out: {listed}.")
    if ready.only_ones:
        remarks.append(
            f"{source.label}: every value looked at is 1. Counts that were reduced to present and absent have no order "
            "of their own: genes are ranked by their medians alone."
        )
    if source.n_genes < _FEW_GENES * len(vocabulary.genes):
        remarks.append(
            f"{source.label} has only {source.n_genes:,} genes: it looks reduced to chosen genes. Ranks compare all "
            "genes of a cell; give the full matrix if there is one."
        )
    hashes = np.empty(source.n_cells, dtype=np.int64)
    for start in range(0, source.n_cells, _CELLS_AT_ONCE):
        names = source.cell_names(start, min(start + _CELLS_AT_ONCE, source.n_cells))
        hashes[start : start + len(names)] = [hash(name) for name in names]
    repeated = source.n_cells - len(np.unique(hashes))
    if repeated:
        remarks.append(
            f"{source.label}: {repeated:,} cells share their name with another one; `cell_id` does not tell them apart."
        )
    if source.n_other_features:
        remarks.append(f"{source.label}: {source.n_other_features:,} features that are no genes are left out.")
    if ready.passing is not None and not ready.passing.any():
        values = _listed(_filter_counts(source))
        remarks.append(f"{source.label}: no cell has `filter_pass` true ({values}).")
    return remarks


def _differing_genes(prepared: list[PreparedSource]) -> list[str]:
    """A remark where inputs measure clearly different genes: their zeros then differ in meaning."""
    gene_sets = [np.unique(ready.match.positions[ready.match.positions >= 0]) for ready in prepared]
    everywhere = reduce(np.intersect1d, gene_sets)
    if len(everywhere) >= 0.9 * max(map(len, gene_sets)):
        return []
    listed = ", ".join(f"{ready.name} {len(genes):,}" for ready, genes in zip(prepared[:6], gene_sets[:6], strict=True))
    return [
        f"The inputs measure different genes ({listed}; {len(everywhere):,} in all of them): a gene missing from one "
        "looks like a gene not expressed there."
    ]


def check_values(source: CountSource, sample: Sample, options: TokenizeOptions) -> None:
    """Refuse values of a matrix that are not raw counts."""
    values = np.asarray(sample.values, dtype=np.float64)
    finite = np.isfinite(values)
    where = f"{source.label}: {source.place}"
    if options.missing == "error" and not finite.all():
        places = np.flatnonzero(~finite)
        shown = ", ".join(_entry(source, sample, int(place)) for place in places[:_SHOWN])
        more = f" and {len(places) - _SHOWN:,} more" if len(places) > _SHOWN else ""
        msg = (
            f"{where} holds missing or infinite values: {shown}{more}. Correct them, or take them for zero with "
            f"{option('missing', 'zero')}."
        )
        raise NonFiniteCountsError(msg)
    whole = np.rint(np.where(finite, values, 0))
    negative, too_large = finite & (values < 0), finite & (values > _LARGEST)
    fractional = finite & (values != whole) & ~_nearly_whole(values, whole)
    for fault, marks in (("negative", negative), ("fractional", fractional), ("too large to be counts", too_large)):
        if not marks.any() or (fault != "negative" and options.accept_normalized):
            continue
        n = int(np.sum(values != 0))
        msg = (
            f"{where} does not hold raw counts. {marks.sum() / max(n, 1):.0%} of {n:,} nonzero values looked at are "
            f"{fault}, for example {_entry(source, sample, int(np.flatnonzero(marks)[0]))}"
        )
        if fault == "negative":
            msg += f": scaled or batch-corrected values have no rank. {_where_raw(source)}"
            raise NotRawCountsError(msg)
        largest = float(values[finite].max())
        msg += (
            f"; the largest is {largest:.6g}.{_kind_of_scaling(sample, largest)} {_where_raw(source)} Values that are "
            f"no counts can be ranked all the same with {option('accept_normalized', True)}."
        )
        raise NotRawCountsError(msg)


def _nearly_whole(values: NDArray[Any], whole: NDArray[Any]) -> NDArray[np.bool_]:
    """Which values are off a whole number by rounding errors alone; missing ones are not."""
    off = np.abs(values - whole)
    return np.asarray(off <= np.clip(_NOISE * np.abs(values), _NOISE, _LARGEST_NOISE), dtype=bool)


def checked(
    rows: CellRows, cells: NDArray[np.int64], source: CountSource, options: TokenizeOptions
) -> tuple[CellRows, int, int]:
    """The rows as counts, with how many missing values were taken for zero and how many values were rounded."""
    data = rows.data
    kind = data.dtype.kind
    if kind == "b" or not len(data):
        return rows, 0, 0
    least, n_missing, n_rounded, wrong = data.min(), 0, 0, False
    # No narrow integer is too large.
    most = data.max() if data.dtype.itemsize > 4 or kind == "f" else 0
    if kind == "f" and not (np.isfinite(least) and np.isfinite(most)):
        missing = ~np.isfinite(data)
        n_missing = int(missing.sum())
        wrong = options.missing == "error"
        data = np.where(missing, 0, data)
        rows = rows if wrong else CellRows(rows.indptr, rows.indices, data)
        least, most = data.min(), data.max()
    no_counts = not options.accept_normalized and most > _LARGEST
    if kind == "f" and not options.accept_normalized and np.any(data != (whole := np.rint(data))) and not wrong:
        no_counts = no_counts or not _nearly_whole(data, whole).all()
        n_rounded = int(np.count_nonzero(data != whole))
        rows = rows if no_counts else CellRows(rows.indptr, rows.indices, whole)
    if wrong or least < 0 or no_counts:
        entries = triples(rows, 0)
        check_values(source, Sample(cells[entries.cells], entries.genes, entries.values), options)
    return rows, n_missing, n_rounded


def _looks_raw(sample: Sample) -> bool:
    """Whether a sample holds counts: some values that are not 0, all of them whole and none negative."""
    values = np.asarray(sample.values, dtype=np.float64)
    counts = np.isfinite(values) & (values >= 0) & (values == np.floor(values))
    return bool(counts.all() and values.any())


def _entry(source: CountSource, sample: Sample, place: int) -> str:
    cell, gene = int(sample.cells[place]), int(sample.genes[place])
    cell_name = source.cell_names(cell, cell + 1)[0]
    gene_name = source.var.index(gene, gene + 1)[0]
    return f'{float(sample.values[place]):.6g} (cell "{cell_name}", gene "{gene_name}")'


def _kind_of_scaling(sample: Sample, largest: float) -> str:
    """What was done to the counts, where sums of cells give it away."""
    cells = np.unique(sample.cells, return_inverse=True)[1]
    values = np.asarray(sample.values, dtype=np.float64)
    scalings = {"normalized": values}
    if largest < _LOG_LIMIT:
        scalings["logarithms of normalized counts"] = np.expm1(values)
    for name, numbers in scalings.items():
        sums = np.bincount(cells, weights=numbers)
        if len(sums) > 2 and np.ptp(sums) <= _SAME_SUM * abs(sums.mean()):
            return f" They are {name}: every cell sums up to {sums.mean():,.6g}."
    return ""


def _where_raw(source: CountSource) -> str:
    raw = []
    for layer in source.others:
        with suppress(UnreadableInputError):  # of another layer than the one to be refused
            raw.extend([layer] if _looks_raw(source.sample(20_000, layer=layer)) else [])
    if not raw:
        return "No other layer holds raw counts: give the matrix as the sequencing pipeline wrote it."
    places = " and ".join(place_of(layer) for layer in raw)
    verb = "holds" if len(raw) == 1 else "hold"
    name = raw[0] if raw[0] != RAW or len(raw) == 1 else raw[1]
    return f"{places} {verb} raw counts: choose with {option('layer', name)}."


def passing_cells(source: CountSource) -> NDArray[np.bool_] | None:
    """Cells that `filter_pass` marks, ``(n,)``; None where there is no such column."""
    if keys.FILTER_PASS not in source.obs.names:
        return None
    counts = _filter_counts(source)
    unclear = {value: n for value, n in counts.items() if str(value).strip().lower() not in _YES | _NO}
    if unclear:
        msg = (
            f"{source.label}: obs column `filter_pass` holds {_listed(unclear)}, which cannot be read as yes or no. "
            "Use true and false, yes and no, 1 and 0, or pass and fail; or drop the column to keep all cells."
        )
        raise FilterPassError(msg)
    passing = np.empty(source.n_cells, dtype=bool)
    for start in range(0, source.n_cells, _CELLS_AT_ONCE):
        stop = min(start + _CELLS_AT_ONCE, source.n_cells)
        values = source.obs.column(keys.FILTER_PASS, start, stop).dictionary_encode()
        verdicts = np.array([str(value).strip().lower() in _YES for value in values.dictionary.to_pylist()], dtype=bool)
        passing[start : start + len(values)] = verdicts[values.indices.to_numpy()]
    return passing


def _filter_counts(source: CountSource) -> dict[object, int]:
    """How often each value of `filter_pass` occurs."""
    counts: dict[object, int] = {}
    for start in range(0, source.n_cells, _CELLS_AT_ONCE):
        values = source.obs.column(keys.FILTER_PASS, start, min(start + _CELLS_AT_ONCE, source.n_cells))
        for entry in values.value_counts().to_pylist():
            counts[entry["values"]] = counts.get(entry["values"], 0) + entry["counts"]
    return counts


def _listed(counts: dict[object, int]) -> str:
    commonest = sorted(counts.items(), key=lambda item: -item[1])[:8]
    more = ", …" if len(counts) > len(commonest) else ""
    return ", ".join(f"{value!r} in {n:,} cells" for value, n in commonest) + more


def given_totals(source: CountSource, passing: NDArray[np.bool_] | None) -> NDArray[np.float64] | None:
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
    totals = np.asarray(arrow_values(column), dtype=np.float64)
    wrong = ~(np.isfinite(totals) & (totals >= 0))
    if passing is not None:
        wrong &= passing
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
        lacking = [source.label for source in sources if name not in source.obs]
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
        kinds = [source.obs.kind(name) for source in sources if name in source.obs]
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


_HDF5 = (".h5ad", ".h5", ".hdf5", ".loom")
_TEXT = (".csv", ".tsv", ".txt", ".csv.gz", ".tsv.gz", ".txt.gz")
_ZARR_MARKS = (".zgroup", "zarr.json", ".zmetadata")


def open_counts(source: "str | Path | AnnData", layer: str | None = None) -> CountSource:
    """Counts ready to be read a few cells at a time; nothing is ever written to them."""
    path = Path(source) if isinstance(source, (str, Path)) else None
    with reading(path):
        return genes_only(open_anndata(source, layer) if path is None else _open_path(path, layer))


def _open_path(path: Path, layer: str | None) -> CountSource:
    if path.is_dir():
        return _open_folder(path, layer)
    check_file(path)
    name = path.name.lower()
    if name.endswith(_HDF5):
        return _open_hdf5(path, layer)
    if not name.endswith((*MATRIX_SUFFIXES, *_TEXT)):
        raise unknown_content(path, f'Its name ends in "{path.suffix}".')
    _refuse_layer(layer, path)
    return open_tenx_folder(path) if name.endswith(MATRIX_SUFFIXES) else open_text(path)


def resolve_inputs(
    inputs: "Iterable[str | Path | AnnData]", remarks: list[str] | None = None
) -> "list[Path | AnnData]":
    """Every single source among the inputs, folders of files opened up, in order of their names.

    What is left out of a folder is told in `remarks`.
    """
    sources: list[Any] = []
    for item in inputs:
        if not isinstance(item, (str, Path)):
            sources.append(item)
            continue
        path = Path(item)
        if not path.is_dir() or _is_zarr(path):
            if not path.exists():
                check_file(path)
            sources.append(path)
            continue
        members = _without_unfiltered(path, _members(path), remarks if remarks is not None else [])
        if not members:
            there = ", ".join(sorted(entry.name for entry in path.iterdir())[:8]) or "nothing"
            msg = f'The folder "{path}" holds no counts (found: {there}). Accepted: {ACCEPTED}.'
            raise InputNotFoundError(msg)
        sources.extend(members)
    if not sources:
        msg = f"There is nothing to read. Accepted: {ACCEPTED}."
        raise InputNotFoundError(msg)
    return sources


def source_names(sources: Sequence[CountSource]) -> list[str]:
    """One name per source: the file name without suffix; where several have it, with folders before it or a number."""
    # Names of files may hold bytes that are no text.
    names = [os.fsencode(source.name).decode("utf-8", "replace") for source in sources]
    for name in {name for name in names if names.count(name) > 1}:
        group = [number for number, other in enumerate(names) if other == name]
        folders = [_parents(sources[number]) for number in group]
        for depth in range(1, max(map(len, folders)) + 1):
            longer = ["/".join([*parents[-depth:], name]) for parents in folders]
            if len(set(longer)) == len(group):
                break
        else:
            longer = [f"{name}-{place + 1}" for place in range(len(group))]
        for number, new in zip(group, longer, strict=True):
            names[number] = new
    return names


def _parents(source: CountSource) -> tuple[str, ...]:
    return () if source.path is None else source.path.absolute().parent.parts[1:]


def _members(folder: Path) -> list[Path]:
    """Sources directly inside a folder; a folder with one `matrix.mtx` is that one source."""
    matrices = matrix_files(folder)
    if matrices:
        return matrices
    members = []
    for entry in sorted(folder.iterdir()):
        if entry.name.startswith("."):
            continue
        if entry.is_dir():
            members.extend([entry] if _is_zarr(entry) else matrix_files(entry))
        elif entry.name.lower().endswith((*_HDF5, *_TEXT)):
            members.append(entry)
    return members


_CELL_RANGER = re.compile(r"(?P<sample>.*)(?P<kind>raw|filtered)_(?:feature|gene)_bc_matri(?:x|ces)(?:_h5)?(?:\.h5)?")


def _without_unfiltered(folder: Path, members: list[Path], remarks: list[str]) -> list[Path]:
    """Of the matrices that Cell Ranger writes of one sample, the cells alone, once: not all droplets, nor a copy."""
    chosen: dict[str, Path] = {}
    others, names = [], {}
    for member in members:
        name = next((part for part in member.relative_to(folder).parts if _CELL_RANGER.fullmatch(part)), "")
        names[member] = name
        match = _CELL_RANGER.fullmatch(name)
        if match is None or match["kind"] == "raw":
            continue
        if match["sample"] not in chosen or name.endswith(".h5"):
            chosen[match["sample"]] = member
    kept = []
    for member in members:
        match = _CELL_RANGER.fullmatch(names[member])
        if match is not None and chosen.get(match["sample"], member) != member:
            others.append(names[member])
        elif match is None and chosen and member.name in _NO_COUNTS:
            others.append(member.name)
        else:
            kept.append(member)
    if others:
        read = ", ".join(f'"{path.relative_to(folder)}"' for path in chosen.values())
        remarks.append(
            f'"{folder}": {", ".join(others)} left out, as unfiltered droplets or the same cells twice; {read} read.'
        )
    return kept


_NO_COUNTS = ("molecule_info.h5", "metrics_summary.csv")
"""What Cell Ranger puts beside its matrices."""


def _is_zarr(path: Path) -> bool:
    return path.suffix == ".zarr" or any((path / mark).exists() for mark in _ZARR_MARKS)


def _open_folder(path: Path, layer: str | None) -> CountSource:
    if _is_zarr(path):
        return open_anndata_zarr(path, layer)
    members = resolve_inputs([path])
    if len(members) > 1:
        raise unknown_content(path, f"It is a folder of {len(members)} inputs; open them one by one.")
    return open_counts(members[0], layer)


def _open_hdf5(path: Path, layer: str | None) -> CountSource:
    with ExitStack() as on_failure:
        root = on_failure.enter_context(open_hdf5(path))
        if {"obs", "var"} <= set(root) or "mod" in root:
            source = open_stored(root, path, layer)
        elif {"matrix", "row_attrs", "col_attrs"} <= set(root):
            source = open_loom(root, path, layer)
        elif genomes_of(root):
            _refuse_layer(layer, path)
            source = open_tenx_h5(root, path)
        else:
            inside = ", ".join(f"{key} {tuple(getattr(root[key], 'shape', ()))}" for key in list(root)[:6]) or "nothing"
            raise unknown_content(path, f"It is HDF5, but neither AnnData, loom nor 10x: it holds {inside}.")
        on_failure.pop_all()
    return source


def _refuse_layer(layer: str | None, path: Path) -> None:
    if layer not in (None, "X"):
        msg = f'"{path}" is a single matrix without layers, but layer "{layer}" was asked for. Leave it out.'
        raise UnknownColumnError(msg)
