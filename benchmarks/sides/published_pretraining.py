"""The published recipe's training step, written anew from its description.

`BertForMaskedLM` on padded tensors, logits at every position, labels of -100 where nothing is asked, AdamW. Runs in
the environment of the published recipe, without this package.
"""

import argparse

import numpy as np
import torch
from training_steps import dropout_entries, settings, timed_steps
from transformers import BertForMaskedLM

from measuring import reply


def main() -> None:
    parser = settings(argparse.ArgumentParser())
    arguments = parser.parse_args()
    model = BertForMaskedLM.from_pretrained(arguments.checkpoint, **dropout_entries(arguments)).train()
    stored = np.load(arguments.batch)
    starts, masked = stored["starts"], stored["masked"]
    lengths = np.diff(starts)
    shape = (len(lengths), int(lengths.max()))
    input_ids, mask, labels = np.zeros(shape, np.int64), np.zeros(shape, np.int64), np.full(shape, -100)
    cells = np.repeat(np.arange(len(lengths)), lengths)
    places = np.arange(int(starts[-1])) - np.repeat(starts[:-1], lengths)
    input_ids[cells, places], mask[cells, places] = stored["ids"], 1
    labels[cells[masked], places[masked]] = stored["labels"]
    batch = {"input_ids": input_ids, "attention_mask": mask, "labels": labels}
    batch = {name: torch.from_numpy(array) for name, array in batch.items()}
    reply(**timed_steps(model, lambda: model(**batch).loss, int(starts[-1]), arguments.steps))


if __name__ == "__main__":
    main()
