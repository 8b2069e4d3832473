"""Where results go in an AnnData object."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from geneformer import keys
from geneformer.vocab.gene_ids import INDEX, resolve_genes

if TYPE_CHECKING:
    from anndata import AnnData

    from geneformer.vocab.vocabulary import Vocabulary


def gene_positions(adata: "AnnData", vocabulary: "Vocabulary", gene_ids: str | None) -> NDArray[np.int32]:
    """Index into `vocabulary.genes` of each column of `adata`, -1 where it is none of them, ``(n_vars,)``."""
    columns = {name: adata.var[name] for name in adata.var.columns} | {INDEX: adata.var_names}
    return resolve_genes(columns, vocabulary, gene_ids).positions


def note(adata: "AnnData", key: str, provenance: Mapping[str, Any]) -> None:
    """Say in `uns` where the result in slot `key` comes from; other entries stay."""
    adata.uns[keys.UNS] = {**adata.uns.get(keys.UNS, {}), key: dict(provenance)}
