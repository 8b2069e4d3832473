"""What both sides of the pretraining benchmark do alike: the optimizer, the step, the clock."""

import argparse
import time
from collections.abc import Callable
from typing import Any

import torch

LEARNING_RATE, WEIGHT_DECAY, LARGEST_NORM = 1e-3, 0.001, 1.0


def settings(parser: argparse.ArgumentParser) -> argparse.ArgumentParser:
    """Arguments of a side."""
    parser.add_argument("checkpoint")
    parser.add_argument("batch")
    parser.add_argument("--steps", type=int, required=True)
    parser.add_argument("--dropout", type=float, default=None)
    parser.add_argument("--attention-dropout", type=float, default=None)
    return parser


def timed_steps(model: torch.nn.Module, loss_of: Callable[[], Any], n_tokens: int, steps: int) -> dict[str, Any]:
    """One step to warm up, then some on the clock; the first loss is that of the weights as loaded."""
    torch.manual_seed(0)
    optimizer = torch.optim.AdamW(model.parameters(), lr=LEARNING_RATE, weight_decay=WEIGHT_DECAY)
    first_loss = 0.0
    started = time.perf_counter()
    for step in range(steps + 1):
        if step == 1:
            started = time.perf_counter()
        loss = loss_of()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), LARGEST_NORM)
        optimizer.step()
        optimizer.zero_grad()
        if step == 0:
            first_loss = float(loss.detach())
    seconds = (time.perf_counter() - started) / max(steps, 1)
    return {"seconds": seconds, "tokens_per_second": n_tokens / seconds, "first_loss": first_loss}
