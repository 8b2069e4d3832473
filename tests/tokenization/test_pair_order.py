"""Ranking by learnt keys against the definition: exact ties, counts beyond what is in order, and no way to tell."""

import numpy as np
import pytest
import scipy.sparse as sp
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from geneformer.tokenization import ranking as growing_order
from geneformer.tokenization import ranking as pair_order
from geneformer.tokenization.ranking import CellRows, GrowingOrder, PairOrder, Ranker
from tokenization.conftest import IDS, N_GENES, make_vocabulary, slow_tokens

IDENTITY = np.arange(N_GENES, dtype=np.int32)
COUNTS = hnp.arrays(
    np.int64,
    st.tuples(st.integers(1, 6), st.just(N_GENES)),
    elements=st.one_of(st.just(0), st.integers(1, 4), st.integers(0, 300)),
)


def with_medians(medians):
    vocabulary = make_vocabulary()
    object.__setattr__(vocabulary, "medians", np.asarray(medians, dtype=np.float64))
    return vocabulary


TOY = make_vocabulary()
TIED = with_medians(np.array([1.0, 2.0, 4.0, 3.0])[np.arange(N_GENES) % 4])


@pytest.fixture
def learning(monkeypatch):
    """Whatever was ranked by value once is put in order at once."""
    monkeypatch.setattr(growing_order, "_LEAST_COUNT", 1)


def rows_of(dense, dtype=np.float32):
    matrix = sp.csr_matrix(dense.astype(dtype))
    return CellRows(matrix.indptr, matrix.indices, matrix.data)


@pytest.mark.parametrize("vocabulary", [TOY, TIED], ids=["toy", "tied"])
@given(first=COUNTS, second=COUNTS, dtype=st.sampled_from([np.float32, np.int64, np.uint16]))
@settings(max_examples=40, deadline=None)
def test_learning_does_not_show(vocabulary, first, second, dtype):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(growing_order, "_LEAST_COUNT", 1)
        ranker = Ranker(IDENTITY, vocabulary, max_length=2048)
        for dense in (first, second, first * 7, second):
            totals = np.maximum(dense.sum(axis=1), 1).astype(float)
            ranked = ranker.rank(rows_of(dense % 2**15, dtype), totals)
            for cell, (ids, scaled) in enumerate(slow_tokens(dense % 2**15, IDS, vocabulary, 2048)):
                span = slice(ranked.offsets[cell], ranked.offsets[cell + 1])
                assert ranked.input_ids[span].tolist() == ids
                np.testing.assert_allclose(ranked.counts[span], scaled, rtol=1e-12)


@pytest.mark.usefixtures("learning")
def test_it_is_learnt():
    order = GrowingOrder(IDENTITY, TOY.medians)
    order.note(IDENTITY[:30], np.full(30, 5, dtype=np.int32))
    assert order.pairs is None
    order.note(IDENTITY[:30], np.full(30, 6, dtype=np.int32))
    assert order.pairs is not None
    known = order.pairs
    order.note(IDENTITY[:1], np.array([50], dtype=np.int32))
    assert order.pairs is known


@pytest.mark.usefixtures("learning")
def test_counts_too_large_to_be_put_in_order_are_left_alone(monkeypatch):
    monkeypatch.setattr(growing_order, "_MOST_PAIRS", 1000)
    order = GrowingOrder(IDENTITY, TOY.medians)
    for count in (2000, 5, 5):
        order.note(IDENTITY, np.full(N_GENES, count, dtype=np.int32))
    assert order.pairs is None


def test_no_room_between_two_neighbors_is_told():
    order = PairOrder(IDENTITY, TOY.medians, np.full(N_GENES, 3))
    larger = np.arange(4, 200, dtype=np.int32)
    columns = np.zeros(len(larger), dtype=np.intp)
    assert order.keys(columns, larger) is not None
    order._bits = np.uint32(5)
    assert order.keys(columns, larger) is None


def test_a_neighbor_of_equal_value_keeps_vocabulary_order():
    order = PairOrder(IDENTITY, np.full(N_GENES, 2.0), np.where(IDENTITY == 20, 9, 1))
    columns, counts = np.array([30, 20, 10, 30]), np.array([7, 7, 7, 8], dtype=np.int32)
    placed = order.keys(columns, counts)
    genes, found = order.entries(placed, np.sort(placed.keys), with_counts=True)
    assert (genes.tolist(), found.tolist()) == ([30, 10, 20, 30], [8, 7, 7, 7])


def test_columns_of_no_gene_and_zeros_stand_for_nothing():
    positions = np.array([-1, 3, 4], dtype=np.int32)
    order = PairOrder(positions, TOY.medians, np.where(np.isin(IDENTITY, [3, 4]), 2, 0))
    placed = order.keys(np.array([0, 1, 2, 2]), np.array([9, 0, 1, 5], dtype=np.int32))
    assert pair_order.expressed(placed.keys).tolist() == [False, False, True, True]
