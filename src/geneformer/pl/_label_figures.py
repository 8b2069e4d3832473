"""Embeddings with one label each, in the manner of the published package: a map of the cells, and a clustered heatmap.

Settings go to scanpy and seaborn as they are; matplotlib's own are left alone.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from geneformer.errors import NoCellsError, UnsupportedArgumentError
from geneformer.pl._figures import plotting_library, save_figure
from geneformer.pl._heatmap import LEGEND_MOST
from geneformer.pl._layout import umap_layout
from geneformer.pl._palette import Categories, is_numeric

if TYPE_CHECKING:
    import pandas as pd

_OURS = ("adata", "ax", "color", "data", "return_fig", "row_colors", "save", "show")
"""Settings that follow from what is drawn and where it goes."""

_DIMENSIONS = 50
"""More dimensions are first reduced to so many principal components."""


def label_layout(embedding: ArrayLike) -> NDArray[np.float32]:
    """UMAP of an embedding over its principal components, ``(n, 2)``; the same for the same input.

    Parameters
    ----------
    embedding
        One row per cell, ``(n, d)``.

    Raises
    ------
    NoCellsError
        Fewer than four cells.
    MissingExtraError
        scanpy is not installed.
    """
    values_nd = np.asarray(embedding, dtype=np.float32)
    if values_nd.shape[1] > _DIMENSIONS and len(values_nd) > 2:
        values_nd = np.asarray(plotting_library("scanpy").pp.pca(values_nd, svd_solver="arpack"))
    return umap_layout(values_nd, metric="euclidean")


def label_umap(
    xy_n2: NDArray[np.float32], labels: "pd.Series[Any]", path: Path, settings: Mapping[str, Any] | None = None
) -> None:
    """Write a map of the cells colored by a label; whole numbers are names of groups, other numbers quantities.

    Parameters
    ----------
    xy_n2
        Where the cells are.
    labels
        Label of each cell; its name is the heading.
    path
        File to write.
    settings
        For `scanpy.pl.umap`, such as `palette` or `size`.

    Raises
    ------
    UnsupportedArgumentError
        A setting that is not the caller's to choose.
    MissingExtraError
        scanpy or seaborn is not installed.
    """
    settings = _checked(settings)
    sc, sns, pyplot = (plotting_library(name) for name in ("scanpy", "seaborn", "matplotlib.pyplot"))
    import anndata as ad
    import pandas as pd

    name = str(labels.name)
    column: Any = labels.to_numpy()
    if not pd.api.types.is_float_dtype(labels):
        groups = Categories(labels)
        column = pd.Categorical.from_codes(groups.codes, pd.Index(groups.names))
    rows = pd.Index([str(row) for row in range(len(labels))])
    cells = ad.AnnData(obs=pd.DataFrame({name: column}, index=rows), obsm={"X_umap": xy_n2})
    sizes = {**sns.plotting_context("notebook", font_scale=2.3), **sns.axes_style("white"), "figure.figsize": (10, 10)}
    with pyplot.rc_context(sizes):
        figure = sc.pl.umap(cells, color=name, **{"size": 200, **settings}, show=False, return_fig=True)
        save_figure(figure, path)


def label_heatmap(
    embedding: ArrayLike, labels: "pd.Series[Any]", path: Path, settings: Mapping[str, Any] | None = None
) -> None:
    """Write a heatmap with clustered cells and dimensions, each dimension from 0 to 1, and the label beside the cells.

    Parameters
    ----------
    embedding
        One row per cell, ``(n, d)``.
    labels
        Label of each cell; its name is the heading of the legend.
    path
        File to write.
    settings
        For `seaborn.clustermap`, such as `cmap`.

    Raises
    ------
    NoCellsError
        Fewer than two cells.
    UnsupportedArgumentError
        A setting that is not the caller's to choose.
    MissingExtraError
        matplotlib or seaborn is not installed.
    """
    settings = _checked(settings)
    sns, pyplot = plotting_library("seaborn"), plotting_library("matplotlib.pyplot")
    import pandas as pd

    values_nd = np.asarray(embedding, dtype=np.float32)
    if len(values_nd) < 2:
        msg = f"A heatmap needs at least two cells; there is {len(values_nd)}."
        raise NoCellsError(msg)
    name, groups = str(labels.name), _groups(labels)
    colors = sns.cubehelix_palette(len(groups.names), start=1, rot=-2, light=0.9, dark=0.1, reverse=True).as_hex()
    whole: dict[str, Any] = {
        "cmap": "magma", "standard_scale": 1, "figsize": (15, 15), "cbar_pos": (1.0, 0.4, 0.03, 0.2),
        "xticklabels": False, "yticklabels": False, "rasterized": True,
    }  # fmt: skip
    with pyplot.rc_context({**sns.plotting_context("notebook", font_scale=2), **sns.axes_style("white")}):
        grid = sns.clustermap(
            pd.DataFrame(values_nd),
            row_colors=pd.Series(np.array(colors)[groups.codes], name=name),
            **{**whole, **settings},
        )
        _legend(grid, groups.names, colors, name)
        save_figure(grid.figure, path)


def _groups(labels: "pd.Series[Any]") -> Categories:
    """Values as groups; quantities with many values in five of about equal size."""
    import pandas as pd

    if is_numeric(labels) and labels.nunique() > LEGEND_MOST:
        return Categories(pd.qcut(labels, 5, duplicates="drop"))
    return Categories(labels)


def _legend(grid: Any, names: list[str], colors: list[str], title: str) -> None:
    """Names of the groups over the dendrogram of the dimensions."""
    from matplotlib.patches import Patch

    if len(names) > LEGEND_MOST:
        grid.ax_col_dendrogram.set_title(f"{title}: {len(names)} groups")
        return
    grid.ax_col_dendrogram.legend(
        handles=[Patch(color=color, label=name) for name, color in zip(names, colors, strict=True)],
        title=title,
        loc="lower center",
        bbox_to_anchor=(0.5, 1.0),
        ncols=min(len(names), 4),
        frameon=False,
    )


def _checked(settings: Mapping[str, Any] | None) -> dict[str, Any]:
    """Settings of the caller, without those that are decided here."""
    settings = dict(settings or {})
    taken = [name for name in _OURS if name in settings]
    if taken:
        msg = f"{taken} cannot be set: they follow from the labels, and from the file that is written. Leave them out."
        raise UnsupportedArgumentError(msg)
    return settings
