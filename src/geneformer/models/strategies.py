"""Which parameters move while a network is fine-tuned, and what is added to it for that.

Parameters outside `network.bert`, and the pooler within it, are the head; it is always trained.
"""

import re
from copy import deepcopy
from dataclasses import dataclass
from typing import Any, cast

from transformers import BertConfig

from geneformer.errors import CheckpointError, MissingExtraError, OptionError, OutOfRangeError
from geneformer.models.encoder import GeneformerEncoder, GeneformerModel
from geneformer.models.extensions import ADAPTER_SIZE, ATTENTION_WINDOW, RELATIVE_CLIP, extension
from geneformer.models.low_bit import plain_linear, quantize_linears, restore_linears
from geneformer.options import FinetuneOptions

LORA_TARGETS = ("query", "value")
"""Dense layers with low-rank updates: those the paper adapts (Hu et al., LoRA, 2021)."""

_ENCODER = "bert."
_POOLER = "bert.pooler."
_LAYER = re.compile(r"bert\.encoder\.layer\.(\d+)\.")


@dataclass(frozen=True, slots=True)
class TrainedShare:
    """How much of a network moves.

    Attributes
    ----------
    trained, total
        Numbers of single weights.
    names
        Parameters that move, in the network's order.
    """

    trained: int
    total: int
    names: tuple[str, ...]


def prepare_config(config: BertConfig, options: FinetuneOptions) -> BertConfig:
    """Configuration of the network to fine-tune.

    Parameters
    ----------
    config
        Of the pretrained encoder; left as it is.
    options
        Strategy and architecture. Zero `relative_positions` and `attention_window` keep what the encoder was pretrained
        with.

    Raises
    ------
    OptionError
        Options that contradict each other.
    OutOfRangeError
        More layers to freeze than there are.
    CheckpointError
        Relative positions that the pretrained encoder does not have.
    """
    prepared = deepcopy(config)
    if options.strategy == "extra_layer":
        prepared.num_hidden_layers += 1
    check_strategy(prepared.num_hidden_layers, options)
    if options.strategy == "adapters":
        setattr(prepared, ADAPTER_SIZE, options.adapter_size)
    if options.relative_positions:
        _check_relative(extension(config, RELATIVE_CLIP), options)
        setattr(prepared, RELATIVE_CLIP, options.relative_positions)
    if options.attention_window:
        setattr(prepared, ATTENTION_WINDOW, options.attention_window)
    if options.dropout is not None:
        prepared.hidden_dropout_prob = options.dropout
        prepared.attention_probs_dropout_prob = options.dropout
        prepared.classifier_dropout = options.dropout
    return prepared


def check_strategy(n_layers: int, options: FinetuneOptions) -> None:
    """Refuse options that contradict each other or the encoder.

    Parameters
    ----------
    n_layers
        Layers of the encoder.
    options
        Strategy and what belongs to it.

    Raises
    ------
    OptionError
        `freeze_layers` or `bits` with a strategy they have no meaning for.
    OutOfRangeError
        More layers to freeze than there are.
    """
    if options.freeze_layers and options.strategy != "full":
        msg = (
            f'freeze_layers={options.freeze_layers} goes with strategy="full" only: "{options.strategy}" freezes every '
            "pretrained layer but those it names, so there is nothing left to choose. Leave one of the two out."
        )
        raise OptionError(msg)
    if options.freeze_layers > n_layers:
        msg = (
            f"freeze_layers={options.freeze_layers} is out of range: the encoder has {n_layers} layers. It takes a "
            f"number from 0 to {n_layers}."
        )
        raise OutOfRangeError(msg)
    if options.bits != "full" and options.strategy != "lora":
        msg = (
            f'bits="{options.bits}" goes with strategy="lora" only: weights of few bits cannot be trained themselves, '
            f'found strategy="{options.strategy}". Use strategy="lora", or bits="full".'
        )
        raise OptionError(msg)


def _check_relative(clip: int, options: FinetuneOptions) -> None:
    """Pretrained states rely on the positions they were trained with."""
    if options.weights == "random" or clip == options.relative_positions:
        return
    has = f"relative positions clipped at {clip}" if clip else "absolute positions"
    msg = (
        f"relative_positions={options.relative_positions}, but the pretrained encoder has {has}, and its states rely "
        'on them. Start from weights="random", pretrain an encoder with `relative_positions` first, or leave the '
        "option at 0 to keep the encoder's own."
    )
    raise CheckpointError(msg)


def apply_strategy(network: GeneformerModel, options: FinetuneOptions) -> TrainedShare:
    """Freeze what stays, let the rest learn, and add low-rank updates where they are wanted.

    - "full": everything, but for the lowest `freeze_layers` layers; the token embeddings go on learning, as published.
    - "last_layer": the top layer.
    - "extra_layer": the top layer, which is a new one if the network was built with `prepare_config`.
    - "adapters": the adapters and the layer norms of every layer, as in Houlsby et al. (2019), Figure 2; the layer norm
      of the embeddings stays.
    - "lora": low-rank updates of queries and values (Hu et al., 2021), by PEFT. They start as zero, and `merge_lora`
      makes them part of the weights.
    - "head": nothing.

    The head is trained as well. Dropout of frozen parts stays on in training mode.

    Parameters
    ----------
    network
        Network with an encoder `bert`; parameters are marked, and layers replaced, in place.
    options
        Strategy and what belongs to it.

    Returns
    -------
    TrainedShare
        Numbers of weights, those of low-rank updates included; weights of few bits count as weights.

    Raises
    ------
    OptionError
        Options that contradict each other, or adapters wanted in a network built without.
    OutOfRangeError
        More layers to freeze than there are.
    MissingExtraError
        A library that the strategy needs is not installed.
    """
    n_layers = int(network.config.num_hidden_layers)
    check_strategy(n_layers, options)
    if options.strategy == "adapters" and not extension(network.config, ADAPTER_SIZE):
        msg = 'strategy="adapters", but the network has none. Build it with the configuration of `prepare_config`.'
        raise OptionError(msg)
    total = sum(parameter.numel() for parameter in network.parameters())
    if options.strategy == "lora":
        total += _add_lora(network, options)
    trained = {}
    for name, parameter in network.named_parameters():
        parameter.requires_grad_(_is_head(name) or _learns(name, n_layers, options))
        if parameter.requires_grad:
            trained[name] = parameter.numel()
    return TrainedShare(sum(trained.values()), total, tuple(trained))


def _is_head(name: str) -> bool:
    return not name.startswith(_ENCODER) or name.startswith(_POOLER)


def _learns(name: str, n_layers: int, options: FinetuneOptions) -> bool:
    """Whether a parameter of the encoder moves."""
    found = _LAYER.match(name)
    layer = int(found[1]) if found else None
    if options.strategy == "full":
        return layer is None or layer >= options.freeze_layers
    if options.strategy in ("last_layer", "extra_layer"):
        return layer == n_layers - 1
    if options.strategy == "adapters":
        return layer is not None and (".adapter." in name or ".LayerNorm." in name)
    return options.strategy == "lora" and ".lora_" in name


def _add_lora(network: GeneformerModel, options: FinetuneOptions) -> int:
    """Low-rank updates on queries and values, over weights of few bits if so wanted; returns the weights added."""
    try:
        from peft import LoraConfig, inject_adapter_in_model
    except ImportError as error:
        msg = 'strategy="lora" needs peft: pip install "geneformer[train]".'
        raise MissingExtraError(msg) from error
    stack: Any = cast(GeneformerEncoder, network.bert).encoder
    if options.bits != "full":
        quantize_linears(stack, options.bits)
        # By these names PEFT knows what it is dealing with.
        stack.is_loaded_in_8bit, stack.is_loaded_in_4bit = options.bits == "8bit", options.bits == "4bit"
    lora = LoraConfig(
        r=options.lora_rank,
        lora_alpha=options.lora_alpha,  # type: ignore[arg-type]  # a factor; whole numbers are not needed
        lora_dropout=options.lora_dropout,
        target_modules=[f"attention.self.{name}" for name in LORA_TARGETS],
    )
    inject_adapter_in_model(lora, stack)
    return sum(parameter.numel() for name, parameter in stack.named_parameters() if ".lora_" in name)


def merge_lora(network: GeneformerModel) -> None:
    """Make low-rank updates part of the weights, in place: BERT's own parameter names, equal outputs.

    Weights of few bits become plain ones of the same value. A network without either is left as it is.

    Parameters
    ----------
    network
        Network that `apply_strategy` was used on.
    """
    stack = cast(GeneformerEncoder, network.bert).encoder
    for name, module in list(stack.named_modules()):
        if hasattr(module, "lora_A") and hasattr(module, "get_delta_weight"):
            layer: Any = module
            stack.set_submodule(name, plain_linear(layer.get_base_layer(), layer.get_delta_weight("default")))
    restore_linears(stack)
    for mark in ("is_loaded_in_8bit", "is_loaded_in_4bit", "peft_config"):
        if hasattr(stack, mark):
            delattr(stack, mark)
