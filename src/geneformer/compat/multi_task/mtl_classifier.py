"""`MTLClassifier` of the published package: several columns of labels, one encoder."""

import logging
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from geneformer.compat.multi_task import tables
from geneformer.compat.multi_task.checkpoints import FOLDER, load_tasks, save_encoder, save_tasks
from geneformer.compat.multi_task.hyperparameters import (
    FREEZE,
    SPACE,
    Hyperparameters,
    check_freezing,
    check_space,
    draw_hyperparameters,
    manual_hyperparameters,
)
from geneformer.compat.multi_task.logging import import_wandb, log_folder
from geneformer.compat.multi_task.processes import agreed, check_launched, is_first
from geneformer.compat.multi_task.training import Settings, TaskCells, runtime_of, train_tasks
from geneformer.data.storage import read_dataset
from geneformer.errors import GeneformerWarning, LabelError, OptionError
from geneformer.estimators.study import Study
from geneformer.options import SearchOptions
from geneformer.options._check import check_range, whole_number
from geneformer.tasks.inputs import check_pairing
from geneformer.tasks.task_values import Told, column_classes, names_of_cells, tell_values

_logger = logging.getLogger(__name__)

TRAIN_MAPPINGS, VALID_MAPPINGS = "task_label_mappings.pkl", "task_label_mappings_val.pkl"


class MTLClassifier:
    """Fine-tune one encoder for several columns of labels at once.

    The network starts from the pretrained weights. Which cells a batch has, how many steps there are, what is frozen
    and how the loss is weighed are as published; the weights kept are those after the last step. Attention pooling
    looks at the tokens of the cell only, and is kept with the checkpoint.

    Parameters
    ----------
    task_columns
        Columns of labels, one per task; in files the tasks are called `task1`, `task2`, …
    train_path, val_path, test_path
        `.dataset` folders. Training and validation cells need the same labels in every column.
    pretrained_path
        Folder (or name) of the model to start from.
    model_save_path, results_dir
        Folders for the network and for everything else; made if missing.
    trials_result_path
        Tab-separated table with the trials of a study; not written by default.
    batch_size
        Cells in one batch and device.
    n_trials, study_name
        Trials of a study, and its name.
    max_layers_to_freeze
        Lowest encoder layers that stay as they are, or `{"min": …, "max": …}` to draw their number from. By default
        a study draws from 1 to all but one.
    epochs
        Passes over the training cells.
    tensorboard_log_dir
        Folder for TensorBoard. Where nobody may write there, `tblogdir` in `results_dir`, with a warning.
    distributed_training, master_addr, master_port
        Spread over the processes that `torchrun` or `accelerate launch` started; with several devices but a single
        process, the error names the command. With one device there is nothing to spread over.
    use_attention_pooling
        A learnt weighting of the tokens of a cell in place of its first token. A value among the hyperparameters goes
        first.
    use_task_weights
        Whether the weights of the tasks count in the loss.
    hyperparameters
        What a study draws from, by name: `{"type": "float", "low": …, "high": …, "log": True}`, "int" likewise, or
        `{"type": "categorical", "choices": […]}`. What is not drawn is as published for manual runs.
    manual_hyperparameters
        Those of a manual run; what is left out is as published.
    use_manual_hyperparameters
        Whether `run_manual_tuning` may be called.
    use_wandb, wandb_project
        Tell Weights & Biases too, and the project there.
    gradient_clipping, max_grad_norm
        Whether gradients are scaled down to that norm.
    gradient_accumulation_steps
        Batches of one optimizer step.
    seed
        Of new weights, dropout, order, and the draws of a study.

    Raises
    ------
    OptionError
        A value that an argument does not take.
    MissingExtraError
        `use_wandb`, but the library is not installed.

    Examples
    --------
    >>> from geneformer import MTLClassifier
    >>> mtl = MTLClassifier(task_columns=["cell_type", "disease_state"], n_trials=5, batch_size=8)
    >>> mtl.study_name
    'mtl'
    """

    def __init__(  # noqa: PLR0913, PLR0917  the published arguments
        self,
        task_columns: Sequence[str] | None = None,
        train_path: str | Path | None = None,
        val_path: str | Path | None = None,
        test_path: str | Path | None = None,
        pretrained_path: str | Path | None = None,
        model_save_path: str | Path | None = None,
        results_dir: str | Path | None = None,
        trials_result_path: str | Path | None = None,
        batch_size: int = 4,
        n_trials: int = 15,
        study_name: str = "mtl",
        max_layers_to_freeze: int | Mapping[str, int] | None = None,
        epochs: int = 1,
        tensorboard_log_dir: str | Path = "/results/tblogdir",
        distributed_training: bool = False,
        master_addr: str = "localhost",
        master_port: str = "12355",
        use_attention_pooling: bool = True,
        use_task_weights: bool = True,
        hyperparameters: Mapping[str, Mapping[str, Any]] | None = None,
        manual_hyperparameters: Mapping[str, Any] | None = None,
        use_manual_hyperparameters: bool = False,
        use_wandb: bool = False,
        wandb_project: str | None = None,
        gradient_clipping: bool = False,
        max_grad_norm: float | None = None,
        gradient_accumulation_steps: int = 1,
        seed: int = 42,
    ) -> None:
        self.task_columns = _checked_columns(task_columns)
        self.train_path, self.val_path, self.test_path = train_path, val_path, test_path
        self.pretrained_path = pretrained_path
        self.model_save_path, self.results_dir = model_save_path, results_dir
        self.trials_result_path = trials_result_path
        self.batch_size, self.n_trials = (
            whole_number("batch_size", batch_size, low=1),
            whole_number("n_trials", n_trials, low=1),
        )
        self.study_name = study_name
        self.max_layers_to_freeze, self.epochs = max_layers_to_freeze, epochs
        self.tensorboard_log_dir = tensorboard_log_dir
        self.distributed_training = distributed_training
        self.master_addr, self.master_port = master_addr, master_port
        self.use_attention_pooling, self.use_task_weights = use_attention_pooling, use_task_weights
        self.hyperparameters = SPACE if hyperparameters is None else hyperparameters
        self.manual_hyperparameters = {} if manual_hyperparameters is None else manual_hyperparameters
        self.use_manual_hyperparameters = use_manual_hyperparameters
        self.use_wandb, self.wandb_project = use_wandb, wandb_project
        self.gradient_clipping, self.max_grad_norm = gradient_clipping, max_grad_norm
        self.gradient_accumulation_steps = whole_number(
            "gradient_accumulation_steps", gradient_accumulation_steps, low=1
        )
        self.seed = whole_number("seed", seed, low=0)
        self._check()

    def run_optuna_study(self) -> Path:
        """Search for hyperparameters, and keep the network of the best trial; returns its folder.

        Trials are compared by the cross-entropy of the validation cells, every task counting alike: the weights that a
        trial draws for its tasks shape its training, not what it is judged by.

        Raises
        ------
        OptionError
            A path is missing.
        LabelError
            Training and validation cells have other labels.
        MissingExtraError
            Optuna is not installed.
        """
        cells, settings, results = self._prepared()
        best: tuple[float, Any, dict[str, Any]] | None = None
        options = SearchOptions(trials=self.n_trials, study=self.study_name, pruner="none", seed=self.seed)
        with Study(options, {}, lower_is_better=True) as study:
            while (claim := study.claim(lambda trial: self._draw(trial, cells.base.n_layers))).state == "trial":
                drawn, name = dict(claim.options or {}), f"trial_{claim.trial.number}"
                network, told = train_tasks(cells, Hyperparameters(**drawn), settings, name)
                value = agreed(told.loss())
                self._write_validation(told, cells, results / name / "val_preds.csv")
                study.tell(claim.trial, value)
                _logger.info("%s: validation loss %.4f with %s", name, value, drawn)
                if best is None or value < best[0]:
                    best = value, network, drawn
            trials = study.table()
        if best is None:
            msg = f"None of {self.n_trials} trials came to an end."
            raise OptionError(msg)
        if self.trials_result_path is not None and is_first():
            tables.write_table(trials, Path(self.trials_result_path), separator="\t")
        return self._save(best[1], best[2])

    def run_manual_tuning(self) -> Path:
        """Train one network with `manual_hyperparameters`, and keep it; returns its folder.

        Raises
        ------
        OptionError
            `use_manual_hyperparameters` is not set, a path is missing, or there is not one weight per task.
        LabelError
            Training and validation cells have other labels.
        """
        if not self.use_manual_hyperparameters:
            msg = "Manual hyperparameters are not enabled. Pass use_manual_hyperparameters=True."
            raise OptionError(msg)
        cells, settings, results = self._prepared()
        chosen = self._manual(cells.base.n_layers)
        network, told = train_tasks(cells, chosen, settings, "manual_run")
        self._write_validation(told, cells, results / "manual_run_val_preds.csv")
        return self._save(network, chosen.to_dict())

    def load_and_evaluate_test_model(self) -> dict[str, dict[str, Any]]:
        """Predict the test cells with the network that was kept, and tell how well.

        Writes `test_preds.csv`, in the order of the dataset, and `test_metrics.json`. Labels and training cells are
        not needed where `task_label_mappings.pkl` is in `results_dir`; a test dataset may lack columns of labels, and
        cells of classes that were not learnt are counted but not judged.

        Returns
        -------
        dict
            By column: `n_cells`, `n_unknown`, `loss` in nats, `accuracy`, `macro_f1`, `classes` and `confusion` (rows
            are true classes).

        Raises
        ------
        OptionError
            A path is missing.
        CheckpointError
            There is no network, or it is one for other tasks.
        PairingError
            Cells that the network cannot read.
        """
        paths = self._paths("test_path", "model_save_path", "results_dir")
        mappings = paths["results_dir"] / TRAIN_MAPPINGS
        if mappings.is_file():
            classes = tables.read_mappings(mappings, self.task_columns)
        else:
            classes = column_classes(read_dataset(self._paths("train_path")["train_path"]), self.task_columns)
        network, pairing = load_tasks(paths["model_save_path"] / FOLDER, classes)
        tokens = read_dataset(paths["test_path"])
        check_pairing(tokens, pairing, truncate=False)
        runtime = runtime_of(self.batch_size, pairing.max_length)
        told = tell_values(network, tokens, classes, runtime, max_length=pairing.max_length)
        figures = told.figures()
        if is_first():
            tables.write_table(tables.test_table(told, names_of_cells(tokens)), paths["results_dir"] / "test_preds.csv")
            tables.write_json(figures, paths["results_dir"] / "test_metrics.json")
        agreed(None)
        return figures

    def save_model_without_heads(self) -> Path:
        """Write the trained encoder without heads to `GeneformerMultiTask_No_Heads`; returns the folder.

        Raises
        ------
        OptionError
            `model_save_path` is missing.
        CheckpointError
            There is no network.
        """
        folder = self._paths("model_save_path")["model_save_path"] / FOLDER
        return save_encoder(folder, folder.with_name(f"{FOLDER}_No_Heads"))

    def _check(self) -> None:
        """Refuse values that an argument does not take, before any work."""
        check_range("epochs", self.epochs, above=0)
        check_range("max_grad_norm", self.max_grad_norm, above=0.0)
        if self.gradient_clipping and self.max_grad_norm is None:
            msg = "gradient_clipping=True needs the norm to clip at. Pass max_grad_norm, such as 1.0."
            raise OptionError(msg)
        check_space(self.hyperparameters)
        self._manual(None)
        if isinstance(self.max_layers_to_freeze, Mapping):
            check_freezing(self.max_layers_to_freeze)
        else:
            self.max_layers_to_freeze = whole_number("max_layers_to_freeze", self.max_layers_to_freeze, low=0)
        if self.use_wandb:
            import_wandb()
        for name, unused in (("max_grad_norm", not self.gradient_clipping), ("wandb_project", not self.use_wandb)):
            if unused and getattr(self, name) is not None:
                told = {"max_grad_norm": "gradient_clipping", "wandb_project": "use_wandb"}[name]
                warnings.warn(f"{name} has no effect without {told}=True.", GeneformerWarning, stacklevel=3)

    def _paths(self, *names: str) -> dict[str, Path]:
        """Paths among the arguments, all of them given."""
        missing = [name for name in names if getattr(self, name) is None]
        if missing:
            msg = f"MTLClassifier has no {', no '.join(missing)}, which this needs. Pass every path by its name."
            raise OptionError(msg)
        return {name: Path(getattr(self, name)).expanduser() for name in names}

    def _prepared(self) -> tuple[TaskCells, Settings, Path]:
        """Model and cells, settings, and the folder of the results, where the labels' numbers are by now."""
        paths = self._paths("train_path", "val_path", "pretrained_path", "model_save_path", "results_dir")
        if self.distributed_training:
            check_launched(self.master_addr, self.master_port)
        cells = TaskCells.open(str(self.pretrained_path), paths["train_path"], paths["val_path"], self.task_columns)
        results = paths["results_dir"]
        if is_first():
            for name in (TRAIN_MAPPINGS, VALID_MAPPINGS):
                tables.write_mappings(cells.classes, results / name)
        settings = Settings(
            batch_size=self.batch_size,
            epochs=self.epochs,
            accumulation=self.gradient_accumulation_steps,
            max_grad_norm=float(self.max_grad_norm or 0.0) if self.gradient_clipping else 0.0,
            weighted=self.use_task_weights,
            seed=self.seed,
            log_folder=log_folder(self.tensorboard_log_dir, results) if is_first() else None,
            wandb=self.use_wandb and is_first(),
            project=self.wandb_project,
        )
        return cells, settings, results

    def _draw(self, trial: Any, n_layers: int) -> dict[str, Any]:
        """Hyperparameters of a trial."""
        frozen = self.max_layers_to_freeze
        if frozen is None:
            frozen = {"min": min(1, n_layers - 1), "max": n_layers - 1}
        check_range(FREEZE, frozen["max"] if isinstance(frozen, Mapping) else frozen, high=n_layers)
        return draw_hyperparameters(
            self.hyperparameters,
            trial,
            tasks=tables.task_names(self.task_columns),
            weighted=self.use_task_weights,
            freeze=frozen,
            pooling=self.use_attention_pooling,
        )

    def _manual(self, n_layers: int | None) -> Hyperparameters:
        """Hyperparameters of a manual run; what is not given is as published, as far as the encoder has layers."""
        frozen = self.max_layers_to_freeze
        usual: dict[str, Any] = {"task_weights": (1.0,) * len(self.task_columns)}
        if isinstance(frozen, int):
            usual["max_layers_to_freeze"] = frozen
        elif n_layers is not None:
            usual["max_layers_to_freeze"] = min(2, n_layers)
        if self.manual_hyperparameters:
            usual["use_attention_pooling"] = self.use_attention_pooling
        chosen = manual_hyperparameters(self.manual_hyperparameters, **usual)
        if n_layers is not None:
            check_range(FREEZE, chosen.max_layers_to_freeze, high=n_layers)
        if self.use_task_weights and len(chosen.task_weights) != len(self.task_columns):
            msg = (
                f"task_weights={list(chosen.task_weights)} has {len(chosen.task_weights)} weights for the "
                f"{len(self.task_columns)} tasks {self.task_columns}. Give one for each, or use_task_weights=False."
            )
            raise OptionError(msg)
        return chosen

    def _write_validation(self, told: Told, cells: TaskCells, path: Path) -> None:
        if is_first():
            tables.write_table(tables.validation_table(told, names_of_cells(cells.valid)), path)

    def _save(self, network: Any, hyperparameters: dict[str, Any]) -> Path:
        """Keep a network; returns its folder, once it is there."""
        folder = self._paths("model_save_path")["model_save_path"] / FOLDER
        if is_first():
            save_tasks(network, folder, hyperparameters)
        return agreed(folder)


def _checked_columns(columns: Sequence[str] | None) -> list[str]:
    found = [columns] if isinstance(columns, str) else list(columns or ())
    if not found or not all(isinstance(name, str) for name in found):
        msg = f'task_columns={columns!r} names no column. Give a list, such as ["cell_type", "disease_state"].'
        raise OptionError(msg)
    if len(set(found)) < len(found):
        msg = f"task_columns={found} names a column twice. Name each one once."
        raise LabelError(msg)
    return found
