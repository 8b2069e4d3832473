"""The few globals a pickle of plain data may name, and what each of them means here; none of them is imported."""

import struct
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from enum import Enum
from typing import Any, Final


class Global(Enum):
    """What a recognized global stands for."""

    DTYPE = "numpy.dtype"
    SCALAR = "numpy.core.multiarray.scalar"
    DEFAULTDICT = "collections.defaultdict"
    ORDEREDDICT = "collections.OrderedDict"
    SET = "builtins.set"
    FROZENSET = "builtins.frozenset"
    LIST = "builtins.list"
    DICT = "builtins.dict"
    INT = "builtins.int"
    FLOAT = "builtins.float"
    BYTES = "builtins.bytes"
    ENCODE = "_codecs.encode"

    def __str__(self) -> str:
        return str(self.value)


_SPELLINGS: Final = {
    tuple(str(known).rsplit(".", 1)): known for known in Global if not str(known).startswith("builtins.")
} | {
    (module, str(known).removeprefix("builtins.")): known
    for known in Global
    for module in ("builtins", "__builtin__")
    if str(known).startswith("builtins.")
}
_SPELLINGS["numpy._core.multiarray", "scalar"] = Global.SCALAR

_FORMATS: Final = {
    "b1": "?",
    "i1": "b",
    "i2": "h",
    "i4": "i",
    "i8": "q",
    "u1": "B",
    "u2": "H",
    "u4": "I",
    "u8": "Q",
    "f2": "e",
    "f4": "f",
    "f8": "d",
}


class NumpyType:
    """A NumPy number type on its way: its code, and the byte order once told."""

    def __init__(self, code: str) -> None:
        self.format = _FORMATS[code]
        self.order = "="

    def __str__(self) -> str:
        return "numpy.dtype"


@dataclass(frozen=True, slots=True)
class Foreign:
    """A global that only the caller of the reader understands, as `Known` says."""

    name: str
    build: Callable[..., Any]

    def __str__(self) -> str:
        return self.name


@dataclass(frozen=True, slots=True)
class Known:
    """Further globals that a caller reads, such as those of tensors; none of them is imported either.

    Attributes
    ----------
    globals
        By module and name: what calling it means. Raises `TypeError` on arguments it is never given, `ValueError` on
        damaged ones.
    states
        By type of what was made so: how it takes the state that a pickle sets. Raises as above.
    leaves
        Types of what may remain in the result.
    """

    globals: Mapping[tuple[str, str], Callable[..., Any]] = field(default_factory=dict)
    states: Mapping[type, Callable[[Any, Any], None]] = field(default_factory=dict)
    leaves: tuple[type, ...] = ()


def recognize(module: str, name: str, known: Known) -> Global | Foreign | None:
    """What a global stands for, or None for one that is not read."""
    foreign = known.globals.get((module, name))
    return _SPELLINGS.get((module, name)) if foreign is None else Foreign(f"{module}.{name}", foreign)


def call(known: object, args: object) -> Any:
    """What calling a recognized global with these arguments means: a number, a type or an empty container.

    Raises
    ------
    TypeError
        Arguments the global is never given in plain data.
    ValueError
        Damaged ones.
    """
    match known, args:
        case Global.SCALAR, (NumpyType() as kind, bytes(raw)):
            return struct.unpack(kind.order + kind.format, raw)[0]
        case Global.DTYPE, (str(code), *_):
            return NumpyType(code)
        case (Global.DEFAULTDICT, () | (Global(),) | (None,)) | (Global.ORDEREDDICT, ()):
            return {}
        case Foreign(), tuple():
            return known.build(*args)
        case Global.BYTES, ():
            return b""
        case Global.ENCODE, (str(text), "latin1" | "latin-1"):
            return text.encode("latin-1")
    msg = "arguments that plain data does not have"
    raise TypeError(msg)


def set_state(kind: NumpyType, state: object) -> None:
    """Tell a number type its byte order, which is all that its pickled state says about numbers.

    Raises
    ------
    TypeError
        A state that number types do not have.
    """
    match state:
        case (int(), "<" | ">" | "|" as order, None, None, None, *_):
            kind.order = "=" if order == "|" else order
        case _:
            msg = "a state that number types do not have"
            raise TypeError(msg)
