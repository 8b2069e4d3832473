"""The kernel against the definition written out gene by gene, and what must not change an order."""

import numpy as np
import pytest
import scipy.sparse as sp
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from geneformer.tokenization import ranking
from geneformer.tokenization.ranking import CellRows, Ranker
from tokenization.conftest import IDS, N_GENES, make_vocabulary, slow_tokens

TOY, FRAMED = make_vocabulary(), make_vocabulary(framed=True, input_size=4096)
COUNTS = hnp.arrays(
    np.int64,
    st.tuples(st.integers(1, 6), st.just(N_GENES)),
    elements=st.one_of(st.just(0), st.integers(0, 9), st.integers(0, 10**6)),
)
IDENTITY = np.arange(N_GENES, dtype=np.int32)


def rows_of(dense, dtype=None):
    matrix = sp.csr_matrix(dense if dtype is None else dense.astype(dtype))
    return CellRows(matrix.indptr, matrix.indices, matrix.data)


def rank(rows, vocabulary=TOY, positions=IDENTITY, max_length=2048, totals=None):
    return Ranker(positions, vocabulary, max_length=max_length).rank(rows, totals)


def tokens(dense, **more):
    ranked = rank(rows_of(dense), **more)
    return [part.tolist() for part in np.split(ranked.input_ids, ranked.offsets[1:-1])]


def with_medians(medians):
    vocabulary = make_vocabulary()
    object.__setattr__(vocabulary, "medians", np.asarray(medians, dtype=np.float64))
    return vocabulary


TIED = with_medians(np.array([1.0, 2.0, 4.0, 3.0])[np.arange(N_GENES) % 4])


@pytest.mark.parametrize("vocabulary", [TOY, TIED], ids=["toy", "tied"])
@given(COUNTS, st.sampled_from([3, 7, 2048]), st.sampled_from([np.float32, np.int64, np.uint16]))
@settings(max_examples=60)
def test_it_is_the_definition(vocabulary, dense, max_length, dtype):
    dense = dense % 2**15 if dtype is np.uint16 else dense
    totals = np.maximum(dense.sum(axis=1), 1).astype(float)
    ranked = rank(rows_of(dense, dtype), vocabulary, max_length=max_length, totals=totals)
    for cell, (ids, scaled) in enumerate(slow_tokens(dense, IDS, vocabulary, max_length)):
        span = slice(ranked.offsets[cell], ranked.offsets[cell + 1])
        assert ranked.input_ids[span].tolist() == ids
        np.testing.assert_allclose(ranked.counts[span], scaled, rtol=1e-12)


@given(COUNTS)
@settings(max_examples=30)
def test_special_tokens_frame_cells_and_take_room(dense):
    ranked = rank(rows_of(dense), FRAMED, max_length=9, totals=np.ones(len(dense)))
    for cell, (ids, _) in enumerate(slow_tokens(dense, IDS, FRAMED, 7)):
        span = slice(ranked.offsets[cell], ranked.offsets[cell + 1])
        assert ranked.input_ids[span].tolist() == ([2, *ids, 3] if ids else [])
        assert [ranked.counts[span][0], ranked.counts[span][-1]] == [0, 0] if ids else True


@given(COUNTS, st.sampled_from([2, 3, 10, 64]))
@settings(max_examples=30)
def test_scaling_a_cell_changes_nothing(dense, factor):
    assert tokens(dense) == tokens(dense * factor)


@given(COUNTS, st.randoms(use_true_random=False))
@settings(max_examples=30)
def test_permuting_genes_changes_nothing(dense, random):
    order = list(range(N_GENES))
    random.shuffle(order)
    assert tokens(dense[:, order], positions=IDENTITY[order]) == tokens(dense)


@given(COUNTS, st.randoms(use_true_random=False))
@settings(max_examples=20)
def test_permuting_cells_permutes_rows(dense, random):
    order = list(range(len(dense)))
    random.shuffle(order)
    whole = tokens(dense)
    assert tokens(dense[order]) == [whole[cell] for cell in order]


@given(COUNTS, st.integers(0, N_GENES - 1), st.data())
@settings(max_examples=30)
def test_a_gene_in_two_columns_is_summed(dense, gene, data):
    part = np.array([data.draw(st.integers(0, int(count))) for count in dense[:, gene]])
    split = np.column_stack([dense, part])
    split[:, gene] -= part
    assert tokens(split, positions=np.append(IDENTITY, np.int32(gene))) == tokens(dense)


@given(COUNTS, st.integers(1, 200))
@settings(max_examples=20)
def test_blocks_do_not_show(dense, entries):
    whole = tokens(dense)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ranking, "_BLOCK_ENTRIES", entries)
        assert tokens(dense) == whole


def test_values_that_differ_in_their_last_bits_are_ordered_exactly():
    close = np.full(N_GENES, 3.0)
    close[1:20] = np.nextafter(3.0, 0)
    close[20] = 3e-9
    vocabulary = with_medians(close)
    dense = np.ones((2, N_GENES), dtype=np.int64)
    dense[1, 20] = 10**9
    expected = slow_tokens(dense, IDS, vocabulary, 2048)
    assert tokens(dense, vocabulary=vocabulary) == [ids for ids, _ in expected]


def test_unsorted_and_repeated_and_zero_entries_are_one_matrix():
    rows = CellRows(
        np.array([0, 5, 5, 7]), np.array([3, 1, 3, 0, 2], dtype=np.int32), np.array([1, 4, 2, 0, 5], dtype=np.uint8)
    )
    rows = CellRows(rows.indptr, np.append(rows.indices, [7, 7]), np.append(rows.data, [200, 100]).astype(np.uint8))
    dense = np.zeros((3, N_GENES), dtype=np.int64)
    dense[0, [1, 2, 3]], dense[2, 7] = [4, 5, 3], 300
    ranked = rank(rows)
    assert [part.tolist() for part in np.split(ranked.input_ids, ranked.offsets[1:-1])] == tokens(dense)
    assert ranked.n_genes.tolist() == [3, 0, 1]


@given(st.lists(st.lists(st.tuples(st.integers(0, 11), st.integers(0, 9)), max_size=9), min_size=1, max_size=8))
@settings(max_examples=80)
def test_columns_listed_twice_in_a_cell_and_genes_in_several_columns_are_summed(cells):
    positions = np.array([4, -1, 4, 2, 0, 1, 3, 5, 6, 2, 7, -1], dtype=np.int32)
    columns = np.array([column for cell in cells for column, _ in cell], dtype=np.int32)
    counts = np.array([count for cell in cells for _, count in cell], dtype=np.uint8)
    before = counts.copy()
    dense = np.zeros((len(cells), N_GENES), dtype=np.int64)
    for number, cell in enumerate(cells):
        for column, count in cell:
            if positions[column] >= 0:
                dense[number, positions[column]] += count
    ranked = rank(CellRows(np.cumsum([0, *map(len, cells)]), columns, counts), positions=positions)
    assert [part.tolist() for part in np.split(ranked.input_ids, ranked.offsets[1:-1])] == tokens(dense)
    assert np.array_equal(counts, before)


def test_columns_outside_the_vocabulary_count_for_nothing():
    dense = np.array([[5, 3, 2, 1]])
    positions = np.array([-1, 4, -1, 2], dtype=np.int32)
    only = np.zeros((1, N_GENES), dtype=np.int64)
    only[0, [4, 2]] = 3, 1
    assert tokens(dense, positions=positions) == tokens(only)


def test_no_cells_give_no_tokens():
    ranked = rank(CellRows(np.zeros(1, int), np.empty(0, int), np.empty(0)), max_length=5)
    assert (ranked.offsets.tolist(), len(ranked.input_ids)) == ([0], 0)
