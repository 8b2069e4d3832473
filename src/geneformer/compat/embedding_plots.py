"""Maps and heatmaps of embeddings as `EmbExtractor.plot_embs` writes them: one PDF for each label."""

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from geneformer.errors import NoCellsError, UnknownColumnError, UnsupportedArgumentError
from geneformer.files.atomic import make_folder
from geneformer.pl._embedding import HEATMAP_LEGEND_MOST, heatmap_legends, umap_layout
from geneformer.pl._figures import Categories, is_numeric, plotting_library, save_figure

if TYPE_CHECKING:
    import pandas as pd

_logger = logging.getLogger(__name__)

_DECIDED = ("adata", "ax", "color", "data", "return_fig", "row_colors", "save", "show")
"""Settings that follow from what is drawn and where it goes."""

_DIMENSIONS = 50
"""More dimensions are first reduced to so many principal components."""


def plot_labels(
    embs: "pd.DataFrame",
    style: str,
    labels: Sequence[str],
    start: Path,
    most: int,
    settings: Mapping[str, Any] | None,
) -> None:
    """Write one figure for each label that the table has; others are named in a warning of the log."""
    dimensions = [name for name in embs.columns if str(name).isdecimal()]
    if not dimensions:
        msg = f"The table has no columns 0, 1, ... of an embedding; it has {list(embs.columns)[:8]}."
        raise UnknownColumnError(msg)
    settings = dict(settings or {})
    if decided := [name for name in _DECIDED if name in settings]:
        msg = f"{decided} cannot be set: they follow from the labels, and from the file that is written."
        raise UnsupportedArgumentError(msg)
    shown = [label for label in labels if label in embs.columns]
    if len(shown) < len(labels):
        _logger.warning("Not plotted, because the table does not have them: %s", sorted(set(labels) - set(shown)))
    if len(embs) > most:
        embs = embs.sample(most, random_state=0).sort_index()
    values = embs[dimensions].to_numpy()
    make_folder(start.parent)
    layout = label_layout(values) if style == "umap" and shown else None
    for label in shown:
        draw = label_heatmap if layout is None else label_umap
        draw(values if layout is None else layout, embs[label], start.with_name(f"{start.name}_{label}.pdf"), settings)
    show_figures()


_WITHOUT_SCREEN = ("agg", "cairo", "pdf", "pgf", "ps", "svg", "template")


def show_figures() -> None:
    """Show the figures that are open, in a notebook or where there is a screen."""
    if str(plotting_library("matplotlib").get_backend()).lower() not in _WITHOUT_SCREEN:
        plotting_library("matplotlib.pyplot").show()


def label_layout(embedding: ArrayLike) -> NDArray[np.float32]:
    """UMAP of an embedding over its principal components, ``(n, 2)``; the same for the same input."""
    values_nd = np.asarray(embedding, dtype=np.float32)
    if values_nd.shape[1] > _DIMENSIONS and len(values_nd) > 2:
        import scanpy as sc

        values_nd = np.asarray(sc.pp.pca(values_nd, svd_solver="arpack"))
    return umap_layout(values_nd, metric="euclidean")


def label_umap(xy_n2: NDArray[np.float32], labels: "pd.Series[Any]", path: Path, settings: Mapping[str, Any]) -> None:
    """Write a map of the cells colored by a label; whole numbers are names of groups, other numbers quantities."""
    import scanpy as sc

    sns, pyplot = (plotting_library(name) for name in ("seaborn", "matplotlib.pyplot"))
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


def label_heatmap(embedding: ArrayLike, labels: "pd.Series[Any]", path: Path, settings: Mapping[str, Any]) -> None:
    """Write a heatmap with clustered cells and dimensions, each scaled to 0-1, and the label next to the cells."""
    sns, pyplot = plotting_library("seaborn"), plotting_library("matplotlib.pyplot")
    import pandas as pd

    values_nd = np.asarray(embedding, dtype=np.float32)
    if len(values_nd) < 2:
        msg = f"A heatmap needs at least two cells; there is {len(values_nd)}."
        raise NoCellsError(msg)
    name = str(labels.name)
    many = is_numeric(labels) and labels.nunique() > HEATMAP_LEGEND_MOST
    groups = Categories(pd.qcut(labels, 5, duplicates="drop") if many else labels)
    published: dict[str, Any] = {
        "cmap": "magma", "standard_scale": 1, "figsize": (15, 15), "cbar_pos": (1.0, 0.4, 0.03, 0.2),
        "xticklabels": False, "yticklabels": False, "rasterized": True,
    }  # fmt: skip
    with pyplot.rc_context({**sns.plotting_context("notebook", font_scale=2), **sns.axes_style("white")}):
        row_colors = pd.Series(np.array(groups.colors)[groups.codes], name=name)
        grid = sns.clustermap(pd.DataFrame(values_nd), row_colors=row_colors, **{**published, **settings})
        heatmap_legends(grid, {name: groups})
        save_figure(grid.figure, path)
