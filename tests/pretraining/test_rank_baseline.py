"""The baseline guesses the commonest genes at each rank, and its hits are counted as the model's are."""

from collections import Counter

import numpy as np
import pyarrow as pa
import pytest

from geneformer.pretraining.run import RankBaseline
from geneformer.tokens.dataset import Masked, TokenizedDataset


def dataset(cells):
    return TokenizedDataset(pa.table({"input_ids": pa.array(cells, pa.list_(pa.int32()))}))


@pytest.fixture
def cells():
    rng = np.random.default_rng(0)
    return [rng.permutation(np.arange(4, 60))[: rng.integers(1, 50)].tolist() for _ in range(300)]


def counts_at(cells, rank):
    return Counter(cell[rank] for cell in cells if len(cell) > rank)


def test_guesses_are_the_commonest_genes_of_each_rank(cells):
    baseline = RankBaseline.fit(dataset(cells), np.arange(300), 70)
    assert baseline.guesses.shape == (70, 10)
    for rank in range(49):
        seen = counts_at(cells, rank)
        found = [seen[gene] for gene in baseline.guesses[rank]]
        assert found == [number for _, number in (seen + Counter()).most_common(10)] + [0] * (10 - len(seen))


def test_only_the_rows_given_are_counted(cells):
    rows = np.arange(0, 300, 3)
    baseline = RankBaseline.fit(dataset(cells), rows, 8)
    seen = counts_at([cells[row] for row in rows], 0)
    assert seen[baseline.guesses[0, 0]] == max(seen.values())


def test_large_data_sets_are_sampled_with_a_seed(cells):
    fits = [RankBaseline.fit(dataset(cells), np.arange(300), 8, max_cells=50, seed=seed) for seed in (0, 0, 1)]
    assert np.array_equal(fits[0].guesses, fits[1].guesses)
    assert not np.array_equal(fits[0].guesses, fits[2].guesses)


def test_fewer_genes_than_guesses_are_no_obstacle():
    baseline = RankBaseline.fit(dataset([[4, 5], [4, 6]]), np.arange(2), 3)
    assert baseline.guesses[0, 0] == 4
    assert baseline.guesses.shape == (3, 10)


def test_special_tokens_are_never_guessed():
    cells = [[2, 5, 3], [2, 6, 3], [2, 5, 7, 3]]
    baseline = RankBaseline.fit(dataset(cells), np.arange(3), 4, special_ids=[0, 1, 2, 3], n_guesses=2)
    assert baseline.guesses[1, 0] == 5
    assert baseline.guesses[2, 0] == 7
    assert not np.isin(baseline.guesses, [0, 1, 2, 3]).any()


def test_hits_are_labels_among_the_guesses_of_their_rank():
    baseline = RankBaseline(np.array([np.arange(10, 20), np.arange(20, 30), np.arange(30, 40)]))
    # Two cells of three and two genes; masked: ranks 0, 2, 0, 1.
    batch = Masked(
        input_ids=np.ones(5, np.int64),
        cu_seqlens=np.array([0, 3, 5]),
        masked=np.array([0, 2, 3, 4]),
        labels=np.array([10, 39, 20, 20]),
    )
    assert baseline.hits(batch) == (4, 2, 3)


def test_nothing_masked_means_no_hits():
    baseline = RankBaseline(np.zeros((3, 10), np.int64))
    none = np.empty(0, np.int64)
    assert baseline.hits(Masked(np.ones(2, np.int64), np.array([0, 2]), none, none)) == (0, 0, 0)
