"""`gf.tl.perturb`."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from geneformer import keys
from geneformer.errors import OptionError
from geneformer.files.progress import progress_bar
from geneformer.inference.cells import tokens_for
from geneformer.options import PerturbOptions, RankOptions, RuntimeOptions
from geneformer.options._fields import as_names, came_as, spread_options
from geneformer.options._signatures import takes_options
from geneformer.perturbation.effects import effects_of, to_uns
from geneformer.perturbation.plan import open_perturbed_model, plan_perturbation
from geneformer.perturbation.run import run_plan
from geneformer.perturbation.statistics import rank_effects
from geneformer.tl._embed import writable

if TYPE_CHECKING:
    import pandas as pd
    from anndata import AnnData

    from geneformer.genes.vocabulary import Vocabulary
    from geneformer.models.loading import Fitted, LoadedModel
    from geneformer.perturbation.effects import PerturbationEffects

Genes = str | Sequence[str | Sequence[str]] | Mapping[str, str | Sequence[str]]


@takes_options(PerturbOptions)
def perturb(  # noqa: PLR0913
    adata: "AnnData",
    *,
    genes: Genes = "all",
    edit: Literal["delete", "overexpress", "inhibit", "activate"] = "delete",
    start: str | None = None,
    goal: str | None = None,
    model: "str | Path | LoadedModel | Fitted" = "mini",
    vocabulary: "str | Path | Vocabulary | None" = None,
    counts_layer: str | None = None,
    gene_ids: str | None = None,
    accept_normalized: bool = False,
    device: str = "auto",
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = "auto",
    progress: bool = True,
    key_added: str = keys.PERTURBATION,
    copy: bool = False,
    **options: Any,
) -> "AnnData | None":
    """Effects of deleting or overexpressing genes, on cells as a network sees them.

    Parameters
    ----------
    adata
        Raw counts of cells by genes.
    genes
        "all": every gene of a cell, one at a time. Or a list, one perturbation each: a gene ("ISG15"), genes together
        ("ISG15+IFI6", or a list of them), edits one after the other ("delete:STAT1 > overexpress:ISG15"). Or a table
        of named groups. Ensembl ids or symbols. What has no token or is in fewer than `min_cells` cells is left out
        with one warning that lists it; a group goes on without such members, under its name if it has one.
    edit
        "delete", "overexpress" (to the front), "inhibit" or "activate" (down or up by `dose`).
    start, goal
        States of the cells, values of a column of `obs`: cells of `start` are perturbed, and effects are shifts of
        their embeddings towards `goal`. Without them effects are similarities of cells before and after.
    model
        Name, checkpoint folder or hub repository; or a fitted `CellClassifier`, or its folder: then shifts of its
        probabilities are reported as well.
    vocabulary
        Needed only where the checkpoint does not name its own.
    counts_layer, gene_ids
        Layer with the raw counts ("raw" for `adata.raw`; `X` by default); column of `var` with the gene identifiers
        ("index" for the row names; found automatically by default).
    accept_normalized
        Rank values that are no raw counts, such as counts corrected for ambient RNA.
    device, dtype, progress
        Where and how the model runs; see `RuntimeOptions`.
    key_added, copy
        Slot of the result; return a copy instead of writing into `adata`.
    **options
        Any other field of `PerturbOptions`: `anchor`, `dose`, `alternates`, `state_key`, `pooling`, `layer`,
        `gene_effects`, `matched_genes`, `method`, `max_cells`, `unknown="error"` (refuse absent genes), `seed`, …

    Returns
    -------
    AnnData or None
        With `copy=True`. Sets:

        `.uns[key_added]["effects"]` : DataFrame
            One row per cell, perturbation and effect; `gf.tl.rank_perturbations` tests and ranks them.
        `.uns[key_added]["cells"]`, `["genes"]`, `["state_embeddings"]`, `["provenance"]`
            What they were made from.

    Raises
    ------
    UnknownOptionError
        A field that `PerturbOptions` does not have.
    PerturbationError
        Genes or states that cannot be used.
    PairingError
        Model, vocabulary and options do not belong together.

    Examples
    --------
    >>> import geneformer as gf
    >>> from geneformer.datasets import pbmc3k
    >>> adata = pbmc3k()[:40].copy()
    >>> gf.tl.perturb(adata, genes=["CD3E", "LYZ"], edit="overexpress", progress=False)
    >>> sorted(adata.uns["geneformer_perturbation"]["effects"]["perturbation"].unique())
    ['CD3E', 'LYZ']
    """
    named = {"genes": _entries(genes), "edit": edit, "start": start, "goal": goal}
    chosen: PerturbOptions = spread_options({"perturb": PerturbOptions()}, {**options, **named})["perturb"]
    runtime = RuntimeOptions(device=device, dtype=dtype, progress=progress)
    adata = writable(adata, copy=copy)
    loaded = open_perturbed_model(model, vocabulary=vocabulary)
    keep = tuple(str(name) for name in adata.obs.columns)
    with progress_bar("Perturbing", shown=progress, unit="shards") as update:
        tokens, _ = tokens_for(
            adata,
            loaded,
            counts_layer=counts_layer,
            gene_ids=gene_ids,
            accept_normalized=accept_normalized,
            keep=keep,
            counts=True,
        )
        plan = plan_perturbation(tokens, loaded, chosen, runtime)
        effects = run_plan(plan, progress=update)
    adata.uns[key_added] = to_uns(effects)
    return adata if copy else None


def _entries(genes: Genes) -> tuple[str, ...]:
    """Lists and tables of genes as the entries the options take."""
    if isinstance(genes, Mapping):
        return tuple(f"{name}={'+'.join(as_names('genes', group))}" for name, group in genes.items())
    groups = [as_names("genes", group) for group in as_names("genes", genes)]
    if not all(isinstance(name, str) for group in groups for name in group):
        msg = f"{came_as('genes', genes)}. Pass Ensembl ids or symbols, or lists of them."
        raise OptionError(msg)
    return tuple(map("+".join, groups))


def rank_perturbations(  # noqa: PLR0913
    adata_or_effects: "AnnData | PerturbationEffects | str | Path",
    *,
    mode: Literal[
        "auto", "goal_state_shift", "vs_null", "mixture_model", "aggregate", "aggregate_gene_shifts"
    ] = "auto",
    key: str = keys.PERTURBATION,
    null: "AnnData | PerturbationEffects | str | Path | None" = None,
    donor: str | None = None,
    fdr: float = 0.05,
    permutations: int = 1000,
    matched: int = 100,
    max_rank_difference: float = 0.1,
    confidence: float = 0.95,
    min_detections: int = 1,
    seed: int = 0,
) -> "pd.DataFrame":
    """Statistics of in silico perturbations as a ranked table.

    The columns of the published statistics come first, with the same tests and the same order of rows; then the effect
    with its interval, a permutation p-value among genes that are expressed as much, donors, and two baselines that need
    no model. `table.attrs["geneformer"]["definitions"]` says what each column means.

    Parameters
    ----------
    adata_or_effects
        Cells after `gf.tl.perturb`, effects, or the folder of a finished run. Not modified.
    mode
        "goal_state_shift": shifts towards the goal against those of all perturbations. "vs_null": similarities against
        the same perturbations in `null`. "mixture_model": mean similarities in two components. "aggregate": one row per
        cell. "aggregate_gene_shifts": one row per perturbed and affected gene. "auto": what suits the run.
    key
        Slot of `uns` with the effects.
    null
        A run to compare with; matched genes come from it as well.
    donor
        Column of the cells with their donors: intervals are then over donors, and there is a test over donors.
    fdr
        False discovery rate below which a row is significant.
    permutations, matched, max_rank_difference
        Draws among matched genes, how many these are at most, and how far their mean rank may differ.
    confidence
        Coverage of intervals.
    min_detections
        Perturbations of fewer cells are left out.
    seed
        Of every draw.

    Returns
    -------
    pandas.DataFrame
        One row per perturbation, cell or pair of genes. The index is the place before sorting.

    Raises
    ------
    StateError
        The mode needs a goal state that the run lacks, or a null run without states.
    PerturbationError
        The run has no exact effects of the kind the mode needs, or nothing was detected.
    OptionError
        A knob out of its range, or "vs_null" without a null run.
    UnknownColumnError
        No such slot of `uns` or column of donors.
    DatasetError
        There is no finished run.

    Examples
    --------
    >>> import geneformer as gf
    >>> import pyarrow as pa
    >>> from geneformer.perturbation.effects import EFFECT_COLUMNS, PerturbationEffects
    >>> rows = [("c1", g, g, "delete", "similarity", "", v, "exact") for g, v in (("ENSG1", 0.9), ("ENSG2", 0.7))]
    >>> table = pa.table(dict(zip(EFFECT_COLUMNS, zip(*rows))))
    >>> genes = pa.table({"gene": ["ENSG1", "ENSG2"], "symbol": ["A", "B"], "token": [4, 5]})
    >>> effects = PerturbationEffects(table, pa.table({"cell_id": ["c1"]}), genes)
    >>> gf.tl.rank_perturbations(effects)[["Cosine_sim", "Gene", "cell_id"]].values.tolist()
    [[0.9, 'A', 'c1'], [0.7, 'B', 'c1']]
    """
    options = RankOptions(
        mode=mode,
        fdr=fdr,
        donor=donor,
        permutations=permutations,
        matched=matched,
        max_rank_difference=max_rank_difference,
        confidence=confidence,
        min_detections=min_detections,
        seed=seed,
    )
    compared = None if null is None else effects_of(null, key)
    return rank_effects(effects_of(adata_or_effects, key), options, compared).to_frame()
