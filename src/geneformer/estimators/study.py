"""A study of Optuna that several processes work on, and that goes on where a killed one left it."""

import json
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Self

import numpy as np

from geneformer.errors import MissingExtraError, OptionError, RunMismatchError
from geneformer.options import SearchOptions
from geneformer.runs.workers import Workers

if TYPE_CHECKING:
    import pandas as pd

STARTED, INTERRUPTED = "started", "interrupted"
"""What a study was started with, and trials whose process ended before them; attributes of the study."""

WORKER, OPTIONS, REASON, RETRY_OF, RETRIES = "worker", "options", "reason", "retry_of", "retries"
"""Attributes of a trial."""

MOST_RETRIES = 3
"""Times a trial is tried again before it is thought to be what kills its process."""

PATIENCE = 120
"""Seconds that a database may be in use by other processes."""


@dataclass(frozen=True, slots=True)
class Claim:
    """What there is to do.

    Attributes
    ----------
    state
        A trial to run; nothing, but trials of other processes run still; or nothing at all.
    trial
        The trial.
    options
        Options drawn for it.
    """

    state: Literal["trial", "others", "finished"]
    trial: Any = None
    options: Mapping[str, Any] | None = None


class Study:
    """Trials of one search.

    Parameters
    ----------
    options
        How many trials, where they are kept, and how they are drawn and pruned.
    started
        What decides the result of a trial; a study that was started with something else is not gone on with.
    lower_is_better
        Whether the least value is the best.

    Raises
    ------
    MissingExtraError
        Optuna is not installed.
    OptionError
        A storage of another kind.
    RunMismatchError
        The storage holds a study of that name that was started with something else.
    """

    def __init__(self, options: SearchOptions, started: Mapping[str, Any], *, lower_is_better: bool) -> None:
        self.optuna = import_optuna()
        self.options, self.lower_is_better = options, lower_is_better
        self._started = json.loads(json.dumps(dict(started), default=str))
        self._file = storage_file(options.storage)
        self._workers = Workers(None if self._file is None else self._file.with_name(f"{self._file.name}.workers"))
        self._study: Any = None

    def __enter__(self) -> Self:
        with ExitStack() as stack:
            stack.enter_context(self._workers)
            with self._workers.claiming(), self._quiet():
                self._study = self._open()
            self._stack = stack.pop_all()
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def claim(self, draw: Callable[[Any], Mapping[str, Any]]) -> Claim:
        """The next trial, those that a killed process left undone first.

        Parameters
        ----------
        draw
            Draws the options of a trial.
        """
        with self._workers.claiming(), self._quiet():
            self._take_back()
            begun = self._begun()
            if len(begun) >= self.options.trials:
                running = any(trial.state.name == "RUNNING" for trial in begun)
                return Claim("others" if running else "finished")
            self._study.sampler = self._sampler(len(begun))
            trial = self._study.ask()
            options = dict(draw(trial))
            trial.set_user_attr(OPTIONS, options)
            trial.set_user_attr(WORKER, self._workers.name)  # last: what has no worker was not drawn to the end
            return Claim("trial", trial, options)

    def tell(self, trial: Any, value: float | None = None, *, reason: str | None = None) -> None:
        """Finish a trial: with its value, or with the reason why there is none; with neither it was pruned."""
        states = self.optuna.trial.TrialState
        with self._quiet():
            if reason is not None:
                trial.set_user_attr(REASON, reason)
                self._study.tell(trial, state=states.FAIL)
            elif value is None:
                self._study.tell(trial, state=states.PRUNED)
            else:
                self._study.tell(trial, value)

    @property
    def finished(self) -> int:
        """Trials that came to an end."""
        return sum(trial.state.is_finished() for trial in self._begun())

    def best(self) -> Any:
        """The completed trial with the best value, the first of them; None where none is completed."""
        complete = [trial for trial in self._trials() if trial.state.name == "COMPLETE"]
        sign = 1 if self.lower_is_better else -1
        return min(complete, key=lambda trial: (sign * trial.value, trial.number), default=None)

    def last_reason(self) -> str | None:
        """Why the last of the failed trials failed, if no trial did otherwise."""
        begun = self._begun()
        if not begun or any(trial.state.name != "FAIL" for trial in begun):
            return None
        return self._reason(begun[-1])

    def table(self) -> "pd.DataFrame":
        """One row per trial: `trial`, `state`, `value`, `evaluations`, `seconds`, `reason`, and its options."""
        import pandas as pd

        rows, interrupted = [], self._interrupted()
        for trial in self._trials():
            state = "interrupted" if trial.number in interrupted else trial.state.name.lower()
            rows.append(
                {
                    "trial": trial.number,
                    "state": {"fail": "failed"}.get(state, state),
                    "value": np.nan if trial.value is None else trial.value,
                    "evaluations": len(trial.intermediate_values),
                    "seconds": np.nan if trial.duration is None else trial.duration.total_seconds(),
                    "reason": self._reason(trial) if state == "fail" else "",
                    **trial.user_attrs.get(OPTIONS, {}),
                }
            )
        return pd.DataFrame(rows, columns=None if rows else ["trial", "state", "value"])

    def _open(self) -> Any:
        study = self.optuna.create_study(
            storage=self._storage(),
            study_name=self.options.study,
            direction="minimize" if self.lower_is_better else "maximize",
            pruner=self._pruner(),
            load_if_exists=True,
        )
        then = study.user_attrs.get(STARTED)
        if then is None and not study.trials:
            study.set_user_attr(STARTED, self._started)
        elif then != self._started:
            self._refuse(then or {})
        return study

    def _refuse(self, then: Mapping[str, Any]) -> None:
        changed = [name for name in {**then, **self._started} if then.get(name) != self._started.get(name)]
        told = ", ".join(f"{name} was {_told(then, name)} and is {_told(self._started, name)}" for name in changed)
        msg = (
            f"The study {self.options.study!r} in {self.options.storage} was started otherwise: {told}. Go on with it "
            "as it was, or give the new one another name with study=…."
        )
        raise RunMismatchError(msg)

    def _storage(self) -> Any:
        if self._file is None:
            return None
        if str(self.options.storage).startswith("sqlite:"):
            engine = {"connect_args": {"timeout": PATIENCE}}
            return self.optuna.storages.RDBStorage(f"sqlite:///{self._file}", engine_kwargs=engine)
        from optuna.storages.journal import JournalFileBackend

        return self.optuna.storages.JournalStorage(JournalFileBackend(str(self._file)))

    def _pruner(self) -> Any:
        pruners = self.optuna.pruners
        if self.options.pruner == "median":
            return pruners.MedianPruner(n_startup_trials=self.options.prune_after)
        return pruners.SuccessiveHalvingPruner() if self.options.pruner == "halving" else pruners.NopPruner()

    def _sampler(self, ordinal: int) -> Any:
        """Draws depend on the seed, on how many trials came before and on their values, not on what was interrupted."""
        seed = int(np.random.SeedSequence([self.options.seed, ordinal]).generate_state(1)[0])
        return self.optuna.samplers.TPESampler(
            seed=seed, n_startup_trials=self.options.n_startup_trials, multivariate=False, constant_liar=True
        )

    def _take_back(self) -> None:
        """Trials whose process is gone are interrupted and come again, with the same options."""
        states = self.optuna.trial.TrialState
        trials = self._trials()
        again = {trial.user_attrs.get(RETRY_OF) for trial in trials}
        for trial in trials:
            worker = trial.user_attrs.get(WORKER)
            if trial.state != states.RUNNING or (worker is not None and self._workers.is_there(worker)):
                continue
            retries = trial.user_attrs.get(RETRIES, 0)
            if retries < MOST_RETRIES:
                self._study.set_user_attr(INTERRUPTED, sorted({*self._interrupted(), trial.number}))
                if worker is not None and trial.number not in again:
                    told = {RETRY_OF: trial.number, RETRIES: retries + 1}
                    self._study.enqueue_trial(trial.params, user_attrs=told)
            self._study.tell(trial.number, state=states.FAIL)

    def _trials(self) -> Sequence[Any]:
        trials: Sequence[Any] = self._study.get_trials(deepcopy=False)
        return trials

    def _interrupted(self) -> list[int]:
        return list(self._study.user_attrs.get(INTERRUPTED, []))

    def _begun(self) -> list[Any]:
        """Trials that are of those asked for."""
        left = self._interrupted()
        return [trial for trial in self._trials() if trial.state.name != "WAITING" and trial.number not in left]

    def _reason(self, trial: Any) -> str:
        killed = f"its process ended before it {MOST_RETRIES + 1} times, perhaps for lack of memory"
        return str(trial.user_attrs.get(REASON, killed))

    @contextmanager
    def _quiet(self) -> Iterator[None]:
        """Without the lines that Optuna writes on its own, and its notes on what is new; as before afterwards."""
        level = self.optuna.logging.get_verbosity()
        self.optuna.logging.set_verbosity(self.optuna.logging.ERROR)
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", self.optuna.exceptions.ExperimentalWarning)
                yield
        finally:
            self.optuna.logging.set_verbosity(level)


def import_optuna() -> Any:
    """Optuna.

    Raises
    ------
    MissingExtraError
        It is not installed.
    """
    try:
        import optuna
    except ImportError as error:
        msg = "A search needs optuna. Install it with `pip install geneformer[train]`."
        raise MissingExtraError(msg) from error
    return optuna


def storage_file(storage: str | None) -> Path | None:
    """File of a storage, absolute; None for memory.

    Raises
    ------
    OptionError
        A database of another kind, or a file in no folder.
    """
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
        found = "is a folder" if file.is_dir() else f'is in no folder: there is no "{file.parent}"'
        msg = f"storage={storage!r} {found}. Give a file in a folder that exists."
        raise OptionError(msg)
    return file


def _told(table: Mapping[str, Any], name: str) -> str:
    """A value in few words."""
    text = repr(table.get(name))
    return text if len(text) < 80 else f"{text[:77]}..."
