"""P-values among genes that are expressed as much.

How far a cell moves depends on where in its ranking the perturbed gene stands, whatever the gene does. Each gene is
compared with the perturbations, in the same way, of genes of similar mean rank. Genes are exchanged as wholes: cells
of one gene are no independent evidence about the gene. A matched gene lends as many of its cells as the gene has, drawn
without replacement, so that means vary alike. The gene itself counts as one of them, which makes p valid: no p is
smaller than 1 / (matched genes + 1), or twice that where both ends count.
"""

from dataclasses import dataclass

import numpy as np

from geneformer.options import RankOptions
from geneformer.tasks.perturbation.effect_arrays import Floats, Ints, Values

_DRAWS_AT_ONCE = 2_000_000
_SAME = 1e-12


@dataclass(frozen=True, slots=True, eq=False)
class Candidates:
    """Perturbations with effects, some of which are compared with others.

    Attributes
    ----------
    values
        Their effects.
    rank
        Mean rank of the gene of each, ``(G,)``; NaN where it is not known.
    kind
        What must be the same for a match, ``(G,)``: edit and number of genes, as text.
    label
        What must differ, ``(G,)``: the genes, as text.
    """

    values: Values
    rank: Floats
    kind: np.ndarray
    label: np.ndarray

    def __len__(self) -> int:
        return len(self.rank)


def matched_p_values(
    tested: Candidates, pool: Candidates, options: RankOptions, *, two_sided: bool
) -> tuple[Floats, Ints]:
    """P of each tested perturbation and the number of matched ones, ``(G,)`` each; NaN where there is none.

    Parameters
    ----------
    tested
        What p-values are for.
    pool
        Where matched genes come from: the same run, or a null run.
    options
        Genes to match, how near, permutations, seed.
    two_sided
        Look at both ends; otherwise only at effects that are larger than those of matched genes.
    """
    p, n_matched = np.full(len(tested), np.nan), np.zeros(len(tested), dtype=np.intp)
    means, n_values = tested.values.means(len(tested)), tested.values.counts(len(tested))
    windows = _Windows(pool, np.random.default_rng(options.seed))
    step = max(1, _DRAWS_AT_ONCE // max(options.permutations, 2 * options.matched))
    for kind in np.unique(tested.kind):
        wanted = np.flatnonzero((tested.kind == kind) & np.isfinite(tested.rank) & (n_values > 0))
        offered = np.flatnonzero((pool.kind == kind) & np.isfinite(pool.rank) & (windows.n_values > 0))
        for start in range(0, len(wanted), step):
            rows = wanted[start : start + step]
            near, found = _nearest(tested, pool, rows, offered, options)
            n_matched[rows] = found
            rows, near, found = rows[found > 0], near[found > 0], found[found > 0]
            if len(rows):
                told = means[rows], n_values[rows], near, found, windows
                p[rows] = _p_of(*told, n_draws=options.permutations, two_sided=two_sided)
    return p, n_matched


def _nearest(
    tested: Candidates, pool: Candidates, rows: Ints, offered: Ints, options: RankOptions
) -> tuple[Ints, Ints]:
    """Offered perturbations nearest in mean rank to each row, ``(rows, K)`` from the nearest on, and how many count."""
    if not len(offered):
        return np.zeros((len(rows), 1), dtype=np.intp), np.zeros(len(rows), dtype=np.intp)
    ordered = offered[np.argsort(pool.rank[offered], kind="stable")]
    place = np.searchsorted(pool.rank[ordered], tested.rank[rows])
    reach = np.arange(-options.matched - 1, options.matched + 1)
    at = place[:, None] + reach
    inside = (at >= 0) & (at < len(ordered))
    near = ordered[np.clip(at, 0, len(ordered) - 1)]
    distance = np.abs(pool.rank[near] - tested.rank[rows][:, None])
    usable = inside & (distance <= options.max_rank_difference) & (pool.label[near] != tested.label[rows][:, None])
    order = np.argsort(np.where(usable, distance, np.inf), axis=1, kind="stable")[:, : options.matched]
    return np.take_along_axis(near, order, axis=1), np.minimum(usable.sum(axis=1), options.matched)


def _p_of(
    means: Floats, n_values: Ints, near: Ints, found: Ints, windows: "_Windows", *, n_draws: int, two_sided: bool
) -> Floats:
    rng = windows.rng
    drawn = rng.integers(found[:, None], size=(len(means), n_draws))
    null = windows.means(np.take_along_axis(near, drawn, axis=1), n_values[:, None])
    ends = [null >= means[:, None] - _SAME, null <= means[:, None] + _SAME]
    high, low = ((1 + found * end.mean(axis=1)) / (found + 1) for end in ends)
    return np.asarray(np.minimum(1.0, 2 * np.minimum(high, low)) if two_sided else high, dtype=np.float64)


class _Windows:
    """Means of subsamples without replacement: runs of a shuffled circle of the values of each group."""

    def __init__(self, pool: Candidates, rng: np.random.Generator) -> None:
        n_groups = len(pool)
        values = pool.values
        shuffled = rng.permutation(len(values))
        shuffled = shuffled[np.argsort(values.group[shuffled], kind="stable")]
        self.n_values, self.rng = values.counts(n_groups), rng
        # Small sums stay exact when what all values have in common is taken off first.
        self._center = float(values.value.mean()) if len(values) else 0.0
        first = np.cumsum(self.n_values) - self.n_values
        starts = np.concatenate([[0], np.cumsum(2 * self.n_values)])[:-1]
        twice = np.empty(2 * len(values))
        at = starts[values.group[shuffled]] + np.arange(len(values)) - first[values.group[shuffled]]
        for turn in (0, 1):
            twice[at + turn * self.n_values[values.group[shuffled]]] = values.value[shuffled] - self._center
        self._sums = np.concatenate([[0.0], np.cumsum(twice)])
        self._starts = starts

    def means(self, groups: Ints, n_wanted: Ints) -> Floats:
        """Mean of up to `n_wanted` values of each group; `groups` may have any shape."""
        held = self.n_values[groups]
        n = np.minimum(n_wanted, held)
        start = self._starts[groups] + self.rng.integers(held)
        means: Floats = (self._sums[start + n] - self._sums[start]) / n + self._center
        return means
