"""A tiny pretrained model and a few real blood cells with labels, for tests of fine-tuning."""

import json
from pathlib import Path

import numpy as np
import torch

from geneformer.genes.vocabulary import Vocabulary
from geneformer.models.heads import GeneformerForMaskedLM
from geneformer.models.loading import read_config_file, save_checkpoint
from small_cells import blood

QUICK = {
    "max_steps": 3, "tokens_per_batch": 600, "learning_rate": 1e-2, "warmup_ratio": 0.0, "logging_steps": 1,
    "device": "cpu", "dtype": "float32", "progress": False,
}  # fmt: skip
"""Options of a run of a second."""


def tiny_model(folder: Path, *, dropout: float = 0.1, positions: int = 64, seed: int = 0, **changes) -> Path:
    """Checkpoint folder of a narrow network over the V1 vocabulary with seeded random weights."""
    vocabulary = Vocabulary.load("V1")
    folder.mkdir(parents=True, exist_ok=True)
    config = {
        "model_type": "bert", "hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2,
        "intermediate_size": 32, "max_position_embeddings": positions, "hidden_act": "relu",
        "hidden_dropout_prob": dropout, "attention_probs_dropout_prob": dropout, "pad_token_id": 0,
        "vocab_size": vocabulary.size, "geneformer_vocabulary": vocabulary.fingerprint, **changes,
    }  # fmt: skip
    path = folder / "config.json"
    path.write_text(json.dumps(config))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        network = GeneformerForMaskedLM(read_config_file(path))
    save_checkpoint(network, folder)
    return folder


def labeled_blood(cells: int = 48, classes: int = 3, donors: int = 4):
    """Real cells with a class that their library size decides, and a donor."""
    adata = blood(cells)
    totals = np.asarray(adata.X.sum(axis=1)).ravel()
    order = np.argsort(np.argsort(totals))
    adata.obs["kind"] = [f"kind {c}" for c in order * classes // cells]
    adata.obs["donor"] = [f"donor {i % donors}" for i in range(cells)]
    adata.obs["age"] = order.astype(float)
    return adata


def same_weights(one, other) -> bool:
    """Whether two networks have the same parameters bit for bit."""
    ours, theirs = one.state_dict(), other.state_dict()
    return ours.keys() == theirs.keys() and all(torch.equal(value, theirs[name]) for name, value in ours.items())
