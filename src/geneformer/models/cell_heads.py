"""Networks that say something about a cell: classes, several labels at once, numbers; one task or many.

Axes: ``T`` packed tokens, ``B`` cells, ``D`` hidden, ``C`` classes.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal, cast

import torch
from torch import Tensor, nn
from torch.nn import functional
from transformers import BertConfig
from transformers.utils.generic import ModelOutput

from geneformer.models.attention import Attention
from geneformer.models.encoder import GeneformerEncoder, GeneformerModel
from geneformer.models.heads import contrastive_loss
from geneformer.models.losses import MISSING, OUTPUTS, binary_cross_entropy, cross_entropy, number_loss
from geneformer.models.pooling import POOLS


@dataclass(frozen=True, kw_only=True, slots=True)
class HeadSpec:
    """What one head says.

    Attributes
    ----------
    name
        Column it was trained on.
    kind
        "one_of" several classes, "any_of" several labels, or a "number".
    classes
        Names of the classes, in the order of the outputs; none for a number.
    loss
        For numbers: key of `losses.NUMBER_LOSSES`.
    activation
        For numbers: what the predicted mean goes through.
    scale
        For numbers: what it is multiplied with after that, so that the network learns numbers around 1.
    """

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
    """What one batch gives.

    Attributes
    ----------
    loss
        What is minimized.
    supervised_loss, contrastive_loss
        Its terms before weighting.
    predictions
        By head: logits, ``(B, C)``; or predicted numbers, ``(B, 1)`` or ``(B, 2)``.
    task_losses
        By head: its loss before task weights.
    pooled
        Cell vectors, ``(B, D)``; second views after the first ones, where there are views.
    """

    loss: Tensor | None = None
    supervised_loss: Tensor | None = None
    contrastive_loss: Tensor | None = None
    predictions: dict[str, Tensor] | None = None
    task_losses: dict[str, Tensor] | None = None
    pooled: Tensor | None = None


class GeneformerForCells(GeneformerModel):
    """Encoder, pooling, and one linear head per task.

    Parameters
    ----------
    config
        BERT configuration with `geneformer_heads` (`HeadSpec.to_dict`), `geneformer_pooling`,
        `geneformer_special_ids`, and `geneformer_learn_task_weights` where tasks are weighed by learning. Dropout
        before the heads is `classifier_dropout`, or that of the states where there is none.
    """

    def __init__(self, config: BertConfig) -> None:
        super().__init__(config)
        self.specs = tuple(HeadSpec.from_dict(entry) for entry in config.geneformer_heads)
        self.bert = GeneformerEncoder(config)
        self.pool = POOLS[config.geneformer_pooling](config)
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

    def embed(self, input_ids: Tensor, cu_seqlens: Tensor, *, attention: str | Attention = "sdpa") -> Tensor:
        """Cell vectors the heads see, ``(B, D)``."""
        hidden_TD = self.bert(input_ids, cu_seqlens, attention=attention)
        pooled: Tensor = self.pool(hidden_TD, input_ids, cu_seqlens)
        return pooled

    def forward(
        self,
        input_ids: Tensor,
        cu_seqlens: Tensor,
        targets: Mapping[str, Tensor] | None = None,
        *,
        supervised_weight: float = 1.0,
        contrastive_weight: float = 0.0,
        temperature: float = 0.1,
        attention: str | Attention = "sdpa",
    ) -> CellOutput:
        """Predictions of every head and, where there are targets, the loss.

        Parameters
        ----------
        input_ids
            Token ids of all cells, end to end, ``(T,)``.
        cu_seqlens
            Where each cell starts, and the total, ``(B + 1,)``. With a contrastive term and in training: all cells,
            then all their second views in the same order.
        targets
            By head: classes ``(B,)``, 0 or 1 ``(B, C)``, or numbers ``(B,)``.
        supervised_weight, contrastive_weight, temperature
            Weights of the two terms, and the temperature of the second.
        attention
            Kernel by name.
        """
        pooled_BD = self.embed(input_ids, cu_seqlens, attention=attention)
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

    def _weigh(self, losses: Sequence[Tensor], known: Sequence[Tensor]) -> Tensor:
        """Sum of the losses with fixed weights, or with learnt ones (Kendall et al., CVPR 2018).

        A task that no cell of the batch has a target for moves neither its head nor its weight.
        """
        stacked = torch.stack(list(losses))
        if self.task_log_variance is not None:
            terms = torch.exp(-self.task_log_variance) * stacked + 0.5 * self.task_log_variance
            return (terms * torch.stack(list(known))).sum()
        return (stacked * stacked.new_tensor(self.task_weights)).sum()


def class_probabilities(logits_BC: Tensor, spec: HeadSpec, temperature: float = 1.0) -> Tensor:
    """Probability of every class from the logits of a head, in float32, ``(B, C)``.

    Parameters
    ----------
    logits_BC
        Logits of the head.
    spec
        Says whether a cell has one of the classes, or any of them.
    temperature
        Divides the logits.
    """
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
