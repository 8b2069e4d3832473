"""The last layer for those who read the first token of each cell only: keys and values of all, everything else of one.

Axes: ``T`` packed tokens, ``B`` cells, ``L`` tokens of a cell, ``D`` hidden, ``H`` heads, ``K`` head size.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor
from torch.nn import functional

from geneformer.models.attention import equal_length_runs

if TYPE_CHECKING:
    from geneformer.models.encoder import Layer


def first_token_states(layer: Layer, hidden_TD: Tensor, lengths: Sequence[int]) -> Tensor:
    """States of the first token of each cell after one more layer, ``(B, D)``.

    Parameters
    ----------
    layer
        A layer whose attention sees the whole cell (no window, no relative positions).
    hidden_TD
        States before it.
    lengths
        Tokens of every cell, none of them 0.
    """
    projections = layer.attention.self
    starts = torch.tensor([0, *lengths[:-1]], device=hidden_TD.device).cumsum(0)
    first_BD = hidden_TD[starts]
    query_BHK, key_THK, value_THK = (
        project(x).unflatten(-1, (projections.n_heads, -1))
        for project, x in (
            (projections.query, first_BD),
            (projections.key, hidden_TD),
            (projections.value, hidden_TD),
        )
    )
    contexts, token, cell = [], 0, 0
    for cells, length in equal_length_runs(lengths):
        query = query_BHK[cell : cell + cells].unsqueeze(2)
        key, value = (
            x[token : token + cells * length].unflatten(0, (cells, length)).transpose(1, 2)
            for x in (key_THK, value_THK)
        )
        contexts.append(functional.scaled_dot_product_attention(query, key, value).squeeze(2))
        token, cell = token + cells * length, cell + cells
    middle_BD = layer.attention.output(torch.cat(contexts).flatten(1), first_BD)
    states_BD: Tensor = layer.output(layer.intermediate(middle_BD), middle_BD)
    return states_BD
