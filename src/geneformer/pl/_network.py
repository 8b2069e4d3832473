"""`gf.pl.network` and the other pictures of gene networks."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

import numpy as np
from numpy.typing import NDArray

from geneformer import keys
from geneformer.applications.network_evaluation import BASELINES
from geneformer.applications.network_exports import edges_of, one_network
from geneformer.errors import DatasetError, OptionError
from geneformer.options._fields import as_names, check_choice, check_range, some_of
from geneformer.pl._figures import (
    FAINT,
    GRAY,
    INK,
    SAFE,
    check_save,
    draw_matrix,
    figure_axes,
    figure_size,
    label_axes,
    open_frame,
    plotting_library,
    save_figure,
    spread,
)

if TYPE_CHECKING:
    import pandas as pd
    from anndata import AnnData
    from matplotlib.axes import Axes

    Network: TypeAlias = AnnData | pd.DataFrame | str | Path

MOST_EDGES = 200
"""More cannot be read."""

MOST_NAMED = 110
"""Genes up to which each has its name; beyond, those with one edge have none."""

ACTIVATES, REPRESSES, UNSIGNED = SAFE[6], SAFE[3], "#8a8f98"
"""Colors of edges by their sign."""

Places = dict[str, tuple[float, float]]

REGULATOR, GENE = SAFE[0], "#c9ced6"


def network(
    network: "Network",
    *,
    n_edges: int = 60,
    genes: str | Sequence[str] | None = None,
    group: str | None = None,
    method: str | None = None,
    key: str = keys.NETWORK,
    title: str | None = None,
    ax: "Axes | None" = None,
    save: str | Path | None = None,
) -> "Axes":
    """The strongest edges of a gene network, as a graph of at most 200 edges.

    Regulators are dark and as large as they have edges here; lines are as wide as their weight, green where the
    regulator activates, red where it represses, and gray where that is not known. Names of genes with one edge are left
    out where there are too many to read.

    Parameters
    ----------
    network
        Cells after `gf.tl.network`, a table of edges, or a file of one.
    n_edges
        Edges drawn, at most 200.
    genes
        Only edges from or to one of these.
    group, method
        Which network, where there are several.
    key
        Slot of `uns` with the edges.
    title, ax
        Heading; axes to draw on.
    save
        File to write: .png, .pdf, .svg, .jpg or .tif. What is there is replaced.

    Raises
    ------
    OutOfRangeError
        More than 200 edges, or none.
    OptionError
        There are several networks, and none is chosen.
    DatasetError
        No edge is left to draw.

    Examples
    --------
    >>> import geneformer as gf
    >>> import pandas as pd
    >>> edges = pd.DataFrame({"source": ["STAT1", "STAT1"], "target": ["ISG15", "IFI6"], "weight": [2.0, 1.0]})
    >>> axes = gf.pl.network(edges)
    >>> sorted(text.get_text() for text in axes.texts)
    ['IFI6', 'ISG15', 'STAT1']
    """
    check_save(save)
    check_range("n_edges", n_edges, low=1, high=MOST_EDGES)
    edges = _with_genes(one_network(edges_of(network, key), group=group, method=method), genes)
    rows = _heaviest(edges, n_edges)
    plotting_library("matplotlib.pyplot")
    ax = figure_axes(ax, (8.5, 7.5) if n_edges > 30 else (6.5, 5.5))
    _draw_graph(ax, rows, _places(rows))
    _sign_legend(ax, rows)
    _dress_graph(ax, title)
    save_figure(ax.figure, save)
    return ax


def _with_genes(edges: "pd.DataFrame", genes: str | Sequence[str] | None) -> "pd.DataFrame":
    if genes is None:
        return edges
    names = as_names("genes", genes)
    kept = edges[edges["source"].isin(names) | edges["target"].isin(names)]
    if kept.empty:
        msg = f"The network has no edge from or to {some_of(names)}. Name genes as it does."
        raise DatasetError(msg)
    return kept


def _heaviest(edges: "pd.DataFrame", n: int) -> "pd.DataFrame":
    """The heaviest edges with a weight, the lightest first, so that the heaviest are drawn on top."""
    rows = edges[np.isfinite(edges["weight"]) & (edges["weight"] > 0)]
    if rows.empty:
        msg = "The network has no edge with a weight above 0, so there is nothing to draw."
        raise DatasetError(msg)
    heaviest: pd.DataFrame = rows.sort_values("weight", ascending=False, kind="stable").head(n)
    return heaviest.iloc[::-1]


def _places(edges: "pd.DataFrame") -> Places:
    """Where genes stand: parts that hang together next to each other, the largest first, none over another."""
    import networkx as nx

    graph = nx.Graph()
    graph.add_edges_from(zip(edges["source"], edges["target"], strict=True))
    parts = sorted(map(sorted, nx.connected_components(graph)), key=lambda part: (-len(part), part))
    sides = [len(part) ** 0.5 + 0.6 for part in parts]
    width = max(1.25 * sum(side**2 for side in sides) ** 0.5, sides[0])
    places: dict[str, NDArray[np.float64]] = {}
    x, y, height = 0.0, 0.0, 0.0
    for part, side in zip(parts, sides, strict=True):
        if x + side > 1.001 * width:
            x, y, height = 0.0, y + height, 0.0
        laid = nx.kamada_kawai_layout(graph.subgraph(part))
        points = _apart(np.array([laid[gene] for gene in part]))
        points = (points - points.min(axis=0)) / np.maximum(np.ptp(points, axis=0), 1e-9)
        places |= dict(zip(part, side * (0.12 + 0.76 * points) + [x, y], strict=True))
        x, height = x + side, max(height, side)
    return {gene: (float(place[0]), -float(place[1])) for gene, place in places.items()}


def _apart(points: NDArray[np.float64], rounds: int = 60) -> NDArray[np.float64]:
    """Points moved until hardly any two are closer than names need."""
    least = 0.75 * np.ptp(points, axis=0).max() / len(points) ** 0.5
    for _ in range(rounds):
        between = points[:, None] - points[None, :]
        distance = np.linalg.norm(between, axis=-1) + np.eye(len(points)) * least
        push = np.maximum(least - distance, 0) / np.maximum(distance, 1e-6)
        points = points + 0.3 * (between * push[..., None]).sum(axis=1)
    return points


def _draw_graph(ax: "Axes", edges: "pd.DataFrame", places: Places, *, scale: float = 1.0) -> None:
    """Edges as arrows, genes as dots with their names."""
    from matplotlib.patches import ConnectionStyle, FancyArrowPatch

    n_out = edges["source"].value_counts()
    n_all = n_out.add(edges["target"].value_counts(), fill_value=0)
    sizes = {str(gene): scale * (50 + 14 * min(n_out.get(gene, -1), 20)) for gene in n_all.index}
    heaviest = edges["weight"].max()
    row: Any
    for row in edges.itertuples():
        color = ACTIVATES if row.sign > 0 else REPRESSES if row.sign < 0 else UNSIGNED
        strength = row.weight / heaviest
        arrow = FancyArrowPatch(
            places[row.source], places[row.target], arrowstyle="-|>", mutation_scale=8 * scale,
            shrinkA=sizes[row.source] ** 0.5 / 2, shrinkB=sizes[row.target] ** 0.5 / 2 + 1, color=color,
            linewidth=(0.3 + 1.7 * strength**2) * scale, alpha=0.35 + 0.5 * strength, zorder=1,
            connectionstyle=ConnectionStyle("Arc3", rad=0.06),  # type: ignore[no-untyped-call]
        )  # fmt: skip
        ax.add_patch(arrow)
    x, y = zip(*(places[gene] for gene in sizes), strict=True)
    colors = [REGULATOR if gene in n_out else GENE for gene in sizes]
    ax.scatter(x, y, s=list(sizes.values()), c=colors, edgecolors="white", linewidths=0.8, zorder=2)
    ends = zip(edges["source"].tolist(), edges["target"].tolist(), strict=True)
    above = {target: places[target][1] >= places[source][1] for source, target in ends}
    for gene, size in sizes.items():
        if gene in n_out or len(n_all) <= MOST_NAMED or n_all[gene] > 1:
            _name_gene(ax, gene, places[gene], size**0.5 / 2 + 1, above.get(gene, True), gene in n_out, scale)


def _name_gene(  # noqa: PLR0917
    ax: "Axes", gene: str, point: tuple[float, float], gap: float, above: bool, bold: bool, scale: float
) -> None:
    """The name of a gene above or below its dot, readable over lines."""
    from matplotlib.patheffects import withStroke

    ax.annotate(
        gene, point, xytext=(0, gap if above else -gap), textcoords="offset points", ha="center",
        va="bottom" if above else "top", color=INK, zorder=4 if bold else 3, fontsize=(9 if bold else 7.5) * scale,
        fontweight="bold" if bold else "normal", path_effects=[withStroke(linewidth=2, foreground="white")],
    )  # fmt: skip


def _dress_graph(ax: "Axes", title: str | None) -> None:
    ax.set_axis_off()
    ax.margins(0.08)
    if title:
        ax.set_title(title, fontsize=13, color=INK, loc="left")


def _sign_legend(ax: "Axes", edges: "pd.DataFrame") -> None:
    """What the colors of the lines mean, where there are several."""
    from matplotlib.lines import Line2D

    kinds = {"activates": (edges["sign"] > 0, ACTIVATES), "represses": (edges["sign"] < 0, REPRESSES)}
    shown = {name: color for name, (some, color) in kinds.items() if some.any()}
    if shown and edges["sign"].isna().any():
        shown["sign not known"] = UNSIGNED
    if shown:
        lines = [Line2D([], [], color=color, linewidth=2) for color in shown.values()]
        ax.legend(
            lines,
            list(shown),
            frameon=False,
            fontsize=9,
            labelcolor=INK,
            loc="upper left",
            bbox_to_anchor=(0, 0),
            ncols=3,
        )


def network_heatmap(  # noqa: PLR0913
    network: "Network",
    *,
    value: Literal["weight", "z"] = "weight",
    n_regulators: int = 20,
    n_targets: int = 40,
    regulators: str | Sequence[str] | None = None,
    group: str | None = None,
    method: str | None = None,
    key: str = keys.NETWORK,
    title: str | None = None,
    ax: "Axes | None" = None,
    save: str | Path | None = None,
) -> "Axes":
    """Regulators by targets in colors, ordered so that those alike stand together.

    Parameters
    ----------
    network
        Cells after `gf.tl.network`, a table of edges, or a file of one.
    value
        "weight", negative where the regulator represses; or "z" against matched genes.
    n_regulators, n_targets
        How many are drawn: regulators with the heaviest edges, and the targets with the heaviest edges from these.
    regulators
        These instead.
    group, method
        Which network, where there are several.
    key
        Slot of `uns` with the edges.
    title, ax
        Heading; axes to draw on.
    save
        File to write: .png, .pdf, .svg, .jpg or .tif. What is there is replaced.

    Raises
    ------
    OptionError
        There are several networks, and none is chosen.
    DatasetError
        No edge is left to draw, or none has a z.

    Examples
    --------
    >>> import geneformer as gf
    >>> import pandas as pd
    >>> edges = pd.DataFrame({"source": ["STAT1", "STAT1"], "target": ["ISG15", "IFI6"], "weight": [2.0, 1.0]})
    >>> axes = gf.pl.network_heatmap(edges)
    >>> [label.get_text() for label in axes.get_yticklabels()]
    ['STAT1']
    """
    check_save(save)
    check_choice("value", value, ("weight", "z"))
    for name, number in (("n_regulators", n_regulators), ("n_targets", n_targets)):
        check_range(name, number, low=1)
    edges = one_network(edges_of(network, key), group=group, method=method)
    edges = edges[np.isfinite(edges[value])]
    if regulators is not None:
        edges = edges[edges["source"].isin(as_names("regulators", regulators))]
    if edges.empty:
        msg = f"No edge to draw has a {value}."
        raise DatasetError(msg)
    tops = edges.groupby("source", sort=False)["weight"].nlargest(10).groupby(level=0, sort=False).mean()
    rows = edges[edges["source"].isin(tops.nlargest(n_regulators).index)]
    targets = rows.groupby("target", sort=False)["weight"].max().nlargest(n_targets).index
    rows = rows[rows["target"].isin(targets)]
    signs = np.where(rows["sign"] < 0, -1.0, 1.0) if value == "weight" else 1.0
    wide = rows.assign(shown=rows[value] * signs).pivot_table(index="source", columns="target", values="shown")
    wide = wide.iloc[_alike(wide), _alike(wide.T)]
    return _draw_heatmap(wide, value, title, ax, save)


def _alike(table: "pd.DataFrame") -> NDArray[Any]:
    """Rows in an order in which those alike stand together."""
    from scipy.cluster.hierarchy import leaves_list, linkage

    if len(table) < 3:
        return np.arange(len(table))
    order: NDArray[Any] = leaves_list(linkage(table.fillna(0).to_numpy(), "average", optimal_ordering=True))
    return order


def _draw_heatmap(
    wide: "pd.DataFrame", value: str, title: str | None, ax: "Axes | None", save: str | Path | None
) -> "Axes":
    from matplotlib.colors import LinearSegmentedColormap

    plotting_library("matplotlib.pyplot")
    ax = figure_axes(ax, (2.6 + 0.22 * wide.shape[1], 1.9 + 0.24 * len(wide)))
    most = float(np.nanquantile(np.abs(wide.to_numpy()), 0.98)) or 1.0  # so that one edge does not dim the others
    has_both = bool((wide.to_numpy() < 0).any())
    shades = ["#882255", REPRESSES, "#f7f7f7", ACTIVATES, "#117733"] if has_both else ["#f7f9fb", "#6a8fc7", SAFE[0]]
    colors = LinearSegmentedColormap.from_list("geneformer_network", shades)
    draw_matrix(
        ax, wide.to_numpy(), colors.with_extremes(bad="white"), columns=wide.columns.tolist(),
        bar="z against matched genes" if value == "z" else "weight",
        limits=(-most if has_both else 0, most), aspect="auto",
    )  # fmt: skip
    ax.tick_params(axis="x", labelrotation=90)
    for label in ax.get_xticklabels():
        label.set(rotation=90, ha="center", va="top", rotation_mode="default", fontsize=7.5)
    ax.set_yticks(range(len(wide)), wide.index.tolist(), fontsize=9, color=INK)
    label_axes(ax, "target", "regulator", title)
    save_figure(ax.figure, save)
    return ax


def network_regulators(
    network: "Network",
    *,
    n_regulators: int = 20,
    top: int = 50,
    group: str | None = None,
    method: str | None = None,
    key: str = keys.NETWORK,
    title: str | None = None,
    ax: "Axes | None" = None,
    save: str | Path | None = None,
) -> "Axes":
    """Regulators with the heaviest edges, with intervals and what matched genes reach.

    A dot is the mean weight of a regulator's `top` heaviest edges, the line the mean of their intervals, and the gray
    mark the mean of matched genes on the same targets. The number beside it is how many of all its edges have a false
    discovery rate below 0.05.

    Parameters
    ----------
    network
        Cells after `gf.tl.network`, a table of edges, or a file of one.
    n_regulators
        How many are drawn.
    top
        Edges of each that count.
    group, method
        Which network, where there are several.
    key
        Slot of `uns` with the edges.
    title, ax
        Heading; axes to draw on.
    save
        File to write: .png, .pdf, .svg, .jpg or .tif. What is there is replaced.

    Raises
    ------
    OptionError
        There are several networks, and none is chosen.
    DatasetError
        No edge is left to draw.

    Examples
    --------
    >>> import geneformer as gf
    >>> import pandas as pd
    >>> edges = pd.DataFrame({"source": ["STAT1", "IRF9"], "target": ["ISG15", "IFI6"], "weight": [2.0, 1.0]})
    >>> axes = gf.pl.network_regulators(edges)
    >>> [label.get_text() for label in axes.get_yticklabels()]
    ['STAT1', 'IRF9']
    """
    check_save(save)
    for name, number in (("n_regulators", n_regulators), ("top", top)):
        check_range(name, number, low=1)
    edges = one_network(edges_of(network, key), group=group, method=method)
    edges = _heaviest(edges, len(edges)).iloc[::-1]
    columns = ["weight", "low", "high", "null_mean"]
    means = edges.groupby("source", sort=False).head(top).groupby("source", sort=False)[columns].mean()
    rows = means.nlargest(n_regulators, "weight")
    significant = (edges["q"] < 0.05).groupby(edges["source"]).sum()
    plotting_library("matplotlib.pyplot")
    ax = figure_axes(ax, (6.0, 1.4 + 0.25 * max(len(rows), 4)))
    row: Any
    for place, row in enumerate(rows.itertuples()):
        if np.isfinite([row.low, row.high]).all():
            ax.plot([row.low, row.high], [place, place], color=REGULATOR, linewidth=1.8, solid_capstyle="round")
        ax.plot(row.weight, place, marker="o", markersize=6, color=REGULATOR)
        if np.isfinite(row.null_mean):
            ax.plot(row.null_mean, place, marker="|", markersize=10, markeredgewidth=2, color=GRAY)
    ax.set_yticks(range(len(rows)), rows.index.tolist(), fontsize=9, color=INK)
    ax.set_ylim(len(rows) - 0.4, -0.6)
    label_axes(ax, f"mean weight of the {top} heaviest edges", None, title)
    open_frame(ax)
    ax.grid(axis="x", color="#eeeeee")
    low, high = ax.get_xlim()
    ax.set_xlim(min(0.0, low), high + 0.03 * (high - min(0.0, low)))
    if edges["q"].notna().any():
        for place, name in enumerate(rows.index):
            ax.annotate(f"{significant[name]:,}", (1.01, place), xycoords=("axes fraction", "data"), va="center",
                        fontsize=8, color=INK, annotation_clip=False)  # fmt: skip
        ax.text(1.01, 1.005, "q < 0.05", transform=ax.transAxes, fontsize=8, color=INK, va="bottom")
    if rows["null_mean"].notna().any():
        ax.text(0, 1.005, "gray: matched genes", transform=ax.transAxes, fontsize=8, color=INK, va="bottom")
    save_figure(ax.figure, save)
    return ax


def network_states(
    network: "Network",
    *,
    groups: str | Sequence[str] | None = None,
    n_edges: int = 30,
    genes: str | Sequence[str] | None = None,
    method: str | None = None,
    key: str = keys.NETWORK,
    save: str | Path | None = None,
) -> "list[Axes]":
    """The networks of several groups of cells side by side, every gene in the same place in each.

    Parameters
    ----------
    network
        Cells after `gf.tl.network` with `groupby`, a table of edges, or a file of one.
    groups
        Groups to draw; the first six by default.
    n_edges
        Edges of each, at most 200 together.
    genes
        Only edges from or to one of these.
    method
        Which network, where there are several.
    key
        Slot of `uns` with the edges.
    save
        File to write: .png, .pdf, .svg, .jpg or .tif. What is there is replaced.

    Returns
    -------
    list of matplotlib.axes.Axes
        One for each group.

    Raises
    ------
    OutOfRangeError
        More than 200 edges together.
    UnknownColumnError
        A group that there is not.

    Examples
    --------
    >>> import geneformer as gf
    >>> import pandas as pd
    >>> columns = {"source": ["STAT1", "STAT1"], "target": ["ISG15", "IFI6"], "weight": [2.0, 1.0], "group": ["T", "B"]}
    >>> [axes.get_title(loc="left") for axes in gf.pl.network_states(pd.DataFrame(columns))]
    ['T', 'B']
    """
    check_save(save)
    edges = edges_of(network, key)
    names = list(edges["group"].unique()[:6]) if groups is None else list(as_names("groups", groups))
    check_range("n_edges", n_edges, low=1, high=MOST_EDGES // max(len(names), 1))
    parts = {
        name: _heaviest(_with_genes(one_network(edges, group=name, method=method), genes), n_edges) for name in names
    }
    import pandas as pd

    places = _places(pd.concat(parts.values()).drop_duplicates(["source", "target"]))
    n_columns = 2 if len(parts) == 4 else min(len(parts), 3)
    n_rows = -(-len(parts) // n_columns)
    figure, axes = plotting_library("matplotlib.pyplot").subplots(
        n_rows, n_columns, figsize=figure_size(5.2 * n_columns, 4.8 * n_rows), layout="constrained", squeeze=False
    )
    points = np.array(list(places.values()))
    for ax, (name, rows) in zip(axes.flat, parts.items(), strict=False):
        ax.scatter(*points.T, s=12, c=FAINT, zorder=0)
        _draw_graph(ax, rows, places, scale=0.85)
        _dress_graph(ax, str(name))
    for ax in axes.flat[len(parts) :]:
        ax.set_axis_off()
    _sign_legend(axes[-1, 0], pd.concat(parts.values()))
    save_figure(figure, save)
    return list(axes.flat[: len(parts)])


def network_benchmark(
    evaluation: "pd.DataFrame | Mapping[str, pd.DataFrame]",
    *,
    measure: Literal["auroc", "average_precision"] = "auroc",
    title: str | None = None,
    save: str | Path | None = None,
) -> "list[Axes]":
    """How well networks and baselines agree with known pairs: dots with intervals, over the band of the null.

    Full dots are networks, hollow ones baselines. The gray band holds 95 % of what the same scores reach with rewired
    pairs that keep every degree: within it a score knows no more than how many targets and regulators genes have.

    Parameters
    ----------
    evaluation
        What `gf.tl.evaluate_network` returned; or several, by the name of the truth.
    measure
        Area under the ROC curve, or average precision, for which there is no band.
    title
        Heading.
    save
        File to write: .png, .pdf, .svg, .jpg or .tif. What is there is replaced.

    Returns
    -------
    list of matplotlib.axes.Axes
        One for each truth.

    Raises
    ------
    DatasetError
        A table that is no evaluation.

    Examples
    --------
    >>> import geneformer as gf
    >>> import pandas as pd
    >>> row = {"score": "random", "auroc": 0.5, "auroc_low": 0.4, "auroc_high": 0.6, "null_low": 0.4, "null_high": 0.6}
    >>> axes = gf.pl.network_benchmark(pd.DataFrame([row]))
    >>> axes[0].get_xlabel()
    'mean area under the ROC curve'
    """
    check_save(save)
    check_choice("measure", measure, ("auroc", "average_precision"))
    tables = dict(evaluation) if isinstance(evaluation, Mapping) else {"": evaluation}
    if not tables:
        msg = "There is no evaluation to draw. Pass what gf.tl.evaluate_network returned."
        raise OptionError(msg)
    needed = {"score", measure, f"{measure}_low", f"{measure}_high"}
    for table in tables.values():
        if not needed <= set(getattr(table, "columns", ())):
            msg = f"An evaluation has columns {', '.join(sorted(needed))}. Pass what gf.tl.evaluate_network returned."
            raise DatasetError(msg)
    scores = list(dict.fromkeys(score for table in tables.values() for score in table["score"]))
    scores.sort(key=lambda score: score in BASELINES)
    n_columns = min(len(tables), 4)
    n_rows = -(-len(tables) // n_columns)
    size = figure_size(1.9 + 2.5 * n_columns, n_rows * (1.2 + 0.27 * len(scores)))
    figure, axes = plotting_library("matplotlib.pyplot").subplots(
        n_rows, n_columns, figsize=size, layout="constrained", squeeze=False, sharey=True
    )
    colors = dict(zip(scores, spread(max(len(scores), 2)), strict=False))
    for ax, (name, table) in zip(axes.flat, tables.items(), strict=False):
        _draw_benchmark(ax, table.set_index("score"), scores, measure, colors)
        label_axes(ax, "", None, name or None)
    for ax in axes.flat[len(tables) :]:
        ax.set_visible(False)
    if measure == "auroc":
        first = axes.flat[0]
        first.text(0, -0.02, "gray: rewired truths", transform=first.transAxes, fontsize=7.5, color=INK, va="top",
                   ha="right")  # fmt: skip
    words = {"auroc": "mean area under the ROC curve", "average_precision": "mean average precision"}
    if len(tables) == 1:
        axes.flat[0].set_xlabel(words[measure], color=INK, fontsize=11)
    else:
        figure.supxlabel(words[measure], color=INK, fontsize=11)
    if title:
        figure.suptitle(title, fontsize=13, color=INK)
    save_figure(figure, save)
    return list(axes.flat[: len(tables)])


def _draw_benchmark(
    ax: "Axes", table: "pd.DataFrame", scores: list[str], measure: str, colors: Mapping[str, str]
) -> None:
    for place, score in enumerate(scores):
        if score not in table.index:
            continue
        row = table.loc[score]
        if measure == "auroc":
            ax.fill_betweenx(
                [place - 0.38, place + 0.38], row["null_low"], row["null_high"], color=FAINT, linewidth=0, zorder=0
            )
        color = GRAY if score in BASELINES else colors[score]
        ax.plot([row[f"{measure}_low"], row[f"{measure}_high"]], [place] * 2, color=color, linewidth=1.8)
        fill = "white" if score in BASELINES else color
        ax.plot(row[measure], place, marker="o", markersize=6.5, color=color, markerfacecolor=fill)
    if measure == "auroc":
        ax.axvline(0.5, color=GRAY, linewidth=0.8, linestyle=":", zorder=0)
    ax.set_yticks(range(len(scores)), scores, fontsize=9, color=INK)
    ax.set_ylim(len(scores) - 0.4, -0.6)
    open_frame(ax)
    ax.locator_params(axis="x", nbins=4)
