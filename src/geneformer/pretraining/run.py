"""Masked language model pretraining, from tokens to a checkpoint folder."""

import functools
import json
import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from transformers import set_seed

from geneformer import keys
from geneformer.engine import training as arguments
from geneformer.engine.device import resolve_device, resolve_training_attention, verify_placement
from geneformer.engine.inference import Progress
from geneformer.engine.training import EpochSampler, Key, PackedTrainer, PlacedArguments, Reporting, quiet_library
from geneformer.errors import DatasetError, NoCellsError, OutputExistsError, RunMismatchError, VocabularyMismatchError
from geneformer.files.atomic import atomic_file
from geneformer.genes.vocabulary import Vocabulary
from geneformer.models.checkpoint import WEIGHTS, save_checkpoint
from geneformer.models.heads import GeneformerForMaskedLM
from geneformer.options import PretrainOptions, RuntimeOptions
from geneformer.pretraining.objectives import RankBaseline
from geneformer.pretraining.start import initial_model, start_from_spectrum
from geneformer.tokens.batches import Masked, concatenate, mask_genes, plan_batches, split_counts
from geneformer.tokens.dataset import TokenizedDataset

CHECKPOINTS = "checkpoints"
"""Folder of training checkpoints."""

STARTED = "run.json"
"""File among the checkpoints that says what the run was started with."""

_MAY_CHANGE = {"epochs", "max_steps", "save_steps", "eval_steps", "eval_cells", "logging_steps"}


def check_run_folder(output: Path, *, resume: bool) -> None:
    """Refuse to mix runs, before any work."""
    started = any((output / CHECKPOINTS).glob("checkpoint-*"))
    if (started or (output / WEIGHTS).exists()) and not resume:
        msg = f"{output} holds a pretraining run already. Pass --resume to go on with it, or choose another folder."
        raise OutputExistsError(msg)
    if resume and not started:
        msg = f"{output} has no training checkpoint to resume from. Start without --resume."
        raise RunMismatchError(msg)


def check_same_run(
    output: Path, dataset: TokenizedDataset, vocabulary: Vocabulary, options: PretrainOptions, *, resume: bool
) -> None:
    """Note what a run is started with; a run that is resumed must go on with the same cells and options."""
    path = output / CHECKPOINTS / STARTED
    now: dict[str, Any] = json.loads(json.dumps(asdict(options)))
    now |= {"cells": len(dataset), "tokens": int(dataset.lengths.sum()), "vocabulary_used": vocabulary.fingerprint}
    if not resume:
        path.parent.mkdir(parents=True, exist_ok=True)
        with atomic_file(path, overwrite=True) as temporary:
            temporary.write_text(json.dumps(now, indent=1) + "\n", encoding="utf-8")
        return
    if not path.is_file():
        return
    then = json.loads(path.read_text(encoding="utf-8"))
    changed = [name for name in now if name not in _MAY_CHANGE and name in then and then[name] != now[name]]
    if changed:
        told = ", ".join(f"{name} was {then[name]!r} and is {now[name]!r}" for name in changed)
        msg = f"The run in {output} was started otherwise: {told}. Resume it as it was, or choose another folder."
        raise RunMismatchError(msg)


HISTORY = "pretraining.json"

Ints = NDArray[np.int64]


@dataclass(frozen=True, kw_only=True, slots=True)
class PretrainResult:
    """What a pretraining run came to."""

    folder: Path
    n_train: int
    n_held_out: int
    steps: int
    metrics: dict[str, float]
    history: list[dict[str, Any]]


class MaskedBatches:
    """Training batches from keys; what comes out depends on seed, epoch and rows only."""

    def __init__(
        self,
        dataset: TokenizedDataset,
        rows: Ints,
        vocabulary: Vocabulary,
        max_length: int,
        options: PretrainOptions,
        *,
        views: bool,
    ) -> None:
        self.dataset, self.rows = dataset, rows
        self.max_length, self.options, self.views = max_length, options, views
        self.genes, self.mask_id = vocabulary.token_ids, vocabulary.mask_id
        self.medians = np.full(vocabulary.size, np.nan)
        self.medians[vocabulary.token_ids] = vocabulary.medians

    @property
    def lengths(self) -> Ints:
        """Most tokens each cell brings to a batch, ``(n,)``."""
        return np.minimum(self.dataset.lengths[self.rows], self.max_length) * (2 if self.views else 1)

    def masked(self, keys: Sequence[Key]) -> Masked:
        """The batch in numpy."""
        rng = np.random.default_rng([self.options.seed, keys[0][0], keys[0][1], len(keys), int(self.views)])
        rows = self.rows[[row for _, row in keys]]
        packed = self.dataset.gather(rows, max_length=None if self.views else self.max_length, counts=self.views)
        if self.views:
            share = self.options.subsample_counts
            packed = concatenate(*split_counts(packed, self.medians, share, self.max_length, rng))
        return mask_genes(packed, self.genes, self.mask_id, self.options.mask_probability, rng)

    def __call__(self, keys: Sequence[Key]) -> dict[str, Tensor]:
        """The batch as tensors."""
        batch = self.masked(keys)
        return {
            "input_ids": torch.from_numpy(batch.input_ids),
            "cu_seqlens": torch.from_numpy(batch.cu_seqlens),
            "masked": torch.from_numpy(batch.masked),
            "labels": torch.from_numpy(batch.labels),
        }


def split_cells(dataset: TokenizedDataset, held_out: float, sources: Sequence[str], seed: int) -> tuple[Ints, Ints]:
    """Rows to train on and rows held out."""
    names = dataset.column(keys.SOURCE).astype(str) if keys.SOURCE in dataset.columns else np.full(len(dataset), "")
    known = sorted(set(names.tolist()))
    unknown = sorted(set(sources) - set(known))
    if unknown:
        msg = f"hold_out_sources names {unknown}, but the cells come from {known}."
        raise DatasetError(msg)
    held = np.isin(names, list(sources))
    for source in sorted(set(known) - set(sources)):
        rows = np.flatnonzero(names == source)
        rng = np.random.default_rng([seed, *source.encode()])
        held[rng.choice(rows, round(held_out * len(rows)), replace=False)] = True
    if held.all():
        msg = f"All {len(dataset)} cells are held out; nothing is left to train on. Lower held_out or hold_out_sources."
        raise NoCellsError(msg)
    return np.flatnonzero(~held), np.flatnonzero(held)


def pretrain(
    dataset: TokenizedDataset,
    vocabulary: Vocabulary,
    output: Path,
    options: PretrainOptions,
    runtime: RuntimeOptions,
    *,
    resume: bool = False,
    progress: Progress | None = None,
) -> PretrainResult:
    """Train an encoder on masked genes and write a checkpoint folder."""
    if dataset.vocabulary not in (None, vocabulary.fingerprint):
        msg = (
            f"The tokens were made with vocabulary {dataset.vocabulary}, not {vocabulary.name} "
            f"({vocabulary.fingerprint}). Pass theirs, or tokenize again."
        )
        raise VocabularyMismatchError(msg)
    views = options.contrastive_weight > 0
    if (views or options.spectral_start) and not dataset.has_counts:
        msg = "contrastive_weight and spectral_start need counts. Tokenize with --counts, or switch them off."
        raise DatasetError(msg)
    train_rows, held_rows = split_cells(dataset, options.held_out, options.hold_out_sources, options.seed)
    set_seed(options.seed)
    model = initial_model(options, vocabulary)
    n_positions = model.config.max_position_embeddings
    max_length = min(options.max_length or n_positions, n_positions)
    check_same_run(output, dataset, vocabulary, options, resume=resume)

    if options.spectral_start:
        start_from_spectrum(model, dataset, train_rows, vocabulary, max_length, options.seed)
    batches = functools.partial(MaskedBatches, dataset, vocabulary=vocabulary, max_length=max_length, options=options)
    held_batches = batches(held_rows, views=False)
    sampled = np.random.default_rng(options.seed).permutation(held_rows)[: options.eval_cells]
    training, sample = batches(train_rows, views=views), batches(np.sort(sampled), views=False)
    trainer = _trainer(model, training, sample, output=output, options=options, runtime=runtime, progress=progress)
    with quiet_library():
        trainer.train(resume_from_checkpoint=resume or None)
    trainer.set_held_out(held_batches.lengths, held_batches)
    metrics = trainer.evaluate()
    if len(held_rows):
        metrics |= baseline_accuracy(dataset, train_rows, held_batches, max_length, options)
    save_checkpoint(model, output)
    result = PretrainResult(
        folder=output,
        n_train=len(train_rows),
        n_held_out=len(held_rows),
        steps=trainer.state.global_step,
        metrics=metrics,
        history=trainer.state.log_history,
    )
    write_history(result, options)
    return result


def _trainer(
    model: GeneformerForMaskedLM,
    train: MaskedBatches,
    held_out: MaskedBatches,
    *,
    output: Path,
    options: PretrainOptions,
    runtime: RuntimeOptions,
    progress: Progress | None,
) -> PackedTrainer:
    """The Trainer of one run, with the model where it belongs."""
    contrast = {
        "contrastive_weight": options.contrastive_weight,
        "temperature": options.contrastive_temperature,
        "contrastive_layer": options.contrastive_layer,
    }
    kernel = resolve_training_attention(model.config.attention_probs_dropout_prob, resolve_device(runtime.device))
    trainer = PackedTrainer(
        model=model,
        args=training_arguments(output, options, runtime, planned_steps(train.lengths, options)),
        lengths=train.lengths,
        collate=train,
        eval_lengths=held_out.lengths,
        eval_collate=held_out,
        tokens_per_batch=options.tokens_per_batch,
        groups=train.dataset.column(keys.SOURCE)[train.rows] if options.batch_by_source else None,
        forward_options={"attention": kernel, **(contrast if train.views else {})},
        callbacks=[Reporting(progress)],
    )
    verify_placement(model, trainer.args.device)
    return trainer


def planned_steps(lengths: Ints, options: PretrainOptions) -> int:
    """Optimizer steps of the whole run on one device."""
    if options.max_steps > 0:
        return options.max_steps
    batches = len(EpochSampler(lengths, options.tokens_per_batch, options.seed))
    return math.ceil(options.epochs * math.ceil(batches / options.accumulation))


def training_arguments(output: Path, options: PretrainOptions, runtime: RuntimeOptions, steps: int) -> PlacedArguments:
    """The options in the Trainer's words."""
    return arguments.training_arguments(
        output / CHECKPOINTS,
        runtime,
        num_train_epochs=options.epochs,
        max_steps=options.max_steps,
        gradient_accumulation_steps=options.accumulation,
        learning_rate=options.learning_rate,
        lr_scheduler_type=options.schedule,
        warmup_steps=round(options.warmup_ratio * steps),
        weight_decay=options.weight_decay,
        save_steps=options.save_steps,
        eval_strategy="steps" if options.held_out or options.hold_out_sources else "no",
        eval_steps=options.eval_steps,
        logging_steps=options.logging_steps,
        save_total_limit=2,
        seed=options.seed,
        data_seed=options.seed,
    )


def baseline_accuracy(
    dataset: TokenizedDataset, train_rows: Ints, batches: MaskedBatches, max_length: int, options: PretrainOptions
) -> dict[str, float]:
    """Accuracy, under the same masks, of guessing the genes commonest at each rank of the training cells."""
    special_ids = np.flatnonzero(np.isnan(batches.medians))
    baseline = RankBaseline.fit(dataset, train_rows, max_length, special_ids=special_ids, seed=options.seed)
    hits = np.zeros(3)
    for rows in plan_batches(batches.lengths, options.tokens_per_batch):
        hits += baseline.hits(batches.masked([(0, int(row)) for row in rows]))
    n_masked = max(hits[0], 1)
    return {"baseline_top1": float(hits[1] / n_masked), "baseline_top10": float(hits[2] / n_masked)}


def write_history(result: PretrainResult, options: PretrainOptions) -> None:
    """Options, figures and log lines, as JSON beside the weights."""
    content = {
        "options": asdict(options),
        "n_train": result.n_train,
        "n_held_out": result.n_held_out,
        "steps": result.steps,
        "metrics": result.metrics,
        "history": result.history,
    }
    (result.folder / HISTORY).write_text(json.dumps(content, indent=1) + "\n")
