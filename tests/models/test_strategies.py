"""Strategies: after a step exactly the parameters that should have moved have moved, and the numbers say how many."""

import sys

import pytest
import torch
from torch import nn
from torch.testing import assert_close

from geneformer.errors import CheckpointError, MissingExtraError, OptionError, OutOfRangeError
from geneformer.models.encoder import (
    ADAPTER_SIZE,
    ATTENTION_WINDOW,
    RELATIVE_CLIP,
    GeneformerEncoder,
    GeneformerModel,
    extension,
)
from geneformer.models.finetuned import TrainedShare, apply_strategy, load_encoder_weights, merge_lora, prepare_config
from geneformer.options import FinetuneOptions
from models.reference_bert import random_cells, small_config

CELLS = random_cells((5, 17, 9), 60)
N_LAYERS, HIDDEN, FEED_FORWARD, VOCABULARY, POSITIONS = 3, 16, 24, 60, 32
PER_LAYER = 4 * (HIDDEN + 1) * HIDDEN + (HIDDEN + 1) * FEED_FORWARD + (FEED_FORWARD + 1) * HIDDEN + 4 * HIDDEN
EMBEDDINGS = (VOCABULARY + POSITIONS + 2 + 2) * HIDDEN
ENCODER = EMBEDDINGS + N_LAYERS * PER_LAYER
HEAD = (HIDDEN + 1) * 4


class SmallNetwork(GeneformerModel):
    """Encoder and a head that uses every state."""

    def __init__(self, config) -> None:
        super().__init__(config)
        self.bert = GeneformerEncoder(config)
        self.head = nn.Linear(config.hidden_size, 4)
        self.post_init()

    def forward(self):
        return self.head(self.bert(CELLS.input_ids, CELLS.cu_seqlens))


def built(options, seed=0, **changes):
    """A pretrained encoder in the network that the options ask for."""
    config = small_config(num_hidden_layers=N_LAYERS, **changes)
    torch.manual_seed(seed)
    base, network = SmallNetwork(config), SmallNetwork(prepare_config(config, options))
    load_encoder_weights(network, base.state_dict(), "base")
    return network, apply_strategy(network, options)


def take_steps(network, n_steps=2):
    """Optimizer steps on a random loss; two, because the first moves only one half of a product that starts at zero."""
    network.train()
    optimizer = torch.optim.AdamW((p for p in network.parameters() if p.requires_grad), lr=0.05)
    torch.manual_seed(1)
    target = torch.randn(len(CELLS.input_ids), 4)
    for _ in range(n_steps):
        optimizer.zero_grad()
        (network() - target).square().mean().backward()
        optimizer.step()


def copied(network):
    return {name: value.detach().clone() for name, value in network.named_parameters()}


def layer(number):
    return f"bert.encoder.layer.{number}."


EXPECTED = {
    "full": ({}, lambda name: True, ENCODER + HEAD, ENCODER + HEAD),
    "freeze 2": (
        {"strategy": "full", "freeze_layers": 2},
        lambda name: not name.startswith((layer(0), layer(1))),
        EMBEDDINGS + PER_LAYER + HEAD,
        ENCODER + HEAD,
    ),
    "freeze all": (
        {"strategy": "full", "freeze_layers": N_LAYERS},
        lambda name: not name.startswith("bert.encoder."),
        EMBEDDINGS + HEAD,
        ENCODER + HEAD,
    ),
    "last_layer": ({}, lambda name: name.startswith(layer(2)), PER_LAYER + HEAD, ENCODER + HEAD),
    "extra_layer": ({}, lambda name: name.startswith(layer(3)), PER_LAYER + HEAD, ENCODER + PER_LAYER + HEAD),
    "adapters": (
        {"adapter_size": 5},
        lambda name: name.startswith("bert.encoder.") and ("adapter" in name or "LayerNorm" in name),
        N_LAYERS * (2 * ((HIDDEN + 1) * 5 + 6 * HIDDEN) + 4 * HIDDEN) + HEAD,
        ENCODER + N_LAYERS * 2 * ((HIDDEN + 1) * 5 + 6 * HIDDEN) + HEAD,
    ),
    "lora": (
        {"lora_rank": 3},
        lambda name: "self.query.lora_" in name or "self.value.lora_" in name,
        N_LAYERS * 2 * (3 * HIDDEN + HIDDEN * 3) + HEAD,
        ENCODER + N_LAYERS * 2 * (3 * HIDDEN + HIDDEN * 3) + HEAD,
    ),
    "head": ({}, lambda name: False, HEAD, ENCODER + HEAD),
}


@pytest.mark.parametrize("case", EXPECTED)
def test_exactly_the_expected_parameters_move(case):
    changes, moves, trained, total = EXPECTED[case]
    network, share = built(FinetuneOptions(**{"strategy": case} | changes))
    before = copied(network)
    take_steps(network)
    after = copied(network)
    expected = {name for name in before if name.startswith("head.") or moves(name)}
    assert {name for name in before if not torch.equal(before[name], after[name])} == expected
    assert share == TrainedShare(trained, total, tuple(name for name in before if name in expected))


@pytest.mark.parametrize("changes", [{RELATIVE_CLIP: 3}, {ATTENTION_WINDOW: 4}])
def test_strategies_know_layers_with_extensions(changes):
    network, share = built(FinetuneOptions(strategy="last_layer"), **changes)
    before = copied(network)
    take_steps(network)
    moved = {name for name, value in copied(network).items() if not torch.equal(value, before[name])}
    assert moved == set(share.names) == {name for name in before if name.startswith(("head.", layer(2)))}
    assert any("distance_embedding" in name for name in moved) == (RELATIVE_CLIP in changes)


def test_the_pooler_is_part_of_the_head():
    config = small_config(num_hidden_layers=N_LAYERS)
    network = SmallNetwork(config)
    network.bert.pooler = nn.Linear(HIDDEN, HIDDEN)
    share = apply_strategy(network, FinetuneOptions(strategy="head"))
    assert share.names == ("bert.pooler.weight", "bert.pooler.bias", "head.weight", "head.bias")


def test_a_strategy_undoes_the_one_before():
    network, _ = built(FinetuneOptions(strategy="head"))
    assert apply_strategy(network, FinetuneOptions()).trained == ENCODER + HEAD


def test_adapters_and_low_rank_updates_start_without_effect():
    plain, _ = built(FinetuneOptions())
    for strategy in ("adapters", "lora"):
        network, _ = built(FinetuneOptions(strategy=strategy))
        with torch.no_grad():
            states = [n.eval().bert(CELLS.input_ids, CELLS.cu_seqlens) for n in (network, plain)]
        assert torch.equal(*states)


@pytest.mark.parametrize("changes", [{}, {RELATIVE_CLIP: 3, ATTENTION_WINDOW: 4}])
def test_merged_low_rank_updates_give_equal_outputs_under_plain_names(changes):
    options = FinetuneOptions(strategy="lora", lora_rank=4, lora_alpha=6.0, lora_dropout=0.2)
    network, _ = built(options, **changes)
    take_steps(network, 5)
    plain = SmallNetwork(network.config)
    before = plain.state_dict()["bert.encoder.layer.0.attention.self.query.weight"].clone()
    with torch.no_grad():
        expected = network.eval()()
        merge_lora(network)
        assert_close(network(), expected, atol=1e-5, rtol=0)
        assert [name for name, _ in network.named_parameters()] == [name for name, _ in plain.named_parameters()]
        plain.load_state_dict(network.state_dict())
        assert_close(plain.eval()(), expected, atol=1e-5, rtol=0)
    assert not torch.equal(network.bert.encoder.layer[0].attention.self.query.weight, before)
    assert type(network.bert.encoder.layer[0].attention.self.query) is nn.Linear
    assert not any("lora" in type(part).__module__ for part in network.modules())


def test_merging_scales_by_alpha_over_rank():
    network, _ = built(FinetuneOptions(strategy="lora", lora_rank=4, lora_alpha=6.0))
    take_steps(network)
    layer_of = network.bert.encoder.layer[1].attention.self
    a, b = (getattr(layer_of.value, name)["default"].weight.detach() for name in ("lora_A", "lora_B"))
    expected = layer_of.value.base_layer.weight.detach() + 1.5 * b @ a
    merge_lora(network)
    assert_close(network.bert.encoder.layer[1].attention.self.value.weight.detach(), expected)


def test_a_network_without_low_rank_updates_is_left_as_it_is():
    network, _ = built(FinetuneOptions())
    parts = list(network.modules())
    merge_lora(network)
    assert all(now is then for now, then in zip(network.modules(), parts, strict=True))


def test_without_peft_the_extra_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "peft", None)
    with pytest.raises(MissingExtraError, match=r'pip install "geneformer\[train\]"'):
        built(FinetuneOptions(strategy="lora"))


@pytest.mark.parametrize("strategy", ["last_layer", "extra_layer", "adapters", "lora", "head"])
def test_frozen_layers_go_with_full_only(strategy):
    options = FinetuneOptions(strategy=strategy, freeze_layers=1)
    with pytest.raises(OptionError, match=f'strategy="full" only: "{strategy}" freezes'):
        prepare_config(small_config(), options)
    with pytest.raises(OptionError, match='strategy="full" only'):
        apply_strategy(SmallNetwork(small_config()), options)


def test_more_frozen_layers_than_there_are_is_refused():
    with pytest.raises(OutOfRangeError, match=r"freeze_layers=3 .* 2 layers.*from 0 to 2"):
        prepare_config(small_config(), FinetuneOptions(freeze_layers=3))


@pytest.mark.parametrize("strategy", ["full", "head"])
def test_few_bits_go_with_low_rank_updates_only(strategy):
    with pytest.raises(OptionError, match=r'strategy="lora" only'):
        prepare_config(small_config(), FinetuneOptions(strategy=strategy, bits="4bit"))


def test_adapters_need_a_network_that_has_them():
    with pytest.raises(OptionError, match="prepare_config"):
        apply_strategy(SmallNetwork(small_config()), FinetuneOptions(strategy="adapters"))


def test_the_configuration_follows_the_options_and_the_base_stays():
    base = small_config(hidden_dropout_prob=0.3, attention_probs_dropout_prob=0.2)
    unchanged = base.to_dict()
    prepared = prepare_config(base, FinetuneOptions(strategy="extra_layer", attention_window=7, dropout=0.1))
    assert prepared.num_hidden_layers == 3
    assert extension(prepared, ATTENTION_WINDOW) == 7
    assert prepared.hidden_dropout_prob == prepared.attention_probs_dropout_prob == prepared.classifier_dropout == 0.1
    kept = prepare_config(base, FinetuneOptions(strategy="adapters", adapter_size=9))
    assert (kept.hidden_dropout_prob, kept.attention_probs_dropout_prob) == (0.3, 0.2)
    assert extension(kept, ADAPTER_SIZE) == 9
    assert base.to_dict() == unchanged


def test_zero_keeps_the_positions_and_the_window_of_the_base():
    base = small_config(**{RELATIVE_CLIP: 5, ATTENTION_WINDOW: 3})
    prepared = prepare_config(base, FinetuneOptions())
    assert (extension(prepared, RELATIVE_CLIP), extension(prepared, ATTENTION_WINDOW)) == (5, 3)


@pytest.mark.parametrize("clip", [0, 4])
def test_other_relative_positions_than_the_base_has_need_random_weights(clip):
    base = small_config(**{RELATIVE_CLIP: clip})
    has = "clipped at 4" if clip else "absolute positions"
    with pytest.raises(CheckpointError, match=rf'{has}, and its states rely on them.*weights="random"'):
        prepare_config(base, FinetuneOptions(relative_positions=8))
    random = prepare_config(base, FinetuneOptions(relative_positions=8, weights="random"))
    assert extension(random, RELATIVE_CLIP) == 8
    SmallNetwork(random)().sum().backward()


def test_relative_positions_as_the_base_has_them_are_accepted():
    prepared = prepare_config(small_config(**{RELATIVE_CLIP: 4}), FinetuneOptions(relative_positions=4))
    assert extension(prepared, RELATIVE_CLIP) == 4
