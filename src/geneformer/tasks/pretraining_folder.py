"""The folder of a pretraining run: what may be started there, and what may go on."""

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

from geneformer.data.dataset import TokenizedDataset
from geneformer.errors import OutputExistsError, RunMismatchError
from geneformer.models.checkpoint import WEIGHTS
from geneformer.options import PretrainOptions
from geneformer.runs.files import atomic_file
from geneformer.vocab.vocabulary import Vocabulary

CHECKPOINTS = "checkpoints"
"""Folder of training checkpoints."""

STARTED = "run.json"
"""File among the checkpoints that says what the run was started with."""

_MAY_CHANGE = {"epochs", "max_steps", "save_steps", "eval_steps", "eval_cells", "logging_steps"}


def check_run_folder(output: Path, *, resume: bool) -> None:
    """Refuse to mix runs, before any work.

    Parameters
    ----------
    output
        Checkpoint folder of the run.
    resume
        Whether a run is to go on.

    Raises
    ------
    OutputExistsError
        There is a run already, and it is not to be resumed.
    RunMismatchError
        There is nothing to resume.
    """
    started = any((output / CHECKPOINTS).glob("checkpoint-*"))
    if (started or (output / WEIGHTS).exists()) and not resume:
        msg = f"{output} holds a pretraining run already. Pass --resume to go on with it, or choose another folder."
        raise OutputExistsError(msg)
    if resume and not started:
        msg = f"{output} has no training checkpoint to resume from. Start without --resume."
        raise RunMismatchError(msg)


def check_same_run(
    output: Path, dataset: TokenizedDataset, vocabulary: Vocabulary, options: PretrainOptions, *, resume: bool
) -> None:
    """Note what a run is started with; a run that is resumed must go on with the same cells and options.

    How long it runs and how often it saves and evaluates may change.

    Raises
    ------
    RunMismatchError
        Other cells or options.
    """
    path = output / CHECKPOINTS / STARTED
    now: dict[str, Any] = json.loads(json.dumps(asdict(options)))
    now |= {"cells": len(dataset), "tokens": int(dataset.lengths.sum()), "vocabulary_used": vocabulary.fingerprint}
    if not resume:
        path.parent.mkdir(parents=True, exist_ok=True)
        with atomic_file(path, overwrite=True) as temporary:
            temporary.write_text(json.dumps(now, indent=1) + "\n", encoding="utf-8")
        return
    if not path.is_file():
        return
    then = json.loads(path.read_text(encoding="utf-8"))
    changed = [name for name in now if name not in _MAY_CHANGE and name in then and then[name] != now[name]]
    if changed:
        told = ", ".join(f"{name} was {then[name]!r} and is {now[name]!r}" for name in changed)
        msg = f"The run in {output} was started otherwise: {told}. Resume it as it was, or choose another folder."
        raise RunMismatchError(msg)
