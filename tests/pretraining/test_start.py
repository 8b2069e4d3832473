"""Pretraining that goes on from a model: what is kept, what is learnt, and what does not go together."""

import json

import numpy as np
import pytest
import torch
from transformers import BertForMaskedLM

from geneformer.errors import (
    CheckpointError,
    OptionError,
    OutOfRangeError,
    RunMismatchError,
    UnknownModelError,
    VocabularyMismatchError,
)
from geneformer.models.hub import WEIGHTS
from geneformer.models.loading import HEAD, load_model, save_checkpoint
from geneformer.options import PretrainOptions
from geneformer.pretraining.corpus import open_corpus
from small_runs import RUNTIME, options_for, run, tokenized, write_cells


@pytest.fixture(scope="module")
def dataset(tmp_path_factory):
    return tokenized(write_cells(tmp_path_factory.mktemp("cells")))


@pytest.fixture(scope="module")
def first(dataset, tmp_path_factory):
    """A run of 30 steps, with its folder."""
    folder = tmp_path_factory.mktemp("first")
    return run(dataset, folder / "out", options_for(folder, max_steps=30, held_out=0.2))


def weights_of(folder):
    return load_model(folder).network.state_dict()


def test_the_weights_are_where_it_begins(first, dataset, tmp_path):
    options = options_for(tmp_path, start_from=str(first.folder), max_steps=1, learning_rate=1e-12)
    again = run(dataset, tmp_path / "out", options)
    before, after = weights_of(first.folder), weights_of(again.folder)
    assert before.keys() == after.keys()
    for name in before:
        torch.testing.assert_close(after[name], before[name], atol=1e-9, rtol=0, msg=name)
    BertForMaskedLM.from_pretrained(again.folder)


def test_it_goes_on_learning(first, dataset, tmp_path):
    options = options_for(tmp_path, start_from=str(first.folder), max_steps=30, held_out=0.2)
    second = run(dataset, tmp_path / "out", options)
    losses = [[line["loss"] for line in result.history if "loss" in line] for result in (first, second)]
    assert np.mean(losses[1][:3]) < np.mean(losses[0][:3]) - 0.5
    assert np.mean(losses[1][-5:]) < np.mean(losses[0][-5:])
    record = json.loads((second.folder / "pretraining.json").read_text())
    assert record["options"]["start_from"] == str(first.folder)


def test_a_run_is_not_resumed_from_another_start(first, dataset, tmp_path):
    options = options_for(tmp_path, start_from=str(first.folder), save_steps=3)
    run(dataset, tmp_path / "out", options)
    with pytest.raises(RunMismatchError, match="start_from was"):
        run(dataset, tmp_path / "out", options_for(tmp_path, start_from="mini"), resume=True)


@pytest.mark.parametrize("changes", [{"architecture": "V1-10M"}, {"spectral_start": True}, {"relative_positions": 8}])
def test_two_beginnings_are_refused(changes):
    with pytest.raises(OptionError, match=rf"{next(iter(changes))}=.* says how an encoder begins"):
        PretrainOptions(start_from="mini", **changes)


def test_another_vocabulary_is_refused_before_counts_are_read(tmp_path, dataset):
    options = options_for(tmp_path, start_from="mini", vocabulary="V2")
    with pytest.raises(VocabularyMismatchError, match="another vocabulary than V2"):
        open_corpus([tmp_path / "not_read.h5ad"], tmp_path / "out", options, RUNTIME)
    with pytest.raises(UnknownModelError, match="nowhere"):
        run(dataset, tmp_path / "out", options_for(tmp_path, start_from="nowhere"))
    assert not (tmp_path / "out").exists()


def test_a_model_without_a_head_is_refused(first, dataset, tmp_path):
    from safetensors.torch import load_file, save_file

    save_checkpoint(load_model(first.folder).network, tmp_path / "bare")
    weights = load_file(tmp_path / "bare" / WEIGHTS)
    save_file({n: v for n, v in weights.items() if not n.startswith(HEAD)}, tmp_path / "bare" / WEIGHTS)
    with pytest.raises(CheckpointError, match="no vocabulary head"):
        run(dataset, tmp_path / "out", options_for(tmp_path, start_from=str(tmp_path / "bare")))
    assert not (tmp_path / "out").exists()


def test_a_contrastive_layer_below_the_encoder_is_refused(dataset, tmp_path):
    with pytest.raises(OutOfRangeError, match=r"contrastive_layer=-3, but .* has 2 layers"):
        run(dataset, tmp_path / "out", options_for(tmp_path, contrastive_layer=-3))
    with pytest.raises(OutOfRangeError, match=r"contrastive_layer=-3, but .* has 2 layers"):
        open_corpus(
            [tmp_path / "not_read.h5ad"], tmp_path / "out", options_for(tmp_path, contrastive_layer=-3), RUNTIME
        )
    with pytest.raises(OutOfRangeError, match="contrastive_layer=1"):
        PretrainOptions(contrastive_layer=1)
    assert not (tmp_path / "out").exists()
