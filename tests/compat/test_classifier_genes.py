"""Gene classification under the published names."""

import logging
import pickle
import warnings
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pyarrow as pa
import pytest
import torch

from geneformer import Classifier, Vocabulary
from geneformer.compat.cells import balanced_classes, gene_folds
from geneformer.errors import (
    GeneformerWarning,
    GeneListError,
    OptionError,
    UnsupportedArgumentError,
    VocabularyMismatchError,
)
from geneformer.tokens.dataset import TokenizedDataset
from geneformer.tokens.storage import read_dataset, write_dataset
from small_classifier_inputs import genes, saved_cells, tiny_model

pytestmark = pytest.mark.contract

FIRST, SECOND = range(10, 25), range(30, 45)
CLASSES = {"zeta": genes(FIRST), "alpha": genes(SECOND)}
QUICK = {"per_device_train_batch_size": 8, "learning_rate": 1e-3}


def make(**kwargs):
    return Classifier("gene", **{"gene_class_dict": CLASSES, "training_args": QUICK, "model_version": "V1", **kwargs})


def load(path):
    return pickle.loads(Path(path).read_bytes())


@pytest.fixture(scope="module")
def prepared(tmp_path_factory):
    out = tmp_path_factory.mktemp("genes")
    make().prepare_data(saved_cells(out / "c.dataset", n=30), out, "g.1")
    return SimpleNamespace(
        out=out,
        data=out / "g.1_labeled.dataset",
        classes=out / "g.1_id_class_dict.pkl",
        model=tiny_model(out / "model"),
    )


@pytest.fixture(scope="module")
def run(prepared, tmp_path_factory):
    out = tmp_path_factory.mktemp("run")
    metrics = make(num_crossval_splits=5, freeze_layers=1).validate(
        prepared.model, prepared.data, prepared.classes, out, "g.1"
    )
    (folder,) = out.glob("*_geneformer_geneClassifier_g.1")
    return SimpleNamespace(out=out, folder=folder, metrics=metrics)


def test_every_token_of_a_gene_has_its_class(prepared):
    assert load(prepared.classes) == {0: "zeta", 1: "alpha"}  # in the order given
    data = read_dataset(prepared.data)
    assert str(data.table.schema.field("labels").type) == "list<item: int64>"
    assert len(data) == 20  # cells of the third state have none of the genes
    for row in range(len(data)):
        wanted = [0 if token in FIRST else 1 if token in SECOND else -100 for token in data[row]]
        assert data.table.column("labels")[row].as_py() == wanted


def test_folds_are_written_under_their_published_names(run):
    names = {p.name for p in run.folder.iterdir()}
    assert names == {f"ksplit{i}" for i in range(1, 6)} | {
        f"g.1_{side}_gene_labeled_ksplit{i}.dataset" for side in ("train", "valid", "test") for i in range(1, 6)
    }
    assert (run.out / "g.1_eval_metrics_dict.pkl").is_file()
    assert (run.folder / "ksplit3" / "g.1_pred_dict.pkl").is_file()


def genes_of(path):
    data = read_dataset(path)
    rows = zip(data.table.column("input_ids").to_pylist(), data.table.column("labels").to_pylist(), strict=True)
    return {token for ids, labels in rows for token, label in zip(ids, labels, strict=True) if label != -100}


def test_folds_hold_out_every_gene_once_and_share_none(run):
    held = []
    for i in range(1, 6):
        train, valid, test = (
            genes_of(run.folder / f"g.1_{side}_gene_labeled_ksplit{i}.dataset") for side in ("train", "valid", "test")
        )
        assert not train & valid
        assert not train & test
        assert not valid & test
        held += [*valid, *test]
    assert len(held) == len(set(held))


def test_folds_are_those_of_the_published_seeds():
    from sklearn.model_selection import StratifiedKFold, train_test_split

    codes = np.repeat([0, 1], [23, 17])
    found = gene_folds(codes, 5, 0.1 / (0.1 + 1 / 9), ["a", "b"])
    splitter = StratifiedKFold(n_splits=5, shuffle=True, random_state=0)
    for (learnt, valid, test), (train, held) in zip(found, splitter.split(codes, codes), strict=True):
        wanted = train_test_split(
            held, stratify=codes[held], test_size=0.1 / (0.1 + 1 / 9), shuffle=True, random_state=0
        )
        assert learnt.tolist() == train.tolist()
        assert (valid.tolist(), test.tolist()) == (wanted[0].tolist(), wanted[1].tolist())


def test_metrics_are_over_occurrences_of_validation_genes(run):
    found = [load(run.folder / f"ksplit{i}" / "g.1_pred_dict.pkl") for i in range(1, 6)]
    table = run.metrics["conf_matrix"]
    assert list(table.index) == ["zeta", "alpha"]
    assert table.to_numpy().sum() == sum(len(told["pred_ids"]) for told in found)
    for i, told in enumerate(found):
        assert run.metrics["acc"][i] == pytest.approx(np.mean(np.equal(told["pred_ids"], told["label_ids"])))
    labels = read_dataset(run.folder / "g.1_valid_gene_labeled_ksplit1.dataset").table.column("labels").to_pylist()
    assert found[0]["label_ids"] == [label for row in labels for label in row if label != -100]


def test_roc_summary_is_weighted_by_corners_as_published(run):
    from sklearn.metrics import roc_auc_score, roc_curve

    roc, areas, weights = run.metrics["all_roc_metrics"], [], []
    for i in range(1, 6):
        told = load(run.folder / f"ksplit{i}" / "g.1_pred_dict.pkl")
        scores = torch.tensor(told["predictions"], dtype=torch.float64).softmax(-1)[:, 1].numpy()
        areas.append(roc_auc_score(told["label_ids"], scores))
        weights.append(len(roc_curve(told["label_ids"], scores)[0]))
    assert set(roc) == {"mean_tpr", "mean_fpr", "all_roc_auc", "roc_auc", "roc_auc_sd"}
    assert roc["all_roc_auc"] == pytest.approx(areas)
    assert roc["roc_auc"] == pytest.approx(np.average(areas, weights=weights))
    assert roc["roc_auc_sd"] == pytest.approx(
        np.sqrt(np.average((np.array(areas) - roc["roc_auc"]) ** 2, weights=weights))
    )
    assert len(roc["mean_tpr"]) == len(roc["mean_fpr"]) == 100
    assert roc["mean_tpr"][-1] == 1.0


def test_plain_transformers_opens_the_model_and_says_the_same(run):
    from transformers import BertForTokenClassification

    network, info = BertForTokenClassification.from_pretrained(run.folder / "ksplit1", output_loading_info=True)
    assert not any(info.values())
    data = read_dataset(run.folder / "g.1_valid_gene_labeled_ksplit1.dataset")
    wanted = []
    with torch.no_grad():
        for row in range(len(data)):
            logits = network.eval()(input_ids=torch.from_numpy(data[row].astype(np.int64))[None]).logits[0]
            labels = data.table.column("labels")[row].as_py()
            wanted += [logits[place].tolist() for place, label in enumerate(labels) if label != -100]
    found = load(run.folder / "ksplit1" / "g.1_pred_dict.pkl")["predictions"]
    assert np.allclose(found, wanted, atol=1e-5)


def test_a_saved_gene_classifier_is_evaluated(run, prepared, tmp_path):
    metrics = make().evaluate_saved_model(run.folder / "ksplit1", prepared.classes, prepared.data, tmp_path, "t")
    assert set(metrics["all_roc_metrics"]) == {"mean_tpr", "mean_fpr", "all_roc_auc"}
    assert isinstance(metrics["all_roc_metrics"]["all_roc_auc"], float)
    assert (tmp_path / "t_test_metrics_dict.pkl").is_file()


def test_unknown_genes_are_left_out_with_a_warning_and_are_no_target(prepared, tmp_path):
    with pytest.warns(GeneformerWarning, match="2 genes .* ENSG_A, ENSG_B"):
        classifier = make(gene_class_dict={"a": [*CLASSES["zeta"], "ENSG_A", "ENSG_B"], "b": CLASSES["alpha"]})
    assert None not in classifier.gene_class_dict["a"]
    assert sorted(classifier.gene_class_dict["a"]) == list(FIRST)


def test_a_class_with_too_few_known_genes_is_refused(prepared, tmp_path):
    with pytest.warns(GeneformerWarning, match="ENSG_A"):
        classifier = make(gene_class_dict={"zeta": [*genes(range(10, 14)), "ENSG_A"], "alpha": CLASSES["alpha"]})
    with pytest.raises(GeneListError, match="'zeta' 4"):
        classifier.validate(prepared.model, prepared.data, prepared.classes, tmp_path, "p")
    with pytest.raises(GeneListError, match="token"):
        make(gene_class_dict={"a": ["ENSG_A"], "b": CLASSES["alpha"]})


def test_a_gene_in_two_classes_is_refused():
    with pytest.raises(GeneListError, match="'a' and in class 'b'"):
        make(gene_class_dict={"a": genes([10, 11]), "b": genes([11, 12])})


def test_genes_of_the_more_frequent_class_are_taken_away():
    counts = dict.fromkeys(range(30), 10) | dict.fromkeys(range(100, 110), 10)
    class_of = dict.fromkeys(range(30), 0) | dict.fromkeys(range(100, 110), 1)
    kept = balanced_classes(counts, class_of)
    sums = [sum(counts[token] for token, code in kept.items() if code == wanted) for wanted in (0, 1)]
    assert 0.8 <= sums[0] / sums[1] <= 1.25
    assert set(range(100, 110)) <= set(kept)


def test_balance_that_cannot_be_reached_gives_the_best_draw():
    counts = {0: 1000, 1: 1, 100: 10}
    kept = balanced_classes(counts, {0: 0, 1: 0, 100: 1})
    assert kept == {1: 0, 100: 1} or kept == {0: 0, 1: 0, 100: 1}
    with pytest.raises(GeneListError):
        balanced_classes({0: 5}, {0: 0, 1: 1})


def test_balancing_changes_the_genes_learnt_from(prepared, tmp_path):
    uneven = {"zeta": genes(FIRST), "alpha": genes(range(30, 36))}
    make(gene_class_dict=uneven, num_crossval_splits=1).validate(
        prepared.model,
        prepared.data,
        prepared.classes,
        tmp_path,
        "p",
        gene_balance=True,
        debug_gene_split_datasets=True,
    )
    (folder,) = tmp_path.iterdir()
    train = genes_of(folder / "p_train_gene_labeled_ksplit1.dataset")
    assert len(train & set(FIRST)) < 12
    assert not list(folder.glob("ksplit*"))


def test_train_all_data_learns_from_all_genes(prepared, tmp_path):
    trainer = make(num_crossval_splits=0, max_ncells=10).train_all_data(
        prepared.model, prepared.data, prepared.classes, tmp_path, "all"
    )
    (folder,) = tmp_path.iterdir()
    assert (folder / "model.safetensors").is_file()
    assert trainer.state.global_step == 2  # ten cells, eight in a batch


def test_a_search_is_judged_by_the_test_genes(prepared, tmp_path):
    pytest.importorskip("optuna")
    classifier = make(ray_config={"learning_rate": (1e-4, 1e-2), "num_train_epochs": [1]})
    metrics = classifier.validate(prepared.model, prepared.data, prepared.classes, tmp_path, "p", n_hyperopt_trials=2)
    (folder,) = tmp_path.glob("*_geneClassifier_p")
    labels = read_dataset(folder / "p_test_gene_labeled_ksplit1.dataset").table.column("labels").to_pylist()
    assert metrics["conf_matrix"].to_numpy().sum() == sum(label != -100 for row in labels for label in row)


@pytest.mark.parametrize("is_marked", [True, False])
def test_cells_of_v1_are_recognized(prepared, tmp_path, is_marked, caplog):
    cells = read_dataset(prepared.out / "c.dataset")
    high = cells.table if is_marked else marked_only_by_tokens(cells.table)
    source = write_dataset(TokenizedDataset(high, vocabulary=cells.vocabulary if is_marked else None), tmp_path / "c")
    for version in ("V1", "V2"):
        with caplog.at_level(logging.WARNING):
            make(model_version=version).prepare_data(source, tmp_path, version)
    assert "The cells are of V1" in caplog.text
    first, second = (read_dataset(tmp_path / f"{version}_labeled.dataset").table for version in ("V1", "V2"))
    assert first.equals(second)


def marked_only_by_tokens(table):
    """The cells with one more gene at their end, which V2 has no token for."""
    rows = [[*row, 25_000] for row in table.column("input_ids").to_pylist()]
    return table.set_column(
        table.column_names.index("input_ids"), "input_ids", pa.array(rows, pa.list_(pa.int32()))
    ).set_column(table.column_names.index("length"), "length", pa.array([len(row) for row in rows]))


def test_labeled_cells_of_v1_are_recognized_by_the_next_classifier(prepared, tmp_path):
    trainer = make(model_version="V2", training_args={**QUICK, "max_steps": 1}).train_all_data(
        prepared.model, prepared.data, prepared.classes, tmp_path, "p"
    )
    assert trainer.state.global_step == 1


def test_a_model_of_another_vocabulary_is_refused(prepared, tmp_path):
    cells = read_dataset(prepared.data)
    unmarked = TokenizedDataset(cells.table)
    with pytest.raises(VocabularyMismatchError, match='model_version="V1"'):
        make(model_version="V2").train_classifier(prepared.model, 2, unmarked, None, tmp_path / "m")


def test_cells_of_another_vocabulary_are_not_labeled(prepared, tmp_path):
    cells = read_dataset(prepared.out / "c.dataset").table
    of_v2 = TokenizedDataset(cells, vocabulary=Vocabulary.load("V2").fingerprint)
    with pytest.raises(VocabularyMismatchError, match="model_version"):
        make().prepare_data(write_dataset(of_v2, tmp_path / "c"), tmp_path, "p")


@pytest.mark.parametrize("given", [None, {"one": ["ENSG00000000419"]}, ["ENSG00000000419"]])
def test_two_classes_are_needed(given):
    with pytest.raises(OptionError, match="gene_class_dict"):
        make(gene_class_dict=given)


def test_arguments_about_cells_are_refused(prepared, tmp_path):
    with pytest.raises(UnsupportedArgumentError, match="max_ncells_per_class"):
        make(max_ncells_per_class=3)
    with pytest.raises(UnsupportedArgumentError, match="test_size"):
        make().prepare_data(prepared.out / "c.dataset", tmp_path, "p", test_size=0.2)
    with pytest.raises(UnsupportedArgumentError, match="split_id_dict"):
        make().validate(
            prepared.model, prepared.data, prepared.classes, tmp_path, "p",
            split_id_dict={"attr_key": "donor", "train": ["d0"], "eval": ["d1"]},
        )  # fmt: skip


def test_the_published_scenario_runs(published_inputs, tmp_path):
    from gene_classification import PREFIX, main

    with warnings.catch_warnings():
        warnings.simplefilter("error", GeneformerWarning)
        metrics = main(published_inputs, tmp_path, max_ncells=8)
    names = {p.name for p in tmp_path.iterdir()}
    assert names >= {
        f"{PREFIX}_{end}"
        for end in ("id_class_dict.pkl", "labeled.dataset", "eval_metrics_dict.pkl", "conf_mat.pdf", "roc.pdf")
    }
    assert len(metrics["acc"]) == len(metrics["all_roc_metrics"]["all_roc_auc"]) == 5
    (whole,) = tmp_path.glob(f"*_geneformer_geneClassifier_{PREFIX}_all")
    from transformers import BertForTokenClassification

    _, info = BertForTokenClassification.from_pretrained(whole, output_loading_info=True)
    assert not any(info.values())
