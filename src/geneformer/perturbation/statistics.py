"""Statistics of perturbations: the published modes, with further columns, from the effects of a run.

Only exact effects are tested. A perturbation that a screen has only estimated is left out, with a warning.
"""

import warnings
from collections.abc import Iterable, Sequence
from dataclasses import asdict, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from geneformer.errors import (
    AbsentGeneError,
    GeneformerWarning,
    OptionError,
    PerturbationError,
    RunMismatchError,
    StateError,
)
from geneformer.options import RankOptions
from geneformer.perturbation.effects import (
    GENE_SIMILARITY,
    SHIFT,
    SIMILARITY,
    Floats,
    Ints,
    PerturbationEffects,
    PerturbationRanking,
    Perturbed,
    Values,
    mean_by,
    object_column,
)
from geneformer.perturbation.uncertainty import (
    MeasuredEffect,
    added_columns,
    against_each_other,
    against_pool,
    bootstrap_interval,
    donors_of,
    false_discovery_rates,
    mean_of_perturbed_genes,
    over_donors,
    pool_of,
)

if TYPE_CHECKING:
    import pandas as pd

NAMES = ["Gene", "Gene_name", "Ensembl_ID"]

CELL = "cell_emb"
"""What the published package calls the cell among affected genes."""

MANY = 20
"""Perturbations from which on "auto" fits a mixture."""


def rank_effects(
    effects: PerturbationEffects, options: RankOptions, null: PerturbationEffects | None = None
) -> PerturbationRanking:
    """Test and rank the perturbations of a run."""
    _refuse_one_part(effects)
    perturbed, compared = Perturbed(effects), None
    if null is not None:
        _refuse_one_part(null)
        compared = Perturbed(null)
    if options.donor is not None:
        donors_of(perturbed, options.donor)
    mode = options.mode if options.mode != "auto" else _chosen(perturbed, compared)
    if mode == "vs_null" and compared is None:
        msg = 'mode="vs_null" needs a null run. Pass null=, the folder of a run of the same perturbations.'
        raise OptionError(msg)
    if mode in ("aggregate", "aggregate_gene_shifts"):
        return _aggregates(perturbed, mode, options)
    return _tested(perturbed, compared, mode, options)


def _refuse_one_part(effects: PerturbationEffects) -> None:
    """Refuse a part of a run: means and tests would be over some of its cells."""
    part = effects.provenance.get("part")
    number, parts = part if isinstance(part, list) and len(part) == 2 else (1, 1)
    if parts != 1:
        missing = [other for other in range(1, parts + 1) if other != number]
        msg = (
            f"This is part {number} of {parts} of a run; missing are {missing}. Put all of them together first: "
            "geneformer perturb merge PART1 PART2 ... -o run."
        )
        raise RunMismatchError(msg)


def rank_for_plots(effects: PerturbationEffects) -> PerturbationRanking:
    """One row per perturbation with effect, interval, matched genes and baselines, whatever the run; for plots."""
    perturbed = Perturbed(effects)
    mode = "goal_state_shift" if SHIFT in perturbed.kinds() else SIMILARITY
    return _tested(perturbed, None, mode, RankOptions())


def _chosen(perturbed: Perturbed, null: Perturbed | None) -> str:
    """The mode that suits a run."""
    kinds = perturbed.kinds()
    if SHIFT in kinds:
        return "goal_state_shift"
    if SIMILARITY not in kinds and GENE_SIMILARITY in kinds:
        return "aggregate_gene_shifts"
    if null is not None and not set(_identities(perturbed)).isdisjoint(_identities(null)):
        return "vs_null"
    return "mixture_model" if len(perturbed) >= MANY else "aggregate"


def _tested(perturbed: Perturbed, null: Perturbed | None, mode: str, options: RankOptions) -> PerturbationRanking:
    """One row per perturbation."""
    source, is_shift = perturbed.source, mode == "goal_state_shift"
    if is_shift and source.goal is None:
        msg = (
            'mode="goal_state_shift" needs shifts towards a goal state, and the run has the states '
            f"{list(source.states)}. Run the perturbations with start and goal, or use mode="
            '"mixture_model" or "aggregate".'
        )
        raise StateError(msg)
    kind, target = (SHIFT, source.goal) if is_shift else (SIMILARITY, None)
    left_out = _keep_detected(perturbed, kind, target, options)
    values = perturbed.values(kind, target)
    measured = MeasuredEffect(perturbed, values if is_shift else values.distances(), two_sided=is_shift)
    if null is not None:
        null_values = _null_values(null, kind, target, mode)
        measured = replace(measured, null=(null, null_values if is_shift else null_values.distances()))
    if mode == "vs_null" and null is not None:
        same = aligned_values(perturbed, null, null_values)
        measured = replace(measured, subtracted=same.distances())
        frame = vs_null(perturbed, same, options.fdr)
    elif is_shift:
        frame = goal_state_shift(perturbed, str(source.goal), list(source.states)[2:], options.fdr)
    elif mode == "mixture_model":
        frame = mixture_model(perturbed)
    else:
        frame = perturbed.table[NAMES].copy()
        frame["N_Detections"] = values.counts(len(perturbed))
        frame = frame.iloc[np.argsort(values.means(len(perturbed)), kind="stable")]
    return _ranking(perturbed, frame.join(added_columns(measured, options)), mode, options, left_out, null)


def _aggregates(perturbed: Perturbed, mode: str, options: RankOptions) -> PerturbationRanking:
    """One row per cell, or per pair of genes."""
    kind = SIMILARITY if mode == "aggregate" else GENE_SIMILARITY
    left_out = _keep_detected(perturbed, kind, None, options)
    if mode == "aggregate":
        frame = aggregate(perturbed)
        if options.donor is not None:
            frame["donor"] = perturbed.cell_column(options.donor).astype(str).reindex(frame["cell_id"]).to_numpy()
        return _ranking(perturbed, frame, mode, options, left_out)
    pairs = GenePairs(perturbed)
    n, distances = len(pairs), pairs.values.distances()
    frame = aggregate_gene_shifts(perturbed, pairs)
    units = over_donors(perturbed, distances, options.donor)
    low, high = bootstrap_interval(units, n_groups=n, confidence=options.confidence, seed=options.seed)
    added: dict[str, Any] = {"effect": distances.means(n), "ci_low": low, "ci_high": high}
    if options.donor is not None:
        means = units.means_per_cell()
        added["donor_mean"], added["n_donors"] = means.means(n), means.counts(n)
    added["baseline_mean_rank"] = mean_of_perturbed_genes(perturbed, "mean_rank")[pairs.group]
    added |= {name: perturbed.table[name].to_numpy()[pairs.group] for name in ("perturbation", "edit")}
    for name, column in added.items():
        frame[name] = column[frame.index.to_numpy()]
    return _ranking(perturbed, frame, mode, options, left_out)


def _keep_detected(perturbed: Perturbed, kind: str, target: str | None, options: RankOptions) -> dict[str, int]:
    """Leave perturbations out that too few cells were run for, and say how many."""
    n = len(perturbed)
    exact, estimates = (perturbed.values(kind, target, exact=choice) for choice in (True, False))
    if not len(exact):
        raise _nothing_exact(perturbed, kind, len(estimates))
    cells = exact.cells_per_group(n)
    enough = cells >= options.min_detections
    if not enough.any():
        msg = (
            f"No perturbation was detected in min_detections={options.min_detections} or more cells; the most is "
            f"{int(cells.max())}. Lower min_detections, or perturb more cells."
        )
        raise AbsentGeneError(msg)
    only_estimated = int(((cells == 0) & (estimates.counts(n) > 0)).sum())
    if only_estimated:
        msg = (
            f"{only_estimated:,} of {n:,} perturbations have only estimates of a screen, which are not tested: they "
            f"are left out. {_EXACT}."
        )
        warnings.warn(msg, GeneformerWarning, stacklevel=4)
    perturbed.keep(enough)
    return {"tested": int(enough.sum()), "only_estimated": only_estimated, "left_out": int((~enough).sum())}


_EXACT = 'Perturb them with `geneformer perturb run --method exact` (`gf.tl.perturb(method="exact")`)'


def _nothing_exact(perturbed: Perturbed, kind: str, n_estimates: int) -> PerturbationError:
    if n_estimates:
        msg = f"All {n_estimates:,} effects are estimates of a screen, and only exact ones are tested. {_EXACT}."
        return PerturbationError(msg)
    fix = {
        SIMILARITY: 'Use mode="goal_state_shift", or run it without states.',
        GENE_SIMILARITY: "Perturb with `geneformer perturb run --gene-effects` (`gf.tl.perturb(gene_effects=True)`).",
    }.get(kind, "Check that cells have the perturbed genes.")
    msg = f"The run has no effects of the kind {kind!r}; it has {perturbed.kinds() or 'none'}. {fix}"
    return AbsentGeneError(msg) if not perturbed.kinds() else PerturbationError(msg)


def _null_values(null: Perturbed, kind: str, target: str | None, mode: str) -> Values:
    """Effects of a null run."""
    if mode == "vs_null" and null.source.states:
        msg = (
            f'mode="vs_null" compares similarities, and the null run has shifts towards {list(null.source.states)}. '
            "Run it without states."
        )
        raise StateError(msg)
    if kind == SHIFT and null.source.goal != target:
        msg = (
            f"The run has the goal {target!r}, the null run {null.source.goal!r}. Both need the same goal: "
            "run the null with the same states."
        )
        raise StateError(msg)
    values = null.values(kind, target)
    if not len(values):
        raise _nothing_exact(null, kind, len(null.values(kind, target, exact=False)))
    return values


def _identities(perturbed: Perturbed) -> list[tuple[str, str]]:
    return list(zip(perturbed.table["genes"], perturbed.table["edit"], strict=True))


def aligned_values(perturbed: Perturbed, null: Perturbed, values: Values) -> Values:
    """Effects of the null run by the rows of the tested one; those of other perturbations are left out."""
    row_of = {identity: row for row, identity in reversed(list(enumerate(_identities(perturbed))))}
    rows = np.array([row_of.get(identity, -1) for identity in _identities(null)], dtype=np.intp)
    group = rows[values.group]
    shared = group >= 0
    if not shared.any():
        msg = (
            f"None of the {len(perturbed):,} perturbations is in the null run, which has {len(null):,} others. Run the "
            "same ones on the null cells."
        )
        raise AbsentGeneError(msg)
    return Values(group[shared], values.cell[shared], values.value[shared])


def _ranking(
    perturbed: Perturbed,
    frame: "pd.DataFrame",
    mode: str,
    options: RankOptions,
    left_out: dict[str, int],
    null: Perturbed | None = None,
) -> PerturbationRanking:
    """The table with its definitions and provenance."""
    source = perturbed.source
    ranking: dict[str, Any] = {"mode": mode, "options": asdict(options), "perturbations": left_out}
    if "matched_p" in frame:
        unmatched = frame["matched_p"].isna()
        ranking["matched_genes"] = {
            "from": "the run itself" if null is None else "the null run",
            "without": int(unmatched.sum()),
        }
        if unmatched.all():
            ranking["matched_genes"]["note"] = (
                "No perturbation has a matched gene; matched_p is empty. Run more genes, or give a null run."
            )
    if null is not None:
        ranking["null"] = dict(null.source.provenance)
    if mode == "goal_state_shift":
        states = {str(source.start): "shift_to_start", str(source.goal): "Shift_to_goal_end"}
        states |= {state: shift_column(state, is_goal=False) for state in list(source.states)[2:]}
    else:
        states = {} if mode.startswith("aggregate") else {"cell": "effect"}
    prefix = "probability_shift:"
    for column in map(str, frame):
        if column.startswith(prefix):
            states[f"probability of {column.removeprefix(prefix)}"] = column
    provenance = {**source.provenance, "ranking": ranking}
    states = {state: column for state, column in states.items() if column in frame}
    return PerturbationRanking(frame, mode, definitions(frame.columns, mode, options), states, provenance)


def goal_state_shift(perturbed: Perturbed, goal: str, alternates: Sequence[str], fdr: float) -> "pd.DataFrame":
    """Mean shift towards the goal and the alternates, each compared with the shifts of all perturbations."""
    n, states = len(perturbed), [goal, *alternates]
    shifts = {state: perturbed.values(SHIFT, state) for state in states}
    p_column = {state: f"Alt_end_vs_random_pval_{state}" for state in alternates} | {goal: "Goal_end_vs_random_pval"}
    fdr_column = {state: f"Alt_end_FDR_{state}" for state in alternates} | {goal: "Goal_end_FDR"}
    table = perturbed.table[NAMES].copy()
    for state in states:
        table[shift_column(state, is_goal=state == goal)] = shifts[state].means(n)
    for state in states:
        # One perturbation is the whole pool: there is nothing to compare it with.
        p = against_pool(shifts[state], pool_of(shifts[state]), n) if n > 1 else np.full(n, np.nan)
        table[p_column[state]] = p
    for state in states:
        table[fdr_column[state]] = false_discovery_rates(table[p_column[state]].to_numpy())
    table["N_Detections"] = shifts[goal].counts(n)
    table["Sig"] = (table["Goal_end_FDR"] < fdr).astype(int)
    return table.sort_values(["Sig", "Shift_to_goal_end", "Goal_end_FDR"], ascending=[False, False, True])


def shift_column(state: str, *, is_goal: bool) -> str:
    """Column with the mean shift towards a state."""
    return "Shift_to_goal_end" if is_goal else f"Shift_to_alt_end_{state}"


def vs_null(perturbed: Perturbed, null: Values, fdr: float) -> "pd.DataFrame":
    """Mean similarity of each perturbation, compared with that of the same one in a null run."""
    n = len(perturbed)
    tested = perturbed.values(SIMILARITY)
    table = perturbed.table[NAMES].copy()
    table["Test_avg_shift"], table["Null_avg_shift"] = tested.means(n), null.means(n)
    table["Test_vs_null_avg_shift"] = table["Test_avg_shift"] - table["Null_avg_shift"]
    table["Test_vs_null_pval"] = np.nan_to_num(against_each_other(tested, null, n), nan=1.0)
    table["Test_vs_null_FDR"] = false_discovery_rates(table["Test_vs_null_pval"].to_numpy())
    table["N_Detections_test"], table["N_Detections_null"] = tested.counts(n), null.counts(n)
    table["Sig"] = (table["Test_vs_null_FDR"] < fdr).astype(int)
    by = ["Sig", "Test_vs_null_avg_shift", "Test_vs_null_FDR"]
    return table.sort_values(by, ascending=[False, False, True])


def mixture_model(perturbed: Perturbed) -> "pd.DataFrame":
    """Perturbations split into those with and without impact: two Gaussians over their mean similarities."""
    n = len(perturbed)
    similarity = perturbed.values(SIMILARITY)
    means = similarity.means(n)
    impact = Impact(means)
    table = perturbed.table[NAMES].copy()
    table["Test_avg_shift"] = means
    table["Impact_component"] = impact.of(means)
    table["Impact_component_percent"] = 100 * mean_by(impact.of(similarity.value).astype(float), similarity.group, n)
    table["N_Detections"] = similarity.counts(n)
    return table.sort_values(["Impact_component", "Test_avg_shift"], ascending=[False, True])


class Impact:
    """Which of two Gaussians a similarity belongs to; the one with the lower mean is impact."""

    def __init__(self, means: Floats) -> None:
        if len(np.unique(means)) < 2:
            msg = (
                f"A mixture of two components needs perturbations with different effects, but {len(means)} of "
                f"{len(means)} have the same. Perturb more genes, or look at the numbers themselves."
            )
            raise PerturbationError(msg)
        from sklearn.mixture import GaussianMixture

        self._mixture = GaussianMixture(n_components=2, random_state=0).fit(means[:, None])
        centers = self._mixture.means_[:, 0]
        self._low, self._high = centers.min(), centers.max()
        self._component = int(np.argmin(centers))

    def of(self, similarities: Floats) -> Ints:
        """1 for impact and 0 for none; beyond the means of the components their tails do not decide."""
        likelier = self._mixture.predict(similarities[:, None]) == self._component
        decided: Ints = np.where(similarities > self._high, 0, np.where(similarities < self._low, 1, likelier))
        return decided.astype(np.intp)


def aggregate(perturbed: Perturbed) -> "pd.DataFrame":
    """Similarity of every cell, perturbation by perturbation, with the cell and the perturbation."""
    import pandas as pd

    values = perturbed.values(SIMILARITY).by_group()
    table = perturbed.table.iloc[values.group].reset_index(drop=True)
    names = ["+".join(name) if isinstance(name, tuple) else name for name in table["Gene_name"]]
    columns = {"Cosine_sim": values.value, "Gene": names, "cell_id": perturbed.cell_ids[values.cell]}
    return pd.DataFrame(columns | {name: table[name] for name in ("perturbation", "edit")})


class GenePairs:
    """Pairs of a perturbed and an affected gene, numbered in order of appearance; the whole cell affects as `CELL`."""

    def __init__(self, perturbed: Perturbed) -> None:
        import pandas as pd

        cells, genes = perturbed.values(SIMILARITY), perturbed.values(GENE_SIMILARITY)
        targets, names = perturbed.pairs(GENE_SIMILARITY)
        targets = np.concatenate([np.full(len(cells), len(names)), targets])
        group, cell, value = (
            np.concatenate([getattr(cells, name), getattr(genes, name)]) for name in ("group", "cell", "value")
        )
        number, pairs = pd.factorize(group * (len(names) + 1) + targets)
        self.values = Values(number.astype(np.intp), cell, value)
        self.group, affected = np.divmod(pairs, len(names) + 1)
        self.affected = np.array([*names, CELL], dtype=object)[affected]

    def __len__(self) -> int:
        return len(self.group)


def aggregate_gene_shifts(perturbed: Perturbed, pairs: GenePairs) -> "pd.DataFrame":
    """Mean similarity of every affected gene under every perturbation; cells first."""
    import pandas as pd

    n, values = len(pairs), pairs.values
    mean = values.means(n)
    deviation = np.sqrt(mean_by((values.value - mean[values.group]) ** 2, values.group, n))
    named = perturbed.table[NAMES].iloc[pairs.group].reset_index(drop=True)
    is_cell = pairs.affected == CELL
    genes = [str(gene) for gene in pairs.affected[~is_cell]]
    tokens, symbols, ids = np.full((3, n), None, dtype=object)
    tokens[is_cell], tokens[~is_cell] = CELL, perturbed.names.tokens(genes)
    symbols[~is_cell], ids[~is_cell] = perturbed.names.symbols(genes), genes
    table = pd.DataFrame(
        {
            "Perturbed": object_column(named["Gene"].tolist()),
            "Gene_name": named["Gene_name"],
            "Ensembl_ID": named["Ensembl_ID"],
            "Affected": tokens,
            "Affected_gene_name": symbols,
            "Affected_Ensembl_ID": ids,
            "Cosine_sim_mean": mean,
            "Cosine_sim_stdev": deviation,
            "N_Detections": values.counts(n),
        }
    )
    return table.iloc[np.lexsort((mean, ~is_cell))]


_DEFINITIONS = {
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
    """What each of some columns says."""
    unit = "cells" if options.donor is None else f"donors ({options.donor})"
    compared = _OVER_DONORS.get(mode, "distance equal to the average over all perturbations of the donor")
    texts = dict(_DEFINITIONS)
    texts["Sig"] = f"1 where the FDR is below {options.fdr:g}, else 0."
    texts["effect"] = _EFFECTS.get(mode, "")
    for name, end in (("ci_low", "Lower"), ("ci_high", "Upper")):
        texts[name] = f"{end} end of the {options.confidence:.1%} bootstrap interval of the effect over {unit}."
    texts["donor_p"] = f"Two-sided Student's t over donors against a {compared}. NaN for fewer than two donors."
    if mode == "aggregate":
        texts["Gene"] = "Symbol of the perturbed gene; of several, joined by +."
    prefixes = [name for name in texts if name.endswith(("_end_", "_pval_", "_FDR_", ":"))]
    return {
        column: texts.get(column) or next(texts[prefix] for prefix in prefixes if column.startswith(prefix))
        for column in columns
    }
