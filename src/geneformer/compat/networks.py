"""Networks with BERT's heads and names over packed cells, and the model folders and adapters of published scripts.

Axes: ``T`` packed tokens, ``B`` cells, ``M`` labeled tokens, ``D`` hidden, ``C`` classes.
"""

import logging
import re
import warnings
from collections.abc import Mapping
from copy import copy, deepcopy
from dataclasses import MISSING, fields
from os import PathLike
from pathlib import Path
from typing import Any, Literal, cast

import torch
from torch import Tensor, nn
from transformers import BertConfig, BertForMaskedLM, BertForSequenceClassification, BertForTokenClassification

from geneformer import errors
from geneformer._version import __version__
from geneformer.compat.dictionaries import written_cache
from geneformer.engine.device import resolve_device
from geneformer.engine.inference import tokens_that_fit
from geneformer.files import cache_folder, file_digest, read_json, require
from geneformer.files.atomic import atomic_folder, make_folder
from geneformer.files.manifest import digest
from geneformer.genes.vocabulary import BUNDLED, Vocabulary
from geneformer.models import hub, loading
from geneformer.models.attention import Attention
from geneformer.models.encoder import GeneformerEncoder, GeneformerModel, write_config
from geneformer.models.finetuned import (
    filled,
    is_low_bit,
    low_bit_library,
    plain_linear,
    quantize_linears,
    restore_linears,
)
from geneformer.models.heads import DensePool, GeneformerForGenes, GeneOutput
from geneformer.models.losses import cross_entropy
from geneformer.options import RuntimeOptions
from geneformer.options._fields import check_choice, check_range

_logger = logging.getLogger(__name__)

Bits = Literal["full", "8bit", "4bit"]
"""How weights that are not trained are kept."""


class _PublishedFolder:
    """Saves a network so that plain `transformers` opens its folder."""

    accepts_loss_kwargs = False
    kind: str
    published_name: str

    def save_pretrained(
        self, save_directory: str | PathLike[str], is_main_process: bool = True, *args: Any, **kwargs: Any
    ) -> None:
        """Write a folder that plain `transformers` opens, and this package too."""
        super().save_pretrained(save_directory, is_main_process, *args, **kwargs)  # type: ignore[misc]
        if is_main_process:
            network = cast(GeneformerModel, self)
            write_config(network.config, Path(save_directory), network.dtype, architecture=self.published_name)


class BertForCells(_PublishedFolder, GeneformerModel):
    """BERT's sequence classifier over packed cells: it reads the first position, `<cls>` or the top ranked gene."""

    kind, published_name = "cell", "BertForSequenceClassification"

    def __init__(self, config: BertConfig) -> None:
        super().__init__(config)
        self.bert = GeneformerEncoder(config)
        self.bert.pooler = DensePool(config)
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
        pooled_BD = cast(DensePool, self.bert.pooler)(hidden_TD, input_ids, cu_seqlens)
        logits_BC = self.classifier(self.dropout(pooled_BD)).float()
        if labels is None:
            return GeneOutput(logits=logits_BC)
        loss = cross_entropy(logits_BC, labels, None, self.label_smoothing)
        return GeneOutput(loss=loss, logits=logits_BC, labels=labels)


class BertForGenes(_PublishedFolder, GeneformerForGenes):
    """BERT's token classifier over packed cells."""

    kind, published_name = "gene", "BertForTokenClassification"

    def __init__(self, config: BertConfig) -> None:
        super().__init__(config)
        self.dropout = nn.Dropout(_head_dropout(config))


def _head_dropout(config: BertConfig) -> float:
    dropout = getattr(config, "classifier_dropout", None)
    return float(config.hidden_dropout_prob if dropout is None else dropout)


BertClassifier = BertForCells | BertForGenes
KINDS: dict[str, type[BertForCells] | type[BertForGenes]] = {"cell": BertForCells, "gene": BertForGenes}
"""Networks by what they classify."""


def load_bert_classifier(folder: Path, kind: str, n_classes: int | None = None) -> BertClassifier:
    """A trained classifier of this package, of `transformers`, or with adapters that PEFT saved, on the CPU."""
    if not is_adapter_folder(folder):
        folder = readable_folder(folder)
        return _filled_classifier(kind, loading.read_config(folder), loading.read_weights(folder), folder, n_classes)
    saved = {name.removeprefix("base_model.model."): value for name, value in adapter_entries(folder).items()}
    in_base = {name for name in loading.read_weights(adapter_base_folder(folder)) if name.startswith("bert.")}
    needed = ["classifier.weight"] if kind == "gene" else ["classifier.weight", "bert.pooler.dense.weight"]
    lost = [name for name in needed if name not in saved.keys() | in_base]
    if lost:
        msg = f"{folder} holds adapters, but not {lost[0]}, which was drawn at random and is lost. Train again."
        raise errors.CheckpointError(msg)
    plain = _merged_adapters(folder, f"{kind.capitalize()}Classifier", len(saved["classifier.weight"]))
    return _filled_classifier(kind, plain.config, plain.state_dict(), folder, n_classes)


def packed_classifier(model: Any, kind: str) -> BertClassifier:
    """A classifier over packed cells with the weights of a network in memory, in evaluation mode."""
    if isinstance(model, KINDS[kind]):
        return model.train(False)
    config = getattr(model, "config", None)
    weights = model.state_dict() if isinstance(config, BertConfig) else {}
    return _filled_classifier(kind, deepcopy(config), weights, type(model).__name__)


def _filled_classifier(
    kind: str, config: Any, weights: Mapping[str, Tensor], where: str | Path, n_classes: int | None = None
) -> BertClassifier:
    head = weights.get("classifier.weight")
    if head is None:
        name = KINDS[kind].published_name
        msg = f"{where} holds no {name}: it has no classifier.weight. Give a ksplit1 folder that validate writes."
        raise errors.CheckpointError(msg)
    if n_classes is not None and len(head) != n_classes:
        msg = f"{where} has {len(head)} classes, but the dictionary of classes names {n_classes}."
        raise errors.CheckpointError(msg)
    config.num_labels = len(head)
    loading.check_sizes(config, weights, str(where))
    unused = ("cls.",) if kind == "cell" else ("cls.", "bert.pooler.")
    used = [name for name in weights if not name.startswith(unused) and not name.endswith("position_ids")]
    return filled(KINDS[kind], config, {name: weights[name].detach().float().cpu() for name in used}, str(where))


# Adapters: low-rank and other small updates of PEFT.

ADAPTER_CONFIG = "adapter_config.json"
ADAPTER_WEIGHTS = "adapter_model.safetensors"


def peft_library() -> Any:
    """The module peft."""
    return require("peft", "An adapter", extra="train")


def add_adapters(network: Any, config: Any, bits: Bits = "full") -> None:
    """Freeze a network but for its head, and add trained adapters to it, in place."""
    library = peft_library()
    if not isinstance(config, library.PeftConfig):
        msg = f"peft_config holds a {type(config).__name__}. Give a configuration of PEFT, such as peft.LoraConfig()."
        raise errors.OptionError(msg)
    trained = set(getattr(config, "modules_to_save", None) or ())
    heads = {name for name, _ in network.named_parameters() if not name.startswith("bert.") or ".pooler." in name}
    config = copy(config)
    config.modules_to_save = None  # they are trained where they are
    if bits != "full":
        quantize_linears(network.bert.encoder, bits)
        network.is_loaded_in_8bit, network.is_loaded_in_4bit = bits == "8bit", bits == "4bit"
    try:
        library.inject_adapter_in_model(config, network)
    except (ValueError, TypeError, NotImplementedError, AttributeError) as error:
        msg = f"peft_config cannot be used with this network: {error}. LoraConfig with target_modules works."
        raise errors.OptionError(msg) from error
    for name, parameter in network.named_parameters():
        if name in heads or trained.intersection(name.split(".")):
            parameter.requires_grad_(True)


def merge_adapters(network: Any) -> None:
    """Make adapters part of the weights, in place: BERT's own parameter names, equal outputs."""
    for name, module in list(network.named_modules()):
        if not hasattr(module, "get_base_layer"):
            continue
        layer: Any = module
        base = layer.get_base_layer()
        # PEFT would round the sum to few bits again; updates that rescale the weights (DoRA) have no plain sum.
        if is_low_bit(base) and not len(getattr(layer, "lora_magnitude_vector", ())):
            network.set_submodule(name, plain_linear(base, layer.get_delta_weight("default")))
        else:
            layer.merge()
            network.set_submodule(name, base)
    restore_linears(network)
    for mark in ("is_loaded_in_8bit", "is_loaded_in_4bit", "peft_config"):
        if hasattr(network, mark):
            delattr(network, mark)


_ADAPTER_TYPES = {"LORA": "LoraConfig", "IA3": "IA3Config", "LOHA": "LoHaConfig", "LOKR": "LoKrConfig"}
_ADAPTER_ENTRIES = {
    "alpha", "alpha_pattern", "base_model_name_or_path", "bias", "decompose_both", "decompose_factor",
    "exclude_modules", "fan_in_fan_out", "feedforward_modules", "init_lora_weights", "init_weights",
    "layers_pattern", "layers_to_transform", "lora_alpha", "lora_dropout", "module_dropout", "modules_to_save", "r",
    "rank_dropout", "rank_pattern", "revision", "target_modules", "task_type", "use_dora", "use_effective_conv2d",
    "use_rslora",
}  # fmt: skip
"""All that is read of an `adapter_config.json`. Others would reach PEFT, which imports modules that some name."""

_ADAPTER_NOTES = {"auto_mapping", "inference_mode", "peft_type", "peft_version"}
"""Entries that say where an adapter came from, and change nothing here."""


def adapter_settings(folder: Path) -> Any:
    """The configuration of adapters in a folder, as PEFT takes it."""
    library, path = peft_library(), folder / ADAPTER_CONFIG
    content = read_json(path, errors.CheckpointError)
    kind = content.get("peft_type")
    if kind not in _ADAPTER_TYPES:
        msg = f"{path}: peft_type={kind!r:.200} is not among those read here ({', '.join(_ADAPTER_TYPES)})."
        raise errors.CheckpointError(msg)
    settings = getattr(library, _ADAPTER_TYPES[kind])
    usual = {field.name: field.default for field in fields(settings)}
    kept = {name: value for name, value in content.items() if name in _ADAPTER_ENTRIES and name in usual}
    others = content.keys() - kept.keys() - _ADAPTER_NOTES
    asked = sorted(name for name in others if content[name] and content[name] != usual.get(name, MISSING))
    if asked:
        entry = f"{asked[0]}={content[asked[0]]!r:.200}"
        msg = f"{path} sets {entry}, which is not read here. Remove it if it is not needed."
        raise errors.CheckpointError(msg)
    numbers: dict[str, Any] = {"r": int, **dict.fromkeys(("lora_alpha", "lora_dropout", "alpha"), (int, float))}
    wrong = [name for name in numbers if name in kept and not isinstance(kept[name], numbers[name])]
    if wrong:
        msg = f"{path}: {wrong[0]}={kept[wrong[0]]!r:.200} is no number. The file is damaged; copy it again."
        raise errors.CheckpointError(msg)
    try:
        return settings(**kept)
    except (TypeError, ValueError, KeyError) as error:
        msg = f"{path} does not describe adapters: {error}. It is damaged; copy it again."
        raise errors.CheckpointError(msg) from error


def is_adapter_folder(folder: Path) -> bool:
    """Whether a folder holds changes to the weights of a model that lies elsewhere."""
    return (folder / ADAPTER_CONFIG).is_file()


def adapter_base_folder(adapters: Path) -> Path:
    """Folder of the model that adapters were trained on."""
    path = adapters / ADAPTER_CONFIG
    base = read_json(path, errors.CheckpointError).get("base_model_name_or_path")
    if not isinstance(base, str) or not base:
        msg = f"{path} does not name the model it was trained on (base_model_name_or_path). Add its folder there."
        raise errors.CheckpointError(msg)
    try:
        return readable_folder(base)
    except errors.UnknownModelError as error:
        msg = (
            f"{adapters} changes {base!r}, which is not there. Write its folder as base_model_name_or_path into {path}."
        )
        raise errors.UnknownModelError(msg) from error


def adapter_entries(folder: Path) -> dict[str, Tensor]:
    """Entries of `adapter_model.safetensors`, heads among them."""
    path = folder / ADAPTER_WEIGHTS
    if not path.is_file():
        msg = f"{folder} has no {ADAPTER_WEIGHTS}. It holds {sorted(p.name for p in folder.iterdir())[:8]}."
        raise errors.CheckpointError(msg)
    return loading.read_tensors(path)


# What `quantize` and quantized model types ask for.


def check_low_bit(bits: str, device: torch.device) -> None:
    """Refuse, before any work, a precision that the device or this installation does not have."""
    check_choice("bits", bits, ("full", "8bit", "4bit"))
    if bits == "full":
        return
    if device.type == "cpu":
        msg = f"Weights of {bits} save memory on an accelerator; on a CPU they only lose speed. Leave them whole."
        raise errors.DeviceError(msg)
    supported = getattr(low_bit_library(), "supported_torch_devices", None)
    if supported is not None and device.type not in supported:
        kinds = ", ".join(sorted(set(supported) - {"cpu"}))
        msg = f'{bits} weights cannot run on device "{device}": bitsandbytes has kernels for {kinds}. Leave them whole.'
        raise errors.DeviceError(msg)


def usable_bits(bits: Bits, device: torch.device, asked: str, *, stacklevel: int = 4) -> Bits:
    """The precision asked for; on a CPU full precision, with a warning. Elsewhere what cannot run is refused."""
    if bits == "full":
        return bits
    if device.type == "cpu":
        msg = f"{asked} saves memory on an accelerator; on this CPU weights keep their 32 bits."
        warnings.warn(msg, errors.GeneformerWarning, stacklevel=stacklevel)
        return "full"
    try:
        check_low_bit(bits, device)
    except (errors.DeviceError, errors.MissingExtraError) as error:
        msg = f"{asked} cannot run here, leave it out: {str(error).partition(': ')[2]}"
        raise type(error)(msg) from error
    return bits


def checked_quantize(quantize: Any) -> tuple[Any, Bits]:
    """What `quantize` asks for: a configuration of PEFT or None, and the bits of the frozen weights."""
    if not quantize:
        return None, "full"
    if quantize is True:
        published = {"r": 64, "lora_alpha": 128, "lora_dropout": 0.1, "bias": "none", "task_type": "TOKEN_CLS"}
        return peft_library().LoraConfig(**published, target_modules=["query", "value"]), "4bit"
    if not isinstance(quantize, Mapping) or not set(quantize) <= {"peft_config", "bnb_config"}:
        msg = f"quantize={quantize!r} takes a bool, or a dictionary with peft_config and bnb_config."
        raise errors.OptionError(msg)
    adapters, stored = quantize.get("peft_config"), quantize.get("bnb_config") or {}
    setting = stored.get if isinstance(stored, Mapping) else lambda name: getattr(stored, name, None)
    bits: Bits = "full"
    if setting("load_in_4bit"):
        bits = "4bit"
        check_choice("bnb_4bit_quant_type", setting("bnb_4bit_quant_type"), (None, "nf4", "fp4"))
        if setting("bnb_4bit_quant_type") == "fp4":
            msg = 'bnb_4bit_quant_type="fp4" is not supported here. Set it to "nf4", as published.'
            raise errors.UnsupportedArgumentError(msg)
    elif setting("load_in_8bit"):
        bits = "8bit"
    if bits != "full" and adapters is None:
        msg = f"quantize asks for weights of {bits} without peft_config; they cannot learn. Add a peft_config."
        raise errors.UnsupportedArgumentError(msg)
    return adapters, bits


# Model folders.


def readable_folder(path: str | Path) -> Path:
    """A folder with the same network that the rest of the package opens: pickled weights are converted once."""
    folder = hub.find_folder(path)
    if not (folder / hub.CONFIG).is_file() and (
        within := sorted(p.parent.name for p in folder.glob(f"*/{hub.CONFIG}"))
    ):
        msg = f"{folder} is no model folder, but has some in it: {', '.join(within)}. Give {folder / within[0]}."
        raise errors.CheckpointError(msg)
    if (folder / hub.WEIGHTS).is_file() or not (folder / hub.PICKLED_WEIGHTS).is_file():
        return folder
    content = digest(
        *(file_digest(file) for file in (folder / hub.CONFIG, folder / hub.PICKLED_WEIGHTS) if file.is_file())
    )
    converted = cache_folder() / f"models-{__version__}" / content[:32]
    if (converted / hub.WEIGHTS).is_file():
        return converted
    try:
        with written_cache():
            make_folder(converted.parent)
            with atomic_folder(converted) as temporary:
                loading.convert_pickled(folder, temporary)
    except errors.OutputExistsError:
        return converted  # another process was faster
    _logger.info("%s holds pickled weights; a copy as safetensors is kept at %s", folder, converted)
    return converted


_CLASS_ROWS = ("classifier.weight", "heads.0.weight", "base_model.model.classifier.weight")
"""Entries with one row for each class: in a published folder, in one of this package, in one of adapters."""


def published_model(
    model_directory: str | Path, vocabulary: Vocabulary | None = None, *, num_classes: int = 0
) -> loading.LoadedModel:
    """The encoder of a model folder, adapters merged, and the vocabulary head where it has one."""
    given = Path(model_directory).expanduser()
    adapted = is_adapter_folder(given)
    folder = adapter_base_folder(given) if adapted else readable_folder(model_directory)
    config, weights = loading.read_config(folder), loading.read_weights(folder)
    entries = adapter_entries(given) if adapted else weights
    n_classes = next((len(entries[name]) for name in _CLASS_ROWS if name in entries), 0)
    if adapted:
        plain_type = "CellClassifier" if any(".pooler." in name for name in entries) else "GeneClassifier"
        merged = _merged_adapters(given, plain_type, n_classes or 2).state_dict()
        weights = {name: value for name, value in weights.items() if name.startswith("cls.")}
        weights |= {name: value for name, value in merged.items() if name.startswith("bert.")}
    network, has_head = loading.build_model(config, weights, str(folder))
    if num_classes and n_classes and n_classes != num_classes:
        msg = f"{given} has {n_classes} classes, not num_classes={num_classes}. Set num_classes={n_classes}."
        raise errors.CheckpointError(msg)
    vocabulary = _vocabulary_of(config, folder, vocabulary)
    return loading.LoadedModel(str(model_directory), folder, network, vocabulary, has_head)


def _vocabulary_of(config: BertConfig, folder: Path, asked: Vocabulary | None) -> Vocabulary:
    """The vocabulary of a model; where `model_version` contradicts it, the message names the right one."""
    if asked is not None and asked.name not in BUNDLED:
        if asked.size != config.vocab_size:
            msg = f"{folder} has {config.vocab_size:,} tokens, but the dictionary {asked.name} has {asked.size:,}."
            raise errors.VocabularyMismatchError(msg)
        return asked
    try:
        return loading.recognize_vocabulary(config, folder, asked)
    except errors.VocabularyMismatchError as error:
        fitting = [name for name in BUNDLED if Vocabulary.load(name).size == config.vocab_size]
        if not fitting or asked is None or asked.name in fitting:
            raise
        msg = f'{folder} belongs to vocabulary {fitting[0]}, not to {asked.name}. Pass model_version="{fitting[0]}".'
        raise errors.VocabularyMismatchError(msg) from error


def published_runtime(network: Any, forward_batch_size: int, *, progress: bool = True) -> RuntimeOptions:
    """Published arithmetic, and at most so many of the longest cells in one pass."""
    most = forward_batch_size * int(network.config.max_position_embeddings)
    fitting = tokens_that_fit(network, resolve_device())
    return RuntimeOptions(dtype="float32", tokens_per_batch=min(most, fitting), progress=progress)


_PLAIN_NETWORKS: dict[str, Any] = {
    "Pretrained": BertForMaskedLM,
    "GeneClassifier": BertForTokenClassification,
    "CellClassifier": BertForSequenceClassification,
    "MTLCellClassifier": BertForMaskedLM,
}
"""Networks of `transformers` by published type."""

QUANTIZED = "-Quantized"
MODEL_TYPES = (*_PLAIN_NETWORKS, f"MTLCellClassifier{QUANTIZED}", f"Pretrained{QUANTIZED}")
"""Published types of models."""

_HEADS = ("bert.pooler.", "classifier.", "cls.")


def load_plain_network(
    model_type: str, num_classes: int, model_directory: str | Path, mode: str, quantize: bool | dict[str, Any] = False
) -> Any:
    """A network of plain `transformers` on the accelerator if there is one.

    Parameters
    ----------
    model_type
        "Pretrained", "GeneClassifier", "CellClassifier", or "MTLCellClassifier", of which the encoder is loaded; with
        "-Quantized" after the first or the last the weights of the encoder are kept in 8 bits.
    num_classes : Classes of cells or genes.
    model_directory : Folder with weights or with adapters, or a name that `geneformer.load_model` knows.
    mode : "eval" for a network in evaluation mode that returns the states of all layers; "train".
    quantize : True for updates over weights of 4 bits; or a dictionary with `bnb_config` and `peft_config`.

    Returns
    -------
    `BertForMaskedLM`, `BertForTokenClassification` or `BertForSequenceClassification`, wrapped by PEFT where there are
    low-rank updates. A head that the folder does not hold starts at random.
    """
    check_choice("model_type", model_type, MODEL_TYPES)
    check_choice("mode", mode, ("eval", "train"))
    plain_type = model_type.removesuffix(QUANTIZED)
    if plain_type.endswith("Classifier") and plain_type != "MTLCellClassifier":
        check_range("num_classes", num_classes, low=1)
    adapters, bits = checked_quantize(quantize)
    if model_type.endswith(QUANTIZED):
        bits = "8bit"
    device = resolve_device()
    asked = f'model_type="{model_type}"' if model_type.endswith(QUANTIZED) else "quantize"
    bits = usable_bits(bits, device, asked, stacklevel=3)
    folder = readable_folder(model_directory)
    trained = is_adapter_folder(folder)
    network = _plain_network(adapter_base_folder(folder) if trained else folder, plain_type, num_classes)
    network.config.output_hidden_states = mode == "eval"
    if bits != "full":
        quantize_linears(network.bert.encoder, bits)
    if trained:
        network = _adapted(network, folder, trainable=mode == "train")
    elif adapters is not None:
        if plain_type == "CellClassifier":  # in front of a new head the pooler is as new, so it is trained and saved
            adapters = copy(adapters)
            adapters.modules_to_save = list(dict.fromkeys([*(adapters.modules_to_save or ()), "pooler"]))
        network = peft_library().get_peft_model(network, adapters)
        network.enable_input_require_grads()
    return network.to(device).train(mode == "train")


def _adapted(network: Any, folder: Path, *, trainable: bool) -> Any:
    """A network wrapped by PEFT, with the adapters of a folder."""
    adapter_entries(folder)  # where they are missing, PEFT would look for a pickle
    settings = adapter_settings(folder)
    try:
        return peft_library().PeftModel.from_pretrained(network, str(folder), config=settings, is_trainable=trainable)
    except (RuntimeError, ValueError, TypeError, NotImplementedError, AttributeError, KeyError) as error:
        msg = f"{folder}: the network cannot take its adapters ({error!s:.300}). Give the folder they belong to."
        raise errors.CheckpointError(msg) from error


def _merged_adapters(folder: Path, plain_type: str, n_classes: int) -> Any:
    """The network of plain `transformers` whose adapters a folder holds, these made part of its weights."""
    network = _plain_network(adapter_base_folder(folder), plain_type, n_classes)
    return _adapted(network, folder, trainable=False).merge_and_unload()


def _plain_network(folder: Path, plain_type: str, n_classes: int) -> Any:
    """A network of plain `transformers` with the encoder of a checkpoint, and its head where the checkpoint has it."""
    config, weights = loading.read_config(folder), loading.read_weights(folder)
    if not any(name.startswith("bert.") for name in weights):
        weights = {name if name.startswith(_HEADS) else f"bert.{name}": value for name, value in weights.items()}
    loading.check_sizes(config, weights, str(folder))
    config.output_attentions = False
    if plain_type in ("GeneClassifier", "CellClassifier"):
        config.num_labels = n_classes
    network, report = _PLAIN_NETWORKS[plain_type].from_pretrained(
        None, config=config, state_dict=weights, output_loading_info=True, ignore_mismatched_sizes=True
    )
    network.name_or_path = config.name_or_path = str(folder)  # adapters that are saved name what they were trained on
    missing = [name for name in report["missing_keys"] if not name.startswith(_HEADS)]
    unknown = [name for name in report["unexpected_keys"] if name.startswith("bert.") and not name.startswith(_HEADS)]
    if missing or unknown:
        msg = (
            f"{folder} does not hold a plain BERT encoder: missing {missing[:3]}, unknown {unknown[:3]}. Load it with "
            "geneformer.load_model."
        )
        raise errors.CheckpointError(msg)
    if report["mismatched_keys"]:
        name = next(iter(report["mismatched_keys"]))[0]
        msg = f"{folder}: {name} has another shape than {n_classes} classes call for. Give the number it was made for."
        raise errors.CheckpointError(msg)
    return network


def quant_layers(model: Any) -> int:
    """Encoder layers of a network, adapted or not."""
    layers = (re.search(r"(?:^|\.)layer\.(\d+)\.", name) for name, _ in model.named_parameters())
    return 1 + max((int(layer[1]) for layer in layers if layer), default=-1)


def get_model_emb_dims(model: Any) -> int:
    """Width of the states of a network."""
    return int(model.config.hidden_size)


def get_model_input_size(model: Any) -> int:
    """Positions of a network: tokens of the longest cell it reads."""
    return int(model.config.max_position_embeddings)
