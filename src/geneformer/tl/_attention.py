"""`gf.tl.attention`."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import NDArray

from geneformer import keys
from geneformer.files.progress import progress_bar
from geneformer.inference.attention import CellAttention, cell_attention, gene_attention
from geneformer.inference.cells import gene_positions, tokens_for
from geneformer.inference.slots import Slots
from geneformer.models.loading import load_model
from geneformer.options import AttentionOptions, RuntimeOptions
from geneformer.tl._embed import writable

if TYPE_CHECKING:
    from anndata import AnnData
    from scipy.sparse import csr_matrix

    from geneformer.genes.vocabulary import Vocabulary
    from geneformer.models.loading import Fitted, LoadedModel


def attention(  # noqa: PLR0913
    adata: "AnnData",
    *,
    model: "str | Path | LoadedModel | Fitted" = "mini",
    vocabulary: "str | Path | Vocabulary | None" = None,
    per: Literal["pair", "cell"] = "pair",
    layer: int = 0,
    genes: tuple[str, ...] = (),
    min_weight: float = 0.0,
    counts_layer: str | None = None,
    gene_ids: str | None = None,
    accept_normalized: bool = False,
    device: str = "auto",
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = "auto",
    tokens_per_batch: int | None = None,
    progress: bool = True,
    key_added: str = keys.ATTENTION,
    copy: bool = False,
    unknown: Literal["drop", "error"] = "drop",
) -> "AnnData | None":
    """Attention between genes over all cells, or to the genes of each cell; averaged over heads.

    Parameters
    ----------
    adata
        Raw counts of cells by genes.
    model, vocabulary
        Name ("mini", "V1-10M", …; `gf.list_models()`), checkpoint folder or hub repository, or a fitted model; and its
        vocabulary, needed only where the checkpoint does not name its own.
    per
        "pair": what a gene pays to another, averaged over the cells that express both. "cell": which genes each cell
        attends to, the attention its genes pay to each of them on average. For the pairs of a single cell, pass that
        cell alone: ``adata[[i]].copy()``.
    layer
        Layer whose attention is read, counted back from the output: 0 is the last, -1 the one before it.
    genes
        Ensembl ids or symbols that both genes of a pair, or the genes a cell attends to, must be among. All by default,
        which takes memory for every pair that meets in a cell.
    min_weight
        Pairs, or genes, are left out of the cells in which they weigh less; saves memory.
    counts_layer, gene_ids
        Layer with the raw counts ("raw" for `adata.raw`; `X` by default); column of `var` with the gene identifiers
        ("index" for the row names; found automatically by default).
    accept_normalized
        Rank values that are no raw counts, such as counts corrected for ambient RNA.
    device, dtype, tokens_per_batch, progress
        Where and how the model runs; see `RuntimeOptions`.
    key_added, copy
        Slot of the result; return a copy instead of writing into `adata`.
    unknown
        Of `genes`, those without a token or that no cell has: leave them out with a warning that lists them, or raise.

    Returns
    -------
    AnnData or None
        With `copy=True`. Sets:

        `.varp[key_added]` : float32, sparse ``(n_vars, n_vars)``
            For `per="pair"`: mean attention paid by the row's gene to the column's.
        `.layers[key_added]` : float32, sparse ``(n_obs, n_vars)``
            For `per="cell"`: attention of the cell to the gene. The weights of a cell add up to 1, less what its genes
            pay to special tokens and to genes that are left out; cells without a known gene have none.
        `.uns["geneformer"][key_added]`
            Model, vocabulary, options, versions, and which cells and genes were read (`geneformer.keys.MATCHED`);
            `panel`: how many genes were asked for and used, and those left out.

        Columns of `adata` that stand for one gene all get its weights.

    Raises
    ------
    CountsError
        The counts or gene identifiers cannot be used.
    UnknownGeneError, AbsentGeneError
        None of `genes` has a token, or none is in the cells; with ``unknown="error"`` any of them.
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
    >>> gf.tl.attention(adata, model="mini", per="cell", progress=False)
    >>> adata.layers["geneformer_attention"].sum(axis=1).min().round(3)
    np.float32(1.0)
    """
    options = AttentionOptions(per=per, layer=layer, genes=genes, min_weight=min_weight, unknown=unknown)
    runtime = RuntimeOptions(device=device, dtype=dtype, tokens_per_batch=tokens_per_batch, progress=progress)
    adata = writable(adata, copy=copy)
    loaded = load_model(model, vocabulary=vocabulary)
    with progress_bar("Reading attention", shown=progress, unit="cells") as update:
        tokens, rows = tokens_for(
            adata, loaded, counts_layer=counts_layer, gene_ids=gene_ids, accept_normalized=accept_normalized
        )
        read = cell_attention if per == "cell" else gene_attention
        result = read(tokens, loaded, options, runtime, progress=update)
    positions = gene_positions(adata, loaded.vocabulary, gene_ids)
    columns = _membership([loaded.vocabulary.position_of[gene] for gene in result.genes], positions)
    if isinstance(result, CellAttention):
        cells = _membership(rows, np.arange(adata.n_obs))
        adata.layers[key_added] = (cells @ result.weights @ columns.T).tocsr()
    else:
        adata.varp[key_added] = (columns @ result.weights @ columns.T).tocsr()
    Slots(uns={key_added: result.provenance}).into(adata)
    return adata if copy else None


def _membership(ours: Sequence[int] | NDArray[Any], theirs: NDArray[Any]) -> "csr_matrix":
    """1 where an entry of `theirs` equals one of `ours`, which are distinct, ``(len(theirs), len(ours))``, float32."""
    import pandas as pd
    from scipy.sparse import csr_matrix

    place = pd.Index(ours).get_indexer(pd.Index(theirs))
    equal = np.flatnonzero(place >= 0)
    ones = np.ones(len(equal), dtype=np.float32)
    return csr_matrix((ones, (equal, place[equal])), shape=(len(theirs), len(ours)))
