"""Heads on the encoder.

Axes: ``T`` packed tokens, ``M`` masked tokens, ``D`` hidden, ``V`` vocabulary, ``B`` cells.
"""

from dataclasses import dataclass
from os import PathLike
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from transformers import BertConfig
from transformers.activations import ACT2FN
from transformers.utils.generic import ModelOutput

from geneformer.models.architectures import write_config
from geneformer.models.attention import Attention
from geneformer.models.encoder import GeneformerEncoder, GeneformerModel, mean_pool
from geneformer.models.masked_loss import count_hits, vocabulary_cross_entropy


@dataclass
class PretrainingOutput(ModelOutput):
    """What one pretraining batch gives.

    Attributes
    ----------
    loss
        What is minimized.
    masked_loss, contrastive_loss
        Its two terms, before weighting.
    n_masked, n_top1, n_top10
        Genes predicted; and, outside training, how many were the first, or among the first ten, guesses.
    """

    loss: Tensor | None = None
    masked_loss: Tensor | None = None
    contrastive_loss: Tensor | None = None
    n_masked: Tensor | None = None
    n_top1: Tensor | None = None
    n_top10: Tensor | None = None


class Transform(nn.Module):
    """Dense, activation and layer norm before the vocabulary."""

    def __init__(self, config: BertConfig) -> None:
        super().__init__()
        self.dense = nn.Linear(config.hidden_size, config.hidden_size)
        self.activation = ACT2FN[config.hidden_act]
        self.LayerNorm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)

    def forward(self, hidden_MD: Tensor) -> Tensor:
        """Transformed states, ``(M, D)``."""
        return self.LayerNorm(self.activation(self.dense(hidden_MD)))


class Predictions(nn.Module):
    """Vocabulary head; its matrix is the token embedding itself."""

    def __init__(self, config: BertConfig) -> None:
        super().__init__()
        self.transform = Transform(config)
        self.bias = nn.Parameter(torch.zeros(config.vocab_size))

    def forward(self, hidden_MD: Tensor, embedding_VD: Tensor) -> Tensor:
        """Logits, ``(M, V)``."""
        return functional.linear(self.transform(hidden_MD), embedding_VD, self.bias)


class MaskedLanguageHead(nn.Module):
    """Holder that gives the head BERT's parameter names."""

    def __init__(self, config: BertConfig) -> None:
        super().__init__()
        self.predictions = Predictions(config)


class GeneformerForMaskedLM(GeneformerModel):
    """Encoder with the vocabulary head it is pretrained with.

    Parameters
    ----------
    config
        BERT configuration.
    """

    accepts_loss_kwargs = True
    _keys_to_ignore_on_load_unexpected = [r"cls\.predictions\.decoder", r"position_ids", r"pooler", r"cls\.seq_"]  # noqa: RUF012

    def __init__(self, config: BertConfig) -> None:
        super().__init__(config)
        self.bert = GeneformerEncoder(config)
        self.cls = MaskedLanguageHead(config)
        self.post_init()

    def save_pretrained(
        self, save_directory: str | PathLike[str], is_main_process: bool = True, *args: Any, **kwargs: Any
    ) -> None:
        """Write a folder that plain `transformers` opens, if the encoder is plain BERT: its parameters are named so."""
        super().save_pretrained(save_directory, is_main_process, *args, **kwargs)
        if is_main_process:
            write_config(self.config, Path(save_directory), self.dtype)

    def logits(self, hidden_MD: Tensor) -> Tensor:
        """Scores of every vocabulary entry for the given token states, ``(M, V)``."""
        return self.cls.predictions(hidden_MD, self.bert.embeddings.word_embeddings.weight)

    def forward(
        self,
        input_ids: Tensor,
        cu_seqlens: Tensor,
        masked: Tensor,
        labels: Tensor,
        *,
        contrastive_weight: float = 0.0,
        temperature: float = 0.1,
        contrastive_layer: int = -1,
        num_items_in_batch: Tensor | int | None = None,
        attention: str | Attention = "sdpa",
    ) -> PretrainingOutput:
        """Loss at the masked positions, with logits nowhere else.

        Parameters
        ----------
        input_ids
            Token ids of all cells with some replaced, ``(T,)``.
        cu_seqlens
            Where each cell starts, and the total, ``(B + 1,)``. With a contrastive term the cells are two views of one
            batch: all first views, then all second views in the same order.
        masked
            Positions to predict, ``(M,)``.
        labels
            What stood there, ``(M,)``.
        contrastive_weight, temperature
            Weight and temperature of the contrastive term.
        contrastive_layer
            Layer whose states it compares, counted back from the output: 0 is the last, -1 the one before it.
        num_items_in_batch
            Masked positions of the whole optimizer step, over all devices and accumulated batches.
        attention
            Kernel by name.
        """
        read = self.bert.layers_below(contrastive_layer)
        lengths: list[int] = torch.diff(cu_seqlens).tolist()
        hidden_TD = self.bert.embed_tokens(input_ids, cu_seqlens)
        hidden_TD = self.bert.run_layers(hidden_TD, lengths, stop=read, attention=attention)
        pooled_BD = mean_pool(hidden_TD, cu_seqlens) if contrastive_weight else None
        hidden_TD = self.bert.run_layers(hidden_TD, lengths, start=read, attention=attention)
        head = self.cls.predictions
        scored = (head.transform(hidden_TD[masked]), self.bert.embeddings.word_embeddings.weight, head.bias, labels)
        masked_loss = vocabulary_cross_entropy(*scored)
        loss, contrastive = masked_loss, None
        if pooled_BD is not None:
            contrastive = contrastive_loss(pooled_BD, temperature)
            loss = masked_loss + contrastive_weight * contrastive
        if num_items_in_batch is not None:
            loss = loss * (len(labels) / num_items_in_batch)
        n_top1, n_top10 = (None, None) if self.training else count_hits(*scored)
        return PretrainingOutput(
            loss=loss,
            masked_loss=masked_loss.detach(),
            contrastive_loss=None if contrastive is None else contrastive.detach(),
            n_masked=torch.tensor(len(labels)),
            n_top1=n_top1,
            n_top10=n_top10,
        )


def contrastive_loss(embedding_BD: Tensor, temperature: float) -> Tensor:
    """Cross-entropy of finding each cell's other view among all other cells (Chen et al., SimCLR, 2020).

    Parameters
    ----------
    embedding_BD
        First views, then second views in the same order, ``(2 n, D)``.
    temperature
        Divides the cosine similarities.
    """
    n_cells = len(embedding_BD) // 2
    # All cells have most of their genes in common; without the common part the rest decides from the first step on.
    unit_BD = functional.normalize(embedding_BD - embedding_BD.mean(0), dim=1)
    similarity_BB = unit_BD @ unit_BD.T / temperature
    similarity_BB = similarity_BB.masked_fill(
        torch.eye(2 * n_cells, dtype=torch.bool, device=unit_BD.device), -torch.inf
    )
    other = torch.arange(2 * n_cells, device=unit_BD.device).roll(n_cells)
    return functional.cross_entropy(similarity_BB, other)
