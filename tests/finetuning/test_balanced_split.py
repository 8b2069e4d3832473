"""Balanced draws keep and hold out every class, and the best one is what comes back."""

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from geneformer.errors import LabelError, OutOfRangeError, RareClassError
from geneformer.finetuning.splits import balance_ids


@pytest.fixture
def donors():
    rng = np.random.default_rng(0)
    sick = np.arange(40) % 2 == 0
    frame = pd.DataFrame({"age": rng.integers(20, 80, 40), "sex": rng.choice(["f", "m"], 40)})
    return frame, np.column_stack([sick, ~sick])


def test_the_first_draw_that_passes_is_taken(donors):
    frame, has_class = donors
    best, trials = balance_ids(frame, 8, has_class, p_threshold=0.4)
    assert best is trials[-1]
    assert [trial.number for trial in trials] == list(range(len(trials)))
    assert [trial.passes(0.4) for trial in trials] == [False] * (len(trials) - 1) + [True]
    assert len(trials) > 1
    assert len(best.held_out) == 8


def test_p_values_and_summaries_are_those_of_the_two_sides(donors):
    frame, has_class = donors
    for trial in balance_ids(frame, 8, has_class, p_threshold=1.0, max_trials=20)[1]:
        held = np.isin(np.arange(40), trial.held_out)
        age, sex = frame["age"], frame["sex"]
        assert trial.p["age"] == pytest.approx(stats.ranksums(age[~held], age[held]).pvalue)
        assert trial.summary["age"] == pytest.approx((age[~held].mean(), age[held].mean()))
        counts = [{value: int((sex[side] == value).sum()) for value in "fm"} for side in (~held, held)]
        assert trial.summary["sex"] == tuple(counts)
        expected = [counts[1][value] * 32 / 8 for value in "fm"]
        statistic = sum((counts[0][v] - e) ** 2 / e for v, e in zip("fm", expected, strict=True) if e)
        assert trial.p["sex"] == pytest.approx(stats.chi2.sf(statistic, 1) if min(expected) else 0.0)
        assert trial.mean_p == pytest.approx((trial.p["age"] + trial.p["sex"]) / 2)


def test_the_best_draw_is_taken_where_none_passes(donors):
    frame, has_class = donors
    best, trials = balance_ids(frame, 8, has_class, p_threshold=1.0, max_trials=30)
    assert len(trials) == 30
    assert not any(trial.passes(1.0) for trial in trials)
    assert best.mean_p == max(trial.mean_p for trial in trials)
    assert best is not trials[-1]


def test_a_seed_fixes_the_draws(donors):
    frame, has_class = donors

    def drawn(**changes):
        return [
            t.held_out.tolist() for t in balance_ids(frame, 8, has_class, p_threshold=1.0, max_trials=5, **changes)[1]
        ]

    assert drawn() == drawn(seed=0) != drawn(seed=1)
    assert len({tuple(places) for places in drawn()}) == 5


@settings(deadline=None)
@given(
    st.integers(1, 5).flatmap(
        lambda c: st.lists(st.lists(st.booleans(), min_size=c, max_size=c).filter(any), min_size=2, max_size=15)
    ),
    st.integers(1, 6),
    st.integers(0, 3),
)
def test_every_class_is_learnt_and_held_out_where_it_can_be(has_class, size, seed):
    has_class = np.array(has_class)
    has_class = has_class[:, has_class.any(axis=0)]
    try:
        best, _ = balance_ids({"age": np.arange(len(has_class))}, size, has_class, seed=seed)
    except RareClassError:
        assert len(has_class) <= has_class.shape[1]  # one id per class is all there are
        return
    held = np.isin(np.arange(len(has_class)), best.held_out)
    assert has_class[~held].any(axis=0).all()
    assert held.any()
    alone = has_class.sum(axis=1).max() == 1
    if alone:  # ids of one class each: two are enough to be on both sides
        assert has_class[held].any(axis=0)[has_class.sum(axis=0) > 1].all()
        forced = (has_class.sum(axis=0) > 1).sum()
        assert held.sum() == max(forced, min(size, len(held) - has_class.shape[1]))


@pytest.mark.parametrize(
    "values",
    [
        [True, False] * 4,
        ["a", "b"] * 4,
        pd.Categorical(["a", "b"] * 4),
        ["a", None] * 4,
        pd.array(["a", pd.NA] * 4, dtype="string"),
    ],
)
def test_whatever_is_no_number_is_counted(values):
    best, _ = balance_ids({"x": values}, 2, np.ones((8, 1), dtype=bool))
    learnt, held = best.summary["x"]
    assert sum(learnt.values()) == 6
    assert sum(held.values()) == 2
    assert len(learnt) == 2


@pytest.mark.parametrize(
    "values", [[1, 2.5, None, 4] * 2, pd.Categorical([1, 2] * 4), pd.array([1, None] * 4, "Int64")]
)
def test_numbers_are_averaged_without_the_missing(values):
    best, _ = balance_ids({"x": values}, 2, np.ones((8, 1), dtype=bool))
    numbers = pd.Series(values).astype(float)
    held = np.isin(np.arange(8), best.held_out)
    expected = [side.mean() if side.notna().any() else None for side in (numbers[~held], numbers[held])]
    assert list(best.summary["x"]) == expected


def test_an_attribute_that_tells_nothing_passes():
    best, trials = balance_ids({"x": ["same"] * 8, "y": [np.nan] * 8}, 2, np.ones((8, 1), dtype=bool), p_threshold=1.0)
    assert len(trials) == 1
    assert best.p["x"] == 1
    assert np.isnan(best.p["y"])
    assert best.mean_p == 1


def test_draws_that_cannot_be_made():
    with pytest.raises(RareClassError, match="All 3 ids are needed to learn 3 classes"):
        balance_ids({"x": [1, 2, 3]}, 1, np.eye(3, dtype=bool))
    with pytest.raises(LabelError, match="'x' mixes texts and numbers: 1, 'b'"):
        balance_ids({"x": [1, "b", 1]}, 1, np.ones((3, 1), dtype=bool))
    with pytest.raises(OutOfRangeError):
        balance_ids({"x": [1, 2, 3]}, 1, np.ones((3, 1), dtype=bool), max_trials=0)
