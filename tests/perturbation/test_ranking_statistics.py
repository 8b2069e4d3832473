"""Statistics of perturbations against slow and plain versions of themselves, and what they promise."""

import random

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from scipy import stats

from geneformer.errors import (
    AbsentGeneError,
    DatasetError,
    GeneformerWarning,
    OptionError,
    OutOfRangeError,
    PerturbationError,
    StateError,
    UnknownChoiceError,
    UnknownColumnError,
)
from geneformer.options import RankOptions
from geneformer.perturbation import uncertainty as rank_sums
from geneformer.perturbation.effects import Values
from geneformer.perturbation.statistics import Impact, rank_effects
from geneformer.perturbation.uncertainty import Candidates, bootstrap_interval, matched_p_values
from small_perturbations import made_run

FAST = {"permutations": 50}


def ranked(run, null=None, **options):
    return rank_effects(run, RankOptions(**FAST | options), null)


def rounded_values(seed, n_groups=7, n=200):
    """Values with many ties; the last group is empty."""
    rng = np.random.default_rng(seed)
    group = rng.integers(n_groups - 1, size=n)
    return Values(group, rng.integers(40, size=n), rng.normal(group / 9, size=n).round(1))


def changed(run, change):
    """A run whose effects went through a function of their table."""
    frame = change(run.to_frame())
    return type(run)(
        pa.Table.from_pandas(frame, preserve_index=False), run.cells, run.genes, run.states, run.provenance
    )


@pytest.mark.parametrize("seed", range(3))
def test_rank_sums_against_a_pool_are_those_of_scipy(seed):
    values = rounded_values(seed)
    found = rank_sums.against_pool(values, rank_sums.pool_of(values), 7)
    wanted = [stats.ranksums(values.value, values.value[values.group == place]).pvalue for place in range(6)]
    np.testing.assert_allclose(found[:6], wanted, atol=1e-12)
    assert np.isnan(found[6])


def test_rank_sums_of_two_runs_are_those_of_scipy():
    one, other = rounded_values(0), rounded_values(1)
    found = rank_sums.against_each_other(one, other, 7)
    for place in range(6):
        pair = (some.value[some.group == place] for some in (one, other))
        assert found[place] == pytest.approx(stats.ranksums(*pair).pvalue, abs=1e-12)
    assert np.isnan(found[6])


def test_a_large_pool_is_drawn_as_published(monkeypatch):
    monkeypatch.setattr(rank_sums, "POOL_MOST", 50)
    values = rounded_values(0)
    listed = [value for place in range(7) for value in values.value[values.group == place]]
    random.seed(42)
    assert rank_sums.pool_of(values).tolist() == sorted(random.sample(listed, k=50))


def test_rates_are_over_known_p_values():
    p = np.array([0.01, np.nan, 0.02, 0.5])
    np.testing.assert_allclose(rank_sums.false_discovery_rates(p), [0.03, np.nan, 0.03, 0.5])
    assert np.isnan(rank_sums.false_discovery_rates(np.full(2, np.nan))).all()


def test_the_component_with_the_lower_mean_is_impact():
    """Published code takes component 0 for it, whichever that is; most of these fits have them the other way round."""
    from sklearn.mixture import GaussianMixture

    reversed_fits = 0
    for seed in range(8):
        rng = np.random.default_rng(seed)
        means = np.concatenate([rng.normal(0.7, 0.03, 30), rng.normal(0.95, 0.02, 90)])
        fit = GaussianMixture(n_components=2, random_state=0).fit(means[:, None])
        low = int(fit.means_[0, 0] > fit.means_[1, 0])
        reversed_fits += low
        borders = sorted(fit.means_.ravel())
        wanted = []
        for value in means:
            if value > borders[1]:
                wanted.append(0)
            elif value < borders[0]:
                wanted.append(1)
            else:
                wanted.append(int(fit.predict([[value]])[0] == low))
        found = Impact(means).of(means)
        assert found.tolist() == wanted
        assert found[:30].all()
        assert not found[30:].any()
    assert reversed_fits > 0


def test_the_share_of_cells_in_the_impact_component():
    run = changed(
        made_run(30, states=(), spread=0.0),
        lambda frame: frame.assign(value=frame["value"] - 0.3 * frame["genes"].isin(["ENSG00001", "ENSG00002"])),
    )
    frame = ranked(run, mode="mixture_model").frame
    assert frame["Gene_name"].tolist()[:2] in (["G1", "G2"], ["G2", "G1"])
    assert frame["Impact_component"].tolist() == [1, 1] + [0] * 28
    assert frame["Impact_component_percent"].tolist()[:2] == [100, 100]


def test_means_counts_and_rates_are_those_of_pandas():
    run = made_run(spread=0.5)
    frame = ranked(run).frame.set_index("perturbation")
    goal = run.to_frame().query("target == 'well'").groupby("perturbation")["value"]
    pd.testing.assert_series_equal(frame["Shift_to_goal_end"].sort_index(), goal.mean(), check_names=False)
    pd.testing.assert_series_equal(frame["N_Detections"].sort_index(), goal.size(), check_names=False)
    np.testing.assert_allclose(
        frame["Goal_end_FDR"], stats.false_discovery_control(frame["Goal_end_vs_random_pval"]), atol=1e-12
    )
    assert (frame["Sig"] == (frame["Goal_end_FDR"] < 0.05)).all()
    assert frame["Sig"].is_monotonic_decreasing
    genes = run.genes.to_pandas().set_index("gene")
    difference = (genes["expression:well"] - genes["expression:sick"])[frame.index]
    np.testing.assert_allclose(frame["baseline_expression_difference"], difference)
    np.testing.assert_allclose(frame["baseline_mean_rank"], genes["mean_rank"][frame.index])


def test_pairs_of_genes_are_those_of_pandas():
    def with_genes(frame):
        affected = [
            frame.assign(effect="gene_similarity", target=gene, value=frame["value"] / divisor)
            for gene, divisor in (("ENSG00001", 3), ("ENSG00002", 4))
        ]
        return pd.concat([frame, *affected])

    run = changed(made_run(6, states=()), with_genes)
    frame = ranked(run, mode="aggregate_gene_shifts", donor="donor").frame
    assert frame["Affected"].tolist()[:6] == ["cell_emb"] * 6
    assert frame["Cosine_sim_mean"].iloc[:6].is_monotonic_increasing
    assert frame["Cosine_sim_mean"].iloc[6:].is_monotonic_increasing
    table = run.to_frame().merge(run.cells.to_pandas(), on="cell_id")
    keys = ["perturbation", "target"]
    found = frame.assign(target=frame["Affected_Ensembl_ID"].fillna("")).set_index(keys).sort_index()
    wanted = table.groupby(keys)["value"].agg(["mean", lambda x: x.std(ddof=0), "size"])
    np.testing.assert_allclose(found[["Cosine_sim_mean", "Cosine_sim_stdev", "N_Detections"]], wanted, atol=1e-9)
    over = 1 - table.groupby([*keys, "donor"])["value"].mean().groupby(level=[0, 1]).mean()
    np.testing.assert_allclose(found["donor_mean"], over, atol=1e-9)
    assert ((found["ci_low"] <= found["effect"]) & (found["effect"] <= found["ci_high"])).all()


def test_donors_are_aggregated_as_pandas_does():
    run = made_run(25, 40, spread=0.6, detected=0.2)
    frame = ranked(run, donor="donor").frame.set_index("perturbation").sort_index()
    table = run.to_frame().query("target == 'well'").merge(run.cells.to_pandas(), on="cell_id")
    means = table.groupby(["perturbation", "donor"])["value"].mean().unstack()
    np.testing.assert_allclose(frame["donor_mean"], means.mean(axis=1))
    np.testing.assert_array_equal(frame["n_donors"], means.notna().sum(axis=1))
    wanted = [
        stats.ttest_1samp(row.dropna(), 0).pvalue if row.notna().sum() > 1 else np.nan for _, row in means.iterrows()
    ]
    np.testing.assert_allclose(frame["donor_p"], wanted)


def test_distances_are_compared_with_the_average_of_the_donor():
    run = made_run(25, 40, states=(), spread=0.6)
    frame = ranked(run, mode="mixture_model", donor="donor").frame.set_index("perturbation").sort_index()
    table = run.to_frame().merge(run.cells.to_pandas(), on="cell_id")
    means = 1 - table.groupby(["perturbation", "donor"])["value"].mean().unstack()
    np.testing.assert_allclose(frame["donor_mean"], means.mean(axis=1))
    np.testing.assert_allclose(frame["donor_p"], stats.ttest_1samp(means - means.mean(axis=0), 0, axis=1).pvalue)


def test_a_null_run_is_taken_off_donor_by_donor():
    run, null = (made_run(10, 40, states=(), seed=seed, spread=0.5) for seed in (0, 1))
    frame = ranked(run, null, donor="donor", max_rank_difference=0.2).frame.set_index("perturbation").sort_index()
    one, other = (
        some.to_frame().merge(some.cells.to_pandas(), on="cell_id").groupby(["perturbation", "donor"])["value"].mean()
        for some in (run, null)
    )
    difference = (other - one).unstack()
    np.testing.assert_allclose(frame["donor_mean"], difference.mean(axis=1))
    np.testing.assert_allclose(frame["donor_p"], stats.ttest_1samp(difference, 0, axis=1).pvalue)
    np.testing.assert_allclose(frame["effect"], -frame["Test_vs_null_avg_shift"])
    assert ((frame["ci_low"] < frame["effect"]) & (frame["effect"] < frame["ci_high"])).all()
    assert (frame["n_matched"] >= 1).all()


@pytest.mark.parametrize(("n_cells", "least"), [(4, 0.8), (30, 0.87)])
def test_intervals_cover(n_cells, least):
    rng = np.random.default_rng(0)
    covered = []
    for seed in range(40):
        group = np.repeat(np.arange(25), n_cells)
        values = Values(group, np.tile(np.arange(n_cells), 25), rng.normal(3, size=len(group)))
        low, high = bootstrap_interval(values, n_groups=25, confidence=0.9, seed=seed)
        covered.append((low < 3) & (high > 3))
    assert least < np.mean(covered) < 0.93


def test_intervals_over_donors_cover_where_those_over_cells_do_not():
    rng = np.random.default_rng(0)
    shares = {"donor": [], "cell": []}
    for seed in range(60):
        donor = np.repeat(np.arange(6), 30)
        values = Values(np.zeros(180, int), np.arange(180), rng.normal(size=6)[donor] + rng.normal(size=180))
        for name, units in (("donor", values.of_donors(donor)), ("cell", values)):
            low, high = bootstrap_interval(units, n_groups=1, confidence=0.95, seed=seed)
            shares[name].append(bool(low[0] < 0 < high[0]))
    assert np.mean(shares["donor"]) > 0.85
    assert np.mean(shares["cell"]) < 0.6


def test_intervals_of_single_cells_are_unknown_and_the_order_of_rows_does_not_matter():
    values = Values(np.array([0, 1, 1, 1]), np.array([0, 0, 1, 2]), np.array([1.0, 2.0, 3.0, 4.0]))
    turned = Values(values.group[::-1], values.cell[::-1], values.value[::-1])
    one, other = (bootstrap_interval(some, n_groups=2, confidence=0.95, seed=0) for some in (values, turned))
    assert np.isnan([one[0][0], one[1][0]]).all()
    assert (one[0][1], one[1][1]) == (2.0, 4.0)
    np.testing.assert_array_equal(one, other)


def test_the_interval_of_a_difference_is_as_wide_as_it_should_be():
    rng = np.random.default_rng(0)
    one, other = (Values(np.zeros(400, int), np.arange(400), rng.normal(size=400)) for _ in range(2))
    low, high = bootstrap_interval(one, other, n_groups=1, confidence=0.95, seed=0)
    assert (high - low)[0] == pytest.approx(2 * 1.96 * np.sqrt(2 / 400), rel=0.1)


def candidates(rng, n_genes, counts, *, effect=0.0):
    group = np.repeat(np.arange(n_genes), counts)
    own = rng.normal(size=n_genes) + effect
    values = Values(group, np.arange(len(group)), own[group] + rng.normal(size=len(group)))
    names = np.array([f"g{place}" for place in range(n_genes)])
    return Candidates(values, rng.random(n_genes), np.full(n_genes, "delete 0"), names)


@pytest.mark.parametrize("two_sided", [True, False])
def test_matched_p_values_are_uniform_where_no_gene_is_special(two_sided):
    """Genes differ from each other here, and have different numbers of cells: neither makes a gene exceptional."""
    found = []
    options = RankOptions(permutations=200, matched=100, max_rank_difference=1.0)
    for seed in range(20):
        rng = np.random.default_rng(seed)
        tested = candidates(rng, 200, rng.integers(5, 40, size=200))
        found.append(matched_p_values(tested, tested, options, two_sided=two_sided)[0])
    p = np.concatenate(found)
    for level in (0.05, 0.1, 0.25, 0.5):
        assert (p <= level).mean() == pytest.approx(level, abs=0.35 * level)


def test_matched_p_values_find_an_exceptional_gene_and_stay_above_their_floor():
    rng = np.random.default_rng(0)
    counts = np.full(60, 20)
    shift = np.zeros(60)
    shift[7] = 9.0
    tested = candidates(rng, 60, counts, effect=shift)
    p, n_matched = matched_p_values(tested, tested, RankOptions(matched=30, max_rank_difference=1.0), two_sided=False)
    assert p.argmin() == 7
    assert p[7] == pytest.approx(1 / 31)
    assert (n_matched == 30).all()


def test_the_matched_genes_are_the_nearest_in_rank():
    """Far genes have large effects here, so that p tells whether any of them was looked at."""
    rank = np.linspace(0, 1, 101)
    values = Values(np.repeat(np.arange(101), 3), np.arange(303), np.repeat(rank, 3))
    tested = Candidates(values, rank, np.full(101, "delete 0"), np.arange(101).astype(str))
    p, n_matched = matched_p_values(tested, tested, RankOptions(matched=10, max_rank_difference=1.0), two_sided=False)
    assert p[50] == pytest.approx(6 / 11, abs=0.08)
    assert p[100] == pytest.approx(1 / 11)
    assert n_matched[50] == 10
    _, near = matched_p_values(tested, tested, RankOptions(max_rank_difference=0.0205), two_sided=False)
    assert near[50] == 4
    assert near[0] == 2


def test_targeted_runs_take_matched_genes_from_a_null_run():
    run = made_run(1, spread=0.0, shift=[9.0])
    alone = ranked(run)
    assert alone.frame["matched_p"].isna().all()
    assert alone.provenance["ranking"]["matched_genes"]["without"] == 1
    assert "null run" in alone.provenance["ranking"]["matched_genes"]["note"]
    null = made_run(60, seed=5)
    found = ranked(run, null, max_rank_difference=0.5)
    assert found.mode == "goal_state_shift"
    row = found.frame.iloc[0]
    assert row["n_matched"] == 29  # all of them but the gene itself
    assert row["matched_p"] == pytest.approx(2 / 30)
    assert found.provenance["ranking"]["matched_genes"]["from"] == "the null run"


def test_edits_and_groups_are_only_compared_with_their_like():
    def change(frame):
        group = frame[frame["genes"] == "ENSG00003"].assign(genes="ENSG00003+ENSG00004", perturbation="both")
        return pd.concat([frame, group, frame[frame["genes"] == "ENSG00005"].assign(edit="overexpress")])

    frame = ranked(changed(made_run(), change), max_rank_difference=1.0).frame
    alone = frame[(frame["perturbation"] == "both") | (frame["edit"] == "overexpress")]
    assert alone["n_matched"].tolist() == [0, 0]
    assert alone["matched_p"].isna().all()
    assert len(frame) == 42
    assert alone.set_index("perturbation").loc["both", "Gene"] == (13, 14)


def test_screened_effects_are_in_no_test():
    def screened(frame):
        estimates = frame["genes"].isin(["ENSG00000", "ENSG00001"]) & (frame["cell_id"] != "c0")
        return frame.assign(
            method=np.where(estimates | (frame["genes"] == "ENSG00002"), "screen", "exact"),
            value=np.where(estimates, 99.0, frame["value"]),
        )

    run = made_run(20, detected=1.0)
    with pytest.warns(GeneformerWarning, match="1 of 20 perturbations have only estimates"):
        found = ranked(changed(run, screened))
    frame = found.frame.set_index("Gene_name")
    assert "G2" not in frame.index
    assert frame.loc["G0", ["N_Detections", "n_screened"]].tolist() == [1, 29]
    assert frame.loc["G0", "screened_mean"] == pytest.approx(99)
    assert frame["Shift_to_goal_end"].max() < 1
    assert found.provenance["ranking"]["perturbations"] == {"tested": 19, "only_estimated": 1, "left_out": 1}
    with pytest.raises(PerturbationError, match=r"All 600 effects are estimates.*method=\"exact\""):
        ranked(changed(run, lambda frame: frame.assign(method="screen")))


def test_every_column_is_defined():
    proba = changed(
        made_run(),
        lambda frame: pd.concat([frame, frame.assign(effect="probability_shift", target="ill/very", value=0.25)]),
    )
    found = [
        ranked(proba, donor="donor"),
        ranked(made_run(states=()), made_run(states=(), seed=1), donor="donor"),
        *(ranked(made_run(states=()), mode=mode, donor="donor") for mode in ("mixture_model", "aggregate")),
    ]
    assert [ranking.mode for ranking in found] == ["goal_state_shift", "vs_null", "mixture_model", "aggregate"]
    for ranking in found:
        assert list(ranking.definitions) == list(ranking.frame.columns)
        assert all(text.endswith(".") for text in ranking.definitions.values())
    assert (found[0].frame["probability_shift:ill/very"] == 0.25).all()
    assert found[0].states["probability of ill/very"] == "probability_shift:ill/very"


def test_the_same_seed_gives_the_same_table():
    run = made_run()
    one, other = (ranked(run, donor="donor").frame for _ in range(2))
    pd.testing.assert_frame_equal(one, other)


@pytest.mark.parametrize(
    ("options", "null", "error", "match"),
    [
        ({"mode": "goal_state_shift"}, None, StateError, r"the states \[\]"),
        ({"mode": "vs_null"}, None, OptionError, "needs a null run"),
        ({"mode": "vs_null"}, made_run(5), StateError, r"without states"),
        ({"mode": "aggregate_gene_shifts"}, None, PerturbationError, "gene_effects=True"),
        ({"donor": "patient"}, None, UnknownColumnError, r"no column 'patient'; they have \['donor'\]"),
        ({"min_detections": 31}, None, AbsentGeneError, r"min_detections=31 or more cells; the most is \d\d\."),
    ],
)
def test_what_a_run_without_states_refuses(options, null, error, match):
    with pytest.raises(error, match=match):
        ranked(made_run(20, states=()), null, **options)


def test_other_refusals():
    run = made_run(20)
    with pytest.raises(PerturbationError, match=r"no effects of the kind 'similarity'.*goal_state_shift"):
        ranked(run, mode="mixture_model")
    with pytest.raises(StateError, match="the goal 'well', the null run None"):
        ranked(run, made_run(20, states=()))
    with pytest.raises(AbsentGeneError, match=r"it has none"):
        ranked(changed(run, lambda frame: frame.iloc[:0]))
    null = changed(made_run(5, states=()), lambda frame: frame.assign(edit="overexpress"))
    with pytest.raises(AbsentGeneError, match="None of the 20 perturbations is in the null run"):
        ranked(made_run(20, states=()), null, mode="vs_null")
    with pytest.raises(PerturbationError, match="1 of 1 have the same"):
        ranked(made_run(1, states=()), mode="mixture_model")
    lost = run.cells.to_pandas()
    lost.loc[3, "donor"] = None
    with pytest.raises(DatasetError, match="1 of 30 perturbed cells"):
        ranked(type(run)(run.effects, pa.Table.from_pandas(lost), run.genes, run.states), donor="donor")


def test_options_are_checked():
    with pytest.raises(UnknownChoiceError, match='Did you mean "mixture_model"'):
        RankOptions(mode="mixture_modle")
    for name, value in (("fdr", 0), ("confidence", 1.0), ("permutations", 0), ("matched", 0), ("min_detections", 0)):
        with pytest.raises(OutOfRangeError, match=name):
            RankOptions(**{name: value})
    with pytest.raises(OptionError, match="donor is empty"):
        RankOptions(donor="")
