"""Every figure against scikit-learn and SciPy, intervals against plain resampling."""

import math
import warnings

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import special, stats
from sklearn import metrics as sk
from sklearn.exceptions import UndefinedMetricWarning

from geneformer.errors import (
    CountsError,
    LabelError,
    NoCellsError,
    NonFiniteValuesError,
    OptionError,
    OutOfRangeError,
)
from geneformer.finetuning import metrics
from geneformer.finetuning.metrics import (
    TEMPERATURES,
    Bootstrap,
    ClassRanking,
    estimate,
    evaluate_classes,
    evaluate_label_sets,
    evaluate_numbers,
    expected_calibration_error,
    fit_temperature,
    softmax,
)

NAMES = [f"class {i}" for i in range(6)]


@st.composite
def predictions(draw):
    """Codes, some without a label and some classes without cells, and probabilities with many ties."""
    n_classes, n = draw(st.integers(2, 5)), draw(st.integers(1, 40))
    codes = np.array(draw(st.lists(st.integers(-1, n_classes - 1), min_size=n, max_size=n)))
    rng = np.random.default_rng(draw(st.integers(0, 1000)))
    weights = rng.integers(0, draw(st.sampled_from([2, 4, 1000])), size=(n, n_classes)) + 1e-9
    proba = weights / weights.sum(axis=1, keepdims=True)
    return codes, proba.astype(draw(st.sampled_from([np.float32, np.float64])))


def defined(function, *values, **options):
    """A figure of scikit-learn, or NaN where it says that there is none."""
    with warnings.catch_warnings():
        warnings.simplefilter("error", UndefinedMetricWarning)
        warnings.simplefilter("ignore", UserWarning)
        try:
            return function(*values, **options)
        except (UndefinedMetricWarning, ValueError):
            return np.nan


@settings(max_examples=120)
@given(predictions())
def test_figures_are_those_of_scikit_learn(made):
    codes, proba = made
    n_classes = proba.shape[1]
    if (codes < 0).all():
        with pytest.raises(NoCellsError, match="None of the"):
            evaluate_classes(codes, proba, NAMES[:n_classes])
        return
    found = evaluate_classes(codes, proba, NAMES[:n_classes], n_boot=0)
    truth, shown = codes[codes >= 0], proba[codes >= 0]
    predicted, present = shown.argmax(axis=1), np.unique(truth)
    assert (found.n, found.n_unlabeled) == (len(truth), len(codes) - len(truth))
    assert found.absent == tuple(NAMES[i] for i in range(n_classes) if i not in present)
    np.testing.assert_array_equal(found.confusion, sk.confusion_matrix(truth, predicted, labels=range(n_classes)))

    def f1(average):
        return sk.f1_score(truth, predicted, labels=present, average=average, zero_division=0)

    onehot = truth[:, None] == np.arange(n_classes)
    areas = [defined(sk.roc_auc_score, onehot[:, i], shown[:, i]) for i in range(n_classes)]
    averages = [
        sk.average_precision_score(onehot[:, i], shown[:, i]) if i in present else np.nan for i in range(n_classes)
    ]
    expected = {
        "accuracy": sk.accuracy_score(truth, predicted),
        "balanced_accuracy": sk.recall_score(truth, predicted, labels=present, average="macro"),
        "macro_f1": f1("macro"),
        "weighted_f1": f1("weighted"),
        "log_loss": sk.log_loss(truth, shown, labels=range(n_classes)),
        "roc_auc": np.nanmean(areas) if not np.isnan(areas).all() else np.nan,
        "average_precision": np.nanmean(averages),
    }
    measured = {name: estimate.mean for name, estimate in found.metrics.items()}
    assert measured.keys() == expected.keys()
    for name, value in expected.items():
        assert measured[name] == pytest.approx(value, rel=1e-6, abs=1e-9, nan_ok=True), name
    rows = sk.precision_recall_fscore_support(truth, predicted, labels=range(n_classes), zero_division=0)
    for i, (row, area, average) in enumerate(zip(found.per_class, areas, averages, strict=True)):
        assert (row.name, row.n) == (NAMES[i], rows[3][i])
        figures = (row.precision, row.recall, row.f1) if row.n else (np.nan,) * 3
        assert figures == pytest.approx([part[i] for part in rows[:3]] if row.n else [np.nan] * 3, nan_ok=True)
        assert row.roc_auc == pytest.approx(area, nan_ok=True)
        assert row.average_precision == pytest.approx(average, nan_ok=True)
    assert all(np.isnan(estimate.low) for estimate in found.metrics.values())


@settings(max_examples=100)
@given(predictions())
def test_curves_are_those_of_scikit_learn(made):
    codes, proba = made
    proba = proba[codes >= 0]
    codes = codes[codes >= 0]
    if not len(codes):
        return
    found = evaluate_classes(codes, proba, NAMES[: proba.shape[1]], n_boot=0)
    for i, name in enumerate(found.classes):
        positive = codes == i
        assert (name in found.roc) is bool(0 < positive.sum() < len(codes))
        assert (name in found.pr) is bool(positive.any())
        if name in found.roc:
            fpr, tpr, _ = sk.roc_curve(positive, proba[:, i], drop_intermediate=False)
            np.testing.assert_allclose(found.roc[name].fpr, fpr)
            np.testing.assert_allclose(found.roc[name].tpr, tpr)
            assert found.roc[name].auc == pytest.approx(sk.roc_auc_score(positive, proba[:, i]))
        if name in found.pr:
            precision, recall, _ = sk.precision_recall_curve(positive, proba[:, i])
            complete = np.append(found.pr[name].recall[::-1], [0])[: len(recall)]
            np.testing.assert_allclose(complete, recall)
            np.testing.assert_allclose(found.pr[name].precision[::-1], precision)


def test_long_curves_are_thinned_and_keep_their_shape_and_ends():
    rng = np.random.default_rng(0)
    positive = rng.random(20_000) < 0.1
    score = rng.normal(size=20_000) + 1.5 * positive
    roc, pr = ClassRanking(score, positive).curves()
    exact_fpr, exact_tpr, _ = sk.roc_curve(positive, score)
    for curve in (roc, pr):
        assert 100 < len(curve[0]) == len(curve[1]) <= 200
        assert (curve[0][0], curve[0][-1]) == (0, 1)
    grid = np.linspace(0, 1, 400)
    np.testing.assert_allclose(np.interp(grid, *roc[:2]), np.interp(grid, exact_fpr, exact_tpr), atol=0.01)
    assert sk.auc(roc.fpr, roc.tpr) == pytest.approx(roc.auc, abs=1e-3)


def test_of_a_long_curve_with_few_corners_all_of_them_are_kept():
    rng = np.random.default_rng(0)
    positive = np.repeat(rng.random(40) < 0.5, 25)  # runs of cells of one kind
    roc, _ = ClassRanking(-np.arange(1000.0), positive).curves()
    fpr, tpr, _ = sk.roc_curve(positive, -np.arange(1000.0), drop_intermediate=True)
    assert len(roc.fpr) < 45
    assert {*zip(roc.fpr, roc.tpr, strict=True)} <= {*zip(fpr, tpr, strict=True)}
    assert sk.auc(roc.fpr, roc.tpr) == pytest.approx(roc.auc, abs=1e-12)


@settings(max_examples=100)
@given(predictions(), st.integers(0, 5))
def test_weighed_areas_are_those_of_scikit_learn(made, seed):
    codes, proba = made
    weights = np.random.default_rng(seed).integers(0, 3, size=(4, len(codes))).astype(float)
    positive = codes == 0
    aucs, averages = ClassRanking(proba[:, 0], positive).areas(weights)
    for weight, auc, average in zip(weights, aucs, averages, strict=True):
        drawn = weight > 0
        if not (drawn & positive).any():
            assert np.isnan(average)
            continue
        exact = sk.average_precision_score(positive[drawn], proba[drawn, 0], sample_weight=weight[drawn])
        assert average == pytest.approx(exact)
        if (drawn & ~positive).any():
            exact = sk.roc_auc_score(positive[drawn], proba[drawn, 0], sample_weight=weight[drawn])
            assert auc == pytest.approx(exact)


@pytest.fixture
def cells():
    rng = np.random.default_rng(0)
    codes = rng.choice(4, p=[0.5, 0.3, 0.15, 0.05], size=400)
    logits = rng.normal(size=(400, 4)) + 1.5 * np.eye(4)[codes]
    donors = rng.integers(12, size=400)
    logits += 1.5 * rng.normal(size=(12, 4))[donors]  # donors differ, as they do
    proba = np.exp(logits)
    return codes, proba / proba.sum(axis=1, keepdims=True), donors


def plain_bootstrap(codes, proba, units, n_boot=400):
    """Intervals the slow way: one resample after the other through scikit-learn."""
    rng = np.random.default_rng(1)
    members = [np.flatnonzero(units == unit) for unit in np.unique(units)]
    figures = {"accuracy": [], "macro_f1": [], "log_loss": [], "roc_auc": []}
    for _ in range(n_boot):
        rows = np.concatenate([members[i] for i in rng.integers(len(members), size=len(members))])
        truth, shown = codes[rows], proba[rows]
        predicted, present = shown.argmax(axis=1), np.unique(truth)
        figures["accuracy"].append((truth == predicted).mean())
        figures["macro_f1"].append(sk.f1_score(truth, predicted, labels=present, average="macro"))
        figures["log_loss"].append(-np.log(shown[np.arange(len(rows)), truth]).mean())
        figures["roc_auc"].append(np.mean([sk.roc_auc_score(truth == i, shown[:, i]) for i in present]))
    return {name: np.quantile(drawn, (0.025, 0.975)) for name, drawn in figures.items()}


@pytest.mark.slow
@pytest.mark.parametrize("grouped", [False, True])
def test_intervals_are_those_of_plain_resampling(cells, grouped):
    codes, proba, donors = cells
    found = evaluate_classes(codes, proba, NAMES[:4], groups=donors if grouped else None, n_boot=3000)
    assert found.n_groups == (12 if grouped else None)
    for name, (low, high) in plain_bootstrap(codes, proba, donors if grouped else np.arange(400)).items():
        width = high - low
        assert found.metrics[name].low == pytest.approx(low, abs=0.15 * width), name
        assert found.metrics[name].high == pytest.approx(high, abs=0.15 * width), name


def test_whole_groups_give_wider_intervals_than_cells_that_are_alike(cells):
    codes, proba, donors = cells
    by_cell, by_donor = (evaluate_classes(codes, proba, NAMES[:4], groups=groups).metrics for groups in (None, donors))
    for name in by_cell:
        assert by_cell[name].mean == by_donor[name].mean
    assert by_donor["log_loss"].high - by_donor["log_loss"].low > 1.3 * (
        by_cell["log_loss"].high - by_cell["log_loss"].low
    )


def test_the_seed_fixes_the_intervals_and_nothing_else(cells):
    codes, proba, _ = cells
    first, second, other = (evaluate_classes(codes, proba, NAMES[:4], seed=seed, n_boot=200) for seed in (1, 1, 2))
    assert first == second
    assert first != other
    assert [found.mean for found in first.metrics.values()] == [found.mean for found in other.metrics.values()]


def test_the_order_of_cells_and_of_classes_changes_no_figure(cells):
    codes, proba, _ = cells
    order, classes = np.random.default_rng(3).permutation(400), np.array([2, 0, 3, 1])
    found = evaluate_classes(codes, proba, NAMES[:4], n_boot=0)
    other = evaluate_classes(np.argsort(classes)[codes][order], proba[order][:, classes], classes.astype(str), n_boot=0)
    for name, figure in found.metrics.items():
        assert figure.mean == pytest.approx(other.metrics[name].mean), name
    np.testing.assert_array_equal(found.confusion[np.ix_(classes, classes)], other.confusion)


def test_one_group_gives_no_interval_and_many_cells_fewer_resamples(cells, monkeypatch):
    codes, proba, donors = cells
    alone = evaluate_classes(codes, proba, NAMES[:4], groups=np.zeros(400))
    assert set(alone.draws.values()) == {0}
    assert np.isnan(alone.metrics["macro_f1"].low)
    monkeypatch.setattr(metrics, "WORK", 400 * 4 * 150)
    fewer = evaluate_classes(codes, proba, NAMES[:4], groups=donors)
    assert (fewer.draws["macro_f1"], fewer.draws["log_loss"], fewer.draws["roc_auc"]) == (1000, 600, 150)


@pytest.mark.parametrize("batch", [1.0, 1e4, 1e9])
@pytest.mark.parametrize("place", [None, np.arange(50) // 7])
def test_batches_change_no_resample(batch, place, monkeypatch):
    boot = Bootstrap(n=50, place=place, n_boot=9, seed=0)
    whole = np.concatenate(list(boot.weights(9)))
    monkeypatch.setattr(metrics, "BATCH", batch)
    np.testing.assert_array_equal(np.concatenate(list(boot.weights(9))), whole)
    kinds = np.arange(50) % 3
    tables = np.concatenate(list(boot.tables(kinds, 9)))
    assert tables.shape == (9, 3)
    if place is None:
        assert (whole.sum(axis=1) == 50).all()
        assert (tables.sum(axis=1) == 50).all()
    else:
        for row in whole:
            assert all(len(set(row[place == group])) == 1 for group in np.unique(place))


def test_undefined_resamples_are_left_out_of_an_interval():
    found = estimate(0.5, np.array([np.nan, 0.4, 0.6]))
    assert 0.4 <= found.low < found.high <= 0.6
    assert str(estimate(0.5, np.array([np.nan]))) == "0.500"
    assert str(estimate(np.nan, np.array([0.1]))) == "-"


@pytest.mark.parametrize(
    ("codes", "proba", "classes", "message"),
    [
        ([0, 1], [[0.5, 0.5]], ["a", "b"], r"codes holds int64 of shape \(2,\) for 1 rows"),
        ([0.0], [[0.5, 0.5]], ["a", "b"], "codes holds float64"),
        ([2], [[0.5, 0.5]], ["a", "b"], "codes go from 2 to 2; with 2 classes"),
        ([-2], [[0.5, 0.5]], ["a", "b"], "codes go from -2"),
        ([0], [[0.5, 0.5]], ["a"], r"shape \(1, 2\); it takes"),
        ([0], [0.5, 0.5], ["a", "b"], r"shape \(2,\)"),
        ([0], [[0.5, 0.5]], ["a", "a"], r"\['a'\] more than once"),
        ([0], [[]], [], "classes is empty"),
        ([0], [[2.0, -1.0]], ["a", "b"], "outside 0 to 1 in 1 rows, first in row 0"),
        ([0, 1], [[0.5, 0.5], [np.nan, 1.0]], ["a", "b"], "first in row 1"),
        ([0], [[0.5, 0.2]], ["a", "b"], "do not add up to 1, first row 0 with 0.7"),
    ],
)
def test_what_does_not_fit_together_is_refused(codes, proba, classes, message):
    with pytest.raises(OptionError, match=message):
        evaluate_classes(codes, proba, classes)


def test_groups_must_be_one_per_cell():
    with pytest.raises(OptionError, match=r"groups has the shape \(1,\) for 2 cells"):
        evaluate_classes([0, 1], np.eye(2), ["a", "b"], groups=["d1"])


@st.composite
def label_sets(draw):
    n, n_labels = draw(st.integers(1, 30)), draw(st.integers(1, 4))
    rng = np.random.default_rng(draw(st.integers(0, 1000)))
    truth = (rng.random((n, n_labels)) < draw(st.sampled_from([0.0, 0.3, 0.9]))).astype(float)
    truth[rng.random(n) < 0.2, rng.integers(n_labels)] = np.nan
    return truth, rng.integers(0, 11, size=(n, n_labels)) / 10


@settings(max_examples=150)
@given(label_sets(), st.sampled_from([0.5, 0.25]))
def test_figures_of_label_sets_are_those_of_scikit_learn(made, threshold):
    truth, proba = made
    names = NAMES[: proba.shape[1]]
    known = ~np.isnan(truth).any(axis=1)
    if not known.any():
        with pytest.raises(NoCellsError, match="labels that are known"):
            evaluate_label_sets(truth, proba, names)
        return
    found = evaluate_label_sets(truth, proba, names, threshold=threshold, n_boot=20)
    true, shown = truth[known].astype(int), proba[known]
    predicted = (shown >= threshold).astype(int)
    present = np.flatnonzero(true.any(axis=0))
    both = [i for i in present if not true[:, i].all()]
    expected = {
        "subset_accuracy": (true == predicted).all(axis=1).mean(),
        "micro_f1": sk.f1_score(true.ravel(), predicted.ravel(), zero_division=0),
        "macro_f1": np.nan,
        "roc_auc": np.nan,
        "average_precision": np.nan,
    }
    if len(present):
        f1 = [sk.f1_score(true[:, i], predicted[:, i], zero_division=0) for i in present]
        average = [sk.average_precision_score(true[:, i], shown[:, i]) for i in present]
        expected |= {"macro_f1": np.mean(f1), "average_precision": np.mean(average)}
    if both:
        expected["roc_auc"] = np.mean([sk.roc_auc_score(true[:, i], shown[:, i]) for i in both])
    assert found.n_unlabeled == (~known).sum()
    assert {name: figure.mean for name, figure in found.metrics.items()} == pytest.approx(expected, nan_ok=True)
    assert [row.n for row in found.per_class] == true.sum(axis=0).tolist()
    for figure in found.metrics.values():
        assert np.isnan(figure.low) or 0 <= figure.low <= figure.high <= 1 + 1e-12


@pytest.mark.parametrize(
    ("truth", "message"), [([[1, 0, 1]], "truth has the shape"), ([[1, 2]], r"truth holds \[2\.0\]")]
)
def test_label_sets_that_do_not_fit_are_refused(truth, message):
    with pytest.raises(OptionError, match=message):
        evaluate_label_sets(truth, [[0.5, 0.5]], ["a", "b"])


numbers = st.integers(1, 40).flatmap(
    lambda n: st.tuples(
        st.lists(st.integers(-5, 5), min_size=n, max_size=n), st.lists(st.integers(-5, 5), min_size=n, max_size=n)
    )
)


@settings(max_examples=150)
@given(numbers, st.sampled_from([0.0, 1e6]))
def test_figures_of_numbers_are_those_of_scikit_learn_and_scipy(made, far):
    truth, predicted = (np.array(values) / 4 + far for values in made)
    found = {name: figure.mean for name, figure in evaluate_numbers(truth, predicted, n_boot=20).metrics.items()}
    constant = len(set(truth)) == 1 or len(set(predicted)) == 1
    assert found == pytest.approx(
        {
            "mse": sk.mean_squared_error(truth, predicted),
            "mae": sk.mean_absolute_error(truth, predicted),
            "r2": sk.r2_score(truth, predicted) if len(set(truth)) > 1 else np.nan,
            "pearson": np.nan if constant else stats.pearsonr(truth, predicted)[0],
            "spearman": np.nan if constant else stats.spearmanr(truth, predicted)[0],
        },
        rel=1e-6,
        abs=1e-9,
        nan_ok=True,
    )


@pytest.mark.parametrize("groups", [None, np.arange(300) % 9])
def test_intervals_of_numbers_are_those_of_plain_resampling(groups):
    rng = np.random.default_rng(0)
    truth = rng.normal(size=300)
    predicted = np.round(truth + rng.normal(size=300), 1)
    found = evaluate_numbers(truth, predicted, groups, n_boot=2000)
    members = [np.flatnonzero((np.arange(300) if groups is None else groups) == unit) for unit in range(300)]
    members = [rows for rows in members if len(rows)]
    drawn = []
    for _ in range(400):
        rows = np.concatenate([members[i] for i in rng.integers(len(members), size=len(members))])
        drawn.append(
            (
                sk.mean_squared_error(truth[rows], predicted[rows]),
                sk.mean_absolute_error(truth[rows], predicted[rows]),
                sk.r2_score(truth[rows], predicted[rows]),
                stats.pearsonr(truth[rows], predicted[rows])[0],
                stats.spearmanr(truth[rows], predicted[rows])[0],
            )
        )
    for (name, figure), (low, high) in zip(
        found.metrics.items(), np.quantile(drawn, (0.025, 0.975), axis=0).T, strict=True
    ):
        assert figure.low == pytest.approx(low, abs=0.15 * (high - low)), name
        assert figure.high == pytest.approx(high, abs=0.15 * (high - low)), name


def test_numbers_that_are_not_known_are_left_out_and_others_must_be_finite():
    found = evaluate_numbers([1.0, np.nan, 3.0], [1.0, np.nan, 3.5])
    assert (found.n, found.n_unlabeled, found.metrics["mae"].mean) == (2, 1, 0.25)
    with pytest.raises(OptionError, match="not finite, first row 2"):
        evaluate_numbers([1.0, np.nan, 3.0], [1.0, 0.0, np.inf])
    with pytest.raises(OptionError, match=r"truth has the shape \(2,\)"):
        evaluate_numbers([1.0, 2.0], [1.0])
    with pytest.raises(NoCellsError, match="None of the 1 cells has a number"):
        evaluate_numbers([np.nan], [1.0])


# Calibration


def drawn(n=4000, n_classes=4, seed=0):
    """Logits, and labels that follow their probabilities exactly."""
    rng = np.random.default_rng(seed)
    logits = 2 * rng.normal(size=(n, n_classes))
    proba = special.softmax(logits, axis=1)
    return logits, (rng.random((n, 1)) > proba.cumsum(axis=1)[:, :-1]).sum(axis=1)


def slow_error(proba, codes, n_bins):
    """One bin and one cell at a time."""
    total = 0.0
    for b in range(n_bins):
        low, high = b / n_bins, (b + 1) / n_bins
        confidences, hits = [], []
        for row, code in zip(proba, codes, strict=True):
            top = max(row)
            if low < top <= high:
                confidences.append(top)
                hits.append(list(row).index(top) == code)
        if confidences:
            gap = abs(sum(hits) / len(hits) - sum(confidences) / len(confidences))
            total += gap * len(hits) / len(codes)
    return total


@pytest.mark.parametrize("n_bins", [1, 10, 15, 16])
def test_error_is_that_of_a_plain_loop(n_bins):
    logits, codes = drawn(500)
    for temperature in (0.3, 1.0, 3.0):
        proba = softmax(logits, temperature)
        assert expected_calibration_error(proba, codes, n_bins) == pytest.approx(slow_error(proba, codes, n_bins))


def test_error_by_hand():
    # bins (0.5, 1]: 0.9 hit, 0.8 miss, 0.6 hit; (0, 0.5]: hit
    proba = np.array([[0.9, 0.1], [0.8, 0.2], [0.4, 0.6], [0.5, 0.5]])
    assert expected_calibration_error(proba, np.array([0, 1, 1, 0]), n_bins=2) == pytest.approx(
        (abs(2 - 2.3) + abs(1 - 0.5)) / 4
    )


def test_error_at_the_ends():
    assert expected_calibration_error(np.eye(2), np.array([0, 1])) == 0
    assert expected_calibration_error(np.eye(2), np.array([1, 0])) == 1
    assert expected_calibration_error(np.ones((1, 1)), np.array([0])) == 0


@pytest.mark.parametrize("factor", [0.25, 1.0, 3.0])
def test_temperature_undoes_a_factor(factor):
    logits, codes = drawn()
    assert fit_temperature(logits * factor, codes) == pytest.approx(factor, rel=0.06)


def test_temperature_is_the_best_of_a_fine_grid():
    logits, codes = drawn(300)
    losses = {t: -np.mean(np.log(softmax(logits, t)[np.arange(300), codes])) for t in np.geomspace(*TEMPERATURES, 2001)}
    best = min(losses, key=losses.get)
    assert fit_temperature(logits, codes) == pytest.approx(best, rel=0.003)


def test_calibration_lowers_the_error_of_an_overconfident_model():
    logits, codes = drawn()
    logits = 5 * logits
    temperature = fit_temperature(logits[:2000], codes[:2000])
    before = expected_calibration_error(softmax(logits[2000:]), codes[2000:])
    after = expected_calibration_error(softmax(logits[2000:], temperature), codes[2000:])
    assert after < 0.05 < 0.2 < before


@given(
    st.integers(1, 20).flatmap(
        lambda n: st.tuples(
            st.lists(st.lists(st.integers(-40, 40), min_size=3, max_size=3), min_size=n, max_size=n),
            st.lists(st.integers(0, 2), min_size=n, max_size=n),
        )
    )
)
def test_temperature_is_bounded_and_keeps_the_predicted_class(case):
    logits, codes = np.array(case[0], dtype=float), np.array(case[1])
    temperature = fit_temperature(logits, codes)
    assert TEMPERATURES[0] <= temperature <= TEMPERATURES[1]
    assert (softmax(logits, temperature).argmax(axis=1) == logits.argmax(axis=1)).all()


def test_where_there_is_no_best_temperature():
    apart = np.array([[4.0, 0.0], [0.0, 4.0]])
    assert TEMPERATURES[0] <= fit_temperature(apart, [0, 1]) < 0.2  # the loss is 0 from here on
    assert TEMPERATURES[0] <= fit_temperature(apart / 1000, [0, 1]) < 0.0501
    assert fit_temperature(apart, [1, 0]) == pytest.approx(TEMPERATURES[1], rel=1e-3)
    assert fit_temperature(apart, [0, 0]) == pytest.approx(TEMPERATURES[1], rel=1e-3)  # half wrong at equal confidence
    assert fit_temperature(np.zeros((3, 2)), [0, 1, 1]) == 1.0


def test_softmax_of_large_logits():
    assert softmax([[1e4, 0.0]], 0.05).tolist() == [[1.0, 0.0]]
    assert softmax([[math.log(3), 0.0]]).tolist() == [pytest.approx([0.75, 0.25])]
    assert softmax([[2.0, 0.0]], 2.0)[0] == pytest.approx(softmax([[1.0, 0.0]])[0])
    assert softmax(np.zeros((0, 3))).shape == (0, 3)


def test_what_cannot_be_calibrated():
    with pytest.raises(OutOfRangeError):
        softmax([[1.0, 2.0]], 0.0)
    for call in (softmax, lambda logits: fit_temperature(logits, [0, 1])):
        with pytest.raises(NonFiniteValuesError, match="row 1") as caught:
            call([[0.0, 1.0], [np.nan, 1.0]])
        assert not isinstance(caught.value, CountsError)  # logits are no counts
    with pytest.raises(LabelError, match="one row per cell"):
        softmax([1.0, 2.0])
