"""Edges against matched genes, over draws of cells, and between groups of cells.

Axes: ``S`` sources, of which the first ``R`` are regulators and others genes matched to them, ``K`` of these for each
regulator, ``T`` targets, ``E`` edges that are kept, ``B`` blocks of cells (donors, or random parts).
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from geneformer.applications.networks import jaccard

Floats = NDArray[np.floating]
Ints = NDArray[np.int64]

_NULL_SCORES = 200_000
"""Scores of matched genes that a p-value is drawn among; more say no more."""

TOP = 1000
"""Edges among which the stability of a network is measured, or a tenth of them where there are fewer."""


class Evidence(Protocol):
    """What is known about all pairs of sources and targets in some cells, block by block."""

    @property
    def n_blocks(self) -> int:
        """Blocks of cells."""
        ...

    def effects(self, weights_B: Floats) -> NDArray[np.float32]:
        """Effects ``(S, T)`` over the blocks, each as often as its weight says; NaN where there are none."""
        ...


class Resampled(Evidence, Protocol):
    """Evidence that can be weighed again quickly."""

    def edges(self, row: Ints, column: Ints) -> Evidence:
        """The same of some pairs only, whose effects are ``(E,)``."""
        ...


@dataclass(frozen=True, slots=True, eq=False)
class Tested:
    """Statistics of the edges that are kept, ``(E,)`` each."""

    row: Ints
    column: Ints
    weight: Floats
    null_mean: Floats
    null_sd: Floats
    z: Floats
    p: Floats
    q: Floats
    n_tested: int


@dataclass(frozen=True, slots=True, eq=False)
class Comparison:
    """Which sources are regulators, and which are matched to each of them."""

    n_regulators: int
    matched: Ints
    relative: bool
    """Whether the weight of an edge is the effect less that of matched genes."""

    def weights(self, effects_ST: Floats) -> NDArray[np.float32]:
        """Weights of all edges of the regulators, ``(R, T)``."""
        weights_RT = np.array(effects_ST[: self.n_regulators], dtype=np.float32)
        if self.relative and self.matched.size:
            used, place = np.unique(self.matched, return_inverse=True)
            is_matched = np.zeros((self.n_regulators, len(used)), dtype=np.float32)
            np.put_along_axis(is_matched, place.reshape(self.matched.shape), 1, axis=1)
            null_NT = effects_ST[used]
            finite = np.isfinite(null_NT)
            with np.errstate(invalid="ignore", divide="ignore"):
                weights_RT -= (is_matched @ np.where(finite, null_NT, 0)) / (is_matched @ finite)
        return weights_RT


def _mean(values_KT: Floats) -> Floats:
    """Mean over finite entries, NaN where there are none, ``(T,)``."""
    finite = np.isfinite(values_KT)
    with np.errstate(invalid="ignore", divide="ignore"):
        mean: Floats = np.where(finite, values_KT, 0).sum(0) / finite.sum(0)
    return mean


def compare_with_matched(
    effects_ST: Floats, weights_RT: Floats, comparison: Comparison, *, most: int | None, seed: int
) -> Tested:
    """Test every edge with a finite weight, and keep the strongest.

    A score is the effect less the mean of the matched genes' effects on the same target, in their standard deviations.
    Its p-value is the share of the scores of matched genes, each against the others, on any target, that are as high.
    """
    tested = np.isfinite(weights_RT)
    row, column = np.nonzero(tested)
    order = np.argsort(-weights_RT[row, column], kind="stable")[:most]
    row, column = row[order], column[order]
    mean, sd, z = np.full((3, len(row)), np.nan)
    p_RT = np.full(weights_RT.shape, np.nan, dtype=np.float32)
    generator = np.random.default_rng([seed, 7])
    by_row = np.argsort(row, kind="stable")
    starts = np.searchsorted(row[by_row], np.arange(len(weights_RT) + 1))
    for regulator, matched_K in enumerate(comparison.matched):
        kept = by_row[starts[regulator] : starts[regulator + 1]]
        if matched_K.size < 3 or not tested[regulator].any():
            continue
        null_KT = effects_ST[matched_K].astype(np.float64)
        mean_T, sd_T, z_T = scores(effects_ST[regulator], null_KT)
        against = _left_one_out(null_KT)
        against = against[np.isfinite(against)]
        if len(against) > _NULL_SCORES:
            against = generator.choice(against, _NULL_SCORES, replace=False)
        against.sort()
        is_tested = tested[regulator] & np.isfinite(z_T)
        higher = len(against) - np.searchsorted(against, z_T[is_tested], side="left")
        p_RT[regulator, is_tested] = (1 + higher) / (1 + len(against))
        mean[kept], sd[kept], z[kept] = mean_T[column[kept]], sd_T[column[kept]], z_T[column[kept]]
    p = p_RT[row, column].astype(np.float64)
    weight = weights_RT[row, column].astype(np.float64)
    return Tested(row, column, weight, mean, sd, z, p, discovery_rates(p, p_RT), int(tested.sum()))


def scores(effects_T: Floats, null_KT: Floats) -> tuple[Floats, Floats, Floats]:
    """Mean and standard deviation of the matched effects, and the score of an effect, ``(T,)`` each."""
    finite = np.isfinite(null_KT)
    number_T = finite.sum(0)
    mean_T = _mean(null_KT)
    with np.errstate(invalid="ignore", divide="ignore"):
        squares_T = np.where(finite, null_KT - mean_T, 0) ** 2
        sd_T = np.sqrt(squares_T.sum(0) / np.where(number_T > 2, number_T - 1, np.nan))
        z_T = (effects_T - mean_T) / np.where(sd_T > 0, sd_T, np.nan)
    return mean_T, sd_T, z_T


def _left_one_out(null_KT: Floats) -> Floats:
    """Score of every matched gene against the others, ``(K, T)``."""
    finite = np.isfinite(null_KT)
    number_T = finite.sum(0).astype(np.float64)
    mean_T = _mean(null_KT)
    away_KT = null_KT - mean_T
    squares_T = (np.where(finite, away_KT, 0) ** 2).sum(0)
    with np.errstate(invalid="ignore", divide="ignore"):
        away_KT = away_KT * (number_T / (number_T - 1))
        left_KT = squares_T - away_KT**2 * ((number_T - 1) / number_T)
        sd_KT = np.sqrt(np.maximum(left_KT, 0) / (number_T - 2))
        against: Floats = away_KT / np.where((sd_KT > 0) & (number_T > 3), sd_KT, np.nan)
    return against


def discovery_rates(p: Floats, of_all: Floats) -> Floats:
    """Benjamini-Hochberg over all p-values, at some of them."""
    ordered = np.sort(of_all[np.isfinite(of_all)]).astype(np.float64)
    if not len(ordered):
        return np.full(len(p), np.nan)
    rates = ordered * (len(ordered) / np.arange(1, len(ordered) + 1))
    rates = np.minimum(np.minimum.accumulate(rates[::-1])[::-1], 1)
    place = np.searchsorted(ordered, p, side="right") - 1
    return np.where(np.isfinite(p), rates[np.maximum(place, 0)], np.nan)


Draw = Callable[[Floats], NDArray[np.float32]]
"""Weights, ``(R, T)`` of all edges or ``(E,)`` of those kept, with each block as often as said."""


def intervals(
    draw: Draw, n_edges: int, n_blocks: int, *, n_draws: int, confidence: float, seed: int
) -> tuple[Floats, Floats]:
    """Bootstrap intervals of the weights, ``(E,)`` each: blocks are drawn with replacement."""
    low, high = np.full((2, n_edges), np.nan)
    if n_draws < 2 or n_blocks < 3:
        return low, high
    generator = np.random.default_rng([seed, 11])
    drawn = np.empty((n_draws, n_edges), dtype=np.float32)
    for number in range(n_draws):
        weights_B = generator.multinomial(n_blocks, np.full(n_blocks, 1 / n_blocks)).astype(np.float64)
        drawn[number] = draw(weights_B)
    tail = (1 - confidence) / 2
    enough = np.isfinite(drawn).sum(0) > n_draws // 2
    if enough.any():
        low[enough], high[enough] = np.nanquantile(drawn[:, enough], [tail, 1 - tail], axis=0)
    return low, high


def stability(draw: Draw, n_blocks: int, *, blocks_are_donors: bool, n_splits: int, seed: int) -> dict[str, float]:
    """How much of the strongest edges is found again: in both halves of the cells, and without each donor."""
    found = {"top": 0.0, "half_split_jaccard": np.nan}
    if n_blocks < 2:
        return found
    generator = np.random.default_rng([seed, 13])
    whole = draw(np.ones(n_blocks))
    found["top"] = most = min(TOP, max(int(np.isfinite(whole).sum()) // 10, 1))
    halves = []
    for _ in range(n_splits):
        is_first = generator.permutation(n_blocks) < n_blocks // 2
        halves.append(jaccard(*(_top(draw(part.astype(np.float64)), most) for part in (is_first, ~is_first))))
    found["half_split_jaccard"] = float(np.mean(halves))
    if blocks_are_donors:
        all_of = _top(whole, most)
        without = [jaccard(all_of, _top(draw(1.0 - np.eye(n_blocks)[one]), most)) for one in range(n_blocks)]
        found |= {"leave_donor_out_jaccard": float(np.mean(without)), "leave_donor_out_lowest": float(min(without))}
    return found


def _top(weights_RT: Floats, most: int) -> set[int]:
    """Places of the highest weights."""
    flat = np.where(np.isfinite(weights_RT), weights_RT, -np.inf).ravel()
    return set(np.argpartition(-flat, min(most, len(flat) - 1))[:most].tolist())


def differences(
    draw: Draw, in_group_B: NDArray[np.bool_], *, n_draws: int, seed: int
) -> tuple[Floats, Floats, Floats, Floats]:
    """Weight in a group less that in the other groups, its z and p by permuting blocks, and q, ``(E,)`` each."""

    def difference(in_group: NDArray[np.bool_]) -> Floats:
        return draw(in_group.astype(np.float64)) - draw((~in_group).astype(np.float64))

    generator = np.random.default_rng([seed, 17])
    found = difference(in_group_B)
    drawn = np.array([difference(generator.permutation(in_group_B)) for _ in range(n_draws)]).reshape(n_draws, -1)
    with np.errstate(invalid="ignore", divide="ignore"):
        center, spread = _mean(drawn), np.sqrt(_mean((drawn - _mean(drawn)) ** 2))
        z = (found - center) / np.where(spread > 0, spread, np.nan)
        higher = (np.abs(drawn - center) >= np.abs(found - center)).sum(0)
        p = np.where(np.isfinite(z), (1 + higher) / (1 + n_draws), np.nan)
    return found, z, p, discovery_rates(p, p)
