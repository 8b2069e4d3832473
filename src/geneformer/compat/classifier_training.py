"""Fine-tuning a classifier of the published form under the words of `transformers.TrainingArguments`."""

import math
import warnings
from collections.abc import Mapping, Sequence, Sized
from contextlib import nullcontext
from copy import deepcopy
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pyarrow as pa
import torch
from numpy.typing import ArrayLike, NDArray
from torch.utils.data import DataLoader, Sampler
from transformers import Trainer, TrainerCallback, set_seed
from transformers.trainer_pt_utils import LengthGroupedSampler

from geneformer import keys
from geneformer.compat.cells import drawn_rows, listed, rows_with, split_rows
from geneformer.compat.networks import KINDS, BertClassifier, add_adapters, check_low_bit, merge_adapters, quant_layers
from geneformer.engine.device import resolve_device, resolve_training_attention
from geneformer.engine.inference import Batch, run_batches
from geneformer.engine.training import Key, PackedTrainer, Reporting, Scored, quiet_library, training_arguments
from geneformer.errors import (
    ConstantLabelError,
    DatasetError,
    GeneformerWarning,
    MissingLabelError,
    NoCellsError,
    OptionError,
    OutOfRangeError,
    SequenceTooLongError,
    UnknownClassError,
    UnknownOptionError,
    UnsupportedArgumentError,
    VocabularyMismatchError,
)
from geneformer.files.atomic import output_errors
from geneformer.files.pickles import read_pickle, write_pickle
from geneformer.finetuning.metrics import confusion, softmax
from geneformer.finetuning.splits import draw_split
from geneformer.finetuning.training import cells_with
from geneformer.models.finetuned import apply_strategy, build_network
from geneformer.models.loading import LoadedModel
from geneformer.models.losses import MISSING
from geneformer.options import FinetuneOptions, RuntimeOptions, SplitOptions
from geneformer.options._fields import check_choice, nearest
from geneformer.tokens.dataset import TokenizedDataset
from geneformer.tokens.storage import read_dataset, write_dataset


class FixedBatchTrainer(PackedTrainer):
    """Packed cells in batches of `per_device_train_batch_size`; everything else is the Trainer's own."""

    def __init__(self, *, longest: int, args: Any, collate: Any, **kwargs: Any) -> None:
        budget = max(args.eval_batch_size, 1) * longest
        super().__init__(args=args, collate=collate, tokens_per_batch=budget, data_collator=self._collated, **kwargs)

    def _collated(self, rows: Sequence[int]) -> dict[str, Any]:
        return self._collate([(0, row) for row in rows])

    def get_train_dataloader(self) -> DataLoader[Any]:
        """Batches of so many cells, in the order the arguments ask for."""
        loader: DataLoader[Any] = Trainer.get_train_dataloader(self)
        return loader

    def _get_train_sampler(self, *args: Any) -> Sampler[Any] | None:
        """Cells of like length together, if so wanted."""
        chosen = getattr(self.args, "train_sampling_strategy", None)
        if chosen == "group_by_length" or getattr(self.args, "group_by_length", False):
            size = self.args.train_batch_size * self.args.gradient_accumulation_steps
            return LengthGroupedSampler(size, lengths=self._lengths.tolist())
        found: Sampler[Any] | None = super()._get_train_sampler(*args)
        return found


Kind = Literal["cell", "gene"]
COLUMNS: dict[str, str] = {"cell": "label", "gene": "labels"}
"""Column with the class of each cell, or with the class of each of its tokens."""


class LabelBatches:
    """Batches from keys: cells end to end, and the class of every cell or of every token."""

    def __init__(self, dataset: TokenizedDataset, kind: Kind) -> None:
        self.dataset, self.kind = dataset, kind
        self.classes = _classes(dataset) if kind == "cell" else None
        self.per_token = _per_token(dataset) if kind == "gene" else None

    @property
    def lengths(self) -> NDArray[np.int64]:
        """Tokens each cell brings to a batch, ``(n,)``."""
        return self.dataset.lengths

    def labels(self, rows: Sequence[int] | NDArray[np.int64]) -> NDArray[np.int64]:
        """Class of the cells, ``(B,)``, or of their tokens end to end, ``(T,)``; `losses.MISSING` for none."""
        if self.per_token is not None:
            return self.per_token.gather(rows).input_ids.astype(np.int64)
        found: NDArray[np.int64] = np.asarray(self.classes)[np.asarray(rows)]
        return found

    def __call__(self, keys_: Sequence[Key]) -> dict[str, Any]:
        """The batch as tensors."""
        rows = [row for _, row in keys_]
        packed = self.dataset.gather(rows)
        return {
            "input_ids": torch.from_numpy(packed.input_ids.astype(np.int64)),
            "cu_seqlens": torch.from_numpy(packed.cu_seqlens),
            "labels": torch.from_numpy(self.labels(rows)),
        }


def _classes(dataset: TokenizedDataset) -> NDArray[np.int64]:
    values = dataset.column(COLUMNS["cell"])
    if not np.issubdtype(values.dtype, np.integer):
        msg = f"Column `label` holds {values.dtype}, not class numbers. Make the data set with `prepare_data`."
        raise DatasetError(msg)
    return values.astype(np.int64)


def _per_token(dataset: TokenizedDataset) -> TokenizedDataset:
    """The labels of every token, as ragged rows."""
    name = COLUMNS["gene"]
    if name not in dataset.table.column_names:
        msg = f"No column `labels`; the data set has {dataset.columns}. Make it with `prepare_data`."
        raise DatasetError(msg)
    column = dataset.table.column(name)
    kind = column.type
    if not (pa.types.is_list(kind) or pa.types.is_large_list(kind)):
        msg = f"Column `labels` holds {kind}, not one class number per gene. Make the data set with `prepare_data`."
        raise DatasetError(msg)
    labels = TokenizedDataset(pa.table({keys.INPUT_IDS: column}))
    if not np.array_equal(labels.lengths, dataset.lengths):
        msg = "Column `labels` has another number of entries than `input_ids`. The data set is damaged; make it again."
        raise DatasetError(msg)
    return labels


def label_lists(dataset: TokenizedDataset, class_of: NDArray[np.int64], *, at_once: int = 2048) -> pa.ChunkedArray:
    """Class of every token of every cell, as a column of lists of int64."""
    chunks = []
    for start in range(0, len(dataset), at_once):
        packed = dataset.gather(np.arange(start, min(start + at_once, len(dataset))))
        values = pa.array(class_of[packed.input_ids])
        chunks.append(pa.ListArray.from_arrays(pa.array(packed.cu_seqlens.astype(np.int32)), values))
    return pa.chunked_array(chunks, type=pa.list_(pa.int64()))


def class_table(size: int, class_of_token: dict[int, int]) -> NDArray[np.int64]:
    """Class by token id, `losses.MISSING` for those without, ``(size,)``."""
    table = np.full(size, MISSING, dtype=np.int64)
    for token, code in class_of_token.items():
        table[token] = code
    return table


Floats = NDArray[np.float64]

POINTS = 100
"""Points of the grid of false positive rates on which curves of several splits are averaged."""


def accuracy_and_f1(table: NDArray[np.int64]) -> tuple[float, float]:
    """Share of cells told right, and the mean F1 of the classes that occur in truth or prediction."""
    if not table.sum():
        msg = "There is nothing to score: no cell or gene with a label was told. Check the data set."
        raise NoCellsError(msg)
    met = table.sum(axis=0) + table.sum(axis=1)
    f1 = 2 * np.diag(table)[met > 0] / met[met > 0]
    return float(np.trace(table) / table.sum()), float(f1.mean())


class score_labels:  # noqa: N801  used as a function
    """Metrics of validation batches: the mean loss of what has a label, accuracy and macro-F1."""

    def __init__(self, n_classes: int) -> None:
        self.n_classes = n_classes

    def __call__(self, scored: Scored) -> dict[str, float]:
        """The metrics."""
        loss, table = 0.0, np.zeros((self.n_classes, self.n_classes), dtype=np.int64)
        for _, outputs in scored:
            truth = outputs.labels.cpu().numpy()
            told = outputs.logits.float().cpu().numpy().argmax(axis=1)
            known = truth != MISSING
            loss += float(outputs.loss) * int(known.sum())
            table += confusion(truth[known], told[known], self.n_classes)
        accuracy, macro_f1 = accuracy_and_f1(table)
        return {"loss": loss / int(table.sum()), "accuracy": accuracy, "macro_f1": macro_f1}


def roc_metrics(truth: ArrayLike, logits: ArrayLike) -> dict[str, Any]:
    """ROC curve of the second of two classes."""
    from sklearn.metrics import auc, roc_curve

    proba = softmax(np.asarray(logits, dtype=np.float64))[:, 1]
    codes = np.asarray(truth, dtype=np.int64)
    if len(np.unique(codes)) < 2:
        grid = np.full(POINTS, np.nan)
        return {"fpr": grid, "tpr": grid, "interp_tpr": grid, "auc": float("nan"), "tpr_wt": 0}
    fpr, tpr, _ = roc_curve(codes, proba)
    interpolated = np.interp(mean_fpr(), fpr, tpr)
    interpolated[0] = 0.0
    return {"fpr": fpr, "tpr": tpr, "interp_tpr": interpolated, "auc": float(auc(fpr, tpr)), "tpr_wt": len(tpr)}


def mean_fpr() -> Floats:
    """False positive rates at which curves are averaged, `POINTS` from 0 to 1."""
    return np.linspace(0, 1, POINTS)


def pool_rocs(
    all_tpr: Sequence[ArrayLike], all_auc: Sequence[float], weights: Sequence[float]
) -> tuple[Floats, float, float]:
    """Mean curve, mean area and its standard deviation over splits, weighted."""
    share = np.asarray(weights, dtype=np.float64)
    used = share > 0
    if not used.any():
        return np.full(POINTS, np.nan), float("nan"), float("nan")
    share = share[used] / share[used].sum()
    curves, areas = np.asarray(all_tpr, dtype=np.float64)[used], np.asarray(all_auc, dtype=np.float64)[used]
    mean_tpr = share @ curves
    mean_tpr[-1] = 1.0
    area = float(share @ areas)
    return mean_tpr, area, float(np.sqrt(share @ (areas - area) ** 2))


@dataclass(frozen=True, kw_only=True, slots=True)
class TrainingPlan:
    """What is trained of a network, and how."""

    kind: Kind
    n_classes: int
    arguments: Mapping[str, Any]
    freeze_layers: int = 0
    adapters: Any = None
    bits: Literal["full", "8bit", "4bit"] = "full"


def train_classifier(  # noqa: PLR0917
    base: LoadedModel,
    plan: TrainingPlan,
    train: TokenizedDataset,
    valid: TokenizedDataset | None,
    folder: Path,
    runtime: RuntimeOptions,
    callbacks: Sequence[TrainerCallback] = (),
) -> FixedBatchTrainer:
    """Train a classifier and write it to a folder; returns the trainer, with the trained network as its `model`."""
    for cells in (train, valid):
        if cells is not None:
            check_fit(cells, base.vocabulary.size, base.max_length)
    if not len(train):
        msg = "No labeled cell is left to learn from. Check the labels, the split and the filters."
        raise NoCellsError(msg)
    if plan.bits != "full":
        check_low_bit(plan.bits, resolve_device(runtime.device))
    try:
        arguments = training_arguments(folder, runtime, **plan.arguments)
    except (TypeError, ValueError) as error:
        msg = f"training_args cannot be used: {error}"
        raise OptionError(msg) from error
    network = new_network(base, plan, int(arguments.seed))
    network.label_smoothing = float(arguments.label_smoothing_factor)
    arguments.label_smoothing_factor = 0.0  # the network's own loss does it
    batches = LabelBatches(train, plan.kind)
    evaluated = valid if valid is not None else train.take([])
    dropout = getattr(network.config, "attention_probs_dropout_prob", 0.0)
    trainer = FixedBatchTrainer(
        model=network,
        args=arguments,
        longest=base.max_length,
        lengths=batches.lengths,
        collate=batches,
        eval_lengths=evaluated.lengths,
        eval_collate=LabelBatches(evaluated, plan.kind) if len(evaluated) else batches,
        score=score_labels(plan.n_classes),
        forward_options={"attention": resolve_training_attention(dropout, resolve_device(runtime.device))},
        remedy=(
            f"Lower per_device_train_batch_size (now {arguments.per_device_train_batch_size}) and raise "
            "gradient_accumulation_steps by the same factor."
        ),
        callbacks=[Reporting(), *callbacks],
    )
    trainer.fit()
    with quiet_library() if arguments.disable_tqdm else nullcontext():
        merge_adapters(network)
        network.cpu()
        network.train(False)
        trainer.save_model(str(folder))
    return trainer


def new_network(base: LoadedModel, plan: TrainingPlan, seed: int) -> BertClassifier:
    """A network with the pretrained encoder and a new head, ready to be trained."""
    if not 0 <= plan.freeze_layers <= base.n_layers:
        msg = f"freeze_layers={plan.freeze_layers} is out of range: the encoder has {base.n_layers} layers."
        raise OutOfRangeError(msg)
    options = FinetuneOptions(freeze_layers=plan.freeze_layers, seed=seed)
    with torch.random.fork_rng(devices=[]):
        set_seed(seed)
        network: BertClassifier = build_network(KINDS[plan.kind], base, options, {"num_labels": plan.n_classes})
        if plan.adapters is None:
            apply_strategy(network, options)
        else:
            add_adapters(network, deepcopy(plan.adapters), plan.bits)
    return network


def check_fit(cells: TokenizedDataset, size: int, longest: int) -> None:
    """Refuse cells that a model has no tokens or no positions for."""
    if len(cells) and int(cells.lengths.max()) > longest:
        msg = (
            f"A cell has {int(cells.lengths.max()):,} tokens, the model positions for {longest:,}. Tokenize with "
            f"model_input_size={longest}."
        )
        raise SequenceTooLongError(msg)
    top = highest_token(cells)
    if top >= size:
        msg = f"The cells have token {top:,}, the model knows {size:,}. They were made with another dictionary."
        raise VocabularyMismatchError(msg)


def highest_token(cells: TokenizedDataset) -> int:
    """The highest token id of the cells; -1 without cells."""
    import pyarrow.compute as pc

    highest = pc.max(pc.list_flatten(cells.table.column("input_ids"))).as_py() if len(cells) else None
    return -1 if highest is None else int(highest)


def logging_interval(n_cells: int, arguments: Mapping[str, Any]) -> int:
    """Optimizer steps between log lines, ten a pass, never none."""
    size = int(arguments.get("per_device_train_batch_size", 8)) * int(arguments.get("gradient_accumulation_steps", 1))
    return max(1, round(math.ceil(n_cells / size) / 10))


@dataclass(frozen=True, slots=True, eq=False)
class Told:
    """Predictions beside the truth."""

    logits: NDArray[np.float32]
    truth: NDArray[np.int64]
    rows: NDArray[np.int64]

    @property
    def predicted(self) -> NDArray[np.int64]:
        """Class of the highest score, the first of equal ones, ``(n,)``."""
        found: NDArray[np.int64] = self.logits.argmax(axis=1).astype(np.int64)
        return found


def tell(network: BertClassifier, cells: TokenizedDataset, kind: Kind, runtime: RuntimeOptions) -> Told:
    """Scores of every labeled cell or labeled token; none is left out."""
    config = network.config
    check_fit(cells, int(config.vocab_size), int(config.max_position_embeddings))
    labels = LabelBatches(cells, kind)
    found: dict[int, tuple[NDArray[np.float32], NDArray[np.int64]]] = {}
    network.train(False)

    def step(batch: Batch) -> None:
        logits = network(batch.input_ids, batch.cu_seqlens, attention=batch.attention).logits.float().cpu().numpy()
        truth = labels.labels(batch.rows)
        sizes = np.ones(len(batch.rows), np.int64) if kind == "cell" else cells.lengths[batch.rows]
        ends = np.cumsum(sizes)[:-1]
        parts = zip(batch.rows.tolist(), np.split(logits, ends), np.split(truth, ends), strict=True)
        for row, scores, codes in parts:
            known = codes != MISSING
            found[row] = scores[known], codes[known]

    run_batches(cells, network, step, runtime)
    order = range(len(cells))
    n_classes = network.classifier.out_features
    return Told(
        logits=np.concatenate([np.empty((0, n_classes), np.float32), *(found[row][0] for row in order)]),
        truth=np.concatenate([np.empty(0, np.int64), *(found[row][1] for row in order)]),
        rows=np.repeat(np.arange(len(cells)), [len(found[row][1]) for row in order]),
    )


BATCH_SIZE = 12
"""Cells in a batch of the published package."""

RENAMED = {
    "evaluation_strategy": "eval_strategy",
    "per_gpu_train_batch_size": "per_device_train_batch_size",
    "per_gpu_eval_batch_size": "per_device_eval_batch_size",
}
"""Words of old releases, and what they are called since."""

UNNEEDED = (
    "do_train", "do_eval", "do_predict", "length_column_name", "label_names", "log_on_each_node",
    "overwrite_output_dir", "remove_unused_columns", "save_safetensors", "use_legacy_prediction_loop",
)  # fmt: skip
"""Words about things that are always so here; they are accepted and have nothing to do."""

REFUSED = {
    "activation_checkpointing": "Lower per_device_train_batch_size and raise gradient_accumulation_steps",
    "gradient_checkpointing": "Lower per_device_train_batch_size and raise gradient_accumulation_steps",
    "batch_eval_metrics": "Leave it out: metrics are summed up batch by batch",
    "deepspeed": "Leave it out",
    "fsdp": "Leave it out",
    "parallelism_config": "Leave it out",
    "neftune_noise_alpha": "Leave it out",
    "prediction_loss_only": "Leave it out: the metrics cost nothing",
    "torch_compile": "Leave it out",
    "use_liger_kernel": "Leave it out",
    "push_to_hub": "Upload the finished folder",
}
"""Words that cannot be honored, and what to do instead; their empty values are accepted."""


def published_arguments(
    given: Mapping[str, Any] | None, *, kind: str, n_layers: int, n_train: int, evaluate: bool
) -> dict[str, Any]:
    """The published defaults under what the user gave, in the words of the installed `transformers`."""
    wanted = _renamed(given or {})
    arguments: dict[str, Any] = {
        "learning_rate": 5e-5,
        "lr_scheduler_type": "linear",
        "warmup_steps": 500 if n_layers == 6 else 0,
        "weight_decay": 0.001,
        "num_train_epochs": 10 if kind == "cell" else 1,
        "per_device_train_batch_size": BATCH_SIZE,
        "per_device_eval_batch_size": BATCH_SIZE,
        "eval_strategy": "epoch" if kind == "cell" else "no",
        "save_strategy": "epoch",
        "load_best_model_at_end": kind == "cell",
    }
    if "eval_strategy" in wanted and "save_strategy" not in wanted and arguments["load_best_model_at_end"]:
        arguments["save_strategy"] = wanted["eval_strategy"]
        if "eval_steps" in wanted:
            arguments["save_steps"] = wanted["eval_steps"]
    if "warmup_ratio" in wanted:
        del arguments["warmup_steps"]
    arguments |= wanted
    if not evaluate or arguments["eval_strategy"] == "no":
        arguments |= {"eval_strategy": "no", "load_best_model_at_end": False}
    arguments.setdefault("logging_steps", logging_interval(n_train, arguments))
    return _installed(arguments)


def runtime_of(given: Mapping[str, Any] | None) -> RuntimeOptions:
    """Where training runs: on the accelerator if there is one, unless the arguments ask for the CPU."""
    on_cpu = bool(_renamed(given or {}).get("use_cpu", False))
    return RuntimeOptions(device="cpu" if on_cpu else "auto", dtype="float32", progress=False)


def _renamed(given: Mapping[str, Any]) -> dict[str, Any]:
    """What was given under the names of today, without what has nothing to do."""
    wanted: dict[str, Any] = {}
    for name, value in given.items():
        if name == "output_dir":
            msg = f"training_args sets output_dir={value!r}; files go to the output_directory of the method instead."
            warnings.warn(msg, GeneformerWarning, stacklevel=4)
        elif name in REFUSED and value not in (None, False, "", [], {}):
            msg = f"training_args sets {name}={value!r}, which is not supported here. {REFUSED[name]}."
            raise UnsupportedArgumentError(msg)
        elif name not in UNNEEDED and name not in REFUSED:
            # The one old word that begins with "no_" asks for the CPU.
            wanted["use_cpu" if name.startswith("no_") else RENAMED.get(name, name)] = value
    return wanted


def _installed(arguments: dict[str, Any]) -> dict[str, Any]:
    """Arguments as the installed release calls them."""
    from transformers import TrainingArguments

    known = {field.name for field in fields(TrainingArguments)}
    if "group_by_length" in arguments and "group_by_length" not in known:
        by_length = arguments.pop("group_by_length")
        arguments.setdefault("train_sampling_strategy", "group_by_length" if by_length else "random")
    if arguments.get("train_sampling_strategy") == "batch_rebalance":
        msg = 'training_args sets train_sampling_strategy="batch_rebalance". Choose "random" or "group_by_length".'
        raise UnsupportedArgumentError(msg)
    if "warmup_ratio" in arguments and "warmup_ratio" not in known:
        arguments.setdefault("warmup_steps", arguments.pop("warmup_ratio"))
        arguments.pop("warmup_ratio", None)
    unknown = [name for name in arguments if name not in known]
    if unknown:
        msg = (
            f"training_args sets {unknown[0]!r}, which the installed transformers does not have."
            f"{nearest(unknown[0], known)}"
        )
        raise UnknownOptionError(msg)
    return arguments


def get_num_classes(id_class_dict: Mapping[int, Any]) -> int:
    """How many different labels there are."""
    return len(set(id_class_dict.values()))


def compute_metrics(pred: Any) -> dict[str, float]:
    """Accuracy and macro-F1 over everything that has a label, for `transformers.Trainer`.

    Parameters
    ----------
    pred
        Has `label_ids`, ``(n,)`` or ``(n, L)`` with -100 for no label, and `predictions`, logits of the same shape and
        classes.

    Returns
    -------
    `accuracy` and `macro_f1`, the unweighted mean over classes that occur in labels or predictions.

    Raises
    ------
    NoCellsError
        Nothing has a label.
    """
    logits = pred.predictions[0] if isinstance(pred.predictions, tuple) else pred.predictions
    labels, told = pred.label_ids.reshape(-1), logits.argmax(-1).reshape(-1)
    known = labels != MISSING
    n_classes = max(logits.shape[-1], int(labels.max(initial=0)) + 1)
    accuracy, macro_f1 = accuracy_and_f1(confusion(labels[known], told[known], n_classes))
    return {"accuracy": accuracy, "macro_f1": macro_f1}


def get_default_train_args(
    model: Any, classifier: str, data: Sized, output_dir: str | Path
) -> tuple[dict[str, Any], int]:
    """Published settings of `transformers.TrainingArguments`, and how many layers stay as they are.

    Parameters
    ----------
    model
        Network to train; there is a warm-up for those of six layers.
    classifier
        "cell" or "gene".
    data
        Cells to learn from.
    output_dir
        Where checkpoints go.

    Raises
    ------
    UnknownChoiceError
        Another classifier.
    """
    check_choice("classifier", classifier, ("cell", "gene"))
    arguments = published_arguments(
        None, kind=classifier, n_layers=quant_layers(model), n_train=len(data), evaluate=classifier == "cell"
    )
    return {**arguments, "output_dir": str(output_dir)}, 0


Data = TokenizedDataset


def opened(data: Any) -> Data:
    """Tokenized cells, from a folder, a `datasets.Dataset` or as they are."""
    if isinstance(data, Data):
        return data
    if isinstance(data, str | Path):
        return read_dataset(data)
    if hasattr(data, "with_format") and hasattr(data, "column_names"):
        return Data(data.with_format("arrow")[:])
    msg = f"The cells are a {type(data).__name__}. Give a folder, or a datasets.Dataset."
    raise DatasetError(msg)


def made_folder(path: str | Path) -> Path:
    """A folder, made with its parents."""
    folder = Path(path)
    with output_errors(folder):
        folder.mkdir(parents=True, exist_ok=True)
    return folder


def saved(data: Data, path: Path) -> Path:
    """Write a data set, replacing the one that is there."""
    made_folder(path.parent)
    return write_dataset(data, path, overwrite=True)


def with_column(data: Data, name: str, values: Any, *, place_of: str | None = None) -> Data:
    """A data set with one more column, last or in the place of another."""
    table = data.table
    if place_of is None:
        table = table.append_column(name, values)
    else:
        table = table.set_column(table.column_names.index(place_of), name, values)
    return Data(table, vocabulary=data.vocabulary, path=data.path)


def selected(data: Data, filter_data: Mapping[str, Sequence[Any]] | None) -> Data:
    """Cells with the values wanted, in the order of the file."""
    return data if not filter_data else data.take(rows_with(data, filter_data))


def shuffled(data: Data, most: int | None = None) -> Data:
    """Cells in the order of the published draw; at most so many."""
    return data.take(drawn_rows(len(data))[:most])


def refuse_labels(data: Data) -> None:
    """Refuse data that is labeled already."""
    for name in COLUMNS.values():
        if name in data.table.column_names:
            msg = f"The data set has a column {name!r} already, which is the name of the labels to be made. Rename it."
            raise DatasetError(msg)


def read_classes(path: str | Path) -> dict[int, Any]:
    """Labels by class id, from a `_id_class_dict.pkl` of this or the published package."""
    found = read_pickle(path)
    if not isinstance(found, dict) or not found or not all(isinstance(key, int) for key in found):
        msg = f'"{path}" is no dictionary of class ids and labels. Give the _id_class_dict.pkl of prepare_data.'
        raise OptionError(msg)
    if sorted(found) != list(range(len(found))):
        msg = f'"{path}" numbers its classes {sorted(found)}. They must be numbered from 0 without gaps.'
        raise OptionError(msg)
    return found


def write_classes(classes: Mapping[int, Any], stem: Path) -> Path:
    """`<prefix>_id_class_dict.pkl`."""
    return write_pickle(dict(classes), stem.with_name(f"{stem.name}_id_class_dict.pkl"))


def label_cells(data: Data, state_key: str, known: Mapping[int, Any] | None) -> tuple[Data, dict[int, Any]]:
    """The state column as class ids in a column `label`, and the label of each id."""
    import pyarrow as pa

    states = data.column(state_key).tolist()
    if any(state is None or state != state for state in states):  # noqa: PLR0124  not a number
        msg = f"Some cells have no value of {state_key!r}. Leave them out with filter_data."
        raise MissingLabelError(msg)
    if known is None:
        known = dict(enumerate(sorted(set(states), key=lambda state: (isinstance(state, str), state))))
        if len(known) == 1:
            msg = f"All cells left have {state_key!r} {known[0]!r}: there is nothing to tell apart. Choose other cells."
            raise ConstantLabelError(msg)
    id_of = {label: number for number, label in known.items()}
    unknown = sorted({str(state) for state in states if state not in id_of})
    if unknown:
        msg = f"States that the dictionary of classes does not have: {', '.join(unknown[:5])}. It has {list(id_of)}."
        raise UnknownClassError(msg)
    codes = pa.chunked_array([pa.array([id_of[state] for state in states], pa.int64())])
    return with_column(data, COLUMNS["cell"], codes, place_of=state_key), dict(known)


def label_genes(data: Data, class_of: Mapping[int, int]) -> Data:
    """Cells with any of the genes, with the class of every token in a column `labels`."""
    table = class_table(max(_highest(data), *class_of) + 1, dict(class_of))
    kept = data.take(cells_with(data, table, int(data.lengths.max()) if len(data) else 1))
    name = COLUMNS["gene"]
    before = name if name in kept.table.column_names else None
    return with_column(kept, name, label_lists(kept, table), place_of=before)


def _highest(data: Data) -> int:

    return highest_token(data)


def split_by_ids(data: Data, split_id_dict: Mapping[str, Any], held: str) -> tuple[Data, Data]:
    """Cells by lists of ids, in the order of the file."""
    if set(split_id_dict) != {"attr_key", "train", held}:
        msg = f"split_id_dict has the keys {sorted(split_id_dict)}. It takes attr_key, train and {held}."
        raise OptionError(msg)
    lists = {part: listed(split_id_dict[part]) for part in ("train", held)}
    both = sorted({str(entry) for entry in lists["train"]} & {str(entry) for entry in lists[held]})
    if both:
        msg = f"split_id_dict has ids on both sides: {', '.join(both[:5])}. Scores come out too high."
        warnings.warn(msg, GeneformerWarning, stacklevel=4)
    key = split_id_dict["attr_key"]
    return data.take(rows_with(data, {key: lists["train"]})), data.take(rows_with(data, {key: lists[held]}))


def split_at_random(data: Data, share: float, column: str | None = None) -> tuple[Data, Data]:
    """Cells drawn one by one, as published; with the shares of a column kept where there is one."""
    learnt, held = split_rows(len(data), share, None if column is None else data.column(column))
    return data.take(learnt), data.take(held)


def split_balanced(data: Data, attributes: Mapping[str, Any], way: "CellSplit", share: float) -> tuple[Data, Data, Any]:
    """Cells by ids drawn so that the sides do not differ, and the table of the draws under their published names."""
    import pandas as pd

    options = SplitOptions(
        method="balanced", valid=0.0, test=share, balance=tuple(attributes), max_trials=way.max_trials,
        p_threshold=way.pval_threshold, seed=0,
    )  # fmt: skip
    ids, codes = str(way.attr_to_split), data.column(COLUMNS["cell"])
    split = draw_split(codes, options, ids=data.column(ids), attributes=dict(attributes))
    everyone = sorted({str(entry) for entry in data.column(ids).tolist()})
    rows = [_draw(trial, everyone, list(attributes)) for trial in split.trials]
    return data.take(split.train), data.take(split.test), pd.DataFrame(rows)


def _draw(trial: Mapping[str, Any], everyone: list[str], attributes: list[str]) -> dict[str, Any]:
    held = [str(entry) for entry in trial["held_out"]]
    row = {"trial_num": trial["trial"], "train_ids": [entry for entry in everyone if entry not in held]}
    row["eval_ids"] = held
    for name in attributes:
        row[f"{name}_train_mean_or_counts"] = trial[f"{name}_train"]
        row[f"{name}_eval_mean_or_counts"] = trial[f"{name}_held_out"]
        row[f"{name}_pval"] = trial[f"{name}_p"]
    return row | {"mean_pval": trial["mean_p"], "accepted": trial["accepted"]}


@dataclass(frozen=True, kw_only=True, slots=True)
class CellSplit:
    """Published arguments that say how cells are split."""

    split_id_dict: Mapping[str, Any] | None
    attr_to_split: str | None
    attr_to_balance: Any
    max_trials: int
    pval_threshold: float

    def __post_init__(self) -> None:
        if self.split_id_dict is not None and self.attr_to_split is not None:
            msg = "split_id_dict and attr_to_split are two ways to split. Give one of them."
            raise UnsupportedArgumentError(msg)
        if (self.attr_to_split is None) is not (self.attr_to_balance is None):
            msg = "attr_to_split (a column of ids) and attr_to_balance (columns to balance) go together. Give both."
            raise UnsupportedArgumentError(msg)

    @property
    def is_at_random(self) -> bool:
        """Whether single cells are drawn."""
        return self.split_id_dict is None and self.attr_to_split is None
