"""What baselines see of cells: log-normalized counts of the genes that vary most among the training cells."""

from dataclasses import dataclass
from typing import Any, Self

import numpy as np
from numpy.typing import ArrayLike, NDArray

from geneformer.errors import NoCellsError, OptionError
from geneformer.options._check import check_range
from geneformer.tasks.resampling import checked_groups

SCALE = 1e4
"""Counts a cell is scaled to."""

BINS = 20
"""Bins of the mean in which dispersions are compared."""

LIMIT = 10.0
"""Standard deviations beyond which values are cut."""

FOLDS = 3
CELLS_TO_CHOOSE = 5000
"""Parts, and most cells, in which the strength of a penalty is tried."""

Counts = Any
"""Raw counts as a SciPy CSR matrix or array, or dense, ``(n, g)``."""

Logged = Any
"""Log-normalized counts as a SciPy CSR array, ``(n, g)``."""


def log_normalized(counts: Counts) -> Logged:
    """Counts scaled to 10,000 per cell, then log(1 + x), ``(n, g)``, float32; cells without counts stay zero.

    Parameters
    ----------
    counts
        Raw counts, ``(n, g)``; not modified.
    """
    from scipy import sparse

    logged: Logged = sparse.csr_array(counts, dtype=np.float32, copy=True)
    totals = np.asarray(logged.sum(axis=1, dtype=np.float64)).reshape(-1)
    factors = SCALE / np.where(totals > 0, totals, 1)
    logged.data = np.log1p(logged.data * np.repeat(factors, np.diff(logged.indptr))).astype(np.float32)
    return logged


def variable_genes(logged: Logged, n_top_genes: int) -> NDArray[np.intp]:
    """Columns of the genes that vary most for their mean, in order; fewer where fewer vary.

    The dispersion (variance over mean, without logarithm) of each gene is compared with that of genes of like mean, as
    scanpy's `highly_variable_genes` does by default, after Satija et al., Nature Biotechnology 33, 495 (2015).

    Parameters
    ----------
    logged
        Log-normalized counts, ``(n, g)``.
    n_top_genes
        Genes to choose.
    """
    n = logged.shape[0]
    plain = logged.copy()
    plain.data = np.expm1(plain.data.astype(np.float64))
    mean = np.asarray(plain.sum(axis=0)).reshape(-1) / n
    plain.data **= 2
    variance = (np.asarray(plain.sum(axis=0)).reshape(-1) / n - mean**2) * n / max(n - 1, 1)
    varies = np.flatnonzero((mean > 0) & (variance > 1e-9 * mean**2))
    if len(varies) <= n_top_genes:
        return varies
    dispersion, level = np.log(variance[varies] / mean[varies]), np.log1p(mean[varies])
    edges = np.linspace(level.min(), level.max(), BINS + 1)
    place = np.clip(np.searchsorted(edges, level) - 1, 0, BINS - 1)
    size = np.bincount(place, minlength=BINS)
    with np.errstate(divide="ignore", invalid="ignore"):
        middle = np.bincount(place, dispersion, BINS) / size
        spread = np.sqrt(np.bincount(place, (dispersion - middle[place]) ** 2, BINS) / (size - 1))
        deviations = (dispersion - middle[place]) / spread[place]
    deviations[size[place] == 1] = 1.0  # nothing to compare with
    best = np.argsort(-np.nan_to_num(deviations), kind="stable")[:n_top_genes]
    return np.sort(varies[best])


@dataclass(frozen=True, slots=True)
class ExpressionFeatures:
    """Standardized log-normalized counts of the genes that vary most among the cells they were chosen in.

    Attributes
    ----------
    genes
        Columns of the genes, ``(k,)``.
    mean, deviation
        Of each gene over the cells they were chosen in, ``(k,)``.
    """

    genes: NDArray[np.intp]
    mean: NDArray[np.float32]
    deviation: NDArray[np.float32]

    @classmethod
    def fit(cls, logged: Logged, *, n_top_genes: int = 2000) -> Self:
        """Choose the genes and measure their scale in training cells.

        Parameters
        ----------
        logged
            Log-normalized counts of the training cells, ``(n, g)``.
        n_top_genes
            Genes to choose.

        Raises
        ------
        NoCellsError
            No gene varies.
        """
        check_range("n_top_genes", n_top_genes, low=1)
        genes = variable_genes(logged, n_top_genes)
        if not len(genes):
            msg = f"No gene differs among the {logged.shape[0]:,} training cells, so there is nothing to learn from."
            raise NoCellsError(msg)
        dense = logged[:, genes].toarray()
        mean, deviation = dense.mean(axis=0, dtype=np.float64), dense.std(axis=0, dtype=np.float64)
        return cls(genes, mean.astype(np.float32), deviation.astype(np.float32))

    def transform(self, logged: Logged) -> NDArray[np.float32]:
        """The genes chosen, each centered, divided by its standard deviation and cut at 10, ``(n, k)``."""
        dense: NDArray[np.float32] = logged[:, self.genes].toarray()
        dense -= self.mean
        dense /= self.deviation
        return np.clip(dense, -LIMIT, LIMIT, out=dense)


def train_and_test(
    train_counts: Counts, test_counts: Counts, n_top_genes: int
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Features of training and test cells, chosen and scaled by the training cells, ``(n, k)`` each.

    Raises
    ------
    OptionError
        Different numbers of genes.
    NoCellsError
        No gene varies among the training cells.
    """
    if train_counts.shape[1] != test_counts.shape[1]:
        msg = (
            f"Training counts have {train_counts.shape[1]:,} genes and test counts {test_counts.shape[1]:,}. Give the "
            "same genes in the same order."
        )
        raise OptionError(msg)
    train = log_normalized(train_counts)
    features = ExpressionFeatures.fit(train, n_top_genes=n_top_genes)
    return features.transform(train), features.transform(log_normalized(test_counts))


def draw_parts(rows: NDArray[np.intp], groups: ArrayLike | None, n: int, seed: int) -> NDArray[np.int64]:
    """Part that each of some training cells belongs to while a penalty is chosen, ``(len(rows),)``; -1 for none.

    Whole groups are in one part where there are several groups. Of many cells only a sample takes part.

    Parameters
    ----------
    rows
        Cells to divide.
    groups
        Donor, batch or the like of each cell, of all `n`; or None.
    n
        Cells in all.
    seed
        Fixes the parts.

    Raises
    ------
    OptionError
        Another number of groups than of cells.
    """
    names = checked_groups(groups, n)
    unit = np.arange(len(rows))
    if names is not None and len(np.unique(names[rows])) > 1:
        unit = np.unique(names[rows], return_inverse=True)[1].reshape(-1)
    rng = np.random.default_rng(seed)
    parts: NDArray[np.int64] = (rng.permutation(int(unit.max()) + 1) % FOLDS)[unit]
    parts[rng.permutation(len(rows))[CELLS_TO_CHOOSE:]] = -1
    return parts
