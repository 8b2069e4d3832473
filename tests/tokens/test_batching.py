"""Every cell is in one batch, batches keep to their budget, and the same seed gives the same epoch."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from geneformer.tokens.dataset import CELL, budget_of_cells, plan_batches, plan_epoch

LENGTHS = st.lists(st.integers(0, 300), max_size=200)
SOME_LENGTHS = st.lists(st.integers(1, 300), min_size=1, max_size=200)


def rows_of(batches):
    return np.concatenate([np.empty(0, np.int64), *batches]).tolist()


@given(lengths=LENGTHS, budget=st.integers(1, 2000))
def test_every_row_is_planned_once_within_the_budget(lengths, budget):
    batches = plan_batches(lengths, budget)
    assert sorted(rows_of(batches)) == list(range(len(lengths)))
    for rows in batches:
        assert len(rows) == 1 or sum(lengths[row] for row in rows) <= budget


@given(lengths=LENGTHS, budget=st.integers(1, 2000))
def test_the_longest_cells_come_first_and_equal_ones_in_order(lengths, budget):
    planned = rows_of(plan_batches(lengths, budget))
    assert planned == sorted(range(len(lengths)), key=lambda row: (-lengths[row], row))


@given(lengths=SOME_LENGTHS, budget=st.integers(300, 2000))
def test_no_two_neighbouring_batches_would_fit_into_one(lengths, budget):
    totals = [sum(lengths[row] for row in rows) for rows in plan_batches(lengths, budget)]
    firsts = [lengths[rows[0]] for rows in plan_batches(lengths, budget)]
    assert all(total + first > budget for total, first in zip(totals, firsts[1:], strict=False))


@given(lengths=LENGTHS, tokens=st.integers(1, 2000), seed=st.integers(0, 9), multiple=st.integers(1, 8))
def test_an_epoch_has_every_row_once_and_no_empty_batch(lengths, tokens, seed, multiple):
    batches = plan_epoch(lengths, tokens, (seed, 0), multiple=multiple)
    assert sorted(rows_of(batches)) == list(range(len(lengths)))
    assert all(len(rows) for rows in batches)
    assert len(batches) % multiple == 0 or len(batches) == len(lengths)


@given(lengths=SOME_LENGTHS, tokens=st.integers(1, 2000), multiple=st.integers(1, 8))
def test_epochs_have_equally_many_batches(lengths, tokens, multiple):
    counts = {len(plan_epoch(lengths, tokens, (0, epoch), multiple=multiple)) for epoch in range(4)}
    assert len(counts) == 1


@given(lengths=SOME_LENGTHS, tokens=st.integers(1, 2000), data=st.data())
def test_groups_never_mix(lengths, tokens, data):
    group = st.sampled_from(["a", "b", "c"])
    groups = np.array(data.draw(st.lists(group, min_size=len(lengths), max_size=len(lengths))))
    batches = plan_epoch(lengths, tokens, (0,), groups=groups)
    assert sorted(rows_of(batches)) == list(range(len(lengths)))
    assert all(len(set(groups[rows])) == 1 for rows in batches)


def test_an_epoch_depends_on_its_seed_only():
    lengths = np.random.default_rng(0).integers(10, 300, 500)

    def plan(*seed):
        return [rows.tolist() for rows in plan_epoch(lengths, 2000, seed)]

    assert plan(0, 1) == plan(0, 1)
    assert plan(0, 1) != plan(0, 2)
    assert plan(0, 1) != plan(1, 1)


def test_training_batches_have_about_the_tokens_aimed_at_and_cells_of_similar_length():
    lengths = np.random.default_rng(0).integers(10, 300, 5000)
    batches = plan_epoch(lengths, 4000, (0, 0))
    totals = np.array([lengths[rows].sum() for rows in batches])
    assert abs(totals - 4000).max() < 400
    within = np.mean([lengths[rows].std() for rows in batches])
    assert within < 0.1 * lengths.std()


def test_batches_of_an_epoch_are_not_in_order_of_length():
    lengths = np.arange(1, 2001)
    means = [lengths[rows].mean() for rows in plan_epoch(lengths, 20_000, (3,))]
    assert abs(np.corrcoef(np.arange(len(means)), means)[0, 1]) < 0.4


@given(n_cells=st.integers(1, 3000), most=st.integers(1, 70), epoch=st.integers(0, 3))
def test_batches_of_counted_cells_are_as_few_as_can_be_and_about_equally_large(n_cells, most, epoch):
    lengths = np.full(n_cells, CELL)
    budget = budget_of_cells(n_cells, most)
    sizes = [len(rows) for rows in plan_epoch(lengths, budget, (0, epoch))]
    assert len(sizes) == -(-n_cells // most)
    assert sum(sizes) == n_cells
    assert max(sizes) <= most + 1 + most // 30
    assert max(len(rows) for rows in plan_batches(lengths, budget)) <= most
