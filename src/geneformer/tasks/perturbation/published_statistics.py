"""The published statistics: the same tests, columns and order.

Each returns a table in the order it is to be read in. Its index is the place of a row before sorting, which is also the
row of `Perturbed.table`. Columns and tests are those of the published package; of what it does wrong, the components
of a mixture are told apart by their means, lists have a row for each perturbation, and groups of genes have a name.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from geneformer.errors import MissingExtraError, PerturbationError
from geneformer.results.perturbation import GENE_SIMILARITY, SHIFT, SIMILARITY
from geneformer.tasks.perturbation.effect_arrays import Floats, Ints, Perturbed, Values, column_of, mean_by
from geneformer.tasks.perturbation.rank_sums import (
    against_each_other,
    against_pool,
    false_discovery_rates,
    pool_of,
)

if TYPE_CHECKING:
    import pandas as pd

NAMES = ["Gene", "Gene_name", "Ensembl_ID"]
CELL = "cell_emb"
"""What the published package calls the cell among affected genes."""


def goal_state_shift(perturbed: Perturbed, goal: str, alternates: Sequence[str], fdr: float) -> "pd.DataFrame":
    """Mean shift towards the goal and the alternates, each compared with the shifts of all perturbations.

    Parameters
    ----------
    perturbed
        Effects of a run with states.
    goal, alternates
        Names of states.
    fdr
        Rate below which a row is significant.
    """
    n = len(perturbed)
    ends = {"goal": goal} | {f"alt {state}": state for state in alternates}
    shifts = {end: perturbed.values(SHIFT, state) for end, state in ends.items()}
    # One perturbation is the whole pool: there is nothing to compare it with.
    p = {
        end: against_pool(values, pool_of(values), n) if n > 1 else np.full(n, np.nan) for end, values in shifts.items()
    }
    table = perturbed.table[NAMES].copy()
    for end, values in shifts.items():
        table[shift_column(ends[end], is_goal=end == "goal")] = values.means(n)
    for end in ends:
        table[_of_end(end, "Goal_end_vs_random_pval", "Alt_end_vs_random_pval_", ends)] = p[end]
    for end in ends:
        table[_of_end(end, "Goal_end_FDR", "Alt_end_FDR_", ends)] = false_discovery_rates(p[end])
    table["N_Detections"] = shifts["goal"].counts(n)
    table["Sig"] = (table["Goal_end_FDR"] < fdr).astype(int)
    return table.sort_values(["Sig", "Shift_to_goal_end", "Goal_end_FDR"], ascending=[False, False, True])


def shift_column(state: str, *, is_goal: bool) -> str:
    """Column with the mean shift towards a state."""
    return "Shift_to_goal_end" if is_goal else f"Shift_to_alt_end_{state}"


def _of_end(end: str, of_goal: str, of_alternate: str, ends: dict[str, str]) -> str:
    return of_goal if end == "goal" else f"{of_alternate}{ends[end]}"


def vs_null(perturbed: Perturbed, null: Values, fdr: float) -> "pd.DataFrame":
    """Mean similarity of each perturbation beside that of the same one in a null run.

    Parameters
    ----------
    perturbed
        Effects of a run without states.
    null
        Similarities of the null run, by row of `perturbed.table`.
    fdr
        Rate below which a row is significant.
    """
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
    """Perturbations split into those with and without impact: two Gaussians over their mean similarities.

    Raises
    ------
    PerturbationError
        Fewer than two perturbations with different effects.
    MissingExtraError
        scikit-learn is not installed.
    """
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
    """Which of two Gaussians a similarity belongs to; the one with the lower mean is impact.

    Parameters
    ----------
    means
        Mean similarity of every perturbation, ``(G,)``.

    Raises
    ------
    PerturbationError
        Fewer than two perturbations with different effects.
    MissingExtraError
        scikit-learn is not installed.
    """

    def __init__(self, means: Floats) -> None:
        if len(np.unique(means)) < 2:
            msg = (
                f"A mixture of two components needs perturbations with different effects, but {len(means)} of "
                f"{len(means)} have the same. Perturb more genes, or look at the numbers themselves."
            )
            raise PerturbationError(msg)
        try:
            from sklearn.mixture import GaussianMixture
        except ImportError as error:
            msg = 'mode="mixture_model" needs scikit-learn. Install it with `pip install geneformer[train]`.'
            raise MissingExtraError(msg) from error
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
    """Perturbed and affected genes.

    Parameters
    ----------
    perturbed
        Effects of a run with effects on genes.

    Attributes
    ----------
    values
        Similarities by pair; those of cells, where the run has them, come as one more affected "gene".
    group
        Perturbation of each pair, ``(P,)``.
    affected
        Ensembl id of the affected gene of each pair, or `CELL`, ``(P,)``.
    """

    def __init__(self, perturbed: Perturbed) -> None:
        cells, genes = perturbed.values(SIMILARITY), perturbed.values(GENE_SIMILARITY)
        targets, names = perturbed.pairs(GENE_SIMILARITY)
        targets = np.concatenate([np.full(len(cells), len(names)), targets])
        group = np.concatenate([cells.group, genes.group])
        keys, first, place = np.unique(group * (len(names) + 1) + targets, return_index=True, return_inverse=True)
        order = np.argsort(first)
        number = np.empty(len(keys), dtype=np.intp)
        number[order] = np.arange(len(keys))
        self.values = Values(
            number[place.reshape(-1)],
            np.concatenate([cells.cell, genes.cell]),
            np.concatenate([cells.value, genes.value]),
        )
        self.group, code = keys[order] // (len(names) + 1), keys[order] % (len(names) + 1)
        self.affected = np.array([*names, CELL], dtype=object)[code]

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
    affected = np.full((3, n), None, dtype=object)
    affected[0, is_cell] = CELL
    affected[0, ~is_cell] = perturbed.names.tokens(genes)
    affected[1, ~is_cell] = perturbed.names.symbols(genes)
    affected[2, ~is_cell] = genes
    columns = {"Perturbed": column_of(named["Gene"].tolist()), "Gene_name": named["Gene_name"]}
    columns |= {"Ensembl_ID": named["Ensembl_ID"]}
    columns |= dict(zip(("Affected", "Affected_gene_name", "Affected_Ensembl_ID"), affected, strict=True))
    columns |= {"Cosine_sim_mean": mean, "Cosine_sim_stdev": deviation, "N_Detections": values.counts(n)}
    table = pd.DataFrame(columns)
    parts = [table[some].sort_values("Cosine_sim_mean", kind="stable") for some in (is_cell, ~is_cell)]
    ordered: pd.DataFrame = pd.concat(parts)
    return ordered
