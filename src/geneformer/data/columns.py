"""Columns that describe cells: from arrays and pandas columns to Arrow, and to the feature names of `datasets`."""

from typing import Any

import pyarrow as pa

from geneformer.errors import DatasetError


def arrow_type(values: Any) -> pa.DataType:
    """The Arrow type that holds a whole column: text for categories and for mixed objects.

    Decide it once from all cells, so that every chunk of them is written alike.

    Parameters
    ----------
    values
        Array, list, pandas Series or Categorical, ``(n,)``.
    """
    try:
        found = pa.array(values, from_pandas=True).type
    except (pa.ArrowInvalid, pa.ArrowTypeError, pa.ArrowNotImplementedError):
        return pa.string()
    return _storable(found)


def arrow_column(name: str, values: Any, wanted: pa.DataType) -> pa.Array:
    """One column as an Arrow array of the wanted type; missing values become nulls.

    Raises
    ------
    DatasetError
        A value does not fit the type.
    """
    if isinstance(values, pa.ChunkedArray):
        values = values.combine_chunks()
    try:
        array = values if isinstance(values, pa.Array) else pa.array(values, from_pandas=True)
        if pa.types.is_dictionary(array.type):
            array = array.dictionary_decode()
        if isinstance(array, pa.ExtensionArray):
            array = array.storage
        return array.cast(wanted)
    except (pa.ArrowInvalid, pa.ArrowTypeError, pa.ArrowNotImplementedError) as error:
        if pa.types.is_string(wanted):
            return pa.array([None if _missing(value) else str(value) for value in values], pa.string())
        msg = f"Column {name!r} was taken for {wanted} but holds something else ({error}). Make it one kind of value."
        raise DatasetError(msg) from error


def feature(kind: pa.DataType) -> dict[str, Any]:
    """The entry of one column in `dataset_info.json`, in words that every `datasets` release since 1.0 reads."""
    if pa.types.is_list(kind) or pa.types.is_large_list(kind):
        return {"feature": feature(kind.value_type), "_type": "Sequence"}
    names = {"double": "float64", "float": "float32", "halffloat": "float16", "date32[day]": "date32"}
    return {"dtype": names.get(str(kind), str(kind)), "_type": "Value"}


def _storable(kind: pa.DataType) -> pa.DataType:
    if pa.types.is_dictionary(kind):
        return _storable(kind.value_type)
    if pa.types.is_null(kind) or pa.types.is_large_string(kind) or pa.types.is_string_view(kind):
        return pa.string()
    if isinstance(kind, pa.ExtensionType) or pa.types.is_struct(kind) or pa.types.is_interval(kind):
        return pa.string()
    return kind


def _missing(value: Any) -> bool:
    """None, NaN, NaT and pandas' NA."""
    equal_to_itself = value == value  # noqa: PLR0124  false for NaN and NaT, undecided for NA
    return value is None or equal_to_itself is False or not isinstance(equal_to_itself, bool)
