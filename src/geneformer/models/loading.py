"""From a name or a folder to a model, with the vocabulary it belongs to.

A checkpoint folder holds `config.json` and `model.safetensors`, as `transformers` lays them out.
"""

import json
import math
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from shutil import copyfile
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import BertConfig
from transformers.activations import ACT2FN

from geneformer.errors import (
    CheckpointError,
    ConversionNeededError,
    UnknownModelError,
    UnknownVocabularyError,
    UnsafeFileError,
    VocabularyMismatchError,
)
from geneformer.files import refuse_lfs_pointer
from geneformer.files.atomic import atomic_file
from geneformer.files.pickles import UnpicklingError
from geneformer.genes.vocabulary import Vocabulary
from geneformer.models.encoder import EXTENSIONS, MODEL_TYPE, write_config
from geneformer.models.heads import GeneformerForMaskedLM
from geneformer.options._fields import nearest

BUNDLED = ("mini",)
"""Models that come with the package."""

VOCABULARY_KEY = "geneformer_vocabulary"
"""Entry of `config.json` with the fingerprint of the vocabulary."""


@dataclass(frozen=True, slots=True)
class HubModel:
    """Where a published model lives."""

    repository: str
    subfolder: str
    revision: str


_V2_RELEASE = "7cf49a35a86ed13714473b420b65bfe4a910de79"
_V1_RELEASE = "a34fbc27153a4c7e327b9471809a2dd51d1640eb"

HUB = {
    "V1-10M": HubModel("ctheodoris/Geneformer", "Geneformer-V1-10M", _V2_RELEASE),
    "V1-12L": HubModel("ctheodoris/Geneformer", "gf-12L-30M-i2048", _V1_RELEASE),
    "V2-104M": HubModel("ctheodoris/Geneformer", "Geneformer-V2-104M", _V2_RELEASE),
    "V2-104M_CLcancer": HubModel("ctheodoris/Geneformer", "Geneformer-V2-104M_CLcancer", _V2_RELEASE),
    "V2-316M": HubModel("ctheodoris/Geneformer", "Geneformer-V2-316M", _V2_RELEASE),
}
"""Published models, each pinned to a commit."""


@dataclass(frozen=True, slots=True)
class LoadedModel:
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

    def __repr__(self) -> str:
        config = self.network.config
        size = f"{config.num_hidden_layers} layers, hidden size {config.hidden_size}"
        return f"LoadedModel({self.name}: {size}, {self.max_length} positions, vocabulary {self.vocabulary.name})"


def list_models(pattern: str = "*") -> list[str]:
    """Names `load_model` knows: bundled models first, then published ones.

    Parameters
    ----------
    pattern
        Shell pattern the names must match.

    Examples
    --------
    >>> from geneformer import list_models
    >>> list_models("V1*")
    ['V1-10M', 'V1-12L']
    """
    from fnmatch import fnmatchcase

    return [name for name in (*BUNDLED, *HUB) if fnmatchcase(name, pattern)]


def load_model(
    model: str | Path,
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
        "owner/name" or "owner/name/subfolder".
    vocabulary
        "V1", "V2", a folder or a `Vocabulary`; needed where neither the checkpoint's fingerprint nor its size tells.
    revision
        Commit, tag or branch on the hub; published names are pinned to a commit by default.
    cache_dir
        Where downloads are kept; by default the hub's cache. `HF_HUB_OFFLINE=1` keeps to what is there.

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
    folder = find_folder(model, revision=revision, cache_dir=cache_dir)
    config = read_config(folder)
    network, has_head = build_model(config, read_weights(folder), str(folder))
    return LoadedModel(str(model), folder, network, recognize_vocabulary(config, folder, vocabulary), has_head)


def find_folder(model: str | Path, *, revision: str | None = None, cache_dir: Path | None = None) -> Path:
    """Folder of a model: bundled, local, or downloaded from the hub."""
    name = str(model)
    if name in BUNDLED:
        return Path(str(files("geneformer.models") / "assets" / name))
    if name in HUB:
        entry = HUB[name]
        return _download(entry.repository, entry.subfolder, revision or entry.revision, cache_dir)
    path = Path(model).expanduser()
    if path.is_dir():
        return path
    names = (*BUNDLED, *HUB)
    if path.exists():
        msg = f"model={name!r} is a file. Pass the folder that holds config.json and model.safetensors."
        raise UnknownModelError(msg)
    parts = name.split("/")
    looks_local = name.startswith((".", "/", "~", "\\")) or len(parts) < 2 or not all(parts)
    if looks_local or name in ARCHITECTURES:
        msg = f"model={name!r} is neither a known name ({', '.join(names)}) nor a folder.{nearest(name, names)}"
        raise UnknownModelError(msg)
    return _download("/".join(parts[:2]), "/".join(parts[2:]), revision, cache_dir)


def _download(repository: str, subfolder: str, revision: str | None, cache_dir: Path | None) -> Path:
    """Checkpoint files of a hub repository, from the cache where they are there already."""
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

    # The HTTP library behind the hub's client differs between its releases; this is the base of its errors.
    transport_error: type[Exception] = HfHubHTTPError.__bases__[0]
    where = f"{repository}/{subfolder}".rstrip("/") + (f" at {revision}" if revision else "")

    def fetch(*file_names: str) -> Path:
        patterns = [f"{subfolder}/{name}".lstrip("/") for name in file_names]
        root = snapshot_download(repository, revision=revision, allow_patterns=patterns, cache_dir=cache_dir)
        return Path(root) / subfolder

    try:
        folder = fetch(CONFIG, WEIGHTS)
        if not (folder / WEIGHTS).is_file():
            folder = fetch(CONFIG, PICKLED_WEIGHTS)
    except LocalEntryNotFoundError as error:
        msg = (
            f"{where} is not in the local cache and the hub cannot be reached. Connect once, copy the cache folder, or "
            f'pass a checkpoint folder. Without a network, model="mini" always works.'
        )
        raise UnknownModelError(msg) from error
    except (HfHubHTTPError, HFValidationError, transport_error, OSError) as error:
        reason = next(iter(str(error).splitlines()), type(error).__name__).rstrip(". ")
        msg = f"{where} cannot be fetched from the hub: {reason}. Check name, network and space in the cache."
        raise UnknownModelError(msg) from error
    if not folder.is_dir():
        msg = f"{where}: there is no checkpoint in the repository, or in the part of it that the cache holds."
        raise CheckpointError(msg)
    return folder


def recognize_vocabulary(config: object, folder: Path, asked: str | Path | Vocabulary | None) -> Vocabulary:
    """Vocabulary of a checkpoint: by its fingerprint, by what was asked, or by its size."""
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


CONFIG = "config.json"
WEIGHTS = "model.safetensors"
PICKLED_WEIGHTS = "pytorch_model.bin"

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
    path = folder / CONFIG
    if not path.is_file():
        msg = f"{folder} is not a checkpoint: there is no {CONFIG} in it. Found {_first_names(folder)}."
        raise CheckpointError(msg)
    refuse_lfs_pointer(path)
    return read_config_file(path)


def read_weights(folder: Path) -> dict[str, Tensor]:
    """Entries of `model.safetensors`, tied copies left out."""
    path = folder / WEIGHTS
    if not path.is_file():
        if (folder / PICKLED_WEIGHTS).is_file():
            msg = (
                f"{folder} only has {PICKLED_WEIGHTS}, a pickle. Convert it once, if you trust where it comes from: "
                f"`geneformer models --convert {folder} -o NEW_FOLDER`."
            )
            raise ConversionNeededError(msg)
        msg = f"{folder} has no {WEIGHTS}. Found {_first_names(folder)}."
        raise CheckpointError(msg)
    refuse_lfs_pointer(path)
    try:
        weights = load_file(path)
    except (SafetensorError, OSError, ValueError) as error:
        msg = f"{path} ({path.stat().st_size:,} bytes) is damaged or incomplete: {error}. Download or copy it again."
        raise CheckpointError(msg) from error
    return {name: value for name, value in weights.items() if name not in TIED}


def build_model(config: BertConfig, weights: Mapping[str, Tensor], where: str) -> tuple[GeneformerForMaskedLM, bool]:
    """A model with the weights of a checkpoint, in evaluation mode, and whether they include the vocabulary head."""
    if not any(name.startswith("bert.") for name in weights):
        weights = {name if name.startswith(HEAD) else f"bert.{name}": value for name, value in weights.items()}
    weights = {n: v for n, v in weights.items() if not n.startswith(FINE_TUNED) and not n.endswith("position_ids")}
    with torch.device("meta"):
        model = GeneformerForMaskedLM(config)
    expected = model.state_dict()
    has_head = any(name.startswith(HEAD) for name in weights)
    weights = {name: value for name, value in weights.items() if not name.startswith("cls.seq_relationship.")}
    check_weights(expected, weights, where, optional=lambda name: not has_head and name.startswith(HEAD))
    for name, value in weights.items():
        if not bool(torch.isfinite(value).all()):
            msg = f"{where}: {name} holds values that are not finite. The checkpoint is damaged, or training diverged."
            raise CheckpointError(msg)
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
    weights = {name: value for name, value in unpickle_weights(path).items() if name not in TIED}
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
    return weights


def _first_names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())[:8]


@dataclass(frozen=True, slots=True)
class Architecture:
    """Sizes of one encoder."""

    layers: int
    hidden: int
    heads: int
    feed_forward: int
    positions: int
    vocabulary: str
    dropout: float


ARCHITECTURES = {
    # layers, hidden, heads, feed-forward, positions, vocabulary, dropout
    "mini": Architecture(3, 128, 2, 256, 1024, "V1", 0.0),
    "V1-10M": Architecture(6, 256, 4, 512, 2048, "V1", 0.02),
    "V1-12L": Architecture(12, 512, 8, 1024, 2048, "V1", 0.02),
    "V2-104M": Architecture(12, 768, 12, 3072, 4096, "V2", 0.1),
    "V2-316M": Architecture(18, 1152, 18, 4608, 4096, "V2", 0.1),
}
"""Sizes of the published models (Theodoris et al., 2023; Chen et al., 2024) and of the bundled `mini`."""

_SIZES = {
    "vocab_size", "hidden_size", "num_hidden_layers", "num_attention_heads", "intermediate_size",
    "max_position_embeddings", "type_vocab_size",
}  # fmt: skip
_NUMBERS = {"hidden_dropout_prob", "attention_probs_dropout_prob", "layer_norm_eps", "initializer_range"}


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
    """Configuration in a `config.json`."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        msg = f"{path} is not valid JSON ({error}). Download or copy it again."
        raise CheckpointError(msg) from error
    if not isinstance(content, dict):
        msg = f"{path} should hold a JSON object, found {type(content).__name__}. Download or copy it again."
        raise CheckpointError(msg)
    _check_entries(content, path)
    config = BertConfig.from_dict({key: value for key, value in content.items() if key != "model_type"})
    if config.hidden_size % config.num_attention_heads:
        msg = f"{path}: hidden_size={config.hidden_size} is not a multiple of {config.num_attention_heads} heads."
        raise CheckpointError(msg)
    return config


def _check_entries(content: Mapping[str, Any], path: Path) -> None:
    """Refuse what this encoder does not implement, and values no network can be built from."""
    accepted: dict[str, tuple[Any, tuple[Any, ...]]] = {
        "model_type": (None, ("bert", MODEL_TYPE)),
        "position_embedding_type": ("absolute", ("absolute",)),
        "is_decoder": (False, (False,)),
        "hidden_act": ("gelu", tuple(ACT2FN)),
    }
    for key, (default, choices) in accepted.items():
        value = content.get(key, default)
        if value not in choices:
            msg = f"{path}: {key}={value!r}; this encoder reads BERT checkpoints with {key}={choices[0]!r}."
            raise CheckpointError(msg + nearest(value, map(str, choices)))
    numbers = (
        (_SIZES, {int}, 1, "a whole number from 1"),
        (set(EXTENSIONS), {int}, 0, "a whole number from 0"),
        (_NUMBERS, {int, float}, -math.inf, "a number"),
    )
    for names, kinds, least, what in numbers:
        for key in names & content.keys():
            if type(content[key]) not in kinds or content[key] < least:
                msg = f"{path}: {key}={content[key]!r} is not {what}. The file is damaged; get it again."
                raise CheckpointError(msg)
    padding = content.get("pad_token_id", 0)
    if padding is not None and padding not in range(content.get("vocab_size", 1)):
        msg = f"{path}: pad_token_id={padding!r} is not among the {content.get('vocab_size'):,} tokens. Correct it."
        raise CheckpointError(msg)
