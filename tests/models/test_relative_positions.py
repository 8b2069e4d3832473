"""Relative positions against every pair written out; dropout; and what the encoder does with them."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.testing import assert_close

from geneformer.models import attention as recomputed
from geneformer.models.attention import relative, relative_scores
from models.written_out_attention import LENGTHS, random_inputs, with_gradients, written_out


@settings(max_examples=25)
@given(lengths=LENGTHS, clip=st.integers(1, 13), block=st.sampled_from([30, 150, 10_000]), seed=st.integers(0, 99))
def test_outputs_and_gradients_are_those_of_all_pairs_written_out(lengths, clip, block, seed):
    inputs = random_inputs(lengths, clip, seed=seed)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(recomputed, "_CPU_SCORES", block)
        patch.setattr("geneformer.models.attention._LEAST_QUERIES", 2)
        found = with_gradients(lambda q, k, v, t: relative(q, k, v, lengths, 0.0, table_PK=t), inputs)
    expected = with_gradients(lambda q, k, v, t: written_out(q, k, v, lengths, table=t), inputs)
    for ours, plain in zip(found, expected, strict=True):
        assert_close(ours, plain)


@given(n_queries=st.integers(1, 6), n_keys=st.integers(1, 9), offset=st.integers(-12, 12), clip=st.integers(1, 8))
def test_every_pair_is_scored_with_its_own_distance(n_queries, n_keys, offset, clip):
    torch.manual_seed(0)
    query, table = torch.randn(2, n_queries, 3), torch.randn(2 * clip + 1, 3)
    found = relative_scores(query, table, offset, n_keys)
    assert found.shape == (2, n_queries, n_keys)
    for i in range(n_queries):
        for j in range(n_keys):
            distance = max(-clip, min(clip, offset + j - i))
            assert_close(found[:, i, j], query[:, i] @ table[distance + clip])


@pytest.mark.parametrize("lengths", [[9], [5, 5, 3]])
def test_dropout_takes_the_same_weights_away_forward_and_backward(monkeypatch, lengths):
    monkeypatch.setattr(recomputed, "_CPU_SCORES", 10_000)
    masks = []
    draw = recomputed.draw_kept

    def noting(weights, dropout):
        masks.append(draw(weights, dropout))
        return masks[-1]

    monkeypatch.setattr(recomputed, "draw_kept", noting)
    torch.manual_seed(4)
    inputs = random_inputs(lengths, clip=2)
    found = with_gradients(lambda q, k, v, t: relative(q, k, v, lengths, 0.4, table_PK=t), inputs)
    n_blocks = len(masks) // 2
    for forward, backward in zip(masks[:n_blocks], masks[n_blocks:], strict=True):
        assert torch.equal(forward, backward)
    matrices = [matrix for mask in masks[:n_blocks] for matrix in mask]

    def kept(cell, head, i, j):
        return float(matrices[2 * cell + head][i, j]) / 0.6

    expected = with_gradients(lambda q, k, v, t: written_out(q, k, v, lengths, table=t, kept=kept), inputs)
    for ours, plain in zip(found, expected, strict=True):
        assert_close(ours, plain)


def test_dropout_has_its_probability_and_follows_the_global_seed():
    inputs, table, _ = random_inputs([40] * 10, clip=3, dtype=torch.float32)
    query, key, _ = inputs
    ones = torch.ones_like(key)

    def drawn(seed):
        torch.manual_seed(seed)
        return relative(query, key, ones, [40] * 10, 0.3, table_PK=table).detach()

    assert torch.equal(drawn(1), drawn(1))
    assert not torch.equal(drawn(1), drawn(2))
    assert_close(drawn(1).mean(), torch.tensor(1.0), atol=0.02, rtol=0)
    weights = torch.ones(100, 50, 50)
    kept = recomputed.draw_kept(weights, recomputed.Dropout(0.3, 8))
    assert set(kept.unique().tolist()) == {0.0, 1.0}
    assert_close(kept.mean(), torch.tensor(0.7), atol=0.005, rtol=0)


def test_half_precision_stays_near_single():
    lengths = [60, 60, 31]
    qkv, table, _ = random_inputs(lengths, clip=8, heads=4, size=16, dtype=torch.float32)
    exact = relative(*qkv, lengths, 0.0, table_PK=table)
    half = relative(*(x.detach().bfloat16() for x in qkv), lengths, 0.0, table_PK=table)
    assert half.dtype == torch.bfloat16
    assert torch.nn.functional.cosine_similarity(half.float().flatten(1), exact.flatten(1)).min() > 0.999


def test_mixed_precision_trains_the_table():
    lengths = [7, 4]
    qkv, table, _ = random_inputs(lengths, clip=2, dtype=torch.float32)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        relative(*(x.bfloat16() for x in qkv), lengths, 0.0, table_PK=table).float().square().sum().backward()
    assert table.grad.dtype == torch.float32
    assert bool((table.grad != 0).all())
