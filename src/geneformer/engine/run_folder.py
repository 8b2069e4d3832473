"""Folders of training runs: which checkpoints are complete, and whether a run may begin or go on there."""

import json
import shutil
from pathlib import Path
from typing import Any

from geneformer.errors import OutputExistsError, RunMismatchError
from geneformer.models.hub import WEIGHTS

CHECKPOINTS = "checkpoints"
"""Folder of training checkpoints within the folder of a run."""

STATE = "trainer_state.json"
"""File of a checkpoint that is written last."""


def check_run_folder(output: Path, *, resume: bool) -> None:
    """Refuse to mix pretraining runs, before any work."""
    if (output / WEIGHTS).exists() and not resume:
        msg = f"{output} holds a model already. Pass --resume (resume=True) to go on, or choose another folder."
        raise OutputExistsError(msg)
    check_resumable(output, resume=resume)


def check_resumable(folder: Path, *, resume: bool) -> None:
    """Refuse to mix runs, before any work."""
    if folder.exists() and not folder.is_dir():
        msg = f"{folder} is a file; a run goes into a folder. Choose another name."
        raise OutputExistsError(msg)
    has_checkpoint = has_checkpoints(folder)
    if has_checkpoint and not resume:
        msg = f"{folder} holds a training run already. Pass --resume (resume=True), or choose another folder."
        raise OutputExistsError(msg)
    if resume and not has_checkpoint:
        msg = f"{folder} has no training checkpoint to resume from. Start without --resume (resume=False)."
        raise RunMismatchError(msg)


def has_checkpoints(folder: Path) -> bool:
    """Whether a run can be resumed from a folder."""
    return bool(complete_checkpoints(folder))


def complete_checkpoints(folder: Path) -> dict[Path, dict[str, Any]]:
    """Checkpoints with their states, which are written last: one without, or with half of it, is incomplete."""
    states = {}
    for checkpoint in sorted((folder / CHECKPOINTS).glob("checkpoint-*")):
        try:
            state = json.loads((checkpoint / STATE).read_text(encoding="utf-8"))
            states[checkpoint] = state | {"global_step": int(state["global_step"])}
        except (OSError, ValueError, KeyError):
            continue
    return states


def delete_incomplete(folder: Path) -> None:
    """Delete checkpoints that were being written when a run broke off."""
    complete = complete_checkpoints(folder)
    for checkpoint in (folder / CHECKPOINTS).glob("checkpoint-*"):
        if checkpoint not in complete:
            shutil.rmtree(checkpoint)
