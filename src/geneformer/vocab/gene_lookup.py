"""Every identifier under which a gene of a vocabulary is known, and one column of names looked up in it."""

import re
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from functools import lru_cache
from typing import Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from geneformer.vocab.identifiers import MISSING, foreign_kind, looks_like_mouse_symbol, repaired, text_of
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
    asked for, and the tables searched for those alone: a file has a fraction of the names there are.

    Parameters
    ----------
    vocabulary
        Whose genes are meant.
    borrow
        Use the table of aliases of V2 for a vocabulary that has none.

    Attributes
    ----------
    plain
        Index into the genes of the vocabulary of each id that needs no second look.
    """

    def __init__(self, vocabulary: Vocabulary, *, borrow: bool) -> None:
        own = vocabulary.tables.has_aliases
        self._place_of = vocabulary.position_of
        self.plain = {
            gene: place for gene, place in self._place_of.items() if gene.isupper() and gene.lower() not in MISSING
        }
        self._ids = {gene.upper(): gene for gene in self._place_of if gene not in self.plain}
        self._borrowed = not own
        self._tables = vocabulary.tables
        history = vocabulary if own else Vocabulary.load("V2") if borrow else None
        self._history = None if history is None else history.tables
        self._symbols: dict[str, tuple[str, str]] = {}
        self._aliases: dict[str, str] = {}
        self._official: dict[str, str] = {}
        self._found: dict[str, Known | None] = {}
        self._learnt: set[str] = set()

    def learn(self, names: Iterable[str]) -> None:
        """Look names up in the tables, all at once: each time they are read to their end."""
        wanted = set(names) - self._learnt
        if not wanted:
            return
        self._learnt |= wanted
        symbols = self._tables.symbols_spelling(wanted)
        self._symbols |= {s.upper(): (s, gene) for s, gene in symbols.items() if gene in self._place_of}
        if self._history is not None:
            official = symbols if self._history is self._tables else self._history.symbols_spelling(wanted)
            self._official |= {symbol.upper(): symbol for symbol in official}
            self._aliases |= self._history.aliases_among(wanted)

    def get(self, name: str) -> Known | None:
        """What a name stands for, or nothing."""
        if name not in self._found:
            self._found[name] = self._find(name)
        return self._found[name]

    def _find(self, name: str) -> Known | None:
        gene = name if name in self.plain else self._ids.get(name)
        if gene is not None:
            return Known(self._place_of[gene], HOW.index(ID), gene, borrowed=False)
        if name not in self._learnt:
            self.learn((name,))
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
    positions = [known.plain.get(entry, -1) if type(entry) is str else -1 for entry in raw]
    texts = [str(entry) if place >= 0 else text_of(entry) for entry, place in zip(raw, positions, strict=True)]
    rest = [row for row, place in enumerate(positions) if place < 0]
    known.learn(name for row in rest for name in _spellings(texts[row]))
    hows, borrowed = [HOW.index(ID)] * len(texts), [False] * len(texts)
    repairs_of: dict[int, tuple[str, ...]] = {}
    foreign: Counter[str] = Counter()
    n_mouse_symbols = 0
    for row in rest:
        text = texts[row]
        hows[row] = UNMATCHED_CODE if text else MISSING_CODE
        if not text:
            continue
        if text.startswith("ENSG0") and _is_proper_id(text) and known.get(text) is None:
            continue  # a gene without a token, and nothing else
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


def _is_proper_id(text: str) -> bool:
    return len(text) == _ENSEMBL_LENGTH and _is_ensembl(text)


def _spellings(text: str) -> tuple[str, ...]:
    """The names that `_find` may ask for."""
    return (text,) if _is_proper_id(text) else (text, text.upper(), repaired(text)[0])


def _find(text: str, known: KnownNames) -> tuple[Known | None, tuple[str, ...]]:
    """What a name stands for and what had to be repaired."""
    match = known.get(text)
    if match is not None and match.spelled == text:
        return match, ()
    repairs: tuple[str, ...] = ()
    if match is None and _is_proper_id(text):
        return None, repairs  # of a gene without a token: nothing to repair
    match = known.get(text.upper())
    if match is None:
        upper, repairs = repaired(text)
        match = known.get(upper)
    if match is not None and match.spelled not in text and match.spelled.upper() not in text:
        repairs = (*repairs, "case")
    return match, repairs
