"""Attention in blocks whose weights are never kept: the backward pass computes them again, block by block.

Memory beside inputs, outputs and gradients is that of one block. Dropout on the weights is drawn from a generator that
is seeded per block, so the backward pass draws the same mask again instead of keeping it.

Axes: ``T`` packed tokens, ``H`` heads, ``K`` head size, ``P`` distances of a table, ``N`` matrices multiplied at once,
``Q`` queries and ``J`` keys of a block.
"""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

_CPU_SCORES = 2**20
_SCORES = 2**25


class Dropout(NamedTuple):
    """Dropout on the weights of one block.

    Attributes
    ----------
    probability
        Share of the weights dropped.
    seed
        Fixes which.
    """

    probability: float
    seed: int


class Block(NamedTuple):
    """A stretch of packed tokens that gather something, and the stretch they gather it from.

    Attributes
    ----------
    queries, keys
        The two stretches.
    attend
        ``(query, key, value, table, dropout) -> context`` for these tokens, each ``(tokens, H, K)``; differentiable.
    """

    queries: slice
    keys: slice
    attend: Callable[[Tensor, Tensor, Tensor, Tensor | None, Dropout | None], Tensor]


def block_size(device: torch.device) -> int:
    """Scores of one block: what stays in the caches of a CPU, or what keeps an accelerator busy."""
    return _CPU_SCORES if device.type == "cpu" else _SCORES


def attend_in_blocks(
    blocks: Sequence[Block],
    query_THK: Tensor,
    key_THK: Tensor,
    value_THK: Tensor,
    table_PK: Tensor | None,
    dropout: float,
) -> Tensor:
    """What every token gathers, ``(T, H, K)``.

    Parameters
    ----------
    blocks
        Their queries cover every token once.
    query_THK, key_THK, value_THK
        Packed tokens.
    table_PK
        Embeddings of distances, for blocks that use them.
    dropout
        Probability that a weight is dropped. The seed comes from PyTorch's global generator.
    """
    context: Tensor = BlockwiseAttention.apply(query_THK, key_THK, value_THK, table_PK, tuple(blocks), dropout)
    return context


class BlockwiseAttention(torch.autograd.Function):
    """Blocks one after another, forward and again backward."""

    @staticmethod
    def forward(  # noqa: PLR0917
        ctx: Any,
        query_THK: Tensor,
        key_THK: Tensor,
        value_THK: Tensor,
        table_PK: Tensor | None,
        blocks: tuple[Block, ...],
        dropout: float,
    ) -> Tensor:
        """What every token gathers."""
        seed = int(torch.randint(2**62, ())) if dropout else 0
        ctx.save_for_backward(query_THK, key_THK, value_THK, table_PK)
        ctx.blocks = [(block, Dropout(dropout, seed + n) if dropout else None) for n, block in enumerate(blocks)]
        context_THK = torch.empty_like(value_THK, memory_format=torch.contiguous_format)
        # The tensors have the precision they are to be multiplied in already.
        with torch.autocast(query_THK.device.type, enabled=False):
            for block, dropped in ctx.blocks:
                inputs = query_THK[block.queries], key_THK[block.keys], value_THK[block.keys]
                context_THK[block.queries] = block.attend(*inputs, table_PK, dropped)
        return context_THK

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_THK: Tensor) -> tuple[Tensor | None, ...]:
        """Gradients of queries, keys, values and table; sums over blocks are taken in float32."""
        query_THK, key_THK, value_THK, table_PK = ctx.saved_tensors
        into_query = torch.empty_like(query_THK)
        into_key, into_value = _zeros_like(key_THK), _zeros_like(value_THK)
        into_table = None if table_PK is None else _zeros_like(table_PK)
        for block, dropped in ctx.blocks:
            parts = query_THK[block.queries], key_THK[block.keys], value_THK[block.keys], table_PK
            leaves = [None if x is None else x.detach().requires_grad_() for x in parts]
            with torch.enable_grad(), torch.autocast(query_THK.device.type, enabled=False):
                context = block.attend(*leaves, dropped)
            wanted = [x for x in leaves if x is not None]
            grads = torch.autograd.grad(context, wanted, grad_THK[block.queries])
            into_query[block.queries] = grads[0]
            into_key[block.keys] += grads[1]
            into_value[block.keys] += grads[2]
            if into_table is not None:
                into_table += grads[3]
        if into_table is not None:
            into_table = into_table.to(table_PK.dtype)
        return into_query, into_key.to(key_THK.dtype), into_value.to(value_THK.dtype), into_table, None, None


def _zeros_like(x: Tensor) -> Tensor:
    """Room for a sum, in float32 at least."""
    return torch.zeros_like(x, dtype=torch.promote_types(x.dtype, torch.float32))


def gather_values(scores_NQJ: Tensor, value_NJK: Tensor, dropout: Dropout | None) -> Tensor:
    """Softmax, dropout and sum of the values, ``(N, Q, K)``; softmax is computed in float32."""
    precision = torch.promote_types(scores_NQJ.dtype, torch.float32)
    weights_NQJ = torch.softmax(scores_NQJ, dim=-1, dtype=precision).to(value_NJK.dtype)
    if dropout is not None:
        weights_NQJ = weights_NQJ * draw_kept(weights_NQJ, dropout) / (1 - dropout.probability)
    return torch.bmm(weights_NQJ, value_NJK)


def draw_kept(weights_NQJ: Tensor, dropout: Dropout) -> Tensor:
    """One for every weight that is kept and zero for every one dropped; the same for the same seed."""
    generator = torch.Generator(weights_NQJ.device).manual_seed(dropout.seed)
    return torch.empty_like(weights_NQJ, requires_grad=False).bernoulli_(1 - dropout.probability, generator=generator)
