"""From a name or a folder to a model, with the vocabulary it belongs to.

A checkpoint folder holds `config.json` and `model.safetensors`, as `transformers` lays them out.
"""

import json
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from shutil import copyfile
from typing import Any, Protocol

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import BertConfig

from geneformer.display import Summarized, Summary
from geneformer.errors import (
    CheckpointError,
    ConversionNeededError,
    UnknownModelError,
    UnknownVocabularyError,
    UnsafeFileError,
    VocabularyMismatchError,
)
from geneformer.files import read_json, refuse_foreign_link, refuse_lfs_pointer
from geneformer.files.atomic import atomic_file
from geneformer.files.pickles import UnpicklingError
from geneformer.genes.vocabulary import Vocabulary
from geneformer.models.encoder import EXTENSIONS, MODEL_TYPE, RELATIVE_CLIP, extension, write_config
from geneformer.models.heads import GeneformerForMaskedLM
from geneformer.models.hub import ARCHITECTURES, CONFIG, PICKLED_WEIGHTS, WEIGHTS, config_file, find_folder, first_names
from geneformer.options._fields import nearest

OWN_VOCABULARY = "vocabulary"
"""Folder, in that of a model, of a vocabulary that is not one of those bundled."""

VOCABULARY_KEY = "geneformer_vocabulary"
"""Entry of `config.json` with the fingerprint of the vocabulary."""


@dataclass(frozen=True, slots=True, repr=False)
class LoadedModel(Summarized):
    """A model ready to run."""

    name: str
    folder: Path
    network: GeneformerForMaskedLM
    vocabulary: Vocabulary
    has_head: bool

    @property
    def max_length(self) -> int:
        """Longest cell the model has positions for."""
        return int(self.network.config.max_position_embeddings)

    @property
    def n_layers(self) -> int:
        """Encoder layers."""
        return int(self.network.config.num_hidden_layers)

    def __str__(self) -> str:
        return self.name

    def summary_of(self) -> Summary:
        """Size of the network and what it reads."""
        config = self.network.config
        parameters = sum(parameter.numel() for parameter in self.network.parameters())
        return Summary(
            title=f"LoadedModel {self.name}",
            facts=[
                ("layers", f"{config.num_hidden_layers}"),
                ("hidden size", f"{config.hidden_size:,}"),
                ("parameters", f"{parameters:,}"),
                ("longest cell", f"{self.max_length:,} tokens"),
                ("vocabulary", self.vocabulary.name),
                ("vocabulary head", "yes: it predicts masked genes" if self.has_head else "no"),
                ("folder", str(self.folder)),
            ],
        )


class Fitted(Protocol):
    """A fine-tuned model, whose encoder can be read."""

    def loaded_model(self) -> LoadedModel:
        """Its encoder."""
        ...


def load_model(
    model: "str | Path | LoadedModel | Fitted",
    *,
    vocabulary: str | Path | Vocabulary | None = None,
    revision: str | None = None,
    cache_dir: Path | None = None,
) -> LoadedModel:
    """A pretrained model by name, folder or hub repository.

    Parameters
    ----------
    model
        Bundled ("mini") or published name (`list_models`), a checkpoint folder, or a hub repository as
        "owner/name" or "owner/name/subfolder"; or a fitted model, whose encoder is taken, or what was loaded before.
    vocabulary
        "V1", "V2", a folder or a `Vocabulary`; needed where neither the checkpoint's fingerprint nor its size tells.
    revision
        Commit, tag or branch on the hub; published names are pinned to a commit by default.
    cache_dir
        Where downloads are kept; by default `gf.settings.cache`, or else the hub's cache. `HF_HUB_OFFLINE=1` keeps to
        what is there.

    Raises
    ------
    UnknownModelError
        No such name, folder or repository.
    CheckpointError
        A checkpoint that is incomplete, damaged or of another architecture.
    UnknownVocabularyError
        The vocabulary cannot be told; pass `vocabulary`.
    VocabularyMismatchError
        The vocabulary given is not the one the checkpoint was made with.

    Examples
    --------
    >>> from geneformer import load_model
    >>> load_model("mini").vocabulary.name
    'V1'
    """
    if not isinstance(model, (str, Path, LoadedModel)) and hasattr(type(model), "loaded_model"):
        model = model.loaded_model()
    if isinstance(model, LoadedModel):
        if vocabulary is None:
            return model
        return replace(model, vocabulary=recognize_vocabulary(model.network.config, model.folder, vocabulary))
    folder = find_folder(model, revision=revision, cache_dir=cache_dir)
    config = read_config(folder)
    network, has_head = build_model(config, read_weights(folder), str(folder))
    return LoadedModel(str(model), folder, network, recognize_vocabulary(config, folder, vocabulary), has_head)


def recognize_vocabulary(config: object, folder: Path, asked: str | Path | Vocabulary | None = None) -> Vocabulary:
    """Vocabulary of a checkpoint: what was asked, that in its folder, or else by its fingerprint or its size."""
    if asked is None and (folder / OWN_VOCABULARY).is_dir():
        asked = folder / OWN_VOCABULARY
    fingerprint = getattr(config, VOCABULARY_KEY, None)
    size = int(getattr(config, "vocab_size", 0))
    if asked is not None:
        vocabulary = asked if isinstance(asked, Vocabulary) else Vocabulary.load(asked)
        if fingerprint not in (None, vocabulary.fingerprint) or vocabulary.size != size:
            msg = (
                f"{folder} belongs to vocabulary {fingerprint or 'unknown'} of {size:,} tokens, not to "
                f"{vocabulary.name} ({vocabulary.fingerprint}) of {vocabulary.size:,}. Leave vocabulary out, or pass "
                "its own."
            )
            raise VocabularyMismatchError(msg)
        return vocabulary
    bundled = [Vocabulary.load(name) for name in ("V1", "V2")]
    for vocabulary in bundled:
        if fingerprint == vocabulary.fingerprint or (fingerprint is None and size == vocabulary.size):
            return vocabulary
    sizes = ", ".join(f"{v.name} with {v.size:,}" for v in bundled)
    msg = (
        f"{folder} was made with {'vocabulary ' + fingerprint if fingerprint else 'an unnamed vocabulary'} of {size:,} "
        f"tokens, which is none of those bundled ({sizes}). Pass its folder as vocabulary=."
    )
    raise UnknownVocabularyError(msg)


HEAD = "cls.predictions."
"""Prefix of the vocabulary head."""

TIED = (f"{HEAD}decoder.weight", f"{HEAD}decoder.bias")
"""Copies of other entries, present in old files."""

FINE_TUNED = (
    "attention_pool.", "bert.pooler.", "cell_norm.", "classification_heads.", "classifier.", "decoder.", "dropout.",
    "from_cell.", "from_gene.", "gene_norm.", "heads.", "pool.", "spread", "task_log_variance", "usual",
)  # fmt: skip
"""Entries of task heads, of no use to the encoder."""


def read_config(folder: Path) -> BertConfig:
    """Configuration of a checkpoint folder."""
    return read_config_file(config_file(folder))


def class_names(config: BertConfig) -> tuple[str, ...]:
    """Names of the classes that a configuration tells, in the order of their numbers."""
    names: dict[Any, str] = dict(config.id2label or {})
    return tuple(names[number] for number in range(len(names)))


def read_weights(folder: Path) -> dict[str, Tensor]:
    """Entries of `model.safetensors`, or of the parts it was written in, tied copies left out."""
    path, index = folder / WEIGHTS, folder / f"{WEIGHTS}.index.json"
    if path.is_file():
        return usable_weights(read_tensors(path), path)
    if index.is_file():
        return usable_weights({k: v for part in _parts(index) for k, v in read_tensors(part).items()}, index)
    if (folder / PICKLED_WEIGHTS).is_file():
        msg = (
            f"{folder} only has {PICKLED_WEIGHTS}, a pickle. Convert it once, if you trust where it comes from: "
            f"`geneformer models --convert {folder} -o NEW_FOLDER`."
        )
        raise ConversionNeededError(msg)
    msg = f"{folder} has no {WEIGHTS}. Found {first_names(folder)}."
    raise CheckpointError(msg)


def _parts(index: Path) -> list[Path]:
    """The files among which weights were divided; all of them lie beside the index."""
    names = read_json(index, CheckpointError).get("weight_map")
    parts = sorted({str(name) for name in names.values()}) if isinstance(names, dict) else []
    missing = [name for name in parts if Path(name).name != name or not (index.parent / name).is_file()]
    if missing or not parts:
        msg = f"{index} names parts that are not in its folder ({missing[:3]}), or none. Copy the whole folder again."
        raise CheckpointError(msg)
    return [index.parent / name for name in parts]


def read_tensors(path: Path) -> dict[str, Tensor]:
    """Entries of one safetensors file."""
    refuse_foreign_link(path, CheckpointError)
    refuse_lfs_pointer(path)
    try:
        with path.open("rb") as file:
            length = int.from_bytes(file.read(8), "little")
            json.loads(file.read(min(length, _LONGEST_HEADER)), object_pairs_hook=_each_once)
        return load_file(path)
    except (SafetensorError, OSError, ValueError, RecursionError) as error:
        msg = f"{path} ({path.stat().st_size:,} bytes) is damaged or incomplete: {error}. Download or copy it again."
        raise CheckpointError(msg) from error


_LONGEST_HEADER = 100_000_000
"""Bytes of names and shapes that the format allows."""


def _each_once(entries: list[tuple[str, Any]]) -> dict[str, Any]:
    """An object of JSON; of an entry that stands twice, libraries take one or the other."""
    content = dict(entries)
    if len(content) < len(entries):
        msg = "an entry stands twice"
        raise ValueError(msg)
    return content


_LARGEST = 1e15
"""No training reaches such a weight, and the square of a much larger one is no number of 32 bits."""


def usable_weights(weights: Mapping[str, Tensor], where: Path) -> dict[str, Tensor]:
    """Weights by their own names, those of wrappers taken off, once all are numbers that can be computed with."""
    usable = {}
    for stored, value in weights.items():
        name = stored.replace("_orig_mod.", "").removeprefix("module.")
        if name in TIED or name.endswith("position_ids"):
            continue
        if value.dtype not in _WEIGHT_TYPES:
            msg = f"{where}: {name} holds {value.dtype}, not floating point numbers. It is damaged; get it again."
            raise CheckpointError(msg)
        low, high = torch.aminmax(value) if value.numel() else (0, 0)
        if not (low >= -_LARGEST and high <= _LARGEST):
            msg = (
                f"{where}: {name} holds values that are not finite, or beyond {_LARGEST:g}. The checkpoint is damaged, "
                "or training diverged."
            )
            raise CheckpointError(msg)
        usable[name] = value
    return usable


_WEIGHT_TYPES = {torch.float16, torch.bfloat16, torch.float32, torch.float64}

_LAYER = re.compile(r"bert\.encoder\.layer\.(\d+)\.")


def check_sizes(config: BertConfig, weights: Mapping[str, Tensor], where: str) -> None:
    """Refuse a configuration that claims other sizes than the weights have, before a network of them is made."""
    n_layers, hidden = config.num_hidden_layers, config.hidden_size
    shapes = {"bert.embeddings.word_embeddings.weight": (config.vocab_size, hidden)}
    if not extension(config, RELATIVE_CLIP):
        shapes["bert.embeddings.position_embeddings.weight"] = (config.max_position_embeddings, hidden)
    found = {int(match[1]) for name in weights if (match := _LAYER.match(name))}
    last = n_layers - 1 if len(found) >= n_layers else next(i for i in range(n_layers) if i not in found)
    shapes[f"bert.encoder.layer.{last}.output.dense.weight"] = (hidden, config.intermediate_size)
    missing = [name for name in shapes if name not in weights]
    if missing:
        msg = f"{where}: the weights do not fit {CONFIG}; missing {missing[:3]}. The folder is incomplete or mixed."
        raise CheckpointError(msg)
    for name, needed in shapes.items():
        shape = tuple(weights[name].shape)
        if shape != needed:
            msg = (
                f"{where}: {name} has shape {shape}, {CONFIG} calls for {needed}. The folder is incomplete or mixed; "
                "get it again."
            )
            raise CheckpointError(msg)


def build_model(config: BertConfig, weights: Mapping[str, Tensor], where: str) -> tuple[GeneformerForMaskedLM, bool]:
    """A model with the weights of a checkpoint, in evaluation mode, and whether they include the vocabulary head."""
    if not any(name.startswith("bert.") for name in weights):
        weights = {name if name.startswith(HEAD) else f"bert.{name}": value for name, value in weights.items()}
    weights = {name: value for name, value in weights.items() if not name.startswith(FINE_TUNED)}
    check_sizes(config, weights, where)
    with torch.device("meta"):
        model = GeneformerForMaskedLM(config)
    expected = model.state_dict()
    has_head = any(name.startswith(HEAD) for name in weights)
    weights = {name: value for name, value in weights.items() if not name.startswith("cls.seq_relationship.")}
    check_weights(expected, weights, where, optional=lambda name: not has_head and name.startswith(HEAD))
    values = {name: value.float() for name, value in weights.items()}
    values |= {name: torch.zeros(expected[name].shape) for name in expected if name not in values}
    model.load_state_dict(values, assign=True)
    return model.eval(), has_head


def check_weights(
    expected: Mapping[str, Tensor],
    weights: Mapping[str, Tensor],
    where: str,
    advice: str = "The folder is incomplete or mixed; get it again.",
    *,
    optional: Callable[[str], bool] = lambda _: False,
) -> list[str]:
    """Refuse weights that do not fit the parameters of a network; returns the optional ones that are not there."""
    absent = [name for name in expected if name not in weights]
    missing = [name for name in absent if not optional(name)]
    unknown = [name for name in weights if name not in expected]
    if missing or unknown:
        msg = f"{where}: the weights do not fit {CONFIG}; missing {missing[:3]}, unknown {unknown[:3]}. {advice}"
        raise CheckpointError(msg)
    for name, value in weights.items():
        shape, needed = tuple(value.shape), tuple(expected[name].shape)
        if shape != needed:
            msg = f"{where}: {name} has shape {shape}, {CONFIG} calls for {needed}. {advice}"
            raise CheckpointError(msg)
    return absent


def save_checkpoint(model: GeneformerForMaskedLM, folder: Path, *, dtype: torch.dtype = torch.float32) -> None:
    """Write a folder that this package loads and, where the encoder is plain BERT, plain `transformers` too."""
    folder.mkdir(parents=True, exist_ok=True)
    weights = {name: value.detach().to("cpu", dtype).contiguous() for name, value in model.state_dict().items()}
    write_config(model.config, folder, dtype)
    with atomic_file(folder / WEIGHTS, overwrite=True) as temporary:
        save_file(weights, temporary, metadata={"format": "pt"})


def convert_pickled(folder: Path, output: Path) -> None:
    """Turn a folder with pickled weights into one with safetensors; every entry is kept, task heads included."""
    config, path = read_config(folder), folder / PICKLED_WEIGHTS
    weights = unpickle_weights(path)
    build_model(config, weights, str(path))
    output.mkdir(parents=True, exist_ok=True)
    own = {name: value.clone(memory_format=torch.contiguous_format) for name, value in weights.items()}
    save_file(own, output / WEIGHTS, metadata={"format": "pt"})
    copyfile(folder / CONFIG, output / CONFIG)


def unpickle_weights(path: Path) -> dict[str, Tensor]:
    """Entries of a pickled file that holds tensors and nothing else, by PyTorch's restricted loader."""
    if not path.is_file():
        msg = f"{path} does not exist."
        raise CheckpointError(msg)
    refuse_lfs_pointer(path)
    try:
        weights = torch.load(path, map_location="cpu", weights_only=True)
    except UnpicklingError as error:
        asked = re.search(r"GLOBAL ([\w.]+)", str(error))
        if asked:
            msg = f"{path} asks for {asked[1]} while it is read; tensors ask for nothing. Do not use this file."
            raise UnsafeFileError(msg) from error
        msg = f"{path} cannot be read as PyTorch weights. It is damaged, or another kind of pickle; get it again."
        raise CheckpointError(msg) from error
    except (RuntimeError, ValueError, EOFError, OSError, AttributeError, LookupError) as error:
        reason = next(iter(str(error).splitlines()), type(error).__name__)
        msg = f"{path} ({path.stat().st_size:,} bytes) is damaged or incomplete: {reason}. Download or copy it again."
        raise CheckpointError(msg) from error
    if not isinstance(weights, dict) or not all(isinstance(value, Tensor) for value in weights.values()):
        msg = f"{path} does not hold tensors by name, as a saved network does. Found {type(weights).__name__}."
        raise CheckpointError(msg)
    return usable_weights(weights, path)


_CHOICES: dict[str, tuple[Any, ...]] = {
    "model_type": ("bert", MODEL_TYPE),
    "position_embedding_type": ("absolute",),
    "is_decoder": (False,),
    "tie_word_embeddings": (True,),
    "hidden_act": ("gelu", "relu", "silu", "gelu_new", "swish", "gelu_pytorch_tanh", "gelu_fast", "tanh"),
}
"""Entries of `config.json` that this encoder takes in some ways only; where one is absent, it means the first."""

_SIZES: dict[str, tuple[int, int]] = {
    "vocab_size": (1, 2**24),
    "hidden_size": (1, 2**16),
    "num_hidden_layers": (1, 2**10),
    "num_attention_heads": (1, 2**12),
    "intermediate_size": (1, 2**18),
    "max_position_embeddings": (1, 2**20),
    "type_vocab_size": (1, 2**10),
    **dict.fromkeys(EXTENSIONS, (0, 2**16)),
}
_NUMBERS: dict[str, tuple[float, float]] = {
    "hidden_dropout_prob": (0.0, 1.0),
    "attention_probs_dropout_prob": (0.0, 1.0),
    "classifier_dropout": (0.0, 1.0),
    "layer_norm_eps": (0.0, 1.0),
    "initializer_range": (0.0, 1e3),
}
_DTYPES = ("float32", "float16", "bfloat16", "float64")
_OWN = "geneformer_"
_READ = {*_SIZES, *_NUMBERS, "hidden_act", "pad_token_id", "architectures", "id2label"}
"""All that is read of a `config.json`, besides entries of our own. Others would reach `transformers`, which takes some
for names of code to load."""


def architecture_config(name: str | Path, *, vocab_size: int) -> BertConfig:
    """Configuration of a named architecture, or of a `config.json`, for a vocabulary."""
    if str(name) in ARCHITECTURES:
        shape = ARCHITECTURES[str(name)]
        return BertConfig(
            vocab_size=vocab_size,
            num_hidden_layers=shape.layers,
            hidden_size=shape.hidden,
            num_attention_heads=shape.heads,
            intermediate_size=shape.feed_forward,
            max_position_embeddings=shape.positions,
            hidden_dropout_prob=shape.dropout,
            attention_probs_dropout_prob=shape.dropout,
            hidden_act="relu",
            layer_norm_eps=1e-12,
            initializer_range=0.02,
            pad_token_id=0,
        )
    path = Path(name)
    path = path / "config.json" if path.is_dir() else path
    if not path.is_file():
        msg = f"architecture={str(name)!r} is neither a known name ({', '.join(ARCHITECTURES)}) nor a config.json."
        raise UnknownModelError(msg + nearest(str(name), ARCHITECTURES))
    config = read_config_file(path)
    config.vocab_size = vocab_size
    return config


def read_config_file(path: Path) -> BertConfig:
    """Configuration in a `config.json`: of its entries those in `_READ`, once they are such as a network can have."""
    content = read_json(path, CheckpointError)
    _check_choices(content, path)
    kept = {key: value for key, value in content.items() if key in _READ or key.startswith(_OWN)}
    for key, (least, most) in _SIZES.items():
        if key in kept:
            _check_number(key, kept[key], {int}, least, most, path)
    for key, (low, high) in _NUMBERS.items():
        if kept.get(key) is None and key == "classifier_dropout":
            continue
        if key in kept:
            _check_number(key, kept[key], {int, float}, low, high, path)
            kept[key] = float(kept[key])
    kept |= {key: content[key] for key in ("dtype", "torch_dtype") if content.get(key) in _DTYPES}
    _check_texts(kept, path)
    if kept.get("pad_token_id", 0) not in (None, 0):
        msg = f"{path}: pad_token_id={kept['pad_token_id']!r:.200} is a gene or no token; every vocabulary pads with 0."
        raise CheckpointError(msg)
    config = BertConfig(**kept)
    if config.hidden_size % config.num_attention_heads:
        msg = f"{path}: hidden_size={config.hidden_size} is not a multiple of {config.num_attention_heads} heads."
        raise CheckpointError(msg)
    return config


def _check_choices(content: Mapping[str, Any], path: Path) -> None:
    """Refuse what this encoder does not implement."""
    for key, choices in _CHOICES.items():
        value = content.get(key, None if key == "model_type" else choices[0])
        if value not in choices or type(value) is not type(choices[0]):
            msg = f"{path}: {key}={value!r:.200}; this encoder reads BERT checkpoints with {key}={choices[0]!r}."
            raise CheckpointError(msg + nearest(value, map(str, choices)))


def _check_number(key: str, value: Any, kinds: set[type], least: float, most: float, path: Path) -> None:
    if type(value) not in kinds or not least <= value <= most:
        what = f"a {'whole ' if kinds == {int} else ''}number from {least} to {most:,}"
        msg = f"{path}: {key}={value!r:.200} is not {what}. The file is damaged; get it again."
        raise CheckpointError(msg)


def _check_texts(kept: dict[str, Any], path: Path) -> None:
    """Refuse names that are none; class names get whole numbers."""
    names, classes = kept.get("architectures"), kept.get("id2label")
    are_names = names is None or (isinstance(names, list) and all(isinstance(name, str) for name in names))
    if not are_names or not isinstance(kept.get(VOCABULARY_KEY, ""), (str, type(None))):
        msg = f"{path}: architectures or {VOCABULARY_KEY} is no text. The file is damaged; get it again."
        raise CheckpointError(msg)
    if classes is None:
        kept.pop("id2label", None)
        return
    numbers = [str(number) for number in range(len(classes))] if isinstance(classes, dict) else None
    if numbers is None or set(classes) != set(numbers) or not all(isinstance(c, (str, int)) for c in classes.values()):
        msg = f"{path}: id2label={classes!r:.200} does not name classes by their numbers from 0 on. Correct it."
        raise CheckpointError(msg)
    kept["id2label"] = {int(number): str(classes[number]) for number in numbers}
    kept["label2id"] = {name: number for number, name in kept["id2label"].items()}
