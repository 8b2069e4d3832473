"""What keeps attention below this machine's matrix-product rate: its products, its exponentials, and both together.

`.venv/bin/python benchmarks/attention_parts.py`
"""

import argparse
import statistics
import time
from collections.abc import Callable

import torch

from geneformer.models.attention import KERNELS
from geneformer.models.loading import architecture_config
from measuring import machine, save, versions
from operations import MatrixProductRate, encoder_operations

SHAPE = architecture_config("V1-10M", vocab_size=1)  # the vocabulary has no part in a layer
HEADS, HIDDEN, WIDE = SHAPE.num_attention_heads, SHAPE.hidden_size, SHAPE.intermediate_size
HEAD_SIZE = HIDDEN // HEADS

AIM = 0.9
"""Share of the matrix-product rate that embedding should reach."""

FUSED = "PyTorch's fused attention"
REPETITIONS = 15


def seconds(work: Callable[[], object]) -> float:
    """Median time of a piece of work."""
    work()
    taken = []
    for _ in range(REPETITIONS):
        started = time.perf_counter()
        work()
        taken.append(time.perf_counter() - started)
    return statistics.median(taken)


def measure(length: int) -> tuple[dict[str, float], float]:
    """Seconds for one layer of one cell by part, and the best rate of square products in between."""
    rate = MatrixProductRate()
    qkv = torch.randn(length, 3, HEADS, HEAD_SIZE)
    query, key, value = (part.transpose(0, 1).contiguous() for part in qkv.unbind(1))
    scores, context = torch.empty(HEADS, length, length), torch.empty(HEADS, length, HEAD_SIZE)
    few, powers = torch.randn(2, HEADS, 64, length)  # stay in the cache
    n_blocks = length / few.shape[1]
    hidden, inner = torch.randn(length, HIDDEN), torch.randn(length, WIDE)
    weights = [torch.randn(rows, columns) for rows, columns in ((HIDDEN, 4 * HIDDEN), (HIDDEN, WIDE), (WIDE, HIDDEN))]

    def products() -> None:
        torch.bmm(query, key.transpose(1, 2), out=scores)
        torch.bmm(scores, value, out=context)

    def layers() -> None:
        for given, weight in zip((hidden, hidden, inner), weights, strict=True):
            torch.mm(given, weight)

    works: dict[str, Callable[[], object]] = {
        "two products, nothing else": products,
        "exponentials alone, in the cache": lambda: torch.exp(few, out=powers),
        FUSED: lambda: KERNELS["sdpa"](*qkv.unbind(1), [length], 0.0),
        "this package's blocked attention": lambda: KERNELS["blocked"](*qkv.unbind(1), [length], 0.0),
        "the other products of the layer": layers,
    }
    found = {}
    for name, work in works.items():
        found[name] = seconds(work)
        rate.measure()
    found["exponentials alone, in the cache"] *= n_blocks
    return found, rate.best


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--length", type=int, default=1449, help="genes of the cell")
    length = parser.parse_args().length
    with torch.inference_mode():
        found, rate = measure(length)
    attention = 2 * 2 * length * length * HIDDEN
    others = encoder_operations(SHAPE, [length], 1) - attention
    operations = dict.fromkeys(found, attention) | {"the other products of the layer": others}
    rows = [("part", "milliseconds", "share of the matrix-product rate")]
    for name, taken in found.items():
        share = "" if name.startswith("exponentials") else f"{operations[name] / taken / rate:.0%}"
        rows.append((name, f"{1e3 * taken:.2f}", share))
    least, others_take = (attention + others) / rate, found["the other products of the layer"]
    needed = attention / rate / (least / AIM - others_take)
    notes = [
        f"One layer of the V1-10M shape, one cell of {length:,} genes, float32.",
        f"Billion operations: {attention / 1e9:.2f} in attention, {others / 1e9:.2f} in the other products; "
        f"square products do {rate / 1e9:.0f} a second.",
        f"With the fused attention the layer's products reach {least / (found[FUSED] + others_take):.0%}; "
        f"for {AIM:.0%} attention would have to reach {needed:.0%}, norms and residual sums not counted.",
    ]
    details = {"versions": {"geneformer": f"torch {versions('torch')['torch']}"}, "seconds": found, "rate": rate}
    save("attention_parts", "Attention and the matrix-product rate", rows, notes, {**details, "machine": machine()})


if __name__ == "__main__":
    main()
