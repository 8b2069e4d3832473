"""Adapters that the user describes through PEFT: added to a whole network, and made part of its weights afterwards."""

import re
from collections.abc import Mapping
from copy import copy
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from geneformer.errors import CheckpointError, MissingExtraError, OptionError
from geneformer.models.low_bit import plain_linear, quantize_linears, restore_linears

ADAPTER_CONFIG = "adapter_config.json"
ADAPTER_WEIGHTS = "adapter_model.safetensors"

_SAVED_PREFIX = "base_model.model."
_LAYERED = re.compile(r"(lora_(?:A|B|embedding_A|embedding_B|magnitude_vector))(\.weight)?$")


def peft_library() -> Any:
    """The module peft.

    Raises
    ------
    MissingExtraError
        It is not installed.
    """
    try:
        import peft
    except ImportError as error:
        msg = 'Adapters need peft: pip install "geneformer[train]".'
        raise MissingExtraError(msg) from error
    return peft


def add_adapters(network: Any, config: Any, bits: str = "full") -> None:
    """Freeze a network but for its head, and add trained adapters to it, in place.

    Parameters
    ----------
    network
        Network with an encoder `bert`; head and pooler go on learning, as do modules that `config.modules_to_save`
        names.
    config
        Configuration of PEFT whose adapters are part of single layers, such as `LoraConfig`.
    bits
        "8bit" or "4bit" to keep the frozen dense layers of the encoder in so many bits.

    Raises
    ------
    OptionError
        The configuration is none of PEFT, does not fit, or is of a kind that is no part of single layers.
    MissingExtraError
        peft or bitsandbytes is not installed.
    """
    library = peft_library()
    if not isinstance(config, library.PeftConfig):
        msg = f"peft_config holds a {type(config).__name__}. Give a configuration of PEFT, such as peft.LoraConfig()."
        raise OptionError(msg)
    heads = [name for name, _ in network.named_parameters() if _is_head(name)]
    kept = tuple(config.modules_to_save or ()) if hasattr(config, "modules_to_save") else ()
    own = copy(config)
    own.modules_to_save = None
    stack = network.bert.encoder
    if bits != "full":
        quantize_linears(stack, bits)  # type: ignore[arg-type]
        network.is_loaded_in_8bit, network.is_loaded_in_4bit = bits == "8bit", bits == "4bit"
    try:
        library.inject_adapter_in_model(own, network)
    except (ValueError, TypeError, NotImplementedError, AttributeError) as error:
        msg = f"peft_config cannot be used with this network: {error}. LoraConfig with target_modules works."
        raise OptionError(msg) from error
    for name, parameter in network.named_parameters():
        if name in heads or any(part in name.split(".") for part in kept):
            parameter.requires_grad_(True)


def merge_adapters(network: Any) -> None:
    """Make adapters part of the weights, in place: BERT's own parameter names, equal outputs.

    Weights of few bits become plain ones of the same value. A network without either is left as it is.
    """
    for name, module in list(network.named_modules()):
        if not hasattr(module, "get_base_layer"):
            continue
        layer: Any = module
        base = layer.get_base_layer()
        if hasattr(layer, "get_delta_weight") and isinstance(base, nn.Linear) and not _has_magnitude(layer):
            network.set_submodule(name, plain_linear(base, layer.get_delta_weight("default")))
        else:
            layer.merge()
            network.set_submodule(name, layer.get_base_layer())
    restore_linears(network)
    for mark in ("is_loaded_in_8bit", "is_loaded_in_4bit", "peft_config"):
        if hasattr(network, mark):
            delattr(network, mark)


def read_adapters(network: Any, folder: Path, weights: Mapping[str, Tensor]) -> None:
    """Adapters as PEFT saved them in a folder, made part of the weights of a network, in place.

    Parameters
    ----------
    network
        Network the adapters were trained on, with its weights.
    folder
        Folder with `adapter_config.json`.
    weights
        Entries of `adapter_model.safetensors`.

    Raises
    ------
    CheckpointError
        The adapters do not fit.
    """
    config = peft_library().PeftConfig.from_pretrained(str(folder))
    add_adapters(network, config)
    own = network.state_dict()
    entries = {_own_name(name): value for name, value in weights.items()}
    unknown = [name for name in entries if name not in own or own[name].shape != entries[name].shape]
    if unknown:
        msg = f"{folder}: adapters for {unknown[:3]}, which the network does not have. Give the folder they belong to."
        raise CheckpointError(msg)
    with torch.no_grad():
        for name, value in entries.items():
            own[name].copy_(value)
    merge_adapters(network)


def _own_name(saved: str) -> str:
    """Name of a parameter in a network with adapters, from its name in a file of PEFT."""
    name = saved.removeprefix(_SAVED_PREFIX)
    return _LAYERED.sub(lambda found: f"{found[1]}.default{found[2] or ''}", name)


def _has_magnitude(layer: Any) -> bool:
    """Whether an update rescales the weights besides adding to them."""
    return len(getattr(layer, "lora_magnitude_vector", ())) > 0


def _is_head(name: str) -> bool:
    return not name.startswith("bert.") or name.startswith("bert.pooler.")
