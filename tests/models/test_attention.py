"""Every kernel computes the same attention, forwards and backwards."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.testing import assert_close

from geneformer.models.attention import KERNELS, attention_weights, eager, equal_length_runs, sdpa

LENGTHS = st.lists(st.integers(0, 8), min_size=1, max_size=8).filter(any)


def random_qkv(n_tokens, heads=2, size=4, seed=0, **kwargs):
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(n_tokens, heads, size, generator=generator).to(**kwargs).requires_grad_() for _ in range(3)]


def plain_attention(query, key, value, lengths):
    """Softmax attention, one cell, head and query at a time."""
    context = torch.zeros_like(value)
    start = 0
    for length in lengths:
        cell = slice(start, start + length)
        for head in range(query.shape[1]):
            for row in range(start, start + length):
                scores = key[cell, head] @ query[row, head] / query.shape[2] ** 0.5
                weights = scores.exp() / scores.exp().sum()
                context[row, head] = weights @ value[cell, head]
        start += length
    return context


@settings(max_examples=30)
@given(lengths=LENGTHS, heads=st.integers(1, 3), size=st.integers(1, 5), seed=st.integers(0, 1000))
def test_both_kernels_are_attention_within_each_cell(lengths, heads, size, seed):
    qkv = random_qkv(sum(lengths), heads, size, seed)
    expected = plain_attention(*(x.detach() for x in qkv), lengths)
    for kernel in (sdpa, eager):
        assert_close(kernel(*qkv, lengths, 0.0), expected, atol=1e-5, rtol=0)


@settings(max_examples=30)
@given(lengths=LENGTHS, seed=st.integers(0, 1000))
def test_both_kernels_have_the_same_gradients(lengths, seed):
    gradients = []
    upstream = torch.randn(sum(lengths), 2, 4, generator=torch.Generator().manual_seed(seed))
    for kernel in (sdpa, eager):
        qkv = random_qkv(sum(lengths), seed=seed)
        (kernel(*qkv, lengths, 0.0) * upstream).sum().backward()
        gradients.append([x.grad for x in qkv])
    for fused, written_out in zip(*gradients, strict=True):
        assert_close(fused, written_out, atol=1e-5, rtol=0)


@given(lengths=st.lists(st.integers(0, 3), max_size=12))
def test_runs_cover_all_tokens_in_order(lengths):
    runs = equal_length_runs(lengths)
    assert [length for cells, length in runs for _ in range(cells)] == [length for length in lengths if length]


def test_attention_weights_are_shares_of_each_cell():
    lengths = [3, 1, 5]
    query, key, _ = random_qkv(9)
    weights = list(attention_weights(query, key, lengths))
    assert [tuple(w.shape) for w in weights] == [(2, length, length) for length in lengths]
    for weights_HLL in weights:
        assert_close(weights_HLL.sum(-1), torch.ones(weights_HLL.shape[:2]))


@pytest.mark.parametrize("kernel", [sdpa, eager])
def test_dropout_drops_weights_and_keeps_their_mean(kernel):
    torch.manual_seed(0)
    query, key, value = random_qkv(5)
    lengths = [5]
    plain = kernel(query, key, value, lengths, 0.0)
    dropped = torch.stack([kernel(query, key, value, lengths, 0.3) for _ in range(400)])
    assert not torch.equal(dropped[0], dropped[1])
    assert_close(dropped.mean(0), plain, atol=0.2, rtol=0)


def test_the_varlen_kernel_has_no_dropout():
    with pytest.raises(ValueError, match="dropout"):
        KERNELS["varlen"](*random_qkv(3), [3], 0.1)


@pytest.mark.skipif(not torch.accelerator.is_available(), reason="the variable-length kernel needs an accelerator")
def test_the_varlen_kernel_is_attention_within_each_cell():
    device = torch.accelerator.current_accelerator()
    lengths = [1, 64, 64, 17]
    qkv = random_qkv(sum(lengths), heads=4, size=64, device=device, dtype=torch.bfloat16)
    found = KERNELS["varlen"](*qkv, lengths, 0.0)
    expected = eager(*(x.float() for x in qkv), lengths, 0.0)
    assert_close(found.float(), expected, atol=2e-2, rtol=0)
