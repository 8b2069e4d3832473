"""Training a network on labeled cells or genes: one loop for every task and strategy."""

import json
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from transformers import TrainerCallback, set_seed

from geneformer.display import Summarized, Summary
from geneformer.engine.device import resolve_device, resolve_dtype, resolve_training_attention
from geneformer.engine.inference import Batch, run_batches
from geneformer.engine.training import (
    Key,
    PackedTrainer,
    PlacedArguments,
    Reporting,
    Scored,
    begin_run,
    join_processes,
    length_read,
    planned_steps,
    run_arguments,
    shared_temporary_folder,
    undone_on_failure,
)
from geneformer.errors import NoCellsError
from geneformer.files.manifest import array_digest
from geneformer.files.progress import Progress
from geneformer.finetuning.metrics import accuracy_and_macro_f1
from geneformer.finetuning.probe import fit_heads
from geneformer.models.encoder import GeneformerModel
from geneformer.models.finetuned import TrainedShare, apply_strategy, build_network, layers_frozen, merge_lora
from geneformer.models.heads import GeneformerForCells, HeadSpec
from geneformer.models.loading import LoadedModel
from geneformer.models.losses import MISSING
from geneformer.options import FinetuneOptions, RuntimeOptions
from geneformer.tokens.dataset import CELL, Packed, TokenizedDataset, budget_of_cells, concatenate, delete_genes

_MAY_CHANGE = {"epochs", "max_steps", "patience", "logging_steps"}
"""Options with which a run may be resumed differently."""


def best_evaluation(history: Sequence[Mapping[str, Any]], best_by: str) -> tuple[Mapping[str, Any], int]:
    """The log line of the evaluation with the best weights, empty for none; and how many evaluations came since."""
    name, sign = f"eval_{best_by}", 1 if best_by == "loss" else -1
    best: Mapping[str, Any] = {}
    since = 0
    for line in history:
        if name not in line:
            continue
        if not math.isnan(line[name]) and (not best or sign * line[name] < sign * best[name]):
            best, since = line, 0
        else:
            since += 1
    return best, since


class Patience(TrainerCallback):
    """Stops a run whose evaluations no longer improve; it counts them in the log, which survives an interruption."""

    def __init__(self, evaluations: int, best_by: str) -> None:
        self.evaluations, self.best_by = evaluations, best_by

    def on_evaluate(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """One more evaluation."""
        if best_evaluation(state.log_history, self.best_by)[1] >= self.evaluations:
            control.should_training_stop = True


@dataclass(frozen=True, kw_only=True, slots=True, repr=False)
class FinetuneResult(Summarized):
    """What a run came to."""

    steps: int
    share: TrainedShare
    metrics: dict[str, float] = field(default_factory=dict)
    history: list[dict[str, Any]] = field(default_factory=list)

    def summary_of(self) -> Summary:
        """How long it trained, how much of the network, and the figures of the validation cells."""
        facts = [
            ("steps", f"{self.steps:,}"),
            ("parameters trained", f"{self.share.trained:,} of {self.share.total:,}"),
            *((f"validation {name.replace('_', ' ')}", f"{value:.4g}") for name, value in self.metrics.items()),
        ]
        return Summary(title=type(self).__name__, facts=facts)


def finetune(  # noqa: PLR0913
    network: GeneformerModel,
    train: "Batches",
    valid: "Batches",
    options: FinetuneOptions,
    runtime: RuntimeOptions,
    *,
    score: Callable[[Scored], dict[str, float]],
    best_by: str = "loss",
    forward_options: Mapping[str, Any] | None = None,
    output: Path | None = None,
    resume: bool = False,
    about: Mapping[str, Any] | None = None,
    start_counts: bool = False,
    callbacks: Sequence[TrainerCallback] = (),
    progress: Progress | None = None,
) -> FinetuneResult:
    """Train a network in place; it ends with the weights of its best evaluation, in evaluation mode on the CPU.

    With `start_counts` the weights it came with are evaluated as well, and stay where no step is better.
    """
    if not len(train.lengths):
        msg = "No labeled cell is left to learn from. Check the labels, the split and the filters."
        raise NoCellsError(msg)
    has_valid = len(valid.lengths) > 0
    processes = join_processes(runtime)
    steps = planned_steps(train.lengths, options, processes.num_processes)
    with ExitStack() as stack:
        folder = output if output is not None else stack.enter_context(shared_temporary_folder(processes))
        stack.enter_context(undone_on_failure(folder, processes))
        started = {**asdict(options), "cells": len(train.lengths), **(about or {})}
        stage = begin_run(folder, started, processes, may_change=_MAY_CHANGE, resume=resume)
        set_seed(options.seed)
        share = apply_strategy(network, options)
        network.config.use_cache = False  # as training sets it, also where nothing is left to train
        patience = options.patience if has_valid else 0
        start = {name: value.detach().clone() for name, value in network.named_parameters() if value.requires_grad}
        if stage is not None and (stage.steps >= steps or 0 < patience <= best_evaluation(stage.history, best_by)[1]):
            stage.load_best(network)
            steps_done, history = stage.steps, stage.history
        else:
            device = resolve_device(runtime.device)
            dropout = getattr(network.config, "attention_probs_dropout_prob", 0.0)
            early = [Patience(patience, best_by)] if patience else []
            trainer = PackedTrainer(
                model=network,
                args=_arguments(
                    folder,
                    options,
                    runtime,
                    steps,
                    best_by if has_valid else None,
                    eval_on_start=start_counts and has_valid and stage is None,
                ),
                lengths=train.lengths,
                collate=train,
                eval_lengths=valid.lengths,
                eval_collate=valid,
                tokens_per_batch=options.tokens_per_batch,
                score=score,
                forward_options={"attention": resolve_training_attention(dropout, device), **(forward_options or {})},
                remedy=(
                    f"Lower tokens_per_batch (now {options.tokens_per_batch:,}) and raise accumulation (now "
                    f"{options.accumulation}) by the same factor, lower max_length, or train less of the network with "
                    "strategy."
                ),
                keep_checkpoints=2 if has_valid else 1,  # the last and the best, to see that a run is done
                callbacks=[Reporting(progress), *early, *callbacks],
            )
            trainer.fit(stage)
            steps_done, history = trainer.state.global_step, trainer.state.log_history
        best = best_evaluation(history, best_by)[0] if has_valid else {}
        if best.get("step") == 0:
            network.load_state_dict(start, strict=False)
    merge_lora(network)
    network.cpu()
    network.train(False)
    # As a resumed run reads them from its checkpoint: in alphabetical order.
    history = [dict(sorted(line.items())) for line in history]
    metrics = {name.removeprefix("eval_"): value for name, value in sorted(best.items()) if name.startswith("eval_")}
    return FinetuneResult(steps=steps_done, share=share, metrics=metrics, history=history)


def _arguments(
    folder: Path, options: FinetuneOptions, runtime: RuntimeOptions, steps: int, best_by: str | None, **chosen: Any
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
    return run_arguments(
        folder,
        options,
        runtime,
        steps,
        max_grad_norm=options.max_grad_norm,
        layer_decay=options.layer_decay,
        **when,
        **chosen,
    )


Ints = NDArray[np.int64]


class Batches:
    """Batches from keys: some cells end to end, and what `make` adds to them; every key gives the same each time."""

    def __init__(
        self,
        dataset: TokenizedDataset,
        rows: Ints,
        max_length: int,
        make: Callable[[Packed, Ints, Sequence[Key]], dict[str, Any]],
        *,
        counts: bool = False,
        lengths: Ints | None = None,
    ) -> None:
        self.dataset, self.rows, self.max_length, self.make, self.counts = dataset, rows, max_length, make, counts
        self.lengths = np.minimum(dataset.lengths[rows], max_length) if lengths is None else lengths
        """Tokens each cell brings to a batch, ``(n,)``."""

    def __call__(self, keys: Sequence[Key]) -> dict[str, Any]:
        """The batch as tensors."""
        rows = self.rows[[row for _, row in keys]]
        packed = self.dataset.gather(rows, max_length=self.max_length, counts=self.counts)
        return self.make(packed, rows, keys)


def packed_tensors(packed: Packed) -> dict[str, torch.Tensor]:
    """Cells end to end as a network takes them."""
    return {
        "input_ids": torch.from_numpy(packed.input_ids.astype(np.int64)),
        "cu_seqlens": torch.from_numpy(packed.cu_seqlens),
    }


def cell_batches(
    dataset: TokenizedDataset,
    rows: Ints,
    targets: Mapping[str, NDArray[Any]],
    max_length: int,
    *,
    views: Mapping[str, Any] | None = None,
    states: "States | None" = None,
    seed: int = 0,
    by_number: bool = False,
) -> Batches:
    """Cells with targets by head; with `views`, then all their second views: `delete_genes` with those arguments."""

    def make(packed: Packed, rows: Ints, keys: Sequence[Key]) -> dict[str, Any]:
        if views is not None:
            rng = np.random.default_rng([seed, keys[0][0], keys[0][1], len(keys)])
            packed = concatenate(packed, delete_genes(packed, rng=rng, **views))
        values = {name: torch.from_numpy(column[rows]) for name, column in targets.items()}
        kept = {} if states is None else {"states": states.gather(rows)}
        return {**packed_tensors(packed), "targets": values, **kept}

    lengths = np.minimum(dataset.lengths[rows], max_length) * (1 if views is None else 2)
    if by_number:  # a batch is so many cells, however long
        lengths = np.full(len(rows), CELL, dtype=np.int64)
    return Batches(dataset, rows, max_length, make, lengths=lengths)


STATES_AT_MOST = 2**30
"""Bytes of the states of frozen layers that are kept in memory; where they are more, the layers run in every pass."""


class States:
    """What frozen layers make of some cells, computed once: the states of all tokens, float32."""

    def __init__(self, tokens: TokenizedDataset, rows: Ints, max_length: int, size: int) -> None:
        self.lengths = np.zeros(len(tokens), dtype=np.int64)
        self.lengths[rows] = np.minimum(tokens.lengths[rows], max_length)
        self.starts = np.cumsum(self.lengths) - self.lengths
        self.values = torch.empty((int(self.lengths.sum()), size))

    def keep(self, rows: Ints, states_TD: torch.Tensor) -> None:
        """Take those of cells end to end."""
        for row, states in zip(rows, torch.split(states_TD, self.lengths[rows].tolist()), strict=True):
            self.values[self.starts[row] :][: len(states)] = states

    def gather(self, rows: Ints) -> torch.Tensor:
        """Those of some cells, end to end, ``(T, D)``."""
        return torch.cat([self.values[self.starts[row] :][: self.lengths[row]] for row in rows])


def states_to_keep(
    network: GeneformerForCells, tokens: TokenizedDataset, rows: Ints, max_length: int, runtime: RuntimeOptions
) -> States | None:
    """Room for what the `layers_done` of a network make of cells; None where that would not be the same or too much."""
    config, device = network.config, resolve_device(runtime.device)
    dropout = max(config.hidden_dropout_prob, config.attention_probs_dropout_prob)
    exact = all(resolve_dtype(runtime.dtype, device, training=t) == torch.float32 for t in (False, True))
    n_bytes = 4 * config.hidden_size * int(np.minimum(tokens.lengths[rows], max_length).sum())
    if not network.layers_done or dropout or not exact or n_bytes > STATES_AT_MOST:
        return None
    return States(tokens, rows, max_length, config.hidden_size)


_CELLS_AT_ONCE = 2048


def cells_with_labeled_genes(dataset: TokenizedDataset, class_of: Ints, max_length: int) -> Ints:
    """Rows of the cells that have any labeled gene among the tokens that are read, sorted."""
    is_labeled = class_of != MISSING
    has_any = np.zeros(len(dataset), dtype=bool)
    for rows, packed in _pieces(dataset, max_length):
        before = np.concatenate([[0], np.cumsum(is_labeled[packed.input_ids])])
        has_any[rows] = np.diff(before[packed.cu_seqlens]) > 0
    return np.flatnonzero(has_any).astype(np.int64)


def count_cells(dataset: TokenizedDataset, size: int, max_length: int) -> Ints:
    """Cells each token occurs in, by token id, ``(size,)``."""
    counts = np.zeros(size, dtype=np.int64)
    for _, packed in _pieces(dataset, max_length):
        counts += np.bincount(packed.input_ids, minlength=size)
    return counts


def mean_ranks(dataset: TokenizedDataset, size: int, max_length: int) -> NDArray[np.float64]:
    """Mean place of each token in its cells, from 0 (first) to 1 (last); NaN where it never occurs."""
    sums, counts = np.zeros(size), np.zeros(size)
    for _, packed in _pieces(dataset, max_length):
        lengths = np.diff(packed.cu_seqlens)
        place = np.arange(len(packed.input_ids)) - np.repeat(packed.cu_seqlens[:-1], lengths)
        sums += np.bincount(packed.input_ids, (place + 0.5) / np.repeat(lengths, lengths), minlength=size)
        counts += np.bincount(packed.input_ids, minlength=size)
    with np.errstate(invalid="ignore"):
        means: NDArray[np.float64] = sums / counts
    return means


def _pieces(dataset: TokenizedDataset, max_length: int) -> Iterator[tuple[Ints, Packed]]:
    """All cells, some at a time."""
    for start in range(0, len(dataset), _CELLS_AT_ONCE):
        rows = np.arange(start, min(start + _CELLS_AT_ONCE, len(dataset)))
        yield rows, dataset.gather(rows, max_length=max_length)


Kept = dict[Any, NDArray[np.float32]]
"""Vectors of the cells of a dataset, ``(n, D)``, NaN where there is none yet, by what made them."""


def learn_cells(  # noqa: PLR0913
    base: LoadedModel,
    tokens: TokenizedDataset,
    specs: Sequence[HeadSpec],
    targets: Mapping[str, NDArray[Any]],
    *,
    train_rows: Ints,
    valid_rows: Ints,
    options: FinetuneOptions,
    runtime: RuntimeOptions,
    class_weights: Mapping[str, NDArray[np.float64]] | None = None,
    task_weights: Sequence[float] | None = None,
    learn_task_weights: bool = False,
    head_dropout: float | None = None,
    cells_per_batch: int | None = None,
    deleted_genes: NDArray[Any] | None = None,
    groups: NDArray[Any] | None = None,
    kept: Kept | None = None,
    best_by: str = "loss",
    **run: Any,
) -> tuple[GeneformerForCells, FinetuneResult]:
    """Fine-tune an encoder with one head per task; `run` goes to `finetune`, as do those of its siblings."""
    heads = [spec.to_dict() for spec in specs]
    attributes: dict[str, Any] = {
        "geneformer_heads": heads,
        "geneformer_pooling": options.pooling,
        "geneformer_learn_task_weights": learn_task_weights,
    }
    if head_dropout is not None:
        attributes["classifier_dropout"] = head_dropout
    network = build_network(GeneformerForCells, base, options, attributes)
    network.label_smoothing = options.label_smoothing
    network.class_weights = {name: torch.from_numpy(values) for name, values in (class_weights or {}).items()}
    network.task_weights = list(task_weights or [1.0] * len(specs))
    max_length = length_read(options.max_length, base.max_length, base.name)
    rows = np.concatenate([train_rows, valid_rows])
    views: dict[str, Any] | None = None
    if options.contrastive_weight > 0:
        special, share = base.vocabulary.special_ids, options.contrastive_delete
        views = {"special": special, "share": share, "chosen": deleted_genes}
    starts_from_probe = options.head_start == "probe" and options.supervised_weight > 0
    network.layers_done = 0 if views else layers_frozen(network.config.num_hidden_layers, options)
    states = states_to_keep(network, tokens, rows, max_length, runtime)
    if options.strategy == "probe" or starts_from_probe or states is not None:
        shown = run.get("progress") if options.strategy == "probe" else None
        how: dict[str, Any] = {"max_length": max_length, "kept": kept, "states": states, "progress": shown}
        vectors = cell_vectors(network, tokens, rows, runtime, **how)
    if options.strategy == "probe" or starts_from_probe:
        fit_heads(
            network,
            vectors[: len(train_rows)],
            {name: values[train_rows] for name, values in targets.items()},
            groups=None if groups is None else groups[train_rows],
            balanced=class_weights is not None,
            seed=options.seed,
        )
    if options.strategy == "probe":
        valid = {name: values[valid_rows] for name, values in targets.items()}
        return network, _validated(network, vectors[len(train_rows) :], valid, options)
    counted = cells_per_batch is not None
    if cells_per_batch is not None:
        options = replace(options, tokens_per_batch=budget_of_cells(len(train_rows), cells_per_batch))
    start = {name: value.detach().clone() for name, value in network.state_dict().items()}
    batches = partial(cell_batches, tokens, targets=targets, max_length=max_length, by_number=counted, states=states)
    result = finetune(
        network,
        batches(train_rows, views=views, seed=options.seed),
        batches(valid_rows),
        options,
        runtime,
        score=partial(score_cells, specs),
        best_by=best_by,
        forward_options={
            "supervised_weight": options.supervised_weight,
            "contrastive_weight": options.contrastive_weight,
            "temperature": options.contrastive_temperature,
        },
        about={
            "heads": heads,
            "tokens": int(tokens.lengths[train_rows].sum()),
            "labels": array_digest(train_rows, valid_rows, *(targets[spec.name] for spec in specs)),
            # Models differ in a few of every parameter's values.
            "model": array_digest(*(v.flatten()[:64].float().numpy() for v in base.network.state_dict().values())),
        },
        start_counts=starts_from_probe,
        **run,
    )
    if starts_from_probe and result.steps and len(valid_rows) >= LEAST_TO_COMPARE:
        result = _kept_if_clear(network, start, batches(valid_rows), result)
    return network, result


LEAST_TO_COMPARE = 50
"""Validation cells from which on what is better must be so by more than its standard error."""


def _kept_if_clear(
    network: GeneformerForCells, start: Mapping[str, torch.Tensor], valid: Batches, result: FinetuneResult
) -> FinetuneResult:
    """Go back to the start where the loss of validation cells, cell by cell, is not lower by a standard error.

    Of many evaluations the best is often so by chance, and worse than the start on other cells.
    """
    first = next((line for line in result.history if line.get("step") == 0 and "eval_loss" in line), {})
    trained = {name: value.clone() for name, value in network.state_dict().items()}
    if not first or all(torch.equal(value, start[name]) for name, value in trained.items()):
        return result
    after = cell_losses(network, valid)
    network.load_state_dict(dict(start))
    gain = cell_losses(network, valid) - after
    if np.nanmean(gain) > np.nanstd(gain) / math.sqrt(len(gain)):
        network.load_state_dict(trained)
        return result
    return replace(result, metrics={k.removeprefix("eval_"): v for k, v in first.items() if k.startswith("eval_")})


def cell_losses(network: GeneformerForCells, cells: Batches) -> NDArray[np.float64]:
    """Supervised loss of each cell by itself, ``(n,)``, in evaluation mode on the CPU."""
    network.cpu().train(False)
    with torch.inference_mode():
        outputs = [network(**cells([(0, row)])) for row in range(len(cells.rows))]
    return np.array([float(output.supervised_loss) for output in outputs])


def _validated(
    network: GeneformerForCells,
    vectors: NDArray[np.float32],
    targets: Mapping[str, NDArray[Any]],
    options: FinetuneOptions,
) -> FinetuneResult:
    """What a network came to that is not trained further."""
    network.train(False)
    metrics: dict[str, float] = {}
    if len(vectors):
        pooled = torch.from_numpy(vectors)
        given = {name: torch.from_numpy(values) for name, values in targets.items()}
        with torch.inference_mode():
            outputs = network.cpu().read(pooled, given)
        batch = {"cu_seqlens": np.arange(len(pooled) + 1), "targets": given}
        metrics = score_cells(network.specs, [(batch, outputs)])
    return probed(network, options, metrics)


def probed(network: GeneformerModel, options: FinetuneOptions, metrics: dict[str, float]) -> FinetuneResult:
    """The result of a probe, which takes no steps, with its figures on the validation part."""
    share = apply_strategy(network, options)
    line = {"step": 0, "epoch": 0.0} | {f"eval_{name}": value for name, value in metrics.items()}
    network.cpu()
    return FinetuneResult(steps=0, share=share, metrics=metrics, history=[line] if metrics else [])


def score_cells(specs: Sequence[HeadSpec], scored: Scored) -> dict[str, float]:
    """Metrics of validation batches: the loss, and for classes accuracy and macro-F1, averaged over the heads."""
    loss, n_cells = 0.0, 0
    classified = [spec.name for spec in specs if spec.kind == "one_of"]
    predictions: dict[str, list[NDArray[Any]]] = {name: [] for name in classified}
    truth: dict[str, list[NDArray[Any]]] = {name: [] for name in classified}
    for batch, outputs in scored:
        n = len(batch["cu_seqlens"]) - 1
        loss, n_cells = loss + float(outputs.supervised_loss) * n, n_cells + n
        for name in classified:
            predictions[name].append(outputs.predictions[name].float().cpu().numpy().argmax(axis=1))
            truth[name].append(batch["targets"][name].cpu().numpy())
    metrics = {"loss": loss / max(n_cells, 1)}
    scores = []
    for name in classified:
        codes, predicted = np.concatenate(truth[name]), np.concatenate(predictions[name])
        scores.append(accuracy_and_macro_f1(codes[codes != MISSING], predicted[codes != MISSING]))
    if scores:
        accuracy, macro_f1 = np.mean(scores, axis=0)
        metrics |= {"accuracy": float(accuracy), "macro_f1": float(macro_f1)}
    return metrics


def predict_cells(
    network: GeneformerForCells,
    tokens: TokenizedDataset,
    runtime: RuntimeOptions,
    *,
    max_length: int,
    progress: Progress | None = None,
) -> dict[str, NDArray[np.float32]]:
    """Outputs of every head for every cell, in the order of the cells: logits ``(n, C)``, or predicted numbers."""
    network.train(False)
    outputs = {spec.name: np.empty((len(tokens), spec.size), dtype=np.float32) for spec in network.specs}

    def step(batch: Batch) -> None:
        predictions = network(batch.input_ids, batch.cu_seqlens, attention=batch.attention).predictions
        for name, values in predictions.items():
            outputs[name][batch.rows] = values.float().cpu().numpy()

    run_batches(tokens, network, step, runtime, max_length=max_length, progress=progress)
    return outputs


def encoder_key(network: Any, max_length: int) -> Any:
    """What the vectors that an encoder makes of cells depend on, besides the cells."""
    weights = [value.flatten()[:64].float().cpu().numpy() for value in network.bert.state_dict().values()]
    return array_digest(*weights), json.dumps(network.config.to_dict(), sort_keys=True, default=str), max_length


def cell_vectors(
    network: GeneformerForCells,
    tokens: TokenizedDataset,
    rows: Ints,
    runtime: RuntimeOptions,
    *,
    max_length: int,
    kept: Kept | None = None,
    states: States | None = None,
    progress: Progress | None = None,
) -> NDArray[np.float32]:
    """The vectors the heads see, ``(n, D)``; with `kept`, each is made once for encoders that are the same."""
    key = encoder_key(network, max_length)
    known = np.full((len(tokens), network.config.hidden_size), np.nan, dtype=np.float32)
    if kept is not None:
        known = kept.setdefault(key, known)
    missing = rows if states is not None else rows[np.isnan(known[rows, 0])]
    if len(missing):
        keep = None if states is None else lambda some, values: states.keep(missing[some], values)
        known[missing] = embed_cells(
            network, tokens.take(missing), runtime, max_length=max_length, keep=keep, progress=progress
        )
    return known[rows]


def read_cells(network: GeneformerForCells, vectors: NDArray[np.float32]) -> dict[str, NDArray[np.float32]]:
    """Outputs of every head for cells with these vectors, as `predict_cells` gives them."""
    with torch.inference_mode():
        predictions = network.cpu().train(False).read(torch.from_numpy(vectors)).predictions or {}
    return {name: values.float().numpy() for name, values in predictions.items()}


def embed_cells(
    network: GeneformerForCells,
    tokens: TokenizedDataset,
    runtime: RuntimeOptions,
    *,
    max_length: int,
    keep: Callable[[Ints, torch.Tensor], None] | None = None,
    progress: Progress | None = None,
) -> NDArray[np.float32]:
    """The vectors the heads see, ``(n, D)``; `keep` is given the states after the layers that stay as they are."""
    values = np.empty((len(tokens), network.config.hidden_size), dtype=np.float32)
    layer = network.layers_done - network.config.num_hidden_layers

    def step(batch: Batch) -> None:
        states = None
        if keep is not None:
            states = network.bert(batch.input_ids, batch.cu_seqlens, layer=layer, attention=batch.attention)
            keep(batch.rows, states)
        pooled = network.embed(batch.input_ids, batch.cu_seqlens, attention=batch.attention, states=states)
        values[batch.rows] = pooled.float().cpu().numpy()

    run_batches(tokens, network.train(False), step, runtime, max_length=max_length, progress=progress)
    return values
