"""Layers without gradients: the same states as layers as they are written; whatever was changed runs as written."""

import pytest
import torch
from torch.testing import assert_close

from geneformer.models import encoder as module
from geneformer.models.encoder import ADAPTER_SIZE, ATTENTION_WINDOW, RELATIVE_CLIP, GeneformerEncoder
from geneformer.models.loading import architecture_config

LENGTHS = [5, 5, 12, 0, 9]


def encoder(**changes):
    torch.manual_seed(0)
    config = architecture_config("V1-10M", vocab_size=40)
    config.update({"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 3, **changes})
    network = GeneformerEncoder(config).eval()
    with torch.no_grad():
        for weight in network.parameters():
            weight.add_(0.1 * torch.randn_like(weight))
    return network


def cells():
    ids = torch.randint(2, 40, (sum(LENGTHS),), generator=torch.Generator().manual_seed(1))
    return ids, torch.tensor([0, *LENGTHS]).cumsum(0)


@pytest.fixture
def called(monkeypatch):
    """Stretches and steps smaller than the batch; how often layers ran the faster way."""
    calls = []
    run = module.run_layers_fast
    monkeypatch.setattr(module, "_STRETCH", 8)
    monkeypatch.setattr(module, "_STEP", 8)
    monkeypatch.setattr(module, "run_layers_fast", lambda *inputs: calls.append(1) or run(*inputs))
    return calls


@pytest.mark.parametrize(
    "changes",
    [{}, {"hidden_act": "gelu"}, {RELATIVE_CLIP: 3}, {ATTENTION_WINDOW: 2}],
    ids=["plain", "gelu", "relative", "window"],
)
@pytest.mark.parametrize("layer", [0, -1, -3])
def test_states_are_those_of_layers_as_written(called, changes, layer):
    network = encoder(**changes)
    with torch.no_grad():
        expected = network(*cells(), layer=layer)
    assert not called
    with torch.inference_mode():
        found = network(*cells(), layer=layer)
    assert called
    assert_close(found, expected, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("attention", ["sdpa", "rounded"])
def test_half_precision_is_that_of_layers_as_written(called, attention):
    network = encoder()
    with torch.no_grad():
        expected = network(*cells())
        with torch.autocast("cpu", torch.bfloat16):
            rough = network(*cells())
    with torch.inference_mode(), torch.autocast("cpu", torch.bfloat16):
        found = network(*cells(), attention=attention)
    assert called
    assert found.dtype == torch.float32
    assert (found - expected).norm() < 1.5 * (rough - expected).norm()


def listen(network):
    network.encoder.layer[1].output.register_forward_hook(lambda *_: None)


def replace(network):
    class Other(torch.nn.Linear):
        """Not a plain dense layer."""

    network.encoder.layer[0].attention.self.query = Other(32, 32)


@pytest.mark.parametrize("change", [listen, replace, torch.nn.Module.train], ids=["hook", "module", "training"])
def test_changed_layers_run_as_written(called, change):
    network = encoder()
    change(network)
    with torch.inference_mode():
        network(*cells())
    assert not called


def test_adapters_run_as_written(called):
    with torch.inference_mode():
        encoder(**{ADAPTER_SIZE: 4})(*cells())
    assert not called
