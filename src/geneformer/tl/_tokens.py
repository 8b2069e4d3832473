"""From AnnData to tokens that know the row they came from."""

from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

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
    import pandas as pd

    adata = adata if adata.obs_names.is_unique else _numbered(adata)
    options = TokenizeOptions(
        vocabulary=model.vocabulary.name, layer=counts_layer, gene_ids=gene_ids, keep=(), max_length=model.max_length
    )
    tokens, _ = tokenize_counts(adata, options, vocabulary=model.vocabulary)
    names = pd.Index(np.asarray(adata.obs_names, dtype=str))
    return tokens, names.get_indexer(tokens.cell_ids.astype(str)).astype(np.int64)


def _numbered(adata: "AnnData") -> "AnnData":
    """The same counts under cell names that tell the rows apart."""
    import anndata as ad

    adata = adata.to_memory() if adata.isbacked else adata
    obs = adata.obs.set_axis(np.arange(adata.n_obs).astype(str), axis=0)
    raw = None if adata.raw is None else {"X": adata.raw.X, "var": adata.raw.var, "varm": {}}
    return ad.AnnData(adata.X, obs=obs, var=adata.var, layers=dict(adata.layers), raw=raw)
