"""Columns of any kind as words: labels, groups and ids, be they text, numbers or categories."""

from numbers import Real
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from geneformer.errors import LabelError

_WHOLE = 2**53
"""Whole numbers up to this size are exact in floating point."""


def distinct_words(values: ArrayLike, name: str) -> tuple[NDArray[np.int64], list[str]]:
    """Which of the distinct words stands in each row, -1 for none, ``(n,)``; and those words in their order.

    The order of pandas' categories is kept and unused ones are dropped; numbers go by size and everything else by
    alphabet.

    Parameters
    ----------
    values
        One value per row, ``(n,)``: texts, numbers, booleans, or pandas' categories. None, NaN and the like are none.
    name
        What the column is called in messages.

    Raises
    ------
    LabelError
        Not one value per row.

    Examples
    --------
    >>> from geneformer.tasks.words import distinct_words
    >>> distinct_words(["b ", None, "a", "b"], "letter")
    (array([ 1, -1,  0,  1]), ['a', 'b'])
    """
    import pandas as pd

    if isinstance(values, (str, bytes)) or getattr(values, "ndim", 1) != 1:
        shape = getattr(values, "shape", repr(values))
        msg = f"{name} is {shape}; it takes one value per row, in one column."
        raise LabelError(msg)
    column: Any = pd.Series(values)
    if isinstance(column.dtype, pd.CategoricalDtype):
        column = column.cat.remove_unused_categories()
        places, found = column.cat.codes.to_numpy(), list(column.cat.categories)
        words = [word(value, name) for value in found]
        ordered = list(dict.fromkeys(words))
    else:
        if column.dtype == object and not all(map(_is_number, column.dropna())):  # where 1 and True would be equal
            column = column.map(lambda value: word(value, name), na_action="ignore")
        places, distinct = pd.factorize(column)
        found = list(distinct)
        words = [word(value, name) for value in found]
        by_size = all(map(_is_number, found))
        ordered = list(dict.fromkeys(words[i] for i in np.argsort(found))) if by_size else sorted(set(words))
    place_of = {entry: place for place, entry in enumerate(ordered)}
    return np.array([*(place_of[entry] for entry in words), -1], dtype=np.int64)[places], ordered


def word(value: object, name: str) -> str:
    """One value as a text without stray spaces; whole numbers have no decimal point.

    Parameters
    ----------
    value
        Text, number, boolean, or anything else that is one value.
    name
        What the column is called in messages.

    Raises
    ------
    LabelError
        A list, set or array.
    """
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
