"""Where the multi-task classifier logs to: TensorBoard, and Weights & Biases where that is wanted."""

import logging
import os
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from transformers import TrainerCallback

from geneformer.errors import GeneformerWarning, MissingExtraError

_logger = logging.getLogger(__name__)


class RunLog:
    """What is logged of one run, wherever it goes.

    Parameters
    ----------
    writer
        Writer of TensorBoard; None for none.
    tracker
        Run of Weights & Biases; None for none.
    """

    def __init__(self, writer: Any = None, tracker: Any = None) -> None:
        self.writer, self.tracker = writer, tracker

    @property
    def callbacks(self) -> list[TrainerCallback]:
        """What the Trainer calls."""
        callbacks: list[TrainerCallback] = [] if self.writer is None else [_Scalars(self.writer)]
        if self.tracker is not None:
            from transformers.integrations.integration_utils import WandbCallback

            callbacks.append(WandbCallback())  # type: ignore[no-untyped-call]
        return callbacks

    def tell(self, figures: Mapping[str, float], step: int) -> None:
        """Log some figures.

        Parameters
        ----------
        figures
            By name.
        step
            Optimizer steps done.
        """
        for name, value in figures.items():
            if self.writer is not None:
                self.writer.add_scalar(name, value, step)
        if self.tracker is not None:
            self.tracker.log(dict(figures))


class _Scalars(TrainerCallback):
    """Log lines of the Trainer as scalars of TensorBoard."""

    def __init__(self, writer: Any) -> None:
        self.writer = writer

    def on_log(self, args: Any, state: Any, control: Any, logs: Mapping[str, Any] | None = None, **_: Any) -> None:
        """One more line."""
        for name, value in (logs or {}).items():
            if isinstance(value, (int, float)):
                self.writer.add_scalar(f"train/{name}", value, state.global_step)


@contextmanager
def run_log(folder: Path | None, name: str, *, project: str | None = None, wandb: bool = False) -> Iterator[RunLog]:
    """The log of a run, closed in the end.

    Parameters
    ----------
    folder
        Of TensorBoard; None for none.
    name
        Name of the run, and of its folder in that one.
    project
        Project at Weights & Biases.
    wandb
        Whether Weights & Biases is told.
    """
    writer = tracker = None
    if folder is not None and find_spec("tensorboard") is not None:
        from torch.utils.tensorboard import SummaryWriter

        writer = SummaryWriter(log_dir=str(folder / name))
    if wandb:
        tracker = import_wandb().init(project=project, name=name, reinit=True)
    try:
        yield RunLog(writer, tracker)
    finally:
        if writer is not None:
            writer.close()
        if tracker is not None:
            tracker.finish()


def import_wandb() -> Any:
    """The client of Weights & Biases.

    Raises
    ------
    MissingExtraError
        It is not installed.
    """
    try:
        return import_module("wandb")
    except ImportError as error:
        msg = (
            "use_wandb=True needs wandb. Install it with `pip install wandb`, or leave it out: TensorBoard is told too."
        )
        raise MissingExtraError(msg) from error


def log_folder(asked: str | Path, results: Path) -> Path | None:
    """Where TensorBoard's files go: where asked, or a folder of the results where nobody may write there.

    Parameters
    ----------
    asked
        Folder asked for; the published default is in the root of the file system.
    results
        Folder of the results.

    Warns
    -----
    GeneformerWarning
        They go elsewhere, or TensorBoard is not installed and there are none.
    """
    if find_spec("tensorboard") is None:
        warnings.warn(
            "TensorBoard is not installed, so nothing is logged for it. Install it with `pip install tensorboard`.",
            GeneformerWarning,
            stacklevel=3,
        )
        return None
    wanted = Path(asked).expanduser()
    try:
        wanted.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        reason: str = error.strerror or type(error).__name__
    else:
        if os.access(wanted, os.W_OK | os.X_OK):
            return wanted
        reason = "Permission denied"
    instead = results / "tblogdir"
    warnings.warn(
        f'tensorboard_log_dir="{asked}" cannot be written to ({reason}); logs go to "{instead}".',
        GeneformerWarning,
        stacklevel=3,
    )
    return instead
