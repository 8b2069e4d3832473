"""Benchmark: training a cell classifier of the V1-10M shape on the CPU, published recipe against ours.

`.venv/bin/python benchmarks/finetuning.py [FILE.h5ad ...]`
"""

import argparse
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch

from geneformer.engine.device import has_fast_bfloat16
from inputs import random_classifier, token_file
from measuring import SIDES, alternate, gibibytes, machine, median, ratio, run_side, save
from published_environment import published_python, versions_of_both

CLASSES, LEARNING_RATE = 4, 5e-5
FIRST_LOSS, LAST_LOSS = 1e-4, 1e-3
"""How near the losses of both sides must be, before the first step and after the last one."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("files", nargs="*", type=Path, help="count matrices; the bundled PBMC3k by default")
    parser.add_argument("--batch", type=int, default=12, help="cells per batch; the published recipe's own is 12")
    parser.add_argument("--steps", type=int, default=3, help="steps on the clock per repetition, after one to warm up")
    parser.add_argument("--repetitions", type=int, default=3)
    parser.add_argument("--threads", type=int, default=None)
    parser.add_argument("--environment", type=Path, default=None, help="folder for the published recipe's environment")
    parser.add_argument("--name", default="finetuning", help="name of the result files")
    arguments = parser.parse_args()
    python = published_python(arguments.environment)
    details = {"machine": machine(), "versions": versions_of_both(python)}
    with tempfile.TemporaryDirectory(prefix="geneformer-benchmark-") as name:
        folder = Path(name)
        random_classifier(folder / "classifier", CLASSES)
        lengths = labeled_cells(folder / "cells.npz", arguments.files, arguments.batch, arguments.steps)
        inputs = [folder / "classifier", folder / "cells.npz", "--steps", str(arguments.steps)]
        inputs += ["--learning-rate", str(LEARNING_RATE)]
        published = [python, "-W", "ignore", SIDES / "published_finetuning.py", *inputs]
        ours = [sys.executable, SIDES / "our_finetuning.py", *inputs]
        sides = {"published recipe": published, "geneformer, float32": ours}
        if has_fast_bfloat16(torch.device("cpu")):
            sides["geneformer, bfloat16"] = [*ours, "--dtype", "bfloat16"]
        details["replies"] = replies = alternate(sides, arguments.repetitions, arguments.threads)
        without = ["--dropout", "0", "--attention-dropout", "0"]
        losses = [run_side([*side, *without], arguments.threads)["losses"] for side in (published, ours)]
    rows = [("side", "tokens/s", "seconds per step", "processor seconds per step", "peak memory")]
    for side, told in replies.items():
        figures = [median(told, name) for name in ("seconds", "processor_seconds")]
        speed, peak = f"{median(told, 'tokens_per_second'):,.0f}", gibibytes(median(told, "peak_bytes"))
        rows.append((side, speed, *(f"{seconds:.2f}" for seconds in figures), peak))
    details["losses_without_dropout"] = dict(zip(("published recipe", "geneformer, float32"), losses, strict=True))
    details["lengths"] = lengths.tolist()
    notes = [*_speed(replies, details), *_agreement(losses, arguments.steps), *_size(lengths, replies, arguments)]
    save(arguments.name, "Training a cell classifier of the V1-10M shape on the CPU", rows, notes, details)


def labeled_cells(path: Path, files: Sequence[Path], batch: int, steps: int) -> np.ndarray:
    """Cells in random order with their classes, batch after batch, one for each step; returns their lengths."""
    lengths = token_file(files, batch * (steps + 1), path)
    if len(lengths) < batch * (steps + 1):
        msg = f"{len(lengths)} cells are too few for {steps + 1} batches of {batch}."
        raise SystemExit(msg)
    stored = np.load(path)
    cells = np.split(stored["ids"], stored["starts"][1:-1])
    order = np.random.default_rng(0).permutation(len(cells))
    lengths = lengths[order]
    classes = np.searchsorted(np.quantile(lengths, np.arange(1, CLASSES) / CLASSES), lengths)
    ids, starts = np.concatenate([cells[row] for row in order]), np.concatenate([[0], np.cumsum(lengths)])
    np.savez(path, ids=ids, starts=starts, labels=classes, cells_per_batch=batch)
    return lengths


def _speed(replies: dict, details: dict) -> list[str]:
    notes = []
    for side, told in replies.items():
        if side == "published recipe":
            continue
        published = replies["published recipe"]
        faster, smaller = (ratio(told, published, figure) for figure in ("tokens_per_second", "peak_bytes"))
        lighter = ratio(published, told, "processor_seconds")
        details[f"{side}_ratios"] = {
            "tokens_per_second": faster, "tokens_per_processor_second": lighter, "peak_bytes": smaller,
        }  # fmt: skip
        aim = " (aim: 3)" if side == "geneformer, float32" else ""
        notes.append(
            f"{side}: {faster:.2f} times the tokens per second{aim}, {lighter:.2f} times the tokens per second of "
            f"processor time, {smaller:.2f} of the peak memory."
        )
    if "geneformer, bfloat16" not in replies:
        notes.append("This processor has no bfloat16 instructions, so that there is no row for them.")
    return notes


def _agreement(losses: list[list[float]], steps: int) -> list[str]:
    published, ours = losses
    first, last = (abs(published[i] - ours[i]) for i in (0, -1))
    return [
        "Losses without dropout: "
        f"of the same weights on the same batch {published[0]:.6f} and {ours[0]:.6f}, {first:.1e} apart "
        f"(aim: {FIRST_LOSS:.0e}); after {steps} equal steps {published[-1]:.6f} and {ours[-1]:.6f}, "
        f"{last:.1e} apart (aim: {LAST_LOSS:.0e}).",
    ]


def _size(lengths: np.ndarray, replies: dict, arguments: argparse.Namespace) -> list[str]:
    told = replies["published recipe"][0]
    return [
        f"{len(lengths)} cells of {', '.join(path.name for path in arguments.files) or 'bundled PBMC3k'} in random "
        f"order: {lengths.min()} to {lengths.max()} genes, {lengths.mean():.0f} on average.",
        f"Both sides: the same {arguments.batch} cells in a step, dropout 0.02 on states and on attention weights, "
        "AdamW, gradients clipped. Tokens are genes; padding does not count. The published recipe pads "
        f"{told['tokens']:,} tokens to {told['padded_tokens']:,}; its attention is {told['attention']!r}.",
        "Ours is the whole training loop of the package, theirs the step of the `Trainer` alone.",
    ]


if __name__ == "__main__":
    main()
