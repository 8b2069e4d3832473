"""Relative positions (Shaw et al., Self-Attention with Relative Position Representations, 2018).

The score of token ``i`` for token ``j`` is ``query_i · (key_j + table[clip(j - i, -k, k) + k]) / sqrt(K)``: every layer
has one embedding per clipped distance, shared by its heads, added to the keys. Nothing is added to the values, which
the paper found to change little. Encoders with relative positions have no absolute ones; the number of positions in
their configuration is still the longest cell they accept.

Axes: ``T`` packed tokens, ``H`` heads, ``K`` head size, ``P = 2 k + 1`` distances, ``N`` matrices multiplied at once,
``Q`` queries and ``J`` keys of a block.
"""

from collections.abc import Iterator, Sequence
from functools import partial
from itertools import groupby

import torch
from torch import Tensor

from geneformer.models.recomputed import Block, Dropout, attend_in_blocks, block_size, gather_values

_LEAST_QUERIES = 32


def relative(
    query_THK: Tensor, key_THK: Tensor, value_THK: Tensor, lengths: Sequence[int], dropout: float, *, table_PK: Tensor
) -> Tensor:
    """Attention within each cell with relative positions, ``(T, H, K)``; weights live for one block at a time.

    Parameters
    ----------
    query_THK, key_THK, value_THK
        Packed tokens.
    lengths
        Tokens of every cell.
    dropout
        Probability that a weight is dropped.
    table_PK
        One embedding per distance from ``-k`` to ``k``.
    """
    blocks = tuple(_blocks(lengths, query_THK.shape[1], block_size(query_THK.device)))
    return attend_in_blocks(blocks, query_THK, key_THK, value_THK, table_PK, dropout)


def _blocks(lengths: Sequence[int], heads: int, most_scores: int) -> Iterator[Block]:
    """As many neighboring cells of one length as fit; or some queries of a cell that does not fit."""
    start = 0
    for length, run in groupby(lengths):
        left = len(list(run)) if length else 0
        fit = most_scores // (heads * length**2) if length else 0
        while left and fit:
            cells = min(left, fit)
            stretch = slice(start, start + cells * length)
            yield Block(stretch, stretch, partial(_attend, cells=cells, first=0))
            start, left = stretch.stop, left - cells
        queries = max(most_scores // (heads * length), _LEAST_QUERIES) if left else 1
        for _ in range(left):
            for first in range(0, length, queries):
                rows = slice(start + first, start + min(first + queries, length))
                yield Block(rows, slice(start, start + length), partial(_attend, cells=1, first=first))
            start += length


def _attend(
    query_SHK: Tensor,
    key_EHK: Tensor,
    value_EHK: Tensor,
    table_PK: Tensor | None,
    dropout: Dropout | None,
    *,
    cells: int,
    first: int,
) -> Tensor:
    """One block: whole cells, or the queries of one cell from `first` on."""
    query_NQK, key_NJK, value_NJK = (
        x.unflatten(0, (cells, -1)).transpose(1, 2).flatten(0, 1) for x in (query_SHK, key_EHK, value_EHK)
    )
    scores_NQJ = scaled_scores(query_NQK, key_NJK, table_PK, -first)
    context_NQK = gather_values(scores_NQJ, value_NJK, dropout)
    return context_NQK.unflatten(0, (cells, -1)).transpose(1, 2).flatten(0, 1)


def scaled_scores(query_NQK: Tensor, key_NJK: Tensor, table_PK: Tensor | None, offset: int) -> Tensor:
    """Scores before softmax, ``(N, Q, J)``.

    Parameters
    ----------
    query_NQK, key_NJK
        Queries and keys.
    table_PK
        Embeddings of distances, where there are any.
    offset
        Distance from the first query to the first key.
    """
    scale = query_NQK.shape[-1] ** -0.5
    if table_PK is None:
        return torch.bmm(query_NQK, key_NJK.mT) * scale
    positions_NQJ = relative_scores(query_NQK, table_PK, offset, key_NJK.shape[1])
    return torch.baddbmm(positions_NQJ, query_NQK, key_NJK.mT, beta=scale, alpha=scale)


def relative_scores(query_NQK: Tensor, table_PK: Tensor, offset: int, n_keys: int) -> Tensor:
    """Products of every query with the embeddings of its distances to the keys, ``(N, Q, J)``.

    Neighboring queries see the same row of distances, moved on by one. So each product with the table is laid out once,
    over all distances of the block, and rows are shifted by reading them one element further apart: no index per score,
    and a backward pass of plain sums.

    Parameters
    ----------
    query_NQK
        Queries.
    table_PK
        One embedding per distance from ``-k`` to ``k``.
    offset
        Distance from the first query to the first key.
    n_keys
        Number of keys.
    """
    n_queries, clip = query_NQK.shape[1], len(table_PK) // 2
    by_distance_NQP = query_NQK @ table_PK.to(query_NQK.dtype).T
    # One distance more than there are, or the shifted rows of a single query would be shorter than its keys.
    lowest, width = offset - (n_queries - 1), n_keys + n_queries
    below = min(max(-clip - lowest, 0), width)
    above = min(max(lowest + width - 1 - clip, 0), width)
    within = slice(max(lowest, -clip) + clip, max(lowest, -clip) + clip + width - below - above)
    spread_NQW = torch.cat(
        [
            by_distance_NQP[..., :1].expand(-1, -1, below),
            by_distance_NQP[..., within],
            by_distance_NQP[..., -1:].expand(-1, -1, above),
        ],
        dim=-1,
    )
    shifted = spread_NQW.flatten(1)[:, n_queries - 1 : n_queries * width - 1]
    return shifted.unflatten(1, (n_queries, width - 1))[..., :n_keys]
