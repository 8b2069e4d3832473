"""Attention in blocks of queries, for CPUs.

PyTorch's fused kernel gains nothing there from half precision, and has no dropout: it falls back to whole matrices of
weights. Here scores live for one block at a time, and the backward pass computes them again. Products run in the
precision of the input; softmax computes in float32 and rounds at the end.

Axes: ``T`` packed tokens, ``L`` tokens of one cell, ``H`` heads, ``K`` head size, ``G`` cells of equal length, ``N`` =
``G H`` matrices multiplied at once, ``Q`` queries of a block.
"""

import math
from collections.abc import Iterator, Sequence
from itertools import accumulate, groupby, pairwise
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
                gathered = torch.bmm(weights_NQL, value)
                context[:, :, rows] = (gathered.div_(keep) if dropout else gathered).unflatten(0, context.shape[:2])
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
    """Neighboring cells of one length."""

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
    """Positions out of ``n``, each there with the given probability, independently; in increasing order."""
    expected = n * probability
    draws = int(expected + 6 * expected**0.5) + 8
    positions = torch.empty(draws, dtype=torch.int64).geometric_(probability).cumsum(0) - 1
    while positions[-1] < n:
        more = torch.empty(draws, dtype=torch.int64).geometric_(probability).cumsum(0)
        positions = torch.cat([positions, positions[-1] + more])
    return positions[: int(torch.searchsorted(positions, n))]


_ROUNDED_BLOCK = 2**21
"""Scores of one block."""

_MULTIPLE = 64
_QUERIES = 16
_FARTHEST = 90.0
"""Scores within this distance from zero, in powers of two, neither overflow nor vanish next to each other."""


def rounded(query_THK: Tensor, key_THK: Tensor, value_THK: Tensor, lengths: Sequence[int], dropout: float) -> Tensor:
    """Attention within each cell; it records nothing for a backward pass."""
    if dropout or torch.is_grad_enabled():
        msg = 'This kernel has neither dropout nor gradients; use "blocked".'
        raise ValueError(msg)
    context_THK = query_THK.new_empty(query_THK.shape)
    heads = query_THK.shape[1]
    for cells in _groups(lengths, heads):
        longest = _round_up(_length(cells[0]), _MULTIPLE)
        n_blocks = -(-len(cells) * heads * longest**2 // _ROUNDED_BLOCK)
        queries = n_blocks * _round_up(-(-longest // n_blocks), _QUERIES)
        query_NRK = _heads_first(query_THK, cells, queries)
        key_NPK, value_NPK = (_heads_first(x, cells, longest) for x in (key_THK, value_THK))
        _gather_in_place(query_NRK, key_NPK, value_NPK, [_length(cell) for cell in cells], n_blocks)
        for cell, padded_HRK in zip(cells, query_NRK.split(heads), strict=True):
            context_THK[cell] = padded_HRK[:, : _length(cell)].transpose(0, 1)
    return context_THK


def _groups(lengths: Sequence[int], heads: int) -> Iterator[list[slice]]:
    """Neighboring cells of one rounded length, as slices of tokens: as many as fit a block, as a power of two."""
    cells = [slice(start, stop) for start, stop in pairwise(accumulate(lengths, initial=0)) if start < stop]
    for longest, run in groupby(cells, key=lambda cell: _round_up(_length(cell), _MULTIPLE)):
        left = list(run)
        while left:
            fit = min(max(_ROUNDED_BLOCK // (heads * longest**2), 1), len(left))
            taken = 2 ** (fit.bit_length() - 1)
            yield left[:taken]
            left = left[taken:]


def _length(cell: slice) -> int:
    return int(cell.stop - cell.start)


def _round_up(n: int, multiple: int) -> int:
    return -(-n // multiple) * multiple


def _heads_first(x_THK: Tensor, cells: Sequence[slice], rows: int) -> Tensor:
    """Heads first, rows of zeros below, ``(N, rows, K)``."""
    padded_GHRK = x_THK.new_empty((len(cells), x_THK.shape[1], rows, x_THK.shape[2]))
    for padded_HRK, cell in zip(padded_GHRK, cells, strict=True):
        length = cell.stop - cell.start
        padded_HRK[:, :length] = x_THK[cell].transpose(0, 1)
        padded_HRK[:, length:] = 0.0
    return padded_GHRK.flatten(0, 1)


def _gather_in_place(
    query_NRK: Tensor, key_NPK: Tensor, value_NPK: Tensor, lengths: Sequence[int], n_blocks: int
) -> None:
    """Put what each query gathers in its place."""
    scale = query_NRK.shape[-1] ** -0.5
    near = _are_near(query_NRK, key_NPK, scale)
    scores_NQP = query_NRK.new_empty((len(query_NRK), query_NRK.shape[1] // n_blocks, key_NPK.shape[1]))
    scores_GHQP = scores_NQP.unflatten(0, (len(lengths), -1))
    for query_NQK in query_NRK.chunk(n_blocks, dim=1):
        alpha = scale * math.log2(math.e) if near else scale
        torch.baddbmm(scores_NQP, query_NQK, key_NPK.mT, beta=0, alpha=alpha, out=scores_NQP)
        for scores_HQP, length in zip(scores_GHQP, lengths, strict=True):
            scores_HQP[:, :, length:] = -math.inf
        if near:
            sums_NQ1 = scores_NQP.exp2_().sum(-1, keepdim=True)
            query_NQK.copy_(torch.bmm(scores_NQP, value_NPK).div_(sums_NQ1))
        else:
            query_NQK.copy_(torch.bmm(torch.softmax(scores_NQP, dim=-1), value_NPK))


def _are_near(query_NRK: Tensor, key_NPK: Tensor, scale: float) -> bool:
    """Whether powers of all scores are certain to stay in range; never in float16, whose range is small."""
    if torch.finfo(query_NRK.dtype).max < 2.0**_FARTHEST:
        return False
    query, key = (float(torch.linalg.vector_norm(x, dim=-1).amax()) for x in (query_NRK, key_NPK))
    return query * key * scale * math.log2(math.e) < _FARTHEST
