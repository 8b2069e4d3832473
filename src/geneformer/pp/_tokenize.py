"""`gf.pp.tokenize`."""

from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from anndata import AnnData

    from geneformer.tokens.dataset import TokenizedDataset


def tokenize(  # noqa: PLR0913
    adata: "AnnData",
    *,
    vocabulary: str = "V1",
    layer: str | None = None,
    gene_ids: str | None = None,
    keep: tuple[str, ...] | None = None,
    missing: Literal["error", "zero"] = "error",
    counts: bool = False,
    max_length: int | None = None,
    min_matched: float = 0.3,
    accept_normalized: bool = False,
    chunk_size: int = 2048,
    workers: int = 1,
) -> "TokenizedDataset":
    """Rank value encodings of all cells: genes by decreasing count over the corpus median, as token ids.

    Rows are in the order of `adata`, which is not modified. Cells without a gene of the vocabulary, and those that
    `obs["filter_pass"]` marks to be left out, have no row; `cell_ids` of the result says which are there.

    Parameters
    ----------
    adata
        Raw counts of cells by genes; dense, sparse, backed or a view. Genes are found by Ensembl id or symbol.
    vocabulary
        "V1" (gc30M), "V2" (gc104M) or a folder with a vocabulary of one's own.
    layer
        Layer that holds the raw counts; "raw" for `adata.raw`. `X` by default.
    gene_ids
        Column of `var` with the gene identifiers, "index" for the row names. Found automatically by default.
    keep
        Columns of `obs` to carry along. All by default.
    missing
        What a missing or infinite count means: a refusal, or zero.
    counts
        Also keep each token's count scaled to 10,000 per cell.
    max_length
        Tokens kept per cell, special tokens included. The vocabulary's input size by default.
    min_matched
        Least share of the counts that must lie in genes of the vocabulary.
    accept_normalized
        Rank values that are not raw counts.
    chunk_size
        Cells ranked at a time.
    workers
        How many chunks are ranked side by side. The result does not depend on it.

    Returns
    -------
    dataset
        Tokens and cells, in memory. `geneformer.tokens.storage.write_dataset` saves it.

    Raises
    ------
    CountsError
        The counts cannot be used; the message says why and what to do.

    Examples
    --------
    >>> import anndata, numpy as np, pandas as pd
    >>> import geneformer as gf
    >>> counts = np.array([[3, 0, 1], [0, 2, 2]])
    >>> genes = pd.DataFrame(index=["GAPDH", "CD3E", "MS4A1"])
    >>> import warnings; warnings.simplefilter("ignore")
    >>> tokens = gf.pp.tokenize(anndata.AnnData(counts, var=genes))
    >>> tokens.lengths.tolist()
    [2, 2]
    """
    from geneformer.files.progress import inform
    from geneformer.options import TokenizeOptions
    from geneformer.tokenization.tokenizer import tokenize_counts
    from geneformer.tokens.dataset import describe_matched

    options = TokenizeOptions(
        vocabulary=vocabulary,
        layer=layer,
        gene_ids=gene_ids,
        keep=keep,
        missing=missing,
        counts=counts,
        max_length=max_length,
        min_matched=min_matched,
        accept_normalized=accept_normalized,
        chunk_size=chunk_size,
        workers=workers,
    )
    dataset, _ = tokenize_counts(adata, options)
    inform(describe_matched(dataset.matched))
    return dataset
