"""Baselines against plain calculations, and that nothing of the test cells reaches them."""

import os
import subprocess
import sys
import warnings

import anndata as ad
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import sparse
from sklearn.linear_model import LogisticRegression, Ridge

from geneformer.errors import NoCellsError, OptionError
from geneformer.finetuning import baselines
from geneformer.finetuning.baselines import (
    LIBRARY,
    LOGISTIC,
    MAJORITY,
    MEAN,
    RIDGE,
    classify_by_baselines,
    draw_parts,
    log_normalized,
    majority,
    regress_by_baselines,
    train_and_test,
    variable_genes,
)


@pytest.fixture
def cells():
    """Three kinds of cells by 200 genes; kinds raise ten genes each."""
    rng = np.random.default_rng(0)
    codes = rng.integers(3, size=300)
    rates = rng.gamma(0.5, 1.0, size=200) * np.ones((300, 1))
    for kind in range(3):
        rates[np.ix_(codes == kind, np.arange(10 * kind, 10 * kind + 10))] += 1.5
    counts = rng.poisson(rates * rng.gamma(3.0, 0.4, size=(300, 1)))
    return sparse.csr_matrix(counts), codes


def logistic_regression(train_counts, codes, test_counts, n_classes, **options):
    return classify_by_baselines(train_counts, codes, test_counts, n_classes=n_classes, **options)[LOGISTIC]


def test_counts_are_scaled_and_logged(cells):
    counts = sparse.csr_matrix(cells[0][:50].toarray() * (np.arange(50) != 3)[:, None])
    before = counts.copy()
    dense = counts.toarray().astype(float)
    expected = np.log1p(dense / np.maximum(dense.sum(axis=1, keepdims=True), 1) * 1e4)
    for form in (counts, sparse.csr_array(counts), dense, counts.astype(np.uint16)):
        np.testing.assert_allclose(log_normalized(form).toarray(), expected, rtol=1e-6)
    assert (counts != before).nnz == 0


@pytest.mark.parametrize("n_top_genes", [5, 40, 150])
def test_variable_genes_are_those_of_scanpy(cells, n_top_genes):
    sc = pytest.importorskip("scanpy")
    logged = log_normalized(cells[0])
    expressed = np.flatnonzero(logged.toarray().any(axis=0))  # scanpy lets genes without counts move its bins
    adata = ad.AnnData(sparse.csr_matrix(logged[:, expressed]))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        sc.pp.highly_variable_genes(adata, n_top_genes=n_top_genes)
    chosen = expressed[adata.var["highly_variable"]]
    np.testing.assert_array_equal(variable_genes(logged, n_top_genes), chosen)


def test_genes_that_never_vary_are_never_chosen():
    counts = np.array([[5, 0, 5, 0], [5, 0, 1, 4], [5, 0, 4, 1]])
    assert variable_genes(log_normalized(counts), 10).tolist() == [2, 3]
    with pytest.raises(NoCellsError, match="No gene differs among the 2"):
        train_and_test(np.ones((2, 2)), np.ones((1, 2)), 10)


def test_features_are_standardized_by_the_training_cells(cells):
    counts = cells[0][:200], cells[0][200:]
    train, test = (log_normalized(part) for part in counts)
    genes = variable_genes(train, 30)
    fitted = train.toarray()[:, genes]
    for logged, features in zip((train, test), train_and_test(*counts, 30), strict=True):
        expected = np.clip((logged.toarray()[:, genes] - fitted.mean(axis=0)) / fitted.std(axis=0), -10, 10)
        np.testing.assert_allclose(features, expected, rtol=1e-3, atol=1e-4)


@given(st.integers(1, 60), st.integers(1, 12), st.integers(0, 3))
def test_parts_keep_groups_whole_and_are_about_equal(n, n_groups, seed):
    groups = np.random.default_rng(seed).integers(n_groups, size=n)
    parts = draw_parts(n, groups, seed)
    if len(set(groups)) > 1:
        assert all(len(set(parts[groups == group])) == 1 for group in set(groups))
        assert len(set(parts)) == min(3, len(set(groups)))
    alone = draw_parts(n, None, seed)
    assert np.ptp(np.bincount(alone, minlength=3)) <= 1
    np.testing.assert_array_equal(alone, draw_parts(n, None, seed))


def test_of_many_cells_a_sample_takes_part(monkeypatch):
    monkeypatch.setattr(baselines, "CELLS_TO_CHOOSE", 10)
    parts = draw_parts(40, None, 0)
    assert (parts == -1).sum() == 30
    with pytest.raises(OptionError, match=r"groups has the shape \(3,\) for 40 cells"):
        draw_parts(40, ["a", "b", "c"], 0)


def test_the_majority_is_the_shares_of_the_training_cells():
    np.testing.assert_allclose(majority(np.array([2, 2, 0, 2]), 3, 4), [[0.25, 0, 0.75, 0]] * 3)


def test_library_size_tells_classes_by_depth_and_only_those():
    rng = np.random.default_rng(0)
    codes = rng.integers(3, size=600)
    counts = np.zeros((600, 2))
    counts[:, 0] = np.exp(rng.normal(size=600) * 0.2 + 7 + codes)  # class 1 lies between the others
    counts[:2, 1] = 1
    proba = classify_by_baselines(counts[:400], codes[:400], counts[400:], n_classes=4)[LIBRARY]
    assert proba.shape == (200, 4)
    assert (proba[:, 3] == 0).all()
    np.testing.assert_allclose(proba.sum(axis=1), 1)
    assert (proba.argmax(axis=1) == codes[400:]).mean() > 0.95
    alike = np.column_stack([np.arange(600) % 50, 49 - np.arange(600) % 50])
    blind = classify_by_baselines(alike[:400], codes[:400], alike[400:], n_classes=3)[LIBRARY]
    np.testing.assert_allclose(blind, majority(codes[:400], 200, 3), atol=1e-3)


def test_logistic_regression_is_that_of_scikit_learn_at_the_penalty_that_held_out_cells_prefer(cells):
    counts, exact = cells
    rng = np.random.default_rng(0)
    codes = np.where(rng.random(300) < 0.2, rng.integers(3, size=300), exact)
    found = logistic_regression(counts[:200], codes[:200], counts[200:], 3, n_top_genes=50)
    train, test = train_and_test(counts[:200], counts[200:], 50)
    parts = draw_parts(200, None, 0)
    losses = {}
    for strength in baselines.PENALTIES:
        losses[strength] = 0.0
        for part in range(3):
            model = LogisticRegression(C=strength, max_iter=5000).fit(train[parts != part], codes[:200][parts != part])
            held = model.predict_proba(train[parts == part])
            losses[strength] -= np.log(held[np.arange(len(held)), codes[:200][parts == part]]).sum()
    best = min(losses, key=losses.get)
    assert baselines.PENALTIES[0] < best < baselines.PENALTIES[-1]
    expected = LogisticRegression(C=best, max_iter=5000).fit(train, codes[:200]).predict_proba(test)
    np.testing.assert_allclose(found, expected, atol=1e-3)
    assert (found.argmax(axis=1) == exact[200:]).mean() > 0.9


def test_logistic_regression_converges(cells):
    counts, codes = cells
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        logistic_regression(counts[:200], codes[:200], counts[200:], 3, n_top_genes=150)


def test_nothing_is_learnt_from_test_cells(cells):
    counts, codes = cells
    train, test = counts[:200], counts[200:]
    found = logistic_regression(train, codes[:200], test, 3, n_top_genes=50)
    np.testing.assert_allclose(
        logistic_regression(train, codes[:200], test[:1], 3, n_top_genes=50), found[:1], rtol=1e-5
    )
    assert logistic_regression(train, codes[:200], test[:0], 3, n_top_genes=50).shape == (0, 3)


def test_every_class_has_a_column_also_those_without_training_cells(cells):
    counts, codes = cells
    others = np.flatnonzero(codes[:200] != 1)
    found = logistic_regression(counts[others], codes[others], counts[200:], 5, n_top_genes=50)
    assert found.shape == (100, 5)
    assert (found[:, [1, 3, 4]] == 0).all()
    np.testing.assert_allclose(found.sum(axis=1), 1)
    one = logistic_regression(counts[:200], np.full(200, 2), counts[200:], 3, n_top_genes=50)
    np.testing.assert_array_equal(one, np.tile([0.0, 0.0, 1.0], (100, 1)))
    rare = np.where(np.arange(200) == 0, 2, 0)
    assert logistic_regression(counts[:200], rare, counts[200:], 3, n_top_genes=50).shape == (100, 3)


def test_a_penalty_is_chosen_across_groups_where_they_are_known(monkeypatch, cells):
    counts, codes = cells
    seen = {}

    tuned = baselines.tuned_logistic

    def note(train, codes, parts):
        seen["parts"] = parts
        return tuned(train, codes, parts)

    monkeypatch.setattr(baselines, "tuned_logistic", note)
    donors = np.arange(200) % 7
    logistic_regression(counts[:200], codes[:200], counts[200:], 3, groups=donors, n_top_genes=50)
    assert len(seen["parts"]) == 200
    assert all(len(set(seen["parts"][donors == donor])) == 1 for donor in range(7))


def test_counts_of_other_genes_are_refused(cells):
    counts, codes = cells
    with pytest.raises(OptionError, match="same genes in the same order"):
        classify_by_baselines(counts[:200], codes[:200], counts[200:, 1:], n_classes=3, n_top_genes=50)


def test_each_label_of_a_set_has_a_regression_of_its_own(cells):
    counts, codes = cells
    truth = np.column_stack([codes == 0, codes > 0, np.ones(300), np.zeros(300)]).astype(float)
    by_baseline = classify_by_baselines(counts[:200], truth[:200], counts[200:], n_classes=4, n_top_genes=50)
    one = logistic_regression(counts[:200], (codes[:200] == 0).astype(int), counts[200:], 2, n_top_genes=50)
    np.testing.assert_allclose(by_baseline[LOGISTIC][:, 0], one[:, 1], atol=0.02)
    assert (by_baseline[LOGISTIC][:, 2] == 1).all()
    assert (by_baseline[LOGISTIC][:, 3] == 0).all()
    np.testing.assert_allclose(by_baseline[MAJORITY], [truth[:200].mean(axis=0)] * 100)


def test_ridge_regression_is_that_of_scikit_learn_at_the_penalty_that_held_out_cells_prefer(cells):
    counts, codes = cells
    values = codes + np.random.default_rng(1).normal(size=300) * 0.3
    found = regress_by_baselines(counts[:200], values[:200], counts[200:], n_top_genes=50)
    train, test = train_and_test(counts[:200], counts[200:], 50)
    parts = draw_parts(200, None, 0)
    learnt = values[:200]
    errors = {}
    for strength in baselines.SHRINKAGES:
        errors[strength] = 0.0
        for part in range(3):
            model = Ridge(alpha=strength).fit(train[parts != part], learnt[parts != part])
            errors[strength] += ((model.predict(train[parts == part]) - learnt[parts == part]) ** 2).sum()
    best = min(errors, key=errors.get)
    expected = Ridge(alpha=best).fit(train, learnt).predict(test)
    np.testing.assert_allclose(found[RIDGE], expected, rtol=1e-3, atol=1e-3)
    assert np.corrcoef(found[RIDGE], values[200:])[0, 1] > 0.8
    np.testing.assert_allclose(found[MEAN], [learnt.mean()] * 100)


def test_the_number_of_threads_stays_what_it_was():
    code = (
        "import numpy as np, torch; from scipy import sparse\n"
        "from geneformer.finetuning.baselines import pca_embedding\n"
        "from geneformer.pl._embedding import umap_layout\n"
        "counts = sparse.csr_matrix(np.random.default_rng(0).poisson(1.0, (40, 60)))\n"
        "umap_layout(pca_embedding(counts, n_components=5, n_top_genes=20), n_neighbors=5)\n"
        "print(torch.get_num_threads())"
    )
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, env=environment)
    assert done.stdout.split()[-1] == "1"
