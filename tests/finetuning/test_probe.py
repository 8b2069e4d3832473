"""Linear probes: equal to scikit-learn's models, an answer of their own, and the least that fine-tuning comes to."""

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression, Ridge
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

import geneformer as gf
from geneformer.finetuning.baselines import PENALTIES, SHRINKAGES
from geneformer.finetuning.probe import probe
from geneformer.models.heads import HeadSpec
from geneformer.models.loading import load_model
from small_finetuning import QUICK, labeled_blood, same_weights, tiny_model

pytestmark = pytest.mark.contract

N, D = 90, 6
SPLIT = {"valid": 0.25, "test": 0.25, "baselines": "none"}
RUN = {"device": "cpu", "dtype": "float32", "progress": False}


@pytest.fixture(scope="module")
def cells():
    rng = np.random.default_rng(0)
    return rng.normal(3.0, [1e-3, 1, 1, 10, 1, 1], size=(N, D)).astype(np.float32)


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return tiny_model(tmp_path_factory.mktemp("model") / "tiny", seed=3)


@pytest.fixture(scope="module")
def adata():
    return labeled_blood(48)


def logits(head, cells):
    weight, bias = head
    return cells.astype(np.float64) @ weight.T + bias


def softmax(values):
    exp = np.exp(values - values.max(axis=1, keepdims=True))
    return exp / exp.sum(axis=1, keepdims=True)


def is_one_of(found, candidates):
    return min(np.abs(found - candidate).max() for candidate in candidates) < 1e-4


@pytest.mark.parametrize("n_classes", [2, 4])
@pytest.mark.parametrize("balanced", [False, True])
def test_classes_are_scikit_learn_s(cells, n_classes, balanced):
    rng = np.random.default_rng(1)
    codes = np.minimum((cells[:, 1] + rng.normal(size=N) > 3) * 1 + (cells[:, 3] > 10) * 2, n_classes - 1)
    found = softmax(
        logits(probe(HeadSpec(name="x", classes=tuple("abcd"[:n_classes])), cells, codes, balanced=balanced), cells)
    )
    weight = "balanced" if balanced else None
    fits = [
        make_pipeline(StandardScaler(), LogisticRegression(C=c, max_iter=5000, class_weight=weight)).fit(cells, codes)
        for c in PENALTIES
    ]
    assert is_one_of(found, [fit.predict_proba(cells) for fit in fits])


def test_a_class_without_cells_is_never_predicted(cells):
    codes = np.where(cells[:, 1] > 3, 2, 0)
    proba = softmax(logits(probe(HeadSpec(name="x", classes=("a", "b", "c")), cells, codes), cells))
    assert (proba[:, 1] < 1e-6).all()
    assert (proba.argmax(axis=1) == codes).mean() > 0.9


def test_label_sets_are_scikit_learn_s_label_by_label(cells):
    labels = np.column_stack([cells[:, 1] > 3, cells[:, 2] > 3.5, np.zeros(N), np.ones(N)]).astype(float)
    found = 1 / (
        1 + np.exp(-logits(probe(HeadSpec(name="x", kind="any_of", classes=tuple("abcd")), cells, labels), cells))
    )
    for label in (0, 1):
        fits = [
            make_pipeline(StandardScaler(), LogisticRegression(C=c, max_iter=5000)).fit(cells, labels[:, label])
            for c in PENALTIES
        ]
        assert is_one_of(found[:, label], [fit.predict_proba(cells)[:, 1] for fit in fits])
    assert (found[:, 2] < 1e-6).all()
    assert (found[:, 3] > 1 - 1e-6).all()


@pytest.mark.parametrize("loss", ["squared_error", "gaussian"])
def test_numbers_are_ridge_regression_s(cells, loss):
    numbers = cells[:, 1] - 0.1 * cells[:, 3] + np.random.default_rng(2).normal(size=N)
    found = logits(probe(HeadSpec(name="x", kind="number", loss=loss), cells, numbers), cells)
    fits = [make_pipeline(StandardScaler(), Ridge(alpha)).fit(cells, numbers).predict(cells) for alpha in SHRINKAGES]
    assert is_one_of(found[:, 0], fits)
    if loss == "gaussian":
        error = np.log(np.mean((found[:, 0] - numbers) ** 2))
        assert found[:, 1] == pytest.approx(np.full(N, error), abs=1e-3)


def test_a_probe_trains_nothing_but_the_head(model, adata, tmp_path):
    fitted = gf.CellClassifier(model, strategy="probe", **SPLIT, **RUN).fit(adata, "kind", output=tmp_path)
    pretrained = load_model(model).network.bert
    assert same_weights(fitted.network_.bert, pretrained)
    assert fitted.result_.steps == 0
    assert fitted.metrics_["loss"] > 0
    again = gf.CellClassifier(model, strategy="probe", **SPLIT, **RUN).fit(adata, "kind")
    assert np.array_equal(again.predict_proba(adata), fitted.predict_proba(adata))
    fitted.save(tmp_path / "saved")
    loaded = gf.load_classifier(tmp_path / "saved")
    loaded.runtime = fitted.runtime
    assert np.array_equal(loaded.predict_proba(adata), fitted.predict_proba(adata))


def test_numbers_sets_and_tasks_have_probes(model, adata):
    numbers = gf.CellRegressor(model, strategy="probe", **SPLIT, **RUN).fit(adata, "age")
    assert np.isfinite(numbers.predict(adata)).all()
    tasks = gf.MultiTaskClassifier(model, strategy="probe", **SPLIT, **RUN).fit(adata, ["kind", "donor"])
    assert list(tasks.predict(adata).columns)[::2] == ["kind", "donor"]
    sets = adata.copy()
    sets.obs["marks"] = [f"{kind};{donor}" for kind, donor in zip(sets.obs["kind"], sets.obs["donor"], strict=True)]
    labels = gf.CellClassifier(model, strategy="probe", multi_label=True, **SPLIT, **RUN).fit(sets, "marks")
    assert labels.predict_proba(sets).shape == (48, 7)


def test_steps_that_are_worse_than_the_probe_do_not_count(model, adata):
    run = QUICK | {"learning_rate": 5.0}
    probed = gf.CellClassifier(model, strategy="probe", **SPLIT, **RUN).fit(adata, "kind")
    trained = gf.CellClassifier(model, eval_steps=1, **SPLIT, **run).fit(adata, "kind")
    assert [line["step"] for line in trained._history if "eval_loss" in line] == [0, 1, 2, 3]
    assert trained.metrics_["loss"] == pytest.approx(probed.metrics_["loss"], rel=1e-5)
    ours, theirs = trained.network_.state_dict(), probed.network_.state_dict()
    assert all(torch.equal(value, theirs[name]) for name, value in ours.items())


def test_without_validation_cells_all_steps_count(model, adata):
    probed = gf.CellClassifier(model, strategy="probe", **SPLIT | {"valid": 0.0}, **RUN).fit(adata, "kind")
    trained = gf.CellClassifier(model, **SPLIT | {"valid": 0.0}, **QUICK).fit(adata, "kind")
    assert not same_weights(trained.network_, probed.network_)


def test_a_head_can_start_at_random(model, adata):
    fitted = gf.CellClassifier(model, head_start="random", eval_steps=1, **SPLIT, **QUICK).fit(adata, "kind")
    first = next(line["eval_loss"] for line in fitted._history if "eval_loss" in line)
    assert first == pytest.approx(np.log(3), abs=0.05)  # it knows nothing
