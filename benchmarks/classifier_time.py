"""How long a first classifier takes, and what it is worth: the defaults of before and of now, on the same cells.

    python benchmarks/classifier_time.py CELLS.h5ad --label cell_type

One process, one thread; processor seconds do not depend on what else the machine does.
"""

import argparse
import os
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

os.environ["OMP_NUM_THREADS"] = "1"

import anndata as ad
import numpy as np

import geneformer as gf
from measuring import machine, save, versions

FIGURES = ("macro_f1", "accuracy")
ASKED = {"max_length": 512, "test": 0.3}
BEFORE = {"strategy": "full", "head_start": "random", "patience": 0, "baselines": "all"}
WAYS: dict[str, dict[str, Any]] = {
    "before: epochs=5": {"epochs": 5, **BEFORE},
    "now: epochs=5": {"epochs": 5},
    'now: epochs=5, strategy="last_layer"': {"epochs": 5, "strategy": "last_layer"},
    "now: nothing set": {},
}


def measured(cells: ad.AnnData, label: str, options: dict[str, Any]) -> dict[str, Any]:
    """Times and held-out figures of one classifier."""
    wall, processor = time.perf_counter(), time.process_time()
    fitted = gf.CellClassifier("mini", progress=False, **ASKED, **options).fit(cells, label)
    metrics = fitted.report_.evaluation.metrics
    return {
        "seconds": time.perf_counter() - wall,
        "processor_seconds": time.process_time() - processor,
        "strategy": fitted.strategy_,
        "steps": fitted.result_.steps,
        **{name: asdict(metrics[name]) for name in FIGURES},
    }


def main() -> None:
    """Measure all ways one after the other."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("cells", type=Path)
    parser.add_argument("--label", default="cell_type")
    parser.add_argument("--number", type=int, default=0, help="cells used, drawn at random; 0 for all")
    arguments = parser.parse_args()
    about = machine()
    cells = ad.read_h5ad(arguments.cells)
    if arguments.number:
        cells = cells[np.random.default_rng(0).choice(cells.n_obs, arguments.number, replace=False)].copy()
    measured(cells[:100].copy(), arguments.label, {"strategy": "probe"})  # libraries are loaded
    found = {}
    for way, options in WAYS.items():
        found[way] = measured(cells, arguments.label, options)
        print(way, found[way], flush=True)
    first = next(iter(found.values()))
    rows = [("way", "processor seconds", "of before", "optimizer steps", "macro-F1", "accuracy")]
    for way, one in found.items():
        shares = ["{mean:.3f} ({low:.3f} to {high:.3f})".format(**one[name]) for name in FIGURES]
        share = one["processor_seconds"] / first["processor_seconds"]
        rows.append((way, f"{one['processor_seconds']:.0f}", f"{share:.2f}", f"{one['steps']}", *shares))
    notes = [
        f"{cells.n_obs:,} cells of {arguments.cells.name}, {cells.obs[arguments.label].nunique()} classes, "
        "`gf.CellClassifier(max_length=512, test=0.3)` with what is in the first column. Tokenizing, the baselines "
        "that each has by default, and the report are part of the time.",
        "Before: a random head, no early stopping, and the same network trained from random weights for the report.",
    ]
    details = {"machine": about, "versions": {"packages": versions("torch", "scikit-learn")}, "ways": found}
    save("classifier_time", "A first classifier of cells: time and worth", rows, notes, details)


if __name__ == "__main__":
    main()
