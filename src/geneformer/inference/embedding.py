"""Cell and gene embeddings from a pretrained encoder."""

from dataclasses import asdict
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from geneformer.engine.inference import Batch, run_batches
from geneformer.files.progress import Progress
from geneformer.inference.cells import check_cls, check_layer, check_pairing, describe_run
from geneformer.inference.tables import CellEmbeddings, GeneEmbeddings
from geneformer.models.encoder import pool_cells
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
    if options.pooling == "cls":
        check_cls(tokens, model)
    vocabulary, width = model.vocabulary, model.network.config.hidden_size
    special = torch.from_numpy(np.asarray(vocabulary.special_ids, dtype=np.int64))
    is_per_gene = options.pooling == "gene"
    # Genes take a running sum each, so that memory does not grow with the number of cells.
    shape, dtype = ((vocabulary.size, width), np.float64) if is_per_gene else ((len(tokens), width), np.float32)
    values: NDArray[Any] = np.zeros(shape, dtype=dtype)
    n_cells = np.zeros(vocabulary.size, dtype=np.int64)

    def step(batch: Batch) -> None:
        hidden_TD = model.network.bert(
            batch.input_ids, batch.cu_seqlens, layer=options.layer, attention=batch.attention
        )
        if is_per_gene:
            tokens_U, place_T, count_U = torch.unique(batch.input_ids, return_inverse=True, return_counts=True)
            sums_UD = hidden_TD.new_zeros((len(tokens_U), width), dtype=torch.float32)
            sums_UD = sums_UD.index_add(0, place_T, hidden_TD.float())
            present = tokens_U.cpu().numpy()
            values[present] += sums_UD.cpu().numpy()
            n_cells[present] += count_U.cpu().numpy()
            return
        given = hidden_TD, batch.input_ids, batch.cu_seqlens, special.to(hidden_TD.device)
        values[batch.rows] = pool_cells(*given, options.pooling).cpu().numpy()

    run_batches(tokens, model.network.bert, step, runtime, max_length=model.max_length, progress=progress)
    provenance = describe_run(model, tokens, embedding=asdict(options))
    if not is_per_gene:
        return CellEmbeddings(values, tokens.table.select(tokens.columns), provenance)
    present = np.flatnonzero(n_cells)
    means = (values[present] / n_cells[present, None]).astype(np.float32)
    return GeneEmbeddings(means, vocabulary.gene_of[present], n_cells[present], provenance)
