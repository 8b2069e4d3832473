"""The encoder with relative positions, a window and adapters; and what of it reaches the disk."""

import json

import pytest
import torch
from torch.testing import assert_close
from transformers import AutoModelForMaskedLM, BertForMaskedLM

from geneformer.errors import CheckpointError, PairingError
from geneformer.models.attention import KERNELS, eager, sdpa
from geneformer.models.encoder import ADAPTER_SIZE, ATTENTION_WINDOW, RELATIVE_CLIP, Adapter, extension, is_plain_bert
from geneformer.models.heads import GeneformerForMaskedLM
from geneformer.models.loading import (
    architecture_config,
    build_model,
    read_config,
    read_config_file,
    read_weights,
    save_checkpoint,
)
from models.reference_bert import ours, random_bert, random_cells, small_config
from models.written_out_attention import written_out

LENGTHS = (1, 9, 9, 20, 4)
CELLS = random_cells(LENGTHS, 60)
EXTENDED = [
    {RELATIVE_CLIP: 4},
    {ATTENTION_WINDOW: 3},
    {ADAPTER_SIZE: 5},
    {RELATIVE_CLIP: 4, ATTENTION_WINDOW: 3, ADAPTER_SIZE: 5},
]
every_extension = pytest.mark.parametrize("changes", EXTENDED, ids="+".join)


def extended(**changes):
    """A small network with extensions and no weight left at zero or one."""
    torch.manual_seed(0)
    model = GeneformerForMaskedLM(small_config(**changes)).eval()
    with torch.no_grad():
        for weight in model.parameters():
            weight.add_(torch.randn_like(weight) * 0.1)
    return model


def states(model, **options):
    return model.bert(CELLS.input_ids, CELLS.cu_seqlens, **options)


def plainly(model, input_ids):
    """States of one cell, from the parameters by name."""
    weights, config = model.state_dict(), model.config
    clip, window = extension(config, RELATIVE_CLIP), extension(config, ATTENTION_WINDOW)

    def dense(x, name):
        return x @ weights[f"{name}.weight"].T + weights[f"{name}.bias"]

    def norm(x, name):
        centered = x - x.mean(-1, keepdim=True)
        scaled = centered / (centered.square().mean(-1, keepdim=True) + config.layer_norm_eps).sqrt()
        return scaled * weights[f"{name}.weight"] + weights[f"{name}.bias"]

    def adapted(x, name):
        if not extension(config, ADAPTER_SIZE):
            return x
        return x + dense(torch.nn.functional.gelu(dense(x, f"{name}.adapter.down")), f"{name}.adapter.up")

    x = weights["bert.embeddings.word_embeddings.weight"][input_ids]
    x = x + weights["bert.embeddings.token_type_embeddings.weight"][0]
    if not clip:
        x = x + weights["bert.embeddings.position_embeddings.weight"][: len(x)]
    x = norm(x, "bert.embeddings.LayerNorm")
    for number in range(config.num_hidden_layers):
        layer = f"bert.encoder.layer.{number}"
        qkv = [
            dense(x, f"{layer}.attention.self.{name}").unflatten(1, (config.num_attention_heads, -1))
            for name in ("query", "key", "value")
        ]
        table = weights[f"{layer}.attention.self.distance_embedding.weight"] if clip else None
        context = written_out(*qkv, [len(x)], table=table, window=window or None).flatten(1)
        name = f"{layer}.attention.output"
        x = norm(adapted(dense(context, f"{name}.dense"), name) + x, f"{name}.LayerNorm")
        name = f"{layer}.output"
        inner = dense(x, f"{layer}.intermediate.dense").relu()
        x = norm(adapted(dense(inner, f"{name}.dense"), name) + x, f"{name}.LayerNorm")
    return x


@every_extension
def test_states_are_those_of_each_cell_written_out(changes):
    model = extended(**changes)
    with torch.no_grad():
        found = states(model)
        for start, stop in zip(CELLS.cu_seqlens[:-1], CELLS.cu_seqlens[1:], strict=True):
            assert_close(found[start:stop], plainly(model, CELLS.input_ids[start:stop]), atol=1e-5, rtol=0)


def test_an_encoder_without_extensions_uses_the_kernel_that_was_chosen(monkeypatch):
    called = []
    monkeypatch.setitem(KERNELS, "eager", lambda *x: (called.append(x[3]), eager(*x))[1])
    states(extended(), attention="eager")
    assert called == [list(LENGTHS)] * 2


def test_a_window_no_cell_exceeds_leaves_the_kernel_that_was_chosen(monkeypatch):
    called = []
    monkeypatch.setitem(KERNELS, "eager", lambda *x: (called.append(x[3]), eager(*x))[1])
    states(extended(**{ATTENTION_WINDOW: max(LENGTHS) - 1}), attention="eager")
    assert len(called) == 2
    states(extended(**{ATTENTION_WINDOW: max(LENGTHS) - 2}), attention="eager")
    assert len(called) == 2


def test_new_adapters_are_the_identity_until_something_is_learnt():
    bert = random_bert(small_config())
    plain, adapted = ours(bert), GeneformerForMaskedLM(small_config(**{ADAPTER_SIZE: 3})).eval()
    known = adapted.load_state_dict(plain.state_dict(), strict=False)
    assert len(known.missing_keys) == 16
    assert all(".adapter." in name for name in known.missing_keys)
    with torch.no_grad():
        assert torch.equal(states(adapted), states(plain))
    states(adapted).square().sum().backward()
    adapters = [part for part in adapted.modules() if isinstance(part, Adapter)]
    assert len(adapters) == 4
    assert all(bool((part.up.weight.grad != 0).any()) and bool((part.down.weight != 0).any()) for part in adapters)


@pytest.mark.parametrize("changes", [{RELATIVE_CLIP: 4}, {ATTENTION_WINDOW: 3}])
def test_dropout_of_attention_is_there_in_training_only(changes):
    model = extended(attention_probs_dropout_prob=0.5, **changes)
    with torch.no_grad():
        assert torch.equal(states(model), states(model))
        model.train()
        assert not torch.equal(states(model), states(model))


@pytest.mark.parametrize("changes", [{RELATIVE_CLIP: 4}, {ATTENTION_WINDOW: 3}])
def test_reading_attention_weights_is_refused_where_they_would_be_others(changes):
    def reading(query, key, value, lengths, dropout):
        return value

    model = extended(**changes)
    with pytest.raises(PairingError, match=rf"{next(iter(changes))}={next(iter(changes.values()))}"):
        states(model, attention=reading)
    assert_close(states(model, attention=sdpa), states(model))


@every_extension
def test_a_saved_network_loads_as_it_was(changes, tmp_path):
    model = extended(**changes)
    save_checkpoint(model, tmp_path)
    config = read_config(tmp_path)
    assert {name: extension(config, name) for name in changes} == changes
    loaded, has_head = build_model(config, read_weights(tmp_path), "here")
    assert has_head
    assert config.model_type == "bert"
    with torch.no_grad():
        assert torch.equal(states(loaded), states(model))


@every_extension
@pytest.mark.parametrize("saved_by", ["us", "the Trainer"])
def test_what_is_not_bert_does_not_open_as_bert(changes, saved_by, tmp_path):
    model = extended(**changes)
    if saved_by == "us":
        save_checkpoint(model, tmp_path)
    else:
        model.save_pretrained(tmp_path)
    written = json.loads((tmp_path / "config.json").read_text())
    assert written["architectures"] == ["GeneformerForMaskedLM"]
    assert not is_plain_bert(read_config_file(tmp_path / "config.json"))
    with pytest.raises((ValueError, KeyError), match="geneformer"):
        AutoModelForMaskedLM.from_pretrained(tmp_path)


def test_plain_bert_still_opens_as_bert(tmp_path):
    model = extended(**{RELATIVE_CLIP: 0, ATTENTION_WINDOW: 0})
    model.save_pretrained(tmp_path)
    written = json.loads((tmp_path / "config.json").read_text())
    assert (written["model_type"], written["architectures"]) == ("bert", ["BertForMaskedLM"])
    bert = AutoModelForMaskedLM.from_pretrained(tmp_path).eval()
    assert isinstance(bert, BertForMaskedLM)
    with torch.no_grad():
        expected = bert(CELLS.padded, CELLS.attention_mask).logits
        assert_close(model.logits(states(model)), CELLS.pack(expected), atol=1e-5, rtol=0)


def test_an_architecture_from_a_file_keeps_its_extensions(tmp_path):
    save_checkpoint(extended(**EXTENDED[-1]), tmp_path)
    config = architecture_config(tmp_path, vocab_size=33)
    assert config.vocab_size == 33
    assert {name: extension(config, name) for name in EXTENDED[-1]} == EXTENDED[-1]


@pytest.mark.parametrize("value", [-1, 2.5, "8", True])
def test_an_extension_that_is_no_size_is_refused(value, tmp_path):
    path = tmp_path / "config.json"
    path.write_text(json.dumps(small_config().to_dict() | {RELATIVE_CLIP: value}))
    with pytest.raises(CheckpointError, match=f"{RELATIVE_CLIP}=.* whole number from 0"):
        read_config_file(path)


def test_absolute_weights_under_a_relative_configuration_are_refused():
    weights = extended().state_dict()
    with pytest.raises(CheckpointError, match=r"distance_embedding.*position_embeddings"):
        build_model(small_config(**{RELATIVE_CLIP: 4}), weights, "here")
