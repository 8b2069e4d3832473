"""Tensors and arrays in pickles, as data: what a file names is recognized by its spelling, never imported or called."""

import math
import struct
from io import BytesIO
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch
from torch import Tensor
from torch.storage import TypedStorage

from geneformer.vocab.pickle_globals import Known, NumpyType
from geneformer.vocab.pickles import read_pickle

_DAMAGE: Final = (
    AssertionError, AttributeError, EOFError, LookupError, OSError, OverflowError, RuntimeError, TypeError, ValueError,
    struct.error,
)  # fmt: skip
"""What PyTorch trips over in damaged files."""


def read_tensor_pickle(path: str | Path) -> Any:
    """The data in a pickle file that may hold tensors and NumPy arrays of numbers beside plain data.

    Parameters
    ----------
    path
        File to read. Tensors come back in main memory, whatever device they were pickled on.

    Raises
    ------
    InputNotFoundError
        No such file.
    PlaceholderFileError
        A git-lfs pointer stands in for the file.
    UnsafeFileError
        The file asks for something to be imported, called or built.
    UnreadableInputError
        The file is truncated, damaged, or no pickle.
    """
    return read_pickle(path, known=TENSORS)


def _storage(content: bytes) -> TypedStorage:
    """The numbers behind a tensor: a file of its own within the pickle, which PyTorch's restricted loader reads."""
    # `pickle` itself may not be imported in this package; its error is reached through PyTorch.
    refused: type[Exception] = torch.serialization.pickle.UnpicklingError  # type: ignore[attr-defined]
    try:
        found = torch.load(BytesIO(content), map_location="cpu", weights_only=True)
    except refused as error:
        raise TypeError(str(error)) from error
    except _DAMAGE as error:
        raise ValueError(str(error)) from error
    if not isinstance(found, TypedStorage):
        msg = f"a {type(found).__name__} where the numbers of a tensor should be"
        raise TypeError(msg)
    return found


def _tensor(storage: object, offset: int, size: tuple[int, ...], stride: tuple[int, ...], *_: object) -> Tensor:
    """A tensor of its own memory, whatever it shared in the pickle; gradients are not kept."""
    whole = all(type(number) is int and number >= 0 for number in (offset, *size, *stride))
    if not isinstance(storage, TypedStorage) or not whole:
        msg = "arguments that tensors do not have"
        raise TypeError(msg)
    # By its public methods a typed storage warns that it is old; this is what it wraps.
    numbers = torch.empty(0, dtype=storage.dtype).set_(storage._untyped_storage)
    if math.prod(size) > numbers.numel():
        msg = "a tensor that is larger than its numbers"
        raise ValueError(msg)
    try:
        return torch.as_strided(numbers, size, stride, offset).clone()
    except _DAMAGE as error:
        raise ValueError(str(error)) from error


def _parameter(data: object, *_: object) -> Tensor:
    """A parameter as a tensor."""
    if not isinstance(data, Tensor):
        msg = "a parameter without a tensor"
        raise TypeError(msg)
    return data


def _numpy_class(*_: object) -> None:
    msg = "an array called by its class"
    raise TypeError(msg)


def _empty_array(*_: object) -> np.ndarray:
    """An array whose numbers follow as its state."""
    return np.empty(0)


def _filled_array(content: bytes, kind: object, shape: tuple[int, ...], order: str) -> np.ndarray:
    """An array of protocol 5, which has its numbers as one piece."""
    values = np.frombuffer(content, _dtype(kind)).reshape(shape, order="F" if order == "F" else "C")
    return values.astype(values.dtype.newbyteorder("="))


def _fill_array(array: np.ndarray, state: object) -> None:
    match state:
        case (int(version), tuple(shape), NumpyType() as kind, bool(fortran), bytes(content)):
            array.__setstate__((version, shape, _dtype(kind), fortran, content))  # type: ignore[arg-type]
        case _:
            msg = "a state that arrays of numbers do not have"
            raise TypeError(msg)


def _dtype(kind: object) -> np.dtype[Any]:
    if not isinstance(kind, NumpyType):
        msg = "an array without a type of numbers"
        raise TypeError(msg)
    return np.dtype(kind.order + kind.format)


_NUMPY: Final = {
    (f"numpy.{module}", name): build
    for module, name, build in (
        ("core.multiarray", "_reconstruct", _empty_array),
        ("_core.multiarray", "_reconstruct", _empty_array),
        ("core.numeric", "_frombuffer", _filled_array),
        ("_core.numeric", "_frombuffer", _filled_array),
    )
}

TENSORS: Final = Known(
    globals={
        ("torch.storage", "_load_from_bytes"): _storage,
        ("torch._utils", "_rebuild_tensor_v2"): _tensor,
        ("torch._utils", "_rebuild_parameter"): _parameter,
        ("numpy", "ndarray"): _numpy_class,
        **_NUMPY,
    },
    states={np.ndarray: _fill_array},
    leaves=(Tensor, np.ndarray),
)
"""What a pickle reader needs to know to read tensors and arrays of numbers."""
