"""Floating point operations that a forward pass needs, and the rate at which this machine multiplies matrices."""

import time
from collections.abc import Sequence
from typing import Any

SIZE = 2048


def encoder_operations(config: Any, lengths: Sequence[int], n_layers: int) -> float:
    """Operations of the matrix products of some layers, exact for every cell: no padding, no head, no layer above.

    Queries, keys, values and output projection are four products of hidden by hidden; the feed-forward network is two
    of hidden by intermediate; scores and context are one each of length by length, over all heads together as wide as
    the hidden size. A multiplication and an addition are two operations.
    """
    hidden, wide = config.hidden_size, config.intermediate_size
    per_token = 2 * (4 * hidden * hidden + 2 * hidden * wide)
    return float(n_layers * sum(length * per_token + 2 * 2 * length * length * hidden for length in map(int, lengths)))


class MatrixProductRate:
    """Best rate of square float32 products seen so far, in operations per second."""

    def __init__(self) -> None:
        import torch

        self.left, self.right = torch.randn(SIZE, SIZE), torch.randn(SIZE, SIZE)
        self.out = torch.empty(SIZE, SIZE)
        self.best = 0.0
        self.measure(1)
        self.best = 0.0

    def measure(self, times: int = 5) -> None:
        """Multiply a few more times."""
        import torch

        for _ in range(times):
            started = time.perf_counter()
            torch.mm(self.left, self.right, out=self.out)
            self.best = max(self.best, 2 * SIZE**3 / (time.perf_counter() - started))
