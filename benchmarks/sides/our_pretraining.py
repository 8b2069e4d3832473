"""This package's training step on the same cells under the same masks, with the same optimizer."""

import argparse

import numpy as np
import torch
from training_steps import dropout_entries, settings, timed_steps

from geneformer.engine.device import resolve_training_attention
from geneformer.models.heads import GeneformerForMaskedLM
from geneformer.models.loading import read_config, read_weights
from measuring import reply


def main() -> None:
    from pathlib import Path

    arguments = settings(argparse.ArgumentParser()).parse_args()
    folder = Path(arguments.checkpoint)
    config = read_config(folder)
    for name, value in dropout_entries(arguments).items():
        setattr(config, name, value)
    model = GeneformerForMaskedLM(config)
    model.load_state_dict(read_weights(folder))
    model.train()
    stored = np.load(arguments.batch)
    arrays = {"input_ids": stored["ids"], "cu_seqlens": stored["starts"]}
    arrays |= {"masked": stored["masked"], "labels": stored["labels"]}
    batch = {name: torch.from_numpy(array.astype(np.int64)) for name, array in arrays.items()}
    attention = resolve_training_attention(config.attention_probs_dropout_prob, torch.device("cpu"))
    n_tokens = len(stored["ids"])
    reply(**timed_steps(model, lambda: model(**batch, attention=attention).loss, n_tokens, arguments.steps))


if __name__ == "__main__":
    main()
