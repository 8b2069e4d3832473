"""Attention within a window: every token attends to its neighbors in rank, work and memory linear in length.

Packed tokens are cut into chunks; a chunk attends to itself and to as many tokens on either side as the window has. One
product covers many chunks, whatever cells they lie in; what lies too far or in another cell is masked.

Axes: ``T`` packed tokens, ``H`` heads, ``K`` head size, ``P`` distances of a table, ``C`` chunks, ``Q`` queries and
``J`` keys of a chunk, ``N = C H`` matrices multiplied at once.
"""

from collections.abc import Iterator, Sequence
from functools import partial

import torch
from torch import Tensor
from torch.nn import functional

from geneformer.models.recomputed import Block, Dropout, attend_in_blocks, block_size, gather_values
from geneformer.models.relative_positions import scaled_scores

_LEAST_CHUNK, _MOST_CHUNK = 16, 128


def windowed(
    query_THK: Tensor,
    key_THK: Tensor,
    value_THK: Tensor,
    lengths: Sequence[int],
    dropout: float,
    *,
    window: int,
    table_PK: Tensor | None = None,
) -> Tensor:
    """Attention of every token to those of its cell at most `window` ranks away, itself included, ``(T, H, K)``.

    Parameters
    ----------
    query_THK, key_THK, value_THK
        Packed tokens.
    lengths
        Tokens of every cell.
    dropout
        Probability that a weight is dropped.
    window
        Ranks on either side.
    table_PK
        Embeddings of distances, for relative positions within the window.
    """
    cells_T = torch.repeat_interleave(torch.tensor(lengths)).to(query_THK.device)
    blocks = tuple(_blocks(cells_T, query_THK.shape[1], window, block_size(query_THK.device)))
    return attend_in_blocks(blocks, query_THK, key_THK, value_THK, table_PK, dropout)


def _blocks(cells_T: Tensor, heads: int, window: int, most_scores: int) -> Iterator[Block]:
    """Stretches of whole chunks."""
    chunk = min(max(window, _LEAST_CHUNK), _MOST_CHUNK)
    chunks = max(most_scores // (heads * chunk * (chunk + 2 * window)), 1)
    for start in range(0, len(cells_T), chunks * chunk):
        stop = min(start + chunks * chunk, len(cells_T))
        queries, keys = slice(start, stop), slice(max(start - window, 0), min(stop + window, len(cells_T)))
        before = window - (start - keys.start)
        cells = partial(_attend, cells_S=cells_T[queries], cells_E=cells_T[keys])
        yield Block(queries, keys, partial(cells, window=window, chunk=chunk, before=before))


def _attend(
    query_SHK: Tensor,
    key_EHK: Tensor,
    value_EHK: Tensor,
    table_PK: Tensor | None,
    dropout: Dropout | None,
    *,
    cells_S: Tensor,
    cells_E: Tensor,
    window: int,
    chunk: int,
    before: int,
) -> Tensor:
    """One stretch: its chunks side by side, each with the keys around it."""
    n_queries, n_chunks = len(query_SHK), -(-len(query_SHK) // chunk)
    reach = chunk + 2 * window
    after = n_chunks * chunk + 2 * window - before - len(key_EHK)
    query_CHQK = _pad(query_SHK, 0, n_chunks * chunk - n_queries).unflatten(0, (n_chunks, chunk)).transpose(1, 2)
    key_CHKJ, value_CHKJ = (_pad(x, before, after).unfold(0, reach, chunk) for x in (key_EHK, value_EHK))
    scores_NQJ = scaled_scores(query_CHQK.flatten(0, 1), key_CHKJ.flatten(0, 1).mT, table_PK, -window)
    cells_CQ = functional.pad(cells_S, (0, n_chunks * chunk - n_queries), value=-1).unflatten(0, (n_chunks, chunk))
    cells_CJ = functional.pad(cells_E, (before, after), value=-2).unfold(0, reach, chunk)
    seen_CQJ = (cells_CQ[:, :, None] == cells_CJ[:, None, :]) & _near(chunk, window, cells_S.device)
    # The smallest number rather than infinity: rows of padding see nothing, and their softmax must still be one.
    unseen = torch.finfo(scores_NQJ.dtype).min
    scores_CHQJ = scores_NQJ.unflatten(0, (n_chunks, -1)).masked_fill(~seen_CQJ[:, None], unseen)
    context_NQK = gather_values(scores_CHQJ.flatten(0, 1), value_CHKJ.flatten(0, 1).mT, dropout)
    return context_NQK.unflatten(0, (n_chunks, -1)).transpose(1, 2).flatten(0, 1)[:n_queries]


def _pad(x_THK: Tensor, before: int, after: int) -> Tensor:
    """Zeros before and after the tokens."""
    return functional.pad(x_THK, (0, 0, 0, 0, before, after))


def _near(chunk: int, window: int, device: torch.device) -> Tensor:
    """Which keys of a chunk lie within the window of each of its queries, ``(Q, J)``."""
    query_Q = torch.arange(chunk, device=device)
    key_J = torch.arange(-window, chunk + window, device=device)
    return (key_J - query_Q[:, None]).abs() <= window
