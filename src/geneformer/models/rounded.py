"""Attention without gradients in half precision, for CPUs: blocks of queries, lengths rounded up.

Every new size of a product costs time and memory to prepare there, and cells have thousands of lengths. So keys and
values get rows of zeros below, up to a multiple, and blocks of one cell are equally large. Where no score can overflow,
weights are powers of two that are divided by their sum after the product with the values; there is no need then to find
and subtract the largest score of each query.

Axes: ``T`` packed tokens, ``L`` tokens of one cell, ``P >= L`` rounded, ``R >= P`` rows of queries, ``H`` heads, ``K``
head size, ``G`` cells, ``N = G H`` matrices multiplied at once, ``Q`` queries of a block.
"""

import math
from collections.abc import Iterator, Sequence
from itertools import accumulate, groupby, pairwise

import torch
from torch import Tensor

_BLOCK = 2**21
"""Scores of one block."""

_MULTIPLE = 64
_QUERIES = 16
_FARTHEST = 90.0
"""Scores within this distance from zero, in powers of two, neither overflow nor vanish beside each other."""


def rounded(query_THK: Tensor, key_THK: Tensor, value_THK: Tensor, lengths: Sequence[int], dropout: float) -> Tensor:
    """Attention within each cell; it records nothing for a backward pass."""
    if dropout or torch.is_grad_enabled():
        msg = 'This kernel has neither dropout nor gradients; use "blocked".'
        raise ValueError(msg)
    context_THK = query_THK.new_empty(query_THK.shape)
    heads = query_THK.shape[1]
    for cells in _groups(lengths, heads):
        longest = _round_up(_length(cells[0]), _MULTIPLE)
        n_blocks = -(-len(cells) * heads * longest**2 // _BLOCK)
        queries = n_blocks * _round_up(-(-longest // n_blocks), _QUERIES)
        query_NRK = _rounded_up(query_THK, cells, queries)
        key_NPK, value_NPK = (_rounded_up(x, cells, longest) for x in (key_THK, value_THK))
        _overwrite(query_NRK, key_NPK, value_NPK, [_length(cell) for cell in cells], n_blocks)
        for cell, found_HRK in zip(cells, query_NRK.split(heads), strict=True):
            context_THK[cell] = found_HRK[:, : _length(cell)].transpose(0, 1)
    return context_THK


def _groups(lengths: Sequence[int], heads: int) -> Iterator[list[slice]]:
    """Neighboring cells of one rounded length, as slices of tokens: as many as fit a block, as a power of two."""
    cells = [slice(start, stop) for start, stop in pairwise(accumulate(lengths, initial=0)) if start < stop]
    for longest, run in groupby(cells, key=lambda cell: _round_up(_length(cell), _MULTIPLE)):
        left = list(run)
        while left:
            fit = min(max(_BLOCK // (heads * longest**2), 1), len(left))
            taken = 2 ** (fit.bit_length() - 1)
            yield left[:taken]
            left = left[taken:]


def _length(cell: slice) -> int:
    return int(cell.stop - cell.start)


def _round_up(n: int, multiple: int) -> int:
    return -(-n // multiple) * multiple


def _rounded_up(x_THK: Tensor, cells: Sequence[slice], rows: int) -> Tensor:
    """Heads first, rows of zeros below, ``(N, rows, K)``."""
    found_GHRK = x_THK.new_empty((len(cells), x_THK.shape[1], rows, x_THK.shape[2]))
    for found_HRK, cell in zip(found_GHRK, cells, strict=True):
        length = cell.stop - cell.start
        found_HRK[:, :length] = x_THK[cell].transpose(0, 1)
        found_HRK[:, length:] = 0.0
    return found_GHRK.flatten(0, 1)


def _overwrite(query_NRK: Tensor, key_NPK: Tensor, value_NPK: Tensor, lengths: Sequence[int], n_blocks: int) -> None:
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
