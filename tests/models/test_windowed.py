"""Windows against every pair written out, alone and with relative positions; and how their work grows."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.testing import assert_close

from geneformer.models import attention as module
from geneformer.models import attention as recomputed
from geneformer.models.attention import eager, windowed
from models.written_out_attention import LENGTHS, random_inputs, with_gradients, written_out


@settings(max_examples=40)
@given(
    lengths=LENGTHS,
    window=st.integers(1, 12),
    clip=st.integers(0, 13),
    chunk=st.integers(1, 5),
    block=st.sampled_from([1, 200, 10_000]),
    seed=st.integers(0, 99),
)
def test_outputs_and_gradients_are_those_of_all_pairs_written_out(lengths, window, clip, chunk, block, seed):
    inputs = random_inputs(lengths, clip, seed=seed)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(recomputed, "_CPU_SCORES", block)
        patch.setattr(module, "_LEAST_CHUNK", 1)
        patch.setattr(module, "_MOST_CHUNK", chunk)
        found = with_gradients(
            lambda q, k, v, t=None: windowed(q, k, v, lengths, 0.0, window=window, table_PK=t), inputs
        )
    expected = with_gradients(lambda q, k, v, t=None: written_out(q, k, v, lengths, table=t, window=window), inputs)
    for ours, plain in zip(found, expected, strict=True):
        assert_close(ours, plain)


def test_a_window_as_wide_as_the_cells_is_none():
    lengths = [150, 3, 40]
    qkv, _, _ = random_inputs(lengths, dtype=torch.float32)
    assert_close(windowed(*qkv, lengths, 0.0, window=149), eager(*qkv, lengths, 0.0))


@pytest.mark.parametrize("clip", [0, 2])
def test_dropout_and_its_gradients_follow_the_weights_drawn(monkeypatch, clip):
    length, window, chunk = 11, 2, 4
    monkeypatch.setattr(module, "_LEAST_CHUNK", chunk)
    masks = []
    draw = recomputed.draw_kept

    def noting(weights, dropout):
        masks.append(draw(weights, dropout))
        return masks[-1]

    monkeypatch.setattr(recomputed, "draw_kept", noting)
    inputs = random_inputs([length], clip=clip)
    found = with_gradients(lambda q, k, v, t=None: windowed(q, k, v, [length], 0.4, window=window, table_PK=t), inputs)
    assert len(masks) == 2
    assert torch.equal(*masks)
    by_chunk = masks[0].unflatten(0, (-1, 2))

    def kept(cell, head, i, j):
        return float(by_chunk[i // chunk, head, i % chunk, j - i + i % chunk + window]) / 0.6

    expected = with_gradients(
        lambda q, k, v, t=None: written_out(q, k, v, [length], table=t, window=window, kept=kept), inputs
    )
    for ours, plain in zip(found, expected, strict=True):
        assert_close(ours, plain)


def test_scores_grow_with_the_length_not_with_its_square(monkeypatch):
    computed = []
    usual = recomputed.gather_values

    def noting(scores, value, dropout):
        computed.append(scores.numel())
        return usual(scores, value, dropout)

    monkeypatch.setattr(module, "gather_values", noting)
    work = []
    for length in (2_000, 8_000):
        qkv, _, _ = random_inputs([length], dtype=torch.float32)
        with torch.no_grad():
            windowed(*qkv, [length], 0.0, window=20)
        work.append(sum(computed))
        assert max(computed) <= 2**20
        computed.clear()
    assert work[1] == pytest.approx(4 * work[0], rel=0.02)
    assert work[1] < 8_000 * 2 * 100


def test_half_precision_stays_near_single():
    lengths = [60, 60, 31]
    qkv, table, _ = random_inputs(lengths, clip=8, heads=4, size=16, dtype=torch.float32)
    exact = windowed(*qkv, lengths, 0.0, window=9, table_PK=table)
    half = windowed(*(x.detach().bfloat16() for x in qkv), lengths, 0.0, window=9, table_PK=table)
    assert torch.nn.functional.cosine_similarity(half.float().flatten(1), exact.flatten(1)).min() > 0.999
