"""Heads on cells: losses of several tasks together, task weights, missing targets, second views."""

import itertools

import pytest
import torch
from torch.nn import functional
from transformers import BertConfig

from geneformer.models.heads import GeneformerForCells, HeadSpec, contrastive_loss, has_target
from geneformer.models.losses import MISSING

KINDS = HeadSpec(name="kind", classes=("a", "b", "c"))
STATES = HeadSpec(name="state", classes=("sick", "well"))
LABELS = HeadSpec(name="labels", kind="any_of", classes=("x", "y"))
AGE = HeadSpec(name="age", kind="number", loss="gaussian")
IDS = torch.tensor([4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14])
STARTS = torch.tensor([0, 3, 7, 11])
NONE = {"kind": torch.full((3,), MISSING), "state": torch.full((3,), MISSING)}


def network(*specs, learn=False, pooling="mean", seed=0):
    config = BertConfig(
        vocab_size=20, hidden_size=16, num_hidden_layers=2, num_attention_heads=2, intermediate_size=32,
        hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0, max_position_embeddings=16, hidden_act="relu",
    )  # fmt: skip
    config.geneformer_heads = [spec.to_dict() for spec in specs]
    config.geneformer_pooling = pooling
    config.geneformer_special_ids = [0, 1, 2, 3]
    config.geneformer_learn_task_weights = learn
    torch.manual_seed(seed)
    return GeneformerForCells(config)


def targets(**changes):
    return {
        "kind": torch.tensor([0, 2, 1]),
        "state": torch.tensor([1, 0, 1]),
        "labels": torch.tensor([[1.0, 0.0], [0.0, 0.0], [1.0, 1.0]]),
        "age": torch.tensor([0.5, -1.0, 2.0]),
    } | changes


def grads(module):
    return sum(0.0 if p.grad is None else float(p.grad.abs().sum()) for p in module.parameters())


@pytest.mark.parametrize("spec", [KINDS, LABELS, AGE])
def test_a_spec_survives_json(spec):
    assert HeadSpec.from_dict(spec.to_dict()) == spec


def test_every_head_is_linear_in_the_cell_vector():
    net = network(KINDS, LABELS, AGE)
    out = net(IDS, STARTS)
    assert {name: tuple(x.shape) for name, x in out.predictions.items()} == {
        "kind": (3, 3),
        "labels": (3, 2),
        "age": (3, 2),
    }
    for spec, head in zip(net.specs, net.heads, strict=True):
        torch.testing.assert_close(out.predictions[spec.name], functional.linear(out.pooled, head.weight, head.bias))


def test_fixed_task_weights_by_hand():
    net = network(KINDS, STATES)
    net.task_weights = [0.25, 3.0]
    out = net(IDS, STARTS, targets())
    by_hand = [
        functional.cross_entropy(out.predictions[name], targets()[name]) * weight
        for name, weight in (("kind", 0.25), ("state", 3.0))
    ]
    torch.testing.assert_close(out.loss, sum(by_hand))
    assert net.task_log_variance is None


def test_learnt_task_weights_by_hand():
    net = network(KINDS, STATES, learn=True)
    with torch.no_grad():
        net.task_log_variance.copy_(torch.tensor([0.7, -0.4]))
    out = net(IDS, STARTS, targets())
    losses = [functional.cross_entropy(out.predictions[name], targets()[name]) for name in ("kind", "state")]
    expected = sum(torch.exp(torch.tensor(-s)) * x + 0.5 * s for x, s in zip(losses, (0.7, -0.4), strict=True))
    torch.testing.assert_close(out.loss, expected)
    out.loss.backward()
    by_hand = torch.tensor(
        [0.5 - torch.exp(torch.tensor(-s)) * x.detach() for x, s in zip(losses, (0.7, -0.4), strict=True)]
    )
    torch.testing.assert_close(net.task_log_variance.grad, by_hand)


def test_learnt_weights_settle_where_each_term_is_one_half():
    """The best log variance of a task is the logarithm of twice its loss."""
    net = network(KINDS, STATES, learn=True)
    net.requires_grad_(False)
    net.task_log_variance.requires_grad_()
    step = torch.optim.LBFGS([net.task_log_variance], lr=0.5, max_iter=200)

    def closure():
        step.zero_grad()
        out = net(IDS, STARTS, targets())
        out.loss.backward()
        return out.loss

    step.step(closure)
    losses = torch.stack([net(IDS, STARTS, targets()).task_losses[name] for name in ("kind", "state")])
    torch.testing.assert_close(net.task_log_variance.detach(), (2 * losses).log(), rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("learn", [True, False])
def test_a_task_without_a_target_moves_neither_its_head_nor_its_weight(learn):
    net = network(KINDS, STATES, learn=learn)
    net(IDS, STARTS, targets(state=NONE["state"])).loss.backward()
    assert grads(net.heads[0]) > 0
    assert grads(net.heads[1]) == 0
    if learn:
        assert net.task_log_variance.grad[0] != 0
        assert net.task_log_variance.grad[1] == 0


def test_a_cell_without_a_label_of_one_task_gives_that_head_nothing():
    whole, part = network(KINDS, STATES), network(KINDS, STATES)
    whole(IDS, STARTS, targets(state=torch.tensor([1, MISSING, MISSING]))).loss.backward()
    part(IDS[:3], torch.tensor([0, 3]), {"kind": torch.tensor([0]), "state": torch.tensor([1])}).loss.backward()
    torch.testing.assert_close(whole.heads[1].weight.grad, part.heads[1].weight.grad)
    assert not torch.allclose(whole.heads[0].weight.grad, part.heads[0].weight.grad)


def test_without_any_target_there_is_no_gradient():
    net = network(KINDS, STATES)
    out = net(IDS, STARTS, NONE)
    out.loss.backward()
    assert out.loss.item() == 0
    assert grads(net) == 0


@pytest.mark.parametrize(
    ("spec", "target", "expected"),
    [
        (KINDS, torch.tensor([MISSING, 1]), True),
        (KINDS, torch.tensor([MISSING, MISSING]), False),
        (AGE, torch.tensor([float("nan"), 0.0]), True),
        (AGE, torch.tensor([float("nan")]), False),
        (LABELS, torch.full((2, 2), float("nan")), False),
    ],
)
def test_has_target(spec, target, expected):
    assert bool(has_target(spec, target)) is expected


def test_class_weights_reach_the_head_they_are_for():
    net = network(KINDS, STATES)
    plain = net(IDS, STARTS, targets()).task_losses
    weights = torch.tensor([1.0, 2.0, 5.0])
    net.class_weights = {"kind": weights.double()}
    out = net(IDS, STARTS, targets())
    expected = functional.cross_entropy(out.predictions["kind"], targets()["kind"], weight=weights)
    torch.testing.assert_close(out.task_losses["kind"], expected.detach())
    torch.testing.assert_close(out.task_losses["state"], plain["state"])


@pytest.mark.parametrize("activation", ["relu", "softplus"])
@pytest.mark.parametrize("loss", ["poisson", "negative_binomial", "squared_error", "gaussian"])
def test_a_predicted_number_starts_at_its_scale_and_is_never_negative(activation, loss):
    spec = HeadSpec(name="age", kind="number", loss=loss, activation=activation, scale=500.0)
    net = network(spec)
    with torch.no_grad():
        net.heads[0].weight.zero_()
    said = net(IDS, STARTS).predictions["age"]
    torch.testing.assert_close(said[:, 0], torch.full((3,), 500.0))
    with torch.no_grad():
        net.heads[0].bias.fill_(-3.0)
    assert (net(IDS, STARTS).predictions["age"][:, 0] >= 0).all()


def test_scale_and_activation_touch_the_mean_only():
    plain = network(HeadSpec(name="age", kind="number", loss="gaussian"))
    scaled = network(HeadSpec(name="age", kind="number", loss="gaussian", scale=7.0))
    one, other = plain(IDS, STARTS).predictions["age"], scaled(IDS, STARTS).predictions["age"]
    torch.testing.assert_close(other, one * torch.tensor([7.0, 1.0]))


def two_views():
    others = IDS.flip(0)
    return torch.cat([IDS, others]), torch.cat([STARTS, STARTS[1:] + len(IDS)])


def test_second_views_teach_by_contrast_only():
    net = network(KINDS).train()
    ids, starts = two_views()
    out = net(ids, starts, {"kind": targets()["kind"]}, supervised_weight=0.5, contrastive_weight=2.0, temperature=0.3)
    assert out.predictions["kind"].shape == (3, 3)
    alone = network(KINDS)(IDS, STARTS, {"kind": targets()["kind"]})
    torch.testing.assert_close(out.supervised_loss, alone.supervised_loss)
    expected = contrastive_loss(out.pooled, 0.3)
    torch.testing.assert_close(out.contrastive_loss, expected.detach())
    torch.testing.assert_close(out.loss, 0.5 * alone.loss + 2.0 * expected)


def test_evaluation_knows_no_second_views():
    net = network(KINDS).eval()
    out = net(IDS, STARTS, {"kind": targets()["kind"]}, contrastive_weight=2.0)
    assert out.contrastive_loss is None
    assert out.predictions["kind"].shape == (3, 3)


@pytest.mark.parametrize("pooling", ["mean", "cls", "attention", "pooler"])
def test_what_is_said_about_a_cell_depends_on_no_other(pooling):
    net = network(KINDS, AGE, pooling=pooling).eval()
    together = net(IDS, STARTS)
    for cell, (a, b) in enumerate(itertools.pairwise(STARTS)):
        alone = net(IDS[a:b], torch.tensor([0, int(b - a)]))
        torch.testing.assert_close(alone.pooled[0], together.pooled[cell], rtol=1e-5, atol=1e-6)
        for name in ("kind", "age"):
            torch.testing.assert_close(
                alone.predictions[name][0], together.predictions[name][cell], rtol=1e-5, atol=1e-6
            )
