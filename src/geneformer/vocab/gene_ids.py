"""Gene identifiers resolved: the right column found, each name repaired, what cannot be used refused by its kind."""

from collections.abc import Mapping, Sequence
from typing import Any, Final

import numpy as np

from geneformer.errors import (
    GeneIdsNotFoundError,
    UnknownColumnError,
    UnsupportedGeneIdsError,
    WrongSpeciesError,
)
from geneformer.options._check import nearest
from geneformer.vocab.gene_lookup import MISSING_CODE, WITHHELD_CODE, KnownNames, LookedUp, known_names, look_up
from geneformer.vocab.gene_match import GeneMatch, check_matched_share
from geneformer.vocab.identifiers import MOUSE_OR_RAT, UNSUPPORTED
from geneformer.vocab.vocabulary import Vocabulary

__all__ = ["INDEX", "GeneMatch", "check_matched_share", "resolve_genes"]

INDEX: Final = "index"
"""How the row names of `var` are called."""

_USUAL: Final = (
    "ensembl_id",
    "gene_ids",
    "gene_id",
    "ensembl",
    "feature_id",
    INDEX,
    "gene_symbol",
    "symbol",
    "gene_name",
    "feature_name",
)

_NEARLY: Final = 0.9
"""Ensembl ids are taken over symbols that match this much better: symbols match some wrong genes too."""


def resolve_genes(
    columns: Mapping[str, Sequence[Any]],
    vocabulary: Vocabulary,
    column: str | None = None,
    *,
    borrow: bool = True,
) -> GeneMatch:
    """Which column of a matrix is which gene of the vocabulary.

    Each name is looked up by itself, as Ensembl id (current or retired, with or without version), or as symbol (current
    or earlier, in any case). Columns that turn out to be the same gene are to be summed.

    Parameters
    ----------
    columns
        The text columns of `var`, and its row names as "index", each ``(n,)``.
    vocabulary
        What to match against.
    column
        Where the identifiers are. By default the place with most matches, Ensembl ids before symbols; rows without an
        identifier there are then looked up by their names in the other columns.
    borrow
        Resolve retired ids and earlier symbols by the history of V2 for a vocabulary that has none, such as V1. A name
        is resolved so only where its gene is not in the data under a name of its own.

    Raises
    ------
    UnknownColumnError
        No such column.
    GeneIdsNotFoundError
        Nothing that looks like an identifier of the vocabulary.
    WrongSpeciesError
        Mostly genes of another species.
    UnsupportedGeneIdsError
        Mostly transcripts, proteins, Entrez numbers or probes.

    Examples
    --------
    >>> from geneformer.vocab.gene_ids import resolve_genes
    >>> from geneformer.vocab.vocabulary import Vocabulary
    >>> match = resolve_genes({"index": ["ENSG00000141510.18", "gapdh", "nonsense"]}, Vocabulary.load("V1"))
    >>> match.n_matched, [match.vocabulary.symbol_of(g) for g in match.vocabulary.genes[match.positions[:2]]]
    (2, ['TP53', 'GAPDH'])
    """
    known = known_names(vocabulary, borrow=borrow)
    looked_up = _candidates(columns, column, known)
    chosen = _choose(looked_up)
    _refuse_other_kinds(chosen, looked_up)
    if not chosen.n_distinct:
        raise _not_found(looked_up, columns, vocabulary)
    n_from_other = 0 if column is not None else _fill_in(chosen, looked_up)
    _withhold(chosen)
    return GeneMatch(
        vocabulary=vocabulary,
        positions=chosen.positions,
        names=np.array(chosen.texts, dtype=object),
        hows=chosen.hows,
        column=chosen.column,
        kind="ensembl" if chosen.is_ids else "symbol",
        n_repaired=_tally(chosen),
        n_from_other=n_from_other,
        foreign=dict(chosen.foreign),
    )


def _candidates(columns: Mapping[str, Sequence[Any]], column: str | None, known: KnownNames) -> list[LookedUp]:
    """The columns that may hold identifiers, looked up, in order of preference."""
    if column is not None:
        if _are_row_numbers(columns.get(column, ())):
            return []
        if column not in columns:
            msg = (
                f'var has no column "{column}" with gene identifiers; it has {list(columns)}.{nearest(column, columns)}'
            )
            raise UnknownColumnError(msg)
        return [look_up(column, columns[column], known)]
    lowered = {name: name.lower() for name in columns}
    order = sorted(columns, key=lambda name: _USUAL.index(lowered[name]) if lowered[name] in _USUAL else len(_USUAL))
    distinct: dict[str, list[Any]] = {}
    for name in order:
        entries = list(columns[name])
        if not _are_row_numbers(entries) and entries not in distinct.values():
            distinct[name] = entries
    return [look_up(name, entries, known) for name, entries in distinct.items()]


def _are_row_numbers(entries: Sequence[Any]) -> bool:
    """Whether a column only counts its rows."""
    texts = list(map(str, entries))
    if not texts or texts[0] not in ("0", "1"):
        return False
    first = int(texts[0])
    return texts == [str(row) for row in range(first, first + len(texts))]


def _choose(looked_up: list[LookedUp]) -> LookedUp:
    """The column with most genes, or one of Ensembl ids with nearly as many."""
    if not looked_up:
        msg = (
            "The genes have no identifiers: there are only row numbers. Put Ensembl ids or symbols into the index of "
            'var or into a column "ensembl_id".'
        )
        raise GeneIdsNotFoundError(msg)
    most = max(found.n_distinct for found in looked_up)
    eligible = [found for found in looked_up if found.n_distinct >= _NEARLY * most]
    # max keeps the first of equals, and the columns are in order of preference.
    return max(eligible, key=lambda found: (found.is_ids, found.n_distinct))


def _refuse_other_kinds(chosen: LookedUp, looked_up: list[LookedUp]) -> None:
    """Refuse identifiers of another species or kind, unless the chosen column mostly spells genes of ours."""
    n_ours = int(np.count_nonzero(chosen.positions >= 0)) - chosen.n_mouse_symbols
    if n_ours >= 0.1 * chosen.n_present and n_ours > 0:
        return
    for found in (chosen, *looked_up):
        for kind, number in found.foreign.items():
            if number > 0.5 * found.n_present:
                raise _foreign(kind, number, found)
    for found in (chosen, *looked_up):
        if found.n_mouse_symbols > 0.5 * found.n_present:
            raise _foreign(MOUSE_OR_RAT, found.n_mouse_symbols, found)


def _foreign(kind: str, number: int, found: LookedUp) -> Exception:
    share = f"{number / found.n_present:.0%} of the gene identifiers in {_place(found.column)}"
    first = _first(found.texts)
    if kind in UNSUPPORTED:
        where = "Ensembl gene ids or human symbols"
        msg = f"{share} are {kind} ({first}). The vocabulary holds genes: {where} are needed. {UNSUPPORTED[kind]}"
        return UnsupportedGeneIdsError(msg)
    whose = f"{kind} genes"
    msg = (
        f"{share} are {whose} ({first}). The vocabulary holds human genes. Translate the counts to human one-to-one "
        "orthologs (Ensembl BioMart lists them) and give the human Ensembl ids, or use a vocabulary and a model of "
        "that species."
    )
    return WrongSpeciesError(msg)


def _not_found(
    looked_up: list[LookedUp], columns: Mapping[str, Sequence[Any]], vocabulary: Vocabulary
) -> GeneIdsNotFoundError:
    seen = "; ".join(f"{_place(found.column)} starts with {_first(found.texts)}" for found in looked_up[:4])
    number = len(next(iter(columns.values()), ()))
    msg = (
        f'No gene of vocabulary "{vocabulary.name}" was found among {number:,} genes: {seen}. '
        "Ensembl ids (ENSG…) or human gene symbols are needed; name their column of var with gene_ids=."
    )
    return GeneIdsNotFoundError(msg)


def _fill_in(chosen: LookedUp, looked_up: list[LookedUp]) -> int:
    """Look up the rows without a name by their names in other columns; returns how many that matched."""
    filled = 0
    for other in looked_up:
        if other is chosen or other.n_distinct < 0.3 * chosen.n_distinct:
            continue
        for row in np.flatnonzero((chosen.hows == MISSING_CODE) & (other.hows != MISSING_CODE)).tolist():
            chosen.texts[row] = other.texts[row]
            chosen.positions[row], chosen.hows[row] = other.positions[row], other.hows[row]
            chosen.borrowed[row] = other.borrowed[row]
            filled += int(other.positions[row] >= 0)
            if row in other.repairs:
                chosen.repairs[row] = other.repairs[row]
    return filled


def _withhold(chosen: LookedUp) -> None:
    """Leave out names known only from a borrowed history whose gene is there under a name of its own."""
    own = np.unique(chosen.positions[(chosen.positions >= 0) & ~chosen.borrowed])
    doubled = chosen.borrowed & np.isin(chosen.positions, own)
    chosen.positions[doubled] = -1
    chosen.hows[doubled] = WITHHELD_CODE


def _tally(chosen: LookedUp) -> dict[str, int]:
    """How many matched names took each repair."""
    tally: dict[str, int] = {}
    for row, repairs in chosen.repairs.items():
        if chosen.positions[row] >= 0:
            for repair in repairs:
                tally[repair] = tally.get(repair, 0) + 1
    return tally


def _place(column: str) -> str:
    return "the index of var" if column == INDEX else f'var["{column}"]'


def _first(texts: list[str]) -> str:
    return ", ".join(f'"{text}"' for text in [text for text in texts if text][:5]) or "nothing"
