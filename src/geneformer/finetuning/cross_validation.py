"""`gf.cross_validate`: any estimator of cells, fitted once per fold and tested on the cells left out."""

import warnings
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from geneformer.errors import GeneformerWarning, OptionError
from geneformer.files.left_out import counting_left_out
from geneformer.files.progress import counted, progress_bar
from geneformer.finetuning.estimator import CellEstimator, Estimator, clone
from geneformer.finetuning.reports import CrossValidation, Report, ReportSet, by_task
from geneformer.finetuning.splits import Split, draw_folds
from geneformer.finetuning.targets import Target
from geneformer.inference.cells import CellInput, Cells, open_cells
from geneformer.options._fields import came_as

OF_ONE_FOLD = ("split", "temperature", "task_weights", "scale", "expected_calibration_error", "within_two_deviations")
"""Settings in the report of a fold that do not hold for all cells."""


def cross_validate(
    estimator: Any,
    cells: CellInput,
    label: Any,
    *,
    n_folds: int = 5,
    groups: str | None = None,
    counts_layer: str | None = None,
    gene_ids: str | None = None,
    accept_normalized: bool = False,
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
    counts_layer, gene_ids, accept_normalized
        Where counts and gene identifiers are; whether values that are no raw counts are ranked all the same.
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
    >>> folds = cross_validate(classifier, adata, "depth", n_folds=2)
    >>> folds.report.evaluation.n, len(folds.folds)
    (200, 2)
    """
    make: Any = (lambda: clone(estimator)) if isinstance(estimator, Estimator) else estimator
    if not callable(make):
        msg = f"{came_as('estimator', estimator)}. Pass a CellClassifier or the like, or a function that makes one."
        raise OptionError(msg)
    first = make()
    if not isinstance(first, Estimator):
        msg = f"{came_as('What estimator made', first)}. It has to make a CellClassifier or the like."
        raise OptionError(msg)
    if not isinstance(first, CellEstimator):
        msg = (
            f"cross_validate splits cells, and {type(first).__name__} learns about genes. Call its own method "
            "cross_validate, which splits genes."
        )
        raise OptionError(msg)
    base = first.base()
    with progress_bar(shown=first.runtime.progress):
        opened = open_cells(
            cells, base, counts_layer=counts_layer, gene_ids=gene_ids, accept_normalized=accept_normalized
        )
    seed = first.split.seed if seed is None else seed
    encoded = first.targets(opened, label, by_cell=groups is None)
    donors = None if groups is None else np.asarray(opened.column(groups))
    splits = draw_folds(
        encoded.fold_codes(),
        n_folds,
        groups=donors,
        valid=first.split.valid,
        seed=seed,
        classes=encoded.classes,
        labels=encoded.labels,
    )
    reports = []
    with progress_bar("Cross-validation", shown=first.runtime.progress, unit="folds") as update:
        for split in counted(splits, update):
            fold = make()
            fold._base, fold._tells = base, split is splits[0]
            # Cells without a label are counted already; classes that a fold does not test are tested in others.
            with counting_left_out(), warnings.catch_warnings():
                warnings.filterwarnings("ignore", ".*None of the .* measured is of", GeneformerWarning)
                reports.append(fold.fit(opened, label, groups=groups, split_rows=split).report_)
    settings = {
        "n_folds": n_folds,
        "groups": groups,
        "seed": seed,
        "folds": [{part: len(getattr(split, part)) for part in ("train", "valid", "test")} for split in splits],
    }
    pooled = ReportSet()
    for name, target in encoded.targets.items():
        tested = []
        for report, split in zip(reports, splits, strict=True):
            tasks = by_task(report)
            of_target = tasks.get(name, tasks.get(""))
            if of_target is not None:
                tested.append((of_target, _rows(of_target, split, opened)))
        pooled[name] = _pooled(target, tested, groups=donors, seed=first.finetuning.seed, settings=settings)
    report = pooled if isinstance(reports[0], ReportSet) else pooled.popitem()[1]
    return CrossValidation(report=report, folds=tuple(reports))


def _pooled(
    target: Target,
    tested: Sequence[tuple[Report, NDArray[np.int64]]],
    *,
    groups: NDArray[Any] | None,
    seed: int,
    settings: dict[str, Any],
) -> Report:
    """One report on the cells of all folds, measured anew, in the order of the cells."""
    reports = [report for report, _ in tested]
    rows = np.concatenate([rows for _, rows in tested])
    order = np.argsort(rows)

    def together(arrays: Sequence[Any]) -> NDArray[Any]:
        return np.concatenate(list(arrays))[order]

    names = [name for name in reports[0].baselines if all(name in report.baselines for report in reports)]
    shared = {name: value for name, value in reports[0].settings.items() if name not in OF_ONE_FOLD}
    return target.report(
        together([report.truth for report in reports]),
        together([getattr(report, report.measured_from) for report in reports]),
        {name: together([report.baseline_predictions[name] for report in reports]) for name in names},
        cell_ids=together([np.asarray(report.cell_ids, dtype=object) for report in reports]),
        groups=None if groups is None else groups[rows[order]],
        seed=seed,
        settings={**shared, **settings},
    )


def _rows(report: Report, split: Split, cells: Cells) -> NDArray[np.int64]:
    """Rows of the cells in a report: all that were tested, or in a task those with a label, in the same order."""
    ids = np.asarray(report.cell_ids)
    if len(ids) == len(split.test):
        return split.test
    names = iter(zip(split.test, cells.tokens.cell_ids[split.test], strict=True))
    return np.array([next(row for row, name in names if str(name) == cell) for cell in ids], dtype=np.int64)
