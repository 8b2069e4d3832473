"""Labels of cells and lists of genes as users have them, as class numbers."""

import warnings
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import chain
from numbers import Real
from typing import Any, Literal, NoReturn

import numpy as np
from numpy.typing import ArrayLike, NDArray

from geneformer.errors import (
    ConstantLabelError,
    GeneformerWarning,
    GeneListError,
    LabelError,
    MissingLabelError,
    RareClassError,
    UnknownClassError,
)
from geneformer.files.left_out import count_left_out
from geneformer.genes.lookup import MISSING as MISSING_NAME
from geneformer.genes.lookup import known_names, look_up
from geneformer.genes.vocabulary import Vocabulary
from geneformer.models.losses import MISSING
from geneformer.options._fields import check_range, nearest, some_of

Ints = NDArray[np.int64]

NO_LABEL = ("", "?", "nan", "none", "na", "n/a", "unknown", "unassigned")
"""Labels, in any case, that stand for no label."""

_WHOLE = 2**53
"""Whole numbers up to this size are exact in floating point."""


def distinct_words(values: ArrayLike, name: str) -> tuple[NDArray[np.int64], list[str]]:
    """Which of the distinct words stands in each row, -1 for none, ``(n,)``; and those words in their order."""
    import pandas as pd

    if isinstance(values, (str, bytes)) or getattr(values, "ndim", 1) != 1:
        shape = getattr(values, "shape", repr(values))
        msg = f"{name} is {shape}; it takes one value per row, in one column."
        raise LabelError(msg)
    column: Any = pd.Series(values)
    if isinstance(column.dtype, pd.CategoricalDtype):
        column = column.cat.remove_unused_categories()
        places = column.cat.codes.to_numpy()
        words = [word(value, name) for value in column.cat.categories]
        ordered = list(dict.fromkeys(words))
    else:
        if column.dtype == object and not all(map(_is_number, column.dropna())):  # where 1 and True would be equal
            column = column.map(lambda value: word(value, name), na_action="ignore")
        places, distinct = pd.factorize(column)
        words = [word(value, name) for value in distinct]
        by_size = all(map(_is_number, distinct))
        ordered = list(dict.fromkeys(words[i] for i in np.argsort(distinct))) if by_size else sorted(set(words))
    place_of = {entry: place for place, entry in enumerate(ordered)}
    return np.array([*(place_of[entry] for entry in words), -1], dtype=np.int64)[places], ordered


def word(value: object, name: str) -> str:
    """One value as a text without stray spaces; whole numbers have no decimal point."""
    if isinstance(value, bytes):
        return value.decode("utf-8", errors="replace").strip()
    if isinstance(value, (list, tuple, set, frozenset, dict, np.ndarray)):
        msg = (
            f"{name} holds {value!r}, where one value per row is needed. Cells with several labels each are learnt as "
            "sets of labels."
        )
        raise LabelError(msg)
    if _is_number(value) and abs(number := float(value)) < _WHOLE and number.is_integer():  # type: ignore[arg-type]
        return str(int(number))
    return str(value).strip()


def _is_number(value: object) -> bool:
    return isinstance(value, Real) and not isinstance(value, (bool, np.bool_))


def encode_labels(
    values: ArrayLike, *, classes: Sequence[str] | None = None, name: str = "label"
) -> tuple[NDArray[np.int64], tuple[str, ...]]:
    """Class number of each cell, -1 for none, ``(n,)``; and the classes: those given, or all in their own order."""
    places, words = distinct_words(values, name)
    present = [entry for entry, is_label in zip(words, is_labeled(words), strict=True) if is_label]
    named = tuple(present) if classes is None else tuple(classes)
    if not set(present) & set(named):
        _refuse_unlabeled(len(places), words, named, name)
    if len(named) == 1:
        msg = (
            f"All labeled cells of {name!r} are {named[0]!r} ({len(places):,} cells in all). At least two classes "
            "are needed."
        )
        raise ConstantLabelError(msg)
    if classes is None and (alike := _alike(named)):
        _warn(
            f"Classes of {name!r} differ in capitals or spaces only: {', '.join(map(repr, alike[:6]))}. They are "
            "learnt as different ones; spell them the same way if they are not."
        )
    place_of = {entry: place for place, entry in enumerate(named)}
    codes = np.array([*(place_of.get(entry, -1) for entry in words), -1], dtype=np.int64)[places]
    if n_missing := int((codes < 0).sum()):
        counts = np.bincount(places[codes < 0] + 1, minlength=len(words) + 1).tolist()
        what = ["missing", *map(repr, words)]
        reasons = [f"{number:,} {entry}" for entry, number in zip(what, counts, strict=True) if number]
        shown = ", ".join(reasons[:6]) + (", ..." if len(reasons) > 6 else "")
        count_left_out(f"without a label in {name}", n_missing)
        _warn(f"{n_missing:,} of {len(codes):,} cells have no label in {name!r} and are left out: {shown}.")
    return codes, named


def _alike(classes: Sequence[str]) -> list[str]:
    """Classes that another one is spelled like but for capitals and spaces."""
    spelled = ["".join(entry.split()).casefold() for entry in classes]
    number = Counter(spelled)
    return [entry for entry, plain in zip(classes, spelled, strict=True) if number[plain] > 1]


def encode_label_sets(
    values: Iterable[Any], *, classes: Sequence[str] | None = None, separator: str = ";", name: str = "label"
) -> tuple[NDArray[np.float32], tuple[str, ...]]:
    """Which of several classes each cell has, NaN where it has no label, ``(n, C)``; and the classes."""
    if isinstance(values, (str, bytes)):
        msg = f"{name}={values!r} is one text; it takes the labels of one cell per entry."
        raise LabelError(msg)
    sets = [_label_set(value, separator, name) for value in values]
    labeled = [words for words in sets if words is not None]
    if not labeled:
        _refuse_unlabeled(len(sets), [], tuple(classes or ()), name)
    named = tuple(sorted(set().union(*labeled))) if classes is None else tuple(classes)
    if classes is None and len(set(map(frozenset, labeled))) < 2:
        msg = f"All labeled cells of {name!r} have the same classes, {list(named)}. There is nothing to learn."
        raise ConstantLabelError(msg)
    place_of = {entry: place for place, entry in enumerate(named)}
    has_class = np.zeros((len(sets), len(named)), dtype=np.float32)
    for row, words in enumerate(sets):
        if words is None:
            has_class[row] = np.nan
        else:
            has_class[row, [place_of[entry] for entry in words if entry in place_of]] = 1
    if n_missing := len(sets) - len(labeled):
        count_left_out(f"without a label in {name}", n_missing)
        _warn(f"{n_missing:,} of {len(sets):,} cells have no label in {name!r} and are left out.")
    return has_class, named


def drop_rare(
    codes: NDArray[np.int64], classes: tuple[str, ...], threshold: float
) -> tuple[NDArray[np.int64], tuple[str, ...]]:
    """Codes and classes without rare classes; their cells have no label any more."""
    check_range("threshold", threshold, low=0.0)
    counts = np.bincount(codes[codes >= 0], minlength=len(classes))
    limit = threshold * counts.sum() if threshold < 1 else threshold
    frequent = counts > limit
    if frequent.sum() < 2:
        largest = sorted(zip(counts.tolist(), classes, strict=True), reverse=True)[:2]
        shown = ", ".join(f"{name!r} {number:,}" for number, name in largest)
        msg = (
            f"Dropping classes of {limit:,.0f} cells or fewer leaves {frequent.sum()} of {len(frequent)} classes; the "
            f"largest are {shown}. Lower the threshold."
        )
        raise RareClassError(msg)
    place = np.append(np.where(frequent, np.cumsum(frequent) - 1, -1), -1)
    return place[codes].astype(np.int64), tuple(np.array(classes, dtype=object)[frequent])


def capped(
    codes: ArrayLike, *, max_cells: int | None = None, max_cells_per_class: int | None = None, seed: int = 0
) -> NDArray[np.int64]:
    """The codes of a random sample of the labeled cells, -1 for all other cells, ``(n,)``."""
    check_range("max_cells", max_cells, low=1)
    check_range("max_cells_per_class", max_cells_per_class, low=1)
    codes_n = np.asarray(codes, dtype=np.int64)
    rows = np.random.default_rng(seed).permutation(np.flatnonzero(codes_n >= 0))[:max_cells]
    if max_cells_per_class is not None:
        rows = rows[np.argsort(codes_n[rows], kind="stable")]
        sizes = np.bincount(codes_n[rows])
        place_in_class = np.arange(len(rows)) - np.repeat(np.cumsum(sizes) - sizes, sizes)
        rows = rows[place_in_class < max_cells_per_class]
    sample = np.full_like(codes_n, -1)
    sample[rows] = codes_n[rows]
    return sample


def class_weights(codes: ArrayLike, n_classes: int) -> NDArray[np.float64]:
    """Weights that let every class count alike, ``n / (C * n_c)``; 0 for a class without cells."""
    codes_n = np.asarray(codes, dtype=np.int64)
    counts = np.bincount(codes_n[codes_n >= 0], minlength=n_classes)
    weights: NDArray[np.float64] = np.divide(
        counts.sum(), n_classes * counts, out=np.zeros(n_classes), where=counts > 0
    )
    return weights


def is_labeled(labels: ArrayLike) -> NDArray[np.bool_]:
    """Whether each cell has a label, ``(n,)``; missing values and words such as "?" and "unassigned" are none."""
    words = np.char.lower(np.char.strip(np.asarray(labels, dtype=object).astype(str)))
    return ~np.isin(words, NO_LABEL)


def _label_set(value: Any, separator: str, name: str) -> list[str] | None:
    """Distinct classes of one cell, or None if it has no label."""
    if isinstance(value, (list, tuple, set, frozenset, np.ndarray)):
        parts = [word(part, name) for part in value]
    elif value is None or value != value or str(value) == "<NA>":  # noqa: PLR0124  NaN
        return None
    else:
        parts = [part.strip() for part in word(value, name).split(separator)]
    classes = [part for part in dict.fromkeys(parts) if part.lower() not in NO_LABEL]
    return None if parts and not classes else classes


def _refuse_unlabeled(n_cells: int, words: Sequence[str], named: tuple[str, ...], name: str) -> NoReturn:
    among = f" that is one of {', '.join(map(repr, named[:20]))}" if named else ""
    content = f"; it holds {', '.join(map(repr, words[:5]))}" if words else ""
    msg = (
        f"None of the {n_cells:,} cells has a label in {name!r}{among}{content}. Name the column that holds the labels."
    )
    raise MissingLabelError(msg)


# Genes

GeneLists = Mapping[str, Iterable[str]]
"""Names of genes by class: Ensembl ids or symbols."""


@dataclass(frozen=True, slots=True, eq=False)
class GeneLabels:
    """Genes with a class, by ascending token id."""

    tokens: Ints
    codes: Ints
    classes: tuple[str, ...]
    unknown: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    absent: Mapping[str, tuple[str, ...]] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.tokens)

    @property
    def counts(self) -> Ints:
        """Genes per class, ``(C,)``."""
        return np.bincount(self.codes, minlength=len(self.classes))

    def class_of(self, size: int, rows: Ints | None = None) -> Ints:
        """Class of every token id, `losses.MISSING` where it has none, ``(size,)``."""
        chosen = slice(None) if rows is None else rows
        class_of = np.full(size, MISSING, dtype=np.int64)
        class_of[self.tokens[chosen]] = self.codes[chosen]
        return class_of

    def by_class(self, vocabulary: Vocabulary, rows: Ints | None = None) -> dict[str, list[str]]:
        """Ensembl ids by class."""
        chosen = np.arange(len(self)) if rows is None else rows
        names = vocabulary.gene_of[self.tokens[chosen]]
        return {name: names[self.codes[chosen] == code].tolist() for code, name in enumerate(self.classes)}


def read_gene_classes(
    gene_classes: GeneLists,
    vocabulary: Vocabulary,
    *,
    unknown: Literal["refuse", "drop"] = "refuse",
    classes: Sequence[str] | None = None,
) -> GeneLabels:
    """Token ids and classes of lists of genes; with `classes`, those of a fitted classifier."""
    lists = _checked_lists(gene_classes, classes)
    named = tuple(lists) if classes is None else tuple(classes)
    codes = np.repeat([named.index(name) for name in lists], [len(genes) for genes in lists.values()])
    match = look_up("gene_classes", chain.from_iterable(lists.values()), known_names(vocabulary))
    is_known, is_missing = match.positions >= 0, match.hows == MISSING_NAME
    rows_of = {name: np.flatnonzero((codes == named.index(name)) & ~is_known & ~is_missing) for name in lists}
    unmatched = {
        name: tuple(dict.fromkeys(match.names[row] for row in rows)) for name, rows in rows_of.items() if len(rows)
    }
    listed = "; ".join(f"{name!r}: {some_of(entries, 20)}" for name, entries in unmatched.items())
    n_unmatched = sum(map(len, unmatched.values()))
    if unmatched and unknown == "refuse":
        foreign = "".join(f" {number:,} of them are {kind}." for kind, number in match.foreign.items())
        hint = "" if foreign else nearest(next(iter(unmatched.values()))[0], vocabulary.symbols)
        msg = (
            f"{n_unmatched:,} genes are not in vocabulary {vocabulary.name}. {listed}.{foreign}{hint} "
            'Correct them, or pass unknown_genes="drop" to leave them out.'
        )
        raise GeneListError(msg)
    for name in lists:
        given = codes == named.index(name)
        if not (given & is_known).any():
            n_given = int((given & ~is_missing).sum())
            why = (
                f"none of its {n_given:,} genes is in vocabulary {vocabulary.name}" if n_given else "its list is empty"
            )
            msg = f"Class {name!r} has no gene: {why}. Name genes by Ensembl id or symbol, or leave the class out."
            raise GeneListError(msg)
    places, codes = np.unique(np.column_stack([match.positions, codes])[is_known], axis=0).T
    shared = np.unique(places[:-1][places[:-1] == places[1:]])
    if len(shared):
        pairs = (
            f"{vocabulary.symbol_of(str(vocabulary.genes[place]))} "
            f"({', '.join(name for name in lists if named.index(name) in codes[places == place])})"
            for place in shared
        )
        msg = f"{len(shared):,} genes are in two classes: {some_of(pairs, 20)}. Keep each gene in one class."
        raise GeneListError(msg)
    if 2 * match.n_mouse_symbols > match.n_present:
        _warn(
            f"{match.n_mouse_symbols:,} of {match.n_present:,} genes are spelled the way of mouse genes and were taken "
            "for the human genes of the same name. Mouse and human orthologs often have different names; translate "
            "the lists first."
        )
    if unmatched:
        _warn(f"{n_unmatched:,} genes are not in vocabulary {vocabulary.name} and left out. {listed}")
    tokens = vocabulary.token_ids[places].astype(np.int64)
    order = np.argsort(tokens)
    return GeneLabels(tokens[order], codes[order].astype(np.int64), named, unknown=unmatched)


def occurring(labels: GeneLabels, n_cells: Ints, vocabulary: Vocabulary) -> GeneLabels:
    """The labels of the genes that occur in any cell."""
    occurs = n_cells[labels.tokens] > 0
    if occurs.all():
        return labels
    rows = np.flatnonzero(~occurs)
    absent = {name: tuple(genes) for name, genes in labels.by_class(vocabulary, rows).items() if genes}
    present = replace(labels, tokens=labels.tokens[occurs], codes=labels.codes[occurs], absent=absent)
    for name, given, left in zip(labels.classes, labels.counts, present.counts, strict=True):
        if given and not left:
            msg = (
                f"None of the {given:,} genes of class {name!r} occurs in the cells, as far as the model reads them. "
                "Use cells that express them, more cells, or other genes."
            )
            raise GeneListError(msg)
    shown = "; ".join(f"{name!r}: {some_of(map(vocabulary.symbol_of, genes), 20)}" for name, genes in absent.items())
    _warn(f"{len(rows):,} of {len(labels):,} labeled genes occur in no cell and are left out. {shown}")
    return present


def _checked_lists(gene_classes: object, classes: Sequence[str] | None) -> dict[str, list[Any]]:
    """Lists by class name: two classes or more, or some of those given."""
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
    if classes is None and len(lists) < 2:
        msg = f"gene_classes has the classes {list(lists)}. Give two or more to learn to distinguish."
        raise GeneListError(msg)
    others = [] if classes is None else [name for name in lists if name not in classes]
    if classes is not None and (others or not lists):
        what = f"Class {others[0]!r} was not learnt" if others else "gene_classes is empty"
        msg = f"{what}; known are {', '.join(map(repr, classes))}."
        raise UnknownClassError(msg + (nearest(others[0], classes) if others else ""))
    return lists


def _warn(message: str) -> None:
    warnings.warn(message, GeneformerWarning, stacklevel=4)
