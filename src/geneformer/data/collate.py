"""From rows to training batches: masks and count-subsampled views, in numpy and seeded."""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from geneformer.data.dataset import Packed

Ints = NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Masked:
    """Packed cells with some genes hidden.

    Attributes
    ----------
    input_ids
        Token ids, some of them replaced, ``(T,)``.
    cu_seqlens
        Where each cell starts, and the total, ``(B + 1,)``.
    masked
        Positions to predict, ``(M,)``.
    labels
        What stood there, ``(M,)``.
    """

    input_ids: Ints
    cu_seqlens: Ints
    masked: Ints
    labels: Ints


def mask_genes(
    packed: Packed, genes: NDArray[Any], mask_id: int, probability: float, rng: np.random.Generator
) -> Masked:
    """Hide genes as BERT does (Devlin et al., 2019): of those selected 80 % become `<mask>`, 10 % another, 10 % stay.

    Special tokens are never selected and never put in. At least one gene is selected.

    Parameters
    ----------
    packed
        Cells end to end.
    genes
        Token ids that are genes, ``(g,)``.
    mask_id
        Id of `<mask>`.
    probability
        Chance of each gene to be selected.
    rng
        Source of randomness.
    """
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
    """Two views of every cell, each with a part of its molecules, ranked again.

    Every molecule goes to one of the views and never to both (binomial count splitting; Neufeld et al., 2022), so that
    the views share the cell's expression but none of its sampling noise. The smallest count of a cell is taken as one
    molecule. Special tokens stay where they are: first and last.

    Parameters
    ----------
    packed
        Cells end to end, with counts.
    medians
        Nonzero median by token id, ``(V,)``; not a number for special tokens.
    share
        Range from which each cell draws the share of molecules of the first view; the second gets the rest.
    max_length
        Most tokens of one view.
    rng
        Source of randomness.
    """
    if packed.counts is None:
        msg = "Count-subsampled views need counts."
        raise ValueError(msg)
    lengths = np.diff(packed.cu_seqlens)
    cells = np.repeat(np.arange(len(lengths)), lengths)
    genes = ~np.isnan(medians[packed.input_ids])
    unit = np.full(len(lengths), np.inf)
    np.minimum.at(unit, cells[genes], packed.counts[genes])
    molecules = np.zeros(len(cells), dtype=np.int64)
    molecules[genes] = np.rint(packed.counts[genes] / unit[cells[genes]]).astype(np.int64)
    first = rng.binomial(molecules, rng.uniform(*share, len(lengths))[cells])
    one, other = (_rank_again(packed, kept, medians, max_length) for kept in (first, molecules - first))
    return one, other


def _rank_again(packed: Packed, molecules: Ints, medians: NDArray[np.float64], max_length: int) -> Packed:
    """The cells with other numbers of molecules."""
    lengths = np.diff(packed.cu_seqlens)
    cells = np.repeat(np.arange(len(lengths)), lengths)
    median = medians[packed.input_ids]
    special = np.isnan(median)
    opens = np.zeros(len(cells), dtype=bool)
    opens[packed.cu_seqlens[:-1][lengths > 0]] = True
    value = np.where(special, np.where(opens, np.inf, 0.0), molecules / np.where(special, 1.0, median))
    alive = np.flatnonzero((molecules > 0) | special)
    alive = alive[np.lexsort((-value[alive], cells[alive]))]
    return _cut(packed.input_ids[alive], cells[alive], special[alive], len(lengths), max_length)


def _cut(ids: NDArray[Any], cells: Ints, special: NDArray[np.bool_], n_cells: int, max_length: int) -> Packed:
    """Keep the first tokens of each cell; a closing special token survives the cut."""
    lengths = np.bincount(cells, minlength=n_cells)
    starts = np.cumsum(lengths) - lengths
    rank = np.arange(len(cells)) - starts[cells]
    last = rank == lengths[cells] - 1
    closes = np.zeros(n_cells, dtype=np.int64)
    closes[cells[last & special & (rank > 0)]] = 1
    keep = (rank < max_length - closes[cells]) | (last & special)
    kept_lengths = np.bincount(cells[keep], minlength=n_cells)
    return Packed(ids[keep], np.concatenate([[0], np.cumsum(kept_lengths)]).astype(np.int64))


def concatenate(*parts: Packed) -> Packed:
    """Packed cells of several parts, end to end."""
    shifts = np.cumsum([0, *(int(part.cu_seqlens[-1]) for part in parts)])
    cu_seqlens = [part.cu_seqlens[1:] + shift for part, shift in zip(parts, shifts[:-1], strict=True)]
    return Packed(
        np.concatenate([part.input_ids for part in parts]),
        np.concatenate([np.zeros(1, dtype=np.int64), *cu_seqlens]),
    )
