"""`gf.pl.confusion_matrix`, `gf.pl.calibration`, `gf.pl.roc` and `gf.pl.predictions`."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeVar

import numpy as np
from numpy.typing import NDArray

from geneformer.errors import DatasetError, OptionError
from geneformer.options._fields import check_choice, check_range
from geneformer.pl._figures import (
    FAINT,
    FULL_TEXT,
    GRAY,
    INK,
    NO_LABEL,
    SAFE,
    SMALL_TEXT,
    check_save,
    draw_matrix,
    figure_axes,
    label_axes,
    label_size,
    open_frame,
    plotting_library,
    save_figure,
    sequential,
    side_legend,
    spread,
)

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from geneformer.finetuning.evaluations import Evaluation, PerClass
    from geneformer.finetuning.reports import ClassificationReport, CrossValidation, NumberReport, Report, Reported

LEGEND_ROWS = 14
"""Entries in one column of the legend."""

GRID = np.linspace(0, 1, 401)
"""Where curves are averaged."""

FEWEST_IN_BIN = 10
"""Least cells of a point of a reliability curve, where there are as many."""

LINES, GAP = 60, 4
"""Lines of one block of predictions, and blank lines between two."""


def confusion_matrix(
    report: "ClassificationReport | Evaluation | CrossValidation | Reported | str | Path",
    *,
    normalize: bool = True,
    order: Sequence[str] | None = None,
    title: str | None = None,
    ax: "Axes | None" = None,
    save: str | Path | None = None,
) -> "Axes":
    """Confusion matrix: classes in truth as rows, classes predicted as columns.

    Colors are shares of the cells of a row. The number of cells of each class stands by its name; rows of classes
    without cells are gray. An empty place is an exact zero. Values are written for up to 25 classes.

    Parameters
    ----------
    report
        Report of a classifier, or its evaluation; a fitted classifier or a cross-validation, which have one; or the
        folder that any of these was saved to.
    normalize
        Write shares of the cells of a row; otherwise numbers of cells.
    order
        Classes in the order to draw them.
    title, ax
        Heading; axes to draw on.
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
    >>> from geneformer.finetuning.metrics import evaluate_classes
    >>> evaluation = evaluate_classes([0, 0, 1], [[0.9, 0.1], [0.4, 0.6], [0.2, 0.8]], ["B", "T"], n_boot=0)
    >>> axes = gf.pl.confusion_matrix(evaluation)
    >>> [label.get_text() for label in axes.get_yticklabels()]
    ['B  n=2', 'T  n=1']
    """
    from geneformer.finetuning.evaluations import Evaluation
    from geneformer.finetuning.reports import ClassificationReport

    check_save(save)
    evaluation = report if isinstance(report, Evaluation) else report_of(report, ClassificationReport).evaluation
    drawn = order_of(evaluation.classes, order)
    names = [evaluation.classes[code] for code in drawn]
    counts = evaluation.confusion[np.ix_(drawn, drawn)]
    totals = counts.sum(axis=1)
    shares = np.where(totals[:, None] > 0, counts / np.maximum(totals, 1)[:, None], np.nan)
    side = 2.2 + max(0.45 if len(names) <= FULL_TEXT else 0.28, 1.6 / len(names)) * len(names)
    ax = figure_axes(ax, (side + 1.1, side))
    draw_matrix(ax, shares, sequential(bad=FAINT), columns=names, bar="share of the row")
    labels = [f"{name}  n={total:,}" for name, total in zip(names, totals, strict=True)]
    ax.set_yticks(range(len(names)), labels, fontsize=label_size(len(names)), color=INK)
    for middle in np.arange(len(names) - 1) + 0.5:
        ax.axhline(middle, color="white", linewidth=1)
        ax.axvline(middle, color="white", linewidth=1)
    size = 9.5 if len(names) <= FULL_TEXT else 6.0
    if not normalize:
        size = min(size, 40 / len(f"{counts.max():,}"))
    for row, column in np.argwhere(counts > 0) if len(names) <= SMALL_TEXT else ():
        value = f"{shares[row, column]:.2f}" if normalize else f"{counts[row, column]:,}"
        shade = "white" if shares[row, column] > 0.55 else INK
        ax.text(column, row, value, ha="center", va="center", fontsize=size, color=shade)
    label_axes(ax, "predicted", "truth", title, pad=10)
    save_figure(ax.figure, save)
    return ax


def calibration(
    report: "ClassificationReport | CrossValidation | Reported | str | Path",
    *,
    n_bins: int = 10,
    title: str | None = None,
    ax: "Axes | None" = None,
    save: str | Path | None = None,
) -> "Axes":
    """Reliability curve: how often the class that was called is right, by the probability it was called with.

    Cells are put into bins of about as many cells each, from the least sure to the surest. Every bin is a point at its
    mean probability and its share of right cells, with a 95 % interval (Wilson). On the diagonal probabilities are what
    they say; below it they are too high.

    Parameters
    ----------
    report
        Report of a classifier; a fitted classifier or a cross-validation, which have one; or the folder that any of
        these was saved to.
    n_bins
        Most bins; each has at least ten cells where there are as many.
    title, ax
        Heading; axes to draw on.
    save
        File to write: .png, .pdf, .svg, .jpg or .tif. What is there is replaced.

    Raises
    ------
    DatasetError
        No cell has a label.
    InputNotFoundError
        No report in the folder.
    MissingExtraError
        matplotlib is not installed.

    Examples
    --------
    >>> import numpy as np
    >>> import geneformer as gf
    >>> from geneformer.finetuning.reports import ClassificationReport
    >>> from geneformer.finetuning.metrics import evaluate_classes
    >>> truth, proba = np.array([0, 0, 1]), np.array([[0.9, 0.1], [0.4, 0.6], [0.2, 0.8]])
    >>> evaluation = evaluate_classes(truth, proba, ["B", "T"], n_boot=0)
    >>> report = ClassificationReport(evaluation=evaluation, truth=truth, predicted=proba.argmax(axis=1), proba=proba)
    >>> axes = gf.pl.calibration(report)
    >>> axes.get_xlabel()
    'probability of the class that is called'
    """
    from geneformer.finetuning.reports import ClassificationReport

    check_save(save)
    check_range("n_bins", n_bins, low=1)
    report = report_of(report, ClassificationReport)
    labeled = report.truth >= 0
    if not labeled.any():
        msg = "No cell of the report has a label, so that there is nothing to compare probabilities with."
        raise DatasetError(msg)
    from scipy import stats

    from geneformer.finetuning.metrics import expected_calibration_error

    sure = np.asarray(report.proba[labeled].max(axis=1), dtype=np.float64)
    right = report.proba[labeled].argmax(axis=1) == report.truth[labeled]
    bins = np.array_split(np.argsort(sure, kind="stable"), min(n_bins, max(1, len(sure) // FEWEST_IN_BIN)))
    x, y = (np.array([values[rows].mean() for rows in bins]) for values in (sure, right))
    intervals = [stats.binomtest(int(right[rows].sum()), len(rows)).proportion_ci(method="wilson") for rows in bins]
    ends = np.array([(interval.low, interval.high) for interval in intervals]).T
    ax = figure_axes(ax, (5.2, 4.8))
    ax.plot([0, 1], [0, 1], linestyle="--", linewidth=1, color=GRAY)
    ax.errorbar(x, y, yerr=np.abs(ends - y), color=SAFE[0], marker="o", markersize=5, linewidth=1.8, elinewidth=1)
    ax.hist(sure, bins=20, range=(0, 1), weights=np.full(len(sure), 0.25 / len(sure)), color="#b9dcee", zorder=0)
    ax.set(xlim=(-0.02, 1.02), ylim=(-0.02, 1.02), box_aspect=1)
    label_axes(ax, "probability of the class that is called", "share of cells that are right", title)
    open_frame(ax)
    ax.grid(color="#eeeeee")
    error = expected_calibration_error(report.proba[labeled], report.truth[labeled])
    ax.text(0.03, 0.95, f"expected calibration error {error:.3f}", transform=ax.transAxes, fontsize=9, color=INK)
    save_figure(ax.figure, save)
    return ax


def roc(
    report: "PerClass | Report | CrossValidation | Reported | str | Path | Mapping[str, Any]",
    *,
    curve: Literal["roc", "precision_recall"] = "roc",
    classes: Sequence[str] | None = None,
    title: str | None = None,
    ax: "Axes | None" = None,
    save: str | Path | None = None,
) -> "Axes":
    """ROC or precision-recall curves: of every class of a model, or of several models.

    Each class is set against all others by its probability. Several models are drawn as the unweighted mean over
    classes of their curves, with the unweighted mean of the areas. Classes without cells have no curve.

    Parameters
    ----------
    report
        Report of a classifier, or its evaluation; a fitted classifier or a cross-validation, which have one; or the
        folder that any of these was saved to. Or several of these by name.
    curve
        What to draw.
    classes
        Classes to draw, or to average over. All by default.
    title, ax
        Heading; axes to draw on.
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
    >>> from geneformer.finetuning.metrics import evaluate_classes
    >>> evaluation = evaluate_classes([0, 0, 1], [[0.9, 0.1], [0.4, 0.6], [0.2, 0.8]], ["B", "T"], n_boot=0)
    >>> axes = gf.pl.roc(evaluation)
    >>> [text.get_text() for text in axes.get_legend().get_texts()]
    ['B  1.000', 'T  1.000']
    """
    check_save(save)
    check_choice("curve", curve, ("roc", "precision_recall"))
    report = tasks_of(report)
    if isinstance(report, Mapping):
        if not report:
            msg = "There is no report to draw. Give one, or several by name."
            raise OptionError(msg)
        lines = [_mean_line(name, figures_of(one), classes, curve) for name, one in report.items()]
    else:
        curves = _curves(figures_of(report), classes, curve)
        lines = [(f"{name}  {area:.3f}", x, y) for name, (x, y, area) in curves.items()]
    n_columns = -(-len(lines) // LEGEND_ROWS)
    legend_width = n_columns * (0.7 + 0.075 * max(len(label) for label, _, _ in lines))
    ax = figure_axes(ax, (5.2 + legend_width, 4.8))
    if curve == "roc":
        ax.plot([0, 1], [0, 1], linestyle="--", linewidth=1, color=GRAY)
    for (label, x, y), color in zip(lines, spread(len(lines)), strict=True):
        style = "steps-pre" if curve == "precision_recall" else "default"
        ax.plot(x, y, color=color, linewidth=1.8, label=label, drawstyle=style, solid_capstyle="round")
    ax.set(xlim=(-0.02, 1.02), ylim=(-0.02, 1.02), box_aspect=1)
    names = ("false positive rate", "true positive rate") if curve == "roc" else ("recall", "precision")
    label_axes(ax, *names, title)
    open_frame(ax)
    ax.grid(color="#eeeeee")
    legend = side_legend(
        ax,
        title="area under the curve" if curve == "roc" else "average precision",
        bbox_to_anchor=(1.02, 0.5),
        fontsize=9 if len(ax.get_legend_handles_labels()[0]) <= len(SAFE) else 8,
        title_fontsize=9,
        alignment="left",
        ncols=n_columns,
    )
    legend.get_title().set_color(INK)
    save_figure(ax.figure, save)
    return ax


def _curves(figures: "PerClass", classes: Sequence[str] | None, curve: str) -> dict[str, tuple[Any, Any, float]]:
    """x, y and area by class, for the classes asked for that have a curve."""
    for name in classes or ():
        check_choice("classes", name, figures.classes)
    names = figures.classes if classes is None else classes
    source: Any = figures.roc if curve == "roc" else figures.pr
    curves = {name: source[name] for name in names if name in source}
    if not curves:
        msg = (
            f"None of the classes {list(names)} has a curve: it takes cells of the class and cells of others. "
            "Measure on cells of several classes."
        )
        raise DatasetError(msg)
    if curve == "precision_recall":
        # Without the ends that are set by convention.
        for name, (x, y, area) in curves.items():
            stop = int(np.searchsorted(x, x[-1])) + 1
            curves[name] = (x[:stop], np.append(y[1], y[1:stop]), area)
    return curves


def _mean_line(
    name: str, figures: "PerClass", classes: Sequence[str] | None, curve: str
) -> tuple[str, NDArray[np.float64], NDArray[np.float64]]:
    """Unweighted mean over classes; of areas with its interval where it is over all classes."""
    curves = _curves(figures, classes, curve)
    if curve == "roc":
        heights = [np.interp(GRID, np.append(0, x), np.append(0, y)) for x, y, _ in curves.values()]
    else:
        # The precision of a recall is that of the first point that reaches it.
        heights = [y[np.minimum(np.searchsorted(x, np.maximum(GRID, 1e-9)), len(y) - 1)] for x, y, _ in curves.values()]
    area = f"{np.mean([area for _, _, area in curves.values()]):.3f}"
    metric = "roc_auc" if curve == "roc" else "average_precision"
    if classes is None and metric in figures.metrics:
        area = str(figures.metrics[metric])
    height = np.mean(heights, axis=0)
    start = 0.0 if curve == "roc" else height[0]
    return f"{name}  {area}", np.append(0, GRID), np.append(start, height)


def predictions(
    report: "ClassificationReport | NumberReport | CrossValidation | Reported | str | Path",
    *,
    order: Sequence[str] | None = None,
    title: str | None = None,
    ax: "Axes | None" = None,
    save: str | Path | None = None,
) -> "Axes":
    """Predicted probabilities as a heatmap, or predicted numbers against the true ones.

    Of probabilities, cells are rows, in blocks by true class, and classes are columns. Every block has the same height,
    however many cells it stands for, and shows cells at even steps from the surest in their own class to the least
    sure, so that rare classes are seen as well as common ones. The column of the true class is framed. Cells without a
    label come last, by predicted class. Of numbers, every cell is a point, which lies on the dashed line where the
    prediction is right.

    Parameters
    ----------
    report
        Report of a classifier or a regression; a fitted one or a cross-validation, which have one; or the folder that
        any of these was saved to.
    order
        Classes in the order to draw them.
    title, ax
        Heading; axes to draw on.
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
    >>> from geneformer.finetuning.reports import ClassificationReport
    >>> from geneformer.finetuning.metrics import evaluate_classes
    >>> truth, proba = np.array([0, 0, 1]), np.array([[0.9, 0.1], [0.4, 0.6], [0.2, 0.8]])
    >>> evaluation = evaluate_classes(truth, proba, ["B", "T"], n_boot=0)
    >>> report = ClassificationReport(evaluation=evaluation, truth=truth, predicted=proba.argmax(axis=1), proba=proba)
    >>> axes = gf.pl.predictions(report)
    >>> [label.get_text() for label in axes.get_yticklabels()]
    ['B  n=2', 'T  n=1']
    """
    from geneformer.finetuning.reports import ClassificationReport, NumberReport

    check_save(save)
    found: Any = report_of(report, ClassificationReport, NumberReport)
    ax = _numbers(found, ax) if isinstance(found, NumberReport) else _probabilities(found, order, ax)
    if title:
        ax.set_title(title, fontsize=13, color=INK, loc="left", pad=10)
    save_figure(ax.figure, save)
    return ax


def _numbers(report: "NumberReport", ax: "Axes | None") -> "Axes":
    """Predicted numbers against true ones."""
    ax = figure_axes(ax, (4.8, 4.6))
    known = np.isfinite(report.truth) & np.isfinite(report.predicted)
    truth, predicted = report.truth[known], report.predicted[known]
    ends = [float(np.min([truth, predicted])), float(np.max([truth, predicted]))] if known.any() else [0.0, 1.0]
    ax.plot(ends, ends, linestyle="--", linewidth=1, color=GRAY)
    size = float(np.clip(25_000 / max(len(truth), 1), 2, 30))
    ax.scatter(truth, predicted, s=size, color=SAFE[0], alpha=0.6, linewidths=0, rasterized=True)
    r2 = report.evaluation.metrics.get("r2")
    ax.text(1, 1.005, f"R2 {r2}", transform=ax.transAxes, ha="right", va="bottom", fontsize=8, color=INK)
    label_axes(ax, "truth", "predicted")
    open_frame(ax)
    return ax


def _probabilities(report: "ClassificationReport", order: Sequence[str] | None, ax: "Axes | None") -> "Axes":
    """Predicted probabilities in blocks by true class."""
    plotting_library("matplotlib")
    from matplotlib.patches import Rectangle

    drawn = order_of(report.evaluation.classes, order)
    names = [report.evaluation.classes[code] for code in drawn]
    blocks = _blocks(report, drawn)
    step = 0.5 if len(names) <= FULL_TEXT else 0.3
    ax = figure_axes(ax, (3.2 + step * len(names), 1.6 + max(2.2, step * len(blocks))))
    gap = np.full((GAP, len(names)), np.nan)
    lines = np.concatenate([part for _, _, rows in blocks for part in (report.proba[rows][:, drawn], gap)][:-1])
    colors = sequential(bad="white")
    draw_matrix(ax, lines, colors, columns=names, bar="probability", aspect="auto", interpolation="none")
    labels = []
    for number, (place, n, _) in enumerate(blocks):
        labels.append(f"{NO_LABEL if place is None else names[place]}  n={n:,}")
        if place is not None:
            corner = (place - 0.5, number * (LINES + GAP) - 0.5)
            ax.add_patch(Rectangle(corner, 1, LINES, fill=False, edgecolor=INK, linewidth=0.8))
    middles = np.arange(len(blocks)) * (LINES + GAP) + LINES / 2 - 0.5
    ax.set_yticks(middles, labels, fontsize=label_size(len(names)), color=INK)
    label_axes(ax, "probability of", "truth")
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


AnyReport = TypeVar("AnyReport", bound="Report")


def report_of(source: Any, *kinds: type[AnyReport]) -> AnyReport:
    """The report of one of some kinds that something is, or has; several tasks have one each."""
    from geneformer.finetuning.reports import ReportSet, find_report

    report = find_report(source)
    if isinstance(report, ReportSet):
        if len(report) != 1:
            names = list(report)
            msg = (
                f"There are several reports, on {', '.join(map(repr, names))}. Pass one, such as report[{names[0]!r}]."
            )
            raise OptionError(msg)
        (report,) = report.values()
    if not isinstance(report, kinds):
        where = f'"{source}" holds' if isinstance(source, str | Path) else "This is"
        msg = f"{where} a report on {report.kind}, which this plot does not draw."
        raise DatasetError(msg)
    return report


def tasks_of(source: Any) -> Any:
    """The reports by task, where something has several; else what is given."""
    from geneformer.finetuning.evaluations import PerClass
    from geneformer.finetuning.reports import ReportSet, find_report

    if isinstance(source, Mapping | PerClass):
        return source
    report = find_report(source)
    return report if isinstance(report, ReportSet) and len(report) > 1 else source


def figures_of(source: Any) -> "PerClass":
    """Figures of a report, or what is given if it is figures."""
    from geneformer.finetuning.evaluations import PerClass
    from geneformer.finetuning.reports import ClassificationReport, LabelSetReport

    if isinstance(source, PerClass):
        return source
    report: Any = report_of(source, ClassificationReport, LabelSetReport)
    return report.evaluation  # type: ignore[no-any-return]


def order_of(classes: Sequence[str], order: Sequence[str] | None) -> list[int]:
    """Positions of the classes in the order they are drawn in."""
    if order is None:
        return list(range(len(classes)))
    for name in order:
        check_choice("order", name, classes)
    if sorted(order) != sorted(classes):
        missing = [name for name in classes if name not in order]
        msg = f"order names {len(order)} classes of {len(classes)}, without {missing}. Name every class once."
        raise OptionError(msg)
    return [list(classes).index(name) for name in order]
