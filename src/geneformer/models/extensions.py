"""What an encoder may have beyond BERT: entries of `config.json` that are zero, or missing, for plain BERT."""

from transformers import BertConfig

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
    """Size of an extension; zero where the encoder does without it.

    Parameters
    ----------
    config
        Configuration.
    name
        One of `EXTENSIONS`.
    """
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
