"""Figures of occurrences and of folds of genes against scikit-learn; intervals and reports hold what they should."""

import numpy as np
import pytest
from sklearn.metrics import (
    accuracy_score,
    balanced_accuracy_score,
    confusion_matrix,
    f1_score,
    log_loss,
    roc_auc_score,
)

from geneformer.finetuning.gene_metrics import TokenTally, evaluate_genes
from geneformer.finetuning.reports import GeneReport

CLASSES = ("low", "high")


def problem(n=120, n_folds=4, signal=1.0, seed=0):
    rng = np.random.default_rng(seed)
    codes = rng.integers(2, size=n)
    folds = np.arange(n) % n_folds + 1
    score = rng.normal(size=n) + signal * codes + folds  # every fold has a level of its own, as networks do
    high = 1 / (1 + np.exp(-score))
    return codes, np.column_stack([1 - high, high]), folds, rng.integers(1, 50, size=n)


def evaluated(codes, proba, folds, n_cells, **options):
    occurrences = []
    for fold in range(1, folds.max() + 1):
        tally, part = TokenTally(len(CLASSES)), folds == fold
        tally.add(proba[part], codes[part], n_cells[part])
        occurrences.append(tally.evaluation(CLASSES))
    return evaluate_genes(codes, proba, folds, occurrences, CLASSES, **options)


def test_areas_are_means_over_folds():
    codes, proba, folds, n_cells = problem()
    found = evaluated(codes, proba, folds, n_cells)
    areas = [roc_auc_score(codes[folds == fold], proba[folds == fold, 1]) for fold in range(1, 5)]
    assert found.metrics["roc_auc"].mean == pytest.approx(np.mean(areas))
    assert found.metrics["roc_auc_sd"].mean == pytest.approx(np.std(areas, ddof=1))
    assert [fold.metrics["roc_auc"].mean for fold in found.folds] == pytest.approx(areas)
    assert np.mean(areas) > roc_auc_score(codes, proba[:, 1]) + 0.05  # which pooling would give
    weighted = [
        roc_auc_score(codes[folds == fold], proba[folds == fold, 1], sample_weight=n_cells[folds == fold])
        for fold in range(1, 5)
    ]
    assert found.metrics["token_roc_auc"].mean == pytest.approx(np.mean(weighted), abs=1e-4)


def test_counts_are_over_all_genes():
    codes, proba, folds, n_cells = problem()
    found, predicted = evaluated(codes, proba, folds, n_cells), proba.argmax(axis=1)
    assert found.n == 120
    assert found.metrics["accuracy"].mean == pytest.approx(accuracy_score(codes, predicted))
    assert found.metrics["macro_f1"].mean == pytest.approx(f1_score(codes, predicted, average="macro"))
    assert found.metrics["log_loss"].mean == pytest.approx(log_loss(codes, proba))
    assert found.confusion.sum() == 120
    by_token = [np.average(codes[m] == predicted[m], weights=n_cells[m]) for m in (folds == f for f in range(1, 5))]
    assert found.metrics["token_accuracy"].mean == pytest.approx(np.mean(by_token))


def test_intervals_resample_genes():
    found = {n: evaluated(*problem(n)).metrics["roc_auc"] for n in (80, 1200)}
    for estimate in found.values():
        assert estimate.low < estimate.mean < estimate.high
    assert found[1200].high - found[1200].low < 0.5 * (found[80].high - found[80].low)


def test_an_interval_covers_what_it_should():
    """A gene's score says nothing: about 95 % of the intervals hold one half."""
    hits = 0
    for seed in range(100):
        area = evaluated(*problem(100, signal=0.0, seed=seed), n_boot=200, seed=seed).metrics["roc_auc"]
        hits += area.low <= 0.5 <= area.high
    assert 85 <= hits <= 100


def test_no_resamples_no_intervals():
    found = evaluated(*problem(), n_boot=0)
    assert np.isnan(found.metrics["roc_auc"].low)
    assert found.metrics["roc_auc"].mean == pytest.approx(evaluated(*problem()).metrics["roc_auc"].mean)


def test_one_fold_has_no_spread():
    codes, proba, _, n_cells = problem()
    found = evaluated(codes, proba, np.ones(120, dtype=int), n_cells)
    assert np.isnan(found.metrics["roc_auc_sd"].mean)
    assert found.metrics["roc_auc"].mean == pytest.approx(roc_auc_score(codes, proba[:, 1]))
    assert "## Folds" not in "".join(found.details())


def report(**options):
    codes, proba, folds, n_cells = problem(**options)
    found = evaluated(codes, proba, folds, n_cells, n_boot=50)
    return GeneReport(
        evaluation=found,
        baselines={"guess": evaluated(codes, np.full_like(proba, 0.5), folds, n_cells, n_boot=0)},
        cell_ids=np.array([f"ENSG{i:011}" for i in range(len(codes))], dtype=object),
        symbols=np.array([f"G{i}" for i in range(len(codes))], dtype=object),
        folds=folds,
        n_cells=n_cells,
        truth=codes,
        predicted=proba.argmax(axis=1),
        proba=proba,
        settings={"model": "none"},
    )


def test_a_report_is_what_was_saved(tmp_path):
    one = report()
    one.save(tmp_path / "report")
    again = GeneReport.load(tmp_path / "report")
    assert again == one
    assert again.evaluation.folds[2] == one.evaluation.folds[2]
    assert again.evaluation.occurrences == one.evaluation.occurrences
    assert again != report(seed=1)


def test_a_report_names_genes_and_folds():
    one = report()
    table = one.predictions().to_pandas()
    head = ["gene", "symbol", "fold", "n_cells", "truth", "predicted", "probability_low", "probability_high"]
    assert list(table.columns) == head
    assert table["gene"].is_unique
    text = one.to_markdown()
    assert text.startswith("120 genes. ")
    assert "ROC AUC, occurrences" in text
    assert "SD of ROC AUC" in text
    assert "cells" not in text
    assert list(one.by_fold()) == ["fold 1", "fold 2", "fold 3", "fold 4"]
    assert one.by_fold("occurrences")["fold 2"].n > one.by_fold()["fold 2"].n


def test_folds_are_drawn_next_to_each_other():
    matplotlib = pytest.importorskip("matplotlib")
    matplotlib.use("agg")
    from geneformer.pl._classification import roc

    one = report()
    for of in ("genes", "occurrences"):
        axes = roc(one.by_fold(of))
        texts = [text.get_text() for text in axes.get_legend().get_texts()]
        areas = [figures.metrics["roc_auc"].mean for figures in one.by_fold(of).values()]
        assert texts == [f"fold {number}  {area:.3f}" for number, area in enumerate(areas, start=1)]
    mean = one.evaluation.metrics["roc_auc"]
    names = [text.get_text() for text in roc({"model": one, **one.baselines}).get_legend().get_texts()]
    assert names == [f"model  {mean}", "guess  0.500"]


# Occurrences


def drawn(n, classes, seed=0):
    rng = np.random.default_rng(seed)
    logits = rng.normal(size=(n, classes)) * 2
    codes = rng.integers(classes, size=n)
    logits[np.arange(n), codes] += 0.7
    return np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True), codes


@pytest.mark.parametrize("classes", [2, 4])
def test_figures_are_those_of_scikit_learn(classes):
    proba, codes = drawn(3000, classes)
    tally = TokenTally(classes)
    for part in np.array_split(np.arange(3000), 7):
        tally.add(proba[part], codes[part])
    names = [f"c{i}" for i in range(classes)]
    found, predicted = tally.evaluation(names), proba.argmax(axis=1)
    assert found.n == 3000
    np.testing.assert_array_equal(found.confusion, confusion_matrix(codes, predicted))
    assert found.metrics["accuracy"].mean == pytest.approx((codes == predicted).mean())
    assert found.metrics["macro_f1"].mean == pytest.approx(f1_score(codes, predicted, average="macro"))
    assert found.metrics["balanced_accuracy"].mean == pytest.approx(balanced_accuracy_score(codes, predicted))
    areas = [roc_auc_score(codes == code, proba[:, code]) for code in range(classes)]
    assert [found.roc[name].auc for name in names] == pytest.approx(areas, abs=1e-4)
    assert found.metrics["roc_auc"].mean == pytest.approx(np.mean(areas), abs=1e-4)
    for row, code in zip(found.per_class, range(classes), strict=True):
        assert (row.name, row.n) == (names[code], (codes == code).sum())
    for curve in found.roc.values():
        assert curve.fpr[0] == curve.tpr[0] == 0
        assert curve.fpr[-1] == curve.tpr[-1] == 1
        assert (np.diff(curve.fpr) >= 0).all()
        assert (np.diff(curve.tpr) >= 0).all()
        assert np.trapezoid(curve.tpr, curve.fpr) == pytest.approx(curve.auc, abs=0.01)


def test_certain_and_equal_probabilities_are_ranked():
    proba = np.array([[1.0, 0.0], [1 - 1e-9, 1e-9], [0.5, 0.5], [0.5, 0.5], [0.0, 1.0]])
    codes = np.array([0, 1, 0, 1, 1])
    tally = TokenTally(2)
    tally.add(proba, codes)
    assert tally.evaluation(["a", "b"]).roc["b"].auc == pytest.approx(roc_auc_score(codes, proba[:, 1]))


def test_counting_a_row_often_is_repeating_it():
    proba, codes = drawn(40, 3)
    times = np.random.default_rng(1).integers(0, 5, size=40)
    counted, repeated = TokenTally(3), TokenTally(3)
    counted.add(proba, codes, times)
    repeated.add(np.repeat(proba, times, axis=0), np.repeat(codes, times))
    assert counted.evaluation("abc") == repeated.evaluation("abc")


def test_one_class_has_no_area():
    tally = TokenTally(2)
    tally.add(np.array([[0.3, 0.7], [0.6, 0.4]]), np.array([1, 1]))
    found = tally.evaluation(["a", "b"])
    assert found.roc == {}
    assert np.isnan(found.metrics["roc_auc"].mean)
    assert found.metrics["accuracy"].mean == 0.5
