"""Two dimensions out of many: UMAP, with a fixed seed."""

import numpy as np
from numpy.typing import ArrayLike, NDArray

from geneformer.errors import NoCellsError
from geneformer.options._check import check_choice, check_range
from geneformer.pl._figures import plotting_library

FEWEST = 4
"""Cells that make a neighborhood graph."""


def umap_layout(
    embedding: ArrayLike, *, n_neighbors: int = 15, metric: str = "cosine", seed: int = 0
) -> NDArray[np.float32]:
    """UMAP coordinates of an embedding, ``(n, 2)``; the same for the same input and seed.

    Parameters
    ----------
    embedding
        One row per cell, ``(n, d)``.
    n_neighbors
        Cells that count as near.
    metric
        Distance between cells, "cosine" or "euclidean".
    seed
        Fixes the layout.

    Raises
    ------
    NoCellsError
        Fewer than four cells.
    MissingExtraError
        scanpy is not installed.
    """
    check_choice("metric", metric, ("cosine", "euclidean"))
    check_range("n_neighbors", n_neighbors, low=2)
    sc = plotting_library("scanpy")
    import anndata as ad

    values_nd = np.asarray(embedding, dtype=np.float32)
    if len(values_nd) < FEWEST:
        msg = f"A map needs at least {FEWEST} cells with an embedding; there are {len(values_nd)}."
        raise NoCellsError(msg)
    cells = ad.AnnData(obsm={"X": values_nd})
    sc.pp.neighbors(
        cells, n_neighbors=min(n_neighbors, len(values_nd) - 1), use_rep="X", metric=metric, random_state=seed
    )
    start = "spectral" if len(values_nd) > 10 else "random"  # the spectral start needs more cells than dimensions
    sc.tl.umap(cells, init_pos=start, random_state=seed)
    return np.asarray(cells.obsm["X_umap"], dtype=np.float32)
