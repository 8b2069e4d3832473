"""Frozen dense layers in 8 or 4 bits, through bitsandbytes.

Eight bits keep rows of integers with outliers in half precision (Dettmers et al., LLM.int8(), 2022); four bits are
normal floats in blocks (Dettmers et al., QLoRA, 2023). Weights are rounded when the network is moved to its device.
"""

from importlib import import_module
from typing import Any, Literal

import torch
from torch import nn

from geneformer.errors import MissingExtraError


def low_bit_library() -> Any:
    """The module bitsandbytes.

    Raises
    ------
    MissingExtraError
        It is not installed.
    """
    try:
        return import_module("bitsandbytes")
    except ImportError as error:
        msg = 'bits="8bit" and bits="4bit" need bitsandbytes: pip install bitsandbytes. Or leave bits at "full".'
        raise MissingExtraError(msg) from error


def quantize_linears(module: nn.Module, bits: Literal["8bit", "4bit"]) -> int:
    """Replace the dense layers within a module by frozen ones of few bits; returns how many there were.

    Parameters
    ----------
    module
        Changed in place.
    bits
        Bits of a weight; biases stay as they are.

    Raises
    ------
    MissingExtraError
        bitsandbytes is not installed.
    """
    library = low_bit_library()
    found = [name for name, part in module.named_modules() if type(part) is nn.Linear]
    for name in found:
        plain = module.get_submodule(name)
        module.set_submodule(name, _few_bits(library, plain, bits))
    return len(found)


def _few_bits(library: Any, plain: Any, bits: Literal["8bit", "4bit"]) -> nn.Module:
    shape = plain.in_features, plain.out_features, plain.bias is not None
    weight = plain.weight.data
    if bits == "8bit":
        layer = library.nn.Linear8bitLt(*shape, has_fp16_weights=False, threshold=6.0)
        layer.weight = library.nn.Int8Params(weight, requires_grad=False, has_fp16_weights=False)
    else:
        layer = library.nn.Linear4bit(*shape, quant_type="nf4")
        layer.weight = library.nn.Params4bit(weight, requires_grad=False, quant_type="nf4")
    layer.bias = plain.bias
    return layer.to(weight.device).train(plain.training)


def restore_linears(module: nn.Module) -> int:
    """Turn layers of few bits back into plain ones with the weights they compute with; returns how many there were."""
    found = [name for name, part in module.named_modules() if isinstance(part, nn.Linear) and is_low_bit(part)]
    for name in found:
        module.set_submodule(name, plain_linear(module.get_submodule(name)))
    return len(found)


def is_low_bit(layer: nn.Module) -> bool:
    """Whether a layer keeps its weights in few bits."""
    return type(layer).__module__.startswith("bitsandbytes.")


def plain_linear(layer: Any, update: torch.Tensor | None = None) -> nn.Linear:
    """A plain dense layer that computes the same as a given one.

    Parameters
    ----------
    layer
        Plain, or of few bits.
    update
        Added to the weights, ``(out, in)``.
    """
    if is_low_bit(layer):
        from peft.utils.integrations import dequantize_module_weight

        # The library may have repacked the weights for its own reading; asked for its state, it puts them back.
        layer.state_dict()
        weight = dequantize_module_weight(layer).detach().float()
    else:
        weight = layer.weight.detach()
    plain = nn.Linear(layer.in_features, layer.out_features, bias=layer.bias is not None, device="meta")
    summed = weight if update is None else weight + update.to(weight)
    plain.weight = nn.Parameter(summed, requires_grad=False)
    if layer.bias is not None:
        plain.bias = nn.Parameter(layer.bias.detach().to(summed.dtype), requires_grad=layer.bias.requires_grad)
    return plain.train(layer.training)
