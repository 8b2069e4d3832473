"""Parts of the classifier under their published names: columns, draws, metrics, defaults."""

import inspect
import random
from types import SimpleNamespace

import datasets
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import accuracy_score, f1_score
from transformers import BertForMaskedLM, TrainingArguments

from geneformer import classifier_utils, errors
from golden import tiny_config

pytestmark = pytest.mark.contract

NOTHING = inspect.Parameter.empty
SIGNATURES = {
    "downsample_and_shuffle": [
        ("data", NOTHING),
        ("max_ncells", NOTHING),
        ("max_ncells_per_class", NOTHING),
        ("cell_state_dict", NOTHING),
    ],
    "subsample_by_class": [("labels", NOTHING), ("N", NOTHING)],
    "rename_cols": [("data", NOTHING), ("state_key", NOTHING)],
    "remove_cols": [("data", NOTHING), ("cols_to_keep", NOTHING)],
    "get_num_classes": [("id_class_dict", NOTHING)],
    "compute_metrics": [("pred", NOTHING)],
    "label_gene_classes": [("example", NOTHING), ("class_id_dict", NOTHING), ("gene_class_dict", NOTHING)],
    "get_default_train_args": [
        ("model", NOTHING),
        ("classifier", NOTHING),
        ("data", NOTHING),
        ("output_dir", NOTHING),
    ],
}


@pytest.mark.parametrize("name", classifier_utils.__all__)
def test_arguments_have_the_published_names_order_and_defaults(name):
    parameters = inspect.signature(getattr(classifier_utils, name)).parameters.values()
    assert [(p.name, p.default) for p in parameters] == SIGNATURES[name]
    assert {p.kind for p in parameters} == {inspect.Parameter.POSITIONAL_OR_KEYWORD}


def cells(n=60):
    kinds = ["abc"[row % 7 % 3] for row in range(n)]
    return datasets.Dataset.from_dict({"input_ids": [[2]] * n, "kind": kinds, "length": [1] * n, "row": range(n)})


def test_cells_are_shuffled_and_capped():
    data = cells()
    shuffled = data.shuffle(seed=42)["row"][:]
    assert classifier_utils.downsample_and_shuffle(data, None, None, None)["row"][:] == shuffled
    assert classifier_utils.downsample_and_shuffle(data, 20, None, None)["row"][:] == shuffled[:20]
    assert classifier_utils.downsample_and_shuffle(data, 99, None, None)["row"][:] == shuffled
    capped = classifier_utils.downsample_and_shuffle(data, 50, 10, {"state_key": "kind", "states": "all"})
    kinds = [data[row]["kind"] for row in shuffled[:50]]
    assert capped["row"][:] == [shuffled[place] for place in classifier_utils.subsample_by_class(kinds, 10)]
    assert [capped["kind"][:].count(kind) for kind in "abc"] == [10, 10, 10]
    with pytest.raises(errors.OptionError, match="state_key"):
        classifier_utils.downsample_and_shuffle(data, None, 5, None)
    with pytest.raises(errors.DatasetError, match="kinds"):
        classifier_utils.downsample_and_shuffle(data, None, 5, {"state_key": "kinds"})


@settings(max_examples=40)
@given(st.lists(st.sampled_from("abc"), max_size=40), st.integers(1, 12))
def test_labels_are_capped_in_the_order_of_their_first_appearance(labels, most):
    by_label = {}
    for row, label in enumerate(labels):
        by_label.setdefault(label, []).append(row)
    rng = random.Random(42)
    wanted = [row for rows in by_label.values() for row in (rng.sample(rows, most) if len(rows) > most else rows)]
    assert classifier_utils.subsample_by_class(labels, most) == wanted


def test_columns_are_renamed_and_removed():
    data = classifier_utils.rename_cols(cells(), "kind")
    assert data.column_names == ["input_ids", "label", "length", "row"]
    kept = classifier_utils.remove_cols(data, ["label", "input_ids", "length"])
    assert kept.column_names == ["input_ids", "label", "length"]
    with pytest.raises(errors.DatasetError, match="kind"):
        classifier_utils.rename_cols(data, "kind")


def test_classes_are_counted_by_their_labels():
    assert classifier_utils.get_num_classes({0: "a", 1: "b", 2: "a"}) == 2


@pytest.mark.parametrize("per_token", [False, True])
def test_metrics_are_those_of_scikit_learn(per_token):
    rng = np.random.default_rng(1)
    shape = (30, 4) if per_token else (30,)
    labels, logits = rng.integers(0, 3, shape), rng.normal(size=(*shape, 4))
    told = logits.argmax(-1)
    if per_token:
        labels[rng.random(shape) < 0.4] = -100
    found = classifier_utils.compute_metrics(SimpleNamespace(label_ids=labels, predictions=logits))
    known = labels != -100
    assert found == {
        "accuracy": pytest.approx(accuracy_score(labels[known], told[known])),
        "macro_f1": pytest.approx(f1_score(labels[known], told[known], average="macro")),
    }
    with_states = SimpleNamespace(label_ids=labels, predictions=(logits, "hidden states"))
    assert classifier_utils.compute_metrics(with_states) == found


def test_nothing_to_score_is_an_error():
    empty = SimpleNamespace(label_ids=np.full((2, 3), -100), predictions=np.zeros((2, 3, 2)))
    with pytest.raises(errors.NoCellsError, match="label"):
        classifier_utils.compute_metrics(empty)


@pytest.mark.parametrize("n_layers", [3, 6])
def test_defaults_are_the_published_ones(tmp_path, n_layers):
    config = tiny_config("V1")
    config.num_hidden_layers, config.vocab_size = n_layers, 50
    model = BertForMaskedLM(config)
    cell, freeze = classifier_utils.get_default_train_args(model, "cell", cells(), tmp_path)
    gene, _ = classifier_utils.get_default_train_args(model, "gene", cells(), str(tmp_path))
    assert freeze == 0
    common = {
        "learning_rate": 5e-5,
        "lr_scheduler_type": "linear",
        "weight_decay": 0.001,
        "per_device_train_batch_size": 12,
        "per_device_eval_batch_size": 12,
        "save_strategy": "epoch",
        "output_dir": str(tmp_path),
        "warmup_steps": 500 if n_layers == 6 else 0,
    }
    for arguments in (cell, gene):
        assert common.items() <= arguments.items()
        assert arguments["logging_steps"] >= 1
        TrainingArguments(**arguments)
    chosen = ("num_train_epochs", "eval_strategy", "load_best_model_at_end")
    assert [cell[name] for name in chosen] == [10, "epoch", True]
    assert [gene[name] for name in chosen] == [1, "no", False]
    with pytest.raises(errors.UnknownChoiceError, match="gene"):
        classifier_utils.get_default_train_args(model, "cells", cells(), tmp_path)
