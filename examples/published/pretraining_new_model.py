"""Pretrain an encoder from scratch on masked genes.

    python examples/published/pretraining_new_model.py DATA OUT
    torchrun --nproc-per-node 4 examples/published/pretraining_new_model.py DATA OUT --published

DATA is what `make_inputs.py` wrote; OUT/models gets the model, which `transformers` opens. By default a small encoder
makes a few steps; with --published it is the 10-million-parameter one of 2021, with its training arguments.
"""

import argparse
import math
import os
from pathlib import Path
from typing import Any

import torch
from datasets import load_from_disk
from transformers import BertConfig, BertForMaskedLM, TrainingArguments

from geneformer import TOKEN_DICTIONARY_FILE_30M, GeneformerPretrainer
from geneformer.files.pickles import read_pickle, write_pickle

SMALL = {"num_hidden_layers": 2, "hidden_size": 64, "num_attention_heads": 2, "intermediate_size": 128}
PUBLISHED = {"num_hidden_layers": 6, "hidden_size": 256, "num_attention_heads": 4, "intermediate_size": 512}


def config(token_dictionary: dict[str, int], *, published: bool = False) -> BertConfig:
    """Shape of the encoder."""
    return BertConfig(
        **(PUBLISHED if published else SMALL),
        hidden_act="relu",
        hidden_dropout_prob=0.02,
        attention_probs_dropout_prob=0.02,
        initializer_range=0.02,
        layer_norm_eps=1e-12,
        max_position_embeddings=2048,
        pad_token_id=token_dictionary["<pad>"],
        vocab_size=len(token_dictionary),
    )


def training_arguments(out: Path, n_cells: int, *, published: bool) -> TrainingArguments:
    """How it is trained; `train(resume_from_checkpoint=True)` goes on from the last checkpoint."""
    chosen: dict[str, Any] = {"max_steps": 4, "warmup_steps": 1, "logging_steps": 1, "per_device_train_batch_size": 2}
    if published:
        batch, processes = 12, int(os.environ.get("WORLD_SIZE", "1"))
        chosen = {"num_train_epochs": 3, "warmup_steps": 10_000, "logging_steps": 1000}
        chosen |= {"per_device_train_batch_size": batch}
        chosen |= {"save_steps": max(1, math.floor(n_cells / (batch * processes) / 8))}  # eight times per epoch
    return TrainingArguments(
        output_dir=str(out / "models"),
        learning_rate=1e-3,
        lr_scheduler_type="linear",
        weight_decay=0.001,
        seed=42,
        report_to=[],
        group_by_length=True,  # cells of like length share a batch
        **chosen,
    )


def main(data: Path, out: Path, *, published: bool = False) -> Path:
    """Pretrain, and save; returns the folder of the model."""
    out.mkdir(parents=True, exist_ok=True)
    cells = load_from_disk(str(data / "V1.dataset"))
    lengths = write_pickle([int(length) for length in cells["length"]], out / "lengths.pkl")
    token_dictionary = read_pickle(TOKEN_DICTIONARY_FILE_30M)
    arguments = training_arguments(out, len(cells), published=published)
    torch.manual_seed(42)
    trainer = GeneformerPretrainer(
        model=BertForMaskedLM(config(token_dictionary, published=published)),
        args=arguments,
        train_dataset=cells,
        example_lengths_file=str(lengths),
        token_dictionary=token_dictionary,
    )
    trainer.train()
    trainer.save_model(arguments.output_dir)
    return Path(arguments.output_dir)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--published", action="store_true")
    arguments = parser.parse_args()
    main(arguments.data, arguments.out, published=arguments.published)
