"""Classes of cells: learnt repeatably, predicted in the order of the cells, saved, compared with baselines."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from scipy import sparse
from transformers import TrainerCallback

import geneformer as gf
from geneformer.errors import (
    CheckpointError,
    ConstantLabelError,
    CountsError,
    GeneformerError,
    GeneformerWarning,
    LeakageError,
    MissingLabelError,
    NoCellsError,
    NotFittedError,
    NotRawCountsError,
    OptionError,
    OutOfRangeError,
    OutputExistsError,
    RareClassError,
    UnknownClassError,
    UnknownColumnError,
    UnknownIdError,
    UnknownOptionError,
    UnreadableInputError,
    VocabularyMismatchError,
)
from geneformer.finetuning.baselines import LIBRARY, LOGISTIC, MAJORITY
from geneformer.finetuning.estimators import CellClassifier
from geneformer.finetuning.reports import RANDOM, ClassificationReport, LabelSetReport
from geneformer.finetuning.splits import Split
from geneformer.inference.cells import open_cells
from geneformer.models.loading import load_model
from geneformer.options import RuntimeOptions
from geneformer.tokens.storage import write_dataset
from small_cells import short_tokens
from small_finetuning import QUICK, labeled_blood, same_weights, tiny_model

pytestmark = pytest.mark.contract

SPLIT = {"valid": 0.25, "test": 0.25}
CPU = RuntimeOptions(device="cpu", dtype="float32", progress=False, tokens_per_batch=QUICK["tokens_per_batch"])
CELLS = 48


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return tiny_model(tmp_path_factory.mktemp("model") / "tiny", seed=3)


@pytest.fixture(scope="module")
def adata():
    return labeled_blood(CELLS)


def made(model, **changes):
    return CellClassifier(model, **{**QUICK, **SPLIT, "baselines": "none", **changes})


@pytest.fixture(scope="module")
def fitted(model, adata):
    return made(model, baselines="all", n_top_genes=50).fit(adata, "kind", groups="donor")


@pytest.fixture(scope="module")
def folder(fitted, tmp_path_factory):
    return fitted.save(tmp_path_factory.mktemp("saved") / "classifier")


@pytest.fixture(scope="module")
def several(model, adata):
    """A classifier of cells with several labels."""
    labeled = adata.copy()
    labeled.obs["marks"] = [("a" if i % 2 else "b") + ("|c" if i % 3 else "") for i in range(CELLS)]
    return made(model, multi_label=True, separator="|", baselines="cheap", n_top_genes=50).fit(
        labeled, "marks"
    ), labeled


def with_labels(adata, values, name="mine"):
    changed = adata.copy()
    changed.obs[name] = values
    return changed


# Learning


def test_what_is_learnt(fitted, adata):
    assert (fitted.label_, fitted.classes_) == ("kind", ("kind 0", "kind 1", "kind 2"))
    assert (fitted.result_.steps, fitted.split_["method"]) == (QUICK["max_steps"], "group")
    assert {"loss", "accuracy", "macro_f1", "calibration_error"} <= fitted.metrics_.keys()
    proba = fitted.predict_proba(adata)
    assert proba.shape == (CELLS, 3)
    assert np.allclose(proba.sum(axis=1), 1)
    assert list(fitted.predict(adata)) == [fitted.classes_[i] for i in proba.argmax(axis=1)]


def test_the_same_seed_learns_the_same_weights(model, adata):
    one, again = (made(model).fit(adata, "kind") for _ in range(2))
    assert same_weights(one.network_, again.network_)
    assert one.temperature_ == again.temperature_
    assert not same_weights(one.network_, made(model, seed=1).fit(adata, "kind").network_)


def test_a_class_that_shows_is_found(model, adata):
    classifier = made(model, max_steps=40, learning_rate=0.02, patience=20, eval_steps=2).fit(
        with_labels(adata, np.where(np.arange(CELLS) % 2, "marked", "plain")), "mine"
    )
    tokens = short_tokens(cells=12)
    assert set(classifier.predict(tokens)) <= {"marked", "plain"}
    assert classifier.result_.metrics["loss"] == min(
        line["eval_loss"] for line in classifier.result_.history if "eval_loss" in line
    )


class PowerCut(RuntimeError):
    """The run is over."""


class BreakOff(TrainerCallback):
    def on_step_begin(self, args, state, control, **_):
        if state.global_step == 4:
            raise PowerCut


class Now(TrainerCallback):
    def on_train_begin(self, args, state, control, **_):
        raise PowerCut


def test_a_run_that_broke_off_ends_where_it_would_have_ended(model, adata, tmp_path):
    options = {"max_steps": 6, "eval_steps": 2, "class_weights": "balanced"}
    whole = made(model, **options).fit(adata, "kind")
    broken = made(model, **options)
    with pytest.raises(PowerCut):
        broken.fit(adata, "kind", output=tmp_path, callbacks=[BreakOff()])
    with pytest.raises(NotFittedError):
        broken.predict(adata)
    resumed = made(model, **options).fit(adata, "kind", output=tmp_path, resume=True)
    assert same_weights(resumed.network_, whole.network_)
    assert resumed.metrics_ == whole.metrics_


def test_a_failed_fit_leaves_no_mixture(model, adata):
    classifier = made(model).fit(adata, "kind")
    with pytest.raises(PowerCut):
        classifier.fit(adata, "donor", callbacks=[Now()])
    with pytest.raises(NotFittedError):
        classifier.predict(adata)


def test_class_weights_count_classes_alike(model, adata):
    labels = np.where(np.arange(CELLS) % 6 == 0, "rare", "common")
    plain, balanced = (
        made(model, class_weights=how, calibrate=False, max_steps=8).fit(with_labels(adata, labels), "mine")
        for how in ("none", "balanced")
    )
    rare = {name: fit.predict_proba(adata)[:, 1].mean() for name, fit in (("plain", plain), ("balanced", balanced))}
    assert rare["balanced"] > rare["plain"]


def test_second_views_without_chosen_genes(model, adata):
    tokens = open_cells(adata, load_model(model)).tokens
    genes = tokens.gather(np.array([0])).input_ids[:5].astype(np.int64)
    classifiers = [
        made(model, contrastive_weight=1.0, valid=0.0).fit(adata, "kind", deleted_genes=chosen)
        for chosen in (None, genes)
    ]
    assert not same_weights(classifiers[0].network_, classifiers[1].network_)
    assert all(any("contrastive_loss" in line for line in fit.result_.history) for fit in classifiers)
    with pytest.raises(OptionError, match="deleted_genes has no effect without a contrastive term"):
        made(model).fit(adata, "kind", deleted_genes=genes)


@pytest.mark.parametrize(
    "options",
    [
        {"strategy": "head"},
        {"strategy": "last_layer", "pooling": "attention"},
        {"strategy": "extra_layer", "pooling": "cls"},
        {"strategy": "adapters", "adapter_size": 4, "pooling": "pooler"},
        {"weights": "random", "attention_window": 4, "relative_positions": 3},
    ],
    ids=lambda options: next(iter(options.values())),
)
def test_every_strategy_comes_back_from_its_folder_and_embeds(model, adata, tmp_path, options):
    classifier = made(model, **options).fit(adata, "kind")
    classifier.save(tmp_path / "saved")
    loaded = CellClassifier.load(tmp_path / "saved", runtime=CPU)
    assert np.array_equal(loaded.predict_proba(adata), classifier.predict_proba(adata))
    base = load_model(tmp_path / "saved")
    assert not base.has_head
    assert all(
        torch.equal(value, base.network.state_dict()[name])
        for name, value in classifier.network_.state_dict().items()
        if name.startswith("bert.") and ".pooler." not in name
    )


# Telling


def test_predictions_do_not_depend_on_the_batches(fitted, adata):
    expected = fitted.predict_proba(adata)
    order = np.random.default_rng(0).permutation(CELLS)
    loaded = made(fitted.model)
    loaded.__dict__.update(fitted.__dict__)
    for budget in (1, 200, 5000):
        loaded.runtime = replace(CPU, tokens_per_batch=budget)
        assert np.allclose(loaded.predict_proba(adata), expected, atol=1e-6)
        assert np.allclose(loaded.predict_proba(adata[order].copy()), expected[order], atol=1e-6)


def test_cells_without_a_known_gene_are_unknown(fitted, several, adata):
    emptied = adata.copy()
    emptied.X = sparse.csr_matrix(emptied.X)
    kept = sparse.diags((np.arange(CELLS) % 7 != 3).astype(np.float32))
    emptied.X = sparse.csr_matrix(kept @ emptied.X)
    empty = np.arange(CELLS) % 7 == 3
    with pytest.warns(GeneformerWarning):
        proba = fitted.predict_proba(emptied)
    assert np.isnan(proba[empty]).all()
    assert np.array_equal(proba[~empty], fitted.predict_proba(adata[~empty].copy()))
    predicted = fitted.name_classes(proba)
    assert set(predicted[empty]) == {"unknown"}
    assert "unknown" not in predicted[~empty]
    with pytest.warns(GeneformerWarning):
        sets = several[0].predict(emptied)
    assert set(sets[empty]) == {"unknown"}
    with pytest.warns(GeneformerWarning):
        assert np.isnan(fitted.embed(emptied)[empty]).all()


@pytest.mark.filterwarnings("ignore:.*were learnt from:geneformer.errors.GeneformerWarning")
def test_every_kind_of_input_says_the_same(fitted, adata, tmp_path):
    expected = fitted.predict_proba(adata)
    adata.write_h5ad(tmp_path / "cells.h5ad")
    adata[:20].write_h5ad(tmp_path / "first.h5ad")
    adata[20:].write_h5ad(tmp_path / "second.h5ad")
    tokens = gf.pp.tokenize(adata, max_length=64)
    write_dataset(tokens, tmp_path / "cells.dataset")
    two = [tmp_path / "first.h5ad", tmp_path / "second.h5ad"]
    for cells in (tokens, tmp_path / "cells.h5ad", str(tmp_path / "cells.dataset"), two):
        assert np.allclose(fitted.predict_proba(cells), expected, atol=1e-6)
        assert fitted.evaluate(cells, "kind").evaluation.n == CELLS


def test_counts_are_found_where_they_are_said_to_be(model, adata):
    shuffled = adata.copy()
    shuffled.raw = adata
    shuffled.layers["mine"] = shuffled.X.copy()
    shuffled = shuffled[:, ::2].copy()
    shuffled.X = sparse.csr_matrix(np.log1p(shuffled.X.toarray()))
    classifier = made(model, baselines="cheap", n_top_genes=50)
    del shuffled.obs["n_counts"]
    by_raw = classifier.fit(shuffled, "kind", counts_layer="raw")
    by_counts = made(model, baselines="cheap", n_top_genes=50).fit(adata, "kind")
    assert same_weights(by_raw.network_, by_counts.network_)
    assert by_raw.report_.baselines == by_counts.report_.baselines
    assert by_raw.predict_proba(shuffled, counts_layer="mine").shape == (CELLS, 3)


def test_improbable_classes_are_unknown(fitted, adata):
    best = fitted.predict_proba(adata).max(axis=1)
    least = float(np.median(best))
    predicted = fitted.predict(adata, unknown_below=least)
    assert np.array_equal(predicted == "unknown", best < least)
    assert "unknown" not in fitted.predict(adata)
    with pytest.raises(OutOfRangeError, match="unknown_below"):
        fitted.predict(adata, unknown_below=1.5)


def test_the_threshold_that_was_fitted_holds(model, adata, tmp_path):
    classifier = made(model, unknown_below=0.99, calibrate=False).fit(adata, "kind")
    assert set(classifier.predict(adata)) == {"unknown"}
    assert classifier.temperature_ == 1.0
    loaded = CellClassifier.load(classifier.save(tmp_path / "saved"), runtime=CPU)
    assert set(loaded.predict(adata)) == {"unknown"}


def test_probabilities_are_calibrated_on_the_validation_cells(fitted, adata):
    logits = fitted.outputs(fitted.open(adata))["kind"].astype(np.float64) / fitted.temperature_
    expected = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    assert np.allclose(fitted.predict_proba(adata), expected)
    assert fitted.temperature_ > 0
    assert fitted.temperature_ != 1.0
    assert fitted.report_.settings["temperature"] == fitted.temperature_
    assert fitted.metrics_["calibration_error"] != fitted.metrics_["calibration_error_before"]


def test_two_classes(model, adata):
    classifier = made(model, baselines="cheap", n_top_genes=50).fit(
        with_labels(adata, np.arange(CELLS) % 2 == 0, "is_old"), "is_old"
    )
    assert classifier.classes_ == ("False", "True")
    assert classifier.predict_proba(adata).shape == (CELLS, 2)
    assert classifier.report_.evaluation.confusion.shape == (2, 2)


@pytest.mark.filterwarnings("ignore:.*were learnt from:geneformer.errors.GeneformerWarning")
def test_several_labels_per_cell(several, tmp_path):
    classifier, labeled = several
    assert classifier.classes_ == ("a", "b", "c")
    proba = classifier.predict_proba(labeled)
    assert proba.shape == (CELLS, 3)
    assert ((proba > 0) & (proba < 1)).all()
    names = np.array(classifier.classes_)
    assert list(classifier.predict(labeled)) == ["|".join(names[row >= 0.5]) for row in proba]
    assert isinstance(classifier.report_, LabelSetReport)
    assert set(classifier.report_.baselines) == {LOGISTIC, LIBRARY, MAJORITY}
    loaded = CellClassifier.load(classifier.save(tmp_path / "saved"), runtime=CPU)
    assert list(loaded.predict(labeled)) == list(classifier.predict(labeled))
    assert loaded.evaluate(labeled).evaluation.n == CELLS
    assert loaded.report_ == classifier.report_


# The folder


def test_a_folder_gives_back_the_classifier(fitted, folder, adata, tmp_path):
    loaded = CellClassifier.load(folder, runtime=CPU)
    assert np.array_equal(loaded.predict_proba(adata), fitted.predict_proba(adata))
    assert np.array_equal(loaded.embed(adata), fitted.embed(adata))
    assert same_weights(loaded.network_, fitted.network_)
    assert isinstance(loaded.report_, ClassificationReport)
    assert loaded.report_ == fitted.report_
    for name in ("label_", "classes_", "temperature_", "metrics_", "split_", "finetuning", "classify", "split"):
        assert getattr(loaded, name) == getattr(fitted, name), name
    loaded.save(tmp_path / "again")
    assert (tmp_path / "again" / "task.json").read_text() == (folder / "task.json").read_text()
    again = gf.load_classifier(tmp_path / "again", runtime=CPU)
    assert isinstance(again, CellClassifier)
    assert np.array_equal(again.predict_proba(adata), fitted.predict_proba(adata))


def test_a_loaded_classifier_learns_anew_from_its_base_model(fitted, folder, adata):
    again = CellClassifier.load(folder, runtime=CPU).fit(adata, "kind", groups="donor")
    assert same_weights(again.network_, fitted.network_)


def test_nothing_in_the_folder_runs_code(folder):
    files = {path.name for path in folder.rglob("*") if path.is_file()}
    assert {"model.safetensors", "config.json", "task.json", "training.json", "geneformer_manifest.json"} <= files
    assert {path.suffix for path in folder.rglob("*") if path.is_file()} <= {".json", ".md", ".parquet", ".safetensors"}
    for path in folder.rglob("*"):
        if path.is_file():
            head = path.read_bytes()[:4]
            assert not head.startswith((b"\x80\x02", b"\x80\x03", b"\x80\x04", b"\x80\x05", b"PK")), path


def test_a_folder_is_not_overwritten_unasked(fitted, folder, tmp_path):
    with pytest.raises(OutputExistsError):
        fitted.save(folder)
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("everything")
    with pytest.raises(OutputExistsError, match="not made by this package"):
        fitted.save(tmp_path / "mine", overwrite=True)
    fitted.save(tmp_path / "ours")
    fitted.save(tmp_path / "ours", overwrite=True)


def copy_of(folder, tmp_path):
    import shutil

    return shutil.copytree(folder, tmp_path / "copy")


@pytest.mark.parametrize(
    "missing", ["task.json", "training.json", "config.json", "model.safetensors", "report/report.json"]
)
def test_a_missing_file_is_told(folder, tmp_path, missing):
    copy = copy_of(folder, tmp_path)
    (copy / missing).unlink()
    with pytest.raises(GeneformerError, match=missing.rsplit("/", 1)[-1].replace(".", r"\.")):
        gf.load_classifier(copy)


@pytest.mark.parametrize(
    "damaged", ["task.json", "training.json", "config.json", "model.safetensors", "report/report.json"]
)
def test_a_truncated_file_is_told(folder, tmp_path, damaged):
    copy = copy_of(folder, tmp_path)
    content = (copy / damaged).read_bytes()
    (copy / damaged).write_bytes(content[: len(content) // 2])
    with pytest.raises((CheckpointError, UnreadableInputError), match=r"damaged|not valid JSON"):
        gf.load_classifier(copy)


@pytest.mark.parametrize("entry", ["classes_", "options", "base_model", "preprocessing", "temperature_", "vocabulary"])
def test_a_missing_entry_is_told(folder, tmp_path, entry):
    copy = copy_of(folder, tmp_path)
    task = json.loads((copy / "task.json").read_text())
    del task[entry]
    (copy / "task.json").write_text(json.dumps(task))
    with pytest.raises(CheckpointError, match=entry):
        gf.load_classifier(copy)


def test_a_folder_of_another_vocabulary_is_refused(folder, tmp_path):
    copy = copy_of(folder, tmp_path)
    task = json.loads((copy / "task.json").read_text())
    task["vocabulary"]["fingerprint"] = gf.Vocabulary.load("V2").fingerprint
    (copy / "task.json").write_text(json.dumps(task))
    with pytest.raises(VocabularyMismatchError, match="The folder is mixed"):
        gf.load_classifier(copy)


def test_folders_of_other_things_are_refused(model, folder, tmp_path):
    with pytest.raises(CheckpointError, match="looks like a pretrained checkpoint"):
        gf.load_classifier(model)
    with pytest.raises(CheckpointError, match="no such folder"):
        gf.load_classifier(tmp_path / "nowhere")
    copy = copy_of(folder, tmp_path)
    task = json.loads((copy / "task.json").read_text())
    (copy / "task.json").write_text(json.dumps({**task, "kind": "gene_classifier"}))
    with pytest.raises(CheckpointError, match="holds a gene_classifier, not a cell_classifier"):
        CellClassifier.load(copy)
    (copy / "task.json").write_text(json.dumps({**task, "kind": "horoscope"}))
    with pytest.raises(CheckpointError, match="'horoscope', which this release does not know"):
        gf.load_classifier(copy)


def test_tokens_of_another_vocabulary_are_refused(fitted):
    tokens = short_tokens("V2", vocabulary=gf.Vocabulary.load("V2").fingerprint)
    with pytest.raises(VocabularyMismatchError):
        fitted.predict(tokens)


def test_embeddings_come_from_the_fine_tuned_encoder(model, adata, tmp_path):
    fitted = made(model, valid=0.0).fit(adata, "kind")
    folder = fitted.save(tmp_path / "classifier")
    ours, before = adata.copy(), adata.copy()
    gf.tl.embed(ours, model=folder, device="cpu", dtype="float32", layer=0, progress=False)
    gf.tl.embed(before, model=fitted.model, device="cpu", dtype="float32", layer=0, progress=False)
    assert np.allclose(ours.obsm["X_geneformer"], fitted.embed(adata), atol=1e-6)
    assert not np.allclose(ours.obsm["X_geneformer"], before.obsm["X_geneformer"], atol=1e-3)
    assert not load_model(folder).has_head


# The split and the report


def test_the_report_stands_beside_every_baseline(fitted):
    report = fitted.report_
    assert set(report.baselines) == {RANDOM, LOGISTIC, LIBRARY, MAJORITY}
    text = report.to_markdown()
    assert all(f"| {name} |" in text for name in report.baselines)
    assert report.evaluation.n == fitted.split_["test"] == len(report.cell_ids)
    assert not same_weights(fitted._random_network, fitted.network_)
    shared = {
        name
        for name, value in fitted._random_network.state_dict().items()
        if torch.equal(value, fitted.network_.state_dict()[name])
    }
    assert not any(name.endswith("dense.weight") for name in shared)
    assert report.settings["model"] == str(fitted.model)


def test_evaluating_again_agrees(fitted, adata):
    report = fitted.evaluate(adata[np.isin(adata.obs_names, fitted.report_.cell_ids)].copy(), groups="donor")
    order = [list(report.cell_ids).index(name) for name in fitted.report_.cell_ids]
    assert np.allclose(report.proba[order], fitted.report_.proba, atol=1e-6)
    assert set(report.baselines) == set(fitted.report_.baselines)


def test_no_group_is_on_two_sides(fitted, adata):
    split = fitted._training.split
    donors = [set(adata.obs["donor"].iloc[rows]) for rows in (split.train, split.valid, split.test)]
    assert all(donors)
    assert not donors[0] & donors[1] | donors[0] & donors[2] | donors[1] & donors[2]
    assert fitted.split_["shared_groups"] == {}


def test_ids_decide_the_split(model, adata):
    lists = {"train_ids": ["donor 0", "donor 3"], "valid_ids": ["donor 1"], "test_ids": ["donor 2"]}
    classifier = made(model, method="ids", **lists).fit(adata, "kind", ids="donor")
    split = classifier._training.split
    for part, name in ((split.train, "train_ids"), (split.valid, "valid_ids"), (split.test, "test_ids")):
        assert set(adata.obs["donor"].iloc[part]) == set(lists[name])
    with pytest.raises(UnknownIdError, match="donor 9"):
        made(model, method="ids", train_ids=["donor 9"]).fit(adata, "kind", ids="donor")


def test_a_split_of_ones_own(model, adata):
    rows = np.arange(CELLS)
    split = Split(rows[rows % 4 < 2], rows[rows % 4 == 2], rows[rows % 4 == 3], "mine")
    classifier = made(model).fit(adata, "kind", split_rows=split, groups="donor")
    assert (classifier.split_["method"], classifier.report_.evaluation.n) == ("mine", 12)
    leaking = Split(rows[:24], rows[24:36], rows[36:], "mine")
    with pytest.raises(LeakageError, match="of split_rows are in both of train/valid"):
        made(model).fit(adata, "kind", split_rows=leaking, groups="donor")
    allowed = made(model, allow_leakage=True).fit(adata, "kind", split_rows=leaking, groups="donor")
    assert "train/test" in allowed.split_["shared_groups"]


def test_rare_classes_and_caps(model, adata):
    labels = np.array(["common", "other"] * (CELLS // 2), dtype=object)
    labels[:3] = "rare"
    labeled = with_labels(adata, labels)
    assert made(model, rare_below=4).fit(labeled, "mine").classes_ == ("common", "other")
    capped = made(model, max_cells=40, max_cells_per_class=12, rare_below=4).fit(labeled, "mine")
    assert sum(capped.split_[part] for part in ("train", "valid", "test")) == 24
    with pytest.raises(RareClassError):
        made(model, rare_below=30).fit(labeled, "mine")


def test_a_class_of_one_cell_is_named_in_the_warning(model, adata):
    labels = np.array(["common", "other"] * (CELLS // 2), dtype=object)
    labels[5] = "rare"
    with pytest.warns(GeneformerWarning, match=r"have one cell.*: 'rare'"):
        made(model, method="random", test=0.0).fit(with_labels(adata, labels), "mine")


def test_everything_may_be_learnt_from(model, adata):
    classifier = made(model, valid=0.0, test=0.0).fit(adata, "kind")
    assert (classifier.split_["train"], classifier.report_, classifier.temperature_) == (CELLS, None, 1.0)
    assert set(classifier.predict(adata)) <= set(classifier.classes_)


# Labels and inputs that cannot be used


def test_cells_without_a_label_are_left_out_and_told(model, adata):
    labels = np.array(adata.obs["kind"], dtype=object)
    labels[:6] = np.nan
    with pytest.warns(GeneformerWarning, match="6 of 48 cells have no label in 'mine'"):
        classifier = made(model).fit(with_labels(adata, labels), "mine")
    assert sum(classifier.split_[part] for part in ("train", "valid", "test")) == 42
    assert len(classifier.predict(adata)) == CELLS


@pytest.mark.parametrize(
    ("values", "error", "message"),
    [
        (np.nan, MissingLabelError, "mine"),
        ("same", ConstantLabelError, "All labeled cells of 'mine' are 'same'"),
    ],
    ids=["missing", "constant"],
)
def test_labels_that_teach_nothing_are_refused(model, adata, values, error, message):
    with pytest.raises(error, match=message):
        made(model).fit(with_labels(adata, values), "mine")


def test_a_column_that_is_not_there_is_told(model, fitted, adata):
    with pytest.raises(UnknownColumnError, match=r"No column 'kin' in obs.*Did you mean \"kind\""):
        made(model).fit(adata, "kin")
    with pytest.raises(UnknownColumnError, match="donr"):
        made(model).fit(adata, "kind", groups="donr")
    with pytest.raises(UnknownColumnError, match="in the tokenized dataset"):
        made(model).fit(short_tokens(), "kind")
    with pytest.raises(UnknownColumnError, match="No column 'kin' in obs"):
        fitted.evaluate(adata, "kin")


def test_one_class_to_learn_from_is_refused(model, adata):
    rows = np.argsort(np.asarray(adata.obs["kind"]), kind="stable")
    with pytest.raises(ConstantLabelError, match="The 16 cells to learn from are all 'kind 0'"):
        made(model).fit(adata, "kind", split_rows=Split(rows[:16], rows[16:32], rows[32:], "mine"))


def test_a_class_that_is_tested_but_not_learnt_is_refused(model, adata):
    rows = np.argsort(np.asarray(adata.obs["kind"]), kind="stable")
    with pytest.raises(UnknownClassError, match=r"1 classes of the test part are not learnt: 'kind 2' \(16 cells\)"):
        made(model).fit(adata, "kind", split_rows=Split(rows[:26], rows[26:32], rows[32:], "mine"))


def test_a_class_with_one_cell_is_learnt_or_told(model, adata):
    labels = np.array(adata.obs["kind"], dtype=object)
    labels[5] = "single"
    labeled, rows = with_labels(adata, labels), np.arange(CELLS)
    learnt = Split(rows[:24], rows[24:36], rows[36:], "mine")
    with pytest.warns(GeneformerWarning, match="Labels 'mine': None of the 12 cells measured is of 'single'"):
        assert "single" in made(model, max_steps=1).fit(labeled, "mine", split_rows=learnt).classes_
    tested = Split(rows[36:], rows[24:36], rows[:24], "mine")
    with pytest.raises(UnknownClassError, match=r"'single' \(1 cells\).*drop rare classes"):
        made(model).fit(labeled, "mine", split_rows=tested)
    assert len(made(model, rare_below=2, max_steps=1).fit(labeled, "mine", split_rows=tested).classes_) == 3


def test_cells_that_were_learnt_from_are_recognized_whatever_their_names(fitted, adata, tmp_path):
    folder = fitted.save(tmp_path / "saved")
    loaded = CellClassifier.load(folder, runtime=CPU)
    renamed = adata[::-1].copy()
    renamed.obs_names = [f"other {i}" for i in range(renamed.n_obs)]
    n_learnt = CELLS - len(fitted.report_.truth)
    for one in (fitted, loaded):
        with pytest.warns(GeneformerWarning, match=f"{n_learnt} of the {CELLS} cells were learnt from"):
            one.evaluate(renamed, "kind")
    held_out = np.isin(adata.obs_names, fitted.report_.cell_ids)
    assert loaded.evaluate(adata[held_out].copy()).evaluation.n == held_out.sum()
    stored = json.loads((folder / "training.json").read_text())
    assert stored.pop("learnt_cells")
    (folder / "training.json").write_text(json.dumps(stored))  # as folders were written before
    assert CellClassifier.load(folder, runtime=CPU).evaluate(renamed, "kind").evaluation.n == CELLS
    (folder / "training.json").write_text(json.dumps(stored | {"learnt_cells": "no base64"}))
    with pytest.raises(CheckpointError, match=r"training\.json"):
        CellClassifier.load(folder)


def test_values_that_are_no_counts_are_taken_on_request(fitted, adata):
    corrected = adata.copy()
    corrected.X = corrected.X * np.float32(0.9)
    del corrected.obs["n_counts"]
    with pytest.raises(NotRawCountsError):
        fitted.predict(corrected)
    assert (fitted.predict(corrected, accept_normalized=True) == fitted.predict(adata)).all()


@pytest.mark.filterwarnings("ignore:.*were learnt from:geneformer.errors.GeneformerWarning")
def test_labels_that_were_not_learnt_are_left_out_of_an_evaluation(fitted, adata):
    labels = np.array(adata.obs["kind"], dtype=object)
    labels[:8] = "new kind"
    with pytest.warns(GeneformerWarning, match="new kind"):
        report = fitted.evaluate(with_labels(adata, labels), "mine")
    assert report.evaluation.n == CELLS - 8
    with pytest.raises(MissingLabelError):
        fitted.evaluate(with_labels(adata, "new kind"), "mine")


def test_nothing_is_told_before_it_is_learnt(model, adata, tmp_path):
    classifier = made(model)
    for use in (
        lambda: classifier.predict(adata),
        lambda: classifier.predict_proba(adata),
        lambda: classifier.evaluate(adata, "kind"),
        lambda: classifier.embed(adata),
        lambda: classifier.save(tmp_path / "saved"),
        lambda: classifier.provenance,
        lambda: classifier.specs,
    ):
        with pytest.raises(NotFittedError, match="Call fit first"):
            use()
    assert not list(tmp_path.iterdir())


def test_options_are_checked_by_name(model):
    with pytest.raises(UnknownOptionError, match=r"'epoch' is not an option.*Did you mean \"epochs\""):
        CellClassifier(model, epoch=3)
    with pytest.raises(OutOfRangeError, match="epochs"):
        CellClassifier(model, epochs=-1)
    classifier = CellClassifier(model, seed=7, tokens_per_batch=99)
    assert (classifier.finetuning.seed, classifier.split.seed) == (7, 7)
    assert (classifier.finetuning.tokens_per_batch, classifier.runtime.tokens_per_batch) == (99, 99)


def test_inputs_that_are_none_are_refused(fitted, adata, tmp_path):
    with pytest.raises(OptionError, match="Cells came as dict"):
        fitted.predict({"cells": 1})
    with pytest.raises(OptionError, match="Cells came as list"):
        fitted.predict([])
    with pytest.raises(CountsError, match="no file"):
        fitted.predict(tmp_path / "none.h5ad")
    adata.write_h5ad(tmp_path / "torn.h5ad")
    content = (tmp_path / "torn.h5ad").read_bytes()
    (tmp_path / "torn.h5ad").write_bytes(content[: len(content) // 3])
    with pytest.raises(UnreadableInputError, match="truncated"):
        fitted.predict(tmp_path / "torn.h5ad")
    with pytest.raises(NoCellsError):
        fitted.predict(adata[:0].copy())


# gf.tl.classify


def test_classes_in_adata(fitted, folder, adata):
    cells = adata[:20].copy()
    assert gf.tl.classify(cells, fitted) is None
    assert list(cells.obs["geneformer_kind"]) == list(fitted.predict(cells))
    proba = fitted.predict_proba(cells)
    assert np.array_equal(cells.obsm["geneformer_kind_proba"].to_numpy(), proba)
    assert np.allclose(cells.obs["geneformer_kind_probability"], proba.max(axis=1))
    provenance = cells.uns["geneformer"]["geneformer_kind"]
    assert (provenance["classes"], provenance["vocabulary"]) == (list(fitted.classes_), "V1")
    bare = adata[:20].copy()
    copy = gf.tl.classify(bare, folder, unknown_below=1.0, key_added="mine", copy=True)
    assert "mine" not in bare.obs
    assert set(copy.obs["mine"]) == {"unknown"}
    assert np.allclose(copy.obsm["mine_proba"], proba, atol=0.02)
    with pytest.raises(CheckpointError):
        gf.tl.classify(bare, fitted.model)
