"""Five cell tasks on real data, each with three seeds: fine-tuned `mini` and its baselines on the same cells.

    python recipes/cell_tasks.py COUNTS_FOLDER -o docs/results

The files are those `COUNTS_FOLDER` is described by in `docs/results/cell-tasks.md`. Finished runs are kept in
`OUT/cell-tasks.json`, so that an interrupted study goes on where it was.
"""

import argparse
import itertools
import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import anndata as ad
import numpy as np

import geneformer as gf
from geneformer.finetuning.metrics import evaluate_classes
from geneformer.options import ClassifyOptions, FinetuneOptions, RuntimeOptions, SplitOptions
from geneformer.options._fields import read_options

HERE = Path(__file__).resolve().parent
Fold = tuple[ad.AnnData, ad.AnnData]


@dataclass(frozen=True)
class Task:
    """One question, and how its cells are split.

    Attributes
    ----------
    name, label
        Name of the task, and the column of the classes.
    folds
        Training and test cells for a seed, once or several times; the predictions of all folds are pooled.
    about
        How the cells were split.
    """

    name: str
    label: str
    folds: Callable[[Path, int], Iterator[Fold]]
    about: str


HARMONIZED = {
    "CD4 T cells": "T_CD4", "CD8 T cells": "T_CD8", "B cells": "B", "NK cells": "NK",
    "CD14+ Monocytes": "MNP", "FCGR3A+ Monocytes": "MNP", "Dendritic cells": "MNP",
}  # fmt: skip
"""PBMC3k's names of the types PBMC4k has; megakaryocytes have no counterpart and are left out."""


def chemistries(folder: Path, seed: int) -> Iterator[Fold]:
    """Learnt on 10x v1 cells, tested on v2 cells."""
    old, new = read(folder, "pbmc3k"), read(folder, "pbmc4k_soupx")
    old.obs["cell_type"] = old.obs["cell_type"].astype(str).map(HARMONIZED)
    yield old[old.obs["cell_type"].notna()].copy(), new[new.obs["cell_type"].astype(str) != "?"].copy()


def sorted_cells(folder: Path, seed: int) -> Iterator[Fold]:
    """A third of the cells of every class held out at random."""
    yield held_out(read(folder, "pbmc14k_sorted_scminer"), "cell_type", seed)


def donors_swapped(folder: Path, seed: int) -> Iterator[Fold]:
    """Learnt on one donor's two samples and tested on the other's, both ways."""
    cells = read(folder, "kang_ifnb_14k")
    cells = cells[cells.obs["donor"].astype(str) != "unknown"].copy()
    donor = cells.obs["donor"].astype(str).str[-3:]
    for name in sorted(set(donor)):
        yield cells[(donor != name).to_numpy()].copy(), cells[(donor == name).to_numpy()].copy()


def donors_left_out(folder: Path, seed: int) -> Iterator[Fold]:
    """One patient and one healthy donor left out at a time."""
    cells = read(folder, "ctcl_skin")
    donors = cells.obs.groupby("disease", observed=True)["donor"].unique()
    for pair in zip(*(sorted(map(str, names)) for names in donors), strict=True):
        out = cells.obs["donor"].astype(str).isin(pair).to_numpy()
        yield cells[~out].copy(), cells[out].copy()


def organs(folder: Path, seed: int) -> Iterator[Fold]:
    """A third of the cells of every organ held out at random; nearly every organ is one batch."""
    yield held_out(read(folder, "geact_fetal"), "tissue", seed)


TASKS = (
    Task("blood cell types, other chemistry", "cell_type", chemistries, "learnt on PBMC3k (v1), tested on PBMC4k (v2)"),
    Task("sorted blood cell types", "cell_type", sorted_cells, "a third of each class held out at random"),
    Task("interferon response", "condition", donors_swapped, "learnt on one donor, tested on the other, both ways"),
    Task("skin lymphoma", "disease", donors_left_out, "one patient and one healthy donor left out, three times"),
    Task("fetal organ", "tissue", organs, "a third of each organ held out at random"),
)


def read(folder: Path, name: str) -> ad.AnnData:
    """One file of counts."""
    return ad.read_h5ad(folder / f"{name}.h5ad")


def held_out(cells: ad.AnnData, label: str, seed: int) -> Fold:
    """Training and test cells, a third of every class in the test."""
    rng = np.random.default_rng(seed)
    test = np.zeros(cells.n_obs, dtype=bool)
    for name in cells.obs[label].unique():
        rows = np.flatnonzero((cells.obs[label] == name).to_numpy())
        test[rng.choice(rows, len(rows) // 3, replace=False)] = True
    return cells[~test].copy(), cells[test].copy()


FITS: dict[str, dict[str, Any]] = {
    "fine-tuned {}": {"head_start": "random"},
    "linear probe of {}": {"strategy": "probe", "max_length": None},
    "{} fine-tuned from the probe": {"learning_rate": 1e-4, "eval_steps": 20},
}
"""How a model is fitted, by the name in the table, and what differs from the options; baselines come with the first."""


def run(task: Task, folder: Path, seed: int, options: FinetuneOptions, model: str, fit: str) -> dict[str, Any]:
    """Figures of one task for one seed, of the model fitted in one way, with the baselines in the first."""
    truth: list[np.ndarray] = []
    said: dict[str, list[np.ndarray]] = {}
    classes: tuple[str, ...] = ()
    for train, test in task.folds(folder, seed):
        classifier = gf.CellClassifier(
            model,
            finetuning=replace(options, seed=seed, **FITS[fit]),
            classify=ClassifyOptions(baselines="all" if fit == next(iter(FITS)) else "none"),
            split=SplitOptions(method="stratified", valid=0.1, test=0.0, seed=seed),
            runtime=RuntimeOptions(progress=False),
        ).fit(train, task.label)
        report = classifier.evaluate(test)
        classes = report.evaluation.classes
        truth.append(report.truth)
        for name, proba in {fit.format(Path(model).name): report.proba, **classifier.baseline_proba_}.items():
            said.setdefault(name, []).append(proba)
    codes = np.concatenate(truth)
    rows = {
        name: evaluate_classes(codes, np.concatenate(proba), classes, seed=seed).to_dict()["metrics"]
        for name, proba in said.items()
    }
    return {"task": task.name, "seed": seed, "classes": list(classes), "n_test": len(codes), "metrics": rows}


def main() -> None:
    """Run what is missing, and write the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("counts", type=Path)
    parser.add_argument("-o", "--output", type=Path, required=True)
    parser.add_argument("--model", default="mini")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--tasks", type=int, nargs="+", default=list(range(len(TASKS))))
    parser.add_argument("--fits", type=int, nargs="+", default=list(range(len(FITS))))
    arguments = parser.parse_args()
    options = FinetuneOptions(**read_options(HERE / "cells.toml", FinetuneOptions)[FinetuneOptions])
    arguments.output.mkdir(parents=True, exist_ok=True)
    stored = arguments.output / "cell-tasks.json"
    runs = json.loads(stored.read_text()) if stored.is_file() else []
    entries = {(entry["task"], entry["seed"]): entry for entry in runs}
    for fit, seed, number in itertools.product(
        [list(FITS)[i] for i in arguments.fits], arguments.seeds, arguments.tasks
    ):
        task = TASKS[number]
        entry = entries.get((task.name, seed))
        if entry is not None and fit.format(Path(arguments.model).name) in entry["metrics"]:
            continue
        found = run(task, arguments.counts, seed, options, arguments.model, fit)
        if entry is None:
            runs.append(found)
            entries[task.name, seed] = found
        else:
            entry["metrics"] |= found["metrics"]
        stored.write_text(json.dumps(runs, indent=1) + "\n")
        print(
            task.name, seed, {name: round(m["macro_f1"]["mean"], 3) for name, m in found["metrics"].items()}, flush=True
        )
    (arguments.output / "cell-tasks.md").write_text(table(runs))


def table(runs: list[dict[str, Any]]) -> str:
    """Mean over the seeds, with their spread, and the widest bootstrap interval of a seed."""
    lines = [
        "# Five cell tasks", "",
        "Macro-F1 on held-out cells: mean and standard deviation over the seeds; in brackets the lowest and highest "
        "end of their 95% bootstrap intervals over cells. Everything in a row saw the same training and test cells. "
        "The command, from the repository root, with the options of `recipes/cells.toml`; fine-tuning started from a "
        "random head, the probe reads all genes a model has positions for:", "",
        "    python recipes/cell_tasks.py COUNTS_FOLDER -o docs/results", "",
    ]  # fmt: skip
    names = list(dict.fromkeys(name for entry in runs for name in entry["metrics"]))
    lines += ["| task | seeds | test cells | " + " | ".join(names) + " |", "| --- " * (len(names) + 3) + "|"]
    for task in TASKS:
        entries = [entry for entry in runs if entry["task"] == task.name]
        if entries:
            of = {name: [e["metrics"][name]["macro_f1"] for e in entries if name in e["metrics"]] for name in names}
            cells = [cell(found, len(entries)) for found in of.values()]
            lines.append(f"| {task.name} | {len(entries)} | {entries[0]['n_test']:,} | " + " | ".join(cells) + " |")
    lines += ["", *(f"- {task.name}: {task.about}." for task in TASKS), ""]
    return "\n".join(lines)


def cell(found: list[dict[str, float]], n_seeds: int) -> str:
    """One entry of the table."""
    if not found:
        return ""
    means = np.array([entry["mean"] for entry in found])
    low, high = min(entry["low"] for entry in found), max(entry["high"] for entry in found)
    spread = f" ± {means.std(ddof=1):.3f}" if len(means) > 1 else ""
    seeds = "" if len(means) == n_seeds else f", {len(means)} of the seeds"
    return f"{means.mean():.3f}{spread} ({low:.3f} to {high:.3f}){seeds}"


if __name__ == "__main__":
    main()
