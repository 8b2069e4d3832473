"""Architectures by name, and any other from its `config.json`."""

from dataclasses import dataclass
from pathlib import Path

from transformers import BertConfig

from geneformer.errors import CheckpointError, UnknownModelError
from geneformer.options._check import nearest


@dataclass(frozen=True, kw_only=True, slots=True)
class Architecture:
    """Sizes of one encoder.

    Attributes
    ----------
    layers, hidden, heads, feed_forward
        Size of the stack.
    positions
        Longest cell, special tokens included.
    vocabulary
        Vocabulary it was made for.
    dropout, attention_dropout
        On states and on attention weights.
    """

    layers: int
    hidden: int
    heads: int
    feed_forward: int
    positions: int
    vocabulary: str
    dropout: float
    attention_dropout: float


ARCHITECTURES = {
    "mini": Architecture(
        layers=3, hidden=128, heads=2, feed_forward=256, positions=1024, vocabulary="V1",
        dropout=0.0, attention_dropout=0.0,
    ),
    "V1-10M": Architecture(
        layers=6, hidden=256, heads=4, feed_forward=512, positions=2048, vocabulary="V1",
        dropout=0.02, attention_dropout=0.02,
    ),
    "V1-12L": Architecture(
        layers=12, hidden=512, heads=8, feed_forward=1024, positions=2048, vocabulary="V1",
        dropout=0.02, attention_dropout=0.02,
    ),
    "V2-104M": Architecture(
        layers=12, hidden=768, heads=12, feed_forward=3072, positions=4096, vocabulary="V2",
        dropout=0.1, attention_dropout=0.1,
    ),
    "V2-316M": Architecture(
        layers=18, hidden=1152, heads=18, feed_forward=4608, positions=4096, vocabulary="V2",
        dropout=0.1, attention_dropout=0.1,
    ),
}  # fmt: skip
"""Sizes of the published models (Theodoris et al., 2023; Chen et al., 2024) and of the bundled `mini`."""


def architecture_config(name: str | Path, *, vocab_size: int) -> BertConfig:
    """Configuration of a named architecture, or of a `config.json`, for a vocabulary.

    Parameters
    ----------
    name
        One of `ARCHITECTURES`, a `config.json`, or a folder that holds one.
    vocab_size
        Tokens of the vocabulary, special tokens included.

    Raises
    ------
    UnknownModelError
        Neither a known name nor a file.
    CheckpointError
        The file describes another family of models.
    """
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
            attention_probs_dropout_prob=shape.attention_dropout,
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
    config = BertConfig.from_json_file(path)
    check_architecture(config, path)
    config.vocab_size = vocab_size
    return config


def check_architecture(config: BertConfig, where: str | Path) -> None:
    """Refuse a configuration this encoder does not implement."""
    found = {
        "model_type": (config.model_type, "bert"),
        "position_embedding_type": (getattr(config, "position_embedding_type", None) or "absolute", "absolute"),
        "is_decoder": (bool(getattr(config, "is_decoder", False)), False),
    }
    for key, (value, accepted) in found.items():
        if value != accepted:
            msg = f"{where}: {key}={value!r}; this encoder reads BERT checkpoints with {key}={accepted!r}."
            raise CheckpointError(msg)
    if config.hidden_size % config.num_attention_heads:
        msg = f"{where}: hidden_size={config.hidden_size} is not a multiple of {config.num_attention_heads} heads."
        raise CheckpointError(msg)
