"""Intervals of mean effects: cells, or whole donors, drawn again with replacement.

A cell is drawn with all its effects, so that what cells have in common enters the interval. Quantiles are moved out as
far as Student's t asks for with that few cells or donors (Hesterberg, The American Statistician, 2015: the expanded
percentile interval); a plain bootstrap interval of five donors would be a third too short.
"""

from collections.abc import Iterator

import numpy as np

from geneformer.tasks.perturbation.effect_arrays import Floats, Ints, Values
from geneformer.tasks.resampling import Bootstrap

DRAWS = 1000
HELD = 2e7
"""Means held at once."""


def unit_counts(groups: Ints, units: Ints, n_groups: int) -> Ints:
    """Cells or donors each group has values of, ``(G,)``."""
    n_units = int(units.max(initial=-1)) + 1
    return np.bincount(np.unique(groups * max(n_units, 1) + units) // max(n_units, 1), minlength=n_groups)


def mean_interval(values: Values, units: Ints, n_groups: int, *, confidence: float, seed: int) -> tuple[Floats, Floats]:
    """Lower and upper end of the mean of each group, ``(G,)`` each; NaN for groups of a single unit.

    Parameters
    ----------
    values
        Effects.
    units
        What is drawn: cell or donor of each effect, from 0, ``(n,)``.
    n_groups
        Groups.
    confidence
        Coverage.
    seed
        Of the draws.
    """
    n = unit_counts(values.group, units, n_groups)
    low, high = np.full(n_groups, np.nan), np.full(n_groups, np.nan)
    for rows, drawn in drawn_means(values, units, n_groups, seed=seed):
        low[rows], high[rows] = expanded_quantiles(drawn, n[rows], confidence)
    return low, high


def difference_interval(
    one: tuple[Values, Ints], other: tuple[Values, Ints], n_groups: int, *, confidence: float, seed: int
) -> tuple[Floats, Floats]:
    """The same for differences between two means whose cells or donors are drawn on their own."""
    n = np.minimum(*(unit_counts(values.group, units, n_groups) for values, units in (one, other)))
    low, high = np.full(n_groups, np.nan), np.full(n_groups, np.nan)
    first, second = (drawn_means(*some, n_groups, seed=seed + place) for place, some in enumerate((one, other)))
    for (rows, left), (_, right) in zip(first, second, strict=True):
        most = min(left.shape[1], right.shape[1])
        low[rows], high[rows] = expanded_quantiles(left[:, :most] - right[:, :most], n[rows], confidence)
    return low, high


def drawn_means(values: Values, units: Ints, n_groups: int, *, seed: int) -> Iterator[tuple[slice, Floats]]:
    """Means of resamples, ``(groups, draws)`` for some groups after others; NaN where no unit of a group was drawn."""
    from scipy import sparse

    n_units = int(units.max(initial=-1)) + 1
    resamples = Bootstrap.over(None, n_units, n_boot=DRAWS, seed=seed)
    n_draws = resamples.draws(len(values))
    shape = (n_groups, n_units)
    sums = sparse.csr_array(sparse.coo_array((values.value, (values.group, units)), shape=shape))
    counts = sparse.csr_array(sparse.coo_array((np.ones(len(values)), (values.group, units)), shape=shape))
    step = max(1, int(HELD // DRAWS))
    for start in range(0, n_groups, step):
        rows = slice(start, min(start + step, n_groups))
        drawn = np.full((rows.stop - start, n_draws), np.nan)
        done = 0
        for weights in resamples.weights(n_draws):
            some = slice(done, done + len(weights))
            with np.errstate(divide="ignore", invalid="ignore"):
                drawn[:, some] = (sums[rows] @ weights.T) / (counts[rows] @ weights.T)
            done = some.stop
        yield rows, drawn


def expanded_quantiles(drawn: Floats, n: Ints, confidence: float) -> tuple[Floats, Floats]:
    """Outer quantiles of each row, ``(G,)`` each, at the level that `n` units ask for; NaN for fewer than two."""
    from scipy import stats

    few = n < 2
    units = np.where(few, 2, n)
    t = stats.t.isf((1 - confidence) / 2, units - 1)
    level = stats.norm.sf(np.sqrt(units / (units - 1)) * t)
    drawn = np.sort(drawn, axis=1)  # what is no number goes last
    last = np.isfinite(drawn).sum(axis=1) - 1
    few = few | (last < 0)
    last = np.maximum(last, 0)
    ends = []
    for share in (level, 1 - level):
        if not drawn.shape[1]:
            ends.append(np.full(len(n), np.nan))
            continue
        place = share * last
        lower = np.floor(place).astype(np.intp)
        upper = np.minimum(lower + 1, last)
        rows = np.arange(len(drawn))
        between = place - lower
        end = drawn[rows, lower] * (1 - between) + drawn[rows, upper] * between
        ends.append(np.where(few, np.nan, end))
    return ends[0], ends[1]
