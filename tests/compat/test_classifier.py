"""Cell classification under the published names."""

import inspect
import json
import math
import os
import pickle
import subprocess
import sys
import warnings
from collections import Counter
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import torch

from geneformer import Classifier, load_model
from geneformer.errors import (
    CheckpointError,
    DatasetError,
    GeneformerWarning,
    MissingLabelError,
    NoCellsError,
    OptionError,
    OutOfRangeError,
    OutputExistsError,
    UnknownClassError,
    UnknownOptionError,
    UnsafeFileError,
    UnsupportedArgumentError,
    VocabularyMismatchError,
)
from geneformer.tokens.storage import read_dataset, write_dataset
from small_classifier_inputs import POSITIONS, STATES, cells, genes, saved_cells, tiny_model

pytestmark = pytest.mark.contract

CELLS = {"state_key": "state", "states": "all"}
QUICK = {"num_train_epochs": 1, "per_device_train_batch_size": 8, "learning_rate": 1e-3, "seed": 1}
REQUIRED = inspect.Parameter.empty

CONSTRUCTOR = [
    ("classifier", None), ("quantize", False), ("cell_state_dict", None), ("gene_class_dict", None),
    ("filter_data", None), ("rare_threshold", 0), ("max_ncells", None), ("max_ncells_per_class", None),
    ("training_args", None), ("ray_config", None), ("freeze_layers", 0), ("num_crossval_splits", 1),
    ("split_sizes", {"train": 0.8, "valid": 0.1, "test": 0.1}), ("stratify_splits_col", None), ("no_eval", False),
    ("forward_batch_size", 100), ("model_version", "V2"), ("token_dictionary_file", None), ("nproc", 4), ("ngpu", 1),
    ("filter_data_dict", None),
]  # fmt: skip
METHODS = {
    "prepare_data": [
        ("input_data_file", REQUIRED), ("output_directory", REQUIRED), ("output_prefix", REQUIRED),
        ("split_id_dict", None), ("test_size", None), ("attr_to_split", None), ("attr_to_balance", None),
        ("max_trials", 100), ("pval_threshold", 0.1), ("id_class_dict_path", None),
    ],
    "train_all_data": [
        ("model_directory", REQUIRED), ("prepared_input_data_file", REQUIRED), ("id_class_dict_file", REQUIRED),
        ("output_directory", REQUIRED), ("output_prefix", REQUIRED), ("save_eval_output", True),
        ("gene_balance", False),
    ],
    "validate": [
        ("model_directory", REQUIRED), ("prepared_input_data_file", REQUIRED), ("id_class_dict_file", REQUIRED),
        ("output_directory", REQUIRED), ("output_prefix", REQUIRED), ("split_id_dict", None),
        ("attr_to_split", None), ("attr_to_balance", None), ("gene_balance", False), ("max_trials", 100),
        ("pval_threshold", 0.1), ("save_eval_output", True), ("predict_eval", True), ("predict_trainer", False),
        ("n_hyperopt_trials", 0), ("save_gene_split_datasets", True), ("debug_gene_split_datasets", False),
    ],
    "hyperopt_classifier": [
        ("model_directory", REQUIRED), ("num_classes", REQUIRED), ("train_data", REQUIRED), ("eval_data", REQUIRED),
        ("output_directory", REQUIRED), ("n_trials", 100),
    ],
    "train_classifier": [
        ("model_directory", REQUIRED), ("num_classes", REQUIRED), ("train_data", REQUIRED), ("eval_data", REQUIRED),
        ("output_directory", REQUIRED), ("predict", False),
    ],
    "evaluate_model": [
        ("model", REQUIRED), ("num_classes", REQUIRED), ("id_class_dict", REQUIRED), ("eval_data", REQUIRED),
        ("predict", False), ("output_directory", None), ("output_prefix", None), ("predict_metadata", None),
    ],
    "evaluate_saved_model": [
        ("model_directory", REQUIRED), ("id_class_dict_file", REQUIRED), ("test_data_file", REQUIRED),
        ("output_directory", REQUIRED), ("output_prefix", REQUIRED), ("predict", True), ("predict_metadata", None),
    ],
    "plot_conf_mat": [
        ("conf_mat_dict", REQUIRED), ("output_directory", REQUIRED), ("output_prefix", REQUIRED),
        ("custom_class_order", None),
    ],
    "plot_roc": [
        ("roc_metric_dict", REQUIRED), ("model_style_dict", REQUIRED), ("title", REQUIRED),
        ("output_directory", REQUIRED), ("output_prefix", REQUIRED),
    ],
    "plot_predictions": [
        ("predictions_file", REQUIRED), ("id_class_dict_file", REQUIRED), ("title", REQUIRED),
        ("output_directory", REQUIRED), ("output_prefix", REQUIRED), ("custom_class_order", None),
        ("kwargs_dict", None),
    ],
}  # fmt: skip


def signature_of(function):
    parameters = list(inspect.signature(function).parameters.values())[1:]
    assert {p.kind for p in parameters} == {inspect.Parameter.POSITIONAL_OR_KEYWORD}
    return [(p.name, p.default) for p in parameters]


def make(**kwargs):
    settings = {"cell_state_dict": CELLS, "training_args": QUICK, "model_version": "V1", **kwargs}
    return Classifier("cell", **settings)


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return tiny_model(tmp_path_factory.mktemp("model"))


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return saved_cells(tmp_path_factory.mktemp("data") / "cells.dataset")


@pytest.fixture(scope="module")
def run(tmp_path_factory, model, data):
    """One validation by donors, with everything it writes."""
    out = tmp_path_factory.mktemp("run") / "not there yet" / "with spaces; and more"
    classifier = make(freeze_layers=1)
    donors = [f"d{i}" for i in range(8)]
    classifier.prepare_data(
        data, out, "run.1", split_id_dict={"attr_key": "donor", "train": donors[:6], "test": donors[6:]}
    )
    metrics = classifier.validate(
        model, out / "run.1_labeled_train.dataset", out / "run.1_id_class_dict.pkl", out, "run.1",
        split_id_dict={"attr_key": "donor", "train": donors[:5], "eval": donors[5:6]}, predict_trainer=True,
    )  # fmt: skip
    (folder,) = out.glob("*_geneformer_cellClassifier_run.1")
    return SimpleNamespace(out=out, metrics=metrics, folder=folder / "ksplit1", classifier=classifier)


def load(path):
    return pickle.loads(Path(path).read_bytes())


def test_constructor_has_the_published_signature():
    assert signature_of(Classifier.__init__) == CONSTRUCTOR


@pytest.mark.parametrize("name", METHODS)
def test_methods_have_the_published_signature(name):
    assert signature_of(getattr(Classifier, name)) == METHODS[name]


def test_everything_is_written_under_its_published_name(run):
    assert {p.name for p in run.out.iterdir()} >= {
        "run.1_id_class_dict.pkl",
        "run.1_labeled_train.dataset",
        "run.1_labeled_test.dataset",
        "run.1_eval_metrics_dict.pkl",
    }
    assert {p.name for p in run.folder.iterdir()} >= {
        "config.json",
        "model.safetensors",
        "training_args.bin",
        "run.1_pred_dict.pkl",
        "predictions.pkl",
        "eval_results.json",
    }
    assert len(list(run.folder.glob("checkpoint-*"))) == 1
    assert len(run.folder.parent.name.split("_")[0]) == 6


def test_prepared_cells_have_labels_in_the_place_of_their_states(run):
    train = read_dataset(run.out / "run.1_labeled_train.dataset")
    test = read_dataset(run.out / "run.1_labeled_test.dataset")
    assert train.table.column_names == ["input_ids", "label", "donor", "age", "cell_id", "length"]
    assert str(train.table.schema.field("label").type) == "int64"
    assert set(train.column("donor")) == {f"d{i}" for i in range(6)}
    assert set(test.column("donor")) == {"d6", "d7"}
    everyone = cells()
    state_of = dict(zip(everyone.column("cell_id"), everyone.column("state"), strict=True))
    classes = load(run.out / "run.1_id_class_dict.pkl")
    assert [classes[code] for code in train.column("label")] == [state_of[name] for name in train.column("cell_id")]


def test_cells_come_in_the_published_order(run):
    everyone = cells()
    order = np.random.default_rng(42).permutation(len(everyone))
    wanted = [everyone.column("cell_id")[row] for row in order if everyone.column("donor")[row] < "d6"]
    assert read_dataset(run.out / "run.1_labeled_train.dataset").column("cell_id").tolist() == wanted


def test_prepared_cells_are_opened_by_datasets(run):
    datasets = pytest.importorskip("datasets")
    found = datasets.load_from_disk(str(run.out / "run.1_labeled_test.dataset"))
    assert found.features["label"].dtype == "int64"
    assert len(found["input_ids"][0]) == found["length"][0]


def test_metrics_are_those_of_the_predictions(run):
    from sklearn.metrics import accuracy_score, confusion_matrix, f1_score

    found = load(run.folder / "run.1_pred_dict.pkl")
    table = run.metrics["conf_matrix"]
    assert list(table.index) == list(table.columns) == sorted(STATES)
    assert (table.to_numpy() == confusion_matrix(found["label_ids"], found["pred_ids"], labels=[0, 1, 2])).all()
    assert run.metrics["acc"] == pytest.approx([accuracy_score(found["label_ids"], found["pred_ids"])])
    f1 = f1_score(found["label_ids"], found["pred_ids"], average="macro")
    assert run.metrics["macro_f1"] == pytest.approx([f1])
    assert run.metrics["all_roc_metrics"] is None
    assert np.array(found["predictions"]).argmax(axis=1).tolist() == found["pred_ids"]
    stored = load(run.out / "run.1_eval_metrics_dict.pkl")
    assert stored["conf_matrix"].equals(table)
    assert set(stored) == {"conf_matrix", "macro_f1", "acc", "all_roc_metrics"}


def test_the_trainers_own_predictions_are_those_of_the_evaluation(run):
    output = load(run.folder / "predictions.pkl")
    found = load(run.folder / "run.1_pred_dict.pkl")
    assert np.allclose(output.predictions, found["predictions"], atol=1e-6)
    assert output.label_ids.tolist() == found["label_ids"]
    told = json.loads((run.folder / "eval_results.json").read_text())
    assert told["test_accuracy"] == pytest.approx(run.metrics["acc"][0])
    assert {"test_loss", "test_macro_f1"} <= set(told)


@pytest.mark.parametrize("folder", ["", "checkpoint-*"])
def test_plain_transformers_opens_the_model_and_says_the_same(run, folder):
    from transformers import BertForSequenceClassification

    (path,) = run.folder.glob(folder) if folder else [run.folder]
    network, info = BertForSequenceClassification.from_pretrained(path, output_loading_info=True)
    assert not any(info.values())
    assert json.loads((path / "config.json").read_text())["architectures"] == ["BertForSequenceClassification"]
    test = read_dataset(run.out / "run.1_labeled_test.dataset")
    logits = []
    with torch.no_grad():
        for row in range(len(test)):
            ids = torch.from_numpy(test[row].astype(np.int64))[None]
            logits.append(network.eval()(input_ids=ids).logits[0].tolist())
    classes = load(run.out / "run.1_id_class_dict.pkl")
    ours = run.classifier.evaluate_model(
        network, 3, classes, run.out / "run.1_labeled_test.dataset", True, run.out, "plain"
    )
    assert np.allclose(load(run.out / "plain_pred_dict.pkl")["predictions"], logits, atol=1e-5)
    assert ours["acc"] == pytest.approx(np.mean(np.argmax(logits, axis=1) == test.column("label")))


def test_this_package_opens_the_model_as_an_encoder(run):
    opened = load_model(run.folder)
    assert opened.vocabulary.name == "V1"
    assert not opened.has_head


def test_a_saved_model_is_evaluated_without_saying_its_version(run):
    tester = Classifier("cell", cell_state_dict=CELLS, forward_batch_size=3)
    metrics = tester.evaluate_saved_model(
        run.folder, run.out / "run.1_id_class_dict.pkl", run.out / "run.1_labeled_test.dataset", run.out, "test.2",
        predict_metadata=["cell_id", "donor"],
    )  # fmt: skip
    stored = load(run.out / "test.2_test_metrics_dict.pkl")
    assert stored["acc"] == metrics["acc"]
    assert isinstance(metrics["acc"], float)
    told = load(run.out / "test.2_pred_dict.pkl")
    test = read_dataset(run.out / "run.1_labeled_test.dataset")
    assert told["prediction_metadata"]["cell_id"] == test.column("cell_id").tolist()
    assert len(told["pred_ids"]) == len(test)


def test_pickles_are_read_back_as_plain_data(run):
    from geneformer.files.pickles import read_pickle

    for name in ("run.1_id_class_dict.pkl",):
        assert read_pickle(run.out / name) == load(run.out / name)
    assert read_pickle(run.folder / "run.1_pred_dict.pkl") == load(run.folder / "run.1_pred_dict.pkl")


# Class ids


@pytest.mark.slow
def test_class_ids_do_not_depend_on_the_hash_seed_and_nothing_is_drawn(data, tmp_path):
    code = (
        "import sys; from geneformer import Classifier\n"
        "c = Classifier('cell', cell_state_dict={'state_key': 'state', 'states': 'all'}, model_version='V1')\n"
        "c.prepare_data(sys.argv[1], sys.argv[2], 'p', test_size=0)\n"
        "assert 'seaborn' not in sys.modules and 'scanpy' not in sys.modules\n"
    )
    make().prepare_data(data, tmp_path / "here", "p", test_size=0)
    environment = {**os.environ, "PYTHONHASHSEED": "7"}
    subprocess.run([sys.executable, "-c", code, str(data), str(tmp_path / "there")], check=True, env=environment)
    found = [load(tmp_path / place / "p_id_class_dict.pkl") for place in ("here", "there")]
    assert found[0] == found[1] == dict(enumerate(sorted(STATES)))


def test_class_ids_made_before_are_kept(data, tmp_path):
    old = {0: "NK", 1: "T cell", 2: "B cell"}
    (tmp_path / "old.pkl").write_bytes(pickle.dumps(old))
    make().prepare_data(data, tmp_path, "p", test_size=0, id_class_dict_path=tmp_path / "old.pkl")
    assert load(tmp_path / "p_id_class_dict.pkl") == old
    prepared = read_dataset(tmp_path / "p_labeled.dataset")
    state_of = dict(zip(cells().column("cell_id"), cells().column("state"), strict=True))
    assert [old[c] for c in prepared.column("label")] == [state_of[n] for n in prepared.column("cell_id")]


def test_states_that_old_class_ids_lack_are_named(data, tmp_path):
    (tmp_path / "old.pkl").write_bytes(pickle.dumps({0: "NK", 1: "T cell"}))
    with pytest.raises(UnknownClassError, match="B cell"):
        make().prepare_data(data, tmp_path, "p", id_class_dict_path=tmp_path / "old.pkl")


def test_a_dictionary_of_classes_runs_no_code(data, tmp_path):
    (tmp_path / "bad.pkl").write_bytes(b"cos\nsystem\n(S'touch owned'\ntR.")
    with pytest.raises(UnsafeFileError):
        make().prepare_data(data, tmp_path, "p", id_class_dict_path=tmp_path / "bad.pkl")


# Preparation


def test_rare_states_are_left_out(tmp_path):
    everyone = cells(48, states=("a", "a", "a", "a", "a", "b", "b", "rare"))
    write_dataset(everyone, tmp_path / "c.dataset")
    make(rare_threshold=0.125).prepare_data(tmp_path / "c.dataset", tmp_path, "p", test_size=0)
    assert load(tmp_path / "p_id_class_dict.pkl") == {0: "a", 1: "b"}
    assert len(read_dataset(tmp_path / "p_labeled.dataset")) == 42


def test_a_threshold_that_leaves_no_state_is_refused(data, tmp_path):
    with pytest.raises(NoCellsError, match="rare_threshold"):
        make(rare_threshold=0.9).prepare_data(data, tmp_path, "p")


def test_cells_are_capped_in_all_and_by_state(data, tmp_path):
    make(max_ncells=30, max_ncells_per_class=4).prepare_data(data, tmp_path, "p", test_size=0)
    assert Counter(read_dataset(tmp_path / "p_labeled.dataset").column("label").tolist()) == {0: 4, 1: 4, 2: 4}


def test_listed_states_and_filters_do_not_change_the_callers_dictionaries(data, tmp_path):
    wanted, states = {"donor": "d1"}, {"state_key": "state", "states": ["NK", "T cell"]}
    make(filter_data=wanted, cell_state_dict=states).prepare_data(data, tmp_path, "p", test_size=0)
    assert wanted == {"donor": "d1"}
    assert states == {"state_key": "state", "states": ["NK", "T cell"]}
    prepared = read_dataset(tmp_path / "p_labeled.dataset")
    assert set(prepared.column("donor")) == {"d1"}
    assert load(tmp_path / "p_id_class_dict.pkl") == {0: "NK", 1: "T cell"}


def test_cells_are_split_at_random_as_published(data, tmp_path):
    make().prepare_data(data, tmp_path, "p")
    train = read_dataset(tmp_path / "p_labeled_train.dataset")
    test = read_dataset(tmp_path / "p_labeled_test.dataset")
    assert len(test) == 5  # a tenth of 48, rounded up
    datasets = pytest.importorskip("datasets")
    shuffled = datasets.Dataset.from_dict({"cell_id": cells().column("cell_id").tolist()}).shuffle(seed=42)
    wanted = shuffled.train_test_split(test_size=0.1, seed=42)
    assert train.column("cell_id").tolist() == list(wanted["train"]["cell_id"])
    assert test.column("cell_id").tolist() == list(wanted["test"]["cell_id"])


def test_shares_of_a_text_column_are_kept(data, tmp_path):
    make(stratify_splits_col="state").prepare_data(data, tmp_path, "p", test_size=0.25)
    assert Counter(read_dataset(tmp_path / "p_labeled_test.dataset").column("label").tolist()) == {0: 4, 1: 4, 2: 4}


def donors(path, old):
    """Twelve donors, of whom some are old; states belong to donors."""
    everyone = cells(96, states=("healthy",))
    number = [row % 12 for row in range(96)]
    table = everyone.table
    table = table.set_column(1, "state", [["sick" if n % 2 else "healthy" for n in number]])
    table = table.set_column(2, "donor", [[f"d{n:02}" for n in number]])
    table = table.set_column(3, "age", [[90.0 if n in old else 30.0 + n for n in number]])
    return write_dataset(type(everyone)(table), path)


def test_balanced_donors_are_drawn_and_told(tmp_path):
    path = donors(tmp_path / "c.dataset", old=())
    make().prepare_data(path, tmp_path, "p", test_size=0.25, attr_to_split="donor", attr_to_balance=["state", "age"])
    table = pd.read_csv(tmp_path / "p_train_test_balance_df.csv", index_col=0)
    assert list(table.columns) == [
        "trial_num", "train_ids", "eval_ids", "state_train_mean_or_counts", "state_eval_mean_or_counts", "state_pval",
        "age_train_mean_or_counts", "age_eval_mean_or_counts", "age_pval", "mean_pval", "accepted",
    ]  # fmt: skip
    test = set(read_dataset(tmp_path / "p_labeled_test.dataset").column("donor"))
    train = set(read_dataset(tmp_path / "p_labeled_train.dataset").column("donor"))
    assert len(test) == 3
    assert not test & train
    assert test == set(eval(table[table["accepted"]].iloc[0]["eval_ids"]))
    assert table.iloc[-1]["age_pval"] >= 0.1


def test_where_no_draw_is_balanced_the_best_one_is_used(tmp_path):
    path = donors(tmp_path / "c.dataset", old=())
    with pytest.warns(GeneformerWarning, match="the best one is used"):
        make().prepare_data(
            path, tmp_path, "p", test_size=0.25, attr_to_split="donor", attr_to_balance=["state", "age"],
            max_trials=6, pval_threshold=1.0,
        )  # fmt: skip
    table = pd.read_csv(tmp_path / "p_train_test_balance_df.csv", index_col=0)
    best = table.loc[table["mean_pval"].idxmax()]
    assert len(table) == 6
    assert best["trial_num"] != 5  # or the test would not tell the best from the last
    assert set(read_dataset(tmp_path / "p_labeled_test.dataset").column("donor")) == set(eval(best["eval_ids"]))


def test_labels_that_are_there_already_are_refused(run, tmp_path):
    with pytest.raises(DatasetError, match="'label'"):
        make().prepare_data(run.out / "run.1_labeled_test.dataset", tmp_path, "p")


def test_cells_without_a_state_are_told_of(tmp_path):
    everyone = cells(6)
    table = everyone.table.set_column(1, "state", [["a", None, "b", "a", "b", "a"]])
    write_dataset(type(everyone)(table), tmp_path / "c.dataset")
    with pytest.raises(MissingLabelError, match="filter_data"):
        make().prepare_data(tmp_path / "c.dataset", tmp_path, "p")


# Splits


def test_five_folds_cover_every_cell_once(model, data, tmp_path, monkeypatch):
    seen = []

    def watch(self, model_directory, num_classes, train_data, eval_data, output_directory, predict=False):
        seen.append((train_data.column("cell_id").tolist(), eval_data.column("cell_id").tolist()))
        return SimpleNamespace(model=None)

    result = {"conf_mat": np.eye(3, dtype=int), "macro_f1": 1.0, "acc": 1.0, "roc_metrics": None}
    monkeypatch.setattr(Classifier, "train_classifier", watch)
    monkeypatch.setattr(Classifier, "evaluate_model", lambda *_: result)
    classifier = make(num_crossval_splits=5)
    classifier.prepare_data(data, tmp_path, "p", test_size=0)
    metrics = classifier.validate(
        model, tmp_path / "p_labeled.dataset", tmp_path / "p_id_class_dict.pkl", tmp_path, "p"
    )
    held = [name for _, names in seen for name in names]
    assert sorted(held) == sorted(cells().column("cell_id"))
    assert all(not set(learnt) & set(tested) for learnt, tested in seen)
    assert metrics["acc"] == [1.0] * 5
    assert metrics["conf_matrix"].to_numpy().trace() == 15


@pytest.mark.parametrize(
    "sizes", [{"train": 0.7, "valid": 0.2, "test": 0.1}, {"train": 0.6, "valid": 0.3, "test": 0.1}]
)
def test_shares_that_add_up_to_one_but_for_rounding_are_taken(sizes):
    assert make(split_sizes=sizes).eval_size == pytest.approx(sizes["valid"] / (sizes["train"] + sizes["valid"]))


@pytest.mark.parametrize("sizes", [{"train": 0.8, "valid": 0.1}, {"train": 0.8, "valid": 0.1, "test": 0.2}])
def test_shares_that_do_not_add_up_are_refused(sizes):
    with pytest.raises(OptionError, match="split_sizes"):
        make(split_sizes=sizes)


# Training


def test_a_trained_model_is_not_overwritten(run, model):
    before = (run.folder / "model.safetensors").read_bytes()
    with pytest.raises(OutputExistsError, match=r"model\.safetensors"):
        run.classifier.train_classifier(model, 3, run.out / "run.1_labeled_train.dataset", None, run.folder)
    assert (run.folder / "model.safetensors").read_bytes() == before


def test_few_cells_are_trained_on(run, model, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("geneformer.files.progress.SECONDS_BETWEEN_LINES", 0.0)
    few = read_dataset(run.out / "run.1_labeled_train.dataset").take(range(6))
    trainer = make(training_args={"num_train_epochs": 1}).train_classifier(model, 3, few, None, tmp_path / "m")
    assert "Training m: 1 of 1 steps" in capsys.readouterr().err
    hidden = {"num_train_epochs": 1, "disable_tqdm": True}
    make(training_args=hidden).train_classifier(model, 3, few, None, tmp_path / "hidden")
    assert "Training" not in capsys.readouterr().err
    assert trainer.state.global_step == 1
    assert trainer.args.logging_steps == 1


def test_the_users_arguments_are_honored(run, model, tmp_path):
    given = {
        "num_train_epochs": 2, "per_device_train_batch_size": 5, "gradient_accumulation_steps": 2, "logging_steps": 3,
        "lr_scheduler_type": "cosine", "warmup_steps": 2, "learning_rate": 2e-3, "weight_decay": 0.2, "seed": 5,
        "evaluation_strategy": "steps", "eval_steps": 2, "save_total_limit": 1, "group_by_length": True,
        "label_smoothing_factor": 0.1, "no_cuda": True, "optim": "sgd",
    }  # fmt: skip
    train = read_dataset(run.out / "run.1_labeled_train.dataset")
    test = run.out / "run.1_labeled_test.dataset"
    trainer = make(training_args=given).train_classifier(model, 3, train, test, tmp_path / "m")
    steps_per_epoch = math.ceil(math.ceil(len(train) / 5) / 2)
    assert trainer.state.max_steps == 2 * steps_per_epoch
    evaluated = [line["step"] for line in trainer.state.log_history if "eval_loss" in line]
    assert evaluated[:2] == [2, 4]
    assert [line["step"] for line in trainer.state.log_history if "loss" in line][:2] == [3, 6]
    args = trainer.args
    assert (args.lr_scheduler_type, args.warmup_steps, args.learning_rate) == ("cosine", 2, 2e-3)
    assert (args.weight_decay, args.seed, args.logging_steps, args.optim) == (0.2, 5, 3, "sgd")
    assert args.use_cpu
    assert trainer.model.label_smoothing == 0.1
    assert {"eval_accuracy", "eval_macro_f1"} <= set(trainer.state.log_history[-2]) | set(trainer.state.log_history[-3])


def test_published_defaults_by_depth():
    from geneformer.compat.classifier_training import published_arguments

    six = published_arguments(None, kind="cell", n_layers=6, n_train=1200, evaluate=True)
    assert six["warmup_steps"] == 500
    assert six["learning_rate"] == 5e-5
    assert six["num_train_epochs"] == 10
    assert (six["per_device_train_batch_size"], six["weight_decay"], six["logging_steps"]) == (12, 0.001, 10)
    assert (six["eval_strategy"], six["load_best_model_at_end"]) == ("epoch", True)
    genes = published_arguments(None, kind="gene", n_layers=12, n_train=1200, evaluate=True)
    assert (genes["warmup_steps"], genes["num_train_epochs"], genes["eval_strategy"]) == (0, 1, "no")
    assert not genes["load_best_model_at_end"]


@pytest.mark.parametrize(
    ("given", "error"),
    [
        ({"gradient_checkpointing": True}, UnsupportedArgumentError),
        ({"deepspeed": "ds.json"}, UnsupportedArgumentError),
        ({"learnig_rate": 1e-3}, UnknownOptionError),
    ],
)
def test_arguments_that_cannot_be_honored_are_named(run, model, tmp_path, given, error):
    with pytest.raises(error, match=next(iter(given))):
        make(training_args=given).train_classifier(
            model, 3, run.out / "run.1_labeled_train.dataset", None, tmp_path / "m"
        )


def test_an_output_folder_among_the_arguments_is_told_of(run, model, tmp_path):
    with pytest.warns(GeneformerWarning, match="output_dir"):
        make(training_args={**QUICK, "output_dir": "elsewhere"}).train_classifier(
            model, 3, read_dataset(run.out / "run.1_labeled_train.dataset").take(range(6)), None, tmp_path / "m"
        )
    assert (tmp_path / "m" / "config.json").is_file()
    assert not Path("elsewhere").exists()


def test_lower_layers_stay_as_they_are(run, model):
    before, after = load_model(model).network.state_dict(), load_model(run.folder).network.state_dict()
    name = "bert.encoder.layer.{}.output.dense.weight"
    assert torch.equal(before[name.format(0)], after[name.format(0)])
    assert not torch.equal(before[name.format(1)], after[name.format(1)])
    assert not torch.equal(
        before["bert.embeddings.word_embeddings.weight"], after["bert.embeddings.word_embeddings.weight"]
    )


def test_the_same_seed_gives_the_same_model(run, model, tmp_path):
    train = read_dataset(run.out / "run.1_labeled_train.dataset")
    for name in ("a", "b"):
        make().train_classifier(model, 3, train, None, tmp_path / name)
    first, second = ((tmp_path / name / "model.safetensors").read_bytes() for name in ("a", "b"))
    assert first == second


def test_train_all_data_writes_straight_into_the_run_folder(run, model, tmp_path):
    trainer = make().train_all_data(
        model, run.out / "run.1_labeled_train.dataset", run.out / "run.1_id_class_dict.pkl", tmp_path, "all"
    )
    (folder,) = tmp_path.glob("*_geneformer_cellClassifier_all")
    assert (folder / "model.safetensors").is_file()
    assert not (folder / "ksplit1").exists()
    assert trainer.model.config.num_labels == 3


def test_training_without_evaluation_returns_nothing(run, model, tmp_path):
    found = make(no_eval=True).validate(
        model, run.out / "run.1_labeled_train.dataset", run.out / "run.1_id_class_dict.pkl", tmp_path, "p"
    )
    assert found is None
    assert len(list(tmp_path.glob("*/ksplit1/model.safetensors"))) == 1


def test_cells_of_another_vocabulary_or_too_long_are_refused(run, model, tmp_path):
    from geneformer.errors import SequenceTooLongError

    train = read_dataset(run.out / "run.1_labeled_train.dataset")
    train.vocabulary = "something else"
    with pytest.raises(VocabularyMismatchError):
        make().train_classifier(model, 3, train, None, tmp_path / "m")
    import pyarrow as pa

    long = type(train)(pa.table({"input_ids": [list(range(2, 4 + POSITIONS))], "label": [0]}))
    with pytest.raises(SequenceTooLongError):
        make().train_classifier(model, 3, long, None, tmp_path / "m2")


# Evaluation


@pytest.mark.parametrize("n", [1, 5, 9])
def test_no_cell_is_left_out_of_an_evaluation(run, n):
    test = read_dataset(run.out / "run.1_labeled_test.dataset").take(range(n))
    classifier = make(forward_batch_size=4)
    classifier.evaluate_model(_network(run), 3, load(run.out / "run.1_id_class_dict.pkl"), test, True, run.out, f"n{n}")
    assert len(load(run.out / f"n{n}_pred_dict.pkl")["pred_ids"]) == n


def _network(run):
    from geneformer.compat.networks import load_bert_classifier

    return load_bert_classifier(run.folder, "cell")


def test_a_dictionary_of_other_classes_is_refused(run, tmp_path):
    (tmp_path / "two.pkl").write_bytes(pickle.dumps({0: "a", 1: "b"}))
    with pytest.raises(CheckpointError, match="3 classes"):
        make().evaluate_saved_model(
            run.folder, tmp_path / "two.pkl", run.out / "run.1_labeled_test.dataset", tmp_path, "p"
        )


def test_a_folder_without_a_classifier_is_refused(run, model, tmp_path):
    with pytest.raises(CheckpointError, match="classifier"):
        make().evaluate_saved_model(
            model, run.out / "run.1_id_class_dict.pkl", run.out / "run.1_labeled_test.dataset", tmp_path, "p"
        )


# Adapters


def test_models_trained_with_adapters_are_evaluated(run, model, tmp_path):
    from peft import LoraConfig

    adapters = LoraConfig(r=4, lora_alpha=8, target_modules=["query", "value", "dense"], lora_dropout=0.1)
    classifier = make(quantize={"peft_config": adapters}, training_args={**QUICK, "num_train_epochs": 2})
    trainer = classifier.train_classifier(
        model, 3, run.out / "run.1_labeled_train.dataset", run.out / "run.1_labeled_test.dataset", tmp_path / "m"
    )
    classes = run.out / "run.1_id_class_dict.pkl"
    test = run.out / "run.1_labeled_test.dataset"
    metrics = classifier.evaluate_saved_model(tmp_path / "m", classes, test, tmp_path, "p")
    direct = classifier.evaluate_model(trainer.model, 3, load(classes), test)
    assert (metrics["conf_matrix"].to_numpy() == direct["conf_mat"]).all()
    before, after = load_model(model).network.state_dict(), load_model(tmp_path / "m").network.state_dict()
    assert before.keys() == after.keys()
    name = "bert.encoder.layer.1.attention.self.{}.weight"
    assert not torch.equal(before[name.format("query")], after[name.format("query")])
    assert torch.equal(before[name.format("key")], after[name.format("key")])


def test_adapter_folders_of_plain_peft_are_evaluated(run, model, tmp_path):
    from peft import LoraConfig, get_peft_model
    from transformers import BertForTokenClassification

    torch.manual_seed(0)
    plain = BertForTokenClassification.from_pretrained(model, num_labels=2)
    config = LoraConfig(r=4, target_modules=["query", "value"], task_type="TOKEN_CLS", init_lora_weights=False)
    adapted = get_peft_model(plain, config)
    adapted.save_pretrained(tmp_path / "adapters")
    told = json.loads((tmp_path / "adapters" / "adapter_config.json").read_text())
    told["base_model_name_or_path"] = str(model)
    (tmp_path / "adapters" / "adapter_config.json").write_text(json.dumps(told))

    classifier = Classifier(
        "gene", gene_class_dict={"a": genes(range(10, 25)), "b": genes(range(30, 45))}, model_version="V1"
    )
    classifier.prepare_data(saved_cells(tmp_path / "c.dataset", n=6), tmp_path, "g")
    classifier.evaluate_saved_model(
        tmp_path / "adapters", tmp_path / "g_id_class_dict.pkl", tmp_path / "g_labeled.dataset", tmp_path, "g"
    )
    found = np.array(load(tmp_path / "g_pred_dict.pkl")["predictions"])
    wanted = []
    labeled = read_dataset(tmp_path / "g_labeled.dataset")
    with torch.no_grad():
        for row in range(len(labeled)):
            ids = torch.from_numpy(labeled[row].astype(np.int64))[None]
            logits = adapted.eval()(input_ids=ids).logits[0]
            labels = labeled.table.column("labels")[row].as_py()
            wanted += [logits[i].tolist() for i, label in enumerate(labels) if label != -100]
    assert np.allclose(found, wanted, atol=1e-5)


def test_weights_of_four_bits_keep_32_where_there_is_no_accelerator(run, model, tmp_path):
    adapters = {"r": 64, "lora_alpha": 128, "lora_dropout": 0.1, "bias": "none", "target_modules": ["query", "value"]}
    cells = run.out / "run.1_labeled_train.dataset"
    with pytest.warns(GeneformerWarning, match="quantize saves memory on an accelerator") as caught:
        quantized = make(quantize=True, training_args={**QUICK, "no_cuda": True})
    assert caught[0].filename == __file__
    quantized.train_classifier(model, 3, cells, None, tmp_path / "a")
    plain = make(quantize={"peft_config": pytest.importorskip("peft").LoraConfig(**adapters, task_type="TOKEN_CLS")})
    plain.train_classifier(model, 3, cells, None, tmp_path / "b")
    assert (tmp_path / "a" / "model.safetensors").read_bytes() == (tmp_path / "b" / "model.safetensors").read_bytes()


def test_an_empty_dictionary_switches_quantizing_off():
    assert make(quantize={}).adapters is None


# Search


class Float:
    def __init__(self, lower, upper, sampler=None):
        self.lower, self.upper, self.sampler = lower, upper, sampler


class Integer(Float):
    pass


class Categorical:
    def __init__(self, categories):
        self.categories = categories


class _LogUniform:
    base = 10


class Quantized:
    def __init__(self, sampler, q):
        self.sampler, self.q = sampler, q


def test_search_spaces_are_read_in_every_published_form():
    optuna = pytest.importorskip("optuna")
    from geneformer.compat.search_space import DEFAULT, read_ray_space

    space = read_ray_space(
        {
            "num_train_epochs": [1],
            "learning_rate": (1e-6, 1e-3),
            "weight_decay": Float(0.0, 0.3),
            "adam_epsilon": Float(1e-9, 1e-6, _LogUniform()),
            "lr_scheduler_type": Categorical(["linear", "cosine"]),
            "warmup_steps": (100, 2000),
            "seed": Integer(0, 4),
            "max_grad_norm": Float(0.5, 1.5, Quantized(None, 0.5)),
            "per_device_train_batch_size": {"grid_search": [4, 8]},
        }
    )
    study = optuna.create_study()
    for _ in range(30):
        trial = study.ask(space)
        drawn = trial.params
        assert drawn["num_train_epochs"] == 1
        assert 1e-6 <= drawn["learning_rate"] <= 1e-3
        assert 0 <= drawn["weight_decay"] <= 0.3
        assert drawn["seed"] in range(4)
        assert isinstance(drawn["warmup_steps"], int)
        assert drawn["max_grad_norm"] in (0.5, 1.0, 1.5)
        assert drawn["per_device_train_batch_size"] in (4, 8)
        study.tell(trial, 0.0)
    spans = study.trials[0].distributions
    assert spans["learning_rate"].log
    assert spans["adam_epsilon"].log
    assert not spans["weight_decay"].log
    assert list(read_ray_space(None)) == list(DEFAULT)


@pytest.mark.parametrize("entry", [lambda spec: 1, object(), ()])
def test_forms_that_cannot_be_drawn_from_are_named(entry):
    from geneformer.compat.search_space import read_ray_space

    with pytest.raises(OptionError, match="weight_decay"):
        read_ray_space({"weight_decay": entry})


def test_a_search_keeps_the_best_model_and_all_of_its_reports(run, model, tmp_path):
    pytest.importorskip("optuna")
    space = {"learning_rate": Float(1e-5, 1e-2, _LogUniform()), "num_train_epochs": [2], "seed": (0, 100)}
    classifier = make(ray_config=space, training_args={"per_device_train_batch_size": 8})
    metrics = classifier.validate(
        model, run.out / "run.1_labeled_train.dataset", run.out / "run.1_id_class_dict.pkl", tmp_path, "p",
        n_hyperopt_trials=3,
    )  # fmt: skip
    (folder,) = tmp_path.glob("*/ksplit1")
    trials = pd.read_csv(folder / "trials.csv")
    assert len(trials) == 3
    assert metrics["macro_f1"][0] == pytest.approx(trials["value"].max())
    assert (folder / "model.safetensors").read_bytes() in [
        (folder / f"run-{i}" / "model.safetensors").read_bytes() for i in range(3)
    ]
    assert (tmp_path / "p_eval_metrics_dict.pkl").is_file()


# Figures


@pytest.fixture
def tables():
    one = pd.DataFrame([[8, 2], [1, 9]], index=["a", "b"], columns=["a", "b"])
    return {"first": one, "second": one.T}


def test_every_model_gets_a_confusion_matrix_of_its_own(tables, tmp_path):
    make().plot_conf_mat(tables, tmp_path, "p.1", custom_class_order=["b", "a"])
    assert {p.name for p in tmp_path.iterdir()} == {"p.1_first_conf_mat.pdf", "p.1_second_conf_mat.pdf"}
    make().plot_conf_mat({"first": tables["first"]}, tmp_path, "p.1")
    assert (tmp_path / "p.1_conf_mat.pdf").is_file()


def test_roc_and_predictions_are_drawn(run, tmp_path):
    roc = {"mean_tpr": np.linspace(0, 1, 100), "mean_fpr": np.linspace(0, 1, 100), "all_roc_auc": [0.4, 0.6]}
    folds = {**roc, "roc_auc": 0.5, "roc_auc_sd": 0.1}
    styles = {"folds": {"color": "red", "linestyle": "-"}, "test": {"color": "blue", "linestyle": "--"}}
    make().plot_roc({"folds": folds, "test": {**roc, "all_roc_auc": 0.5}}, styles, "title", tmp_path, "p.1")
    classes = run.out / "run.1_id_class_dict.pkl"
    order = ["T cell", "NK", "B cell"]
    for name, file in (("a", "run.1_pred_dict.pkl"), ("b", "predictions.pkl")):
        make().plot_predictions(run.folder / file, classes, "title", tmp_path, name, order, {"cmap": "coolwarm"})
    assert {p.name for p in tmp_path.iterdir()} == {"p.1_roc.pdf", "a_pred.pdf", "b_pred.pdf"}


def test_a_class_without_cells_is_drawn_too(tmp_path):
    (tmp_path / "c.pkl").write_bytes(pickle.dumps({0: "a", 1: "never", 2: "b"}))
    told = {"pred_ids": [0, 2], "label_ids": [0, 2], "predictions": [[1.0, 0.0, 0.0], [0.0, 0.0, 1.0]]}
    (tmp_path / "p.pkl").write_bytes(pickle.dumps(told))
    make().plot_predictions(tmp_path / "p.pkl", tmp_path / "c.pkl", "title", tmp_path, "p")
    assert (tmp_path / "p_pred.pdf").is_file()


def test_figures_are_saved_before_they_are_shown(tables, tmp_path, monkeypatch):
    import matplotlib
    import matplotlib.pyplot as plt

    shown = []
    monkeypatch.setattr(matplotlib, "get_backend", lambda: "QtAgg")
    monkeypatch.setattr(plt, "show", lambda *_, **__: shown.append((tmp_path / "p_conf_mat.pdf").is_file()))
    make().plot_conf_mat({"m": tables["first"]}, tmp_path, "p")
    assert shown == [True]


# Arguments


@pytest.mark.parametrize(
    ("changes", "error"),
    [
        ({"cell_state_dict": None}, OptionError),
        ({"cell_state_dict": {"state_key": "state"}}, OptionError),
        ({"cell_state_dict": {"state_key": "state", "states": ["one"]}}, OptionError),
        ({"num_crossval_splits": 3}, OptionError),
        ({"max_ncells": 0}, OutOfRangeError),
        ({"forward_batch_size": 0}, OutOfRangeError),
        ({"nproc": 0}, OutOfRangeError),
        ({"training_args": [1]}, OptionError),
        ({"model_version": "V3"}, OptionError),
        ({"quantize": {"bits": 4}}, OptionError),
        ({"quantize": {"bnb_config": {"load_in_4bit": True}}}, UnsupportedArgumentError),
        ({"filter_data": ["d1"]}, OptionError),
    ],
)
def test_values_that_are_not_taken_are_refused_at_once(changes, error):
    with pytest.raises(error, match=next(iter(changes))):
        make(**changes)


def test_gene_balance_is_for_genes(run, model, tmp_path):
    prepared = run.out / "run.1_labeled_train.dataset", run.out / "run.1_id_class_dict.pkl"
    with pytest.raises(UnsupportedArgumentError, match="gene_balance"):
        make().train_all_data(model, *prepared, tmp_path, "p", gene_balance=True)


def test_ids_have_no_effect_on_five_folds_and_are_refused(run, model, tmp_path):
    prepared = run.out / "run.1_labeled_train.dataset", run.out / "run.1_id_class_dict.pkl"
    with pytest.raises(UnsupportedArgumentError, match="split_id_dict"):
        make(num_crossval_splits=5).validate(
            model, *prepared, tmp_path, "p", split_id_dict={"attr_key": "donor", "train": ["d0"], "eval": ["d1"]}
        )


def test_the_published_scenario_runs(published_inputs, tmp_path):
    from cell_classification import PREFIX, main

    with warnings.catch_warnings():
        warnings.simplefilter("error", GeneformerWarning)
        metrics = main(published_inputs, tmp_path)
    names = {p.name for p in tmp_path.iterdir()}
    assert names >= {
        f"{PREFIX}_{end}"
        for end in (
            "id_class_dict.pkl", "labeled_train.dataset", "labeled_test.dataset", "eval_metrics_dict.pkl",
            "test_metrics_dict.pkl", "pred_dict.pkl", "conf_mat.pdf", "pred.pdf",
        )
    }  # fmt: skip
    test = read_dataset(tmp_path / f"{PREFIX}_labeled_test.dataset")
    assert set(test.column("individual")) == {"donor_5"}
    assert metrics["conf_matrix"].to_numpy().sum() == len(test)
    assert load(tmp_path / f"{PREFIX}_id_class_dict.pkl") == {0: "B cells", 1: "CD14+ Monocytes", 2: "NK cells"}
    assert list(metrics["conf_matrix"].index) == ["B cells", "CD14+ Monocytes", "NK cells"]
    (run,) = tmp_path.glob("*_geneformer_cellClassifier_*/ksplit1")
    from transformers import BertForSequenceClassification

    _, info = BertForSequenceClassification.from_pretrained(run, output_loading_info=True)
    assert not any(info.values())


@pytest.mark.parametrize("kind", ["cell", "gene"])
def test_training_comes_to_what_a_plain_trainer_comes_to(kind, tmp_path):
    """Without dropout, from the same new head, under the same arguments."""
    from transformers import BertForSequenceClassification, BertForTokenClassification, Trainer, TrainingArguments

    from geneformer import DataCollatorForCellClassification, DataCollatorForGeneClassification
    from geneformer.compat.classifier_training import new_network

    datasets = pytest.importorskip("datasets")
    folder = tiny_model(tmp_path / "model", dropout=0.0)
    everyone = cells(n=22)
    tokens = [everyone[row].tolist() for row in range(22)]
    classes = {"cell": [row % 3 for row in range(22)], "gene": [[[0, 1, -100][t % 3] for t in ids] for ids in tokens]}
    name = "label" if kind == "cell" else "labels"
    data = datasets.Dataset.from_dict({"input_ids": tokens, name: classes[kind]})
    given = {"num_train_epochs": 2, "per_device_train_batch_size": 5, "learning_rate": 1e-2, "warmup_steps": 2}
    given |= {"lr_scheduler_type": "polynomial", "weight_decay": 0.2, "seed": 3}
    settings = {"model_version": "V1", "training_args": given, "freeze_layers": 1}
    if kind == "cell":
        classifier, n_classes = Classifier("cell", cell_state_dict=CELLS, **settings), 3
        plain, collate = BertForSequenceClassification, DataCollatorForCellClassification()
    else:
        classes = {"a": genes([10, 11]), "b": genes([12, 13])}
        classifier, n_classes = Classifier("gene", gene_class_dict=classes, **settings), 2
        plain, collate = BertForTokenClassification, DataCollatorForGeneClassification()
    start = new_network(load_model(folder), kind, n_classes, seed=3, freeze_layers=1)
    start.save_pretrained(tmp_path / "start")
    found = classifier.train_classifier(folder, n_classes, data, None, tmp_path / "ours").model.state_dict()

    network = plain.from_pretrained(tmp_path / "start")
    network.bert.encoder.layer[0].requires_grad_(False)
    arguments = TrainingArguments(str(tmp_path / "plain"), report_to=[], use_cpu=True, disable_tqdm=True, **given)
    Trainer(network, arguments, train_dataset=data, data_collator=collate).train()
    wanted = network.state_dict()
    assert found.keys() == wanted.keys()
    moved = max(float((wanted[key] - start.state_dict()[key]).abs().max()) for key in wanted)
    apart = max(float((wanted[key] - found[key]).abs().max()) for key in wanted)
    assert moved > 1e-2
    assert apart < 1e-5


def test_accumulated_batches_are_as_good_as_one_large_batch(tmp_path):
    folder = tiny_model(tmp_path / "model", dropout=0.0)
    datasets = pytest.importorskip("datasets")
    tokens = [cells(n=20)[row].tolist() for row in range(20)]
    data = datasets.Dataset.from_dict({"input_ids": tokens, "label": [row % 3 for row in range(20)]})
    found = []
    for name, size, steps in (("one", 10, 1), ("two", 5, 2)):
        given = {"per_device_train_batch_size": size, "gradient_accumulation_steps": steps, "optim": "sgd"}
        given |= {"learning_rate": 1.0, "num_train_epochs": 1, "max_grad_norm": 0.0}
        trainer = make(training_args=given).train_classifier(folder, 3, data, None, tmp_path / name)
        found.append(trainer.model.state_dict())
    assert all(torch.allclose(found[0][name], found[1][name], atol=1e-5) for name in found[0])
