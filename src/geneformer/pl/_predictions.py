"""`gf.pl.predictions`."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from geneformer.pl._figures import INK, check_save, plotting_library, save_figure
from geneformer.pl._palette import NO_LABEL, sequential
from geneformer.pl._reports import FULL_TEXT, label_size, name_columns, order_of, report_of

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from geneformer.results.classification import ClassificationReport

LINES, GAP = 60, 4
"""Lines of one block, and blank lines between two."""


def predictions(
    report: "ClassificationReport | str | Path",
    *,
    order: Sequence[str] | None = None,
    title: str | None = None,
    ax: "Axes | None" = None,
    save: str | Path | None = None,
) -> "Axes":
    """Heatmap of predicted probabilities: cells as rows, in blocks by true class; classes as columns.

    Every block has the same height, however many cells it stands for, and shows cells at even steps from the surest in
    their own class to the least sure, so that rare classes are seen as well as common ones. The column of the true
    class is framed. Cells without a label come last, by predicted class.

    Parameters
    ----------
    report
        Report of a classifier, or the folder it was saved to.
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
    >>> import numpy as np
    >>> import geneformer as gf
    >>> from geneformer.results.classification import ClassificationReport
    >>> from geneformer.tasks.metrics import evaluate_classes
    >>> truth, proba = np.array([0, 0, 1]), np.array([[0.9, 0.1], [0.4, 0.6], [0.2, 0.8]])
    >>> found = evaluate_classes(truth, proba, ["B", "T"], n_boot=0)
    >>> report = ClassificationReport(evaluation=found, truth=truth, predicted=proba.argmax(axis=1), proba=proba)
    >>> axes = gf.pl.predictions(report)
    >>> [label.get_text() for label in axes.get_yticklabels()]
    ['B  n=2', 'T  n=1']
    """
    check_save(save)
    report = report_of(report)
    drawn = order_of(report.evaluation.classes, order)
    names = [report.evaluation.classes[code] for code in drawn]
    blocks = _blocks(report, drawn)
    pyplot = plotting_library("matplotlib.pyplot")
    if ax is None:
        step = 0.5 if len(names) <= FULL_TEXT else 0.3
        size = (3.2 + step * len(names), 1.6 + max(2.2, step * len(blocks)))
        ax = pyplot.subplots(figsize=size, layout="constrained")[1]
    gap = np.full((GAP, len(names)), np.nan)
    lines = np.concatenate([part for _, _, rows in blocks for part in (report.proba[rows][:, drawn], gap)][:-1])
    image = ax.imshow(
        np.ma.masked_invalid(lines), vmin=0, vmax=1, cmap=sequential(bad="white"), aspect="auto", interpolation="none"
    )
    _name_blocks(ax, blocks, names)
    name_columns(ax, names)
    _dress(ax, image, title)
    save_figure(ax.figure, save)
    return ax


def _blocks(report: "ClassificationReport", drawn: list[int]) -> list[tuple[int | None, int, NDArray[np.intp]]]:
    """Column of the true class, number of cells and rows shown, for each class that has cells and for no label."""
    blocks: list[tuple[int | None, int, NDArray[np.intp]]] = []
    for place, code in enumerate(drawn):
        rows = np.flatnonzero(report.truth == code)
        if len(rows):
            rows = rows[np.argsort(-report.proba[rows, code], kind="stable")]
            blocks.append((place, len(rows), _even(rows)))
    rows = np.flatnonzero(report.truth < 0)
    if len(rows):
        place_of = np.argsort(drawn)
        order = np.lexsort((-report.proba[rows].max(axis=1), place_of[report.predicted[rows]]))
        blocks.append((None, len(rows), _even(rows[order])))
    return blocks


def _even(rows: NDArray[np.intp]) -> NDArray[np.intp]:
    """As many of some rows as a block has lines, at even steps; each several times where they are fewer."""
    return rows[(2 * np.arange(LINES) + 1) * len(rows) // (2 * LINES)]


def _name_blocks(ax: "Axes", blocks: list[tuple[int | None, int, NDArray[np.intp]]], names: list[str]) -> None:
    from matplotlib.patches import Rectangle

    labels = []
    for number, (place, n, _) in enumerate(blocks):
        top = number * (LINES + GAP) - 0.5
        labels.append(f"{NO_LABEL if place is None else names[place]}  n={n:,}")
        if place is not None:
            ax.add_patch(Rectangle((place - 0.5, top), 1, LINES, fill=False, edgecolor=INK, linewidth=0.8))
    middles = np.arange(len(blocks)) * (LINES + GAP) + LINES / 2 - 0.5
    ax.set_yticks(middles, labels, fontsize=label_size(len(names)), color=INK)


def _dress(ax: "Axes", image: Any, title: str | None) -> None:
    ax.set_xlabel("probability of", color=INK, fontsize=11)
    ax.set_ylabel("truth", color=INK, fontsize=11)
    ax.tick_params(length=0)
    ax.spines[:].set_visible(False)
    bar = ax.figure.colorbar(image, ax=ax, shrink=0.6, pad=0.02)
    bar.outline.set_visible(False)
    bar.ax.tick_params(labelsize=8, colors=INK, length=0)
    bar.set_label("probability", color=INK, fontsize=9)
    if title:
        ax.set_title(title, fontsize=13, color=INK, loc="left", pad=10)
