"""`gf.tl.predict_masked`."""

from pathlib import Path
from typing import TYPE_CHECKING, Literal

import numpy as np

from geneformer.files.progress import progress_bar
from geneformer.inference import masked_genes as masked_prediction
from geneformer.inference.cells import tokens_for
from geneformer.models.loading import load_model
from geneformer.options import PredictOptions, RuntimeOptions

if TYPE_CHECKING:
    import pandas as pd
    from anndata import AnnData

    from geneformer.genes.vocabulary import Vocabulary
    from geneformer.models.loading import Fitted, LoadedModel


def predict_masked(  # noqa: PLR0913
    adata: "AnnData",
    *,
    genes: tuple[str, ...] = (),
    model: "str | Path | LoadedModel | Fitted" = "mini",
    vocabulary: "str | Path | Vocabulary | None" = None,
    n_predictions: int = 10,
    counts_layer: str | None = None,
    gene_ids: str | None = None,
    accept_normalized: bool = False,
    device: str = "auto",
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = "auto",
    tokens_per_batch: int | None = None,
    progress: bool = True,
    unknown: Literal["drop", "error"] = "drop",
) -> "pd.DataFrame":
    """Genes a model expects in the place of a masked one, in every cell that expresses it, as a ranked table.

    Each gene is masked on its own; the rest of the cell is the context. `adata` is not modified.

    Parameters
    ----------
    adata
        Raw counts of cells by genes.
    genes
        Ensembl ids or symbols of the genes to mask, each on its own.
    model, vocabulary
        Name ("mini", "V1-10M", …; `gf.list_models()`), checkpoint folder or hub repository, or a fitted model; and its
        vocabulary, needed only where the checkpoint does not name its own.
    n_predictions
        Genes listed in the place of a masked one, the most expected first.
    counts_layer, gene_ids
        Layer with the raw counts ("raw" for `adata.raw`; `X` by default); column of `var` with the gene identifiers
        ("index" for the row names; found automatically by default).
    accept_normalized
        Rank values that are no raw counts, such as counts corrected for ambient RNA.
    device, dtype, tokens_per_batch, progress
        Where and how the model runs; see `RuntimeOptions`.
    unknown
        Of `genes`, those without a token or that no cell has: leave them out with a warning that lists them, or raise.

    Returns
    -------
    pandas.DataFrame
        One row per cell, masked gene and prediction: `cell_id` (the name in `obs`), `masked_gene`, `masked_symbol`,
        `rank_in_cell` (0 = highest), `order` (1 = most expected), `predicted_gene`, `predicted_symbol`, `probability`,
        `rank_of_masked` and `probability_of_masked` (where the masked gene itself came out).
        `table.attrs["geneformer"]["panel"]` lists the genes left out.

    Raises
    ------
    OptionError
        No genes.
    CountsError
        The counts or gene identifiers cannot be used.
    UnknownGeneError, AbsentGeneError
        None of `genes` has a token, or none is in the cells; with ``unknown="error"`` any of them.
    PairingError
        Model, vocabulary and options do not belong together, or the checkpoint cannot predict.

    Examples
    --------
    >>> import geneformer as gf
    >>> from geneformer.datasets import pbmc3k
    >>> table = gf.tl.predict_masked(pbmc3k()[:5].copy(), genes=("B2M",), model="mini", progress=False)
    >>> table.groupby("cell_id").size().tolist()
    [10, 10, 10, 10, 10]
    """
    options = PredictOptions(genes=genes, n_predictions=n_predictions, unknown=unknown)
    runtime = RuntimeOptions(device=device, dtype=dtype, tokens_per_batch=tokens_per_batch, progress=progress)
    loaded = load_model(model, vocabulary=vocabulary)
    with progress_bar("Predicting", shown=progress, unit="cells") as update:
        tokens, rows = tokens_for(
            adata, loaded, counts_layer=counts_layer, gene_ids=gene_ids, accept_normalized=accept_normalized
        )
        table = masked_prediction.predict_masked(tokens, loaded, options, runtime, progress=update)
    # Names made unique on the way are given back as they are in `obs`.
    names = dict(zip(tokens.cell_ids.astype(str), np.asarray(adata.obs_names)[rows], strict=True))
    table["cell_id"] = table["cell_id"].astype(str).map(names)
    return table
