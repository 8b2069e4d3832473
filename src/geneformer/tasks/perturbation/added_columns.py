"""Columns beside the published ones: effect with interval, matched genes, donors, and the baselines of the field."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from geneformer.options import RankOptions
from geneformer.results.perturbation import PROBABILITY_SHIFT, SHIFT, SIMILARITY, PerturbationEffects
from geneformer.tasks.perturbation.donors import DonorMeans, donors_of
from geneformer.tasks.perturbation.effect_arrays import Floats, Ints, Perturbed, Values
from geneformer.tasks.perturbation.matched_null import Candidates, matched_p_values
from geneformer.tasks.perturbation.mean_intervals import difference_interval, mean_interval
from geneformer.tasks.perturbation.rank_sums import false_discovery_rates

if TYPE_CHECKING:
    import pandas as pd


@dataclass(frozen=True, slots=True, eq=False)
class Measured:
    """What an effect is, for every cell.

    Attributes
    ----------
    perturbed
        The run.
    values
        Effects of its cells, above 0 for what is looked for.
    two_sided
        Whether effects below 0 are of interest too.
    subtracted
        Effects in a null run whose mean is taken off, by row of `perturbed.table`; None for none.
    null
        The null run and its effects, which matched genes are taken from; None for those of the run itself.
    """

    perturbed: Perturbed
    values: Values
    two_sided: bool
    subtracted: Values | None = None
    null: tuple[Perturbed, Values] | None = None

    @property
    def means(self) -> Floats:
        """Mean effect of each perturbation."""
        n = len(self.perturbed)
        means = self.values.means(n)
        return means if self.subtracted is None else means - self.subtracted.means(n)


def added_columns(measured: Measured, options: RankOptions) -> "pd.DataFrame":
    """Further columns, one row per row of the table of perturbations."""
    import pandas as pd

    perturbed, n = measured.perturbed, len(measured.perturbed)
    columns: dict[str, Any] = {"effect": measured.means}
    columns["ci_low"], columns["ci_high"] = _interval(measured, options)
    columns |= _matched(measured, options)
    if options.donor is not None:
        columns |= _over_donors(measured, options.donor)
    columns |= baselines(perturbed)
    columns |= _other_effects(perturbed)
    for kind, shown in ((SHIFT, perturbed.source.goal), (SIMILARITY, None)):
        screened = perturbed.values(kind, shown, exact=False)
        if len(screened):
            columns["screened_mean"], columns["n_screened"] = screened.means(n), screened.counts(n)
    columns |= {name: perturbed.table[name] for name in ("perturbation", "edit")}
    return pd.DataFrame(columns)


def units_of(perturbed: Perturbed, values: Values, donor: str | None) -> Ints:
    """What intervals are over, ``(n,)``: the cell of each effect, or its donor."""
    return values.cell if donor is None else donors_of(perturbed, donor)[0][values.cell]


def _interval(measured: Measured, options: RankOptions) -> tuple[Floats, Floats]:
    n, confidence, seed = len(measured.perturbed), options.confidence, options.seed
    units = units_of(measured.perturbed, measured.values, options.donor)
    if measured.subtracted is None or measured.null is None:
        return mean_interval(measured.values, units, n, confidence=confidence, seed=seed)
    other = units_of(measured.null[0], measured.subtracted, options.donor)
    return difference_interval(
        (measured.values, units), (measured.subtracted, other), n, confidence=confidence, seed=seed
    )


def _matched(measured: Measured, options: RankOptions) -> dict[str, Any]:
    tested = _candidates(measured.perturbed, measured.values)
    pool = tested if measured.null is None else _candidates(*measured.null)
    p, n_matched = matched_p_values(tested, pool, options, two_sided=measured.two_sided)
    return {"matched_p": p, "matched_fdr": false_discovery_rates(p), "n_matched": n_matched}


def _candidates(perturbed: Perturbed, values: Values) -> Candidates:
    table = perturbed.table
    kinds = [f"{edit} {genes.count('+')}" for edit, genes in zip(table["edit"], table["genes"], strict=True)]
    rank = mean_over_genes(perturbed, gene_numbers(perturbed.source, "mean_rank"))
    return Candidates(values, rank, np.array(kinds), table["genes"].to_numpy(dtype=str))


def _over_donors(measured: Measured, donor: str) -> dict[str, Any]:
    n = len(measured.perturbed)
    means = DonorMeans.of(measured.values, donors_of(measured.perturbed, donor)[0])
    if measured.subtracted is not None and measured.null is not None:
        means = _minus_null(means, measured, donor)
        tested = means
    else:
        # A distance is never below 0: it is compared with that of other perturbations in the same donor.
        tested = means if measured.two_sided else means.minus_average()
    average, n_donors = means.averages(n)
    p = tested.p_values(n) if measured.two_sided or measured.subtracted is not None or n > 1 else np.full(n, np.nan)
    return {"donor_mean": average, "n_donors": n_donors, "donor_p": p, "donor_fdr": false_discovery_rates(p)}


def _minus_null(means: DonorMeans, measured: Measured, donor: str) -> DonorMeans:
    """Differences from the null run in donors that are in both."""
    if measured.subtracted is None or measured.null is None:
        return means
    here, there = (donors_of(perturbed, donor) for perturbed in (measured.perturbed, measured.null[0]))
    number = {name: place for place, name in enumerate(here[1])}
    renamed = np.array([number.setdefault(name, len(number)) for name in there[1]], dtype=np.intp)
    return means.minus(DonorMeans.of(measured.subtracted, renamed[there[0]]))


def _other_effects(perturbed: Perturbed) -> dict[str, Floats]:
    """Mean shift towards the start, and of the probability of every class."""
    n, start = len(perturbed), perturbed.source.start
    found = {}
    if start is not None and start in perturbed.targets(SHIFT):
        found["shift_to_start"] = perturbed.values(SHIFT, start).means(n)
    for name in perturbed.targets(PROBABILITY_SHIFT):
        found[f"probability_shift:{name}"] = perturbed.values(PROBABILITY_SHIFT, name).means(n)
    return found


def baselines(perturbed: Perturbed) -> dict[str, Floats]:
    """What is known of a gene without a model: its mean rank, and how its expression differs between the states."""
    effects = perturbed.source
    return {
        "baseline_mean_rank": mean_over_genes(perturbed, gene_numbers(effects, "mean_rank")),
        "baseline_expression_difference": mean_over_genes(perturbed, expression_difference(effects)),
    }


def gene_numbers(effects: PerturbationEffects, column: str) -> Callable[[str], float]:
    """A column of the genes by gene, NaN for others."""
    if column not in effects.genes.schema.names:
        return lambda gene: np.nan
    genes, numbers = (effects.genes.column(name).to_pylist() for name in ("gene", column))
    known = {gene: np.nan if number is None else float(number) for gene, number in zip(genes, numbers, strict=True)}
    return lambda gene: known.get(gene, np.nan)


def expression_difference(effects: PerturbationEffects) -> Callable[[str], float]:
    """Goal minus start, of mean expression where counts are known, else of mean rank; NaN where neither is."""
    for kind in ("expression", "rank"):
        columns = [f"{kind}:{state}" for state in (effects.start, effects.goal)]
        if all(column in effects.genes.schema.names for column in columns):
            start, goal = (gene_numbers(effects, column) for column in columns)
            return lambda gene: goal(gene) - start(gene)
    return lambda gene: np.nan


def mean_over_genes(perturbed: Perturbed, number: Callable[[str], float]) -> Floats:
    """Mean of a number over the genes of each perturbation, ``(G,)``."""
    each = [np.mean([number(gene) for gene in genes.split("+")]) for genes in perturbed.table["genes"]]
    return np.array(each, dtype=np.float64)
