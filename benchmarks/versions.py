"""Benchmark: one version of this package against another, each with its own scripts, on the same inputs.

`.venv/bin/python benchmarks/versions.py BEFORE AFTER`, two checkouts; both run on the interpreter that runs this.
"""

import argparse
import shutil
import sys
import tempfile
from pathlib import Path

import numpy as np

from finetuning import CLASSES, LEARNING_RATE, labeled_cells
from inputs import counts_file, random_checkpoint, random_classifier, token_file
from measuring import Values, alternate, gibibytes, machine, median, ratio, save, versions
from perturbation import cells_of_sizes
from pretraining import masked_batch

BEFORE, AFTER = "before", "after"
STEPS = ("--steps", "3")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("before", type=Path, help="checkout that the other is compared with")
    parser.add_argument("after", type=Path)
    parser.add_argument("--only", nargs="*", help="names of the jobs to run; all by default")
    parser.add_argument("--repetitions", type=int, default=5)
    parser.add_argument("--threads", type=int, default=None)
    arguments = parser.parse_args()
    details: Values = {"machine": machine(), "versions": {"both sides": versions("torch", "transformers", "numpy")}}
    rows: list[tuple[str, ...]] = [("job", "before", "after", "time, after / before", "memory, after / before")]
    with tempfile.TemporaryDirectory(prefix="geneformer-benchmark-") as name:
        folder = Path(name)
        for job, script, inputs in jobs(folder):
            if arguments.only and job not in arguments.only:
                continue
            print(job)
            details[job] = replies = run(script, inputs, folder, arguments)
            before, after = replies[BEFORE], replies[AFTER]
            sides = (f"{median(r, 'seconds'):.3f} s, {gibibytes(median(r, 'peak_bytes'))}" for r in (before, after))
            slower, larger = (ratio(after, before, key) for key in ("seconds", "peak_bytes"))
            rows.append((job, *sides, f"{slower:.3f}", f"{larger:.3f}"))
    notes = [
        f"Medians of {arguments.repetitions} turns (before, after, before, ...), ratios of turns next to each other.",
        "Seconds are those of the work itself, without imports: a file of 20,000 cells; 60 cells; 120 deletions in a "
        "cell of 1,500 genes; one step of 4 full-length cells; one step of 12 cells. Float32, V1-10M shape.",
    ]
    save("versions", "This package before and after", rows, notes, details)


def jobs(folder: Path):
    """Each job by name: the script of the side, and what it takes; OUT stands for a place that is new in every turn."""
    random_checkpoint(folder / "checkpoint")
    random_classifier(folder / "classifier", CLASSES)
    counts_file([], 20_000, folder / "cells.h5ad", compression="gzip")
    token_file([], 60, folder / "tokens.npz")
    (cell,) = cells_of_sizes([], [1500])
    places = np.unique(np.linspace(0, len(cell) - 1, 120).astype(np.int64))
    np.savez(folder / "cell.npz", cell=cell, places=places)
    masked_batch(folder / "masked.npz", 4, 2048)
    labeled_cells(folder / "labeled.npz", [], 12, 3)
    checkpoint = folder / "checkpoint"
    yield "tokenize, V1", "our_tokenizing.py", [folder / "cells.h5ad", "OUT", "V1"]
    yield "tokenize, V2", "our_tokenizing.py", [folder / "cells.h5ad", "OUT", "V2"]
    yield "embed", "our_embedding.py", [checkpoint, folder / "tokens.npz", folder / "embedded.npy"]
    yield "perturb", "our_perturbation.py", [checkpoint, folder / "cell.npz", folder / "effects.npy"]
    yield "pretrain", "our_pretraining.py", [checkpoint, folder / "masked.npz", *STEPS]
    learning = ["--learning-rate", str(LEARNING_RATE)]
    yield "fine-tune", "our_finetuning.py", [folder / "classifier", folder / "labeled.npz", *STEPS, *learning]


def run(script: str, inputs: list, folder: Path, arguments: argparse.Namespace) -> dict[str, list[Values]]:
    """Both versions in turns."""
    replies: dict[str, list[Values]] = {BEFORE: [], AFTER: []}
    for _ in range(arguments.repetitions):
        commands = {}
        for side, checkout in ((BEFORE, arguments.before), (AFTER, arguments.after)):
            benchmarks = checkout.resolve() / "benchmarks"
            out = folder / f"{side}.dataset"
            shutil.rmtree(out, ignore_errors=True)
            paths = f"PYTHONPATH={benchmarks}:{benchmarks.parent / 'src'}"
            given = [out if entry == "OUT" else entry for entry in inputs]
            commands[side] = ["env", paths, sys.executable, "-W", "ignore", benchmarks / "sides" / script, *given]
        for side, reply in alternate(commands, 1, arguments.threads).items():
            replies[side] += reply
    return replies


if __name__ == "__main__":
    main()
