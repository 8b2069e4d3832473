"""Benchmark: the screen of all deletions against running them all, on real cells with the bundled model.

`.venv/bin/python benchmarks/screening.py FILE.h5ad`: control and stimulated cells (Kang et al., 2018), told apart by
the column `condition`.
"""

import argparse
import time
from dataclasses import replace
from pathlib import Path

import anndata as ad
import numpy as np
import torch

from geneformer.inference.cells import tokens_for
from geneformer.models.loading import load_model
from geneformer.options import PerturbOptions, RuntimeOptions
from geneformer.perturbation.exact import PerturbedModel
from geneformer.perturbation.plan import plan_perturbation
from geneformer.perturbation.run import exact_effects, screened_effects
from geneformer.perturbation.screen import agreement
from measuring import machine, save, versions

TOP = 50


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("file", type=Path)
    parser.add_argument("--cells", type=int, default=10)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    model = PerturbedModel.pretrained(load_model("mini"))
    adata = ad.read_h5ad(arguments.file)
    adata = adata[np.random.default_rng(arguments.seed).permutation(adata.n_obs)[:600]].copy()
    tokens, _ = tokens_for(adata, model, counts_layer=None, gene_ids=None, keep=("condition",))
    runtime = RuntimeOptions(device="cpu", dtype="float32", progress=False)
    details = {"machine": machine(), "versions": {"geneformer": _versions()}}
    rows = [
        ("effect", "layer", "Spearman, mean and worst cell", f"top {TOP} found", "of genes averaged", "times faster")
    ]
    for states in (("ctrl", "stim"), None):
        for layer in (-1, 0):
            options = PerturbOptions(layer=layer, max_cells=arguments.cells, max_state_cells=200, seed=arguments.seed)
            if states:
                options = replace(options, start=states[0], goal=states[1], state_key="condition")
            found = compare(plan_perturbation(tokens, model, options, runtime))
            details[f"{'shift' if states else 'similarity'} {layer}"] = found
            rows.append(
                (
                    "shift to stim" if states else "similarity", str(layer),
                    f"{np.mean(found['spearman']):.3f}, {min(found['spearman']):.3f}",
                    f"{np.mean(found['recall']):.2f}",
                    f"{found['means']['spearman']:.3f}, {found['means']['strongest']:.2f}",
                    f"{found['exact_seconds'] / found['screen_seconds']:.0f}",
                )
            )  # fmt: skip
    notes = [
        f"Deletion of every gene of {arguments.cells} cells ({np.mean(details['shift -1']['genes']):.0f} genes on "
        "average), float32, one thread, processor time. Shifts towards two states at once; the exact runs share their "
        "first layer.",
        "Aims: Spearman 0.9, recall 0.8, 100 times. The time of a screen grows with the square of a cell's length, "
        "that of exact runs with its cube.",
    ]
    save("screening", "Screening all deletions of a cell", rows, notes, details)


def compare(plan) -> dict:
    """Screen and exact effects of the same cells, and the processor time of both."""
    plan.state_vectors  # noqa: B018  computed before the clock starts
    spearman, recall, genes, seconds = [], [], [], {"screen": 0.0, "exact": 0.0}
    frames = []
    for row in plan.cells.rows:
        one = np.array([row])
        started = time.process_time()
        screened = screened_effects(plan, one)
        seconds["screen"] += time.process_time() - started
        started = time.process_time()
        exact = exact_effects(plan, one, [plan.targets.of_cell(cell) for cell in plan.token_rows(one)])
        seconds["exact"] += time.process_time() - started
        pair = [_main_effect(table, plan.options.goal) for table in (screened, exact)]
        both = pair[0].to_frame("screen").join(pair[1].to_frame("exact"), how="inner")
        told = agreement(both["screen"].to_numpy(), both["exact"].to_numpy(), TOP)
        spearman.append(told["spearman"])
        recall.append(told["strongest"])
        genes.append(len(both))
        frames.append(both)
    import pandas as pd

    means = pd.concat(frames).groupby(level=0).mean()
    overall = agreement(means["screen"].to_numpy(), means["exact"].to_numpy(), TOP)
    return {
        "spearman": spearman, "recall": recall, "genes": genes, "means": overall,
        "screen_seconds": seconds["screen"], "exact_seconds": seconds["exact"],
    }  # fmt: skip


def _main_effect(table, goal):
    frame = table.to_pandas()
    kind, target = ("similarity", "") if goal is None else ("shift", goal)
    frame = frame[(frame["effect"] == kind) & (frame["target"] == target)]
    values = frame.set_index(frame["genes"].astype(str))["value"].astype(float)
    return 1 - values if goal is None else values


def _versions() -> str:
    return ", ".join(f"{name} {version}" for name, version in versions("torch", "transformers", "numpy").items())


if __name__ == "__main__":
    main()
