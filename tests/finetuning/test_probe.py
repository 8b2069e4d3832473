"""Linear probes: equal to scikit-learn's models, an answer of their own, and the least that fine-tuning comes to."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression, Ridge
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from transformers import TrainerCallback

import geneformer as gf
import small_genes
from geneformer.errors import OptionError, OutputExistsError
from geneformer.finetuning import training
from geneformer.finetuning.baselines import PENALTIES, SHRINKAGES
from geneformer.finetuning.probe import probe
from geneformer.models.heads import HeadSpec
from geneformer.models.loading import load_model
from geneformer.options import FinetuneOptions, GeneClassifyOptions
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
def still_model(tmp_path_factory):
    return tiny_model(tmp_path_factory.mktemp("still") / "tiny", dropout=0.0)


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


# The default


@pytest.mark.parametrize(
    ("asked", "strategy"),
    [
        ({}, "probe"),
        ({"seed": 1, "max_length": 32, "class_weights": "balanced", "pooling": "rank"}, "probe"),
        ({"epochs": 5}, "full"),  # asked for, though it is the default
        ({"max_steps": 1}, "full"),
        ({"head_start": "random", "max_steps": 1}, "full"),
        ({"finetuning": FinetuneOptions(epochs=5)}, "full"),
        ({"finetuning": FinetuneOptions(max_length=32)}, "probe"),
    ],
)
def test_few_cells_on_a_cpu_are_probed_unless_training_is_asked_for(model, adata, asked, strategy):
    fitted = gf.CellClassifier(model, **asked, **SPLIT, **RUN).fit(adata, "kind")
    assert fitted.strategy_ == strategy
    assert (fitted.result_.steps == 0) == (strategy == "probe")
    assert ("strategy='probe'" in repr(fitted)) == (strategy == "probe")
    assert fitted.report_.settings["strategy"] == strategy


def test_a_training_that_was_begun_is_not_taken_for_a_probe(model, adata, tmp_path):
    gf.CellClassifier(model, **SPLIT, **QUICK).fit(adata, "kind", output=tmp_path)
    with pytest.raises(OutputExistsError):
        gf.CellClassifier(model, **SPLIT, **RUN).fit(adata, "kind", output=tmp_path)


def test_what_no_linear_model_gives_is_trained(model, adata):
    counts = gf.CellRegressor(model, loss="poisson", **SPLIT, **RUN)
    with pytest.raises(OptionError, match="no linear model"):
        gf.CellRegressor(model, loss="poisson", strategy="probe", **SPLIT, **RUN).fit(adata, "age")
    counts.fit(adata, "age")
    assert counts.strategy_ == "full"


def test_genes_have_a_probe(model):
    tokens = small_genes.cells()
    genes = small_genes.dealt(small_genes.common_genes(tokens, 30))
    options = GeneClassifyOptions(unknown_genes="drop", baselines="none", valid=0.2, test=0.2)
    fitted = gf.GeneClassifier(model, classify=options, **RUN).fit(tokens, genes)
    assert (fitted.strategy_, fitted.result_.steps) == ("probe", 0)
    assert np.isfinite(fitted.metrics_["log_likelihood"])
    assert same_weights(fitted.network_.bert, load_model(model).network.bert)
    trained = gf.GeneClassifier(model, classify=options, eval_steps=1, **QUICK | {"learning_rate": 5.0})
    trained.fit(tokens, genes)
    assert trained.metrics_["log_likelihood"] == pytest.approx(fitted.metrics_["log_likelihood"], abs=1e-5)


# Computed once


def test_folds_share_the_embeddings(model, adata, monkeypatch):
    embedded = []
    run = training.run_batches
    monkeypatch.setattr(
        training,
        "run_batches",
        lambda tokens, *rest, **more: (embedded.append(len(tokens)), run(tokens, *rest, **more)),
    )
    folds = gf.cross_validate(gf.CellClassifier(model, baselines="none", **RUN), adata, "kind", n_folds=3)
    assert folds.report.evaluation.n == sum(embedded) == adata.n_obs


@pytest.mark.parametrize(
    "frozen",
    [{"strategy": "last_layer"}, {"strategy": "extra_layer"}, {"strategy": "head", "pooling": "attention"},
     {"strategy": "full", "freeze_layers": 1, "freeze_embeddings": True}],
)  # fmt: skip
def test_frozen_layers_run_once_and_change_nothing(still_model, adata, frozen, monkeypatch):
    seen, states = [], training.States.gather
    monkeypatch.setattr(training.States, "gather", lambda self, rows: seen.append(len(rows)) or states(self, rows))

    def fit():
        return gf.CellClassifier(still_model, head_start="random", **frozen, **SPLIT, **QUICK).fit(adata, "kind")

    once = fit()
    assert seen
    seen.clear()
    monkeypatch.setattr(training, "STATES_AT_MOST", 0)
    again = fit()
    assert not seen
    assert once.metrics_["loss"] == pytest.approx(again.metrics_["loss"], abs=1e-5)
    np.testing.assert_allclose(once.predict_proba(adata), again.predict_proba(adata), atol=1e-5)


def test_lower_layers_learn_at_lower_rates(model, adata):
    rates = {}

    class Rates(TrainerCallback):
        def on_step_end(self, args, state, control, optimizer=None, model=None, **_):
            names = {id(value): name for name, value in model.named_parameters()}
            for group in optimizer.param_groups:
                rates.update({names[id(value)]: group["lr"] for value in group["params"]})

    options = QUICK | {"learning_rate": 1e-3, "schedule": "constant_with_warmup"}
    gf.CellClassifier(model, layer_decay=0.5, **SPLIT, **options).fit(adata, "kind", callbacks=[Rates()])
    assert rates["heads.0.weight"] == pytest.approx(1e-3)
    assert rates["bert.encoder.layer.1.attention.self.query.bias"] == pytest.approx(5e-4)
    assert rates["bert.encoder.layer.0.output.dense.weight"] == pytest.approx(2.5e-4)
    assert rates["bert.embeddings.word_embeddings.weight"] == pytest.approx(1.25e-4)


@pytest.mark.parametrize(("spread", "is_kept"), [(0.0, True), (10.0, False)])
def test_what_is_better_by_chance_is_not_kept(model, adata, monkeypatch, spread, is_kept):
    fitted = gf.CellClassifier(model, strategy="probe", **SPLIT, **RUN).fit(adata, "kind")
    network, start = fitted.network_, {name: value.clone() for name, value in fitted.network_.state_dict().items()}
    network.heads[0].bias.data += 1.0
    trained = network.heads[0].bias.clone()

    def losses(network, cells):
        is_start = torch.equal(network.heads[0].bias, start["heads.0.bias"])
        return np.full(12, 1.0) + is_start * (0.1 + np.resize([spread, -spread], 12))

    monkeypatch.setattr(training, "cell_losses", losses)
    result = replace(fitted.result_, steps=2, metrics={"loss": 0.5})
    chosen = training._kept_if_clear(network, start, None, result)
    assert chosen.metrics["loss"] == (0.5 if is_kept else fitted.metrics_["loss"])
    assert torch.equal(network.heads[0].bias, trained if is_kept else start["heads.0.bias"])
