"""What every plot needs: matplotlib or a word about how to get it, the embedding to draw, and a place to save to."""

from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from geneformer import keys
from geneformer.errors import NoCellsError, UnknownColumnError
from geneformer.files import require
from geneformer.files.atomic import atomic_file
from geneformer.options._fields import check_choice, nearest

if TYPE_CHECKING:
    import pandas as pd
    from anndata import AnnData
    from matplotlib.colors import Colormap
    from matplotlib.figure import Figure, SubFigure

FORMATS = (".png", ".pdf", ".svg", ".jpg", ".tif")
"""Files figures are saved to."""

INK, FAINT = "#333333", "#d9d9d9"
"""Color of text and axes, and of cells nothing is known about."""


def plotting_library(name: str) -> ModuleType:
    """An optional library, imported."""
    library: ModuleType = require(name, "Drawing", extra="plot")
    return library


def embedding_of(adata: "AnnData", basis: str) -> tuple[NDArray[np.float32], NDArray[np.intp]]:
    """Embedding of the cells that have one, ``(n, d)``, and their rows in `adata`, ``(n,)``."""
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
    """Column of `obs`."""
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


SAFE = ("#332288", "#ddcc77", "#117733", "#cc6677", "#88ccee", "#882255", "#44aa99", "#999933", "#aa4499")
"""Paul Tol's muted scheme, made to be told apart with color-blind eyes. More categories cannot be; they get numbers."""

NO_LABEL = "no label"
"""Name of cells without a value."""


class Categories:
    """Values of a column as categories with names and colors."""

    def __init__(self, values: "pd.Series[Any]", colors: list[str] | None = None) -> None:
        import pandas as pd

        column = values if isinstance(values.dtype, pd.CategoricalDtype) else values.astype(object).astype("category")
        known = [str(category) for category in column.cat.categories]
        chosen = colors if colors is not None and len(colors) == len(known) else None
        codes = np.asarray(column.cat.codes, dtype=np.int64)
        used = np.unique(codes[codes >= 0])
        self.names = [known[code] for code in used]
        self.colors = [chosen[code] for code in used] if chosen else spread(len(used))
        self.codes: NDArray[np.int64] = np.where(codes < 0, len(used), np.searchsorted(used, codes))
        if (codes < 0).any():
            self.names.append(NO_LABEL)
            self.colors.append(FAINT)

    @property
    def are_numbered(self) -> bool:
        """Whether colors alone do not tell them apart."""
        return len(self.names) - (NO_LABEL in self.names) > len(SAFE)

    @property
    def marks(self) -> list[str]:
        """What stands for each category on a map: its name if all are short, else its number."""
        short = all(len(name) <= 3 for name in self.names if name != NO_LABEL)
        return list(self.names) if short else [str(number) for number in range(1, len(self.names) + 1)]

    def labels(self) -> list[str]:
        """Names as a legend shows them."""
        if not self.are_numbered or self.marks == self.names:
            return list(self.names)
        return [n if n == NO_LABEL else f"{mark}  {n}" for mark, n in zip(self.marks, self.names, strict=True)]


def spread(n: int) -> list[str]:
    """That many colors: the safe ones, or as many hues in three degrees of lightness."""
    if n <= len(SAFE):
        return list(SAFE[:n])
    import colorsys

    from matplotlib.colors import to_hex

    lightness = (0.35, 0.55, 0.72)
    return [to_hex(colorsys.hls_to_rgb(i / n, lightness[i % 3], 0.62)) for i in range(n)]


def sequential(*, bad: str) -> "Colormap":
    """Colors of shares from 0 to 1, ever darker, and one for values that are missing."""
    from matplotlib.colors import LinearSegmentedColormap

    colors = LinearSegmentedColormap.from_list("geneformer_shares", ["#f7f9fb", "#b9dcee", "#6a8fc7", SAFE[0]])
    return colors.with_extremes(bad=bad)


def chosen_colors(adata: "AnnData", column: str) -> list[str] | None:
    """Colors that scanpy keeps for the categories of a column."""
    found = adata.uns.get(f"{column}_colors")
    return None if found is None else [str(color) for color in found]


def is_numeric(values: "pd.Series[Any]") -> bool:
    """Whether a column is a quantity rather than a category."""
    from pandas.api.types import is_bool_dtype, is_numeric_dtype

    return is_numeric_dtype(values) and not is_bool_dtype(values)
