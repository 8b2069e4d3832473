"""Fine-tuned networks: made from a pretrained one, written to a folder, read back."""

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
from geneformer.models.checkpoint import CONFIG, WEIGHTS, read_config, read_weights
from geneformer.models.config import ADAPTER_SIZE, ATTENTION_WINDOW, RELATIVE_CLIP, extension
from geneformer.models.encoder import GeneformerEncoder, GeneformerModel
from geneformer.models.heads import GeneformerForCells, GeneformerForExpression, GeneformerForGenes
from geneformer.models.loading import LoadedModel
from geneformer.options import FinetuneOptions

_PREFIX = "bert."
_LAYER = re.compile(r"encoder\.layer\.(\d+)\.")
_DISTANCES = "attention.self.distance_embedding.weight"
_POSITIONS = "embeddings.position_embeddings.weight"


def load_encoder_weights(network: GeneformerModel, base_state: Mapping[str, Tensor], where: str) -> tuple[str, ...]:
    """Copy a pretrained encoder into `network.bert`; returns the names of parameters that stay as initialized."""
    pretrained = {name.removeprefix(_PREFIX): x for name, x in base_state.items() if name.startswith(_PREFIX)}
    pretrained = {name: value for name, value in pretrained.items() if not name.endswith("position_ids")}
    # Of `.state_dict()` the tensors share memory with the parameters, so that copying into them is loading.
    own: dict[str, Tensor] = cast(GeneformerEncoder, network.bert).state_dict()
    _check_positions(pretrained, own, where)
    new = [name for name in own if name not in pretrained]
    missing = [name for name in new if not _may_be_new(name, _n_layers(pretrained))]
    unknown = [name for name in pretrained if name not in own and not name.startswith("pooler.")]
    if missing or unknown:
        msg = (
            f"{where}: the pretrained encoder does not fit this network; missing {missing[:3]}, without a place "
            f"{unknown[:3]}. Build the network with the configuration of the checkpoint."
        )
        raise CheckpointError(msg)
    known = own.keys() & pretrained.keys()
    for name in (name for name in own if name in known):
        if own[name].shape != pretrained[name].shape:
            msg = (
                f"{where}: {_PREFIX}{name} has shape {tuple(pretrained[name].shape)}, the network calls for "
                f"{tuple(own[name].shape)}. Build the network with the configuration of the checkpoint."
            )
            raise CheckpointError(msg)
    with torch.no_grad():
        for name in known:
            own[name].copy_(pretrained[name])
    return tuple(_PREFIX + name for name in new)


def _n_layers(names: Mapping[str, Tensor]) -> int:
    """Layers of an encoder, from the names of its parameters."""
    return 1 + max((int(found[1]) for name in names if (found := _LAYER.match(name))), default=-1)


def _may_be_new(name: str, n_layers: int) -> bool:
    """Whether a network may have a parameter that an encoder of so many layers does not."""
    found = _LAYER.match(name)
    on_top = found is not None and n_layers > 0 and int(found[1]) == n_layers
    return on_top or ".adapter." in name or name.startswith("pooler.")


def _check_positions(pretrained: Mapping[str, Tensor], own: Mapping[str, Tensor], where: str) -> None:
    """Both sides must tell positions in the same way."""
    kinds = [
        "relative" if any(name.endswith(_DISTANCES) for name in names) else "absolute" if _POSITIONS in names else ""
        for names in (pretrained, own)
    ]
    if all(kinds) and kinds[0] != kinds[1]:
        msg = (
            f"{where} has {kinds[0]} positions and its states rely on them; the network has {kinds[1]} ones. Start "
            f'from weights="random", or from an encoder pretrained with {kinds[1]} positions.'
        )
        raise CheckpointError(msg)


def low_bit_library() -> Any:
    """The module bitsandbytes."""
    return require("bitsandbytes", 'bits="8bit" or "4bit"', instead='leave bits at "full"')


def quantize_linears(module: nn.Module, bits: Literal["8bit", "4bit"]) -> int:
    """Replace the dense layers within a module by frozen ones of few bits; returns how many there were."""
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


LORA_TARGETS = ("query", "value")
"""Dense layers with low-rank updates: those the paper adapts (Hu et al., LoRA, 2021)."""

_ENCODER = "bert."
_POOLER = "bert.pooler."
_STRATEGIES_LAYER = re.compile(r"bert\.encoder\.layer\.(\d+)\.")


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
    """Refuse options that contradict each other or the encoder."""
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
        parameter.requires_grad_(_is_head(name) or _learns(name, n_layers, options))
        if parameter.requires_grad:
            trained[name] = parameter.numel()
    return TrainedShare(sum(trained.values()), total, tuple(trained))


def _is_head(name: str) -> bool:
    return not name.startswith(_ENCODER) or name.startswith(_POOLER)


def _learns(name: str, n_layers: int, options: FinetuneOptions) -> bool:
    """Whether a parameter of the encoder moves."""
    found = _STRATEGIES_LAYER.match(name)
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
        target_modules=[f"attention.self.{name}" for name in LORA_TARGETS],
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


NETWORKS: dict[str, type[GeneformerModel]] = {
    network.__name__: network for network in (GeneformerForCells, GeneformerForExpression, GeneformerForGenes)
}
"""Networks by the name `config.json` gives them."""

Network = TypeVar("Network", bound=GeneformerModel)


def build_network(
    kind: type[Network], base: LoadedModel, options: FinetuneOptions, attributes: Mapping[str, Any]
) -> Network:
    """A network for a task with the encoder of a pretrained model, or one of its shape with random weights."""
    config = prepare_config(base.network.config, options)
    config.geneformer_vocabulary = base.vocabulary.fingerprint
    config.geneformer_special_ids = [int(i) for i in base.vocabulary.special_ids]
    for name, value in attributes.items():
        setattr(config, name, value)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(options.seed)
        network = kind(config)
    if options.weights == "pretrained":
        load_encoder_weights(network, base.network.state_dict(), base.name)
    return network


def save_network(network: GeneformerModel, folder: Path) -> None:
    """Write `config.json` and `model.safetensors`."""
    folder.mkdir(parents=True, exist_ok=True)
    weights = {name: value.detach().to("cpu").contiguous() for name, value in network.state_dict().items()}
    save_file(weights, folder / WEIGHTS, metadata={"format": "pt"})
    network.config.architectures = [type(network).__name__]
    (folder / CONFIG).write_text(json.dumps(network.config.to_dict(), indent=2, sort_keys=True) + "\n")


def load_network(folder: Path, kind: type[Network]) -> Network:
    """A network as `save_network` wrote it, in evaluation mode."""
    config = read_config(folder)
    found = (config.architectures or ["?"])[0]
    if found != kind.__name__:
        msg = f"{folder} holds a {found}, not a {kind.__name__}. Known are {', '.join(NETWORKS)}."
        raise CheckpointError(msg)
    return filled(kind, config, read_weights(folder), str(folder))


def filled(kind: type[Network], config: BertConfig, weights: Mapping[str, Tensor], where: str) -> Network:
    """A network with exactly the given weights, in evaluation mode."""
    network = kind(config)
    expected = network.state_dict()
    missing, unknown = sorted(expected.keys() - weights.keys()), sorted(weights.keys() - expected.keys())
    bent = [name for name in expected.keys() & weights.keys() if expected[name].shape != weights[name].shape]
    if missing or unknown or bent:
        msg = (
            f"{where}: the weights do not fit {CONFIG}; missing {missing[:3]}, unknown {unknown[:3]}, of another shape "
            f"{bent[:3]}. The folder is incomplete or mixed; write it again."
        )
        raise CheckpointError(msg)
    network.load_state_dict(dict(weights))
    return network.eval()
