"""Every identifier under which a gene of a vocabulary is known, and one column of names looked up in it."""

import re
from collections import Counter
from collections.abc import Iterable
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


class _SameObject:
    """A vocabulary as a cache key: equal ones may still know different symbols."""

    def __init__(self, vocabulary: Vocabulary) -> None:
        self.vocabulary = vocabulary

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _SameObject) and self.vocabulary is other.vocabulary

    def __hash__(self) -> int:
        return id(self.vocabulary)


def known_names(vocabulary: Vocabulary, *, borrow: bool = True) -> dict[str, Known]:
    """What each upper-case identifier stands for, genes without a token left out.

    Its own ids come first, then its symbols, then its table of aliases. A vocabulary without such a table borrows the
    one of V2.
    """
    return _known_names(_SameObject(vocabulary), borrow)


@lru_cache(maxsize=8)
def _known_names(key: _SameObject, borrow: bool) -> dict[str, Known]:
    vocabulary = key.vocabulary
    position_of = vocabulary.position_of
    own = vocabulary.tables.aliases
    symbol_code, retired, alias = HOW.index(SYMBOL), HOW.index(RETIRED), HOW.index(ALIAS)
    known: dict[str, Known] = {}
    if own is not None or borrow:
        history = vocabulary if own is not None else Vocabulary.load("V2")
        official = {symbol.upper(): symbol for symbol in history.symbols}
        for name, gene in history.aliases.items():
            place = position_of.get(gene)
            if place is not None:
                code = retired if _is_ensembl(name) else symbol_code if name in official else alias
                spelled = official.get(name) or _ORF.sub(r"\1orf", name)
                known[name] = Known(place, code, spelled, borrowed=own is None)
    for symbol, gene in vocabulary.symbols.items():
        place = position_of.get(gene)
        if place is not None:
            known[symbol.upper()] = Known(place, symbol_code, symbol, borrowed=False)
    for gene, place in position_of.items():
        known[gene.upper()] = Known(place, HOW.index(ID), gene, borrowed=False)
    return known


def look_up(column: str, entries: Iterable[object], known: dict[str, Known]) -> LookedUp:
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


def _is_ensembl(name: str) -> bool:
    return name.startswith("ENSG") and name[-10:].isdigit()


def _find(text: str, known: dict[str, Known]) -> tuple[Known | None, tuple[str, ...]]:
    """What a name stands for and what had to be repaired."""
    match = known.get(text)
    if match is not None and match.spelled == text:
        return match, ()
    repairs: tuple[str, ...] = ()
    match = known.get(text.upper())
    if match is None:
        upper, repairs = repaired(text)
        match = known.get(upper)
    if match is not None and match.spelled not in text and match.spelled.upper() not in text:
        repairs = (*repairs, "case")
    return match, repairs
