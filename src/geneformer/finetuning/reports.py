"""Reports on held-out cells and genes: figures of a model and its baselines, every prediction, and their files."""

import json
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal, NamedTuple, Protocol, Self, get_type_hints

import numpy as np
from numpy.typing import NDArray

from geneformer import keys
from geneformer.display import MOST, Summarized, Summary, draw
from geneformer.errors import (
    DatasetError,
    InputNotFoundError,
    NotFittedError,
    OptionError,
    UnreadableInputError,
    reason_of,
)
from geneformer.files.atomic import atomic_file, check_output
from geneformer.finetuning.evaluations import (
    UNDEFINED,
    Evaluation,
    Figures,
    FoldedEvaluation,
    LabelSetEvaluation,
    NumberEvaluation,
    from_json,
    markdown_table,
    metric_name,
    metrics_table,
    number_text,
    to_json,
)
from geneformer.options._fields import check_choice

if TYPE_CHECKING:
    import pandas as pd
    import pyarrow as pa

REPORT, TEXT, PREDICTIONS = "report.json", "report.md", "predictions.parquet"
"""Files of a report."""

CONTENT, CROSS_VALIDATION_TEXT, POOLED = "cross_validation.json", "cross_validation.md", "all_cells"
"""Files of a cross-validation, and the folder of its report on all cells."""

MODEL = "model"
"""Row of the model in the table of figures."""

RANDOM = "random initialisation"
"""The same network trained without the pretrained weights, in tables; once called "random weights, same network"."""

PROBABILITY, TRUTH = "probability_", "truth_"
"""Prefixes of the columns with the probability of each class, and with the truth about each label."""

GENE, SYMBOL, FOLD, N_CELLS = "gene", "symbol", "fold", "n_cells"
"""Columns of tables of genes."""


@dataclass(frozen=True, kw_only=True, eq=False, repr=False)
class Report(Summarized):
    """Figures of a model and of baselines on the same cells, with the predictions behind them.

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
    baseline_predictions
        What each baseline predicted, by name; not written to files.
    truth
        What is true of each cell, ``(n, …)``.
    """

    kind: ClassVar[str]
    """Name of this sort of report in its files."""

    columns: ClassVar[dict[str, "Column"]]
    """How the arrays stand in the table of predictions, by field."""

    id_column: ClassVar[str] = keys.CELL_ID
    """Column of the names."""

    measured_from: ClassVar[str] = "proba"
    """Field that the figures are computed from, and what baselines predict."""

    pictures: ClassVar[tuple[str, ...]] = ()
    """Functions of `gf.pl` that draw it, that of `plot` first."""

    evaluation: Figures
    cell_ids: NDArray[Any] | None = None
    baselines: Mapping[str, Figures] = field(default_factory=dict)
    settings: Mapping[str, Any] = field(default_factory=dict)
    baseline_predictions: Mapping[str, NDArray[Any]] = field(default_factory=dict)
    truth: NDArray[Any]

    def __post_init__(self) -> None:
        sizes = {name: len(column) for name, column in self._columns().items()}
        n = next(iter(sizes.values()))
        ids = [str(i) for i in range(n)] if self.cell_ids is None else [str(name) for name in self.cell_ids]
        if set(sizes.values()) | {len(ids)} != {n}:
            msg = f"A report takes one row per cell in everything; there are {len(ids):,} cell ids and {sizes}."
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
            "baselines": {name: figures.to_dict() for name, figures in self.baselines.items()},
            "settings": dict(self.settings),
        }

    def to_markdown(self) -> str:
        """The report to read: figures of the model and of every baseline in one table, then the details."""
        rows = {MODEL: self.evaluation.metrics} | {name: figures.metrics for name, figures in self.baselines.items()}
        return "\n\n".join([self.evaluation.size_text(), metrics_table(rows), *self.evaluation.details()]) + "\n"

    def summary_of(self) -> Summary:
        """The figures that count most, of the model and of the baselines."""
        return compared({"": self}, type(self).__name__)

    def plot(self, kind: str | None = None, **options: Any) -> Any:
        """Draw it by `gf.pl.<kind>`, the first of its `pictures` by default.

        Parameters
        ----------
        kind
            Function of `gf.pl`.
        **options
            Its options, such as `title`, `ax` and `save`.

        Raises
        ------
        UnknownChoiceError
            No such picture of this kind of report.
        """
        return plot_first(self, self.pictures, kind, **options)

    def predictions(self) -> "pa.Table":
        """One row per cell, or per gene: its name, `truth`, `predicted`, and whatever else was predicted."""
        import pyarrow as pa

        return pa.table({self.id_column: pa.array(self.cell_ids, pa.string()), **self._columns()})

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

        folder = _prepared(folder, REPORT, TEXT, PREDICTIONS, overwrite=overwrite)
        with atomic_file(folder / PREDICTIONS, overwrite=overwrite) as temporary:
            parquet.write_table(self.predictions(), temporary)
        _write(folder, {TEXT: self.to_markdown(), REPORT: self.to_dict()}, overwrite=overwrite)

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
        report = load_report(folder)
        if type(report) is not cls:
            path = Path(folder) / REPORT
            msg = f'"{path}" is a report on {report.kind}, not on {cls.kind}. Load it with the class for those.'
            raise DatasetError(msg)
        return report

    @classmethod
    def from_files(cls, content: Mapping[str, Any], table: "pa.Table") -> Self:
        """The report from what its two files hold."""
        figures = get_type_hints(cls)["evaluation"]
        evaluation = from_json(figures, content["evaluation"])
        classes = getattr(evaluation, "classes", ())
        arrays: dict[str, Any] = {name: column.read(table, classes) for name, column in cls.columns.items()}
        return cls(
            evaluation=evaluation,
            baselines={name: from_json(figures, entry) for name, entry in content["baselines"].items()},
            cell_ids=np.array(table[cls.id_column].to_pylist(), dtype=object),
            settings=content["settings"],
            **arrays,
        )

    def _columns(self) -> dict[str, Any]:
        """Predictions as columns of a table."""
        classes: Sequence[str] = getattr(self.evaluation, "classes", ())
        columns: dict[str, Any] = {}
        for name, column in self.columns.items():
            values, shape = getattr(self, name), (len(self.truth), len(classes))
            if column.kind == "per class" and values.shape != shape:
                msg = (
                    f"{name} has the shape {values.shape} for {shape[0]:,} cells and {shape[1]} classes; "
                    f"it takes {shape}."
                )
                raise OptionError(msg)
            columns |= column.write(values, classes)
        return columns


class Column(NamedTuple):
    """How an array stands in a table of predictions: as it is, as text, as names of classes, or a column per class."""

    name: str
    kind: Literal["values", "text", "class", "per class"] = "values"

    def write(self, values: Any, classes: Sequence[str]) -> dict[str, Any]:
        """Columns of the table."""
        import pyarrow as pa

        if self.kind == "per class":
            return {f"{self.name}{name}": values[:, i] for i, name in enumerate(classes)}
        if self.kind == "class":  # -1 is no class
            return {self.name: pa.array(np.array([*classes, None], dtype=object)[np.asarray(values)], pa.string())}
        if self.kind == "text":
            return {self.name: pa.array([str(value) for value in values], pa.string())}
        return {self.name: np.asarray(values)}

    def read(self, table: "pa.Table", classes: Sequence[str]) -> NDArray[Any]:
        """The array, from the columns of the table."""
        if self.kind == "per class":
            return np.stack([table[f"{self.name}{name}"].to_numpy() for name in classes], axis=1)
        if self.kind == "class":
            codes = {None: -1} | {name: code for code, name in enumerate(classes)}
            return np.array([codes[value] for value in table[self.name].to_pylist()], dtype=np.int64)
        if self.kind == "text":
            return np.array(table[self.name].to_pylist(), dtype=object)
        values: NDArray[Any] = table[self.name].to_numpy()
        return values


@dataclass(frozen=True, kw_only=True, eq=False, repr=False)
class ClassificationReport(Report):
    """A classifier on held-out cells, its baselines, and every prediction.

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
    columns: ClassVar = {
        "truth": Column("truth", "class"), "predicted": Column("predicted", "class"),
        "proba": Column(PROBABILITY, "per class"),
    }  # fmt: skip

    pictures = ("confusion_matrix", "predictions", "roc", "calibration")

    evaluation: Evaluation
    truth: NDArray[np.int64]
    predicted: NDArray[np.int64]
    proba: NDArray[Any]


@dataclass(frozen=True, kw_only=True, eq=False, repr=False)
class LabelSetReport(Report):
    """A classifier of label sets on held-out cells, its baselines, and every prediction.

    Attributes
    ----------
    truth
        Whether each cell has each label, ``(n, C)``: 0, 1, or NaN where it is not known.
    proba
        Probability of each label, ``(n, C)``.

    The others are those of `Report`.
    """

    kind = "label sets"
    columns: ClassVar = {"truth": Column(TRUTH, "per class"), "proba": Column(PROBABILITY, "per class")}

    pictures = ("roc",)

    evaluation: LabelSetEvaluation
    proba: NDArray[Any]

    @property
    def predicted(self) -> NDArray[np.bool_]:
        """Whether each label is predicted, ``(n, C)``."""
        above: NDArray[np.bool_] = self.proba >= self.evaluation.threshold
        return above


@dataclass(frozen=True, kw_only=True, eq=False, repr=False)
class NumberReport(Report):
    """A regression on held-out cells, its baselines, and every prediction.

    Attributes
    ----------
    truth
        The number of each cell, ``(n,)``; NaN where it is not known.
    predicted
        The number predicted, ``(n,)``.

    The others are those of `Report`.
    """

    kind = "numbers"
    columns: ClassVar = {"truth": Column("truth"), "predicted": Column("predicted")}
    measured_from = "predicted"

    pictures = ("predictions",)

    evaluation: NumberEvaluation
    predicted: NDArray[Any]


@dataclass(frozen=True, kw_only=True, eq=False, repr=False)
class ExpressionReport(NumberReport):
    """Predicted numbers of genes in cells, and their baselines: one row per cell and gene.

    Attributes
    ----------
    genes
        Ensembl id of each gene, ``(n,)``.

    The others are those of `NumberReport`.
    """

    kind = "expression"
    columns: ClassVar = {"genes": Column(GENE, "text"), **NumberReport.columns}

    genes: NDArray[Any]


@dataclass(frozen=True, kw_only=True, eq=False, repr=False)
class GeneReport(ClassificationReport):
    """A classifier of genes on genes it did not learn from, its baselines, and every prediction.

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
    id_column = GENE
    columns: ClassVar = {
        "symbols": Column(SYMBOL, "text"), "folds": Column(FOLD), "n_cells": Column(N_CELLS),
        **ClassificationReport.columns,
    }  # fmt: skip

    evaluation: FoldedEvaluation
    symbols: NDArray[Any]
    folds: NDArray[np.int64]
    n_cells: NDArray[np.int64]

    def by_fold(self, of: Literal["genes", "occurrences"] = "genes") -> dict[str, Evaluation]:
        """Figures of every fold by its name, such as `gf.pl.roc` draws next to each other.

        Parameters
        ----------
        of
            Whether every gene counts once, or every occurrence of one.
        """
        check_choice("of", of, ("genes", "occurrences"))
        folds = self.evaluation.folds if of == "genes" else self.evaluation.occurrences
        return {f"{FOLD} {number}": figures for number, figures in enumerate(folds, start=1)}


class ReportSet(Summarized, dict[str, Report]):
    """Reports by name: those of several tasks, or of several quantities.

    Examples
    --------
    >>> from geneformer.finetuning.reports import ReportSet
    >>> ReportSet().to_dict()
    {'kind': 'set', 'reports': {}}
    """

    kind: ClassVar[str] = "set"

    def summary_of(self) -> Summary:
        """The figures that count most, of every model by task."""
        return compared(self, f"{type(self).__name__}: {', '.join(self)}")

    def to_dict(self) -> dict[str, Any]:
        """Figures and settings as JSON can hold them, without the predictions."""
        return {"kind": self.kind, "reports": {name: report.to_dict() for name, report in self.items()}}

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
        folder = _prepared(folder, REPORT, TEXT, overwrite=overwrite)
        places = {name: f"{i}_{re.sub(r'[^0-9A-Za-z.-]+', '_', name)[:60]}" for i, name in enumerate(self)}
        for name, report in self.items():
            report.save(folder / places[name], overwrite=overwrite)
        entries = {name: {"folder": places[name], "kind": report.kind} for name, report in self.items()}
        content = {"kind": self.kind, "reports": entries}
        _write(folder, {TEXT: self.to_markdown(), REPORT: content}, overwrite=overwrite)

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
        report = load_report(folder)
        if not isinstance(report, cls):
            msg = f'"{Path(folder) / REPORT}" is a single report on {report.kind}. Load it with the class for those.'
            raise DatasetError(msg)
        return report


def _present(path: Path, what: str = "a report") -> Path:
    if not path.is_file():
        msg = f'There is no "{path}". Give the folder that {what} was saved to.'
        raise InputNotFoundError(msg)
    return path


def load_report(folder: str | Path) -> Report | ReportSet:
    """Whatever report a folder holds: a single one of any kind, or several."""
    from pyarrow import ArrowInvalid, parquet

    folder = Path(folder)
    try:
        content = json.loads(_present(folder / REPORT).read_text(encoding="utf-8"))
        if content["kind"] == ReportSet.kind:
            places = {str(name): Path(entry["folder"]).name for name, entry in content["reports"].items()}
        else:
            report = _KINDS[content["kind"]]
            return report.from_files(content, parquet.read_table(_present(folder / PREDICTIONS)))
    except InputNotFoundError:
        raise
    except (OSError, ValueError, KeyError, TypeError, AttributeError, ArrowInvalid, RecursionError) as error:
        msg = f'The report in "{folder}" cannot be read ({error!r}). It is damaged or incomplete; save it again.'
        raise UnreadableInputError(msg) from error
    return ReportSet({name: load_report(folder / place) for name, place in places.items()})  # type: ignore[misc]


_KINDS: dict[str, type[Report]] = {
    kind.kind: kind for kind in (ClassificationReport, ExpressionReport, GeneReport, LabelSetReport, NumberReport)
}
"""Classes of reports by what their files call themselves."""


@dataclass(frozen=True, kw_only=True, slots=True, repr=False)
class CrossValidation(Summarized):
    """A model that was fitted once per fold, and tested on the cells left out.

    Attributes
    ----------
    report
        On all cells together, each as the model predicted it that had not learnt from it. With several tasks, a report
        for each.
    folds
        The same of every fold alone, with the baselines that learnt from the same cells.
    """

    report: Report | ReportSet
    folds: tuple[Report | ReportSet, ...]

    def table(self) -> "pd.DataFrame":
        """One row per fold and model: `task` if there are several, `model`, `fold` from 1 on, `cells`, and figures."""
        rows = [
            {"task": task, "model": model, "fold": fold, "cells": figures.n}
            | {name: value.mean for name, value in figures.metrics.items()}
            for fold, task, model, figures in self._measured()
        ]
        return self._frame(rows)

    def summary(self) -> "pd.DataFrame":
        """One row per figure and model: `task` if there are several, `model`, `metric`, `mean` and `sd` over `folds`.

        The standard deviation is that of a sample; folds in which a figure is not defined are left out.
        """
        values: dict[tuple[str, str, str], list[float]] = {}
        for _, task, model, figures in self._measured():
            for name, value in figures.metrics.items():
                values.setdefault((task, model, name), []).append(value.mean)
        rows = []
        for (task, model, name), of_folds in values.items():
            defined = np.array([value for value in of_folds if not np.isnan(value)])
            mean = float(defined.mean()) if len(defined) else math.nan
            sd = float(defined.std(ddof=1)) if len(defined) > 1 else math.nan
            rows.append({"task": task, "model": model, "metric": name, "mean": mean, "sd": sd, "folds": len(defined)})
        return self._frame(rows)

    def _by_model(self) -> dict[str, dict[str, dict[str, str]]]:
        """By task and model, each figure as mean and standard deviation over the folds."""
        by_model: dict[str, dict[str, dict[str, str]]] = {}
        for row in self.summary().to_dict("records"):
            of_model = by_model.setdefault(row.get("task", ""), {}).setdefault(row["model"], {})
            of_model[row["metric"]] = f"{number_text(row['mean'])} ± {number_text(row['sd'])}"
        return by_model

    def summary_of(self) -> Summary:
        """The figures that count most, as mean and standard deviation over the folds."""
        figures = next(iter(by_task(self.report).values())).evaluation.headline
        rows = [
            (", ".join(filter(None, (task, model))), *(of_model.get(name, UNDEFINED) for name in figures))
            for task, models in self._by_model().items()
            for model, of_model in models.items()
        ]
        pooled = compared(by_task(self.report), "")
        return Summary(
            title=f"{type(self).__name__} of {len(self.folds)} folds",
            header=("held out", *map(metric_name, figures)),
            rows=[
                *rows,
                *((f"{name}, all folds together", *values) for name, *values in pooled.rows if MODEL in str(name)),
            ],
            note=f"Mean ± standard deviation over the folds. {pooled.note}",
        )

    def _measured(self) -> Iterator[tuple[int, str, str, Figures]]:
        """Fold, task, model and figures."""
        for number, fold in enumerate(self.folds, start=1):
            for task, report in by_task(fold).items():
                for model, figures in {MODEL: report.evaluation, **report.baselines}.items():
                    yield number, task, model, figures

    def _frame(self, rows: list[dict[str, Any]]) -> "pd.DataFrame":
        import pandas as pd

        table = pd.DataFrame(rows)
        return table if isinstance(self.report, ReportSet) else table.drop(columns="task")

    def to_dict(self) -> dict[str, Any]:
        """Figures as JSON can hold them."""
        return {
            "n_folds": len(self.folds),
            "summary": to_json(self.summary().to_dict("records")),
            "report": self.report.to_dict(),
            "folds": [fold.to_dict() for fold in self.folds],
        }

    def to_markdown(self) -> str:
        """To read: mean and standard deviation over the folds, then the report on all cells."""
        sections = []
        for task, models in self._by_model().items():
            figures = list(dict.fromkeys(name for of_model in models.values() for name in of_model))
            table = [
                [model, *(of_model.get(name, UNDEFINED) for name in figures)] for model, of_model in models.items()
            ]
            sections += [*([f"### {task!s}"] if task else []), markdown_table(["", *map(metric_name, figures)], table)]
        header = f"## {len(self.folds)} folds\n\nMean ± standard deviation over the folds."
        return "\n\n".join([header, *sections, "## All cells", self.report.to_markdown()])

    def save(self, folder: str | Path, *, overwrite: bool = False) -> None:
        """Write `cross_validation.json` and `.md`, and the reports with all predictions into folders next to them.

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
        folder = _prepared(folder, CONTENT, CROSS_VALIDATION_TEXT, overwrite=overwrite)
        self.report.save(folder / POOLED, overwrite=overwrite)
        for number, fold in enumerate(self.folds, start=1):
            fold.save(folder / f"fold_{number}", overwrite=overwrite)
        _write(folder, {CROSS_VALIDATION_TEXT: self.to_markdown(), CONTENT: self.to_dict()}, overwrite=overwrite)

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
        content = _present(folder / CONTENT, "a cross-validation")
        try:
            n_folds = int(json.loads(content.read_text(encoding="utf-8"))["n_folds"])
            folds = tuple(load_report(folder / f"fold_{number}") for number in range(1, n_folds + 1))
            return cls(report=load_report(folder / POOLED), folds=folds)
        except (ValueError, KeyError, TypeError, InputNotFoundError) as error:
            msg = (
                f'The cross-validation in "{folder}" cannot be read ({reason_of(error)}). It is damaged; save it again.'
            )
            raise UnreadableInputError(msg) from error


def by_task(report: Report | ReportSet | None) -> Mapping[str, Report]:
    """Reports by task; a single one has no task, and None no report."""
    if report is None:
        return {}
    return report if isinstance(report, ReportSet) else {"": report}


def plot_first(source: Any, pictures: Sequence[str], kind: str | None, **options: Any) -> Any:
    """One of the pictures that there are of something, the first by default."""
    chosen = next(iter(pictures), "no picture") if kind is None else kind
    check_choice("kind", chosen, pictures)
    return draw(chosen, source, **options)


class Reported(Protocol):
    """What has a report: a fitted estimator."""

    @property
    def report_(self) -> Any:
        """On what was held out."""
        ...


def find_report(source: Any) -> Report | ReportSet:
    """The report that is given, or that something has: a fitted estimator, a result, or the folder of any of these.

    Raises
    ------
    NotFittedError
        It is not fitted, or nothing was held out.
    InputNotFoundError
        No report in the folder.
    OptionError
        Nothing that has a report.
    """
    if isinstance(source, Report | ReportSet):
        return source
    if isinstance(source, str | Path):
        path = Path(source)
        folders = (path.parent if path.name == REPORT else path, path / "report", path / POOLED)
        return load_report(next((folder for folder in folders if (folder / REPORT).is_file()), path))
    of = type(source).__name__
    held = [getattr(source, name) for name in ("report_", "report") if hasattr(source, name)]
    report: Report | ReportSet | None = held[0] if held else None
    if not held or not isinstance(report, Report | ReportSet | None):  # tokens have a report of another sort
        msg = (
            f"report came as {of}. Pass a report, a fitted model or the result of cross_validate or search, or the "
            "folder that one of them was saved to."
        )
        raise OptionError(msg)
    if report is None:
        msg = f"This {of} has no report: it is not fitted, or no cells were held out. Pass what its evaluate returns."
        raise NotFittedError(msg)
    return report


def compared(reports: Mapping[str, Report], title: str) -> Summary:
    """The figures that count most with their intervals, a row per task and model or baseline."""
    figures = dict.fromkeys(name for report in reports.values() for name in report.evaluation.headline)
    several = len(reports) > 1 and sum(1 + len(report.baselines) for report in reports.values()) > MOST // 2
    rows = [
        (", ".join(filter(None, (task, model))), *(str(of_model.metrics.get(name, UNDEFINED)) for name in figures))
        for task, report in reports.items()
        for model, of_model in {MODEL: report.evaluation, **_baselines_of(report, strongest=several)}.items()
    ]
    sizes = {task: report.evaluation.size_text() for task, report in reports.items()}
    same = len(set(sizes.values())) == 1
    note = next(iter(sizes.values())) if same else " ".join(f"{task}: {size}" for task, size in sizes.items())
    return Summary(title=title, header=("held out", *map(metric_name, figures)), rows=rows, note=note)


def _baselines_of(report: Report, *, strongest: bool) -> Mapping[str, Figures]:
    """The baselines, or of many only the strongest."""
    if not strongest or not report.baselines:
        return report.baselines
    scores = {name: figures.metrics[report.evaluation.headline[0]].mean for name, figures in report.baselines.items()}
    best = max(scores, key=lambda name: -math.inf if math.isnan(scores[name]) else scores[name])
    return {best: report.baselines[best]}


def _prepared(folder: str | Path, content: str, *others: str, overwrite: bool) -> Path:
    """A folder to write files into; the one that marks it complete is removed, as a half-replaced one must not load."""
    folder = Path(folder)
    if not folder.exists():
        check_output(folder)
        folder.mkdir()
    for name in (*reversed(others), content):
        check_output(folder / name, overwrite=overwrite)
    (folder / content).unlink(missing_ok=True)
    return folder


def _write(folder: Path, files: Mapping[str, Any], *, overwrite: bool) -> None:
    """Write texts, and tables as JSON, each complete or not at all, in their order."""
    for name, content in files.items():
        text = content if isinstance(content, str) else json.dumps(content, allow_nan=False) + "\n"
        with atomic_file(folder / name, overwrite=overwrite) as temporary:
            temporary.write_text(text, encoding="utf-8")
