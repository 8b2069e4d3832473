"""How well classes were predicted in held-out cells: figures with intervals, class by class, beside baselines."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any, NamedTuple, Self

import numpy as np
from numpy.typing import NDArray

from geneformer import keys
from geneformer.errors import OptionError
from geneformer.results.estimates import Estimate, Measured, known, measured_fields, told, unknown
from geneformer.results.report_tables import markdown_table
from geneformer.results.reports import Report

if TYPE_CHECKING:
    import pyarrow as pa

__all__ = ["ClassRow", "ClassificationReport", "Estimate", "Evaluation", "PerClass", "PrCurve", "RocCurve"]

FIGURES = ("precision", "recall", "f1", "roc_auc", "average_precision")
"""Figures of one class."""

PROBABILITY = "probability_"
"""Prefix of the columns with the probability of each class."""


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
        Share of the cells of the class that were found.
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


@dataclass(frozen=True, kw_only=True, eq=False)
class PerClass(Measured):
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

    def to_dict(self) -> dict[str, Any]:
        """Everything as JSON can hold it; what is not defined is None."""
        rows = [
            {name: known(value) if isinstance(value, float) else value for name, value in asdict(row).items()}
            for row in self.per_class
        ]
        return super().to_dict() | {
            "classes": list(self.classes),
            "per_class": rows,
            "roc": {name: _plain(curve) for name, curve in self.roc.items()},
            "pr": {name: _plain(curve) for name, curve in self.pr.items()},
        }

    def details(self) -> list[str]:
        """Sections of a text: what was left out, and a table of the classes."""
        header = ["class", "precision", "recall", "F1", "ROC AUC", "average precision", f"{self.unit}s"]
        rows = [[row.name, *(told(getattr(row, name)) for name in FIGURES), f"{row.n:,}"] for row in self.per_class]
        sections = ["## Classes", markdown_table(header, rows)]
        if self.absent:
            listed = ", ".join(self.absent)
            sections.insert(0, f"No {self.unit} measured is of {listed}: averages over classes leave such classes out.")
        return sections


@dataclass(frozen=True, kw_only=True, eq=False)
class Evaluation(PerClass):
    """How well one class per cell was predicted.

    Averages over classes ("macro", "balanced", areas) are over the classes that have cells.

    Attributes
    ----------
    confusion
        Cells by class, ``(C, C)``: rows are the truth, columns what was predicted; all classes of the model.
    """

    confusion: NDArray[np.int64]

    def to_dict(self) -> dict[str, Any]:
        """Everything as JSON can hold it; what is not defined is None."""
        return super().to_dict() | {"confusion": self.confusion.tolist()}

    @classmethod
    def from_dict(cls, content: Mapping[str, Any]) -> Self:
        """The evaluation that `to_dict` described."""
        n = len(content["classes"])
        confusion = np.array(content["confusion"], dtype=np.int64).reshape(n, n)
        return cls(confusion=confusion, **per_class_fields(content))

    def details(self) -> list[str]:
        """Sections of a text: what was left out, a table of the classes, and the confusion matrix."""
        rows = [
            [name, *(f"{count:,}" for count in counts)]
            for name, counts in zip(self.classes, self.confusion, strict=True)
        ]
        table = markdown_table(["truth", *self.classes], rows)
        return [*super().details(), "## Confusion matrix", "Rows are the truth, columns what was predicted.", table]


@dataclass(frozen=True, kw_only=True, eq=False)
class ClassificationReport(Report):
    """A classifier on held-out cells, beside its baselines, with every prediction.

    Attributes
    ----------
    truth
        Class of each cell as a position in ``evaluation.classes``, ``(n,)``; -1 for no label.
    predicted
        Class predicted, likewise.
    proba
        Probability of each class, ``(n, C)``.

    The others are those of `Report`.
    """

    kind = "classes"

    evaluation: Evaluation
    truth: NDArray[np.int64]
    predicted: NDArray[np.int64]
    proba: NDArray[Any]

    def _columns(self) -> dict[str, Any]:
        classes = self.evaluation.classes
        if self.proba.shape != (len(self.truth), len(classes)):
            msg = (
                f"proba has the shape {self.proba.shape} for {len(self.truth):,} cells and {len(classes)} classes; "
                f"it takes {(len(self.truth), len(classes))}."
            )
            raise OptionError(msg)
        names = {"truth": class_names(self.truth, classes), "predicted": class_names(self.predicted, classes)}
        return names | {f"{PROBABILITY}{name}": self.proba[:, i] for i, name in enumerate(classes)}

    def _details(self) -> list[str]:
        return self.evaluation.details()

    @classmethod
    def _read(cls, content: Mapping[str, Any], table: "pa.Table") -> Self:
        evaluation = Evaluation.from_dict(content["evaluation"])
        codes = {name: i for i, name in enumerate(evaluation.classes)} | {None: -1}
        columns = {
            name: np.array([codes[value] for value in table[name].to_pylist()], dtype=np.int64)
            for name in ("truth", "predicted")
        }
        return cls(
            evaluation=evaluation,
            baselines={name: Evaluation.from_dict(found) for name, found in content["baselines"].items()},
            cell_ids=np.array(table[keys.CELL_ID].to_pylist(), dtype=object),
            proba=probabilities(table, evaluation.classes),
            settings=content["settings"],
            **columns,
        )


def class_names(codes: NDArray[np.int64], classes: tuple[str, ...]) -> "pa.Array":
    """Names of classes by code, ``(n,)``; nothing where the code is -1."""
    import pyarrow as pa

    return pa.array(np.array([*classes, None], dtype=object)[np.asarray(codes)], pa.string())


def probabilities(table: "pa.Table", classes: tuple[str, ...]) -> NDArray[Any]:
    """Probabilities in a table of predictions, ``(n, C)``."""
    columns = [table[f"{PROBABILITY}{name}"].to_numpy() for name in classes]
    return np.stack(columns, axis=1)


def per_class_fields(content: Mapping[str, Any]) -> dict[str, Any]:
    """Arguments of `PerClass` from what its `to_dict` made."""
    rows = tuple(ClassRow(**row | {name: unknown(row[name]) for name in FIGURES}) for row in content["per_class"])
    roc = {name: RocCurve(np.array(x), np.array(y), unknown(area)) for name, (x, y, area) in content["roc"].items()}
    pr = {name: PrCurve(np.array(x), np.array(y), unknown(area)) for name, (x, y, area) in content["pr"].items()}
    classes = tuple(content["classes"])
    return measured_fields(content) | {"classes": classes, "per_class": rows, "roc": roc, "pr": pr}


def _plain(curve: RocCurve | PrCurve) -> list[Any]:
    return [curve[0].tolist(), curve[1].tolist(), known(curve[2])]
