"""Attention over packed cells: one signature, one function per kernel.

Axes: ``T`` packed tokens, ``L`` tokens of one cell, ``H`` heads, ``K`` head size, ``G`` cells of equal length.
"""

from collections.abc import Callable, Iterator, Sequence
from itertools import groupby

import torch
from torch import Tensor
from torch.nn import functional

from geneformer.models.blocked import blocked
from geneformer.models.rounded import rounded

Attention = Callable[[Tensor, Tensor, Tensor, Sequence[int], float], Tensor]
"""``(query_THK, key_THK, value_THK, lengths, dropout) -> context_THK``; every token sees the tokens of its own cell."""


def equal_length_runs(lengths: Sequence[int]) -> list[tuple[int, int]]:
    """Neighbouring cells of one length, as ``(cells, length)``; empty cells are passed over."""
    return [(len(list(run)), length) for length, run in groupby(lengths) if length]


def sdpa(query_THK: Tensor, key_THK: Tensor, value_THK: Tensor, lengths: Sequence[int], dropout: float) -> Tensor:
    """PyTorch's fused attention, one call for every run of equally long cells; no padding and no mask."""
    runs = equal_length_runs(lengths)
    # One split, not many slices: the backward pass of a slice fills a tensor of the whole batch with zeros.
    parts = zip(
        *(x.split([cells * length for cells, length in runs]) for x in (query_THK, key_THK, value_THK)), strict=True
    )
    contexts = []
    for run, qkv in zip(runs, parts, strict=True):
        query, key, value = (x.unflatten(0, run).transpose(1, 2) for x in qkv)
        context_GHLK = functional.scaled_dot_product_attention(query, key, value, dropout_p=dropout)
        contexts.append(context_GHLK.transpose(1, 2).flatten(0, 1))
    return contexts[0] if len(contexts) == 1 else torch.cat(contexts)


def varlen(query_THK: Tensor, key_THK: Tensor, value_THK: Tensor, lengths: Sequence[int], dropout: float) -> Tensor:
    """PyTorch's variable-length kernel: one launch for the whole batch, half precision, no dropout."""
    from torch.nn.attention.varlen import varlen_attn

    if dropout:
        msg = "The variable-length kernel has no dropout; set attention_probs_dropout_prob to 0."
        raise ValueError(msg)
    cu_seqlens = torch.tensor([0, *lengths], dtype=torch.int32).cumsum(0, dtype=torch.int32).to(query_THK.device)
    longest = max(lengths)
    context = varlen_attn(query_THK, key_THK, value_THK, cu_seqlens, cu_seqlens, longest, longest)
    return context if isinstance(context, Tensor) else context[0]


def attention_weights(query_THK: Tensor, key_THK: Tensor, lengths: Sequence[int]) -> Iterator[Tensor]:
    """Attention of every gene on every gene, one ``(H, L, L)`` tensor per cell; rows sum to one."""
    scale = query_THK.shape[-1] ** -0.5
    start = 0
    for length in lengths:
        query_HLK = query_THK[start : start + length].transpose(0, 1)
        key_HKL = key_THK[start : start + length].permute(1, 2, 0)
        yield torch.softmax(query_HLK @ key_HKL * scale, dim=-1)
        start += length


def eager(query_THK: Tensor, key_THK: Tensor, value_THK: Tensor, lengths: Sequence[int], dropout: float) -> Tensor:
    """Attention written out, for reference and for reading the weights."""
    contexts = []
    start = 0
    for weights_HLL in attention_weights(query_THK, key_THK, lengths):
        stop = start + weights_HLL.shape[-1]
        kept = functional.dropout(weights_HLL, dropout) if dropout else weights_HLL
        contexts.append((kept @ value_THK[start:stop].transpose(0, 1)).transpose(0, 1))
        start = stop
    return torch.cat(contexts)


KERNELS: dict[str, Attention] = {"sdpa": sdpa, "varlen": varlen, "blocked": blocked, "rounded": rounded, "eager": eager}
"""Kernels by name; `engine.precision` chooses."""
