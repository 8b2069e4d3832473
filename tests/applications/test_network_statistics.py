"""Scores, p-values, intervals and differences of edges, against the same written out plainly, and their null."""

import numpy as np
import pytest
from scipy.stats import false_discovery_control

from geneformer.applications.network_evidence import MeanStates, Moments, PairMeans, joined
from geneformer.applications.network_statistics import (
    Comparison,
    compare_with_matched,
    differences,
    discovery_rates,
    intervals,
    stability,
)


def made(seed=0, n_sources=30, n_targets=12, matched=8):
    """Effects with gaps, and which sources each of the first six is compared with."""
    generator = np.random.default_rng(seed)
    effects = generator.gamma(2.0, size=(n_sources, n_targets)).astype(np.float32)
    effects[generator.random(effects.shape) < 0.1] = np.nan
    rows = np.array([generator.choice(np.arange(6, n_sources), matched, replace=False) for _ in range(6)])
    return effects, rows


@pytest.mark.parametrize("relative", [True, False])
def test_scores_and_p_values_are_those_written_out(relative):
    effects, matched = made()
    comparison = Comparison(6, matched, relative=relative)
    weights = comparison.weights(effects)
    tested = compare_with_matched(effects, weights, comparison, most=None, seed=0)
    assert len(tested.row) == np.isfinite(weights).sum() == tested.n_tested
    assert (np.diff(tested.weight) <= 0).all()
    for place, (row, column) in enumerate(zip(tested.row, tested.column, strict=True)):
        null = effects[matched[row], column].astype(np.float64)
        null = null[np.isfinite(null)]
        assert tested.null_mean[place] == pytest.approx(null.mean(), rel=1e-5)
        assert tested.null_sd[place] == pytest.approx(null.std(ddof=1), rel=1e-5)
        wanted = effects[row, column] - (null.mean() if relative else 0)
        assert tested.weight[place] == pytest.approx(wanted, abs=1e-5)
        z = (effects[row, column] - null.mean()) / null.std(ddof=1)
        assert tested.z[place] == pytest.approx(z, rel=1e-5)
        against = []
        for other in range(effects.shape[1]):
            values = effects[matched[row], other].astype(np.float64)
            values = values[np.isfinite(values)]
            for one in range(len(values)):
                rest = np.delete(values, one)
                against.append((values[one] - rest.mean()) / rest.std(ddof=1))
        assert tested.p[place] == pytest.approx((1 + (np.array(against) >= z).sum()) / (1 + len(against)))
    np.testing.assert_allclose(tested.q, false_discovery_control(tested.p), rtol=1e-5)


def test_the_strongest_edges_are_kept_and_tested_among_all():
    effects, matched = made()
    comparison = Comparison(6, matched, relative=False)
    whole, some = (
        compare_with_matched(effects, comparison.weights(effects), comparison, most=most, seed=0) for most in (None, 10)
    )
    assert some.n_tested == whole.n_tested
    for name in ("row", "column", "weight", "z", "p", "q", "null_mean", "null_sd"):
        np.testing.assert_allclose(getattr(some, name), getattr(whole, name)[:10], rtol=1e-6)


def test_rates_are_those_of_benjamini_and_hochberg():
    p = np.random.default_rng(0).random(50).round(1)
    np.testing.assert_allclose(discovery_rates(p[:7], p), false_discovery_control(p)[:7])
    assert np.isnan(discovery_rates(np.array([np.nan]), p)).all()


@pytest.mark.parametrize("effect", [0.0, 3.0])
def test_sources_drawn_like_their_matched_genes_are_seldom_found(effect):
    found, low = [], []
    for seed in range(20):
        generator = np.random.default_rng(seed)
        hub = generator.gamma(1.0, size=(60, 1))  # some sources have stronger effects on all targets
        effects = (hub * generator.gamma(2.0, size=(60, 100))).astype(np.float32)
        matched = np.array([generator.choice(np.arange(10, 60), 40, replace=False) for _ in range(10)])
        planted = np.zeros_like(effects)
        planted[:10, :10] = effect * effects.std()
        effects += planted
        comparison = Comparison(10, matched, relative=False)
        tested = compare_with_matched(effects, comparison.weights(effects), comparison, most=None, seed=seed)
        is_planted = planted[tested.row, tested.column] > 0
        discovered = tested.q < 0.1
        found.append((discovered & ~is_planted).sum() / max(discovered.sum(), 1))
        low.append((tested.p[~is_planted] < 0.05).mean())
    assert np.mean(found) < 0.1
    assert 0.03 < np.mean(low) < 0.07


def test_blocks_weigh_as_their_cells_do():
    generator = np.random.default_rng(0)
    from scipy.sparse import csr_matrix

    values = generator.poisson(1.0, size=(60, 8)).astype(np.float32)
    blocks = np.arange(60) % 5
    moments = Moments.of(csr_matrix(values), np.arange(4), np.arange(3, 8), blocks, 5)
    weights = np.array([2.0, 0, 1, 3, 0])
    repeated = np.concatenate([values[blocks == block] for block in (0, 0, 2, 3, 3, 3)])
    wanted = np.abs(np.corrcoef(repeated.T)[:4, 3:])
    np.testing.assert_allclose(moments.effects(weights), wanted, atol=1e-5)
    row, column = np.array([0, 2, 3]), np.array([4, 1, 0])
    np.testing.assert_allclose(moments.edges(row, column).effects(weights), wanted[row, column], atol=1e-5)
    means = PairMeans(generator.random((5, 4, 6)).astype(np.float32), np.ones((5, 4, 6), np.uint8))
    np.testing.assert_allclose(
        means.edges(row, column).effects(weights), means.effects(weights)[row, column], rtol=1e-6
    )
    states = MeanStates(generator.random((5, 9, 3)), np.ones((5, 9)), np.arange(4), np.arange(3, 9))
    np.testing.assert_allclose(
        states.edges(row, column).effects(weights), states.effects(weights)[row, column], rtol=1e-5
    )
    both = joined([means, means])
    np.testing.assert_allclose(both.effects(np.tile(weights, 2)), means.effects(weights), rtol=1e-6)


def test_intervals_cover_what_blocks_are_drawn_from():
    covered = []
    for seed in range(60):
        blocks = np.random.default_rng(seed).normal(1.0, 0.5, size=(20, 5))
        low, high = intervals(
            lambda weights, blocks=blocks: (weights @ blocks / weights.sum()).astype(np.float32),
            5,
            20,
            n_draws=200,
            confidence=0.95,
            seed=seed,
        )
        covered += ((low <= 1) & (high >= 1)).tolist()
    assert 0.85 < np.mean(covered) < 0.98
    assert np.isnan(intervals(lambda _: np.ones(1, np.float32), 1, 2, n_draws=9, confidence=0.9, seed=0)).all()


def test_halves_of_the_same_network_agree_and_those_of_noise_do_not():
    generator = np.random.default_rng(0)
    same = generator.random((1, 20, 50)).repeat(10, axis=0)
    noise = generator.random((10, 20, 50))
    for blocks, low, high in ((same, 1.0, 1.0), (noise, 0.0, 0.3)):
        draw = lambda weights, blocks=blocks: np.tensordot(weights, blocks, axes=1).astype(np.float32)  # noqa: E731
        found = stability(draw, 10, blocks_are_donors=True, n_splits=3, seed=0)
        assert low <= found["half_split_jaccard"] <= high
        assert found["top"] == 100
        assert found["leave_donor_out_lowest"] <= found["leave_donor_out_jaccard"]


def test_edges_that_differ_between_groups_are_told_from_those_that_do_not():
    generator = np.random.default_rng(0)
    blocks = generator.normal(size=(20, 200))
    in_group = np.arange(20) < 10
    blocks[in_group, :5] += 5
    found, z, p, q = differences(
        lambda weights: (weights @ blocks / weights.sum()).astype(np.float32), in_group, n_draws=500, seed=0
    )
    np.testing.assert_allclose(found, blocks[in_group].mean(0) - blocks[~in_group].mean(0), atol=1e-5)
    assert (p[:5] < 0.01).all()
    assert (z[:5] > 3).all()
    assert (p[5:] < 0.05).mean() < 0.1
    assert (q >= p).all()
