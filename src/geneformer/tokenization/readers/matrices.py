"""Count matrices read a few cells at a time, wherever they are: memory, HDF5 or Zarr; rows, columns or dense."""

import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from geneformer.genes import vocabulary as arrow
from geneformer.tokenization.ranking import CellRows
from geneformer.tokens.dataset import arrow_column, arrow_type

MAX_ENTRIES = 250_000
"""Most entries of a sparse matrix in memory at a time, so that deep cells do not cost more than many cells."""

MAX_DENSE = 8_000_000
"""Most elements of a dense matrix in memory at a time."""

_SAMPLE_PLACES = 3


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
        """Whether any run of cells is reached without reading those before it."""

    def chunks(self, size: int, start: int, stop: int) -> Iterator[CellRows]:
        """Cells `start` to `stop` in order, at most `size` at a time."""

    def sample(self, entries: int) -> Sample:
        """About `entries` entries from different places."""


class SparseRows:
    """Compressed rows whose arrays are sliced where they lie (NumPy, HDF5, Zarr)."""

    seekable = True

    def __init__(self, indptr: Any, indices: Any, data: Any, shape: tuple[int, int]) -> None:
        self.indptr = np.asarray(indptr[:])
        self.indices = indices
        self.data = data
        self.shape = shape

    def chunks(self, size: int, start: int, stop: int) -> Iterator[CellRows]:
        """Cells `start` to `stop` in order, at most `size` at a time."""
        while start < stop:
            limit = int(np.searchsorted(self.indptr, self.indptr[start] + MAX_ENTRIES, side="right")) - 1
            end = min(start + size, stop, max(limit, start + 1))
            yield self.rows(start, end)
            start = end

    def rows(self, start: int, stop: int) -> CellRows:
        """Cells `start` to `stop`."""
        first, last = int(self.indptr[start]), int(self.indptr[stop])
        indptr = self.indptr[start : stop + 1].astype(np.int64) - first
        return CellRows(indptr, np.asarray(self.indices[first:last]), np.asarray(self.data[first:last]))

    def sample(self, entries: int) -> Sample:
        """About `entries` entries from the first, middle and last cells."""
        n = self.shape[0]
        per_cell = max(int(self.indptr[-1]) // max(n, 1), 1)
        spans = sampled_spans(n, max(min(entries // per_cell, 300), 12))
        return joined([triples(self.rows(start, stop), start) for start, stop in spans])


class DenseRows:
    """A dense matrix, zeros left out on the way."""

    seekable = True

    def __init__(self, array: Any, *, transposed: bool = False) -> None:
        self.array = array
        self.transposed = transposed
        rows, columns = array.shape
        self.shape: tuple[int, int] = (columns, rows) if transposed else (rows, columns)

    def chunks(self, size: int, start: int, stop: int) -> Iterator[CellRows]:
        """Cells `start` to `stop` in order, at most `size` at a time."""
        size = min(size, max(MAX_DENSE // max(self.shape[1], 1), 1))
        for first in range(start, stop, size):
            yield self.rows(first, min(first + size, stop))

    def rows(self, start: int, stop: int) -> CellRows:
        """Cells `start` to `stop`."""
        block = self.array[:, start:stop] if self.transposed else self.array[start:stop]
        block = np.asarray(block)
        return from_dense(block.T if self.transposed else block)

    def sample(self, entries: int) -> Sample:
        """About `entries` entries from the first, middle and last cells."""
        n = self.shape[0]
        spans = sampled_spans(n, max(min(entries // max(self.shape[1], 1), 96), 12))
        return joined([triples(self.rows(start, stop), start) for start, stop in spans])


def sampled_spans(n: int, cells: int) -> list[tuple[int, int]]:
    """About `cells` of `n` cells: from the start, the middle and the end."""
    each = -(-cells // _SAMPLE_PLACES)
    if n <= each * _SAMPLE_PLACES:
        return [(0, n)] if n else []
    return [(start, start + each) for start in (0, (n - each) // 2, n - each)]


def from_dense(block: NDArray[Any]) -> CellRows:
    """Compressed rows of a dense block, ``(n, g)``."""
    cells, genes = np.nonzero(block)
    indptr = np.concatenate([[0], np.cumsum(np.bincount(cells, minlength=len(block)))]).astype(np.int64)
    return CellRows(indptr, genes, block[cells, genes])


def triples(rows: CellRows, first: int) -> Sample:
    """Entries of some rows with the number of their cell, counted from `first`."""
    cells = np.repeat(np.arange(len(rows.indptr) - 1), np.diff(rows.indptr)) + first
    return Sample(cells, np.asarray(rows.indices, dtype=np.int64), np.asarray(rows.data))


def joined(parts: list[Sample]) -> Sample:
    """Samples from several places as one."""
    if not parts:
        none = np.empty(0, np.int64)
        return Sample(none, none, none)
    return Sample(*(np.concatenate(column) for column in zip(*parts, strict=True)))


def select_columns(rows: CellRows, renumbered: NDArray[np.int32]) -> CellRows:
    """Rows reduced to some columns."""
    columns = renumbered[rows.indices]
    keep = columns >= 0
    indptr = np.concatenate([[0], np.cumsum(keep)])[rows.indptr]
    return CellRows(indptr, columns[keep], rows.data[keep])


def select_cells(rows: CellRows, keep: NDArray[np.bool_]) -> CellRows:
    """Rows reduced to the cells marked in `keep`, ``(n,)``."""
    if keep.all():
        return rows
    lengths = np.diff(rows.indptr)
    entries = np.repeat(keep, lengths)
    indptr = np.concatenate([[0], np.cumsum(lengths[keep])]).astype(np.int64)
    return CellRows(indptr, rows.indices[entries], rows.data[entries])


BUCKET_ENTRIES = 1_000_000
"""Entries sorted in memory at a time."""

_MOST_BUCKETS = 256
"""Files open at a time."""

_ENTRY = np.dtype([("cell", "<i4"), ("gene", "<i4"), ("count", "<f8")])


class SortedOnDisk:
    """A matrix whose storage is not by cell: read once from start to end, then handed out by cells."""

    seekable = False

    def __init__(self, entries: Callable[[], Iterable[Sample]], shape: tuple[int, int], *, expected: int) -> None:
        self.entries = entries
        self.shape = shape
        n_buckets = min(max(expected // BUCKET_ENTRIES, 1), _MOST_BUCKETS, max(shape[0], 1))
        self._cells_per_bucket = max(-(-shape[0] // n_buckets), 1)
        self._n_buckets = -(-shape[0] // self._cells_per_bucket)
        self._folder: tempfile.TemporaryDirectory[str] | None = None
        self._only_bucket: NDArray[Any] | None = None

    def chunks(self, size: int, start: int, stop: int) -> Iterator[CellRows]:
        """Cells `start` to `stop` in order, at most `size` at a time."""
        if start >= stop:
            return
        if self._folder is None and self._only_bucket is None:
            self._sort()
        per_bucket = self._cells_per_bucket
        for number in range(start // per_bucket, (stop - 1) // per_bucket + 1):
            first = number * per_bucket
            rows = _compressed(self._bucket(number), first, min(per_bucket, self.shape[0] - first))
            low, high = max(start - first, 0), min(stop - first, per_bucket)
            for begin in range(low, high, size):
                yield _slice(rows, begin, min(begin + size, high))

    def sample(self, entries: int) -> Sample:
        """The first entries."""
        parts, found = [], 0
        for block in self.entries():
            parts.append(Sample(*(column[: entries - found] for column in block)))
            found += len(parts[-1].cells)
            if found >= entries:
                break
        return joined(parts)

    def close(self) -> None:
        """Delete the temporary files."""
        if self._folder is not None:
            self._folder.cleanup()
            self._folder = None
        self._only_bucket = None

    def _sort(self) -> None:
        if self._n_buckets == 1:
            blocks = [_packed(block) for block in self.entries()]
            self._only_bucket = np.concatenate(blocks) if blocks else np.empty(0, _ENTRY)
            return
        folder = tempfile.TemporaryDirectory(prefix="geneformer-")
        with ExitStack() as stack:
            names = [Path(folder.name, str(number)) for number in range(self._n_buckets)]
            files = [stack.enter_context(name.open("wb")) for name in names]
            for block in self.entries():
                buckets = (block.cells // self._cells_per_bucket).astype(np.uint16)
                order = np.argsort(buckets, kind="stable")
                ordered = _packed(Sample(*(column[order] for column in block)))
                ends = np.cumsum(np.bincount(buckets, minlength=self._n_buckets))
                for number, piece in enumerate(np.split(ordered, ends[:-1])):
                    if len(piece):
                        files[number].write(piece.tobytes())
        self._folder = folder

    def _bucket(self, number: int) -> NDArray[Any]:
        if self._only_bucket is not None:
            return self._only_bucket
        folder = self._folder.name if self._folder is not None else ""
        return np.fromfile(Path(folder, str(number)), dtype=_ENTRY)


def by_columns(indptr: Any, indices: Any, data: Any, shape: tuple[int, int]) -> SortedOnDisk:
    """A matrix of compressed columns, cells by genes, as cells."""
    starts = np.asarray(indptr[:], dtype=np.int64)
    total = int(starts[-1]) if len(starts) else 0

    def entries() -> Iterator[Sample]:
        for first in range(0, total, BUCKET_ENTRIES):
            last = min(first + BUCKET_ENTRIES, total)
            genes = np.searchsorted(starts, np.arange(first, last), side="right") - 1
            yield Sample(np.asarray(indices[first:last], dtype=np.int64), genes, np.asarray(data[first:last]))

    return SortedOnDisk(entries, shape, expected=total)


def _packed(block: Sample) -> NDArray[Any]:
    packed = np.empty(len(block.cells), dtype=_ENTRY)
    packed["cell"], packed["gene"], packed["count"] = block
    return packed


def _compressed(entries: NDArray[Any], first: int, n_cells: int) -> CellRows:
    """Compressed rows of one bucket; entries of a cell keep the order they came in."""
    cells = entries["cell"] - first
    order = np.argsort(cells.astype(np.uint16) if n_cells <= 65_536 else cells, kind="stable")
    indptr = np.concatenate([[0], np.cumsum(np.bincount(cells, minlength=n_cells))]).astype(np.int64)
    return CellRows(indptr, entries["gene"][order], entries["count"][order])


def _slice(rows: CellRows, start: int, stop: int) -> CellRows:
    indptr = rows.indptr[start : stop + 1]
    span = slice(int(indptr[0]), int(indptr[-1]))
    return CellRows(indptr - indptr[0], rows.indices[span], rows.data[span])


_TEXTS_AT_ONCE = 8_192
"""Texts are read twice, as bytes and as text; this many of them."""


class Frame(Protocol):
    """A table with row names; AnnData's `obs` or `var` wherever it lies."""

    @property
    def n_rows(self) -> int:
        """Rows."""

    @property
    def names(self) -> tuple[str, ...]:
        """Columns, the row names not among them."""

    @property
    def hidden(self) -> tuple[str, ...]:
        """Columns that only hold the row names once more, for those who ask for them by name."""

    def index(self, start: int, stop: int) -> NDArray[Any]:
        """Row names as text, ``(stop - start,)``."""

    def kind(self, name: str) -> pa.DataType:
        """Type of a column; text for categories of text."""

    def column(self, name: str, start: int, stop: int) -> pa.Array:
        """Values of a column, missing ones as nulls, ``(stop - start,)``."""


class MemoryFrame:
    """A pandas table."""

    hidden: tuple[str, ...] = ()

    def __init__(self, table: Any) -> None:
        self.table = table
        self.n_rows: int = len(table)
        self.names = tuple(str(name) for name in table.columns)
        self._kinds: dict[str, pa.DataType] = {}

    def index(self, start: int, stop: int) -> NDArray[Any]:
        """Row names as text, ``(stop - start,)``."""
        return np.array([str(name) for name in self.table.index[start:stop]], dtype=object)

    def kind(self, name: str) -> pa.DataType:
        """Type of a column."""
        if name not in self._kinds:
            self._kinds[name] = _portable(arrow_type(self._series(name)))
        return self._kinds[name]

    def column(self, name: str, start: int, stop: int) -> pa.Array:
        """Values of a column."""
        return arrow_column(name, self._series(name).iloc[start:stop], self.kind(name))

    def _series(self, name: str) -> Any:
        return self.table.iloc[:, self.names.index(name)]


class StoredFrame:
    """A table in an HDF5 or Zarr group as AnnData writes it."""

    hidden: tuple[str, ...] = ()

    def __init__(self, group: Any) -> None:
        self.group = group
        self._index = group[str(_text(group.attrs["_index"]))]
        self.n_rows = int(self._index.shape[0])
        self.names = tuple(str(_text(name)) for name in group.attrs["column-order"])
        self._categories: dict[str, pa.Array] = {}

    def index(self, start: int, stop: int) -> NDArray[Any]:
        """Row names as text."""
        return _names(_values(self._index, start, stop))

    def kind(self, name: str) -> pa.DataType:
        """Type of a column."""
        element = self.group[name]
        encoding = _encoding(element)
        if encoding == "categorical":
            return _portable(self._categories_of(name).type)
        if encoding.startswith("nullable-"):
            element = element["values"]
        return _portable(_stored_type(element))

    def column(self, name: str, start: int, stop: int) -> pa.Array:
        """Values of a column."""
        element = self.group[name]
        encoding = _encoding(element)
        if encoding == "categorical":
            codes = np.asarray(element["codes"][start:stop])
            found = self._categories_of(name).take(arrow.numbers(codes, missing=codes < 0))
        elif encoding.startswith("nullable-"):
            missing = np.asarray(element["mask"][start:stop], dtype=bool)
            found = pa.array(_values(element["values"], start, stop), mask=missing)
        else:
            found = _column(_values(element, start, stop))
        return _of_kind(name, found, self.kind(name))

    def is_plain_text(self, name: str) -> bool:
        """Whether a column is text, stored as such and nowhere missing."""
        return _encoding(self.group[name]) == "string-array" and _is_hdf5_text(self.group[name])

    def values(self, name: str) -> NDArray[np.object_]:
        """A whole column of plain text."""
        return _values(self.group[name], 0, self.n_rows)

    def _categories_of(self, name: str) -> pa.Array:
        if name not in self._categories:
            categories = self.group[name]["categories"]
            self._categories[name] = _column(_values(categories, 0, categories.shape[0]))
        return self._categories[name]


class ArrayFrame:
    """A table of one-dimensional arrays, read where they lie."""

    def __init__(
        self,
        columns: Mapping[str, Any],
        index: Any = None,
        *,
        n_rows: int | None = None,
        hidden: tuple[str, ...] = (),
    ) -> None:
        self.columns = dict(columns)
        self._index = index
        known = [len(array) for array in (*self.columns.values(), *(() if index is None else (index,)))]
        self.n_rows = n_rows if n_rows is not None else known[0]
        self.hidden = hidden
        self.names = tuple(name for name in self.columns if name not in hidden)

    def index(self, start: int, stop: int) -> NDArray[Any]:
        """Row names as text."""
        return _names(np.arange(start, stop) if self._index is None else _values(self._index, start, stop))

    def kind(self, name: str) -> pa.DataType:
        """Type of a column."""
        return _portable(_stored_type(self.columns[name]))

    def column(self, name: str, start: int, stop: int) -> pa.Array:
        """Values of a column."""
        return _of_kind(name, _column(_values(self.columns[name], start, stop)), self.kind(name))


def has_column(frame: Frame, name: str) -> bool:
    """Whether a column can be read, one that holds the row names included."""
    return name in frame.names or name in frame.hidden


def stored_frame(group: Any) -> Frame:
    """The table in a group; one written before 2021, or by other rules, is read whole through AnnData."""
    known = ("array", "string-array", "categorical", "nullable-integer", "nullable-boolean", "nullable-string-array")
    attributes = group.attrs
    if hasattr(group, "keys") and _text(attributes.get("encoding-version")) == "0.2.0":
        frame = StoredFrame(group)
        if all(name in group and _encoding(group[name]) in known for name in frame.names):
            return frame
    from anndata.io import read_elem

    table = read_elem(group)
    if isinstance(table, np.ndarray):
        table = _structured(table)
    return MemoryFrame(table)


def _structured(rows: NDArray[Any]) -> Any:
    """The table that AnnData before 0.7 kept as one array of records."""
    import pandas as pd

    table = pd.DataFrame.from_records(rows)
    for name in table.columns:
        if table[name].dtype == object:
            table[name] = [_text(value) for value in table[name]]
    index = "index" if "index" in table.columns else "_index"
    return table.set_index(index) if index in table.columns else table


def texts(frame: Frame, name: str) -> NDArray[Any]:
    """A whole column as text objects, missing values as None, ``(rows,)``."""
    if isinstance(frame, StoredFrame) and frame.is_plain_text(name):
        return frame.values(name)
    values = frame.column(name, 0, frame.n_rows).to_pylist()
    return np.array([None if value is None else str(value) for value in values], dtype=object)


def to_pandas(frame: Frame) -> Any:
    """The whole table in memory."""
    if isinstance(frame, MemoryFrame):
        return frame.table
    import pandas as pd

    columns = {name: frame.column(name, 0, frame.n_rows).to_pandas() for name in frame.names}
    return pd.DataFrame(columns, index=pd.Index(frame.index(0, frame.n_rows), dtype=object)).set_axis(
        list(columns), axis=1
    )


def _names(values: NDArray[Any]) -> NDArray[np.object_]:
    if values.dtype == object:
        return values
    return np.array([str(value) for value in values], dtype=object)


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


def _column(values: NDArray[Any]) -> pa.Array:
    """Stored values in Arrow; NaN is missing."""
    if values.dtype.kind == "O":
        plain = all(type(value) is str for value in values)
        return arrow.texts(values.tolist()) if plain else pa.array(values, from_pandas=True)
    return arrow.numbers(values, missing=np.isnan(values) if values.dtype.kind == "f" else None)


def _of_kind(name: str, found: pa.Array, kind: pa.DataType) -> pa.Array:
    return found if found.type == kind else arrow_column(name, found, kind)


def _stored_type(array: Any) -> pa.DataType:
    kind = np.dtype(array.dtype).kind
    return pa.string() if kind in "OSTU" else pa.from_numpy_dtype(array.dtype)


def _portable(kind: pa.DataType) -> pa.DataType:
    """Numbers, truth values and text pass; whatever else there is becomes text."""
    if pa.types.is_float16(kind):
        return pa.float32()
    plain = pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_boolean(kind)
    return kind if plain else pa.string()


def _is_hdf5_text(array: Any) -> bool:
    return hasattr(array, "asstr") and array.dtype.kind in "OS"


def _encoding(element: Any) -> str:
    found = str(_text(element.attrs.get("encoding-type", "")))
    return found or ("array" if hasattr(element, "dtype") else "")


def _text(value: Any) -> Any:
    return value.decode("utf-8", "replace") if isinstance(value, bytes) else value
