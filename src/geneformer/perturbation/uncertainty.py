"""How sure an effect is: intervals, matched genes, donors, rank sums; and what is known of a gene without a model.

Intervals come of cells, or whole donors, drawn again with replacement. A cell is drawn with all its effects, so that
what cells have in common enters the interval. Quantiles are moved out as far as Student's t asks for with that few
cells or donors (Hesterberg, The American Statistician, 2015: the expanded percentile interval); a plain bootstrap
interval of five donors would be a third too short.
"""

import random
from collections.abc import Iterator
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
    Perturbed,
    Values,
    mean_by,
)

if TYPE_CHECKING:
    import pandas as pd

POOL_MOST = 100_000
"""Values that groups are compared with; of more, as many are drawn."""

POOL_SEED = 42

_RESAMPLES = 1000

_MEANS_AT_ONCE = 2e7
_DRAWS_AT_ONCE = 2_000_000

_SAME = 1e-12
"""Means that differ by less are ties: rounding must not decide a permutation test."""


@dataclass(frozen=True, slots=True, eq=False)
class MeasuredEffect:
    """What an effect is, for every cell; with a null run, what is subtracted and what matched genes come from."""

    perturbed: Perturbed
    values: Values
    two_sided: bool
    subtracted: Values | None = None
    null: tuple[Perturbed, Values] | None = None


def added_columns(measured: MeasuredEffect, options: RankOptions) -> "pd.DataFrame":
    """Further columns, one row per row of the table of perturbations."""
    import pandas as pd

    perturbed, values, n = measured.perturbed, measured.values, len(measured.perturbed)
    effect, units = values.means(n), [over_donors(perturbed, values, options.donor)]
    if measured.subtracted is not None and measured.null is not None:
        effect = effect - measured.subtracted.means(n)
        units.append(over_donors(measured.null[0], measured.subtracted, options.donor))
    columns: dict[str, Any] = {"effect": effect}
    columns["ci_low"], columns["ci_high"] = bootstrap_interval(
        *units, n_groups=n, confidence=options.confidence, seed=options.seed
    )
    tested = _candidates(perturbed, values)
    pool = tested if measured.null is None else _candidates(*measured.null)
    p, n_matched = matched_p_values(tested, pool, options, two_sided=measured.two_sided)
    columns |= {"matched_p": p, "matched_fdr": false_discovery_rates(p), "n_matched": n_matched}
    if options.donor is not None:
        columns |= _test_over_donors(measured, units[0].means_per_cell(), options.donor)
    columns["baseline_mean_rank"] = mean_of_perturbed_genes(perturbed, "mean_rank")
    columns["baseline_expression_difference"] = expression_differences(perturbed)
    start, goal = perturbed.source.start, perturbed.source.goal
    if start is not None and start in perturbed.targets(SHIFT):
        columns["shift_to_start"] = perturbed.values(SHIFT, start).means(n)
    for name in perturbed.targets(PROBABILITY_SHIFT):
        columns[f"probability_shift:{name}"] = perturbed.values(PROBABILITY_SHIFT, name).means(n)
    for kind, target in ((SHIFT, goal), (SIMILARITY, None)):
        screened = perturbed.values(kind, target, exact=False)
        if len(screened):
            columns["screened_mean"], columns["n_screened"] = screened.means(n), screened.counts(n)
    columns |= {name: perturbed.table[name] for name in ("perturbation", "edit")}
    return pd.DataFrame(columns)


def over_donors(perturbed: Perturbed, values: Values, donor: str | None) -> Values:
    """Effects with the donor of each cell in its place, where a column of donors is named."""
    return values if donor is None else values.of_donors(donors_of(perturbed, donor)[0])


def bootstrap_interval(*samples: Values, n_groups: int, confidence: float, seed: int) -> tuple[Floats, Floats]:
    """Lower and upper end of the mean of each group over cells or donors, ``(G,)`` each; NaN for groups of one.

    Of two samples, each with its own cells or donors, the interval is of the difference between their means.
    """
    n = np.min([values.cells_per_group(n_groups) for values in samples], axis=0)
    low, high = np.full((2, n_groups), np.nan)
    draws = (drawn_means(values, n_groups, seed=seed + place) for place, values in enumerate(samples))
    for parts in zip(*draws, strict=True):
        n_draws = min(drawn.shape[1] for _, drawn in parts)
        (rows, means), *subtracted = [(rows, drawn[:, :n_draws]) for rows, drawn in parts]
        for _, drawn in subtracted:
            means = means - drawn
        low[rows], high[rows] = expanded_quantiles(means, n[rows], confidence)
    return low, high


def drawn_means(values: Values, n_groups: int, *, seed: int) -> Iterator[tuple[slice, Floats]]:
    """Means of resamples, ``(groups, draws)`` for some groups after others; NaN where no cell of a group was drawn."""
    from scipy import sparse

    n_cells = int(values.cell.max(initial=-1)) + 1
    resamples = Bootstrap.over(None, n_cells, n_boot=_RESAMPLES, seed=seed)
    n_draws = resamples.draws(len(values))
    sums, counts = (
        sparse.csr_array(sparse.coo_array((data, (values.group, values.cell)), shape=(n_groups, n_cells)))
        for data in (values.value, np.ones(len(values)))
    )
    step = max(1, int(_MEANS_AT_ONCE // _RESAMPLES))
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

    if not drawn.shape[1]:
        return np.full(len(n), np.nan), np.full(len(n), np.nan)
    # The level at which a normal quantile, shrunk by the bias of a bootstrap of n units, is that of Student's t.
    units = np.maximum(n, 2)
    t = stats.t.isf((1 - confidence) / 2, units - 1)
    level = stats.norm.sf(np.sqrt(units / (units - 1)) * t)
    # Quantiles by linear interpolation, by hand: NumPy takes one level for all rows.
    drawn = np.sort(drawn, axis=1)  # NaN goes last
    n_finite = np.isfinite(drawn).sum(axis=1)
    last, rows = np.maximum(n_finite - 1, 0), np.arange(len(drawn))
    ends = []
    for share in (level, 1 - level):
        place = share * last
        lower = np.floor(place).astype(np.intp)
        upper = np.minimum(lower + 1, last)
        between = place - lower
        end = drawn[rows, lower] * (1 - between) + drawn[rows, upper] * between
        ends.append(np.where((n < 2) | (n_finite < 1), np.nan, end))
    return ends[0], ends[1]


@dataclass(frozen=True, slots=True, eq=False)
class Candidates:
    """Perturbations with effects, that are compared with others of their kind.

    The mean rank of their genes, what was done to how many genes, and the genes, ``(G,)`` each.
    """

    values: Values
    rank: Floats
    kind: np.ndarray
    label: np.ndarray

    def __len__(self) -> int:
        return len(self.rank)


def _candidates(perturbed: Perturbed, values: Values) -> Candidates:
    table = perturbed.table
    kinds = [f"{edit} {genes.count('+')}" for edit, genes in zip(table["edit"], table["genes"], strict=True)]
    return Candidates(
        values, mean_of_perturbed_genes(perturbed, "mean_rank"), np.array(kinds), table["genes"].to_numpy(dtype=str)
    )


def matched_p_values(
    tested: Candidates, pool: Candidates, options: RankOptions, *, two_sided: bool
) -> tuple[Floats, Ints]:
    """P of each tested perturbation and the number of matched ones, ``(G,)`` each; NaN where there is none.

    The null: the mean effect of as many cells of a matched gene, drawn at random. A gene expressed as much moves a cell
    as much, for reasons that are not the biology of the gene.
    """
    p, n_matched = np.full(len(tested), np.nan), np.zeros(len(tested), dtype=np.intp)
    means, n_values = tested.values.means(len(tested)), tested.values.counts(len(tested))
    subsamples = _Subsamples(pool, np.random.default_rng(options.seed))
    step = max(1, _DRAWS_AT_ONCE // max(options.permutations, 2 * options.matched))
    for kind in np.unique(tested.kind):
        of_kind = np.flatnonzero((tested.kind == kind) & np.isfinite(tested.rank) & (n_values > 0))
        offered = np.flatnonzero((pool.kind == kind) & np.isfinite(pool.rank) & (subsamples.n_values > 0))
        for start in range(0, len(of_kind), step):
            rows = of_kind[start : start + step]
            near, n_near = _nearest(tested, pool, rows, offered, options)
            n_matched[rows] = n_near
            rows, near, n_near = rows[n_near > 0], near[n_near > 0], n_near[n_near > 0]
            if not len(rows):
                continue
            drawn = subsamples.rng.integers(n_near[:, None], size=(len(rows), options.permutations))
            null = subsamples.means(np.take_along_axis(near, drawn, axis=1), n_values[rows, None])
            observed = means[rows, None]
            # The share of draws stands for all subsamples of the matched genes. One is added for the tested gene, which
            # is exchangeable with each matched *gene*, not with each draw: with 9 matched genes no p is below 1/10,
            # however many subsamples were drawn.
            high, low = (
                (1 + n_near * share.mean(axis=1)) / (n_near + 1)
                for share in (null >= observed - _SAME, null <= observed + _SAME)
            )
            p[rows] = np.minimum(1.0, 2 * np.minimum(high, low)) if two_sided else high
    return p, n_matched


def _nearest(
    tested: Candidates, pool: Candidates, rows: Ints, offered: Ints, options: RankOptions
) -> tuple[Ints, Ints]:
    """Offered perturbations nearest in mean rank to each row, ``(rows, K)`` from the nearest on, and how many count."""
    if not len(offered):
        return np.zeros((len(rows), 1), dtype=np.intp), np.zeros(len(rows), dtype=np.intp)
    ordered = offered[np.argsort(pool.rank[offered], kind="stable")]
    # The K nearest are among the K + 1 on either side in the order of ranks, one of which may be the gene itself.
    place = np.searchsorted(pool.rank[ordered], tested.rank[rows])
    at = place[:, None] + np.arange(-options.matched - 1, options.matched + 1)
    inside = (at >= 0) & (at < len(ordered))
    near = ordered[np.clip(at, 0, len(ordered) - 1)]
    distance = np.abs(pool.rank[near] - tested.rank[rows][:, None])
    usable = inside & (distance <= options.max_rank_difference) & (pool.label[near] != tested.label[rows][:, None])
    order = np.argsort(np.where(usable, distance, np.inf), axis=1, kind="stable")[:, : options.matched]
    return np.take_along_axis(near, order, axis=1), np.minimum(usable.sum(axis=1), options.matched)


class _Subsamples:
    """Means of subsamples without replacement, a thousand for each of thousands of groups.

    The values of each group are shuffled once and laid out twice in a row, as a circle that was cut open. A subsample
    is a run of the circle from a random start, and its mean a difference of two cumulative sums.
    """

    def __init__(self, pool: Candidates, rng: np.random.Generator) -> None:
        values = pool.values
        shuffled = rng.permutation(len(values))
        shuffled = shuffled[np.argsort(values.group[shuffled], kind="stable")]
        group = values.group[shuffled]
        self.n_values, self.rng = values.counts(len(pool)), rng
        self._starts = 2 * (np.cumsum(self.n_values) - self.n_values)
        # Small sums stay exact when what all values have in common is taken off first.
        self._center = float(values.value.mean()) if len(values) else 0.0
        at = np.arange(len(values)) + self._starts[group] // 2
        twice = np.empty(2 * len(values))
        for lap in (0, 1):
            twice[at + lap * self.n_values[group]] = values.value[shuffled] - self._center
        self._sums = np.concatenate([[0.0], np.cumsum(twice)])

    def means(self, groups: Ints, size: Ints) -> Floats:
        """Mean of up to `size` values of each group; `groups` may have any shape."""
        n_values = self.n_values[groups]
        n = np.minimum(size, n_values)
        start = self._starts[groups] + self.rng.integers(n_values)
        means: Floats = (self._sums[start + n] - self._sums[start]) / n + self._center
        return means


def _test_over_donors(measured: MeasuredEffect, means: Values, donor: str) -> dict[str, Any]:
    """Columns of Student's t over donors, from the mean effect of each perturbation in each donor."""
    n = len(measured.perturbed)
    if measured.subtracted is not None and measured.null is not None:
        # Donors of both runs by one number each; the null run may have more.
        number = {name: place for place, name in enumerate(donors_of(measured.perturbed, donor)[1])}
        null_donor_of_cell, null_names = donors_of(measured.null[0], donor)
        renamed = np.array([number.setdefault(name, len(number)) for name in null_names], dtype=np.intp)
        null_means = measured.subtracted.of_donors(renamed[null_donor_of_cell]).means_per_cell()
        here, there = (some.group * len(number) + some.cell for some in (means, null_means))
        _, mine, theirs = np.intersect1d(here, there, return_indices=True)
        means = Values(means.group[mine], means.cell[mine], means.value[mine] - null_means.value[theirs])
    tested = means
    if measured.subtracted is None and not measured.two_sided:
        # A distance is never below 0: it is compared with that of other perturbations in the same donor.
        average = mean_by(means.value, means.cell, int(means.cell.max(initial=-1)) + 1)
        tested = Values(means.group, means.cell, means.value - average[means.cell])
    p = student_t(tested, n) if n > 1 or tested is means else np.full(n, np.nan)
    columns = {"donor_mean": means.means(n), "n_donors": means.counts(n)}
    return columns | {"donor_p": p, "donor_fdr": false_discovery_rates(p)}


def student_t(values: Values, n_groups: int) -> Floats:
    """Two-sided p of a mean of 0 in each group, ``(G,)``, from two values on; else NaN."""
    from scipy import stats

    mean, n = values.means(n_groups), values.counts(n_groups)
    squares = np.bincount(values.group, weights=(values.value - mean[values.group]) ** 2, minlength=n_groups)
    with np.errstate(divide="ignore", invalid="ignore"):
        t = mean / np.sqrt(squares / (n - 1) / n)
    p = np.asarray(2 * stats.t.sf(np.abs(t), np.maximum(n - 1, 1)), dtype=np.float64)
    return np.where(n >= 2, p, np.nan)


def donors_of(perturbed: Perturbed, column: str) -> tuple[Ints, NDArray[np.object_]]:
    """Donor of each cell, ``(C,)``, and the names of the donors."""
    import pandas as pd

    columns = [name for name in perturbed.source.cells.schema.names if name != "cell_id"]
    if column not in columns:
        msg = (
            f"The perturbed cells have no column {column!r}; they have {columns or 'none'}. Name one of these as "
            f"donor, or leave it out.{nearest(column, columns)}"
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


def pool_of(values: Values) -> Floats:
    """What every group is compared with: all values, ascending; of many, the ones the published package draws."""
    pool = values.by_group().value
    if len(pool) > POOL_MOST:
        pool = pool[random.Random(POOL_SEED).sample(range(len(pool)), k=POOL_MOST)]  # noqa: S311  repeats a published draw
    return np.sort(pool)


def against_pool(values: Values, pool: Floats, n_groups: int) -> Floats:
    """Two-sided p of each group against a pool, ``(G,)``: normal approximation, without correction for ties."""
    # The pool is ranked once; scipy would rank it again for every group.
    below = np.searchsorted(pool, values.value, side="left")
    upto = np.searchsorted(pool, values.value, side="right")
    u = np.bincount(values.group, weights=np.asarray((below + upto) / 2, dtype=np.float64), minlength=n_groups)
    n: Floats = values.counts(n_groups).astype(np.float64)
    return _rank_sum_p(np.asarray(u, dtype=np.float64), n, np.full_like(n, len(pool)))


def against_each_other(one: Values, other: Values, n_groups: int) -> Floats:
    """Two-sided p of every group of `one` against the same group of `other`, ``(G,)``; NaN where either is empty."""
    import pandas as pd

    both = pd.DataFrame(
        {"value": np.concatenate([one.value, other.value]), "group": np.concatenate([one.group, other.group])}
    )
    ranks = both.groupby("group")["value"].rank(method="average").to_numpy()[: len(one)]
    n, m = (some.counts(n_groups).astype(np.float64) for some in (one, other))
    u = np.bincount(one.group, weights=ranks, minlength=n_groups) - n * (n + 1) / 2
    return _rank_sum_p(np.asarray(u, dtype=np.float64), n, m)


def _rank_sum_p(u: Floats, n: Floats, m: Floats) -> Floats:
    """P of Mann-Whitney's U of `n` values against `m`."""
    from scipy import stats

    with np.errstate(divide="ignore", invalid="ignore"):
        z = (u - n * m / 2) / np.sqrt(n * m * (n + m + 1) / 12)
    return np.asarray(2 * stats.norm.sf(np.abs(z)), dtype=np.float64)


def false_discovery_rates(p: Floats) -> Floats:
    """Benjamini-Hochberg over the p-values, ``(G,)``; NaN stays NaN."""
    from scipy.stats import false_discovery_control

    rates = np.full(len(p), np.nan)
    is_number = np.isfinite(p)
    if is_number.any():
        rates[is_number] = false_discovery_control(p[is_number])
    return rates


def expression_differences(perturbed: Perturbed) -> Floats:
    """Goal minus start, of mean expression where counts are known, else of mean rank; NaN where neither is."""
    effects = perturbed.source
    for kind in ("expression", "rank"):
        start, goal = (f"{kind}:{state}" for state in (effects.start, effects.goal))
        if {start, goal} <= set(effects.genes.schema.names):
            return mean_of_perturbed_genes(perturbed, goal, start)
    return np.full(len(perturbed), np.nan)


def mean_of_perturbed_genes(perturbed: Perturbed, column: str, subtracted: str | None = None) -> Floats:
    """Mean of a column of the genes, less another, over the genes of each perturbation; NaN where one has no value."""
    genes = perturbed.source.genes
    if column not in genes.schema.names:
        return np.full(len(perturbed), np.nan)
    numbers = genes.column(column).to_numpy().astype(np.float64)
    if subtracted is not None:
        numbers = numbers - genes.column(subtracted).to_numpy().astype(np.float64)
    number_of = dict(zip(genes.column("gene").to_pylist(), numbers.tolist(), strict=True))
    each = [np.mean([number_of.get(gene, np.nan) for gene in entry.split("+")]) for entry in perturbed.table["genes"]]
    return np.array(each, dtype=np.float64)
