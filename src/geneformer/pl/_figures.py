"""What every plot needs: matplotlib or a word about how to get it, the embedding to draw, and a place to save to."""

from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from geneformer import keys
from geneformer.errors import MissingExtraError, NoCellsError, UnknownColumnError
from geneformer.options._check import check_choice, nearest
from geneformer.runs.files import atomic_file

if TYPE_CHECKING:
    import pandas as pd
    from anndata import AnnData
    from matplotlib.figure import Figure, SubFigure

FORMATS = (".png", ".pdf", ".svg", ".jpg", ".tif")
"""Files figures are saved to."""

INK, FAINT = "#333333", "#d9d9d9"
"""Color of text and axes, and of cells nothing is known about."""


def plotting_library(name: str) -> ModuleType:
    """An optional library, imported.

    Raises
    ------
    MissingExtraError
        It is not installed.
    """
    try:
        return import_module(name)
    except ImportError as error:
        msg = f"Plots need {name.partition('.')[0]}. Install it with `pip install geneformer[plot]`."
        raise MissingExtraError(msg) from error


def embedding_of(adata: "AnnData", basis: str) -> tuple[NDArray[np.float32], NDArray[np.intp]]:
    """Embedding of the cells that have one, ``(n, d)``, and their rows in `adata`, ``(n,)``.

    Raises
    ------
    UnknownColumnError
        No such slot.
    NoCellsError
        No cell has an embedding.
    """
    if basis not in adata.obsm:
        slots = list(adata.obsm)
        msg = f"adata.obsm has no {basis!r}; it has {slots or 'nothing'}.{nearest(basis, slots)}"
        if basis == keys.EMBEDDING:
            msg += ' Run gf.tl.embed(adata, model="mini") first.'
        raise UnknownColumnError(msg)
    values_nd = np.asarray(adata.obsm[basis], dtype=np.float32)
    rows = np.flatnonzero(np.isfinite(values_nd).all(axis=1))
    if not len(rows):
        msg = f"None of the {adata.n_obs:,} cells has values in adata.obsm[{basis!r}]."
        raise NoCellsError(msg)
    return values_nd[rows], rows


def column_of(adata: "AnnData", name: str) -> "pd.Series[Any]":
    """Column of `obs`.

    Raises
    ------
    UnknownColumnError
        No such column.
    """
    if name not in adata.obs.columns:
        columns = [str(column) for column in adata.obs.columns]
        msg = f"adata.obs has no column {name!r}; it has {columns or 'none'}.{nearest(name, columns)}"
        raise UnknownColumnError(msg)
    column: pd.Series[Any] = adata.obs[name]
    return column


def check_save(save: str | Path | None) -> None:
    """Refuse a kind of file that figures are not saved to, before anything is drawn."""
    if save is not None:
        check_choice("The suffix of save", Path(save).suffix.lower(), FORMATS)


def save_figure(figure: "Figure | SubFigure", save: str | Path | None) -> None:
    """Write the figure with everything that belongs to it, replacing what is there; nothing for None."""
    if save is None:
        return
    with atomic_file(save, overwrite=True) as temporary:
        whole: Any = figure.figure  # axes may stand in a part of a figure
        whole.savefig(temporary, dpi=150, bbox_inches="tight", facecolor="white")
