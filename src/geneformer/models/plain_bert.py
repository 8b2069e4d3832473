"""Networks of plain `transformers` from checkpoint folders, for those who run them by themselves."""

import re
from pathlib import Path
from typing import Any, Literal

from torch import nn
from transformers import (
    BertForMaskedLM,
    BertForSequenceClassification,
    BertForTokenClassification,
)

from geneformer.errors import CheckpointError
from geneformer.models.checkpoint import read_config

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
    """A network of plain `transformers` with the encoder of a checkpoint, and its head where the checkpoint has it.

    A head that is not there starts at random.

    Parameters
    ----------
    folder
        `config.json` and `model.safetensors`.
    kind
        What the network predicts.
    n_classes
        Classes of cells or genes.
    hidden_states
        Whether it returns the states of all layers.

    Raises
    ------
    CheckpointError
        The encoder is not plain BERT, or the head has another number of classes.
    """
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
