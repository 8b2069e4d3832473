"""Heads on the encoder.

Axes: ``T`` packed tokens, ``M`` masked tokens, ``D`` hidden, ``V`` vocabulary, ``B`` cells.
"""

import math
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from os import PathLike
from pathlib import Path
from typing import Any, Literal, cast

import torch
from torch import Tensor, nn
from torch.nn import functional
from transformers import BertConfig
from transformers.activations import ACT2FN
from transformers.utils.generic import ModelOutput

from geneformer.models.attention import Attention
from geneformer.models.encoder import (
    GeneformerEncoder,
    GeneformerModel,
    cell_of,
    mean_pool,
    pool_cells,
    write_config,
)
from geneformer.models.losses import (
    MISSING,
    OUTPUTS,
    binary_cross_entropy,
    count_hits,
    cross_entropy,
    number_loss,
    vocabulary_cross_entropy,
)


@dataclass
class PretrainingOutput(ModelOutput):
    """Outputs of one pretraining batch."""

    loss: Tensor | None = None
    masked_loss: Tensor | None = None
    contrastive_loss: Tensor | None = None
    n_masked: Tensor | None = None
    n_top1: Tensor | None = None
    n_top10: Tensor | None = None


class Predictions(nn.Module):
    """Vocabulary head; its matrix is the token embedding itself."""

    def __init__(self, config: BertConfig) -> None:
        super().__init__()
        size = config.hidden_size
        norm = nn.LayerNorm(size, eps=config.layer_norm_eps)
        parts = {"dense": nn.Linear(size, size), "activation": ACT2FN[config.hidden_act], "LayerNorm": norm}
        self.transform = nn.Sequential(OrderedDict(parts))
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
    """Encoder with the vocabulary head it is pretrained with."""

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

        With a contrastive term the cells are two views of one batch: all first views, then all second views in the same
        order. The layer whose states it compares counts back from the output: 0 is the last, -1 the one before it.
        `num_items_in_batch` are the masked positions of the whole step, over all devices and accumulated batches.
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
    """Cross-entropy of finding each cell's other view among all other cells (Chen et al., SimCLR, 2020)."""
    n_cells = len(embedding_BD) // 2
    # All cells have most of their genes in common; without the common part the rest decides from the first step on.
    unit_BD = functional.normalize(embedding_BD - embedding_BD.mean(0), dim=1)
    similarity_BB = unit_BD @ unit_BD.T / temperature
    similarity_BB = similarity_BB.masked_fill(
        torch.eye(2 * n_cells, dtype=torch.bool, device=unit_BD.device), -torch.inf
    )
    other = torch.arange(2 * n_cells, device=unit_BD.device).roll(n_cells)
    return functional.cross_entropy(similarity_BB, other)


class MeanPool(nn.Module):
    """Mean over the genes of each cell; special tokens do not count."""

    pooling = "mean"
    special: Tensor

    def __init__(self, config: BertConfig) -> None:
        super().__init__()
        special = torch.tensor(sorted(config.geneformer_special_ids), dtype=torch.long)
        self.register_buffer("special", special, persistent=False)

    def forward(self, hidden_TD: Tensor, input_ids_T: Tensor, cu_seqlens: Tensor) -> Tensor:
        """Cell vectors, ``(B, D)``."""
        return pool_cells(hidden_TD, input_ids_T, cu_seqlens, self.special, self.pooling)


class RankPool(MeanPool):
    """The same, with genes of higher ranks weighing more."""

    pooling = "rank"


class FirstPool(nn.Module):
    """State of the first token: `<cls>` where the vocabulary has it, else the top ranked gene."""

    def __init__(self, config: BertConfig) -> None:
        super().__init__()

    def forward(self, hidden_TD: Tensor, input_ids_T: Tensor, cu_seqlens: Tensor) -> Tensor:
        """Cell vectors, ``(B, D)``."""
        return hidden_TD[cu_seqlens[:-1]]


class DensePool(nn.Module):
    """BERT's pooler: dense and tanh over the first token, as in published classifiers."""

    def __init__(self, config: BertConfig) -> None:
        super().__init__()
        self.dense = nn.Linear(config.hidden_size, config.hidden_size)

    def forward(self, hidden_TD: Tensor, input_ids_T: Tensor, cu_seqlens: Tensor) -> Tensor:
        """Cell vectors, ``(B, D)``."""
        return torch.tanh(self.dense(hidden_TD[cu_seqlens[:-1]]))


class AttentionPool(nn.Module):
    """Mean weighted by a learnt softmax over the tokens of the cell, and of no other."""

    def __init__(self, config: BertConfig) -> None:
        super().__init__()
        self.attention_weights = nn.Parameter(torch.empty(config.hidden_size, 1))
        nn.init.normal_(self.attention_weights, std=config.initializer_range)

    def forward(self, hidden_TD: Tensor, input_ids_T: Tensor, cu_seqlens: Tensor) -> Tensor:
        """Cell vectors, ``(B, D)``."""
        cells_T = cell_of(cu_seqlens, len(hidden_TD))
        scores_T = (hidden_TD.float() @ self.attention_weights.float())[:, 0]
        n_cells = len(cu_seqlens) - 1
        peaks_B = scores_T.new_full((n_cells,), -torch.inf).scatter_reduce(0, cells_T, scores_T.detach(), "amax")
        shares_T = torch.exp(scores_T - peaks_B[cells_T])
        totals_B = shares_T.new_zeros(n_cells).index_add(0, cells_T, shares_T)
        shares_T = shares_T / totals_B[cells_T]
        empty = hidden_TD.new_zeros((n_cells, hidden_TD.shape[1]), dtype=torch.float32)
        return empty.index_add(0, cells_T, hidden_TD.float() * shares_T[:, None])


POOLS: dict[str, type[nn.Module]] = {
    "mean": MeanPool, "rank": RankPool, "cls": FirstPool, "attention": AttentionPool, "pooler": DensePool,
}  # fmt: skip
"""Poolings by the name options give them."""


@dataclass(frozen=True, kw_only=True, slots=True)
class HeadSpec:
    """Name, kind and classes of one head."""

    name: str
    kind: Literal["one_of", "any_of", "number"] = "one_of"
    classes: tuple[str, ...] = ()
    loss: str = "squared_error"
    activation: Literal["linear", "relu", "softplus"] = "linear"
    scale: float = 1.0

    @property
    def size(self) -> int:
        """Outputs of the head."""
        return OUTPUTS[self.loss] if self.kind == "number" else len(self.classes)

    def to_dict(self) -> dict[str, Any]:
        """As JSON takes it."""
        return asdict(self) | {"classes": list(self.classes)}

    @classmethod
    def from_dict(cls, content: Mapping[str, Any]) -> "HeadSpec":
        """From what `to_dict` gave."""
        return cls(**{**content, "classes": tuple(content["classes"])})


STARTS = {"relu": 1.0, "softplus": math.log(math.e - 1)}
"""Bias with which a predicted mean starts at 1: a relu that starts below 0 would never learn."""


@dataclass
class CellOutput(ModelOutput):
    """Outputs of one batch."""

    loss: Tensor | None = None
    supervised_loss: Tensor | None = None
    contrastive_loss: Tensor | None = None
    predictions: dict[str, Tensor] | None = None
    task_losses: dict[str, Tensor] | None = None
    pooled: Tensor | None = None


class PooledModel(GeneformerModel):
    """Encoder and pooling."""

    def __init__(self, config: BertConfig) -> None:
        super().__init__(config)
        self.bert = GeneformerEncoder(config)
        self.pool = POOLS[config.geneformer_pooling](config)
        self.layers_done = 0
        """Layers that states given to it went through already."""

    def embed(
        self,
        input_ids: Tensor,
        cu_seqlens: Tensor,
        *,
        attention: str | Attention = "sdpa",
        states: Tensor | None = None,
    ) -> Tensor:
        """Cell vectors the heads see, ``(B, D)``."""
        start = 0 if states is None else self.layers_done
        hidden_TD = self.bert(input_ids, cu_seqlens, attention=attention, states_TD=states, start=start)
        pooled: Tensor = self.pool(hidden_TD, input_ids, cu_seqlens)
        return pooled


class GeneformerForCells(PooledModel):
    """Encoder, pooling, and one linear head per task.

    The configuration has `geneformer_heads` (`HeadSpec.to_dict`), `geneformer_pooling`, `geneformer_special_ids`, and
    `geneformer_learn_task_weights` where tasks are weighed by learning. Dropout before the heads is
    `classifier_dropout`, or that of the states where there is none.
    """

    def __init__(self, config: BertConfig) -> None:
        super().__init__(config)
        self.specs = tuple(HeadSpec.from_dict(entry) for entry in config.geneformer_heads)
        own_dropout = getattr(config, "classifier_dropout", None)
        self.dropout = nn.Dropout(config.hidden_dropout_prob if own_dropout is None else own_dropout)
        self.heads = nn.ModuleList(nn.Linear(config.hidden_size, spec.size) for spec in self.specs)
        learnt = getattr(config, "geneformer_learn_task_weights", False)
        self.task_log_variance = nn.Parameter(torch.zeros(len(self.specs))) if learnt else None
        self.class_weights: dict[str, Tensor] = {}
        self.task_weights = [1.0] * len(self.specs)
        self.label_smoothing = 0.0
        self.post_init()
        for spec, head in zip(self.specs, self.heads, strict=True):
            if spec.kind == "number" and spec.activation in STARTS:
                nn.init.constant_(cast(nn.Linear, head).bias[:1], STARTS[spec.activation])

    def weights_now(self) -> list[float]:
        """Weight of every task's loss; where weights are learnt, as they are now."""
        if self.task_log_variance is None:
            return [float(weight) for weight in self.task_weights]
        weights: list[float] = self.task_log_variance.detach().neg().exp().tolist()
        return weights

    def forward(
        self,
        input_ids: Tensor,
        cu_seqlens: Tensor,
        targets: Mapping[str, Tensor] | None = None,
        *,
        states: Tensor | None = None,
        supervised_weight: float = 1.0,
        contrastive_weight: float = 0.0,
        temperature: float = 0.1,
        attention: str | Attention = "sdpa",
    ) -> CellOutput:
        """Predictions of every head and, where there are targets, the loss.

        Targets are classes ``(B,)``, 0 or 1 ``(B, C)``, or numbers ``(B,)``, by head. With a contrastive term and in
        training the cells come first, then all their second views in the same order.
        """
        pooled_BD = self.embed(input_ids, cu_seqlens, attention=attention, states=states)
        return self.read(
            pooled_BD,
            targets,
            supervised_weight=supervised_weight,
            contrastive_weight=contrastive_weight,
            temperature=temperature,
        )

    def read(
        self,
        pooled_BD: Tensor,
        targets: Mapping[str, Tensor] | None = None,
        *,
        supervised_weight: float = 1.0,
        contrastive_weight: float = 0.0,
        temperature: float = 0.1,
    ) -> CellOutput:
        """The same from cell vectors."""
        contrast = contrastive_weight > 0 and self.training
        cells_BD = pooled_BD[: len(pooled_BD) // 2] if contrast else pooled_BD
        dropped_BD = self.dropout(cells_BD)
        predictions = {
            spec.name: _activated(head(dropped_BD), spec) for spec, head in zip(self.specs, self.heads, strict=True)
        }
        if targets is None:
            return CellOutput(predictions=predictions, pooled=pooled_BD)
        losses = [self._loss(spec, predictions[spec.name], targets[spec.name]) for spec in self.specs]
        supervised = self._weigh(losses, [has_target(spec, targets[spec.name]) for spec in self.specs])
        loss, contrastive = supervised_weight * supervised, None
        if contrast:
            contrastive = contrastive_loss(pooled_BD, temperature)
            loss = loss + contrastive_weight * contrastive
        return CellOutput(
            loss=loss,
            supervised_loss=supervised.detach(),
            contrastive_loss=None if contrastive is None else contrastive.detach(),
            predictions=predictions,
            task_losses={spec.name: value.detach() for spec, value in zip(self.specs, losses, strict=True)},
            pooled=pooled_BD,
        )

    def _loss(self, spec: HeadSpec, outputs: Tensor, targets: Tensor) -> Tensor:
        """Loss of one head."""
        weights = self.class_weights.get(spec.name)
        weights = None if weights is None else weights.to(outputs.device, torch.float32)
        if spec.kind == "one_of":
            return cross_entropy(outputs, targets, weights, self.label_smoothing)
        if spec.kind == "any_of":
            return binary_cross_entropy(outputs, targets, weights)
        return number_loss(spec.loss, outputs, targets)

    def _weigh(self, losses: Sequence[Tensor], has_targets: Sequence[Tensor]) -> Tensor:
        """Sum of the losses with fixed weights, or with learnt ones (Kendall et al., CVPR 2018)."""
        stacked = torch.stack(list(losses))
        if self.task_log_variance is not None:
            terms = torch.exp(-self.task_log_variance) * stacked + 0.5 * self.task_log_variance
            return (terms * torch.stack(list(has_targets))).sum()
        return (stacked * stacked.new_tensor(self.task_weights)).sum()


def class_probabilities(logits_BC: Tensor, spec: HeadSpec, temperature: float = 1.0) -> Tensor:
    """Probability of every class from the logits of a head, in float32, ``(B, C)``."""
    scaled_BC = logits_BC.float() / temperature
    return scaled_BC.sigmoid() if spec.kind == "any_of" else scaled_BC.softmax(-1)


def has_target(spec: HeadSpec, targets: Tensor) -> Tensor:
    """Whether any cell has a target for a head; a scalar."""
    return (targets != MISSING).any() if spec.kind == "one_of" else (~torch.isnan(targets)).any()


def _activated(outputs: Tensor, spec: HeadSpec) -> Tensor:
    """Outputs with activation and scale on the predicted mean."""
    if spec.kind != "number" or (spec.activation == "linear" and spec.scale == 1):
        return outputs
    mean, spread = outputs[:, :1].float(), outputs[:, 1:].float()  # half precision ends at 65,504
    if spec.activation != "linear":
        mean = functional.relu(mean) if spec.activation == "relu" else functional.softplus(mean)
    return torch.cat([mean * spec.scale, spread], dim=1)


@dataclass
class GeneOutput(ModelOutput):
    """Outputs of one batch."""

    loss: Tensor | None = None
    logits: Tensor | None = None
    labels: Tensor | None = None


class GeneformerForGenes(GeneformerModel):
    """Encoder with a linear classifier over every gene; parameters are those of BERT's token classifier."""

    def __init__(self, config: BertConfig) -> None:
        super().__init__(config)
        self.bert = GeneformerEncoder(config)
        self.dropout = nn.Dropout(config.hidden_dropout_prob)
        self.classifier = nn.Linear(config.hidden_size, int(config.num_labels or 2))
        self.class_weights: Tensor | None = None
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
        """Scores of the labeled genes, and their loss."""
        hidden_TD = self.bert(input_ids, cu_seqlens, attention=attention)
        if labels is None:
            return GeneOutput(logits=self.classifier(self.dropout(hidden_TD)).float())
        labeled = labels != MISSING
        logits_MC = self.classifier(self.dropout(hidden_TD[labeled])).float()
        weights = None if self.class_weights is None else self.class_weights.to(logits_MC.device, torch.float32)
        loss = cross_entropy(logits_MC, labels[labeled], weights, self.label_smoothing)
        return GeneOutput(loss=loss, logits=logits_MC, labels=labels[labeled])


@dataclass
class ExpressionOutput(ModelOutput):
    """Outputs of one batch."""

    loss: Tensor | None = None
    removed_loss: Tensor | None = None
    visible_loss: Tensor | None = None
    value_loss: Tensor | None = None
    rank_loss: Tensor | None = None
    predictions: Tensor | None = None


class GeneformerForExpression(PooledModel):
    """Encoder, pooling, and a decoder that takes the cell's vector and a gene's input embedding."""

    usual: Tensor
    spread: Tensor

    def __init__(self, config: BertConfig) -> None:
        super().__init__(config)
        size, width = config.hidden_size, config.geneformer_decoder_size
        self.cell_norm, self.gene_norm = nn.LayerNorm(size), nn.LayerNorm(size)
        # One matrix over cell and gene, concatenated; apart, the cell's half is computed once per cell.
        self.from_cell = nn.Linear(size, width)
        self.from_gene = nn.Linear(size, width, bias=False)
        self.decoder = nn.Sequential(nn.ReLU(), nn.Linear(width, width), nn.ReLU(), nn.Linear(width, 2))
        self.register_buffer("usual", torch.zeros(config.vocab_size, 2))
        self.register_buffer("spread", torch.ones(2))
        self.post_init()

    def decode(self, pooled_BD: Tensor, cells_P: Tensor, genes_P: Tensor) -> Tensor:
        """Value and rank of genes in cells, ``(P, 2)``."""
        cells_BK = self.from_cell(self.cell_norm(pooled_BD))
        unique_G, place_P = torch.unique(genes_P, return_inverse=True)
        genes_GK = self.from_gene(self.gene_norm(self.bert.embeddings.word_embeddings(unique_G)))
        change_P2 = self.decoder(cells_BK[cells_P] + genes_GK[place_P]).float()
        return self.usual[genes_P] + self.spread * change_P2

    def forward(
        self,
        input_ids: Tensor,
        cu_seqlens: Tensor,
        cells: Tensor,
        genes: Tensor,
        values: Tensor | None = None,
        removed: Tensor | None = None,
        *,
        attention: str | Attention = "sdpa",
    ) -> ExpressionOutput:
        """Predictions for pairs of a cell and a gene and, where the truth is given, the loss."""
        predicted_P2 = self.decode(self.embed(input_ids, cu_seqlens, attention=attention), cells, genes)
        if values is None or removed is None:
            return ExpressionOutput(predictions=predicted_P2)
        config = self.config
        errors_P2 = ((predicted_P2 - values) / self.spread) ** 2
        weights_2 = errors_P2.new_tensor([config.geneformer_value_weight, config.geneformer_rank_weight])
        removed_2, visible_2 = mean_over(errors_P2, removed), mean_over(errors_P2, ~removed)
        removed_loss, visible_loss = (removed_2 * weights_2).sum(), (visible_2 * weights_2).sum()
        return ExpressionOutput(
            loss=config.geneformer_removed_weight * removed_loss + config.geneformer_visible_weight * visible_loss,
            removed_loss=removed_loss.detach(),
            visible_loss=visible_loss.detach(),
            value_loss=removed_2[0].detach(),
            rank_loss=removed_2[1].detach(),
            predictions=predicted_P2,
        )


def mean_over(errors_P2: Tensor, chosen_P: Tensor) -> Tensor:
    """Mean of the rows chosen, ``(2,)``; 0 of none."""
    return (errors_P2 * chosen_P[:, None]).sum(0) / chosen_P.sum().clamp(min=1)
