"""From the states of its genes to one vector per cell.

Axes: ``T`` packed tokens, ``B`` cells, ``D`` hidden.
"""

import torch
from torch import Tensor, nn
from transformers import BertConfig

from geneformer.models.encoder import mean_over_genes


def cell_of(cu_seqlens: Tensor, n_tokens: int) -> Tensor:
    """Cell of every token, ``(T,)``."""
    lengths = torch.diff(cu_seqlens)
    return torch.repeat_interleave(torch.arange(len(lengths), device=cu_seqlens.device), lengths, output_size=n_tokens)


class MeanPool(nn.Module):
    """Mean over the genes of each cell; special tokens do not count."""

    special: Tensor

    def __init__(self, config: BertConfig) -> None:
        super().__init__()
        special = torch.tensor(sorted(config.geneformer_special_ids), dtype=torch.long)
        self.register_buffer("special", special, persistent=False)

    def forward(self, hidden_TD: Tensor, input_ids_T: Tensor, cu_seqlens: Tensor) -> Tensor:
        """Cell vectors, ``(B, D)``."""
        return mean_over_genes(hidden_TD, input_ids_T, cu_seqlens, self.special)


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
    """Mean weighted by a learnt softmax over the tokens of the cell, and of no other.

    The published multi-task model scores every position with one vector; its softmax takes in the padding. There is
    none here.
    """

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
    "mean": MeanPool, "cls": FirstPool, "attention": AttentionPool, "pooler": DensePool,
}  # fmt: skip
"""Poolings by the name options give them."""
