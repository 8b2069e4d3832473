"""Architectures by name and from files."""

import json

import pytest
import torch

from geneformer.errors import CheckpointError, UnknownModelError
from geneformer.models.heads import GeneformerForMaskedLM
from geneformer.models.hub import ARCHITECTURES
from geneformer.models.loading import architecture_config
from models.reference_bert import small_config

PUBLISHED = {
    "V1-10M": (6, 256, 4, 512, 2048),
    "V1-12L": (12, 512, 8, 1024, 2048),
    "V2-104M": (12, 768, 12, 3072, 4096),
    "V2-316M": (18, 1152, 18, 4608, 4096),
}
N_WEIGHTS = {"V1-10M": 10.3e6, "V2-104M": 104e6, "V2-316M": 316e6}


@pytest.fixture
def config_file(tmp_path):
    path = tmp_path / "config.json"
    path.write_text(json.dumps(small_config().to_dict()))
    return path


@pytest.mark.parametrize("name", PUBLISHED)
def test_published_shapes(name):
    config = architecture_config(name, vocab_size=99)
    assert config.vocab_size == 99
    assert config.hidden_act == "relu"
    assert (
        config.num_hidden_layers,
        config.hidden_size,
        config.num_attention_heads,
        config.intermediate_size,
        config.max_position_embeddings,
    ) == PUBLISHED[name]


@pytest.mark.parametrize("name", N_WEIGHTS)
def test_names_say_how_many_weights_there_are(name):
    size = {"V1": 25_426, "V2": 20_275}[ARCHITECTURES[name].vocabulary]
    with torch.device("meta"):
        model = GeneformerForMaskedLM(architecture_config(name, vocab_size=size))
    assert model.num_parameters() == pytest.approx(N_WEIGHTS[name], rel=0.02)


def test_a_config_file_or_its_folder_gives_any_other_shape(config_file):
    for where in (config_file, config_file.parent):
        config = architecture_config(where, vocab_size=77)
        assert (config.hidden_size, config.num_hidden_layers, config.vocab_size) == (16, 2, 77)


def test_an_unknown_name_is_refused_with_the_nearest():
    with pytest.raises(UnknownModelError, match='Did you mean "V1-10M"'):
        architecture_config("V1-10", vocab_size=9)


def test_a_damaged_config_file_is_refused(config_file):
    config_file.write_text("{")
    with pytest.raises(CheckpointError, match="not valid JSON"):
        architecture_config(config_file, vocab_size=9)
