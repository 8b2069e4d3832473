"""Attention over rounded lengths: the numbers of attention written out, near zero and far from it."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.testing import assert_close

from geneformer.models import attention as module
from geneformer.models.attention import eager, rounded

LENGTHS = st.lists(st.integers(0, 23), min_size=1, max_size=8).filter(any)


@pytest.fixture(autouse=True)
def small_sizes(monkeypatch):
    """Sizes so small that a cell takes several blocks, and blocks several cells."""
    monkeypatch.setattr(module, "_ROUNDED_BLOCK", 700)
    monkeypatch.setattr(module, "_MULTIPLE", 4)
    monkeypatch.setattr(module, "_QUERIES", 2)


def random_qkv(n_tokens, heads=2, size=4, seed=0, dtype=torch.float32):
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(n_tokens, heads, size, generator=generator).to(dtype) for _ in range(3)]


@settings(max_examples=60)
@given(lengths=LENGTHS, seed=st.integers(0, 1000), farther=st.sampled_from([1.0, 30.0]))
def test_outputs_are_those_of_attention_written_out(lengths, seed, farther):
    query, key, value = random_qkv(sum(lengths), seed=seed)
    query, key = query * farther, key * farther
    with torch.inference_mode():
        found = rounded(query, key, value, lengths, 0.0)
    exact = eager(query.double(), key.double(), value.double(), lengths, 0.0)
    # Weights inherit the rounding of the scores, which grows with them.
    assert_close(found.double(), exact, atol=2e-6 * farther**2, rtol=0)


@pytest.mark.parametrize("sign", [1, -1])
def test_scores_that_would_overflow_as_powers_are_safe(sign):
    query, value = torch.full((3, 1, 4), 20.0), random_qkv(3, heads=1)[2]
    key = sign * torch.tensor([20.0, 20.0, 10.0])[:, None, None].expand(3, 1, 4)
    with torch.inference_mode():
        found = rounded(query, key, value, [3], 0.0)
    assert_close(found, eager(query, key, value, [3], 0.0))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_stays_near_float32(dtype):
    lengths = [40, 40, 39, 17]
    qkv = random_qkv(sum(lengths), heads=4, size=16, dtype=dtype)
    with torch.inference_mode():
        found = rounded(*qkv, lengths, 0.0)
    assert found.dtype == dtype
    expected = eager(*(x.float() for x in qkv), lengths, 0.0)
    cosine = torch.nn.functional.cosine_similarity(found.float().flatten(1), expected.flatten(1))
    assert cosine.min() > 0.9999


def test_strided_inputs_are_read_right():
    parts = torch.randn(7, 3, 2, 4).unbind(1)
    with torch.inference_mode():
        assert_close(rounded(*parts, [3, 4], 0.0), eager(*parts, [3, 4], 0.0))


@given(lengths=LENGTHS)
def test_sizes_are_few_and_every_cell_comes_once(lengths):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "_ROUNDED_BLOCK", 4000)
        groups = list(module._groups(lengths, 2))
    cells = [cell for group in groups for cell in group]
    assert [cell.stop - cell.start for cell in cells] == [length for length in lengths if length]
    for group in groups:
        assert len({-(-(cell.stop - cell.start) // 4) for cell in group}) == 1
        assert len(group) & (len(group) - 1) == 0


def test_gradients_and_dropout_are_refused():
    with pytest.raises(ValueError, match="neither dropout nor gradients"):
        rounded(*random_qkv(3), [3], 0.0)
    with torch.no_grad(), pytest.raises(ValueError, match="neither dropout nor gradients"):
        rounded(*random_qkv(3), [3], 0.1)
