"""`gf.tl.annotate`."""

from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from geneformer.errors import options_taken
from geneformer.files.progress import progress_bar
from geneformer.finetuning.annotation import annotate as run
from geneformer.inference.cells import OF_REFERENCE, check_anndata, open_cells
from geneformer.models.loading import load_model
from geneformer.options import AnnotateOptions, EmbedOptions, RuntimeOptions
from geneformer.tl._embed import writable

if TYPE_CHECKING:
    from anndata import AnnData

    from geneformer.genes.vocabulary import Vocabulary


def annotate(  # noqa: PLR0913
    adata: "AnnData",
    reference: "AnnData",
    *,
    label: str,
    groups: str | None = None,
    model: str | Path = "mini",
    vocabulary: "str | Path | Vocabulary | None" = None,
    method: Literal["neighbors", "probe"] = "neighbors",
    n_neighbors: int = 15,
    false_rejection: float = 0.05,
    unknown_below: float = 0.0,
    folds: int = 5,
    baseline: bool = True,
    seed: int = 0,
    pooling: Literal["mean", "rank", "cls"] = "mean",
    layer: int = -1,
    counts_layer: str | None = None,
    reference_layer: str | None = None,
    gene_ids: str | None = None,
    accept_normalized: bool = False,
    device: str = "auto",
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = "auto",
    tokens_per_batch: int | None = None,
    progress: bool = True,
    key_added: str | None = None,
    copy: bool = False,
) -> "AnnData | None":
    """Labels for all cells from a labeled reference, "unknown" for cells that lie far from it.

    One model embeds both. A cell gets the class most of its nearest reference cells have, or that of a logistic
    regression. Reference cells are labeled in the same way while they are held out; their distances set the cut-off
    beyond which a cell is "unknown".

    Parameters
    ----------
    adata
        Raw counts of cells by genes.
    reference
        Raw counts of labeled cells. Cells without a label, and classes of fewer than five cells, are left out.
    label, groups
        Columns of `reference.obs`: the classes; and donors or the like, which are held out whole.
    model, vocabulary
        Name ("mini", "V1-10M", …; `gf.list_models()`), checkpoint folder or hub repository; and its vocabulary, needed
        only where the checkpoint does not name its own.
    method, n_neighbors, false_rejection, unknown_below, folds, baseline, seed
        How labels are transferred, and when a cell is "unknown"; see `AnnotateOptions`.
    pooling, layer
        The embedding; see `EmbedOptions`.
    counts_layer, reference_layer, gene_ids
        Layers with the raw counts of `adata` and of `reference` ("raw" for `adata.raw`; `X` by default); column of
        `var` of both with the gene identifiers ("index" for the row names; found automatically by default).
    accept_normalized
        Rank values that are no raw counts, such as counts corrected for ambient RNA.
    device, dtype, tokens_per_batch, progress
        Where and how the model runs; see `RuntimeOptions`.
    key_added
        Slot of the result; `geneformer_<label>` by default.
    copy
        Return a copy instead of writing into `adata`.

    Returns
    -------
    AnnData or None
        With `copy=True`. Sets:

        `.obs[key_added]` : categorical
            Class, "unknown" where the cell is far from the reference, too improbable, or has no known gene.
        `.obs[key_added + "_probability"]` : float
            Share of the neighbors that have that class, or its probability.
        `.obs[key_added + "_nearest"]` : categorical
            The class however far the cell is.
        `.obs[key_added + "_distance"]` : float
            Distance to the nearest reference cells, in units of the cut-off: far above 1.
        `.obsm[key_added + "_proba"]` : DataFrame, ``(n_obs, C)``
            Probability of every class.
        `.obsm["X_geneformer"]` : float32, ``(n_obs, hidden_size)``
            Embedding.
        `.uns["geneformer"][key_added]`
            Model, options, cut-offs, the share of held-out reference cells that are called "unknown" (`rejected`), and
            their accuracy, with that of the baseline.

    Raises
    ------
    CountsError
        The counts or gene identifiers cannot be used.
    UnknownColumnError
        The reference has no such column.
    OptionError
        The reference has cells of one class, or of one group, only.

    Examples
    --------
    >>> import geneformer as gf
    >>> from geneformer.datasets import pbmc3k
    >>> blood = pbmc3k()
    >>> reference, adata = blood[:200].copy(), blood[200:230].copy()
    >>> gf.tl.annotate(adata, reference, label="cell_type", baseline=False, progress=False)
    >>> adata.obs["geneformer_cell_type"].isin([*reference.obs["cell_type"], "unknown"]).all()
    np.True_
    """
    options = AnnotateOptions(
        method=method,
        n_neighbors=n_neighbors,
        false_rejection=false_rejection,
        unknown_below=unknown_below,
        folds=folds,
        baseline=baseline,
        seed=seed,
    )
    runtime = RuntimeOptions(device=device, dtype=dtype, tokens_per_batch=tokens_per_batch, progress=progress)
    embedding = EmbedOptions(pooling=pooling, layer=layer)
    check_anndata(reference)
    adata = writable(adata, copy=copy)
    loaded = load_model(model, vocabulary=vocabulary)
    places: dict[str, Any] = {"gene_ids": gene_ids, "accept_normalized": accept_normalized}
    with progress_bar(shown=progress):
        cells = open_cells(adata, loaded, counts_layer=counts_layer, **places)
        with options_taken(**OF_REFERENCE):
            known = open_cells(reference, loaded, counts_layer=reference_layer, **places)
        chosen: dict[str, Any] = {"options": options, "embedding": embedding, "runtime": runtime}
        result = run(cells, known, loaded, label=label, groups=groups, key=key_added, **chosen)
    result.slots.spread(cells.rows, adata.n_obs).into(adata)
    return adata if copy else None
