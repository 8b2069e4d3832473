"""`gf.search`: the training options with which an estimator does best on its validation cells."""

import gc
import json
import math
import time
import warnings
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_origin, get_type_hints

import numpy as np
from transformers import TrainerCallback

from geneformer.display import Summarized, Summary
from geneformer.engine.device import memory_errors, release_memory, resolve_device
from geneformer.errors import (
    GeneformerError,
    GeneformerWarning,
    OptionError,
    RunMismatchError,
    TrainingError,
    UnknownOptionError,
)
from geneformer.files import require
from geneformer.files.atomic import Workers
from geneformer.files.left_out import counting_left_out
from geneformer.files.manifest import digest
from geneformer.files.progress import progress_bar
from geneformer.finetuning.estimator import (
    MEASURED_BY,
    CellEstimator,
    clone,
    option_groups,
    training_groups,
    with_training_options,
)
from geneformer.finetuning.evaluations import metric_name, number_text
from geneformer.finetuning.reports import by_task
from geneformer.finetuning.splits import Split, draw_rows
from geneformer.inference.cells import CellInput, Cells, open_cells
from geneformer.options import SearchOptions
from geneformer.options._fields import came_as, nearest, plain_type, spread_options, typed_value
from geneformer.options._signatures import takes_options
from geneformer.options.finetuning import read_space

if TYPE_CHECKING:
    import pandas as pd

LOWER_IS_BETTER = ("loss", "mse", "mae", "log_loss")
CHANGES_LOSS = ("label_smoothing", "class_weights", "supervised_weight", "learn_task_weights", "loss")
"""Options that change what the loss is."""

BELONGS = {
    "freeze_layers": "full",
    "adapter_size": "adapters",
    "lora_rank": "lora",
    "lora_alpha": "lora",
    "lora_dropout": "lora",
    "bits": "lora",
}
"""Options that have a meaning with one strategy only."""

WAIT = 0.5
"""Seconds between looks at the trials of other processes."""

SHOWN = 5
"""Best trials that a result shows."""

CHUNK = 10_000
"""Cells read at once where all are read."""


@dataclass(frozen=True, kw_only=True, slots=True, eq=False, repr=False)
class SearchResult(Summarized):
    """The best options with their value, a table of all trials, and the estimator fitted with the best options."""

    best_options: dict[str, Any]
    best_value: float
    metric: str
    trials: "pd.DataFrame"
    estimator: Any = None
    report: Any = None

    def summary_of(self) -> Summary:
        """The best options, and the best trials."""
        searched = list(self.best_options)
        figure = metric_name(self.metric)
        best = self.trials.sort_values("value", ascending=self.metric in LOWER_IS_BETTER, kind="stable")
        columns = [column for column in ("trial", "state", "value", *searched) if column in best]
        states = [f"{number:,} {state}" for state, number in self.trials["state"].value_counts().items()]
        facts = [(f"best {figure}", number_text(self.best_value)), *((n, str(v)) for n, v in self.best_options.items())]
        tested = [
            (", ".join(filter(None, ("held out", task, metric_name(name)))), str(report.evaluation.metrics[name]))
            for task, report in by_task(self.report).items()
            for name in report.evaluation.headline[:1]
        ]
        return Summary(
            title=f"{type(self).__name__} of {len(self.trials):,} trials: {', '.join(states)}",
            facts=facts + tested,
            header=["trial", "state", f"validation {figure}", *searched],
            rows=[
                [f"{entry:.4g}" if isinstance(entry, float) else str(entry) for entry in row]
                for row in best[columns].head(SHOWN).astype(object).itertuples(index=False)
            ],
        )


@takes_options(SearchOptions)
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
    accept_normalized: bool = False,
    **changes: Any,
) -> SearchResult:
    """Search for the training options that do best on the validation cells, and fit with them.

    The cells are split once, as `fit` would. Every trial learns from the training cells and is scored on the validation
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
    counts_layer, gene_ids, accept_normalized
        Where counts and gene identifiers are; whether values that are no raw counts are ranked all the same.
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
    >>> from geneformer.datasets import pbmc3k
    >>> from geneformer.finetuning.search import search
    >>> adata = pbmc3k()[:200].copy()
    >>> adata.obs["depth"] = ["deep" if n > 2000 else "shallow" for n in adata.X.sum(axis=1)]
    >>> classifier = gf.CellClassifier(model="mini", max_steps=2, baselines="none", progress=False)
    >>> result = search(classifier, adata, "depth", space={"learning_rate": [1e-4, 1e-3]}, trials=2, refit="none")
    >>> result.trials["state"].tolist(), list(result.best_options)
    (['complete', 'complete'], ['learning_rate'])
    """
    chosen: SearchOptions = spread_options({"search": options or SearchOptions()}, changes)["search"]
    require("optuna", "A search", extra="train")
    if not isinstance(estimator, CellEstimator):
        msg = f"{came_as('estimator', estimator)}. Pass a CellClassifier or the like, which splits cells."
        raise OptionError(msg)
    if estimator.finetuning.strategy == "auto":  # a search is one for how to train
        estimator = clone(estimator, finetuning=replace(estimator.finetuning, strategy="full"))
    base = estimator.base()
    table = read_space(space) if isinstance(space, (str, Path)) else space
    training = training_groups(estimator)
    ranges = check_space(
        default_space(base.n_layers) if table is None else table, list(training.values()), _not_searched(estimator)
    )
    metric = _metric(estimator, chosen.metric, ranges)
    with progress_bar(shown=estimator.runtime.progress):
        opened = open_cells(
            cells, base, counts_layer=counts_layer, gene_ids=gene_ids, accept_normalized=accept_normalized
        )
    encoded = estimator.targets(opened, label, by_cell=groups is None and ids is None)
    chosen_split = estimator.split_options(groups)
    split = draw_rows(opened, encoded, chosen_split, groups=groups, ids=ids or groups)
    if not len(split.valid):
        msg = "There are no validation cells to compare trials by. Set a share for them, such as valid=0.1."
        raise OptionError(msg)
    objective = _Objective(estimator, label, opened, split, metric, ranges)
    is_loss = metric in LOWER_IS_BETTER
    # Cells without a label are counted already.
    with counting_left_out(), open_study(chosen, objective.started(chosen), lower_is_better=is_loss) as study:
        finished = _work(study, objective, chosen)
        best, trials = study.best(), study.table()
    if best is None and finished:
        msg = f"No trial came to an end in time ({chosen.timeout} s)."
        ended = trials[~trials["state"].isin(NOT_COUNTED)]
        if len(ended) and (ended["state"] == "failed").all():
            msg = f"All {len(trials)} trials failed, the last one: {ended['reason'].iloc[-1]}"
        raise TrainingError(msg)
    best_options = {} if best is None else dict(best.user_attrs[OPTIONS])
    fitted = None
    if chosen.refit != "none":
        if chosen.refit == "train_valid":
            split = replace(split, train=split.learnt, valid=np.empty(0, dtype=np.int64))
        with counting_left_out():
            fitted = with_training_options(estimator, best_options).fit(opened, label, groups=groups, split_rows=split)
    return SearchResult(
        best_options=best_options,
        best_value=math.nan if best is None else float(best.value),
        metric=metric,
        trials=trials,
        estimator=fitted,
        report=None if fitted is None else fitted.report_,
    )


def _work(study: "Study", objective: "_Objective", options: SearchOptions) -> bool:
    """Run trials until there are enough or time is over; whether no other process still runs one."""
    end = math.inf if options.timeout is None else time.monotonic() + options.timeout
    with progress_bar("Search", shown=objective.estimator.runtime.progress, unit="trials") as update:
        while time.monotonic() < end:
            update(study.n_finished, options.trials)
            trial = study.claim(objective.draw)
            if trial is not None:
                objective.run(study, trial)
            elif not study.is_running:
                return True
            elif options.refit == "none":
                return False
            else:
                time.sleep(WAIT)
    return True


def _metric(estimator: Any, asked: str, space: Mapping[str, Any]) -> str:
    """The figure of the validation cells that decides."""
    measured = estimator.validation_metrics
    metric = measured[-1] if asked == "auto" else asked
    if metric not in measured:
        msg = f"metric={metric!r} is not measured on the validation cells. Choose {' or '.join(measured)}."
        raise OptionError(msg)
    changing = [name for name in CHANGES_LOSS if name in space]
    if metric == "loss" and changing:
        msg = f'metric="loss" cannot compare trials that differ in {changing[0]}, which changes the loss itself.'
        raise OptionError(msg)
    return metric


@dataclass(frozen=True, slots=True, eq=False)
class _Objective:
    """What every trial trains on and is compared by."""

    estimator: Any
    label: Any
    cells: Cells
    split: Split
    metric: str
    space: "Space"

    def draw(self, trial: Any) -> dict[str, Any]:
        """Options of a trial."""
        return draw_options(self.space, trial, list(training_groups(self.estimator).values()))

    def run(self, study: "Study", trial: Any) -> None:
        """Train, and finish the trial with its value, or with the reason why it failed."""
        reporter = _Reporter(trial, self.metric)
        try:
            with memory_errors():
                value = self._measure(trial.user_attrs[OPTIONS], reporter)
        except (GeneformerError, MemoryError, RuntimeError, ArithmeticError) as error:
            reason = f"out of memory: {error}" if isinstance(error, MemoryError) else str(error)
            study.finish(trial, reason=reason)
            gc.collect()  # what a failed run held is in cycles
            release_memory(resolve_device(self.estimator.runtime.device))
        else:
            undefined = None if reporter.pruned or math.isfinite(value) else f"{self.metric} is {value}"
            study.finish(trial, None if reporter.pruned else value, reason=undefined)

    def _measure(self, options: dict[str, Any], reporter: "_Reporter") -> float:
        """The figure of the validation cells; the test cells are not in the split a trial gets."""
        blind = replace(self.split, test=np.empty(0, dtype=np.int64), shared_groups={})
        unneeded = {"baselines": "none", "calibrate": False}
        groups = {
            name: replace(group, **{key: value for key, value in unneeded.items() if hasattr(group, key)})
            for name, group in option_groups(self.estimator).items()
        }
        fitted = with_training_options(clone(self.estimator, **groups), options)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", GeneformerWarning)  # the cells were warned about before
            fitted.fit(self.cells, self.label, split_rows=blind, callbacks=[reporter])
        return float(fitted.result_.metrics[self.metric])

    def started(self, options: SearchOptions) -> dict[str, Any]:
        """What decides the value of a trial, and which trials come: a study goes on only with the same."""
        estimator = self.estimator
        tokens = self.cells.tokens
        rows = np.arange(len(tokens))
        read = [tokens.gather(rows[start : start + CHUNK]).input_ids for start in range(0, len(rows), CHUNK)]
        encoded, split = estimator.targets(self.cells, self.label), self.split
        learnt = [encoded.values, encoded.codes, *(target.head for target in encoded.targets.values())]
        return {
            "estimator": estimator.kind,
            "model": estimator.base().name,
            "vocabulary": estimator.base().vocabulary.fingerprint,
            "label": self.label,
            "metric": self.metric,
            "cells": digest(
                tokens.lengths, [digest(ids) for ids in read], learnt, split.train, split.valid, split.test
            ),
            **{
                f"search.{name}": getattr(options, name)
                for name in ("pruner", "n_startup_trials", "prune_after", "seed")
            },
            **{f"space.{name}": _record(distribution) for name, distribution in self.space.items()},
            **{
                name: value
                for group in training_groups(estimator).values()
                for name, value in asdict(group).items()
                if name not in self.space and name not in MEASURED_BY
            },
        }


class _Reporter(TrainerCallback):
    """Reports every evaluation to the trial, and ends a training that is pruned."""

    def __init__(self, trial: Any, metric: str) -> None:
        self.trial, self.metric = trial, metric
        self.evaluations, self.pruned = 0, False

    def on_evaluate(
        self, args: Any, state: Any, control: Any, metrics: Mapping[str, float] | None = None, **_: Any
    ) -> None:
        self.evaluations += 1
        self.trial.report((metrics or {})[f"eval_{self.metric}"], self.evaluations)
        if self.trial.should_prune():
            self.pruned = control.should_training_stop = True


# What is searched

Space = dict[str, Any]
"""Optuna's distribution of each option."""

_RANGE = ("low", "high", "log", "step")


def default_space(n_layers: int) -> dict[str, Any]:
    """The published ranges of learning rate, decay, schedule, warm-up and seed, and up to half of the layers frozen."""
    return {
        "learning_rate": {"low": 1e-6, "high": 1e-3, "log": True},
        "weight_decay": {"low": 0.0, "high": 0.3},
        "schedule": ["linear", "cosine", "polynomial"],
        "warmup_ratio": {"low": 0.0, "high": 0.2},
        "freeze_layers": {"low": 0, "high": n_layers // 2},
        "seed": {"low": 0, "high": 100},
    }


def check_space(table: Any, options: Sequence[Any], fixed: Collection[str] = ()) -> Space:
    """Distributions of values that the options take, that of the strategy first."""
    owners = {field.name: entry for entry in options for field in fields(entry) if field.name not in fixed}
    if not isinstance(table, Mapping):
        msg = (
            f"{came_as('space', table)}. Pass a table by option, such as {{'learning_rate': [1e-4, 1e-3]}}, or a file."
        )
        raise OptionError(msg)
    if not table:
        msg = f"The space names no option to search. Options are {', '.join(owners)}."
        raise OptionError(msg)
    space: Space = {}
    for name, entry in sorted(table.items(), key=lambda item: item[0] != "strategy"):
        if name in fixed:
            msg = (
                f"{name!r} cannot be searched: it decides which cells are measured, or where. Trials are compared on "
                f"the same cells. Options to search are {', '.join(owners)}."
            )
            raise OptionError(msg)
        if name not in owners:
            listed = ", ".join(owners)
            msg = f"The space names {name!r}, which is not an option. Options are {listed}.{nearest(name, owners)}"
            raise UnknownOptionError(msg)
        space[name] = _distribution(name, entry, owners[name])
    return space


def draw_options(space: Space, trial: Any, options: Sequence[Any]) -> dict[str, Any]:
    """Options for a trial; those without a meaning under the strategy drawn are not drawn."""
    base = {field.name: getattr(entry, field.name) for entry in options for field in fields(entry)}
    defaults = {field.name: field.default for entry in options for field in fields(entry)}
    drawn: dict[str, Any] = {}
    for name, distribution in space.items():
        strategy = drawn.get("strategy", base.get("strategy"))
        if BELONGS.get(name, strategy) == strategy:
            drawn[name] = suggest(trial, name, distribution)
    if "strategy" in drawn:  # what was set for another strategy would be refused with this one
        for name, owner in BELONGS.items():
            if name in base and owner != drawn["strategy"] and base[name] != defaults[name]:
                drawn[name] = defaults[name]
    return drawn


def suggest(trial: Any, name: str, distribution: Any) -> Any:
    """A value of one of Optuna's distributions, drawn by a trial."""
    if hasattr(distribution, "choices"):
        return trial.suggest_categorical(name, distribution.choices)
    low, high, step, log = distribution.low, distribution.high, distribution.step, distribution.log
    draw = trial.suggest_int if isinstance(low, int) else trial.suggest_float
    return draw(name, low, high, step=step, log=log)


def _not_searched(estimator: Any) -> set[str]:
    """Options that decide which cells are measured, or where."""
    training = training_groups(estimator)
    others = [group for name, group in option_groups(estimator).items() if name not in training]
    trained = {field.name for group in training.values() for field in fields(group)} - MEASURED_BY
    return ({field.name for group in others for field in fields(group)} | MEASURED_BY) - trained


def _distribution(name: str, entry: Any, options: Any) -> Any:
    """Optuna's distribution of the choices or the range given for an option."""
    from optuna.distributions import CategoricalDistribution

    hint = get_type_hints(type(options))[name]
    if get_origin(hint) is tuple:
        msg = f"{name} takes a list, and lists cannot be searched. Set it on the estimator."
        raise OptionError(msg)

    def checked(value: Any, hint: Any = hint) -> Any:
        value = typed_value(name, value, hint, "The space")
        replace(options, **{name: value})
        return value

    if isinstance(entry, Mapping):
        return _range(name, entry, plain_type(hint), checked)
    if not isinstance(entry, (list, tuple)):
        msg = (
            f"The space sets {name}={entry!r}. It takes a list of choices, or a table with low and high; an option "
            "that stays as it is belongs to the estimator."
        )
        raise OptionError(msg)
    if not entry:
        msg = f"The choices of {name} are empty. List at least one value."
        raise OptionError(msg)
    return CategoricalDistribution([checked(value) for value in entry])


def _range(name: str, entry: Mapping[str, Any], kind: type, checked: Callable[[Any, Any], Any]) -> Any:
    """Optuna's distribution of a range of numbers."""
    from optuna.distributions import FloatDistribution, IntDistribution

    unknown = [key for key in entry if key not in _RANGE]
    if unknown:
        msg = f"The range of {name} sets {unknown[0]!r}. It takes {', '.join(_RANGE)}.{nearest(unknown[0], _RANGE)}"
        raise OptionError(msg)
    if kind not in (int, float):
        msg = f"{name} is no number, so it has no range. List its choices: {name}=[…]."
        raise OptionError(msg)
    if not {"low", "high"} <= set(entry):
        msg = f"The range of {name} is {dict(entry)}. It takes both low and high."
        raise OptionError(msg)
    low, high = (checked(entry[end], kind) for end in ("low", "high"))
    log, step = entry.get("log", False), entry.get("step")
    if low > high:
        msg = f"The range of {name} is empty: low={low} is more than high={high}."
        raise OptionError(msg)
    if not isinstance(log, bool) or (log and (low <= 0 or step is not None)):
        given = f"log={log!r}, low={low} and step={step}"
        msg = f"The range of {name} sets {given}. With log=true, low is above 0 and there is no step."
        raise OptionError(msg)
    if step is not None and (type(step) not in (kind, int) or step <= 0):
        msg = f"The range of {name} sets step={step!r}. It takes a {'whole ' * (kind is int)}number above 0."
        raise OptionError(msg)
    return IntDistribution(low, high, log, step or 1) if kind is int else FloatDistribution(low, high, log, step)


def _record(distribution: Any) -> dict[str, Any]:
    """A distribution as studies keep it."""
    if hasattr(distribution, "choices"):
        return {"values": list(distribution.choices)}
    low, high, log, step = distribution.low, distribution.high, distribution.log, distribution.step
    is_integer = isinstance(low, int)
    return {
        "low": low,
        "high": high,
        "log": log,
        "step": None if is_integer and step == 1 else step,
        "whole": is_integer,
    }


# Trials

STARTED = "started"
"""What a study was started with; an attribute of the study."""

WORKER, OPTIONS, REASON, RETRIES = "worker", "options", "reason", "retries"
"""Attributes of a trial."""

MOST_RETRIES = 3
"""Times a trial is tried again before it is thought to be what kills its process."""

PATIENCE = 120
"""Seconds that a database may be in use by other processes."""


@dataclass(frozen=True, slots=True, eq=False)
class Study:
    """Trials of one search, in memory or in a storage that several processes work on.

    Optuna's own loop does not do: it knows of dead processes by heartbeats in SQL databases, not in journal files, and
    two processes draw more trials than were asked for. So trials are asked for under a lock, and every process holds a
    lock of its own for as long as it lives.
    """

    study: Any
    options: SearchOptions
    workers: Workers

    def claim(self, draw: Callable[[Any], Mapping[str, Any]]) -> Any:
        """A trial with its options drawn, those that a killed process left undone first; None when all have begun."""
        from optuna.samplers import TPESampler

        with self.workers.claiming():
            self._take_back()
            n_begun = len(self._begun())
            if n_begun >= self.options.trials:
                return None
            # Draws depend on the seed, on how many trials came before and on their values, not on what was interrupted.
            seed = int(np.random.SeedSequence([self.options.seed, n_begun]).generate_state(1)[0])
            self.study.sampler = TPESampler(
                seed=seed, n_startup_trials=self.options.n_startup_trials, multivariate=False, constant_liar=True
            )
            trial = self.study.ask()
            trial.set_user_attr(OPTIONS, dict(draw(trial)))
            trial.set_user_attr(WORKER, self.workers.name)
            return trial

    def finish(self, trial: Any, value: float | None = None, *, reason: str | None = None) -> None:
        """End a trial: with its value, or with the reason why there is none; with neither it was pruned."""
        from optuna.trial import TrialState

        if reason is not None:
            trial.set_user_attr(REASON, reason)
            self.study.tell(trial, state=TrialState.FAIL)
        else:
            self.study.tell(trial, value, state=TrialState.PRUNED if value is None else None)

    @property
    def n_finished(self) -> int:
        """Trials that came to an end."""
        return sum(trial.state.is_finished() for trial in self._begun())

    @property
    def is_running(self) -> bool:
        """Whether any process still runs a trial."""
        return any(_state(trial) == "running" for trial in self._begun())

    def best(self) -> Any:
        """The completed trial with the best value, the first of them; None where none is completed."""
        complete = [trial for trial in self._trials() if _state(trial) == "complete"]
        sign = 1 if self.study.direction.name == "MINIMIZE" else -1
        return min(complete, key=lambda trial: (sign * trial.value, trial.number), default=None)

    def table(self) -> "pd.DataFrame":
        """One row per trial: `trial`, `state`, `value`, `evaluations`, `seconds`, `reason`, and its options."""
        import pandas as pd

        killed = f"its process ended before it {MOST_RETRIES + 1} times, perhaps for lack of memory"
        rows = [
            {
                "trial": trial.number,
                "state": _state(trial),
                "value": np.nan if trial.value is None else trial.value,
                "evaluations": len(trial.intermediate_values),
                "seconds": np.nan if trial.duration is None else trial.duration.total_seconds(),
                "reason": str(trial.user_attrs.get(REASON, killed)) if _state(trial) == "failed" else "",
                **trial.user_attrs.get(OPTIONS, {}),
            }
            for trial in self._trials()
        ]
        return pd.DataFrame(rows, columns=None if rows else ["trial", "state", "value"])

    def _take_back(self) -> None:
        """Trials whose process is gone have failed, and come again with the same options."""
        from optuna.trial import TrialState

        for trial in self._trials():
            worker = trial.user_attrs.get(WORKER)
            if _state(trial) != "running" or (worker is not None and self.workers.is_there(worker)):
                continue
            self.study.tell(trial.number, state=TrialState.FAIL)
            retries = trial.user_attrs.get(RETRIES, 0)
            if retries < MOST_RETRIES:
                self.study.enqueue_trial(trial.params, user_attrs={RETRIES: retries + 1})

    def _trials(self) -> Sequence[Any]:
        trials: Sequence[Any] = self.study.get_trials(deepcopy=False)
        return trials

    def _begun(self) -> list[Any]:
        """Trials that count towards those asked for."""
        return [trial for trial in self._trials() if _state(trial) not in NOT_COUNTED]


NOT_COUNTED = ("waiting", "interrupted")
"""States of trials that come later, or come again."""


def _state(trial: Any) -> str:
    """The state in tables; a trial that failed because its process ended, and that came again, was interrupted."""
    if trial.state.name != "FAIL":
        return str(trial.state.name.lower())
    attributes = trial.user_attrs
    return "interrupted" if REASON not in attributes and attributes.get(RETRIES, 0) < MOST_RETRIES else "failed"


@contextmanager
def open_study(options: SearchOptions, started: Mapping[str, Any], *, lower_is_better: bool) -> Iterator[Study]:
    """A study to work on; one that was started with something else is refused."""
    optuna = require("optuna", "A search", extra="train")
    file = storage_file(options.storage)
    verbosity = optuna.logging.get_verbosity()
    workers = Workers(None if file is None else file.with_name(f"{file.name}.workers"))
    with workers, warnings.catch_warnings():
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        optuna.logging.set_verbosity(optuna.logging.ERROR)
        try:
            with workers.claiming():
                study = optuna.create_study(
                    storage=None if file is None else _storage(file, str(options.storage)),
                    study_name=options.study,
                    direction="minimize" if lower_is_better else "maximize",
                    pruner={
                        "median": optuna.pruners.MedianPruner(n_startup_trials=options.prune_after),
                        "halving": optuna.pruners.SuccessiveHalvingPruner(),
                        "none": optuna.pruners.NopPruner(),
                    }[options.pruner],
                    load_if_exists=True,
                )
                _check_started(study, options, json.loads(json.dumps(dict(started), default=str)))
            yield Study(study, options, workers)
        finally:
            optuna.logging.set_verbosity(verbosity)


def _storage(file: Path, given: str) -> Any:
    from optuna.storages import JournalStorage, RDBStorage
    from optuna.storages.journal import JournalFileBackend

    if given.startswith("sqlite:"):
        return RDBStorage(f"sqlite:///{file}", engine_kwargs={"connect_args": {"timeout": PATIENCE}})
    return JournalStorage(JournalFileBackend(str(file)))


def _check_started(study: Any, options: SearchOptions, started: dict[str, Any]) -> None:
    """Note what a new study is started with; refuse one that was started with something else."""
    before = study.user_attrs.get(STARTED)
    if before is None and not study.trials:
        study.set_user_attr(STARTED, started)
    elif before != started:
        before = before or {}
        changed = [name for name in before | started if before.get(name) != started.get(name)]
        listed = ", ".join(f"{n} was {_short(before.get(n))} and is {_short(started.get(n))}" for n in changed)
        msg = (
            f"The study {options.study!r} in {options.storage} was started otherwise: {listed}. Go on with it as it "
            "was, or give the new one another name with study=…."
        )
        raise RunMismatchError(msg)


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) < 80 else f"{text[:77]}..."


def storage_file(storage: str | None) -> Path | None:
    """File of a storage, absolute; None for memory."""
    if storage is None or storage in ("sqlite://", "sqlite:///", "sqlite:///:memory:"):
        return None
    path = storage.removeprefix("sqlite:///")
    if "://" in path or path.startswith("sqlite:"):
        msg = (
            f"storage={storage!r} is not known. It takes an SQLite database, as sqlite:///study.db, or the path of a "
            "journal file, which several machines can share over a network file system."
        )
        raise OptionError(msg)
    file = Path(path).expanduser().absolute()
    if file.is_dir() or not file.parent.is_dir():
        where = "is a folder" if file.is_dir() else f'is in no folder: there is no "{file.parent}"'
        msg = f"storage={storage!r} {where}. Give a file in a folder that exists."
        raise OptionError(msg)
    return file
