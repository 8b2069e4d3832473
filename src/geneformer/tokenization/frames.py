"""Tables of cells and genes, read column by column and a few rows at a time, so that no whole table is in memory."""

from collections.abc import Mapping
from typing import Any, Protocol

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from geneformer.data.columns import arrow_column, arrow_type
from geneformer.vocab import arrow_arrays as arrow

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
    """A pandas table.

    Parameters
    ----------
    table
        The table; it is only read.
    """

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
    """A table in an HDF5 or Zarr group as AnnData writes it.

    Parameters
    ----------
    group
        The open group.
    """

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
    """A table of one-dimensional arrays, read where they lie.

    Parameters
    ----------
    columns
        Arrays of equal length: NumPy, HDF5 or Zarr.
    index
        Row names. The row numbers by default.
    n_rows
        Rows, for a table without columns and names.
    hidden
        Which of the columns hold the row names.
    """

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
