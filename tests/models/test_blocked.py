"""Attention in blocks: the same numbers as attention written out, with and without dropout, in both precisions."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.testing import assert_close

from geneformer.models import attention as module
from geneformer.models.attention import blocked, draw_dropped, eager

LENGTHS = st.lists(st.integers(0, 9), min_size=1, max_size=8).filter(any)


@pytest.fixture(autouse=True)
def small_blocks(monkeypatch):
    """Blocks so small that a cell of nine genes takes several, and equal cells are split over blocks."""
    monkeypatch.setattr(module, "_BLOCK", 50)
    monkeypatch.setattr(module, "_LEAST_QUERIES", 2)


def random_qkv(n_tokens, heads=2, size=4, seed=0, dtype=torch.float32):
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(n_tokens, heads, size, generator=generator).to(dtype).requires_grad_() for _ in range(3)]


def gradients(kernel, lengths, seed, dropout=0.0):
    """Outputs and gradients of a kernel for random inputs and upstream gradients."""
    qkv = random_qkv(sum(lengths), seed=seed)
    upstream = torch.randn(sum(lengths), 2, 4, generator=torch.Generator().manual_seed(seed + 1))
    context = kernel(*qkv, lengths, dropout)
    (context * upstream).sum().backward()
    return [context.detach(), *(x.grad for x in qkv)]


@settings(max_examples=40)
@given(lengths=LENGTHS, seed=st.integers(0, 1000))
def test_outputs_and_gradients_are_those_of_attention_written_out(lengths, seed):
    for found, expected in zip(gradients(blocked, lengths, seed), gradients(eager, lengths, seed), strict=True):
        assert_close(found, expected, atol=1e-5, rtol=0)


def test_strided_inputs_are_read_right():
    qkv = torch.randn(7, 3, 2, 4)
    parts = qkv.unbind(1)
    assert_close(blocked(*parts, [3, 4], 0.0), eager(*parts, [3, 4], 0.0))


def test_bfloat16_stays_near_float32():
    lengths = [40, 40, 17]
    qkv = random_qkv(sum(lengths), heads=4, size=16, dtype=torch.bfloat16)
    found = blocked(*qkv, lengths, 0.0)
    expected = eager(*(x.float() for x in qkv), lengths, 0.0)
    assert found.dtype == torch.bfloat16
    cosine = torch.nn.functional.cosine_similarity(found.float().flatten(1), expected.flatten(1))
    assert cosine.min() > 0.9999


def keeping(mask_HLL, probability):
    """Attention of one cell under a dropout mask given from outside."""

    def attend(query, key, value, lengths, dropout):
        scores = torch.einsum("qhk,lhk->hql", query, key) / query.shape[-1] ** 0.5
        return torch.einsum("hql,lhk->qhk", scores.softmax(-1) * mask_HLL / (1 - probability), value)

    return attend


@pytest.mark.parametrize("probability", [0.02, 0.4])
def test_dropout_and_its_gradients_follow_the_positions_drawn(monkeypatch, probability):
    masks = []

    def recorded(n, p):
        positions = draw_dropped(n, p)
        masks.append(torch.ones(n).index_fill(0, positions, 0.0))
        return positions

    monkeypatch.setattr(module, "draw_dropped", recorded)
    found = gradients(blocked, [9], seed=3, dropout=probability)
    mask_HLL = torch.cat([mask.view(2, -1, 9) for mask in masks], dim=1)
    expected = gradients(keeping(mask_HLL, probability), [9], seed=3)
    for ours, plain in zip(found, expected, strict=True):
        assert_close(ours, plain, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("probability", [0.02, 0.1, 0.7])
def test_every_position_is_dropped_with_the_same_probability(probability):
    torch.manual_seed(0)
    n, draws = 50, 4000
    times = torch.zeros(n)
    for _ in range(draws):
        positions = draw_dropped(n, probability)
        assert bool((positions.diff() > 0).all())
        times[positions] += 1
    error = (probability * (1 - probability) / draws) ** 0.5
    assert_close(times / draws, torch.full((n,), probability), atol=5 * error, rtol=0)


def test_neighbouring_positions_are_dropped_independently():
    torch.manual_seed(0)
    kept = torch.ones(200_000).index_fill(0, draw_dropped(200_000, 0.3), 0.0)
    both = ((1 - kept[1:]) * (1 - kept[:-1])).mean()
    assert_close(both, torch.tensor(0.09), atol=0.004, rtol=0)


def test_the_last_positions_are_reached_even_by_an_unlucky_draw():
    torch.manual_seed(1)
    assert all(len(draw_dropped(3, 0.999)) == 3 for _ in range(20))
