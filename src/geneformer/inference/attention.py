"""Contextual attention weights: per cell, or gene by gene over many cells."""

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from geneformer.engine.inference import Batch, Progress, run_batches
from geneformer.errors import OutOfRangeError
from geneformer.genes.lookup import token_of_gene
from geneformer.inference.cells import check_pairing, describe_run
from geneformer.models.attention import KERNELS, attention_weights
from geneformer.models.loading import LoadedModel
from geneformer.options import AttentionOptions, RuntimeOptions
from geneformer.tokens.dataset import TokenizedDataset

if TYPE_CHECKING:
    import pandas as pd
    from scipy.sparse import csr_matrix

_LEAST_MERGED = 4_000_000
"""Pairs that may wait to be merged."""


@dataclass(frozen=True, slots=True)
class CellAttention:
    """Attention within one cell."""

    genes: NDArray[Any]
    weights: NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class GeneAttention:
    """Attention gene by gene, averaged over heads and over the cells that express both genes."""

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
    options: AttentionOptions,
    runtime: RuntimeOptions,
    *,
    progress: Progress | None = None,
) -> list[CellAttention]:
    """Attention weights of every cell in one layer."""
    kept: list[CellAttention | None] = [None] * len(tokens)

    def keep(row: int, ids: NDArray[np.int64], weights_HLL: Tensor) -> None:
        kept[row] = CellAttention(model.vocabulary.gene_of[ids], weights_HLL.float().cpu().numpy())

    _visit(tokens, model, runtime, options.layer, keep, progress)
    return [cell for cell in kept if cell is not None]


def gene_attention(
    tokens: TokenizedDataset,
    model: LoadedModel,
    options: AttentionOptions,
    runtime: RuntimeOptions,
    *,
    progress: Progress | None = None,
) -> GeneAttention:
    """Attention gene by gene over all cells; nothing is kept per cell."""
    vocabulary = model.vocabulary
    wanted = np.zeros(vocabulary.size, dtype=bool)
    wanted[[token_of_gene(gene, vocabulary) for gene in options.genes] or vocabulary.token_ids] = True
    totals = _PairTotals(vocabulary.size)
    met = np.zeros(vocabulary.size, dtype=bool)

    def add(_: int, ids: NDArray[np.int64], weights_HLL: Tensor) -> None:
        places = np.flatnonzero(wanted[ids])
        mean_LL = weights_HLL.float().mean(0).cpu().numpy()[np.ix_(places, places)]
        row, column = np.nonzero(mean_LL >= options.min_weight)
        totals.add(ids[places[row]], ids[places[column]], mean_LL[row, column])
        met[ids[places]] = True

    _visit(tokens, model, runtime, options.layer, add, progress)
    sums, seen = totals.matrices(np.flatnonzero(met))
    means = sums.copy()
    means.data = sums.data / seen.data
    chosen = {"layer": options.layer, "min_weight": options.min_weight, "genes": list(options.genes)}
    provenance = describe_run(model, attention=chosen)
    return GeneAttention(vocabulary.gene_of[met], means.astype(np.float32), seen, provenance)


class _PairTotals:
    """Sums and counts over pairs of tokens; merged only when as much has come in as is there already."""

    def __init__(self, size: int) -> None:
        self.size = size
        self.keys: NDArray[Any] = np.empty(0, dtype=np.int64)
        self.sums: NDArray[Any] = np.empty(0)
        self.counts: NDArray[Any] = np.empty(0, dtype=np.int64)
        self.waiting: list[tuple[NDArray[np.int64], NDArray[np.float32]]] = []
        self.n_waiting = 0

    def add(self, rows: NDArray[np.int64], columns: NDArray[np.int64], values: NDArray[np.float32]) -> None:
        """Add one value to each of some pairs."""
        self.waiting.append((rows.astype(np.int64) * self.size + columns, values))
        self.n_waiting += len(values)
        if self.n_waiting > max(len(self.keys), _LEAST_MERGED):
            self._merge()

    def _merge(self) -> None:
        keys = np.concatenate([self.keys, *(key for key, _ in self.waiting)])
        sums = np.concatenate([self.sums, *(values for _, values in self.waiting)])
        counts = np.concatenate([self.counts, np.ones(self.n_waiting, dtype=np.int64)])
        self.keys, place = np.unique(keys, return_inverse=True)
        self.sums = np.bincount(place, weights=sums, minlength=len(self.keys))
        self.counts = np.bincount(place, weights=counts, minlength=len(self.keys)).astype(np.int64)
        self.waiting, self.n_waiting = [], 0

    def matrices(self, tokens: NDArray[np.int64]) -> "tuple[csr_matrix, csr_matrix]":
        """Sums and counts among the given tokens, of the same sparsity."""
        from scipy.sparse import csr_matrix

        self._merge()
        place = np.full(self.size, -1)
        place[tokens] = np.arange(len(tokens))
        pairs = (place[self.keys // self.size], place[self.keys % self.size])
        shape = (len(tokens), len(tokens))
        return csr_matrix((self.sums, pairs), shape=shape), csr_matrix((self.counts, pairs), shape=shape)


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
        deepest = 1 - model.n_layers
        msg = f"layer={layer}, but {model.name} has {model.n_layers} layers with attention. Use 0 to {deepest}."
        raise OutOfRangeError(msg)
    target = model.n_layers + layer - 1
    visited = np.zeros(len(tokens), dtype=bool)

    def step(batch: Batch) -> None:
        below = KERNELS[batch.attention]
        calls = 0

        def reading(query: Tensor, key: Tensor, value: Tensor, lengths: Any, dropout: float) -> Tensor:
            nonlocal calls
            calls += 1
            if calls <= target:
                return below(query, key, value, lengths, dropout)
            ends = np.cumsum(lengths)
            ids = batch.input_ids.cpu().numpy()
            for number, weights_HLL in enumerate(attention_weights(query, key, lengths)):
                row = int(batch.rows[number])
                # A batch that ran out of memory halfway comes again.
                if not visited[row]:
                    visit(row, ids[ends[number] - lengths[number] : ends[number]], weights_HLL)
                    visited[row] = True
            return value

        model.network.bert(batch.input_ids, batch.cu_seqlens, layer=layer, attention=reading)

    run_batches(tokens, model.network.bert, step, runtime, max_length=model.max_length, progress=progress)
