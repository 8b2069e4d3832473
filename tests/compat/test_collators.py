"""Collators for a plain Trainer."""

import inspect

import pytest
import torch
from transformers import BertForSequenceClassification, BertForTokenClassification, Trainer, TrainingArguments

from geneformer import DataCollatorForCellClassification, DataCollatorForGeneClassification, Vocabulary
from geneformer.compat import training_arguments
from geneformer.compat.classifier_training import length_groups
from geneformer.errors import DatasetError, GeneformerWarning, OptionError
from small_classifier_inputs import POSITIONS, cells, tiny_model

pytestmark = pytest.mark.contract

BOTH = (DataCollatorForCellClassification, DataCollatorForGeneClassification)
ROWS = [{"input_ids": [5, 7, 9], "label": 2, "labels": [1, -100, 0]}, {"input_ids": [4], "label": 0, "labels": [1]}]


@pytest.mark.parametrize("collator", BOTH)
def test_the_token_dictionary_comes_first_and_may_be_left_out(collator):
    first, *options = inspect.signature(collator).parameters.values()
    assert (first.name, first.default) == ("token_dictionary", None)
    assert [(p.name, p.default) for p in options] == [
        ("padding", True), ("max_length", None), ("pad_to_multiple_of", None),
    ]  # fmt: skip


@pytest.mark.parametrize("collator", BOTH)
def test_cells_are_padded_to_the_longest(collator):
    batch = collator()(ROWS)
    assert batch["input_ids"].tolist() == [[5, 7, 9], [4, 0, 0]]
    assert batch["attention_mask"].tolist() == [[1, 1, 1], [1, 0, 0]]
    assert {value.dtype for value in batch.values()} == {torch.int64}


def test_labels_of_cells_and_of_genes():
    rows = [{key: value for key, value in row.items() if key != "labels"} for row in ROWS]
    assert DataCollatorForCellClassification()(rows)["labels"].tolist() == [2, 0]
    assert DataCollatorForGeneClassification()(ROWS)["labels"].tolist() == [[1, -100, 0], [1, -100, -100]]


OTHER_NAMES = [
    ({"evaluation_strategy": "steps", "eval_steps": 5}, {"eval_strategy": "steps", "eval_steps": 5}),
    ({"group_by_length": True, "length_column_name": "length"}, {"length_column_name": "length"}),
    ({"no_cuda": True}, {"use_cpu": True}),
    ({"per_gpu_train_batch_size": 3, "per_gpu_eval_batch_size": 2}, {"per_device_train_batch_size": 3}),
    ({"adafactor": True}, {"optim": "adafactor"}),
    ({"include_inputs_for_metrics": True}, {"include_for_metrics": ["inputs"]}),
    ({"overwrite_output_dir": True, "save_safetensors": True, "fp16_backend": "auto"}, {"fp16": False}),
    ({"warmup_ratio": 0.25, "max_steps": 8}, {"max_steps": 8}),
    ({"learning_rate": 0.5, "warmup_steps": 3}, {"learning_rate": 0.5, "warmup_steps": 3}),
]


@pytest.mark.parametrize(("given", "means"), OTHER_NAMES, ids="-".join)
def test_training_arguments_take_their_names_of_other_releases(tmp_path, given, means):
    """Those of a plain Trainer, once a collator of this package is imported; whichever release is installed."""
    args = TrainingArguments(output_dir=str(tmp_path), report_to=[], **given)
    assert {name: getattr(args, name) for name in means} == means
    if "group_by_length" in given:
        assert length_groups(args, [3, 1, 2]) is not None
    if "warmup_ratio" in given:
        assert args.get_warmup_steps(8) == 2
    assert inspect.signature(TrainingArguments).parameters["output_dir"].name == "output_dir"


def test_the_names_of_a_later_release_work_in_an_earlier_one(monkeypatch):
    earlier = {"eval_strategy", "group_by_length", "no_cuda", "use_cpu", "warmup_ratio", "warmup_steps"}
    monkeypatch.setattr(training_arguments, "NAMES", frozenset(earlier))
    given = {"train_sampling_strategy": "group_by_length", "warmup_ratio": 0.1, "no_cuda": True, "eval_strategy": "no"}
    assert training_arguments.installed_arguments(given) == {
        "group_by_length": True, "warmup_ratio": 0.1, "use_cpu": True, "eval_strategy": "no",
    }  # fmt: skip


def test_training_arguments_that_no_release_has_are_refused_as_ever(tmp_path):
    for name in ("no_such_argument", "no_eval", "use_gpu_device"):
        with pytest.raises(TypeError, match=name):
            TrainingArguments(output_dir=str(tmp_path), **{name: True})
    if "logging_dir" not in inspect.signature(TrainingArguments).parameters:
        with pytest.warns(GeneformerWarning, match="TENSORBOARD_LOGGING_DIR"):
            TrainingArguments(output_dir=str(tmp_path), report_to=[], logging_dir="logs")


def test_numbers_that_are_not_whole_stay_so():
    rows = [{"input_ids": [5], "label": 0.5}, {"input_ids": [4], "label": 1.0}]
    assert DataCollatorForCellClassification()(rows)["labels"].dtype == torch.float32


def test_padding_follows_the_dictionary_and_the_options():
    collate = DataCollatorForCellClassification(token_dictionary={"<pad>": 3})
    assert collate(ROWS)["input_ids"].tolist() == [[5, 7, 9], [4, 3, 3]]
    collate.pad_to_multiple_of = 4
    assert collate(ROWS)["input_ids"].shape == (2, 4)
    collate.padding, collate.max_length = "max_length", 8
    assert collate(ROWS)["attention_mask"].sum(dim=1).tolist() == [3, 1]
    assert collate(ROWS)["input_ids"].shape == (2, 8)


@pytest.mark.parametrize(
    ("padding", "max_length"), [("max_length", 2), ("max_length", None), (False, None), ("x", None)]
)
def test_padding_that_does_not_work_out_is_refused(padding, max_length):
    with pytest.raises(OptionError, match="padding"):
        DataCollatorForCellClassification(padding=padding, max_length=max_length)(ROWS)


def test_a_gene_label_for_every_token_is_needed():
    with pytest.raises(DatasetError, match="3 tokens and 2 labels"):
        DataCollatorForGeneClassification()([{"input_ids": [5, 7, 9], "labels": [1, 0]}])


def test_rows_without_tokens_and_empty_batches_are_refused():
    with pytest.raises(DatasetError, match="input_ids"):
        DataCollatorForCellClassification()([{"label": 1}])
    with pytest.raises(DatasetError, match="without cells"):
        DataCollatorForCellClassification()([])


def test_a_dictionary_without_padding_is_refused():
    with pytest.raises(OptionError, match="<pad>"):
        DataCollatorForCellClassification({"ENSG1": 5})


@pytest.mark.parametrize(
    ("collator", "network", "name"),
    [
        (DataCollatorForCellClassification, BertForSequenceClassification, "label"),
        (DataCollatorForGeneClassification, BertForTokenClassification, "labels"),
    ],
)
def test_a_plain_trainer_takes_a_step(collator, network, name, tmp_path):
    datasets = pytest.importorskip("datasets")
    model = network.from_pretrained(tiny_model(tmp_path / "model"), num_labels=3)
    tokens = [cells(n=8)[row].tolist() for row in range(8)]
    labels = [row % 3 if name == "label" else [token % 3 for token in ids] for row, ids in enumerate(tokens)]
    data = datasets.Dataset.from_dict({"input_ids": tokens, name: labels, "length": [len(ids) for ids in tokens]})
    arguments = TrainingArguments(
        str(tmp_path / "out"), max_steps=1, per_device_train_batch_size=4, report_to=[], use_cpu=True, disable_tqdm=True
    )
    before = model.classifier.weight.detach().clone()
    trainer = Trainer(
        model,
        arguments,
        train_dataset=data,
        data_collator=collator(Vocabulary.load("V1").published_tables()["token_dictionary"]),
    )
    trainer.train()
    assert trainer.state.global_step == 1
    assert not torch.equal(before, model.classifier.weight)
    assert model.config.max_position_embeddings == POSITIONS


def test_published_paths():
    from geneformer.collator_for_classification import DataCollatorForCellClassification as FromModule

    assert FromModule is DataCollatorForCellClassification


def test_batches_may_be_prepared_by_a_class_of_ones_own():
    class Scaled(DataCollatorForCellClassification):
        def _prepare_batch(self, features):
            batch = super()._prepare_batch(features)
            return {**batch, "labels": batch["labels"] * 2}

    batch = Scaled({"<pad>": 0})([{"input_ids": [5], "label": 0.5}, {"input_ids": [5, 6], "label": 1.5}])
    assert batch["labels"].tolist() == [1.0, 3.0]
    assert batch["attention_mask"].tolist() == [[1, 0], [1, 1]]
