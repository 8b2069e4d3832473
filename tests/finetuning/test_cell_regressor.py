"""Numbers of cells: every loss and output function, their scale, their spread, what cannot be learnt, the folder."""

import warnings

import numpy as np
import pytest

from geneformer.errors import (
    ConstantLabelError,
    GeneformerWarning,
    LabelError,
    MissingLabelError,
    NotFittedError,
    OptionError,
)
from geneformer.finetuning.baselines import RIDGE, regress_by_baselines
from geneformer.finetuning.estimators import CellRegressor, load_classifier
from geneformer.finetuning.reports import NumberReport
from geneformer.options import RegressOptions
from small_finetuning import QUICK, labeled_blood, tiny_model

pytestmark = pytest.mark.contract

LOSSES = ["squared_error", "gaussian", "poisson", "negative_binomial"]


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return tiny_model(tmp_path_factory.mktemp("tiny"), seed=5, dropout=0.0)


@pytest.fixture(scope="module")
def adata():
    made = labeled_blood()
    made.obs["age"] = made.obs["age"] * 100 + 5000
    return made


@pytest.fixture(scope="module")
def fitted(model, adata):
    options = {**QUICK, "baselines": "all", "loss": "gaussian", "valid": 0.15, "test": 0.25}
    return CellRegressor(model, **options).fit(adata, "age")


def made(model, **changes):
    return CellRegressor(model, **{**QUICK, "baselines": "none", **changes})


@pytest.mark.parametrize("loss", LOSSES)
def test_predictions_start_near_the_mean_whatever_the_size_of_the_numbers(model, adata, loss):
    regressor = made(model, loss=loss, max_steps=1, learning_rate=1e-6).fit(adata, "age")
    mean = adata.obs["age"].iloc[regressor._training.split.train].mean()
    np.testing.assert_allclose(regressor.predict(adata), mean, rtol=0.25)


@pytest.mark.parametrize("activation", ["linear", "relu", "softplus"])
def test_output_functions(model, adata, activation):
    regressor = made(model, activation=activation).fit(adata, "age")
    predicted = regressor.predict(adata)
    assert predicted.shape == (adata.n_obs,)
    assert regressor.network_.specs[0].activation == activation
    assert len(np.unique(predicted)) > 1
    if activation != "linear":
        assert (predicted >= 0).all()


@pytest.mark.parametrize("loss", LOSSES)
def test_it_learns_numbers_that_the_tokens_tell(model, adata, loss):
    """One step moves the predictions of the training cells towards their numbers, in every loss."""
    short = made(model, loss=loss, max_steps=1, valid=0.0, test=0.2).fit(adata, "age")
    long = made(model, loss=loss, max_steps=60, learning_rate=1e-2, valid=0.0, test=0.2).fit(adata, "age")
    rows = short._training.split.train
    truth = adata.obs["age"].to_numpy()[rows]
    errors = [float(((r.predict(adata)[rows] - truth) ** 2).mean()) for r in (short, long)]
    assert errors[1] < 0.8 * errors[0]
    assert np.corrcoef(long.predict(adata)[rows], truth)[0, 1] > 0.4


@pytest.mark.parametrize("loss", LOSSES[1:])
def test_the_spread_is_that_of_the_distribution(model, adata, loss):
    regressor = made(model, loss=loss).fit(adata, "age")
    mean, deviation = regressor.predict(adata, return_std=True)
    outputs = regressor.outputs(regressor.open(adata))["age"].astype(float)
    scale = regressor.scale_
    expected = {
        "gaussian": lambda: np.exp(outputs[:, 1] / 2) * scale["unit"],
        "poisson": lambda: np.sqrt(outputs[:, 0]),
        "negative_binomial": lambda: np.sqrt(outputs[:, 0] + outputs[:, 0] ** 2 / np.exp(outputs[:, 1])),
    }[loss]()
    np.testing.assert_allclose(deviation, expected, rtol=1e-5)
    np.testing.assert_array_equal(mean, regressor.predict(adata))


def test_squared_error_has_no_spread(model, adata):
    with pytest.raises(OptionError, match="learns no spread"):
        made(model).fit(adata, "age").predict(adata, return_std=True)


def test_standardizing_is_undone(fitted, adata):
    train = adata.obs["age"].to_numpy()[fitted._training.split.train]
    assert fitted.scale_["center"] == pytest.approx(train.mean())
    assert fitted.scale_["unit"] == pytest.approx(train.std())
    raw = fitted.outputs(fitted.open(adata))["age"][:, 0]
    np.testing.assert_allclose(fitted.predict(adata), raw * train.std() + train.mean(), rtol=1e-6)


def test_the_report_stands_beside_its_baselines(fitted, adata):
    report, split = fitted.report_, fitted._training.split
    assert set(report.baselines) == {
        "random initialisation", "ridge regression, variable genes", "library size",
        "mean of the training cells",
    }  # fmt: skip
    np.testing.assert_array_equal(report.truth, adata.obs["age"].to_numpy()[split.test])
    mean = adata.obs["age"].to_numpy()[split.train].mean()
    expected = ((report.truth - mean) ** 2).mean()
    assert report.baselines["mean of the training cells"].metrics["mse"].mean == pytest.approx(expected)
    counts, ages = adata.X, adata.obs["age"].to_numpy()
    linear = regress_by_baselines(counts[split.train], ages[split.train], counts[split.test], seed=0)[RIDGE]
    found = report.baselines["ridge regression, variable genes"].metrics["mse"].mean
    assert found == pytest.approx(
        ((linear - report.truth) ** 2).mean(), rel=0.05
    )  # some genes are not in the vocabulary
    assert 0 <= report.settings["within_two_deviations"] <= 1


def test_library_size_tells_a_number_that_library_size_decides(fitted):
    found = fitted.report_.baselines["library size"].metrics
    assert found["r2"].mean > 0.9
    assert found["mse"].mean < fitted.report_.baselines["mean of the training cells"].metrics["mse"].mean


def test_saved_and_loaded_it_predicts_the_same(fitted, adata, tmp_path):
    fitted.save(tmp_path / "age")
    loaded = load_classifier(tmp_path / "age", runtime=fitted.runtime)
    assert isinstance(loaded, CellRegressor)
    for one, other in zip(loaded.predict(adata, return_std=True), fitted.predict(adata, return_std=True), strict=True):
        np.testing.assert_array_equal(one, other)
    assert NumberReport.load(tmp_path / "age" / "report") == fitted.report_
    with pytest.warns(GeneformerWarning, match="36 of the 48 cells were learnt from"):
        report = loaded.evaluate(adata, groups="donor")
    assert report.baselines == {}
    assert report.evaluation.n_groups == 4


def test_cells_without_a_number_are_left_out_and_told_of(model, adata):
    part = adata.copy()
    part.obs.loc[part.obs_names[:8], "age"] = np.nan
    with pytest.warns(GeneformerWarning, match="8 of 48 cells have no number in 'age'"):
        regressor = made(model, test=0.2).fit(part, "age")
    split = regressor._training.split
    used = np.concatenate([split.train, split.valid, split.test])
    assert sorted(used) == list(range(8, 48))
    assert np.isfinite(regressor.predict(part)).all()


def test_parts_have_about_the_same_numbers(model, adata):
    split = made(model, test=0.25, valid=0.25).fit(adata, "age")._training.split
    ages = adata.obs["age"].to_numpy()
    for rows in (split.train, split.valid, split.test):
        assert abs(ages[rows].mean() - ages.mean()) < 0.35 * ages.std()


def test_no_donor_is_on_two_sides(model, adata):
    cells = adata.copy()
    cells.obs["age"] = [{"donor 0": 30, "donor 1": 40, "donor 2": 50, "donor 3": 60}[d] for d in cells.obs["donor"]]
    with pytest.warns(GeneformerWarning, match="of the test part have 'age' = .*: R2 and correlations are not defined"):
        regressor = made(model, test=0.25, valid=0.25).fit(cells, "age", groups="donor")
    assert regressor.split_["method"] == "group"
    assert regressor.split_["shared_groups"] == {}


def test_numbers_as_text_are_numbers(model, adata):
    cells = adata.copy()
    cells.obs["age"] = [f"{age:.1f}" for age in cells.obs["age"]]
    cells.obs["age"] = cells.obs["age"].astype("category")
    np.testing.assert_array_equal(
        made(model).fit(cells, "age").predict(adata), made(model).fit(adata, "age").predict(adata)
    )


@pytest.mark.parametrize(
    ("values", "changes", "error", "match"),
    [
        (lambda n: ["old"] * n, {}, LabelError, "'old'.*CellClassifier"),
        (lambda n: [True, False] * (n // 2), {}, LabelError, "not finite numbers"),
        (lambda n: [np.inf, *range(n - 1)], {}, LabelError, "inf"),
        (lambda n: [7.0] * n, {}, ConstantLabelError, "= 7"),
        (lambda n: [np.nan] * n, {}, MissingLabelError, "None of the 48"),
        (lambda n: [-3.0, *range(n - 1)], {"loss": "poisson"}, LabelError, r'1 cells.*-3.*loss="poisson"'),
        (lambda n: [-3.0, *range(n - 1)], {"activation": "relu"}, LabelError, 'activation="relu"'),
    ],
)
def test_what_cannot_be_learnt_is_refused(model, adata, values, changes, error, match):
    cells = adata.copy()
    cells.obs["age"] = values(cells.n_obs)
    with warnings.catch_warnings(), pytest.raises(error, match=match):
        made(model, **changes).fit(cells, "age")


def test_counts_cannot_have_a_linear_output():
    with pytest.raises(OptionError, match="softplus"):
        RegressOptions(loss="poisson", activation="linear")
    assert RegressOptions(loss="poisson").output == "softplus"
    assert RegressOptions(loss="gaussian").output == "linear"


def test_an_unfitted_one_says_so(model, adata):
    with pytest.raises(NotFittedError):
        made(model).predict(adata)
