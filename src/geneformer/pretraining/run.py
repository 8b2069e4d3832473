"""Masked language model pretraining, from tokens to a checkpoint folder."""

import functools
import json
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
from geneformer.engine.device import resolve_device, resolve_training_attention
from geneformer.engine.run_folder import CHECKPOINTS
from geneformer.engine.training import (
    Key,
    PackedTrainer,
    Reporting,
    begin_run,
    join_processes,
    length_read,
    planned_steps,
    run_arguments,
    undone_on_failure,
)
from geneformer.errors import DatasetError, NoCellsError, VocabularyMismatchError, tokenizing
from geneformer.files.atomic import atomic_file
from geneformer.files.manifest import Manifest, describe_inputs, hash_unchanged
from geneformer.files.progress import Progress
from geneformer.genes.vocabulary import Vocabulary
from geneformer.models.heads import GeneformerForMaskedLM
from geneformer.models.hub import find_folder
from geneformer.models.loading import save_checkpoint
from geneformer.options import PretrainOptions, RuntimeOptions
from geneformer.options._fields import to_table
from geneformer.pretraining.corpus import TOKENS
from geneformer.pretraining.start import initial_model, start_from_spectrum
from geneformer.tokens.dataset import Masked, TokenizedDataset, concatenate, mask_genes, plan_batches, split_counts

_MAY_CHANGE = {"epochs", "max_steps", "save_steps", "eval_steps", "eval_cells", "logging_steps"}
"""Options with which a run may be resumed differently."""

HISTORY = "pretraining.json"
"""File with options, metrics and log lines next to the weights."""

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


def pretrain(
    dataset: TokenizedDataset,
    vocabulary: Vocabulary,
    output: Path,
    options: PretrainOptions,
    runtime: RuntimeOptions,
    *,
    resume: bool = False,
    inputs: Sequence[Path] = (),
    progress: Progress | None = None,
) -> PretrainResult:
    """Train an encoder on masked genes and write a checkpoint folder; of several processes the first one writes.

    The manifest in that folder names the given inputs, or else the folder of the dataset, and the model that training
    started from.
    """
    if dataset.vocabulary not in (None, vocabulary.fingerprint):
        msg = (
            f"The tokens were made with vocabulary {dataset.vocabulary}, not {vocabulary.name} "
            f"({vocabulary.fingerprint}). Pass theirs, or tokenize again."
        )
        raise VocabularyMismatchError(msg)
    dataset.check_ids(vocabulary.size)
    views = options.contrastive_weight > 0
    if (views or options.spectral_start) and not dataset.has_counts:
        msg = (
            f"contrastive_weight and spectral_start need counts. Tokenize with {tokenizing(counts=True)}, or switch "
            "them off."
        )
        raise DatasetError(msg)
    train_rows, held_rows = split_cells(dataset, options.held_out, options.hold_out_sources, options.seed)
    started_from = [find_folder(options.start_from)] if options.start_from else []
    seen = describe_inputs([*(inputs or filter(None, [dataset.path])), *started_from], hash_limit=0)
    set_seed(options.seed)
    model = initial_model(options, vocabulary)
    name = options.start_from or options.architecture
    max_length = length_read(options.max_length, model.config.max_position_embeddings, name)
    processes = join_processes(runtime)
    started = {
        **asdict(options),
        "cells": len(dataset),
        "tokens": int(dataset.lengths.sum()),
        "vocabulary_used": vocabulary.fingerprint,
    }
    with undone_on_failure(output, processes):
        stage = begin_run(output, started, processes, may_change=_MAY_CHANGE, resume=resume)

        if options.spectral_start:
            start_from_spectrum(model, dataset, train_rows, vocabulary, max_length, options.seed)
        batches = functools.partial(
            MaskedBatches, dataset, vocabulary=vocabulary, max_length=max_length, options=options
        )
        often = balanced(train_rows, source_of(dataset), options.balance_sources, options.seed)
        training, held_out = batches(often, views=views), batches(held_rows, views=False)
        sampled = np.random.default_rng(options.seed).permutation(held_rows)[: options.eval_cells]
        sample = batches(np.sort(sampled), views=False)
        steps = planned_steps(training.lengths, options, processes.num_processes)
        trainer = _trainer(
            model, training, sample, steps, output=output, options=options, runtime=runtime, progress=progress
        )
        trainer.fit(stage, steps)
    trainer.set_held_out(held_out.lengths, held_out)
    metrics = trainer.evaluate()
    if len(held_rows):
        metrics |= baseline_accuracy(dataset, train_rows, held_out, max_length, options)
    result = PretrainResult(
        folder=output,
        n_train=len(train_rows),
        n_held_out=len(held_rows),
        steps=trainer.state.global_step,
        metrics=metrics,
        history=trainer.state.log_history,
    )
    if processes.is_main_process:
        save_checkpoint(model, output)
        record = {"options": asdict(options), **asdict(result), "times": trainer.times}
        del record["folder"]
        with atomic_file(output / HISTORY, overwrite=True) as temporary:
            temporary.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
        manifest = Manifest(
            task="pretrain",
            vocabulary=vocabulary.fingerprint,
            inputs=hash_unchanged(seen),
            options=to_table(options),
            results=metrics,
        )
        manifest.write(output, leave_out=(CHECKPOINTS, TOKENS))
    processes.wait_for_everyone()
    return result


def _trainer(
    model: GeneformerForMaskedLM,
    train: "MaskedBatches",
    held_out: "MaskedBatches",
    steps: int,
    *,
    output: Path,
    options: PretrainOptions,
    runtime: RuntimeOptions,
    progress: Progress | None,
) -> PackedTrainer:
    """The Trainer of one run."""
    contrast = {
        "contrastive_weight": options.contrastive_weight,
        "temperature": options.contrastive_temperature,
        "contrastive_layer": options.contrastive_layer,
    }
    kernel = resolve_training_attention(model.config.attention_probs_dropout_prob, resolve_device(runtime.device))
    return PackedTrainer(
        model=model,
        args=run_arguments(
            output,
            options,
            runtime,
            steps,
            save_steps=options.save_steps,
            eval_strategy="steps" if options.held_out or options.hold_out_sources else "no",
            eval_steps=options.eval_steps,
        ),
        lengths=train.lengths,
        collate=train,
        eval_lengths=held_out.lengths,
        eval_collate=held_out,
        tokens_per_batch=options.tokens_per_batch,
        groups=train.dataset.column(keys.SOURCE)[train.rows] if options.batch_by_source else None,
        forward_options={"attention": kernel, **(contrast if train.views else {})},
        remedy=(
            f"Lower tokens_per_batch (now {options.tokens_per_batch:,}) and raise accumulation (now "
            f"{options.accumulation}) by the same factor, or lower max_length."
        ),
        keep_checkpoints=2,
        callbacks=[Reporting(progress)],
    )


def source_of(dataset: TokenizedDataset) -> NDArray[np.str_]:
    """Source of every cell, ``(n,)``; the same empty name where none is known."""
    return dataset.column(keys.SOURCE).astype(str) if keys.SOURCE in dataset.columns else np.full(len(dataset), "")


def balanced(rows: Ints, sources: NDArray[np.str_], balance: float, seed: int) -> Ints:
    """As many rows, those of a source of n cells in proportion to n ** (1 - balance), each about equally often."""
    if not balance:
        return rows
    names, which, sizes = np.unique(sources[rows], return_inverse=True, return_counts=True)
    shares = sizes ** (1 - balance)
    times = len(rows) * shares / shares.sum() / sizes
    rng = np.random.default_rng([seed, len(names)])
    whole = np.repeat(rows, np.floor(times).astype(np.int64)[which])
    # What is left of each source's share goes to cells of it drawn without replacement.
    for name, size, rest in zip(range(len(names)), sizes, times % 1, strict=True):
        more = rng.choice(rows[which == name], round(rest * size), replace=False)
        whole = np.concatenate([whole, more])
    return np.sort(whole)


def split_cells(dataset: TokenizedDataset, held_out: float, sources: Sequence[str], seed: int) -> tuple[Ints, Ints]:
    """Rows to train on and rows held out."""
    names = source_of(dataset)
    present = sorted(set(names.tolist()))
    unknown = sorted(set(sources) - set(present))
    if unknown:
        msg = f"hold_out_sources names {unknown}, but the cells come from {present}."
        raise DatasetError(msg)
    is_held_out = np.isin(names, list(sources))
    for source in sorted(set(present) - set(sources)):
        rows = np.flatnonzero(names == source)
        # By its own generator, so that the split of one source does not depend on which others there are.
        rng = np.random.default_rng([seed, *source.encode()])
        is_held_out[rng.choice(rows, round(held_out * len(rows)), replace=False)] = True
    if is_held_out.all():
        msg = f"All {len(dataset)} cells are held out; nothing is left to train on. Lower held_out or hold_out_sources."
        raise NoCellsError(msg)
    return np.flatnonzero(~is_held_out), np.flatnonzero(is_held_out)


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
            share, gene_share = self.options.subsample_counts, self.options.gene_share
            packed = concatenate(*split_counts(packed, self.medians, share, self.max_length, rng, gene_share))
        return mask_genes(packed, self.genes, self.mask_id, self.options.mask_probability, rng)

    def __call__(self, keys: Sequence[Key]) -> dict[str, Tensor]:
        """The batch as tensors."""
        batch = self.masked(keys)
        names = ("input_ids", "cu_seqlens", "masked", "labels")
        return {name: torch.from_numpy(getattr(batch, name)) for name in names}


_RANKS_AT_ONCE = 64


@dataclass(frozen=True, slots=True)
class RankBaseline:
    """Commonest genes at every rank of the training cells."""

    guesses: NDArray[np.int64]

    @classmethod
    def fit(
        cls,
        dataset: TokenizedDataset,
        rows: NDArray[np.int64],
        max_length: int,
        *,
        special_ids: Sequence[int] | NDArray[np.int64] = (),
        n_guesses: int = 10,
        max_cells: int = 50_000,
        seed: int = 0,
    ) -> "RankBaseline":
        """Count the genes at each rank."""
        if len(rows) > max_cells:
            rows = np.sort(np.random.default_rng(seed).choice(rows, max_cells, replace=False))
        packed = dataset.gather(rows, max_length=max_length)
        rank = _ranks(packed.cu_seqlens)
        order = np.argsort(rank, kind="stable")
        ids, rank = packed.input_ids[order].astype(np.int64), rank[order]
        n_tokens = max(int(ids.max(initial=0)) + 1, n_guesses, *(token + 1 for token in special_ids))
        guesses = np.zeros((max_length, n_guesses), dtype=np.int64)
        for start in range(0, max_length, _RANKS_AT_ONCE):
            stop = min(start + _RANKS_AT_ONCE, max_length)
            first, last = np.searchsorted(rank, [start, stop])
            key = (rank[first:last] - start) * n_tokens + ids[first:last]
            counts = np.bincount(key, minlength=(stop - start) * n_tokens).reshape(stop - start, n_tokens)
            counts[:, list(special_ids)] = -1
            guesses[start:stop] = np.argsort(-counts, axis=1, kind="stable")[:, :n_guesses]
        return cls(guesses)

    def hits(self, batch: Masked) -> tuple[int, int, int]:
        """Masked genes of a batch, and how many were the first, or among the first ten, guesses."""
        guesses = self.guesses[_ranks(batch.cu_seqlens)[batch.masked]]
        is_hit = guesses == batch.labels[:, None]
        return len(batch.labels), int(is_hit[:, 0].sum()), int(is_hit[:, :10].any(axis=1).sum())


def _ranks(cu_seqlens: NDArray[np.int64]) -> NDArray[np.int64]:
    lengths = np.diff(cu_seqlens)
    return np.arange(int(cu_seqlens[-1])) - np.repeat(cu_seqlens[:-1], lengths)


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
