"""`gf.search`: the training options with which an estimator does best on its validation cells."""

import gc
import math
import time
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from transformers import TrainerCallback

from geneformer.engine.device import memory_errors, release_memory, resolve_device
from geneformer.errors import GeneformerError, GeneformerWarning, OptionError, TrainingError
from geneformer.estimators.base import spread_options
from geneformer.estimators.cells import CellInput, Cells, open_cells
from geneformer.estimators.cloning import MEASURED_BY, clone, option_groups, training_groups, with_training_options
from geneformer.estimators.splitting import draw_rows, targets_of
from geneformer.estimators.study import Claim, Study, import_optuna
from geneformer.options import SearchOptions
from geneformer.options.search import read_space
from geneformer.runs.digest import digest
from geneformer.runs.progress import progress_bar
from geneformer.tasks.search_space import Space, check_space, default_space, draw_options
from geneformer.tasks.splits import Split

if TYPE_CHECKING:
    import pandas as pd

LOWER_IS_BETTER = ("loss", "mse", "mae", "log_loss")
"""Figures of which the least is the best."""

CHANGES_LOSS = ("label_smoothing", "class_weights", "supervised_weight", "learn_task_weights", "loss")
"""Options that change what the loss is."""

WAIT = 0.5
"""Seconds between looks at the trials of other processes."""

CHUNK = 10_000
"""Cells read at once where all are read."""


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class SearchResult:
    """What a search came to.

    Attributes
    ----------
    best_options
        Options of the best trial; only those that were searched. Empty where no trial is completed yet.
    best_value
        Its figure on the validation cells.
    metric
        That figure.
    trials
        One row per trial: `trial`, `state` (complete, pruned, failed, interrupted, running), `value`, `evaluations`,
        `seconds`, `reason` of a failure, and the options.
    estimator
        Fitted with the best options; None where it was not to be.
    report
        Its evaluation on the test cells, which no trial has seen; None where there are none.
    """

    best_options: dict[str, Any]
    best_value: float
    metric: str
    trials: "pd.DataFrame"
    estimator: Any = None
    report: Any = None


class Watching(TrainerCallback):
    """Tells a trial how every evaluation went, and ends the training where that is no good.

    Parameters
    ----------
    trial
        Trial of Optuna.
    metric
        Figure that decides.
    """

    def __init__(self, trial: Any, metric: str) -> None:
        self.trial, self.metric = trial, metric
        self.evaluations, self.pruned = 0, False

    def on_evaluate(
        self, args: Any, state: Any, control: Any, metrics: Mapping[str, float] | None = None, **_: Any
    ) -> None:
        """One more evaluation."""
        self.evaluations += 1
        self.trial.report((metrics or {})[f"eval_{self.metric}"], self.evaluations)
        if self.trial.should_prune():
            self.pruned = control.should_training_stop = True


@dataclass(frozen=True, slots=True, eq=False)
class _Objective:
    """What every trial learns from, and what it is judged by."""

    estimator: Any
    label: Any
    cells: Cells
    split: Split
    metric: str
    space: Space

    def draw(self, trial: Any) -> dict[str, Any]:
        """Options of a trial."""
        return draw_options(self.space, trial, list(training_groups(self.estimator).values()))

    def run(self, study: Study, claim: Claim) -> None:
        """Train, and tell the study what came of it."""
        watching = Watching(claim.trial, self.metric)
        try:
            with memory_errors():
                value = self._measure(dict(claim.options or {}), watching)
        except (GeneformerError, MemoryError, RuntimeError, ArithmeticError) as error:
            reason = f"out of memory: {error}" if isinstance(error, MemoryError) else str(error)
        else:
            undefined = None if watching.pruned or math.isfinite(value) else f"{self.metric} is {value}"
            study.tell(claim.trial, None if watching.pruned else value, reason=undefined)
            return
        study.tell(claim.trial, reason=reason)
        gc.collect()  # what a failed run held is in cycles
        release_memory(resolve_device(self.estimator.runtime.device))

    def _measure(self, options: dict[str, Any], watching: Watching) -> float:
        """The figure of the validation cells; the test cells are not in the split a trial gets."""
        blind = replace(self.split, test=np.empty(0, dtype=np.int64), shared_groups={})
        fitted = with_training_options(clone(self.estimator, **_plain(self.estimator)), options)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", GeneformerWarning)  # what there is to tell of the cells was told before
            fitted.fit(self.cells, self.label, split_rows=blind, callbacks=[watching])
        return float(fitted.result_.metrics[self.metric])

    def started(self, options: SearchOptions) -> dict[str, Any]:
        """What decides the value of a trial, and which trials come."""
        base = {
            name: value
            for group in training_groups(self.estimator).values()
            for name, value in asdict(group).items()
            if name not in self.space and name not in MEASURED_BY
        }
        drawn = ("pruner", "n_startup_trials", "prune_after", "seed")
        return {
            "estimator": self.estimator.kind,
            "model": self.estimator.base().name,
            "vocabulary": self.estimator.base().vocabulary.fingerprint,
            "label": self.label,
            "metric": self.metric,
            "cells": self._digest(),
            **{f"search.{name}": getattr(options, name) for name in drawn},
            **{f"space.{name}": asdict(dimension) for name, dimension in self.space.items()},
            **base,
        }

    def _digest(self) -> str:
        tokens, split = self.cells.tokens, self.split
        rows = np.arange(len(tokens))
        read = [tokens.gather(rows[start : start + CHUNK]).input_ids for start in range(0, len(rows), CHUNK)]
        targets = self.estimator.targets(self.cells, self.label)
        return digest(tokens.lengths, [digest(ids) for ids in read], targets, split.train, split.valid, split.test)


def search(
    estimator: Any,
    cells: CellInput,
    label: Any,
    *,
    space: Mapping[str, Any] | str | Path | None = None,
    options: SearchOptions | None = None,
    groups: str | None = None,
    ids: str | None = None,
    counts_layer: str | None = None,
    gene_ids: str | None = None,
    **changes: Any,
) -> SearchResult:
    """Search for the training options that do best on the validation cells, and fit with them.

    The cells are split once, as `fit` would. Every trial learns from the training cells and is judged by the validation
    cells; the test cells are looked at once, when the estimator with the best options is evaluated. With a storage a
    search that was interrupted goes on where it was, and several processes can work on it at once: each runs trials
    until there are as many as were asked for in all. One process draws the same trials for the same seed.

    Parameters
    ----------
    estimator
        `CellClassifier` or the like with everything that is not searched; it is not fitted.
    cells
        AnnData with raw counts, tokens, or paths of either.
    label
        What `fit` takes as labels.
    space
        What is searched, or a TOML file with it: by option a list of choices, or a table with `low`, `high` and, if
        wanted, `log` and `step`. By default the published ranges and the number of frozen layers.
    options
        Trials, metric and storage.
    groups, ids
        Columns of donors or the like, and of the ids to split by; see `CellClassifier.fit`.
    counts_layer, gene_ids
        Where counts and gene identifiers are.
    **changes
        Single search options by keyword, such as `trials=50`.

    Raises
    ------
    UnknownOptionError
        The space names an option that does not exist.
    OptionError
        An empty range, no validation cells, or a metric that is not measured.
    RunMismatchError
        The storage holds a study that was started with other cells, options or space.
    TrainingError
        Every trial failed, or none was finished in time.
    MissingExtraError
        Optuna is not installed.

    Examples
    --------
    >>> import geneformer as gf
    >>> from geneformer.demo.cells import pbmc3k
    >>> from geneformer.estimators.search import search
    >>> adata = pbmc3k()[:200].copy()
    >>> adata.obs["depth"] = ["deep" if n > 2000 else "shallow" for n in adata.X.sum(axis=1)]
    >>> classifier = gf.CellClassifier(model="mini", max_steps=2, baselines="none", progress=False)
    >>> found = search(classifier, adata, "depth", space={"learning_rate": [1e-4, 1e-3]}, trials=2, refit="none")
    >>> found.trials["state"].tolist(), list(found.best_options)
    (['complete', 'complete'], ['learning_rate'])
    """
    chosen: SearchOptions = spread_options({"search": options or SearchOptions()}, changes)["search"]
    import_optuna()
    base = estimator.base()
    table = read_space(space) if isinstance(space, (str, Path)) else space
    ranges = _ranges(estimator, default_space(base.n_layers) if table is None else table)
    metric = _metric(estimator, chosen.metric, ranges)
    opened = open_cells(cells, base, counts_layer=counts_layer, gene_ids=gene_ids)
    codes = targets_of(estimator, opened, label, by_cell=groups is None and ids is None).codes
    split = draw_rows(opened, codes, estimator.split_options(groups), groups=groups, ids=ids or groups)
    if not len(split.valid):
        msg = "There are no validation cells to judge trials by. Set a share for them, such as valid=0.1."
        raise OptionError(msg)
    objective = _Objective(estimator, label, opened, split, metric, ranges)
    with Study(chosen, objective.started(chosen), lower_is_better=metric in LOWER_IS_BETTER) as study:
        finished = _work(study, objective, chosen)
        best, trials, failed = study.best(), study.table(), study.last_reason()
    if best is None and finished:
        msg = f"No trial came to an end in time ({chosen.timeout} s)." if failed is None else (
            f"All {len(trials)} trials failed, the last one: {failed}"
        )  # fmt: skip
        raise TrainingError(msg)
    value = math.nan if best is None else float(best.value)
    found = {} if best is None else dict(best.user_attrs["options"])
    fitted = None if chosen.refit == "none" else _refit(objective, found, chosen.refit, groups)
    report = None if fitted is None else fitted.report_
    return SearchResult(
        best_options=found, best_value=value, metric=metric, trials=trials, estimator=fitted, report=report
    )


def _work(study: Study, objective: _Objective, options: SearchOptions) -> bool:
    """Run trials until there are enough or time is over; whether no other process still runs one."""
    end = math.inf if options.timeout is None else time.monotonic() + options.timeout
    with progress_bar("Searching", shown=objective.estimator.runtime.progress) as update:
        while time.monotonic() < end:
            update(study.finished, options.trials)
            claim = study.claim(objective.draw)
            if claim.state == "finished":
                return True
            if claim.state == "trial":
                objective.run(study, claim)
            elif options.refit == "none":
                return False
            else:
                time.sleep(WAIT)
    return True


def _refit(objective: _Objective, options: dict[str, Any], cells: str, groups: str | None) -> Any:
    """The estimator with the best options, evaluated on the test cells."""
    split = objective.split
    if cells == "train_valid":
        learnt = np.sort(np.concatenate([split.train, split.valid]))
        split = replace(split, train=learnt, valid=np.empty(0, dtype=np.int64))
    fitted = with_training_options(objective.estimator, options)
    return fitted.fit(objective.cells, objective.label, groups=groups, split_rows=split)


def _ranges(estimator: Any, table: Mapping[str, Any]) -> Space:
    training = training_groups(estimator)
    others = [group for name, group in option_groups(estimator).items() if name not in training]
    trained = {field.name for group in training.values() for field in fields(group)} - MEASURED_BY
    fixed = {field.name for group in others for field in fields(group)} | MEASURED_BY
    return check_space(table, list(training.values()), fixed - trained)


def _metric(estimator: Any, asked: str, space: Space) -> str:
    """The figure that decides.

    Raises
    ------
    OptionError
        The validation cells are not measured by it, or it would be another one in every trial.
    """
    measured = _measured(estimator)
    metric = measured[-1] if asked == "auto" else asked
    if metric not in measured:
        msg = f"metric={metric!r} is not measured on the validation cells. Choose {' or '.join(measured)}."
        raise OptionError(msg)
    changing = [name for name in CHANGES_LOSS if name in space]
    if metric == "loss" and changing:
        msg = f'metric="loss" cannot compare trials that differ in {changing[0]}, which changes the loss itself.'
        raise OptionError(msg)
    return metric


def _measured(estimator: Any) -> Sequence[str]:
    """Figures of the validation cells, the one to go by last."""
    one_of_several = estimator.kind in ("cell_classifier", "multi_task_classifier")
    if one_of_several and not any(getattr(group, "multi_label", False) for group in option_groups(estimator).values()):
        return ("loss", "accuracy", "macro_f1")
    return ("loss",)


def _plain(estimator: Any) -> dict[str, Any]:
    """Options that a trial needs nothing of: baselines, a temperature, a progress bar of its own."""
    off = {"baselines": "none", "calibrate": False, "progress": False}
    groups = {}
    for name, group in option_groups(estimator).items():
        unneeded = {key: value for key, value in off.items() if hasattr(group, key)}
        if unneeded:
            groups[name] = replace(group, **unneeded)
    return groups
