"""Attention in blocks of queries, for CPUs.

PyTorch's fused kernel gains nothing there from half precision, and has no dropout: it falls back to whole matrices of
weights. Here scores live for one block at a time, and the backward pass computes them again. Products run in the
precision of the input; softmax computes in float32 and rounds at the end.

Axes: ``T`` packed tokens, ``L`` tokens of one cell, ``H`` heads, ``K`` head size, ``G`` cells of equal length, ``N`` =
``G H`` matrices multiplied at once, ``Q`` queries of a block.
"""

from collections.abc import Iterator, Sequence
from itertools import groupby
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

_BLOCK = 2**20
"""Scores of one block."""

_LEAST_QUERIES = 32


def blocked(query_THK: Tensor, key_THK: Tensor, value_THK: Tensor, lengths: Sequence[int], dropout: float) -> Tensor:
    """Attention within each cell, with dropout on its weights; memory does not grow with the square of a cell."""
    context: Tensor = BlockedAttention.apply(query_THK, key_THK, value_THK, tuple(lengths), dropout)
    return context


class BlockedAttention(torch.autograd.Function):
    """Softmax attention with recomputed weights; what was dropped is kept as positions."""

    @staticmethod
    def forward(
        ctx: Any, query_THK: Tensor, key_THK: Tensor, value_THK: Tensor, lengths: tuple[int, ...], dropout: float
    ) -> Tensor:
        """What every token gathers, ``(T, H, K)``."""
        context_THK = query_THK.new_empty(query_THK.shape)
        keep = 1.0 - dropout
        ctx.dropped = []
        for piece in _pieces(lengths, query_THK.shape[1]):
            query, key, value = (piece.heads_first(x) for x in (query_THK, key_THK, value_THK))
            context = piece.view(context_THK)
            for rows in piece.blocks():
                weights_NQL = _weights(query[:, rows], key)
                if dropout:
                    ctx.dropped.append(draw_dropped(weights_NQL.numel(), dropout).to(query_THK.device))
                    weights_NQL.view(-1).index_fill_(0, ctx.dropped[-1], 0.0)
                found = torch.bmm(weights_NQL, value)
                context[:, :, rows] = (found.div_(keep) if dropout else found).unflatten(0, context.shape[:2])
        ctx.save_for_backward(query_THK, key_THK, value_THK, context_THK)
        ctx.lengths, ctx.keep = lengths, keep
        return context_THK

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_THK: Tensor) -> tuple[Tensor, Tensor, Tensor, None, None]:
        """Gradients of queries, keys and values; summed up in float32."""
        query_THK, key_THK, value_THK, context_THK = ctx.saved_tensors
        grads = tuple(x.new_empty(x.shape) for x in (query_THK, key_THK, value_THK))
        dropped = iter(ctx.dropped)
        # What the softmax takes back from every query's gradients.
        shared_TH = (grad_THK.float() * context_THK).sum(-1, keepdim=True)
        for piece in _pieces(ctx.lengths, query_THK.shape[1]):
            query, key, value = (piece.heads_first(x).float() for x in (query_THK, key_THK, value_THK))
            grad, shared = piece.heads_first(grad_THK).float() / ctx.keep, piece.heads_first(shared_TH)
            into_query, into_key, into_value = (piece.view(x) for x in grads)
            # Transposed, because a product that sums over few rows is faster into long rows than into short ones.
            grad_key_NKL, grad_value_NKL = (x.new_zeros(x.mT.shape) for x in (key, value))
            scale = query.shape[-1] ** -0.5
            for rows in piece.blocks():
                weights_NQL = _weights(query[:, rows], key)
                grad_scores = torch.bmm(grad[:, rows], value.mT)
                if ctx.keep < 1:
                    grad_scores.view(-1).index_fill_(0, (lost := next(dropped)), 0.0)
                grad_scores.sub_(shared[:, rows]).mul_(weights_NQL)
                if ctx.keep < 1:
                    weights_NQL.view(-1).index_fill_(0, lost, 0.0)
                grad_value_NKL.baddbmm_(grad[:, rows].mT, weights_NQL)
                grad_key_NKL.baddbmm_(query[:, rows].mT, grad_scores, alpha=scale)
                into_query[:, :, rows] = torch.bmm(grad_scores, key).mul_(scale).unflatten(0, into_query.shape[:2])
            into_key.copy_(grad_key_NKL.mT.unflatten(0, into_key.shape[:2]))
            into_value.copy_(grad_value_NKL.mT.unflatten(0, into_value.shape[:2]))
        return (*grads, None, None)


class _Piece(NamedTuple):
    """Neighboring cells of one length.

    Attributes
    ----------
    start
        First token.
    cells, length
        How many cells, and their tokens.
    heads
        Heads of the attention.
    """

    start: int
    cells: int
    length: int
    heads: int

    def view(self, x_THK: Tensor) -> Tensor:
        """Their part of a tensor, ``(G, H, L, K)``."""
        part = x_THK[self.start : self.start + self.cells * self.length]
        return part.unflatten(0, (self.cells, self.length)).transpose(1, 2)

    def heads_first(self, x_THK: Tensor) -> Tensor:
        """Their part of a tensor as matrices, ``(N, L, K)``."""
        return self.view(x_THK).flatten(0, 1).contiguous()

    def blocks(self) -> Iterator[slice]:
        """Queries of each block."""
        queries = max(_BLOCK // (self.cells * self.heads * self.length), _LEAST_QUERIES)
        return (slice(start, start + queries) for start in range(0, self.length, queries))


def _pieces(lengths: Sequence[int], heads: int) -> Iterator[_Piece]:
    """All cells that have tokens, as many at once as fit one block."""
    start = 0
    for length, run in groupby(lengths):
        left = len(list(run)) if length else 0
        while left:
            cells = min(left, max(_BLOCK // (heads * length * length), 1))
            yield _Piece(start, cells, length, heads)
            start += cells * length
            left -= cells


def _weights(query_NQK: Tensor, key_NLK: Tensor) -> Tensor:
    """Attention weights before dropout, ``(N, Q, L)``."""
    scores_NQL = query_NQK.new_empty((1, 1, 1))
    scale = query_NQK.shape[-1] ** -0.5
    return torch.softmax(torch.baddbmm(scores_NQL, query_NQK, key_NLK.mT, beta=0, alpha=scale), dim=-1)


def draw_dropped(n: int, probability: float) -> Tensor:
    """Positions out of ``n``, each there with the given probability, independently; in increasing order.

    Gaps between them follow a geometric distribution; drawing those costs one number per position dropped instead of
    one per position.
    """
    expected = n * probability
    draws = int(expected + 6 * expected**0.5) + 8
    positions = torch.empty(draws, dtype=torch.int64).geometric_(probability).cumsum(0) - 1
    while positions[-1] < n:
        more = torch.empty(draws, dtype=torch.int64).geometric_(probability).cumsum(0)
        positions = torch.cat([positions, positions[-1] + more])
    return positions[: int(torch.searchsorted(positions, n))]
