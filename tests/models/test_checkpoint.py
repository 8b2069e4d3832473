"""Checkpoint folders open in plain `transformers`, and what `transformers` saves opens here."""

import json

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch.testing import assert_close
from transformers import BertForMaskedLM, BertForSequenceClassification

from geneformer.models.heads import GeneformerForMaskedLM
from geneformer.models.loading import build_model, read_config, read_weights, save_checkpoint
from models.reference_bert import ours, random_bert, random_cells, small_config

CLOSE = {"atol": 1e-5, "rtol": 0}


@pytest.fixture
def bert():
    return random_bert(small_config())


@pytest.fixture
def cells():
    return random_cells((7, 1, 7, 3), 60)


def logits_of_bert(bert, cells):
    with torch.no_grad():
        return cells.pack(bert.eval()(cells.padded, cells.attention_mask).logits)


def logits_of_ours(model, cells):
    with torch.no_grad():
        return model.logits(model.eval().bert(cells.input_ids, cells.cu_seqlens))


def open_here(folder):
    return build_model(read_config(folder), read_weights(folder), str(folder))


def open_in_transformers(folder):
    bert, report = BertForMaskedLM.from_pretrained(folder, output_loading_info=True)
    assert not any(report.values()), report
    return bert


@pytest.mark.parametrize("save", [save_checkpoint, GeneformerForMaskedLM.save_pretrained])
def test_a_saved_folder_opens_in_plain_transformers(bert, cells, save, tmp_path):
    save(ours(bert), tmp_path / "saved")
    opened = open_in_transformers(tmp_path / "saved")
    for name, value in bert.state_dict().items():
        assert torch.equal(opened.state_dict()[name], value)
    assert_close(logits_of_bert(opened, cells), logits_of_bert(bert, cells), **CLOSE)
    assert json.loads((tmp_path / "saved" / "config.json").read_text())["architectures"] == ["BertForMaskedLM"]


def test_a_folder_saved_by_transformers_opens_here(bert, cells, tmp_path):
    bert.save_pretrained(tmp_path)
    model, has_head = open_here(tmp_path)
    assert has_head
    assert not model.training
    assert_close(logits_of_ours(model, cells), logits_of_bert(bert, cells), **CLOSE)


def test_save_and_load_change_no_bit(bert, tmp_path):
    model = ours(bert)
    save_checkpoint(model, tmp_path)
    again, _ = open_here(tmp_path)
    for name, value in model.state_dict().items():
        assert torch.equal(again.state_dict()[name], value)


@pytest.mark.parametrize("save", [save_checkpoint, GeneformerForMaskedLM.save_pretrained])
def test_from_pretrained_reads_both_ways_of_saving(bert, cells, save, tmp_path):
    save(ours(bert), tmp_path / "saved")
    model, report = GeneformerForMaskedLM.from_pretrained(tmp_path / "saved", output_loading_info=True)
    assert not any(report.values()), report
    assert_close(logits_of_ours(model, cells), logits_of_bert(bert, cells), **CLOSE)


def test_half_precision_files_are_read_into_float32(bert, tmp_path):
    save_checkpoint(ours(bert), tmp_path, dtype=torch.float16)
    assert {value.dtype for value in load_file(tmp_path / "model.safetensors").values()} == {torch.float16}
    assert read_config(tmp_path).dtype == torch.float16
    model, _ = open_here(tmp_path)
    assert {value.dtype for value in model.state_dict().values()} == {torch.float32}


def test_entries_of_old_files_are_understood(bert, cells, tmp_path):
    bert.save_pretrained(tmp_path)
    weights = load_file(tmp_path / "model.safetensors")
    extra = {
        "bert.embeddings.position_ids": torch.arange(32)[None],
        "cls.predictions.decoder.weight": weights["bert.embeddings.word_embeddings.weight"].clone(),
        "cls.predictions.decoder.bias": weights["cls.predictions.bias"].clone(),
        "cls.seq_relationship.weight": torch.zeros(2, 16),
    }
    save_file(weights | extra, tmp_path / "model.safetensors")
    model, _ = open_here(tmp_path)
    assert_close(logits_of_ours(model, cells), logits_of_bert(bert, cells), **CLOSE)


def test_a_bare_encoder_is_read_without_a_head(bert, cells, tmp_path):
    bert.bert.save_pretrained(tmp_path)
    model, has_head = open_here(tmp_path)
    assert not has_head
    with torch.no_grad():
        expected = cells.pack(bert.bert(cells.padded, cells.attention_mask).last_hidden_state)
        assert_close(model.bert(cells.input_ids, cells.cu_seqlens), expected, **CLOSE)


def test_a_fine_tuned_classifier_gives_its_encoder(cells, tmp_path):
    torch.manual_seed(0)
    classifier = BertForSequenceClassification(small_config()).eval()
    classifier.save_pretrained(tmp_path)
    model, has_head = open_here(tmp_path)
    assert not has_head
    with torch.no_grad():
        expected = cells.pack(classifier.bert(cells.padded, cells.attention_mask).last_hidden_state)
        assert_close(model.bert(cells.input_ids, cells.cu_seqlens), expected, **CLOSE)
