"""What each method reads from cells about all pairs of genes, block by block.

Axes: ``B`` blocks of cells, ``S`` sources, ``T`` targets.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, fields, replace
from typing import TYPE_CHECKING, Any

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


def joined(evidence: Sequence[Any]) -> Any:
    """Evidence of several groups of cells as that of all, group after group."""
    first = evidence[0]
    together = {
        entry.name: np.concatenate([getattr(one, entry.name) for one in evidence])
        for entry in fields(first)
        if not entry.metadata.get(_SHARED)
    }
    return replace(first, **together)


_ROWS = 256
"""Sources whose numbers exist in full precision at the same time."""

_SHARED = "shared"
"""What is the same for all cells."""


@dataclass(frozen=True, slots=True, eq=False)
class Moments:
    """Sums of values and of their products, from which correlations of any blocks follow."""

    n_cells: Floats
    source_sums: Floats
    source_squares: Floats
    target_sums: Floats
    target_squares: Floats
    products: NDArray[np.float32]
    """``(B, S, T)``; sums of sources are ``(B, S, 1)``, those of targets ``(B, 1, T)``."""

    @classmethod
    def of(cls, values: "csr_matrix", sources: Ints, targets: Ints, blocks: Ints, n_blocks: int) -> "Moments":
        """Moments of columns of a matrix of cells by genes."""
        sums = cls(
            np.bincount(blocks, minlength=n_blocks).astype(np.float64),
            np.zeros((n_blocks, len(sources), 1)),
            np.zeros((n_blocks, len(sources), 1)),
            np.zeros((n_blocks, 1, len(targets))),
            np.zeros((n_blocks, 1, len(targets))),
            np.zeros((n_blocks, len(sources), len(targets)), dtype=np.float32),
        )
        columns = values.tocsc()
        of_sources, of_targets = columns[:, sources].tocsr(), columns[:, targets].tocsr()
        for block in range(n_blocks):
            source_CS, target_CT = (part[blocks == block].toarray() for part in (of_sources, of_targets))
            sums.source_sums[block, :, 0], sums.target_sums[block] = source_CS.sum(0), target_CT.sum(0)
            sums.source_squares[block, :, 0] = (source_CS**2).sum(0)
            sums.target_squares[block] = (target_CT**2).sum(0)
            sums.products[block] = source_CS.T @ target_CT
        return sums

    @property
    def n_blocks(self) -> int:
        """Blocks of cells."""
        return len(self.n_cells)

    def edges(self, row: Ints, column: Ints) -> "Moments":
        """Moments of some pairs, ``(B, E)``."""
        of_sources = self.source_sums[:, row, 0], self.source_squares[:, row, 0]
        of_targets = self.target_sums[:, 0, column], self.target_squares[:, 0, column]
        return Moments(self.n_cells, *of_sources, *of_targets, self.products[:, row, column])

    def correlations(self, weights_B: Floats) -> NDArray[np.float32]:
        """Pearson correlations, ``(S, T)``; NaN where a gene does not vary."""

        def scaled(sums: Floats, squares: Floats) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
            mean = np.tensordot(weights_B, sums, axes=1) / n
            variance = np.tensordot(weights_B, squares, axes=1) / n - mean**2
            return mean.astype(np.float32), np.sqrt(np.where(variance > 1e-9, variance, np.nan)).astype(np.float32)

        n = weights_B @ self.n_cells
        source_mean, source_sd = scaled(self.source_sums, self.source_squares)
        target_mean, target_sd = scaled(self.target_sums, self.target_squares)
        products: NDArray[np.float32] = np.tensordot(weights_B.astype(np.float32), self.products, axes=1)
        products /= np.float32(n)
        products -= source_mean * target_mean
        products /= source_sd * target_sd
        return products

    def effects(self, weights_B: Floats) -> NDArray[np.float32]:
        """Absolute correlations."""
        return np.abs(self.correlations(weights_B))


@dataclass(frozen=True, slots=True, eq=False)
class PairMeans:
    """Sums over the cells that have both genes, and how many these are."""

    sums: NDArray[np.float32]
    counts: NDArray[np.unsignedinteger]

    @property
    def n_blocks(self) -> int:
        """Blocks of cells."""
        return len(self.sums)

    def edges(self, row: Ints, column: Ints) -> "PairMeans":
        """Means of some pairs."""
        return PairMeans(self.sums[:, row, column], self.counts[:, row, column])

    def effects(self, weights_B: Floats) -> NDArray[np.float32]:
        """Means over cells."""
        weights_B = weights_B.astype(np.float32)
        means: NDArray[np.float32] = np.empty(self.sums.shape[1:], dtype=np.float32)
        for start in range(0, len(means), _ROWS):
            rows = slice(start, start + _ROWS)
            counts = np.tensordot(weights_B, self.counts[:, rows].astype(np.float32), axes=1)
            with np.errstate(invalid="ignore", divide="ignore"):
                means[rows] = np.tensordot(weights_B, self.sums[:, rows], axes=1) / np.where(counts > 0, counts, np.nan)
        return means


def pair_counts(
    presence: "csr_matrix", sources: Ints, targets: Ints, blocks: Ints, n_blocks: int
) -> NDArray[np.unsignedinteger]:
    """Cells that have all genes of a source, ``(S, m)``, and a target, block by block, ``(B, S, T)``."""
    columns = presence.tocsc()
    together = columns[:, sources[:, 0]]
    for others in sources.T[1:]:
        together = together.multiply(columns[:, others])
    of_sources, of_targets = together.tocsr(), columns[:, targets].tocsr()
    counts = np.empty((n_blocks, len(sources), len(targets)), dtype=np.min_scalar_type(len(blocks)))
    for block in range(n_blocks):
        cells = np.flatnonzero(blocks == block)
        by_source, of_cells = of_sources[cells].T.tocsr(), of_targets[cells]
        for start in range(0, len(sources), _ROWS):
            counts[block, start : start + _ROWS] = (by_source[start : start + _ROWS] @ of_cells).toarray()
    return counts


@dataclass(frozen=True, slots=True, eq=False)
class MeanStates:
    """Sums of the contextual embeddings of genes, from which cosines of their means follow."""

    sums: Floats
    counts: Floats
    source_rows: Ints = field(metadata={_SHARED: True})
    target_rows: Ints = field(metadata={_SHARED: True})
    pairwise: bool = field(default=False, metadata={_SHARED: True})
    """Whether each source is compared with one target, or with all."""

    @property
    def n_blocks(self) -> int:
        """Blocks of cells."""
        return len(self.sums)

    def edges(self, row: Ints, column: Ints) -> "MeanStates":
        """The same for some pairs."""
        return replace(self, source_rows=self.source_rows[row], target_rows=self.target_rows[column], pairwise=True)

    def effects(self, weights_B: Floats) -> NDArray[np.float32]:
        """Cosines of mean embeddings, without their mean and first component."""
        counts_G = weights_B @ self.counts
        with np.errstate(invalid="ignore", divide="ignore"):
            means_GD = np.tensordot(weights_B, self.sums, axes=1) / counts_G[:, None]
        unit_GD = without_first_component(means_GD).astype(np.float32)
        if self.pairwise:
            return np.asarray(np.einsum("ed,ed->e", unit_GD[self.source_rows], unit_GD[self.target_rows]))
        return np.asarray(unit_GD[self.source_rows] @ unit_GD[self.target_rows].T)


def without_first_component(vectors_GD: Floats) -> Floats:
    """Vectors less their mean and first principal component, of length 1; rows of NaN stay so."""
    known = np.isfinite(vectors_GD).all(1)
    centered = vectors_GD[known] - vectors_GD[known].mean(0)
    first_D = np.linalg.eigh(centered.T @ centered)[1][:, -1]
    centered -= np.outer(centered @ first_D, first_D)
    norms = np.linalg.norm(centered, axis=1, keepdims=True)
    found = np.full(vectors_GD.shape, np.nan)
    found[known] = centered / np.where(norms > 0, norms, np.nan)
    return found


@dataclass(frozen=True, slots=True, eq=False)
class Forest:
    """Importance of sources for targets in boosted trees, fitted whenever it is asked for."""

    source_values: NDArray[np.float32]
    target_values: NDArray[np.float32]
    own: NDArray[np.int64]
    """Row of every target among the sources, -1 where it is none."""
    blocks: Ints
    n_blocks: int
    seed: int
    progress: Callable[[int, int], None] | None = None

    def effects(self, weights_B: Floats) -> NDArray[np.float32]:
        """Importances, which add up to 1 for every target."""
        from sklearn.ensemble import GradientBoostingRegressor

        weights = weights_B[self.blocks]
        cells = np.flatnonzero(weights > 0)
        features = self.source_values[cells]
        found = np.empty((features.shape[1], self.target_values.shape[1]), dtype=np.float32)
        for target, own in enumerate(self.own.tolist()):
            others = np.delete(np.arange(features.shape[1]), [own] if own >= 0 else [])
            trees = GradientBoostingRegressor(
                n_estimators=50, max_depth=3, max_features="sqrt", subsample=0.5, random_state=self.seed
            )
            trees.fit(features[:, others], self.target_values[cells, target], sample_weight=weights[cells])
            found[others, target] = trees.feature_importances_
            if own >= 0:
                found[own, target] = np.nan
            if self.progress is not None:
                self.progress(target + 1, len(self.own))
        return found
