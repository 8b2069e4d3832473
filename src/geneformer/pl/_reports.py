"""What plots of predictions start from: a report, its figures, or the folder it was saved to."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from geneformer.errors import OptionError
from geneformer.options._check import check_choice

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from geneformer.results.classification import ClassificationReport, PerClass

FULL_TEXT, SMALL_TEXT = 12, 25
"""Most classes with values of full size, and with values at all, in a matrix."""


def report_of(report: "ClassificationReport | str | Path") -> "ClassificationReport":
    """A report, read from its folder if need be.

    Raises
    ------
    InputNotFoundError, UnreadableInputError, DatasetError
        There is no whole report of classes in the folder.
    """
    from geneformer.results.classification import ClassificationReport

    return ClassificationReport.load(report) if isinstance(report, str | Path) else report


def figures_of(report: "ClassificationReport | PerClass | str | Path") -> "PerClass":
    """Figures of a report, or what is given if it is figures."""
    from geneformer.results.classification import PerClass

    return report if isinstance(report, PerClass) else report_of(report).evaluation


def order_of(classes: Sequence[str], order: Sequence[str] | None) -> list[int]:
    """Positions of the classes in the order they are drawn in.

    Raises
    ------
    UnknownChoiceError
        A class that the report does not have.
    OptionError
        A class is missing, or there twice.
    """
    if order is None:
        return list(range(len(classes)))
    for name in order:
        check_choice("order", name, classes)
    if sorted(order) != sorted(classes):
        missing = [name for name in classes if name not in order]
        msg = f"order names {len(order)} classes of {len(classes)}, without {missing}. Name every class once."
        raise OptionError(msg)
    return [list(classes).index(name) for name in order]


def name_columns(ax: "Axes", names: Sequence[str]) -> None:
    """Names of the classes below their columns, slanted where they would not fit side by side."""
    from geneformer.pl._figures import INK

    fits = max(len(name) for name in names) <= 4
    slant: dict[str, Any] = {} if fits else {"rotation": 40, "ha": "right", "rotation_mode": "anchor"}
    ax.set_xticks(range(len(names)), names, fontsize=label_size(len(names)), color=INK, **slant)


def label_size(n_classes: int) -> float:
    """Size of the names of that many classes."""
    return 10.0 if n_classes <= FULL_TEXT else 8.5 if n_classes <= SMALL_TEXT else 7.0
