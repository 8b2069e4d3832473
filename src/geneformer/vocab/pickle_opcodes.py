"""One small function per pickle opcode that plain data needs, and the table of them."""

import codecs
import struct
from collections.abc import Callable
from typing import Any, Final

from geneformer.vocab.pickle_globals import Foreign, Global, NumpyType, call, recognize, set_state
from geneformer.vocab.pickle_machine import Machine

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
