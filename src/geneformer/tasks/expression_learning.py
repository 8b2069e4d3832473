"""Learning to predict the expression of genes taken out of a cell, and predicting that of any gene."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from transformers import TrainerCallback

from geneformer.data.dataset import TokenizedDataset
from geneformer.engine.inference import Batch, Progress, run_batches
from geneformer.engine.training import Key, Scored
from geneformer.models.expression_head import GeneformerForExpression
from geneformer.models.finetuned import build_network
from geneformer.models.loading import LoadedModel
from geneformer.options import ExpressionOptions, FinetuneOptions, RuntimeOptions
from geneformer.tasks.finetuning import FinetuneResult, finetune
from geneformer.tasks.gene_values import UsualValues, hide_genes

Ints = NDArray[np.int64]

PAIRS = 65_536
"""Pairs of a cell and a gene decoded at once."""


class ExpressionBatches:
    """Batches of cells with genes taken out; which ones depends on seed, epoch and row only.

    Parameters
    ----------
    tokens
        Tokenized cells with counts.
    rows
        Cells the keys count through, ``(n,)``.
    special
        Token ids that are no genes.
    max_length
        Most tokens of one cell.
    share
        Chance of each gene to go.
    seed
        Fixes the genes that go.
    """

    def __init__(
        self,
        tokens: TokenizedDataset,
        rows: Ints,
        special: NDArray[Any],
        max_length: int,
        *,
        share: float = 0.15,
        seed: int = 0,
    ) -> None:
        self.tokens, self.rows, self.special, self.max_length = tokens, rows, special, max_length
        self.share, self.seed = share, seed

    @property
    def lengths(self) -> Ints:
        """Tokens each cell brings to a batch, ``(n,)``."""
        return np.minimum(self.tokens.lengths[self.rows], self.max_length)

    def __call__(self, keys: Sequence[Key]) -> dict[str, Any]:
        """The batch as tensors."""
        rows = self.rows[[row for _, row in keys]]
        packed = self.tokens.gather(rows, max_length=self.max_length, counts=True)
        seeds = [(self.seed, epoch, int(row)) for (epoch, _), row in zip(keys, rows, strict=True)]
        visible, found = hide_genes(packed, self.special, self.share, seeds)
        return {
            "input_ids": torch.from_numpy(visible.input_ids.astype(np.int64)),
            "cu_seqlens": torch.from_numpy(visible.cu_seqlens),
            "cells": torch.from_numpy(found.cells),
            "genes": torch.from_numpy(found.genes),
            "values": torch.from_numpy(found.values),
            "removed": torch.from_numpy(found.removed),
        }


def learn_expression(  # noqa: PLR0913
    base: LoadedModel,
    tokens: TokenizedDataset,
    usual: UsualValues,
    *,
    train_rows: Ints,
    valid_rows: Ints,
    expression: ExpressionOptions,
    options: FinetuneOptions,
    runtime: RuntimeOptions,
    output: Path | None = None,
    resume: bool = False,
    callbacks: Sequence[TrainerCallback] = (),
    progress: Progress | None = None,
) -> tuple[GeneformerForExpression, FinetuneResult]:
    """Fine-tune an encoder with a decoder of values and ranks.

    Parameters
    ----------
    base
        Pretrained model; left as it is.
    tokens
        Tokenized cells with counts.
    usual
        Usual values of the genes in the training cells, which the decoder starts from.
    train_rows, valid_rows
        Cells to learn from, and to choose the weights by.
    expression, options, runtime
        What to learn, how, and where.
    output, resume, callbacks, progress
        See `finetune`.

    Returns
    -------
    The network, in evaluation mode on the CPU, and what the run came to.
    """
    weights = ("removed_weight", "visible_weight", "value_weight", "rank_weight")
    attributes = {
        "geneformer_pooling": options.pooling,
        "geneformer_decoder_size": expression.decoder_size,
        **{f"geneformer_{name}": getattr(expression, name) for name in weights},
    }
    network = build_network(GeneformerForExpression, base, options, attributes)
    network.usual.copy_(torch.from_numpy(usual.by_token))
    network.spread.copy_(torch.from_numpy(usual.spread))
    max_length = min(options.max_length or base.max_length, base.max_length)
    special = base.vocabulary.special_ids
    kept: dict[str, Any] = {"share": expression.share, "seed": options.seed}
    result = finetune(
        network,
        ExpressionBatches(tokens, train_rows, special, max_length, **kept),
        ExpressionBatches(tokens, valid_rows, special, max_length, **kept),
        options,
        runtime,
        score=score_expression,
        output=output,
        resume=resume,
        about={"expression": asdict(expression), "tokens": int(tokens.lengths[train_rows].sum())},
        callbacks=callbacks,
        progress=progress,
    )
    return network, result


def score_expression(scored: Scored) -> dict[str, float]:
    """Metrics of validation batches over the genes removed, in units of the usual spread: 1 is the usual value."""
    sums = dict.fromkeys(("removed_loss", "value_loss", "rank_loss"), 0.0)
    n_removed = 0
    for batch, outputs in scored:
        n = int(batch["removed"].sum())
        n_removed += n
        for name in sums:
            sums[name] += float(outputs[name]) * n
    means = {name: value / max(n_removed, 1) for name, value in sums.items()}
    return {"loss": means.pop("removed_loss"), **means}


def predict_expression(
    network: GeneformerForExpression,
    tokens: TokenizedDataset,
    starts: Ints,
    genes: Ints,
    runtime: RuntimeOptions,
    *,
    max_length: int,
    progress: Progress | None = None,
) -> NDArray[np.float32]:
    """Value and rank of genes in cells, ``(p, 2)``: values of 0 and more, ranks from 0 to 1.

    Parameters
    ----------
    network
        Fine-tuned network.
    tokens
        Tokenized cells as the network is to see them.
    starts
        Where the genes of each cell start in `genes`, and the total, ``(n + 1,)``.
    genes
        Token ids of the genes asked for, cell after cell, ``(p,)``.
    runtime
        Where and how it runs.
    max_length
        Tokens of a cell that are read.
    progress
        Called with the cells done and in all.
    """
    predicted = np.empty((len(genes), 2), dtype=np.float32)

    def step(batch: Batch) -> None:
        pooled = network.embed(batch.input_ids, batch.cu_seqlens, attention=batch.attention)
        lengths = starts[batch.rows + 1] - starts[batch.rows]
        cells = np.repeat(np.arange(len(batch.rows)), lengths)
        places = np.repeat(starts[batch.rows] - (np.cumsum(lengths) - lengths), lengths) + np.arange(len(cells))
        for first in range(0, len(cells), PAIRS):
            part = slice(first, first + PAIRS)
            asked = {"cells_P": cells[part], "genes_P": genes[places[part]]}
            moved: Mapping[str, torch.Tensor] = {k: torch.from_numpy(v).to(pooled.device) for k, v in asked.items()}
            predicted[places[part]] = network.decode(pooled, **moved).float().cpu().numpy()

    run_batches(tokens, network.train(False), step, runtime, max_length=max_length, progress=progress)
    np.maximum(predicted[:, 0], 0, out=predicted[:, 0])
    np.clip(predicted[:, 1], 0, 1, out=predicted[:, 1])
    return predicted
