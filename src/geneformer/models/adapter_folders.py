"""Folders of adapters, as PEFT writes them: the encoder of the model they were trained on, with them in its weights."""

import json
from pathlib import Path

from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from geneformer.errors import CheckpointError
from geneformer.models.given_adapters import ADAPTER_CONFIG, ADAPTER_WEIGHTS, read_adapters
from geneformer.models.heads import GeneformerForMaskedLM

_ENCODER = ".bert."
_POOLER = ".bert.pooler."


def is_adapter_folder(folder: Path) -> bool:
    """Whether a folder holds changes to the weights of a model that lies elsewhere."""
    return (folder / ADAPTER_CONFIG).is_file()


def adapter_base(folder: Path) -> str:
    """Name or folder of the model that the adapters were trained on.

    Raises
    ------
    CheckpointError
        The folder does not tell.
    """
    path = folder / ADAPTER_CONFIG
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        msg = f"{path} cannot be read as JSON ({error}). Copy it again."
        raise CheckpointError(msg) from error
    base = content.get("base_model_name_or_path") if isinstance(content, dict) else None
    if not isinstance(base, str) or not base:
        msg = f"{path} does not name the model it was trained on (base_model_name_or_path). Add its folder there."
        raise CheckpointError(msg)
    return base


def adapter_entries(folder: Path) -> dict[str, Tensor]:
    """Entries of `adapter_model.safetensors`, heads among them.

    Raises
    ------
    CheckpointError
        No such file, or a damaged one.
    """
    path = folder / ADAPTER_WEIGHTS
    if not path.is_file():
        msg = f"{folder} has no {ADAPTER_WEIGHTS}. Found {sorted(p.name for p in folder.iterdir())[:8]}."
        raise CheckpointError(msg)
    try:
        return load_file(path)
    except (SafetensorError, OSError, ValueError) as error:
        msg = f"{path} ({path.stat().st_size:,} bytes) is damaged or incomplete: {error}. Copy it again."
        raise CheckpointError(msg) from error


def adapt_encoder(network: GeneformerForMaskedLM, folder: Path) -> GeneformerForMaskedLM:
    """The network with the adapters of a folder in the weights of its encoder, in place; heads are passed over.

    Adapters that were learnt over weights of few bits are added to weights of full precision.

    Parameters
    ----------
    network
        The model that `adapter_base` names.
    folder
        Folder with `adapter_config.json`.

    Raises
    ------
    CheckpointError
        The adapters are damaged, or do not fit.
    MissingExtraError
        peft is not installed.
    """
    entries = adapter_entries(folder)
    encoder = {name: value for name, value in entries.items() if _ENCODER in name and _POOLER not in name}
    read_adapters(network, folder, encoder)
    return network.requires_grad_(False).train(False)
