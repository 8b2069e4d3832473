"""The multi-task classifier under its published name: arguments, files, numbers."""

import importlib
import inspect
import json
import pickle
import sys

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
import pytest
import torch
from transformers import BertConfig, BertModel

import geneformer as gf
from geneformer.compat import mtl_classifier
from geneformer.compat.mtl_classifier import Hyperparameters, MTLClassifier, learn_tasks, predict_tasks
from geneformer.compat.mtl_files import load_tasks
from geneformer.compat.networks import readable_folder
from geneformer.errors import (
    CheckpointError,
    GeneformerWarning,
    LabelError,
    MissingExtraError,
    MissingLabelError,
    OptionError,
    OutputExistsError,
    UnknownOptionError,
    UnsupportedArgumentError,
)
from geneformer.models.loading import read_weights
from geneformer.options import RuntimeOptions
from geneformer.tokens.dataset import TokenizedDataset
from geneformer.tokens.storage import read_dataset, write_dataset

pytestmark = pytest.mark.contract

ARGUMENTS = [
    ("task_columns", None),
    ("train_path", None),
    ("val_path", None),
    ("test_path", None),
    ("pretrained_path", None),
    ("model_save_path", None),
    ("results_dir", None),
    ("trials_result_path", None),
    ("batch_size", 4),
    ("n_trials", 15),
    ("study_name", "mtl"),
    ("max_layers_to_freeze", None),
    ("epochs", 1),
    ("tensorboard_log_dir", "/results/tblogdir"),
    ("distributed_training", False),
    ("master_addr", "localhost"),
    ("master_port", "12355"),
    ("use_attention_pooling", True),
    ("use_task_weights", True),
    ("hyperparameters", None),
    ("manual_hyperparameters", None),
    ("use_manual_hyperparameters", False),
    ("use_wandb", False),
    ("wandb_project", None),
    ("gradient_clipping", False),
    ("max_grad_norm", None),
    ("gradient_accumulation_steps", 1),
    ("seed", 42),
]
METHODS = ["load_and_evaluate_test_model", "run_manual_tuning", "run_optuna_study", "save_model_without_heads"]
COLUMNS = ["cell_type", "depth"]
LABELS = {"cell_type": ("B cells", "CD14+ Monocytes", "NK cells"), "depth": ("deep", "shallow")}
LENGTHS = 24, 40
KEY = "bert.encoder.layer.{}.attention.self.query.weight"


def cut(tokens, lengths):
    """Cells of few tokens, so that tests are fast."""
    rows = [tokens[row][: lengths[row % len(lengths)]].tolist() for row in range(len(tokens))]
    kept = tokens.table.select([name for name in tokens.columns if name != "length"])
    table = kept.append_column("input_ids", pa.array(rows, pa.list_(pa.int32())))
    table = table.append_column("length", pa.array([len(row) for row in rows]))
    return TokenizedDataset(table, vocabulary=tokens.vocabulary)


@pytest.fixture(scope="module")
def parts(published_inputs, tmp_path_factory):
    """Training, validation and test cells, and a trained model of their vocabulary."""
    folder = tmp_path_factory.mktemp("tasks")
    cells = cut(read_dataset(published_inputs / "V1.dataset"), LENGTHS)
    kinds = cells.column("cell_type")
    place = np.concatenate([np.arange((kinds == kind).sum()) for kind in np.unique(kinds)])
    place = place[np.argsort(np.argsort(kinds, kind="stable"), kind="stable")]
    for name, rows in (("train", place < 12), ("val", (place >= 12) & (place < 16)), ("test", place >= 16)):
        write_dataset(cells.take(np.flatnonzero(rows)), folder / f"{name}.dataset")
    return folder, published_inputs / "V1"


@pytest.fixture
def make(parts, tmp_path):
    """A classifier over the parts that writes into a folder of the test."""
    folder, model = parts

    def classifier(**changes):
        given = {
            "task_columns": COLUMNS,
            "train_path": folder / "train.dataset",
            "val_path": folder / "val.dataset",
            "test_path": folder / "test.dataset",
            "pretrained_path": model,
            "model_save_path": tmp_path / "model" / "here",
            "results_dir": tmp_path / "results",
            "tensorboard_log_dir": tmp_path / "logs",
            "batch_size": 8,
            "n_trials": 2,
        }
        return MTLClassifier(**given | changes)

    return classifier


@pytest.fixture(scope="module")
def studied(parts, tmp_path_factory):
    """Two trials, once for all tests that look at what they left."""
    folder, model = parts
    out = tmp_path_factory.mktemp("studied")
    classifier = MTLClassifier(
        task_columns=COLUMNS,
        train_path=str(folder / "train.dataset"),
        val_path=str(folder / "val.dataset"),
        test_path=str(folder / "test.dataset"),
        pretrained_path=str(model),
        model_save_path=str(out / "model"),
        results_dir=str(out / "results"),
        trials_result_path=str(out / "results" / "trials.tsv"),
        tensorboard_log_dir=str(out / "logs"),
        batch_size=8,
        n_trials=2,
    )
    classifier.run_optuna_study()
    figures = classifier.load_and_evaluate_test_model()
    return out, figures


def saved(folder):
    return torch.load(folder / "GeneformerMultiTask" / "pytorch_model.bin", weights_only=True)


def test_arguments_are_the_published_ones():
    found = [(name, p.default) for name, p in inspect.signature(MTLClassifier).parameters.items()]
    assert found == ARGUMENTS
    methods = {name: inspect.signature(m) for name, m in inspect.getmembers(MTLClassifier, inspect.isfunction)}
    methods = {name: signature for name, signature in methods.items() if name[0] != "_"}
    assert sorted(methods) == METHODS
    assert all(list(signature.parameters) == ["self"] for signature in methods.values())
    assert gf.MTLClassifier is MTLClassifier
    assert importlib.import_module("geneformer.mtl_classifier").MTLClassifier is MTLClassifier


def test_a_study_leaves_the_published_files(studied):
    out, _ = studied
    model, results = out / "model" / "GeneformerMultiTask", out / "results"
    assert sorted(f.name for f in model.iterdir()) == ["config.json", "hyperparameters.json", "pytorch_model.bin"]
    assert sorted(str(f.relative_to(results)) for f in results.rglob("*") if f.is_file()) == [
        "task_label_mappings.pkl",
        "task_label_mappings_val.pkl",
        "test_metrics.json",
        "test_preds.csv",
        "trial_0/val_preds.csv",
        "trial_1/val_preds.csv",
        "trials.tsv",
    ]
    assert sorted(f.parent.name for f in (out / "logs").rglob("events*")) == ["trial_0", "trial_1"]
    numbers = pickle.loads((results / "task_label_mappings.pkl").read_bytes())
    assert numbers == {
        "task1": {"B cells": 0, "CD14+ Monocytes": 1, "NK cells": 2},
        "task2": {"deep": 0, "shallow": 1},
    }
    assert pickle.loads((results / "task_label_mappings_val.pkl").read_bytes()) == numbers
    names = {name for name in saved(out / "model") if not name.startswith("bert.")}
    heads = {f"classification_heads.{i}.{kind}" for i in range(2) for kind in ("weight", "bias")}
    assert names == heads | {"attention_pool.attention_weights"}


def test_hyperparameters_are_drawn_from_the_published_ranges(studied):
    out, _ = studied
    found = json.loads((out / "model" / "GeneformerMultiTask" / "hyperparameters.json").read_text())
    trials = pd.read_csv(out / "results" / "trials.tsv", sep="\t")
    assert set(found) == set(Hyperparameters.__dataclass_fields__)
    assert 1e-5 <= found["learning_rate"] <= 1e-3
    assert 0 <= found["dropout_rate"] <= 0.7
    assert found["lr_scheduler_type"] == "cosine"
    assert sum(found["task_weights"]) == pytest.approx(1)
    assert found["max_layers_to_freeze"] in (1, 2)
    assert found["use_attention_pooling"] is True
    best = trials.loc[trials["value"].idxmin()]
    assert best["learning_rate"] == pytest.approx(found["learning_rate"])


def test_rows_come_in_the_order_of_the_dataset_with_their_cell_ids(studied, parts):
    out, _ = studied
    folder, _ = parts
    valid = pd.read_csv(out / "results" / "trial_0" / "val_preds.csv")
    cells = read_dataset(folder / "val.dataset")
    assert valid["Cell ID"].tolist() == cells.cell_ids.tolist()
    for number, name in enumerate(COLUMNS, 1):
        assert valid[f"task{number}_true_label"].tolist() == cells.column(name).tolist()
        columns = [f"task{number}_prob_{label}" for label in LABELS[name]]
        joined = valid[f"task{number}_all_probs"].str.split(",", expand=True).astype(float)
        assert np.allclose(joined, valid[columns])
        assert np.allclose(valid[columns].sum(axis=1), 1)
        assert (valid[columns].to_numpy().argmax(axis=1) == valid[f"task{number}_pred_idx"]).all()
    tested = pd.read_csv(out / "results" / "test_preds.csv")
    assert list(tested.columns) == [
        "Cell ID",
        "task1 Prediction",
        "task1 Probabilities",
        "task2 Prediction",
        "task2 Probabilities",
    ]
    assert tested["Cell ID"].tolist() == read_dataset(folder / "test.dataset").cell_ids.tolist()


def test_the_columns_of_validation_predictions(studied):
    out, _ = studied
    kinds = ("true_idx", "pred_idx", "true_label", "pred_label", "all_probs")
    expected = ["Cell ID"]
    for number, name in enumerate(COLUMNS, 1):
        expected += [f"task{number}_{kind}" for kind in kinds]
        expected += [f"task{number}_prob_{label}" for label in LABELS[name]]
    assert list(pd.read_csv(out / "results" / "trial_1" / "val_preds.csv").columns) == expected


def test_the_test_cells_are_judged(studied, parts):
    out, figures = studied
    folder, _ = parts
    assert json.loads((out / "results" / "test_metrics.json").read_text()) == figures
    tested = pd.read_csv(out / "results" / "test_preds.csv")
    truth = read_dataset(folder / "test.dataset").column("cell_type")
    said = np.array(LABELS["cell_type"])[tested["task1 Prediction"]]
    assert figures["cell_type"]["accuracy"] == pytest.approx((said == truth).mean())
    assert figures["cell_type"]["n_cells"] == len(truth) == np.sum(figures["cell_type"]["confusion"])
    assert set(figures) == set(COLUMNS)


def test_training_starts_from_the_pretrained_weights(studied, parts):
    out, _ = studied
    _, model = parts
    before, after = read_weights(model), saved(out / "model")
    assert torch.equal(before[KEY.format(0)], after[KEY.format(0)])  # frozen
    close = torch.nn.functional.cosine_similarity(before[KEY.format(2)].flatten(), after[KEY.format(2)].flatten(), 0)
    assert close > 0.99
    assert not torch.equal(before[KEY.format(2)], after[KEY.format(2)])


@pytest.mark.parametrize("pooled", [True, False])
def test_pooling_is_kept_by_a_manual_run_and_by_a_study(make, pooled):
    manual = {"use_attention_pooling": pooled, "learning_rate": 1e-4}
    for classifier in (
        make(use_manual_hyperparameters=True, manual_hyperparameters=manual),
        make(n_trials=1, use_attention_pooling=pooled),
    ):
        folder = classifier.run_manual_tuning() if classifier.n_trials == 2 else classifier.run_optuna_study()
        assert ("attention_pool.attention_weights" in saved(folder.parent)) is pooled
        config = json.loads((folder / "config.json").read_text())
        assert config["geneformer_pooling"] == ("attention" if pooled else "cls")
        assert json.loads((folder / "hyperparameters.json").read_text())["use_attention_pooling"] is pooled
        assert set(classifier.load_and_evaluate_test_model()) == set(COLUMNS)


def test_pooling_can_be_drawn(make):
    space = {"use_attention_pooling": {"type": "categorical", "choices": [False]}}
    folder = make(n_trials=1, hyperparameters=space, max_layers_to_freeze=3, use_task_weights=False).run_optuna_study()
    found = json.loads((folder / "hyperparameters.json").read_text())
    assert found["use_attention_pooling"] is False
    assert found["max_layers_to_freeze"] == 3
    assert found["task_weights"] == [1.0, 1.0]
    assert "attention_pool.attention_weights" not in saved(folder.parent)


def test_the_encoder_without_heads_is_the_trained_one(make, parts):
    classifier = make(use_manual_hyperparameters=True)
    trained = saved(classifier.run_manual_tuning().parent)
    folder = classifier.save_model_without_heads()
    assert folder.name == "GeneformerMultiTask_No_Heads"
    network = gf.load_model(folder).network.state_dict()
    plain = BertModel.from_pretrained(folder, add_pooling_layer=False).state_dict()
    encoder = [name for name in trained if name.startswith("bert.")]
    assert len(encoder) == len(plain)
    assert all(torch.equal(trained[name], network[name]) for name in encoder)
    assert all(torch.equal(trained[name], plain[name.removeprefix("bert.")]) for name in encoder)


def test_a_manual_run_needs_only_what_differs_from_the_published_values(make, tmp_path):
    classifier = make(use_manual_hyperparameters=True, manual_hyperparameters={"learning_rate": 5e-4})
    found = json.loads((classifier.run_manual_tuning() / "hyperparameters.json").read_text())
    assert found == {
        "learning_rate": 5e-4,
        "warmup_ratio": 0.01,
        "weight_decay": 0.1,
        "dropout_rate": 0.1,
        "lr_scheduler_type": "cosine",
        "use_attention_pooling": True,
        "task_weights": [1.0, 1.0],
        "max_layers_to_freeze": 2,
    }
    assert (tmp_path / "results" / "manual_run_val_preds.csv").is_file()
    assert [f.parent.name for f in (tmp_path / "logs").rglob("events*")] == ["manual_run"]


def cells_for_training(parts):
    folder, model = parts
    return mtl_classifier.TaskCells.open(model, folder / "train.dataset", folder / "val.dataset", COLUMNS)


def test_batches_hold_so_many_cells_and_the_schedule_ends_with_accumulation(parts):
    cells = cells_for_training(parts)
    assert len(cells.train) == 36
    options = Hyperparameters(learning_rate=1e-4, warmup_ratio=0.0).finetuning(
        epochs=2, accumulation=3, logging_steps=1, seed=0
    )
    _, result = learn_tasks(cells, options=options, runtime=RuntimeOptions(dtype="float32"), cells_per_batch=4)
    rates = [line["learning_rate"] for line in result.history if "learning_rate" in line]
    assert result.steps == 6  # nine batches of four cells make three steps
    assert rates[-1] < 0.1 * 1e-4
    assert min(rates) == rates[-1]


def test_padding_does_not_change_what_attention_pooling_gives(studied, parts):
    out, _ = studied
    folder, _ = parts
    network, pairing = load_tasks(out / "model" / "GeneformerMultiTask", LABELS)
    cells = read_dataset(folder / "test.dataset")
    short = int(np.argmin(cells.lengths))
    runtime = RuntimeOptions(dtype="float32", device="cpu")
    together = predict_tasks(network, cells, LABELS, runtime, max_length=pairing.max_length)
    alone = predict_tasks(network, cells.take([short]), LABELS, runtime, max_length=pairing.max_length)
    assert len(set(cells.lengths.tolist())) > 1
    for name in COLUMNS:
        assert np.allclose(together.proba[name][short], alone.proba[name][0], atol=1e-6)


@pytest.mark.parametrize("pooled", [True, False])
def test_networks_that_the_published_package_wrote_are_read(make, parts, tmp_path, pooled):
    torch.manual_seed(0)
    config = BertConfig.from_pretrained(parts[1])
    for name in [name for name in vars(config) if name.startswith("geneformer")]:
        delattr(config, name)
    encoder = BertModel(config).eval()
    state = {f"bert.{name}": value for name, value in encoder.state_dict().items()}
    heads = [torch.nn.Linear(config.hidden_size, len(labels)) for labels in LABELS.values()]
    for number, head in enumerate(heads):
        state |= {f"classification_heads.{number}.{name}": value for name, value in head.state_dict().items()}
    scores = torch.randn(config.hidden_size, 1)
    if pooled:
        state["attention_pool.attention_weights"] = scores
    folder = tmp_path / "model" / "here" / "GeneformerMultiTask"
    folder.mkdir(parents=True)
    torch.save(state, folder / "pytorch_model.bin")
    config.save_pretrained(folder)
    published = {"learning_rate": 1e-3, "dropout_rate": 0.1, "task_weights": [1, 1]}
    (folder / "hyperparameters.json").write_text(json.dumps(published))
    make().load_and_evaluate_test_model()
    found = pd.read_csv(tmp_path / "results" / "test_preds.csv")
    ids = torch.tensor(read_dataset(parts[0] / "test.dataset")[1].astype(np.int64))[None]
    with torch.no_grad():
        hidden = encoder(ids).last_hidden_state[0]
        cell = (torch.softmax(hidden @ scores, 0) * hidden).sum(0) if pooled else hidden[0]
        expected = [head(cell).softmax(-1).tolist() for head in heads]
    for number, proba in enumerate(expected, 1):
        assert [float(p) for p in found[f"task{number} Probabilities"][1].split(",")] == pytest.approx(proba, abs=1e-5)


def test_a_network_that_is_not_there_is_named(make):
    with pytest.raises(OptionError, match="test_path"):
        make(test_path=None).load_and_evaluate_test_model()
    with pytest.raises(CheckpointError, match="Train a network first"):
        make().load_and_evaluate_test_model()


def test_other_jobs_read_the_encoder(studied, tmp_path, monkeypatch):
    monkeypatch.setenv("GENEFORMER_CACHE", str(tmp_path / "cache"))
    out, _ = studied
    network = gf.load_model(readable_folder(out / "model" / "GeneformerMultiTask")).network.state_dict()
    assert torch.equal(network[KEY.format(2)], saved(out / "model")[KEY.format(2)])
    with pytest.raises(CheckpointError, match=r"Give .*GeneformerMultiTask"):
        readable_folder(out / "model")


def test_of_several_processes_the_first_one_writes(studied, parts, tmp_path, monkeypatch):
    out, figures = studied
    monkeypatch.setenv("RANK", "1")
    (tmp_path / "task_label_mappings.pkl").write_bytes((out / "results" / "task_label_mappings.pkl").read_bytes())
    told = MTLClassifier(
        COLUMNS, test_path=parts[0] / "test.dataset", model_save_path=out / "model", results_dir=tmp_path, batch_size=8
    ).load_and_evaluate_test_model()
    assert told == figures
    assert [file.name for file in tmp_path.iterdir()] == ["task_label_mappings.pkl"]


def test_a_network_of_other_tasks_is_refused(studied):
    out, _ = studied
    with pytest.raises(CheckpointError, match=r"\[3, 2\].*\[2, 2\]"):
        load_tasks(out / "model" / "GeneformerMultiTask", {"depth": ("a", "b"), "other": ("a", "b")})


def test_what_goes_wrong_while_predictions_are_written_is_raised(make, tmp_path):
    (tmp_path / "results" / "manual_run_val_preds.csv").mkdir(parents=True)
    with pytest.raises(OutputExistsError, match="manual_run_val_preds"):
        make(use_manual_hyperparameters=True).run_manual_tuning()


def with_column(folder, target, name, values):
    cells = read_dataset(folder)
    table = cells.table.drop_columns([name]) if name in cells.table.column_names else cells.table
    if values is not None:
        table = table.append_column(name, values(cells) if callable(values) else values)
    return write_dataset(TokenizedDataset(table, vocabulary=cells.vocabulary), target)


def test_labels_must_be_the_same_on_both_sides(make, parts, tmp_path):
    other = with_column(
        parts[0] / "val.dataset",
        tmp_path / "o.dataset",
        "depth",
        lambda cells: pa.array(["new", "deep"] * (len(cells) // 2)),
    )
    differ = r"'depth'.*\['shallow'\] only in train_path; \['new'\] only in val_path"
    with pytest.raises(LabelError, match=differ) as told:
        make(use_manual_hyperparameters=True, val_path=other).run_manual_tuning()
    assert isinstance(told.value, ValueError)


def test_cells_without_a_label_are_refused(make, parts, tmp_path):
    other = with_column(
        parts[0] / "train.dataset",
        tmp_path / "o.dataset",
        "depth",
        lambda cells: pa.array([None, *["deep", "shallow"] * 20][: len(cells)]),
    )
    with pytest.raises(MissingLabelError, match="1 of 36 cells"):
        make(use_manual_hyperparameters=True, train_path=other).run_manual_tuning()


def test_test_cells_may_lack_labels_or_have_new_ones(studied, parts, tmp_path):
    out, _ = studied
    bare = with_column(parts[0] / "test.dataset", tmp_path / "bare.dataset", "depth", None)
    bare = with_column(
        bare,
        tmp_path / "new.dataset",
        "cell_type",
        lambda cells: pc.if_else(pc.equal(cells.table["cell_type"], "B cells"), "Martians", cells.table["cell_type"]),
    )
    classifier = MTLClassifier(
        COLUMNS, test_path=bare, model_save_path=out / "model", results_dir=tmp_path, batch_size=8
    )
    with pytest.raises(OptionError, match="train_path"):
        classifier.load_and_evaluate_test_model()
    mappings = (out / "results" / "task_label_mappings.pkl").read_bytes()
    (tmp_path / "task_label_mappings.pkl").write_bytes(mappings)
    figures = classifier.load_and_evaluate_test_model()
    assert list(figures) == ["cell_type"]
    assert (figures["cell_type"]["n_cells"], figures["cell_type"]["n_unknown"]) == (8, 4)


def test_whole_numbers_are_labels_as_they_are(make, parts, tmp_path):
    paths = {
        f"{name}_path": with_column(
            parts[0] / f"{name}.dataset",
            tmp_path / f"{name}.dataset",
            "depth",
            lambda cells: pa.array([10, 9] * (len(cells) // 2)),
        )
        for name in ("train", "val", "test")
    }
    make(use_manual_hyperparameters=True, **paths).run_manual_tuning()
    numbers = pickle.loads((tmp_path / "results" / "task_label_mappings.pkl").read_bytes())
    assert numbers["task2"] == {9: 0, 10: 1}
    table = pd.read_csv(tmp_path / "results" / "manual_run_val_preds.csv")
    assert {"task2_prob_9", "task2_prob_10"} <= set(table.columns)


def test_a_unique_cell_id_goes_first(make, parts, tmp_path):
    named = with_column(
        parts[0] / "test.dataset",
        tmp_path / "named.dataset",
        "unique_cell_id",
        lambda cells: pa.array([f"u{row}" for row in range(len(cells))]),
    )
    bare = with_column(parts[0] / "val.dataset", tmp_path / "bare.dataset", "cell_id", None)
    classifier = make(use_manual_hyperparameters=True, test_path=named, val_path=bare)
    classifier.run_manual_tuning()
    classifier.load_and_evaluate_test_model()
    assert pd.read_csv(tmp_path / "results" / "test_preds.csv")["Cell ID"][1] == "u1"
    assert pd.read_csv(tmp_path / "results" / "manual_run_val_preds.csv")["Cell ID"][1] == "cell_1"


@pytest.mark.parametrize(
    ("changes", "error", "told"),
    [
        ({"task_columns": None}, OptionError, "names no column"),
        ({"task_columns": ["a", "a"]}, LabelError, "twice"),
        ({"gradient_clipping": True}, OptionError, "max_grad_norm"),
        ({"batch_size": 0}, OptionError, "batch_size"),
        ({"max_layers_to_freeze": {"min": 1}}, OptionError, '"max"'),
        ({"manual_hyperparameters": {"lr": 1e-3}}, UnknownOptionError, "'lr'"),
        ({"manual_hyperparameters": {"task_weights": [1, 1, 1]}}, OptionError, "3 weights"),
        ({"manual_hyperparameters": {"lr_scheduler_type": "step"}}, OptionError, "lr_scheduler_type"),
        ({"hyperparameters": {"learning_rat": {"type": "float", "low": 0, "high": 1}}}, UnknownOptionError, "rate"),
        ({"hyperparameters": {"learning_rate": 1e-3}}, OptionError, "cannot be drawn"),
    ],
)
def test_values_that_make_no_sense_are_refused_at_once(make, changes, error, told):
    with pytest.raises(error, match=told):
        make(**changes)


def test_an_argument_that_the_published_notebook_invents_is_refused(make):
    with pytest.raises(TypeError, match="filter_data_dict"):
        make(filter_data_dict={"cell_type": ["B cells"]})


def test_missing_paths_and_switches_are_named(make):
    with pytest.raises(OptionError, match="no train_path, no results_dir"):
        make(train_path=None, results_dir=None).run_optuna_study()
    with pytest.raises(OptionError, match="use_manual_hyperparameters=True"):
        make().run_manual_tuning()


def test_logs_go_to_the_results_where_nobody_may_write(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.warns(GeneformerWarning, match="tblogdir"):
        found = mtl_classifier.log_folder(tmp_path / "file" / "logs", tmp_path)
    assert found == tmp_path / "tblogdir"


def test_a_library_that_is_not_there_is_named(make, monkeypatch):
    monkeypatch.setitem(sys.modules, "wandb", None)
    with pytest.raises(MissingExtraError, match="pip install wandb"):
        make(use_wandb=True)


def test_weights_and_biases_is_told(make, monkeypatch):
    told = []

    class Run:
        def log(self, figures):
            told.append(figures)

        def finish(self):
            told.append("end")

    class Library:
        @staticmethod
        def init(**given):
            told.append(given)
            return Run()

    monkeypatch.setitem(sys.modules, "wandb", Library)
    monkeypatch.setattr(mtl_classifier.RunLog, "callbacks", [])
    make(use_wandb=True, wandb_project="mine", use_manual_hyperparameters=True).run_manual_tuning()
    assert told[0]["project"] == "mine"
    assert {"val/loss", "val/cell_type/accuracy"} <= set(told[1])
    assert told[2] == "end"


def test_several_devices_in_one_process_name_the_launcher(make, monkeypatch):
    monkeypatch.setattr(torch.accelerator, "device_count", lambda: 4)
    classifier = make(use_manual_hyperparameters=True, distributed_training=True, master_port="4711")
    with pytest.raises(UnsupportedArgumentError, match=r"torchrun --nproc-per-node 4 .*--master-port 4711") as told:
        classifier.run_manual_tuning()
    assert "accelerate launch" in str(told.value)


def test_the_published_scenario_runs(published_inputs, tmp_path):
    import multitask_cell_classification

    figures = multitask_cell_classification.main(published_inputs, tmp_path, max_ncells=40)
    assert set(figures) == {"study", "manual"}
    assert all(set(found) == set(COLUMNS) for found in figures.values())
    assert (tmp_path / "study" / "model" / "GeneformerMultiTask" / "pytorch_model.bin").is_file()
    assert len(pd.read_csv(tmp_path / "manual" / "results" / "test_preds.csv")) == 8
