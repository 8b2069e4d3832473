"""Attention over packed cells: one signature, one function per kernel.

On CPUs PyTorch's fused kernel gains nothing from half precision, and has no dropout: it falls back to whole matrices of
weights. `blocked` (for training) and `rounded` take its place there: scores live for one block of queries at a time.
Products run in the precision of the input; softmax computes in float32 and rounds at the end.

Axes: ``T`` packed tokens, ``L`` tokens of one cell, ``H`` heads, ``K`` head size, ``G`` cells of equal length, ``N`` =
``G H`` matrices multiplied at once, ``Q`` queries of a block.
"""

import math
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from itertools import accumulate, groupby, pairwise
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional

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
        dropped_HLL = functional.dropout(weights_HLL, dropout) if dropout else weights_HLL
        contexts.append((dropped_HLL @ value_THK[start:stop].transpose(0, 1)).transpose(0, 1))
        start = stop
    return torch.cat(contexts)


_CPU_SCORES, _SCORES = 2**20, 2**25
"""Scores of one block: what stays in the caches of a CPU, or what keeps an accelerator busy."""


def _block_size(query_THK: Tensor) -> int:
    return _CPU_SCORES if query_THK.device.type == "cpu" else _SCORES


class Dropout(NamedTuple):
    """Dropout on the weights of one block."""

    probability: float
    seed: int


class Block(NamedTuple):
    """A stretch of packed tokens that gather something, and the stretch they gather it from."""

    queries: slice
    keys: slice
    attend: Callable[[Tensor, Tensor, Tensor, Tensor | None, Dropout | None], Tensor]


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
            given = [x for x in leaves if x is not None]
            grads = torch.autograd.grad(context, given, grad_THK[block.queries])
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


_LEAST_QUERIES = 32


def relative(
    query_THK: Tensor, key_THK: Tensor, value_THK: Tensor, lengths: Sequence[int], dropout: float, *, table_PK: Tensor
) -> Tensor:
    """Attention within each cell with relative positions, ``(T, H, K)``; weights live for one block at a time."""
    blocks = _cell_blocks(lengths, query_THK.shape[1], _block_size(query_THK))
    context: Tensor = BlockwiseAttention.apply(query_THK, key_THK, value_THK, table_PK, tuple(blocks), dropout)
    return context


def _cell_blocks(lengths: Sequence[int], heads: int, most_scores: int) -> Iterator[Block]:
    """As many neighboring cells of one length as fit; or some queries of a cell that does not fit."""
    for piece in _pieces(lengths, heads, most_scores):
        for rows in piece.blocks():  # several only where the piece is one cell
            queries = slice(piece.tokens.start + rows.start, piece.tokens.start + rows.stop)
            attend = partial(_attend_cells, cells=piece.cells, first=rows.start)
            yield Block(queries if piece.cells == 1 else piece.tokens, piece.tokens, attend)


class _Piece(NamedTuple):
    """Neighboring cells of one length, as many as fit a block of scores; or one that does not fit."""

    tokens: slice
    cells: int
    length: int
    queries: int

    def view(self, x_THK: Tensor) -> Tensor:
        """Their part of a tensor, ``(G, H, L, K)``."""
        return x_THK[self.tokens].unflatten(0, (self.cells, self.length)).transpose(1, 2)

    def heads_first(self, x_THK: Tensor) -> Tensor:
        """Their part of a tensor as matrices, ``(N, L, K)``."""
        return self.view(x_THK).flatten(0, 1).contiguous()

    def blocks(self) -> Iterator[slice]:
        """Queries of each block."""
        starts = range(0, self.length, self.queries)
        return (slice(start, min(start + self.queries, self.length)) for start in starts)


def _pieces(lengths: Sequence[int], heads: int, most_scores: int) -> Iterator[_Piece]:
    """All cells that have tokens, with the queries of each that fit one block together."""
    start = 0
    for run, length in equal_length_runs(lengths):
        most_cells = max(most_scores // (heads * length * length), 1)
        for first in range(0, run, most_cells):
            cells = min(run - first, most_cells)
            queries = max(most_scores // (cells * heads * length), _LEAST_QUERIES)
            yield _Piece(slice(start, start + cells * length), cells, length, queries)
            start += cells * length


def _attend_cells(
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
    """Scores before softmax, ``(N, Q, J)``."""
    scale = query_NQK.shape[-1] ** -0.5
    if table_PK is None:
        return torch.bmm(query_NQK, key_NJK.mT) * scale
    positions_NQJ = relative_scores(query_NQK, table_PK, offset, key_NJK.shape[1])
    return torch.baddbmm(positions_NQJ, query_NQK, key_NJK.mT, beta=scale, alpha=scale)


def relative_scores(query_NQK: Tensor, table_PK: Tensor, offset: int, n_keys: int) -> Tensor:
    """Products of every query with the embeddings of its distances to the keys, ``(N, Q, J)``."""
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
    """Attention of every token to those of its cell at most `window` ranks away, itself included, ``(T, H, K)``."""
    cells_T = torch.repeat_interleave(torch.tensor(lengths)).to(query_THK.device)
    blocks = _window_blocks(cells_T, query_THK.shape[1], window, _block_size(query_THK))
    context: Tensor = BlockwiseAttention.apply(query_THK, key_THK, value_THK, table_PK, tuple(blocks), dropout)
    return context


def _window_blocks(cells_T: Tensor, heads: int, window: int, most_scores: int) -> Iterator[Block]:
    """Stretches of whole chunks."""
    chunk = min(max(window, _LEAST_CHUNK), _MOST_CHUNK)
    chunks = max(most_scores // (heads * chunk * (chunk + 2 * window)), 1)
    for start in range(0, len(cells_T), chunks * chunk):
        stop = min(start + chunks * chunk, len(cells_T))
        queries, keys = slice(start, stop), slice(max(start - window, 0), min(stop + window, len(cells_T)))
        before = window - (start - keys.start)
        cells = partial(_attend_window, cells_S=cells_T[queries], cells_E=cells_T[keys])
        yield Block(queries, keys, partial(cells, window=window, chunk=chunk, before=before))


def _attend_window(
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
    padded = functional.pad(query_SHK, (0, 0, 0, 0, 0, n_chunks * chunk - n_queries))
    query_CHQK = padded.unflatten(0, (n_chunks, chunk)).transpose(1, 2)
    around = (0, 0, 0, 0, before, after)
    key_CHKJ, value_CHKJ = (functional.pad(x, around).unfold(0, reach, chunk) for x in (key_EHK, value_EHK))
    scores_NQJ = scaled_scores(query_CHQK.flatten(0, 1), key_CHKJ.flatten(0, 1).mT, table_PK, -window)
    cells_CQ = functional.pad(cells_S, (0, n_chunks * chunk - n_queries), value=-1).unflatten(0, (n_chunks, chunk))
    cells_CJ = functional.pad(cells_E, (before, after), value=-2).unfold(0, reach, chunk)
    positions = torch.arange(-window, chunk + window, device=cells_S.device)
    is_near_QJ = (positions - positions[window : window + chunk, None]).abs() <= window
    visible_CQJ = (cells_CQ[:, :, None] == cells_CJ[:, None, :]) & is_near_QJ
    # The smallest number rather than infinity: rows of padding see nothing, and their softmax must still be one.
    masked = torch.finfo(scores_NQJ.dtype).min
    scores_CHQJ = scores_NQJ.unflatten(0, (n_chunks, -1)).masked_fill(~visible_CQJ[:, None], masked)
    context_NQK = gather_values(scores_CHQJ.flatten(0, 1), value_CHKJ.flatten(0, 1).mT, dropout)
    return context_NQK.unflatten(0, (n_chunks, -1)).transpose(1, 2).flatten(0, 1)[:n_queries]


_BLOCK = 2**20
"""Scores of one block of `blocked`."""


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
        for piece in _pieces(lengths, query_THK.shape[1], _BLOCK):
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
        for piece in _pieces(ctx.lengths, query_THK.shape[1], _BLOCK):
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
"""Scores of one block of `rounded`."""

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


KERNELS: dict[str, Attention] = {"sdpa": sdpa, "varlen": varlen, "blocked": blocked, "rounded": rounded, "eager": eager}
"""Kernels by name; `engine.device` chooses."""
