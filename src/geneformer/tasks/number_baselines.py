"""What a regression has to beat, on the same split: the mean, and a linear model of expression."""

from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from geneformer.errors import MissingExtraError, NoCellsError, OptionError
from geneformer.tasks.expression import FOLDS, Counts, draw_parts, train_and_test

SHRINKAGES = (1e5, 1e4, 1e3, 1e2, 1e1)
"""Strengths of the penalty that a ridge regression chooses from, strongest first."""


def mean_value(train_values: ArrayLike, n_test: int) -> NDArray[np.float64]:
    """The mean of the training cells for everyone, ``(n_test,)``: of constant guesses the one with the least error.

    Parameters
    ----------
    train_values
        The number of each training cell, ``(n,)``; NaN where it is not known.
    n_test
        Cells to predict.

    Raises
    ------
    NoCellsError
        No training cell has a number.

    Examples
    --------
    >>> from geneformer.tasks.baselines import mean_value
    >>> mean_value([1.0, 3.0, float("nan")], 2).tolist()
    [2.0, 2.0]
    """
    values, rows = _known(train_values)
    return np.full(n_test, values[rows].mean())


def ridge_regression(
    train_counts: Counts,
    train_values: ArrayLike,
    test_counts: Counts,
    *,
    groups: ArrayLike | None = None,
    n_top_genes: int = 2000,
    seed: int = 0,
) -> NDArray[np.float64]:
    """Numbers from a linear model of expression, ``(n_test,)``.

    Genes and their scale are those of `logistic_regression`: the variable genes of the training cells, log-normalized
    and standardized by them. The strength of the squared penalty is the one that predicts parts of the training cells
    best, in squared error, from the others. Nothing is learnt from the test cells.

    Parameters
    ----------
    train_counts, test_counts
        Raw counts of the same genes, ``(n, g)``; not modified.
    train_values
        The number of each training cell, ``(n,)``; NaN where it is not known.
    groups
        Donor, batch or the like of each training cell, ``(n,)``.
    n_top_genes
        Variable genes.
    seed
        Fixes the parts in which penalties are tried.

    Raises
    ------
    OptionError
        Counts, numbers and groups that do not fit together.
    NoCellsError
        No training cell has a number, or no gene varies.
    MissingExtraError
        scikit-learn is not installed.
    """
    values, rows = _known(train_values)
    if train_counts.shape[0] != len(values):
        msg = f"train_counts has {train_counts.shape[0]:,} rows for {len(values):,} numbers. Give one number per cell."
        raise OptionError(msg)
    parts = draw_parts(rows, groups, len(values), seed)
    values = values[rows]
    train, test = train_and_test(train_counts[rows], test_counts, n_top_genes)
    model = _ridge(_best_shrinkage(train, values, parts)).fit(train, values)
    return np.asarray(model.predict(test), dtype=np.float64) if len(test) else np.empty(0)


def _known(values: ArrayLike) -> tuple[NDArray[np.float64], NDArray[np.intp]]:
    """Numbers, and rows of the cells whose number is known."""
    numbers = np.asarray(values, dtype=np.float64)
    rows = np.flatnonzero(~np.isnan(numbers))
    if numbers.ndim != 1 or np.isinf(numbers).any():
        msg = f"train_values has the shape {numbers.shape} or infinite values. Give one finite number per cell, or NaN."
        raise OptionError(msg)
    if not len(rows):
        msg = f"None of the {len(numbers):,} training cells has a number, so there is nothing to learn from."
        raise NoCellsError(msg)
    return numbers, rows


def _best_shrinkage(train: NDArray[np.float32], values: NDArray[np.float64], parts: NDArray[np.int64]) -> float:
    """The strength of the penalty that predicts held-out parts of the training cells best.

    Strong penalties come first; where a weaker one does worse, those weaker still are not tried.
    """
    masks = [((parts >= 0) & (parts != part), parts == part) for part in range(FOLDS)]
    masks = [(rest, held_out) for rest, held_out in masks if rest.any() and held_out.any()]
    best, least = SHRINKAGES[len(SHRINKAGES) // 2], np.inf
    for strength in SHRINKAGES if masks else ():
        models = [_ridge(strength).fit(train[rest], values[rest]) for rest, _ in masks]
        errors = [model.predict(train[out]) - values[out] for model, (_, out) in zip(models, masks, strict=True)]
        loss = float(np.sum(np.concatenate(errors) ** 2))
        if loss >= least:
            break
        best, least = strength, loss
    return best


def _ridge(strength: float) -> Any:
    try:
        from sklearn.linear_model import Ridge
    except ImportError as error:
        msg = "Linear baselines need scikit-learn. Install it with `pip install geneformer[train]`."
        raise MissingExtraError(msg) from error
    return Ridge(alpha=strength)
