"""A network that says something about single genes in the context of a cell.

Axes: ``T`` packed tokens, ``M`` labeled tokens, ``D`` hidden, ``C`` classes.
"""

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from transformers import BertConfig
from transformers.utils.generic import ModelOutput

from geneformer.models.attention import Attention
from geneformer.models.encoder import GeneformerEncoder, GeneformerModel
from geneformer.models.losses import MISSING, cross_entropy


@dataclass
class GeneOutput(ModelOutput):
    """What one batch gives.

    Attributes
    ----------
    loss
        Mean over the labeled tokens.
    logits
        Scores of the labeled tokens, or of all where there are no labels, ``(M, C)``.
    labels
        Their classes, ``(M,)``.
    """

    loss: Tensor | None = None
    logits: Tensor | None = None
    labels: Tensor | None = None


class GeneformerForGenes(GeneformerModel):
    """Encoder with a linear classifier over every gene; parameters are those of BERT's token classifier.

    Parameters
    ----------
    config
        BERT configuration with `num_labels`.
    """

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
        """Scores of the labeled genes, and their loss.

        Parameters
        ----------
        input_ids
            Token ids of all cells, end to end, ``(T,)``.
        cu_seqlens
            Where each cell starts, and the total, ``(B + 1,)``.
        labels
            Class of every token, `losses.MISSING` for those that have none, ``(T,)``.
        attention
            Kernel by name.
        """
        hidden_TD = self.bert(input_ids, cu_seqlens, attention=attention)
        if labels is None:
            return GeneOutput(logits=self.classifier(self.dropout(hidden_TD)).float())
        known = labels != MISSING
        logits_MC = self.classifier(self.dropout(hidden_TD[known])).float()
        weights = None if self.class_weights is None else self.class_weights.to(logits_MC.device, torch.float32)
        loss = cross_entropy(logits_MC, labels[known], weights, self.label_smoothing)
        return GeneOutput(loss=loss, logits=logits_MC, labels=labels[known])
