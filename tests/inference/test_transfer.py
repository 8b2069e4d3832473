"""Labels from a reference: classes, cut-offs, and cells that lie far, on points whose answer is known."""

import numpy as np
import pytest

from geneformer.errors import OptionError
from geneformer.inference.transfer import LabelTransfer, cutoffs_of, folds_of
from geneformer.options import AnnotateOptions

CENTERS = np.array([[0.0, 0, 0, 0], [9, 0, 0, 0], [0, 9, 0, 0]])


def points(n, seed, centers=CENTERS):
    generator = np.random.default_rng(seed)
    codes = generator.integers(len(centers), size=n)
    return centers[codes] + generator.normal(size=(n, 4)), codes


@pytest.mark.parametrize("method", ["neighbors", "probe"])
def test_cells_like_the_reference_are_called_and_others_are_far(method):
    options = AnnotateOptions(method=method, false_rejection=0.1)
    values, codes = points(600, 0)
    fitted = LabelTransfer.fit(values, codes, 3, options)
    more, truth = points(2000, 1)
    found = fitted.predict(more)
    assert (found.proba.argmax(axis=1) == truth).mean() > 0.99
    np.testing.assert_allclose(found.proba.sum(axis=1), 1)
    # What false_rejection promises holds for cells that were not seen, within chance.
    assert found.is_far.mean() == pytest.approx(0.1, abs=0.035)
    assert fitted.rejected == pytest.approx(0.1, abs=0.035)
    strangers = fitted.predict(np.full((50, 4), 30.0))
    assert strangers.is_far.all()
    assert (fitted.held_out.proba.argmax(axis=1) == codes).mean() > 0.98


def test_nothing_is_far_when_nothing_may_be_rejected():
    values, codes = points(100, 0)
    found = LabelTransfer.fit(values, codes, 3, AnnotateOptions(false_rejection=0.0)).predict(np.full((3, 4), 1e6))
    assert not found.is_far.any()


def test_cut_offs_are_order_statistics_by_class():
    distance = np.arange(1.0, 101)
    called = (distance > 90).astype(int)
    cutoffs = cutoffs_of(distance, called, 3, 0.1)
    # 82 of 90 cells, as ceil(91 x 0.9); 10 of 10; a class without cells takes that of all, 91 of 100.
    assert cutoffs.tolist() == [82, 100, 91]
    assert cutoffs_of(distance, called, 2, 0.02).tolist() == [90, 99]


def test_groups_are_held_out_whole():
    codes, groups = np.tile([0, 1], 30), np.repeat(["a", "b", "c"], 20)
    folds = folds_of(codes, groups, AnnotateOptions())
    assert all(len(set(folds[groups == name])) == 1 for name in "abc")
    assert len(set(folds)) == 3
    with pytest.raises(OptionError, match="one group"):
        folds_of(codes, np.repeat("a", 60), AnnotateOptions())
    with pytest.raises(OptionError, match="one class"):
        folds_of(np.zeros(9, dtype=int), None, AnnotateOptions())
