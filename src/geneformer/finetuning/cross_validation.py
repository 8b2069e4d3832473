"""`gf.cross_validate`: any estimator of cells, fitted once per fold and tested on the cells left out."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from geneformer.errors import OptionError
from geneformer.finetuning.estimator import Estimator, clone
from geneformer.finetuning.metrics import (
    evaluate_classes,
    evaluate_label_sets,
    evaluate_numbers,
    expected_calibration_error,
)
from geneformer.finetuning.reports import (
    ClassificationReport,
    CrossValidation,
    LabelSetReport,
    NumberReport,
    Report,
    ReportSet,
)
from geneformer.finetuning.splits import Split, draw_folds, targets_of
from geneformer.finetuning.targets import ClassTargets
from geneformer.inference.cells import CellInput, Cells, open_cells


def pool_reports(
    reports: Sequence[Report],
    rows: Sequence[NDArray[np.int64]],
    *,
    groups: NDArray[Any] | None = None,
    beside: Mapping[str, Sequence[NDArray[Any]]] | None = None,
    seed: int = 0,
    settings: Mapping[str, Any] | None = None,
) -> Report:
    """One report on the cells of several, measured anew, in the order of the cells."""
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


OF_ONE_FOLD = ("split", "temperature", "task_weights", "scale", "expected_calibration_error", "within_two_deviations")
"""Settings in the report of a fold that say nothing about all cells."""


def cross_validate(
    estimator: Any,
    cells: CellInput,
    label: Any,
    *,
    n_folds: int = 5,
    groups: str | None = None,
    counts_layer: str | None = None,
    gene_ids: str | None = None,
    seed: int | None = None,
) -> CrossValidation:
    """Fit once per fold and test on the cells left out, so that every labeled cell is tested once.

    Of the cells of the other folds, the share `split.valid` chooses the best step and the temperature. The baselines
    that the estimator is set to, `baselines="none"` for none of them, learn from the same cells in every fold.

    Parameters
    ----------
    estimator
        `CellClassifier` or the like, which is not fitted but copied for every fold; or a function that makes one.
    cells
        AnnData with raw counts, tokens, or paths of either.
    label
        What `fit` takes as labels.
    n_folds
        Parts the cells are split into.
    groups
        Column of donors, batches or the like; no group is learnt from and tested in the same fold.
    counts_layer, gene_ids
        Where counts and gene identifiers are.
    seed
        Fixes the folds; that of the split by default.

    Raises
    ------
    OutOfRangeError
        Fewer than two folds, or more than cells.
    RareClassError
        A class with one cell cannot be both learnt and tested.
    LeakageError
        Fewer groups than folds.
    UnknownClassError
        A class that only one group has cannot be learnt when that group is tested.
    LabelError, CountsError, PairingError
        As with `fit`.

    Examples
    --------
    >>> import geneformer as gf
    >>> from geneformer.datasets import pbmc3k
    >>> from geneformer.finetuning.cross_validation import cross_validate
    >>> adata = pbmc3k()[:200].copy()
    >>> adata.obs["depth"] = ["deep" if n > 2000 else "shallow" for n in adata.X.sum(axis=1)]
    >>> classifier = gf.CellClassifier(model="mini", max_steps=2, baselines="none", progress=False)
    >>> found = cross_validate(classifier, adata, "depth", n_folds=2)
    >>> found.report.evaluation.n, len(found.folds)
    (200, 2)
    """
    make: Callable[[], Any] = (lambda: clone(estimator)) if isinstance(estimator, Estimator) else estimator
    first = make()
    base = first.base()
    opened = open_cells(cells, base, counts_layer=counts_layer, gene_ids=gene_ids)
    seed = first.split.seed if seed is None else seed
    targets = targets_of(first, opened, label, by_cell=groups is None)
    parts = None if groups is None else np.asarray(opened.column(groups))
    splits = draw_folds(_strata(targets), n_folds, groups=parts, valid=first.split.valid, seed=seed)
    folds = []
    for split in splits:
        fold = make()
        fold._base = base
        fold.fit(opened, label, groups=groups, split_rows=split)
        said = getattr(fold, "baseline_proba_", None) or getattr(fold, "baseline_numbers_", {})
        folds.append(_Fold(fold.report_, split, said))
    settings = {
        "n_folds": n_folds,
        "groups": groups,
        "seed": seed,
        "folds": [{part: len(getattr(split, part)) for part in ("train", "valid", "test")} for split in splits],
    }
    pooled = _pool(folds, opened, parts, seed=first.finetuning.seed, settings=settings)
    return CrossValidation(report=pooled, folds=tuple(fold.report for fold in folds))


@dataclass(frozen=True, slots=True, eq=False)
class _Fold:
    """What one fold came to, and what its baselines said about the cells it was tested on."""

    report: Any
    split: Split
    beside: Mapping[str, NDArray[Any]]


def _strata(targets: Any) -> NDArray[np.int64]:
    """What cells are dealt out by, ``(n,)``; combinations of labels that one cell has go together."""
    codes: NDArray[np.int64] = np.asarray(targets.codes)
    if isinstance(targets, ClassTargets) and targets.values.ndim == 1:
        return codes
    found, counts = np.unique(codes[codes >= 0], return_counts=True)
    single = np.isin(codes, found[counts == 1])
    home = found.max(initial=0) + 1 if single.sum() > 1 else found[counts.argmax()] if len(found) else 0
    return np.where(single, home, codes)


def _pool(
    folds: Sequence[_Fold], cells: Cells, groups: NDArray[Any] | None, *, seed: int, settings: Mapping[str, Any]
) -> Report | ReportSet:
    """One report on all cells; with several tasks, one for each."""
    if not isinstance(folds[0].report, ReportSet):
        return _pool_one([(fold.report, fold) for fold in folds], cells, groups, seed=seed, settings=settings)
    tasks = list(dict.fromkeys(task for fold in folds for task in fold.report))
    return ReportSet(
        {
            task: _pool_one(
                [(fold.report[task], fold) for fold in folds if task in fold.report],
                cells, groups, seed=seed, settings=settings,
            )
            for task in tasks
        }
    )  # fmt: skip


def _pool_one(
    found: Sequence[tuple[Report, _Fold]],
    cells: Cells,
    groups: NDArray[Any] | None,
    *,
    seed: int,
    settings: Mapping[str, Any],
) -> Report:
    reports = [report for report, _ in found]
    rows = [_rows(report, fold.split.test, cells) for report, fold in found]
    names = [name for name in found[0][1].beside if all(name in fold.beside for _, fold in found)]
    beside = {name: [fold.beside[name] for _, fold in found] for name in names}
    kept = {name: value for name, value in reports[0].settings.items() if name not in OF_ONE_FOLD}
    return pool_reports(reports, rows, groups=groups, beside=beside, seed=seed, settings={**kept, **settings})


def _rows(report: Report, tested: NDArray[np.int64], cells: Cells) -> NDArray[np.int64]:
    """Rows of the cells in a report: all that were tested, or in a task those with a label, in the same order."""
    ids = np.asarray(report.cell_ids)
    if len(ids) == len(tested):
        return tested
    names = iter(zip(tested, cells.tokens.cell_ids[tested], strict=True))
    return np.array([next(row for row, name in names if str(name) == wanted) for wanted in ids], dtype=np.int64)
