"""Training a network on labeled cells or genes: one loop for every task and strategy."""

import math
import tempfile
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray
from transformers import TrainerCallback, set_seed

from geneformer.engine.arguments import training_arguments
from geneformer.engine.device import memory_errors, release_memory, resolve_device, verify_placement
from geneformer.engine.inference import Progress
from geneformer.engine.placement import PlacedArguments
from geneformer.engine.precision import resolve_training_attention
from geneformer.engine.training import EpochSampler, Key, PackedTrainer, Reporting, Scored, quiet_library
from geneformer.errors import DeviceMemoryError, NoCellsError
from geneformer.models.encoder import GeneformerModel
from geneformer.models.strategies import TrainedShare, apply_strategy, merge_lora
from geneformer.options import FinetuneOptions, RuntimeOptions
from geneformer.tasks.resuming import CHECKPOINTS, Patience, note_run


class Batches(Protocol):
    """Makes batches out of keys, each of them the same every time."""

    @property
    def lengths(self) -> NDArray[np.int64]:
        """Tokens each cell brings to a batch, ``(n,)``."""
        ...

    def __call__(self, keys: Sequence[Key]) -> dict[str, Any]:
        """The batch as the network takes it."""
        ...


@dataclass(frozen=True, kw_only=True, slots=True)
class FinetuneResult:
    """What a run came to.

    Attributes
    ----------
    steps
        Optimizer steps.
    share
        Parameters trained, of how many.
    metrics
        Of the validation cells at the weights that were kept.
    history
        Log lines.
    """

    steps: int
    share: TrainedShare
    metrics: dict[str, float] = field(default_factory=dict)
    history: list[dict[str, Any]] = field(default_factory=list)


def finetune(  # noqa: PLR0913
    network: GeneformerModel,
    train: Batches,
    valid: Batches | None,
    options: FinetuneOptions,
    runtime: RuntimeOptions,
    *,
    score: Callable[[Scored], dict[str, float]],
    best_by: str = "loss",
    forward_options: Mapping[str, Any] | None = None,
    output: Path | None = None,
    resume: bool = False,
    about: Mapping[str, Any] | None = None,
    callbacks: Sequence[TrainerCallback] = (),
    progress: Progress | None = None,
) -> FinetuneResult:
    """Train a network in place; it ends with the weights of its best evaluation, in evaluation mode on the CPU.

    Parameters
    ----------
    network
        Encoder (`network.bert`) and head.
    train, valid
        Batches to learn from, and to choose the weights by.
    options, runtime
        What to train, how, and where.
    score
        Metrics of validation batches.
    best_by
        Metric the weights are chosen by; less is better for "loss", more for all others.
    forward_options
        Keyword arguments of every forward pass in training.
    output
        Folder for training checkpoints; a temporary one by default.
    resume
        Go on from the last training checkpoint in `output`.
    about
        What else tells this run from others, kept beside the checkpoints and compared on resuming.
    callbacks
        Further callbacks of the Trainer.
    progress
        Called with the optimizer steps done and in all.

    Raises
    ------
    NoCellsError
        Nothing to learn from.
    RunMismatchError
        The run to resume was started with other cells or options, or there is none.
    OutputExistsError
        The folder holds a run that is not to be resumed.
    DeviceMemoryError
        A batch does not fit into memory.
    TrainingError
        The loss is no longer finite.
    """
    if not len(train.lengths):
        msg = "No labeled cell is left to learn from. Check the labels, the split and the filters."
        raise NoCellsError(msg)
    has_valid = valid is not None and len(valid.lengths) > 0
    steps = planned_steps(train.lengths, options)
    with ExitStack() as stack:
        folder = output or Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="geneformer-")))
        stage = note_run(folder, {**asdict(options), "cells": len(train.lengths), **(about or {})}, resume=resume)
        set_seed(options.seed)
        share = apply_strategy(network, options)
        if stage is not None and stage.is_done(steps, options.patience if has_valid else 0, best_by):
            stage.fill(network)
            steps_done, history = stage.steps, stage.history
        else:
            device = resolve_device(runtime.device)
            dropout = getattr(network.config, "attention_probs_dropout_prob", 0.0)
            early = [Patience(options.patience, best_by)] if options.patience and has_valid else []
            trainer = PackedTrainer(
                model=network,
                args=_arguments(folder, options, runtime, steps, best_by if has_valid else None),
                lengths=train.lengths,
                collate=train,
                eval_lengths=valid.lengths if valid is not None else np.empty(0, dtype=np.int64),
                eval_collate=valid if valid is not None else train,
                tokens_per_batch=options.tokens_per_batch,
                score=score,
                forward_options={"attention": resolve_training_attention(dropout, device), **(forward_options or {})},
                callbacks=[Reporting(progress), *early, *callbacks],
            )
            _train(trainer, network, options, None if stage is None else stage.checkpoint)
            steps_done, history = trainer.state.global_step, trainer.state.log_history
        best = _best_line(history, best_by) if has_valid else {}
    merge_lora(network)
    network.cpu()
    network.train(False)
    metrics = {name.removeprefix("eval_"): value for name, value in best.items() if name.startswith("eval_")}
    return FinetuneResult(steps=steps_done, share=share, metrics=metrics, history=history)


def _train(trainer: PackedTrainer, network: GeneformerModel, options: FinetuneOptions, checkpoint: Path | None) -> None:
    """Run a trainer, from a checkpoint if there is one."""
    verify_placement(network, trainer.args.device)
    try:
        with quiet_library(), memory_errors():
            trainer.train(resume_from_checkpoint=None if checkpoint is None else str(checkpoint))
    except MemoryError as error:
        device = trainer.args.device
        network.cpu()
        release_memory(device)
        msg = (
            f"Training does not fit into the memory of {device}: {error}. Lower tokens_per_batch (now "
            f"{options.tokens_per_batch:,}) and raise accumulation (now {options.accumulation}) by the same factor, "
            "lower max_length, or train less of the network with strategy."
        )
        raise DeviceMemoryError(msg) from error


def planned_steps(lengths: NDArray[np.int64], options: FinetuneOptions) -> int:
    """Optimizer steps of the whole run on one device."""
    if options.max_steps > 0:
        return options.max_steps
    return math.ceil(options.epochs * _steps_per_epoch(lengths, options))


def _steps_per_epoch(lengths: NDArray[np.int64], options: FinetuneOptions) -> int:
    batches = len(EpochSampler(lengths, options.tokens_per_batch, options.seed))
    return max(math.ceil(batches / options.accumulation), 1)


def _arguments(
    folder: Path, options: FinetuneOptions, runtime: RuntimeOptions, steps: int, best_by: str | None
) -> PlacedArguments:
    """The options in the Trainer's words."""
    when: dict[str, Any] = {"eval_strategy": "no", "save_strategy": "epoch"}
    if options.eval_steps:
        when = {"save_strategy": "steps", "save_steps": options.eval_steps, "eval_steps": options.eval_steps}
    if best_by is not None:
        when |= {
            "eval_strategy": when["save_strategy"],
            "load_best_model_at_end": True,
            "metric_for_best_model": f"eval_{best_by}",
            "greater_is_better": best_by != "loss",
        }
    return training_arguments(
        folder / CHECKPOINTS,
        runtime,
        num_train_epochs=options.epochs,
        max_steps=options.max_steps,
        gradient_accumulation_steps=options.accumulation,
        learning_rate=options.learning_rate,
        lr_scheduler_type=options.schedule,
        warmup_steps=round(options.warmup_ratio * steps),
        weight_decay=options.weight_decay,
        max_grad_norm=options.max_grad_norm,
        logging_steps=options.logging_steps,
        save_total_limit=1 if best_by is None else 2,  # the last beside the best, to see that a run is done
        seed=options.seed,
        data_seed=options.seed,
        **when,
    )


def _best_line(history: Sequence[Mapping[str, Any]], best_by: str) -> Mapping[str, Any]:
    """The evaluation whose weights were kept."""
    name = f"eval_{best_by}"
    lines = [line for line in history if name in line and not math.isnan(line[name])]
    if not lines:
        return {}
    return min(lines, key=lambda line: line[name] if best_by == "loss" else -line[name])
