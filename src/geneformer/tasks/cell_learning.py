"""Learning about cells, and telling what was learnt: any number of heads, any kind."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from transformers import TrainerCallback

from geneformer.data.batching import budget_of_cells
from geneformer.data.dataset import TokenizedDataset
from geneformer.engine.inference import Batch, Progress, run_batches
from geneformer.engine.training import Scored
from geneformer.errors import MissingExtraError
from geneformer.models.cell_heads import GeneformerForCells, HeadSpec
from geneformer.models.finetuned import build_network
from geneformer.models.loading import LoadedModel
from geneformer.models.losses import MISSING
from geneformer.options import FinetuneOptions, RuntimeOptions
from geneformer.tasks.cell_batches import CellBatches
from geneformer.tasks.finetuning import FinetuneResult, finetune
from geneformer.tasks.resuming import digest

Ints = NDArray[np.int64]


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
    best_by: str = "loss",
    output: Path | None = None,
    resume: bool = False,
    callbacks: Sequence[TrainerCallback] = (),
    progress: Progress | None = None,
) -> tuple[GeneformerForCells, FinetuneResult]:
    """Fine-tune an encoder with one head per task.

    Parameters
    ----------
    base
        Pretrained model; left as it is.
    tokens
        Tokenized cells.
    specs
        The heads.
    targets
        By head, one entry per cell: classes (int64, `losses.MISSING` for none), label sets, or numbers (float32, not a
        number for none).
    train_rows, valid_rows
        Cells to learn from, and to choose the weights by.
    options, runtime
        How to learn, and where.
    class_weights
        By head: weight of every class.
    task_weights
        Weight of every head's loss; all one by default.
    learn_task_weights
        Learn those weights instead.
    head_dropout
        Dropout before the heads; that of the encoder by default.
    cells_per_batch
        Cells of one batch and device, see `budget_of_cells`, in place of the token budget of the options.
    deleted_genes
        Token ids deleted in the second views of the contrastive term; a random share by default.
    best_by, output, resume, callbacks, progress
        See `finetune`.

    Returns
    -------
    The network, in evaluation mode on the CPU, and what the run came to.
    """
    heads = [spec.to_dict() for spec in specs]
    network = _with_heads(base, heads, options, learn_task_weights=learn_task_weights, head_dropout=head_dropout)
    network.class_weights = {name: torch.from_numpy(values) for name, values in (class_weights or {}).items()}
    network.task_weights = list(task_weights or [1.0] * len(specs))
    max_length = min(options.max_length or base.max_length, base.max_length)
    counted = cells_per_batch is not None
    if cells_per_batch is not None:
        options = replace(options, tokens_per_batch=budget_of_cells(len(train_rows), cells_per_batch))
    result = finetune(
        network,
        CellBatches(
            tokens, train_rows, targets, max_length, count_cells=counted, **_views(base, options, deleted_genes)
        ),
        CellBatches(tokens, valid_rows, targets, max_length, count_cells=counted),
        options,
        runtime,
        score=score_cells(specs),
        best_by=best_by,
        forward_options={
            "supervised_weight": options.supervised_weight,
            "contrastive_weight": options.contrastive_weight,
            "temperature": options.contrastive_temperature,
        },
        output=output,
        resume=resume,
        about={
            "heads": heads,
            "tokens": int(tokens.lengths[train_rows].sum()),
            "labels": digest(train_rows, valid_rows, *(targets[spec.name] for spec in specs)),
            "model": _digest_of(base),
        },
        callbacks=callbacks,
        progress=progress,
    )
    return network, result


def _views(base: LoadedModel, options: FinetuneOptions, deleted_genes: NDArray[Any] | None) -> dict[str, Any]:
    """How the second views of the contrastive term are made; nothing where there is none."""
    if options.contrastive_weight <= 0:
        return {}
    return {
        "views": True,
        "special": base.vocabulary.special_ids,
        "share": options.contrastive_delete,
        "chosen": deleted_genes,
        "seed": options.seed,
    }


def _with_heads(
    base: LoadedModel,
    heads: list[dict[str, Any]],
    options: FinetuneOptions,
    *,
    learn_task_weights: bool,
    head_dropout: float | None,
) -> GeneformerForCells:
    """The network to train, with new heads on the pretrained encoder."""
    attributes: dict[str, Any] = {
        "geneformer_heads": heads,
        "geneformer_pooling": options.pooling,
        "geneformer_learn_task_weights": learn_task_weights,
    }
    if head_dropout is not None:
        attributes["classifier_dropout"] = head_dropout
    network = build_network(GeneformerForCells, base, options, attributes)
    network.label_smoothing = options.label_smoothing
    return network


def _digest_of(base: LoadedModel) -> str:
    """Tells models apart, by a few of every parameter's values."""
    return digest(*(value.flatten()[:64].float().numpy() for value in base.network.state_dict().values()))


class score_cells:  # noqa: N801  used as a function
    """Metrics of validation batches: the loss, and for classes accuracy and macro-F1, averaged over the heads.

    Parameters
    ----------
    specs
        The heads.
    """

    def __init__(self, specs: Sequence[HeadSpec]) -> None:
        self.specs = specs

    def __call__(self, scored: Scored) -> dict[str, float]:
        """The metrics."""
        loss, n_cells = 0.0, 0
        said: dict[str, list[NDArray[Any]]] = {spec.name: [] for spec in self.specs}
        true: dict[str, list[NDArray[Any]]] = {spec.name: [] for spec in self.specs}
        for batch, outputs in scored:
            n = len(batch["cu_seqlens"]) - 1
            loss, n_cells = loss + float(outputs.supervised_loss) * n, n_cells + n
            for spec in self.specs:
                said[spec.name].append(outputs.predictions[spec.name].float().cpu().numpy())
                true[spec.name].append(batch["targets"][spec.name].cpu().numpy())
        metrics = {"loss": loss / max(n_cells, 1)}
        classified = [spec.name for spec in self.specs if spec.kind == "one_of"]
        scores = [class_scores(np.concatenate(said[name]), np.concatenate(true[name])) for name in classified]
        if scores:
            metrics |= {"accuracy": float(np.mean([s[0] for s in scores]))}
            metrics |= {"macro_f1": float(np.mean([s[1] for s in scores]))}
        return metrics


def class_scores(logits: NDArray[Any], codes: Ints) -> tuple[float, float]:
    """Accuracy and macro-F1 over the labeled cells; not a number where there is none.

    Parameters
    ----------
    logits
        Logits or probabilities, ``(n, C)``.
    codes
        Classes, `losses.MISSING` for cells without one, ``(n,)``.
    """
    try:
        from sklearn.metrics import f1_score
    except ImportError as error:
        msg = "Fine-tuning needs scikit-learn. Install it with `pip install geneformer[train]`."
        raise MissingExtraError(msg) from error
    known = codes != MISSING
    if not known.any():
        return float("nan"), float("nan")
    predicted, truth = logits[known].argmax(1), codes[known]
    return float((predicted == truth).mean()), float(f1_score(truth, predicted, average="macro", zero_division=0))


def predict_cells(
    network: GeneformerForCells,
    tokens: TokenizedDataset,
    runtime: RuntimeOptions,
    *,
    max_length: int,
    progress: Progress | None = None,
) -> dict[str, NDArray[np.float32]]:
    """Outputs of every head for every cell, in the order of the cells: logits ``(n, C)``, or predicted numbers.

    Parameters
    ----------
    network
        Fine-tuned network.
    tokens
        Tokenized cells of its vocabulary.
    runtime
        Where and how it runs.
    max_length
        Tokens of a cell that are read.
    progress
        Called with the cells done and in all.
    """
    network.train(False)
    outputs = {spec.name: np.empty((len(tokens), spec.size), dtype=np.float32) for spec in network.specs}

    def step(batch: Batch) -> None:
        found = network(batch.input_ids, batch.cu_seqlens, attention=batch.attention).predictions
        for name, values in found.items():
            outputs[name][batch.rows] = values.float().cpu().numpy()

    run_batches(tokens, network, step, runtime, max_length=max_length, progress=progress)
    return outputs


def embed_cells(
    network: GeneformerForCells,
    tokens: TokenizedDataset,
    runtime: RuntimeOptions,
    *,
    max_length: int,
) -> NDArray[np.float32]:
    """The vectors the heads see, ``(n, D)``."""
    values = np.empty((len(tokens), network.config.hidden_size), dtype=np.float32)

    def step(batch: Batch) -> None:
        pooled = network.embed(batch.input_ids, batch.cu_seqlens, attention=batch.attention)
        values[batch.rows] = pooled.float().cpu().numpy()

    run_batches(tokens, network.train(False), step, runtime, max_length=max_length)
    return values
