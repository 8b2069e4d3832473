"""The baseline every learnt embedding is measured against: principal components of variable genes."""

from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from geneformer.errors import MissingExtraError, OutOfRangeError
from geneformer.options._check import check_range

if TYPE_CHECKING:
    from scipy import sparse


def pca_embedding(
    counts: "sparse.csr_matrix | NDArray[np.float64]",
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
    import anndata as ad

    adata = ad.AnnData(counts.astype(np.float32))
    sc.pp.filter_genes(adata, min_cells=1)
    if adata.n_obs < 3 or adata.n_vars < 3:
        msg = f"counts hold {adata.n_obs} cells and {adata.n_vars} genes with counts; components need three of each."
        raise OutOfRangeError(msg)
    sc.pp.normalize_total(adata, target_sum=1e4)
    sc.pp.log1p(adata)
    if adata.n_vars > n_top_genes:
        sc.pp.highly_variable_genes(adata, n_top_genes=n_top_genes)
        adata = adata[:, adata.var["highly_variable"]].copy()
    if not isinstance(adata.X, np.ndarray):
        adata.X = adata.X.toarray()
    sc.pp.scale(adata, max_value=10)
    sc.pp.pca(adata, n_comps=min(n_components, adata.n_obs - 1, adata.n_vars - 1), random_state=seed)
    return np.ascontiguousarray(adata.obsm["X_pca"], dtype=np.float32)
