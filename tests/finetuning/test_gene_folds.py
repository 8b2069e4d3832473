"""Folds and parts of genes: every gene held out once, classes evenly spread, always something to learn from."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from geneformer.errors import GeneListError, OutOfRangeError
from geneformer.finetuning.splits import draw_gene_folds, split_genes


@st.composite
def problems(draw):
    """Codes of at least `n_folds` genes per class."""
    n_folds = draw(st.integers(2, 6))
    sizes = draw(st.lists(st.integers(n_folds, 20), min_size=2, max_size=4))
    codes = np.repeat(np.arange(len(sizes)), sizes)
    return np.random.default_rng(draw(st.integers(0, 99))).permutation(codes), n_folds


@given(problems(), st.sampled_from([0.0, 0.1, 0.5, 0.95]), st.integers(0, 5))
def test_every_gene_is_held_out_once(problem, valid, seed):
    codes, n_folds = problem
    folds = draw_gene_folds(codes, n_folds, valid=valid, seed=seed)
    assert sorted(np.concatenate([fold.test for fold in folds])) == list(range(len(codes)))
    for fold in folds:
        assert sorted(np.concatenate([fold.train, fold.valid, fold.test])) == list(range(len(codes)))
        assert fold.known.tolist() == sorted([*fold.train, *fold.valid])
        assert set(codes[fold.train]) == set(codes)
        n_free = len(fold.known) - len(set(codes))
        assert len(fold.valid) == min(round(valid * len(fold.known)), n_free)
    held_out = np.array([np.bincount(codes[fold.test], minlength=codes.max() + 1) for fold in folds])
    assert (np.ptp(held_out, axis=0) <= 1).all()
    assert np.ptp(held_out.sum(axis=1)) <= 1


def test_the_seed_decides():
    codes = np.arange(60) % 2
    parts = [[fold.test.tolist() for fold in draw_gene_folds(codes, 5, seed=seed)] for seed in (0, 0, 1)]
    assert parts[0] == parts[1] != parts[2]
    assert split_genes(codes, test=0.2, seed=3).test.tolist() == split_genes(codes, test=0.2, seed=3).test.tolist()


def test_a_class_with_fewer_genes_than_folds_is_refused():
    with pytest.raises(GeneListError, match=r"Too few genes .* for 5 folds: 'rare' 3.*pass n_folds=3"):
        draw_gene_folds([0] * 9 + [1] * 3, 5, classes=("common", "rare"))
    with pytest.raises(GeneListError, match=r"'1' 1. Every fold .* give more genes\.$"):
        draw_gene_folds([0] * 9 + [1], 2)
    with pytest.raises(OutOfRangeError, match="n_folds=1"):
        draw_gene_folds([0, 1, 0, 1], 1)


@given(problems(), st.sampled_from([0.0, 0.1, 0.3]), st.sampled_from([0.0, 0.2, 0.4]))
def test_shares_are_of_all_genes(problem, valid, test):
    codes, _ = problem
    n, n_classes = len(codes), len(set(codes))
    if test and not 0 < round(test * n) <= n - n_classes:
        with pytest.raises(GeneListError, match="at least one gene"):
            split_genes(codes, valid=valid, test=test)
        return
    parts = split_genes(codes, valid=valid, test=test)
    assert sorted(np.concatenate([parts.train, parts.valid, parts.test])) == list(range(n))
    assert len(parts.test) == round(test * n)
    assert len(parts.valid) in (
        round(valid * n),
        round(valid * n) - 1,
        round(valid * n) + 1,
        len(parts.known) - n_classes,
    )
    assert set(codes[parts.train]) == set(codes)


def test_two_genes_are_both_learnt_from():
    parts = split_genes([0, 1], valid=0.5)
    assert parts.train.tolist() == [0, 1]
    assert not len(parts.valid)
    with pytest.raises(GeneListError, match="one of each class must be left"):
        split_genes([0, 1], test=0.5)
