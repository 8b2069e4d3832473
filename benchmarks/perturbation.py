"""Benchmark: deleting the genes of a cell one at a time on the CPU, published recipe against this package.

`.venv/bin/python benchmarks/perturbation.py [FILE.h5ad ...]`

Effects are similarities of cells: the mean cosine of the remaining genes, at the layer before the last one.
"""

import argparse
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from inputs import random_checkpoint
from measuring import SIDES, alternate, gibibytes, machine, median, ratio, save
from published_environment import published_python, versions_of_both

VOCABULARY, PUBLISHED_BATCH = 25_426, 100
PUBLISHED, FLOAT32, AUTO = "published recipe", "geneformer, float32", "geneformer, auto"
AIMS = {FLOAT32: 3, AUTO: 6}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("files", nargs="*", type=Path, help="count matrices; the bundled PBMC3k by default")
    parser.add_argument("--genes", type=int, nargs=2, default=(300, 1500), help="sizes of the short and the long cell")
    parser.add_argument(
        "--deletions", type=int, nargs=2, default=(300, 120), help="deletions of either cell, evenly spread over it"
    )
    parser.add_argument(
        "--batch", type=int, default=10, help="deletions per batch of the published recipe (its own: 100)"
    )
    parser.add_argument("--repetitions", type=int, default=3)
    parser.add_argument("--threads", type=int, default=None)
    parser.add_argument("--environment", type=Path, default=None, help="folder for the published recipe's environment")
    parser.add_argument("--name", default="perturbation", help="name of the result files")
    arguments = parser.parse_args()
    python = published_python(arguments.environment)
    details = {"machine": machine(), "versions": versions_of_both(python), "cells": {}}
    rows = [("cell", "side", "deletions", "deletions/s", "seconds", "processor seconds", "peak memory")]
    notes: list[str] = []
    with tempfile.TemporaryDirectory(prefix="geneformer-benchmark-") as name:
        folder = Path(name)
        random_checkpoint(folder / "checkpoint")
        cells = cells_of_sizes(arguments.files, arguments.genes)
        for cell, n_deletions in zip(cells, arguments.deletions, strict=True):
            measured = _measure(cell, n_deletions, folder, python, arguments)
            for side, told in measured["replies"].items():
                rows.append(_row(len(cell), side, told))
            notes += _agreement(len(cell), folder, measured) + _speed(len(cell), measured, arguments)
            details["cells"][f"{len(cell)} genes"] = measured
        whole = _ours_whole(cells[0], folder, arguments)
        details["every_gene_of_the_short_cell"] = whole
        rows += [_row(len(cells[0]), f"{side}, every gene", told) for side, told in whole.items()]
    save(arguments.name, "Deleting genes one at a time with a V1-10M encoder on the CPU", rows, notes, details)


def cells_of_sizes(paths: Sequence[Path], n_genes: Sequence[int]) -> list[np.ndarray]:
    """Tokens of the cells whose sizes are nearest to those wanted."""
    from geneformer.datasets import pbmc3k_path
    from geneformer.options import TokenizeOptions
    from geneformer.tokenization.tokenizer import tokenize_counts

    dataset, _ = tokenize_counts([str(path) for path in paths or [pbmc3k_path()]], TokenizeOptions(vocabulary="V1"))
    nearest = [int(np.abs(dataset.lengths - wanted).argmin()) for wanted in n_genes]
    return [np.asarray(dataset.gather([row]).input_ids) for row in nearest]


def _measure(cell: np.ndarray, n_deletions: int, folder: Path, python: Path, arguments: argparse.Namespace) -> dict:
    """All sides in turns on one cell."""
    places = np.unique(np.linspace(0, len(cell) - 1, min(n_deletions, len(cell))).astype(np.int64))
    print(f"A cell of {len(cell)} genes, {len(places)} deletions")
    np.savez(folder / "cell.npz", cell=cell, places=places)
    inputs = [folder / "checkpoint", folder / "cell.npz"]
    ours = [sys.executable, SIDES / "our_perturbation.py", *inputs]
    published = [python, "-W", "ignore", SIDES / "published_perturbation.py", *inputs, folder / "published.npy"]
    sides = {PUBLISHED: [*published, "--batch", str(arguments.batch)], FLOAT32: [*ours, folder / "float32.npy"]}
    if _fast_bfloat16():
        sides[AUTO] = [*ours, folder / "auto.npy", "--dtype", "auto"]
    replies = alternate(sides, arguments.repetitions, arguments.threads)
    print("  rate of matrix products:")
    rated = alternate({"geneformer, rated": [*ours, folder / "again.npy", "--rate"]}, 2, arguments.threads)
    return {"genes": len(cell), "deletions": len(places), "replies": replies, "rated": rated["geneformer, rated"]}


def _ours_whole(cell: np.ndarray, folder: Path, arguments: argparse.Namespace) -> dict:
    """This package alone, every gene of a cell."""
    print(f"Every gene of the cell of {len(cell)}")
    np.savez(folder / "cell.npz", cell=cell, places=np.arange(len(cell)))
    ours = [sys.executable, SIDES / "our_perturbation.py", folder / "checkpoint", folder / "cell.npz"]
    sides = {FLOAT32: [*ours, folder / "again.npy"]}
    if _fast_bfloat16():
        sides[AUTO] = [*ours, folder / "again.npy", "--dtype", "auto"]
    return alternate(sides, arguments.repetitions, arguments.threads)


def _row(n_genes: int, side: str, told: Sequence[dict]) -> tuple[str, ...]:
    speeds = (f"{median(told, key):.2f}" for key in ("deletions_per_second", "seconds", "processor_seconds"))
    return f"{n_genes} genes", side, str(told[0]["deletions"]), *speeds, gibibytes(median(told, "peak_bytes"))


def _agreement(n_genes: int, folder: Path, measured: dict) -> list[str]:
    """How near the effects of the sides are."""
    published, ours = np.load(folder / "published.npy"), np.load(folder / "float32.npy")
    measured["largest_difference"] = difference = float(np.abs(published - ours).max())
    measured["similarity"] = {"least": float(published.min()), "most": float(published.max())}
    notes = [
        f"{n_genes} genes: largest difference of effects in float32 {difference:.1e}, on effects of "
        f"{published.min():.6f} to {published.max():.6f} (aim: 1e-5)."
    ]
    measured["cosine"] = {FLOAT32: _cosine(1 - ours, 1 - published)}
    if AUTO in measured["replies"]:
        auto = np.load(folder / "auto.npy")
        measured["cosine"][AUTO] = cosine = _cosine(1 - auto, 1 - published)
        difference = float(np.abs(auto - published).max())
        measured["largest_difference_auto"] = difference
        notes.append(
            f'{n_genes} genes: with dtype="auto" cosine of the vectors of 1 - similarity {cosine:.6f} (aim: 0.999; in '
            f"float32: {measured['cosine'][FLOAT32]:.6f}), largest difference of effects {difference:.1e}."
        )
    return notes


def _cosine(left: np.ndarray, right: np.ndarray) -> float:
    left, right = left.astype(np.float64), right.astype(np.float64)
    return float(left @ right / (np.linalg.norm(left) * np.linalg.norm(right)))


def _speed(n_genes: int, measured: dict, arguments: argparse.Namespace) -> list[str]:
    notes, replies = [], measured["replies"]
    published = replies[PUBLISHED]
    for side, aim in AIMS.items():
        if side not in replies:
            notes.append('dtype="auto": this processor has no bfloat16 instructions, so that it chooses float32 here.')
            continue
        faster = ratio(replies[side], published, "deletions_per_second")
        smaller = ratio(replies[side], published, "peak_bytes")
        lighter = ratio(published, replies[side], "processor_seconds")
        measured[f"{side}_ratios"] = {
            "deletions_per_second": faster, "deletions_per_processor_second": lighter, "peak_bytes": smaller,
        }  # fmt: skip
        notes.append(
            f"{n_genes} genes, {side}: {faster:.2f} times the deletions per second (aim: {aim}), {lighter:.2f} times "
            f"those per second of processor time, {smaller:.2f} of the peak memory (aim: 0.25; the published recipe in "
            f"batches of {arguments.batch} deletions, its own: {PUBLISHED_BATCH})."
        )
    best = max(measured["rated"], key=lambda told: told["share"])
    share, avoided, rate = best["share"], best["avoided"], best["product_rate"]
    measured["share"], measured["avoided"] = share, avoided
    notes.append(
        f"{n_genes} genes: operations that plain passes need, at {share:.1%} of this machine's rate of float32 matrix "
        f"products (2,048 by 2,048: {rate / 1e9:.0f} GFLOP/s in the same process). The shared first layer avoids "
        f"{avoided:.1%} of these operations; those that are left are done at {share * (1 - avoided):.1%} of that rate."
    )
    preparing = median(published, "preparing")
    notes.append(
        f"{n_genes} genes: of the published recipe's {median(published, 'seconds'):.2f} s, {preparing:.2f} s go into "
        f"editing the cells. The logits of one batch: {_logits(n_genes, measured['deletions'], arguments.batch)}; at "
        f"its own default of {PUBLISHED_BATCH} deletions: {_logits(n_genes, n_genes, PUBLISHED_BATCH)}."
    )
    return notes


def _logits(n_genes: int, deletions: int, batch: int) -> str:
    return gibibytes(min(batch, deletions) * (n_genes - 1) * VOCABULARY * 4)


def _fast_bfloat16() -> bool:
    import torch

    from geneformer.engine.device import has_fast_bfloat16

    return has_fast_bfloat16(torch.device("cpu"))


if __name__ == "__main__":
    main()
