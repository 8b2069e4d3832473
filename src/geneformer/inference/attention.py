"""Contextual attention weights: per pair of genes over many cells, or per cell."""

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from geneformer import keys
from geneformer.display import MOST, Summary
from geneformer.engine.inference import Batch, Ints, run_batches
from geneformer.errors import OutOfRangeError
from geneformer.files.progress import Progress
from geneformer.genes.lookup import GenePanel
from geneformer.inference.cells import check_pairing, describe_run, panel_in_cells
from geneformer.inference.tables import TABLES, SavedResult, cells_as_anndata
from geneformer.models.attention import KERNELS, attention_weights
from geneformer.models.loading import LoadedModel
from geneformer.options import AttentionOptions, RuntimeOptions
from geneformer.tokens.dataset import TokenizedDataset

if TYPE_CHECKING:
    import pandas as pd
    import pyarrow as pa
    from anndata import AnnData
    from scipy.sparse import csr_matrix

_LEAST_MERGED = 4_000_000
"""Pairs that may wait to be merged."""


@dataclass(frozen=True, slots=True, repr=False)
class GeneAttention(SavedResult):
    """Attention gene by gene, averaged over heads and over the cells that express both genes."""

    suffixes: ClassVar[tuple[str, ...]] = TABLES
    genes: NDArray[Any]
    weights: "csr_matrix"
    n_cells: "csr_matrix"
    provenance: dict[str, Any] = field(default_factory=dict)

    def summary_of(self) -> Summary:
        """The strongest pairs."""
        pairs = self.weights.tocoo()
        best = np.argpartition(-pairs.data, MOST)[:MOST] if pairs.nnz > MOST else np.arange(pairs.nnz)
        best = best[np.argsort(-pairs.data[best], kind="stable")]
        rows = [
            (self.genes[source], self.genes[target], f"{weight:.4f}", f"{int(self.n_cells[source, target]):,}")
            for source, target, weight in zip(pairs.row[best], pairs.col[best], pairs.data[best], strict=True)
        ]
        return Summary(
            title=f"GeneAttention of {len(self.genes):,} genes: {pairs.nnz:,} pairs",
            facts=self.made_by(),
            header=("source", "target", "attention", "cells"),
            rows=rows,
            more=pairs.nnz - len(rows),
        )

    def to_frame(self) -> "pd.DataFrame":
        """Tidy table, strongest pairs first: `source`, `target`, `attention`, `n_cells`."""
        import pandas as pd

        pairs = self.weights.tocoo()
        n_cells: Any = self.n_cells[pairs.row, pairs.col] if pairs.nnz else []  # no pairs would give a matrix
        counts = np.asarray(n_cells).ravel().astype(np.int64)
        columns = {
            "source": self.genes[pairs.row],
            "target": self.genes[pairs.col],
            "attention": pairs.data,
            "n_cells": counts,
        }
        return pd.DataFrame(columns).sort_values("attention", ascending=False, ignore_index=True)


@dataclass(frozen=True, slots=True, repr=False)
class CellAttention(SavedResult):
    """Which genes each cell attends to: attention its genes pay to each, averaged over them and over heads."""

    genes: NDArray[Any]
    symbols: NDArray[Any]
    weights: "csr_matrix"
    cells: "pa.Table"
    cell_ids: NDArray[Any]
    provenance: dict[str, Any] = field(default_factory=dict)

    def summary_of(self) -> Summary:
        """The genes that the cells attend to most."""
        means = np.asarray(self.weights.mean(axis=0)).ravel()
        best = np.argsort(-means, kind="stable")[:MOST]
        return Summary(
            title=f"CellAttention of {self.weights.shape[0]:,} cells to {len(self.genes):,} genes",
            facts=self.made_by(),
            header=("gene", "symbol", "attention, mean over cells"),
            rows=[(self.genes[place], self.symbols[place], f"{means[place]:.4f}") for place in best],
            more=len(self.genes) - len(best),
        )

    def to_frame(self) -> "pd.DataFrame":
        """Tidy table, cell by cell, the genes it attends to most first: `cell_id`, `gene`, `symbol`, `attention`."""
        import pandas as pd

        pairs = self.weights.tocoo()
        order = np.lexsort((-pairs.data, pairs.row))
        cells, genes = pairs.row[order], pairs.col[order]
        columns = {"cell_id": self.cell_ids[cells], "gene": self.genes[genes], "symbol": self.symbols[genes]}
        return pd.DataFrame(columns | {"attention": pairs.data[order]})

    def to_anndata(self) -> "AnnData":
        """Cells by genes, the weights as `X`."""
        import anndata as ad
        import pandas as pd

        var = pd.DataFrame({"symbol": self.symbols.astype(str)}, index=self.genes.astype(str))
        described = cells_as_anndata(self.cells)
        adata = ad.AnnData(self.weights, obs=described.obs, var=var)
        adata.uns[keys.UNS] = {keys.ATTENTION: self.provenance}
        return adata


def cell_attention(
    tokens: TokenizedDataset,
    model: LoadedModel,
    options: AttentionOptions,
    runtime: RuntimeOptions,
    *,
    progress: Progress | None = None,
) -> CellAttention:
    """Attention of each cell to each of its genes."""
    from scipy.sparse import csr_matrix

    vocabulary = model.vocabulary
    panel, is_gene, is_chosen = _genes_and_chosen(tokens, model, options)
    ids_of: list[Ints] = [np.empty(0, dtype=np.int64)] * len(tokens)
    weights_of = [np.empty(0, dtype=np.float32)] * len(tokens)

    def keep(row: int, ids: Ints, weights_HLL: Tensor) -> None:
        senders = torch.from_numpy(is_gene[ids]).to(weights_HLL.device)
        received_L = weights_HLL.float().mean(0)[senders].mean(0).cpu().numpy()
        places = np.flatnonzero(is_chosen[ids] & (received_L >= options.min_weight))
        ids_of[row], weights_of[row] = ids[places], received_L[places]

    visit_attention(tokens, model, runtime, [options.layer], keep, progress)
    tokens_T, columns_T = np.unique(np.concatenate(ids_of), return_inverse=True)
    indptr = np.cumsum([0, *map(len, ids_of)])
    weights = csr_matrix((np.concatenate(weights_of), columns_T, indptr), shape=(len(tokens), len(tokens_T)))
    weights.sort_indices()
    genes = vocabulary.gene_of[tokens_T]
    symbols = np.array([vocabulary.symbol_of(gene) for gene in genes], dtype=object)
    cells = tokens.table.select(tokens.columns)
    provenance = _provenance(model, tokens, options, panel)
    return CellAttention(genes, symbols, weights, cells, tokens.cell_ids, provenance)


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
    panel, _, is_chosen = _genes_and_chosen(tokens, model, options)
    totals = _PairTotals(vocabulary.size)
    is_expressed = np.zeros(vocabulary.size, dtype=bool)

    def add(_: int, ids: Ints, weights_HLL: Tensor) -> None:
        places = np.flatnonzero(is_chosen[ids])
        mean_LL = weights_HLL.float().mean(0).cpu().numpy()[np.ix_(places, places)]
        row, column = np.nonzero(mean_LL >= options.min_weight)
        totals.add(ids[places[row]], ids[places[column]], mean_LL[row, column])
        is_expressed[ids[places]] = True

    visit_attention(tokens, model, runtime, [options.layer], add, progress)
    sums, n_cells = totals.matrices(np.flatnonzero(is_expressed))
    means = sums.copy()
    means.data = sums.data / n_cells.data
    genes = vocabulary.gene_of[is_expressed]
    provenance = _provenance(model, tokens, options, panel)
    return GeneAttention(genes, means.astype(np.float32), n_cells, provenance)


def _provenance(
    model: LoadedModel, tokens: TokenizedDataset, options: AttentionOptions, panel: GenePanel
) -> dict[str, Any]:
    about = {"panel": panel.record()} if panel.asked else {}
    return describe_run(model, tokens, attention=asdict(options) | {"genes": list(options.genes)}, **about)


def _genes_and_chosen(
    tokens: TokenizedDataset, model: LoadedModel, options: AttentionOptions
) -> tuple[GenePanel, NDArray[np.bool_], NDArray[np.bool_]]:
    """The genes asked for; which tokens are genes, and which of them are asked for, ``(V,)`` each; all checked."""
    check_pairing(tokens, model, truncate=None)
    if not 0 <= -options.layer < model.n_layers:
        deepest = 1 - model.n_layers
        msg = f"layer={options.layer}, but {model.name} has {model.n_layers} layers with attention. Use 0 to {deepest}."
        raise OutOfRangeError(msg)
    vocabulary = model.vocabulary
    panel = panel_in_cells(options.genes, tokens, model, unknown=options.unknown)
    is_gene, is_chosen = np.zeros((2, vocabulary.size), dtype=bool)
    is_gene[vocabulary.token_ids] = True
    is_chosen[panel.tokens or vocabulary.token_ids] = True
    return panel, is_gene, is_chosen


class _PairTotals:
    """Sums and counts over pairs of tokens; merged only when as much has come in as is there already."""

    def __init__(self, size: int) -> None:
        self.size = size
        self.keys: NDArray[Any] = np.empty(0, dtype=np.int64)
        self.sums: NDArray[Any] = np.empty(0)
        self.counts: NDArray[Any] = np.empty(0, dtype=np.int64)
        self.waiting: list[tuple[Ints, NDArray[np.float32]]] = []
        self.n_waiting = 0

    def add(self, rows: Ints, columns: Ints, values: NDArray[np.float32]) -> None:
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

    def matrices(self, tokens: Ints) -> "tuple[csr_matrix, csr_matrix]":
        """Sums and counts among the given tokens, of the same sparsity."""
        from scipy.sparse import csr_matrix

        self._merge()
        place = np.full(self.size, -1)
        place[tokens] = np.arange(len(tokens))
        pairs = (place[self.keys // self.size], place[self.keys % self.size])
        shape = (len(tokens), len(tokens))
        return csr_matrix((self.sums, pairs), shape=shape), csr_matrix((self.counts, pairs), shape=shape)


def visit_attention(
    tokens: TokenizedDataset,
    model: LoadedModel,
    runtime: RuntimeOptions,
    layers: Sequence[int],
    visit: Callable[[int, Ints, Tensor], None],
    progress: Progress | None,
) -> None:
    """Hand the weights of every cell, averaged over layers, one at a time, to `visit(row, token ids, weights)`.

    Layers count back from the output, 0 is the last.
    """
    targets = sorted(model.n_layers + layer - 1 for layer in layers)
    visited = np.zeros(len(tokens), dtype=bool)

    def step(batch: Batch) -> None:
        below = KERNELS[batch.attention]
        calls = 0
        sums: list[Tensor] = []

        def reading(query: Tensor, key: Tensor, value: Tensor, lengths: Any, dropout: float) -> Tensor:
            nonlocal calls
            number, calls = calls, calls + 1
            if number not in targets:
                return below(query, key, value, lengths, dropout)
            is_last, contexts = number == targets[-1], []
            ends = np.cumsum(lengths)
            ids = batch.input_ids.cpu().numpy()
            for place, weights_HLL in enumerate(attention_weights(query, key, lengths)):
                row, cell = int(batch.rows[place]), slice(ends[place] - lengths[place], ends[place])
                if not is_last:
                    contexts.append((weights_HLL @ value[cell].transpose(0, 1)).transpose(0, 1))
                if number > targets[0]:
                    weights_HLL += sums[place]  # noqa: PLW2901
                if not is_last:
                    sums[place : place + 1] = [weights_HLL]
                # A batch that ran out of memory halfway comes again.
                elif not visited[row]:
                    visit(row, ids[cell], weights_HLL if len(targets) == 1 else weights_HLL.div_(len(targets)))
                    visited[row] = True
            return value if is_last else torch.cat(contexts)

        model.network.bert(batch.input_ids, batch.cu_seqlens, layer=max(layers), attention=reading)

    run_batches(tokens, model.network.bert, step, runtime, max_length=model.max_length, progress=progress)
