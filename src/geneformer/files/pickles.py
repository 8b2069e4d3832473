"""Pickles of plain data, NumPy numbers and arrays, and tensors, read without running anything they ask for.

A pickle is a program. The standard library's interpreter follows it here, but a global is looked up in the table
`_READ` and nowhere else, and only entries of that table are called. It is the interpreter written in Python: the one
in C reserves whatever memory a file claims to need, and hashes keys nested so deeply that it never comes back.
"""

import math
import pickle
import struct
from collections.abc import Callable
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from pickle import UnpicklingError
from typing import Any, ClassVar, NoReturn

import numpy as np

from geneformer.errors import InputNotFoundError, UnreadableInputError, UnsafeFileError
from geneformer.files import refuse_lfs_pointer
from geneformer.files.atomic import atomic_file

__all__ = ["UnpicklingError", "read_pickle", "read_pickle_bytes", "write_pickle"]

_MAX_BYTES = 1 << 30
_ZIP = b"PK\x03\x04"


def read_pickle(path: str | Path) -> Any:
    """The data in a pickle: dicts, lists, tuples, sets, text, bytes, Python numbers, NumPy arrays and tensors.

    NumPy numbers become Python numbers, `defaultdict` and `OrderedDict` become `dict`, `bytearray` becomes `bytes`,
    parameters become tensors. Tensors lie in main memory, whatever device they were saved from.
    """
    path = Path(path)
    if not path.is_file():
        msg = f'No file "{path}". Give the path of a pickle, such as a published dictionary.'
        raise InputNotFoundError(msg)
    size = path.stat().st_size
    if size > _MAX_BYTES:
        msg = f'"{path}" holds {size:,} bytes; pickles of at most {_MAX_BYTES:,} bytes are read.'
        raise UnreadableInputError(msg)
    try:
        refuse_lfs_pointer(path)
        data = path.read_bytes()
    except OSError as error:
        msg = f'"{path}" cannot be read: {error.strerror}. Check its permissions.'
        raise UnreadableInputError(msg) from error
    return read_pickle_bytes(data, name=f'"{path}"')


def read_pickle_bytes(data: bytes, *, name: str = "The pickle") -> Any:
    """The data in a pickle held in memory; `name` is what errors call it."""
    try:
        if data.startswith(_ZIP):
            msg = "it is a zip archive, as weights saved by PyTorch are"
            raise UnpicklingError(msg)
        return _Reader(data, name).load()
    except UnsafeFileError:
        raise
    except _DAMAGE as error:
        msg = (
            f"{name} ({len(data):,} bytes) is truncated, damaged or no pickle: {error}. A complete pickle of "
            "protocol 0 to 5 is needed; download or copy the file again."
        )
        raise UnreadableInputError(msg) from error


def write_pickle(content: Any, path: str | Path) -> Path:
    """Write plain data where a published script will look for it; returns where it is."""
    path = Path(path)
    with atomic_file(path, overwrite=True, parents=True) as temporary:
        temporary.write_bytes(pickle.dumps(content, protocol=4))
    return path


_DAMAGE = (
    ArithmeticError, AssertionError, AttributeError, EOFError, LookupError, MemoryError, OSError, RuntimeError,
    TypeError, UnpicklingError, ValueError, struct.error,
)  # fmt: skip
"""What the interpreter, NumPy and PyTorch trip over in a truncated or garbled file."""

_SCALARS = frozenset({str, int, float, bytes, bool, type(None)})
_MAX_KEY_DEPTH = 4
_STANDARD: dict[int, Callable[[Any], None]] = pickle._Unpickler.dispatch


class _File(BytesIO):
    """Bytes that are there in full, or an error."""

    def read(self, size: int | None = -1, /) -> bytes:
        data = super().read(size)
        if size is not None and len(data) < size:
            msg = f"it promises {size:,} bytes where {len(data):,} are left"
            raise EOFError(msg)
        return data

    def readline(self, size: int | None = -1, /) -> bytes:
        line = super().readline(size)
        if not line.endswith(b"\n"):
            msg = "a line has no end"
            raise EOFError(msg)
        return line


@dataclass(frozen=True, slots=True)
class _Global:
    """A global of `_READ`, and what calling it builds."""

    name: str
    build: Callable[..., Any]

    def __str__(self) -> str:
        return self.name


def _refused(what: str) -> "Callable[[_Reader], None]":
    return lambda reader: reader.refuse(what)


_REFUSED = {
    "an object to be built": ("INST", "OBJ", "NEWOBJ_EX"),
    "a registered extension": ("EXT1", "EXT2", "EXT4"),
    "an object kept elsewhere": ("PERSID", "BINPERSID"),
    "a buffer kept elsewhere": ("NEXT_BUFFER", "READONLY_BUFFER"),
}


def _checked(opcode: bytes, keys: slice) -> "Callable[[_Reader], None]":
    """What the opcode does, once the keys on the stack are fit to be hashed."""

    def handler(reader: "_Reader") -> None:
        reader.check_keys(reader.stack[keys])
        _STANDARD[opcode[0]](reader)

    return handler


class _Reader(pickle._Unpickler):
    """The interpreter, with every opcode that could name, call or change something else replaced."""

    # Set by the standard library, unknown to its stubs.
    stack: list[Any]
    metastack: list[list[Any]]
    append: Callable[[Any], None]
    read: Callable[[int], bytes]

    def __init__(self, data: bytes, name: str) -> None:
        self._file, self._name, self._size = _File(data), name, len(data)
        self._parts_of_keys = 16 * len(data) + 1024
        super().__init__(self._file)

    def find_class(self, module: str, name: str) -> _Global:
        build = _READ.get((module.replace("__builtin__", "builtins").replace("numpy.core.", "numpy._core."), name))
        if build is None:
            self.refuse(f"{module[:80]}.{name[:80]}")
        return _Global(f"{module}.{name}", build)

    def refuse(self, what: str) -> NoReturn:
        msg = (
            f"{self._name} asks for {what}. Only plain data (text, numbers, lists, dictionaries, arrays) is read from "
            "pickles. Do not load this file by other means unless you trust who made it."
        )
        raise UnsafeFileError(msg)

    def _call(self) -> None:
        arguments, function = self.stack.pop(), self.stack.pop()
        if not isinstance(function, _Global) or not isinstance(arguments, tuple):
            self.refuse(f"a call of a {type(function).__name__}")
        if function.build in {set, frozenset}:
            self.check_keys(*arguments)
        try:
            self.append(function.build(*arguments))
        except (TypeError, KeyError):
            self.refuse(f"{function} with unexpected arguments")

    def _set_state(self) -> None:
        state = self.stack.pop()
        match self.stack[-1], state:
            case np.dtype() as kind, (int(), "<" | ">" | "|" as order, None, None, None, *_):
                kind.__setstate__((3, order, None, None, None, -1, -1, 0))  # type: ignore[attr-defined]
            case np.ndarray() as array, (int(), tuple(shape), np.dtype() as kind, bool(by_column), bytes(content)):
                array.__setstate__((1, shape, kind, by_column, content))  # type: ignore[arg-type]
            case value, _:
                self.refuse(f"the state of a {type(value).__name__} to be set")

    def check_keys(self, keys: Any) -> None:
        """Refuse keys other than scalars and small tuples, before they are hashed."""
        if not set(map(type, keys)) <= _SCALARS:
            for key in keys:
                self._check_key(key, 0)

    def _check_key(self, key: object, depth: int) -> None:
        if type(key) in _SCALARS:
            return
        self._parts_of_keys -= len(key) if isinstance(key, tuple) else self._parts_of_keys
        if not isinstance(key, tuple) or depth == _MAX_KEY_DEPTH or self._parts_of_keys < 0:
            msg = f"it uses a {type(key).__name__} as a key, or nests its keys beyond reason"
            raise UnpicklingError(msg)
        for part in key:
            self._check_key(part, depth + 1)

    def _bytes(self) -> None:
        self.append(self.read(int.from_bytes(self.read(8), "little")))

    def _long_integer(self) -> None:
        msg = "it holds a whole number of more than 255 bytes"
        raise UnpicklingError(msg)

    def _stop(self) -> None:
        if len(self.stack) != 1 or self.metastack or self._file.tell() != self._size:
            msg = "its end leaves something over"
            raise UnpicklingError(msg)
        # Globals and types of numbers are steps on the way to a value, never one themselves.
        waiting, visited = list(self.stack), set()
        while waiting:
            value = waiting.pop()
            if isinstance(value, _Global | np.dtype):
                self.refuse(f"{value} as a value")
            if isinstance(value, dict | list | tuple | set | frozenset) and id(value) not in visited:
                visited.add(id(value))
                parts = [*value, *value.values()] if isinstance(value, dict) else value
                if not set(map(type, parts)) <= _SCALARS:
                    waiting.extend(parts)
        _STANDARD[pickle.STOP[0]](self)

    dispatch: ClassVar[dict[int, Callable[..., None]]] = {
        **_STANDARD,
        **{
            opcode[0]: handler
            for opcode, handler in {
                pickle.REDUCE: _call,
                pickle.NEWOBJ: _call,
                pickle.BUILD: _set_state,
                pickle.BYTEARRAY8: _bytes,
                pickle.LONG4: _long_integer,
                pickle.STOP: _stop,
                pickle.SETITEM: _checked(pickle.SETITEM, slice(-2, -1)),
                pickle.SETITEMS: _checked(pickle.SETITEMS, slice(None, None, 2)),
                pickle.DICT: _checked(pickle.DICT, slice(None, None, 2)),
                pickle.ADDITEMS: _checked(pickle.ADDITEMS, slice(None)),
                pickle.FROZENSET: _checked(pickle.FROZENSET, slice(None)),
            }.items()
        },
        **{
            getattr(pickle, name)[0]: _refused(f"{what} ({name})") for what, names in _REFUSED.items() for name in names
        },
    }


def _expect(condition: bool) -> None:
    """Refuse arguments that the globals of plain data do not have."""
    if not condition:
        raise TypeError


def _empty_dict(*factory: object) -> dict[Any, Any]:
    _expect(not factory or (len(factory) == 1 and isinstance(factory[0], _Global | None)))
    return {}


def _encoded(text: str, encoding: str) -> bytes:
    _expect(isinstance(text, str) and encoding in {"latin1", "latin-1"})
    return text.encode("latin-1")


def _number_type(code: str, *_: object) -> np.dtype[Any]:
    _expect(code in _NUMBERS)
    return np.dtype(code, copy=True)  # its byte order follows as its state


def _number(kind: np.dtype[Any], content: bytes) -> Any:
    _expect(isinstance(kind, np.dtype) and isinstance(content, bytes) and len(content) == kind.itemsize)
    return np.frombuffer(content, kind).item()


def _array(content: bytes, kind: np.dtype[Any], shape: tuple[int, ...], order: str, *_: object) -> np.ndarray:
    _expect(isinstance(content, bytes) and isinstance(kind, np.dtype))
    values = np.frombuffer(content, kind).reshape(shape, order="F" if order == "F" else "C")
    return values.astype(kind.newbyteorder("="))


def _storage(content: bytes) -> Any:
    """The numbers behind a tensor: a file within the file, which PyTorch's own restricted loader reads."""
    import torch

    try:
        storage = torch.load(BytesIO(content), map_location="cpu", weights_only=True)
    except UnpicklingError as error:
        raise TypeError from error
    _expect(isinstance(storage, torch.storage.TypedStorage))
    return storage


def _tensor(storage: Any, offset: int, size: tuple[int, ...], stride: tuple[int, ...], *_: object) -> Any:
    """A tensor of its own memory, whatever it shared in the pickle; gradients are not kept."""
    import torch

    _expect(isinstance(storage, torch.storage.TypedStorage))
    _expect(all(type(number) is int and number >= 0 for number in (offset, *size, *stride)))
    # By its public methods a typed storage warns that it is old; this is what it wraps.
    numbers = torch.empty(0, dtype=storage.dtype).set_(storage._untyped_storage)
    if math.prod(size) > numbers.numel():
        msg = "a tensor is larger than its numbers"
        raise ValueError(msg)
    return torch.as_strided(numbers, size, stride, offset).clone()


def _parameter(data: Any, *_: object) -> Any:
    import torch

    _expect(isinstance(data, torch.Tensor))
    return data


_NUMBERS = frozenset({"b1", "i1", "i2", "i4", "i8", "u1", "u2", "u4", "u8", "f2", "f4", "f8"})

_READ: dict[tuple[str, str], Callable[..., Any]] = {
    ("builtins", "set"): set,
    ("builtins", "frozenset"): frozenset,
    # These four are only named, as what a defaultdict starts entries with.
    **{("builtins", name): lambda *_: _expect(False) for name in ("list", "dict", "int", "float")},
    ("builtins", "bytes"): lambda: b"",
    ("_codecs", "encode"): _encoded,
    ("collections", "defaultdict"): _empty_dict,
    ("collections", "OrderedDict"): _empty_dict,
    ("numpy", "dtype"): _number_type,
    ("numpy", "ndarray"): lambda *_: _expect(False),
    ("numpy._core.multiarray", "scalar"): _number,
    ("numpy._core.multiarray", "_reconstruct"): lambda *_: np.empty(0),  # all else follows as its state
    ("numpy._core.numeric", "_frombuffer"): _array,
    ("torch.storage", "_load_from_bytes"): _storage,
    ("torch._utils", "_rebuild_tensor_v2"): _tensor,
    ("torch._utils", "_rebuild_parameter"): _parameter,
    ("transformers.trainer_utils", "PredictionOutput"): lambda *parts: parts,
}
"""Every global that is read, and what it builds; none of them is imported."""
