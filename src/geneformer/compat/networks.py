"""Classifiers whose folders plain `transformers` opens: the packed encoder under BERT's heads and BERT's names.

Axes: ``T`` packed tokens, ``B`` cells, ``M`` labeled tokens, ``D`` hidden, ``C`` classes.
"""

import hashlib
import json
import logging
import re
from collections.abc import Callable, Mapping, Sequence
from copy import copy, deepcopy
from os import PathLike
from pathlib import Path
from typing import Any, Literal, cast

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.nn import functional
from transformers import BertConfig, BertForMaskedLM, BertForSequenceClassification, BertForTokenClassification

from geneformer._version import __version__
from geneformer.compat.dictionaries import cache_folder, written_cache
from geneformer.engine.device import resolve_device
from geneformer.engine.inference import tokens_that_fit
from geneformer.errors import (
    CheckpointError,
    DeviceError,
    MissingExtraError,
    OptionError,
    OutputExistsError,
    UnknownModelError,
    UnsupportedArgumentError,
    VocabularyMismatchError,
)
from geneformer.files.atomic import atomic_folder, output_errors
from geneformer.genes.vocabulary import BUNDLED, Vocabulary
from geneformer.models.attention import Attention
from geneformer.models.checkpoint import (
    CONFIG,
    PICKLED_WEIGHTS,
    WEIGHTS,
    build_model,
    convert_pickled,
    read_config,
    read_weights,
)
from geneformer.models.config import write_config
from geneformer.models.encoder import GeneformerEncoder, GeneformerModel
from geneformer.models.finetuned import low_bit_library, plain_linear, quantize_linears, restore_linears
from geneformer.models.heads import GeneformerForGenes, GeneformerForMaskedLM, GeneOutput
from geneformer.models.loading import LoadedModel, find_folder, recognize_vocabulary
from geneformer.models.losses import cross_entropy
from geneformer.options import RuntimeOptions
from geneformer.options._fields import check_choice, check_range


class BertPooler(nn.Module):
    """Dense and tanh over the state of the first token."""

    def __init__(self, config: BertConfig) -> None:
        super().__init__()
        self.dense = nn.Linear(config.hidden_size, config.hidden_size)

    def forward(self, hidden_TD: Tensor, cu_seqlens: Tensor) -> Tensor:
        """Cell vectors, ``(B, D)``."""
        return torch.tanh(self.dense(hidden_TD[cu_seqlens[:-1]]))


class BertForCells(GeneformerModel):
    """BERT's sequence classifier over packed cells: it reads the first position, `<cls>` or the top ranked gene."""

    accepts_loss_kwargs = False
    published_name = "BertForSequenceClassification"

    def __init__(self, config: BertConfig) -> None:
        super().__init__(config)
        self.bert = GeneformerEncoder(config)
        self.bert.pooler = BertPooler(config)
        self.dropout = nn.Dropout(_head_dropout(config))
        self.classifier = nn.Linear(config.hidden_size, int(config.num_labels or 2))
        self.label_smoothing = 0.0
        self.post_init()

    def forward(
        self,
        input_ids: Tensor,
        cu_seqlens: Tensor,
        labels: Tensor | None = None,
        *,
        attention: str | Attention = "sdpa",
    ) -> GeneOutput:
        """Scores of the cells, and their loss."""
        hidden_TD = self.bert(input_ids, cu_seqlens, attention=attention)
        pooler = cast(BertPooler, self.bert.pooler)
        logits_BC = self.classifier(self.dropout(pooler(hidden_TD, cu_seqlens))).float()
        if labels is None:
            return GeneOutput(logits=logits_BC)
        loss = cross_entropy(logits_BC, labels, None, self.label_smoothing)
        return GeneOutput(loss=loss, logits=logits_BC, labels=labels)

    def save_pretrained(
        self, save_directory: str | PathLike[str], is_main_process: bool = True, *args: Any, **kwargs: Any
    ) -> None:
        """Write a folder that plain `transformers` opens, and this package too."""
        super().save_pretrained(save_directory, is_main_process, *args, **kwargs)
        _name_published(self, save_directory, is_main_process)


class BertForGenes(GeneformerForGenes):
    """BERT's token classifier over packed cells."""

    accepts_loss_kwargs = False
    published_name = "BertForTokenClassification"

    def __init__(self, config: BertConfig) -> None:
        super().__init__(config)
        self.dropout = nn.Dropout(_head_dropout(config))

    def save_pretrained(
        self, save_directory: str | PathLike[str], is_main_process: bool = True, *args: Any, **kwargs: Any
    ) -> None:
        """Write a folder that plain `transformers` opens, and this package too."""
        super().save_pretrained(save_directory, is_main_process, *args, **kwargs)
        _name_published(self, save_directory, is_main_process)


BertClassifier = BertForCells | BertForGenes
KINDS: dict[str, type[BertForCells] | type[BertForGenes]] = {"cell": BertForCells, "gene": BertForGenes}
"""Networks by what they classify."""


def load_bert_classifier(folder: Path, kind: str, n_classes: int | None = None) -> BertClassifier:
    """A fine-tuned classifier of the published form, in evaluation mode on the CPU."""
    config, weights = read_config(folder), read_weights(folder)
    head = weights.get("classifier.weight")
    if head is None:
        msg = (
            f"{folder} holds no {KINDS[kind].published_name}: it has no classifier.weight. Give the folder of a "
            "fine-tuned classifier, such as the ksplit1 folder that validate writes."
        )
        raise CheckpointError(msg)
    if n_classes is not None and len(head) != n_classes:
        msg = f"{folder} tells {len(head)} classes apart, but the dictionary of classes names {n_classes}."
        raise CheckpointError(msg)
    config.num_labels = len(head)
    return fill_bert_classifier(KINDS[kind](config), weights, str(folder))


def packed_classifier(model: Any, kind: str) -> BertClassifier:
    """A classifier over packed cells with the weights of a network in memory, in evaluation mode."""
    if isinstance(model, KINDS[kind]):
        return model.train(False)
    if not isinstance(getattr(model, "config", None), BertConfig) or "classifier.weight" not in model.state_dict():
        msg = (
            f"The model is a {type(model).__name__}, not a {KINDS[kind].published_name}. Give a fine-tuned classifier."
        )
        raise CheckpointError(msg)
    weights = {name: value.detach().cpu() for name, value in model.state_dict().items()}
    return fill_bert_classifier(KINDS[kind](deepcopy(model.config)), weights, type(model).__name__)


def fill_bert_classifier(network: BertClassifier, weights: Mapping[str, Tensor], where: str) -> BertClassifier:
    """A network with exactly the weights given; buffers and heads it has no place for are passed over."""
    expected = network.state_dict()
    given = {
        name: value
        for name, value in weights.items()
        if not name.endswith("position_ids") and (name in expected or not name.startswith(("cls.", "bert.pooler.")))
    }
    missing, unknown = sorted(expected.keys() - given.keys()), sorted(given.keys() - expected.keys())
    bent = [name for name in expected.keys() & given.keys() if expected[name].shape != given[name].shape]
    if missing or unknown or bent:
        msg = (
            f"{where}: the weights do not fit {CONFIG} and a {network.published_name}; missing {missing[:3]}, unknown "
            f"{unknown[:3]}, of another shape {bent[:3]}."
        )
        raise CheckpointError(msg)
    network.load_state_dict({name: value.float() for name, value in given.items()})
    network.eval()
    return network


def _head_dropout(config: BertConfig) -> float:
    chosen = getattr(config, "classifier_dropout", None)
    return float(config.hidden_dropout_prob if chosen is None else chosen)


def _name_published(network: BertClassifier, folder: str | PathLike[str], is_main_process: bool) -> None:
    if is_main_process:
        write_config(network.config, Path(folder), network.dtype, architecture=network.published_name)


ADAPTER_CONFIG = "adapter_config.json"
ADAPTER_WEIGHTS = "adapter_model.safetensors"

_SAVED_PREFIX = "base_model.model."
_LAYERED = re.compile(r"(lora_(?:A|B|embedding_A|embedding_B|magnitude_vector))(\.weight)?$")


def peft_library() -> Any:
    """The module peft."""
    try:
        import peft
    except ImportError as error:
        msg = 'Adapters need peft: pip install "geneformer[train]".'
        raise MissingExtraError(msg) from error
    return peft


def add_adapters(network: Any, config: Any, bits: str = "full") -> None:
    """Freeze a network but for its head, and add trained adapters to it, in place."""
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
    """Make adapters part of the weights, in place: BERT's own parameter names, equal outputs."""
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
    """Adapters as PEFT saved them in a folder, made part of the weights of a network, in place."""
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


_ENCODER = ".bert."
_POOLER = ".bert.pooler."


def is_adapter_folder(folder: Path) -> bool:
    """Whether a folder holds changes to the weights of a model that lies elsewhere."""
    return (folder / ADAPTER_CONFIG).is_file()


def adapter_base(folder: Path) -> str:
    """Name or folder of the model that the adapters were trained on."""
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
    """Entries of `adapter_model.safetensors`, heads among them."""
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
    """The network with the adapters of a folder in the weights of its encoder, in place; heads are passed over."""
    entries = adapter_entries(folder)
    encoder = {name: value for name, value in entries.items() if _ENCODER in name and _POOLER not in name}
    read_adapters(network, folder, encoder)
    return network.requires_grad_(False).train(False)


Kind = Literal["masked", "cells", "genes"]
NETWORKS: dict[Kind, Any] = {
    "masked": BertForMaskedLM,
    "cells": BertForSequenceClassification,
    "genes": BertForTokenClassification,
}
"""Networks by what they predict."""

_LAYER = re.compile(r"(?:^|\.)layer\.(\d+)\.")
_HEADS = ("bert.pooler.", "classifier.", "cls.")


def load_plain_bert(folder: Path, kind: Kind, n_classes: int = 0, *, hidden_states: bool = False) -> Any:
    """A network of plain `transformers` with the encoder of a checkpoint, and its head where the checkpoint has it."""
    config = read_config(folder)
    config.output_hidden_states = hidden_states
    config.output_attentions = False
    if kind != "masked":
        config.num_labels = n_classes
    network, found = NETWORKS[kind].from_pretrained(
        folder, config=config, use_safetensors=True, output_loading_info=True, ignore_mismatched_sizes=True
    )
    missing = [name for name in found["missing_keys"] if not name.startswith(_HEADS)]
    unknown = [name for name in found["unexpected_keys"] if name.startswith("bert.") and not name.startswith(_HEADS)]
    if missing or unknown:
        msg = (
            f"{folder} does not hold a plain BERT encoder: missing {missing[:3]}, unknown {unknown[:3]}. Load it with "
            "geneformer.load_model."
        )
        raise CheckpointError(msg)
    bent = [str(entry[0]) for entry in found["mismatched_keys"]]
    if bent:
        msg = (
            f"{folder}: {bent[0]} has another shape than {n_classes} classes call for. Give the number it was made for."
        )
        raise CheckpointError(msg)
    return network


def n_layers(network: nn.Module) -> int:
    """Encoder layers of a network, adapted or not."""
    return 1 + max((int(m[1]) for name, _ in network.named_parameters() if (m := _LAYER.search(name))), default=-1)


_logger = logging.getLogger(__name__)


def pad_along(tensor: Tensor, value: float, length: int, dim: int) -> Tensor:
    """A tensor made `length` long along one dimension, by values behind it or by cutting."""
    dim = dim % tensor.ndim
    amounts = [0] * (2 * (tensor.ndim - 1 - dim)) + [0, length - tensor.shape[dim]]
    return functional.pad(tensor, amounts, value=value)


def pad_tensor(tensor: Tensor, pad_token_id: float, max_len: int) -> Tensor:
    """A vector, ``(L,)``, padded on the right to `max_len`."""
    return pad_along(tensor, pad_token_id, max_len, 0)


def pad_2d_tensor(tensor: Tensor, pad_token_id: float, max_len: int, dim: int) -> Tensor:
    """A matrix padded behind one of its two dimensions to `max_len`."""
    return _pad_of(2, tensor, pad_token_id, max_len, dim)


def pad_3d_tensor(tensor: Tensor, pad_token_id: float, max_len: int, dim: int) -> Tensor:
    """A block padded behind one of its three dimensions to `max_len`."""
    return _pad_of(3, tensor, pad_token_id, max_len, dim)


def _pad_of(n_dims: int, tensor: Tensor, value: float, length: int, dim: int) -> Tensor:
    if tensor.ndim != n_dims:
        msg = f"A tensor of {n_dims} dimensions is padded here; this one has the shape {tuple(tensor.shape)}."
        raise OptionError(msg)
    return pad_along(tensor, value, length, dim)


def pad_tensor_list(
    tensor_list: Sequence[Tensor],
    dynamic_or_constant: str | int,
    pad_token_id: float,
    model_input_size: int,
    dim: int | None = None,
    padding_func: Callable[[Tensor, float, int, int], Tensor] | None = None,
) -> Tensor:
    """Tensors of different lengths as one.

    Parameters
    ----------
    tensor_list
        Vectors, matrices or blocks.
    dynamic_or_constant
        "dynamic" for the length of the longest, or a length.
    pad_token_id
        Value to pad with.
    model_input_size
        Length to pad to where `dynamic_or_constant` is neither.
    dim
        Dimension to pad; None for vectors.
    padding_func
        `pad_2d_tensor` or `pad_3d_tensor`.

    Returns
    -------
    A new first dimension over the tensors; blocks of three dimensions are put one behind the other along their first.

    Raises
    ------
    OptionError
        There is no tensor.
    """
    if not len(tensor_list):
        msg = "There is no tensor to pad."
        raise OptionError(msg)
    along = 0 if dim is None else dim
    if dynamic_or_constant == "dynamic":
        length = max(tensor.shape[along] for tensor in tensor_list)
    elif isinstance(dynamic_or_constant, int):
        length = dynamic_or_constant
    else:
        _logger.warning(
            "Padding to the input size of the model, %d, as %r is no length.", model_input_size, dynamic_or_constant
        )
        length = model_input_size
    if dim is None:
        return torch.stack([pad_tensor(tensor, pad_token_id, length) for tensor in tensor_list])
    pad = padding_func or pad_along
    padded = [pad(tensor, pad_token_id, length, dim) for tensor in tensor_list]
    return torch.cat(padded) if padded[0].ndim == 3 else torch.stack(padded)


def mean_nonpadding_embs(embs: Tensor, original_lens: Tensor | Sequence[int], dim: int = 1) -> Tensor:
    """Means over the positions that are no padding.

    Parameters
    ----------
    embs
        Embeddings, ``(B, L, D)``, or one number per position, ``(B, L)``.
    original_lens
        Positions of each cell that are no padding, ``(B,)``.
    dim
        Dimension of the positions.

    Returns
    -------
    ``(B, D)``, or ``(B,)``.
    """
    lengths = torch.as_tensor(original_lens, device=embs.device)
    positions = torch.arange(embs.shape[dim], device=embs.device)
    inside_BL = positions[None, :] < lengths[:, None]
    shape = [1] * embs.ndim
    shape[0], shape[dim] = inside_BL.shape
    total = embs.masked_fill(~inside_BL.view(shape), 0).sum(dim)
    return total / lengths.view(-1, *[1] * (total.ndim - 1))


def cos_sim_shift(
    original_emb: Tensor, perturbed_emb: Tensor, end_emb: Tensor, cos: Callable[[Tensor, Tensor], Tensor]
) -> Tensor:
    """How much closer cells come to a state: cosine after minus cosine before, ``(B,)``.

    Parameters
    ----------
    original_emb, perturbed_emb
        Cells before and after, each ``(B, D)``.
    end_emb
        The state, ``(D,)`` or ``(1, D)``.
    cos
        Cosine of rows, such as ``torch.nn.CosineSimilarity(dim=1)``.
    """
    state = end_emb.to(original_emb).reshape(1, -1)
    return cos(perturbed_emb, state) - cos(original_emb, state)


def quant_cos_sims(
    perturbation_emb: Tensor,
    original_emb: Tensor,
    cell_states_to_model: Mapping[str, object] | None,
    state_embs_dict: Mapping[str, Tensor] | None,
    emb_mode: str = "gene",
) -> Tensor | dict[str, Tensor]:
    """How similar cells or genes are to what they were, or how much closer cells come to states.

    Parameters
    ----------
    perturbation_emb, original_emb
        After and before: genes ``(B, L, D)`` in mode "gene", cells ``(B, D)`` in mode "cell".
    cell_states_to_model
        None for similarities; else shifts toward every state of `state_embs_dict`. For cells only.
    state_embs_dict
        Embedding of each state, ``(D,)`` or ``(1, D)``, on any device.
    emb_mode
        "gene" or "cell".

    Returns
    -------
    Cosines, ``(B, L)`` or ``(B,)``; or shifts by state, each ``(B,)``.

    Raises
    ------
    UnknownChoiceError
        Another mode.
    OptionError
        States without embeddings.
    """
    check_choice("emb_mode", emb_mode, ("gene", "cell"))
    cos = torch.nn.CosineSimilarity(dim=2 if emb_mode == "gene" else 1)
    if emb_mode == "gene" or cell_states_to_model is None:
        return cos(perturbation_emb, original_emb)
    if not state_embs_dict:
        msg = "Shifts toward states need the embeddings of the states. Pass state_embs_dict."
        raise OptionError(msg)
    return {state: cos_sim_shift(original_emb, perturbation_emb, emb, cos) for state, emb in state_embs_dict.items()}


def check_low_bit(bits: str, device: torch.device) -> None:
    """Refuse, before any work, a precision that the device or this installation does not have."""
    check_choice("bits", bits, ("full", "8bit", "4bit"))
    if bits == "full":
        return
    if device.type == "cpu":
        msg = f'bits="{bits}" saves memory on an accelerator; on a CPU it only loses speed. Leave bits at "full".'
        raise DeviceError(msg)
    known = getattr(low_bit_library(), "supported_torch_devices", None)
    if known is not None and device.type not in known:
        msg = (
            f'bits="{bits}" cannot run on device "{device}": bitsandbytes has kernels for '
            f'{", ".join(sorted(set(known) - {"cpu"}))}. Leave bits at "full", or use one of these.'
        )
        raise DeviceError(msg)


def checked_quantize(quantize: Any) -> tuple[Any, Literal["full", "8bit", "4bit"]]:
    """What `quantize` asks for: a configuration of PEFT or None, and the bits of the frozen weights."""
    if not quantize:
        return None, "full"
    if quantize is True:
        return _published_adapters(), "4bit"
    if not isinstance(quantize, Mapping) or not set(quantize) <= {"peft_config", "bnb_config"}:
        msg = f"quantize={quantize!r} takes a bool, or a dictionary with peft_config and bnb_config."
        raise OptionError(msg)
    adapters, stored = quantize.get("peft_config"), quantize.get("bnb_config")
    bits: Literal["full", "8bit", "4bit"] = "full"
    if stored is not None:
        bits = "4bit" if _setting(stored, "load_in_4bit") else "8bit" if _setting(stored, "load_in_8bit") else "full"
        kind = _setting(stored, "bnb_4bit_quant_type")
        if bits == "4bit" and kind not in (None, "nf4", "fp4"):
            check_choice("bnb_4bit_quant_type", kind, ("nf4",))
        if bits == "4bit" and kind == "fp4":
            msg = 'bnb_4bit_quant_type="fp4" is not supported here. Set it to "nf4", as published.'
            raise UnsupportedArgumentError(msg)
    if bits != "full" and adapters is None:
        msg = f"quantize asks for weights of {bits} without peft_config; they cannot learn. Add a peft_config."
        raise UnsupportedArgumentError(msg)
    return adapters, bits


def _setting(config: Any, name: str) -> Any:
    return config.get(name) if isinstance(config, Mapping) else getattr(config, name, None)


def _published_adapters() -> Any:

    return peft_library().LoraConfig(
        r=64, lora_alpha=128, lora_dropout=0.1, bias="none", target_modules=["query", "value"], task_type="TOKEN_CLS"
    )


def readable_folder(path: str | Path) -> Path:
    """A folder with the same network that the rest of the package opens."""
    folder = find_folder(path)
    _refuse_parent(folder)
    if (folder / WEIGHTS).is_file() or not (folder / PICKLED_WEIGHTS).is_file():
        return folder
    converted = cache_folder() / f"models-{__version__}" / _content_key(folder)
    if (converted / WEIGHTS).is_file():
        return converted
    try:
        with written_cache():
            with output_errors(converted):
                converted.parent.mkdir(parents=True, exist_ok=True)
            with atomic_folder(converted) as temporary:
                convert_pickled(folder, temporary)
    except OutputExistsError:
        return converted  # another process was faster
    _logger.info("%s holds pickled weights; a copy as safetensors is kept at %s", folder, converted)
    return converted


def _refuse_parent(folder: Path) -> None:
    """Name the model folders in a folder that is none itself."""
    if (folder / CONFIG).is_file():
        return
    within = sorted(entry.parent.name for entry in folder.glob(f"*/{CONFIG}"))
    if within:
        msg = f"{folder} is no model folder, but has some in it: {', '.join(within)}. Give {folder / within[0]}."
        raise CheckpointError(msg)


def _content_key(folder: Path) -> str:
    """What tells the weights and configuration of a folder from others."""
    whole = hashlib.sha256()
    for name in (CONFIG, PICKLED_WEIGHTS):
        if (folder / name).is_file():
            with (folder / name).open("rb") as file:
                whole.update(hashlib.file_digest(file, "sha256").digest())
    return whole.hexdigest()[:32]


_KINDS: "dict[str, Kind]" = {
    "Pretrained": "masked",
    "GeneClassifier": "genes",
    "CellClassifier": "cells",
    "MTLCellClassifier": "masked",
}
_QUANTIZED = "-Quantized"
_TYPES = (*_KINDS, f"Pretrained{_QUANTIZED}", f"MTLCellClassifier{_QUANTIZED}")


def load_model(
    model_type: str, num_classes: int, model_directory: str | Path, mode: str, quantize: bool | dict[str, Any] = False
) -> Any:
    """A network of plain `transformers` on the accelerator if there is one.

    Parameters
    ----------
    model_type
        "Pretrained", "GeneClassifier", "CellClassifier" or "MTLCellClassifier"; "Pretrained-Quantized" and
        "MTLCellClassifier-Quantized" keep the weights of the encoder in 8 bits. Of a multi-task model the encoder is
        loaded.
    num_classes
        Classes of cells or genes.
    model_directory
        Folder with weights of this package, of the published one, or of adapters; or a name that
        `geneformer.load_model` knows. Pickled weights are read without running anything.
    mode
        "eval" for a network in evaluation mode that returns the states of all layers; "train".
    quantize
        True for frozen weights in 4 bits with low-rank updates that are trained; or a dictionary with `bnb_config`
        and `peft_config`, the second alone for updates over weights of full precision.

    Returns
    -------
    `BertForMaskedLM`, `BertForTokenClassification` or `BertForSequenceClassification`, wrapped by PEFT where there are
    low-rank updates. A head that the folder does not hold starts at random.

    Raises
    ------
    UnknownChoiceError
        Another type or mode.
    UnknownModelError, CheckpointError, UnsafeFileError
        No such folder, or weights that do not fit, or that ask for code to be run.
    DeviceError
        Weights of few bits where there is no accelerator for them.
    MissingExtraError
        A library for adapters or few bits is not installed.
    """
    check_choice("model_type", model_type, _TYPES)
    check_choice("mode", mode, ("eval", "train"))
    kind = _KINDS[model_type.removesuffix(_QUANTIZED)]
    if kind != "masked":
        check_range("num_classes", num_classes, low=1)
    adapters, bits = checked_quantize(quantize)
    if model_type.endswith(_QUANTIZED):
        bits = "8bit"
    device = resolve_device()
    check_low_bit(bits, device)
    folder = readable_folder(model_directory)
    trained = is_adapter_folder(folder)
    base = readable_folder(adapter_base(folder)) if trained else folder
    network = load_plain_bert(base, kind, num_classes, hidden_states=mode == "eval")
    if bits != "full":
        quantize_linears(network.bert.encoder, bits)
    if trained:
        network = peft_library().PeftModel.from_pretrained(network, str(folder), is_trainable=mode == "train")
    elif adapters is not None:
        network = peft_library().get_peft_model(network, _with_pooler(adapters) if kind == "cells" else adapters)
        network.enable_input_require_grads()
    return network.to(device).train(mode == "train")


def _with_pooler(adapters: Any) -> Any:
    """The settings with the pooler learnt and saved too: in front of a new head it is as new as the head."""
    own = copy(adapters)
    own.modules_to_save = list(dict.fromkeys([*(adapters.modules_to_save or ()), "pooler"]))
    return own


def quant_layers(model: Any) -> int:
    """Encoder layers of a network."""
    return n_layers(model)


def get_model_emb_dims(model: Any) -> int:
    """Width of the states of a network."""
    return int(model.config.hidden_size)


def get_model_input_size(model: Any) -> int:
    """Positions of a network: tokens of the longest cell it reads."""
    return int(model.config.max_position_embeddings)


def gen_attention_mask(minibatch_encoding: "Mapping[str, Sequence[int]]", max_len: int | None = None) -> torch.Tensor:
    """One for each token and zero for padding, on the accelerator if there is one, ``(B, max_len)``.

    Parameters
    ----------
    minibatch_encoding
        Cells with a column `length`.
    max_len
        Width of the mask; the length of the longest cell by default.

    Raises
    ------
    OptionError
        There are no cells.
    """
    lengths = torch.tensor(list(minibatch_encoding["length"]), dtype=torch.int64)
    if not len(lengths):
        msg = "There are no cells to make an attention mask of."
        raise OptionError(msg)
    width = int(lengths.max()) if max_len is None else max_len
    mask_BL = (torch.arange(width)[None, :] < lengths[:, None]).to(torch.int64)
    return mask_BL.to(resolve_device())


_LOADED_MODELS_HEADS = ("classifier.weight", "heads.0.weight", "base_model.model.classifier.weight")
"""Entries with one row for each class, in a published folder, in one of this package, and beside adapters."""


def published_model(
    model_directory: str | Path, vocabulary: Vocabulary | None = None, *, num_classes: int = 0
) -> LoadedModel:
    """The encoder of a model folder, and the vocabulary head where it has one."""
    given = Path(model_directory).expanduser()
    adapters = given if is_adapter_folder(given) else None
    folder = adapter_base_folder(adapters) if adapters else readable_folder(model_directory)
    config, weights = read_config(folder), read_weights(folder)
    network, has_head = build_model(config, weights, str(folder))
    if adapters:
        network, weights = adapt_encoder(network, adapters), adapter_entries(adapters)
    heads = [len(weights[name]) for name in _LOADED_MODELS_HEADS if name in weights]
    if num_classes and heads and heads[0] != num_classes:
        msg = f"{given} tells {heads[0]} classes apart, not num_classes={num_classes}. Set num_classes={heads[0]}."
        raise CheckpointError(msg)
    own = folder / "vocabulary"
    if vocabulary is not None and vocabulary.name not in BUNDLED:
        _check_size(vocabulary, config.vocab_size, folder)
    else:
        asked = own if vocabulary is None and own.is_dir() else vocabulary
        vocabulary = _recognized(config, folder, asked)
    return LoadedModel(str(model_directory), folder, network, vocabulary, has_head)


def published_runtime(network: Any, forward_batch_size: int, *, progress: bool = True) -> RuntimeOptions:
    """Published arithmetic, and at most so many of the longest cells in one pass."""
    most = forward_batch_size * int(network.config.max_position_embeddings)
    fitting = tokens_that_fit(network, resolve_device())
    return RuntimeOptions(dtype="float32", tokens_per_batch=min(most, fitting), progress=progress)


def adapter_base_folder(adapters: Path) -> Path:
    """Folder of the model that adapters were trained on."""
    base = adapter_base(adapters)
    try:
        return readable_folder(base)
    except UnknownModelError as error:
        msg = (
            f"{adapters} changes the weights of {base!r}, which is not there. Write the folder of that model as "
            f"base_model_name_or_path into {adapters / ADAPTER_CONFIG}."
        )
        raise UnknownModelError(msg) from error


def _recognized(config: Any, folder: Path, asked: Path | Vocabulary | None) -> Vocabulary:
    """The vocabulary of a model; where `model_version` contradicts it, the right one is told."""
    try:
        return recognize_vocabulary(config, folder, asked)
    except VocabularyMismatchError as error:
        fits = [name for name in BUNDLED if Vocabulary.load(name).size == config.vocab_size]
        if not fits or not isinstance(asked, Vocabulary) or asked.name in fits:
            raise
        msg = f'{folder} belongs to vocabulary {fits[0]}, not to {asked.name}. Pass model_version="{fits[0]}".'
        raise VocabularyMismatchError(msg) from error


def _check_size(vocabulary: Vocabulary, size: int | None, folder: Path) -> None:
    """Refuse a vocabulary that does not have as many tokens as a model; medians are not compared."""
    if vocabulary.size != size:
        msg = f"{folder} has {size:,} tokens, but the dictionary {vocabulary.name} has {vocabulary.size:,}."
        raise VocabularyMismatchError(msg)
