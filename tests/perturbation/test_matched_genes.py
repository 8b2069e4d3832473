"""Genes perturbed beside the named ones, and the p-values a targeted run gets from them."""

import numpy as np
import pytest

from geneformer.options import PerturbOptions, RankOptions
from geneformer.perturbation.plan import find_targets
from geneformer.perturbation.run import run_plan
from geneformer.perturbation.statistics import rank_effects
from small_genes import common_genes
from small_plans import V1, planned, small_cells, small_model

FTL, COTL1 = common_genes(small_cells(), 2)


def mean_ranks(tokens):
    """Relative ranks by gene, one cell after another."""
    ranks = {}
    for row in range(len(tokens)):
        cell = tokens[row].tolist()
        for place, token in enumerate(cell):
            ranks.setdefault(token, []).append(place / (len(cell) - 1))
    return {token: (np.mean(values), len(values)) for token, values in ranks.items()}


@pytest.mark.parametrize("edit", ["delete", "overexpress", "inhibit"])
def test_they_are_those_of_nearest_rank(edit):
    tokens = small_cells()
    options = PerturbOptions(genes=(FTL,), edit=edit, dose=0.5, matched_genes=4)
    named, *matched = find_targets(tokens, small_model(), options).named
    ranks = mean_ranks(tokens)
    own, n_own = ranks[named.tokens[0]]
    near = sorted(
        (abs(rank - own), token) for token, (rank, n) in ranks.items() if token != named.tokens[0] and n >= 0.5 * n_own
    )
    assert [entry.tokens[0] for entry in matched] == [token for _, token in near[:4]]
    assert {(entry.edit, entry.steps[0].dose) for entry in matched} == {(named.edit, 0.5)}
    assert [entry.name for entry in matched] == [str(V1.gene_of[entry.tokens[0]]) for entry in matched]


def test_no_gene_twice_and_every_name_once():
    options = PerturbOptions(genes=(FTL, COTL1, f"overexpress:{FTL}", f"{FTL}+{COTL1}"), matched_genes=3)
    named = find_targets(small_cells(), small_model(), options).named
    assert len(named) == 4 + 3 * 3  # a group is not matched
    assert len({entry.name for entry in named}) == len(named)
    assert len({(entry.edit, entry.tokens) for entry in named}) == len(named)


def test_a_targeted_run_has_matched_p_values():
    without = rank_effects(run_plan(planned(genes=(FTL,))), RankOptions(mode="aggregate"))
    assert "matched_p" not in without.frame
    effects = run_plan(planned(genes=(FTL,), start="sick", goal="well", matched_genes=8))
    frame = rank_effects(effects, RankOptions(mode="goal_state_shift", max_rank_difference=1.0)).frame
    row = frame[frame["perturbation"] == FTL].iloc[0]
    n_others = len(frame) - 1  # few genes are found in enough of these cells
    assert n_others > 3
    assert row["n_matched"] == n_others
    assert 2 / (n_others + 1) <= row["matched_p"] <= 1
