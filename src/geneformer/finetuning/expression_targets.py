"""What is learnt about expression: value and rank of genes taken out of cells."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import torch
from numpy.typing import NDArray

from geneformer import keys
from geneformer.engine.inference import Batch, Progress, run_batches
from geneformer.engine.training import Key, Scored
from geneformer.errors import DatasetError
from geneformer.finetuning.evaluations import Figures
from geneformer.finetuning.metrics import evaluate_numbers
from geneformer.finetuning.reports import ExpressionReport
from geneformer.finetuning.splits import Split
from geneformer.finetuning.targets import Target
from geneformer.finetuning.training import Batches, FinetuneResult, finetune, length_read, packed_tensors
from geneformer.models.finetuned import build_network
from geneformer.models.heads import GeneformerForExpression
from geneformer.models.loading import LoadedModel
from geneformer.options import ExpressionOptions, FinetuneOptions, RuntimeOptions
from geneformer.tokens.dataset import Packed, TokenizedDataset

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

MEAN = "mean of the gene"
ADDITIVE = "mean of the gene + effect of the cell"
"""Names of the baselines in tables."""

BEYOND = "value beyond the gene's mean"
"""Name of the report on what differs between cells."""

CHUNK = 2048
"""Cells looked at together."""

PRIOR = 5.0
"""A gene's mean is drawn to that of all genes as if by this many cells."""


class Expression(Target):
    """Value and rank of genes in cells; a report is on one of the two."""

    report_kind = ExpressionReport

    def measure(self, truth: Floats, predictions: Floats, *, groups: NDArray[Any] | None, seed: int) -> Figures:
        """Figures of numbers."""
        return evaluate_numbers(truth, predictions, groups=groups, seed=seed)

    def baselines(self, features: Floats, values: None, tested: "TestedGenes", **_: Any) -> dict[str, Floats]:
        """What is usual for each gene, ``(V, 2)``, for the genes taken out; and that with an effect of the cell."""
        additive = {} if tested.additive is None else {ADDITIVE: tested.additive}
        return {MEAN: features[tested.genes], **additive}


@dataclass(frozen=True, slots=True, eq=False)
class GeneValues:
    """Genes of packed cells, one entry for each gene that a cell expresses."""

    cells: Ints
    genes: Ints
    values: NDArray[np.float32]
    removed: NDArray[np.bool_]


def check_counts(tokens: TokenizedDataset) -> None:
    """Refuse tokens without the counts behind them."""
    if not tokens.has_counts:
        msg = (
            "The tokenized dataset has no `counts`, so the values of its genes are missing. Tokenize with "
            "counts=True (--counts), or pass raw counts."
        )
        raise DatasetError(msg)


def hide_genes(
    packed: Packed, special: NDArray[Any], share: float, seeds: Sequence[Sequence[int]]
) -> tuple[Packed, GeneValues]:
    """Cells without a share of their genes, those behind moving up; and value and rank of all their genes."""
    ids, lengths = packed.input_ids, np.diff(packed.cu_seqlens)
    cells = np.repeat(np.arange(len(lengths)), lengths)
    places = np.flatnonzero(~np.isin(ids, special))
    n_genes = np.bincount(cells[places], minlength=len(lengths))
    starts = np.cumsum(n_genes) - n_genes
    rank = (np.arange(len(places)) - np.repeat(starts, n_genes) + 0.5) / np.repeat(n_genes, n_genes)
    counts = np.zeros(len(places)) if packed.counts is None else packed.counts[places]
    removed = np.zeros(len(places), dtype=bool)
    for start, n, seed in zip(starts, n_genes, seeds if share else (), strict=bool(share)):
        removed[start : start + n] = _drawn(int(n), share, seed)
    left = np.ones(len(ids), dtype=bool)
    left[places[removed]] = False
    left_lengths = np.bincount(cells[left], minlength=len(lengths))
    visible = Packed(ids[left], np.concatenate([[0], np.cumsum(left_lengths)]).astype(np.int64))
    values = np.column_stack([np.log1p(counts), rank]).astype(np.float32)
    return visible, GeneValues(cells[places], ids[places].astype(np.int64), values, removed)


def _drawn(n: int, share: float, seed: Sequence[int]) -> NDArray[np.bool_]:
    """Which of the genes of a cell go, ``(n,)``."""
    if n < 2:
        return np.zeros(n, dtype=bool)
    chance = np.random.default_rng(seed).random(n)
    gone: NDArray[np.bool_] = chance < share
    gone[chance.argmin()], gone[chance.argmax()] = True, False
    return gone


def hidden_chunks(
    tokens: TokenizedDataset, rows: Ints, special: NDArray[Any], share: float, *, max_length: int, seed: int
) -> Iterator[tuple[Ints, Packed, GeneValues]]:
    """Cells a few thousand at a time: their rows, what is left of them, and value and rank of all their genes."""
    for start in range(0, len(rows), CHUNK):
        some = rows[start : start + CHUNK]
        packed = tokens.gather(some, max_length=max_length, counts=True)
        visible, values = hide_genes(packed, special, share, [(seed, int(row)) for row in some])
        yield some, visible, values


@dataclass(frozen=True, slots=True, eq=False)
class UsualValues:
    """Value and rank that genes usually have where they are expressed, ``(V, 2)``, and their spread, ``(2,)``."""

    by_token: Floats
    spread: Floats

    @classmethod
    def fit(
        cls, tokens: TokenizedDataset, rows: Ints, special: NDArray[Any], size: int, *, max_length: int
    ) -> "UsualValues":
        """The usual values of some cells."""
        number, sums, squares = np.zeros(size), np.zeros((size, 2)), np.zeros((size, 2))
        for _, _, genes in hidden_chunks(tokens, rows, special, 0.0, max_length=max_length, seed=0):
            number += np.bincount(genes.genes, minlength=size)
            sums += _sums_by(genes.genes, genes.values, size)
            squares += _sums_by(genes.genes, genes.values.astype(np.float64) ** 2, size)
        overall = sums.sum(axis=0) / max(number.sum(), 1)
        usual = (sums + PRIOR * overall) / (number + PRIOR)[:, None]
        around = squares - 2 * usual * sums + number[:, None] * usual**2
        spread = np.sqrt(np.maximum(around.sum(axis=0), 0) / max(number.sum(), 1))
        return cls(usual, np.where(spread > 0, spread, 1.0))


@dataclass(frozen=True, slots=True, eq=False)
class AdditiveModel:
    """Value and rank as an effect of the gene and an effect of the cell: ``values[c, g] = gene[g] + cell[c]``."""

    by_token: Floats

    @classmethod
    def fit(
        cls, tokens: TokenizedDataset, rows: Ints, special: NDArray[Any], usual: UsualValues, *, max_length: int
    ) -> "AdditiveModel":
        """Effects of the genes in some cells, those of the cells taken out, by alternating least squares."""
        effects = usual.by_token
        for _ in range(5):
            number, sums = np.zeros(len(effects)), np.zeros_like(effects)
            for some, _, genes in hidden_chunks(tokens, rows, special, 0.0, max_length=max_length, seed=0):
                rest = genes.values - cell_effects(genes, effects, len(some))[genes.cells]
                number += np.bincount(genes.genes, minlength=len(effects))
                sums += _sums_by(genes.genes, rest, len(effects))
            before, effects = effects, (sums + PRIOR * usual.by_token) / (number + PRIOR)[:, None]
            if np.abs(effects - before).max(initial=0.0) < 1e-4:
                break
        return cls(effects)

    def predict(self, genes: GeneValues, n_cells: int) -> Floats:
        """Value and rank of every gene, ``(p, 2)``; the effects of the cells come from the genes not removed."""
        return self.by_token[genes.genes] + cell_effects(genes, self.by_token, n_cells)[genes.cells]


def cell_effects(genes: GeneValues, effects: Floats, n_cells: int) -> Floats:
    """How much higher the visible genes of each cell are than the effects of the genes say, ``(n_cells, 2)``."""
    visible = ~genes.removed
    cells = genes.cells[visible]
    rest = genes.values[visible] - effects[genes.genes[visible]]
    mean: Floats = _sums_by(cells, rest, n_cells) / np.maximum(np.bincount(cells, minlength=n_cells), 1)[:, None]
    return mean


def _sums_by(places: Ints, values: NDArray[Any], n: int) -> Floats:
    """Sums of values and ranks by gene, or by cell, ``(n, 2)``."""
    return np.column_stack([np.bincount(places, values[:, side], n) for side in range(2)])


PAIRS = 65_536
"""Pairs of a cell and a gene decoded at once."""


def expression_batches(
    tokens: TokenizedDataset,
    rows: Ints,
    special: NDArray[Any],
    max_length: int,
    *,
    share: float = 0.15,
    seed: int = 0,
) -> Batches:
    """Cells with genes taken out; which ones depends on seed, epoch and row only."""

    def make(packed: Packed, rows: Ints, keys: Sequence[Key]) -> dict[str, Any]:
        seeds = [(seed, epoch, int(row)) for (epoch, _), row in zip(keys, rows, strict=True)]
        visible, genes = hide_genes(packed, special, share, seeds)
        return packed_tensors(visible) | {
            "cells": torch.from_numpy(genes.cells),
            "genes": torch.from_numpy(genes.genes),
            "values": torch.from_numpy(genes.values),
            "removed": torch.from_numpy(genes.removed),
        }

    return Batches(tokens, rows, max_length, make, counts=True)


def learn_expression(
    base: LoadedModel,
    tokens: TokenizedDataset,
    usual: UsualValues,
    split: Split,
    expression: ExpressionOptions,
    options: FinetuneOptions,
    *,
    runtime: RuntimeOptions,
    **run: Any,
) -> tuple[GeneformerForExpression, FinetuneResult]:
    """Fine-tune an encoder with a decoder of values and ranks."""
    weights = ("removed_weight", "visible_weight", "value_weight", "rank_weight")
    attributes = {
        "geneformer_pooling": options.pooling,
        "geneformer_decoder_size": expression.decoder_size,
        **{f"geneformer_{name}": getattr(expression, name) for name in weights},
    }
    network = build_network(GeneformerForExpression, base, options, attributes)
    network.usual.copy_(torch.from_numpy(usual.by_token))
    network.spread.copy_(torch.from_numpy(usual.spread))
    max_length, special = length_read(base, options), base.vocabulary.special_ids
    train, valid = (
        expression_batches(tokens, rows, special, max_length, share=expression.share, seed=options.seed)
        for rows in (split.train, split.valid)
    )
    about = {"expression": asdict(expression), "tokens": int(tokens.lengths[split.train].sum())}
    return network, finetune(network, train, valid, options, runtime, score=score_expression, about=about, **run)


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
    """Value and rank of genes in cells, ``(p, 2)``: values of 0 and more, ranks from 0 to 1."""
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


@dataclass(frozen=True, slots=True, eq=False)
class TestedGenes:
    """Genes taken out of cells, to be predicted from what is left."""

    visible: TokenizedDataset
    starts: Ints
    genes: Ints
    truth: Floats
    additive: Floats | None


def take_genes_out(
    tokens: TokenizedDataset,
    rows: Ints,
    special: NDArray[Any],
    *,
    share: float,
    max_length: int,
    seed: int,
    additive: AdditiveModel | None = None,
) -> TestedGenes:
    """Take a share of its genes out of each of some cells."""
    ids, lengths, number, genes, truth, effects = [], [], [], [], [], []
    for some, visible, chunk in hidden_chunks(tokens, rows, special, share, max_length=max_length, seed=seed):
        gone = chunk.removed
        ids.append(visible.input_ids)
        lengths.append(np.diff(visible.cu_seqlens))
        number.append(np.bincount(chunk.cells[gone], minlength=len(some)))
        genes.append(chunk.genes[gone])
        truth.append(chunk.values[gone].astype(np.float64))
        if additive is not None:
            effects.append(additive.predict(chunk, len(some))[gone])
    offsets = np.concatenate([[0], np.cumsum(np.concatenate(lengths))])
    lists = pa.LargeListArray.from_arrays(pa.array(offsets), pa.array(np.concatenate(ids)))
    return TestedGenes(
        TokenizedDataset(pa.table({keys.INPUT_IDS: lists}), vocabulary=tokens.vocabulary),
        np.concatenate([[0], np.cumsum(np.concatenate(number))]).astype(np.int64),
        np.concatenate(genes),
        np.concatenate(truth),
        np.concatenate(effects) if effects else None,
    )
