"""Benchmark: a pretraining step of the V1-10M shape on the CPU, four full-length cells, published recipe against ours.

`.venv/bin/python benchmarks/pretraining.py`
"""

import argparse
import sys
import tempfile
from pathlib import Path

import numpy as np

from geneformer.genes.vocabulary import Vocabulary
from geneformer.tokens.dataset import Packed, mask_genes
from inputs import random_checkpoint
from measuring import SIDES, alternate, gibibytes, machine, median, ratio, run_side, save
from published_environment import published_python, versions_of_both

MASKED = 0.15


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--cells", type=int, default=4)
    parser.add_argument("--length", type=int, default=2048)
    parser.add_argument("--steps", type=int, default=1, help="steps on the clock per repetition, after one to warm up")
    parser.add_argument("--repetitions", type=int, default=3)
    parser.add_argument("--threads", type=int, default=None)
    parser.add_argument("--environment", type=Path, default=None, help="folder for the published recipe's environment")
    arguments = parser.parse_args()
    python = published_python(arguments.environment)
    details = {"machine": machine(), "versions": versions_of_both(python)}
    with tempfile.TemporaryDirectory(prefix="geneformer-benchmark-") as name:
        folder = Path(name)
        random_checkpoint(folder / "checkpoint")
        masked_batch(folder / "batch.npz", arguments.cells, arguments.length)
        inputs = [folder / "checkpoint", folder / "batch.npz", "--steps"]
        published = [python, "-W", "ignore", SIDES / "published_pretraining.py", *inputs]
        ours = [sys.executable, SIDES / "our_pretraining.py", *inputs]
        steps = str(arguments.steps)
        sides = {
            "published recipe": [*published, steps],
            "geneformer": [*ours, steps],
            "geneformer, no attention dropout": [*ours, steps, "--attention-dropout", "0"],
        }
        details["replies"] = replies = alternate(sides, arguments.repetitions, arguments.threads)
        without = ["0", "--dropout", "0", "--attention-dropout", "0"]
        losses = [run_side([*side, *without], arguments.threads)["first_loss"] for side in (published, ours)]
    rows = [("side", "tokens/s", "seconds per step", "peak memory")]
    for side, told in replies.items():
        speed, seconds = median(told, "tokens_per_second"), median(told, "seconds")
        rows.append((side, f"{speed:,.0f}", f"{seconds:.2f}", gibibytes(median(told, "peak_bytes"))))
    details["losses_without_dropout"] = losses
    notes = [f"{side}: {_ratios(side, replies, details)}" for side in replies if side != "published recipe"]
    notes += [
        "The aims are meant for the first: both sides with the dropout of the architecture, 0.02 on states and on "
        "attention weights. The second leaves out the dropout on attention weights, on our side only.",
        f"Loss of the same weights under the same masks without dropout: {losses[0]:.6f} and {losses[1]:.6f}, "
        f"{abs(losses[0] - losses[1]):.1e} apart (aim: 1e-4).",
        f"{arguments.cells} cells of {arguments.length} random genes; {MASKED:.0%} masked; AdamW, gradients clipped.",
    ]
    save("pretraining", "A pretraining step of the V1-10M shape on the CPU", rows, notes, details)


def _ratios(side: str, replies: dict, details: dict) -> str:
    faster = ratio(replies[side], replies["published recipe"], "tokens_per_second")
    smaller = ratio(replies[side], replies["published recipe"], "peak_bytes")
    details[f"{side}_ratios"] = {"tokens_per_second": faster, "peak_bytes": smaller}
    return f"{faster:.2f} times the tokens per second (aim: 3), {smaller:.2f} of the peak memory (aim: 0.33)."


def masked_batch(path: Path, n_cells: int, length: int) -> None:
    """Cells of random genes with a share of them masked, as plain arrays."""
    vocabulary = Vocabulary.load("V1")
    rng = np.random.default_rng(0)
    ids = np.concatenate([rng.permutation(vocabulary.token_ids)[:length] for _ in range(n_cells)])
    packed = Packed(ids.astype(np.int32), np.arange(n_cells + 1, dtype=np.int64) * length)
    batch = mask_genes(packed, vocabulary.token_ids, vocabulary.mask_id, MASKED, rng)
    np.savez(path, ids=batch.input_ids, starts=batch.cu_seqlens, masked=batch.masked, labels=batch.labels)


if __name__ == "__main__":
    main()
