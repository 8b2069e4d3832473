"""What the commands share that fit models or score them: the folders, the closing tables, and the figures for programs.

Models and reports come as what they are, untyped: their classes are imported when a command runs.
"""

from pathlib import Path
from typing import Any

from geneformer.cli._output import Outcome

FIGURES = {"classes": "macro_f1", "expression": "r2", "genes": "roc_auc", "label sets": "macro_f1", "numbers": "r2"}
"""The one figure that closing tables tell, by kind of report."""

Rows = list[tuple[str, object]]


def fit_into(output: Path, estimator: Any, *learnt: Any, resume: bool, overwrite: bool, **places: Any) -> None:
    """Fit a model and write its folder.

    Checkpoints are kept beside the folder until it is there, so that a killed run can go on.

    Parameters
    ----------
    output
        Folder to make.
    estimator
        What is fitted.
    *learnt
        What its `fit` takes by position: cells and labels.
    resume
        Go on with a run that was interrupted.
    overwrite
        Replace a folder that is there.
    **places
        What its `fit` takes by keyword.
    """
    import shutil

    from geneformer.runs.files import check_output

    check_output(output, overwrite=overwrite)
    whole = output.absolute()
    working = whole.with_name(f".{whole.name}.training")
    estimator.fit(*learnt, **places, output=working, resume=resume)
    estimator.save(output, overwrite=overwrite)
    shutil.rmtree(working, ignore_errors=True)


def fitted_rows(estimator: Any) -> Rows:
    """Lines of the closing table: how cells were split, what was trained, and how it did beside the baselines."""
    split = estimator.split_
    return [
        ("Cells", f"{split['train']:,} to learn, {split['valid']:,} to choose, {split['test']:,} to test"),
        ("Split", split["method"]),
        *trained_rows(estimator),
    ]


def trained_rows(estimator: Any) -> Rows:
    """The same without the split."""
    share = estimator.result_.share
    return [
        ("Parameters trained", f"{share.trained:,} of {share.total:,} ({share.trained / share.total:.1%})"),
        ("Optimizer steps", estimator.result_.steps),
        *((name, f"{value:.4f}") for name, value in estimator.metrics_.items()),
        *compared_rows(estimator.report_),
    ]


def trained_figures(estimator: Any) -> dict[str, Any]:
    """What was trained and how it did, for programs."""
    return {
        "steps": estimator.result_.steps,
        "trained": estimator.result_.share.trained,
        "total": estimator.result_.share.total,
        "validation": estimator.metrics_,
        "test": report_figures(estimator.report_),
    }


def compared_rows(report: Any) -> Rows:
    """One figure of the model and of every baseline, for every task; none without a report."""
    from geneformer.results.report_tables import metric_name

    rows: Rows = []
    for task, found in _by_task(report).items():
        figure = FIGURES[found.kind]
        for model, evaluation in {"this model": found.evaluation, **found.baselines}.items():
            told = ", ".join(filter(None, (f"Test {metric_name(figure)}", task, model)))
            rows.append((told, str(evaluation.metrics[figure])))
    return rows


def report_figures(report: Any) -> dict[str, Any] | None:
    """All figures of a model with their intervals; of several tasks, by task."""
    if report is None:
        return None
    found = {task: one.evaluation.to_dict()["metrics"] for task, one in _by_task(report).items()}
    return found if isinstance(report, dict) else found[""]


def check_report_folder(output: Path, *, overwrite: bool) -> None:
    """Refuse a place that a report cannot go to, before anything is computed."""
    from geneformer.results.cross_validation import CONTENT
    from geneformer.results.reports import REPORT
    from geneformer.runs.files import check_output

    check_output(output, overwrite=overwrite, markers=(REPORT, CONTENT))


def save_report(report: Any, output: Path, *, overwrite: bool) -> Outcome:
    """Write the report of an evaluation, and tell its figures."""
    from geneformer.results.report_tables import metric_name

    report.save(output, overwrite=overwrite)
    rows: Rows = [
        (", ".join(filter(None, (task, metric_name(name)))), str(value))
        for task, found in _by_task(report).items()
        for name, value in found.evaluation.metrics.items()
    ]
    return Outcome(f"Report in {output}", rows, {"output": str(output), "metrics": report_figures(report)})


def _by_task(report: Any) -> dict[str, Any]:
    """Reports by task; a single one has no task."""
    if report is None:
        return {}
    return report if isinstance(report, dict) else {"": report}
