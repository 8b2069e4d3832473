"""`MTLClassifier` of the published package: several columns of labels, one encoder."""

import json
import logging
import os
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from copy import deepcopy
from dataclasses import asdict, dataclass, fields
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
from numpy.typing import NDArray
from torch import Tensor
from transformers import BertConfig, TrainerCallback

from geneformer import keys
from geneformer.compat.networks import readable_folder
from geneformer.errors import (
    CheckpointError,
    DeviceMemoryError,
    GeneformerWarning,
    LabelError,
    MissingLabelError,
    OptionError,
    UnknownClassError,
    UnknownOptionError,
    UnsupportedArgumentError,
)
from geneformer.files import require
from geneformer.files.atomic import atomic_file, output_errors
from geneformer.files.pickles import read_pickle, write_pickle
from geneformer.files.progress import progress_bar
from geneformer.finetuning.estimator import Pairing
from geneformer.finetuning.metrics import confusion, softmax
from geneformer.finetuning.search import Study
from geneformer.finetuning.training import FinetuneResult, class_scores, learn_cells, predict_cells
from geneformer.inference.cells import check_pairing
from geneformer.models.checkpoint import PICKLED_WEIGHTS, WEIGHTS, read_config, read_weights, unpickle_weights
from geneformer.models.config import write_config
from geneformer.models.finetuned import filled
from geneformer.models.heads import GeneformerForCells, HeadSpec
from geneformer.models.loading import LoadedModel, load_model, recognize_vocabulary
from geneformer.models.losses import MISSING
from geneformer.options import FinetuneOptions, RuntimeOptions, SearchOptions
from geneformer.options._fields import check_choice, check_range, nearest, whole_number
from geneformer.tokens.dataset import TokenizedDataset
from geneformer.tokens.storage import read_dataset

if TYPE_CHECKING:
    import pandas as pd

Classes = dict[str, tuple[Any, ...]]
"""Values of each column, ascending; their places are the class numbers."""


@dataclass(frozen=True, slots=True, eq=False)
class Told:
    """What a network says about cells, in the order of the dataset."""

    classes: Classes
    proba: dict[str, NDArray[np.float64]]
    truth: dict[str, NDArray[np.int64]]

    def figures(self) -> dict[str, dict[str, Any]]:
        """By task: cells with a known class and others, cross-entropy in nats, accuracy, macro-F1, confusion matrix."""
        return {
            name: _figures(self.proba[name], codes, self.classes[name])
            for name, codes in self.truth.items()
            if (codes != MISSING).any()
        }

    def loss(self, weights: Sequence[float] | None = None) -> float:
        """Sum of the cross-entropies of the tasks; by default each counts alike, and all together once."""
        shares = weights or [1 / len(self.classes)] * len(self.classes)
        figures = self.figures()
        return float(sum(share * figures[name]["loss"] for share, name in zip(shares, self.classes, strict=True)))


def column_classes(tokens: TokenizedDataset, columns: Sequence[str]) -> Classes:
    """Values of the columns, ascending."""
    return {name: tuple(sorted(set(_values(tokens, name)))) for name in columns}


def column_codes(tokens: TokenizedDataset, classes: Classes, *, refuse: bool = True) -> dict[str, NDArray[np.int64]]:
    """Class number of each cell by task, ``(n,)``."""
    found: dict[str, NDArray[np.int64]] = {}
    for name, values in classes.items():
        if not refuse and name not in tokens.columns:
            continue
        place = {value: code for code, value in enumerate(values)}
        column = _values(tokens, name) if refuse else tokens.table.column(name).to_pylist()
        codes = np.array([place.get(value, MISSING) for value in column], dtype=np.int64)
        if refuse and (codes == MISSING).any():
            others = sorted({str(value) for value in column} - {str(value) for value in values})
            msg = f"Column {name!r} holds {', '.join(others[:5])}, of which there is no cell to learn from."
            raise UnknownClassError(msg)
        found[name] = codes
    return found


def learn_values(
    base: Any, train: TokenizedDataset, classes: Classes, **options: Any
) -> tuple[GeneformerForCells, FinetuneResult]:
    """Fine-tune an encoder with a head for each column; the weights are those after the last step."""
    specs = [HeadSpec(name=name, classes=tuple(map(str, values))) for name, values in classes.items()]
    rows = np.arange(len(train))
    return learn_cells(
        base, train, specs, column_codes(train, classes), train_rows=rows, valid_rows=rows[:0], **options
    )


def tell_values(
    network: GeneformerForCells,
    tokens: TokenizedDataset,
    classes: Classes,
    runtime: RuntimeOptions,
    **options: Any,
) -> Told:
    """What a network says about cells, beside what is known about them."""
    logits = predict_cells(network, tokens, runtime, **options)
    return Told(
        classes,
        {name: softmax(values.astype(np.float64)) for name, values in logits.items()},
        column_codes(tokens, classes, refuse=False),
    )


def names_of_cells(tokens: TokenizedDataset) -> list[str]:
    """Name of each cell: its `unique_cell_id`, else its `cell_id`, else `cell_` and its row."""
    for name in ("unique_cell_id", keys.CELL_ID):
        if name in tokens.columns:
            return [str(value) for value in tokens.column(name).tolist()]
    return [f"cell_{row}" for row in range(len(tokens))]


def _values(tokens: TokenizedDataset, name: str) -> list[Any]:
    """Values of a column, none of them missing."""
    tokens.column(name)  # says so where there is none
    values: list[Any] = tokens.table.column(name).to_pylist()
    n_missing = sum(value is None or value != value for value in values)  # noqa: PLR0124  not a number
    if n_missing:
        msg = (
            f"{n_missing:,} of {len(values):,} cells have no value in column {name!r}. Leave them out of the dataset, "
            f"or use `geneformer.MultiTaskClassifier`, for which a cell may lack some of its labels."
        )
        raise MissingLabelError(msg)
    return values


def _figures(proba: NDArray[np.float64], codes: NDArray[np.int64], classes: Sequence[Any]) -> dict[str, Any]:
    known = codes != MISSING
    truth, said = codes[known], proba[known]
    accuracy, macro_f1 = class_scores(said, truth)
    own = said[np.arange(len(truth)), truth]
    return {
        "n_cells": len(truth),
        "n_unknown": int((~known).sum()),
        "loss": float(-np.log(np.maximum(own, np.finfo(np.float64).tiny)).mean()),
        "accuracy": accuracy,
        "macro_f1": macro_f1,
        "classes": list(classes),
        "confusion": confusion(truth, said.argmax(1), len(classes)).tolist(),
    }


CELL = "Cell ID"


def task_names(columns: Sequence[str]) -> list[str]:
    """What the tasks are called in files: `task1`, `task2` and so on."""
    return [f"task{number}" for number in range(1, len(columns) + 1)]


def validation_table(told: Told, cells: Sequence[str]) -> "pd.DataFrame":
    """Predictions on labeled cells, in the order of the dataset."""
    import pandas as pd

    columns: dict[str, Any] = {CELL: list(cells)}
    for task, (name, labels) in zip(task_names(list(told.classes)), told.classes.items(), strict=True):
        proba, truth = told.proba[name], told.truth[name]
        said = proba.argmax(axis=1)
        columns[f"{task}_true_idx"], columns[f"{task}_pred_idx"] = truth, said
        columns[f"{task}_true_label"] = [labels[code] for code in truth]
        columns[f"{task}_pred_label"] = [labels[code] for code in said]
        columns[f"{task}_all_probs"] = _joined(proba)
        columns |= {f"{task}_prob_{label}": proba[:, code] for code, label in enumerate(labels)}
    return pd.DataFrame(columns)


def test_table(told: Told, cells: Sequence[str]) -> "pd.DataFrame":
    """Predictions, in the order of the dataset."""
    import pandas as pd

    columns: dict[str, Any] = {CELL: list(cells)}
    for task, proba in zip(task_names(list(told.classes)), told.proba.values(), strict=True):
        columns[f"{task} Prediction"] = proba.argmax(axis=1)
        columns[f"{task} Probabilities"] = _joined(proba)
    return pd.DataFrame(columns)


def write_table(table: "pd.DataFrame", path: Path, *, separator: str = ",") -> Path:
    """Write a table without its index; returns where it is."""
    with output_errors(path):
        path.absolute().parent.mkdir(parents=True, exist_ok=True)
    with atomic_file(path, overwrite=True) as temporary:
        table.to_csv(temporary, index=False, sep=separator)
    return path


def write_json(content: Mapping[str, Any], path: Path) -> Path:
    """Write figures as JSON; returns where they are."""
    with output_errors(path):
        path.absolute().parent.mkdir(parents=True, exist_ok=True)
    with atomic_file(path, overwrite=True) as temporary:
        temporary.write_text(json.dumps(content, indent=2, default=str) + "\n", encoding="utf-8")
    return path


def write_mappings(classes: Classes, path: Path) -> Path:
    """Write which number each label has: `{"task1": {label: number}, …}`; returns where it is."""
    names = task_names(list(classes))
    numbers = [{label: code for code, label in enumerate(labels)} for labels in classes.values()]
    return write_pickle(dict(zip(names, numbers, strict=True)), path)


def read_mappings(path: Path, columns: Sequence[str]) -> Classes:
    """Labels by task in the order of their numbers, as `write_mappings` or the published package wrote them."""
    content, names = read_pickle(path), task_names(columns)
    fits = isinstance(content, dict) and list(content) == names and all(isinstance(m, dict) for m in content.values())
    if not fits or any(sorted(numbers.values()) != list(range(len(numbers))) for numbers in content.values()):
        found = list(content) if isinstance(content, dict) else type(content).__name__
        msg = f"{path} holds {found}, not the label mappings of the {len(columns)} tasks {list(columns)}."
        raise CheckpointError(msg)
    return {
        column: tuple(sorted(content[name], key=content[name].get)) for column, name in zip(columns, names, strict=True)
    }


def _joined(proba: Any) -> list[str]:
    return [",".join(map(str, row)) for row in proba.tolist()]


FOLDER = "GeneformerMultiTask"
"""Folder of the network within `model_save_path`."""

HYPERPARAMETERS = "hyperparameters.json"

_ENCODER, _POOLER = "bert.", "bert.pooler."
_PUBLISHED = {"pool.": "attention_pool.", "heads.": "classification_heads."}
"""Prefixes of parameters that are called otherwise here."""


def save_tasks(network: GeneformerForCells, folder: Path, hyperparameters: Mapping[str, Any]) -> Path:
    """Write `pytorch_model.bin`, `config.json` and `hyperparameters.json`; returns the folder."""
    import torch

    folder.mkdir(parents=True, exist_ok=True)
    state = {_renamed(name, _PUBLISHED): value.detach().cpu() for name, value in network.state_dict().items()}
    (folder / WEIGHTS).unlink(missing_ok=True)  # of another network, it would be read in the place of this one
    with atomic_file(folder / PICKLED_WEIGHTS, overwrite=True) as temporary:
        torch.save(state, temporary)
    write_config(deepcopy(network.config), folder)
    (folder / HYPERPARAMETERS).write_text(json.dumps(dict(hyperparameters), indent=2) + "\n", encoding="utf-8")
    return folder


def load_tasks(folder: str | Path, classes: Mapping[str, Sequence[Any]]) -> tuple[GeneformerForCells, Pairing]:
    """A network as `save_tasks` or the published package wrote it, and what tokens for it depend on."""
    config, weights = _read(Path(folder))
    back = {published: own for own, published in _PUBLISHED.items()}
    state = {_renamed(name, back): value for name, value in weights.items() if not name.startswith(_POOLER)}
    state = {name: value for name, value in state.items() if not name.endswith("position_ids")}
    sizes = [
        len(state[name]) for name in sorted(state, key=_head) if name.startswith("heads.") and name[-7:] == ".weight"
    ]
    asked = [len(values) for values in classes.values()]
    if sizes != asked:
        msg = (
            f"{folder} has heads for {sizes} classes, but the tasks {list(classes)} have {asked}. Give the columns, "
            "and the label mappings or training data, that it was trained with."
        )
        raise CheckpointError(msg)
    specs = [HeadSpec(name=name, classes=tuple(map(str, values))) for name, values in classes.items()]
    config.geneformer_heads = [spec.to_dict() for spec in specs]
    config.geneformer_pooling = "attention" if "pool.attention_weights" in state else "cls"
    config.geneformer_learn_task_weights = False
    pairing = Pairing(
        str(folder), recognize_vocabulary(config, Path(folder), None), int(config.max_position_embeddings)
    )
    return filled(GeneformerForCells, config, state, str(folder)), pairing


def save_encoder(folder: str | Path, output: Path) -> Path:
    """Write the encoder of a multi-task network, without heads and pooling; returns the folder."""
    from safetensors.torch import save_file

    config, weights = _read(Path(folder))
    encoder = {name: value for name, value in weights.items() if name.startswith(_ENCODER)}
    if not encoder:
        msg = f"{folder} holds no weights that start with {_ENCODER!r}. Give the folder of a multi-task classifier."
        raise CheckpointError(msg)
    output.mkdir(parents=True, exist_ok=True)
    with atomic_file(output / WEIGHTS, overwrite=True) as temporary:
        save_file(encoder, temporary, metadata={"format": "pt"})
    for name in ("geneformer_heads", "geneformer_pooling", "geneformer_learn_task_weights"):
        if hasattr(config, name):
            delattr(config, name)
    write_config(config, output, architecture="BertModel")
    return output


def _read(folder: Path) -> tuple[BertConfig, dict[str, Tensor]]:
    """Configuration and weights, whichever way they are stored; nothing is converted for being read once."""
    if not folder.is_dir():
        msg = f"{folder} does not exist. Train a network first, or give the model_save_path of one."
        raise CheckpointError(msg)
    pickled = (folder / PICKLED_WEIGHTS).is_file() and not (folder / WEIGHTS).is_file()
    return read_config(folder), unpickle_weights(folder / PICKLED_WEIGHTS) if pickled else read_weights(folder)


def _renamed(name: str, prefixes: Mapping[str, str]) -> str:
    for old, new in prefixes.items():
        if name.startswith(old):
            return new + name.removeprefix(old)
    return name


def _head(name: str) -> tuple[int, str]:
    """Number of the head a parameter belongs to, so that the tenth comes after the second."""
    parts = name.split(".")
    return (int(parts[1]) if parts[0] == "heads" and parts[1].isdigit() else -1), name


SPACE: dict[str, dict[str, Any]] = {
    "learning_rate": {"type": "float", "low": 1e-5, "high": 1e-3, "log": True},
    "warmup_ratio": {"type": "float", "low": 0.005, "high": 0.01},
    "weight_decay": {"type": "float", "low": 0.01, "high": 0.1},
    "dropout_rate": {"type": "float", "low": 0.0, "high": 0.7},
    "lr_scheduler_type": {"type": "categorical", "choices": ["cosine"]},
    "task_weights": {"type": "float", "low": 0.1, "high": 2.0},
}
"""What a study draws from by default."""

FREEZE, POOLING, TASK_WEIGHTS = "max_layers_to_freeze", "use_attention_pooling", "task_weights"


@dataclass(frozen=True, kw_only=True, slots=True)
class Hyperparameters:
    """How one network is trained; names and defaults of the published manual run."""

    learning_rate: float = 0.001
    warmup_ratio: float = 0.01
    weight_decay: float = 0.1
    dropout_rate: float = 0.1
    lr_scheduler_type: str = "cosine"
    use_attention_pooling: bool = False
    task_weights: tuple[float, ...] = ()
    max_layers_to_freeze: int = 2

    def __post_init__(self) -> None:
        check_choice("lr_scheduler_type", self.lr_scheduler_type, ("cosine", "linear"))
        check_choice(POOLING, self.use_attention_pooling, (True, False))
        check_range("learning_rate", self.learning_rate, above=0.0)
        check_range("warmup_ratio", self.warmup_ratio, low=0.0, high=1.0)
        check_range("weight_decay", self.weight_decay, low=0.0)
        check_range("dropout_rate", self.dropout_rate, low=0.0, high=1.0)
        object.__setattr__(self, FREEZE, whole_number(FREEZE, self.max_layers_to_freeze, low=0))
        object.__setattr__(self, TASK_WEIGHTS, tuple(self.task_weights))
        for weight in self.task_weights:
            check_range(TASK_WEIGHTS, weight, low=0.0)

    def to_dict(self) -> dict[str, Any]:
        """As JSON takes it."""
        return asdict(self) | {TASK_WEIGHTS: list(self.task_weights)}

    def finetuning(self, **options: Any) -> FinetuneOptions:
        """The same as options of this package."""
        return FinetuneOptions(
            learning_rate=self.learning_rate,
            warmup_ratio=self.warmup_ratio,
            weight_decay=self.weight_decay,
            schedule=self.lr_scheduler_type,  # type: ignore[arg-type]
            pooling="attention" if self.use_attention_pooling else "cls",
            freeze_layers=self.max_layers_to_freeze,
            **options,
        )


def manual_hyperparameters(given: Mapping[str, Any], **usual: Any) -> Hyperparameters:
    """Those of a manual run; what is not given is as usual, or as published."""
    _check_names("manual_hyperparameters", given)
    return Hyperparameters(**{**usual, **{name: value for name, value in given.items() if value is not None}})


def check_space(space: Mapping[str, Any]) -> None:
    """Refuse what cannot be drawn, before the first trial."""
    _check_names("hyperparameters", space)
    for name, entry in space.items():
        kind = entry.get("type") if isinstance(entry, Mapping) else None
        wanted = {"float": ("low", "high"), "int": ("low", "high"), "categorical": ("choices",)}.get(str(kind), ())
        if not isinstance(entry, Mapping) or not wanted or not all(key in entry for key in wanted):
            msg = (
                f'hyperparameters[{name!r}]={entry!r} cannot be drawn from. Give {{"type": "float", "low": …, "high": '
                '…}, with "log": True if wanted, "int" likewise, or {"type": "categorical", "choices": […]}.'
            )
            raise OptionError(msg)


def check_freezing(span: Mapping[str, Any]) -> None:
    """Refuse a range of frozen layers that is none."""
    if set(span) != {"min", "max"}:
        msg = f'max_layers_to_freeze={dict(span)} takes a number, or a table with both "min" and "max".'
        raise OptionError(msg)
    low = whole_number('max_layers_to_freeze["min"]', span["min"], low=0)
    whole_number('max_layers_to_freeze["max"]', span["max"], low=low)


def draw_hyperparameters(
    space: Mapping[str, Any], trial: Any, *, tasks: Sequence[str], weighted: bool, freeze: Any, pooling: bool
) -> dict[str, Any]:
    """Hyperparameters of a trial."""
    drawn = {name: _draw(name, entry, trial) for name, entry in space.items() if name not in (TASK_WEIGHTS, FREEZE)}
    drawn = {POOLING: pooling} | drawn
    weights = [1.0] * len(tasks)
    if weighted and TASK_WEIGHTS in space:
        weights = [float(_draw(f"{task}_weight", space[TASK_WEIGHTS], trial)) for task in tasks]
        total = sum(weights)
        weights = [weight / total for weight in weights]
    if FREEZE in space:
        frozen = _draw(FREEZE, space[FREEZE], trial)
    elif isinstance(freeze, Mapping):
        frozen = trial.suggest_int(FREEZE, int(freeze["min"]), int(freeze["max"]))
    else:
        frozen = freeze
    return Hyperparameters(**drawn, task_weights=tuple(weights), max_layers_to_freeze=int(frozen)).to_dict()


def _draw(name: str, entry: Mapping[str, Any], trial: Any) -> Any:
    if entry["type"] == "categorical":
        return trial.suggest_categorical(name, list(entry["choices"]))
    suggest = trial.suggest_int if entry["type"] == "int" else trial.suggest_float
    return suggest(name, entry["low"], entry["high"], log=bool(entry.get("log", False)))


def _check_names(argument: str, given: Mapping[str, Any]) -> None:
    known = [field.name for field in fields(Hyperparameters)]
    unknown = [name for name in given if name not in known]
    if unknown:
        msg = f"{argument} names {unknown[0]!r}. Hyperparameters are {', '.join(known)}.{nearest(unknown[0], known)}"
        raise UnknownOptionError(msg)


_logger = logging.getLogger(__name__)


class RunLog:
    """What is logged of one run, wherever it goes."""

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
        """Log some figures."""
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
    """The log of a run, closed in the end."""
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
    """The client of Weights & Biases."""
    return require("wandb", "use_wandb=True", instead="leave it out: TensorBoard gets the same")


def log_folder(asked: str | Path, results: Path) -> Path | None:
    """Where TensorBoard's files go: where asked, or a folder of the results where nobody may write there."""
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


Value = TypeVar("Value")


def check_launched(master_addr: str, master_port: str) -> None:
    """Refuse to spread over devices from within one process."""
    import torch

    devices = torch.accelerator.device_count()
    if devices <= 1 or int(os.environ.get("WORLD_SIZE", "1")) > 1:
        return
    msg = (
        f"distributed_training=True, and there are {devices} devices but one process. Processes are started by a "
        f"launcher here: run the same script with `torchrun --nproc-per-node {devices} --master-addr {master_addr} "
        f"--master-port {master_port} SCRIPT.py` or `accelerate launch SCRIPT.py`; or leave the argument out to train "
        "on one device."
    )
    raise UnsupportedArgumentError(msg)


def is_first() -> bool:
    """Whether this process writes the files."""
    return int(os.environ.get("RANK", "0")) == 0


def agreed(value: Value) -> Value:
    """The value that the first process has; all have come this far when it is returned."""
    if not _spread():
        return value
    shared: list[Any] = [value]
    _group().broadcast_object_list(shared, src=0)
    agreed_on: Value = shared[0]
    return agreed_on


def _group() -> Any:
    import torch.distributed

    return torch.distributed


def _spread() -> bool:
    group = _group()
    return bool(group.is_available() and group.is_initialized() and group.get_world_size() > 1)


@dataclass(frozen=True, kw_only=True, slots=True)
class Settings:
    """What is the same for all networks of one classifier."""

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
    """Pretrained model, and the cells to learn from and to validate on."""

    base: LoadedModel
    train: TokenizedDataset
    valid: TokenizedDataset
    classes: Classes

    @classmethod
    def open(cls, model: str | Path, train: str | Path, valid: str | Path, columns: list[str]) -> "TaskCells":
        """Read all of them."""
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
    """Arithmetic in float32, and passes of at most so many of the longest cells."""
    return RuntimeOptions(dtype="float32", tokens_per_batch=batch_size * positions)


def train_tasks(
    cells: TaskCells, hyperparameters: Hyperparameters, settings: Settings, name: str
) -> tuple[GeneformerForCells, Told]:
    """A network trained from the pretrained weights, and what it says about the validation cells."""
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
            write_table(trials, Path(self.trials_result_path), separator="\t")
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
            classes = read_mappings(mappings, self.task_columns)
        else:
            classes = column_classes(read_dataset(self._paths("train_path")["train_path"]), self.task_columns)
        network, pairing = load_tasks(paths["model_save_path"] / FOLDER, classes)
        tokens = read_dataset(paths["test_path"])
        check_pairing(tokens, pairing, truncate=False)
        runtime = runtime_of(self.batch_size, pairing.max_length)
        told = tell_values(network, tokens, classes, runtime, max_length=pairing.max_length)
        figures = told.figures()
        if is_first():
            write_table(test_table(told, names_of_cells(tokens)), paths["results_dir"] / "test_preds.csv")
            write_json(figures, paths["results_dir"] / "test_metrics.json")
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
                write_mappings(cells.classes, results / name)
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
            tasks=task_names(self.task_columns),
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
            write_table(validation_table(told, names_of_cells(cells.valid)), path)

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
