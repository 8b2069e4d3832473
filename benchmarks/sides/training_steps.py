"""What the sides of the training benchmarks do alike: their arguments, the optimizer, the step, the clock."""

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


def dropout_entries(arguments: argparse.Namespace) -> dict[str, float]:
    """Entries of the configuration that a side is told to change."""
    told = {
        "hidden_dropout_prob": arguments.dropout,
        "attention_probs_dropout_prob": arguments.attention_dropout,
    }
    return {name: value for name, value in told.items() if value is not None}


def timed_steps(
    model: torch.nn.Module,
    loss_of: Callable[[], Any],
    n_tokens: float,
    steps: int,
    optimizer: torch.optim.Optimizer | None = None,
) -> dict[str, Any]:
    """One step to warm up, then some on the clock, of so many tokens on average; each loss is that before its step."""
    torch.manual_seed(0)
    optimizer = optimizer or torch.optim.AdamW(model.parameters(), lr=LEARNING_RATE, weight_decay=WEIGHT_DECAY)
    losses = []
    started, worked = time.perf_counter(), time.process_time()
    for step in range(steps + 1):
        if step == 1:
            started, worked = time.perf_counter(), time.process_time()
        loss = loss_of()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), LARGEST_NORM)
        optimizer.step()
        optimizer.zero_grad()
        losses.append(float(loss.detach()))
    seconds = (time.perf_counter() - started) / max(steps, 1)
    return {
        "seconds": seconds,
        "processor_seconds": (time.process_time() - worked) / max(steps, 1),
        "tokens_per_second": n_tokens / seconds,
        "first_loss": losses[0],
        "losses": losses,
    }
