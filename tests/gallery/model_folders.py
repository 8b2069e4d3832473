"""Small model folders from which inputs of the gallery are made, written without the package."""

import json
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import save_file

from geneformer.genes.vocabulary import Vocabulary

HIDDEN, LAYERS, INNER, POSITIONS = 8, 2, 16, 2048

Weights = dict[str, np.ndarray]


def config(**changes: Any) -> dict[str, Any]:
    """A `config.json` as published, with some entries changed."""
    return {
        "architectures": ["BertForMaskedLM"],
        "attention_probs_dropout_prob": 0.02,
        "hidden_act": "relu",
        "hidden_dropout_prob": 0.02,
        "hidden_size": HIDDEN,
        "initializer_range": 0.02,
        "intermediate_size": INNER,
        "layer_norm_eps": 1e-12,
        "max_position_embeddings": POSITIONS,
        "model_type": "bert",
        "num_attention_heads": 2,
        "num_hidden_layers": LAYERS,
        "pad_token_id": 0,
        "type_vocab_size": 2,
        "vocab_size": Vocabulary.load("V1").size,
    } | changes


@cache
def shapes() -> dict[str, tuple[int, ...]]:
    """Parameters of BERT with a head over the vocabulary, by name."""
    size = Vocabulary.load("V1").size
    found: dict[str, tuple[int, ...]] = {
        "bert.embeddings.word_embeddings.weight": (size, HIDDEN),
        "bert.embeddings.position_embeddings.weight": (POSITIONS, HIDDEN),
        "bert.embeddings.token_type_embeddings.weight": (2, HIDDEN),
    }
    norms = ["bert.embeddings.LayerNorm", "cls.predictions.transform.LayerNorm"]
    dense = {"cls.predictions.transform.dense": (HIDDEN, HIDDEN)}
    for number in range(LAYERS):
        layer = f"bert.encoder.layer.{number}"
        square = ("attention.self.query", "attention.self.key", "attention.self.value", "attention.output.dense")
        dense |= {f"{layer}.{part}": (HIDDEN, HIDDEN) for part in square}
        dense |= {f"{layer}.intermediate.dense": (INNER, HIDDEN), f"{layer}.output.dense": (HIDDEN, INNER)}
        norms += [f"{layer}.attention.output.LayerNorm", f"{layer}.output.LayerNorm"]
    for name, shape in dense.items():
        found |= {f"{name}.weight": shape, f"{name}.bias": shape[:1]}
    for name in norms:
        found |= {f"{name}.weight": (HIDDEN,), f"{name}.bias": (HIDDEN,)}
    return found | {"cls.predictions.bias": (size,)}


def weights() -> Weights:
    """Small random weights of every parameter."""
    rng = np.random.default_rng(0)
    return {name: rng.normal(0, 0.1, shape).astype(np.float32) for name, shape in shapes().items()}


def model(
    change: Callable[[Weights], Weights | None] = lambda _: None, text: str | None = None, **entries: Any
) -> Callable[[Path], Path]:
    """A model folder, with its weights changed, some entries of its `config.json`, or all of that file's text."""

    def make(folder: Path) -> Path:
        path = folder / "model"
        path.mkdir()
        stored = weights()
        stored = change(stored) or stored
        save_file(stored, path / "model.safetensors", metadata={"format": "pt"})
        (path / "config.json").write_text(json.dumps(config(**entries)) if text is None else text)
        return Path("model")

    return make


def adapters(change: Callable[[dict[str, Any]], object] = lambda _: None, **entries: Any) -> Callable[[Path], Path]:
    """A folder of low-rank updates beside the model they belong to."""

    def make(folder: Path) -> Path:
        base = model()(folder)
        path = folder / "adapters"
        path.mkdir()
        settings = {
            "base_model_name_or_path": str(base),
            "peft_type": "LORA",
            "target_modules": ["query"],
            "r": 2,
            "lora_alpha": 4,
            "lora_dropout": 0.0,
            "bias": "none",
            "task_type": None,
            "inference_mode": True,
        }
        settings |= entries
        change(settings)
        (path / "adapter_config.json").write_text(json.dumps(settings))
        rng = np.random.default_rng(1)
        updates = {}
        for number in range(LAYERS):
            name = f"base_model.model.bert.encoder.layer.{number}.attention.self.query"
            updates |= {
                f"{name}.lora_A.weight": rng.normal(0, 0.1, (2, HIDDEN)).astype(np.float32),
                f"{name}.lora_B.weight": rng.normal(0, 0.1, (HIDDEN, 2)).astype(np.float32),
            }
        save_file(updates, path / "adapter_model.safetensors", metadata={"format": "pt"})
        return Path("adapters")

    return make
