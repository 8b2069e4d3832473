"""Damaged, incomplete, foreign and hostile checkpoint folders get their typed error, and nothing is run."""

import json
import os

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch.testing import assert_close
from transformers import BertForSequenceClassification

from geneformer.errors import CheckpointError, ConversionNeededError, PlaceholderFileError, UnsafeFileError
from geneformer.models.loading import build_model, convert_pickled, read_config, read_weights, save_checkpoint
from models.reference_bert import ours, random_bert, random_cells, small_config

POINTER = "version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 41183536\n"


@pytest.fixture
def folder(tmp_path):
    save_checkpoint(ours(random_bert(small_config())), tmp_path / "model")
    return tmp_path / "model"


@pytest.fixture
def pickled(folder):
    """The same checkpoint with pickled weights."""
    torch.save(load_file(folder / "model.safetensors"), folder / "pytorch_model.bin")
    (folder / "model.safetensors").unlink()
    return folder


def open_folder(folder):
    return build_model(read_config(folder), read_weights(folder), str(folder))


def change_config(folder, **entries):
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | entries))


def change_weights(folder, change):
    weights = load_file(folder / "model.safetensors")
    change(weights)
    save_file(weights, folder / "model.safetensors")


def test_a_folder_without_a_config_is_no_checkpoint(folder):
    (folder / "config.json").unlink()
    with pytest.raises(CheckpointError, match=r"no config\.json in it. Found \['model\.safetensors'\]"):
        open_folder(folder)


@pytest.mark.parametrize("text", ["", "{", "[]", '"bert"', "null", "\x80\x81"])
def test_a_config_that_is_no_json_object_is_damaged(folder, text):
    (folder / "config.json").write_bytes(text.encode("latin-1"))
    with pytest.raises(CheckpointError, match=r"config\.json.*(not valid JSON|JSON object)"):
        open_folder(folder)


@pytest.mark.parametrize(
    "entries",
    [
        {"model_type": "gpt2"},
        {"model_type": None},
        {"position_embedding_type": "relative_key"},
        {"is_decoder": True},
        {"hidden_act": "relux"},
        {"hidden_size": "16"},
        {"hidden_size": None},
        {"hidden_size": 17},
        {"num_attention_heads": 0},
        {"num_hidden_layers": -1},
        {"vocab_size": 1e3},
        {"layer_norm_eps": "tiny"},
        {"pad_token_id": 60},
    ],
    ids=str,
)
def test_a_network_that_cannot_be_built_is_refused(folder, entries):
    change_config(folder, **entries)
    with pytest.raises(CheckpointError, match=next(iter(entries))) as refusal:
        open_folder(folder)
    assert str(folder) in str(refusal.value)


def test_missing_weights_are_named(folder):
    (folder / "model.safetensors").unlink()
    with pytest.raises(CheckpointError, match=r"no model\.safetensors"):
        open_folder(folder)


@pytest.mark.parametrize("keep", [0, 4, 100, -1])
def test_truncated_weights_are_damaged(folder, keep):
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(CheckpointError, match=r"damaged or incomplete"):
        open_folder(folder)


@pytest.mark.parametrize("name", ["config.json", "model.safetensors"])
def test_a_pointer_is_no_file(folder, name):
    (folder / name).write_text(POINTER)
    with pytest.raises(PlaceholderFileError, match="git lfs pull"):
        open_folder(folder)


def test_a_missing_entry_is_named(folder):
    change_weights(folder, lambda weights: weights.pop("bert.encoder.layer.1.output.dense.bias"))
    with pytest.raises(CheckpointError, match=r"missing \['bert\.encoder\.layer\.1\.output\.dense\.bias'\]"):
        open_folder(folder)


def test_an_unknown_entry_is_named(folder):
    change_weights(folder, lambda weights: weights.update({"bert.encoder.layer.2.output.dense.bias": torch.zeros(1)}))
    with pytest.raises(CheckpointError, match=r"unknown \['bert\.encoder\.layer\.2"):
        open_folder(folder)


def test_a_wrong_shape_is_named_with_the_right_one(folder):
    change_config(folder, vocab_size=61)
    with pytest.raises(CheckpointError, match=r"\(60(, 16)?,?\), config\.json calls for \(61"):
        open_folder(folder)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_weights_that_are_not_finite_are_refused(folder, value):
    change_weights(folder, lambda weights: weights["cls.predictions.bias"].__setitem__(3, value))
    with pytest.raises(CheckpointError, match=r"cls\.predictions\.bias.*not finite"):
        open_folder(folder)


def test_pickled_weights_are_only_read_on_request(pickled):
    with pytest.raises(ConversionNeededError, match="Convert it once"):
        open_folder(pickled)


def test_conversion_keeps_every_weight(pickled, tmp_path):
    convert_pickled(pickled, tmp_path / "converted")
    model, has_head = open_folder(tmp_path / "converted")
    assert has_head
    expected = torch.load(pickled / "pytorch_model.bin", weights_only=True)
    for name, value in model.state_dict().items():
        assert torch.equal(value, expected[name])


def test_conversion_keeps_the_head_of_a_classifier(tmp_path):
    classifier = BertForSequenceClassification(small_config()).eval()
    classifier.save_pretrained(tmp_path / "saved")
    torch.save(classifier.state_dict(), tmp_path / "saved" / "pytorch_model.bin")
    (tmp_path / "saved" / "model.safetensors").unlink()
    convert_pickled(tmp_path / "saved", tmp_path / "converted")
    assert not open_folder(tmp_path / "converted")[1]
    again = BertForSequenceClassification.from_pretrained(tmp_path / "converted")
    cells = random_cells((5, 2), 60)
    with torch.no_grad():
        assert_close(
            again(cells.padded, cells.attention_mask).logits, classifier(cells.padded, cells.attention_mask).logits
        )


class Hostile:
    """Makes a file when it is unpickled."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.mkdir, (str(self.path),)


def test_a_pickle_that_runs_code_is_refused_and_not_run(pickled, tmp_path):
    torch.save({"bert.weight": Hostile(tmp_path / "made")}, pickled / "pytorch_model.bin")
    with pytest.raises(UnsafeFileError, match=r"asks for \w+\.mkdir"):
        convert_pickled(pickled, tmp_path / "converted")
    assert not (tmp_path / "made").exists()
    assert not (tmp_path / "converted").exists()


@pytest.mark.parametrize("content", [[1, 2], torch.zeros(3), {"bert.weight": "text"}], ids=["list", "tensor", "text"])
def test_a_pickle_without_named_tensors_is_refused(pickled, tmp_path, content):
    torch.save(content, pickled / "pytorch_model.bin")
    with pytest.raises(CheckpointError, match="does not hold tensors by name"):
        convert_pickled(pickled, tmp_path / "converted")


@pytest.mark.filterwarnings("ignore:Detected pickle protocol")
@pytest.mark.parametrize("content", [b"", b"hello world", b"\x80\x02}q\x00.", b"PK\x03\x04", b"\x80\x04\x95"])
def test_a_damaged_pickle_is_refused(pickled, tmp_path, content):
    (pickled / "pytorch_model.bin").write_bytes(content)
    with pytest.raises(CheckpointError, match=r"pytorch_model\.bin.*damaged"):
        convert_pickled(pickled, tmp_path / "converted")


def test_there_must_be_something_to_convert(folder, tmp_path):
    with pytest.raises(CheckpointError, match=r"pytorch_model\.bin does not exist"):
        convert_pickled(folder, tmp_path / "converted")
