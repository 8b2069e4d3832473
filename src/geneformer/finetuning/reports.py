"""What every report on held-out cells is: the model beside its baselines, every prediction, and a folder of files."""

import json
import math
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import asdict, dataclass, field, fields
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal, NamedTuple, Self

import numpy as np
from numpy.typing import NDArray

from geneformer import keys
from geneformer.errors import DatasetError, InputNotFoundError, OptionError, UnreadableInputError
from geneformer.files.atomic import atomic_file, check_output
from geneformer.genes.vocabulary import Vocabulary
from geneformer.inference.tables import cells_as_anndata, check_suffix, write_table
from geneformer.options._fields import check_choice

if TYPE_CHECKING:
    import pandas as pd
    import pyarrow as pa
    from anndata import AnnData

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
        if math.isnan(self.mean):
            return UNDEFINED
        if math.isnan(self.low):
            return told(self.mean)
        return f"{told(self.mean)} ({told(self.low)} to {told(self.high)})"


@dataclass(frozen=True, kw_only=True, eq=False)
class Measured:
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

    n: int
    metrics: Mapping[str, Estimate]
    n_unlabeled: int = 0
    n_groups: int | None = None
    draws: Mapping[str, int] = field(default_factory=dict)
    seed: int = 0

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Measured) or type(self) is not type(other):
            return NotImplemented
        return self.to_dict() == other.to_dict()

    __hash__ = None  # type: ignore[assignment]

    def to_dict(self) -> dict[str, Any]:
        """Everything as JSON can hold it; what is not defined is None."""
        return {
            "n": self.n,
            "n_unlabeled": self.n_unlabeled,
            "n_groups": self.n_groups,
            "seed": self.seed,
            "draws": dict(self.draws),
            "metrics": {
                name: {"mean": known(found.mean), "low": known(found.low), "high": known(found.high)}
                for name, found in self.metrics.items()
            },
        }

    def told_size(self) -> str:
        """One sentence on the cells, and one on the intervals."""
        left_out = f"; {self.n_unlabeled:,} without a label left out" if self.n_unlabeled else ""
        drawn = {count for count in self.draws.values() if count}
        if not drawn:
            return f"{self.n:,} {self.unit}s{left_out}. No intervals."
        what = f"{self.unit}s" if self.n_groups is None else f"{self.n_groups:,} whole groups"
        often = f"{min(drawn):,}" if len(drawn) == 1 else f"{min(drawn):,} to {max(drawn):,}"
        return f"{self.n:,} {self.unit}s{left_out}. In parentheses: 95% intervals from {often} resamples of {what}."


def measured_fields(content: Mapping[str, Any]) -> dict[str, Any]:
    """Arguments of `Measured` from what its `to_dict` made."""
    names = ("n", "n_unlabeled", "n_groups", "seed", "draws")
    metrics = {
        name: Estimate(**{part: unknown(value) for part, value in found.items()})
        for name, found in content["metrics"].items()
    }
    return {name: content[name] for name in names} | {"metrics": metrics}


def known(value: float) -> float | None:
    """A number as JSON can hold it: None for NaN."""
    return None if math.isnan(value) else float(value)


def unknown(value: float | None) -> float:
    """The inverse of `known`."""
    return math.nan if value is None else value


def told(value: float) -> str:
    """A figure as tables show it: three decimals, or three digits where it is very small or large."""
    if math.isnan(value):
        return UNDEFINED
    return f"{value:.3f}" if value == 0 or 0.001 <= abs(value) < 1000 else f"{value:.3g}"


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


def markdown_table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A table; the first column is set left, the others right."""
    lines = [_line(header), _line([":--", *["--:"] * (len(header) - 1)], escape=False)]
    return "\n".join([*lines, *(_line(row) for row in rows)])


def metrics_table(measured: Mapping[str, Mapping[str, Estimate]]) -> str:
    """One row per model or baseline, one column per figure that any of them has."""
    names = list(dict.fromkeys(name for metrics in measured.values() for name in metrics))
    return markdown_table(
        ["", *(metric_name(name) for name in names)],
        [[model, *(str(found.get(name, UNDEFINED)) for name in names)] for model, found in measured.items()],
    )


def metric_name(name: str) -> str:
    """A figure's name as readers know it."""
    return NAMES.get(name, name.replace("_", " "))


def _line(cells: Sequence[str], *, escape: bool = True) -> str:
    if escape:
        cells = [" ".join(cell.split()).replace("|", "\\|") for cell in cells]
    return f"| {' | '.join(cells)} |"


REPORT, TEXT, PREDICTIONS = "report.json", "report.md", "predictions.parquet"
"""Files of a report."""

MODEL = "model"
"""Row of the model in the table of figures."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Report:
    """Figures of a model beside those of baselines on the same cells, with the predictions behind them.

    Attributes
    ----------
    evaluation
        Figures of the model.
    baselines
        Figures of what it has to beat, by name, measured on the same cells.
    cell_ids
        Names of the cells, ``(n,)``; row numbers if None was given.
    settings
        How the model was made and the cells were split; anything JSON can hold.
    """

    kind: ClassVar[str]
    """Name of this sort of report in its files."""

    evaluation: Measured
    cell_ids: NDArray[Any] | None = None
    baselines: Mapping[str, Measured] = field(default_factory=dict)
    settings: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        columns = self._columns()
        sizes = {name: len(column) for name, column in columns.items()}
        n = next(iter(sizes.values()))
        ids = [str(i) for i in range(n)] if self.cell_ids is None else [str(name) for name in self.cell_ids]
        if set(sizes.values()) | {len(ids)} != {n}:
            msg = f"A report takes one row per cell in everything; found {len(ids):,} cell ids and {sizes}."
            raise OptionError(msg)
        object.__setattr__(self, "cell_ids", np.array(ids, dtype=object))
        object.__setattr__(self, "settings", json.loads(json.dumps(dict(self.settings), default=str)))
        object.__setattr__(self, "baselines", dict(self.baselines))

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Report) or type(self) is not type(other):
            return NotImplemented
        same = self.predictions().to_pandas().equals(other.predictions().to_pandas())  # NaN equals NaN there
        return bool(same) and self.to_dict() == other.to_dict()

    __hash__ = None  # type: ignore[assignment]

    def to_dict(self) -> dict[str, Any]:
        """Figures and settings as JSON can hold them, without the predictions."""
        return {
            "kind": self.kind,
            "evaluation": self.evaluation.to_dict(),
            "baselines": {name: found.to_dict() for name, found in self.baselines.items()},
            "settings": dict(self.settings),
        }

    def to_markdown(self) -> str:
        """The report to read: figures of the model and of every baseline in one table, then the details."""
        rows = {MODEL: self.evaluation.metrics} | {name: found.metrics for name, found in self.baselines.items()}
        return "\n\n".join([self.evaluation.told_size(), metrics_table(rows), *self._details()]) + "\n"

    def predictions(self) -> "pa.Table":
        """One row per cell: `cell_id`, `truth`, `predicted`, and whatever else was predicted."""
        import pyarrow as pa

        return pa.table({keys.CELL_ID: pa.array(self.cell_ids, pa.string()), **self._columns()})

    def save(self, folder: str | Path, *, overwrite: bool = False) -> None:
        """Write `report.json`, `report.md` and `predictions.parquet` into a folder, which may hold other files.

        Parameters
        ----------
        folder
            Folder; made if there is none.
        overwrite
            Replace a report that is there.

        Raises
        ------
        OutputExistsError
            There is a report already.
        OutputError
            The place cannot be written to.
        """
        from pyarrow import parquet

        folder = Path(folder)
        if not folder.exists():
            check_output(folder)
            folder.mkdir()
        for name in (PREDICTIONS, TEXT, REPORT):
            check_output(folder / name, overwrite=overwrite)
        (folder / REPORT).unlink(missing_ok=True)  # a half-replaced report must not read as a whole one
        with atomic_file(folder / PREDICTIONS, overwrite=overwrite) as temporary:
            parquet.write_table(self.predictions(), temporary)
        with atomic_file(folder / TEXT, overwrite=overwrite) as temporary:
            temporary.write_text(self.to_markdown(), encoding="utf-8")
        with atomic_file(folder / REPORT, overwrite=overwrite) as temporary:
            temporary.write_text(json.dumps(self.to_dict(), allow_nan=False) + "\n", encoding="utf-8")

    @classmethod
    def load(cls, folder: str | Path) -> Self:
        """The report in a folder, equal to the one that was saved there.

        Raises
        ------
        InputNotFoundError
            No report is there.
        UnreadableInputError
            A file is damaged.
        DatasetError
            The report is of another kind.
        """
        from pyarrow import ArrowInvalid, parquet

        folder = Path(folder)
        for name in (REPORT, PREDICTIONS):
            if not (folder / name).is_file():
                msg = f'There is no "{folder / name}". Give the folder that a report was saved to.'
                raise InputNotFoundError(msg)
        try:
            content = json.loads((folder / REPORT).read_text(encoding="utf-8"))
            kind = content["kind"]
            found = cls._read(content, parquet.read_table(folder / PREDICTIONS)) if kind == cls.kind else None
        except (ValueError, KeyError, TypeError, ArrowInvalid) as error:
            msg = f'The report in "{folder}" cannot be read ({error}). It is damaged or incomplete; save it again.'
            raise UnreadableInputError(msg) from error
        if found is None:
            msg = f'"{folder / REPORT}" is a report on {kind}, not on {cls.kind}. Load it with the class for those.'
            raise DatasetError(msg)
        return found

    def _columns(self) -> dict[str, Any]:
        """Predictions as columns of a table."""
        raise NotImplementedError

    def _details(self) -> list[str]:
        """Sections of the text below the table of figures."""
        raise NotImplementedError

    @classmethod
    def _read(cls, content: Mapping[str, Any], table: "pa.Table") -> Self:
        """The report from what its two files hold."""
        raise NotImplementedError


KIND = "set"
"""What the file of a set calls itself."""


class ReportSet(dict[str, Report]):
    """Reports by name: those of several tasks, or of several quantities.

    Examples
    --------
    >>> from geneformer.finetuning.reports import ReportSet
    >>> ReportSet().to_dict()
    {'kind': 'set', 'reports': {}}
    """

    def to_dict(self) -> dict[str, Any]:
        """Figures and settings as JSON can hold them, without the predictions."""
        return {"kind": KIND, "reports": {name: report.to_dict() for name, report in self.items()}}

    def to_markdown(self) -> str:
        """The reports one below the other."""
        return "\n".join(f"# {name}\n\n{report.to_markdown()}" for name, report in self.items())

    def save(self, folder: str | Path, *, overwrite: bool = False) -> None:
        """Write `report.json` and `report.md`, and each report into a folder of its own.

        Parameters
        ----------
        folder
            Folder; made if there is none.
        overwrite
            Replace reports that are there.

        Raises
        ------
        OutputExistsError
            There is a report already.
        OutputError
            The place cannot be written to.
        """
        folder = Path(folder)
        if not folder.exists():
            check_output(folder)
            folder.mkdir()
        for name in (REPORT, TEXT):
            check_output(folder / name, overwrite=overwrite)
        (folder / REPORT).unlink(missing_ok=True)
        places = {name: f"{i}_{re.sub(r'[^0-9A-Za-z.-]+', '_', name)[:60]}" for i, name in enumerate(self)}
        for name, report in self.items():
            report.save(folder / places[name], overwrite=overwrite)
        with atomic_file(folder / TEXT, overwrite=overwrite) as temporary:
            temporary.write_text(self.to_markdown(), encoding="utf-8")
        content = {
            "kind": KIND,
            "reports": {name: {"folder": places[name], "kind": report.kind} for name, report in self.items()},
        }
        with atomic_file(folder / REPORT, overwrite=overwrite) as temporary:
            temporary.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")

    @classmethod
    def load(cls, folder: str | Path) -> Self:
        """The reports in a folder, equal to those saved there.

        Raises
        ------
        InputNotFoundError
            No reports are there.
        UnreadableInputError
            A file is damaged.
        DatasetError
            The folder holds a single report.
        """
        folder = Path(folder)
        if not (folder / REPORT).is_file():
            msg = f'There is no "{folder / REPORT}". Give the folder that reports were saved to.'
            raise InputNotFoundError(msg)
        try:
            content = json.loads((folder / REPORT).read_text(encoding="utf-8"))
            kind = content["kind"]
            entries = [(str(name), Path(e["folder"]).name, _KINDS[e["kind"]]) for name, e in content["reports"].items()]
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            msg = f'The reports in "{folder}" cannot be read ({error!r}). They are damaged; save them again.'
            if isinstance(error, KeyError) and error.args == ("reports",):
                msg = f'"{folder / REPORT}" is a single report on {kind}. Load it with the class for those.'
                raise DatasetError(msg) from error
            raise UnreadableInputError(msg) from error
        return cls({name: home.load(folder / place) for name, place, home in entries})


def load_report(folder: str | Path) -> Report | ReportSet:
    """Whatever report a folder holds: a single one of any kind, or several."""
    folder = Path(folder)
    try:
        kind = json.loads((folder / REPORT).read_text(encoding="utf-8"))["kind"]
        home = _KINDS[kind] if kind != KIND else None
    except FileNotFoundError:
        home = None  # the set tells it
    except (ValueError, KeyError, TypeError) as error:
        msg = f'The report in "{folder}" cannot be read ({error!r}). It is damaged; save it again.'
        raise UnreadableInputError(msg) from error
    return ReportSet.load(folder) if home is None else home.load(folder)


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


TRUTH = "truth_"
"""Prefix of the columns with the truth about each label."""


@dataclass(frozen=True, kw_only=True, eq=False)
class LabelSetEvaluation(PerClass):
    """How well any number of labels per cell were predicted.

    Averages over labels ("macro", areas) are over the labels that some cell has.

    Attributes
    ----------
    threshold
        Probability from which a label is predicted.
    """

    threshold: float = 0.5

    def to_dict(self) -> dict[str, Any]:
        """Everything as JSON can hold it; what is not defined is None."""
        return super().to_dict() | {"threshold": self.threshold}

    @classmethod
    def from_dict(cls, content: Mapping[str, Any]) -> Self:
        """The evaluation that `to_dict` described."""
        return cls(threshold=content["threshold"], **per_class_fields(content))


@dataclass(frozen=True, kw_only=True, eq=False)
class LabelSetReport(Report):
    """A classifier of label sets on held-out cells, beside its baselines, with every prediction.

    Attributes
    ----------
    truth
        Whether each cell has each label, ``(n, C)``: 0, 1, or NaN where it is not known.
    proba
        Probability of each label, ``(n, C)``.

    The others are those of `Report`.
    """

    kind = "label sets"

    evaluation: LabelSetEvaluation
    truth: NDArray[Any]
    proba: NDArray[Any]

    @property
    def predicted(self) -> NDArray[np.bool_]:
        """Whether each label is predicted, ``(n, C)``."""
        above: NDArray[np.bool_] = self.proba >= self.evaluation.threshold
        return above

    def _columns(self) -> dict[str, Any]:
        classes = self.evaluation.classes
        if self.proba.shape != self.truth.shape or self.proba.shape[1:] != (len(classes),):
            found = f"truth has the shape {self.truth.shape} and proba {self.proba.shape}"
            msg = f"{found}; both take one row per cell and one column for each of {len(classes)} labels."
            raise OptionError(msg)
        truth = {f"{TRUTH}{name}": self.truth[:, i] for i, name in enumerate(classes)}
        return truth | {f"{PROBABILITY}{name}": self.proba[:, i] for i, name in enumerate(classes)}

    def _details(self) -> list[str]:
        return [
            f"Labels count as predicted from a probability of {self.evaluation.threshold}.",
            *self.evaluation.details(),
        ]

    @classmethod
    def _read(cls, content: Mapping[str, Any], table: "pa.Table") -> Self:
        evaluation = LabelSetEvaluation.from_dict(content["evaluation"])
        return cls(
            evaluation=evaluation,
            baselines={name: LabelSetEvaluation.from_dict(found) for name, found in content["baselines"].items()},
            cell_ids=np.array(table[keys.CELL_ID].to_pylist(), dtype=object),
            truth=np.stack([table[f"{TRUTH}{name}"].to_numpy() for name in evaluation.classes], axis=1),
            proba=probabilities(table, evaluation.classes),
            settings=content["settings"],
        )


@dataclass(frozen=True, kw_only=True, eq=False)
class NumberEvaluation(Measured):
    """How well a number per cell was predicted: squared and absolute error, R2, Pearson and Spearman correlation."""

    @classmethod
    def from_dict(cls, content: Mapping[str, Any]) -> Self:
        """The evaluation that `to_dict` described."""
        return cls(**measured_fields(content))


@dataclass(frozen=True, kw_only=True, eq=False)
class NumberReport(Report):
    """A regression on held-out cells, beside its baselines, with every prediction.

    Attributes
    ----------
    truth
        The number of each cell, ``(n,)``; NaN where it is not known.
    predicted
        The number predicted, ``(n,)``.

    The others are those of `Report`.
    """

    kind = "numbers"

    evaluation: NumberEvaluation
    truth: NDArray[Any]
    predicted: NDArray[Any]

    def _columns(self) -> dict[str, Any]:
        return {"truth": np.asarray(self.truth), "predicted": np.asarray(self.predicted)}

    def _details(self) -> list[str]:
        return []

    @classmethod
    def _read(cls, content: Mapping[str, Any], table: "pa.Table") -> Self:
        return cls(
            evaluation=NumberEvaluation.from_dict(content["evaluation"]),
            baselines={name: NumberEvaluation.from_dict(found) for name, found in content["baselines"].items()},
            cell_ids=np.array(table[keys.CELL_ID].to_pylist(), dtype=object),
            truth=table["truth"].to_numpy(),
            predicted=table["predicted"].to_numpy(),
            settings=content["settings"],
        )


GENE, SYMBOL, FOLD, N_CELLS = "gene", "symbol", "fold", "n_cells"
"""Columns of tables of genes, beside truth, prediction and probabilities."""

_FIGURES = ("roc_auc", "accuracy", "macro_f1")


class GeneEvaluation(Evaluation):
    """Figures over genes, each by its probability averaged over the cells it occurs in."""

    unit = "gene"


class TokenEvaluation(Evaluation):
    """Figures over single occurrences of genes in cells, as published; common genes weigh more."""

    unit = "occurrence"


@dataclass(frozen=True, kw_only=True, eq=False)
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

    folds: tuple[GeneEvaluation, ...]
    occurrences: tuple[TokenEvaluation, ...]

    def to_dict(self) -> dict[str, Any]:
        """Everything as JSON can hold it; what is not defined is None."""
        nested = {"folds": self.folds, "occurrences": self.occurrences}
        return super().to_dict() | {name: [found.to_dict() for found in part] for name, part in nested.items()}

    @classmethod
    def from_dict(cls, content: Mapping[str, Any]) -> Self:
        """The evaluation that `to_dict` described."""
        whole = Evaluation.from_dict(content)
        return cls(
            **{field.name: getattr(whole, field.name) for field in fields(Evaluation)},
            folds=tuple(GeneEvaluation.from_dict(found) for found in content["folds"]),
            occurrences=tuple(TokenEvaluation.from_dict(found) for found in content["occurrences"]),
        )

    def details(self) -> list[str]:
        """Sections of a text: the folds, then what every evaluation tells."""
        if len(self.folds) < 2:
            return super().details()
        header = ["fold", "genes", "ROC AUC", "accuracy", "macro F1"]
        header += ["occurrences", *(f"{name}, occurrences" for name in header[2:5])]
        rows = [
            [str(number), *_row(genes), *_row(tokens)]
            for number, (genes, tokens) in enumerate(zip(self.folds, self.occurrences, strict=True), start=1)
        ]
        note = (
            "The areas in the first table are means over the folds, with the standard deviation of ROC AUC beside "
            "them; those below, class by class, are over the genes of all folds together."
        )
        return ["## Folds", markdown_table(header, rows), note, *super().details()]


@dataclass(frozen=True, kw_only=True, eq=False)
class GeneReport(ClassificationReport):
    """A classifier of genes on genes it did not learn from, beside its baselines, with every prediction.

    Attributes
    ----------
    symbols
        Symbol of each gene, ``(n,)``; `cell_ids` holds the Ensembl ids.
    folds
        Fold each gene was held out in, from 1, ``(n,)``.
    n_cells
        Cells its probabilities are averaged over, ``(n,)``.

    The others are those of `ClassificationReport`.
    """

    kind = "genes"

    evaluation: FoldedEvaluation
    symbols: NDArray[Any]
    folds: NDArray[np.int64]
    n_cells: NDArray[np.int64]

    def by_fold(self, of: Literal["genes", "occurrences"] = "genes") -> dict[str, Evaluation]:
        """Figures of every fold by its name, such as `gf.pl.roc` draws beside each other.

        Parameters
        ----------
        of
            Whether every gene counts once, or every occurrence of one.
        """
        check_choice("of", of, ("genes", "occurrences"))
        found = self.evaluation.folds if of == "genes" else self.evaluation.occurrences
        return {f"{FOLD} {number}": figures for number, figures in enumerate(found, start=1)}

    def predictions(self) -> "pa.Table":
        """One row per gene: `gene`, `symbol`, `fold`, `n_cells`, `truth`, `predicted`, and each class's probability."""
        table = super().predictions()
        return table.rename_columns([GENE, *table.column_names[1:]])

    def _columns(self) -> dict[str, Any]:
        import pyarrow as pa

        about = {SYMBOL: pa.array([str(name) for name in self.symbols], pa.string())}
        numbers = {FOLD: np.asarray(self.folds), N_CELLS: np.asarray(self.n_cells)}
        return about | numbers | super()._columns()

    @classmethod
    def _read(cls, content: Mapping[str, Any], table: "pa.Table") -> Self:
        evaluation = FoldedEvaluation.from_dict(content["evaluation"])
        codes = {name: code for code, name in enumerate(evaluation.classes)} | {None: -1}
        columns = {
            name: np.array([codes[value] for value in table[name].to_pylist()], dtype=np.int64)
            for name in ("truth", "predicted")
        }
        return cls(
            evaluation=evaluation,
            baselines={name: FoldedEvaluation.from_dict(found) for name, found in content["baselines"].items()},
            cell_ids=np.array(table[GENE].to_pylist(), dtype=object),
            symbols=np.array(table[SYMBOL].to_pylist(), dtype=object),
            folds=table[FOLD].to_numpy(),
            n_cells=table[N_CELLS].to_numpy(),
            proba=probabilities(table, evaluation.classes),
            settings=content["settings"],
            **columns,
        )


def _row(found: Evaluation) -> list[str]:
    return [f"{found.n:,}", *(told(found.metrics[name].mean) for name in _FIGURES)]


EXPRESSION_GENE = "gene"
"""Column with the gene of each prediction."""

RANK = "rank"
"""Layer of predicted ranks."""


@dataclass(frozen=True, kw_only=True, eq=False)
class ExpressionReport(NumberReport):
    """Predicted numbers of genes in cells, beside their baselines: one row per cell and gene.

    Attributes
    ----------
    genes
        Ensembl id of each gene, ``(n,)``.

    The others are those of `NumberReport`.
    """

    kind = "expression"

    genes: NDArray[Any]

    def _columns(self) -> dict[str, Any]:
        return {EXPRESSION_GENE: np.asarray(self.genes, dtype=object), **super()._columns()}

    @classmethod
    def _read(cls, content: Mapping[str, Any], table: "pa.Table") -> Self:
        return cls(
            evaluation=NumberEvaluation.from_dict(content["evaluation"]),
            baselines={name: NumberEvaluation.from_dict(found) for name, found in content["baselines"].items()},
            cell_ids=np.array(table[keys.CELL_ID].to_pylist(), dtype=object),
            genes=np.array(table[EXPRESSION_GENE].to_pylist(), dtype=object),
            truth=table["truth"].to_numpy(),
            predicted=table["predicted"].to_numpy(),
            settings=content["settings"],
        )


def expression_anndata(
    predicted: NDArray[np.float32],
    starts: NDArray[np.int64],
    genes: NDArray[np.int64],
    *,
    names: NDArray[Any],
    places: NDArray[np.int64],
    wanted: NDArray[np.int64] | None,
    vocabulary: Vocabulary,
    provenance: Mapping[str, Any],
) -> "AnnData":
    """Predicted values as `X` and ranks as a layer: dense for wanted genes, else sparse over the whole vocabulary."""
    import anndata as ad
    import pandas as pd
    from scipy import sparse

    column_of = np.full(vocabulary.size, -1, dtype=np.int64)
    column_of[vocabulary.token_ids] = np.arange(len(vocabulary.genes))
    sides: list[Any] = []
    for side in range(2):
        if wanted is not None:
            whole = np.full((len(names), len(wanted)), np.nan, dtype=np.float32)
            whole[places] = predicted[:, side].reshape(len(places), len(wanted))
            sides.append(whole)
            continue
        where = (np.repeat(places, np.diff(starts)), column_of[genes])
        shape = (len(names), len(vocabulary.genes))
        sides.append(sparse.csr_matrix((predicted[:, side], where), shape=shape))
    ids = vocabulary.genes if wanted is None else vocabulary.gene_of[wanted]
    var = pd.DataFrame({"symbol": [vocabulary.symbol_of(gene) for gene in ids]}, index=pd.Index(ids))
    obs = pd.DataFrame(index=pd.Index(names))
    return ad.AnnData(sides[0], obs=obs, var=var, layers={RANK: sides[1]}, uns={keys.UNS: dict(provenance)})


SUFFIXES = (".h5ad", ".parquet", ".csv")
"""Files expression is written to."""

EXPRESSION_TABLES_SYMBOL, VALUE = "symbol", "value"
"""Columns of the table beside cell, gene and rank."""


def save_expression(
    blocks: Iterator["AnnData"], path: str | Path, provenance: Mapping[str, Any], *, overwrite: bool = False
) -> tuple[int, int]:
    """Write predicted expression, complete or not at all; tables block by block."""
    path = check_suffix(path, SUFFIXES)
    first = next(blocks)
    with atomic_file(path, overwrite=overwrite) as temporary:
        if path.suffix == ".h5ad":
            first.write_h5ad(temporary)
            return first.n_obs, first.X.size
        n_cells = n_values = 0
        with _writer(temporary, expression_table(first).schema, provenance) as writer:
            for block in chain([first], blocks):
                table = expression_table(block)
                writer.write_table(table)
                n_cells, n_values = n_cells + block.n_obs, n_values + table.num_rows
    return n_cells, n_values


def expression_table(block: "AnnData") -> "pa.Table":
    """One row per cell and predicted gene: `cell_id`, `gene`, `symbol`, `value`, `rank`."""
    import pyarrow as pa
    from scipy import sparse

    values: Any = block.X
    ranks: Any = block.layers[RANK]
    if sparse.issparse(block.X):
        cells, genes = np.repeat(np.arange(block.n_obs), np.diff(values.indptr)), values.indices
        values, ranks = values.data, ranks.data
    else:
        cells, genes = (places.ravel() for places in np.indices(values.shape))
        values, ranks = values.ravel(), ranks.ravel()
    return pa.table(
        {
            keys.CELL_ID: pa.array(block.obs_names.astype(str), pa.string()).take(pa.array(cells)),
            EXPRESSION_GENE: pa.array(block.var_names, pa.string()).take(pa.array(genes)),
            EXPRESSION_TABLES_SYMBOL: pa.array(block.var[EXPRESSION_TABLES_SYMBOL], pa.string()).take(pa.array(genes)),
            VALUE: pa.array(values, from_pandas=True),  # not a number becomes a gap
            RANK: pa.array(ranks, from_pandas=True),
        }
    )


def _writer(path: Path, schema: "pa.Schema", provenance: Mapping[str, Any]) -> AbstractContextManager[Any]:
    if path.suffix == ".csv":
        from pyarrow import csv

        csv_writer: AbstractContextManager[Any] = csv.CSVWriter(path, schema)
        return csv_writer
    from pyarrow import parquet

    noted = {keys.UNS.encode(): json.dumps(provenance, default=str).encode()}
    writer: AbstractContextManager[Any] = parquet.ParquetWriter(path, schema.with_metadata(noted))
    return writer


CONTENT, CROSS_VALIDATION_TEXT, POOLED = "cross_validation.json", "cross_validation.md", "all_cells"
"""Files of a cross-validation, and the folder of its report on all cells."""


@dataclass(frozen=True, kw_only=True, slots=True)
class CrossValidation:
    """A model that was fitted once per fold, and tested on the cells left out.

    Attributes
    ----------
    report
        On all cells together, each as the model predicted it that had not learnt from it. With several tasks, a report
        for each.
    folds
        The same of every fold alone, beside the baselines that learnt from the same cells.
    """

    report: Report | ReportSet
    folds: tuple[Report | ReportSet, ...]

    def table(self) -> "pd.DataFrame":
        """One row per fold and model: `task` if there are several, `model`, `fold` from 1 on, `cells`, and figures."""
        import pandas as pd

        rows = [
            {"task": task, "model": model, "fold": fold, "cells": found.n}
            | {name: value.mean for name, value in found.metrics.items()}
            for fold, task, model, found in self._measured()
        ]
        table = pd.DataFrame(rows)
        return table if isinstance(self.report, ReportSet) else table.drop(columns="task")

    def summary(self) -> "pd.DataFrame":
        """One row per figure and model: `task` if there are several, `model`, `metric`, `mean` and `sd` over `folds`.

        The standard deviation is that of a sample; folds in which a figure is not defined are left out.
        """
        import pandas as pd

        values: dict[tuple[str, str, str], list[float]] = {}
        for _, task, model, found in self._measured():
            for name, value in found.metrics.items():
                values.setdefault((task, model, name), []).append(value.mean)
        rows = []
        for (task, model, name), every in values.items():
            defined = np.array([value for value in every if not np.isnan(value)])
            rows.append({"task": task, "model": model, "metric": name, **_spread(defined), "folds": len(defined)})
        table = pd.DataFrame(rows)
        return table if isinstance(self.report, ReportSet) else table.drop(columns="task")

    def to_dict(self) -> dict[str, Any]:
        """Figures as JSON can hold them."""
        spread = [
            {name: known(value) if isinstance(value, float) else value for name, value in row.items()}
            for row in self.summary().to_dict("records")
        ]
        return {
            "n_folds": len(self.folds),
            "summary": spread,
            "report": self.report.to_dict(),
            "folds": [fold.to_dict() for fold in self.folds],
        }

    def to_markdown(self) -> str:
        """To read: mean and standard deviation over the folds, then the report on all cells."""
        sections = []
        summary = self.summary()
        for task, rows in summary.groupby("task", sort=False) if "task" in summary else [("", summary)]:
            names = list(dict.fromkeys(rows["metric"]))
            spread = [f"{told(mean)} ± {told(sd)}" for mean, sd in zip(rows["mean"], rows["sd"], strict=True)]
            cells = dict(zip(zip(rows["model"], rows["metric"], strict=True), spread, strict=True))
            models = list(dict.fromkeys(rows["model"]))
            table = [[model, *(cells.get((model, name), "-") for name in names)] for model in models]
            sections += [*(["### " + str(task)] if task else []), markdown_table(["", *map(metric_name, names)], table)]
        header = f"## {len(self.folds)} folds\n\nMean ± standard deviation over the folds."
        return "\n\n".join([header, *sections, "## All cells", self.report.to_markdown()])

    def save(self, folder: str | Path, *, overwrite: bool = False) -> None:
        """Write `cross_validation.json` and `.md`, and the reports with all predictions into folders beside them.

        Parameters
        ----------
        folder
            Folder; made if there is none.
        overwrite
            Replace what is there.

        Raises
        ------
        OutputExistsError
            There is a cross-validation already.
        OutputError
            The place cannot be written to.
        """
        folder = Path(folder)
        if not folder.exists():
            check_output(folder)
            folder.mkdir()
        for name in (CONTENT, CROSS_VALIDATION_TEXT):
            check_output(folder / name, overwrite=overwrite)
        (folder / CONTENT).unlink(missing_ok=True)
        self.report.save(folder / POOLED, overwrite=overwrite)
        for place, fold in zip(_places(len(self.folds)), self.folds, strict=True):
            fold.save(folder / place, overwrite=overwrite)
        with atomic_file(folder / CROSS_VALIDATION_TEXT, overwrite=overwrite) as temporary:
            temporary.write_text(self.to_markdown(), encoding="utf-8")
        with atomic_file(folder / CONTENT, overwrite=overwrite) as temporary:
            temporary.write_text(json.dumps(self.to_dict(), allow_nan=False) + "\n", encoding="utf-8")

    @classmethod
    def load(cls, folder: str | Path) -> Self:
        """The cross-validation in a folder.

        Raises
        ------
        InputNotFoundError
            None is there.
        UnreadableInputError
            A file is damaged.
        """
        folder = Path(folder)
        if not (folder / CONTENT).is_file():
            msg = f'There is no "{folder / CONTENT}". Give the folder that a cross-validation was saved to.'
            raise InputNotFoundError(msg)
        try:
            n_folds = int(json.loads((folder / CONTENT).read_text(encoding="utf-8"))["n_folds"])
        except (ValueError, KeyError, TypeError) as error:
            msg = f'"{folder / CONTENT}" cannot be read ({error!r}). It is damaged; save the cross-validation again.'
            raise UnreadableInputError(msg) from error
        folds = tuple(_report(folder / place) for place in _places(n_folds))
        return cls(report=_report(folder / POOLED), folds=folds)

    def _measured(self) -> Iterator[tuple[int, str, str, Measured]]:
        """Fold, task, model and figures."""
        for number, fold in enumerate(self.folds, start=1):
            reports = fold if isinstance(fold, ReportSet) else {"": fold}
            for task, report in reports.items():
                for model, found in {MODEL: report.evaluation, **report.baselines}.items():
                    yield number, task, model, found


def _spread(values: np.ndarray[Any, Any]) -> dict[str, float]:
    """Mean, and standard deviation of a sample, where they are defined."""
    return {
        "mean": float(values.mean()) if len(values) else np.nan,
        "sd": float(values.std(ddof=1)) if len(values) > 1 else np.nan,
    }


def _places(n_folds: int) -> list[str]:
    return [f"fold_{number}" for number in range(1, n_folds + 1)]


def _report(folder: Path) -> Report | ReportSet:
    """The report or the set of reports in a folder."""
    try:
        kind = json.loads((folder / REPORT).read_text(encoding="utf-8"))["kind"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        msg = f'The report in "{folder}" cannot be read ({error!r}). Save the cross-validation again.'
        raise UnreadableInputError(msg) from error
    if kind not in _KINDS:
        return ReportSet.load(folder)
    return _KINDS[kind].load(folder)


@dataclass(frozen=True, slots=True)
class CellPredictions:
    """A class and its probability for every cell, in the order of the input.

    Attributes
    ----------
    cells
        What is known about each cell.
    label
        What was predicted, such as "cell_type".
    classes
        Names of the classes, ``(C,)``.
    predicted
        Class of each cell, ``(n,)``.
    proba
        Probability of every class, ``(n, C)``.
    provenance
        Model, vocabulary fingerprint, options, versions.
    """

    cells: "pa.Table"
    label: str
    classes: tuple[str, ...]
    predicted: NDArray[Any]
    proba: NDArray[np.float64]
    provenance: Mapping[str, Any] = field(default_factory=dict)

    def counts(self) -> dict[str, int]:
        """Cells of each predicted class, the commonest first."""
        names, numbers = np.unique(self.predicted.astype(str), return_counts=True)
        order = np.argsort(-numbers, kind="stable")
        return {str(names[i]): int(numbers[i]) for i in order}

    def to_frame(self) -> "pd.DataFrame":
        """One row per cell: class, its probability, every class's probability, then what is known about the cell."""
        import pandas as pd

        key = keys.predicted(self.label)
        found = {key: self.predicted, f"{key}_probability": self.proba.max(axis=1)}
        found |= {f"probability {name}": self.proba[:, i] for i, name in enumerate(self.classes)}
        known = self.cells.to_pandas()
        frame: pd.DataFrame = pd.concat([pd.DataFrame(found), known.drop(columns=list(found), errors="ignore")], axis=1)
        return frame

    def to_anndata(self) -> "AnnData":
        """Cells as `obs` with class and probability, all probabilities in `obsm`, provenance in `uns`."""
        adata = cells_as_anndata(self.cells)
        write_predictions(
            adata,
            label=self.label,
            classes=self.classes,
            predicted=self.predicted,
            proba=self.proba,
            provenance=self.provenance,
        )
        return adata

    def save(self, path: str | Path, *, overwrite: bool = False) -> None:
        """Write an `.h5ad`, `.parquet` or `.csv`, complete or not at all.

        Raises
        ------
        UnsupportedFormatError
            Another suffix.
        OutputExistsError
            There is a file already.
        """
        path = check_suffix(path, SUFFIXES)
        with atomic_file(path, overwrite=overwrite) as temporary:
            if path.suffix == ".h5ad":
                self.to_anndata().write_h5ad(temporary)
            else:
                write_table(self.to_frame(), temporary, self.provenance, index=False)


def write_predictions(
    adata: "AnnData",
    *,
    label: str,
    classes: tuple[str, ...],
    predicted: NDArray[Any],
    proba: NDArray[np.float64],
    provenance: Mapping[str, Any],
    key_added: str | None = None,
) -> None:
    """Put predictions into `adata`: `obs[key]`, `obs[key + "_probability"]`, `obsm[key + "_proba"]`, `uns`."""
    import pandas as pd

    key = key_added or keys.predicted(label)
    named = [*classes, *sorted(set(predicted.astype(str)) - set(classes))]
    adata.obs[key] = pd.Categorical(predicted.astype(str), categories=named).remove_unused_categories()
    best = np.full(len(proba), np.nan)
    known = ~np.isnan(proba).any(axis=1)
    best[known] = proba[known].max(axis=1)
    adata.obs[f"{key}_probability"] = best
    columns = [name.replace("/", "|") for name in classes]  # a slash would be a folder in the file
    adata.obsm[f"{key}_proba"] = pd.DataFrame(proba, index=adata.obs_names, columns=columns)
    adata.uns[keys.UNS] = {**adata.uns.get(keys.UNS, {}), key: {**provenance, "classes": list(classes)}}


def save_cells(
    cells: "pa.Table",
    columns: Mapping[str, Any],
    path: str | Path,
    provenance: Mapping[str, Any],
    *,
    overwrite: bool = False,
) -> None:
    """Write an `.h5ad`, `.parquet` or `.csv` of what was predicted and what is known, complete or not at all."""
    import pandas as pd

    path = check_suffix(path, SUFFIXES)
    with atomic_file(path, overwrite=overwrite) as temporary:
        if path.suffix == ".h5ad":
            adata = cells_as_anndata(cells)
            for name, values in columns.items():
                adata.obs[name] = values
            adata.uns[keys.UNS] = {name: dict(provenance) for name in columns}
            adata.write_h5ad(temporary)
            return
        known = cells.to_pandas().drop(columns=list(columns), errors="ignore")
        write_table(pd.concat([pd.DataFrame(dict(columns)), known], axis=1), temporary, provenance, index=False)


_KINDS: dict[str, type[Report]] = {
    kind.kind: kind for kind in (ClassificationReport, ExpressionReport, GeneReport, LabelSetReport, NumberReport)
}
"""Classes of reports by what their files call themselves."""
