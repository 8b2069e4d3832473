"""What is known of every gene in the cells, without any network: the two baselines a ranking has to beat."""

from collections.abc import Mapping

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from geneformer.data.dataset import TokenizedDataset
from geneformer.tasks.adata_inputs import PairedModel
from geneformer.tasks.perturbation.edits import Ints

_CELLS_AT_ONCE = 2048


def gene_table(tokens: TokenizedDataset, perturbed: Ints, of_state: Mapping[str, Ints], model: PairedModel) -> pa.Table:
    """Genes found in any of the cells; columns as in `PerturbationEffects.genes`.

    Parameters
    ----------
    tokens
        All cells; with scaled counts, expression is told per state, else ranks.
    perturbed
        Rows of the perturbed cells.
    of_state
        Rows of the cells of each state.
    model
        Whose tokens they are; what is beyond its longest cell is not there.
    """
    vocabulary = model.vocabulary
    n_cells, ranks, _ = _sums(tokens, perturbed, model)
    kind = "expression" if tokens.has_counts else "rank"
    by_state: dict[str, NDArray[np.float64]] = {}
    seen = n_cells > 0
    for state, rows in of_state.items():
        found, rank_sums, count_sums = _sums(tokens, rows, model)
        sums = count_sums if tokens.has_counts else found - rank_sums
        by_state[f"{kind}:{state}"] = sums / max(len(rows), 1)
        seen |= found > 0
    seen[vocabulary.special_ids] = False
    there = np.flatnonzero(seen)
    names = [str(gene) for gene in vocabulary.gene_of[there]]
    mean_rank = np.divide(ranks, n_cells, out=np.full(len(ranks), np.nan), where=n_cells > 0)
    return pa.table(
        {
            "gene": pa.array(names, pa.string()),
            "symbol": pa.array([vocabulary.symbol_of(name) for name in names], pa.string()),
            "token": pa.array(there.astype(np.int32)),
            "n_cells": pa.array(n_cells[there].astype(np.int64)),
            "mean_rank": pa.array(mean_rank[there]),
            **{name: pa.array(values[there]) for name, values in by_state.items()},
        }
    )


def rank_sums(
    tokens: TokenizedDataset, rows: Ints, model: PairedModel
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Cells that have each token as a model sees them, and the sum of its relative ranks in those, ``(V,)`` each."""
    n_cells, ranks, _ = _sums(tokens, rows, model)
    return n_cells, ranks


def _sums(
    tokens: TokenizedDataset, rows: Ints, model: PairedModel
) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]:
    """Per token: cells that have it, sum of its relative ranks, sum of its log1p counts, ``(V,)`` each."""
    vocabulary = model.vocabulary
    totals = np.zeros((3, vocabulary.size))
    for start in range(0, len(rows), _CELLS_AT_ONCE):
        packed = tokens.gather(
            rows[start : start + _CELLS_AT_ONCE], max_length=model.max_length, counts=tokens.has_counts
        )
        is_gene = ~np.isin(packed.input_ids, vocabulary.special_ids)
        cell = np.repeat(np.arange(len(packed.cu_seqlens) - 1), np.diff(packed.cu_seqlens))[is_gene]
        ids = packed.input_ids[is_gene]
        n_genes = np.bincount(cell, minlength=len(packed.cu_seqlens) - 1)
        within = np.arange(len(ids)) - np.repeat(np.cumsum(n_genes) - n_genes, n_genes)
        relative = within / np.maximum(n_genes[cell] - 1, 1)
        totals[0] += np.bincount(ids, minlength=vocabulary.size)
        totals[1] += np.bincount(ids, weights=relative, minlength=vocabulary.size)
        if packed.counts is not None:
            totals[2] += np.bincount(ids, weights=np.log1p(packed.counts[is_gene]), minlength=vocabulary.size)
    return totals[0], totals[1], totals[2]
