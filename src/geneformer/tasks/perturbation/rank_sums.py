"""Wilcoxon rank-sum tests of many groups at once, and false discovery rates."""

import random

import numpy as np

from geneformer.tasks.perturbation.effect_arrays import Floats, Values

POOL_MOST = 100_000
"""Values that groups are compared with; of more, as many are drawn."""

POOL_SEED = 42


def pool_of(values: Values) -> Floats:
    """What every group is compared with: all values, ascending; of many, the ones the published package draws."""
    pool = values.by_group().value
    if len(pool) > POOL_MOST:
        pool = pool[random.Random(POOL_SEED).sample(range(len(pool)), k=POOL_MOST)]  # noqa: S311  repeats a published draw
    return np.sort(pool)


def against_pool(values: Values, pool: Floats, n_groups: int) -> Floats:
    """Two-sided p of each group against a pool, ``(G,)``: normal approximation, without correction for ties.

    The pool is ranked once; `scipy.stats.ranksums` would rank it again for every group.

    Parameters
    ----------
    values
        Values of the groups.
    pool
        Ascending, ``(m,)``; may contain the groups themselves.
    n_groups
        Groups; those without values get NaN.
    """
    below = np.searchsorted(pool, values.value, side="left")
    upto = np.searchsorted(pool, values.value, side="right")
    u = np.bincount(values.group, weights=np.asarray((below + upto) / 2, dtype=np.float64), minlength=n_groups)
    n: Floats = values.counts(n_groups).astype(np.float64)
    return _p_of(np.asarray(u, dtype=np.float64), n, np.full_like(n, len(pool)))


def against_each_other(one: Values, other: Values, n_groups: int) -> Floats:
    """Two-sided p of every group of `one` against the same group of `other`, ``(G,)``; NaN where either is empty."""
    import pandas as pd

    both = pd.DataFrame(
        {"value": np.concatenate([one.value, other.value]), "group": np.concatenate([one.group, other.group])}
    )
    ranks = both.groupby("group")["value"].rank(method="average").to_numpy()[: len(one)]
    n, m = (some.counts(n_groups).astype(np.float64) for some in (one, other))
    u = np.bincount(one.group, weights=ranks, minlength=n_groups) - n * (n + 1) / 2
    return _p_of(np.asarray(u, dtype=np.float64), n, m)


def _p_of(u: Floats, n: Floats, m: Floats) -> Floats:
    """P of Mann-Whitney's U of `n` values against `m`."""
    from scipy import stats

    with np.errstate(divide="ignore", invalid="ignore"):
        z = (u - n * m / 2) / np.sqrt(n * m * (n + m + 1) / 12)
    return np.asarray(2 * stats.norm.sf(np.abs(z)), dtype=np.float64)


def false_discovery_rates(p: Floats) -> Floats:
    """Benjamini-Hochberg over the p-values that are numbers, ``(G,)``; the others stay NaN."""
    from scipy.stats import false_discovery_control

    rates = np.full(len(p), np.nan)
    known = np.isfinite(p)
    if known.any():
        rates[known] = false_discovery_control(p[known])
    return rates
