"""Which cells share a batch: plans under a token budget, cells of similar length together."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from geneformer.tokens.dataset import Packed

Ints = NDArray[np.int64]

_BATCHES_PER_BUCKET = 50

CELL = 1 << 24
"""Length that stands for any cell where batches are planned by cells; large, so that budgets are exact."""


def budget_of_cells(n_cells: int, cells_per_batch: int) -> int:
    """Budget with which cells of length `CELL` make as many batches as so many each would, all about equally large."""
    n_batches = max(1, -(-n_cells // cells_per_batch))
    return max(n_cells, 1) * CELL // n_batches


def plan_batches(lengths: Sequence[int] | Ints, tokens_per_batch: int) -> list[Ints]:
    """Rows of each batch, longest cells first, so that no batch holds more tokens than allowed."""
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
    """Rows of each training batch of one epoch: shuffled, yet cells of similar length together."""
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


@dataclass(frozen=True, slots=True)
class Masked:
    """Packed cells with some genes hidden."""

    input_ids: Ints
    cu_seqlens: Ints
    masked: Ints
    labels: Ints


def mask_genes(
    packed: Packed, genes: NDArray[Any], mask_id: int, probability: float, rng: np.random.Generator
) -> Masked:
    """Mask as BERT (Devlin et al., 2019): of the selected genes 80 % become `<mask>`, 10 % another, 10 % stay."""
    ids = packed.input_ids.astype(np.int64)
    is_gene = np.isin(ids, genes)
    selected = is_gene & (rng.random(len(ids)) < probability)
    if not selected.any() and is_gene.any():
        selected[rng.choice(np.flatnonzero(is_gene))] = True
    masked = np.flatnonzero(selected)
    labels = ids[masked]
    fate = rng.random(len(masked))
    ids[masked[fate < 0.8]] = mask_id
    swapped = masked[(fate >= 0.8) & (fate < 0.9)]
    ids[swapped] = rng.choice(genes, len(swapped))
    return Masked(ids, packed.cu_seqlens, masked, labels)


def split_counts(
    packed: Packed, medians: NDArray[np.float64], share: tuple[float, float], max_length: int, rng: np.random.Generator
) -> tuple[Packed, Packed]:
    """Two views of every cell, each with a part of its molecules, ranked again."""
    if packed.counts is None:
        msg = "Count-subsampled views need counts."
        raise ValueError(msg)
    lengths, cells = packed.lengths, packed.cells
    genes = ~np.isnan(medians[packed.input_ids])
    unit = np.full(len(lengths), np.inf)
    np.minimum.at(unit, cells[genes], packed.counts[genes])
    molecules = np.zeros(len(cells), dtype=np.int64)
    molecules[genes] = np.rint(packed.counts[genes] / unit[cells[genes]]).astype(np.int64)
    first = rng.binomial(molecules, rng.uniform(*share, len(lengths))[cells])
    one, other = (_rank_again(packed, kept, medians, max_length) for kept in (first, molecules - first))
    return one, other


def _rank_again(packed: Packed, molecules: Ints, medians: NDArray[np.float64], max_length: int) -> Packed:
    """The cells with other numbers of molecules, cut to their first tokens; a closing special token survives."""
    cells, median = packed.cells, medians[packed.input_ids]
    special = np.isnan(median)
    opens = np.zeros(len(cells), dtype=bool)
    opens[packed.cu_seqlens[:-1][packed.lengths > 0]] = True
    value = np.where(special, np.where(opens, np.inf, 0.0), molecules / np.where(special, 1.0, median))
    alive = np.flatnonzero((molecules > 0) | special)
    alive = alive[np.lexsort((-value[alive], cells[alive]))]
    lengths = np.bincount(cells[alive], minlength=len(packed.lengths))
    ranked, special = Packed.of_lengths(packed.input_ids[alive], lengths), special[alive]
    rank = np.arange(len(alive)) - np.repeat(ranked.cu_seqlens[:-1], lengths)
    last = rank == np.repeat(lengths, lengths) - 1
    closes = np.zeros(len(lengths), dtype=np.int64)
    closes[ranked.cells[last & special & (rank > 0)]] = 1
    return ranked.keep((rank < max_length - np.repeat(closes, lengths)) | (last & special))


def concatenate(*parts: Packed) -> Packed:
    """Packed cells of several parts, end to end."""
    shifts = np.cumsum([0, *(int(part.cu_seqlens[-1]) for part in parts)])
    cu_seqlens = [part.cu_seqlens[1:] + shift for part, shift in zip(parts, shifts[:-1], strict=True)]
    return Packed(
        np.concatenate([part.input_ids for part in parts]),
        np.concatenate([np.zeros(1, dtype=np.int64), *cu_seqlens]),
    )


def delete_genes(
    packed: Packed,
    special: NDArray[Any],
    rng: np.random.Generator,
    *,
    share: float = 0.15,
    chosen: NDArray[Any] | None = None,
) -> Packed:
    """Cells without some of their genes; those behind a deleted gene move up."""
    ids, lengths, cells = packed.input_ids, packed.lengths, packed.cells
    is_gene = ~np.isin(ids, special)
    deleted = is_gene & (np.isin(ids, chosen) if chosen is not None else rng.random(len(ids)) < share)
    n_genes = np.bincount(cells[is_gene], minlength=len(lengths))
    emptied = (np.bincount(cells[deleted], minlength=len(lengths)) == n_genes) & (n_genes > 0)
    if emptied.any():
        genes = np.flatnonzero(is_gene & emptied[cells])
        first = genes[np.unique(cells[genes], return_index=True)[1]]
        deleted[first] = False
    return packed.keep(~deleted)
