"""The generative head: value and rank of any gene, from what the encoder makes of the rest of the cell.

Axes: ``T`` packed tokens, ``B`` cells, ``P`` pairs of a cell and a gene, ``D`` hidden, ``K`` decoder, ``V`` vocabulary.
"""

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from transformers import BertConfig
from transformers.utils.generic import ModelOutput

from geneformer.models.attention import Attention
from geneformer.models.encoder import GeneformerEncoder, GeneformerModel
from geneformer.models.pooling import POOLS


@dataclass
class ExpressionOutput(ModelOutput):
    """What one batch gives.

    Attributes
    ----------
    loss
        What is minimized.
    removed_loss, visible_loss
        Mean squared error of the genes taken out of the input and of those left in it, in units of the usual spread.
    value_loss, rank_loss
        That of value and rank over the genes taken out.
    predictions
        Value and rank, ``(P, 2)``.
    """

    loss: Tensor | None = None
    removed_loss: Tensor | None = None
    visible_loss: Tensor | None = None
    value_loss: Tensor | None = None
    rank_loss: Tensor | None = None
    predictions: Tensor | None = None


class GeneformerForExpression(GeneformerModel):
    """Encoder, pooling, and a decoder that takes the cell's vector and a gene's input embedding.

    What it learns is how a gene in this cell differs from what is usual for the gene.

    Parameters
    ----------
    config
        BERT configuration with `geneformer_pooling`, `geneformer_special_ids`, `geneformer_decoder_size`, and the
        weights of what is minimized: `geneformer_removed_weight`, `geneformer_visible_weight`,
        `geneformer_value_weight`, `geneformer_rank_weight`.
    """

    usual: Tensor
    spread: Tensor

    def __init__(self, config: BertConfig) -> None:
        super().__init__(config)
        size, width = config.hidden_size, config.geneformer_decoder_size
        self.bert = GeneformerEncoder(config)
        self.pool = POOLS[config.geneformer_pooling](config)
        self.cell_norm, self.gene_norm = nn.LayerNorm(size), nn.LayerNorm(size)
        # One matrix over cell and gene side by side; apart, the cell's half is computed once per cell.
        self.from_cell = nn.Linear(size, width)
        self.from_gene = nn.Linear(size, width, bias=False)
        self.decoder = nn.Sequential(nn.ReLU(), nn.Linear(width, width), nn.ReLU(), nn.Linear(width, 2))
        self.register_buffer("usual", torch.zeros(config.vocab_size, 2))
        self.register_buffer("spread", torch.ones(2))
        self.post_init()

    def embed(self, input_ids: Tensor, cu_seqlens: Tensor, *, attention: str | Attention = "sdpa") -> Tensor:
        """Cell vectors, ``(B, D)``."""
        hidden_TD = self.bert(input_ids, cu_seqlens, attention=attention)
        pooled: Tensor = self.pool(hidden_TD, input_ids, cu_seqlens)
        return pooled

    def decode(self, pooled_BD: Tensor, cells_P: Tensor, genes_P: Tensor) -> Tensor:
        """Value and rank of genes in cells, ``(P, 2)``.

        Parameters
        ----------
        pooled_BD
            Cell vectors.
        cells_P
            Which of them belongs to each pair.
        genes_P
            Token id of the gene of each pair.
        """
        cells_BK = self.from_cell(self.cell_norm(pooled_BD))
        known_G, place_P = torch.unique(genes_P, return_inverse=True)
        genes_GK = self.from_gene(self.gene_norm(self.bert.embeddings.word_embeddings(known_G)))
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
        """Predictions for pairs of a cell and a gene and, where the truth is given, the loss.

        Parameters
        ----------
        input_ids
            Token ids of all cells without the genes removed, end to end, ``(T,)``.
        cu_seqlens
            Where each cell starts, and the total, ``(B + 1,)``.
        cells, genes
            Cell and token id of each pair, ``(P,)``.
        values
            True value and rank, ``(P, 2)``.
        removed
            Whether the gene is missing from the input, ``(P,)``.
        attention
            Kernel by name.
        """
        predicted_P2 = self.decode(self.embed(input_ids, cu_seqlens, attention=attention), cells, genes)
        if values is None or removed is None:
            return ExpressionOutput(predictions=predicted_P2)
        config = self.config
        errors_P2 = ((predicted_P2 - values) / self.spread) ** 2
        weights_2 = errors_P2.new_tensor([config.geneformer_value_weight, config.geneformer_rank_weight])
        gone_2, seen_2 = mean_over(errors_P2, removed), mean_over(errors_P2, ~removed)
        gone, seen = (gone_2 * weights_2).sum(), (seen_2 * weights_2).sum()
        return ExpressionOutput(
            loss=config.geneformer_removed_weight * gone + config.geneformer_visible_weight * seen,
            removed_loss=gone.detach(),
            visible_loss=seen.detach(),
            value_loss=gone_2[0].detach(),
            rank_loss=gone_2[1].detach(),
            predictions=predicted_P2,
        )


def mean_over(errors_P2: Tensor, chosen_P: Tensor) -> Tensor:
    """Mean of the rows chosen, ``(2,)``; 0 of none."""
    return (errors_P2 * chosen_P[:, None]).sum(0) / chosen_P.sum().clamp(min=1)
