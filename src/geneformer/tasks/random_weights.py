"""The baseline of having learnt nothing: a model's shape with weights as they are before training."""

from copy import deepcopy
from pathlib import Path

import torch

from geneformer.models.checkpoint import save_checkpoint
from geneformer.models.heads import GeneformerForMaskedLM
from geneformer.models.loading import load_model


def save_random_weights(model: str | Path, folder: Path, *, seed: int = 0) -> Path:
    """A checkpoint of the same shape and vocabulary as `model`, with random weights; returns its folder.

    Parameters
    ----------
    model
        Name or folder of the model to take shape and vocabulary from.
    folder
        Folder to write.
    seed
        Fixes the weights. The global random state is left alone.
    """
    config = deepcopy(load_model(model).network.config)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        network = GeneformerForMaskedLM(config)
    save_checkpoint(network, folder)
    return folder
