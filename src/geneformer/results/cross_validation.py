"""What cross-validation found: one report on all cells, each told by a model that had not seen it, and the folds."""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import numpy as np

from geneformer.errors import InputNotFoundError, UnreadableInputError
from geneformer.results.estimates import Measured, known, told
from geneformer.results.report_sets import _HOMES, ReportSet
from geneformer.results.report_tables import markdown_table, metric_name
from geneformer.results.reports import MODEL, REPORT, Report
from geneformer.runs.files import atomic_file, check_output

if TYPE_CHECKING:
    import pandas as pd

CONTENT, TEXT, POOLED = "cross_validation.json", "cross_validation.md", "all_cells"
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
        for name in (CONTENT, TEXT):
            check_output(folder / name, overwrite=overwrite)
        (folder / CONTENT).unlink(missing_ok=True)
        self.report.save(folder / POOLED, overwrite=overwrite)
        for place, fold in zip(_places(len(self.folds)), self.folds, strict=True):
            fold.save(folder / place, overwrite=overwrite)
        with atomic_file(folder / TEXT, overwrite=overwrite) as temporary:
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
    if kind not in _HOMES:
        return ReportSet.load(folder)
    module, name = _HOMES[kind]
    found: type[Report] = getattr(import_module(f"geneformer.results.{module}"), name)
    return found.load(folder)
