"""What each column of the statistics says, with unit and sign."""

from collections.abc import Iterable

from geneformer.options import RankOptions

_PUBLISHED = {
    "Gene": "Token id of the perturbed gene, or a tuple for several; -1 where it is not known.",
    "Gene_name": "Symbol of the perturbed gene, or a tuple for several.",
    "Ensembl_ID": "Ensembl id of the perturbed gene, or a tuple for several.",
    "Shift_to_goal_end": (
        "Mean over cells of the change of the cosine with the goal state; no unit, above 0 = towards it."
    ),
    "Shift_to_alt_end_": "Mean over cells of the change of the cosine with that state; above 0 = towards it.",
    "Goal_end_vs_random_pval": (
        "Two-sided Wilcoxon rank-sum p (normal approximation, no correction for ties) of the shifts of this "
        "perturbation against those of all, itself included. Cells count as independent."
    ),
    "Alt_end_vs_random_pval_": "The same for shifts towards that state.",
    "Goal_end_FDR": "Benjamini-Hochberg over Goal_end_vs_random_pval.",
    "Alt_end_FDR_": "Benjamini-Hochberg over the p-values towards that state.",
    "N_Detections": "Cells the mean is over.",
    "Test_avg_shift": "Mean over cells of the cosine before and after; 1 = no effect.",
    "Null_avg_shift": "The same in the null run.",
    "Test_vs_null_avg_shift": "Test_avg_shift - Null_avg_shift; below 0 = moves cells further than in the null run.",
    "Test_vs_null_pval": "Two-sided Wilcoxon rank-sum p of the two runs; 1 where one has no cell.",
    "Test_vs_null_FDR": "Benjamini-Hochberg over Test_vs_null_pval.",
    "N_Detections_test": "Cells of the run.",
    "N_Detections_null": "Cells of the null run.",
    "Impact_component": (
        "1 where the mean belongs to the Gaussian with the lower mean similarity (impact), 0 where to the other."
    ),
    "Impact_component_percent": "Percent of cells whose similarity belongs to the impact component.",
    "Cosine_sim": "Cosine of the cell before and after; 1 = no effect.",
    "Perturbed": "Token id of the perturbed gene, or a tuple for several.",
    "Affected": "Token id of the affected gene; cell_emb = the whole cell.",
    "Affected_gene_name": "Symbol of the affected gene; empty for the cell.",
    "Affected_Ensembl_ID": "Ensembl id of the affected gene; empty for the cell.",
    "Cosine_sim_mean": "Mean over cells of the cosine of the affected gene before and after; 1 = no effect.",
    "Cosine_sim_stdev": "Standard deviation of these (population).",
}

_ADDED = {
    "matched_p": (
        "Permutation p of the effect among perturbations, done in the same way, of genes of similar mean rank. No p is "
        "below 1 / (n_matched + 1), for shifts twice that. NaN where no gene matches."
    ),
    "matched_fdr": "Benjamini-Hochberg over matched_p.",
    "n_matched": "Genes compared with.",
    "donor_mean": "Mean over donors of the mean effect of their cells; sign as in effect.",
    "n_donors": "Donors it is over.",
    "donor_fdr": "Benjamini-Hochberg over donor_p.",
    "baseline_mean_rank": (
        "Mean rank of the gene in the perturbed cells that have it, 0 = highest, 1 = lowest; of several, their mean."
    ),
    "baseline_expression_difference": (
        "Goal minus start: mean of log1p counts per 10,000 of the gene where counts are known, else mean of 1 - rank; "
        "above 0 = higher in the goal. NaN without states."
    ),
    "shift_to_start": "Mean over cells of the change of the cosine with the start state; above 0 = towards it.",
    "probability_shift:": "Mean over cells of the change of the probability of that class; above 0 = more probable.",
    "screened_mean": "Mean of first-order estimates over the cells that were not run; in no test.",
    "n_screened": "Cells with an estimate only.",
    "perturbation": "Name of what was done.",
    "edit": "What was done to the genes; edits one after the other are joined by >.",
    "cell_id": "Cell that was perturbed.",
    "donor": "Donor of the cell.",
}

_EFFECTS = {
    "goal_state_shift": "Shift_to_goal_end; above 0 = towards the goal.",
    "similarity": "1 - mean cosine of the cell before and after: how far cells move; 0 = no effect.",
    "mixture_model": "1 - Test_avg_shift: how far cells move; 0 = no effect.",
    "vs_null": "Null_avg_shift - Test_avg_shift; above 0 = moves cells further than in the null run.",
    "aggregate_gene_shifts": "1 - Cosine_sim_mean: how far the affected gene moves; 0 = no effect.",
}

_OVER_DONORS = {
    "goal_state_shift": "shift of 0",
    "vs_null": "difference of 0, in donors of both runs",
}


def definitions(columns: Iterable[str], mode: str, options: RankOptions) -> dict[str, str]:
    """What each of some columns says.

    Parameters
    ----------
    columns
        Names of columns.
    mode
        Decides what the effect is.
    options
        Decide the rest.
    """
    unit = "cells" if options.donor is None else f"donors ({options.donor})"
    compared = _OVER_DONORS.get(mode, "distance equal to the average over all perturbations of the donor")
    told = _PUBLISHED | _ADDED
    told["Sig"] = f"1 where the FDR is below {options.fdr:g}, else 0."
    told["effect"] = _EFFECTS.get(mode, "")
    for name, end in (("ci_low", "Lower"), ("ci_high", "Upper")):
        told[name] = f"{end} end of the {options.confidence:.1%} bootstrap interval of the effect over {unit}."
    told["donor_p"] = f"Two-sided Student's t over donors against a {compared}. NaN for fewer than two donors."
    if mode == "aggregate":
        told["Gene"] = "Symbol of the perturbed gene; of several, joined by +."
    prefixes = [name for name in told if name.endswith(("_end_", "_pval_", "_FDR_", ":"))]
    return {
        column: told.get(column) or next(told[prefix] for prefix in prefixes if column.startswith(prefix))
        for column in columns
    }
