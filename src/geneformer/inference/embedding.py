"""Cell and gene embeddings from a pretrained encoder."""

from dataclasses import asdict
from typing import Any

import numpy as np
import torch

from geneformer.engine.inference import Batch, Progress, run_batches
from geneformer.inference.cells import check_cls, check_layer, check_pairing, describe_run
from geneformer.inference.tables import CellEmbeddings, GeneEmbeddings
from geneformer.models.encoder import mean_over_genes
from geneformer.models.loading import LoadedModel
from geneformer.options import EmbedOptions, RuntimeOptions
from geneformer.tokens.dataset import TokenizedDataset


def embed(
    tokens: TokenizedDataset,
    model: LoadedModel,
    options: EmbedOptions,
    runtime: RuntimeOptions,
    *,
    progress: Progress | None = None,
) -> CellEmbeddings | GeneEmbeddings:
    """Embeddings of tokenized cells, or of the genes in them."""
    check_pairing(tokens, model, truncate=options.truncate)
    check_layer(options.layer, model.name, model.n_layers)
    provenance = describe_run(model, embedding=asdict(options))
    if options.pooling == "gene":
        return _embed_genes(tokens, model, options, runtime, progress, provenance)
    if options.pooling == "cls":
        check_cls(tokens, model)
    special = torch.from_numpy(np.asarray(model.vocabulary.special_ids, dtype=np.int64))
    values = np.empty((len(tokens), model.network.config.hidden_size), dtype=np.float32)

    def step(batch: Batch) -> None:
        hidden_TD = model.network.bert(
            batch.input_ids, batch.cu_seqlens, layer=options.layer, attention=batch.attention
        )
        if options.pooling == "cls":
            pooled_BD = hidden_TD[batch.cu_seqlens[:-1]]
        else:
            pooled_BD = mean_over_genes(hidden_TD, batch.input_ids, batch.cu_seqlens, special.to(hidden_TD.device))
        values[batch.rows] = pooled_BD.float().cpu().numpy()

    run_batches(tokens, model.network.bert, step, runtime, max_length=model.max_length, progress=progress)
    return CellEmbeddings(values, tokens.table.select(tokens.columns), provenance)


def _embed_genes(
    tokens: TokenizedDataset,
    model: LoadedModel,
    options: EmbedOptions,
    runtime: RuntimeOptions,
    progress: Progress | None,
    provenance: dict[str, Any],
) -> GeneEmbeddings:
    """Running sums per token; memory does not grow with the number of cells."""
    sums_VD = np.zeros((model.vocabulary.size, model.network.config.hidden_size))
    n_cells = np.zeros(model.vocabulary.size, dtype=np.int64)

    def step(batch: Batch) -> None:
        hidden_TD = model.network.bert(
            batch.input_ids, batch.cu_seqlens, layer=options.layer, attention=batch.attention
        )
        tokens_U, place_T, count_U = torch.unique(batch.input_ids, return_inverse=True, return_counts=True)
        partial = hidden_TD.new_zeros((len(tokens_U), hidden_TD.shape[1]), dtype=torch.float32)
        partial = partial.index_add(0, place_T, hidden_TD.float())
        present = tokens_U.cpu().numpy()
        sums_VD[present] += partial.cpu().numpy()
        n_cells[present] += count_U.cpu().numpy()

    run_batches(tokens, model.network.bert, step, runtime, max_length=model.max_length, progress=progress)
    present = np.flatnonzero(n_cells)
    means = (sums_VD[present] / n_cells[present, None]).astype(np.float32)
    return GeneEmbeddings(means, model.vocabulary.gene_of[present], n_cells[present], provenance)
