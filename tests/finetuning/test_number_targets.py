"""Numbers as users have them, their scale for a network and back, and bins to split by."""

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from geneformer.errors import ConstantLabelError, GeneformerWarning, LabelError, MissingLabelError
from geneformer.finetuning.baselines import LIBRARY, MEAN, RIDGE, regress_by_baselines
from geneformer.finetuning.splits import Split
from geneformer.finetuning.targets import Number, encode_numbers, encode_targets
from geneformer.options import RegressOptions


@pytest.mark.parametrize(
    "values",
    [
        [1, 2.5, 30],
        ["1", " 2.5", "30"],
        pd.Series([1, 2.5, 30], dtype="Float64"),
        pd.Categorical(["1", "2.5", "30"]),
        np.array([1, 2.5, 30], dtype=object),
    ],
)
def test_numbers_in_any_form(values):
    assert encode_numbers(values).tolist() == [1.0, 2.5, 30.0]


@pytest.mark.parametrize("missing", [None, np.nan, pd.NA])
def test_missing_numbers_are_warned_of(missing):
    with pytest.warns(GeneformerWarning, match="1 of 3"):
        found = encode_numbers([1.0, missing, 3.0])
    np.testing.assert_array_equal(found, [1.0, np.nan, 3.0])


@pytest.mark.parametrize(
    ("values", "error"),
    [
        (["34-year-old", 3], LabelError),
        ([True, False], LabelError),
        ([1.0, True], LabelError),
        ([np.inf, 1.0], LabelError),
        ([None, np.nan], MissingLabelError),
    ],
)
def test_what_is_no_number_is_refused(values, error):
    with pytest.raises(error):
        encode_numbers(values, name="age")


def encoded(values, *, by_cell=True, **options):
    return encode_targets({"age": values}, [Number("age", RegressOptions(**options))], by_cell=by_cell)


def test_checks_depend_on_loss_and_output():
    values = np.array([-1.0, 2.0, -3.0])
    encoded(values, loss="gaussian")
    for options in ({"loss": "poisson"}, {"activation": "relu"}):
        with pytest.raises(LabelError, match="2 cells have 'age' below 0, down to -3"):
            encoded(values, **options)
    with pytest.raises(ConstantLabelError):
        encoded(np.array([2.0, 2.0]))


@pytest.mark.filterwarnings("ignore::geneformer.errors.GeneformerWarning")
@given(st.lists(st.one_of(st.floats(-1e6, 1e6), st.just(float("nan"))), min_size=1, max_size=80))
def test_bins_hold_about_as_many_cells_each_and_are_in_order(values):
    numbers = np.array(values)
    known = ~np.isnan(numbers)
    if len(np.unique(numbers[known])) < 2:
        return
    strata = encoded(numbers).codes
    assert (strata[~known] == -1).all()
    sizes = np.bincount(strata[known])
    assert sizes.max() - sizes.min() <= 1
    assert len(sizes) == np.clip(known.sum() // 5, 1, 10)
    order = np.argsort(numbers[known], kind="stable")
    assert (np.diff(strata[known][order]) >= 0).all()
    assert set(encoded(numbers, by_cell=False).codes[known]) == {0}


@pytest.mark.parametrize("loss", ["squared_error", "gaussian", "poisson", "negative_binomial"])
@pytest.mark.parametrize("activation", ["auto", "relu"])
def test_to_the_network_and_back(loss, activation):
    values = np.random.default_rng(0).gamma(2, 500, 50)
    target = Number("size", RegressOptions(loss=loss, activation=activation))
    target.prepare(values, Split(np.arange(50), *np.empty((2, 0), dtype=np.int64), method="all"))
    inside = target.to_network(values)
    np.testing.assert_allclose(target.decode(inside[:, None]), values, rtol=1e-5)
    if target.inside == 1:
        assert abs(inside.mean()) == pytest.approx(0 if target.center else 1, abs=1e-5)
    else:
        assert target.inside == pytest.approx(values.mean())


def test_baselines_by_name():
    rng = np.random.default_rng(1)
    counts = rng.poisson(rng.gamma(2, 2, size=(80, 1)) * rng.gamma(1, 2, size=(1, 30)))
    values = np.log1p(counts.sum(axis=1)) ** 2
    found = regress_by_baselines(counts[:60], values[:60], counts[60:])
    assert set(found) == {RIDGE, LIBRARY, MEAN}
    np.testing.assert_allclose(found[LIBRARY], values[60:], rtol=0.02)
    np.testing.assert_allclose(found[MEAN], values[:60].mean())


def test_library_size_does_not_run_away_beyond_the_training_cells():
    totals = np.array([100.0, 200.0, 400.0, 800.0])
    counts = np.column_stack([totals, totals[::-1] / 100])
    values = np.array([1.0, 2.0, 4.0, 8.0])
    predicted = regress_by_baselines(counts, values, np.array([[799.0, 2.0], [1e9, 0.0]]))[LIBRARY]
    assert predicted[0] == predicted[1]
