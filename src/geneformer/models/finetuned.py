"""Fine-tuned networks: made from a pretrained one, prepared for a strategy, written to a folder, read back."""

import json
import re
from collections.abc import Mapping
from copy import deepcopy
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, TypeVar, cast

import torch
from safetensors.torch import save_file
from torch import Tensor, nn
from transformers import BertConfig

from geneformer.errors import CheckpointError, OptionError, OutOfRangeError
from geneformer.files import require
from geneformer.files.atomic import atomic_file
from geneformer.models.encoder import (
    ADAPTER_SIZE,
    ATTENTION_WINDOW,
    RELATIVE_CLIP,
    GeneformerEncoder,
    GeneformerModel,
    extension,
)
from geneformer.models.heads import GeneformerForCells, GeneformerForExpression, GeneformerForGenes, HeadSpec
from geneformer.models.hub import CONFIG, WEIGHTS
from geneformer.models.loading import LoadedModel, check_sizes, check_weights, class_names, read_config, read_weights
from geneformer.options import FinetuneOptions

TASK = "task.json"
"""File that says what a fine-tuned network was learnt for: labels, classes, preprocessing, options."""

NETWORKS: dict[str, type[GeneformerModel]] = {
    network.__name__: network for network in (GeneformerForCells, GeneformerForExpression, GeneformerForGenes)
}
"""Networks by the name `config.json` gives them."""

_LAYER = re.compile(r"(?:bert\.)?encoder\.layer\.(\d+)\.")

FULL = ("full", "auto")
"""Strategies that train every layer that is not frozen; a fit may put "probe" in the place of "auto"."""

Network = TypeVar("Network", bound=GeneformerModel)


def build_network(
    kind: type[Network], base: LoadedModel, options: FinetuneOptions, attributes: Mapping[str, Any]
) -> Network:
    """A network for a task with the encoder of a pretrained model, or one of its shape with random weights."""
    config = prepare_config(base.network.config, options)
    config.geneformer_vocabulary = base.vocabulary.fingerprint
    config.geneformer_special_ids = base.vocabulary.special_ids.tolist()
    config.update(dict(attributes))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(options.seed)
        network = kind(config)
    if options.weights == "pretrained":
        load_encoder_weights(network, base.network.state_dict(), base.name)
    return network


def save_network(network: GeneformerModel, folder: Path) -> None:
    """Write `config.json` and `model.safetensors`."""
    folder.mkdir(parents=True, exist_ok=True)
    network.config.architectures = [type(network).__name__]
    with atomic_file(folder / CONFIG, overwrite=True) as temporary:
        content = json.dumps(network.config.to_dict(), indent=2, sort_keys=True)
        temporary.write_text(content + "\n", encoding="utf-8")
    weights = {name: value.detach().to("cpu").contiguous() for name, value in network.state_dict().items()}
    with atomic_file(folder / WEIGHTS, overwrite=True) as temporary:
        save_file(weights, temporary, metadata={"format": "pt"})


def load_network(folder: Path, kind: type[Network]) -> Network:
    """A network as `save_network` wrote it, in evaluation mode."""
    config = read_config(folder)
    stored_kind = (config.architectures or ["?"])[0]
    if stored_kind == PUBLISHED_CELLS and issubclass(kind, GeneformerForCells):
        return filled(kind, *_published_cells(config, read_weights(folder)), str(folder))
    if stored_kind != kind.__name__:
        msg = f"{folder} holds a {stored_kind}, not a {kind.__name__}. Known are {', '.join(NETWORKS)}."
        raise CheckpointError(msg)
    return filled(kind, config, read_weights(folder), str(folder))


PUBLISHED_CELLS = "BertForSequenceClassification"
"""Classifier of cells that `transformers` and the published package write."""


def _published_cells(config: BertConfig, weights: Mapping[str, Tensor]) -> tuple[BertConfig, dict[str, Tensor]]:
    """Configuration and weights of a published classifier as `GeneformerForCells` has them."""
    config.geneformer_heads = [HeadSpec(name="class", classes=class_names(config)).to_dict()]
    config.geneformer_pooling = "pooler"
    own = {"bert.pooler.dense.": "pool.dense.", "classifier.": "heads.0."}
    renamed = {}
    for name, value in weights.items():
        start = next((start for start in own if name.startswith(start)), "")
        renamed[own[start] + name.removeprefix(start) if start else name] = value
    return config, renamed


def filled(kind: type[Network], config: BertConfig, weights: Mapping[str, Tensor], where: str) -> Network:
    """A network with exactly the given weights, in evaluation mode."""
    check_sizes(config, weights, where)
    try:
        network = kind(config)
    except (KeyError, TypeError, ValueError, AttributeError, RuntimeError) as error:
        msg = f"{where}: {CONFIG} does not describe a {kind.__name__} ({error!r:.200}). Copy or write the folder again."
        raise CheckpointError(msg) from error
    check_weights(network.state_dict(), weights, where)
    network.load_state_dict(dict(weights))
    return network.eval()


def load_encoder_weights(network: GeneformerModel, base_state: Mapping[str, Tensor], where: str) -> tuple[str, ...]:
    """Copy a pretrained encoder into `network.bert`; returns the names of parameters that stay as initialized."""
    pretrained = {
        name.removeprefix("bert."): value
        for name, value in base_state.items()
        if name.startswith("bert.") and not name.endswith("position_ids") and not name.startswith("bert.pooler.")
    }
    own: dict[str, Tensor] = cast(GeneformerEncoder, network.bert).state_dict()
    stored, needed = _kind_of_positions(pretrained), _kind_of_positions(own)
    if stored and needed and stored != needed:
        msg = (
            f"{where} has {stored} positions and its states rely on them; the network has {needed} ones. Start "
            f'from weights="random", or from an encoder pretrained with {needed} positions.'
        )
        raise CheckpointError(msg)
    n_layers = 1 + max((int(match[1]) for name in pretrained if (match := _LAYER.match(name))), default=-1)
    advice = "Build the network with the configuration of the checkpoint."
    new = check_weights(own, pretrained, where, advice, optional=lambda name: _may_be_new(name, n_layers))
    with torch.no_grad():
        for name, value in pretrained.items():
            own[name].copy_(value)  # the tensors of a state share memory with the parameters
    return tuple(f"bert.{name}" for name in new)


def _kind_of_positions(names: Mapping[str, Tensor]) -> str:
    """How an encoder with these parameters knows where a gene stands."""
    if any(name.endswith("attention.self.distance_embedding.weight") for name in names):
        return "relative"
    return "absolute" if "embeddings.position_embeddings.weight" in names else ""


def _may_be_new(name: str, n_layers: int) -> bool:
    """Whether a network may have a parameter that an encoder of so many layers lacks: an extra layer, an adapter."""
    match = _LAYER.match(name)
    on_top = match is not None and n_layers > 0 and int(match[1]) == n_layers
    return on_top or ".adapter." in name or name.startswith("pooler.")


@dataclass(frozen=True, slots=True)
class TrainedShare:
    """How much of a network moves."""

    trained: int
    total: int
    names: tuple[str, ...]


def prepare_config(config: BertConfig, options: FinetuneOptions) -> BertConfig:
    """Configuration of the network to fine-tune."""
    prepared = deepcopy(config)
    if options.strategy == "extra_layer":
        prepared.num_hidden_layers += 1
    check_strategy(prepared.num_hidden_layers, options)
    if options.strategy == "adapters":
        setattr(prepared, ADAPTER_SIZE, options.adapter_size)
    if options.relative_positions:
        clip = extension(config, RELATIVE_CLIP)
        if options.weights != "random" and clip != options.relative_positions:
            has = f"relative positions clipped at {clip}" if clip else "absolute positions"
            msg = (
                f"relative_positions={options.relative_positions}, but the pretrained encoder has {has}, and its "
                'states rely on them. Start from weights="random", pretrain an encoder with `relative_positions` '
                "first, or leave the option at 0 to keep the encoder's own."
            )
            raise CheckpointError(msg)
        setattr(prepared, RELATIVE_CLIP, options.relative_positions)
    if options.attention_window:
        setattr(prepared, ATTENTION_WINDOW, options.attention_window)
    if options.dropout is not None:
        rates = ("hidden_dropout_prob", "attention_probs_dropout_prob", "classifier_dropout")
        prepared.update(dict.fromkeys(rates, options.dropout))
    return prepared


def check_strategy(n_layers: int, options: FinetuneOptions) -> None:
    """Refuse options that contradict each other or the encoder."""
    strategy, freeze, bits = options.strategy, options.freeze_layers, options.bits
    if freeze and strategy not in FULL:
        msg = (
            f'freeze_layers={freeze} goes with strategy="full" only: "{strategy}" freezes every pretrained layer but '
            "those it names, so there is nothing left to choose. Leave one of the two out."
        )
        raise OptionError(msg)
    if freeze > n_layers:
        msg = (
            f"freeze_layers={freeze} is out of range: the encoder has {n_layers} layers. It takes a number from 0 to "
            f"{n_layers}."
        )
        raise OutOfRangeError(msg)
    if bits != "full" and strategy != "lora":
        msg = (
            f'bits="{bits}" goes with strategy="lora" only: weights of few bits cannot be trained themselves, not with '
            f'strategy="{strategy}". Use strategy="lora", or bits="full".'
        )
        raise OptionError(msg)


def depth(name: str, n_layers: int) -> int:
    """How far below the head a parameter is: 0 for the head's own, 1 for the top layer, one more for embeddings."""
    if not name.startswith("bert.") or name.startswith("bert.pooler."):
        return 0
    match = _LAYER.match(name)
    return n_layers - int(match[1]) if match else n_layers + 1


def apply_strategy(network: GeneformerModel, options: FinetuneOptions) -> TrainedShare:
    """Freeze what stays, let the rest learn, and add low-rank updates where they are wanted."""
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
        parameter.requires_grad_(_is_trained(name, n_layers, options))
        if parameter.requires_grad:
            trained[name] = parameter.numel()
    return TrainedShare(sum(trained.values()), total, tuple(trained))


def _is_trained(name: str, n_layers: int, options: FinetuneOptions) -> bool:
    """Whether a parameter moves: those of heads always, those of the encoder by strategy."""
    if not name.startswith("bert.") or name.startswith("bert.pooler."):
        return True
    match = _LAYER.match(name)
    layer = int(match[1]) if match else None
    if options.strategy in FULL:
        return not options.freeze_embeddings if layer is None else layer >= options.freeze_layers
    if options.strategy in ("last_layer", "extra_layer"):
        return layer == n_layers - 1
    if options.strategy == "adapters":
        return layer is not None and (".adapter." in name or ".LayerNorm." in name)
    return options.strategy == "lora" and ".lora_" in name


def layers_frozen(n_layers: int, options: FinetuneOptions) -> int:
    """Lowest layers whose states never change, as neither they nor the embeddings below them are trained."""
    if options.strategy in ("last_layer", "extra_layer"):
        return n_layers - 1
    if options.strategy in FULL:
        return options.freeze_layers if options.freeze_embeddings else 0
    return n_layers if options.strategy == "head" else 0


def _add_lora(network: GeneformerModel, options: FinetuneOptions) -> int:
    """Low-rank updates on queries and values, over weights of few bits if so wanted; returns the weights added."""
    peft = require("peft", 'strategy="lora"', extra="train")
    stack: Any = cast(GeneformerEncoder, network.bert).encoder
    if options.bits != "full":
        quantize_linears(stack, options.bits)
        # By these names PEFT knows what it is dealing with.
        stack.is_loaded_in_8bit, stack.is_loaded_in_4bit = options.bits == "8bit", options.bits == "4bit"
    lora = peft.LoraConfig(
        r=options.lora_rank,
        lora_alpha=options.lora_alpha,
        lora_dropout=options.lora_dropout,
        target_modules=["attention.self.query", "attention.self.value"],  # those the paper adapts (Hu et al., 2021)
    )
    peft.inject_adapter_in_model(lora, stack)
    return sum(parameter.numel() for name, parameter in stack.named_parameters() if ".lora_" in name)


def merge_lora(network: GeneformerModel) -> None:
    """Make low-rank updates part of the weights, in place: BERT's own parameter names, equal outputs."""
    stack = cast(GeneformerEncoder, network.bert).encoder
    for name, module in list(stack.named_modules()):
        if hasattr(module, "lora_A") and hasattr(module, "get_delta_weight"):
            layer: Any = module
            stack.set_submodule(name, plain_linear(layer.get_base_layer(), layer.get_delta_weight("default")))
    restore_linears(stack)
    for mark in ("is_loaded_in_8bit", "is_loaded_in_4bit", "peft_config"):
        if hasattr(stack, mark):
            delattr(stack, mark)


def low_bit_library() -> Any:
    """The module bitsandbytes."""
    return require("bitsandbytes", 'bits="8bit" or "4bit"', instead='leave bits at "full"')


def quantize_linears(module: nn.Module, bits: Literal["8bit", "4bit"]) -> int:
    """Replace the dense layers within a module by frozen ones of few bits; returns how many there were."""
    library = low_bit_library()
    names = [name for name, part in module.named_modules() if type(part) is nn.Linear]
    for name in names:
        plain = cast(nn.Linear, module.get_submodule(name))
        shape, weight = (plain.in_features, plain.out_features, plain.bias is not None), plain.weight.data
        if bits == "8bit":
            layer = library.nn.Linear8bitLt(*shape, has_fp16_weights=False, threshold=6.0)
            layer.weight = library.nn.Int8Params(weight, requires_grad=False, has_fp16_weights=False)
        else:
            layer = library.nn.Linear4bit(*shape, quant_type="nf4")
            layer.weight = library.nn.Params4bit(weight, requires_grad=False, quant_type="nf4")
        layer.bias = plain.bias
        module.set_submodule(name, layer.to(weight.device).train(plain.training))
    return len(names)


def restore_linears(module: nn.Module) -> int:
    """Turn layers of few bits back into plain ones with the weights they compute with; returns how many there were."""
    names = [name for name, part in module.named_modules() if isinstance(part, nn.Linear) and is_low_bit(part)]
    for name in names:
        module.set_submodule(name, plain_linear(module.get_submodule(name)))
    return len(names)


def is_low_bit(layer: nn.Module) -> bool:
    """Whether a layer keeps its weights in few bits."""
    return type(layer).__module__.startswith("bitsandbytes.")


def plain_linear(layer: Any, update: torch.Tensor | None = None) -> nn.Linear:
    """A plain dense layer that computes the same as a given one."""
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
