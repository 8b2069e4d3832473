"""Which cells share a batch: plans under a token budget, cells of similar length together."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

Ints = NDArray[np.int64]

_BATCHES_PER_BUCKET = 50

CELL = 1 << 24
"""Length that stands for any cell where batches are planned by cells; large, so that budgets are exact."""


def budget_of_cells(n_cells: int, cells_per_batch: int) -> int:
    """Budget with which cells of length `CELL` make as many batches as so many each would, all about equally large.

    Parameters
    ----------
    n_cells
        Cells in all.
    cells_per_batch
        Cells wanted in one batch; to make batches even, a few may have one or two more.
    """
    n_batches = max(1, -(-n_cells // cells_per_batch))
    return max(n_cells, 1) * CELL // n_batches


def plan_batches(lengths: Sequence[int] | Ints, tokens_per_batch: int) -> list[Ints]:
    """Rows of each batch, longest cells first, so that no batch holds more tokens than allowed.

    A cell that alone exceeds the budget gets a batch of its own.

    Parameters
    ----------
    lengths
        Tokens of every cell, ``(n,)``.
    tokens_per_batch
        Most tokens of one batch.
    """
    lengths = np.asarray(lengths, dtype=np.int64)
    order = np.argsort(-lengths, kind="stable")
    ends = np.cumsum(lengths[order])
    batches = []
    start = 0
    while start < len(order):
        before = int(ends[start - 1]) if start else 0
        stop = int(np.searchsorted(ends, before + tokens_per_batch, side="right"))
        stop = max(stop, start + 1)
        batches.append(order[start:stop])
        start = stop
    return batches


def plan_epoch(
    lengths: Sequence[int] | Ints,
    tokens_per_batch: int,
    seed: Sequence[int],
    *,
    multiple: int = 1,
    groups: NDArray[Any] | None = None,
) -> list[Ints]:
    """Rows of each training batch of one epoch: shuffled, yet cells of similar length together.

    The shuffled cells are cut into buckets of about fifty batches; within a bucket cells are sorted by length and cut
    into batches of about equal token numbers; the batches are then shuffled. Every epoch has equally many batches.

    Parameters
    ----------
    lengths
        Tokens of every cell, ``(n,)``.
    tokens_per_batch
        Tokens aimed at in one batch.
    seed
        Numbers that fix the order, such as seed and epoch.
    multiple
        The number of batches is a multiple of this (processes that share them).
    groups
        Cells of different groups never share a batch, ``(n,)``.
    """
    lengths = np.asarray(lengths, dtype=np.int64)
    rng = np.random.default_rng(list(seed))
    members = [np.arange(len(lengths))] if len(lengths) else []
    if groups is not None:
        members = [np.flatnonzero(groups == group) for group in np.unique(groups)]
    batches = [batch for rows in members for batch in _plan_group(rows, lengths, tokens_per_batch, multiple, rng)]
    return [batches[i] for i in rng.permutation(len(batches))]


def _plan_group(
    rows: Ints, lengths: Ints, tokens_per_batch: int, multiple: int, rng: np.random.Generator
) -> list[Ints]:
    """Batches of one group of cells."""
    n_batches = max(1, round(int(lengths[rows].sum()) / tokens_per_batch))
    n_batches = min(-(-n_batches // multiple) * multiple, len(rows))
    n_buckets = max(1, round(n_batches / _BATCHES_PER_BUCKET))
    shuffled = rng.permutation(rows)
    shares = np.array_split(np.arange(n_batches), n_buckets)
    batches: list[Ints] = []
    for bucket, share in zip(np.array_split(shuffled, n_buckets), shares, strict=True):
        by_length = bucket[np.argsort(-lengths[bucket], kind="stable")]
        batches.extend(_cut_evenly(by_length, lengths, len(share)))
    return batches


def _cut_evenly(rows: Ints, lengths: Ints, parts: int) -> list[Ints]:
    """Consecutive parts of about equal token numbers, none of them empty."""
    ends = np.cumsum(lengths[rows])
    cuts = np.searchsorted(ends, ends[-1] * np.arange(1, parts) / parts)
    cuts = np.maximum(cuts, np.arange(1, parts))
    cuts = np.minimum(
        np.maximum.accumulate(cuts - np.arange(parts - 1)) + np.arange(parts - 1),
        len(rows) - parts + np.arange(1, parts),
    )
    return np.split(rows, cuts)
