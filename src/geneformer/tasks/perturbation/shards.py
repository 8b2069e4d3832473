"""Effects on the cells of one shard: exact ones; or estimates, and then exact ones of the strongest genes."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import torch
from numpy.typing import NDArray

from geneformer.engine.device import resolve_device, verify_placement
from geneformer.results.perturbation import EXACT, PROBABILITY_SHIFT, SCREEN, SHIFT, SIMILARITY
from geneformer.tasks.perturbation.collecting import EffectRows
from geneformer.tasks.perturbation.edits import Ints, Perturbation
from geneformer.tasks.perturbation.exact import ExactRunner, possible_edits
from geneformer.tasks.perturbation.plan import PerturbationPlan
from geneformer.tasks.perturbation.screen import agreement, head_of, screen_deletions

Finished = Callable[[int], pa.Table]
"""Table of a shard that was finished before."""

TOP = 50
"""Genes among which a screen's recall is told."""


def count_shards(plan: PerturbationPlan) -> int:
    """Shards of a run; a screen goes over the cells twice."""
    return plan.n_shards * (2 if plan.options.method == SCREEN else 1)


def run_shard(plan: PerturbationPlan, shard: int, finished: Finished) -> pa.Table:
    """Effects of one shard.

    Parameters
    ----------
    plan
        The run.
    shard
        Which one. In a screen the first half estimates, and the second half runs the strongest genes exactly.
    finished
        Tables of the shards before it.
    """
    rows = plan.rows_of(shard % plan.n_shards)
    if plan.options.method != SCREEN:
        return exact_effects(plan, rows, [plan.targets.of_cell(cell) for cell in plan.token_rows(rows)])
    if shard < plan.n_shards:
        return screened_effects(plan, rows)
    strongest = strongest_genes(plan, [finished(number) for number in range(plan.n_shards)])
    checked = set(check_rows(plan).tolist())
    wanted = []
    for row, cell in zip(rows.tolist(), plan.token_rows(rows), strict=True):
        everything = plan.targets.of_cell(cell)
        wanted.append([p for p in everything if row in checked or p.tokens[0] in strongest])
    return exact_effects(plan, rows, wanted)


def exact_effects(plan: PerturbationPlan, rows: Ints, perturbations: Sequence[Sequence[Perturbation]]) -> pa.Table:
    """Effects of some perturbations of each of some cells.

    Parameters
    ----------
    plan
        Cells, model and options.
    rows
        Rows of the cells.
    perturbations
        What is done to each of them.
    """
    cells, states = plan.token_rows(rows), plan.state_vectors
    runner = ExactRunner(plan.model, plan.options, plan.runtime, np.stack(list(states.values())) if states else None)
    found = _rows(plan, rows, EXACT)
    runner.run(cells, possible_edits(cells, perturbations, plan.model), found.take)
    return found.table()


def screened_effects(plan: PerturbationPlan, rows: Ints) -> pa.Table:
    """Estimated effects of deleting every gene of some cells."""
    device, model, options = resolve_device(plan.runtime.device), plan.model, plan.options
    model.network.to(device)
    verify_placement(model.network, device)
    vectors = list(plan.state_vectors.values())
    states = torch.as_tensor(np.stack(vectors), device=device) if vectors else None
    found, number = _rows(plan, rows, SCREEN), 0
    for place, cell in enumerate(plan.token_rows(rows)):
        ids = torch.as_tensor(cell, device=device)
        screened = screen_deletions(
            model.encoder,
            ids,
            layer=options.layer,
            pooling=options.pooling,
            special_ids=model.vocabulary.special_ids.tolist(),
            states=states,
            head=None if model.classifier is None else head_of(model.classifier, ids, model.temperature),
            probes=0 if vectors else None,
            seed=options.seed,
        )
        by_token = {perturbation.tokens[0]: perturbation for perturbation in plan.targets.of_cell(cell)}
        similarity = None if screened.similarity is None else screened.similarity[None]
        kinds = (SIMILARITY, similarity), (SHIFT, screened.shifts), (PROBABILITY_SHIFT, screened.probability_shifts)
        for gene, token in enumerate(cell[screened.places].tolist()):
            if token not in by_token:
                continue
            for kind, values in kinds:
                if values is not None:
                    found.add_estimates(number, place, by_token[token], kind, values[:, gene])
            number += 1
    return found.table()


def strongest_genes(plan: PerturbationPlan, screened: Sequence[pa.Table]) -> set[int]:
    """Token ids of the genes with the strongest estimated effect, averaged over the cells that have them."""
    genes, values = _main_effects(plan, pa.concat_tables(screened), SCREEN)
    names, place = np.unique(genes, return_inverse=True)
    means = np.abs(np.bincount(place, weights=values) / np.maximum(np.bincount(place), 1))
    best = names[np.argsort(-means, kind="stable")[: plan.options.verify]]
    token_of = plan.model.vocabulary.token_of
    return {token_of[name] for name in best.tolist()}


def check_rows(plan: PerturbationPlan) -> Ints:
    """Rows of the cells in which a screen runs every gene exactly as well."""
    rows = plan.cells.rows
    n_checked = min(plan.options.check_cells, len(rows))
    return np.sort(np.random.default_rng([plan.options.seed, 1]).choice(rows, n_checked, replace=False))


def screen_agreement(plan: PerturbationPlan, effects: pa.Table) -> dict[str, Any]:
    """What the estimates were worth, in the cells where every gene was run exactly.

    Returns
    -------
    dict
        Over those cells: mean `spearman` correlation, and mean share of the strongest genes that were among the
        strongest estimates (`recall_of_top_k`); and the same for genes averaged over the cells.
    """
    names = plan.tokens.cell_ids[check_rows(plan)].astype(str)
    frame = effects.to_pandas()
    frame = frame[frame["cell_id"].astype(str).isin(names)]
    kind, target = _main(plan)
    frame = frame[(frame["effect"] == kind) & (frame["target"] == target)]
    wide = frame.astype({"method": str, "cell_id": str, "genes": str})
    wide = wide.pivot_table(index=["cell_id", "genes"], columns="method", values="value", sort=False).dropna()
    if len(wide) < 2 or SCREEN not in wide or EXACT not in wide:
        return {"cells": 0}
    if kind == SIMILARITY:
        wide = 1 - wide
    cells = [
        agreement(part[SCREEN].to_numpy(), part[EXACT].to_numpy(), TOP)
        for _, part in wide.groupby(level="cell_id")
        if len(part) > 1
    ]
    means = wide.groupby(level="genes").mean()
    overall = agreement(means[SCREEN].to_numpy(), means[EXACT].to_numpy(), TOP)
    return {
        "cells": len(cells),
        "spearman": float(np.mean([cell["spearman"] for cell in cells])),
        f"recall_of_top_{TOP}": float(np.mean([cell["strongest"] for cell in cells])),
        "spearman_of_means": overall["spearman"],
        f"recall_of_top_{TOP}_of_means": overall["strongest"],
    }


def _rows(plan: PerturbationPlan, rows: Ints, method: str) -> EffectRows:
    names = plan.tokens.cell_ids[rows]
    return EffectRows(names, list(plan.state_vectors), plan.model.classes, plan.model.vocabulary.gene_of, method)


def _main(plan: PerturbationPlan) -> tuple[str, str]:
    """The effect genes are ranked by, and its target."""
    goal = plan.options.goal
    return (SIMILARITY, "") if goal is None else (SHIFT, goal)


def _main_effects(
    plan: PerturbationPlan, table: pa.Table, method: str
) -> tuple[NDArray[np.object_], NDArray[np.float64]]:
    """Genes and values of that effect."""
    frame = table.select(["genes", "effect", "target", "value", "method"]).to_pandas()
    kind, target = _main(plan)
    frame = frame[(frame["effect"] == kind) & (frame["target"] == target) & (frame["method"] == method)]
    values = frame["value"].to_numpy(np.float64)
    return frame["genes"].astype(str).to_numpy(), 1 - values if kind == SIMILARITY else values
