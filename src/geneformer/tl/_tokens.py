"""From AnnData to tokens that know the row they came from."""

from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from geneformer import keys
from geneformer.data.dataset import TokenizedDataset
from geneformer.models.loading import LoadedModel
from geneformer.options import TokenizeOptions
from geneformer.tokenization.tokenizer import tokenize_counts

if TYPE_CHECKING:
    from anndata import AnnData


def tokens_for(
    adata: "AnnData", model: LoadedModel, *, counts_layer: str | None, gene_ids: str | None
) -> tuple[TokenizedDataset, NDArray[np.int64]]:
    """Tokens of the cells of `adata` for a model, and the row of `adata` each came from.

    Parameters
    ----------
    adata
        Raw counts.
    model
        Decides vocabulary and length.
    counts_layer, gene_ids
        Where counts and gene identifiers are.
    """
    import anndata as ad
    import pandas as pd

    obs = pd.DataFrame(index=pd.RangeIndex(adata.n_obs).astype(str))
    for column in (keys.N_COUNTS, keys.FILTER_PASS):
        if column in adata.obs:
            obs[column] = adata.obs[column].to_numpy()
    layer = None if counts_layer in (None, "raw") else counts_layer
    source = adata.raw if counts_layer == "raw" else adata
    matrix = source.X if layer is None else adata.layers[layer]
    numbered = ad.AnnData(X=matrix, obs=obs, var=source.var)
    options = TokenizeOptions(vocabulary=model.vocabulary.name, gene_ids=gene_ids, keep=(), max_length=model.max_length)
    tokens, _ = tokenize_counts(numbered, options, vocabulary=model.vocabulary)
    return tokens, tokens.cell_ids.astype(np.int64)
