"""Embeddings with the identity of what they describe, and files of them."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from geneformer import keys
from geneformer.results.tables import cells_as_anndata, check_suffix, write_table
from geneformer.runs.files import atomic_file

if TYPE_CHECKING:
    import pandas as pd
    import pyarrow as pa
    from anndata import AnnData

SUFFIXES = (".h5ad", ".parquet", ".csv")
"""Files embeddings are written to."""


@dataclass(frozen=True, slots=True)
class CellEmbeddings:
    """One vector per cell, in the order of the input.

    Attributes
    ----------
    values
        Embeddings, ``(n_cells, hidden_size)``, float32.
    cells
        What is known about each cell; `cell_id` and `source` where the tokens had them.
    provenance
        Model, vocabulary fingerprint, options, versions.
    """

    values: NDArray[np.float32]
    cells: "pa.Table"
    provenance: Mapping[str, Any] = field(default_factory=dict)

    def to_frame(self) -> "pd.DataFrame":
        """One row per cell: columns `0` to `hidden_size - 1`, then what is known about the cell."""
        import pandas as pd

        values = pd.DataFrame(self.values, columns=[str(i) for i in range(self.values.shape[1])])
        frame: pd.DataFrame = pd.concat([values, self.cells.to_pandas()], axis=1)
        return frame

    def to_anndata(self) -> "AnnData":
        """Cells as `obs`, embeddings in ``obsm["X_geneformer"]``, provenance in ``uns["geneformer"]``."""
        adata = cells_as_anndata(self.cells)
        adata.obsm[keys.EMBEDDING] = self.values
        adata.uns[keys.UNS] = {keys.EMBEDDING: dict(self.provenance)}
        return adata

    def save(self, path: str | Path, *, overwrite: bool = False) -> None:
        """Write an `.h5ad`, `.parquet` or `.csv`, complete or not at all.

        Raises
        ------
        UnsupportedFormatError
            Another suffix.
        OutputExistsError
            There is a file already.
        """
        path = check_suffix(path, SUFFIXES)
        with atomic_file(path, overwrite=overwrite) as temporary:
            if path.suffix == ".h5ad":
                self.to_anndata().write_h5ad(temporary)
            else:
                write_table(self.to_frame(), temporary, self.provenance, index=False)


@dataclass(frozen=True, slots=True)
class GeneEmbeddings:
    """One vector per gene, averaged over the cells that express it.

    Attributes
    ----------
    values
        Embeddings, ``(n_genes, hidden_size)``, float32.
    genes
        Ensembl ids, and names of special tokens, ``(n_genes,)``.
    n_cells
        Cells each mean is taken over, ``(n_genes,)``.
    provenance
        Model, vocabulary fingerprint, options, versions.
    """

    values: NDArray[np.float32]
    genes: NDArray[Any]
    n_cells: NDArray[np.int64]
    provenance: Mapping[str, Any] = field(default_factory=dict)

    def to_frame(self) -> "pd.DataFrame":
        """One row per gene, indexed by Ensembl id: `n_cells`, then columns `0` to `hidden_size - 1`."""
        import pandas as pd

        index = pd.Index(self.genes, name=keys.ENSEMBL_ID)
        values = pd.DataFrame(self.values, index=index, columns=[str(i) for i in range(self.values.shape[1])])
        values.insert(0, "n_cells", self.n_cells)
        return values

    def to_anndata(self) -> "AnnData":
        """Genes as `obs`, embeddings in ``obsm["X_geneformer"]``."""
        import anndata as ad
        import pandas as pd

        adata = ad.AnnData(obs=pd.DataFrame({"n_cells": self.n_cells}, index=self.genes.astype(str)))
        adata.obsm[keys.EMBEDDING] = self.values
        adata.uns[keys.UNS] = {keys.EMBEDDING: dict(self.provenance)}
        return adata

    def save(self, path: str | Path, *, overwrite: bool = False) -> None:
        """Write an `.h5ad`, `.parquet` or `.csv`, complete or not at all."""
        path = check_suffix(path, SUFFIXES)
        with atomic_file(path, overwrite=overwrite) as temporary:
            if path.suffix == ".h5ad":
                self.to_anndata().write_h5ad(temporary)
            else:
                write_table(self.to_frame(), temporary, self.provenance, index=True)
