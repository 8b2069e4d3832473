"""Model folders open as others do, nothing in them is run, and few bits are refused where they cannot be."""

import json
import shutil
import sys
from types import SimpleNamespace

import pytest
import torch
from transformers import BertConfig, BertForSequenceClassification

import geneformer as gf
from geneformer.compat.networks import check_low_bit, readable_folder
from geneformer.errors import (
    CheckpointError,
    DeviceError,
    MissingExtraError,
    OutputError,
    PlaceholderFileError,
    UnknownChoiceError,
    UnknownModelError,
    UnsafeFileError,
)
from geneformer.models.loading import read_weights

pytestmark = pytest.mark.contract


@pytest.fixture
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("GENEFORMER_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def pickled(published_inputs, tmp_path):
    """The bundled model as older folders have it: pickled weights only."""
    folder = tmp_path / "pickled"
    folder.mkdir()
    shutil.copy(published_inputs / "V1" / "config.json", folder)
    torch.save(read_weights(published_inputs / "V1"), folder / "pytorch_model.bin")
    return folder


def test_a_folder_with_safetensors_is_itself(published_inputs, cache):
    assert readable_folder(published_inputs / "V1") == published_inputs / "V1"
    assert not cache.exists()


def test_names_are_known_too(cache):
    assert readable_folder("mini").name == "mini"


def test_pickled_weights_are_converted_once_and_are_the_same(pickled, published_inputs, cache):
    folder = readable_folder(pickled)
    written = (folder / "model.safetensors").stat().st_mtime_ns
    assert cache in folder.parents
    ours, theirs = read_weights(folder), read_weights(published_inputs / "V1")
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)
    assert gf.load_model(folder).vocabulary.name == "V1"
    assert readable_folder(str(pickled)) == folder
    assert (folder / "model.safetensors").stat().st_mtime_ns == written
    assert sorted(file.name for file in pickled.iterdir()) == ["config.json", "pytorch_model.bin"]


def test_other_weights_in_the_same_place_are_converted_anew(pickled, cache):
    first = readable_folder(pickled)
    state = torch.load(pickled / "pytorch_model.bin", weights_only=True)
    torch.save({name: value + 1 for name, value in state.items()}, pickled / "pytorch_model.bin")
    second = readable_folder(pickled)
    name = "bert.encoder.layer.0.output.dense.bias"
    assert second != first
    assert torch.equal(read_weights(second)[name], read_weights(first)[name] + 1)


def test_heads_of_fine_tuned_folders_are_kept(published_inputs, tmp_path, cache):
    config = BertConfig.from_pretrained(published_inputs / "V1", num_labels=3)
    network = BertForSequenceClassification(config)
    folder = tmp_path / "classifier"
    folder.mkdir()
    config.save_pretrained(folder)
    torch.save(network.state_dict(), folder / "pytorch_model.bin")
    weights = read_weights(readable_folder(folder))
    assert torch.equal(weights["classifier.weight"], network.classifier.weight)


def test_weights_that_ask_for_code_are_refused(pickled, cache):
    class Asking:
        def __reduce__(self):
            return (json.dumps, ("run",))

    torch.save({"bert.x": Asking()}, pickled / "pytorch_model.bin")
    with pytest.raises(UnsafeFileError, match=r"json\.dumps"):
        readable_folder(pickled)
    assert not list(cache.rglob("*.safetensors"))


def test_a_pointer_in_place_of_weights_is_named(pickled, cache):
    (pickled / "pytorch_model.bin").write_text("version https://git-lfs.github.com/spec/v1\n")
    with pytest.raises(PlaceholderFileError, match="git lfs pull"):
        readable_folder(pickled)


def test_the_folder_above_a_model_is_refused_and_the_model_named(pickled, cache):
    with pytest.raises(CheckpointError, match=r"pickled.*Give .*pickled"):
        readable_folder(pickled.parent)


def test_no_folder_at_all(tmp_path):
    with pytest.raises(UnknownModelError):
        readable_folder(tmp_path / "nothing")


def test_a_cache_that_cannot_be_written_is_named_with_the_way_out(pickled, monkeypatch, tmp_path):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("GENEFORMER_CACHE", str(tmp_path / "file" / "cache"))
    with pytest.raises(OutputError, match="Set GENEFORMER_CACHE"):
        readable_folder(pickled)


ACCELERATOR = torch.device("cuda")


def test_full_precision_runs_everywhere(monkeypatch):
    monkeypatch.setitem(sys.modules, "bitsandbytes", None)
    for device in (torch.device("cpu"), ACCELERATOR):
        check_low_bit("full", device)


@pytest.mark.parametrize("bits", ["8bit", "4bit"])
def test_a_cpu_is_refused_with_or_without_the_library(bits, monkeypatch):
    for library in (None, SimpleNamespace(supported_torch_devices={"cuda", "cpu"})):
        monkeypatch.setitem(sys.modules, "bitsandbytes", library)
        with pytest.raises(DeviceError, match=f"{bits} .*on a CPU.*Leave them whole"):
            check_low_bit(bits, torch.device("cpu"))


def test_without_the_library_it_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "bitsandbytes", None)
    with pytest.raises(MissingExtraError, match="pip install bitsandbytes"):
        check_low_bit("4bit", ACCELERATOR)


def test_a_device_the_library_does_not_know_is_refused(monkeypatch):
    library = SimpleNamespace(supported_torch_devices={"xpu", "hpu", "cpu"})
    monkeypatch.setitem(sys.modules, "bitsandbytes", library)
    check_low_bit("4bit", torch.device("xpu"))
    with pytest.raises(DeviceError, match=r'device "cuda": bitsandbytes has kernels for hpu, xpu\.'):
        check_low_bit("4bit", ACCELERATOR)


def test_another_precision_is_refused():
    with pytest.raises(UnknownChoiceError, match='Choose "full", "8bit", "4bit"'):
        check_low_bit("2bit", ACCELERATOR)
