"""The baseline every learnt embedding is measured against: principal components of variable genes."""

import numpy as np
from numpy.typing import NDArray

from geneformer.errors import MissingExtraError, OutOfRangeError
from geneformer.options._check import check_range
from geneformer.tasks.expression import Counts, log_normalized, variable_genes


def pca_embedding(
    counts: Counts,
    *,
    n_components: int = 50,
    n_top_genes: int = 2000,
    seed: int = 0,
) -> NDArray[np.float32]:
    """Principal components of the log-normalized counts of the most variable genes, ``(n, n_components)``.

    The usual recipe of scanpy: 10,000 counts per cell, log(1 + x), the most variable genes by dispersion, every gene
    scaled to variance 1 and cut at 10. Cells of the input only; nothing is learnt elsewhere.

    Parameters
    ----------
    counts
        Raw counts, ``(n, g)``; not modified.
    n_components
        Components; fewer where cells or genes do not allow as many.
    n_top_genes
        Variable genes.
    seed
        Fixes the solver.

    Raises
    ------
    OutOfRangeError
        Fewer than three cells, or no counts in any gene.
    MissingExtraError
        scanpy is not installed.
    """
    check_range("n_components", n_components, low=1)
    check_range("n_top_genes", n_top_genes, low=2)
    try:
        import scanpy as sc
    except ImportError as error:
        msg = "The PCA baseline needs scanpy. Install it with `pip install geneformer[plot]`."
        raise MissingExtraError(msg) from error
    logged = log_normalized(counts)
    seen = np.flatnonzero(logged.astype(bool).sum(axis=0))
    if logged.shape[0] < 3 or len(seen) < 3:
        msg = f"counts hold {logged.shape[0]} cells and {len(seen)} genes with counts; components need three of each."
        raise OutOfRangeError(msg)
    genes = variable_genes(logged, n_top_genes) if len(seen) > n_top_genes else seen
    scaled = sc.pp.scale(logged[:, genes].toarray(), max_value=10)
    n_components = min(n_components, len(scaled) - 1, len(genes) - 1)
    return np.ascontiguousarray(sc.pp.pca(scaled, n_comps=n_components, random_state=seed), dtype=np.float32)
