"""How to go on from the linear probe: rates, layers and stopping rules, by what held-out cells say at every evaluation.

    python benchmarks/probe_start.py COUNTS_FOLDER

Few cells and short ones, so that many ways are tried in minutes. Every run is measured on validation and on test cells
before the first step and at every evaluation after it; what a stopping rule would have kept is read off these curves.
Runs that are finished are kept in `results/probe_start.json`.
"""

import argparse
import itertools
import json
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import anndata as ad
import numpy as np
from transformers import TrainerCallback

import geneformer as gf
from geneformer.finetuning.metrics import accuracy_and_macro_f1
from geneformer.finetuning.splits import Split
from geneformer.inference.cells import Cells, open_cells
from measuring import RESULTS, command_line, machine

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "recipes"))
import cell_tasks

TASKS = (1, 3, 4)
"""Sorted blood, skin lymphoma by donors, fetal organs."""

LENGTH, TRAIN, VALID, TEST = 256, 300, 60, 400
WAYS: dict[str, dict[str, Any]] = {
    "everything": {},
    "layer decay 0.5": {"layer_decay": 0.5},
    "last layer": {"strategy": "last_layer"},
}
RATES = (1e-5, 1e-4, 3e-4, 1e-3)


class Curve(TrainerCallback):
    """Validation and test figures at every evaluation."""

    def __init__(self, classifier: gf.CellClassifier, tested: Cells, truth: np.ndarray) -> None:
        self.classifier, self.tested, self.truth = classifier, tested, truth
        self.lines: list[dict[str, float]] = []

    def on_evaluate(
        self, args: Any, state: Any, control: Any, model: Any = None, metrics: Any = None, **_: Any
    ) -> None:
        """Predict the test cells."""
        training = model.training
        logits = next(iter(self.classifier.outputs(self.tested, network=model).values())).astype(np.float64)
        model.train(training)
        logits -= logits.max(axis=1, keepdims=True)
        own = logits[np.arange(len(logits)), self.truth] - np.log(np.exp(logits).sum(axis=1))
        accuracy, macro_f1 = accuracy_and_macro_f1(self.truth, logits.argmax(axis=1))
        named = {f"valid_{name.removeprefix('eval_')}": float(value) for name, value in metrics.items()}
        test = {"test_loss": -own.mean(), "test_accuracy": accuracy, "test_macro_f1": macro_f1}
        self.lines.append({"step": state.global_step, **named, **{name: float(value) for name, value in test.items()}})


def parts(task: cell_tasks.Task, folder: Path, seed: int) -> tuple[ad.AnnData, Split]:
    """Some cells of the task's first fold in one object, with training, validation and test rows."""
    rng = np.random.default_rng(seed)
    train, test = next(task.folds(folder, seed))
    learnt = rng.choice(train.n_obs, TRAIN + VALID, replace=False)
    held_out = rng.choice(test.n_obs, min(TEST, test.n_obs), replace=False)
    cells = ad.concat([train[learnt], test[held_out]], join="inner", merge="same")
    cells.obs_names_make_unique()
    rows = np.arange(cells.n_obs)
    return cells, Split(rows[:TRAIN], rows[TRAIN : TRAIN + VALID], rows[TRAIN + VALID :], method="given")


def run(task: cell_tasks.Task, folder: Path, seed: int, way: str, rate: float, steps: int) -> dict[str, Any]:
    """The curves of one training."""
    cells, split = parts(task, folder, seed)
    classifier = gf.CellClassifier(
        "mini",
        learning_rate=rate,
        max_length=LENGTH,
        max_steps=steps,
        tokens_per_batch=4096,
        eval_steps=max(steps // 10, 1),
        baselines="none",
        calibrate=False,
        progress=False,
        seed=seed,
        **WAYS[way],
    )
    opened = open_cells(cells, classifier.base())
    names = np.sort(np.unique(cells.obs[task.label].astype(str)))
    truth = np.searchsorted(names, opened.column(task.label).astype(str).to_numpy()[split.test])
    tested = Cells.of(opened.tokens.take(split.test))
    classifier._pairing = classifier._pair()  # what tokens are read as, before the fit is done
    curve = Curve(classifier, tested, truth)
    started = time.perf_counter()
    classifier.fit(
        opened,
        task.label,
        split_rows=Split(split.train, split.valid, split.test[:0], method="given"),
        callbacks=[curve],
    )
    assert list(classifier.classes_) == names.tolist()
    return {
        "task": task.name, "seed": seed, "way": way, "rate": rate, "steps": steps, "classes": len(names),
        "seconds": round(time.perf_counter() - started, 1), "curve": curve.lines,
    }  # fmt: skip


def table(about: dict[str, Any]) -> str:
    """Gain in macro-F1 of the test cells over the probe, by way and rate."""
    lines = [
        "# From the probe onwards", "",
        "Macro-F1 on test cells less that of the probe the training starts from: mean over tasks and seeds, lowest and "
        'highest in brackets. "Kept" is the evaluation with the least loss on validation cells, the start among them, '
        'as in the package; "kept, one evaluation a pass" looks at fewer of them; "end" is after the last step.', "",
        "| trained | rate | runs | kept | kept, one evaluation a pass | end |", "| --- " * 6 + "|",
    ]  # fmt: skip
    for way, rate in itertools.product(WAYS, RATES):
        runs = [entry for entry in about["runs"] if (entry["way"], entry["rate"]) == (way, rate)]
        columns = [text([gain(entry["curve"], pick) for entry in runs]) for pick in (kept, kept_by_pass, end)]
        if runs:
            lines.append(f"| {way} | {rate:g} | {len(runs)} | " + " | ".join(columns) + " |")
    lines += [
        "", f"* {TRAIN} training, {VALID} validation and up to {TEST} test cells of sorted blood, skin lymphoma by "
        f"donors and fetal organs, {LENGTH} genes a cell, {about['runs'][0]['steps']} steps of 4,096 tokens.",
        f"* Command: `{about['command']}`", "",
    ]  # fmt: skip
    return "\n".join(lines)


def kept(curve: list[dict[str, float]]) -> dict[str, float]:
    """The evaluation with the least validation loss."""
    return min(curve, key=lambda line: line["valid_loss"])


def kept_by_pass(curve: list[dict[str, float]]) -> dict[str, float]:
    """The same of about one evaluation a pass."""
    return kept([curve[place] for place in (0, 2, 5, 7, 10)])


def end(curve: list[dict[str, float]]) -> dict[str, float]:
    """The last evaluation."""
    return curve[-1]


def gain(curve: list[dict[str, float]], pick: Callable[[list[dict[str, float]]], dict[str, float]]) -> float:
    """Macro-F1 of what a rule keeps, less that of the start."""
    return pick(curve)["test_macro_f1"] - curve[0]["test_macro_f1"]


def text(gains: list[float]) -> str:
    """Mean and range."""
    return f"{np.mean(gains):+.3f} ({min(gains):+.3f} to {max(gains):+.3f})" if gains else ""


def main() -> None:
    """Run what is missing."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("counts", type=Path)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1])
    parser.add_argument("--ways", nargs="+", default=list(WAYS))
    parser.add_argument("--rates", type=float, nargs="+", default=list(RATES))
    parser.add_argument("--steps", type=int, default=80)
    arguments = parser.parse_args()
    stored = RESULTS / "probe_start.json"
    about = json.loads(stored.read_text()) if stored.is_file() else {"runs": []}
    about |= {"machine": machine(), "command": command_line()}
    done = {(entry["task"], entry["seed"], entry["way"], entry["rate"]) for entry in about["runs"]}
    for seed, number, way, rate in itertools.product(arguments.seeds, TASKS, arguments.ways, arguments.rates):
        task = cell_tasks.TASKS[number]
        if (task.name, seed, way, rate) in done:
            continue
        about["runs"].append(run(task, arguments.counts, seed, way, rate, arguments.steps))
        stored.write_text(json.dumps(about, indent=1) + "\n")
        entry = about["runs"][-1]
        first, last = entry["curve"][0], entry["curve"][-1]
        shown = {name: [round(line[name], 3) for line in (first, last)] for name in first if name != "step"}
        print(task.name, seed, way, rate, entry["seconds"], shown, flush=True)
    (RESULTS / "probe_start.md").write_text(table(about))


if __name__ == "__main__":
    main()
