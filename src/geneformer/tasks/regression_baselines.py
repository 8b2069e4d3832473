"""What a regression of cells has to beat, all of it at once."""

import numpy as np
from numpy.typing import ArrayLike, NDArray

from geneformer.tasks.expression import Counts
from geneformer.tasks.number_baselines import mean_value, ridge_regression

RIDGE = "ridge regression, variable genes"
LIBRARY = "library size"
MEAN = "mean of the training cells"
"""Names of the baselines in tables."""


def regress_by_baselines(
    train_counts: Counts,
    train_values: NDArray[np.float64],
    test_counts: Counts,
    *,
    groups: ArrayLike | None = None,
    n_top_genes: int = 2000,
    seed: int = 0,
) -> dict[str, NDArray[np.float64]]:
    """Numbers for the test cells, ``(n_test,)``, by baseline.

    Parameters
    ----------
    train_counts, test_counts
        Raw counts of the same genes, ``(n, g)``.
    train_values
        The number of each training cell, ``(n,)``; none is missing.
    groups
        Donor, batch or the like of each training cell, ``(n,)``.
    n_top_genes, seed
        See `ridge_regression`.
    """
    totals = [np.asarray(counts.sum(axis=1), dtype=np.float64).ravel() for counts in (train_counts, test_counts)]
    linear = ridge_regression(
        train_counts, train_values, test_counts, groups=groups, n_top_genes=n_top_genes, seed=seed
    )
    return {
        RIDGE: linear,
        LIBRARY: by_library_size(totals[0], train_values, totals[1]),
        MEAN: mean_value(train_values, len(totals[1])),
    }


def by_library_size(
    train_totals: NDArray[np.float64], train_values: NDArray[np.float64], test_totals: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Numbers from nothing but the total counts of a cell, ``(n_test,)``.

    Least squares on the logarithm of the total and its square, within the range of the training cells. A model that is
    no better has learnt how deeply cells were sequenced.

    Parameters
    ----------
    train_totals, test_totals
        Total counts of each cell, ``(n,)``.
    train_values
        The number of each training cell, ``(n,)``.

    Examples
    --------
    >>> import numpy as np
    >>> from geneformer.tasks.regression_baselines import by_library_size
    >>> totals = np.array([10.0, 100.0, 1000.0, 10000.0])
    >>> by_library_size(totals, np.log1p(totals), np.array([99.0])).round(3).tolist()
    [4.605]
    """
    train, test = np.log1p(train_totals), np.log1p(test_totals)
    test = np.clip(test, train.min(), train.max())
    middle, scale = train.mean(), train.std() or 1.0
    fits = np.polynomial.polynomial.polyvander((train - middle) / scale, 2)
    weights, *_ = np.linalg.lstsq(fits, train_values, rcond=None)
    predicted: NDArray[np.float64] = np.polynomial.polynomial.polyvander((test - middle) / scale, 2) @ weights
    return predicted
