"""Five cell tasks on real data: probe of `mini`, `mini` fine-tuned from it, and the baselines, on the same cells.

    python recipes/cell_tasks.py COUNTS_FOLDER -o docs/results

The files are those `COUNTS_FOLDER` is described by in `docs/results/cell-tasks.md`. Finished rows are kept in
`OUT/cell-tasks.json`, so that an interrupted study goes on where it was; rows of other weights of the model are made
again.
"""

import argparse
import itertools
import json
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import anndata as ad
import numpy as np

import geneformer as gf
from geneformer.files.manifest import array_digest
from geneformer.finetuning.baselines import LOGISTIC
from geneformer.finetuning.metrics import accuracy_and_macro_f1, evaluate_classes, expected_calibration_error
from geneformer.options import ClassifyOptions, FinetuneOptions, RuntimeOptions, SplitOptions

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


PROBE, TUNED, FROM_RANDOM = "linear probe of {}", "{} fine-tuned from the probe", "{} fine-tuned from a random head"
FITS: dict[str, dict[str, Any]] = {
    PROBE: {"strategy": "probe"},
    TUNED: {"max_steps": 30, "tokens_per_batch": 16384, "learning_rate": 3e-4, "eval_steps": 6, "patience": 0},
    FROM_RANDOM: {
        "head_start": "random", "epochs": 4, "tokens_per_batch": 4096, "learning_rate": 1e-3, "weight_decay": 0.01,
        "max_length": 256, "patience": 0,
    },
}  # fmt: skip
"""How a model is fitted, by the name in the table; baselines come with the first."""

LEAST_CELLS = 10
"""Test cells from which on a class counts as one that has to be found."""

DRAWS = 500


def run(task: Task, folder: Path, seed: int, model: str, fits: Sequence[str]) -> dict[str, Any]:
    """Figures of one task for one seed, of the model fitted in some ways, with the baselines."""
    truth: list[np.ndarray] = []
    said: dict[str, list[np.ndarray]] = {}
    seconds: dict[str, float] = defaultdict(float)
    classes: tuple[str, ...] = ()
    short = Path(model).name
    for train, test in task.folds(folder, seed):
        opened: tuple[Any, ...] = ()
        for fit in fits:
            began = time.process_time()
            classifier = gf.CellClassifier(
                model,
                finetuning=FinetuneOptions(seed=seed, **FITS[fit]),
                classify=ClassifyOptions(baselines="cheap" if fit == fits[0] else "none"),
                split=SplitOptions(method="stratified", valid=0.1, test=0.0, seed=seed),
                runtime=RuntimeOptions(progress=False),
            )
            opened = opened or (classifier.open(train), classifier.open(test))  # embedded once for all fits
            report = classifier.fit(opened[0], task.label).evaluate(opened[1])
            seconds[fit.format(short)] += time.process_time() - began
            classes = report.evaluation.classes
            for name, proba in {fit.format(short): report.proba, **classifier.baseline_proba_}.items():
                said.setdefault(name, []).append(proba)
        truth.append(report.truth)
    codes = np.concatenate(truth)
    proba = {name: np.concatenate(parts) for name, parts in said.items()}
    return {
        "task": task.name,
        "seed": seed,
        "model": weights_of(model),
        "classes": list(classes),
        "n_test": len(codes),
        "seconds": {name: round(value, 1) for name, value in seconds.items()},
        "metrics": {name: figures(codes, values, classes, seed) for name, values in proba.items()},
        "differences": differences(codes, proba, TUNED.format(short), seed),
    }


def figures(codes: np.ndarray, proba: np.ndarray, classes: tuple[str, ...], seed: int) -> dict[str, Any]:
    """All figures with intervals, the calibration error, and the F1 of every class."""
    found = evaluate_classes(codes, proba, classes, seed=seed).to_dict()
    per_class = {row["name"]: {"f1": row["f1"], "n": row["n"]} for row in found["per_class"]}
    return {**found["metrics"], "calibration_error": expected_calibration_error(proba, codes), "per_class": per_class}


def differences(codes: np.ndarray, proba: dict[str, np.ndarray], name: str, seed: int) -> dict[str, dict[str, float]]:
    """Macro-F1 of one way less that of each other one: on all cells, and its 95% interval over draws of the cells."""
    if name not in proba:
        return {}
    rng, called = np.random.default_rng(seed), {other: values.argmax(axis=1) for other, values in proba.items()}
    drawn = [np.arange(len(codes)), *(rng.integers(len(codes), size=len(codes)) for _ in range(DRAWS))]
    f1 = {
        other: np.array([accuracy_and_macro_f1(codes[i], said[i])[1] for i in drawn]) for other, said in called.items()
    }
    found = {}
    for other in set(f1) - {name}:
        gain = f1[name] - f1[other]
        low, high = np.percentile(gain[1:], [2.5, 97.5])
        found[other] = {"mean": float(gain[0]), "low": float(low), "high": float(high)}
    return found


def weights_of(model: str) -> str:
    """Short digest of the weights of a model."""
    return array_digest(*(value.float().numpy() for value in gf.load_model(model).network.state_dict().values()))


def main() -> None:
    """Run what is missing, and write the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("counts", type=Path)
    parser.add_argument("-o", "--output", type=Path, required=True)
    parser.add_argument("--model", default="mini")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1])
    parser.add_argument("--tasks", type=int, nargs="+", default=list(range(len(TASKS))))
    parser.add_argument("--fits", type=int, nargs="+", default=[0, 1], help="0 probe, 1 from it, 2 from a random head")
    arguments = parser.parse_args()
    arguments.output.mkdir(parents=True, exist_ok=True)
    stored = arguments.output / "cell-tasks.json"
    entries = json.loads(stored.read_text()) if stored.is_file() else []
    entries = [entry for entry in entries if entry.get("model") == weights_of(arguments.model)]
    fits = [list(FITS)[i] for i in arguments.fits]
    short = Path(arguments.model).name
    for seed, number in itertools.product(arguments.seeds, arguments.tasks):
        task = TASKS[number]
        same = [entry for entry in entries if (entry["task"], entry["seed"]) == (task.name, seed)]
        if same and all(fit.format(short) in same[0]["metrics"] for fit in fits):
            continue
        found = run(task, arguments.counts, seed, arguments.model, fits)
        entries = [entry for entry in entries if entry not in same] + [found]
        stored.write_text(json.dumps(entries, indent=1) + "\n")
        shown = {name: round(measured["macro_f1"]["mean"], 3) for name, measured in found["metrics"].items()}
        print(task.name, seed, shown, found["seconds"], flush=True)
        (arguments.output / "cell-tasks.md").write_text(table(entries, short))
    print((arguments.output / "cell-tasks.md").read_text())


def table(runs: list[dict[str, Any]], model: str) -> str:
    """Mean over the seeds, with their spread, and the widest bootstrap interval of a seed; and the aims counted."""
    lines = [
        "# Five cell tasks", "",
        "Macro-F1 on held-out cells: mean and standard deviation over the seeds; in brackets the lowest and highest "
        "end of their 95% bootstrap intervals over cells. Everything in a row saw the same training and test cells. "
        "The command, from the repository root:", "",
        "    python recipes/cell_tasks.py COUNTS_FOLDER -o docs/results", "",
    ]  # fmt: skip
    names = list(dict.fromkeys(name for entry in runs for name in entry["metrics"]))
    lines += ["| task | seeds | test cells | " + " | ".join(names) + " |", "| --- " * (len(names) + 3) + "|"]
    by_task = {task.name: [entry for entry in runs if entry["task"] == task.name] for task in TASKS}
    by_task = {name: entries for name, entries in by_task.items() if entries}
    for task, entries in by_task.items():
        of = {name: [e["metrics"][name]["macro_f1"] for e in entries if name in e["metrics"]] for name in names}
        cells = [cell(found, len(entries)) for found in of.values()]
        lines.append(f"| {task} | {len(entries)} | {entries[0]['n_test']:,} | " + " | ".join(cells) + " |")
    lines += ["", *(f"- {task.name}: {task.about}." for task in TASKS), ""]
    return "\n".join(lines + details(by_task, model) + aims(by_task, model))


def details(by_task: dict[str, list[dict[str, Any]]], model: str) -> list[str]:
    """What a user pays and gets: time, calibration, the rarest classes; and the gain over the others."""
    ways = [name for name in (PROBE.format(model), TUNED.format(model)) if _has(by_task, name)]
    columns = [f"{figure}, {name}" for figure in ("calibration", "lowest F1", "seconds") for name in ways]
    lines = [
        "## Calibration, rare classes, time", "",
        "Expected calibration error and lowest F1 of a class with at least "
        f"{LEAST_CELLS} test cells, mean over the seeds; processor seconds of all folds of a seed with tests and, in "
        "the first column, baselines.", "",
        "| task | " + " | ".join(columns) + " |",
        "| --- " * (3 * len(ways) + 1) + "|",
    ]  # fmt: skip
    for task, entries in by_task.items():
        row = [f"{_mean(entries, name, _calibration):.3f}" for name in ways]
        row += [f"{_mean(entries, name, _lowest):.2f}" for name in ways]
        row += [f"{np.mean([entry['seconds'][name] for entry in entries]):,.0f}" for name in ways]
        lines.append(f"| {task} | " + " | ".join(row) + " |")
    return [*lines, ""]


def aims(by_task: dict[str, list[dict[str, Any]]], model: str) -> list[str]:
    """How many of the aims are reached, counted."""
    probe, tuned = PROBE.format(model), TUNED.format(model)
    if not (_has(by_task, probe) and _has(by_task, tuned)):
        return []
    n = len(by_task)

    def gains(other: str) -> dict[str, tuple[float, float, float]]:
        ends = ("mean", "low", "high")
        return {
            task: tuple(float(np.mean([entry["differences"][other][end] for entry in entries])) for end in ends)
            for task, entries in by_task.items()
        }  # type: ignore[return-value]

    lines = ["## The aims", ""]
    for other in (probe, LOGISTIC):
        found = gains(other)
        shown = ", ".join(
            f"{task} {gain:+.3f} ({low:+.3f} to {high:+.3f})" for task, (gain, low, high) in found.items()
        )
        reached = sum(gain >= 0 for gain, *_ in found.values())
        below = sum(high < 0 for *_, high in found.values())
        lines.append(
            f"- {tuned} at least as good as {other} in {reached} of {n} tasks, and worse beyond the interval over the "
            f"test cells in {below}. Differences of macro-F1, mean over the seeds: {shown}."
        )
    ahead = sum(_mean(entries, probe, _f1) >= _mean(entries, LOGISTIC, _f1) for entries in by_task.values())
    lines.append(f"- {probe} at least as good as {LOGISTIC} in {ahead} of {n}.")
    for name in (probe, tuned):
        fits = sum(_mean(entries, name, _calibration) <= 0.05 for entries in by_task.values())
        lost = [
            f"{row} ({task})"
            for task, entries in by_task.items()
            for row in entries[0]["classes"]
            if any(_never_found(entry["metrics"][name]["per_class"].get(row)) for entry in entries)
        ]
        lines.append(
            f"- {name}: calibration error of at most 0.05 in {fits} of {n}; classes of {LEAST_CELLS} and more test "
            f"cells that are never found: {', '.join(lost) or 'none'}."
        )
    return [*lines, ""]


def _has(by_task: dict[str, list[dict[str, Any]]], name: str) -> bool:
    return all(name in entry["metrics"] for entries in by_task.values() for entry in entries)


def _mean(entries: list[dict[str, Any]], name: str, figure: Callable[[dict[str, Any]], float]) -> float:
    return float(np.mean([figure(entry["metrics"][name]) for entry in entries]))


def _f1(measured: dict[str, Any]) -> float:
    return float(measured["macro_f1"]["mean"])


def _calibration(measured: dict[str, Any]) -> float:
    return float(measured["calibration_error"])


def _lowest(measured: dict[str, Any]) -> float:
    return min(row["f1"] for row in measured["per_class"].values() if row["n"] >= LEAST_CELLS)


def _never_found(row: dict[str, Any] | None) -> bool:
    return row is not None and row["n"] >= LEAST_CELLS and row["f1"] == 0


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
