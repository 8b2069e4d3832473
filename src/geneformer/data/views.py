"""Second views of cells: the cell with genes deleted."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from geneformer.data.dataset import Packed


def delete_genes(
    packed: Packed,
    special: NDArray[Any],
    rng: np.random.Generator,
    *,
    share: float = 0.15,
    chosen: NDArray[Any] | None = None,
) -> Packed:
    """Cells without some of their genes; those behind a deleted gene move up.

    Special tokens stay, and so does at least one gene of every cell that has any.

    Parameters
    ----------
    packed
        Cells end to end.
    special
        Token ids that are no genes, ``(s,)``.
    rng
        Source of randomness.
    share
        Chance of each gene to be deleted, where none are chosen.
    chosen
        Token ids of the genes to delete; cells that have none of them stay as they are.
    """
    ids, lengths = packed.input_ids, np.diff(packed.cu_seqlens)
    cells = np.repeat(np.arange(len(lengths)), lengths)
    is_gene = ~np.isin(ids, special)
    deleted = is_gene & (np.isin(ids, chosen) if chosen is not None else rng.random(len(ids)) < share)
    n_genes = np.bincount(cells[is_gene], minlength=len(lengths))
    emptied = (np.bincount(cells[deleted], minlength=len(lengths)) == n_genes) & (n_genes > 0)
    if emptied.any():
        genes = np.flatnonzero(is_gene & emptied[cells])
        first = genes[np.unique(cells[genes], return_index=True)[1]]
        deleted[first] = False
    kept = ~deleted
    kept_lengths = np.bincount(cells[kept], minlength=len(lengths))
    counts = None if packed.counts is None else packed.counts[kept]
    return Packed(ids[kept], np.concatenate([[0], np.cumsum(kept_lengths)]).astype(np.int64), counts)
