"""NumPy arrays as Arrow arrays and back, their memory shared where possible and pandas not loaded."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray


def numbers(values: NDArray[Any], *, missing: NDArray[np.bool_] | None = None) -> pa.Array:
    """Numbers or truth values, their memory shared where possible."""
    values = values.astype(values.dtype.newbyteorder("="), copy=False)
    kind = pa.from_numpy_dtype(values.dtype)
    stored = np.packbits(values, bitorder="little") if pa.types.is_boolean(kind) else np.ascontiguousarray(values)
    present = None
    if missing is not None and missing.any():
        present = pa.py_buffer(np.packbits(~missing, bitorder="little"))
    return pa.Array.from_buffers(kind, len(values), [present, pa.py_buffer(stored)])


def texts(values: Sequence[str]) -> pa.Array:
    """Texts, none of them missing."""
    data = "".join(values).encode()
    lengths = np.fromiter(map(len, values), dtype=np.int64, count=len(values))
    if len(data) != lengths.sum():
        lengths = np.fromiter((len(value.encode()) for value in values), dtype=np.int64, count=len(values))
    ends = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int32)
    return pa.Array.from_buffers(pa.string(), len(values), [None, pa.py_buffer(ends), pa.py_buffer(data)])


def lists(starts: NDArray[Any], values: NDArray[Any]) -> pa.Array:
    """Lists of numbers."""
    return pa.ListArray.from_arrays(numbers(starts.astype(np.int32)), numbers(values))


def values_of(array: pa.Array) -> NDArray[Any]:
    """Numbers of an Arrow array, their memory shared where possible; missing ones are NaN."""
    if array.null_count or pa.types.is_boolean(array.type):
        return np.asarray(array.to_numpy(zero_copy_only=False))
    buffer = array.buffers()[1]
    values = np.frombuffer(b"" if buffer is None else buffer, dtype=array.type.to_pandas_dtype())
    return values[array.offset : array.offset + len(array)]
