"""How well a number per cell was predicted in held-out cells."""

import numpy as np
from numpy.typing import ArrayLike, NDArray

from geneformer.errors import NoCellsError, OptionError
from geneformer.options._check import check_range
from geneformer.results.numbers import NumberEvaluation
from geneformer.tasks.resampling import Bootstrap, checked_groups, estimate

FIGURES = ("mse", "mae", "r2", "pearson", "spearman")
"""Mean squared and absolute error, coefficient of determination, and correlations of values and of ranks."""


def evaluate_numbers(
    truth: ArrayLike,
    predicted: ArrayLike,
    groups: ArrayLike | None = None,
    *,
    seed: int = 0,
    n_boot: int = 1000,
) -> NumberEvaluation:
    """Figures of a regression on held-out cells, with 95% bootstrap intervals.

    `metrics` holds `mse`, `mae`, `r2`, `pearson` and `spearman`, as scikit-learn and SciPy define them. `r2` is not
    defined where the truth is constant, correlations where either is.

    Parameters
    ----------
    truth
        The number of each cell, ``(n,)``; cells with NaN are left out.
    predicted
        The number predicted, ``(n,)``.
    groups
        Donor, batch or the like of each cell, ``(n,)``, resampled as a whole.
    seed
        Seed of the resamples.
    n_boot
        Resamples; 0 for no intervals.

    Raises
    ------
    OptionError
        Shapes that do not fit together, or predictions that are not finite.
    NoCellsError
        No cell has a number.

    Examples
    --------
    >>> from geneformer.tasks.metrics import evaluate_numbers
    >>> evaluate_numbers([1.0, 2.0, 3.0], [1.0, 2.0, 4.0]).metrics["mae"].mean
    0.3333333333333333
    """
    check_range("n_boot", n_boot, low=0)
    values, guesses = np.asarray(truth, dtype=np.float64), np.asarray(predicted, dtype=np.float64)
    if values.ndim != 1 or values.shape != guesses.shape:
        msg = f"truth has the shape {values.shape} and predicted {guesses.shape}. Give one number of each per cell."
        raise OptionError(msg)
    known = ~np.isnan(values)
    parts = checked_groups(groups, len(values))
    if not known.any():
        msg = f"None of the {len(values):,} cells has a number, so nothing can be measured."
        raise NoCellsError(msg)
    values, guesses = values[known], guesses[known]
    broken = ~np.isfinite(guesses) | ~np.isfinite(values)
    if broken.any():
        row = int(np.flatnonzero(known)[np.flatnonzero(broken)[0]])
        msg = f"{broken.sum():,} cells have a truth or prediction that is not finite, first row {row}. Leave them out."
        raise OptionError(msg)
    boot = Bootstrap.over(None if parts is None else parts[known], len(values), n_boot=n_boot, seed=seed)
    n_draws = boot.draws(2 * len(values))
    measured = _Weighed(values, guesses)
    drawn = [measured.figures(weights) for weights in boot.weights(n_draws)]
    exact = measured.figures(np.ones((1, len(values))))
    return NumberEvaluation(
        n=len(values),
        n_unlabeled=int((~known).sum()),
        n_groups=boot.n_groups,
        draws=dict.fromkeys(FIGURES, n_draws),
        seed=seed,
        metrics={
            name: estimate(value[0], np.concatenate([np.empty(0), *(figures[i] for figures in drawn)]))
            for i, (name, value) in enumerate(zip(FIGURES, exact, strict=True))
        },
    )


class _Weighed:
    """Truth and prediction of the same cells, for figures under many weightings at once."""

    def __init__(self, values: NDArray[np.float64], guesses: NDArray[np.float64]) -> None:
        # Centered, so that sums of squares keep their digits far from 0.
        self._x, self._y = values - values.mean(), guesses - guesses.mean()
        self._error = guesses - values
        self._constant = (values == values[0]).all() or (guesses == guesses[0]).all()
        self._orders = [_Order(values), _Order(guesses)]

    def figures(self, weights: NDArray[np.float64]) -> tuple[NDArray[np.float64], ...]:
        """The figures in `FIGURES` under each weighting, ``(draws,)``."""
        n = weights.sum(axis=1)
        squared = weights @ self._error**2 / n
        absolute = weights @ np.abs(self._error) / n
        spread = weights @ self._x**2 / n - (weights @ self._x / n) ** 2
        with np.errstate(divide="ignore", invalid="ignore"):
            r2 = np.where(spread > 1e-12 * np.mean(self._x**2), 1 - squared / spread, np.nan)
        ranks = [order.ranks(weights) for order in self._orders]
        same = np.full(len(n), np.nan)
        pearson = same if self._constant else _correlation(weights, self._x[None], self._y[None])
        spearman = same if self._constant else _correlation(weights, ranks[0], ranks[1])
        return squared, absolute, r2, pearson, spearman


class _Order:
    """Order of values, for their ranks when some are drawn several times and others not at all."""

    def __init__(self, values: NDArray[np.float64]) -> None:
        self._order = np.argsort(values, kind="stable")
        ranked = values[self._order]
        self._starts = np.append(0, np.flatnonzero(ranked[1:] != ranked[:-1]) + 1)
        self._group = np.empty(len(values), dtype=np.intp)
        self._group[self._order] = np.cumsum(np.isin(np.arange(len(values)), self._starts)) - 1

    def ranks(self, weights: NDArray[np.float64]) -> NDArray[np.float64]:
        """Rank of each value among those drawn, equal ones sharing their mean rank, centered, ``(draws, n)``."""
        held = np.add.reduceat(weights[:, self._order], self._starts, axis=1)
        middle = np.cumsum(held, axis=1) - held / 2 - weights.sum(axis=1, keepdims=True) / 2
        ranks: NDArray[np.float64] = middle[:, self._group]
        return ranks


def _correlation(weights: NDArray[np.float64], x: NDArray[np.float64], y: NDArray[np.float64]) -> NDArray[np.float64]:
    """Weighted Pearson correlation of each row, ``(draws,)``; NaN where either is constant."""
    n = weights.sum(axis=1, keepdims=True)
    x = x - (weights * x).sum(axis=1, keepdims=True) / n
    y = y - (weights * y).sum(axis=1, keepdims=True) / n
    xx, yy, xy = (weights * x * x).sum(axis=1), (weights * y * y).sum(axis=1), (weights * x * y).sum(axis=1)
    with np.errstate(divide="ignore", invalid="ignore"):
        found: NDArray[np.float64] = np.clip(xy / np.sqrt(xx * yy), -1, 1)
    return found
