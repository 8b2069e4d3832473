"""Labels as users have them, as class numbers."""

import warnings
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from numbers import Real
from typing import Any, Literal, NoReturn

import numpy as np
from numpy.typing import ArrayLike, NDArray

from geneformer.errors import (
    ConstantLabelError,
    GeneformerWarning,
    LabelError,
    MissingLabelError,
    RareClassError,
    UnknownClassError,
)
from geneformer.options._fields import check_choice, check_range, nearest

UNKNOWN = ("", "?", "nan", "none", "na", "n/a", "unknown", "unassigned")
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


Others = Literal["refuse", "leave_out"]


@dataclass(frozen=True, slots=True, eq=False)
class Labels:
    """Class of each cell."""

    codes: NDArray[np.int64]
    classes: tuple[str, ...]

    @property
    def n_missing(self) -> int:
        """Cells without a label."""
        return int((self.codes < 0).sum())

    @property
    def counts(self) -> NDArray[np.int64]:
        """Cells per class, ``(C,)``."""
        return np.bincount(self.codes[self.codes >= 0], minlength=len(self.classes))


def encode_labels(
    values: ArrayLike, *, classes: Sequence[str] | None = None, name: str = "label", others: Others = "refuse"
) -> Labels:
    """Class numbers of labels, in an order that depends on the labels alone."""
    check_choice("others", others, ("refuse", "leave_out"))
    named = None if classes is None else _checked_classes(classes, name)
    places, words = distinct_words(values, name)
    labeled = is_labeled(words, unknown=_no_labels(named))
    present = [entry for entry, is_label in zip(words, labeled, strict=True) if is_label]
    if named is not None and others == "refuse":
        _refuse_others(present, named, name)
    if not present or (named is not None and not set(present) & set(named)):
        _refuse_unlabeled(len(places), words, named, name)
    if named is None and len(present) == 1:
        msg = (
            f"All labeled cells of {name!r} are {present[0]!r} ({len(places):,} cells in all). At least two classes "
            "are needed."
        )
        raise ConstantLabelError(msg)
    named = tuple(present) if named is None else named
    place_of = {entry: place for place, entry in enumerate(named)}
    codes = np.array([*(place_of.get(entry, -1) for entry in words), -1], dtype=np.int64)[places]
    _warn_of_missing(places, words, codes, name)
    return Labels(codes, named)


def encode_label_sets(
    values: Iterable[Any],
    *,
    classes: Sequence[str] | None = None,
    separator: str = ";",
    name: str = "label",
    others: Others = "refuse",
) -> tuple[NDArray[np.float32], tuple[str, ...]]:
    """Which of several classes each cell has, for cells that may have any number of them."""
    check_choice("others", others, ("refuse", "leave_out"))
    named = None if classes is None else _checked_classes(classes, name, fewest=1)
    no_labels = _no_labels(named)
    if isinstance(values, (str, bytes)):
        msg = f"{name}={values!r} is one text; it takes the labels of one cell per entry."
        raise LabelError(msg)
    sets = [_words_of(value, separator, no_labels, name) for value in values]
    n_missing = sum(words is None for words in sets)
    if n_missing == len(sets):
        _refuse_unlabeled(len(sets), [], named, name)
    present = sorted({entry for words in sets for entry in words or ()})
    if named is None:
        named = tuple(present)
        if len({frozenset(words) for words in sets if words is not None}) < 2:
            msg = f"All labeled cells of {name!r} have the same classes, {present}. There is nothing to learn."
            raise ConstantLabelError(msg)
    elif others == "refuse":
        _refuse_others(present, named, name)
    place_of = {entry: place for place, entry in enumerate(named)}
    has_class = np.zeros((len(sets), len(named)), dtype=np.float32)
    for row, words in enumerate(sets):
        if words is None:
            has_class[row] = np.nan
        else:
            has_class[row, [place_of[entry] for entry in words if entry in place_of]] = 1
    if n_missing:
        _warn(f"{n_missing:,} of {len(sets):,} cells have no label in {name!r} and are left out.")
    return has_class, named


def drop_rare(labels: Labels, threshold: float) -> Labels:
    """The labels without rare classes; their cells have no label any more."""
    check_range("threshold", threshold, low=0.0)
    counts = labels.counts
    limit = threshold * counts.sum() if threshold < 1 else threshold
    frequent = counts > limit
    if frequent.sum() < 2:
        largest = sorted(zip(counts.tolist(), labels.classes, strict=True), reverse=True)[:2]
        shown = ", ".join(f"{name!r} {number:,}" for number, name in largest)
        msg = (
            f"Dropping classes of {limit:,.0f} cells or fewer leaves {frequent.sum()} of {len(frequent)} classes; the "
            f"largest are {shown}. Lower the threshold."
        )
        raise RareClassError(msg)
    place = np.append(np.where(frequent, np.cumsum(frequent) - 1, -1), -1)
    classes = tuple(name for name, keep in zip(labels.classes, frequent, strict=True) if keep)
    return Labels(place[labels.codes].astype(np.int64), classes)


def cap_cells(
    codes: ArrayLike, *, max_cells: int | None = None, max_cells_per_class: int | None = None, seed: int = 0
) -> NDArray[np.int64]:
    """Rows of a random sample of the labeled cells, sorted."""
    check_range("max_cells", max_cells, low=1)
    check_range("max_cells_per_class", max_cells_per_class, low=1)
    codes_n = np.asarray(codes, dtype=np.int64)
    rows = np.random.default_rng(seed).permutation(np.flatnonzero(codes_n >= 0))[:max_cells]
    if max_cells_per_class is not None:
        rows = rows[np.argsort(codes_n[rows], kind="stable")]
        sizes = np.bincount(codes_n[rows])
        place_in_class = np.arange(len(rows)) - np.repeat(np.cumsum(sizes) - sizes, sizes)
        rows = rows[place_in_class < max_cells_per_class]
    return np.sort(rows)


def capped(codes: NDArray[np.int64], **limits: Any) -> NDArray[np.int64]:
    """The codes of such a sample, -1 for all other cells, ``(n,)``."""
    return np.where(np.isin(np.arange(len(codes)), cap_cells(codes, **limits)), codes, -1)


def class_weights(codes: ArrayLike, n_classes: int) -> NDArray[np.float64]:
    """Weights that let every class count alike, ``n / (C * n_c)``; 0 for a class without cells."""
    codes_n = np.asarray(codes, dtype=np.int64)
    counts = np.bincount(codes_n[codes_n >= 0], minlength=n_classes)
    weights: NDArray[np.float64] = np.divide(
        counts.sum(), n_classes * counts, out=np.zeros(n_classes), where=counts > 0
    )
    return weights


def _checked_classes(classes: Sequence[str], name: str, fewest: int = 2) -> tuple[str, ...]:
    """Classes as given, as words."""
    if isinstance(classes, str):
        msg = f"classes={classes!r} is one text. It takes a list with the names of the classes of {name!r}."
        raise LabelError(msg)
    named = tuple(word(entry, "classes") for entry in classes)
    twice = sorted({entry for entry in named if named.count(entry) > 1})
    if twice:
        msg = f"classes names {twice} more than once. Name each class of {name!r} once."
        raise LabelError(msg)
    if len(named) < fewest:
        msg = f"classes={list(named)} for {name!r}. At least {fewest} are needed."
        raise ConstantLabelError(msg)
    return named


def _no_labels(named: tuple[str, ...] | None) -> list[str]:
    """Words that stand for no label, in lower case; a class of that name is one."""
    return [entry for entry in UNKNOWN if entry not in {name.lower() for name in named or ()}]


def _words_of(value: Any, separator: str, no_labels: Iterable[str], name: str) -> list[str] | None:
    """Distinct classes of one cell, or None if it has no label."""
    if isinstance(value, (list, tuple, set, frozenset, np.ndarray)):
        parts = [word(part, name) for part in value]
    elif value is None or value != value or str(value) == "<NA>":  # noqa: PLR0124  NaN
        return None
    else:
        parts = [part.strip() for part in word(value, name).split(separator)]
    classes = [part for part in dict.fromkeys(parts) if part.lower() not in no_labels]
    return None if parts and not classes else classes


def _refuse_others(present: Sequence[str], named: tuple[str, ...], name: str) -> None:
    others = [entry for entry in present if entry not in named]
    if others:
        shown = ", ".join(map(repr, others[:5])) + (", ..." if len(others) > 5 else "")
        listed = ", ".join(map(repr, named[:20])) + (", ..." if len(named) > 20 else "")
        msg = (
            f"{name!r} holds {len(others)} labels that are no classes: {shown}. Classes are {listed}. Rename "
            f"them, or leave those cells out.{nearest(others[0], named)}"
        )
        raise UnknownClassError(msg)


def _refuse_unlabeled(n_cells: int, words: Sequence[str], named: tuple[str, ...] | None, name: str) -> NoReturn:
    among = f" that is one of {', '.join(map(repr, named[:20]))}" if named else ""
    held = f"; it holds {', '.join(map(repr, words[:5]))}" if words else ""
    msg = f"None of the {n_cells:,} cells has a label in {name!r}{among}{held}. Name the column that holds the labels."
    raise MissingLabelError(msg)


def _warn_of_missing(places: NDArray[np.int64], words: Sequence[str], codes: NDArray[np.int64], name: str) -> None:
    """Warn of cells left out, with the words they had."""
    n_missing = int((codes < 0).sum())
    if n_missing == 0:
        return
    counts = np.bincount(places[codes < 0] + 1, minlength=len(words) + 1).tolist()
    reasons = [f"{number:,} missing" for number in counts[:1] if number]
    reasons += [f"{number:,} {entry!r}" for entry, number in zip(words, counts[1:], strict=True) if number]
    shown = ", ".join(reasons[:6]) + (", ..." if len(reasons) > 6 else "")
    _warn(f"{n_missing:,} of {len(codes):,} cells have no label in {name!r} and are left out: {shown}.")


def _warn(message: str) -> None:
    warnings.warn(message, GeneformerWarning, stacklevel=4)


def is_labeled(labels: ArrayLike, *, unknown: Iterable[str] = UNKNOWN) -> NDArray[np.bool_]:
    """Whether each cell has a label, ``(n,)``; missing values and words such as "?" and "unassigned" are none."""
    words = np.char.lower(np.char.strip(np.asarray(labels, dtype=object).astype(str)))
    return ~np.isin(words, list(unknown))
