"""What a fine-tuned model has to beat, on the same split: the commonest class, the size of a cell, linear models."""

from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from geneformer.errors import MissingExtraError, NoCellsError, OptionError
from geneformer.options._check import check_range
from geneformer.tasks.expression import FOLDS, Counts, draw_parts, train_and_test
from geneformer.tasks.number_baselines import mean_value, ridge_regression

__all__ = [
    "label_shares",
    "library_size",
    "logistic_label_sets",
    "logistic_regression",
    "logistic_regression_on",
    "majority",
    "mean_value",
    "ridge_regression",
]

PENALTIES = (1e-4, 1e-3, 1e-2, 1e-1, 1.0, 10.0)
"""Inverse strengths of the penalty that a logistic regression chooses from, strongest first."""

STEPS = 5000
"""Most steps of the solver; it ends when it has converged."""


def majority(train_codes: ArrayLike, n_test: int, n_classes: int) -> NDArray[np.float64]:
    """Shares of the classes among the training cells as everyone's probabilities, ``(n_test, C)``.

    The class predicted is the commonest; of all predictions that look at no cell, this one has the least log loss.

    Parameters
    ----------
    train_codes
        Class of each training cell, ``(n,)``; -1 for no label.
    n_test
        Cells to predict.
    n_classes
        Classes.

    Raises
    ------
    OptionError
        A code outside the classes.
    NoCellsError
        No training cell has a label.

    Examples
    --------
    >>> from geneformer.tasks.baselines import majority
    >>> majority([0, 0, 0, 1], 1, 3).tolist()
    [[0.75, 0.25, 0.0]]
    """
    codes, rows = _labeled(train_codes, n_classes)
    counts = np.bincount(codes[rows], minlength=n_classes)
    return np.tile(counts / counts.sum(), (n_test, 1))


def library_size(
    train_totals: ArrayLike, train_codes: ArrayLike, test_totals: ArrayLike, n_classes: int
) -> NDArray[np.float64]:
    """Probabilities from nothing but the total counts of a cell, ``(n_test, C)``.

    Logistic regression on the logarithm of the total and its square, so that a class may lie between two others. A
    model that is no better has learnt how deeply cells were sequenced.

    Parameters
    ----------
    train_totals, test_totals
        Total counts of each cell, ``(n,)``.
    train_codes
        Class of each training cell, ``(n,)``; -1 for no label.
    n_classes
        Classes; those without training cells get the probability 0.

    Raises
    ------
    OptionError
        Totals and codes that do not fit together.
    NoCellsError
        No training cell has a label.
    MissingExtraError
        scikit-learn is not installed.
    """
    codes, rows = _labeled(train_codes, n_classes)
    sizes = [np.log1p(np.asarray(totals, dtype=np.float64).reshape(-1)) for totals in (train_totals, test_totals)]
    if len(sizes[0]) != len(codes) or not all(np.isfinite(size).all() for size in sizes):
        msg = f"{len(sizes[0]):,} totals for {len(codes):,} codes. Give one total of 0 or more for every cell."
        raise OptionError(msg)
    scale = sizes[0][rows].std() or 1.0
    centered = [(size - sizes[0][rows].mean()) / scale for size in sizes]
    train, test = (np.column_stack([size, size**2]) for size in centered)
    return _fitted(train[rows], codes[rows], test, n_classes, strength=1.0)


def logistic_regression(
    train_counts: Counts,
    train_codes: ArrayLike,
    test_counts: Counts,
    n_classes: int,
    *,
    groups: ArrayLike | None = None,
    n_top_genes: int = 2000,
    seed: int = 0,
) -> NDArray[np.float64]:
    """Probabilities from a linear model of expression, ``(n_test, C)``.

    Counts are scaled to 10,000 per cell and log(1 + x) taken; the most variable genes of the training cells are
    standardized by the training cells; a multinomial logistic regression with a squared penalty is fitted until it
    converges. The strength of the penalty is the one that predicts parts of the training cells best, in log loss, from
    the others. Nothing is learnt from the test cells.

    Parameters
    ----------
    train_counts, test_counts
        Raw counts of the same genes, ``(n, g)``; not modified.
    train_codes
        Class of each training cell, ``(n,)``; -1 for no label.
    n_classes
        Classes; those without training cells get the probability 0.
    groups
        Donor, batch or the like of each training cell, ``(n,)``. Whole groups are then held out when the strength is
        chosen, as they should be when test cells come from other groups.
    n_top_genes
        Variable genes.
    seed
        Fixes the parts.

    Raises
    ------
    OptionError
        Counts, codes and groups that do not fit together.
    NoCellsError
        No training cell has a label, or no gene varies.
    MissingExtraError
        scikit-learn is not installed.
    """
    codes, rows = _labeled(train_codes, n_classes)
    if train_counts.shape[0] != len(codes):
        msg = f"train_counts has {train_counts.shape[0]:,} rows for {len(codes):,} codes. Give one code per cell."
        raise OptionError(msg)
    parts = draw_parts(rows, groups, len(codes), seed)
    codes = codes[rows]
    train, test = train_and_test(train_counts[rows], test_counts, n_top_genes)
    return _fitted(train, codes, test, n_classes, strength=_best_strength(train, codes, parts, n_classes))


def logistic_regression_on(
    train: NDArray[Any], train_codes: ArrayLike, test: NDArray[Any], n_classes: int, *, seed: int = 0
) -> NDArray[np.float64]:
    """Probabilities from a linear model of given features, ``(n_test, C)``.

    The features are standardized by the training rows; everything else is as in `logistic_regression`.

    Parameters
    ----------
    train, test
        Features of training and test rows, ``(n, d)``.
    train_codes
        Class of each training row, ``(n,)``; -1 for no label.
    n_classes
        Classes; those without training rows get the probability 0.
    seed
        Fixes the parts in which penalties are tried.

    Raises
    ------
    OptionError
        Features and codes that do not fit together.
    NoCellsError
        No training row has a label.
    MissingExtraError
        scikit-learn is not installed.
    """
    codes, rows = _labeled(train_codes, n_classes)
    if len(train) != len(codes):
        msg = f"train has {len(train):,} rows for {len(codes):,} codes. Give one code per row."
        raise OptionError(msg)
    seen = np.asarray(train, dtype=np.float64)[rows]
    deviation = seen.std(axis=0)
    scaled = [(part - seen.mean(axis=0)) / np.where(deviation > 0, deviation, 1.0) for part in (seen, test)]
    parts = draw_parts(rows, None, len(codes), seed)
    strength = _best_strength(scaled[0], codes[rows], parts, n_classes)
    return _fitted(scaled[0], codes[rows], scaled[1], n_classes, strength=strength)


def label_shares(train_truth: ArrayLike, n_test: int) -> NDArray[np.float64]:
    """Share of each label among the training cells as everyone's probabilities, ``(n_test, C)``.

    Parameters
    ----------
    train_truth
        Whether each training cell has each label, ``(n, C)``: 0, 1, or NaN in the rows of cells not known.
    n_test
        Cells to predict.

    Raises
    ------
    NoCellsError
        No training cell has labels that are known.
    """
    truth_nc, rows = _known(train_truth)
    return np.tile(truth_nc[rows].mean(axis=0), (n_test, 1))


def logistic_label_sets(
    train_counts: Counts,
    train_truth: ArrayLike,
    test_counts: Counts,
    *,
    groups: ArrayLike | None = None,
    n_top_genes: int = 2000,
    seed: int = 0,
) -> NDArray[np.float64]:
    """Probability of each label from a linear model of expression, ``(n_test, C)``; see `logistic_regression`.

    Every label has a regression of its own, with its own penalty. A label that all or none of the training cells have
    gets the probability 1 or 0.

    Parameters
    ----------
    train_counts, test_counts
        Raw counts of the same genes, ``(n, g)``; not modified.
    train_truth
        Whether each training cell has each label, ``(n, C)``: 0, 1, or NaN in the rows of cells not known.
    groups
        Donor, batch or the like of each training cell, ``(n,)``.
    n_top_genes
        Variable genes.
    seed
        Fixes the parts in which penalties are tried.

    Raises
    ------
    OptionError
        Counts, labels and groups that do not fit together.
    NoCellsError
        No training cell has labels that are known, or no gene varies.
    MissingExtraError
        scikit-learn is not installed.
    """
    truth_nc, rows = _known(train_truth)
    if train_counts.shape[0] != len(truth_nc):
        msg = (
            f"train_counts has {train_counts.shape[0]:,} rows for {len(truth_nc):,} rows of labels. Give one per cell."
        )
        raise OptionError(msg)
    parts = draw_parts(rows, groups, len(truth_nc), seed)
    train, test = train_and_test(train_counts[rows], test_counts, n_top_genes)
    columns = []
    for codes in truth_nc[rows].T.astype(np.int64):
        strength = _best_strength(train, codes, parts, 2)
        columns.append(_fitted(train, codes, test, 2, strength=strength)[:, 1])
    return np.column_stack(columns)


def _labeled(codes: ArrayLike, n_classes: int) -> tuple[NDArray[np.int64], NDArray[np.intp]]:
    """Codes, and rows of the cells that have a label."""
    check_range("n_classes", n_classes, low=1)
    values = np.asarray(codes)
    whole = np.issubdtype(values.dtype, np.integer)
    if values.ndim != 1 or not whole or values.max(initial=-1) >= n_classes:
        largest = f", largest {values.max()}" if whole and values.size else ""
        msg = (
            f"train_codes holds {values.dtype} of shape {values.shape}{largest}. It takes one whole number per cell, "
            f"below n_classes={n_classes}, or -1 for no label."
        )
        raise OptionError(msg)
    rows = np.flatnonzero(values >= 0)
    if not len(rows):
        msg = f"None of the {len(values):,} training cells has a label, so there is nothing to learn from."
        raise NoCellsError(msg)
    return values.astype(np.int64), rows


def _known(truth: ArrayLike) -> tuple[NDArray[np.float64], NDArray[np.intp]]:
    """Labels, and rows of the cells whose labels are known."""
    values_nc = np.asarray(truth, dtype=np.float64)
    rows = np.flatnonzero(~np.isnan(values_nc).any(axis=1))
    if not len(rows):
        msg = (
            f"None of the {len(values_nc):,} training cells has labels that are known; there is nothing to learn from."
        )
        raise NoCellsError(msg)
    return values_nc, rows


def _best_strength(
    train: NDArray[np.float32], codes: NDArray[np.int64], parts: NDArray[np.int64], n_classes: int
) -> float:
    """The inverse strength of the penalty that predicts held-out parts of the training cells best, in log loss.

    Strong penalties come first; where a weaker one does worse, those weaker still are not tried.
    """
    masks = [((parts >= 0) & (parts != part), parts == part) for part in range(FOLDS)]
    folds = [(train[rest], codes[rest], out) for rest, out in masks if out.any() and len(np.unique(codes[rest])) > 1]
    if not folds:
        return PENALTIES[len(PENALTIES) // 2]
    models = [_logistic(PENALTIES[0], warm_start=True) for _ in folds]
    best, least = PENALTIES[0], np.inf
    for strength in PENALTIES:
        loss = 0.0
        for model, (seen, answers, held_out) in zip(models, folds, strict=True):
            proba = _columns(model.set_params(C=strength).fit(seen, answers), train[held_out], n_classes)
            given = proba[np.arange(len(proba)), codes[held_out]]
            loss -= float(np.log(np.maximum(given, 1e-6)).sum())
        if loss >= least:
            break
        best, least = strength, loss
    return best


def _fitted(
    train: NDArray[Any], codes: NDArray[np.int64], test: NDArray[Any], n_classes: int, *, strength: float
) -> NDArray[np.float64]:
    """Probabilities of the test cells, ``(n_test, C)``; certainty where the training cells are of one class."""
    if len(np.unique(codes)) == 1:
        certain: NDArray[np.float64] = np.eye(n_classes)[np.full(len(test), codes[0])]
        return certain
    return _columns(_logistic(strength).fit(train, codes), test, n_classes)


def _columns(model: Any, test: NDArray[Any], n_classes: int) -> NDArray[np.float64]:
    """Probabilities with a column for every class, also those without training cells."""
    proba_nc = np.zeros((len(test), n_classes))
    if len(test):
        proba_nc[:, model.classes_] = model.predict_proba(test)
    return proba_nc


def _logistic(strength: float, *, warm_start: bool = False) -> Any:
    try:
        from sklearn.linear_model import LogisticRegression
    except ImportError as error:
        msg = "Linear baselines need scikit-learn. Install it with `pip install geneformer[train]`."
        raise MissingExtraError(msg) from error
    return LogisticRegression(C=strength, max_iter=STEPS, warm_start=warm_start)
