"""What the interpreter of pickles works on: bytes, a stack with marks, a memo, and its refusals."""

from typing import Any, Final, NoReturn

from geneformer.errors import UnreadableInputError, UnsafeFileError
from geneformer.vocab.pickle_globals import Known

_MAX_KEY_DEPTH: Final = 4
_SCALARS: Final = frozenset({str, int, float, bytes, bool, type(None)})
_CONTAINERS: Final = (dict, list, tuple, set, frozenset)


class Machine:
    """Stack, marks and memo over the bytes of one pickle.

    Parameters
    ----------
    data
        The whole pickle.
    name
        What errors call it.
    known
        Globals to understand beside those of plain data.
    """

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
