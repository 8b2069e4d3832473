"""`gf.tl.rank_perturbations`."""

from pathlib import Path
from typing import TYPE_CHECKING, Literal

from geneformer import keys
from geneformer.options import RankOptions
from geneformer.results.perturbation_slots import effects_of
from geneformer.tasks.perturbation.statistics import rank_effects

if TYPE_CHECKING:
    import pandas as pd
    from anndata import AnnData

    from geneformer.results.perturbation import PerturbationEffects


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
    >>> from geneformer.results.perturbation import EFFECT_COLUMNS, PerturbationEffects
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
