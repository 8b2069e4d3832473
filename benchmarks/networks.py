"""Benchmark: gene networks by attention and by perturbation, on real cells with the bundled model.

`.venv/bin/python benchmarks/networks.py [FILE.h5ad]`: attention against `gf.tl.attention` over all pairs, the memory of
1,600 regulators by 20,000 targets, and the screen of perturbations against exact ones, with the edges it finds.
"""

import argparse
import sys
import time
import warnings
from dataclasses import replace
from pathlib import Path

import anndata as ad
import numpy as np
import torch

import geneformer as gf
from geneformer.applications.network_evidence import PairMeans
from geneformer.applications.network_inference import attended, edited_alone
from geneformer.applications.network_plan import NetworkGenes, plan_network
from geneformer.applications.network_statistics import Comparison
from geneformer.datasets import pbmc3k_path
from geneformer.inference.cells import open_cells
from geneformer.options import NetworkOptions, RuntimeOptions
from geneformer.perturbation.screen import agreement
from measuring import gibibytes, machine, peak_memory, reply, run_side, save, versions

RUNTIME = RuntimeOptions(device="cpu", progress=False)
EARLIER = 83 / 350
"""Seconds per cell that attention over all pairs took in an earlier version."""

GENES, REGULATORS, TARGETS = 3_500, 1_600, 20_000


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("file", type=Path, nargs="?", default=pbmc3k_path())
    parser.add_argument("--cells", type=int, default=700, help="of the network by attention")
    parser.add_argument("--pair-cells", type=int, default=350, help="of all pairs by `gf.tl.attention`")
    parser.add_argument("--edited-cells", type=int, default=8, help="of the networks by perturbation")
    parser.add_argument("--memory", action="store_true", help="only the part of the memory, in a process of its own")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    if arguments.memory:
        reply(**memory(arguments.file))
        return
    details = {"machine": machine(), "versions": versions("torch", "numpy", "scipy")}
    details["attention"] = attention(arguments.file, arguments.cells, arguments.pair_cells)
    details["memory"] = run_side([sys.executable, __file__, arguments.file, "--memory"], threads=1)
    details["perturbation"] = {
        name: perturbation(arguments.file, arguments.edited_cells, name) for name in ("tf", "all")
    }
    report(details)


def drawn(file: Path, n: int) -> ad.AnnData:
    """Some cells, with the genes found in most of them."""
    adata = ad.read_h5ad(file)
    adata = adata[np.sort(np.random.default_rng(0).permutation(adata.n_obs)[:n])].copy()
    found = np.asarray((adata.X > 0).sum(axis=0)).ravel()
    return adata[:, np.sort(np.argsort(-found, kind="stable")[:GENES])].copy()


def planned(adata, model, **options):
    return plan_network(open_cells(adata, model), model, NetworkOptions(max_cells=None, **options), RUNTIME)


def attention(file: Path, n_cells: int, n_pair_cells: int) -> dict:
    """Processor time per cell of a network by attention, and of attention over all pairs."""
    model, adata = gf.load_model("mini"), drawn(file, n_cells)
    few = adata[:n_pair_cells].copy()
    started = time.process_time()
    gf.tl.attention(few, model=model, device="cpu", progress=False)
    pairs = time.process_time() - started
    plan = planned(adata, model, method="attention")
    started = time.process_time()
    attended(plan, plan.groups[0], None)
    network = time.process_time() - started
    return {
        "cells": n_cells, "pair_cells": n_pair_cells, "genes": adata.n_vars, "sources": len(plan.genes.sources),
        "targets": len(plan.genes.targets), "seconds": network, "pair_seconds": pairs,
        "times_faster": pairs / n_pair_cells / (network / n_cells),
    }  # fmt: skip


def memory(file: Path) -> dict:
    """Most memory of a process that adds up attention of so many regulators and targets."""
    model, adata = gf.load_model("mini"), drawn(file, 50)
    plan = planned(adata, model, method="attention", regulators="all", n_null=0, min_cells=1)
    before = peak_memory()
    tokens = model.vocabulary.token_ids.astype(np.int64)
    found = plan.genes.targets
    more = np.concatenate([found, np.setdiff1d(tokens, found)])
    genes = NetworkGenes(more[:REGULATORS, None], REGULATORS, np.empty((REGULATORS, 0), np.int64), more[:TARGETS])
    group = replace(plan.groups[0], blocks=plan.groups[0].blocks % 2, n_blocks=2)
    evidence = attended(replace(plan, genes=genes), group, None)
    effects = evidence.effects(np.ones(2))
    return {"before": before, "edges": int(effects.size), "found": int(np.isfinite(effects).sum())}


def perturbation(file: Path, n_cells: int, regulators: str) -> dict:
    """Processor time of both ways, and how well the screen finds the strongest edges of the exact network."""
    model, adata = gf.load_model("mini"), drawn(file, n_cells)
    seconds, weights = {}, {}
    for deletions in ("exact", "screen"):
        plan = planned(adata, model, method="perturbation", deletions=deletions, regulators=regulators, min_cells=2)
        started = time.process_time()
        evidence: PairMeans = edited_alone(plan, plan.groups[0])
        seconds[deletions] = time.process_time() - started
        effects = evidence.effects(np.ones(evidence.n_blocks))
        effects[evidence.counts.sum(0) < 2] = np.nan
        weights[deletions] = Comparison(plan.genes.n_regulators, plan.genes.matched, relative=True).weights(effects)
    known = np.isfinite(weights["exact"]) & np.isfinite(weights["screen"])
    exact, screen = (weights[name][known].astype(np.float64) for name in ("exact", "screen"))
    top = {str(k): agreement(screen, exact, k)["highest"] for k in (100, 1000, max(known.sum() // 100, 1))}
    return {
        "cells": n_cells, "regulators": plan.genes.n_regulators, "sources": len(plan.genes.sources),
        "edges": int(known.sum()), "seconds": seconds, "times_faster": seconds["exact"] / seconds["screen"],
        "spearman": agreement(screen, exact, 100)["spearman"], "recall": top,
    }  # fmt: skip


def report(details: dict) -> None:
    """The table, with the aims beside it."""
    read, held = details["attention"], details["memory"]
    earlier = EARLIER / (read["seconds"] / read["cells"])
    for_edges = held["peak_bytes"] - held["before"]
    rows = [
        ("what", "size", "measured", "aim"),
        (
            "attention, per cell, against all pairs",
            f"{read['cells']} cells, {read['sources']:,} by {read['targets']:,} genes",
            f"{read['seconds']:.1f} s; all pairs of {read['pair_cells']} cells {read['pair_seconds']:.1f} s: "
            f"{read['times_faster']:.0f} times as fast; {earlier:.0f} times as all pairs were earlier (83 s)",
            "20 times",
        ),
        (
            "memory",
            f"{REGULATORS:,} by {TARGETS:,} genes",
            f"{gibibytes(held['peak_bytes'])} in all, {gibibytes(for_edges)} of it for the edges",
            "1 GB",
        ),
    ]
    for name, found in details["perturbation"].items():
        recall = ", ".join(f"{share:.2f} of the top {int(k):,}" for k, share in found["recall"].items())
        seconds = found["seconds"]
        rows.append(
            (
                f"screen against exact runs, regulators {name!r}",
                f"{found['cells']} cells, {found['sources']:,} genes edited, {found['edges']:,} edges",
                f"{seconds['screen']:.1f} s, {seconds['exact']:.0f} s: {found['times_faster']:.0f} times as fast; "
                f"finds {recall}; Spearman {found['spearman']:.2f}",
                "20 times",
            )
        )
    notes = [
        "One thread, the precision of the machine, processor time. All pairs are read by `gf.tl.attention`, from the "
        "last layer; the network reads all of them.",
        "Perturbation: effects less those of matched genes, for edges in two cells or more. The exact runs "
        "share their first layer. A screen estimates all deletions of a cell, however few genes are asked for.",
    ]
    save("networks", "Gene networks", rows, notes, details)


if __name__ == "__main__":
    main()
