"""Values and ranks of genes, genes taken out, usual values and additive effects, against plain loops."""

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from geneformer import keys
from geneformer.errors import DatasetError
from geneformer.finetuning.expression_decoder import (
    PRIOR,
    AdditiveModel,
    UsualValues,
    cell_effects,
    check_counts,
    hidden_chunks,
    hide_genes,
)
from geneformer.tokens.dataset import Packed, TokenizedDataset

SPECIAL = np.array([0, 1, 2, 3])
SIZE = 40


def dataset(cells):
    """A dataset of (token ids, counts)."""
    ids = pa.array([np.asarray(tokens, dtype=np.int32) for tokens, _ in cells], pa.large_list(pa.int32()))
    counts = pa.array([np.asarray(counts, dtype=np.float64) for _, counts in cells], pa.large_list(pa.float64()))
    return TokenizedDataset(pa.table({keys.INPUT_IDS: ids, keys.COUNTS: counts}))


@st.composite
def cells(draw, least=0):
    n = draw(st.integers(1, 5))
    made = []
    for _ in range(n):
        genes = draw(st.lists(st.integers(4, SIZE - 1), unique=True, min_size=least, max_size=20))
        counts = draw(st.lists(st.floats(0.1, 1e4), min_size=len(genes), max_size=len(genes)))
        special = draw(st.booleans())
        made.append(([2, *genes, 3], [0, *counts, 0]) if special else (genes, counts))
    return made


def packed(made):
    lengths = [len(tokens) for tokens, _ in made]
    return Packed(
        np.concatenate([np.asarray(t, dtype=np.int32) for t, _ in made]),
        np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64),
        np.concatenate([np.asarray(c, dtype=np.float64) for _, c in made]),
    )


@settings(max_examples=60)
@given(made=cells(), share=st.sampled_from([0.0, 0.15, 0.9]), seed=st.integers(0, 5))
def test_hiding_against_a_plain_loop(made, share, seed):
    visible, found = hide_genes(packed(made), SPECIAL, share, [(seed, i) for i in range(len(made))])
    pair = 0
    for cell, (tokens, counts) in enumerate(made):
        genes = [(t, c) for t, c in zip(tokens, counts, strict=True) if t not in SPECIAL]
        gone = set()
        for place, (token, count) in enumerate(genes):
            assert (found.cells[pair], found.genes[pair]) == (cell, token)
            np.testing.assert_allclose(found.values[pair], [np.log1p(count), (place + 0.5) / len(genes)], rtol=1e-6)
            if found.removed[pair]:
                gone.add(token)
            pair += 1
        left = visible.input_ids[visible.cu_seqlens[cell] : visible.cu_seqlens[cell + 1]].tolist()
        assert left == [t for t in tokens if t not in gone]
        if share and len(genes) > 1:
            assert 0 < len(gone) < len(genes)
        if not share or len(genes) < 2:
            assert not gone
    assert pair == len(found.genes)


@settings(max_examples=20)
@given(made=cells())
def test_which_genes_go_depends_on_the_cell_alone(made):
    seeds = [(7, i) for i in range(len(made))]
    _, together = hide_genes(packed(made), SPECIAL, 0.3, seeds)
    for cell, seed in enumerate(seeds):
        _, alone = hide_genes(packed(made[cell : cell + 1]), SPECIAL, 0.3, [seed])
        np.testing.assert_array_equal(alone.removed, together.removed[together.cells == cell])


def test_the_share_taken_out_is_the_one_asked_for():
    made = [(list(range(4, 40)), [1.0] * 36)] * 300
    _, found = hide_genes(packed(made), SPECIAL, 0.15, [(0, i) for i in range(300)])
    assert found.removed.mean() == pytest.approx(0.15, abs=0.015)
    _, again = hide_genes(packed(made), SPECIAL, 0.15, [(1, i) for i in range(300)])
    assert (found.removed != again.removed).any()


@settings(max_examples=30)
@given(made=cells(least=1))
def test_usual_values_against_a_plain_loop(made):
    tokens = dataset(made)
    usual = UsualValues.fit(tokens, np.arange(len(tokens)), SPECIAL, SIZE, max_length=100)
    by_gene, every = {}, []
    for cell_tokens, counts in made:
        genes = [(t, c) for t, c in zip(cell_tokens, counts, strict=True) if t not in SPECIAL]
        for place, (token, count) in enumerate(genes):
            pair = (float(np.float32(np.log1p(count))), float(np.float32((place + 0.5) / len(genes))))
            by_gene.setdefault(token, []).append(pair)
            every.append((token, pair))
    overall = np.mean([pair for _, pair in every], axis=0)
    for token in range(SIZE):
        seen = np.array(by_gene.get(token, np.empty((0, 2))))
        expected = (seen.sum(axis=0) + PRIOR * overall) / (len(seen) + PRIOR)
        np.testing.assert_allclose(usual.by_token[token], expected, rtol=1e-9)
    around = np.mean([(np.array(pair) - usual.by_token[token]) ** 2 for token, pair in every], axis=0)
    np.testing.assert_allclose(usual.spread[around > 1e-6], np.sqrt(around[around > 1e-6]), rtol=1e-6)


def additive_cells(rng, n_cells=60, noise=0.0):
    """Cells whose log values are an effect of the gene plus one of the cell."""
    gene, cell = rng.normal(2, 0.7, SIZE), rng.normal(0, 0.5, n_cells)
    made = []
    for own in cell:
        genes = rng.permutation(np.arange(4, SIZE))[:25]
        values = gene[genes] + own + noise * rng.normal(size=25)
        order = np.argsort(-values)
        made.append((genes[order].tolist(), np.expm1(np.maximum(values[order], 0.01)).tolist()))
    return made


def test_the_additive_model_finds_additive_effects():
    tokens = dataset(additive_cells(np.random.default_rng(0)))
    train, test = np.arange(45), np.arange(45, 60)
    shared = {"special": SPECIAL, "max_length": 100}
    usual = UsualValues.fit(tokens, train, size=SIZE, **shared)
    additive = AdditiveModel.fit(tokens, train, usual=usual, **shared)
    errors = {"additive": [], "usual": []}
    for some, _, found in hidden_chunks(tokens, test, SPECIAL, 0.2, max_length=100, seed=3):
        truth = found.values[found.removed, 0]
        errors["additive"].extend(additive.predict(found, len(some))[found.removed, 0] - truth)
        errors["usual"].extend(usual.by_token[found.genes][found.removed, 0] - truth)
    mse = {name: np.mean(np.square(values)) for name, values in errors.items()}
    assert mse["additive"] < 0.15 * mse["usual"]


def test_effects_of_cells_look_at_visible_genes_only():
    made = packed(additive_cells(np.random.default_rng(1), n_cells=4))
    _, found = hide_genes(made, SPECIAL, 0.3, [(0, i) for i in range(4)])
    effects = np.zeros((SIZE, 2))
    before = cell_effects(found, effects, 4)
    expected = [found.values[(found.cells == cell) & ~found.removed].mean(axis=0) for cell in range(4)]
    np.testing.assert_allclose(before, expected, rtol=1e-6)
    found.values[found.removed] += 100
    np.testing.assert_array_equal(cell_effects(found, effects, 4), before)


def test_tokens_without_counts_are_refused():
    lists = pa.array([[4, 5]], pa.large_list(pa.int32()))
    with pytest.raises(DatasetError, match="counts"):
        check_counts(TokenizedDataset(pa.table({keys.INPUT_IDS: lists})))
