"""The loss that never holds the logits equals the one that does."""

import pytest
import torch
from torch.nn import functional
from torch.testing import assert_close

from geneformer.models.losses import _BLOCK, count_hits, vocabulary_cross_entropy

SIZES = [1, 2, _BLOCK - 1, _BLOCK, _BLOCK + 1, 2 * _BLOCK + 7]


def random_problem(n_masked, n_tokens=97, size=12, *, dtype=torch.float32, seed=0):
    """Leaves of the problem, and the labels."""
    generator = torch.Generator().manual_seed(seed)
    hidden = torch.randn(n_masked, size, generator=generator).to(dtype)
    embedding = torch.randn(n_tokens, size, generator=generator)
    bias = torch.randn(n_tokens, generator=generator)
    labels = torch.randint(n_tokens, (n_masked,), generator=generator)
    return [x.requires_grad_() for x in (hidden, embedding, bias)], labels


def plain_loss(hidden, embedding, bias, labels):
    return functional.cross_entropy(functional.linear(hidden.float(), embedding.float(), bias.float()), labels)


@pytest.mark.parametrize("n_masked", SIZES)
def test_value_and_gradients_are_those_of_cross_entropy(n_masked):
    leaves, labels = random_problem(n_masked)
    twins, _ = random_problem(n_masked)
    loss, expected = vocabulary_cross_entropy(*leaves, labels), plain_loss(*twins, labels)
    assert_close(loss, expected, atol=1e-5, rtol=1e-5)
    (3 * loss).backward()
    (3 * expected).backward()
    for leaf, twin in zip(leaves, twins, strict=True):
        assert_close(leaf.grad, twin.grad, atol=1e-6, rtol=1e-4)


def test_bfloat16_states_give_the_loss_within_their_precision():
    leaves, labels = random_problem(_BLOCK + 30, dtype=torch.bfloat16)
    twins, _ = random_problem(_BLOCK + 30, dtype=torch.bfloat16)
    loss, expected = vocabulary_cross_entropy(*leaves, labels), plain_loss(*twins, labels)
    assert loss.dtype == torch.float32
    assert_close(loss, expected, atol=0, rtol=1e-2)
    loss.backward()
    expected.backward()
    for leaf, twin in zip(leaves, twins, strict=True):
        assert leaf.grad.dtype == leaf.dtype
        difference = (leaf.grad.float() - twin.grad.float()).norm() / twin.grad.float().norm()
        assert difference < 2e-2


def test_large_scores_stay_finite():
    (hidden, embedding, bias), labels = random_problem(5)
    loss = vocabulary_cross_entropy(hidden * 1e4, embedding, bias, labels)
    assert_close(loss, plain_loss(hidden * 1e4, embedding, bias, labels))
    loss.backward()
    assert all(bool(x.grad.isfinite().all()) for x in (hidden, embedding, bias))


def test_nothing_masked_costs_nothing():
    leaves, labels = random_problem(0)
    loss = vocabulary_cross_entropy(*leaves, labels)
    loss.backward()
    assert loss.item() == 0
    assert all(not bool(leaf.grad.any()) for leaf in leaves)


@pytest.mark.parametrize("n_masked", SIZES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_hits_are_labels_among_the_best_guesses(n_masked, dtype):
    (hidden, embedding, bias), labels = random_problem(n_masked, dtype=dtype)
    labels[::2] = functional.linear(hidden.float(), embedding, bias).topk(3).indices[::2, n_masked % 3]
    logits = functional.linear(hidden, embedding.to(dtype)).float() + bias
    best = logits.topk(10).indices
    first, among_ten = count_hits(hidden, embedding, bias, labels)
    assert int(first) == int((best[:, 0] == labels).sum())
    assert int(among_ten) == int((best == labels[:, None]).any(1).sum())
