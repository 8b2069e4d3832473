"""Tiny cells and a tiny model with the V1 vocabulary, for tests of published classifiers."""

import random

import pyarrow as pa
import torch
from transformers import BertConfig

from geneformer import Vocabulary
from geneformer.models.heads import GeneformerForMaskedLM
from geneformer.models.loading import save_checkpoint
from geneformer.tokens.dataset import TokenizedDataset
from geneformer.tokens.storage import write_dataset

POSITIONS = 64
STATES = ("T cell", "B cell", "NK")


def tiny_model(folder, *, layers=2, dropout=0.02):
    vocabulary = Vocabulary.load("V1")
    config = BertConfig(
        vocab_size=vocabulary.size,
        hidden_size=16,
        num_hidden_layers=layers,
        num_attention_heads=2,
        intermediate_size=32,
        max_position_embeddings=POSITIONS,
        hidden_act="relu",
        hidden_dropout_prob=dropout,
        attention_probs_dropout_prob=dropout,
        pad_token_id=0,
    )
    config.geneformer_vocabulary = vocabulary.fingerprint
    torch.manual_seed(0)
    save_checkpoint(GeneformerForMaskedLM(config), folder)
    return folder


def cells(n=48, states=STATES, seed=0):
    """Cells of some states; every state begins with tokens of its own."""
    rng = random.Random(seed)
    rows = []
    for number in range(n):
        state = number % len(states)
        first = rng.sample(range(10 + 20 * state, 25 + 20 * state), 5)
        rest = rng.sample(range(200, 400), rng.randint(4, 30))
        rows.append(first + rest)
    return TokenizedDataset(
        pa.table(
            {
                "input_ids": pa.array(rows, pa.list_(pa.int32())),
                "state": [states[number % len(states)] for number in range(n)],
                "donor": [f"d{number // len(states) % 8}" for number in range(n)],
                "age": [20.0 + number // len(states) % 8 for number in range(n)],
                "length": [len(row) for row in rows],
                "cell_id": [f"cell{number}" for number in range(n)],
            }
        ),
        vocabulary=Vocabulary.load("V1").fingerprint,
    )


def saved_cells(path, **kwargs):
    return write_dataset(cells(**kwargs), path)


def genes(tokens):
    """Ensembl ids of tokens."""
    gene_of = Vocabulary.load("V1").gene_of
    return [str(gene_of[token]) for token in tokens]
