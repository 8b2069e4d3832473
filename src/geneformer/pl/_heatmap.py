"""`gf.pl.heatmap`."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from geneformer import keys
from geneformer.errors import NoCellsError
from geneformer.options._check import check_range
from geneformer.pl._figures import INK, check_save, column_of, embedding_of, plotting_library, save_figure
from geneformer.pl._palette import Categories, chosen_colors, is_numeric

if TYPE_CHECKING:
    import pandas as pd
    from anndata import AnnData

LIMIT = 2.5
"""Standard deviations at which colors end."""

LEGEND_MOST = 40
"""Most entries of one legend."""


def heatmap(
    adata: "AnnData",
    *,
    groupby: str | Sequence[str] | None = None,
    basis: str = keys.EMBEDDING,
    n_cells: int | None = 1000,
    seed: int = 0,
    title: str | None = None,
    save: str | Path | None = None,
) -> Any:
    """Clustered heatmap of an embedding: cells as rows, dimensions as columns, labels as colors beside the rows.

    Every dimension is centered and divided by its standard deviation over the cells shown; rows and columns are
    clustered by Ward's method. `adata` is not modified.

    Parameters
    ----------
    adata
        Cells with an embedding.
    groupby
        Column of `obs` to show beside the rows, or several.
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
    >>> from geneformer.demo.cells import pbmc3k
    >>> adata = pbmc3k()[:100].copy()
    >>> gf.tl.embed(adata, progress=False)
    >>> gf.pl.heatmap(adata, groupby="cell_type").data.shape
    (100, 128)
    """
    check_save(save)
    check_range("n_cells", n_cells, low=2)
    names = [] if groupby is None else [groupby] if isinstance(groupby, str) else list(groupby)
    columns = {name: column_of(adata, name) for name in names}
    values_nd, rows = embedding_of(adata, basis)
    if len(rows) < 2:
        msg = f"A heatmap needs at least two cells with an embedding; there is {len(rows)}."
        raise NoCellsError(msg)
    sns = plotting_library("seaborn")
    drawn = _draw_cells(len(rows), n_cells, seed)
    groups = {name: _categories(column.iloc[rows[drawn]], adata, name) for name, column in columns.items()}
    grid = _cluster(sns, _standardized(values_nd[drawn]), adata.obs_names[rows[drawn]], groups)
    _dress(grid, title, len(drawn), len(rows))
    _legends(grid, groups)
    save_figure(grid.figure, save)
    return grid


def _draw_cells(n: int, n_cells: int | None, seed: int) -> NDArray[np.intp]:
    """Rows to show, in order."""
    if n_cells is None or n <= n_cells:
        return np.arange(n)
    return np.sort(np.random.default_rng(seed).choice(n, n_cells, replace=False))


def _standardized(values_nd: NDArray[np.float32]) -> NDArray[np.float64]:
    """Dimensions with mean 0 and variance 1; constant ones are 0."""
    centered = values_nd.astype(np.float64) - values_nd.mean(axis=0, dtype=np.float64)
    deviation = centered.std(axis=0)
    standardized: NDArray[np.float64] = centered / np.where(deviation > 0, deviation, 1)
    return standardized


def _categories(values: "pd.Series[Any]", adata: "AnnData", name: str) -> Categories:
    """A column as categories; quantities in five classes of about equal size."""
    if is_numeric(values) and values.nunique() > LEGEND_MOST:
        import pandas as pd
        from matplotlib import colormaps
        from matplotlib.colors import to_hex

        classes = pd.qcut(values.astype(float), 5, duplicates="drop", precision=4)
        steps = np.linspace(0.05, 0.95, len(classes.cat.categories))
        ranges = [f"{part.left:,.4g} to {part.right:,.4g}" for part in classes.cat.categories]
        return Categories(
            classes.cat.rename_categories(ranges), [to_hex(color) for color in colormaps["viridis"](steps)]
        )
    return Categories(values, chosen_colors(adata, name))


def _cluster(sns: Any, values_nd: NDArray[np.float64], cells: Any, groups: dict[str, Categories]) -> Any:
    import pandas as pd
    from scipy.cluster.hierarchy import linkage

    frame = pd.DataFrame(values_nd, index=cells.astype(str))
    side = None
    if groups:
        colors = {name: np.array(found.colors)[found.codes] for name, found in groups.items()}
        side = pd.DataFrame(colors, index=frame.index)
        frame.index, side.index = pd.RangeIndex(len(frame)), pd.RangeIndex(len(frame))
    grid = sns.clustermap(
        frame,
        row_linkage=linkage(values_nd, "ward"),
        col_linkage=linkage(values_nd.T, "ward"),
        cmap="vlag",
        vmin=-LIMIT,
        vmax=LIMIT,
        row_colors=side,
        xticklabels=False,
        yticklabels=False,
        figsize=(9, 8),
        dendrogram_ratio=(0.12, 0.08),
        cbar_pos=(1.02, 0.1, 0.02, 0.2),
        rasterized=True,
    )
    grid.data.index = cells.astype(str)
    return grid


def _dress(grid: Any, title: str | None, n_shown: int, n_all: int) -> None:
    told = f"{n_shown:,} cells" if n_shown == n_all else f"{n_shown:,} of {n_all:,} cells"
    grid.ax_heatmap.set_xlabel("dimensions of the embedding", color=INK, fontsize=11)
    grid.ax_heatmap.set_ylabel(told, color=INK, fontsize=11)
    grid.ax_cbar.set_title("standard\ndeviations", fontsize=9, color=INK, loc="left")
    grid.ax_cbar.tick_params(labelsize=8, colors=INK)
    if title:
        grid.ax_col_dendrogram.set_title(title, fontsize=14, color=INK, loc="left")
    if grid.ax_row_colors is not None:
        grid.ax_row_colors.tick_params(axis="x", labelsize=9, labelcolor=INK, length=0)


def _legends(grid: Any, groups: dict[str, Categories]) -> None:
    """One legend per column, to the right of the heatmap, from the top down."""
    from matplotlib.patches import Patch

    top = 0.98
    for name, found in groups.items():
        n = len(found.names)
        if n > LEGEND_MOST:
            grid.figure.text(1.02, top - 0.02, f"{name}: {n} categories", fontsize=9, color=INK)
            top -= 0.06
            continue
        patches = [Patch(color=color, label=label) for label, color in zip(found.names, found.colors, strict=True)]
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
