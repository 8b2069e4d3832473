"""A pretrained encoder in a network with more parts: what is copied, what is new, what is refused."""

import pytest
import torch
from torch.testing import assert_close

from geneformer.errors import CheckpointError
from geneformer.models.encoder import ADAPTER_SIZE, ATTENTION_WINDOW, RELATIVE_CLIP
from geneformer.models.finetuned import load_encoder_weights
from geneformer.models.heads import GeneformerForMaskedLM
from models.reference_bert import random_cells, small_config

CELLS = random_cells((5, 17), 60)


def network(seed=0, **changes):
    torch.manual_seed(seed)
    return GeneformerForMaskedLM(small_config(**changes)).eval()


def states(model, layer=0):
    with torch.no_grad():
        return model.bert(CELLS.input_ids, CELLS.cu_seqlens, layer=layer)


def test_a_network_of_the_same_shape_gives_the_same_states():
    base, other = network(), network(1)
    head = other.cls.predictions.bias.clone(), other.cls.predictions.transform.dense.weight.clone()
    assert load_encoder_weights(other, base.state_dict(), "base") == ()
    assert torch.equal(states(other), states(base))
    assert torch.equal(other.cls.predictions.bias, head[0])
    assert torch.equal(other.cls.predictions.transform.dense.weight, head[1])


def test_the_pretrained_weights_are_copied_not_shared():
    base, other = network(), network(1)
    before = states(base)
    load_encoder_weights(other, base.state_dict(), "base")
    with torch.no_grad():
        for parameter in other.parameters():
            parameter.add_(1.0)
    assert torch.equal(states(base), before)


def test_a_window_takes_absolute_weights():
    base = network()
    wide, narrow = network(1, **{ATTENTION_WINDOW: 17}), network(1, **{ATTENTION_WINDOW: 2})
    for other in (wide, narrow):
        assert load_encoder_weights(other, base.state_dict(), "base") == ()
    assert torch.equal(states(wide), states(base))
    assert not torch.allclose(states(narrow), states(base))


def test_adapters_are_new():
    base, other = network(), network(1, **{ADAPTER_SIZE: 3})
    new = load_encoder_weights(other, base.state_dict(), "base")
    assert set(new) == {name for name in other.state_dict() if ".adapter." in name}
    assert torch.equal(states(other), states(base))


def test_a_layer_on_top_is_new():
    base, other = network(), network(1, num_hidden_layers=3)
    new = load_encoder_weights(other, base.state_dict(), "base")
    assert set(new) == {name for name in other.state_dict() if name.startswith("bert.encoder.layer.2.")}
    assert torch.equal(states(other, layer=-1), states(base))


def test_relative_weights_load_with_their_tables_and_a_layer_on_top():
    base, other = network(**{RELATIVE_CLIP: 3}), network(1, **{RELATIVE_CLIP: 3}, num_hidden_layers=3)
    load_encoder_weights(other, base.state_dict(), "base")
    assert torch.equal(states(other, layer=-1), states(base))


@pytest.mark.parametrize(("clips"), [(0, 3), (3, 0)])
def test_positions_of_another_kind_are_refused(clips):
    base, other = (network(**{RELATIVE_CLIP: clip}) for clip in clips)
    before = states(other)
    with pytest.raises(CheckpointError, match=r"base has (relative|absolute) positions and its states rely on them"):
        load_encoder_weights(other, base.state_dict(), "base")
    assert torch.equal(states(other), before)


@pytest.mark.parametrize(
    ("base", "other", "told"),
    [
        ({}, {"num_hidden_layers": 4}, r"missing \['encoder\.layer\.3"),
        ({"num_hidden_layers": 3}, {}, r"unknown \['encoder\.layer\.2"),
        ({ADAPTER_SIZE: 3}, {}, r"unknown .*adapter"),
        ({ADAPTER_SIZE: 3}, {ADAPTER_SIZE: 4}, r"adapter\.down\.weight has shape \(3, 16\), .*\(4, 16\)"),
        ({RELATIVE_CLIP: 3}, {RELATIVE_CLIP: 5}, r"distance_embedding.weight has shape \(7, 8\), .*\(11, 8\)"),
        ({"vocab_size": 61}, {}, r"word_embeddings.weight has shape \(61, 16\)"),
    ],
)
def test_what_does_not_fit_is_refused_and_nothing_is_copied(base, other, told):
    pretrained, kept = network(**base), network(1, **other)
    before = {name: value.clone() for name, value in kept.state_dict().items()}
    with pytest.raises(CheckpointError, match=told):
        load_encoder_weights(kept, pretrained.state_dict(), "base")
    assert all(torch.equal(value, before[name]) for name, value in kept.state_dict().items())


def test_missing_entries_are_refused():
    state = network().state_dict()
    del state["bert.encoder.layer.1.output.dense.bias"]
    with pytest.raises(CheckpointError, match=r"missing \['encoder\.layer\.1\.output\.dense\.bias'\]"):
        load_encoder_weights(network(1), state, "base")
    with pytest.raises(CheckpointError, match="missing"):
        load_encoder_weights(network(1), {}, "base")


def test_heads_and_poolers_of_the_base_are_passed_over_and_half_precision_is_widened():
    base, other = network(), network(1)
    state = {name: value.half() for name, value in base.state_dict().items()}
    state |= {"bert.pooler.dense.weight": torch.ones(16, 16), "classifier.weight": torch.ones(2, 16)}
    state |= {"bert.embeddings.position_ids": torch.arange(32)}
    assert load_encoder_weights(other, state, "base") == ()
    assert all(parameter.dtype == torch.float32 for parameter in other.parameters())
    assert_close(states(other), states(base), atol=5e-3, rtol=0)
