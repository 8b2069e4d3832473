"""Pretraining encoders with relative positions and windows: they learn, are saved as what they are, and load again."""

import json

import numpy as np
import pytest
import torch

from geneformer.errors import OutOfRangeError, RunMismatchError
from geneformer.models.encoder import ATTENTION_WINDOW, RELATIVE_CLIP, extension
from geneformer.models.finetuned import apply_strategy, prepare_config
from geneformer.models.loading import load_model
from geneformer.options import FinetuneOptions, PretrainOptions
from small_runs import options_for, run, tokenized, write_cells


@pytest.fixture(scope="module")
def dataset(tmp_path_factory):
    return tokenized(write_cells(tmp_path_factory.mktemp("cells")))


@pytest.fixture(scope="module")
def finished(dataset, tmp_path_factory):
    folder = tmp_path_factory.mktemp("run")
    options = options_for(folder, max_steps=12, save_steps=6, relative_positions=8, attention_window=20)
    return run(dataset, folder / "out", options)


def test_the_loss_falls(finished):
    losses = [line["loss"] for line in finished.history if "loss" in line]
    assert np.mean(losses[-3:]) < np.mean(losses[:3])


def test_the_checkpoint_loads_with_its_positions_and_window(finished, dataset):
    folder = finished.folder
    loaded = load_model(folder)
    config = loaded.network.config
    assert (extension(config, RELATIVE_CLIP), extension(config, ATTENTION_WINDOW)) == (8, 20)
    weights = loaded.network.state_dict()
    assert "bert.embeddings.position_embeddings.weight" not in weights
    tables = [value for name, value in weights.items() if name.endswith("attention.self.distance_embedding.weight")]
    head_size = config.hidden_size // config.num_attention_heads
    assert [tuple(table.shape) for table in tables] == [(17, head_size)] * loaded.n_layers
    assert json.loads((folder / "config.json").read_text())["architectures"] == ["GeneformerForMaskedLM"]
    ids = torch.from_numpy(dataset[0][:60].copy()).long()
    with torch.no_grad():
        states = loaded.network.bert(ids, torch.tensor([0, 60]))
        # What lies beyond the windows of all layers cannot reach the first gene.
        changed = ids.clone()
        changed[20 * loaded.n_layers + 1 :] = ids[1]
        assert torch.equal(loaded.network.bert(changed, torch.tensor([0, 60]))[0], states[0])


def test_it_can_be_fine_tuned_as_it_is(finished):
    loaded = load_model(finished.folder)
    options = FinetuneOptions(strategy="last_layer", relative_positions=8)
    assert extension(prepare_config(loaded.network.config, options), ATTENTION_WINDOW) == 20
    assert any("distance_embedding" in name for name in apply_strategy(loaded.network, options).names)


def test_a_run_is_not_resumed_with_another_window(finished, dataset):
    result = finished
    changed = options_for(result.folder.parent, max_steps=14, relative_positions=8, attention_window=21)
    with pytest.raises(RunMismatchError, match="attention_window was 20 and is 21"):
        run(dataset, result.folder, changed, resume=True)


@pytest.mark.parametrize("option", ["relative_positions", "attention_window"])
def test_sizes_below_zero_are_refused(option):
    with pytest.raises(OutOfRangeError, match=f"{option}=-1"):
        PretrainOptions(**{option: -1})
