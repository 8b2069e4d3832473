"""A source of counts: one matrix of cells by genes with its two tables, whatever it was opened from.

Matrices and tables are read a few cells at a time, wherever they are: memory, HDF5 or Zarr; rows, columns or dense.
"""

import csv
import re
import struct
import tempfile
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from geneformer.errors import (
    GeneformerError,
    GeneIdsNotFoundError,
    UnknownColumnError,
    UnreadableInputError,
    UnsupportedFormatError,
    option,
    reason_of,
)
from geneformer.files import check_file, require
from geneformer.options._fields import nearest
from geneformer.tokenization.ranking import CellRows
from geneformer.tokenization.readers.structure import (
    DamagedError,
    array,
    attribute,
    column_fault,
    complete,
    in_range,
    member,
    required,
    row_ends,
)
from geneformer.tokens.dataset import arrow_column, arrow_numbers, arrow_texts, arrow_type

ACCEPTED = (
    ".h5ad, .zarr, .loom, 10x .h5, a folder with matrix.mtx, barcodes.tsv and features.tsv, .csv, .tsv (also .gz), or "
    "a folder of these"
)
"""What `open_counts` reads, for messages."""

RAW = "raw"
"""Name under which `adata.raw` is asked for."""

_FEATURE_TYPES = ("feature_types", "feature_type", "modality")
_GENES = frozenset({"geneexpression", "gex", "rna", "mrna", "gene", "genes", "expression", "transcriptome"})
_OTHERS = frozenset({
    "antibodycapture", "antibody", "antibodies", "adt", "adts", "ab", "protein", "proteins", "prot", "surfaceprotein",
    "cite", "citeseq", "totalseq", "hto", "htos", "hashtag", "hashtags", "hashing", "cellhashing", "crispr",
    "multiplexingcapture", "crisprguidecapture", "guide", "guides", "guidecapture", "grna", "sgrna", "antigencapture",
    "custom", "peak", "peaks", "atac", "chromatinaccessibility", "vdj", "tcr", "bcr", "lipids", "metabolites",
})  # fmt: skip
"""Words for kinds of features, in small letters and digits alone."""


class Sample(NamedTuple):
    """A few entries of a matrix and where they stand: each array ``(entries,)``."""

    cells: NDArray[np.int64]
    genes: NDArray[np.int64]
    values: NDArray[Any]


class RowMatrix(Protocol):
    """A matrix of cells by genes that hands out runs of cells."""

    @property
    def shape(self) -> tuple[int, int]:
        """Cells and genes."""

    @property
    def seekable(self) -> bool:
        """Whether any run of cells is reached without reading those before it, by several threads at once."""

    def chunks(self, size: int, start: int, stop: int) -> Iterator[CellRows]:
        """Cells `start` to `stop` in order, at most `size` at a time."""

    def sample(self, entries: int) -> Sample:
        """About `entries` entries from different places."""


@dataclass(frozen=True, slots=True)
class CountSource:
    """Counts of cells over genes; opened for reading only and read a few cells at a time.

    `others` opens the other matrices by the name of their layer. `gene_columns` numbers the columns of the matrices
    that are genes, ``(columns,)``, with -1 for other features; None where all are genes.
    """

    name: str
    path: Path | None
    place: str
    matrix: RowMatrix
    obs: "Table"
    var: "Table"
    others: Mapping[str, Callable[[], RowMatrix]] = field(default_factory=dict)
    gene_columns: NDArray[np.int32] | None = None
    companions: tuple[Path, ...] = ()
    closers: tuple[Callable[[], object], ...] = ()
    remarks: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        """Tables must describe the matrix."""
        self.obs.path = self.var.path = self.path
        if self.gene_columns is None and self.matrix.shape != (self.obs.n_rows, self.var.n_rows):
            msg = (
                f"{self.place} is {self.matrix.shape[0]:,} x {self.matrix.shape[1]:,}, but there are "
                f"{self.obs.n_rows:,} names of cells and {self.var.n_rows:,} of genes"
            )
            raise DamagedError(msg)

    @property
    def n_cells(self) -> int:
        """Cells."""
        return self.matrix.shape[0]

    @property
    def n_genes(self) -> int:
        """Genes, known to a vocabulary or not."""
        return self.matrix.shape[1] - self.n_other_features

    @property
    def n_other_features(self) -> int:
        """Columns of the matrix that are left out because they are no genes."""
        return 0 if self.gene_columns is None else int((self.gene_columns < 0).sum())

    @property
    def label(self) -> str:
        """The input in messages."""
        return f'"{self.path}"' if self.path is not None else "adata"

    @property
    def files(self) -> tuple[Path, ...]:
        """All files it is read from; none in memory."""
        return () if self.path is None else (self.path, *self.companions)

    def chunks(self, size: int, start: int = 0, stop: int | None = None) -> Iterator[CellRows]:
        """Cells `start` to `stop` in order, at most `size` at a time."""
        with reading(self.path):
            for rows in self.matrix.chunks(size, start, self.n_cells if stop is None else stop):
                if self.gene_columns is None:
                    yield rows
                    continue
                columns = self.gene_columns[rows.indices]
                is_gene = columns >= 0
                indptr = np.concatenate([[0], np.cumsum(is_gene)])[rows.indptr]
                yield CellRows(indptr, columns[is_gene], rows.data[is_gene])

    def sample(self, entries: int = 60_000, *, layer: str | None = None) -> Sample:
        """A few entries from different places of the matrix, or of another layer."""
        with reading(self.path):
            sample = (self.matrix if layer is None else self.others[layer]()).sample(entries)
        if self.gene_columns is None:
            return sample
        columns = self.gene_columns[sample.genes].astype(np.int64)
        is_gene = columns >= 0
        return Sample(sample.cells[is_gene], columns[is_gene], sample.values[is_gene])

    def cell_names(self, start: int, stop: int) -> NDArray[np.object_]:
        """Names of some cells."""
        with reading(self.path):
            return self.obs.index(start, stop)

    def close(self) -> None:
        """Close files and delete temporary ones."""
        for close in self.closers:
            close()


def genes_only(source: CountSource) -> CountSource:
    """The source without columns that its gene table marks as something else than genes, in whatever spelling."""
    for name in source.var.names:
        if name.lower() not in _FEATURE_TYPES:
            continue
        kinds = source.var.texts(name).tolist()
        words = {kind: re.sub(r"[^a-z0-9]", "", str(kind).lower()) for kind in set(kinds)}
        if not set(words.values()) & (_GENES | _OTHERS):
            continue  # kinds of genes, as other tables keep under this name
        if set(words.values()) & _GENES:
            is_gene = np.array([words[kind] in _GENES for kind in kinds], dtype=bool)
        else:
            is_gene = np.array([words[kind] not in _OTHERS for kind in kinds], dtype=bool)
        if is_gene.all():
            return source
        if not is_gene.any():
            msg = (
                f'{source.label} has no genes: var["{name}"] calls its features {", ".join(sorted(map(str, words)))}. '
                "Give the matrix of gene expression."
            )
            raise GeneIdsNotFoundError(msg)
        columns = np.where(is_gene, np.cumsum(is_gene) - 1, -1).astype(np.int32)
        others = {layer: make for layer, make in source.others.items() if layer != RAW}  # it has columns of its own
        return replace(source, gene_columns=columns, var=source.var.select(is_gene), others=others)
    return source


class Table:
    """`obs` or `var`, wherever its columns lie: pandas, NumPy, Arrow, HDF5 or Zarr; a few rows are read at a time.

    `hidden` names columns that only hold the row names once more, for those who ask for them by name; `left_out` says
    of columns that cannot be carried along why not.
    """

    def __init__(
        self,
        columns: Mapping[str, Any],
        index: Any = None,
        *,
        n_rows: int,
        hidden: tuple[str, ...] = (),
        left_out: Mapping[str, str] | None = None,
    ) -> None:
        self.n_rows = n_rows
        self.left_out = dict(left_out or {})
        self.path: Path | None = None
        self.names = tuple(name for name in columns if name not in hidden)
        self._columns = dict(columns)
        self._index = index
        self._kinds: dict[str, pa.DataType] = {}
        self._categories: dict[str, pa.Array] = {}

    @classmethod
    def of(cls, frame: Any) -> "Table":
        """A pandas table; of columns with the same name the first counts."""
        columns: dict[str, Any] = {}
        for place, name in enumerate(frame.columns):
            column = frame.iloc[:, place]
            columns.setdefault(str(name), column.sparse.to_dense() if hasattr(column, "sparse") else column)
        return cls(columns, frame.index, n_rows=len(frame))

    def __contains__(self, name: str) -> bool:
        """Whether a column can be read, one that holds the row names included."""
        return name in self._columns

    def index(self, start: int, stop: int) -> NDArray[np.object_]:
        """Row names as text, ``(stop - start,)``; numbers where there are none."""
        with reading(self.path):
            names = np.arange(start, stop) if self._index is None else _values(self._index, start, stop)
            return np.array([str(name) for name in names], dtype=object)

    def kind(self, name: str) -> pa.DataType:
        """Type of a column; text for categories of text."""
        if name not in self._kinds:
            with reading(self.path):
                self._kinds[name] = _portable(self._stored_kind(name))
        return self._kinds[name]

    def _stored_kind(self, name: str) -> pa.DataType:
        column, encoding = self._columns[name], _encoding(self._columns[name])
        if encoding == "categorical":
            return self._categories_of(name).type
        if encoding == "series":
            return arrow_type(column)
        column = column["values"] if encoding.startswith("nullable-") else column
        is_text = np.dtype(column.dtype).kind in "OSTU"
        return pa.string() if is_text else pa.from_numpy_dtype(column.dtype)

    def column(self, name: str, start: int, stop: int) -> pa.Array:
        """Values of a column, missing ones as nulls, ``(stop - start,)``."""
        kind = self.kind(name)
        with reading(self.path):
            values = self._stored(name, start, stop)
            return values if isinstance(values, pa.Array) and values.type == kind else arrow_column(name, values, kind)

    def _stored(self, name: str, start: int, stop: int) -> Any:
        column = self._columns[name]
        encoding = _encoding(column)
        if encoding == "series":
            return column.iloc[start:stop]
        if encoding == "categorical":
            codes, categories = np.asarray(column["codes"][start:stop]), self._categories_of(name)
            if len(codes) and (codes.max() >= len(categories) or codes.min() < -1):
                msg = f'column "{name}" has codes from {codes.min()} to {codes.max()} for {len(categories)} categories'
                raise DamagedError(msg)
            return categories.take(arrow_numbers(codes, missing=codes < 0))
        if encoding.startswith("nullable-"):
            missing = np.asarray(column["mask"][start:stop], dtype=bool)
            return pa.array(_values(column["values"], start, stop), mask=missing)
        return _arrow_array(_values(column, start, stop))

    def texts(self, name: str) -> NDArray[np.object_]:
        """A whole column as text, missing values as None, ``(rows,)``."""
        column = self._columns[name]
        if _is_hdf5_text(column) and _encoding(column) == "string-array":
            with reading(self.path):
                return _values(column, 0, self.n_rows)
        values = self.column(name, 0, self.n_rows).to_pylist()
        return np.array([None if value is None else str(value) for value in values], dtype=object)

    def select(self, rows: NDArray[np.bool_]) -> "Table":
        """Some rows, in memory."""
        import pandas as pd

        columns = {name: self.column(name, 0, self.n_rows).to_pandas()[rows] for name in self.names}
        index = pd.Index(self.index(0, self.n_rows)[rows], dtype=object)
        return Table(columns, index, n_rows=len(index), left_out=self.left_out)

    def _categories_of(self, name: str) -> pa.Array:
        if name not in self._categories:
            categories = self._columns[name]["categories"]
            values = categories["values"] if hasattr(categories, "keys") else categories
            self._categories[name] = _arrow_array(_values(values, 0, values.shape[0]))
        return self._categories[name]


_TEXTS_AT_ONCE = 8_192
"""Texts in HDF5 are read twice, as bytes and as text; this many of them."""


def stored_table(parent: Any, name: str, categories: Any = None) -> Table:
    """The table in a group of an HDF5 or Zarr file; one written before 2021 is read whole through AnnData.

    `categories` is the group in which AnnData before 0.7 kept the names of categories.
    """
    group = required(parent, name)
    version = attribute(group, "encoding-version")
    if version not in (None, "0.1.0", "0.2.0"):
        msg = f'{group.name} is a table of version "{version}", which is not known'
        raise DamagedError(msg)
    if not hasattr(group, "keys") and not group.dtype.names:
        msg = f"{group.name} is no table"
        raise DamagedError(msg)
    if not hasattr(group, "keys") or version == "0.1.0":
        return Table.of(_old_frame(group, categories))
    index_name = attribute(group, "_index")
    if index_name is None:
        msg = f"{group.name} does not say where its row names are: it has no attribute _index"
        raise DamagedError(msg)
    index = required(group, str(index_name))
    index = required(index, "values") if hasattr(index, "keys") else index
    n_rows = array(index, kinds="OSTUiuf").shape[0]
    complete(index)
    order = attribute(group, "column-order")
    names = [key for key in group if key != index_name] if order is None else map(_text, np.atleast_1d(order))
    columns, left_out = {}, {}
    for column_name in map(str, names):
        column = required(group, column_name)
        fault = column_fault(column, n_rows)
        if fault:
            left_out[column_name] = fault
        else:
            columns[column_name] = column
    return Table(columns, index, n_rows=n_rows, left_out=left_out)


def _old_frame(group: Any, categories: Any) -> Any:
    """A table as AnnData wrote it before 2021."""
    import pandas as pd
    from anndata.io import read_elem

    if hasattr(group, "keys"):
        for name in group:
            required(group, name)
    frame = read_elem(group)
    if not isinstance(frame, np.ndarray):
        return frame
    # AnnData before 0.7 kept a table as one array of records, and the names of categories in `uns`.
    frame = pd.DataFrame.from_records(frame).map(_text)
    names = [name for name in ("index", "_index") if name in frame.columns]
    frame = frame.set_index(names[0]) if names else frame
    for name in frame.columns if hasattr(categories, "keys") else ():
        words = member(categories, f"{name}_categories")
        if words is not None and frame[name].dtype.kind in "iu":
            codes = np.where(frame[name] < 0, -1, frame[name])
            known = np.atleast_1d(_values(words, 0, words.shape[0]) if words.shape else _text(words[()]))
            frame[name] = pd.Categorical.from_codes(codes, pd.Index(known))
    return frame


def _encoding(column: Any) -> str:
    """How AnnData stored a column; "series" for one of pandas."""
    if hasattr(column, "iloc"):
        return "series"
    encoding = str(_text(column.attrs.get("encoding-type", ""))) if hasattr(column, "attrs") else ""
    return encoding or ("array" if hasattr(column, "dtype") else "")


def _values(array: Any, start: int, stop: int) -> NDArray[Any]:
    """A slice of a stored array, text decoded."""
    if _is_hdf5_text(array):
        texts = np.empty(stop - start, dtype=object)
        for first in range(start, stop, _TEXTS_AT_ONCE):
            last = min(first + _TEXTS_AT_ONCE, stop)
            texts[first - start : last - start] = array.asstr()[first:last]
        return texts
    values = np.asarray(array[start:stop])
    if values.dtype.kind in "TSO":
        return np.array([_text(value) for value in values], dtype=object)
    return values


def _arrow_array(values: NDArray[Any]) -> pa.Array:
    """Stored values in Arrow; NaN is missing."""
    if values.dtype.kind == "O":
        plain = all(type(value) is str for value in values)
        return arrow_texts(values.tolist()) if plain else pa.array(values, from_pandas=True)
    return arrow_numbers(values, missing=np.isnan(values) if values.dtype.kind == "f" else None)


def _portable(kind: pa.DataType) -> pa.DataType:
    """Numbers, truth values and text pass; whatever else there is becomes text."""
    if pa.types.is_float16(kind):
        return pa.float32()
    plain = pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_boolean(kind)
    return kind if plain else pa.string()


def _is_hdf5_text(array: Any) -> bool:
    return hasattr(array, "asstr") and array.dtype.kind in "OS"


def _text(value: Any) -> Any:
    return value.decode("utf-8", "replace") if isinstance(value, bytes) else value


MAX_ENTRIES = 250_000
"""Most entries of a sparse matrix in memory at a time, so that deep cells do not cost more than many cells."""

MAX_DENSE = 8_000_000
"""Most elements of a dense matrix in memory at a time."""

BUCKET_ENTRIES = 1_000_000
"""Entries sorted by cell in memory at a time."""

_MOST_BUCKETS = 256
"""Files open at a time."""


class SparseRows:
    """Compressed rows whose arrays are sliced where they lie (NumPy, HDF5, Zarr)."""

    seekable = True

    def __init__(self, indptr: Any, indices: Any, data: Any, shape: tuple[int, int]) -> None:
        self.indptr = row_ends(indptr, indices, data, shape[0])
        self.indices = indices
        self.data = data
        self.shape = shape

    def chunks(self, size: int, start: int, stop: int) -> Iterator[CellRows]:
        """Cells `start` to `stop` in order, at most `size` at a time."""
        while start < stop:
            limit = int(np.searchsorted(self.indptr, self.indptr[start] + MAX_ENTRIES, side="right")) - 1
            end = min(start + size, stop, max(limit, start + 1))
            first, last = int(self.indptr[start]), int(self.indptr[end])
            indptr = self.indptr[start : end + 1].astype(np.int64) - first
            indices = in_range(np.asarray(self.indices[first:last]), self.shape[1], "columns")
            yield CellRows(indptr, indices, np.asarray(self.data[first:last]))
            start = end

    def sample(self, entries: int) -> Sample:
        """About `entries` entries from the first, middle and last cells."""
        per_cell = max(int(self.indptr[-1]) // max(self.shape[0], 1), 1)
        return sample_cells(self, max(min(entries // per_cell, 300), 12))


class DenseRows:
    """A dense matrix, zeros left out on the way."""

    seekable = True

    def __init__(self, values: Any, *, transposed: bool = False) -> None:
        self.array = array(values, ndim=2)
        self.transposed = transposed
        self.shape: tuple[int, int] = tuple(values.shape[::-1] if transposed else values.shape)

    def chunks(self, size: int, start: int, stop: int) -> Iterator[CellRows]:
        """Cells `start` to `stop` in order, at most `size` at a time."""
        size = min(size, max(MAX_DENSE // max(self.shape[1], 1), 1))
        for first in range(start, stop, size):
            last = min(first + size, stop)
            block = self.array[:, first:last] if self.transposed else self.array[first:last]
            yield from_dense(np.asarray(block).T if self.transposed else np.asarray(block))

    def sample(self, entries: int) -> Sample:
        """About `entries` entries from the first, middle and last cells."""
        return sample_cells(self, max(min(entries // max(self.shape[1], 1), 96), 12))


class SortedOnDisk:
    """A matrix that is not stored by cell: read once from start to end into buckets of cells, then sorted by bucket.

    Memory holds one bucket at a time. The buckets of a large matrix are temporary files.
    """

    seekable = False

    def __init__(self, entries: Callable[[], Iterable[Sample]], shape: tuple[int, int], *, expected: int) -> None:
        self.entries = entries
        self.shape = shape
        n_buckets = min(max(expected // BUCKET_ENTRIES, 1), _MOST_BUCKETS, max(shape[0], 1))
        self._cells_per_bucket = max(-(-shape[0] // n_buckets), 1)
        self._folder: tempfile.TemporaryDirectory[str] | None = None
        self._bucket: tuple[int, CellRows] | None = None

    def chunks(self, size: int, start: int, stop: int) -> Iterator[CellRows]:
        """Cells `start` to `stop` in order, at most `size` at a time."""
        while start < stop:
            number, first = divmod(start, self._cells_per_bucket)
            rows = self._rows(number)
            last = min(first + size, first + stop - start, rows.n_cells)
            yield rows.part(first, last)
            start += last - first

    def sample(self, entries: int) -> Sample:
        """The first entries."""
        parts, n_read = [], 0
        for block in self.entries():
            parts.append(Sample(*(column[: entries - n_read] for column in block)))
            n_read += len(parts[-1].cells)
            if n_read >= entries:
                break
        return _joined(parts)

    def close(self) -> None:
        """Delete the temporary files."""
        if self._folder is not None:
            self._folder.cleanup()
        self._folder = self._bucket = None

    def _rows(self, number: int) -> CellRows:
        """The cells of a bucket; the last one asked for stays in memory."""
        if self._bucket is None and self._folder is None:
            self._sort()
        if self._bucket is None or self._bucket[0] != number:
            folder = self._folder.name if self._folder is not None else ""
            self._bucket = number, self._compressed(np.fromfile(Path(folder, str(number)), dtype=_ENTRY), number)
        return self._bucket[1]

    def _sort(self) -> None:
        n_buckets = -(-self.shape[0] // self._cells_per_bucket)
        if n_buckets == 1:
            blocks = [_packed(block) for block in self.entries()]
            self._bucket = 0, self._compressed(np.concatenate([np.empty(0, _ENTRY), *blocks]), 0)
            return
        folder = tempfile.TemporaryDirectory(prefix="geneformer-")
        with ExitStack() as stack:
            files = [stack.enter_context(Path(folder.name, str(number)).open("wb")) for number in range(n_buckets)]
            for block in self.entries():
                buckets = (block.cells // self._cells_per_bucket).astype(np.uint16)
                ordered = _packed(block)[np.argsort(buckets, kind="stable")]
                ends = np.cumsum(np.bincount(buckets, minlength=n_buckets))
                for file, piece in zip(files, np.split(ordered, ends[:-1]), strict=True):
                    file.write(piece.tobytes())
        self._folder = folder

    def _compressed(self, entries: NDArray[Any], number: int) -> CellRows:
        """Compressed rows of one bucket; entries of a cell keep the order they came in."""
        first = number * self._cells_per_bucket
        n_cells = min(self._cells_per_bucket, self.shape[0] - first)
        cells = entries["cell"] - first
        order = np.argsort(cells.astype(np.uint16) if n_cells <= 65_536 else cells, kind="stable")
        indptr = np.concatenate([[0], np.cumsum(np.bincount(cells, minlength=n_cells))]).astype(np.int64)
        return CellRows(indptr, entries["gene"][order], entries["count"][order])


_ENTRY = np.dtype([("cell", "<i4"), ("gene", "<i4"), ("count", "<f8")])
"""An entry on the disk."""


def _packed(block: Sample) -> NDArray[Any]:
    packed = np.empty(len(block.cells), dtype=_ENTRY)
    packed["cell"], packed["gene"], packed["count"] = block
    return packed


def by_columns(indptr: Any, indices: Any, data: Any, shape: tuple[int, int]) -> SortedOnDisk:
    """A matrix of compressed columns, cells by genes, as cells."""
    starts = row_ends(indptr, indices, data, shape[1]).astype(np.int64)
    total = int(starts[-1])

    def entries() -> Iterator[Sample]:
        for first in range(0, total, BUCKET_ENTRIES):
            last = min(first + BUCKET_ENTRIES, total)
            genes = np.searchsorted(starts, np.arange(first, last), side="right") - 1
            cells = in_range(np.asarray(indices[first:last]), shape[0], "cells")
            yield Sample(cells.astype(np.int64), genes, np.asarray(data[first:last]))

    return SortedOnDisk(entries, shape, expected=total)


def from_dense(block: NDArray[Any]) -> CellRows:
    """Compressed rows of a dense block, ``(n, g)``."""
    cells, genes = np.nonzero(block)
    indptr = np.concatenate([[0], np.cumsum(np.bincount(cells, minlength=len(block)))]).astype(np.int64)
    return CellRows(indptr, genes, block[cells, genes])


def sample_cells(matrix: RowMatrix, n_cells: int) -> Sample:
    """All entries of about `n_cells` cells, from the start, the middle and the end of a matrix."""
    n, each = matrix.shape[0], -(-n_cells // 3)
    starts = (0, (n - each) // 2, n - each) if n > 3 * each else range(0, n, each)
    parts = []
    for start in starts:
        first = start
        for rows in matrix.chunks(each, start, min(start + each, n)):
            parts.append(triples(rows, first))
            first += rows.n_cells
    return _joined(parts)


def triples(rows: CellRows, first: int) -> Sample:
    """Entries of some rows with the number of their cell, counted from `first`."""
    cells = np.repeat(np.arange(rows.n_cells), np.diff(rows.indptr)) + first
    return Sample(cells, np.asarray(rows.indices, dtype=np.int64), np.asarray(rows.data))


def _joined(parts: list[Sample]) -> Sample:
    none = np.empty(0, np.int64)
    return Sample(*(np.concatenate(column) for column in zip(*parts, strict=True))) if parts else Sample(*[none] * 3)


def place_of(layer: str | None) -> str:
    """How a matrix is called in messages."""
    if layer in (None, "X"):
        return "X"
    return "raw.X" if layer == RAW else f'layers["{layer}"]'


def require_layer(layer: str | None, available: list[str], where: str) -> None:
    """Refuse a layer that is not there."""
    if (layer or "X") in available:
        return
    listed = ", ".join(f'"{name}"' for name in available) or "no matrix at all"
    if layer is None:
        msg = f"{where} has no X. It has {listed}: choose one with {option('layer', next(iter(available), 'LAYER'))}."
    else:
        msg = f'{where} has no layer "{layer}". It has {listed}.{nearest(layer, available)}'
    raise UnknownColumnError(msg)


_HDF5 = b"\x89HDF\r\n\x1a\n"
_CACHE_BYTES = 8 * 2**20
"""Holds a compressed block from one reading to the next, even a large one."""


def open_hdf5(path: Path) -> Any:
    """The open HDF5 file, for reading only."""
    import h5py

    check_file(path)
    with path.open("rb") as file:
        signature = file.read(len(_HDF5))
    if signature != _HDF5:
        msg = (
            f'"{path}" is not an HDF5 file although its name says so (it begins with {signature[:8]!r}). Get it again.'
        )
        raise UnreadableInputError(msg)
    try:
        return h5py.File(path, "r", rdcc_nbytes=_CACHE_BYTES)
    except BlockingIOError as error:
        msg = f'"{path}" is locked: another program is writing to it. Close that program, or work on a copy.'
        raise UnreadableInputError(msg) from error
    except OSError as error:
        raise UnreadableInputError(_damage(path, error)) from error


def open_zarr(path: Path) -> Any:
    """The open Zarr group, for reading only."""
    zarr = require("zarr", f'Reading "{path}"', extra="zarr")
    try:
        return zarr.open_group(path, mode="r", use_consolidated=False)
    except CAUSES as error:
        msg = f'"{path}" is not a Zarr store of an AnnData ({error}). It may have been copied incompletely.'
        raise UnreadableInputError(msg) from error


CAUSES: tuple[type[Exception], ...] = (
    ArithmeticError, AssertionError, AttributeError, BufferError, EOFError, LookupError, MemoryError, OSError,
    RuntimeError, SystemError, TypeError, ValueError, csv.Error, struct.error, zlib.error, pa.ArrowException,
)  # fmt: skip
"""What libraries raise over content they did not expect."""


@contextmanager
def reading(path: Path | None) -> Iterator[None]:
    """Turn whatever the content of a file causes while it is read into an error that names the file and the cause."""
    try:
        yield
    except GeneformerError:
        raise
    except DamagedError as error:
        msg = (
            f"adata: {error}."
            if path is None
            else f'"{path}" is damaged: {reason_of(error)}. Get it, or write it, again.'
        )
        raise UnreadableInputError(msg) from error
    except CAUSES as error:
        if path is None:
            raise
        raise UnreadableInputError(_damage(path, error)) from error


def unknown_content(path: Path, content: str) -> UnsupportedFormatError:
    """The refusal of a file whose content is none of the known kinds."""
    msg = f'"{path}" is none of the kinds of count files that are read. {content} Accepted: {ACCEPTED}.'
    return UnsupportedFormatError(msg)


def _damage(path: Path, error: Exception) -> str:
    """What is wrong with a file, with its size and, for HDF5, the size it should have."""
    size = path.stat().st_size if path.exists() else 0
    expected = _expected_size(path)
    if expected is not None and expected > size:
        return (
            f'"{path}" is incomplete: {size:,} of {expected:,} bytes are there. The download or copy was interrupted; '
            "get it again."
        )
    cause = str(error) or type(error).__name__
    if isinstance(error, MemoryError):
        return f'"{path}" ({size:,} bytes) declares more than fits into memory: {cause}. It is damaged; get it again.'
    return f'"{path}" ({size:,} bytes) cannot be read: {cause}. It is damaged or incomplete; get it again.'


def _expected_size(path: Path) -> int | None:
    """Size that an HDF5 file claims for itself, from its superblock."""
    if not path.is_file():
        return None
    with path.open("rb") as file:
        block = file.read(64)
    if not block.startswith(_HDF5) or len(block) < 64:
        return None
    version, width = block[8], block[13] if block[8] < 2 else block[9]
    # Address fields follow: base, (free space,) end of file in versions 0 and 1; base, extension, end after that.
    start = {0: 24, 1: 28}.get(version, 12) + 2 * width
    end = int.from_bytes(block[start : start + width], "little")
    return end if 0 < end < 1 << 62 else None
