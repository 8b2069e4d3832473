"""Accuracies against plain slow ones, textbook intervals, and what must not change them."""

import numpy as np
import pytest
from scipy import sparse
from sklearn.model_selection import StratifiedKFold

from geneformer.errors import NonFiniteValuesError, OptionError, OutOfRangeError, UnknownChoiceError
from geneformer.finetuning.baselines import pca_embedding
from geneformer.inference.quality import _accuracy, embedding_quality


@pytest.fixture
def overlapping():
    rng = np.random.default_rng(0)
    labels = np.repeat(["B", "NK", "T"], [60, 40, 100])
    centers = {"B": 0.0, "NK": 1.0, "T": 2.0}
    return np.array([centers[label] for label in labels])[:, None] + rng.normal(size=(200, 5)), labels


def slow_knn(values, labels, metric, k, folds, seed):
    """Majority of the k nearest training cells, one cell at a time."""
    correct = 0
    for train, test in StratifiedKFold(folds, shuffle=True, random_state=seed).split(values, labels):
        for row in test:
            if metric == "euclidean":
                distance = np.sqrt(((values[train] - values[row]) ** 2).sum(axis=1))
            else:
                norms = np.linalg.norm(values[train], axis=1) * np.linalg.norm(values[row])
                distance = 1 - values[train] @ values[row] / norms
            names, votes = np.unique(labels[train][np.argsort(distance)[:k]], return_counts=True)
            correct += names[votes.argmax()] == labels[row]
    return correct / len(labels)


@pytest.mark.parametrize("metric", ["cosine", "euclidean"])
def test_neighbors_vote_as_a_plain_loop_says(overlapping, metric):
    values, labels = overlapping
    found = embedding_quality(values, labels, metric=metric, n_neighbors=7, folds=4, seed=2)
    assert found.knn.mean == pytest.approx(slow_knn(values, labels, metric, 7, 4, 2))
    assert 0.5 < found.probe.mean < 1
    assert (found.n_cells, found.n_classes, found.n_dimensions, found.folds) == (200, 3, 5, 4)
    assert found.commonest == 0.5


def test_chance_is_not_beaten_on_noise():
    rng = np.random.default_rng(0)
    labels = np.tile(["a", "b"], 300)
    found = embedding_quality(rng.normal(size=(600, 10)), labels)
    assert found.knn.low < 0.5 < found.knn.high
    assert found.probe.low < 0.5 < found.probe.high


def test_standardizing_makes_scales_irrelevant(overlapping):
    values, labels = overlapping
    values = np.column_stack([values, np.random.default_rng(1).normal(size=200)])
    stretched = values * np.array([1, 1, 1, 1, 1, 1000.0])
    alike = [embedding_quality(v, labels, standardize=True) for v in (values, stretched)]
    assert alike[0].knn == alike[1].knn
    assert alike[0].probe == alike[1].probe
    assert embedding_quality(stretched, labels).knn.mean < embedding_quality(values, labels).knn.mean


def test_groups_are_never_on_both_sides_of_a_split():
    donors = np.repeat([f"donor{i}" for i in range(6)], 30)
    labels = np.where(np.isin(donors, ["donor0", "donor1", "donor2"]), "sick", "well")
    only_the_donor = np.eye(6)[np.repeat(np.arange(6), 30)] + 0.01 * np.random.default_rng(0).normal(size=(180, 6))
    assert embedding_quality(only_the_donor, labels).knn.mean == 1.0
    grouped = embedding_quality(only_the_donor, labels, groups=donors, folds=6)
    assert grouped.knn.mean < 0.6
    assert grouped.n_groups == grouped.folds == 6


def test_groups_widen_the_interval(overlapping):
    values, labels = overlapping
    groups = np.tile(np.arange(8), 25)
    plain, grouped = embedding_quality(values, labels), embedding_quality(values, labels, groups=groups)
    assert grouped.knn.low <= grouped.knn.mean <= grouped.knn.high
    assert plain.n_groups is None
    assert grouped == embedding_quality(values, labels, groups=groups)


def test_intervals_are_wilsons():
    found = _accuracy(np.repeat([True, False], [8, 2]), None, 0)
    assert (found.mean, found.low, found.high) == pytest.approx((0.8, 0.4902, 0.9433), abs=1e-4)
    assert str(found) == "0.800 (0.490-0.943)"


def test_figures_are_json():
    rng = np.random.default_rng(0)
    found = embedding_quality(rng.normal(size=(40, 3)), np.tile(["a", "b"], 20)).to_dict()
    assert set(found["knn"]) == {"mean", "low", "high"}


def test_bad_input_is_refused(overlapping):
    values, labels = overlapping
    with pytest.raises(OptionError, match="200 rows for 199 labels"):
        embedding_quality(values, labels[1:])
    with pytest.raises(OptionError, match="1 axes"):
        embedding_quality(values[:, 0], labels)
    with pytest.raises(OptionError, match="At least two different labels"):
        embedding_quality(values[:60], labels[:60])
    with pytest.raises(OutOfRangeError, match="50 folds, but label 'NK' has 40 cells"):
        embedding_quality(values, labels, folds=50)
    with pytest.raises(UnknownChoiceError, match="metric"):
        embedding_quality(values, labels, metric="cosin")
    with pytest.raises(OptionError, match="At least two groups"):
        embedding_quality(values, labels, groups=["one"] * 200)
    with pytest.raises(OptionError, match="one label only"):
        embedding_quality(values[:100], labels[:100], groups=labels[:100])
    values[7, 1] = np.nan
    with pytest.raises(NonFiniteValuesError, match="first in row 7"):
        embedding_quality(values, labels)


@pytest.mark.slow
def test_components_are_those_of_the_scaled_log_counts():
    rng = np.random.default_rng(0)
    counts = sparse.csr_matrix(rng.poisson(rng.gamma(1.0, 2.0, size=60) + 0.5, size=(80, 60)).astype(np.uint16))
    before = counts.copy()
    found = pca_embedding(counts, n_components=5)
    dense = counts.toarray().astype(float)
    logged = np.log1p(dense / dense.sum(axis=1, keepdims=True) * 1e4)
    scaled = np.clip((logged - logged.mean(axis=0)) / logged.std(axis=0, ddof=1), -10, 10)
    u, s, _ = np.linalg.svd(scaled - scaled.mean(axis=0), full_matrices=False)
    np.testing.assert_allclose(np.abs(found), np.abs(u[:, :5] * s[:5]), rtol=1e-2, atol=1e-2)
    assert (counts != before).nnz == 0
    np.testing.assert_array_equal(found, pca_embedding(counts, n_components=5))
    with pytest.raises(OutOfRangeError, match="2 cells"):
        pca_embedding(counts[:2])
