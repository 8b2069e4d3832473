"""Precision, recall and F1 of classes from counts, and the checks that every evaluation of classes makes."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from geneformer.errors import OptionError
from geneformer.results.classification import ClassRow, PrCurve, RocCurve


def confusion(truth: ArrayLike, predicted: ArrayLike, n_classes: int) -> NDArray[np.int64]:
    """Cells by true class, in rows, and predicted class, ``(C, C)``."""
    pairs = np.asarray(truth, dtype=np.int64) * n_classes + np.asarray(predicted, dtype=np.int64)
    return np.bincount(pairs, minlength=n_classes**2).reshape(n_classes, n_classes)


def shares(
    hits: NDArray[Any], truth: NDArray[Any], predicted: NDArray[Any]
) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]:
    """Precision, recall and F1; NaN for classes without cells, precision 0 where nothing was predicted.

    Parameters
    ----------
    hits
        Cells of each class that were predicted to be of it, ``(…, C)``.
    truth, predicted
        Cells of each class, and cells predicted to be of it, ``(…, C)``.
    """
    occurs = np.where(truth > 0, 1.0, np.nan)
    with np.errstate(divide="ignore", invalid="ignore"):
        precision = np.nan_to_num(hits / predicted) * occurs
        recall = np.nan_to_num(hits / truth) * occurs
        f1 = np.nan_to_num(2 * hits / (truth + predicted)) * occurs
    return precision, recall, f1


def mean_defined(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """Mean of each row over what is not NaN; NaN for a row without."""
    with np.errstate(invalid="ignore"):
        mean: NDArray[np.float64] = np.nansum(values, axis=1) / np.isfinite(values).sum(axis=1)
    return mean


def class_rows(
    classes: Sequence[str],
    hits: NDArray[Any],
    truth: NDArray[Any],
    predicted: NDArray[Any],
    roc: Mapping[str, RocCurve],
    pr: Mapping[str, PrCurve],
) -> tuple[ClassRow, ...]:
    """Figures of every class from its counts, ``(C,)`` each, and its curves."""
    rows = zip(classes, *shares(hits, truth, predicted), truth, strict=True)
    return tuple(
        ClassRow(
            name=name,
            precision=float(precision),
            recall=float(recall),
            f1=float(f1),
            n=int(n),
            roc_auc=roc[name].auc if name in roc else np.nan,
            average_precision=pr[name].average_precision if name in pr else np.nan,
        )
        for name, precision, recall, f1, n in rows
    )


def checked_names(classes: Sequence[str]) -> tuple[str, ...]:
    """Names of classes as text, all different.

    Raises
    ------
    OptionError
        None, or one twice.
    """
    names = tuple(str(name) for name in classes)
    twice = sorted({name for name in names if names.count(name) > 1})
    if not names or twice:
        told = f"classes names {twice} more than once" if twice else "classes is empty"
        msg = f"{told}. Name each class once, in the order of the columns of proba."
        raise OptionError(msg)
    return names


def checked_probabilities(proba: ArrayLike, n_classes: int) -> NDArray[np.floating]:
    """Probabilities with one column per class, in their own precision.

    Raises
    ------
    OptionError
        Another shape, or values outside 0 to 1.
    """
    proba_nc = np.asarray(proba)
    if not np.issubdtype(proba_nc.dtype, np.floating):
        proba_nc = proba_nc.astype(np.float64)
    if proba_nc.ndim != 2 or proba_nc.shape[1] != n_classes:
        found = f"proba has the shape {proba_nc.shape}"
        msg = f"{found}; it takes one row per cell and one column for each of {n_classes} classes."
        raise OptionError(msg)
    inside = ((proba_nc >= 0) & (proba_nc <= 1 + 1e-3)).all(axis=1)  # NaN is not inside
    if not inside.all():
        row = int(np.flatnonzero(~inside)[0])
        msg = (
            f"proba holds values outside 0 to 1 in {(~inside).sum():,} rows, first in row {row}: "
            f"{proba_nc[row].tolist()[:5]}. Give probabilities."
        )
        raise OptionError(msg)
    return proba_nc
