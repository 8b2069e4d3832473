"""From AnnData to tokens that know the row they came from."""

from typing import TYPE_CHECKING, Protocol

import numpy as np
from numpy.typing import NDArray

from geneformer.data.dataset import TokenizedDataset
from geneformer.options import TokenizeOptions
from geneformer.tokenization.tokenizer import tokenize_counts
from geneformer.vocab.gene_ids import INDEX, resolve_genes
from geneformer.vocab.vocabulary import Vocabulary

if TYPE_CHECKING:
    from anndata import AnnData, Raw


class PairedModel(Protocol):
    """What tokens depend on: the vocabulary of a model and its longest cell."""

    @property
    def name(self) -> str:
        """Named in errors."""
        ...

    @property
    def vocabulary(self) -> Vocabulary:
        """Genes and ids."""
        ...

    @property
    def max_length(self) -> int:
        """Most tokens of a cell."""
        ...


def tokens_for(
    adata: "AnnData",
    model: PairedModel,
    *,
    counts_layer: str | None,
    gene_ids: str | None,
    keep: tuple[str, ...] = (),
    counts: bool = False,
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
    keep
        Columns of `obs` to carry along.
    counts
        Also keep each token's scaled count.
    """
    import pandas as pd

    adata = adata if adata.obs_names.is_unique else _numbered(adata)
    options = TokenizeOptions(
        vocabulary=model.vocabulary.name,
        layer=counts_layer,
        gene_ids=gene_ids,
        keep=keep,
        counts=counts,
        max_length=model.max_length,
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


def gene_positions(adata: "AnnData | Raw", vocabulary: Vocabulary, gene_ids: str | None) -> NDArray[np.int32]:
    """Index into `vocabulary.genes` of each column of `adata`, -1 where it is none of them, ``(n_vars,)``."""
    columns = {name: adata.var[name] for name in adata.var.columns} | {INDEX: adata.var_names}
    return resolve_genes(columns, vocabulary, gene_ids).positions
