"""Plain data out of a pickle by interpreting its opcodes; nothing the file names is ever imported or called.

Literals, containers, the memo and frames of protocols 0 to 5 are understood. The few globals of `pickle_globals.py`
are recognized by their spelling: NumPy numbers become Python numbers, `defaultdict` and `OrderedDict` become `dict`,
`bytearray` becomes `bytes`. A caller may understand more of them (`Known`). All else is refused.
"""

import codecs
import pickle
import struct
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from enum import Enum
from pathlib import Path
from typing import Any, Final, NoReturn

from geneformer.errors import (
    GeneformerError,
    InputNotFoundError,
    PlaceholderFileError,
    UnreadableInputError,
    UnsafeFileError,
)
from geneformer.files.atomic import atomic_file, output_errors


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
    """Further globals that a caller reads, such as those of tensors; none of them is imported either."""

    globals: Mapping[tuple[str, str], Callable[..., Any]] = field(default_factory=dict)
    states: Mapping[type, Callable[[Any, Any], None]] = field(default_factory=dict)
    leaves: tuple[type, ...] = ()


def recognize(module: str, name: str, known: Known) -> Global | Foreign | None:
    """What a global stands for, or None for one that is not read."""
    foreign = known.globals.get((module, name))
    return _SPELLINGS.get((module, name)) if foreign is None else Foreign(f"{module}.{name}", foreign)


def call(known: object, args: object) -> Any:
    """What calling a recognized global with these arguments means: a number, a type or an empty container."""
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
    """Tell a number type its byte order, which is all that its pickled state says about numbers."""
    match state:
        case (int(), "<" | ">" | "|" as order, None, None, None, *_):
            kind.order = "=" if order == "|" else order
        case _:
            msg = "a state that number types do not have"
            raise TypeError(msg)


_MAX_KEY_DEPTH: Final = 4
_SCALARS: Final = frozenset({str, int, float, bytes, bool, type(None)})
_CONTAINERS: Final = (dict, list, tuple, set, frozenset)


class Machine:
    """Stack, marks and memo over the bytes of one pickle."""

    def __init__(self, data: bytes, name: str, known: Known | None = None) -> None:
        self.data = data
        self.name = name
        self.known = known or Known()
        self.at = 0
        self.stack: list[Any] = []
        self.below: list[list[Any]] = []
        self.memo: dict[int, Any] = {}
        self._key_budget = 16 * len(data) + 1024

    def damaged(self, what: str) -> NoReturn:
        """Refuse a stream that is no complete pickle."""
        msg = (
            f"{self.name} {what} (byte {self.at:,} of {len(self.data):,}). "
            "A complete pickle of protocol 0 to 5 is needed; download or copy the file again."
        )
        raise UnreadableInputError(msg)

    def unsafe(self, what: str) -> NoReturn:
        """Refuse a stream that asks for more than plain data."""
        msg = (
            f"{self.name} asks for {what} (byte {self.at:,}). Only plain data (text, numbers, lists, dictionaries) "
            "is read from pickles. Do not load this file by other means unless you trust who made it."
        )
        raise UnsafeFileError(msg)

    def take(self, size: int) -> bytes:
        """The next `size` bytes."""
        end = self.at + size
        if end > len(self.data):
            self.damaged(f"promises {size:,} more bytes than it has")
        found = self.data[self.at : end]
        self.at = end
        return found

    def unsigned(self, width: int) -> int:
        """The next whole number of `width` bytes."""
        return int.from_bytes(self.take(width), "little")

    def raw_line(self) -> bytes:
        """Bytes up to the end of the line."""
        end = self.data.index(b"\n", self.at)
        found = self.data[self.at : end]
        self.at = end + 1
        return found

    def line(self) -> str:
        """Text up to the end of the line."""
        return self.raw_line().decode("utf-8")

    def since_mark(self) -> list[Any]:
        """Everything pushed since the last mark, taken off the stack."""
        items = self.stack
        self.stack = self.below.pop()
        return items

    def container(self, kind: type) -> Any:
        """The container on top of the stack, which new items go into."""
        top = self.stack[-1]
        if type(top) is not kind:
            self.damaged(f"adds to a {type(top).__name__} as if it were a {kind.__name__}")
        return top

    def check_keys(self, keys: list[Any]) -> None:
        """Refuse keys other than scalars and small tuples: nested ones can be made to hash forever."""
        if set(map(type, keys)) <= _SCALARS:
            return
        for key in keys:
            self._spend(key, 0)

    def _spend(self, key: object, depth: int) -> None:
        if type(key) in _SCALARS:
            return
        if not isinstance(key, tuple) or depth >= _MAX_KEY_DEPTH:
            self.damaged(f"uses a {type(key).__name__} as a key")
        self._key_budget -= len(key)
        if self._key_budget < 0:
            self.damaged("nests its keys beyond reason")
        for part in key:
            self._spend(part, depth + 1)

    def check_plain(self, value: object) -> None:
        """Refuse a result in which a global or a number type is still to be found."""
        seen: set[int] = set()
        waiting = [value]
        while waiting:
            item = waiting.pop()
            if type(item) in _SCALARS or id(item) in seen or isinstance(item, self.known.leaves):
                continue
            seen.add(id(item))
            if not isinstance(item, _CONTAINERS):
                self.unsafe(f"{item} as a value")
            parts = _parts(item)
            if not set(map(type, parts)) <= _SCALARS:
                waiting.extend(parts)


def _parts(container: Any) -> list[Any]:
    """What lies directly in a container."""
    if isinstance(container, dict):
        return [*container.keys(), *container.values()]
    return list(container)


Handler = Callable[[Machine], None]

STOP: Final = ord(".")
_MAX_INT_BYTES: Final = 16
_MAX_INT_DIGITS: Final = 40


def _push(make: Callable[[Machine], Any]) -> Handler:
    """A handler that pushes what `make` reads."""

    def handler(m: Machine) -> None:
        m.stack.append(make(m))

    return handler


def _refuse(what: str) -> Handler:
    def handler(m: Machine) -> None:
        m.unsafe(what)

    return handler


def _unknown(m: Machine) -> None:
    m.damaged(f"is no pickle, or a damaged one: {m.data[m.at - 1]:#04x} is no opcode of plain data")


def _protocol(m: Machine) -> None:
    version = m.unsigned(1)
    if version > 5:
        m.damaged(f"says it is of protocol {version}")


def _frame(m: Machine) -> None:
    size = m.unsigned(8)
    if size > len(m.data) - m.at:
        m.damaged(f"promises {size:,} more bytes than it has")


def _short_text(m: Machine) -> None:
    # With BINGET and MEMOIZE this makes up nearly all of a dictionary, so it does without the helpers.
    start = m.at + 1
    end = start + m.data[m.at]
    if end > len(m.data):
        m.damaged("ends inside a text")
    m.stack.append(m.data[start:end].decode("utf-8", "surrogatepass"))
    m.at = end


def _memoize(m: Machine) -> None:
    m.memo[len(m.memo)] = m.stack[-1]


def _get(read: Callable[[Machine], int]) -> Handler:
    def handler(m: Machine) -> None:
        m.stack.append(m.memo[read(m)])

    return handler


def _put(read: Callable[[Machine], int]) -> Handler:
    def handler(m: Machine) -> None:
        m.memo[read(m)] = m.stack[-1]

    return handler


def _mark(m: Machine) -> None:
    m.below.append(m.stack)
    m.stack = []


def _pop(m: Machine) -> None:
    if m.stack:
        m.stack.pop()
    else:
        m.since_mark()


def _pop_mark(m: Machine) -> None:
    m.since_mark()


def _duplicate(m: Machine) -> None:
    m.stack.append(m.stack[-1])


def _unsigned(width: int) -> Callable[[Machine], int]:
    return lambda m: m.unsigned(width)


def _number(m: Machine) -> int:
    text = m.line().removesuffix("L")
    if len(text) > _MAX_INT_DIGITS:
        m.damaged(f"holds a whole number of {len(text):,} digits")
    return int(text)


def _number_or_bool(m: Machine) -> int:
    is_bool = m.data.startswith((b"00\n", b"01\n"), m.at)
    value = _number(m)
    return bool(value) if is_bool else value


def _long(width: int) -> Callable[[Machine], int]:
    def make(m: Machine) -> int:
        size = m.unsigned(width)
        if size > _MAX_INT_BYTES:
            m.damaged(f"holds a whole number of {size:,} bytes")
        return int.from_bytes(m.take(size), "little", signed=True)

    return make


def _text(width: int) -> Callable[[Machine], str]:
    return lambda m: m.take(m.unsigned(width)).decode("utf-8", "surrogatepass")


def _ascii(width: int) -> Callable[[Machine], str]:
    return lambda m: m.take(m.unsigned(width)).decode("ascii")


def _bytes(width: int) -> Callable[[Machine], bytes]:
    return lambda m: m.take(m.unsigned(width))


def _quoted(m: Machine) -> str:
    text = m.line().strip()
    if len(text) < 2 or text[0] != text[-1] or text[0] not in "\"'" or "\\" in text:
        m.damaged("holds a quoted text this reader does not take")
    return text[1:-1].encode("ascii").decode("ascii")


def _escaped(m: Machine) -> str:
    return codecs.raw_unicode_escape_decode(m.raw_line())[0]


def _tuple_of(count: int) -> Handler:
    def handler(m: Machine) -> None:
        if len(m.stack) < count:
            m.damaged("takes more from its stack than there is")
        items = tuple(m.stack[-count:])
        del m.stack[-count:]
        m.stack.append(items)

    return handler


def _tuple(m: Machine) -> None:
    items = tuple(m.since_mark())
    m.stack.append(items)


def _list(m: Machine) -> None:
    items = m.since_mark()
    m.stack.append(items)


def _dict(m: Machine) -> None:
    items = m.since_mark()
    m.stack.append({})
    _fill(m, items)


def _frozenset(m: Machine) -> None:
    items = m.since_mark()
    m.check_keys(items)
    m.stack.append(frozenset(items))


def _append(m: Machine) -> None:
    item = m.stack.pop()
    m.container(list).append(item)


def _appends(m: Machine) -> None:
    items = m.since_mark()
    m.container(list).extend(items)


def _add_items(m: Machine) -> None:
    items = m.since_mark()
    m.check_keys(items)
    m.container(set).update(items)


def _set_item(m: Machine) -> None:
    value, key = m.stack.pop(), m.stack.pop()
    _fill(m, [key, value])


def _set_items(m: Machine) -> None:
    _fill(m, m.since_mark())


def _fill(m: Machine, items: list[Any]) -> None:
    keys = items[::2]
    m.check_keys(keys)
    m.container(dict).update(zip(keys, items[1::2], strict=True))


def _global(m: Machine) -> None:
    module = m.line()
    _name(m, module, m.line())


def _stack_global(m: Machine) -> None:
    name, module = m.stack.pop(), m.stack.pop()
    if not isinstance(name, str) or not isinstance(module, str):
        m.damaged("names a global that is no text")
    _name(m, module, name)


def _name(m: Machine, module: str, name: str) -> None:
    known = recognize(module, name, m.known)
    if known is None:
        m.unsafe(f"{module[:80]}.{name[:80]}")
    m.stack.append(known)


def _reduce(m: Machine) -> None:
    args, known = m.stack.pop(), m.stack.pop()
    if not isinstance(known, Global | Foreign) or not isinstance(args, tuple):
        m.unsafe(f"a call of a {type(known).__name__}")
    if known in (Global.SET, Global.FROZENSET):
        items = list(args[0]) if len(args) == 1 and isinstance(args[0], list | tuple) else []
        m.check_keys(items)
        m.stack.append(set(items) if known is Global.SET else frozenset(items))
        return
    try:
        m.stack.append(call(known, args))
    except (TypeError, KeyError, UnicodeError, struct.error):
        m.unsafe(f"{known} with unexpected arguments")


def _new_object(m: Machine) -> None:
    known = m.stack[-2] if len(m.stack) > 1 else None
    if not isinstance(known, Foreign):
        m.unsafe("an object to be built (NEWOBJ)")
    _reduce(m)


def _build(m: Machine) -> None:
    state = m.stack.pop()
    kind = m.stack[-1]
    setter = set_state if isinstance(kind, NumpyType) else m.known.states.get(type(kind))
    if setter is None:
        m.unsafe(f"the state of a {type(kind).__name__} to be set")
    try:
        setter(kind, state)
    except TypeError:
        m.unsafe(f"a {type(kind).__name__} to get an unexpected state")


HANDLERS: Final[list[Handler]] = [_unknown] * 256
"""What to do at each opcode."""

for _code, _handler in {
    b"\x80": _protocol,
    b"\x95": _frame,
    b"\x8c": _short_text,
    b"X": _push(_text(4)),
    b"\x8d": _push(_text(8)),
    b"V": _push(_escaped),
    b"S": _push(_quoted),
    b"U": _push(_ascii(1)),
    b"T": _push(_ascii(4)),
    b"C": _push(_bytes(1)),
    b"B": _push(_bytes(4)),
    b"\x8e": _push(_bytes(8)),
    b"\x96": _push(_bytes(8)),
    b"I": _push(_number_or_bool),
    b"L": _push(_number),
    b"K": _push(_unsigned(1)),
    b"M": _push(_unsigned(2)),
    b"J": _push(lambda m: int.from_bytes(m.take(4), "little", signed=True)),
    b"\x8a": _push(_long(1)),
    b"\x8b": _push(_long(4)),
    b"F": _push(lambda m: float(m.line())),
    b"G": _push(lambda m: struct.unpack(">d", m.take(8))[0]),
    b"N": _push(lambda _: None),
    b"\x88": _push(lambda _: True),
    b"\x89": _push(lambda _: False),
    b"(": _mark,
    b"0": _pop,
    b"1": _pop_mark,
    b"2": _duplicate,
    b"\x94": _memoize,
    b"g": _get(_number),
    b"h": _get(_unsigned(1)),
    b"j": _get(_unsigned(4)),
    b"p": _put(_number),
    b"q": _put(_unsigned(1)),
    b"r": _put(_unsigned(4)),
    b")": _push(lambda _: ()),
    b"\x85": _tuple_of(1),
    b"\x86": _tuple_of(2),
    b"\x87": _tuple_of(3),
    b"t": _tuple,
    b"]": _push(lambda _: []),
    b"l": _list,
    b"a": _append,
    b"e": _appends,
    b"}": _push(lambda _: {}),
    b"d": _dict,
    b"s": _set_item,
    b"u": _set_items,
    b"\x8f": _push(lambda _: set()),
    b"\x90": _add_items,
    b"\x91": _frozenset,
    b"c": _global,
    b"\x93": _stack_global,
    b"R": _reduce,
    b"b": _build,
    b"i": _refuse("an object to be built (INST)"),
    b"o": _refuse("an object to be built (OBJ)"),
    b"\x81": _new_object,
    b"\x92": _refuse("an object to be built (NEWOBJ_EX)"),
    b"\x82": _refuse("a registered extension (EXT1)"),
    b"\x83": _refuse("a registered extension (EXT2)"),
    b"\x84": _refuse("a registered extension (EXT4)"),
    b"P": _refuse("an object kept elsewhere (PERSID)"),
    b"Q": _refuse("an object kept elsewhere (BINPERSID)"),
    b"\x97": _refuse("a buffer kept elsewhere (NEXT_BUFFER)"),
    b"\x98": _refuse("a buffer kept elsewhere (READONLY_BUFFER)"),
}.items():
    HANDLERS[_code[0]] = _handler


_MAX_BYTES: Final = 1 << 30
_LFS: Final = b"version https://git-lfs"
_ZIP: Final = b"PK\x03\x04"

_DAMAGE: Final = (LookupError, struct.error, ValueError, TypeError, OverflowError)
"""What the interpreter trips over in a truncated or garbled stream."""


def read_pickle(path: str | Path, *, known: Known | None = None) -> Any:
    """The data in a pickle file: dicts, lists, tuples, sets, text, bytes and Python numbers."""
    path = Path(path)
    if not path.is_file():
        msg = f'No file "{path}". Give the path of a pickle, such as a published dictionary.'
        raise InputNotFoundError(msg)
    size = path.stat().st_size
    if size > _MAX_BYTES:
        msg = f'"{path}" holds {size:,} bytes; pickles of at most {_MAX_BYTES:,} bytes are read.'
        raise UnreadableInputError(msg)
    try:
        data = path.read_bytes()
    except OSError as error:
        msg = f'"{path}" cannot be read: {error.strerror}. Check its permissions.'
        raise UnreadableInputError(msg) from error
    return read_pickle_bytes(data, name=f'"{path}"', known=known)


def read_pickle_bytes(data: bytes, *, name: str = "The pickle", known: Known | None = None) -> Any:
    """The data in a pickle held in memory; `name` is what errors call it, `known` as for `read_pickle`."""
    if data.startswith(_LFS):
        msg = (
            f"{name} is a {len(data)}-byte git-lfs pointer, not the file itself. "
            "Fetch the file with `git lfs pull`, or download it from where the repository came from."
        )
        raise PlaceholderFileError(msg)
    machine = Machine(data, name, known)
    if data.startswith(_ZIP):
        machine.damaged("is a zip archive (weights saved by PyTorch are), no pickle")
    try:
        return _run(machine)
    except GeneformerError:
        raise
    except _DAMAGE:
        machine.damaged("is truncated, damaged or no pickle")


def _run(machine: Machine) -> Any:
    """Follow the opcodes up to the stop, which must be the last byte."""
    data, handlers = machine.data, HANDLERS
    while (code := data[machine.at]) != STOP:
        machine.at += 1
        handlers[code](machine)
    machine.at += 1
    if len(machine.stack) != 1 or machine.below:
        machine.damaged("ends with an unfinished stack")
    if machine.at != len(data):
        machine.damaged(f"goes on for {len(data) - machine.at:,} bytes after its end")
    machine.check_plain(machine.stack[0])
    return machine.stack[0]


def write_pickle(content: Any, path: str | Path) -> Path:
    """Write plain data where a published script will look for it; returns where it is."""
    path = Path(path)
    with output_errors(path):
        path.absolute().parent.mkdir(parents=True, exist_ok=True)
    with atomic_file(path, overwrite=True) as temporary:
        temporary.write_bytes(pickle.dumps(content, protocol=4))
    return path
