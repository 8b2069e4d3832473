"""Intervals of mean effects: cells, or whole donors, drawn again with replacement.

A cell is drawn with all its effects, so that what cells have in common enters the interval. Quantiles are moved out as
far as Student's t asks for with that few cells or donors (Hesterberg, The American Statistician, 2015: the expanded
percentile interval); a plain bootstrap interval of five donors would be a third too short.
"""

import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from geneformer.errors import DatasetError, UnknownColumnError
from geneformer.finetuning.metrics import Bootstrap
from geneformer.options import RankOptions
from geneformer.options._fields import nearest
from geneformer.perturbation.effects import (
    PROBABILITY_SHIFT,
    SHIFT,
    SIMILARITY,
    Floats,
    Ints,
    PerturbationEffects,
    Perturbed,
    Values,
    mean_by,
)

if TYPE_CHECKING:
    import pandas as pd

DRAWS = 1000
HELD = 2e7
"""Means held at once."""


def unit_counts(groups: Ints, units: Ints, n_groups: int) -> Ints:
    """Cells or donors each group has values of, ``(G,)``."""
    n_units = int(units.max(initial=-1)) + 1
    return np.bincount(np.unique(groups * max(n_units, 1) + units) // max(n_units, 1), minlength=n_groups)


def mean_interval(values: Values, units: Ints, n_groups: int, *, confidence: float, seed: int) -> tuple[Floats, Floats]:
    """Lower and upper end of the mean of each group, ``(G,)`` each; NaN for groups of a single unit."""
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


_DRAWS_AT_ONCE = 2_000_000
_SAME = 1e-12


@dataclass(frozen=True, slots=True, eq=False)
class Candidates:
    """Perturbations with effects, some of which are compared with others."""

    values: Values
    rank: Floats
    kind: np.ndarray
    label: np.ndarray

    def __len__(self) -> int:
        return len(self.rank)


def matched_p_values(
    tested: Candidates, pool: Candidates, options: RankOptions, *, two_sided: bool
) -> tuple[Floats, Ints]:
    """P of each tested perturbation and the number of matched ones, ``(G,)`` each; NaN where there is none."""
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


@dataclass(frozen=True, slots=True, eq=False)
class DonorMeans:
    """Mean effect of every perturbation in every donor that has it."""

    group: Ints
    donor: Ints
    mean: Floats

    @classmethod
    def of(cls, values: Values, donor_of_cell: Ints) -> "DonorMeans":
        """From effects of cells and the donor of each cell."""
        n_donors = max(int(donor_of_cell.max(initial=-1)) + 1, 1)
        keys, place = np.unique(values.group * n_donors + donor_of_cell[values.cell], return_inverse=True)
        return cls(keys // n_donors, keys % n_donors, mean_by(values.value, place.reshape(-1), len(keys)))

    def minus_average(self) -> "DonorMeans":
        """Every mean less the average over all perturbations of the donor."""
        average = mean_by(self.mean, self.donor, int(self.donor.max(initial=-1)) + 1)
        return DonorMeans(self.group, self.donor, self.mean - average[self.donor])

    def minus(self, other: "DonorMeans") -> "DonorMeans":
        """Differences where both have the perturbation in the same donor."""
        n_donors = 1 + max(int(some.donor.max(initial=-1)) for some in (self, other))
        here, there = (some.group * n_donors + some.donor for some in (self, other))
        _, mine, theirs = np.intersect1d(here, there, return_indices=True)
        return DonorMeans(self.group[mine], self.donor[mine], self.mean[mine] - other.mean[theirs])

    def averages(self, n_groups: int) -> tuple[Floats, Ints]:
        """Mean over donors and number of donors of each perturbation, ``(G,)`` each."""
        return mean_by(self.mean, self.group, n_groups), np.bincount(self.group, minlength=n_groups)

    def p_values(self, n_groups: int) -> Floats:
        """Two-sided p of a mean of 0 over donors, ``(G,)``: Student's t, from two donors on; else NaN."""
        from scipy import stats

        mean, n = self.averages(n_groups)
        squares = np.bincount(self.group, weights=(self.mean - mean[self.group]) ** 2, minlength=n_groups)
        with np.errstate(divide="ignore", invalid="ignore"):
            t = mean / np.sqrt(squares / (n - 1) / n)
        p = np.asarray(2 * stats.t.sf(np.abs(t), np.maximum(n - 1, 1)), dtype=np.float64)
        return np.where(n >= 2, p, np.nan)


def donors_of(perturbed: Perturbed, column: str) -> tuple[Ints, NDArray[np.object_]]:
    """Donor of each cell, ``(C,)``, and the names of the donors."""
    import pandas as pd

    known = [name for name in perturbed.source.cells.schema.names if name != "cell_id"]
    if column not in known:
        msg = (
            f"The perturbed cells have no column {column!r}; they have {known or 'none'}. Name one of these as donor, "
            f"or leave it out.{nearest(column, known)}"
        )
        raise UnknownColumnError(msg)
    codes, names = pd.factorize(perturbed.cell_column(column), sort=True)
    missing = int((codes < 0).sum())
    if missing:
        msg = (
            f"{missing:,} of {len(codes):,} perturbed cells have no value in the column {column!r}. Every cell needs a "
            "donor: fill the column, or leave donor out."
        )
        raise DatasetError(msg)
    return np.asarray(codes, dtype=np.intp), np.asarray(names.astype(str), dtype=object)


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
    """Two-sided p of each group against a pool, ``(G,)``: normal approximation, without correction for ties."""
    below = np.searchsorted(pool, values.value, side="left")
    upto = np.searchsorted(pool, values.value, side="right")
    u = np.bincount(values.group, weights=np.asarray((below + upto) / 2, dtype=np.float64), minlength=n_groups)
    n: Floats = values.counts(n_groups).astype(np.float64)
    return _rank_sums_p_of(np.asarray(u, dtype=np.float64), n, np.full_like(n, len(pool)))


def against_each_other(one: Values, other: Values, n_groups: int) -> Floats:
    """Two-sided p of every group of `one` against the same group of `other`, ``(G,)``; NaN where either is empty."""
    import pandas as pd

    both = pd.DataFrame(
        {"value": np.concatenate([one.value, other.value]), "group": np.concatenate([one.group, other.group])}
    )
    ranks = both.groupby("group")["value"].rank(method="average").to_numpy()[: len(one)]
    n, m = (some.counts(n_groups).astype(np.float64) for some in (one, other))
    u = np.bincount(one.group, weights=ranks, minlength=n_groups) - n * (n + 1) / 2
    return _rank_sums_p_of(np.asarray(u, dtype=np.float64), n, m)


def _rank_sums_p_of(u: Floats, n: Floats, m: Floats) -> Floats:
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


@dataclass(frozen=True, slots=True, eq=False)
class Measured:
    """What an effect is, for every cell."""

    perturbed: Perturbed
    values: Values
    two_sided: bool
    subtracted: Values | None = None
    null: tuple[Perturbed, Values] | None = None

    @property
    def means(self) -> Floats:
        """Mean effect of each perturbation."""
        n = len(self.perturbed)
        means = self.values.means(n)
        return means if self.subtracted is None else means - self.subtracted.means(n)


def added_columns(measured: Measured, options: RankOptions) -> "pd.DataFrame":
    """Further columns, one row per row of the table of perturbations."""
    import pandas as pd

    perturbed, n = measured.perturbed, len(measured.perturbed)
    columns: dict[str, Any] = {"effect": measured.means}
    columns["ci_low"], columns["ci_high"] = _interval(measured, options)
    columns |= _matched(measured, options)
    if options.donor is not None:
        columns |= _over_donors(measured, options.donor)
    columns |= baselines(perturbed)
    columns |= _other_effects(perturbed)
    for kind, shown in ((SHIFT, perturbed.source.goal), (SIMILARITY, None)):
        screened = perturbed.values(kind, shown, exact=False)
        if len(screened):
            columns["screened_mean"], columns["n_screened"] = screened.means(n), screened.counts(n)
    columns |= {name: perturbed.table[name] for name in ("perturbation", "edit")}
    return pd.DataFrame(columns)


def units_of(perturbed: Perturbed, values: Values, donor: str | None) -> Ints:
    """What intervals are over, ``(n,)``: the cell of each effect, or its donor."""
    return values.cell if donor is None else donors_of(perturbed, donor)[0][values.cell]


def _interval(measured: Measured, options: RankOptions) -> tuple[Floats, Floats]:
    n, confidence, seed = len(measured.perturbed), options.confidence, options.seed
    units = units_of(measured.perturbed, measured.values, options.donor)
    if measured.subtracted is None or measured.null is None:
        return mean_interval(measured.values, units, n, confidence=confidence, seed=seed)
    other = units_of(measured.null[0], measured.subtracted, options.donor)
    return difference_interval(
        (measured.values, units), (measured.subtracted, other), n, confidence=confidence, seed=seed
    )


def _matched(measured: Measured, options: RankOptions) -> dict[str, Any]:
    tested = _candidates(measured.perturbed, measured.values)
    pool = tested if measured.null is None else _candidates(*measured.null)
    p, n_matched = matched_p_values(tested, pool, options, two_sided=measured.two_sided)
    return {"matched_p": p, "matched_fdr": false_discovery_rates(p), "n_matched": n_matched}


def _candidates(perturbed: Perturbed, values: Values) -> Candidates:
    table = perturbed.table
    kinds = [f"{edit} {genes.count('+')}" for edit, genes in zip(table["edit"], table["genes"], strict=True)]
    rank = mean_over_genes(perturbed, gene_numbers(perturbed.source, "mean_rank"))
    return Candidates(values, rank, np.array(kinds), table["genes"].to_numpy(dtype=str))


def _over_donors(measured: Measured, donor: str) -> dict[str, Any]:
    n = len(measured.perturbed)
    means = DonorMeans.of(measured.values, donors_of(measured.perturbed, donor)[0])
    if measured.subtracted is not None and measured.null is not None:
        means = _minus_null(means, measured, donor)
        tested = means
    else:
        # A distance is never below 0: it is compared with that of other perturbations in the same donor.
        tested = means if measured.two_sided else means.minus_average()
    average, n_donors = means.averages(n)
    p = tested.p_values(n) if measured.two_sided or measured.subtracted is not None or n > 1 else np.full(n, np.nan)
    return {"donor_mean": average, "n_donors": n_donors, "donor_p": p, "donor_fdr": false_discovery_rates(p)}


def _minus_null(means: DonorMeans, measured: Measured, donor: str) -> DonorMeans:
    """Differences from the null run in donors that are in both."""
    if measured.subtracted is None or measured.null is None:
        return means
    here, there = (donors_of(perturbed, donor) for perturbed in (measured.perturbed, measured.null[0]))
    number = {name: place for place, name in enumerate(here[1])}
    renamed = np.array([number.setdefault(name, len(number)) for name in there[1]], dtype=np.intp)
    return means.minus(DonorMeans.of(measured.subtracted, renamed[there[0]]))


def _other_effects(perturbed: Perturbed) -> dict[str, Floats]:
    """Mean shift towards the start, and of the probability of every class."""
    n, start = len(perturbed), perturbed.source.start
    found = {}
    if start is not None and start in perturbed.targets(SHIFT):
        found["shift_to_start"] = perturbed.values(SHIFT, start).means(n)
    for name in perturbed.targets(PROBABILITY_SHIFT):
        found[f"probability_shift:{name}"] = perturbed.values(PROBABILITY_SHIFT, name).means(n)
    return found


def baselines(perturbed: Perturbed) -> dict[str, Floats]:
    """What is known of a gene without a model: its mean rank, and how its expression differs between the states."""
    effects = perturbed.source
    return {
        "baseline_mean_rank": mean_over_genes(perturbed, gene_numbers(effects, "mean_rank")),
        "baseline_expression_difference": mean_over_genes(perturbed, expression_difference(effects)),
    }


def gene_numbers(effects: PerturbationEffects, column: str) -> Callable[[str], float]:
    """A column of the genes by gene, NaN for others."""
    if column not in effects.genes.schema.names:
        return lambda gene: np.nan
    genes, numbers = (effects.genes.column(name).to_pylist() for name in ("gene", column))
    known = {gene: np.nan if number is None else float(number) for gene, number in zip(genes, numbers, strict=True)}
    return lambda gene: known.get(gene, np.nan)


def expression_difference(effects: PerturbationEffects) -> Callable[[str], float]:
    """Goal minus start, of mean expression where counts are known, else of mean rank; NaN where neither is."""
    for kind in ("expression", "rank"):
        columns = [f"{kind}:{state}" for state in (effects.start, effects.goal)]
        if all(column in effects.genes.schema.names for column in columns):
            start, goal = (gene_numbers(effects, column) for column in columns)
            return lambda gene: goal(gene) - start(gene)
    return lambda gene: np.nan


def mean_over_genes(perturbed: Perturbed, number: Callable[[str], float]) -> Floats:
    """Mean of a number over the genes of each perturbation, ``(G,)``."""
    each = [np.mean([number(gene) for gene in genes.split("+")]) for genes in perturbed.table["genes"]]
    return np.array(each, dtype=np.float64)
