"""What a classifier of cells has to beat, all of it at once, for classes and for label sets."""

from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from geneformer.tasks.baselines import library_size, logistic_regression, majority
from geneformer.tasks.expression import Counts

LOGISTIC = "logistic regression, variable genes"
LIBRARY = "library size"
MAJORITY = "majority class"
"""Names of the baselines in tables."""


def classify_by_baselines(
    train_counts: Counts,
    train_targets: NDArray[Any],
    test_counts: Counts,
    *,
    n_classes: int,
    groups: ArrayLike | None = None,
    n_top_genes: int = 2000,
    seed: int = 0,
) -> dict[str, NDArray[np.float64]]:
    """Probabilities of every class for the test cells, ``(n_test, C)``, by baseline.

    Parameters
    ----------
    train_counts, test_counts
        Raw counts of the same genes, ``(n, g)``.
    train_targets
        Class of each training cell, below 0 for none, ``(n,)``; or for label sets 0 and 1, ``(n, C)``, not a number
        for none, each label then being told on its own.
    n_classes
        Classes, C.
    groups
        Donor, batch or the like of each training cell, ``(n,)``.
    n_top_genes, seed
        See `logistic_regression`.
    """
    if train_targets.ndim == 2:
        columns = [
            classify_by_baselines(
                train_counts, _codes(train_targets[:, label]), test_counts,
                n_classes=2, groups=groups, n_top_genes=n_top_genes, seed=seed,
            )
            for label in range(n_classes)
        ]  # fmt: skip
        return {name: np.column_stack([column[name][:, 1] for column in columns]) for name in columns[0]}
    codes = np.where(train_targets < 0, -1, train_targets)
    totals = [np.asarray(counts.sum(axis=1)).ravel() for counts in (train_counts, test_counts)]
    linear = logistic_regression(
        train_counts, codes, test_counts, n_classes, groups=groups, n_top_genes=n_top_genes, seed=seed
    )
    return {
        LOGISTIC: linear,
        LIBRARY: library_size(totals[0], codes, totals[1], n_classes),
        MAJORITY: majority(codes, test_counts.shape[0], n_classes),
    }


def _codes(has_label: NDArray[Any]) -> NDArray[np.int64]:
    """Yes and no as classes; -1 where it is not known."""
    return np.where(np.isnan(has_label), -1, np.nan_to_num(has_label)).astype(np.int64)
