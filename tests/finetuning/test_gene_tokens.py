"""Figures over single occurrences against scikit-learn."""

import numpy as np
import pytest
from sklearn.metrics import balanced_accuracy_score, confusion_matrix, f1_score, roc_auc_score

from geneformer.finetuning.gene_metrics import TokenTally


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
