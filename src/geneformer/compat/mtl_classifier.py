"""`MTLClassifier` of the published package: several columns of labels, one encoder."""

import json
import logging
import os
import warnings
from collections.abc import Mapping, Sequence
from contextlib import closing
from dataclasses import asdict, dataclass, field, fields
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from accelerate.utils import broadcast_object_list
from numpy.typing import NDArray
from transformers import TrainerCallback

from geneformer import errors
from geneformer.compat import mtl_files
from geneformer.compat.networks import readable_folder
from geneformer.compat.options import Count, Positive, check_arguments
from geneformer.compat.search_space import distribution
from geneformer.files import require
from geneformer.files.progress import progress_bar
from geneformer.finetuning.search import OPTIONS, open_study, suggest
from geneformer.finetuning.training import FinetuneResult, learn_cells, predict_cells
from geneformer.inference.cells import check_pairing
from geneformer.models.heads import GeneformerForCells
from geneformer.models.loading import LoadedModel, load_model
from geneformer.models.losses import MISSING
from geneformer.options import FinetuneOptions, RuntimeOptions, SearchOptions
from geneformer.options._fields import AboveZero, NonNegative, Options, Share, check_range, nearest, whole_number
from geneformer.tokens.dataset import TokenizedDataset
from geneformer.tokens.storage import read_dataset

_logger = logging.getLogger(__name__)

FOLDER = "GeneformerMultiTask"
"""Folder of the network within `model_save_path`."""

TRAIN_MAPPINGS, VALID_MAPPINGS = "task_label_mappings.pkl", "task_label_mappings_val.pkl"

FREEZE, POOLING, TASK_WEIGHTS = "max_layers_to_freeze", "use_attention_pooling", "task_weights"

SPACE: dict[str, dict[str, Any]] = {
    "learning_rate": {"type": "float", "low": 1e-5, "high": 1e-3, "log": True},
    "warmup_ratio": {"type": "float", "low": 0.005, "high": 0.01},
    "weight_decay": {"type": "float", "low": 0.01, "high": 0.1},
    "dropout_rate": {"type": "float", "low": 0.0, "high": 0.7},
    "lr_scheduler_type": {"type": "categorical", "choices": ["cosine"]},
    "task_weights": {"type": "float", "low": 0.1, "high": 2.0},
}
"""What a study draws from by default."""


@dataclass(eq=False, repr=False)
class MTLClassifier:
    """Fine-tune one encoder for several columns of labels at once.

    The network starts from the pretrained weights. Which cells a batch has, how many steps there are, what is frozen
    and how the loss is weighed are as published; the weights kept are those after the last step. Attention pooling
    looks at the tokens of the cell only, and is kept with the checkpoint.

    Parameters
    ----------
    task_columns : Columns of labels, one per task; in files the tasks are called `task1`, `task2`, …
    train_path, val_path, test_path : `.dataset` folders; training and validation cells need the same labels.
    pretrained_path : Folder (or name) of the model to start from.
    model_save_path, results_dir : Folders for the network and for everything else; made if missing.
    trials_result_path : Tab-separated table with the trials of a study; not written by default.
    batch_size, epochs : Cells in one batch and device, and passes over the training cells.
    n_trials, study_name : Trials of a study, and its name.
    max_layers_to_freeze : Lowest layers that stay as they are, or `{"min": …, "max": …}` to draw their number from.
    tensorboard_log_dir : Folder for TensorBoard; `tblogdir` in `results_dir` where nobody may write there.
    distributed_training, master_addr, master_port : Spread over processes that `torchrun` or `accelerate` started.
    use_attention_pooling : A learnt weighting of the tokens of a cell, unless the hyperparameters have one.
    use_task_weights : Whether the weights of the tasks count in the loss.
    hyperparameters
        What a study draws from, by name: `{"type": "float", "low": …, "high": …, "log": True}`, "int" likewise, or
        `{"type": "categorical", "choices": […]}`. What is not drawn is as published for manual runs.
    manual_hyperparameters, use_manual_hyperparameters : Those of a manual run, and whether there may be one.
    use_wandb, wandb_project : Log to Weights & Biases too, and the project there.
    gradient_clipping, max_grad_norm : Whether gradients are scaled down to that norm.
    gradient_accumulation_steps : How many batches make one optimizer step.
    seed : Of new weights, dropout, order, and the draws of a study.

    Examples
    --------
    >>> from geneformer import MTLClassifier
    >>> mtl = MTLClassifier(task_columns=["cell_type", "disease_state"], n_trials=5, batch_size=8)
    >>> mtl.study_name
    'mtl'
    """

    task_columns: Sequence[str] | None = None
    train_path: str | Path | None = None
    val_path: str | Path | None = None
    test_path: str | Path | None = None
    pretrained_path: str | Path | None = None
    model_save_path: str | Path | None = None
    results_dir: str | Path | None = None
    trials_result_path: str | Path | None = None
    batch_size: Positive = 4
    n_trials: Positive = 15
    study_name: str = "mtl"
    max_layers_to_freeze: int | Mapping[str, int] | None = None
    epochs: int = 1
    tensorboard_log_dir: str | Path = "/results/tblogdir"
    distributed_training: bool = False
    master_addr: str = "localhost"
    master_port: str = "12355"
    use_attention_pooling: bool = True
    use_task_weights: bool = True
    hyperparameters: Mapping[str, Mapping[str, Any]] | None = None
    manual_hyperparameters: Mapping[str, Any] | None = None
    use_manual_hyperparameters: bool = False
    use_wandb: bool = False
    wandb_project: str | None = None
    gradient_clipping: bool = False
    max_grad_norm: float | None = None
    gradient_accumulation_steps: Positive = 1
    seed: Count = 42

    def __post_init__(self) -> None:
        columns = [self.task_columns] if isinstance(self.task_columns, str) else list(self.task_columns or ())
        if not columns or not all(isinstance(name, str) for name in columns):
            msg = f'task_columns={columns!r} names no column. Give a list, such as ["cell_type", "disease_state"].'
            raise errors.OptionError(msg)
        if len(set(columns)) < len(columns):
            msg = f"task_columns={columns} names a column twice. Name each one once."
            raise errors.LabelError(msg)
        self.task_columns = columns
        vars(self).update(check_arguments(type(self), vars(self)))
        check_range("epochs", self.epochs, above=0)
        check_range("max_grad_norm", self.max_grad_norm, above=0.0)
        if self.gradient_clipping and self.max_grad_norm is None:
            msg = "gradient_clipping=True needs the norm to clip at. Pass max_grad_norm, such as 1.0."
            raise errors.OptionError(msg)
        self.hyperparameters = SPACE if self.hyperparameters is None else self.hyperparameters
        _check_space(self.hyperparameters)
        self.manual_hyperparameters = self.manual_hyperparameters or {}
        self._manual(None)
        frozen = self.max_layers_to_freeze
        if not isinstance(frozen, Mapping):
            self.max_layers_to_freeze = whole_number(FREEZE, frozen, low=0)
        elif set(frozen) == {"min", "max"}:
            low = whole_number('max_layers_to_freeze["min"]', frozen["min"], low=0)
            whole_number('max_layers_to_freeze["max"]', frozen["max"], low=low)
        else:
            msg = f'max_layers_to_freeze={dict(frozen)} takes a number, or a table with both "min" and "max".'
            raise errors.OptionError(msg)
        if self.use_wandb:
            _import_wandb()
        for name, switch in (("max_grad_norm", "gradient_clipping"), ("wandb_project", "use_wandb")):
            if getattr(self, name) is not None and not getattr(self, switch):
                _warn(f"{name} has no effect without {switch}=True.")
        self._log_folder: Path | None = None

    def run_optuna_study(self) -> Path:
        """Search for hyperparameters, and keep the network of the best trial; returns its folder.

        Trials are compared by the cross-entropy of the validation cells, every task counting alike: the weights that a
        trial draws for its tasks shape its training, not the comparison.
        """
        cells = self._open_cells()
        space = self._space(cells.base.n_layers)
        best: Any = None
        options = SearchOptions(trials=self.n_trials, study=self.study_name, pruner="none", seed=self.seed)
        with open_study(options, {}, lower_is_better=True) as study:
            while (trial := study.claim(lambda trial: self._drawn(trial, space))) is not None:
                drawn, name = Hyperparameters(**trial.user_attrs[OPTIONS]), f"trial_{trial.number}"
                network, predictions = self._train(cells, drawn, name, f"{name}/val_preds.csv")
                loss = agreed(predictions.loss())
                study.finish(trial, loss)
                _logger.info("%s: validation loss %.4f with %s", name, loss, trial.user_attrs[OPTIONS])
                if best is None or loss < best[0]:
                    best = loss, network, drawn
            trials = study.table()
        if self.trials_result_path is not None:
            mtl_files.write_text(trials.to_csv(index=False, sep="\t"), Path(self.trials_result_path))
        return self._save(*best[1:])

    def run_manual_tuning(self) -> Path:
        """Train one network with `manual_hyperparameters`, and keep it; returns its folder."""
        if not self.use_manual_hyperparameters:
            msg = "Manual hyperparameters are not enabled. Pass use_manual_hyperparameters=True."
            raise errors.OptionError(msg)
        cells = self._open_cells()
        chosen = self._manual(cells.base.n_layers)
        network, _ = self._train(cells, chosen, "manual_run", "manual_run_val_preds.csv")
        return self._save(network, chosen)

    def load_and_evaluate_test_model(self) -> dict[str, dict[str, Any]]:
        """Predict the test cells with the trained network, and measure the predictions.

        Writes `test_preds.csv`, in the order of the dataset, and `test_metrics.json`. Labels and training cells are
        not needed where `task_label_mappings.pkl` is in `results_dir`; a test dataset may lack columns of labels, and
        cells of classes that were not learnt are counted, no more.

        Returns
        -------
        dict
            By column: `n_cells`, `n_unknown`, `loss` in nats, `accuracy`, `macro_f1`, `classes` and `confusion` (rows
            are true classes).
        """
        test, model, results = self._paths("test_path", "model_save_path", "results_dir")
        if (results / TRAIN_MAPPINGS).is_file():
            classes = mtl_files.read_mappings(results / TRAIN_MAPPINGS, self._columns)
        else:
            classes = column_classes(read_dataset(self._paths("train_path")[0]), self._columns)
        network, pairing = mtl_files.load_tasks(model / FOLDER, classes)
        tokens = read_dataset(test)
        check_pairing(tokens, pairing, truncate=None)
        runtime = self._runtime(pairing.max_length)
        predictions = predict_tasks(network, tokens, classes, runtime, max_length=pairing.max_length)
        figures = predictions.figures()
        table = mtl_files.test_table(predictions, tokens)
        mtl_files.write_text(table.to_csv(index=False), results / "test_preds.csv")
        mtl_files.write_text(json.dumps(figures, indent=2, default=str) + "\n", results / "test_metrics.json")
        agreed(None)
        return figures

    def save_model_without_heads(self) -> Path:
        """Write the trained encoder without heads to `GeneformerMultiTask_No_Heads`; returns the folder."""
        folder = self._paths("model_save_path")[0] / FOLDER
        return mtl_files.save_encoder(folder, folder.with_name(f"{FOLDER}_No_Heads"))

    @property
    def _columns(self) -> list[str]:
        return list(self.task_columns or ())

    def _paths(self, *names: str) -> list[Path]:
        """Paths among the arguments, all of them given."""
        missing = [name for name in names if getattr(self, name) is None]
        if missing:
            msg = f"MTLClassifier has no {', no '.join(missing)}, which this needs. Pass every path by its name."
            raise errors.OptionError(msg)
        return [Path(getattr(self, name)).expanduser() for name in names]

    def _open_cells(self) -> "TaskCells":
        """Model and cells; the numbers of the labels are written by now."""
        train, valid, _, _, results = self._paths(
            "train_path", "val_path", "pretrained_path", "model_save_path", "results_dir"
        )
        if self.distributed_training:
            check_launched(self.master_addr, self.master_port)
        cells = TaskCells.open(str(self.pretrained_path), train, valid, self._columns)
        if mtl_files.is_first():
            for name in (TRAIN_MAPPINGS, VALID_MAPPINGS):
                mtl_files.write_mappings(cells.classes, results / name)
            self._log_folder = log_folder(self.tensorboard_log_dir, results)
        return cells

    def _train(
        self, cells: "TaskCells", hyperparameters: "Hyperparameters", name: str, table: str
    ) -> tuple[GeneformerForCells, mtl_files.TaskPredictions]:
        """A network trained from the pretrained weights, and its predictions for the validation cells, in a table."""
        runtime = self._runtime(cells.base.max_length)
        options = hyperparameters.finetuning(
            epochs=self.epochs,
            accumulation=self.gradient_accumulation_steps,
            max_grad_norm=float(self.max_grad_norm or 0.0) if self.gradient_clipping else 0.0,
            seed=self.seed,
        )
        project = {"project": self.wandb_project} if self.use_wandb and mtl_files.is_first() else None
        with closing(RunLog(self._log_folder, name, project)) as log, progress_bar(name) as update:
            try:
                network, result = learn_tasks(
                    cells,
                    options=options,
                    runtime=runtime,
                    task_weights=hyperparameters.task_weights if self.use_task_weights else None,
                    head_dropout=hyperparameters.dropout_rate,
                    cells_per_batch=self.batch_size,
                    callbacks=log.callbacks,
                    progress=update,
                )
            except errors.DeviceMemoryError as error:
                steps = f"gradient_accumulation_steps (now {self.gradient_accumulation_steps})"
                msg = f"A batch of {self.batch_size} cells exceeds memory. Lower batch_size and raise {steps} likewise."
                raise errors.DeviceMemoryError(msg) from error
            predictions = predict_tasks(network, cells.valid, cells.classes, runtime, max_length=cells.base.max_length)
            measures = {
                f"val/{task}/{measure}": float(figures[measure])
                for task, figures in predictions.figures().items()
                for measure in ("loss", "accuracy", "macro_f1")
            }
            log.write({"val/loss": predictions.loss(), **measures}, result.steps)
        text = mtl_files.validation_table(predictions, cells.valid).to_csv(index=False)
        mtl_files.write_text(text, self._paths("results_dir")[0] / table)
        return network, predictions

    def _runtime(self, positions: int) -> RuntimeOptions:
        """Arithmetic in float32, and passes of at most so many of the longest cells as a batch has."""
        return RuntimeOptions(dtype="float32", tokens_per_batch=self.batch_size * positions)

    def _space(self, n_layers: int) -> dict[str, Any]:
        """What a trial draws: one weight per task, and the number of frozen layers unless it is fixed."""
        space = dict(self.hyperparameters or {})
        weight = space.pop(TASK_WEIGHTS, None)
        if self.use_task_weights and weight is not None:
            space |= {f"{task}_weight": weight for task in mtl_files.task_names(self._columns)}
        frozen = self.max_layers_to_freeze
        if frozen is None:
            frozen = {"min": min(1, n_layers - 1), "max": n_layers - 1}
        check_range(FREEZE, frozen["max"] if isinstance(frozen, Mapping) else frozen, high=n_layers)
        freeze = space.pop(FREEZE, None)
        if freeze is None and isinstance(frozen, Mapping):
            freeze = {"type": "int", "low": int(frozen["min"]), "high": int(frozen["max"])}
        space |= {} if freeze is None else {FREEZE: freeze}
        keys = ("low", "high", "log", "choices")
        return {
            name: distribution(entry["type"], **{key: entry[key] for key in keys if key in entry})
            for name, entry in space.items()
        }

    def _drawn(self, trial: Any, space: Mapping[str, Any]) -> dict[str, Any]:
        """Hyperparameters that a trial draws; the weights of the tasks add up to 1."""
        drawn = {name: suggest(trial, name, entry) for name, entry in space.items()}
        names = [f"{task}_weight" for task in mtl_files.task_names(self._columns)]
        weights = [float(drawn.pop(name)) for name in names if name in drawn]
        shares = [weight / sum(weights) for weight in weights] or [1.0] * len(names)
        given = {POOLING: self.use_attention_pooling, FREEZE: self.max_layers_to_freeze, TASK_WEIGHTS: shares}
        return asdict(Hyperparameters(**given | drawn))

    def _manual(self, n_layers: int | None) -> "Hyperparameters":
        """Hyperparameters of a manual run; what is not given is as published, as far as the encoder has layers."""
        given, frozen = self.manual_hyperparameters or {}, self.max_layers_to_freeze
        _check_names("manual_hyperparameters", given)
        values: dict[str, Any] = {TASK_WEIGHTS: [1.0] * len(self._columns)}
        if isinstance(frozen, int):
            values[FREEZE] = frozen
        elif n_layers is not None:
            values[FREEZE] = min(2, n_layers)
        if given:
            values[POOLING] = self.use_attention_pooling
        chosen = Hyperparameters(**values | {name: value for name, value in given.items() if value is not None})
        if n_layers is not None:
            check_range(FREEZE, chosen.max_layers_to_freeze, high=n_layers)
        if self.use_task_weights and len(chosen.task_weights) != len(self._columns):
            n = len(chosen.task_weights)
            msg = (
                f"task_weights has {n} weights for the tasks {self._columns}. Give one each, or use_task_weights=False."
            )
            raise errors.OptionError(msg)
        return chosen

    def _save(self, network: GeneformerForCells, hyperparameters: "Hyperparameters") -> Path:
        """Keep a network; returns its folder, once it is there."""
        folder = self._paths("model_save_path")[0] / FOLDER
        if mtl_files.is_first():
            mtl_files.save_tasks(network, folder, asdict(hyperparameters))
        return Path(agreed(folder))


@dataclass(frozen=True, kw_only=True, slots=True)
class Hyperparameters(Options):
    """How one network is trained; names and defaults of the published manual run."""

    learning_rate: AboveZero = 0.001
    warmup_ratio: Share = 0.01
    weight_decay: NonNegative = 0.1
    dropout_rate: Share = 0.1
    lr_scheduler_type: Literal["cosine", "linear"] = "cosine"
    use_attention_pooling: Literal[True, False] = False
    task_weights: list[float] = field(default_factory=list)
    max_layers_to_freeze: int = 2

    def _check(self) -> None:
        object.__setattr__(self, FREEZE, whole_number(FREEZE, self.max_layers_to_freeze, low=0))
        object.__setattr__(self, TASK_WEIGHTS, list(self.task_weights))
        for weight in self.task_weights:
            check_range(TASK_WEIGHTS, weight, low=0.0)

    def finetuning(self, **options: Any) -> FinetuneOptions:
        """The same as options of this package."""
        return FinetuneOptions(
            learning_rate=self.learning_rate,
            warmup_ratio=self.warmup_ratio,
            weight_decay=self.weight_decay,
            schedule=self.lr_scheduler_type,
            pooling="attention" if self.use_attention_pooling else "cls",
            freeze_layers=self.max_layers_to_freeze,
            head_start="random",
            strategy="full",
            patience=0,
            **options,
        )


def _check_names(argument: str, given: Mapping[str, Any]) -> None:
    names = [entry.name for entry in fields(Hyperparameters)]
    for name in given:
        if name not in names:
            msg = f"{argument} names {name!r}. Hyperparameters are {', '.join(names)}.{nearest(name, names)}"
            raise errors.UnknownOptionError(msg)


def _check_space(space: Mapping[str, Any]) -> None:
    """Refuse what cannot be drawn, before the first trial."""
    _check_names("hyperparameters", space)
    needed = {"float": {"low", "high"}, "int": {"low", "high"}, "categorical": {"choices"}}
    for name, entry in space.items():
        if not isinstance(entry, Mapping) or not needed.get(str(entry.get("type")), {"a known type"}) <= set(entry):
            msg = (
                f'hyperparameters[{name!r}]={entry!r} cannot be drawn from. Give {{"type": "float", "low": …, "high": '
                '…}, with "log": True if need be, "int" likewise, or {"type": "categorical", "choices": […]}.'
            )
            raise errors.OptionError(msg)


@dataclass(frozen=True, slots=True, eq=False)
class TaskCells:
    """Pretrained model, and the cells to learn from and to validate on."""

    base: LoadedModel
    train: TokenizedDataset
    valid: TokenizedDataset
    classes: mtl_files.Classes

    @classmethod
    def open(cls, model: str | Path, train: str | Path, valid: str | Path, columns: list[str]) -> "TaskCells":
        """Read all of them."""
        base = load_model(readable_folder(model))
        parts = [read_dataset(path) for path in (train, valid)]
        for tokens in parts:
            check_pairing(tokens, base, truncate=None)
        classes, others = (column_classes(tokens, columns) for tokens in parts)
        for name in columns:
            ours, theirs = set(classes[name]), set(others[name])
            if ours != theirs:
                extra = {"train_path": ours - theirs, "val_path": theirs - ours}
                only = [f"{sorted(values, key=str)[:5]} only in {side}" for side, values in extra.items() if values]
                msg = f"Labels of {name!r} differ: {'; '.join(only)}. Both need all labels; split the cells anew."
                raise errors.LabelError(msg)
        return cls(base, parts[0], parts[1], classes)


def column_classes(tokens: TokenizedDataset, columns: Sequence[str]) -> mtl_files.Classes:
    """Values of the columns, ascending; none may be missing."""
    classes = {}
    for name in columns:
        tokens.column(name)  # which says what columns there are, where this one is not
        values: list[Any] = tokens.table.column(name).to_pylist()
        n_missing = sum(value is None or value != value for value in values)  # noqa: PLR0124  NaN
        if n_missing:
            lacking = f"{n_missing:,} of {len(values):,} cells have no value in column {name!r}"
            msg = f"{lacking}. Leave them out, or use `geneformer.MultiTaskClassifier`, which needs one label per cell."
            raise errors.MissingLabelError(msg)
        classes[name] = tuple(sorted(set(values)))
    return classes


def column_codes(tokens: TokenizedDataset, classes: mtl_files.Classes) -> dict[str, NDArray[np.int64]]:
    """Class number of each cell by task, as far as there is a column, ``(n,)``; `losses.MISSING` for other values."""
    codes = {}
    for name in (name for name in classes if name in tokens.columns):
        code_of = {value: code for code, value in enumerate(classes[name])}
        values = tokens.table.column(name).to_pylist()
        codes[name] = np.array([code_of.get(value, MISSING) for value in values], dtype=np.int64)
    return codes


def learn_tasks(cells: TaskCells, **options: Any) -> tuple[GeneformerForCells, FinetuneResult]:
    """Fine-tune an encoder with a head for each column; the weights are those after the last step."""
    rows, codes = np.arange(len(cells.train)), column_codes(cells.train, cells.classes)
    specs = mtl_files.head_specs(cells.classes)
    return learn_cells(cells.base, cells.train, specs, codes, train_rows=rows, valid_rows=rows[:0], **options)


def predict_tasks(
    network: GeneformerForCells,
    tokens: TokenizedDataset,
    classes: mtl_files.Classes,
    runtime: RuntimeOptions,
    **options: Any,
) -> mtl_files.TaskPredictions:
    """Predictions of a network, and the true classes as far as they are known."""
    from scipy.special import softmax

    logits = predict_cells(network, tokens, runtime, **options)
    proba = {name: softmax(values.astype(np.float64), axis=1) for name, values in logits.items()}
    return mtl_files.TaskPredictions(classes, proba, column_codes(tokens, classes))


class RunLog(TrainerCallback):
    """What is logged of one run: in TensorBoard, and with settings for it in Weights & Biases."""

    def __init__(self, folder: Path | None, name: str, wandb: Mapping[str, Any] | None) -> None:
        self.tracker = None if wandb is None else _import_wandb().init(**wandb, name=name, reinit=True)
        self.writer: Any = None
        if folder is not None:
            from torch.utils.tensorboard import SummaryWriter

            self.writer = SummaryWriter(log_dir=str(folder / name))

    @property
    def callbacks(self) -> list[TrainerCallback]:
        """What the Trainer calls."""
        if self.tracker is None:
            return [self]
        from transformers.integrations.integration_utils import WandbCallback

        return [self, WandbCallback()]  # type: ignore[no-untyped-call]

    def on_log(self, args: Any, state: Any, control: Any, logs: Mapping[str, Any] | None = None, **_: Any) -> None:
        """One more line of the Trainer, which tells Weights & Biases by itself."""
        numbers = {f"train/{name}": value for name, value in (logs or {}).items() if isinstance(value, (int, float))}
        self._draw(numbers, state.global_step)

    def write(self, figures: Mapping[str, float], step: int) -> None:
        """Log some figures."""
        self._draw(figures, step)
        if self.tracker is not None:
            self.tracker.log(dict(figures))

    def _draw(self, figures: Mapping[str, float], step: int) -> None:
        if self.writer is not None:
            for name, value in figures.items():
                self.writer.add_scalar(name, value, step)

    def close(self) -> None:
        """End the run."""
        if self.writer is not None:
            self.writer.close()
        if self.tracker is not None:
            self.tracker.finish()


def _import_wandb() -> Any:
    return require("wandb", "use_wandb=True", instead="leave it out: TensorBoard gets the same")


def _warn(msg: str) -> None:
    warnings.warn(msg, errors.GeneformerWarning, stacklevel=4)


def log_folder(asked: str | Path, results: Path) -> Path | None:
    """Where TensorBoard's files go: where asked, or a folder of the results where nobody may write there."""
    if find_spec("tensorboard") is None:
        install = '`pip install "geneformer[train]"`'
        _warn(f"TensorBoard is not installed, so nothing is logged for it. Install it with {install}.")
        return None
    folder, reason = Path(asked).expanduser(), "Permission denied"
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        reason = error.strerror or type(error).__name__
    else:
        if os.access(folder, os.W_OK | os.X_OK):
            return folder
    instead = results / "tblogdir"
    _warn(f'tensorboard_log_dir="{asked}" cannot be written to ({reason}); logs go to "{instead}".')
    return instead


def check_launched(master_addr: str, master_port: str) -> None:
    """Refuse to spread over devices from within one process."""
    devices = torch.accelerator.device_count()
    if devices <= 1 or int(os.environ.get("WORLD_SIZE", "1")) > 1:
        return
    msg = (
        f"distributed_training=True, and there are {devices} devices but one process. Processes are started by a "
        f"launcher here: run the same script with `torchrun --nproc-per-node {devices} --master-addr {master_addr} "
        f"--master-port {master_port} SCRIPT.py` or `accelerate launch SCRIPT.py`; or leave the argument out to train "
        "on one device."
    )
    raise errors.UnsupportedArgumentError(msg)


def agreed(value: Any) -> Any:
    """The value that the first process has; all have come this far when it is returned."""
    return broadcast_object_list([value])[0]
