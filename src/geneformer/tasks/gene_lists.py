"""Lists of genes as users have them, as token ids with classes."""

import warnings
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from geneformer.errors import GeneformerWarning, GeneListError, UnknownClassError
from geneformer.models.losses import MISSING
from geneformer.options._check import check_choice, nearest
from geneformer.vocab.gene_lookup import MISSING_CODE, LookedUp, known_names, look_up
from geneformer.vocab.vocabulary import Vocabulary

GeneClasses = Mapping[str, Iterable[str]]
"""Names of genes by class: Ensembl ids or symbols."""

_LISTED = 20
"""Most genes a message lists."""


@dataclass(frozen=True, slots=True, eq=False)
class GeneLabels:
    """Genes with a class, by ascending token id.

    Attributes
    ----------
    tokens
        Token id of each gene, int64 ``(n,)``.
    codes
        Place of its class in `classes`, int64 ``(n,)``.
    classes
        Names of the classes, in the order given.
    unknown
        Names left out because they are no genes of the vocabulary, by class.
    absent
        Ensembl ids left out because they occur in no cell, by class.
    """

    tokens: NDArray[np.int64]
    codes: NDArray[np.int64]
    classes: tuple[str, ...]
    unknown: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    absent: Mapping[str, tuple[str, ...]] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.tokens)

    @property
    def counts(self) -> NDArray[np.int64]:
        """Genes per class, ``(C,)``."""
        return np.bincount(self.codes, minlength=len(self.classes))

    def class_of(self, size: int, rows: NDArray[np.int64] | None = None) -> NDArray[np.int64]:
        """Class of every token id, `losses.MISSING` where it has none, ``(size,)``.

        Parameters
        ----------
        size
            Tokens of the vocabulary.
        rows
            Genes that count; all by default.
        """
        kept = slice(None) if rows is None else rows
        class_of = np.full(size, MISSING, dtype=np.int64)
        class_of[self.tokens[kept]] = self.codes[kept]
        return class_of

    def by_class(self, vocabulary: Vocabulary, rows: NDArray[np.int64] | None = None) -> dict[str, list[str]]:
        """Ensembl ids by class."""
        kept = np.arange(len(self)) if rows is None else rows
        names = vocabulary.gene_of[self.tokens[kept]]
        return {name: names[self.codes[kept] == code].tolist() for code, name in enumerate(self.classes)}


def read_gene_classes(
    gene_classes: GeneClasses,
    vocabulary: Vocabulary,
    *,
    unknown: Literal["refuse", "drop"] = "refuse",
    classes: Sequence[str] | None = None,
) -> GeneLabels:
    """Token ids and classes of lists of genes.

    Every name is looked up by itself, as Ensembl id (current or retired, with or without version) or as symbol (current
    or earlier, in any case). Empty entries are passed over, and a gene named twice in one class counts once.

    Parameters
    ----------
    gene_classes
        Names of genes by class, two classes or more.
    vocabulary
        Where genes are looked up.
    unknown
        Whether names that are no genes of the vocabulary are refused, or left out and told of.
    classes
        Classes and their order, some of which may be without a list; those of the lists by default.

    Warns
    -----
    GeneformerWarning
        Names left out; symbols that are spelled the way of mouse genes.

    Raises
    ------
    GeneListError
        Not a table of lists, fewer than two classes, a class without genes, unknown genes, a gene in two classes.
    UnknownClassError
        A list for none of `classes`.

    Examples
    --------
    >>> from geneformer.tasks.gene_lists import read_gene_classes
    >>> from geneformer.vocab.vocabulary import Vocabulary
    >>> labels = read_gene_classes({"a": ["gapdh"], "b": ["ENSG00000141510.18", "CD3E"]}, Vocabulary.load("V1"))
    >>> labels.classes, labels.counts.tolist()
    (('a', 'b'), [1, 2])
    """
    check_choice("unknown_genes", unknown, ("refuse", "drop"))
    lists = _checked_lists(gene_classes)
    _check_classes(lists, classes)
    known = known_names(vocabulary)
    found = {name: look_up(name, genes, known) for name, genes in lists.items()}
    strangers = {name: _unmatched(column) for name, column in found.items()}
    strangers = {name: entries for name, entries in strangers.items() if entries}
    if strangers and unknown == "refuse":
        _refuse_unknown(strangers, found, vocabulary)
    positions = {name: np.unique(column.positions[column.positions >= 0]) for name, column in found.items()}
    for name, places in positions.items():
        if not len(places):
            n_given = sum(map(bool, found[name].texts))
            told = (
                f"none of its {n_given:,} genes is in vocabulary {vocabulary.name}" if n_given else "its list is empty"
            )
            msg = f"Class {name!r} has no gene: {told}. Name genes by Ensembl id or symbol, or leave the class out."
            raise GeneListError(msg)
    _refuse_shared(positions, vocabulary)
    _tell_mouse(found)
    if strangers:
        told = "; ".join(f"{name!r}: {_listed(entries)}" for name, entries in strangers.items())
        _warn(f"{_number(strangers):,} genes are not in vocabulary {vocabulary.name} and left out. {told}")
    places = np.concatenate(list(positions.values()))
    named = tuple(lists) if classes is None else tuple(classes)
    codes = np.repeat([named.index(name) for name in positions], [len(part) for part in positions.values()])
    tokens = vocabulary.token_ids[places].astype(np.int64)
    order = np.argsort(tokens)
    return GeneLabels(tokens[order], codes[order].astype(np.int64), named, unknown=strangers)


def occurring(labels: GeneLabels, n_cells: NDArray[np.int64], vocabulary: Vocabulary) -> GeneLabels:
    """The labels of the genes that occur in any cell.

    Parameters
    ----------
    labels
        Genes and classes.
    n_cells
        Cells each token occurs in, by token id.
    vocabulary
        Names the genes.

    Warns
    -----
    GeneformerWarning
        Genes left out.

    Raises
    ------
    GeneListError
        No gene of a class occurs.
    """
    seen = n_cells[labels.tokens] > 0
    if seen.all():
        return labels
    rows = np.flatnonzero(~seen)
    absent = {name: tuple(genes) for name, genes in labels.by_class(vocabulary, rows).items() if genes}
    kept = replace(labels, tokens=labels.tokens[seen], codes=labels.codes[seen], absent=absent)
    for name, given, left in zip(labels.classes, labels.counts, kept.counts, strict=True):
        if given and not left:
            msg = (
                f"None of the {given:,} genes of class {name!r} occurs in the cells, as far as the model reads them. "
                "Use cells that express them, more cells, or other genes."
            )
            raise GeneListError(msg)
    told = "; ".join(f"{name!r}: {_listed(_symbols(genes, vocabulary))}" for name, genes in absent.items())
    _warn(f"{len(rows):,} of {len(labels):,} labeled genes occur in no cell and are left out. {told}")
    return kept


def _checked_lists(gene_classes: object) -> dict[str, list[Any]]:
    """Lists by class name."""
    if not isinstance(gene_classes, Mapping):
        msg = (
            f"gene_classes is a {type(gene_classes).__name__}; it takes a list of genes per class, such as "
            '{"sensitive": ["GATA4", …], "insensitive": ["ZNF8", …]}.'
        )
        raise GeneListError(msg)
    for name, genes in gene_classes.items():
        if isinstance(genes, (str, bytes)) or not isinstance(genes, Iterable):
            msg = f"Class {name!r} holds {genes!r}; it takes a list of genes."
            raise GeneListError(msg)
    lists = {str(name).strip(): list(genes) for name, genes in gene_classes.items()}
    if len(lists) < len(gene_classes):
        msg = f"gene_classes has the classes {list(gene_classes)}. Give each a name of its own."
        raise GeneListError(msg)
    return lists


def _check_classes(lists: Mapping[str, Any], classes: Sequence[str] | None) -> None:
    """Two classes to tell apart; or lists for classes that are known."""
    if classes is None:
        if len(lists) < 2:
            msg = f"gene_classes has the classes {list(lists)}. Give two or more to tell apart."
            raise GeneListError(msg)
        return
    others = [name for name in lists if name not in classes]
    if others or not lists:
        found = f"Class {others[0]!r} was not learnt" if others else "gene_classes is empty"
        msg = f"{found}; known are {', '.join(map(repr, classes))}."
        raise UnknownClassError(msg + (nearest(others[0], classes) if others else ""))


def _unmatched(column: LookedUp) -> tuple[str, ...]:
    rows = np.flatnonzero((column.positions < 0) & (column.hows != MISSING_CODE))
    return tuple(dict.fromkeys(column.texts[row] for row in rows))


def _refuse_unknown(
    strangers: Mapping[str, tuple[str, ...]], found: Mapping[str, LookedUp], vocabulary: Vocabulary
) -> None:
    kinds: dict[str, int] = {}
    for column in found.values():
        for kind, number in column.foreign.items():
            kinds[kind] = kinds.get(kind, 0) + number
    told = "; ".join(f"{name!r}: {_listed(entries)}" for name, entries in strangers.items())
    foreign = "".join(f" {number:,} of them are {kind}." for kind, number in kinds.items())
    first = next(iter(strangers.values()))[0]
    hint = nearest(first, vocabulary.symbols) if not foreign else ""
    msg = (
        f"{_number(strangers):,} genes are not in vocabulary {vocabulary.name}. {told}.{foreign}{hint} Correct them, "
        'or pass unknown_genes="drop" to leave them out.'
    )
    raise GeneListError(msg)


def _refuse_shared(positions: Mapping[str, NDArray[Any]], vocabulary: Vocabulary) -> None:
    """Refuse a gene that is in two classes, under whatever names."""
    homes: dict[int, list[str]] = {}
    for name, places in positions.items():
        for place in places.tolist():
            homes.setdefault(place, []).append(name)
    shared = {place: names for place, names in homes.items() if len(names) > 1}
    if shared:
        symbols = _symbols((str(vocabulary.genes[place]) for place in shared), vocabulary)
        told = (f"{symbol} ({', '.join(names)})" for symbol, names in zip(symbols, shared.values(), strict=True))
        msg = f"{len(shared):,} genes are in two classes: {_listed(told)}. Keep each gene in one class."
        raise GeneListError(msg)


def _tell_mouse(found: Mapping[str, LookedUp]) -> None:
    n_mouse, n_names = sum(column.n_mouse_symbols for column in found.values()), _present(found)
    if 2 * n_mouse > n_names:
        _warn(
            f"{n_mouse:,} of {n_names:,} genes are spelled the way of mouse genes and were taken for the human genes "
            "of the same name. Mouse and human orthologs often have different names; translate the lists first."
        )


def _present(found: Mapping[str, LookedUp]) -> int:
    return sum(column.n_present for column in found.values())


def _symbols(genes: Iterable[str], vocabulary: Vocabulary) -> list[str]:
    return [vocabulary.symbol_of(gene) for gene in genes]


def _number(lists: Mapping[str, tuple[str, ...]]) -> int:
    return sum(map(len, lists.values()))


def _listed(entries: Iterable[str]) -> str:
    names = list(entries)
    more = f" and {len(names) - _LISTED:,} more" if len(names) > _LISTED else ""
    return ", ".join(names[:_LISTED]) + more


def _warn(message: str) -> None:
    warnings.warn(message, GeneformerWarning, stacklevel=3)
