"""Figures of what was measured on held-out cells and genes, as tables and as JSON."""

import dataclasses
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, NamedTuple, get_args, get_origin, get_type_hints

import numpy as np
from numpy.typing import NDArray

from geneformer.display import Summarized, Summary, names_text
from geneformer.options._fields import some_of

UNDEFINED = "-"
"""What stands in a table for a figure that cannot be computed."""


@dataclass(frozen=True, slots=True)
class Estimate:
    """A figure with its 95% interval.

    Attributes
    ----------
    mean
        The figure over all cells; NaN where it is not defined.
    low, high
        95% interval; NaN where none was computed.
    """

    mean: float
    low: float = math.nan
    high: float = math.nan

    def __str__(self) -> str:
        interval = f" ({number_text(self.low)} to {number_text(self.high)})"
        return number_text(self.mean) + ("" if math.isnan(self.mean) or math.isnan(self.low) else interval)


@dataclass(frozen=True, kw_only=True, eq=False, repr=False)
class Figures(Summarized):
    """Figures over held-out cells, and how their intervals were drawn.

    Two are equal when everything they hold is, to the last bit.

    Attributes
    ----------
    n
        Cells measured.
    metrics
        The figures by name.
    n_unlabeled
        Cells left out because their truth is not known.
    n_groups
        Groups resampled as a whole, or None where cells were resampled one by one.
    draws
        Resamples behind the interval of each figure; fewer for costly ones over many cells, 0 for no interval.
    seed
        Seed of the resamples.
    """

    unit: ClassVar[str] = "cell"
    """What was measured one by one."""

    headline: ClassVar[tuple[str, ...]] = ()
    """Figures by which models are compared at a glance, the one that counts most first."""

    n: int
    metrics: Mapping[str, Estimate]
    n_unlabeled: int = 0
    n_groups: int | None = None
    draws: Mapping[str, int] = field(default_factory=dict)
    seed: int = 0

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Figures) or type(self) is not type(other):
            return NotImplemented
        return self.to_dict() == other.to_dict()

    __hash__ = None  # type: ignore[assignment]

    def to_dict(self) -> dict[str, Any]:
        """Everything as JSON can hold it; what is not defined is None."""
        content: dict[str, Any] = to_json(self)
        return content

    def size_text(self) -> str:
        """One sentence on the cells, and one on the intervals."""
        left_out = f"; {self.n_unlabeled:,} without a label left out" if self.n_unlabeled else ""
        drawn = {count for count in self.draws.values() if count}
        if not drawn:
            return f"{self.n:,} {self.unit}s{left_out}. No intervals."
        what = f"{self.unit}s" if self.n_groups is None else f"{self.n_groups:,} whole groups"
        often = f"{min(drawn):,}" if len(drawn) == 1 else f"{min(drawn):,} to {max(drawn):,}"
        return f"{self.n:,} {self.unit}s{left_out}. In parentheses: 95% intervals from {often} resamples of {what}."

    def details(self) -> list[str]:
        """Sections of a text below the table of figures."""
        return []

    def summary_of(self) -> Summary:
        """Every figure with its interval."""
        classes = getattr(self, "classes", ())
        return Summary(
            title=type(self).__name__,
            facts=[("classes", names_text(classes))] if classes else [],
            header=("", "figure"),
            rows=[(metric_name(name), value) for name, value in self.metrics.items()],
            note=self.size_text(),
        )


class RocCurve(NamedTuple):
    """False and true positive rate from the strictest threshold to the laxest, at most 200 points, and the area."""

    fpr: NDArray[np.float64]
    tpr: NDArray[np.float64]
    auc: float


class PrCurve(NamedTuple):
    """Recall and precision from the strictest threshold to the laxest, at most 200 points, and average precision."""

    recall: NDArray[np.float64]
    precision: NDArray[np.float64]
    average_precision: float


@dataclass(frozen=True, kw_only=True, slots=True)
class ClassRow:
    """Figures of one class.

    Attributes
    ----------
    name
        The class.
    precision
        Share of the cells predicted to be of the class that are; 0 where none was predicted.
    recall
        Share of the cells of the class that were predicted to be of it.
    f1
        Harmonic mean of the two.
    n
        Cells of the class.
    roc_auc, average_precision
        Areas of the class against all others, from its probabilities.

    All but `n` are NaN for a class without cells.
    """

    name: str
    precision: float
    recall: float
    f1: float
    n: int
    roc_auc: float
    average_precision: float


@dataclass(frozen=True, kw_only=True, eq=False, repr=False)
class PerClass(Figures):
    """Figures over all classes and of every class.

    Attributes
    ----------
    classes
        Classes of the model.
    per_class
        Figures of every class.
    roc, pr
        Curves of each class against all others, for the classes they are defined for.
    """

    classes: tuple[str, ...]
    per_class: tuple[ClassRow, ...]
    roc: Mapping[str, RocCurve] = field(default_factory=dict)
    pr: Mapping[str, PrCurve] = field(default_factory=dict)

    @property
    def absent(self) -> tuple[str, ...]:
        """Classes without a cell among those measured; averages over classes leave them out."""
        return tuple(row.name for row in self.per_class if row.n == 0)

    def details(self) -> list[str]:
        """Sections of a text: what was left out, and a table of the classes."""
        header = ["class", "precision", "recall", "F1", "ROC AUC", "average precision", f"{self.unit}s"]
        figures = ("precision", "recall", "f1", "roc_auc", "average_precision")
        rows = [
            [row.name, *(number_text(getattr(row, name)) for name in figures), f"{row.n:,}"] for row in self.per_class
        ]
        sections = ["## Classes", markdown_table(header, rows)]
        if self.absent:
            sections.insert(0, absent_text(self.absent, self.n, self.unit))
        return sections


def absent_text(classes: Sequence[str], n: int, unit: str = "cell") -> str:
    """What figures over cells say that lack some of the classes."""
    return (
        f"None of the {n:,} {unit}s measured is of {some_of(map(repr, classes))}: figures of such classes are NaN, "
        "averages over classes (F1, balanced accuracy, ROC AUC) leave them out, and accuracy and log loss say nothing "
        "about them."
    )


@dataclass(frozen=True, kw_only=True, eq=False, repr=False)
class Evaluation(PerClass):
    """How well one class per cell was predicted.

    Averages over classes ("macro", "balanced", areas) are over the classes that have cells; `absent` lists the others.

    Attributes
    ----------
    confusion
        Cells by class, ``(C, C)``: rows are the truth, columns what was predicted; all classes of the model.
    """

    headline = ("macro_f1", "accuracy", "roc_auc")

    confusion: NDArray[np.int64]

    def details(self) -> list[str]:
        """Sections of a text: what was left out, a table of the classes, and the confusion matrix."""
        rows = [
            [name, *(f"{count:,}" for count in counts)]
            for name, counts in zip(self.classes, self.confusion, strict=True)
        ]
        table = markdown_table(["truth", *self.classes], rows)
        return [*super().details(), "## Confusion matrix", "Rows are the truth, columns what was predicted.", table]


@dataclass(frozen=True, kw_only=True, eq=False, repr=False)
class LabelSetEvaluation(PerClass):
    """How well any number of labels per cell were predicted.

    Averages over labels ("macro", areas) are over the labels that some cell has.

    Attributes
    ----------
    threshold
        Probability from which a label is predicted.
    """

    headline = ("macro_f1", "micro_f1", "roc_auc")

    threshold: float = 0.5

    def details(self) -> list[str]:
        """Sections of a text: the threshold, what was left out, and a table of the labels."""
        return [f"Labels count as predicted from a probability of {self.threshold}.", *super().details()]


class NumberEvaluation(Figures):
    """How well a number per cell was predicted: squared and absolute error, R2, Pearson and Spearman correlation."""

    headline = ("r2", "pearson", "mae")


class GeneEvaluation(Evaluation):
    """Figures over genes, each by its probability averaged over the cells it occurs in."""

    unit = "gene"


class TokenEvaluation(Evaluation):
    """Figures over single occurrences of genes in cells, as published; common genes weigh more."""

    unit = "occurrence"


@dataclass(frozen=True, kw_only=True, eq=False, repr=False)
class FoldedEvaluation(GeneEvaluation):
    """Figures over the genes held out in all folds, and those of every fold.

    What counts genes is over all of them: each was held out once. `roc_auc` and `average_precision` are means over the
    folds, since every fold has a network of its own; `roc_auc_sd` is the standard deviation of the former. Intervals
    come from resampling genes, within their folds where a figure is a mean over folds. The `token_` figures are means
    over the folds, of single occurrences.

    Attributes
    ----------
    folds
        Figures of every fold, over genes.
    occurrences
        Figures of every fold, over single occurrences.
    """

    headline = ("roc_auc", "macro_f1", "accuracy")

    folds: tuple[GeneEvaluation, ...]
    occurrences: tuple[TokenEvaluation, ...]

    def details(self) -> list[str]:
        """Sections of a text: the folds, then what every evaluation has."""
        if len(self.folds) < 2:
            return super().details()
        figures = ("roc_auc", "accuracy", "macro_f1")
        header = ["fold", "genes", *map(metric_name, figures)]
        header += ["occurrences", *(f"{metric_name(name)}, occurrences" for name in figures)]
        rows = [
            [str(number)]
            + [text for part in pair for text in (f"{part.n:,}", *(number_text(part.metrics[f].mean) for f in figures))]
            for number, pair in enumerate(zip(self.folds, self.occurrences, strict=True), start=1)
        ]
        note = (
            "The areas in the first table are means over the folds, with the standard deviation of ROC AUC next to "
            "them; those below, class by class, are over the genes of all folds together."
        )
        return ["## Folds", markdown_table(header, rows), note, *super().details()]


def to_json(value: Any) -> Any:
    """Figures as JSON can hold them: dataclasses as objects, named tuples as lists, NaN as null."""
    if dataclasses.is_dataclass(value):
        return {entry.name: to_json(getattr(value, entry.name)) for entry in dataclasses.fields(value)}
    if isinstance(value, Mapping):
        return {name: to_json(entry) for name, entry in value.items()}
    if isinstance(value, list | tuple):
        return [to_json(entry) for entry in value]
    if isinstance(value, np.ndarray | np.integer):
        return value.tolist()
    if isinstance(value, float | np.floating):
        return None if math.isnan(value) else float(value)
    return value


def from_json(kind: Any, content: Any) -> Any:
    """The inverse of `to_json`, for a type."""
    origin, inner = get_origin(kind), get_args(kind)
    if origin is None and hasattr(kind, "_fields"):
        hints = get_type_hints(kind)
        return kind(*(from_json(hints[name], entry) for name, entry in zip(kind._fields, content, strict=True)))
    if dataclasses.is_dataclass(kind):
        hints = get_type_hints(kind)
        names = [entry.name for entry in dataclasses.fields(kind)]
        return kind(**{name: from_json(hints[name], content[name]) for name in names})  # type: ignore[operator]
    if origin is tuple:
        return tuple(from_json(inner[0], entry) for entry in content)
    if origin is Mapping:
        return {name: from_json(inner[1], entry) for name, entry in content.items()}
    if origin is np.ndarray:
        return np.array(content, dtype=get_args(inner[1])[0])
    return math.nan if kind is float and content is None else content


NAMES = {
    "macro_f1": "macro F1",
    "micro_f1": "micro F1",
    "weighted_f1": "weighted F1",
    "roc_auc": "ROC AUC",
    "roc_auc_sd": "SD of ROC AUC",
    "token_accuracy": "accuracy, occurrences",
    "token_macro_f1": "macro F1, occurrences",
    "token_roc_auc": "ROC AUC, occurrences",
    "mse": "MSE",
    "mae": "MAE",
    "r2": "R2",
    "pearson": "Pearson r",
    "spearman": "Spearman rho",
}
"""Names of figures in tables, where they are not the key without its underscores."""


def metric_name(name: str) -> str:
    """A figure's name as readers know it."""
    return NAMES.get(name, name.replace("_", " "))


def number_text(value: float) -> str:
    """A figure as tables show it: three decimals, or three digits where it is very small or large."""
    if math.isnan(value):
        return UNDEFINED
    return f"{value:.3f}" if value == 0 or 0.001 <= abs(value) < 1000 else f"{value:.3g}"


def markdown_table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A table; the first column is set left, the others right."""
    lines = [[" ".join(cell.split()).replace("|", "\\|") for cell in line] for line in (header, *rows)]
    lines.insert(1, [":--", *["--:"] * (len(header) - 1)])
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def metrics_table(measured: Mapping[str, Mapping[str, Estimate]]) -> str:
    """One row per model or baseline, one column per figure that any of them has."""
    names = list(dict.fromkeys(name for metrics in measured.values() for name in metrics))
    return markdown_table(
        ["", *map(metric_name, names)],
        [[model, *(str(metrics.get(name, UNDEFINED)) for name in names)] for model, metrics in measured.items()],
    )
