"""Figures of published classifiers: mean ROC curves of several models, and a heatmap of scores."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from geneformer.errors import UnsupportedArgumentError
from geneformer.pl._confusion_matrix import confusion_matrix
from geneformer.pl._figures import INK, plotting_library, save_figure
from geneformer.pl._palette import spread
from geneformer.results.classification import Evaluation

if TYPE_CHECKING:
    from matplotlib.axes import Axes


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class MeanRoc:
    """One curve.

    Attributes
    ----------
    label
        What the legend says.
    fpr, tpr
        Rates, ``(points,)``.
    color, style
        As matplotlib takes them; a color of its own for None.
    """

    label: str
    fpr: ArrayLike
    tpr: ArrayLike
    color: Any = None
    style: str | None = None


def draw_confusion(
    counts: ArrayLike, classes: Sequence[str], *, order: Sequence[str] | None, title: str, save: Path
) -> "Axes":
    """Confusion matrix from counts; colors and numbers are shares of the rows.

    Parameters
    ----------
    counts
        Cells, rows are the truth, ``(C, C)``.
    classes
        Names, ``(C,)``.
    order
        Classes in the order to draw them.
    title
        Heading.
    save
        File to write.
    """
    table = np.asarray(counts, dtype=np.int64)
    evaluation = Evaluation(
        n=int(table.sum()), n_unlabeled=0, n_groups=None, draws={}, seed=0, metrics={}, classes=tuple(classes),
        per_class=(), roc={}, pr={}, confusion=table,
    )  # fmt: skip
    return confusion_matrix(evaluation, order=order, title=title, save=save)


def draw_mean_rocs(curves: Sequence[MeanRoc], *, title: str, save: Path) -> "Axes":
    """Curves of several models beside each other, 10 by 8 inches."""
    pyplot = plotting_library("matplotlib.pyplot")
    ax: Axes = pyplot.subplots(figsize=(10, 8), layout="constrained")[1]
    ax.plot([0, 1], [0, 1], linestyle="--", linewidth=1, color="#999999")
    for curve, color in zip(curves, spread(len(curves)), strict=True):
        ax.plot(
            np.asarray(curve.fpr), np.asarray(curve.tpr), label=curve.label, linewidth=2,
            color=color if curve.color is None else curve.color, linestyle=curve.style or "-",
        )  # fmt: skip
    ax.set_xlim(0, 1)
    ax.set_ylim(0, 1.02)
    ax.set_xlabel("false positive rate", color=INK, fontsize=12)
    ax.set_ylabel("true positive rate", color=INK, fontsize=12)
    ax.set_title(title, color=INK, fontsize=14, loc="left")
    ax.legend(loc="lower right", frameon=False)
    ax.spines[["top", "right"]].set_visible(False)
    save_figure(ax.figure, save)
    return ax


def draw_scores(
    scores: ArrayLike,
    truth: ArrayLike,
    classes: Sequence[str],
    *,
    order: Sequence[int],
    title: str,
    save: Path,
    settings: Mapping[str, Any] | None = None,
) -> None:
    """Heatmap of scores: cells as rows, by true class; classes as columns; nothing is clustered.

    Parameters
    ----------
    scores
        Score of each class, ``(n, C)``.
    truth
        True class of each cell, ``(n,)``.
    classes
        Names, ``(C,)``.
    order
        Classes in the order to draw them; those without a cell have a column but no rows.
    title
        Heading.
    save
        File to write.
    settings
        For `seaborn.clustermap`, such as `cmap`.

    Raises
    ------
    UnsupportedArgumentError
        A setting that follows from what is drawn.
    MissingExtraError
        seaborn is not installed.
    """
    import pandas as pd

    taken = [name for name in ("data", "row_colors") if name in (settings or {})]
    if taken:
        msg = f"{taken} cannot be set: they follow from the predictions. Leave them out."
        raise UnsupportedArgumentError(msg)
    values, codes = np.asarray(scores, dtype=np.float64), np.asarray(truth, dtype=np.int64)
    place_of = np.argsort(np.asarray(order))
    places: NDArray[np.int64] = place_of[codes]
    rows = np.argsort(places, kind="stable")
    colors = np.array(spread(len(order)))
    names = [classes[code] for code in order]
    table = pd.DataFrame(values[rows][:, list(order)], columns=names)
    whole: dict[str, Any] = {
        "cmap": "vlag", "center": 0, "figsize": (8, 10), "row_cluster": False, "col_cluster": False,
        "yticklabels": False, "rasterized": True,
    }  # fmt: skip
    sns, patches = plotting_library("seaborn"), plotting_library("matplotlib.patches")
    beside = pd.Series(colors[places[rows]], name="truth")
    grid = sns.clustermap(table, row_colors=beside, **{**whole, **(settings or {})})
    keys = [patches.Patch(color=color, label=name) for name, color in zip(names, colors, strict=True)]
    grid.ax_col_dendrogram.legend(handles=keys, title=title, loc="center", ncols=min(len(names), 4), frameon=False)
    save_figure(grid.figure, save)
