"""What plots share: matplotlib, colors and categories, the look of axes, the embedding to draw, files."""

from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from geneformer import keys
from geneformer.errors import NoCellsError, OptionError, UnknownColumnError, UnknownGeneError
from geneformer.files import require
from geneformer.files.atomic import atomic_file
from geneformer.inference.cells import check_anndata
from geneformer.options._fields import as_names, as_path, came_as, check_choice, nearest
from geneformer.options.settings import settings

if TYPE_CHECKING:
    import pandas as pd
    from anndata import AnnData
    from matplotlib.axes import Axes
    from matplotlib.colors import Colormap
    from matplotlib.figure import Figure, SubFigure

FORMATS = (".png", ".pdf", ".svg", ".jpg", ".tif")
"""Files figures are saved to."""

FULL_TEXT, SMALL_TEXT = 12, 25
"""Most classes with values of full size, and with values at all, in a matrix."""

INK, FAINT, GRAY = "#333333", "#d9d9d9", "#999999"
"""Colors of text, of cells without a value, and of axes."""


def plotting_library(name: str) -> ModuleType:
    """An optional library, imported."""
    library: ModuleType = require(name, "Drawing", extra="plot")
    return library


def figure_axes(ax: "Axes | None", size: tuple[float, float]) -> "Axes":
    """The axes given, or those of a new figure of that many inches."""
    if ax is not None:
        return ax
    axes: Axes = plotting_library("matplotlib.pyplot").subplots(figsize=figure_size(*size), layout="constrained")[1]
    return axes


def figure_size(width: float, height: float) -> tuple[float, float]:
    """Inches of a new figure: those of the settings, or else what suits the picture."""
    return settings.figure_size or (width, height)


def label_axes(ax: "Axes", x: str, y: str | None, title: str | None = None, *, pad: float | None = None) -> None:
    """Names of the axes, and a heading on the left."""
    ax.set_xlabel(x, color=INK, fontsize=11)
    if y is not None:
        ax.set_ylabel(y, color=INK, fontsize=11)
    if title:
        ax.set_title(title, fontsize=13, color=INK, loc="left", pad=pad)


def open_frame(ax: "Axes") -> None:
    """A frame of two sides, for curves and points."""
    ax.spines[["top", "right"]].set_visible(False)
    ax.spines[["left", "bottom"]].set_color(GRAY)
    ax.tick_params(colors=INK, labelsize=9)
    ax.set_axisbelow(True)


def label_size(n: int) -> float:
    """Size of the names of that many classes."""
    return 10.0 if n <= FULL_TEXT else 8.5 if n <= SMALL_TEXT else 7.0


def draw_matrix(
    ax: "Axes",
    values: NDArray[np.float64],
    cmap: "Colormap",
    *,
    columns: Sequence[str],
    bar: str,
    limits: tuple[float, float] = (0, 1),
    **style: Any,
) -> None:
    """A matrix in colors without a frame: names below the columns, slanted if long, and a bar that explains colors."""
    image = ax.imshow(np.ma.masked_invalid(values), vmin=limits[0], vmax=limits[1], cmap=cmap, **style)
    fits = max(len(name) for name in columns) <= 4
    slant: dict[str, Any] = {} if fits else {"rotation": 40, "ha": "right", "rotation_mode": "anchor"}
    ax.set_xticks(range(len(columns)), columns, fontsize=label_size(len(columns)), color=INK, **slant)
    ax.tick_params(length=0)
    ax.spines[:].set_visible(False)
    colorbar = ax.figure.colorbar(image, ax=ax, shrink=0.6, pad=0.02)
    colorbar.outline.set_visible(False)
    colorbar.ax.tick_params(labelsize=8, colors=INK, length=0)
    colorbar.set_label(bar, color=INK, fontsize=9)


def side_legend(ax: "Axes", *entries: Any, **style: Any) -> Any:
    """A legend to the right of the axes."""
    usual = {"loc": "center left", "bbox_to_anchor": (1.01, 0.5), "frameon": False, "labelcolor": INK}
    return ax.legend(*entries, **usual | style)


def embedding_of(adata: "AnnData", basis: str) -> tuple[NDArray[np.float32], NDArray[np.intp]]:
    """Embedding of the cells that have one, ``(n, d)``, and their rows in `adata`, ``(n,)``."""
    check_cells(adata)
    if basis not in adata.obsm:
        slots = list(adata.obsm)
        msg = f"adata.obsm has no {basis!r}; it has {slots or 'nothing'}.{nearest(basis, slots)}"
        if basis == keys.EMBEDDING:
            msg += ' Run `gf.tl.embed(adata, model="mini")` first.'
        raise UnknownColumnError(msg)
    values_nd = np.asarray(adata.obsm[basis], dtype=np.float32)
    rows = np.flatnonzero(np.isfinite(values_nd).all(axis=1))
    if not len(rows):
        msg = f"None of the {adata.n_obs:,} cells has values in adata.obsm[{basis!r}]."
        raise NoCellsError(msg)
    return values_nd[rows], rows


def asked_columns(color: Any, groupby: Any) -> list[str] | None:
    """The columns of `obs` to show, by either of the words for them; None where none is asked for."""
    if color is not None and groupby is not None:
        msg = f"color ({color!r}) and groupby ({groupby!r}) are the same here. Pass one of them."
        raise OptionError(msg)
    asked = groupby if color is None else color
    return None if asked is None else list(as_names("groupby" if color is None else "color", asked))


def check_cells(adata: object) -> None:
    """Refuse cells to draw that came as something else than AnnData."""
    check_anndata(adata, "what is drawn is in AnnData, such as after gf.tl.embed")


def column_of(adata: "AnnData", name: Any) -> "pd.Series[Any]":
    """Column of `obs`."""
    check_cells(adata)
    if not isinstance(name, str):
        msg = f"{came_as('A column of adata.obs', name)}. Pass its name."
        raise OptionError(msg)
    if name not in adata.obs.columns:
        columns = [str(column) for column in adata.obs.columns]
        msg = f"adata.obs has no column {name!r}; it has {columns or 'none'}.{nearest(name, columns)}"
        raise UnknownColumnError(msg)
    column: pd.Series[Any] = adata.obs[name]
    return column


def color_of(adata: "AnnData", name: Any) -> "pd.Series[Any]":
    """Column of `obs`, or else the log-normalized expression of a gene."""
    import pandas as pd

    check_cells(adata)
    if isinstance(name, str) and name not in adata.obs.columns and adata.X is not None:
        from geneformer.tokenization.expression import expression_of

        with suppress(UnknownGeneError):
            return pd.Series(expression_of(adata, name), index=adata.obs_names)
    return column_of(adata, name)


def check_save(save: str | Path | None) -> None:
    """Refuse a kind of file that figures are not saved to, before anything is drawn."""
    if save is not None:
        check_choice("The suffix of save", with_suffix(save).suffix.lower(), FORMATS)


def with_suffix(save: str | Path) -> Path:
    """The name of a figure, with the suffix of the settings where it has none."""
    path = as_path("save", save, "the path of a picture")
    return path if path.suffix else path.with_name(f"{path.name}.{settings.figure_format}")


def save_figure(figure: "Figure | SubFigure", save: str | Path | None) -> None:
    """Write the figure with everything that belongs to it, replacing what is there; nothing for None."""
    if save is None:
        return
    with atomic_file(with_suffix(save), overwrite=True) as temporary:
        root: Any = figure.figure  # axes may stand in a part of a figure
        root.savefig(temporary, dpi=settings.figure_dpi, bbox_inches="tight", facecolor="white")


SAFE = ("#332288", "#ddcc77", "#117733", "#cc6677", "#88ccee", "#882255", "#44aa99", "#999933", "#aa4499")
"""Paul Tol's muted scheme, made to be told apart with color-blind eyes. More categories cannot be; they get numbers."""

NO_LABEL = "no label"
"""Name of cells without a value."""


class Categories:
    """Values of a column as categories with names and colors."""

    def __init__(self, values: "pd.Series[Any]", colors: Mapping[str, str] | None = None) -> None:
        import pandas as pd

        column = values if isinstance(values.dtype, pd.CategoricalDtype) else values.astype(object).astype("category")
        names = [str(category) for category in column.cat.categories]
        codes = np.asarray(column.cat.codes, dtype=np.int64)
        used = np.unique(codes[codes >= 0])
        self.names = [names[code] for code in used]
        chosen = colors if colors is not None and set(self.names) <= set(colors) else None
        self.colors = [chosen[name] for name in self.names] if chosen else spread(len(used))
        self._numbers = {name: str(number) for number, name in enumerate(chosen or self.names, start=1)}
        self.codes: NDArray[np.int64] = np.where(codes < 0, len(used), np.searchsorted(used, codes))
        if (codes < 0).any():
            self.names.append(NO_LABEL)
            self.colors.append(FAINT)

    @property
    def are_numbered(self) -> bool:
        """Whether there are more than colors can distinguish."""
        return len(self.names) - (NO_LABEL in self.names) > len(SAFE)

    @property
    def marks(self) -> list[str]:
        """What stands for each category on a map: its name if all are short, else its number."""
        short = all(len(name) <= 3 for name in self.names if name != NO_LABEL)
        return [name if short else self._numbers.get(name, "") for name in self.names]

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


def chosen_colors(adata: "AnnData", column: str) -> dict[str, str] | None:
    """Colors of the categories of a column; what is true and what is predicted of it have the same ones.

    Those that scanpy keeps count, then one for each class in the order of the classes; gray is for cells of none.
    """
    notes = adata.uns.get(keys.UNS, {})
    truth = next((str(name) for name in adata.obs.columns if keys.predicted(str(name)) == column), column)
    slot = column if truth != column or "classes" in notes.get(column, {}) else keys.predicted(column)
    members = {name for name in (truth, slot) if name in adata.obs and not is_numeric(adata.obs[name])}
    noted = notes.get(slot, {}).get("classes", ())
    names: dict[str, None] = {}
    colors: dict[str, str] = {}
    for name in sorted(members, key=(truth, slot).index):
        categories = [str(category) for category in adata.obs[name].astype("category").cat.categories]
        kept = [str(color) for color in adata.uns.get(f"{name}_colors", ())]
        colors = {**dict(zip(categories, kept, strict=True)), **colors} if len(kept) == len(categories) else colors
        names |= dict.fromkeys(categories)
    if not colors and len(members) < 2 and not len(noted):
        return None
    order = [name for name in dict.fromkeys([*map(str, noted), *names]) if name in colors or name != keys.UNKNOWN]
    free = iter(spread(len(order)))
    palette = {name: colors[name] if name in colors else next(free) for name in order}
    return palette if keys.UNKNOWN in palette else {**palette, keys.UNKNOWN: GRAY}


def is_numeric(values: "pd.Series[Any]") -> bool:
    """Whether a column is a quantity rather than a category."""
    from pandas.api.types import is_bool_dtype, is_numeric_dtype

    return is_numeric_dtype(values) and not is_bool_dtype(values)
