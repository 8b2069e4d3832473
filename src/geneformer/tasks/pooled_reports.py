"""Reports on parts of the cells as one report on all of them."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from geneformer.errors import OptionError
from geneformer.results.classification import ClassificationReport
from geneformer.results.label_sets import LabelSetReport
from geneformer.results.numbers import NumberReport
from geneformer.results.reports import Report
from geneformer.tasks.calibration import expected_calibration_error
from geneformer.tasks.metrics import evaluate_classes, evaluate_label_sets, evaluate_numbers


def pool_reports(
    reports: Sequence[Report],
    rows: Sequence[NDArray[np.int64]],
    *,
    groups: NDArray[Any] | None = None,
    beside: Mapping[str, Sequence[NDArray[Any]]] | None = None,
    seed: int = 0,
    settings: Mapping[str, Any] | None = None,
) -> Report:
    """One report on the cells of several, measured anew, in the order of the cells.

    Parameters
    ----------
    reports
        Of one kind, with the same classes.
    rows
        Which cells each is about, one array per report; none twice.
    groups
        Donor or the like of all cells that `rows` counts through, to resample whole groups for the intervals.
    beside
        What baselines predicted for the cells of each report, by name.
    seed
        Seed of the resamples.
    settings
        What the report tells of its making.

    Raises
    ------
    OptionError
        Reports of a kind that cannot be pooled.
    """
    first = reports[0]
    if not isinstance(first, (ClassificationReport, LabelSetReport, NumberReport)):
        msg = f"Reports on {first.kind} cannot be pooled: they are about genes, not about cells."
        raise OptionError(msg)
    order = np.argsort(np.concatenate(list(rows)))
    cells = np.concatenate(list(rows))[order]
    said = "predicted" if isinstance(first, NumberReport) else "proba"

    def together(arrays: Sequence[NDArray[Any]]) -> NDArray[Any]:
        return np.concatenate(list(arrays))[order]

    truth = together([getattr(report, "truth") for report in reports])  # noqa: B009  every kind has it
    values = together([getattr(report, said) for report in reports])
    judge = _judge(first, truth, None if groups is None else groups[cells], seed)
    shared: dict[str, Any] = {
        "evaluation": judge(values),
        "baselines": {name: judge(together(arrays)) for name, arrays in (beside or {}).items()},
        "cell_ids": together([np.asarray(report.cell_ids, dtype=object) for report in reports]),
        "truth": truth,
        "settings": dict(settings or {}),
        said: values,
    }
    if isinstance(first, ClassificationReport):
        shared["predicted"] = values.argmax(axis=1)
        shared["settings"]["expected_calibration_error"] = expected_calibration_error(values, truth)
    return replace(first, **shared)


def _judge(first: Report, truth: NDArray[Any], groups: NDArray[Any] | None, seed: int) -> Any:
    """Measures predictions of the kind that a report holds."""
    if isinstance(first, ClassificationReport):
        return partial(evaluate_classes, truth, classes=first.evaluation.classes, groups=groups, seed=seed)
    if isinstance(first, LabelSetReport):
        found = first.evaluation
        return partial(
            evaluate_label_sets, truth, classes=found.classes, threshold=found.threshold, groups=groups, seed=seed
        )
    return partial(evaluate_numbers, truth, groups=groups, seed=seed)
