"""Every identifier under which a gene of a vocabulary is known, and one column of names looked up in it."""

import re
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from geneformer.vocab.identifiers import foreign_kind, looks_like_mouse_symbol, repaired, text_of
from geneformer.vocab.vocabulary import Vocabulary

ID, RETIRED, SYMBOL, ALIAS = "id", "retired", "symbol", "alias"
HOW: Final = ("unmatched", ID, SYMBOL, RETIRED, ALIAS, "missing", "withheld")
"""How a name was resolved; columns hold indices into this."""

UNMATCHED_CODE, MISSING_CODE, WITHHELD_CODE = HOW.index("unmatched"), HOW.index("missing"), HOW.index("withheld")

_ORF: Final = re.compile(r"(?<=^C)([0-9XY]+)ORF")
"""Open reading frames are the one kind of human symbol that is spelled with small letters."""


class Known(NamedTuple):
    """What an identifier stands for.

    Attributes
    ----------
    position
        Index into the genes of the vocabulary.
    how
        Index into `HOW`.
    spelled
        The identifier as the corpus spells it.
    borrowed
        Known only from the history that ships with V2, not from the vocabulary itself.
    """

    position: int
    how: int
    spelled: str
    borrowed: bool


@dataclass(slots=True)
class LookedUp:
    """One column of names, looked up.

    Attributes
    ----------
    positions
        Index into the genes of the vocabulary, -1 where there is none, ``(n,)``.
    hows
        Indices into `HOW`, ``(n,)``.
    borrowed
        Whether the match rests on the history that ships with V2, ``(n,)``.
    repairs
        What was repaired, by row.
    foreign
        How many names are of another species or kind.
    n_mouse_symbols
        Names spelled the mouse way that are not spelled so in the vocabulary.
    """

    column: str
    texts: list[str]
    positions: NDArray[np.int32]
    hows: NDArray[np.int8]
    borrowed: NDArray[np.bool_]
    repairs: dict[int, tuple[str, ...]]
    foreign: dict[str, int]
    n_mouse_symbols: int

    @property
    def n_present(self) -> int:
        """Names that are there."""
        return int(np.count_nonzero(self.hows != MISSING_CODE))

    @property
    def n_distinct(self) -> int:
        """Different genes matched."""
        return len(np.unique(self.positions[self.positions >= 0]))

    @property
    def is_ids(self) -> bool:
        """Whether most matches are by Ensembl id rather than by symbol."""
        hows = self.hows[self.positions >= 0]
        return 2 * int(np.isin(hows, (HOW.index(ID), HOW.index(RETIRED))).sum()) > len(hows)


class KnownNames:
    """What each upper-case identifier stands for, genes without a token left out.

    A vocabulary's own ids come first, then its symbols, then its table of aliases. Names are worked out when they are
    asked for: a file has a fraction of those there are.

    Parameters
    ----------
    vocabulary
        Whose genes are meant.
    borrow
        Use the table of aliases of V2 for a vocabulary that has none.
    """

    def __init__(self, vocabulary: Vocabulary, *, borrow: bool) -> None:
        own = vocabulary.tables.aliases
        self._place_of = vocabulary.position_of
        self._ids = {gene.upper(): gene for gene in self._place_of}
        self._symbols = {s.upper(): (s, gene) for s, gene in vocabulary.symbols.items() if gene in self._place_of}
        self._borrowed = own is None
        self._aliases: Mapping[str, str] = {}
        self._official: dict[str, str] = {}
        if own is not None or borrow:
            history = vocabulary if own is not None else Vocabulary.load("V2")
            self._aliases = history.aliases
            self._official = {symbol.upper(): symbol for symbol in history.symbols}
        self._found: dict[str, Known | None] = {}

    def get(self, name: str) -> Known | None:
        """What a name stands for, or nothing."""
        if name not in self._found:
            self._found[name] = self._find(name)
        return self._found[name]

    def _find(self, name: str) -> Known | None:
        if name in self._ids:
            gene = self._ids[name]
            return Known(self._place_of[gene], HOW.index(ID), gene, borrowed=False)
        if name in self._symbols:
            symbol, gene = self._symbols[name]
            return Known(self._place_of[gene], HOW.index(SYMBOL), symbol, borrowed=False)
        place = self._place_of.get(self._aliases.get(name, ""))
        if place is None:
            return None
        how = RETIRED if _is_ensembl(name) else SYMBOL if name in self._official else ALIAS
        spelled = self._official.get(name) or _ORF.sub(r"\1orf", name)
        return Known(place, HOW.index(how), spelled, borrowed=self._borrowed)


class _SameObject:
    """A vocabulary as a cache key: equal ones may still know different symbols."""

    def __init__(self, vocabulary: Vocabulary) -> None:
        self.vocabulary = vocabulary

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _SameObject) and self.vocabulary is other.vocabulary

    def __hash__(self) -> int:
        return id(self.vocabulary)


def known_names(vocabulary: Vocabulary, *, borrow: bool = True) -> KnownNames:
    """The names of a vocabulary, put together once."""
    return _known_names(_SameObject(vocabulary), borrow)


@lru_cache(maxsize=8)
def _known_names(key: _SameObject, borrow: bool) -> KnownNames:
    return KnownNames(key.vocabulary, borrow=borrow)


def look_up(column: str, entries: Iterable[object], known: KnownNames) -> LookedUp:
    """One column of names looked up, each by itself: ids and symbols may be mixed."""
    raw = list(entries)
    texts = [text_of(entry) for entry in raw]
    positions, hows, borrowed = [-1] * len(texts), [UNMATCHED_CODE] * len(texts), [False] * len(texts)
    repairs_of: dict[int, tuple[str, ...]] = {}
    foreign: Counter[str] = Counter()
    n_mouse_symbols = 0
    for row, text in enumerate(texts):
        if not text:
            hows[row] = MISSING_CODE
            continue
        match, repairs = _find(text, known)
        if match is not None:
            positions[row], hows[row], spelled, borrowed[row] = match
        elif (kind := foreign_kind(text)) is not None:
            foreign[kind] += 1
        if (match is None or spelled != text) and looks_like_mouse_symbol(text):
            n_mouse_symbols += 1
        if match is not None and isinstance(raw[row], str) and raw[row] != text:
            repairs = ("spaces", *repairs)
        if repairs:
            repairs_of[row] = repairs
    return LookedUp(
        column,
        texts,
        np.array(positions, dtype=np.int32),
        np.array(hows, dtype=np.int8),
        np.array(borrowed, dtype=np.bool_),
        repairs_of,
        dict(foreign),
        n_mouse_symbols,
    )


_ENSEMBL_LENGTH = len("ENSG00000000003")


def _is_ensembl(name: str) -> bool:
    return name.startswith("ENSG") and name[-10:].isdigit()


def _find(text: str, known: KnownNames) -> tuple[Known | None, tuple[str, ...]]:
    """What a name stands for and what had to be repaired."""
    match = known.get(text)
    if match is not None and match.spelled == text:
        return match, ()
    repairs: tuple[str, ...] = ()
    if match is None and _is_ensembl(text) and len(text) == _ENSEMBL_LENGTH:
        return None, repairs  # a proper id, of a gene without a token: nothing to repair
    match = known.get(text.upper())
    if match is None:
        upper, repairs = repaired(text)
        match = known.get(upper)
    if match is not None and match.spelled not in text and match.spelled.upper() not in text:
        repairs = (*repairs, "case")
    return match, repairs
