"""What each method reads from cells about all pairs of genes, block by block.

Axes: ``B`` blocks of cells, ``S`` sources, ``T`` targets.
"""

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from geneformer.applications.network_statistics import Floats, Ints

if TYPE_CHECKING:
    from scipy.sparse import csr_matrix

_SCALE = 10_000
"""Counts that cells are scaled to before the logarithm."""


def log_counts(counts: "csr_matrix") -> "csr_matrix":
    """Natural logarithms of 1 + counts, of cells scaled to 10,000 counts, ``(n_cells, n_genes)``."""
    logs = counts.astype(np.float32).tocsr(copy=True)
    totals = np.asarray(logs.sum(axis=1)).ravel()
    logs.data = np.log1p(logs.data * np.repeat(_SCALE / np.maximum(totals, 1), np.diff(logs.indptr)))
    return logs


@dataclass(frozen=True, slots=True, eq=False)
class Moments:
    """Sums of values and of their products, from which correlations of any blocks follow."""

    n_cells: Floats
    source_sums: Floats
    source_squares: Floats
    target_sums: Floats
    target_squares: Floats
    products: NDArray[np.float32]

    @classmethod
    def of(cls, values: "csr_matrix", sources: Ints, targets: Ints, blocks: Ints, n_blocks: int) -> "Moments":
        """Moments of columns of a matrix of cells by genes."""
        sums = cls(
            np.bincount(blocks, minlength=n_blocks).astype(np.float64),
            np.zeros((n_blocks, len(sources))),
            np.zeros((n_blocks, len(sources))),
            np.zeros((n_blocks, len(targets))),
            np.zeros((n_blocks, len(targets))),
            np.zeros((n_blocks, len(sources), len(targets)), dtype=np.float32),
        )
        columns = values.tocsc()
        of_sources, of_targets = columns[:, sources].tocsr(), columns[:, targets].tocsr()
        for block in range(n_blocks):
            source_CS, target_CT = (part[blocks == block].toarray() for part in (of_sources, of_targets))
            sums.source_sums[block], sums.target_sums[block] = source_CS.sum(0), target_CT.sum(0)
            sums.source_squares[block], sums.target_squares[block] = (source_CS**2).sum(0), (target_CT**2).sum(0)
            sums.products[block] = source_CS.T @ target_CT
        return sums

    @property
    def n_blocks(self) -> int:
        """Blocks of cells."""
        return len(self.n_cells)

    def correlations(self, weights_B: Floats) -> NDArray[np.float32]:
        """Pearson correlations, ``(S, T)``; NaN where a gene does not vary."""
        n = weights_B @ self.n_cells
        source_S, target_T = weights_B @ self.source_sums / n, weights_B @ self.target_sums / n
        variance_S = weights_B @ self.source_squares / n - source_S**2
        variance_T = weights_B @ self.target_squares / n - target_T**2
        products = np.tensordot(weights_B.astype(np.float32), self.products, axes=1)
        products /= np.float32(n)
        products -= np.outer(source_S, target_T).astype(np.float32)
        scale_S, scale_T = (np.sqrt(np.where(x > 1e-9, x, np.nan)) for x in (variance_S, variance_T))
        products /= np.outer(scale_S, scale_T).astype(np.float32)
        return products

    def effects(self, weights_B: Floats) -> NDArray[np.float32]:
        """Absolute correlations."""
        return np.abs(self.correlations(weights_B))
