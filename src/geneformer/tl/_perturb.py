"""`gf.tl.perturb`."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from geneformer import keys
from geneformer.estimators.base import spread_options
from geneformer.estimators.perturbed import open_perturbed_model
from geneformer.options import PerturbOptions, RuntimeOptions
from geneformer.results.perturbation_slots import to_uns
from geneformer.runs.progress import progress_bar
from geneformer.tasks.adata_inputs import tokens_for
from geneformer.tasks.perturbation.plan import plan_perturbation
from geneformer.tasks.perturbation.run import run_plan

if TYPE_CHECKING:
    from anndata import AnnData

    from geneformer.estimators.cell_classifier import CellClassifier
    from geneformer.vocab.vocabulary import Vocabulary

Genes = str | Sequence[str | Sequence[str]] | Mapping[str, str | Sequence[str]]


def perturb(  # noqa: PLR0913
    adata: "AnnData",
    *,
    genes: Genes = "all",
    edit: Literal["delete", "overexpress", "inhibit", "activate"] = "delete",
    start: str | None = None,
    goal: str | None = None,
    model: "str | Path | CellClassifier" = "mini",
    vocabulary: "str | Path | Vocabulary | None" = None,
    counts_layer: str | None = None,
    gene_ids: str | None = None,
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
        of named groups. Ensembl ids or symbols.
    edit
        "delete", "overexpress" (to the front), "inhibit" or "activate" (down or up by `dose`).
    start, goal
        States of the cells, values of a column of `obs`: cells of `start` are perturbed, and effects are shifts of
        their embeddings towards `goal`. Without them effects are similarities of cells before and after.
    model
        Name, checkpoint folder or hub repository; or a fitted `CellClassifier`, or its folder: then shifts of its
        probabilities are told as well.
    vocabulary
        Needed only where the checkpoint does not tell its own.
    counts_layer
        Layer with the raw counts, "raw" for `adata.raw`; `X` by default.
    gene_ids
        Column of `var` with the gene identifiers, "index" for the row names. Found automatically by default.
    device, dtype, progress
        Where and how the model runs; see `RuntimeOptions`.
    key_added
        Slot of the result.
    copy
        Return a copy instead of writing into `adata`.
    **options
        Any other field of `PerturbOptions`: `anchor`, `dose`, `alternates`, `state_key`, `pooling`, `layer`,
        `gene_effects`, `matched_genes`, `method`, `max_cells`, `seed`, …

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
    >>> from geneformer.demo.cells import pbmc3k
    >>> adata = pbmc3k()[:40].copy()
    >>> gf.tl.perturb(adata, genes=["CD3E", "LYZ"], edit="overexpress", progress=False)
    >>> sorted(adata.uns["geneformer_perturbation"]["effects"]["perturbation"].unique())
    ['CD3E', 'LYZ']
    """
    named = {"genes": _entries(genes), "edit": edit, "start": start, "goal": goal}
    chosen: PerturbOptions = spread_options({"perturb": PerturbOptions()}, {**options, **named})["perturb"]
    runtime = RuntimeOptions(device=device, dtype=dtype, progress=progress)
    adata = adata.copy() if copy else adata
    loaded = open_perturbed_model(model, vocabulary=vocabulary)
    keep = tuple(str(name) for name in adata.obs.columns)
    tokens, _ = tokens_for(adata, loaded, counts_layer=counts_layer, gene_ids=gene_ids, keep=keep, counts=True)
    plan = plan_perturbation(tokens, loaded, chosen, runtime)
    with progress_bar("Perturbing", shown=progress) as update:
        effects = run_plan(plan, progress=update)
    adata.uns[key_added] = to_uns(effects)
    return adata if copy else None


def _entries(genes: Genes) -> tuple[str, ...]:
    """Lists and tables of genes as the entries the options take."""
    if isinstance(genes, str):
        return (genes,)
    if isinstance(genes, Mapping):
        return tuple(f"{name}={_joined(members)}" for name, members in genes.items())
    return tuple(_joined(entry) for entry in genes)


def _joined(members: str | Sequence[str]) -> str:
    return members if isinstance(members, str) else "+".join(members)
