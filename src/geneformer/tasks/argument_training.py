"""Fine-tuning a classifier of the published form under the words of `transformers.TrainingArguments`."""

import math
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from copy import deepcopy
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from transformers import TrainerCallback, set_seed

from geneformer.data.dataset import TokenizedDataset
from geneformer.engine.arguments import training_arguments
from geneformer.engine.device import memory_errors, release_memory, resolve_device, verify_placement
from geneformer.engine.fixed_batches import FixedBatchTrainer
from geneformer.engine.low_bit import check_low_bit
from geneformer.engine.precision import resolve_training_attention
from geneformer.engine.training import Reporting, quiet_library
from geneformer.errors import (
    DeviceMemoryError,
    NoCellsError,
    OptionError,
    OutOfRangeError,
    SequenceTooLongError,
    VocabularyMismatchError,
)
from geneformer.models.bert_classifiers import KINDS, BertClassifier
from geneformer.models.finetuned import build_network
from geneformer.models.given_adapters import add_adapters, merge_adapters
from geneformer.models.loading import LoadedModel
from geneformer.models.strategies import apply_strategy
from geneformer.options import FinetuneOptions, RuntimeOptions
from geneformer.tasks.label_batches import Kind, LabelBatches
from geneformer.tasks.label_scores import score_labels


@dataclass(frozen=True, kw_only=True, slots=True)
class TrainingPlan:
    """What is trained of a network, and how.

    Attributes
    ----------
    kind
        Whether cells or genes have classes.
    n_classes
        Classes, C.
    arguments
        Words of `transformers.TrainingArguments`.
    freeze_layers
        Lowest encoder layers kept as they are.
    adapters
        Configuration of PEFT; the encoder itself is then frozen.
    bits
        Precision of the frozen weights beside adapters.
    """

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
    """Train a classifier and write it to a folder; returns the trainer, with the trained network as its `model`.

    Parameters
    ----------
    base
        Pretrained model; left as it is.
    plan
        What is trained, and how.
    train, valid
        Labeled cells to learn from, and to evaluate on.
    folder
        Gets checkpoints and, at the end, the network itself.
    runtime
        Where it runs.
    callbacks
        Further callbacks of the Trainer.

    Raises
    ------
    NoCellsError
        Nothing to learn from.
    PairingError
        Cells that the model cannot read.
    OptionError
        Arguments that contradict each other or the network.
    DeviceError
        The device has no weights of few bits, or its memory is full.
    TrainingError
        The loss is no longer finite.
    """
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
        callbacks=[Reporting(), *callbacks],
    )
    verify_placement(network, arguments.device)
    with quiet_library() if arguments.disable_tqdm else nullcontext():
        _run(trainer, network)
        merge_adapters(network)
        network.cpu()
        network.train(False)
        trainer.save_model(str(folder))
    return trainer


def _run(trainer: FixedBatchTrainer, network: BertClassifier) -> None:
    device = trainer.args.device
    try:
        with memory_errors():
            trainer.train()
    except MemoryError as error:
        network.cpu()
        release_memory(device)
        msg = (
            f"Training does not fit into the memory of {device}: {error}. Lower per_device_train_batch_size (now "
            f"{trainer.args.per_device_train_batch_size}) and raise gradient_accumulation_steps by the same factor."
        )
        raise DeviceMemoryError(msg) from error


def new_network(base: LoadedModel, plan: TrainingPlan, seed: int) -> BertClassifier:
    """A network with the pretrained encoder and a new head, ready to be trained.

    Parameters
    ----------
    base
        Pretrained model; left as it is.
    plan
        Kind, classes, frozen layers and adapters.
    seed
        Seed of the new weights.

    Raises
    ------
    OutOfRangeError
        Fewer than no layers to freeze, or more than there are.
    """
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
    """Refuse cells that a model has no tokens or no positions for.

    Parameters
    ----------
    cells
        Tokenized cells.
    size
        Tokens of the model's vocabulary.
    longest
        Its positions.

    Raises
    ------
    SequenceTooLongError, VocabularyMismatchError
        Cells that do not fit.
    """
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
    """Optimizer steps between log lines, ten a pass, never none.

    Parameters
    ----------
    n_cells
        Cells to learn from.
    arguments
        Words of `transformers.TrainingArguments`.
    """
    size = int(arguments.get("per_device_train_batch_size", 8)) * int(arguments.get("gradient_accumulation_steps", 1))
    return max(1, round(math.ceil(n_cells / size) / 10))
