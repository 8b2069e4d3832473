"""The published recipe's training of a cell classifier, written anew from its description.

`BertForSequenceClassification` with the attention of its version, batches of a fixed number of cells padded to their
longest, and the step of the `Trainer`: AdamW without decay on biases and norms, gradients clipped. Runs in the
environment of the published recipe, without this package.
"""

import argparse

import numpy as np
import torch
from training_steps import WEIGHT_DECAY, dropout_entries, settings, timed_steps
from transformers import BertForSequenceClassification

from measuring import reply

PAD = 0


def main() -> None:
    parser = settings(argparse.ArgumentParser())
    parser.add_argument("--learning-rate", type=float, required=True)
    arguments = parser.parse_args()
    stored = np.load(arguments.batch)
    size, labels = int(stored["cells_per_batch"]), stored["labels"]
    cells = np.split(stored["ids"], stored["starts"][1:-1])
    model = BertForSequenceClassification.from_pretrained(arguments.checkpoint, **dropout_entries(arguments)).train()
    starts = iter(range(0, len(cells), size))

    def loss() -> torch.Tensor:
        part = slice(start := next(starts), start + size)
        return model(**padded(cells[part], labels[part])).loss

    told = timed_steps(
        model,
        loss,
        sum(map(len, cells[size:])) / arguments.steps,
        arguments.steps,
        optimizer_of(model, arguments.learning_rate),
    )
    batches = [cells[start : start + size] for start in range(size, len(cells), size)]
    places = sum(len(batch) * max(map(len, batch)) for batch in batches)
    attention = model.config._attn_implementation
    reply(**told, padded_tokens=places, tokens=sum(map(len, cells[size:])), attention=attention)


def padded(cells: list[np.ndarray], labels: np.ndarray) -> dict[str, torch.Tensor]:
    """A batch as its collator makes it: ids and mask padded on the right to the longest cell, all int64."""
    longest = max(map(len, cells))
    return {
        "input_ids": torch.tensor([[*cell.tolist(), *[PAD] * (longest - len(cell))] for cell in cells]),
        "attention_mask": torch.tensor([[1] * len(cell) + [0] * (longest - len(cell)) for cell in cells]),
        "labels": torch.tensor(labels, dtype=torch.int64),
    }


def optimizer_of(model: torch.nn.Module, learning_rate: float) -> torch.optim.Optimizer:
    """AdamW as the `Trainer` sets it up."""
    named = list(model.named_parameters())
    plain = [weight for name, weight in named if "bias" in name or "LayerNorm" in name]
    decayed = [weight for name, weight in named if not ("bias" in name or "LayerNorm" in name)]
    groups = [{"params": decayed, "weight_decay": WEIGHT_DECAY}, {"params": plain, "weight_decay": 0.0}]
    return torch.optim.AdamW(groups, lr=learning_rate)


if __name__ == "__main__":
    main()
