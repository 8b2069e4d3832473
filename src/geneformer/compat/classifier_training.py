"""Training and predictions of the published classifiers, in the words of `transformers.TrainingArguments`."""

import math
import warnings
from collections.abc import Callable, Mapping, Sequence, Sized
from copy import deepcopy
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import torch
from numpy.typing import ArrayLike, NDArray
from torch.utils.data import DataLoader, Sampler
from transformers import Trainer, set_seed
from transformers.trainer import DEFAULT_PROGRESS_CALLBACK
from transformers.trainer_pt_utils import LengthGroupedSampler

from geneformer import errors, keys
from geneformer.compat import networks
from geneformer.compat.training_arguments import NAMES, installed_arguments
from geneformer.engine import training
from geneformer.engine.device import resolve_device, resolve_training_attention
from geneformer.engine.inference import Batch, run_batches
from geneformer.files.progress import Progress, progress_bar
from geneformer.finetuning.metrics import accuracy_and_macro_f1
from geneformer.finetuning.training import Batches, packed_tensors
from geneformer.genes.vocabulary import Vocabulary
from geneformer.models.finetuned import apply_strategy, build_network
from geneformer.models.loading import LoadedModel, load_model
from geneformer.models.losses import MISSING
from geneformer.options import FinetuneOptions, RuntimeOptions
from geneformer.options._fields import check_choice, nearest
from geneformer.tokens.dataset import Packed, TokenizedDataset

LABELS: dict[str, str] = {"cell": "label", "gene": "labels"}
"""Column with the class of each cell, or with the class of each of its tokens."""


def open_base(model_directory: str | Path, kind: str, vocabulary: Vocabulary) -> LoadedModel:
    """The pretrained model, with its own vocabulary or, where it names none, the one given."""
    folder = networks.readable_folder(model_directory)
    try:
        base = load_model(folder)
    except errors.UnknownVocabularyError:
        base = load_model(folder, vocabulary=vocabulary)
    if kind == "gene" and dict(vocabulary.token_of) != dict(base.vocabulary.token_of):
        own = base.vocabulary.name
        msg = f'Genes were looked up in vocabulary {vocabulary.name}; the model has {own}. Use model_version="{own}".'
        raise errors.VocabularyMismatchError(msg)
    return base


def train_network(
    network: networks.BertClassifier,
    settings: training.PlacedArguments,
    train: TokenizedDataset,
    valid: TokenizedDataset | None,
) -> "FixedBatchTrainer":
    """Train a network in place, write it to the output folder of the settings, and return the trainer with it."""
    network.label_smoothing = float(settings.label_smoothing_factor)
    settings.label_smoothing_factor = 0.0  # the network's own loss does it
    nobody, shown = train.take([]), not settings.disable_tqdm
    settings.disable_tqdm = True  # the bar is this package's
    with progress_bar(f"Training {Path(str(settings.output_dir)).name}", shown=shown, unit="steps") as update:
        trainer = FixedBatchTrainer(network, settings, train, nobody if valid is None else valid, update)
        trainer.fit()
    with training.quiet_library():
        networks.merge_adapters(network)
        network.cpu()
        network.train(False)
        trainer.save_model(str(settings.output_dir))
    return trainer


def new_network(
    base: LoadedModel, kind: str, n_classes: int, *, seed: int, freeze_layers: int = 0, adapters: Any = None,
    bits: Literal["full", "8bit", "4bit"] = "full",
) -> networks.BertClassifier:  # fmt: skip
    """A network with the pretrained encoder and a new head, ready to be trained."""
    options = FinetuneOptions(freeze_layers=freeze_layers, seed=seed)
    with torch.random.fork_rng(devices=[]):
        set_seed(seed)
        network: networks.BertClassifier = build_network(networks.KINDS[kind], base, options, {"num_labels": n_classes})
        if adapters is None:
            apply_strategy(network, options)
        else:
            networks.add_adapters(network, deepcopy(adapters), bits)
    return network


class FixedBatchTrainer(training.PackedTrainer):
    """Packed cells in batches of `per_device_train_batch_size`; everything else is the Trainer's own."""

    def __init__(
        self,
        network: networks.BertClassifier,
        settings: training.PlacedArguments,
        train: TokenizedDataset,
        valid: TokenizedDataset,
        progress: Progress | None = None,
    ) -> None:
        batches, held_out = label_batches(train, network.kind), label_batches(valid, network.kind)
        dropout = getattr(network.config, "attention_probs_dropout_prob", 0.0)
        super().__init__(
            model=network,
            args=settings,
            lengths=batches.lengths,
            collate=batches,
            data_collator=lambda rows: batches([(0, row) for row in rows]),
            eval_lengths=held_out.lengths,
            eval_collate=held_out,
            tokens_per_batch=max(settings.eval_batch_size, 1) * int(network.config.max_position_embeddings),
            score=score_labels,
            forward_options={"attention": resolve_training_attention(dropout, settings.device)},
            remedy=(
                f"Lower per_device_train_batch_size (now {settings.per_device_train_batch_size}) and raise "
                "gradient_accumulation_steps by the same factor."
            ),
            callbacks=[training.Reporting(progress)],
        )
        self.remove_callback(DEFAULT_PROGRESS_CALLBACK)  # in notebooks a table, with a bar of its own

    def get_train_dataloader(self) -> DataLoader[Any]:
        """Batches of so many cells, in the order the arguments ask for."""
        loader: DataLoader[Any] = Trainer.get_train_dataloader(self)
        return loader

    def _get_train_sampler(self, *args: Any) -> Sampler[Any] | None:
        groups = length_groups(self.args, self._lengths.tolist())
        sampler: Sampler[Any] | None = super()._get_train_sampler(*args) if groups is None else groups
        return sampler


def length_groups(args: Any, lengths: list[int]) -> LengthGroupedSampler | None:
    """Cells of like length in one batch, where training arguments, of any release, ask for it."""
    strategy = getattr(args, "train_sampling_strategy", None)
    if strategy != "group_by_length" and not getattr(args, "group_by_length", False):
        return None
    return LengthGroupedSampler(args.train_batch_size * args.gradient_accumulation_steps, lengths=lengths)


def label_batches(dataset: TokenizedDataset, kind: str) -> Batches:
    """Batches of cells end to end, and the class of every cell or of every token."""
    labels_of = label_reader(dataset, kind)

    def make(packed: Packed, rows: NDArray[np.int64], _: Sequence[training.Key]) -> dict[str, Any]:
        return {**packed_tensors(packed), "labels": torch.from_numpy(labels_of(rows))}

    return Batches(dataset, np.arange(len(dataset)), int(dataset.lengths.max(initial=1)), make)


def label_reader(dataset: TokenizedDataset, kind: str) -> Callable[[NDArray[np.int64]], NDArray[np.int64]]:
    """Reads the class of cells, ``(B,)``, or of their tokens end to end, ``(T,)``; `losses.MISSING` for none."""
    name = LABELS[kind]
    if name not in dataset.table.column_names:
        msg = f"No column `{name}`; the data set has {dataset.columns}. Make it with `prepare_data`."
        raise errors.DatasetError(msg)
    column = dataset.table.column(name)
    is_list = pa.types.is_list(column.type) or pa.types.is_large_list(column.type)
    if not (pa.types.is_integer(column.type) if kind == "cell" else is_list):
        of_what = "class numbers" if kind == "cell" else "one class number per gene"
        msg = f"Column `{name}` holds {column.type}, not {of_what}. Make the data set with `prepare_data`."
        raise errors.DatasetError(msg)
    if kind == "cell":
        codes: NDArray[np.int64] = dataset.column(name).astype(np.int64)
        return lambda rows: codes[rows]
    per_token = TokenizedDataset(pa.table({keys.INPUT_IDS: column}))
    if not np.array_equal(per_token.lengths, dataset.lengths):
        msg = "Column `labels` has another number of entries than `input_ids`. The data set is damaged; make it again."
        raise errors.DatasetError(msg)
    return lambda rows: per_token.gather(rows).input_ids.astype(np.int64)


class LabelPredictions(NamedTuple):
    """Of every labeled cell or token: class of the highest score, true class, scores of all, and row of its cell."""

    predicted: NDArray[np.int64]
    truth: NDArray[np.int64]
    logits: NDArray[np.float32]
    rows: NDArray[np.int64]


def predict(network: networks.BertClassifier, cells: TokenizedDataset, runtime: RuntimeOptions) -> LabelPredictions:
    """Predictions for every labeled cell or labeled token, in the order of the cells; none is left out."""
    kind, nothing = network.kind, np.empty(0, np.int64)
    check_fit(cells, int(network.config.vocab_size), int(network.config.max_position_embeddings))
    labels_of = label_reader(cells, kind)
    parts = [(np.empty((0, network.classifier.out_features), np.float32), nothing, nothing)]

    def step(batch: Batch) -> None:
        logits = network(batch.input_ids, batch.cu_seqlens, attention=batch.attention).logits.float().cpu().numpy()
        truth = labels_of(batch.rows)
        rows = batch.rows if kind == "cell" else np.repeat(batch.rows, cells.lengths[batch.rows])
        labeled = truth != MISSING
        parts.append((logits[labeled], truth[labeled], rows[labeled]))

    with progress_bar("Predicting", unit="cells") as update:
        run_batches(cells, network.train(False), step, runtime, progress=update)
    logits, truth, rows = (np.concatenate(part) for part in zip(*parts, strict=True))
    order = np.argsort(rows, kind="stable")
    return LabelPredictions(logits[order].argmax(axis=1), truth[order], logits[order], rows[order])


def check_fit(cells: TokenizedDataset, size: int, longest: int, vocabulary: Vocabulary | None = None) -> None:
    """Refuse cells that a model has no tokens or no positions for, or that name another vocabulary."""
    if vocabulary is not None and cells.vocabulary not in (None, vocabulary.fingerprint):
        msg = (
            f"The cells were not tokenized with {vocabulary.name}, the vocabulary of the model. Tokenize them with it."
        )
        raise errors.VocabularyMismatchError(msg)
    if int(cells.lengths.max(initial=0)) > longest:
        most = int(cells.lengths.max())
        msg = (
            f"A cell has {most:,} tokens, the model {longest:,} positions. Tokenize with "
            f"`TranscriptomeTokenizer(model_input_size={longest})`."
        )
        raise errors.SequenceTooLongError(msg)
    if (top := highest_token(cells)) >= size:
        msg = f"The cells have token {top:,}, the model knows {size:,}. They were made with another dictionary."
        raise errors.VocabularyMismatchError(msg)


def highest_token(cells: TokenizedDataset) -> int:
    """The highest token id of the cells; -1 without tokens."""
    highest = pc.max(pc.list_flatten(cells.table.column(keys.INPUT_IDS))).as_py() if len(cells) else None
    return -1 if highest is None else int(highest)


def score_labels(scored: training.Scored) -> dict[str, float]:
    """Metrics of validation batches: the mean loss of what has a label, accuracy and macro-F1."""
    loss, all_truth, all_predicted = 0.0, [], []
    for _, outputs in scored:
        truth = outputs.labels.cpu().numpy()
        labeled = truth != MISSING
        loss += float(outputs.loss) * int(labeled.sum())
        all_truth.append(truth[labeled])
        all_predicted.append(outputs.logits.float().cpu().numpy().argmax(axis=1)[labeled])
    truth = np.concatenate(all_truth)
    accuracy, macro_f1 = accuracy_and_f1(truth, np.concatenate(all_predicted))
    return {"loss": loss / len(truth), "accuracy": accuracy, "macro_f1": macro_f1}


def accuracy_and_f1(truth: ArrayLike, predicted: ArrayLike) -> tuple[float, float]:
    """Share predicted right, and the mean F1 of the classes that occur in truth or predictions."""
    if not np.size(truth):
        msg = "There is nothing to score: no cell or gene with a label. Check the data set."
        raise errors.NoCellsError(msg)
    return accuracy_and_macro_f1(truth, predicted)


BATCH_SIZE = 12
"""Cells in a batch of the published package."""

UNNEEDED = (
    "do_train", "do_eval", "do_predict", "length_column_name", "label_names", "log_on_each_node",
    "overwrite_output_dir", "remove_unused_columns", "save_safetensors", "use_legacy_prediction_loop",
)  # fmt: skip
"""Arguments about things that are always so here; they are accepted and have nothing to do."""

_LESS_MEMORY = "Lower per_device_train_batch_size and raise gradient_accumulation_steps"
REFUSED = {
    "activation_checkpointing": _LESS_MEMORY,
    "gradient_checkpointing": _LESS_MEMORY,
    "batch_eval_metrics": "Leave it out: metrics are summed up batch by batch",
    **dict.fromkeys(
        ("deepspeed", "fsdp", "parallelism_config", "neftune_noise_alpha", "torch_compile", "use_liger_kernel"),
        "Leave it out",
    ),
    "prediction_loss_only": "Leave it out: the metrics cost nothing",
    "push_to_hub": "Upload the finished folder",
}
"""Arguments that cannot be honored, and what to do instead; their empty values are accepted."""


def published_arguments(
    given: Mapping[str, Any] | None, *, kind: str, n_layers: int, n_train: int, evaluate: bool
) -> dict[str, Any]:
    """The published defaults under what the user gave, as the installed `transformers` calls them."""
    chosen = _renamed(given or {})
    of_cells = kind == "cell"
    arguments: dict[str, Any] = {
        "learning_rate": 5e-5,
        "lr_scheduler_type": "linear",
        "warmup_steps": 500 if n_layers == 6 else 0,
        "weight_decay": 0.001,
        "num_train_epochs": 10 if of_cells else 1,
        "per_device_train_batch_size": BATCH_SIZE,
        "per_device_eval_batch_size": BATCH_SIZE,
        "eval_strategy": "epoch" if of_cells else "no",
        "save_strategy": chosen.get("eval_strategy", "epoch") if of_cells else "epoch",
        "load_best_model_at_end": of_cells,
    }
    if of_cells and "eval_strategy" in chosen and "save_strategy" not in chosen and "eval_steps" in chosen:
        arguments["save_steps"] = chosen["eval_steps"]
    if "warmup_ratio" in chosen:
        del arguments["warmup_steps"]
    arguments |= chosen
    if not evaluate or arguments["eval_strategy"] == "no":
        arguments |= {"eval_strategy": "no", "load_best_model_at_end": False}
    # Ten log lines a pass, at least one a step.
    per_step = int(arguments["per_device_train_batch_size"]) * int(arguments.get("gradient_accumulation_steps", 1))
    arguments.setdefault("logging_steps", max(1, round(math.ceil(n_train / per_step) / 10)))
    return _checked(arguments)


def _renamed(given: Mapping[str, Any]) -> dict[str, Any]:
    """What was given under the names of today, without what has nothing to do."""
    chosen: dict[str, Any] = {}
    for name, value in given.items():
        if name == "output_dir":
            msg = f"training_args sets output_dir={value!r}; files go to the output_directory of the method instead."
            warnings.warn(msg, errors.GeneformerWarning, stacklevel=4)
        elif name in REFUSED and value not in (None, False, "", [], {}):
            msg = f"training_args sets {name}={value!r}, which cannot be honored here. {REFUSED[name]}."
            raise errors.UnsupportedArgumentError(msg)
        elif name not in UNNEEDED and name not in REFUSED:
            chosen[name] = value
    return installed_arguments(chosen)


def _checked(arguments: dict[str, Any]) -> dict[str, Any]:
    """The arguments, once the installed release has all of them."""
    if arguments.get("train_sampling_strategy") == "batch_rebalance":
        msg = 'training_args sets train_sampling_strategy="batch_rebalance". Choose "random" or "group_by_length".'
        raise errors.UnsupportedArgumentError(msg)
    for name in arguments:
        if name not in NAMES:
            msg = f"training_args sets {name!r}, which the installed transformers does not have.{nearest(name, NAMES)}"
            raise errors.UnknownOptionError(msg)
    return arguments


def chosen_device(given: Mapping[str, Any] | None) -> torch.device:
    """The accelerator if there is one, unless arguments ask for the CPU."""
    return resolve_device("cpu" if installed_arguments(given or {}).get("use_cpu") else "auto")


def placed_arguments(
    folder: Path, given: Mapping[str, Any] | None, kind: str, n_layers: int, n_train: int, evaluate: bool
) -> training.PlacedArguments:
    """Arguments of the Trainer on the accelerator if there is one, unless they ask for the CPU."""
    arguments = {
        "disable_tqdm": False,
        **published_arguments(given, kind=kind, n_layers=n_layers, n_train=n_train, evaluate=evaluate),
    }
    device = str(chosen_device(arguments))
    try:
        return training.training_arguments(
            folder, RuntimeOptions(device=device, dtype="float32", progress=False), **arguments
        )
    except (TypeError, ValueError) as error:
        msg = f"training_args cannot be used: {error}"
        raise errors.OptionError(msg) from error


def get_num_classes(id_class_dict: Mapping[int, Any]) -> int:
    """How many different labels there are."""
    return len(set(id_class_dict.values()))


def compute_metrics(pred: Any) -> dict[str, float]:
    """Accuracy and macro-F1 over everything that has a label, for `transformers.Trainer`.

    Parameters
    ----------
    pred : Has `label_ids`, -100 for no label, and `predictions`, the logits of all classes.
    """
    logits = pred.predictions[0] if isinstance(pred.predictions, tuple) else pred.predictions
    labels, predicted = pred.label_ids.reshape(-1), logits.argmax(-1).reshape(-1)
    labeled = labels != MISSING
    accuracy, macro_f1 = accuracy_and_f1(labels[labeled], predicted[labeled])
    return {"accuracy": accuracy, "macro_f1": macro_f1}


def get_default_train_args(
    model: Any, classifier: str, data: Sized, output_dir: str | Path
) -> tuple[dict[str, Any], int]:
    """Published settings of `transformers.TrainingArguments`, and how many layers stay as they are.

    Parameters
    ----------
    model, classifier : Network to train, with a warm-up if it has six layers; "cell" or "gene".
    data, output_dir : Cells to learn from, and where checkpoints go.
    """
    check_choice("classifier", classifier, ("cell", "gene"))
    arguments = published_arguments(
        None, kind=classifier, n_layers=networks.quant_layers(model), n_train=len(data), evaluate=classifier == "cell"
    )
    return {**arguments, "output_dir": str(output_dir)}, 0
