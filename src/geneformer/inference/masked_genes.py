"""Contextual predictions: what the model expects where a gene was masked."""

from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa
import torch

from geneformer import keys
from geneformer.engine.inference import Batch, run_batches
from geneformer.errors import CheckpointError, OptionError
from geneformer.files.progress import Progress
from geneformer.inference.cells import check_pairing, panel_in_cells
from geneformer.models.loading import LoadedModel
from geneformer.options import PredictOptions, RuntimeOptions
from geneformer.options._fields import check_range
from geneformer.tokens.dataset import TokenizedDataset

if TYPE_CHECKING:
    import pandas as pd


def predict_masked(
    tokens: TokenizedDataset,
    model: LoadedModel,
    options: PredictOptions,
    runtime: RuntimeOptions,
    *,
    progress: Progress | None = None,
) -> "pd.DataFrame":
    """Genes expected in the place of a masked one, in every cell that expresses it."""
    import pandas as pd

    n_predictions = options.n_predictions
    check_range("n_predictions", n_predictions, low=1, high=len(model.vocabulary.genes))
    if not options.genes:
        msg = "No genes to mask. Name some by Ensembl id or symbol: genes=(...), or --genes on the command line."
        raise OptionError(msg)
    check_pairing(tokens, model, truncate=None)
    if not model.has_head:
        msg = f"{model.name} has no vocabulary head, so it cannot predict masked genes. Use a pretrained checkpoint."
        raise CheckpointError(msg)
    panel = panel_in_cells(options.genes, tokens, model, unknown=options.unknown)
    masked, rows, places, truth = _mask_each(tokens, model, panel.tokens)
    special = torch.from_numpy(model.vocabulary.special_ids.astype(np.int64))
    top = np.empty((len(masked), n_predictions), dtype=np.int64)
    chance = np.empty((len(masked), n_predictions))
    own_chance, own_order = np.empty(len(masked)), np.empty(len(masked), dtype=np.int64)

    def step(batch: Batch) -> None:
        hidden_TD = model.network.bert(batch.input_ids, batch.cu_seqlens, attention=batch.attention)
        where = batch.cu_seqlens[:-1] + torch.from_numpy(places[batch.rows]).to(batch.cu_seqlens.device)
        logits_BV = model.network.logits(hidden_TD[where]).float()
        scores_BV = torch.softmax(logits_BV.index_fill(1, special.to(logits_BV.device), -torch.inf), dim=1)
        best = scores_BV.topk(n_predictions)
        own_B = scores_BV.gather(1, torch.from_numpy(truth[batch.rows, None]).to(scores_BV.device))
        top[batch.rows], chance[batch.rows] = best.indices.cpu().numpy(), best.values.cpu().numpy()
        own_chance[batch.rows] = own_B[:, 0].cpu().numpy()
        own_order[batch.rows] = (scores_BV > own_B).sum(1).cpu().numpy() + 1

    run_batches(masked, model.network, step, runtime, progress=progress)
    vocabulary, repeat = model.vocabulary, n_predictions
    opens = masked.gather(np.arange(len(masked)), max_length=1).input_ids == vocabulary.cls_id
    predicted = vocabulary.gene_of[top.ravel()]
    table = pd.DataFrame(
        {
            "cell_id": np.repeat(tokens.cell_ids[rows], repeat),
            "masked_gene": np.repeat(vocabulary.gene_of[truth], repeat),
            "masked_symbol": np.repeat([vocabulary.symbol_of(g) for g in vocabulary.gene_of[truth]], repeat),
            "rank_in_cell": np.repeat(places - opens, repeat),
            "order": np.tile(np.arange(1, repeat + 1), len(masked)),
            "predicted_gene": predicted,
            "predicted_symbol": [vocabulary.symbol_of(gene) for gene in predicted],
            "probability": chance.ravel(),
            "rank_of_masked": np.repeat(own_order, repeat),
            "probability_of_masked": np.repeat(own_chance, repeat),
        }
    )
    table.attrs[keys.UNS] = {"panel": panel.record()}
    return table


def _mask_each(
    tokens: TokenizedDataset, model: LoadedModel, genes: list[int]
) -> tuple[TokenizedDataset, np.ndarray, np.ndarray, np.ndarray]:
    """One copy of a cell for each of the genes that it expresses, with that gene masked."""
    packed = tokens.gather(np.arange(len(tokens)))
    position = np.flatnonzero(np.isin(packed.input_ids, genes))
    row = np.searchsorted(packed.cu_seqlens, position, side="right") - 1
    copies = tokens.gather(row)
    place = position - packed.cu_seqlens[row]
    truth = packed.input_ids[position].astype(np.int64)
    ids = copies.input_ids.copy()
    ids[copies.cu_seqlens[:-1] + place] = model.vocabulary.mask_id
    lists = pa.LargeListArray.from_arrays(pa.array(copies.cu_seqlens, pa.int64()), pa.array(ids))
    masked = TokenizedDataset(pa.table({keys.INPUT_IDS: lists}), vocabulary=tokens.vocabulary)
    return masked, row, place, truth
