"""Fine-tuning runs that break off and go on: what they were started with, how far they came, whether they are done."""

import hashlib
import json
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors.torch import load_file
from torch import nn
from transformers import TrainerCallback

from geneformer.errors import OutputExistsError, RunMismatchError
from geneformer.models.checkpoint import WEIGHTS
from geneformer.runs.files import atomic_file

CHECKPOINTS = "checkpoints"
"""Folder of training checkpoints within the folder of a run."""

STARTED = "run.json"
"""File among them that says what the run was started with."""

_STATE = "trainer_state.json"
_MAY_CHANGE = {"epochs", "max_steps", "patience", "logging_steps"}


def digest(*arrays: NDArray[Any]) -> str:
    """A short name for the content of arrays: another one, whatever differs between them."""
    found = hashlib.sha256()
    for array in arrays:
        found.update(f"{array.dtype}{array.shape}".encode())
        found.update(np.ascontiguousarray(array).tobytes())
    return found.hexdigest()[:16]


def fruitless(history: Sequence[Mapping[str, Any]], best_by: str) -> int:
    """Evaluations since the best one.

    Parameters
    ----------
    history
        Log lines.
    best_by
        Metric that tells which is better: less for "loss", more for all others.
    """
    sign = 1 if best_by == "loss" else -1
    best, since = float("inf"), 0
    for line in history:
        if (value := line.get(f"eval_{best_by}")) is not None:
            since = 0 if sign * value < best else since + 1
            best = min(best, sign * value) if value == value else best  # noqa: PLR0124  not a number
    return since


class Patience(TrainerCallback):
    """Stops a run whose evaluations no longer improve; it counts them in the log, which survives an interruption.

    Parameters
    ----------
    evaluations
        How many in a row must not improve.
    best_by
        See `fruitless`.
    """

    def __init__(self, evaluations: int, best_by: str) -> None:
        self.evaluations, self.best_by = evaluations, best_by

    def on_evaluate(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """One more evaluation."""
        if fruitless(state.log_history, self.best_by) >= self.evaluations:
            control.should_training_stop = True


@dataclass(frozen=True, slots=True)
class Stage:
    """Where a run stood when it was saved last.

    Attributes
    ----------
    checkpoint
        Its last checkpoint.
    best
        The one with the best weights so far, or the last one where there were no evaluations.
    steps
        Optimizer steps done.
    history
        Log lines.
    """

    checkpoint: Path
    best: Path
    steps: int
    history: list[dict[str, Any]]

    def is_done(self, planned: int, patience: int, best_by: str) -> bool:
        """Whether nothing is left to do: all steps are done, or patience has run out."""
        return self.steps >= planned or (patience > 0 and fruitless(self.history, best_by) >= patience)

    def fill(self, network: nn.Module) -> None:
        """Give a network the best weights."""
        network.load_state_dict(load_file(self.best / WEIGHTS))


def last_stage(folder: Path) -> Stage:
    """Where the run in a folder stands; checkpoints that were being written when it broke off are removed.

    Parameters
    ----------
    folder
        Folder of the run; it may have been moved.

    Raises
    ------
    RunMismatchError
        It has no whole checkpoint.
    """
    stages = {}
    for checkpoint in _checkpoints(folder):
        try:
            # Written last, so that a checkpoint that has it is whole.
            content = json.loads((checkpoint / _STATE).read_text(encoding="utf-8"))
            stages[int(content["global_step"])] = checkpoint, content
        except (OSError, ValueError, KeyError):
            shutil.rmtree(checkpoint)
    if not stages:
        msg = f"{folder} has no training checkpoint to resume from. Start without resume."
        raise RunMismatchError(msg)
    steps = max(stages)
    checkpoint, content = stages[steps]
    noted = content.get("best_model_checkpoint")
    best = checkpoint if noted is None else checkpoint.with_name(Path(noted).name)
    if noted is not None and noted != str(best):
        content["best_model_checkpoint"] = str(best)
        with atomic_file(checkpoint / _STATE, overwrite=True) as temporary:
            temporary.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
    return Stage(checkpoint, best, steps, content["log_history"])


def _checkpoints(folder: Path) -> list[Path]:
    return sorted((folder / CHECKPOINTS).glob("checkpoint-*"))


def note_run(folder: Path, started: Mapping[str, Any], *, resume: bool) -> Stage | None:
    """Note what a run is started with; one that is resumed must go on with the same, from where it stands.

    Parameters
    ----------
    folder
        Folder of the run.
    started
        Options and whatever else decides the result.
    resume
        Whether a run is to go on.

    Returns
    -------
    Where it stands; None for a new run.

    Raises
    ------
    OutputExistsError
        There is a run already, and it is not to be resumed.
    RunMismatchError
        There is nothing to resume, or it was started otherwise.
    """
    path = folder / CHECKPOINTS / STARTED
    now = json.loads(json.dumps(dict(started), default=str))
    if not resume:
        if _checkpoints(folder):
            msg = f"{folder} holds a training run already. Pass resume=True (--resume), or choose another folder."
            raise OutputExistsError(msg)
        path.parent.mkdir(parents=True, exist_ok=True)
        with atomic_file(path, overwrite=True) as temporary:
            temporary.write_text(json.dumps(now, indent=1) + "\n", encoding="utf-8")
        return None
    if not path.is_file():
        msg = f"{folder} has no training checkpoint to resume from. Start without resume."
        raise RunMismatchError(msg)
    then = json.loads(path.read_text(encoding="utf-8"))
    changed = [name for name in now if name not in _MAY_CHANGE and then.get(name) != now[name]]
    if changed:
        told = ", ".join(f"{name} was {then.get(name)!r} and is {now[name]!r}" for name in changed)
        msg = f"The run in {folder} was started otherwise: {told}. Resume it as it was, or choose another folder."
        raise RunMismatchError(msg)
    return last_stage(folder)
