"""Several columns of labels at once: from the pretrained weights, with labels missing, from fit to folder and back."""

import dataclasses

import numpy as np
import pandas as pd
import pytest
import torch
from transformers import TrainerCallback

from geneformer.errors import (
    ConstantLabelError,
    GeneformerWarning,
    LabelError,
    LeakageError,
    NotFittedError,
    OptionError,
    RareClassError,
    UnknownClassError,
    UnknownColumnError,
)
from geneformer.finetuning.estimators import MultiTaskClassifier, load_classifier
from geneformer.finetuning.reports import ReportSet
from geneformer.finetuning.splits import Split
from geneformer.finetuning.training import cell_batches
from geneformer.models.finetuned import build_network
from geneformer.models.heads import GeneformerForCells, HeadSpec
from geneformer.models.loading import load_model
from geneformer.models.losses import MISSING
from geneformer.options import FinetuneOptions, MultiTaskOptions, TokenizeOptions
from geneformer.tokenization.tokenizer import tokenize_counts
from small_finetuning import QUICK, labeled_blood, tiny_model

pytestmark = pytest.mark.contract

TASKS = ["kind", "sex"]


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return tiny_model(tmp_path_factory.mktemp("tiny"), seed=5)


@pytest.fixture(scope="module")
def adata():
    made = labeled_blood()
    made.obs["sex"] = ["f" if i % 4 < 2 else "m" for i in range(made.n_obs)]
    return made


@pytest.fixture(scope="module")
def fitted(model, adata):
    options = {**QUICK, "baselines": "all", "pooling": "attention", "valid": 0.15, "test": 0.25}
    return MultiTaskClassifier(model, **options).fit(adata, TASKS)


def made(model, **changes):
    return MultiTaskClassifier(model, **{**QUICK, "baselines": "none", **changes})


def test_fit_learns_a_head_per_column(fitted):
    assert fitted.tasks_ == ("kind", "sex")
    assert fitted.classes_ == {"kind": ("kind 0", "kind 1", "kind 2"), "sex": ("f", "m")}
    assert [tuple(head.weight.shape) for head in fitted.network_.heads] == [(3, 16), (2, 16)]
    assert fitted.task_weights_ == {"kind": 1.0, "sex": 1.0}


def test_predictions_are_those_of_the_probabilities(fitted, adata):
    frame, proba = fitted.predict(adata), fitted.predict_proba(adata)
    assert list(frame.columns) == ["kind", "kind_probability", "sex", "sex_probability"]
    assert list(frame.index) == list(adata.obs_names)
    for task in TASKS:
        np.testing.assert_allclose(proba[task].sum(axis=1), 1)
        assert list(frame[task]) == [fitted.classes_[task][i] for i in proba[task].argmax(axis=1)]
        np.testing.assert_allclose(frame[f"{task}_probability"], proba[task].max(axis=1))


def test_probabilities_too_low_are_unknown(fitted, adata):
    frame = fitted.predict(adata, unknown_below=1.0)
    assert set(frame["kind"]) == set(frame["sex"]) == {"unknown"}


def test_cells_without_a_known_gene_are_unknown(fitted, adata):
    cells = adata[:6].copy()
    cells.X[2] = 0
    with pytest.warns(GeneformerWarning):
        frame = fitted.predict(cells)
    assert frame["kind"].iloc[2] == "unknown"
    assert np.isnan(frame["sex_probability"].iloc[2])
    assert frame["kind"].drop(cells.obs_names[2]).isin(fitted.classes_["kind"]).all()


def test_reports_stand_beside_their_baselines(fitted):
    assert list(fitted.report_) == TASKS
    for task in TASKS:
        report = fitted.report_[task]
        assert len(report.baselines) == 4
        assert report.evaluation.n == fitted.split_["test"]
        assert report.settings["label"] == task
    assert "# kind" in fitted.report_.to_markdown()


def test_saved_and_loaded_it_predicts_the_same(fitted, adata, tmp_path):
    fitted.save(tmp_path / "tasks")
    loaded = load_classifier(tmp_path / "tasks", runtime=fitted.runtime)
    assert isinstance(loaded, MultiTaskClassifier)
    assert (loaded.tasks_, loaded.classes_) == (fitted.tasks_, fitted.classes_)
    assert loaded.temperatures_ == fitted.temperatures_
    pd.testing.assert_frame_equal(loaded.predict(adata), fitted.predict(adata))
    assert ReportSet.load(tmp_path / "tasks" / "report") == fitted.report_


def test_evaluation_of_a_loaded_one_needs_only_the_columns_asked_for(fitted, adata, tmp_path):
    fitted.save(tmp_path / "tasks")
    loaded = MultiTaskClassifier.load(tmp_path / "tasks", runtime=fitted.runtime)
    other = adata.copy()
    other.obs = other.obs.rename(columns={"sex": "sex_at_birth"})
    with pytest.warns(GeneformerWarning, match="cells were learnt from"):
        reports = loaded.evaluate(other, {"sex": "sex_at_birth"}, groups="donor")
    assert list(reports) == ["sex"]
    expected = (loaded.predict(adata)["sex"].to_numpy() == adata.obs["sex"].to_numpy()).mean()
    assert reports["sex"].evaluation.metrics["accuracy"].mean == pytest.approx(expected)
    assert reports["sex"].evaluation.n_groups == 4
    assert reports["sex"].baselines == {}
    with pytest.raises(UnknownColumnError):
        loaded.evaluate(other)
    with pytest.raises(UnknownClassError, match="not a task"):
        loaded.evaluate(adata, ["donor"])


@pytest.mark.parametrize("pooling", ["mean", "cls", "attention"])
def test_it_starts_from_the_pretrained_weights(model, pooling):
    """The published class takes the configuration of the checkpoint only, and starts from random weights."""
    base = load_model(model)
    attributes = {
        "geneformer_heads": [HeadSpec(name="kind", classes=("a", "b")).to_dict()],
        "geneformer_pooling": pooling,
    }
    network = build_network(GeneformerForCells, base, FinetuneOptions(pooling=pooling), attributes)
    pretrained = base.network.bert.state_dict()
    found = network.bert.state_dict()
    assert found.keys() == pretrained.keys()
    assert all(torch.equal(found[name], pretrained[name]) for name in found)
    random = build_network(GeneformerForCells, base, FinetuneOptions(weights="random"), attributes)
    name = "embeddings.word_embeddings.weight"
    assert not torch.equal(random.bert.state_dict()[name], pretrained[name])


def test_with_the_encoder_frozen_training_leaves_it_as_pretrained(model, adata):
    frozen = made(model, strategy="head").fit(adata, TASKS)
    pretrained = load_model(model).network.bert.state_dict()
    found = frozen.network_.bert.state_dict()
    assert all(torch.equal(found[name], pretrained[name]) for name in pretrained)


def test_attention_pooling_depends_on_no_other_cell(fitted, adata):
    together = fitted.embed(adata)
    for row in (0, 7, 31):
        alone = fitted.embed(adata[[row]].copy())
        np.testing.assert_allclose(alone[0], together[row], rtol=1e-5, atol=1e-6)


def partly_labeled(adata):
    part = adata.copy()
    part.obs["sex"] = part.obs["sex"].astype(object)
    part.obs.loc[part.obs_names[::3], "sex"] = None
    part.obs["kind"] = part.obs["kind"].astype(object)
    part.obs.loc[part.obs_names[[0, 1, 4]], "kind"] = "unknown"
    return part  # cells 0 has neither label


def test_cells_with_some_labels_are_used(model, adata):
    part = partly_labeled(adata)
    with pytest.warns(GeneformerWarning, match=r"16 in 'sex'.* 1 have none at all"):
        partly = made(model, test=0.2).fit(part, TASKS)
    assert sum(partly.split_[name] for name in ("train", "valid", "test")) == 47
    n = {task: partly.report_[task].evaluation.n for task in TASKS}
    assert 0 < n["sex"] < n["kind"] <= partly.split_["test"]


def test_a_missing_label_gives_its_head_no_gradient(fitted, model, adata):
    part = partly_labeled(adata)
    classifier = made(model)
    opened = classifier.open(part)
    with pytest.warns(GeneformerWarning):
        targets = classifier.targets(opened, TASKS).values
    rows = np.flatnonzero((targets["sex"] == MISSING) & (targets["kind"] != MISSING))
    batch = cell_batches(opened.tokens, rows, targets, 64)([(0, i) for i in range(len(rows))])
    network = fitted.network_
    network.zero_grad()
    network(**batch).loss.backward()
    assert network.heads[1].weight.grad.abs().sum() == 0
    assert network.heads[1].bias.grad.abs().sum() == 0
    assert network.heads[0].weight.grad.abs().sum() > 0
    network.zero_grad()


def test_task_weights_are_learnt(model, adata):
    learnt = made(model, learn_task_weights=True, head_start="random").fit(adata, TASKS)
    assert set(learnt.task_weights_) == set(TASKS)
    assert all(weight > 0 and weight != 1 for weight in learnt.task_weights_.values())


def test_a_task_with_weight_zero_is_not_learnt(model, adata):
    one = made(model, task_weights=[1.0, 0.0], weight_decay=0.0).fit(adata, TASKS)
    kept = made(model, task_weights=[1.0, 0.0], weight_decay=0.0, max_steps=1).fit(adata, TASKS)
    assert one.task_weights_ == {"kind": 1.0, "sex": 0.0}
    assert torch.equal(one.network_.heads[1].weight, kept.network_.heads[1].weight)
    assert not torch.equal(one.network_.heads[0].weight, kept.network_.heads[0].weight)


def test_no_donor_is_on_two_sides(model, adata):
    with pytest.raises(RareClassError, match=r"Labels 'sex': .* is found in 2 of 4 groups.*valid=0"):
        made(model, test=0.25, valid=0.25).fit(adata, TASKS, groups="donor")
    split = made(model, test=0.5, valid=0).fit(adata, TASKS, groups="donor")
    assert set(split.report_["sex"].truth) == {0, 1}
    assert split.split_["method"] == "group"
    assert split.split_["shared_groups"] == {}


def test_parts_have_the_same_shares_of_every_combination(model, adata):
    classifier = made(model, test=0.25, valid=0.25)
    opened = classifier.open(adata)
    classifier.fit(opened, TASKS)
    split, codes = classifier._training.split, classifier._training.encoded.codes
    for rows in (split.train, split.valid, split.test):
        share = np.bincount(codes[rows], minlength=6) / len(rows)
        np.testing.assert_allclose(share, np.bincount(codes) / len(codes), atol=0.1)


@pytest.mark.filterwarnings("ignore:.*None of the .* cells measured:geneformer.errors.GeneformerWarning")
def test_balanced_class_weights(model, adata):
    skewed = adata.copy()
    skewed.obs["sex"] = ["f" if i % 6 else "m" for i in range(skewed.n_obs)]
    balanced = made(model, class_weights="balanced").fit(skewed, TASKS)
    encoded, split = balanced._training.encoded, balanced._training.split
    codes = encoded.values["sex"][split.train]
    weights = encoded.targets["sex"].weights(codes)
    np.testing.assert_allclose(weights, len(split.train) / (2 * np.bincount(codes)))


@pytest.mark.parametrize(
    ("labels", "changes", "error", "match"),
    [
        ([], {}, LabelError, "No column"),
        (["kind", "kind"], {}, LabelError, "twice"),
        (["kind", "same"], {}, ConstantLabelError, "same"),
        (["kind", "knid"], {}, UnknownColumnError, "knid"),
        (TASKS, {"task_weights": [1.0]}, OptionError, "1 weights for 2 tasks"),
    ],
)
def test_what_cannot_be_learnt_is_refused(model, adata, labels, changes, error, match):
    constant = adata.copy()
    constant.obs["same"] = "always"
    with pytest.raises(error, match=match):
        made(model, **changes).fit(constant, labels)


def test_options_that_contradict_each_other():
    with pytest.raises(OptionError, match="Choose one"):
        MultiTaskOptions(task_weights=(1.0, 2.0), learn_task_weights=True)
    with pytest.raises(OptionError, match="learns nothing"):
        MultiTaskOptions(task_weights=(0.0, 0.0))
    assert dataclasses.asdict(MultiTaskOptions(task_weights=[1, 2]))["task_weights"] == (1, 2)


def test_an_unfitted_one_says_so(model, adata):
    with pytest.raises(NotFittedError):
        made(model).predict(adata)


def test_a_given_split_that_leaks_is_refused(model, adata):
    classifier = made(model)
    opened = classifier.open(adata)
    split = Split(np.arange(0, 32), np.arange(32, 40), np.arange(40, 48), "given")
    assert classifier.fit(opened, TASKS, split_rows=split).split_["test"] == 8
    with pytest.raises(LeakageError, match="donor"):
        classifier.fit(opened, TASKS, split_rows=split, groups="donor")
    allowed = made(model, allow_leakage=True).fit(opened, TASKS, split_rows=split, groups="donor")
    assert allowed.split_["shared_groups"]


def test_genes_to_delete_need_second_views(model, adata):
    with pytest.raises(OptionError, match="deleted_genes"):
        made(model).fit(adata, TASKS, deleted_genes=np.array([5]))
    seen = made(model, contrastive_weight=0.5).fit(adata, TASKS, deleted_genes=np.array([5]))
    assert any("contrastive_loss" in line for line in seen.result_.history)


def test_scaled_counts_have_no_library_size(model, adata):
    tokens = tokenize_counts(adata, TokenizeOptions(keep=("kind", "sex"), counts=True))[0]
    baselines = made(model, baselines="cheap", test=0.25).fit(tokens, TASKS).report_["kind"].baselines
    assert set(baselines) == {"logistic regression, variable genes", "majority class"}


def test_an_unsuccessful_second_fit_leaves_nothing_behind(model, adata):
    classifier = made(model).fit(adata, TASKS)
    with pytest.raises(ValueError, match="stop"):
        classifier.fit(adata, ["sex"], callbacks=[Stopping()])
    with pytest.raises(NotFittedError):
        classifier.predict(adata)


class Stopping(TrainerCallback):
    def on_step_begin(self, *_, **__):
        raise ValueError("stop")
