"""`gf.pl.embedding` and `gf.pl.heatmap`."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from geneformer import keys
from geneformer.errors import NoCellsError, OptionError
from geneformer.options._fields import check_choice, check_range
from geneformer.pl._figures import (
    FAINT,
    GRAY,
    INK,
    NO_LABEL,
    Categories,
    asked_columns,
    check_save,
    chosen_colors,
    color_of,
    column_of,
    embedding_of,
    figure_size,
    is_numeric,
    label_axes,
    plotting_library,
    save_figure,
    side_legend,
)

if TYPE_CHECKING:
    import pandas as pd
    from anndata import AnnData
    from matplotlib.axes import Axes

FEWEST = 4
"""Cells that make a neighborhood graph."""


def check_enough(n_cells: int) -> None:
    """Refuse a map of too few cells."""
    if n_cells < FEWEST:
        msg = f"A map needs at least {FEWEST} cells with an embedding; there are {n_cells}."
        raise NoCellsError(msg)


def umap_layout(
    embedding: ArrayLike, *, n_neighbors: int = 15, metric: str = "cosine", seed: int = 0
) -> NDArray[np.float32]:
    """UMAP coordinates of an embedding, ``(n, 2)``; the same for the same input and seed."""
    check_choice("metric", metric, ("cosine", "euclidean"))
    check_range("n_neighbors", n_neighbors, low=2)
    import anndata as ad
    import scanpy as sc
    from threadpoolctl import threadpool_limits

    values_nd = np.asarray(embedding, dtype=np.float32)
    check_enough(len(values_nd))
    cells = ad.AnnData(obsm={"X": values_nd})
    start = "spectral" if len(values_nd) > 10 else "random"  # the spectral start needs more cells than dimensions
    with threadpool_limits():  # Numba changes OpenMP's number of threads for the whole process
        sc.pp.neighbors(
            cells, n_neighbors=min(n_neighbors, len(values_nd) - 1), use_rep="X", metric=metric, random_state=seed
        )
        sc.tl.umap(cells, init_pos=start, random_state=seed)
    return np.asarray(cells.obsm["X_umap"], dtype=np.float32)


PANEL = 5.0
"""Side of one map in inches."""

LEGEND_ROWS = 15
LEGEND_MOST = 120
"""Entries in one column of a legend, and in all; a longer legend is left out."""


def embedding(  # noqa: PLR0913
    adata: "AnnData",
    *,
    color: str | Sequence[str] | None = None,
    groupby: str | Sequence[str] | None = None,
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
    color, groupby
        Column of `obs`, or several for one map each; by either name. Colors in ``uns["<column>_colors"]`` are kept to.
        What is no column is a gene, by symbol or id: its counts per 10,000 in `X`, as logarithms.
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
    >>> from geneformer.datasets import pbmc3k
    >>> adata = pbmc3k()[:100].copy()
    >>> gf.tl.embed(adata, progress=False)
    >>> axes = gf.pl.embedding(adata, color="cell_type", title="Blood")
    >>> axes.get_title(loc="left")
    'Blood'
    """
    check_save(save)
    asked = asked_columns(color, groupby)
    colors: list[Any] = [None] if asked is None else asked
    is_one = asked is None or isinstance(groupby if color is None else color, str)
    titles = [title] * len(colors) if title is None or isinstance(title, str) else list(title)
    if not colors or len(titles) != len(colors) or (ax is not None and len(colors) > 1):
        more = "" if ax is None else " and one ax"
        msg = f"{len(colors)} columns to color by, {len(titles)} titles{more}. Give one title and one map per column."
        raise OptionError(msg)
    columns = [None if name is None else color_of(adata, name) for name in colors]
    values_nd, rows = embedding_of(adata, basis)
    pyplot = plotting_library("matplotlib.pyplot")
    xy_n2 = values_nd
    if values_nd.shape[1] != 2:
        xy_n2 = umap_layout(values_nd, n_neighbors=n_neighbors, metric=metric, seed=seed)
    if ax is not None:
        panels = [ax]
    else:
        n, width = len(colors), PANEL * 1.45  # with room for a legend beside each
        figure, axes = pyplot.subplots(1, n, figsize=figure_size(width * n, PANEL), squeeze=False, layout="constrained")
        figure.get_layout_engine().set(wspace=0.06)
        panels = list(axes[0])
    size = point_size if point_size is not None else float(np.clip(25_000 / len(rows), 0.5, 40))
    order = np.random.default_rng(seed).permutation(len(rows))
    for panel, name, column, heading in zip(panels, colors, columns, titles, strict=True):
        shown = None if column is None else column.iloc[rows[order]]
        _draw(panel, xy_n2[order], shown, size, None if name is None else chosen_colors(adata, name))
        axis = "UMAP" if xy_n2 is not values_nd else basis.removeprefix("X_").upper()
        panel.set(xticks=[], yticks=[], box_aspect=1)
        panel.set_xlabel(f"{axis} 1", color=INK, fontsize=10)
        panel.set_ylabel(f"{axis} 2", color=INK, fontsize=10)
        panel.set_title(heading if heading is not None else (name or ""), fontsize=13, color=INK, loc="left")
        panel.spines[["top", "right"]].set_visible(False)
        panel.spines[["left", "bottom"]].set_color(GRAY)
    save_figure(panels[0].figure, save)
    return panels[0] if is_one else panels


def _draw(
    ax: "Axes", xy_n2: NDArray[np.float32], values: "pd.Series[Any] | None", size: float, colors: dict[str, str] | None
) -> None:
    from matplotlib.patheffects import withStroke

    if values is None:
        _points(ax, xy_n2, size, color="#4a6fa5")
    elif is_numeric(values):
        numbers = np.asarray(values, dtype=np.float64)
        is_number = np.isfinite(numbers)
        _points(ax, xy_n2[~is_number], size, color=FAINT)
        points = _points(ax, xy_n2[is_number], size, c=numbers[is_number], cmap="viridis")
        ax.figure.colorbar(points, ax=ax, shrink=0.6, pad=0.02).outline.set_visible(False)
    else:
        categories = Categories(values, colors)
        has_label = np.array([name != NO_LABEL for name in categories.names])[categories.codes]
        _points(ax, xy_n2[~has_label], size, color=FAINT)
        xy_n2, codes = xy_n2[has_label], categories.codes[has_label]
        if categories.are_numbered:
            # More than colors can distinguish: the number or short name of each is written where it lies.
            for code in np.unique(codes):
                inside = xy_n2[codes == code]
                middle = inside[np.argmin(((inside - np.median(inside, axis=0)) ** 2).sum(axis=1))]
                outlined = [withStroke(linewidth=2.5, foreground="white")]
                style: dict[str, Any] = {"ha": "center", "va": "center", "fontsize": 9, "weight": "bold", "color": INK}
                ax.text(middle[0], middle[1], categories.marks[code], zorder=3, path_effects=outlined, **style)
        _points(ax, xy_n2, size, c=np.array(categories.colors)[codes])
        _legend(ax, categories)


def _points(ax: "Axes", xy_n2: NDArray[np.float32], size: float, **style: Any) -> Any:
    return ax.scatter(xy_n2[:, 0], xy_n2[:, 1], s=size, linewidths=0, rasterized=True, **style)


def _legend(ax: "Axes", categories: Categories) -> None:
    from matplotlib.lines import Line2D

    n = len(categories.names)
    if n > LEGEND_MOST:
        ax.text(1.02, 1, f"{n} categories", transform=ax.transAxes, va="top", fontsize=10, color=INK)
        return
    marks = [Line2D([], [], linestyle="", marker="o", markersize=7, color=color) for color in categories.colors]
    columns = 1 if n <= LEGEND_ROWS else max(2, -(-n // (2 * LEGEND_ROWS)))
    side_legend(
        ax,
        marks,
        categories.labels(),
        ncols=columns,
        fontsize=10 if n <= LEGEND_ROWS else 7.5,
        handletextpad=0.2,
        columnspacing=1.0,
    )


LIMIT = 2.5
"""Standard deviations at which colors end."""

HEATMAP_LEGEND_MOST = 40
"""Most entries of one legend."""


def heatmap(
    adata: "AnnData",
    *,
    groupby: str | Sequence[str] | None = None,
    color: str | Sequence[str] | None = None,
    basis: str = keys.EMBEDDING,
    n_cells: int | None = 1000,
    seed: int = 0,
    title: str | None = None,
    save: str | Path | None = None,
) -> Any:
    """Clustered heatmap of an embedding: cells as rows, dimensions as columns, labels as colors along the rows.

    Every dimension is centered and divided by its standard deviation over the cells shown; rows and columns are
    clustered by Ward's method. `adata` is not modified.

    Parameters
    ----------
    adata
        Cells with an embedding.
    groupby, color
        Column of `obs` to show along the rows, or several; by either name.
    basis
        Slot of `obsm` to draw.
    n_cells
        Cells drawn at random when there are more; None for all.
    seed
        Fixes the draw.
    title
        Heading.
    save
        File to write: .png, .pdf, .svg, .jpg or .tif. What is there is replaced.

    Returns
    -------
    seaborn.matrix.ClusterGrid
        Axes are in `ax_heatmap`, `ax_row_colors` and so on; `data` holds the cells drawn, by name.

    Raises
    ------
    UnknownColumnError
        No such embedding or column.
    NoCellsError
        Fewer than two cells.
    MissingExtraError
        matplotlib or seaborn is not installed.

    Examples
    --------
    >>> import geneformer as gf
    >>> from geneformer.datasets import pbmc3k
    >>> adata = pbmc3k()[:100].copy()
    >>> gf.tl.embed(adata, progress=False)
    >>> gf.pl.heatmap(adata, groupby="cell_type").data.shape
    (100, 128)
    """
    check_save(save)
    check_range("n_cells", n_cells, low=2)
    names = asked_columns(color, groupby) or []
    columns = {name: column_of(adata, name) for name in names}
    values_nd, rows = embedding_of(adata, basis)
    if len(rows) < 2:
        msg = f"A heatmap needs at least two cells with an embedding; there is {len(rows)}."
        raise NoCellsError(msg)
    sns = plotting_library("seaborn")
    import pandas as pd
    from scipy.cluster.hierarchy import linkage

    n_all = len(rows)
    if n_cells is not None and n_all > n_cells:
        drawn = np.sort(np.random.default_rng(seed).choice(n_all, n_cells, replace=False))
        values_nd, rows = values_nd[drawn], rows[drawn]
    groups = {name: _categories(column.iloc[rows], adata, name) for name, column in columns.items()}
    centered = values_nd.astype(np.float64) - values_nd.mean(axis=0, dtype=np.float64)
    deviation = centered.std(axis=0)
    scaled_nd = centered / np.where(deviation > 0, deviation, 1)
    # Rows are numbered, as names of cells may stand twice.
    colors = {name: np.array(group.colors)[group.codes] for name, group in groups.items()}
    grid = sns.clustermap(
        pd.DataFrame(scaled_nd),
        row_linkage=linkage(scaled_nd, "ward"),
        col_linkage=linkage(scaled_nd.T, "ward"),
        cmap="vlag",
        vmin=-LIMIT,
        vmax=LIMIT,
        row_colors=pd.DataFrame(colors) if colors else None,
        xticklabels=False,
        yticklabels=False,
        figsize=figure_size(9, 8),
        dendrogram_ratio=(0.12, 0.08),
        cbar_pos=(1.02, 0.1, 0.02, 0.2),
        rasterized=True,
    )
    grid.data.index = adata.obs_names[rows].astype(str)
    label = f"{len(rows):,} cells" if len(rows) == n_all else f"{len(rows):,} of {n_all:,} cells"
    label_axes(grid.ax_heatmap, "dimensions of the embedding", label)
    grid.ax_cbar.set_title("standard\ndeviations", fontsize=9, color=INK, loc="left")
    grid.ax_cbar.tick_params(labelsize=8, colors=INK)
    if title:
        grid.ax_col_dendrogram.set_title(title, fontsize=14, color=INK, loc="left")
    if grid.ax_row_colors is not None:
        grid.ax_row_colors.tick_params(axis="x", labelsize=9, labelcolor=INK, length=0)
    heatmap_legends(grid, groups)
    save_figure(grid.figure, save)
    return grid


def _categories(values: "pd.Series[Any]", adata: "AnnData", name: str) -> Categories:
    """A column as categories; quantities in five classes of about equal size."""
    if is_numeric(values) and values.nunique() > HEATMAP_LEGEND_MOST:
        import pandas as pd
        from matplotlib import colormaps
        from matplotlib.colors import to_hex

        classes = pd.qcut(values.astype(float), 5, duplicates="drop", precision=4)
        steps = np.linspace(0.05, 0.95, len(classes.cat.categories))
        ranges = [f"{part.left:,.4g} to {part.right:,.4g}" for part in classes.cat.categories]
        colors = dict(zip(ranges, map(to_hex, colormaps["viridis"](steps)), strict=True))
        return Categories(classes.cat.rename_categories(ranges), colors)
    return Categories(values, chosen_colors(adata, name))


def heatmap_legends(grid: Any, groups: dict[str, Categories]) -> None:
    """One legend per column, to the right of the heatmap, from the top down."""
    from matplotlib.patches import Patch

    top = 0.98
    for name, group in groups.items():
        n = len(group.names)
        if n > HEATMAP_LEGEND_MOST:
            grid.figure.text(1.02, top - 0.02, f"{name}: {n} categories", fontsize=9, color=INK)
            top -= 0.06
            continue
        patches = [Patch(color=color, label=label) for label, color in zip(group.names, group.colors, strict=True)]
        legend = grid.figure.legend(
            handles=patches,
            title=name,
            loc="upper left",
            bbox_to_anchor=(1.01, top),
            frameon=False,
            fontsize=9 if n <= 15 else 7,
            labelcolor=INK,
            alignment="left",
            ncols=1 if n <= 20 else 2,
        )
        grid.figure.add_artist(legend)
        top -= 0.06 + 0.025 * min(n, 20)
