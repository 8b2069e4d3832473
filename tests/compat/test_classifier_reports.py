"""Published evaluation functions."""

import math

import numpy as np
import pandas as pd
import pytest
import torch
from geneformer.evaluation_utils import (
    classifier_predict,
    get_cross_valid_roc_metrics,
    get_metrics,
    plot_confusion_matrix,
    plot_ROC,
    py_softmax,
    vote,
)
from transformers import BertForSequenceClassification, BertForTokenClassification

from geneformer.errors import NoCellsError, OptionError, UnknownClassError
from small_classifier_inputs import cells, tiny_model

pytestmark = pytest.mark.contract


def test_vote_takes_the_first_of_equal_scores():
    assert vote([0.1, 0.7, 0.2]) == 1
    assert vote([0.7, 0.1, 0.7]) == 0


def test_softmax_does_not_overflow():
    assert py_softmax([1.0, 2.0]) == pytest.approx([1 / (1 + math.e), math.e / (1 + math.e)])
    assert py_softmax([1000.0, 0.0]) == pytest.approx([1.0, 0.0])


def test_metrics_are_those_of_scikit_learn():
    from sklearn.metrics import accuracy_score, auc, confusion_matrix, f1_score, roc_curve

    rng = np.random.default_rng(0)
    truth, logits = rng.integers(0, 2, 200), rng.normal(size=(200, 2))
    told = logits.argmax(axis=1)
    table, f1, accuracy, roc = get_metrics(told.tolist(), truth.tolist(), logits.tolist(), 2, [1, 0])
    assert (table == confusion_matrix(truth, told, labels=[1, 0])).all()
    assert f1 == pytest.approx(f1_score(truth, told, average="macro"))
    assert accuracy == pytest.approx(accuracy_score(truth, told))
    proba = [py_softmax(row)[1] for row in logits]
    fpr, tpr, _ = roc_curve(truth, proba)
    assert roc["auc"] == pytest.approx(auc(fpr, tpr))
    assert roc["interp_tpr"][0] == 0
    assert np.allclose(roc["interp_tpr"][1:], np.interp(np.linspace(0, 1, 100), fpr, tpr)[1:])
    assert roc["tpr_wt"] == len(roc["tpr"])


def test_there_is_a_roc_curve_for_two_classes_only():
    assert get_metrics([0, 1, 2], [0, 1, 1], np.eye(3), 3, [0, 1, 2])[3] is None


def test_macro_f1_counts_classes_that_are_only_predicted():
    from sklearn.metrics import f1_score

    found = get_metrics([0, 2, 1], [0, 1, 1], np.eye(3), 3, [0, 1, 2])[1]
    assert found == pytest.approx(f1_score([0, 1, 1], [0, 2, 1], average="macro"))


def test_strange_classes_and_lengths_are_refused():
    with pytest.raises(UnknownClassError, match="2"):
        get_metrics([0, 2], [0, 1], np.eye(2), 2, [0, 1])
    with pytest.raises(OptionError, match="1 predictions"):
        get_metrics([0], [0, 1], np.eye(2), 2, [0, 1])
    with pytest.raises(NoCellsError):
        get_metrics([], [], [], 2, [0, 1])


def test_summaries_over_splits_are_weighted_as_told():
    curves = [np.linspace(0, 0.8, 100), np.linspace(0, 1.0, 100)]
    mean, area, deviation = get_cross_valid_roc_metrics(curves, [0.6, 0.9], [1, 3])
    assert mean[-1] == 1.0
    assert mean[50] == pytest.approx(0.25 * curves[0][50] + 0.75 * curves[1][50])
    assert area == pytest.approx(0.825)
    assert deviation == pytest.approx(math.sqrt(0.25 * (0.6 - 0.825) ** 2 + 0.75 * (0.9 - 0.825) ** 2))


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tiny_model(tmp_path_factory.mktemp("model"))


@pytest.mark.parametrize("batch", [1, 2, 100])
def test_every_cell_is_predicted_in_its_order(folder, batch):
    datasets = pytest.importorskip("datasets")
    network = BertForSequenceClassification.from_pretrained(folder, num_labels=3).eval()
    everyone = cells(n=5)
    tokens = [everyone[row].tolist() for row in range(5)]
    data = datasets.Dataset.from_dict({"input_ids": tokens, "label": [0, 1, 2, 0, 1], "length": [*map(len, tokens)]})
    told, truth, logits, metadata = classifier_predict(network, "cell", data, batch, {}, ["length"])
    assert truth == [0, 1, 2, 0, 1]
    with torch.no_grad():
        wanted = [network(input_ids=torch.tensor([ids])).logits[0].tolist() for ids in tokens]
    assert np.allclose(logits, wanted, atol=1e-5)
    assert told == [vote(row) for row in wanted]
    assert metadata == {"length": [len(ids) for ids in tokens]}


def test_every_labeled_gene_is_predicted(folder):
    datasets = pytest.importorskip("datasets")
    network = BertForTokenClassification.from_pretrained(folder, num_labels=2).eval()
    tokens = [[9, 8, 7, 6], [9, 5]]
    data = datasets.Dataset.from_dict(
        {"input_ids": tokens, "labels": [[1, -100, 0, -100], [-100, 1]], "length": [4, 2]}
    )
    _, truth, logits, metadata = classifier_predict(network, "gene", data, 10, {})
    assert truth == [1, 0, 1]
    assert metadata is None
    with torch.no_grad():
        first, second = (network(input_ids=torch.tensor([ids])).logits[0] for ids in tokens)
    assert np.allclose(logits, [first[0].tolist(), first[2].tolist(), second[1].tolist()], atol=1e-5)


def test_figures(tmp_path):
    table = pd.DataFrame([[3, 1], [0, 4]], index=["a", "b"], columns=["a", "b"])
    plot_confusion_matrix(table, "title", tmp_path, "p.1")
    roc = {"mean_fpr": np.linspace(0, 1, 100), "mean_tpr": np.linspace(0, 1, 100), "all_roc_auc": 0.5}
    plot_ROC({"m": roc}, {"m": {"color": "red", "linestyle": "-"}}, "title", tmp_path, "p.1")
    assert {p.name for p in tmp_path.iterdir()} == {"p.1_conf_mat.pdf", "p.1_roc.pdf"}
