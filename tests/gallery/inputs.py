"""Small counts from which inputs of the gallery are made."""

from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import anndata as ad
import h5py
import numpy as np
import pandas as pd
import scipy.sparse as sp

from geneformer.genes.vocabulary import Vocabulary

N_CELLS, N_GENES = 20, 3000


@cache
def genes(n: int = N_GENES) -> list[str]:
    """Ensembl ids of the vocabulary."""
    return [str(gene) for gene in Vocabulary.load("V1").genes[:n]]


def counts(n_cells: int = N_CELLS, n_genes: int = N_GENES, *, seed: int = 0) -> sp.csr_matrix:
    """Raw counts, a fifth of them not zero."""
    rng = np.random.default_rng(seed)
    values = rng.poisson(rng.gamma(0.3, 1.0, n_genes), (n_cells, n_genes))
    return sp.csr_matrix(values.astype(np.float32))


def cells(n_cells: int = N_CELLS, names: list[str] | None = None) -> ad.AnnData:
    """Raw counts of cells with a label and a number, over genes of the vocabulary or those given."""
    names = names or genes()
    obs = pd.DataFrame(
        {"cell_type": pd.Categorical(["B", "T"] * n_cells)[:n_cells], "score": np.arange(n_cells, dtype=float)},
        index=[f"cell{cell}" for cell in range(n_cells)],
    )
    return ad.AnnData(counts(n_cells, len(names)), obs=obs, var=pd.DataFrame({"length": 1}, index=names))


Make = Callable[[Path], Any]


def h5ad(change: Callable[[ad.AnnData], Any] = lambda adata: None) -> Make:
    """An `.h5ad` of the cells, changed in memory before it is written; or of what `change` returns."""

    def make(folder: Path) -> Path:
        adata = cells()
        changed = change(adata)
        (adata if changed is None else changed).write_h5ad(folder / "in.h5ad")
        return Path("in.h5ad")

    return make


def edited(edit: Callable[[h5py.File], object], start: Make | None = None) -> Make:
    """An `.h5ad` of the cells whose HDF5 is edited afterwards."""

    def make(folder: Path) -> Path:
        path: Path = (start or h5ad())(folder)
        with h5py.File(path, "r+") as file:
            edit(file)
        return path

    return make


def put(name: str, value: Any, **kind: Any) -> Callable[[h5py.File], None]:
    """An edit that puts an array where another one was, its attributes kept."""

    def edit(file: h5py.File) -> None:
        attributes: dict[str, Any] = {}
        new = value
        if name in file:
            attributes = dict(file[name].attrs)
            new = value(file[name][...]) if callable(value) else value
            del file[name]
        file.create_dataset(name, **({} if new is None else {"data": new}), **kind).attrs.update(attributes)

    return edit


def attribute(name: str, key: str, value: Any) -> Callable[[h5py.File], None]:
    """An edit that sets an attribute, or takes it away where `value` is None."""

    def edit(file: h5py.File) -> None:
        if value is None:
            del file[name].attrs[key]
        else:
            file[name].attrs[key] = value

    return edit
