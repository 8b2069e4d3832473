"""Files of the published multi-task classifier: its network, the numbers of its labels, and its tables."""

import json
import os
from collections.abc import Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.torch import save_file
from torch import Tensor
from transformers import BertConfig

from geneformer import keys
from geneformer.errors import CheckpointError
from geneformer.files.atomic import atomic_file
from geneformer.files.pickles import read_pickle, write_pickle
from geneformer.finetuning.estimator import Pairing
from geneformer.finetuning.metrics import accuracy_and_macro_f1
from geneformer.models import hub, loading
from geneformer.models.encoder import write_config
from geneformer.models.finetuned import filled
from geneformer.models.heads import GeneformerForCells, HeadSpec
from geneformer.models.losses import MISSING
from geneformer.tokens.dataset import TokenizedDataset

if TYPE_CHECKING:
    import pandas as pd

Classes = dict[str, tuple[Any, ...]]
"""Values of each column, ascending; their places are the class numbers."""

HYPERPARAMETERS = "hyperparameters.json"

_PUBLISHED = {"pool.": "attention_pool.", "heads.": "classification_heads."}
"""Prefixes of parameters that are called otherwise here."""


def head_specs(classes: Mapping[str, Sequence[Any]]) -> list[HeadSpec]:
    """A head for each column."""
    return [HeadSpec(name=name, classes=tuple(map(str, values))) for name, values in classes.items()]


def save_tasks(network: GeneformerForCells, folder: Path, hyperparameters: Mapping[str, Any]) -> Path:
    """Write `pytorch_model.bin`, `config.json` and `hyperparameters.json`; returns the folder."""
    folder.mkdir(parents=True, exist_ok=True)
    state = {_renamed(name, _PUBLISHED): value.detach().cpu() for name, value in network.state_dict().items()}
    (folder / hub.WEIGHTS).unlink(missing_ok=True)  # of another network, it would be read in the place of this one
    with atomic_file(folder / hub.PICKLED_WEIGHTS, overwrite=True) as temporary:
        torch.save(state, temporary)
    write_config(deepcopy(network.config), folder)
    (folder / HYPERPARAMETERS).write_text(json.dumps(dict(hyperparameters), indent=2) + "\n", encoding="utf-8")
    return folder


def load_tasks(folder: Path, classes: Mapping[str, Sequence[Any]]) -> tuple[GeneformerForCells, Pairing]:
    """A network as `save_tasks` or the published package wrote it, and what tokens for it depend on."""
    config, weights = _read(folder)
    own_names = {published: own for own, published in _PUBLISHED.items()}
    state = {
        _renamed(name, own_names): value
        for name, value in weights.items()
        if not name.startswith("bert.pooler.") and not name.endswith("position_ids")
    }
    n_heads = sum(name.startswith("heads.") and name.endswith(".weight") for name in state)
    sizes = [len(state[f"heads.{number}.weight"]) for number in range(n_heads)]
    expected = [len(values) for values in classes.values()]
    if sizes != expected:
        has = f"{folder} has heads for {sizes} classes, but the tasks {list(classes)} have {expected}"
        msg = f"{has}. Give the columns, and the label mappings or training data, that it was trained with."
        raise CheckpointError(msg)
    config.geneformer_heads = [spec.to_dict() for spec in head_specs(classes)]
    config.geneformer_pooling = "attention" if "pool.attention_weights" in state else "cls"
    config.geneformer_learn_task_weights = False
    vocabulary = loading.recognize_vocabulary(config, folder, None)
    pairing = Pairing(str(folder), vocabulary, int(config.max_position_embeddings))
    return filled(GeneformerForCells, config, state, str(folder)), pairing


def save_encoder(folder: Path, output: Path) -> Path:
    """Write the encoder of a multi-task network, without heads and pooling; returns the folder."""
    config, weights = _read(folder)
    encoder = {name: value for name, value in weights.items() if name.startswith("bert.")}
    if not encoder:
        msg = f"{folder} holds no weights that start with 'bert.'. Give the folder of a multi-task classifier."
        raise CheckpointError(msg)
    output.mkdir(parents=True, exist_ok=True)
    with atomic_file(output / hub.WEIGHTS, overwrite=True) as temporary:
        save_file(encoder, temporary, metadata={"format": "pt"})
    for name in ("geneformer_heads", "geneformer_pooling", "geneformer_learn_task_weights"):
        if hasattr(config, name):
            delattr(config, name)
    write_config(config, output, architecture="BertModel")
    return output


def _read(folder: Path) -> tuple[BertConfig, dict[str, Tensor]]:
    """Configuration and weights, whichever way they are stored; nothing is converted for being read once."""
    if not folder.is_dir():
        msg = f"{folder} does not exist. Train a network first, or give the model_save_path of one."
        raise CheckpointError(msg)
    config, pickled = loading.read_config(folder), folder / hub.PICKLED_WEIGHTS
    if pickled.is_file() and not (folder / hub.WEIGHTS).is_file():
        return config, loading.unpickle_weights(pickled)
    return config, loading.read_weights(folder)


def _renamed(name: str, prefixes: Mapping[str, str]) -> str:
    prefix = next((old for old in prefixes if name.startswith(old)), "")
    return prefixes.get(prefix, "") + name.removeprefix(prefix)


@dataclass(frozen=True, slots=True, eq=False)
class TaskPredictions:
    """Probabilities of the classes of each task, and the true classes where they are known; in the dataset's order."""

    classes: Classes
    proba: dict[str, NDArray[np.float64]]
    truth: dict[str, NDArray[np.int64]]

    def figures(self) -> dict[str, dict[str, Any]]:
        """By task: cells with a known class and others, cross-entropy in nats, accuracy, macro-F1, confusion matrix."""
        from sklearn.metrics import confusion_matrix

        figures = {}
        for name, codes in self.truth.items():
            labeled = codes != MISSING
            if not labeled.any():
                continue
            truth, proba, classes = codes[labeled], self.proba[name][labeled], self.classes[name]
            predicted = proba.argmax(axis=1)
            accuracy, macro_f1 = accuracy_and_macro_f1(truth, predicted)
            of_truth = np.maximum(proba[np.arange(len(truth)), truth], np.finfo(np.float64).tiny)
            figures[name] = {
                "n_cells": len(truth),
                "n_unknown": int((~labeled).sum()),
                "loss": float(-np.log(of_truth).mean()),
                "accuracy": accuracy,
                "macro_f1": macro_f1,
                "classes": list(classes),
                "confusion": confusion_matrix(truth, predicted, labels=range(len(classes))).tolist(),
            }
        return figures

    def loss(self) -> float:
        """Mean of the cross-entropies of the tasks."""
        figures = self.figures()
        return float(np.mean([figures[name]["loss"] for name in self.classes]))


def task_names(columns: Sequence[str]) -> list[str]:
    """What the tasks are called in files: `task1`, `task2` and so on."""
    return [f"task{number}" for number in range(1, len(columns) + 1)]


def names_of_cells(tokens: TokenizedDataset) -> list[str]:
    """Name of each cell: its `unique_cell_id`, else its `cell_id`, else `cell_` and its row."""
    for name in ("unique_cell_id", keys.CELL_ID):
        if name in tokens.columns:
            return [str(value) for value in tokens.column(name).tolist()]
    return [f"cell_{row}" for row in range(len(tokens))]


def validation_table(predictions: TaskPredictions, tokens: TokenizedDataset) -> "pd.DataFrame":
    """Predictions on labeled cells, in the order of the dataset."""
    import pandas as pd

    columns: dict[str, Any] = {"Cell ID": names_of_cells(tokens)}
    for task, (name, labels) in zip(task_names(list(predictions.classes)), predictions.classes.items(), strict=True):
        proba, truth = predictions.proba[name], predictions.truth[name]
        predicted = proba.argmax(axis=1)
        columns[f"{task}_true_idx"], columns[f"{task}_pred_idx"] = truth, predicted
        columns[f"{task}_true_label"] = [labels[code] for code in truth]
        columns[f"{task}_pred_label"] = [labels[code] for code in predicted]
        columns[f"{task}_all_probs"] = _joined(proba)
        columns |= {f"{task}_prob_{label}": proba[:, code] for code, label in enumerate(labels)}
    return pd.DataFrame(columns)


def test_table(predictions: TaskPredictions, tokens: TokenizedDataset) -> "pd.DataFrame":
    """Predictions, in the order of the dataset."""
    import pandas as pd

    columns: dict[str, Any] = {"Cell ID": names_of_cells(tokens)}
    for task, proba in zip(task_names(list(predictions.classes)), predictions.proba.values(), strict=True):
        columns[f"{task} Prediction"], columns[f"{task} Probabilities"] = proba.argmax(axis=1), _joined(proba)
    return pd.DataFrame(columns)


def _joined(proba: NDArray[np.float64]) -> list[str]:
    return [",".join(map(str, row)) for row in proba.tolist()]


def write_text(text: str, path: Path) -> None:
    """Write a table or figures, by the first process, in a folder that is made if it is missing."""
    if not is_first():
        return
    with atomic_file(path, overwrite=True, parents=True) as temporary:
        temporary.write_text(text, encoding="utf-8")


def is_first() -> bool:
    """Whether this process writes the files."""
    return int(os.environ.get("RANK", "0")) == 0


def write_mappings(classes: Classes, path: Path) -> None:
    """Write which number each label has: `{"task1": {label: number}, …}`."""
    numbers = [{label: code for code, label in enumerate(labels)} for labels in classes.values()]
    write_pickle(dict(zip(task_names(list(classes)), numbers, strict=True)), path)


def read_mappings(path: Path, columns: Sequence[str]) -> Classes:
    """Labels by task in the order of their numbers, as `write_mappings` or the published package wrote them."""
    content, names = read_pickle(path), task_names(columns)
    fits = isinstance(content, dict) and list(content) == names and all(isinstance(m, dict) for m in content.values())
    if not fits or any(sorted(numbers.values()) != list(range(len(numbers))) for numbers in content.values()):
        held = list(content) if isinstance(content, dict) else type(content).__name__
        msg = f"{path} holds {held}, not the label mappings of the {len(columns)} tasks {list(columns)}."
        raise CheckpointError(msg)
    return {
        column: tuple(sorted(content[name], key=content[name].get)) for column, name in zip(columns, names, strict=True)
    }
