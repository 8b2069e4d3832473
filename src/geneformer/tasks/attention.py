"""Contextual attention weights: per cell, or gene by gene over many cells."""

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from geneformer.data.dataset import TokenizedDataset
from geneformer.engine.inference import Batch, Progress, run_batches
from geneformer.errors import OutOfRangeError
from geneformer.models.attention import attention_weights, eager
from geneformer.models.loading import LoadedModel
from geneformer.options import RuntimeOptions
from geneformer.tasks.embedding import check_pairing, describe_run

if TYPE_CHECKING:
    import pandas as pd
    from scipy.sparse import csr_matrix


@dataclass(frozen=True, slots=True)
class CellAttention:
    """Attention within one cell.

    Attributes
    ----------
    genes
        Ensembl ids in rank order, ``(L,)``.
    weights
        Attention paid by the row's gene to the column's, ``(heads, L, L)``; every row sums to one.
    """

    genes: NDArray[Any]
    weights: NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class GeneAttention:
    """Attention gene by gene, averaged over heads and over the cells that express both genes.

    Attributes
    ----------
    genes
        Ensembl ids of rows and columns, ``(g,)``.
    weights
        Mean attention paid by the row's gene to the column's, sparse ``(g, g)``.
    n_cells
        Cells that express both, sparse ``(g, g)``.
    provenance
        Model, vocabulary fingerprint, options, versions.
    """

    genes: NDArray[Any]
    weights: "csr_matrix"
    n_cells: "csr_matrix"
    provenance: dict[str, Any] = field(default_factory=dict)

    def to_frame(self) -> "pd.DataFrame":
        """Tidy table, strongest pairs first: `source`, `target`, `attention`, `n_cells`."""
        import pandas as pd

        pairs = self.weights.tocoo()
        counts = np.asarray(self.n_cells[pairs.row, pairs.col]).ravel().astype(np.int64)
        columns = {
            "source": self.genes[pairs.row],
            "target": self.genes[pairs.col],
            "attention": pairs.data,
            "n_cells": counts,
        }
        return pd.DataFrame(columns).sort_values("attention", ascending=False, ignore_index=True)


def cell_attention(
    tokens: TokenizedDataset,
    model: LoadedModel,
    runtime: RuntimeOptions,
    *,
    layer: int = 0,
    progress: Progress | None = None,
) -> list[CellAttention]:
    """Attention weights of every cell in one layer.

    Memory grows with the square of the genes of a cell: choose the cells first.

    Parameters
    ----------
    tokens
        Tokenized cells.
    model
        Pretrained model of the same vocabulary.
    runtime
        Where it runs.
    layer
        Layer whose attention is read, counted back from the output: 0 is the last.
    progress
        Called with the cells done and the cells in all.

    Raises
    ------
    PairingError
        Tokens and model do not belong together.
    OutOfRangeError
        A layer the model does not have.
    """
    kept: list[CellAttention | None] = [None] * len(tokens)

    def keep(row: int, ids: NDArray[np.int64], weights_HLL: Tensor) -> None:
        kept[row] = CellAttention(model.vocabulary.gene_of[ids], weights_HLL.float().cpu().numpy())

    _visit(tokens, model, runtime, layer, keep, progress)
    return [cell for cell in kept if cell is not None]


def gene_attention(
    tokens: TokenizedDataset,
    model: LoadedModel,
    runtime: RuntimeOptions,
    *,
    layer: int = 0,
    genes: list[str] | None = None,
    min_weight: float = 0.0,
    progress: Progress | None = None,
) -> GeneAttention:
    """Attention gene by gene over all cells; nothing is kept per cell.

    Parameters
    ----------
    tokens
        Tokenized cells.
    model
        Pretrained model of the same vocabulary.
    runtime
        Where it runs.
    layer
        Layer whose attention is read, counted back from the output: 0 is the last.
    genes
        Ensembl ids to restrict rows and columns to. All genes of the vocabulary by default, which takes memory for
        every pair that meets in a cell.
    min_weight
        Weights below it, within a cell, count as zero and take no memory.
    progress
        Called with the cells done and the cells in all.
    """
    from scipy.sparse import csr_matrix

    size = model.vocabulary.size
    wanted = np.ones(size, dtype=bool)
    wanted[model.vocabulary.special_ids] = False
    if genes is not None:
        wanted[:] = False
        wanted[[model.vocabulary.token_of[gene] for gene in genes if gene in model.vocabulary.token_of]] = True
    sums, seen = csr_matrix((size, size)), csr_matrix((size, size))

    def add(_: int, ids: NDArray[np.int64], weights_HLL: Tensor) -> None:
        nonlocal sums, seen
        places = np.flatnonzero(wanted[ids])
        mean_LL = weights_HLL.float().mean(0).cpu().numpy()[np.ix_(places, places)]
        rows, columns = np.meshgrid(ids[places], ids[places], indexing="ij")
        strong = mean_LL >= min_weight
        pairs = (rows[strong], columns[strong])
        sums = sums + csr_matrix((mean_LL[strong].astype(np.float64), pairs), shape=(size, size))
        seen = seen + csr_matrix((np.ones(int(strong.sum()), dtype=np.int32), pairs), shape=(size, size))

    _visit(tokens, model, runtime, layer, add, progress)
    present = np.flatnonzero(wanted & ((np.diff(seen.indptr) > 0) | (np.diff(seen.tocsc().indptr) > 0)))
    sums, seen = sums[present][:, present], seen[present][:, present]
    means = sums.copy()
    means.data = sums.data / seen.data
    provenance = describe_run(model, attention={"layer": layer, "min_weight": min_weight})
    return GeneAttention(model.vocabulary.gene_of[present], means.astype(np.float32), seen, provenance)


def _visit(
    tokens: TokenizedDataset,
    model: LoadedModel,
    runtime: RuntimeOptions,
    layer: int,
    visit: Any,
    progress: Progress | None,
) -> None:
    """Hand the weights of every cell, one at a time, to `visit(row, token ids, weights)`."""
    check_pairing(tokens, model, truncate=False)
    if not 0 <= -layer < model.n_layers:
        msg = f"layer={layer}, but {model.name} has {model.n_layers} layers with attention. Use 0 to -{model.n_layers - 1}."
        raise OutOfRangeError(msg)
    target = model.n_layers + layer - 1

    def step(batch: Batch) -> None:
        calls = 0

        def reading(query: Tensor, key: Tensor, value: Tensor, lengths: Any, dropout: float) -> Tensor:
            nonlocal calls
            if calls == target:
                starts = np.cumsum([0, *lengths])
                ids = batch.input_ids.cpu().numpy()
                for number, weights_HLL in enumerate(attention_weights(query, key, lengths)):
                    visit(int(batch.rows[number]), ids[starts[number] : starts[number + 1]], weights_HLL)
            calls += 1
            return eager(query, key, value, lengths, dropout) if calls <= target else value

        with torch.inference_mode():
            model.network.bert(batch.input_ids, batch.cu_seqlens, layer=layer, attention=reading)

    run_batches(tokens, model.network.bert, step, runtime, max_length=model.max_length, progress=progress)
