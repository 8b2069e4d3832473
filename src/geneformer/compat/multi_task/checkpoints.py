"""Folders of multi-task classifiers in the published layout: written, read, and reduced to the encoder."""

import json
from collections.abc import Mapping, Sequence
from copy import deepcopy
from pathlib import Path
from typing import Any

from torch import Tensor
from transformers import BertConfig

from geneformer.errors import CheckpointError
from geneformer.estimators.base import Pairing
from geneformer.models.architectures import write_config
from geneformer.models.cell_heads import GeneformerForCells, HeadSpec
from geneformer.models.checkpoint import PICKLED_WEIGHTS, WEIGHTS, read_config, read_weights, unpickle_weights
from geneformer.models.finetuned import filled
from geneformer.models.loading import recognize_vocabulary
from geneformer.runs.files import atomic_file

FOLDER = "GeneformerMultiTask"
"""Folder of the network within `model_save_path`."""

HYPERPARAMETERS = "hyperparameters.json"

_ENCODER, _POOLER = "bert.", "bert.pooler."
_PUBLISHED = {"pool.": "attention_pool.", "heads.": "classification_heads."}
"""Prefixes of parameters that are called otherwise here."""


def save_tasks(network: GeneformerForCells, folder: Path, hyperparameters: Mapping[str, Any]) -> Path:
    """Write `pytorch_model.bin`, `config.json` and `hyperparameters.json`; returns the folder.

    The configuration also says how cells are pooled, and which classes the heads have.

    Parameters
    ----------
    network
        Fine-tuned network.
    folder
        Made if missing; files of the same names are replaced.
    hyperparameters
        What it was trained with.
    """
    import torch

    folder.mkdir(parents=True, exist_ok=True)
    state = {_renamed(name, _PUBLISHED): value.detach().cpu() for name, value in network.state_dict().items()}
    (folder / WEIGHTS).unlink(missing_ok=True)  # of another network, it would be read in the place of this one
    with atomic_file(folder / PICKLED_WEIGHTS, overwrite=True) as temporary:
        torch.save(state, temporary)
    write_config(deepcopy(network.config), folder)
    (folder / HYPERPARAMETERS).write_text(json.dumps(dict(hyperparameters), indent=2) + "\n", encoding="utf-8")
    return folder


def load_tasks(folder: str | Path, classes: Mapping[str, Sequence[Any]]) -> tuple[GeneformerForCells, Pairing]:
    """A network as `save_tasks` or the published package wrote it, and what tokens for it depend on.

    Whether cells are pooled by attention is seen from the weights, so that it does not matter who wrote them.

    Parameters
    ----------
    folder
        Folder of the network.
    classes
        Classes of each task, in the order of the heads and of their outputs.

    Raises
    ------
    CheckpointError
        No such network, or one with other tasks or classes.
    """
    config, weights = _read(Path(folder))
    back = {published: own for own, published in _PUBLISHED.items()}
    state = {_renamed(name, back): value for name, value in weights.items() if not name.startswith(_POOLER)}
    state = {name: value for name, value in state.items() if not name.endswith("position_ids")}
    sizes = [
        len(state[name]) for name in sorted(state, key=_head) if name.startswith("heads.") and name[-7:] == ".weight"
    ]
    asked = [len(values) for values in classes.values()]
    if sizes != asked:
        msg = (
            f"{folder} has heads for {sizes} classes, but the tasks {list(classes)} have {asked}. Give the columns, "
            "and the label mappings or training data, that it was trained with."
        )
        raise CheckpointError(msg)
    specs = [HeadSpec(name=name, classes=tuple(map(str, values))) for name, values in classes.items()]
    config.geneformer_heads = [spec.to_dict() for spec in specs]
    config.geneformer_pooling = "attention" if "pool.attention_weights" in state else "cls"
    config.geneformer_learn_task_weights = False
    pairing = Pairing(
        str(folder), recognize_vocabulary(config, Path(folder), None), int(config.max_position_embeddings)
    )
    return filled(GeneformerForCells, config, state, str(folder)), pairing


def save_encoder(folder: str | Path, output: Path) -> Path:
    """Write the encoder of a multi-task network, without heads and pooling; returns the folder.

    `transformers.BertModel` and `geneformer.load_model` open it.

    Parameters
    ----------
    folder
        Folder of the network.
    output
        Made if missing; files of the same names are replaced.

    Raises
    ------
    CheckpointError
        No encoder there.
    """
    from safetensors.torch import save_file

    config, weights = _read(Path(folder))
    encoder = {name: value for name, value in weights.items() if name.startswith(_ENCODER)}
    if not encoder:
        msg = f"{folder} holds no weights that start with {_ENCODER!r}. Give the folder of a multi-task classifier."
        raise CheckpointError(msg)
    output.mkdir(parents=True, exist_ok=True)
    with atomic_file(output / WEIGHTS, overwrite=True) as temporary:
        save_file(encoder, temporary, metadata={"format": "pt"})
    for name in ("geneformer_heads", "geneformer_pooling", "geneformer_learn_task_weights"):
        if hasattr(config, name):
            delattr(config, name)
    write_config(config, output, architecture="BertModel")
    return output


def _read(folder: Path) -> tuple[BertConfig, dict[str, Tensor]]:
    """Configuration and weights, whichever way they are stored; nothing is converted for being read once."""
    if not folder.is_dir():
        msg = f"{folder} does not exist. Train a network first, or give the model_save_path of one."
        raise CheckpointError(msg)
    pickled = (folder / PICKLED_WEIGHTS).is_file() and not (folder / WEIGHTS).is_file()
    return read_config(folder), unpickle_weights(folder / PICKLED_WEIGHTS) if pickled else read_weights(folder)


def _renamed(name: str, prefixes: Mapping[str, str]) -> str:
    for old, new in prefixes.items():
        if name.startswith(old):
            return new + name.removeprefix(old)
    return name


def _head(name: str) -> tuple[int, str]:
    """Number of the head a parameter belongs to, so that the tenth comes after the second."""
    parts = name.split(".")
    return (int(parts[1]) if parts[0] == "heads" and parts[1].isdigit() else -1), name
