"""Pretraining small enough for a test: a narrow network on a few dozen real cells."""

import json
from pathlib import Path

from geneformer.genes.vocabulary import Vocabulary
from geneformer.options import PretrainOptions, RuntimeOptions
from geneformer.options.tokenization import TokenizeOptions
from geneformer.pretraining.run import pretrain
from geneformer.tokenization.tokenizer import tokenize_counts

RUNTIME = RuntimeOptions(device="cpu", dtype="float32", progress=False)
DROPOUT = 0.1


def write_architecture(folder: Path) -> Path:
    """A narrow BERT; with dropout, so that the random state counts."""
    config = {
        "model_type": "bert",
        "hidden_size": 16,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "intermediate_size": 32,
        "max_position_embeddings": 64,
        "hidden_act": "relu",
        "hidden_dropout_prob": DROPOUT,
        "attention_probs_dropout_prob": DROPOUT,
        "pad_token_id": 0,
    }
    path = folder / "architecture.json"
    path.write_text(json.dumps(config))
    return path


def write_cells(folder: Path, sources=2, cells=24) -> list[Path]:
    """Counts of different cells in several files."""
    from small_cells import blood

    whole, paths = blood(sources * cells), []
    for number in range(sources):
        paths.append(folder / f"donor{number}.h5ad")
        whole[number * cells : (number + 1) * cells].copy().write_h5ad(paths[-1])
    return paths


def tokenized(paths, *, counts=True):
    """Tokens of counts, in memory."""
    return tokenize_counts(paths, TokenizeOptions(keep=(), counts=counts))[0]


def options_for(folder: Path, **changes) -> PretrainOptions:
    """Options of a short run, of a narrow BERT unless it goes on from a model."""
    architecture = "mini" if "start_from" in changes else str(write_architecture(folder))
    usual = {
        "architecture": architecture,
        "max_steps": 6,
        "tokens_per_batch": 400,
        "learning_rate": 1e-2,
        "warmup_ratio": 0.0,
        "logging_steps": 1,
        "save_steps": 100,
        "eval_steps": 100,
    }
    return PretrainOptions(**usual | changes)


def run(dataset, output: Path, options: PretrainOptions, **arguments):
    """One run."""
    return pretrain(dataset, Vocabulary.load("V1"), output, options, RUNTIME, **arguments)
