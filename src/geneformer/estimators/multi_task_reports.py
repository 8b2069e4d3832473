"""Reports of several tasks on the same cells, each beside its baselines."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from geneformer.estimators.cell_parts import counts_like
from geneformer.estimators.cells import Cells
from geneformer.results.classification import ClassificationReport
from geneformer.results.report_sets import ReportSet
from geneformer.tasks.adata_inputs import PairedModel
from geneformer.tasks.calibration import expected_calibration_error
from geneformer.tasks.class_baselines import LIBRARY, classify_by_baselines
from geneformer.tasks.metrics import evaluate_classes
from geneformer.tasks.splits import Split
from geneformer.tasks.task_labels import TaskLabels

if TYPE_CHECKING:
    from scipy import sparse

Proba = dict[str, NDArray[np.float64]]
"""Probabilities by task, or by baseline, ``(n, C)`` each."""


@dataclass(frozen=True, slots=True, eq=False)
class TaskTraining:
    """What was learnt from.

    Attributes
    ----------
    cells
        Opened cells.
    split
        Their parts.
    labels
        Classes of every cell in every task.
    groups
        Donor or the like of every cell, ``(n,)``.
    counts
        Raw counts of the cells for the baselines, if there are to be any, ``(n, g)``.
    deleted_genes
        Token ids deleted in second views.
    """

    cells: Cells
    split: Split
    labels: TaskLabels
    groups: NDArray[Any] | None
    counts: "sparse.csr_matrix | None"
    deleted_genes: NDArray[Any] | None


@dataclass(frozen=True, slots=True, eq=False)
class TestedCells:
    """Cells to report on.

    Attributes
    ----------
    cells
        Opened cells.
    rows
        Those reported on, ``(k,)``.
    codes
        Class number of every opened cell by task, -1 for none, ``(n,)`` each.
    names
        Of those reported on, ``(k,)``.
    groups
        Donor or the like of those reported on, ``(k,)``.
    """

    cells: Cells
    rows: NDArray[np.int64]
    codes: Mapping[str, NDArray[np.int64]]
    names: NDArray[Any]
    groups: NDArray[Any] | None


def report_tasks(
    tested: TestedCells,
    proba: Proba,
    twins: Mapping[str, Proba],
    training: TaskTraining | None,
    model: PairedModel,
    *,
    classes: Mapping[str, tuple[str, ...]],
    n_top_genes: int,
    seed: int,
    settings: Mapping[str, Mapping[str, Any]],
) -> ReportSet:
    """A report for every task that a cell reported on has a label of.

    Parameters
    ----------
    tested
        Cells to report on.
    proba
        What the classifier says about them, by task.
    twins
        What other networks say, by name.
    training
        What was learnt from, for baselines that learn from the same.
    model
        Decides the genes of the baselines.
    classes
        Classes by task.
    n_top_genes
        Variable genes the logistic regression sees.
    seed
        Fixes baselines and resamples.
    settings
        What the report of each task tells of its making.
    """
    found = ReportSet()
    for name, codes in tested.codes.items():
        known = np.flatnonzero(codes[tested.rows] >= 0)
        if not len(known):
            continue
        truth, said = codes[tested.rows][known], proba[name][known]
        beside = {label: other[name][known] for label, other in twins.items()}
        beside |= _baselines(
            tested.cells, tested.rows[known], name, training, model, n_top_genes=n_top_genes, seed=seed
        )
        groups = None if tested.groups is None else tested.groups[known]
        judged = partial(evaluate_classes, truth, classes=classes[name], groups=groups, seed=seed)
        found[name] = ClassificationReport(
            evaluation=judged(said),
            baselines={label: judged(values) for label, values in beside.items()},
            cell_ids=tested.names[known],
            truth=truth,
            predicted=said.argmax(axis=1),
            proba=said,
            settings={**settings[name], "expected_calibration_error": expected_calibration_error(said, truth)},
        )
    return found


def _baselines(
    cells: Cells,
    rows: NDArray[np.int64],
    task: str,
    training: TaskTraining | None,
    model: PairedModel,
    *,
    n_top_genes: int,
    seed: int,
) -> Proba:
    """Probabilities of what the model has to beat in one task, by name."""
    if training is None or training.counts is None:
        return {}
    counts = counts_like(training.cells, training.counts, cells, model)
    if counts is None:
        return {}
    codes = training.labels.by_task[task]
    learnt = training.split.train[codes[training.split.train] >= 0]
    found = classify_by_baselines(
        training.counts[learnt],
        codes[learnt],
        counts[rows],
        n_classes=len(training.labels.classes[task]),
        groups=None if training.groups is None else training.groups[learnt],
        n_top_genes=n_top_genes,
        seed=seed,
    )
    if cells.adata is None:
        del found[LIBRARY]  # scaled counts have no library size
    return found
