"""`gf.pl.roc`."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import numpy as np
from numpy.typing import NDArray

from geneformer.errors import DatasetError, OptionError
from geneformer.options._check import check_choice
from geneformer.pl._figures import INK, check_save, plotting_library, save_figure
from geneformer.pl._palette import SAFE, spread
from geneformer.pl._reports import figures_of

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from geneformer.results.classification import ClassificationReport, PerClass, PrCurve, RocCurve

LEGEND_ROWS = 14
"""Entries in one column of the legend."""

GRID = np.linspace(0, 1, 401)
"""Where curves are averaged."""

Line = tuple[str, NDArray[np.float64], NDArray[np.float64]]


def roc(
    report: "ClassificationReport | PerClass | str | Path | Mapping[str, ClassificationReport | PerClass | str | Path]",
    *,
    curve: Literal["roc", "precision_recall"] = "roc",
    classes: Sequence[str] | None = None,
    title: str | None = None,
    ax: "Axes | None" = None,
    save: str | Path | None = None,
) -> "Axes":
    """ROC or precision-recall curves: of every class of a model, or of several models beside each other.

    Each class is told from all others by its probability. Several models are drawn as the unweighted mean over classes
    of their curves, with the unweighted mean of the areas. Classes without cells have no curve.

    Parameters
    ----------
    report
        Report of a classifier, its evaluation, or the folder it was saved to; or several of these by name.
    curve
        What to draw.
    classes
        Classes to draw, or to average over. All by default.
    title
        Heading.
    ax
        Axes to draw on.
    save
        File to write: .png, .pdf, .svg, .jpg or .tif. What is there is replaced.

    Raises
    ------
    UnknownChoiceError
        No such class.
    DatasetError
        None of the classes has a curve.
    InputNotFoundError
        No report in the folder.
    MissingExtraError
        matplotlib is not installed.

    Examples
    --------
    >>> import geneformer as gf
    >>> from geneformer.tasks.metrics import evaluate_classes
    >>> found = evaluate_classes([0, 0, 1], [[0.9, 0.1], [0.4, 0.6], [0.2, 0.8]], ["B", "T"], n_boot=0)
    >>> axes = gf.pl.roc(found)
    >>> [text.get_text() for text in axes.get_legend().get_texts()]
    ['B  1.000', 'T  1.000']
    """
    check_save(save)
    check_choice("curve", curve, ("roc", "precision_recall"))
    if isinstance(report, Mapping):
        if not report:
            msg = "There is no report to draw. Give one, or several by name."
            raise OptionError(msg)
        lines = [_mean_line(name, figures_of(one), classes, curve) for name, one in report.items()]
    else:
        lines = _class_lines(figures_of(report), classes, curve)
    pyplot = plotting_library("matplotlib.pyplot")
    if ax is None:
        beside = _columns(len(lines)) * (0.7 + 0.075 * max(len(label) for label, _, _ in lines))
        ax = pyplot.subplots(figsize=(5.2 + beside, 4.8), layout="constrained")[1]
    if curve == "roc":
        ax.plot([0, 1], [0, 1], linestyle="--", linewidth=1, color="#999999")
    for (label, x, y), color in zip(lines, spread(len(lines)), strict=True):
        style = "steps-pre" if curve == "precision_recall" else "default"
        ax.plot(x, y, color=color, linewidth=1.8, label=label, drawstyle=style, solid_capstyle="round")
    _dress(ax, curve, title)
    save_figure(ax.figure, save)
    return ax


def _curves(
    figures: "PerClass", classes: Sequence[str] | None, curve: str
) -> dict[str, tuple[NDArray[np.float64], NDArray[np.float64], float]]:
    """x, y and area by class, for the classes asked for that have a curve."""
    for name in classes or ():
        check_choice("classes", name, figures.classes)
    wanted = figures.classes if classes is None else classes
    source = figures.roc if curve == "roc" else figures.pr
    found = {name: _drawn(source[name], curve) for name in wanted if name in source}
    if not found:
        msg = (
            f"None of the classes {list(wanted)} has a curve: it takes cells of the class and cells of others. "
            "Measure on cells of several classes."
        )
        raise DatasetError(msg)
    return found


def _drawn(found: "RocCurve | PrCurve", curve: str) -> tuple[NDArray[np.float64], NDArray[np.float64], float]:
    """A curve as it is drawn: of precision and recall what cells tell, without the ends that are set by convention."""
    x, y, area = found
    if curve == "roc":
        return x, y, area
    stop = int(np.searchsorted(x, x[-1])) + 1
    return x[:stop], np.append(y[1], y[1:stop]), area


def _columns(n: int) -> int:
    """Columns of a legend with that many entries."""
    return -(-n // LEGEND_ROWS)


def _class_lines(figures: "PerClass", classes: Sequence[str] | None, curve: str) -> list[Line]:
    return [(f"{name}  {area:.3f}", x, y) for name, (x, y, area) in _curves(figures, classes, curve).items()]


def _mean_line(name: str, figures: "PerClass", classes: Sequence[str] | None, curve: str) -> Line:
    """Unweighted mean over classes; of areas with its interval where it is over all classes."""
    found = _curves(figures, classes, curve)
    if curve == "roc":
        heights = [np.interp(GRID, np.append(0, x), np.append(0, y)) for x, y, _ in found.values()]
    else:
        # The precision of a recall is that of the first point that reaches it.
        heights = [y[np.minimum(np.searchsorted(x, np.maximum(GRID, 1e-9)), len(y) - 1)] for x, y, _ in found.values()]
    area = f"{np.mean([area for _, _, area in found.values()]):.3f}"
    metric = "roc_auc" if curve == "roc" else "average_precision"
    if classes is None and metric in figures.metrics:
        area = str(figures.metrics[metric])
    height = np.mean(heights, axis=0)
    start = 0.0 if curve == "roc" else height[0]
    return f"{name}  {area}", np.append(0, GRID), np.append(start, height)


def _dress(ax: "Axes", curve: str, title: str | None) -> None:
    names = ("false positive rate", "true positive rate") if curve == "roc" else ("recall", "precision")
    ax.set(xlim=(-0.02, 1.02), ylim=(-0.02, 1.02), box_aspect=1)
    for label, name in zip((ax.xaxis.label, ax.yaxis.label), names, strict=True):
        label.set(text=name, color=INK, fontsize=11)
    ax.spines[["top", "right"]].set_visible(False)
    ax.spines[["left", "bottom"]].set_color("#999999")
    ax.tick_params(colors=INK, labelsize=9)
    ax.grid(color="#eeeeee")
    ax.set_axisbelow(True)
    n = len(ax.get_legend_handles_labels()[0])
    legend = ax.legend(
        title="area under the curve" if curve == "roc" else "average precision",
        loc="center left",
        bbox_to_anchor=(1.02, 0.5),
        frameon=False,
        fontsize=9 if n <= len(SAFE) else 8,
        title_fontsize=9,
        labelcolor=INK,
        alignment="left",
        ncols=_columns(n),
    )
    legend.get_title().set_color(INK)
    if title:
        ax.set_title(title, fontsize=13, color=INK, loc="left")
