"""Whole groups, such as donors, dealt out so that sizes and classes come as close to their shares as they can."""

import numpy as np
from numpy.typing import ArrayLike, NDArray

_STARTS = 64
_PROPOSALS = 256
_ROUNDS = 200
_PATIENCE = 10
_EMPTY, _NOT_LEARNT, _ABSENT = 1e6, 10.0, 0.5
"""Losses of a part without groups, of a class that is not learnt, and of all classes absent from one part: high enough
to hold out two donors of eight, one of each state, where the shares alone would hold out one."""


def assign_groups(counts: ArrayLike, shares: ArrayLike, *, seed: int = 0, all_learnt: bool = True) -> NDArray[np.int64]:
    """Part of each group, ``(G,)``.

    Groups are dealt out one by one from many starts, large ones first, each to the part that lacks it most; the best
    result is improved by moving and swapping groups until nothing gets better.

    Parameters
    ----------
    counts
        Cells per group and class, ``(G, C)``; no group and no class is empty.
    shares
        Share of the cells that each part should have, ``(P,)``, summing to 1; at most as many as there are groups.
    seed
        Fixes the search.
    all_learnt
        Keep every class in the first part, whatever that does to the shares.

    Examples
    --------
    >>> from geneformer.tasks.group_split import assign_groups
    >>> assign_groups([[10, 10], [70, 70], [20, 20]], [0.7, 0.2, 0.1]).tolist()
    [2, 0, 1]
    """
    counts_gc = np.asarray(counts, dtype=np.float64)
    counts_gc = np.column_stack([counts_gc / counts_gc.sum(axis=0), counts_gc.sum(axis=1) / counts_gc.sum()])
    shares_p = np.asarray(shares, dtype=np.float64)
    rng = np.random.default_rng(seed)
    starts = _deal(counts_gc, shares_p, rng)
    losses = split_loss(_held(counts_gc, starts, len(shares_p)), shares_p, all_learnt)
    return _improve(starts[losses.argmin()], counts_gc, shares_p, rng, all_learnt)


def split_loss(held: NDArray[np.float64], shares: NDArray[np.float64], all_learnt: bool) -> NDArray[np.float64]:
    """How far parts are from their shares, ``(...)``.

    Parameters
    ----------
    held
        Share of each class in each part, with the share of all cells in the last column, ``(..., P, C + 1)``.
    shares
        What these should be, ``(P,)``.
    all_learnt
        Whether the first part must have every class.
    """
    loss: NDArray[np.float64] = _part_losses(held, shares, np.arange(len(shares)), all_learnt).sum(axis=-1)
    return loss


def _part_losses(
    held: NDArray[np.float64], shares: NDArray[np.float64], parts: NDArray[np.int64], all_learnt: bool
) -> NDArray[np.float64]:
    """What each part adds to the loss, ``(...)``, for what it holds, ``(..., C + 1)``."""
    squares = (held - shares[parts][..., None]) ** 2
    absent = held[..., :-1] == 0
    loss: NDArray[np.float64] = squares[..., :-1].mean(axis=-1) + squares[..., -1]
    loss += _EMPTY * (held[..., -1] == 0) + _ABSENT * absent.mean(axis=-1)
    return loss + _NOT_LEARNT * absent.sum(axis=-1) * (parts == 0) if all_learnt else loss


def _deal(counts: NDArray[np.float64], shares: NDArray[np.float64], rng: np.random.Generator) -> NDArray[np.int64]:
    """Parts from many starts, ``(S, G)``."""
    n_groups, n_columns = counts.shape
    weight = np.append(np.full(n_columns - 1, 1 / (n_columns - 1)), 1.0)
    order = np.argsort(-counts.sum(axis=1) * rng.lognormal(size=(_STARTS, n_groups)), axis=1, kind="stable")
    parts = np.zeros((_STARTS, n_groups), dtype=np.int64)
    lacking = np.tile(shares[None, :, None], (_STARTS, 1, n_columns))
    starts = np.arange(_STARTS)
    for group in order.T:
        added = counts[group]
        change = ((added[:, None] - 2 * lacking) * added[:, None]) @ weight
        part = change.argmin(axis=1)
        parts[starts, group] = part
        lacking[starts, part] -= added
    return parts


def _held(counts: NDArray[np.float64], parts: NDArray[np.int64], n_parts: int) -> NDArray[np.float64]:
    return np.stack([(parts == part) @ counts for part in range(n_parts)], axis=-2)


def _improve(
    parts: NDArray[np.int64],
    counts: NDArray[np.float64],
    shares: NDArray[np.float64],
    rng: np.random.Generator,
    all_learnt: bool,
) -> NDArray[np.int64]:
    """The best of many moves and swaps, again and again."""
    n_groups, n_parts = len(parts), len(shares)
    idle = 0
    for _ in range(_ROUNDS):
        first, second = rng.integers(n_groups, size=(2, _PROPOSALS))
        swaps = rng.random(_PROPOSALS) < 0.5
        source = parts[first]
        to = np.where(swaps, parts[second], rng.integers(n_parts, size=_PROPOSALS))
        held = _held(counts, parts, n_parts)
        losses = _part_losses(held, shares, np.arange(n_parts), all_learnt)
        moved = counts[first] - np.where(swaps[:, None], counts[second], 0)
        without, with_it = held[source] - moved, held[to] + moved
        without[np.abs(without) < 1e-12] = 0
        change = _part_losses(without, shares, source, all_learnt) - losses[source]
        change += _part_losses(with_it, shares, to, all_learnt) - losses[to]
        change[source == to] = 0
        best = int(change.argmin())
        if change[best] < -1e-12:
            idle = 0
            parts = parts.copy()
            parts[first[best]] = to[best]
            if swaps[best]:
                parts[second[best]] = source[best]
        elif (idle := idle + 1) == _PATIENCE:
            break
    return parts
