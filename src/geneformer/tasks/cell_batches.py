"""Batches of cells with what is to be learnt about them."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from geneformer.data.batching import CELL
from geneformer.data.collate import concatenate
from geneformer.data.dataset import TokenizedDataset
from geneformer.data.views import delete_genes
from geneformer.engine.training import Key

Ints = NDArray[np.int64]


class CellBatches:
    """Batches from keys; what comes out depends on seed, epoch and rows only.

    Parameters
    ----------
    dataset
        Tokenized cells.
    rows
        Cells the keys count through, ``(n,)``.
    targets
        By head, one entry per cell of the dataset: classes (int64, `losses.MISSING` for none), label sets (float32,
        ``(N, C)``) or numbers (float32).
    max_length
        Most tokens of one cell.
    views
        Add every cell once more with genes deleted.
    special
        Token ids that are no genes.
    share, chosen, seed
        Second views; see `delete_genes`.
    count_cells
        Whether batches are planned by the number of cells instead of their tokens.
    """

    def __init__(
        self,
        dataset: TokenizedDataset,
        rows: Ints,
        targets: Mapping[str, NDArray[Any]],
        max_length: int,
        *,
        views: bool = False,
        special: NDArray[Any] | None = None,
        share: float = 0.15,
        chosen: NDArray[Any] | None = None,
        seed: int = 0,
        count_cells: bool = False,
    ) -> None:
        self.count_cells = count_cells
        self.dataset, self.rows, self.targets, self.max_length = dataset, rows, dict(targets), max_length
        self.views, self.share, self.chosen, self.seed = views, share, chosen, seed
        self.special = np.empty(0, dtype=np.int64) if special is None else special

    @property
    def lengths(self) -> Ints:
        """Tokens each cell brings to a batch, or `batching.CELL` where cells are counted, ``(n,)``."""
        if self.count_cells:
            return np.full(len(self.rows), CELL, dtype=np.int64)
        return np.minimum(self.dataset.lengths[self.rows], self.max_length) * (2 if self.views else 1)

    def __call__(self, keys: Sequence[Key]) -> dict[str, Any]:
        """The batch as tensors."""
        rows = self.rows[[row for _, row in keys]]
        packed = self.dataset.gather(rows, max_length=self.max_length)
        if self.views:
            rng = np.random.default_rng([self.seed, keys[0][0], keys[0][1], len(keys)])
            packed = concatenate(packed, delete_genes(packed, self.special, rng, share=self.share, chosen=self.chosen))
        return {
            "input_ids": torch.from_numpy(packed.input_ids.astype(np.int64)),
            "cu_seqlens": torch.from_numpy(packed.cu_seqlens),
            "targets": {name: torch.from_numpy(values[rows]) for name, values in self.targets.items()},
        }
