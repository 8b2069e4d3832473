"""Tables of what `get_embs` returns, for scripts that call it by themselves."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from geneformer.compat.embeddings.frames import cell_frame, gene_frame, state_frame
from geneformer.compat.embeddings.torch_embeddings import dataset_tokens
from geneformer.data.dataset import TokenizedDataset
from geneformer.errors import DatasetError
from geneformer.options._check import check_choice
from geneformer.tasks.gene_states import GeneStates

if TYPE_CHECKING:
    import pandas as pd


def label_cell_embs(embs: Tensor, downsampled_data: Any, emb_labels: Sequence[str] | None) -> "pd.DataFrame":
    """One row per cell: columns `0` to `d - 1`, the labels, and `cell_id` where the cells have one.

    Parameters
    ----------
    embs
        Embeddings, ``(n, d)``.
    downsampled_data
        The cells, in the same order.
    emb_labels
        Columns to add.

    Raises
    ------
    DatasetError
        A column that the cells do not have, or other cells than embeddings.
    """
    tokens = _same_cells(embs, downsampled_data)
    for name in emb_labels or ():
        tokens.column(name)
    return cell_frame(embs.detach().cpu().numpy(), tokens.table, emb_labels or ())


def label_gene_embs(
    embs: Tensor, downsampled_data: Any, token_gene_dict: Mapping[int, str], gene_emb_style: str = "mean_pool"
) -> "pd.DataFrame":
    """Embeddings of genes by their names: the mean over cells, or one row per gene and cell.

    Parameters
    ----------
    embs
        States of all tokens, ``(n, longest, d)``.
    downsampled_data
        The cells, in the same order.
    token_gene_dict
        Gene of each token id.
    gene_emb_style
        "mean_pool" or "all"; see `EmbExtractor`.

    Raises
    ------
    UnknownChoiceError
        Another style.
    DatasetError
        Other cells than embeddings.
    """
    check_choice("gene_emb_style", gene_emb_style, ("mean_pool", "all"))
    tokens = _same_cells(embs, downsampled_data)
    packed = tokens.gather(range(len(tokens)))
    lengths = torch.from_numpy(tokens.lengths)
    inside = torch.arange(embs.shape[1])[None, :] < lengths[:, None]
    cells = torch.repeat_interleave(torch.arange(len(tokens)), lengths)
    values = embs.detach().cpu()[inside].to(torch.float32)
    states = GeneStates(values.numpy(), torch.from_numpy(packed.input_ids).long().numpy(), cells.numpy())
    if gene_emb_style == "all":
        return state_frame(states, [token_gene_dict[token] for token in states.tokens_in_order], tokens.table)
    ids, means = states.summaries("mean")
    return gene_frame(means, [token_gene_dict[token] for token in ids.tolist()])


def _same_cells(embs: Tensor, data: Any) -> TokenizedDataset:
    """The cells, once there are as many as embeddings, and none is longer than them."""
    tokens = dataset_tokens(data)
    if len(tokens) != len(embs) or (embs.ndim == 3 and len(tokens) and int(tokens.lengths.max()) > embs.shape[1]):
        longest = int(tokens.lengths.max(initial=0))
        msg = (
            f"Embeddings of shape {tuple(embs.shape)} do not belong to {len(tokens):,} cells of up to {longest:,} "
            "tokens. Give the cells that went into get_embs, in the same order."
        )
        raise DatasetError(msg)
    return tokens
