"""Two tasks with one encoder against one encoder each: interferon response and cell type, one donor held out in turn.

python recipes/two_tasks.py COUNTS_FOLDER -o docs/results
"""

import argparse
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import anndata as ad
import numpy as np

import geneformer as gf
from geneformer.finetuning.metrics import evaluate_classes
from geneformer.options import ClassifyOptions, FinetuneOptions, MultiTaskOptions, RuntimeOptions, SplitOptions
from geneformer.options._fields import read_options

HERE = Path(__file__).resolve().parent
TASKS = ["condition", "cell_type"]


def study(folder: Path, seed: int, options: FinetuneOptions) -> dict[str, Any]:
    """Both ways for one seed; the predictions of both folds are pooled."""
    cells = ad.read_h5ad(folder / "kang_ifnb_14k.h5ad")
    cells = cells[cells.obs["donor"].astype(str) != "unknown"].copy()
    donor = cells.obs["donor"].astype(str).str[-3:]
    options, quiet = replace(options, seed=seed), RuntimeOptions(progress=False)
    split = SplitOptions(method="stratified", valid=0.1, test=0.0, seed=seed)
    truth: dict[str, list] = {task: [] for task in TASKS}
    said: dict[str, dict[str, list]] = {task: {} for task in TASKS}
    classes = {}
    for name in sorted(set(donor)):
        train, test = cells[(donor != name).to_numpy()].copy(), cells[(donor == name).to_numpy()].copy()
        together = {
            "both, equal weights": MultiTaskOptions(baselines="none"),
            "both, learnt weights": MultiTaskOptions(baselines="none", learn_task_weights=True),
        }
        for way, multi in together.items():
            model = gf.MultiTaskClassifier("mini", finetuning=options, multi_task=multi, split=split, runtime=quiet)
            for task, report in model.fit(train, TASKS).evaluate(test).items():
                said[task].setdefault(way, []).append(report.proba)
        for task in TASKS:
            single = gf.CellClassifier(
                "mini", finetuning=options, classify=ClassifyOptions(baselines="cheap"), split=split, runtime=quiet
            )
            report = single.fit(train, task).evaluate(test)
            truth[task].append(report.truth)
            classes[task] = report.evaluation.classes
            for way, proba in {"one each": report.proba, **single.baseline_proba_}.items():
                said[task].setdefault(way, []).append(proba)
    return {
        "seed": seed,
        "metrics": {
            task: {
                way: evaluate_classes(
                    np.concatenate(truth[task]), np.concatenate(proba), classes[task], seed=seed
                ).to_dict()["metrics"]
                for way, proba in said[task].items()
            }
            for task in TASKS
        },
    }


def main() -> None:
    """Run the seeds, write JSON and table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("counts", type=Path)
    parser.add_argument("-o", "--output", type=Path, required=True)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    arguments = parser.parse_args()
    options = FinetuneOptions(**read_options(HERE / "cells.toml", FinetuneOptions)[FinetuneOptions])
    arguments.output.mkdir(parents=True, exist_ok=True)
    runs = []
    for seed in arguments.seeds:
        runs.append(study(arguments.counts, seed, options))
        (arguments.output / "two-tasks.json").write_text(json.dumps(runs, indent=1) + "\n")
        print(seed, {t: {w: round(m["macro_f1"]["mean"], 3) for w, m in ways.items()}
                     for t, ways in runs[-1]["metrics"].items()})  # fmt: skip
    ways = list(dict.fromkeys(way for run in runs for task in TASKS for way in run["metrics"][task]))
    lines = [
        "# Two tasks at once, or one each", "",
        "Macro-F1 over 973 blood cells of two donors, learnt on one donor and tested on the other, both ways: mean and "
        "standard deviation over the seeds; in brackets the lowest and highest end of their 95% bootstrap intervals. "
        "`python recipes/two_tasks.py COUNTS_FOLDER -o docs/results`, options of `recipes/cells.toml`.", "",
        "| task | " + " | ".join(ways) + " |", "| --- " * (len(ways) + 1) + "|",
    ]  # fmt: skip
    for task in TASKS:
        entries = []
        for way in ways:
            found = [run["metrics"][task][way]["macro_f1"] for run in runs]
            means = np.array([entry["mean"] for entry in found])
            spread = means.std(ddof=1) if len(means) > 1 else 0.0
            low, high = min(e["low"] for e in found), max(e["high"] for e in found)
            entries.append(f"{means.mean():.3f} ± {spread:.3f} ({low:.3f} to {high:.3f})")
        lines.append(f"| {task} | " + " | ".join(entries) + " |")
    (arguments.output / "two-tasks.md").write_text("\n".join([*lines, ""]))


if __name__ == "__main__":
    main()
