"""One network of the multi-task classifier: trained, validated, logged."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from geneformer.compat.model_folders import readable_folder
from geneformer.compat.multi_task.hyperparameters import Hyperparameters
from geneformer.compat.multi_task.logging import run_log
from geneformer.data.dataset import TokenizedDataset
from geneformer.data.storage import read_dataset
from geneformer.errors import DeviceMemoryError, LabelError
from geneformer.models.cell_heads import GeneformerForCells
from geneformer.models.loading import LoadedModel, load_model
from geneformer.options import RuntimeOptions
from geneformer.runs.progress import progress_bar
from geneformer.tasks.inputs import check_pairing
from geneformer.tasks.task_values import Classes, Told, column_classes, learn_values, tell_values


@dataclass(frozen=True, kw_only=True, slots=True)
class Settings:
    """What is the same for all networks of one classifier.

    Attributes
    ----------
    batch_size
        Cells of one batch and device.
    epochs
        Passes over the cells to learn from.
    accumulation
        Batches of one optimizer step.
    max_grad_norm
        Norm that gradients are scaled down to; 0 leaves them alone.
    weighted
        Whether the weights of the tasks count.
    seed
        Of new weights, dropout and order.
    log_folder
        Of TensorBoard; None for none.
    wandb, project
        Whether Weights & Biases is told, and the project there.
    """

    batch_size: int
    epochs: int
    accumulation: int
    max_grad_norm: float
    weighted: bool
    seed: int
    log_folder: Path | None
    wandb: bool
    project: str | None


@dataclass(frozen=True, slots=True, eq=False)
class TaskCells:
    """Pretrained model, and the cells to learn from and to validate on.

    Attributes
    ----------
    base
        The model.
    train, valid
        Tokenized cells with the columns of the tasks.
    classes
        Labels of each task.
    """

    base: LoadedModel
    train: TokenizedDataset
    valid: TokenizedDataset
    classes: Classes

    @classmethod
    def open(cls, model: str | Path, train: str | Path, valid: str | Path, columns: list[str]) -> "TaskCells":
        """Read all of them.

        Parameters
        ----------
        model
            Folder or name of the pretrained model.
        train, valid
            Dataset folders.
        columns
            Columns of the tasks.

        Raises
        ------
        LabelError
            The two do not have the same labels.
        PairingError
            Tokens that do not belong to the model.
        """
        base = load_model(readable_folder(model))
        parts = [read_dataset(path) for path in (train, valid)]
        for tokens in parts:
            check_pairing(tokens, base, truncate=False)
        found = [column_classes(tokens, columns) for tokens in parts]
        for name in columns:
            ours, theirs = (set(classes[name]) for classes in found)
            if ours != theirs:
                only = [f"{sorted(extra, key=str)[:5]} only in {side}" for extra, side in
                        ((ours - theirs, "train_path"), (theirs - ours, "val_path")) if extra]  # fmt: skip
                msg = f"Labels of {name!r} differ: {'; '.join(only)}. Both need all labels; split the cells anew."
                raise LabelError(msg)
        return cls(base, parts[0], parts[1], found[0])


def runtime_of(batch_size: int, positions: int) -> RuntimeOptions:
    """Arithmetic in float32, and passes of at most so many of the longest cells.

    Parameters
    ----------
    batch_size
        Cells.
    positions
        Tokens of the longest cell.
    """
    return RuntimeOptions(dtype="float32", tokens_per_batch=batch_size * positions)


def train_tasks(
    cells: TaskCells, hyperparameters: Hyperparameters, settings: Settings, name: str
) -> tuple[GeneformerForCells, Told]:
    """A network trained from the pretrained weights, and what it says about the validation cells.

    The learning rate follows its schedule over the optimizer steps there are, accumulation taken into account.

    Parameters
    ----------
    cells
        Model and cells.
    hyperparameters
        How it learns.
    settings
        What else decides that.
    name
        Of the run, in logs.

    Raises
    ------
    DeviceMemoryError
        A batch does not fit into memory.
    TrainingError
        The loss is no longer finite.
    """
    options = hyperparameters.finetuning(
        epochs=settings.epochs,
        accumulation=settings.accumulation,
        max_grad_norm=settings.max_grad_norm,
        seed=settings.seed,
    )
    runtime = runtime_of(settings.batch_size, cells.base.max_length)
    tracking = {"wandb": settings.wandb, "project": settings.project}
    with run_log(settings.log_folder, name, **tracking) as log, progress_bar(name) as update:  # type: ignore[arg-type]
        try:
            network, result = learn_values(
                cells.base,
                cells.train,
                cells.classes,
                options=options,
                runtime=runtime,
                task_weights=hyperparameters.task_weights if settings.weighted else None,
                head_dropout=hyperparameters.dropout_rate,
                cells_per_batch=settings.batch_size,
                callbacks=log.callbacks,
                progress=update,
            )
        except DeviceMemoryError as error:
            msg = (
                f"A batch of {settings.batch_size} cells does not fit into memory. Lower batch_size, and raise "
                f"gradient_accumulation_steps (now {settings.accumulation}) by the same factor; or freeze more layers."
            )
            raise DeviceMemoryError(msg) from error
        told = tell_values(network, cells.valid, cells.classes, runtime, max_length=cells.base.max_length)
        log.tell(_validation(told.figures(), told.loss()), result.steps)
    return network, told


def _validation(figures: Mapping[str, Mapping[str, Any]], loss: float) -> dict[str, float]:
    """Figures of all tasks by one name each."""
    told = {
        f"val/{name}/{key}": float(task[key])
        for name, task in figures.items()
        for key in ("loss", "accuracy", "macro_f1")
    }
    return {"val/loss": loss, **told}
