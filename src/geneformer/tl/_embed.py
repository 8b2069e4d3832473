"""`gf.tl.embed`."""

import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import numpy as np

from geneformer import keys
from geneformer.errors import GeneformerWarning, OutputError
from geneformer.files.progress import progress_bar
from geneformer.inference import embedding
from geneformer.inference.cells import check_anndata, gene_positions, tokens_for
from geneformer.inference.slots import Slots
from geneformer.inference.tables import GeneEmbeddings
from geneformer.models.loading import load_model
from geneformer.options import EmbedOptions, RuntimeOptions

if TYPE_CHECKING:
    from anndata import AnnData

    from geneformer.genes.vocabulary import Vocabulary
    from geneformer.models.loading import Fitted, LoadedModel


def writable(adata: "AnnData", *, copy: bool) -> "AnnData":
    """What results are written into, once that is certain to work: before anything is computed."""
    check_anndata(adata)
    if not adata.isbacked:
        return adata.copy() if copy else adata
    if copy:
        return adata.to_memory()
    if adata.is_view:
        msg = (
            "adata is a view of a backed AnnData, into which nothing can be written. Read it into memory first, "
            "adata = adata.to_memory(), or pass copy=True."
        )
        raise OutputError(msg)
    return adata


def embed(  # noqa: PLR0913
    adata: "AnnData",
    *,
    model: "str | Path | LoadedModel | Fitted" = "mini",
    vocabulary: "str | Path | Vocabulary | None" = None,
    pooling: Literal["mean", "rank", "cls", "gene"] = "mean",
    layer: int = -1,
    counts_layer: str | None = None,
    gene_ids: str | None = None,
    accept_normalized: bool = False,
    device: str = "auto",
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = "auto",
    tokens_per_batch: int | None = None,
    progress: bool = True,
    key_added: str = keys.EMBEDDING,
    copy: bool = False,
) -> "AnnData | None":
    """Embeddings of all cells, or of all genes averaged over cells, from a pretrained encoder.

    Parameters
    ----------
    adata
        Raw counts of cells by genes.
    model, vocabulary
        Name ("mini", "V1-10M", …; `gf.list_models()`), checkpoint folder or hub repository, or a fitted model; and its
        vocabulary, needed only where the checkpoint does not name its own.
    pooling
        "mean" over the genes of a cell, by "rank" (a gene of rank r, from 0, weighs 1 / (1 + r / 100)), the state of
        "cls" (V2 models), or "gene": one vector per gene.
    layer
        Layer to read, counted back from the output: 0 is the last, -1 the one before it.
    counts_layer, gene_ids
        Layer with the raw counts ("raw" for `adata.raw`; `X` by default); column of `var` with the gene identifiers
        ("index" for the row names; found automatically by default).
    accept_normalized
        Rank values that are no raw counts, such as counts corrected for ambient RNA.
    device, dtype, tokens_per_batch, progress
        Where and how the model runs; see `RuntimeOptions`.
    key_added, copy
        Slot of the result; return a copy instead of writing into `adata`.

    Returns
    -------
    AnnData or None
        With `copy=True`. Sets:

        `.obsm[key_added]` : float32, ``(n_obs, hidden_size)``
            Cell embeddings; rows of cells without a known gene are NaN.
        `.varm[key_added]` : float32, ``(n_vars, hidden_size)``
            Gene embeddings, for `pooling="gene"`; rows of genes in no cell are NaN.
        `.uns["geneformer"][key_added]`
            Model, vocabulary, options, versions, and which cells and genes were read (`geneformer.keys.MATCHED`).

    Raises
    ------
    CountsError
        The counts or gene identifiers cannot be used.
    PairingError
        Model, vocabulary and options do not belong together.

    Examples
    --------
    >>> import geneformer as gf
    >>> from geneformer.datasets import pbmc3k
    >>> adata = pbmc3k()[:60].copy()
    >>> gf.tl.embed(adata, model="mini", progress=False)
    >>> adata.obsm["X_geneformer"].shape
    (60, 128)
    """
    options = EmbedOptions(pooling=pooling, layer=layer)
    runtime = RuntimeOptions(device=device, dtype=dtype, tokens_per_batch=tokens_per_batch, progress=progress)
    adata = writable(adata, copy=copy)
    loaded = load_model(model, vocabulary=vocabulary)
    with progress_bar("Embedding", shown=progress, unit="cells") as update:
        tokens, rows = tokens_for(
            adata, loaded, counts_layer=counts_layer, gene_ids=gene_ids, accept_normalized=accept_normalized
        )
        result = embedding.embed(tokens, loaded, options, runtime, progress=update)
    slots = Slots(uns={key_added: result.provenance})
    if isinstance(result, GeneEmbeddings):
        # Every column that was matched to a gene gets that gene's vector.
        row_of = {loaded.vocabulary.position_of.get(gene, -2): row for row, gene in enumerate(result.genes)}
        positions = gene_positions(adata, loaded.vocabulary, gene_ids).tolist()
        places = np.array([row_of.get(position, -1) for position in positions], dtype=np.intp)
        values = result.values[places]
        values[places < 0] = np.nan
        adata.varm[key_added] = values
    else:
        slots = slots.with_obsm(key_added, result.values, result.provenance).spread(rows, adata.n_obs)
        without = np.setdiff1d(np.arange(adata.n_obs), rows)
        if len(without):
            names = ", ".join(map(repr, adata.obs_names[without[:3]])) + (" …" if len(without) > 3 else "")
            msg = (
                f"{len(without)} of {adata.n_obs} cells have no embedding (no known gene, or filter_pass is false): "
                f"{names}"
            )
            warnings.warn(msg, GeneformerWarning, stacklevel=2)
    slots.into(adata)
    return adata if copy else None
