"""Layers of few bits, where bitsandbytes is installed: near the plain ones, frozen, and plain again after merging."""

import sys

import pytest
import torch
from torch import nn
from torch.testing import assert_close

from geneformer.errors import MissingExtraError
from geneformer.models.finetuned import apply_strategy, is_low_bit, merge_lora, quantize_linears, restore_linears
from geneformer.options import FinetuneOptions

TOLERANCE = {"8bit": 0.05, "4bit": 0.25}


def test_without_the_library_it_is_named_and_nothing_is_replaced(monkeypatch):
    monkeypatch.setitem(sys.modules, "bitsandbytes", None)
    module = nn.Sequential(nn.Linear(4, 4))
    with pytest.raises(MissingExtraError, match="pip install bitsandbytes"):
        quantize_linears(module, "8bit")
    assert type(module[0]) is nn.Linear


@pytest.mark.parametrize("bits", TOLERANCE)
def test_layers_of_few_bits_compute_nearly_the_same_and_become_plain_again(bits):
    pytest.importorskip("bitsandbytes")
    torch.manual_seed(0)
    module = nn.Sequential(nn.Linear(64, 128), nn.ReLU(), nn.Linear(128, 64), nn.LayerNorm(64))
    inputs = torch.randn(20, 64)
    exact = module(inputs)
    assert quantize_linears(module, bits) == 2
    assert all(is_low_bit(module[number]) for number in (0, 2))
    assert not any(module[number].weight.requires_grad for number in (0, 2))
    rounded = module(inputs)
    assert_close(rounded, exact, atol=4 * TOLERANCE[bits], rtol=0)
    assert not torch.equal(rounded, exact)
    with torch.no_grad():
        module.eval()(inputs)
    assert restore_linears(module) == 2
    assert [type(part) for part in module] == [nn.Linear, nn.ReLU, nn.Linear, nn.LayerNorm]
    assert_close(module(inputs), rounded, atol=0.05, rtol=0)


@pytest.mark.parametrize("bits", TOLERANCE)
def test_low_rank_updates_over_few_bits_train_and_merge(bits):
    pytest.importorskip("bitsandbytes")
    from models.test_strategies import SmallNetwork, small_config, take_steps

    torch.manual_seed(0)
    network = SmallNetwork(small_config(hidden_size=64, intermediate_size=128))
    names = [name for name, _ in network.named_parameters()]
    total = sum(parameter.numel() for parameter in network.parameters())
    share = apply_strategy(network, FinetuneOptions(strategy="lora", bits=bits, lora_rank=2))
    assert share.total == total + 2 * 2 * 2 * 2 * 64
    before = {name: value.detach().clone() for name, value in network.named_parameters()}
    take_steps(network)
    moved = [name for name, value in network.named_parameters() if not torch.equal(value, before[name])]
    assert tuple(moved) == share.names
    with torch.no_grad():
        expected = network()
        network.eval()()
        merge_lora(network)
        assert [name for name, _ in network.named_parameters()] == names
        assert_close(network(), expected, atol=0.02, rtol=0)
