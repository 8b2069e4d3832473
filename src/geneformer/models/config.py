"""Architectures by name, and any other from its `config.json`."""

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from transformers import BertConfig
from transformers.activations import ACT2FN

from geneformer.errors import CheckpointError, UnknownModelError
from geneformer.files.atomic import atomic_file
from geneformer.options._fields import nearest

RELATIVE_CLIP = "geneformer_relative_clip"
"""Distance at which relative positions are clipped; above zero they take the place of absolute ones."""

ATTENTION_WINDOW = "geneformer_attention_window"
"""Genes on either side that a gene attends to."""

ADAPTER_SIZE = "geneformer_adapter_size"
"""Width of the bottleneck adapters in every layer."""

EXTENSIONS = (RELATIVE_CLIP, ATTENTION_WINDOW, ADAPTER_SIZE)

MODEL_TYPE = "geneformer"
"""Model type in the `config.json` of an extended encoder; `transformers` would take "bert" without a warning."""


def extension(config: BertConfig, name: str) -> int:
    """Size of an extension; zero where the encoder does without it."""
    return int(getattr(config, name, 0) or 0)


def has_plain_attention(config: BertConfig) -> bool:
    """Whether positions are absolute and every token attends to its whole cell."""
    return not any(extension(config, name) for name in (RELATIVE_CLIP, ATTENTION_WINDOW))


def is_plain_bert(config: BertConfig) -> bool:
    """Whether `transformers`' BERT computes the same from the same weights."""
    return not any(extension(config, name) for name in EXTENSIONS)


def describe_extensions(config: BertConfig) -> str:
    """The extensions an encoder has, as ``name=size`` for messages."""
    return ", ".join(f"{name}={extension(config, name)}" for name in EXTENSIONS if extension(config, name))


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


def write_config(
    config: BertConfig, folder: Path, dtype: torch.dtype = torch.float32, *, architecture: str = "BertForMaskedLM"
) -> None:
    """Write `config.json`; plain BERT under the architecture name `transformers` knows."""
    plain = is_plain_bert(config)
    config.architectures = [architecture if plain else architecture.replace("Bert", "Geneformer", 1)]
    content = config.to_dict() | {"dtype": str(dtype).removeprefix("torch.")}
    if not plain:
        content["model_type"] = MODEL_TYPE
    with atomic_file(folder / "config.json", overwrite=True) as temporary:
        temporary.write_text(json.dumps(content, indent=2, sort_keys=True) + "\n", encoding="utf-8")


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
