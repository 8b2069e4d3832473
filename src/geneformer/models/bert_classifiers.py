"""Classifiers whose folders plain `transformers` opens: the packed encoder under BERT's heads and BERT's names.

Axes: ``T`` packed tokens, ``B`` cells, ``M`` labeled tokens, ``D`` hidden, ``C`` classes.
"""

from collections.abc import Mapping
from copy import deepcopy
from os import PathLike
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor, nn
from transformers import BertConfig

from geneformer.errors import CheckpointError
from geneformer.models.architectures import write_config
from geneformer.models.attention import Attention
from geneformer.models.checkpoint import CONFIG, read_config, read_weights
from geneformer.models.encoder import GeneformerEncoder, GeneformerModel
from geneformer.models.losses import cross_entropy
from geneformer.models.token_heads import GeneformerForGenes, GeneOutput


class BertPooler(nn.Module):
    """Dense and tanh over the state of the first token."""

    def __init__(self, config: BertConfig) -> None:
        super().__init__()
        self.dense = nn.Linear(config.hidden_size, config.hidden_size)

    def forward(self, hidden_TD: Tensor, cu_seqlens: Tensor) -> Tensor:
        """Cell vectors, ``(B, D)``."""
        return torch.tanh(self.dense(hidden_TD[cu_seqlens[:-1]]))


class BertForCells(GeneformerModel):
    """BERT's sequence classifier over packed cells: it reads the first position, `<cls>` or the top ranked gene.

    Parameters
    ----------
    config
        BERT configuration with `num_labels`.
    """

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
        """Scores of the cells, and their loss.

        Parameters
        ----------
        input_ids
            Token ids of all cells, end to end, ``(T,)``.
        cu_seqlens
            Where each cell starts, and the total, ``(B + 1,)``.
        labels
            Class of every cell, ``(B,)``.
        attention
            Kernel by name.
        """
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
    """BERT's token classifier over packed cells.

    Parameters
    ----------
    config
        BERT configuration with `num_labels`.
    """

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
    """A fine-tuned classifier of the published form, in evaluation mode on the CPU.

    Parameters
    ----------
    folder
        `config.json` and `model.safetensors`, of this package or of plain `transformers`.
    kind
        "cell" or "gene".
    n_classes
        Classes it must have.

    Raises
    ------
    CheckpointError
        Weights that are no such classifier, or of other classes.
    """
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
    """A classifier over packed cells with the weights of a network in memory, in evaluation mode.

    Parameters
    ----------
    model
        Network of this module, which is returned as it is, or of plain `transformers` with BERT's names.
    kind
        "cell" or "gene".

    Raises
    ------
    CheckpointError
        Another kind of network.
    """
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
    """A network with exactly the weights given; buffers and heads it has no place for are passed over.

    Raises
    ------
    CheckpointError
        Entries missing, unknown or of another shape.
    """
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
