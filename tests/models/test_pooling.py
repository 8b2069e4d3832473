"""Poolings against plain loops over cells; what a cell becomes depends on no other cell."""

import itertools

import pytest
import torch
from transformers import BertConfig

from geneformer.models.encoder import cell_of
from geneformer.models.heads import POOLS

D = 8
SPECIAL = [0, 1, 2, 3]
LENGTHS = [5, 1, 9, 3]


def config():
    made = BertConfig(hidden_size=D, vocab_size=40, initializer_range=1.0)
    made.geneformer_special_ids = SPECIAL
    return made


def cells(seed=0, lengths=LENGTHS, special=True):
    torch.manual_seed(seed)
    ids = torch.randint(4, 40, (sum(lengths),))
    starts = torch.tensor([0, *torch.tensor(lengths).cumsum(0)])
    if special:
        for start, end in itertools.pairwise(starts):
            if end - start > 2:
                ids[start], ids[end - 1] = 2, 3
    return torch.randn(sum(lengths), D), ids, starts


def made(name, seed=1):
    torch.manual_seed(seed)
    return POOLS[name](config())


def mean_of(pool, states, ids):
    genes = [state for state, token in zip(states, ids, strict=True) if token not in SPECIAL]
    return sum(genes) / len(genes)


def by_rank(pool, states, ids):
    genes = [state for state, token in zip(states, ids, strict=True) if token not in SPECIAL]
    weights = [1 / (1 + rank / 100) for rank in range(len(genes))]
    return sum(weight * gene for weight, gene in zip(weights, genes, strict=True)) / sum(weights)


def first_of(pool, states, ids):
    return states[0]


def dense_of(pool, states, ids):
    return torch.tanh(pool.dense.weight @ states[0] + pool.dense.bias)


def attention_of(pool, states, ids):
    scores = [(state @ pool.attention_weights[:, 0]).item() for state in states]
    shares = torch.softmax(torch.tensor(scores), dim=0)
    return sum(share * state for share, state in zip(shares, states, strict=True))


PLAIN = {"mean": mean_of, "rank": by_rank, "cls": first_of, "pooler": dense_of, "attention": attention_of}


def test_every_pooling_has_a_plain_reference():
    assert set(PLAIN) == set(POOLS)


@pytest.mark.parametrize("name", sorted(PLAIN))
@pytest.mark.parametrize("special", [True, False])
def test_pooling_is_the_plain_loop(name, special):
    pool, (hidden, ids, starts) = made(name), cells(special=special)
    found = pool(hidden, ids, starts)
    pieces = [slice(int(a), int(b)) for a, b in itertools.pairwise(starts)]
    expected = torch.stack([PLAIN[name](pool, hidden[piece], ids[piece]) for piece in pieces])
    torch.testing.assert_close(found.float(), expected.float(), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("name", sorted(PLAIN))
def test_a_cell_alone_gives_the_vector_it_has_in_a_batch(name):
    pool, (hidden, ids, starts) = made(name), cells()
    together = pool(hidden, ids, starts)
    for cell, (a, b) in enumerate(itertools.pairwise(starts)):
        alone = pool(hidden[a:b], ids[a:b], torch.tensor([0, int(b - a)]))
        torch.testing.assert_close(alone[0], together[cell], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("name", sorted(PLAIN))
def test_no_gradient_crosses_from_cell_to_cell(name):
    pool, (hidden, ids, starts) = made(name), cells()
    hidden.requires_grad_()
    pool(hidden, ids, starts)[2].square().sum().backward()
    inside = slice(int(starts[2]), int(starts[3]))
    assert hidden.grad[inside].abs().sum() > 0
    hidden.grad[inside] = 0
    assert hidden.grad.abs().sum() == 0


def test_attention_over_a_hundred_padding_tokens_would_differ():
    """The published softmax takes padding in; here the same cell has the same vector whatever stands beside it."""
    pool, (hidden, ids, starts) = made("attention"), cells()
    padded = torch.cat([hidden[:5], torch.zeros(100, D)])
    shares = torch.softmax((padded @ pool.attention_weights)[:, 0], dim=0)
    published = (shares[:, None] * padded).sum(0)
    assert not torch.allclose(published, pool(hidden, ids, starts)[0], atol=1e-2)


def test_attention_with_large_scores_stays_finite():
    pool, (hidden, ids, starts) = made("attention"), cells()
    found = pool(hidden * 1e4, ids, starts)
    assert torch.isfinite(found).all()


def test_the_attention_pool_learns():
    pool, (hidden, ids, starts) = made("attention"), cells()
    pool(hidden, ids, starts)[:, 0].sum().backward()
    assert pool.attention_weights.grad.abs().sum() > 0


def test_cell_of():
    assert cell_of(torch.tensor([0, 2, 2, 5]), 5).tolist() == [0, 0, 2, 2, 2]
