"""`gf.pl.embedding`."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import NDArray

from geneformer import keys
from geneformer.errors import OptionError
from geneformer.pl._figures import FAINT, INK, check_save, column_of, embedding_of, plotting_library, save_figure
from geneformer.pl._layout import umap_layout
from geneformer.pl._palette import NO_LABEL, Categories, chosen_colors, is_numeric

if TYPE_CHECKING:
    import pandas as pd
    from anndata import AnnData
    from matplotlib.axes import Axes

PANEL = 5.0
"""Side of one map in inches."""

LEGEND_ROWS = 15
LEGEND_MOST = 120
"""Entries in one column of a legend, and in all; a longer legend is left out."""


def embedding(
    adata: "AnnData",
    *,
    color: str | Sequence[str] | None = None,
    basis: str = keys.EMBEDDING,
    metric: Literal["cosine", "euclidean"] = "cosine",
    n_neighbors: int = 15,
    seed: int = 0,
    point_size: float | None = None,
    title: str | Sequence[str] | None = None,
    ax: "Axes | None" = None,
    save: str | Path | None = None,
) -> "Axes | list[Axes]":
    """Map of the cells: UMAP of an embedding, colored by columns of `obs`.

    A slot with two columns, such as "X_umap", is drawn as it is; otherwise the UMAP is computed, with a fixed seed.
    `adata` is not modified. Up to nine categories get colors that color-blind eyes tell apart; more are numbered on
    the map as well. Cells without an embedding are left out; cells without a value are gray.

    Parameters
    ----------
    adata
        Cells with an embedding.
    color
        Column of `obs`, or several for one map each. Colors in ``uns["<column>_colors"]`` are kept to.
    basis
        Slot of `obsm` to draw.
    metric, n_neighbors
        What makes cells near when the UMAP is computed.
    seed
        Fixes the UMAP and the order of drawing.
    point_size
        Area of a point in square points. By default smaller the more cells there are.
    title
        Title of the map, or of each. The column by default.
    ax
        Axes to draw on, for a single map.
    save
        File to write: .png, .pdf, .svg, .jpg or .tif. What is there is replaced.

    Returns
    -------
    Axes, or a list of them when `color` is a list.

    Raises
    ------
    UnknownColumnError
        No such embedding or column.
    NoCellsError
        Too few cells for a map.
    MissingExtraError
        matplotlib or scanpy is not installed.

    Examples
    --------
    >>> import geneformer as gf
    >>> from geneformer.demo.cells import pbmc3k
    >>> adata = pbmc3k()[:100].copy()
    >>> gf.tl.embed(adata, progress=False)
    >>> axes = gf.pl.embedding(adata, color="cell_type", title="Blood")
    >>> axes.get_title(loc="left")
    'Blood'
    """
    check_save(save)
    colors = [color] if color is None or isinstance(color, str) else list(color)
    titles = [title] * len(colors) if title is None or isinstance(title, str) else list(title)
    if not colors or len(titles) != len(colors) or (ax is not None and len(colors) > 1):
        axes = "" if ax is None else " and one ax"
        msg = f"{len(colors)} columns to color by, {len(titles)} titles{axes}. Give one title and one map per column."
        raise OptionError(msg)
    columns = [None if name is None else column_of(adata, name) for name in colors]
    values_nd, rows = embedding_of(adata, basis)
    pyplot = plotting_library("matplotlib.pyplot")
    xy_n2 = values_nd
    if values_nd.shape[1] != 2:
        xy_n2 = umap_layout(values_nd, n_neighbors=n_neighbors, metric=metric, seed=seed)
    panels = [ax] if ax is not None else _panels(pyplot, len(colors))
    size = point_size if point_size is not None else float(np.clip(25_000 / len(rows), 0.5, 40))
    order = np.random.default_rng(seed).permutation(len(rows))
    for panel, name, column, heading in zip(panels, colors, columns, titles, strict=True):
        shown = None if column is None else column.iloc[rows[order]]
        _draw(panel, xy_n2[order], shown, size, None if name is None else chosen_colors(adata, name))
        _frame(panel, "UMAP" if xy_n2 is not values_nd else basis.removeprefix("X_").upper())
        panel.set_title(heading if heading is not None else (name or ""), fontsize=13, color=INK, loc="left")
    save_figure(panels[0].figure, save)
    return panels[0] if color is None or isinstance(color, str) else panels


def _panels(pyplot: Any, n: int) -> list["Axes"]:
    """A row of axes, with room for a legend beside each."""
    width = PANEL * 1.45
    figure, axes = pyplot.subplots(1, n, figsize=(width * n, PANEL), squeeze=False, layout="constrained")
    figure.get_layout_engine().set(wspace=0.06)
    return list(axes[0])


def _draw(
    ax: "Axes", xy_n2: NDArray[np.float32], values: "pd.Series[Any] | None", size: float, colors: list[str] | None
) -> None:
    if values is None:
        _points(ax, xy_n2, size, color="#4a6fa5")
    elif is_numeric(values):
        _draw_quantity(ax, xy_n2, np.asarray(values, dtype=np.float64), size)
    else:
        _draw_categories(ax, xy_n2, Categories(values, colors), size)


def _points(ax: "Axes", xy_n2: NDArray[np.float32], size: float, **style: Any) -> Any:
    return ax.scatter(xy_n2[:, 0], xy_n2[:, 1], s=size, linewidths=0, rasterized=True, **style)


def _draw_quantity(ax: "Axes", xy_n2: NDArray[np.float32], values: NDArray[np.float64], size: float) -> None:
    known = np.isfinite(values)
    _points(ax, xy_n2[~known], size, color=FAINT)
    drawn = _points(ax, xy_n2[known], size, c=values[known], cmap="viridis")
    bar = ax.figure.colorbar(drawn, ax=ax, shrink=0.6, pad=0.02)
    bar.outline.set_visible(False)


def _draw_categories(ax: "Axes", xy_n2: NDArray[np.float32], categories: Categories, size: float) -> None:
    faint = categories.codes == len(categories.names) - 1 if NO_LABEL in categories.names else None
    colors = np.array(categories.colors)[categories.codes]
    if faint is not None:
        _points(ax, xy_n2[faint], size, color=FAINT)
        xy_n2, colors = xy_n2[~faint], colors[~faint]
        _number(ax, xy_n2, categories, categories.codes[~faint])
    else:
        _number(ax, xy_n2, categories, categories.codes)
    _points(ax, xy_n2, size, c=colors)
    _legend(ax, categories)


def _number(ax: "Axes", xy_n2: NDArray[np.float32], categories: Categories, codes: NDArray[np.int64]) -> None:
    """Write the number or short name of each category where it lies, if colors do not tell enough."""
    if not categories.are_numbered:
        return
    from matplotlib.patheffects import withStroke

    style: dict[str, Any] = {"ha": "center", "va": "center", "fontsize": 9, "weight": "bold", "color": INK, "zorder": 3}

    for code in np.unique(codes):
        inside = xy_n2[codes == code]
        middle = inside[np.argmin(((inside - np.median(inside, axis=0)) ** 2).sum(axis=1))]
        text = ax.text(middle[0], middle[1], categories.marks[code], **style)
        text.set_path_effects([withStroke(linewidth=2.5, foreground="white")])


def _legend(ax: "Axes", categories: Categories) -> None:
    from matplotlib.lines import Line2D

    n = len(categories.names)
    if n > LEGEND_MOST:
        ax.text(1.02, 1, f"{n} categories", transform=ax.transAxes, va="top", fontsize=10, color=INK)
        return
    marks = [Line2D([], [], linestyle="", marker="o", markersize=7, color=color) for color in categories.colors]
    columns = 1 if n <= LEGEND_ROWS else max(2, -(-n // (2 * LEGEND_ROWS)))
    ax.legend(
        marks,
        categories.labels(),
        loc="center left",
        bbox_to_anchor=(1.01, 0.5),
        frameon=False,
        ncols=columns,
        fontsize=10 if n <= LEGEND_ROWS else 7.5,
        labelcolor=INK,
        handletextpad=0.2,
        columnspacing=1.0,
    )


def _frame(ax: "Axes", name: str) -> None:
    ax.set(xticks=[], yticks=[], xlabel=f"{name} 1", ylabel=f"{name} 2", box_aspect=1)
    for side, spine in ax.spines.items():
        spine.set_visible(side in ("left", "bottom"))
        spine.set_color("#999999")
    for label in (ax.xaxis.label, ax.yaxis.label):
        label.set(color=INK, fontsize=10)
