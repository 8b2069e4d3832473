"""`gf.tl.attention`."""

from pathlib import Path
from typing import TYPE_CHECKING, Literal

import numpy as np

from geneformer import keys
from geneformer.files.progress import progress_bar
from geneformer.inference.attention import GeneAttention, gene_attention
from geneformer.inference.cells import gene_positions, tokens_for
from geneformer.models.loading import load_model
from geneformer.options import AttentionOptions, RuntimeOptions
from geneformer.tl._embed import note

if TYPE_CHECKING:
    from anndata import AnnData
    from scipy.sparse import csr_matrix

    from geneformer.genes.vocabulary import Vocabulary


def attention(  # noqa: PLR0913
    adata: "AnnData",
    *,
    model: str | Path = "mini",
    vocabulary: "str | Path | Vocabulary | None" = None,
    layer: int = 0,
    genes: tuple[str, ...] = (),
    min_weight: float = 0.0,
    counts_layer: str | None = None,
    gene_ids: str | None = None,
    device: str = "auto",
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = "auto",
    tokens_per_batch: int | None = None,
    progress: bool = True,
    key_added: str = keys.ATTENTION,
    copy: bool = False,
) -> "AnnData | None":
    """Attention gene by gene, averaged over heads and over the cells that express both genes.

    Parameters
    ----------
    adata
        Raw counts of cells by genes.
    model
        Name ("mini", "V1-10M", "V2-104M", …; `gf.list_models()`), checkpoint folder, or hub repository.
    vocabulary
        Needed only where the checkpoint does not tell its own.
    layer
        Layer whose attention is read, counted back from the output: 0 is the last, -1 the one before it.
    genes
        Ensembl ids or symbols that both genes of a pair must be among. All by default, which takes memory for every
        pair that meets in a cell.
    min_weight
        Pairs are left out of the cells in which they weigh less; saves memory.
    counts_layer
        Layer with the raw counts, "raw" for `adata.raw`; `X` by default.
    gene_ids
        Column of `var` with the gene identifiers, "index" for the row names. Found automatically by default.
    device, dtype, tokens_per_batch, progress
        Where and how the model runs; see `RuntimeOptions`.
    key_added
        Slot of the result.
    copy
        Return a copy instead of writing into `adata`.

    Returns
    -------
    AnnData or None
        With `copy=True`. Sets:

        `.varp[key_added]` : float32, sparse ``(n_vars, n_vars)``
            Mean attention paid by the row's gene to the column's. Columns of `adata` that stand for one gene all get
            its weights.
        `.uns["geneformer"][key_added]`
            Model, vocabulary, options and versions.

    Raises
    ------
    CountsError
        The counts or gene identifiers cannot be used, or a gene is not known.
    PairingError
        Model, vocabulary and options do not belong together.

    Examples
    --------
    >>> import geneformer as gf
    >>> from geneformer.datasets import pbmc3k
    >>> adata = pbmc3k()[:20].copy()
    >>> gf.tl.attention(adata, model="mini", genes=("CD3D", "IL7R", "LTB"), progress=False)
    >>> adata.varp["geneformer_attention"].shape
    (32738, 32738)
    """
    options = AttentionOptions(layer=layer, genes=tuple(genes), min_weight=min_weight)
    runtime = RuntimeOptions(device=device, dtype=dtype, tokens_per_batch=tokens_per_batch, progress=progress)
    adata = adata.copy() if copy else adata
    loaded = load_model(model, vocabulary=vocabulary)
    tokens, _ = tokens_for(adata, loaded, counts_layer=counts_layer, gene_ids=gene_ids)
    with progress_bar("Reading attention", shown=progress) as update:
        result = gene_attention(tokens, loaded, options, runtime, progress=update)
    adata.varp[key_added] = _spread(result, gene_positions(adata, loaded.vocabulary, gene_ids), loaded.vocabulary)
    note(adata, key_added, result.provenance)
    return adata if copy else None


def _spread(result: GeneAttention, positions: "np.ndarray", vocabulary: "Vocabulary") -> "csr_matrix":
    """Rows and columns of genes, laid out over the columns of `adata`."""
    from scipy.sparse import csr_matrix

    place = np.full(len(vocabulary.genes) + 1, -1)
    place[[vocabulary.position_of[gene] for gene in result.genes]] = np.arange(len(result.genes))
    found = place[positions]
    columns = np.flatnonzero(found >= 0)
    ones = np.ones(len(columns), dtype=np.float32)
    spread = csr_matrix((ones, (columns, found[columns])), shape=(len(positions), len(result.genes)))
    return csr_matrix(spread @ result.weights @ spread.T, dtype=np.float32)
