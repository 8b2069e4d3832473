"""Benchmark: cell embeddings on the CPU, published recipe on the `transformers` version it pins against this package.

`.venv/bin/python benchmarks/embedding.py [FILE.h5ad ...]`
"""

import argparse
import sys
import tempfile
from pathlib import Path

import numpy as np

from inputs import random_checkpoint, token_file
from measuring import RESULTS, SIDES, alternate, gibibytes, machine, median, ratio, run_side, save
from published_environment import published_python, versions_of_both

VOCABULARY, PUBLISHED_BATCH = 25_426, 100


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("files", nargs="*", type=Path, help="count matrices; the bundled PBMC3k by default")
    parser.add_argument("--cells", type=int, default=200)
    parser.add_argument("--batch", type=int, default=10, help="cells per batch of the published recipe (its own: 100)")
    parser.add_argument("--repetitions", type=int, default=3)
    parser.add_argument("--threads", type=int, default=None)
    parser.add_argument("--environment", type=Path, default=None, help="folder for the published recipe's environment")
    parser.add_argument("--name", default="embedding", help="name of the result files")
    arguments = parser.parse_args()
    python = published_python(arguments.environment)
    details = {"machine": machine(), "versions": versions_of_both(python)}
    with tempfile.TemporaryDirectory(prefix="geneformer-benchmark-") as name:
        folder = Path(name)
        random_checkpoint(folder / "checkpoint")
        lengths = token_file(arguments.files, arguments.cells, folder / "tokens.npz")
        print(f"{len(lengths)} cells, {lengths.min()} to {lengths.max()} genes, {lengths.mean():.0f} on average")
        inputs = [folder / "checkpoint", folder / "tokens.npz"]
        ours = [sys.executable, SIDES / "our_embedding.py", *inputs]
        sides = {
            "published recipe": [
                python, "-W", "ignore", SIDES / "published_embedding.py", *inputs, folder / "published.npy",
                "--batch", str(arguments.batch),
            ],
            "geneformer, float32": [*ours, folder / "float32.npy"],
        }  # fmt: skip
        if _fast_bfloat16():
            sides["geneformer, auto"] = [*ours, folder / "auto.npy", "--dtype", "auto"]
        details["replies"] = replies = alternate(sides, arguments.repetitions, arguments.threads)
        print("  rate of matrix products:")
        rated = {"geneformer, rated": [*ours, folder / "again.npy", "--rate"]}
        details["rated"] = alternate(rated, 2, arguments.threads)["geneformer, rated"]
        RESULTS.mkdir(parents=True, exist_ok=True)
        profile = RESULTS / f"{arguments.name}_profile.txt"
        run_side([*ours, folder / "again.npy", "--profile", profile], arguments.threads)
        notes = [*_agreement(folder, details), *_speed(replies, details, arguments), *_size(lengths, arguments)]
    rows = [("side", "cells/s", "seconds", "peak memory")]
    for side, told in replies.items():
        seconds, peak = median(told, "seconds"), gibibytes(median(told, "peak_bytes"))
        rows.append((side, f"{median(told, 'cells_per_second'):.2f}", f"{seconds:.2f}", peak))
    details["lengths"] = {"mean": float(lengths.mean()), "least": int(lengths.min()), "most": int(lengths.max())}
    notes.append(f"Where the rest of the time goes: `results/{profile.name}`.")
    save(arguments.name, "Embedding cells with a V1-10M encoder on the CPU", rows, notes, details)


def _agreement(folder: Path, details: dict) -> list[str]:
    """How near the embeddings of the sides are."""
    published, ours = np.load(folder / "published.npy"), np.load(folder / "float32.npy")
    scale = float(np.abs(published).max())
    difference = float(np.abs(published - ours).max())
    details["largest_difference"] = difference
    notes = [f"Largest difference in float32: {difference:.1e} on a scale of {scale:.2f} (aim: 1e-5)."]
    if (folder / "auto.npy").exists():
        auto = np.load(folder / "auto.npy")
        norms = np.linalg.norm(auto, axis=1) * np.linalg.norm(published, axis=1)
        details["least_cosine"] = cosine = float(((auto * published).sum(1) / norms).min())
        notes.append(f'Least cosine with dtype="auto": {cosine:.6f} (aim: 0.9999).')
    return notes


def _speed(replies: dict, details: dict, arguments: argparse.Namespace) -> list[str]:
    notes = []
    published = replies["published recipe"]
    for side, aim in (("geneformer, float32", 2.5), ("geneformer, auto", 3.3)):
        if side not in replies:
            notes.append('dtype="auto": this processor has no bfloat16 instructions, so that it chooses float32 here.')
            continue
        faster, smaller = (
            ratio(replies[side], published, "cells_per_second"),
            ratio(replies[side], published, "peak_bytes"),
        )
        details[f"{side}_ratios"] = {"cells_per_second": faster, "peak_bytes": smaller}
        notes.append(
            f"{side}: {faster:.2f} times the cells per second (aim: {aim}), {smaller:.2f} of the peak memory "
            f"(aim: 0.25; the published recipe in batches of {arguments.batch} cells)."
        )
    share, rate = max(r["share"] for r in details["rated"]), max(r["product_rate"] for r in details["rated"])
    details["share"] = share
    notes.append(
        f"Needed operations at {share:.1%} of this machine's rate of float32 matrix products "
        f"(2,048 by 2,048: {rate / 1e9:.0f} GFLOP/s in the same process, best of all; aim: 90 %)."
    )
    return notes


def _size(lengths: np.ndarray, arguments: argparse.Namespace) -> list[str]:
    def logits(batch: int) -> str:
        return gibibytes(min(batch, len(lengths)) * int(lengths.max()) * VOCABULARY * 4)

    return [
        f"{len(lengths)} cells of {', '.join(path.name for path in arguments.files) or 'bundled PBMC3k'}: "
        f"{lengths.min()} to {lengths.max()} genes, {lengths.mean():.0f} on average.",
        f"The logits alone of the published recipe's longest batch: {logits(arguments.batch)}; at its own default of "
        f"{PUBLISHED_BATCH} cells: {logits(PUBLISHED_BATCH)}.",
    ]


def _fast_bfloat16() -> bool:
    import torch

    from geneformer.engine.device import has_fast_bfloat16

    return has_fast_bfloat16(torch.device("cpu"))


if __name__ == "__main__":
    main()
