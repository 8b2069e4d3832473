"""Attention one cell at a time, over full matrices, with loops where a formula could be got wrong."""

import torch
from hypothesis import strategies as st
from torch import Tensor

LENGTHS = st.lists(st.integers(0, 11), min_size=1, max_size=7).filter(any)


def random_inputs(lengths, clip=0, heads=2, size=3, seed=0, dtype=torch.float64):
    """Queries, keys, values, a table of distances if clipped, and upstream gradients."""
    generator = torch.Generator().manual_seed(seed)
    shape = (sum(lengths), heads, size)
    qkv = [torch.randn(shape, generator=generator, dtype=dtype).requires_grad_() for _ in range(3)]
    table = torch.randn(2 * clip + 1, size, generator=generator, dtype=dtype).requires_grad_() if clip else None
    return qkv, table, torch.randn(shape, generator=generator, dtype=dtype)


def written_out(query, key, value, lengths, *, table=None, window=None, kept=None) -> Tensor:
    """Every pair on its own: ``query_i · (key_j + table[clip(j - i)])``, pairs beyond the window left out.

    `kept` multiplies the weights: ``kept(cell, head, i, j)``.
    """
    contexts, start = [], 0
    for cell, length in enumerate(lengths):
        for i in range(length):
            for head in range(query.shape[1]):
                scores, values, factors = [], [], []
                for j in range(length):
                    if window is not None and abs(i - j) > window:
                        continue
                    seen = key[start + j, head]
                    if table is not None:
                        clip = len(table) // 2
                        seen = seen + table[max(-clip, min(clip, j - i)) + clip]
                    scores.append(query[start + i, head] @ seen / query.shape[2] ** 0.5)
                    values.append(value[start + j, head])
                    factors.append(1.0 if kept is None else kept(cell, head, i, j))
                weights = torch.stack(scores).softmax(0) * torch.tensor(factors, dtype=query.dtype)
                contexts.append(weights @ torch.stack(values))
        start += length
    return torch.stack(contexts).view(query.shape)


def with_gradients(attend, inputs):
    """Output of an attention function and the gradients it sends back."""
    qkv, table, upstream = inputs
    leaves = [x.detach().clone().requires_grad_() for x in (*qkv, *([] if table is None else [table]))]
    context = attend(*leaves)
    (context * upstream).sum().backward()
    return [context.detach(), *(leaf.grad for leaf in leaves)]
