"""The real cells that come with the package."""

from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from geneformer import keys

if TYPE_CHECKING:
    from anndata import AnnData

LABEL = "cell_type"
"""Column of `obs` with the kinds of cells."""

UNASSIGNED = "unassigned"
"""Label of cells that have none."""

SYMBOL = "gene_symbol"
"""Column of `var` in the file with the gene symbols."""


def pbmc3k_path() -> Path:
    """File with the counts, see the README beside it for origin and license."""
    return Path(str(files("geneformer") / "assets" / "pbmc3k.h5ad"))


def pbmc3k() -> "AnnData":
    """PBMC3k: raw counts of 2,700 blood cells by 32,738 genes, with cell types.

    10x Genomics, CC BY 4.0. `obs` has `cell_type`; genes are named by symbol, made unique, with `ensembl_id` in `var`.

    Examples
    --------
    >>> from geneformer.datasets import pbmc3k
    >>> pbmc3k().shape
    (2700, 32738)
    """
    import anndata as ad

    adata = ad.read_h5ad(pbmc3k_path())
    adata.X = adata.X.tocsr().astype(np.float32)
    adata.var[keys.ENSEMBL_ID] = adata.var_names.to_numpy()
    adata.var_names = adata.var.pop(SYMBOL).astype(str).to_numpy()
    adata.var_names_make_unique()
    return adata
