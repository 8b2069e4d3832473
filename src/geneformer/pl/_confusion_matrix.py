"""`gf.pl.confusion_matrix`."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from geneformer.pl._figures import FAINT, INK, check_save, plotting_library, save_figure
from geneformer.pl._palette import sequential
from geneformer.pl._reports import FULL_TEXT, SMALL_TEXT, label_size, name_columns, order_of, report_of

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from geneformer.results.classification import ClassificationReport, Evaluation


def confusion_matrix(
    report: "ClassificationReport | Evaluation | str | Path",
    *,
    normalize: bool = True,
    order: Sequence[str] | None = None,
    title: str | None = None,
    ax: "Axes | None" = None,
    save: str | Path | None = None,
) -> "Axes":
    """Confusion matrix: classes in truth as rows, classes predicted as columns.

    Colors are shares of the cells of a row. The number of cells of each class stands beside its name; rows of classes
    without cells are gray. An empty place is an exact zero. Values are written for up to 25 classes.

    Parameters
    ----------
    report
        Report of a classifier, its evaluation, or the folder it was saved to.
    normalize
        Write shares of the cells of a row; otherwise numbers of cells.
    order
        Classes in the order to draw them.
    title
        Heading.
    ax
        Axes to draw on.
    save
        File to write: .png, .pdf, .svg, .jpg or .tif. What is there is replaced.

    Raises
    ------
    UnknownChoiceError, OptionError
        `order` does not name every class once.
    InputNotFoundError
        No report in the folder.
    MissingExtraError
        matplotlib is not installed.

    Examples
    --------
    >>> import geneformer as gf
    >>> from geneformer.tasks.metrics import evaluate_classes
    >>> found = evaluate_classes([0, 0, 1], [[0.9, 0.1], [0.4, 0.6], [0.2, 0.8]], ["B", "T"], n_boot=0)
    >>> axes = gf.pl.confusion_matrix(found)
    >>> [label.get_text() for label in axes.get_yticklabels()]
    ['B  n=2', 'T  n=1']
    """
    from geneformer.results.classification import Evaluation

    check_save(save)
    evaluation = report if isinstance(report, Evaluation) else report_of(report).evaluation
    drawn = order_of(evaluation.classes, order)
    names = [evaluation.classes[code] for code in drawn]
    counts = evaluation.confusion[np.ix_(drawn, drawn)]
    totals = counts.sum(axis=1)
    shares = np.where(totals[:, None] > 0, counts / np.maximum(totals, 1)[:, None], np.nan)
    pyplot = plotting_library("matplotlib.pyplot")
    if ax is None:
        side = 2.2 + max(0.45 if len(names) <= FULL_TEXT else 0.28, 1.6 / len(names)) * len(names)
        ax = pyplot.subplots(figsize=(side + 1.1, side), layout="constrained")[1]
    image = ax.imshow(np.ma.masked_invalid(shares), vmin=0, vmax=1, cmap=sequential(bad=FAINT))
    _write_values(ax, shares, counts, normalize=normalize)
    name_columns(ax, names)
    labels = [f"{name}  n={total:,}" for name, total in zip(names, totals, strict=True)]
    ax.set_yticks(range(len(names)), labels, fontsize=label_size(len(names)), color=INK)
    _dress(ax, image, title)
    save_figure(ax.figure, save)
    return ax


def _write_values(ax: "Axes", shares: NDArray[np.float64], counts: NDArray[np.int64], *, normalize: bool) -> None:
    n = len(counts)
    if n > SMALL_TEXT:
        return
    size = 9.5 if n <= FULL_TEXT else 6.0
    if not normalize:
        size = min(size, 40 / len(f"{counts.max():,}"))
    for row, column in np.argwhere(counts > 0):
        told = f"{shares[row, column]:.2f}" if normalize else f"{counts[row, column]:,}"
        shade = "white" if shares[row, column] > 0.55 else INK
        ax.text(column, row, told, ha="center", va="center", fontsize=size, color=shade)


def _dress(ax: "Axes", image: Any, title: str | None) -> None:
    ax.set_xlabel("predicted", color=INK, fontsize=11)
    ax.set_ylabel("truth", color=INK, fontsize=11)
    ax.tick_params(length=0)
    ax.spines[:].set_visible(False)
    n = len(ax.get_xticks())
    for middle in np.arange(n - 1) + 0.5:
        ax.axhline(middle, color="white", linewidth=1)
        ax.axvline(middle, color="white", linewidth=1)
    bar = ax.figure.colorbar(image, ax=ax, shrink=0.6, pad=0.02)
    bar.outline.set_visible(False)
    bar.ax.tick_params(labelsize=8, colors=INK, length=0)
    bar.set_label("share of the row", color=INK, fontsize=9)
    if title:
        ax.set_title(title, fontsize=13, color=INK, loc="left", pad=10)
