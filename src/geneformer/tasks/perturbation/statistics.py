"""Statistics of perturbations: the published modes, with further columns, from the effects of a run.

Only exact effects are tested. A perturbation that a screen has only estimated is left out, with a warning.
"""

import dataclasses
import warnings
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from geneformer.errors import AbsentGeneError, GeneformerWarning, OptionError, PerturbationError, StateError
from geneformer.options import RankOptions
from geneformer.results.perturbation import GENE_SIMILARITY, SHIFT, SIMILARITY, PerturbationEffects
from geneformer.results.perturbation_ranking import PerturbationRanking
from geneformer.tasks.perturbation.added_columns import (
    Measured,
    added_columns,
    gene_numbers,
    mean_over_genes,
    units_of,
)
from geneformer.tasks.perturbation.donors import DonorMeans, donors_of
from geneformer.tasks.perturbation.effect_arrays import Perturbed, Values
from geneformer.tasks.perturbation.mean_intervals import mean_interval
from geneformer.tasks.perturbation.published_statistics import (
    NAMES,
    GenePairs,
    aggregate,
    aggregate_gene_shifts,
    goal_state_shift,
    mixture_model,
    shift_column,
    vs_null,
)
from geneformer.tasks.perturbation.ranking_columns import definitions

if TYPE_CHECKING:
    import pandas as pd

MANY = 20
"""Perturbations from which on "auto" fits a mixture."""


def rank_effects(
    effects: PerturbationEffects, options: RankOptions, null: PerturbationEffects | None = None
) -> PerturbationRanking:
    """Test and rank the perturbations of a run.

    Parameters
    ----------
    effects
        What came of the run.
    options
        Statistics, thresholds, donors, matched genes.
    null
        A run to compare with: the same perturbations in other cells for "vs_null", and for every mode but the
        aggregates where matched genes come from.

    Raises
    ------
    StateError
        The mode needs a goal state and the run has none, or needs a null run without states.
    AbsentGeneError
        Nothing was detected in enough cells.
    PerturbationError
        The run has no effects of the kind the mode needs, or only estimates.
    OptionError
        "vs_null" without a null run.
    UnknownColumnError, DatasetError
        The column of donors is missing, or empty for some cells.
    """
    perturbed = Perturbed(effects)
    compared = None if null is None else Perturbed(null)
    if options.donor is not None:
        donors_of(perturbed, options.donor)
    mode = options.mode if options.mode != "auto" else _chosen(perturbed, compared)
    if mode == "vs_null" and compared is None:
        msg = 'mode="vs_null" needs a null run. Pass null=, the folder of a run of the same perturbations.'
        raise OptionError(msg)
    if mode in ("aggregate", "aggregate_gene_shifts"):
        return _aggregates(perturbed, mode, options)
    return _tested(perturbed, compared, mode, options)


def summarize(
    effects: PerturbationEffects, options: RankOptions, null: PerturbationEffects | None = None
) -> PerturbationRanking:
    """One row per perturbation with effect, interval, matched genes and baselines, whatever the run; for plots."""
    perturbed = Perturbed(effects)
    mode = "goal_state_shift" if SHIFT in perturbed.kinds() else SIMILARITY
    return _tested(perturbed, None if null is None else Perturbed(null), mode, options)


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
    shifts = mode == "goal_state_shift"
    if shifts:
        _check_goal(perturbed.source)
    kind, target = (SHIFT, perturbed.source.goal) if shifts else (SIMILARITY, None)
    left_out = _keep_detected(perturbed, kind, target, options)
    values = perturbed.values(kind, target)
    effect = values if shifts else values.distances()
    pool = subtracted = None
    if null is not None:
        against = _null_values(null, kind, target, mode)
        pool = (null, against if shifts else against.distances())
    if mode == "vs_null" and null is not None:
        same = aligned_values(perturbed, null, against)
        frame, subtracted = vs_null(perturbed, same, options.fdr), same.distances()
    else:
        frame = _published(perturbed, values, mode, options)
    added = added_columns(Measured(perturbed, effect, shifts, subtracted, pool), options)
    return _ranking(perturbed, frame.join(added), mode, options, left_out, null)


def _published(perturbed: Perturbed, values: Values, mode: str, options: RankOptions) -> "pd.DataFrame":
    if mode == "goal_state_shift":
        source = perturbed.source
        return goal_state_shift(perturbed, str(source.goal), _alternates(source), options.fdr)
    if mode == "mixture_model":
        return mixture_model(perturbed)
    table = perturbed.table[NAMES].copy()
    table["N_Detections"] = values.counts(len(perturbed))
    return table.iloc[np.argsort(values.means(len(perturbed)), kind="stable")]


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
    units = units_of(perturbed, distances, options.donor)
    low, high = mean_interval(distances, units, n, confidence=options.confidence, seed=options.seed)
    added: dict[str, Any] = {"effect": distances.means(n), "ci_low": low, "ci_high": high}
    if options.donor is not None:
        means = DonorMeans.of(distances, donors_of(perturbed, options.donor)[0])
        added["donor_mean"], added["n_donors"] = means.averages(n)
    rank = mean_over_genes(perturbed, gene_numbers(perturbed.source, "mean_rank"))
    added["baseline_mean_rank"] = rank[pairs.group]
    added |= {name: perturbed.table[name].to_numpy()[pairs.group] for name in ("perturbation", "edit")}
    for name, column in added.items():
        frame[name] = column[frame.index.to_numpy()]
    return _ranking(perturbed, frame, mode, options, left_out)


def _keep_detected(perturbed: Perturbed, kind: str, target: str | None, options: RankOptions) -> dict[str, int]:
    """Leave perturbations out that too few cells were run for, and say how many.

    Raises
    ------
    PerturbationError
        There are no effects of that kind, or only estimates.
    AbsentGeneError
        No perturbation is left.
    """
    n = len(perturbed)
    exact, estimates = (perturbed.values(kind, target, exact=choice) for choice in (True, False))
    if not len(exact):
        raise _nothing_exact(perturbed, kind, len(estimates))
    cells = np.bincount(np.unique(exact.group * len(perturbed.cell_ids) + exact.cell) // len(perturbed.cell_ids))
    cells = np.pad(cells, (0, n - len(cells)))
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
            'are left out. Raise check_cells, or run them with method="exact".'
        )
        warnings.warn(msg, GeneformerWarning, stacklevel=4)
    perturbed.keep(enough)
    return {"tested": int(enough.sum()), "only_estimated": only_estimated, "left_out": int((~enough).sum())}


def _nothing_exact(perturbed: Perturbed, kind: str, n_estimates: int) -> PerturbationError:
    if n_estimates:
        msg = (
            f"All {n_estimates:,} effects are estimates of a screen, and only exact ones are tested. Run it with "
            'verify or check_cells above 0, or with method="exact".'
        )
        return PerturbationError(msg)
    fix = {
        SIMILARITY: 'Use mode="goal_state_shift", or run it without states.',
        GENE_SIMILARITY: "Run it with gene_effects=True.",
    }.get(kind, "Check that cells have the perturbed genes.")
    msg = f"The run has no effects of the kind {kind!r}; it has {perturbed.kinds() or 'none'}. {fix}"
    return AbsentGeneError(msg) if not perturbed.kinds() else PerturbationError(msg)


def _check_goal(effects: PerturbationEffects) -> None:
    if effects.goal is None:
        msg = (
            'mode="goal_state_shift" needs shifts towards a goal state, and the run has the states '
            f"{list(effects.states)}. Run the perturbations with start and goal, or use mode="
            '"mixture_model" or "aggregate".'
        )
        raise StateError(msg)


def _null_values(null: Perturbed, kind: str, target: str | None, mode: str) -> Values:
    """Effects of a null run.

    Raises
    ------
    StateError
        It has states where it must have none, or not the goal.
    PerturbationError
        It has no exact effects of the kind.
    """
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
    """Effects of the null run by the rows of the tested one; those of other perturbations are left out.

    Parameters
    ----------
    perturbed, null
        The tested run and the null run.
    values
        Effects of the null run.

    Raises
    ------
    AbsentGeneError
        The runs share no perturbation.
    """
    row_of = {identity: row for row, identity in reversed(list(enumerate(_identities(perturbed))))}
    rows = np.array([row_of.get(identity, -1) for identity in _identities(null)], dtype=np.intp)
    group = rows[values.group]
    if not (group >= 0).any():
        msg = (
            f"None of the {len(perturbed):,} perturbations is in the null run, which has {len(null):,} others. Run the "
            "same ones on the null cells."
        )
        raise AbsentGeneError(msg)
    return Values(group[group >= 0], values.cell[group >= 0], values.value[group >= 0])


def _alternates(effects: PerturbationEffects) -> Sequence[str]:
    return list(effects.states)[2:]


def _ranking(
    perturbed: Perturbed,
    frame: "pd.DataFrame",
    mode: str,
    options: RankOptions,
    left_out: dict[str, int],
    null: Perturbed | None = None,
) -> PerturbationRanking:
    """The table with everything that is to be known about it."""
    source = perturbed.source
    told: dict[str, Any] = {"mode": mode, "options": dataclasses.asdict(options), "perturbations": left_out}
    if "matched_p" in frame:
        told["matched_genes"] = {
            "from": "the run itself" if null is None else "the null run",
            "without": int(frame["matched_p"].isna().sum()),
        }
        if frame["matched_p"].isna().all():
            told["matched_genes"]["note"] = (
                "No perturbation has a matched gene; matched_p is empty. Run more genes, or give a null run."
            )
    if null is not None:
        told["null"] = dict(null.source.provenance)
    states = _state_columns(source, frame, mode)
    provenance = {**source.provenance, "ranking": told}
    return PerturbationRanking(frame, mode, definitions(frame.columns, mode, options), states, provenance)


def _state_columns(effects: PerturbationEffects, frame: "pd.DataFrame", mode: str) -> dict[str, str]:
    """Columns with mean effects, by the state or class they are about."""
    columns = {"cell": "effect"}
    if mode == "goal_state_shift":
        columns = {str(effects.start): "shift_to_start", str(effects.goal): "Shift_to_goal_end"}
        columns |= {state: shift_column(state, is_goal=False) for state in _alternates(effects)}
    elif mode.startswith("aggregate"):
        columns = {}
    prefix = "probability_shift:"
    columns |= {
        f"probability of {name.removeprefix(prefix)}": name for name in map(str, frame) if name.startswith(prefix)
    }
    return {state: column for state, column in columns.items() if column in frame}
