import numpy as np
import pytest

from geneformer.errors import (
    InputNotFoundError,
    LeakageError,
    OptionError,
    OutOfRangeError,
    RareClassError,
    UnknownClassError,
    UnreadableInputError,
)
from geneformer.finetuning.cross_validation import cross_validate
from geneformer.finetuning.estimator import clone
from geneformer.finetuning.estimators import CellClassifier, CellRegressor, GeneClassifier, MultiTaskClassifier
from geneformer.finetuning.metrics import evaluate_classes
from geneformer.finetuning.reports import CrossValidation
from geneformer.finetuning.splits import draw_folds
from geneformer.finetuning.targets import AnyOf, Encoded, OneOf
from geneformer.inference.cells import open_cells
from small_finetuning import QUICK, labeled_blood, tiny_model

pytestmark = pytest.mark.contract

SETTINGS = {**QUICK, "max_steps": 1, "baselines": "none"}


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return tiny_model(tmp_path_factory.mktemp("folds") / "model", dropout=0.0)


@pytest.fixture(scope="module")
def cells():
    return labeled_blood(24)


@pytest.fixture(scope="module")
def found(model, cells):
    classifier = CellClassifier(model, **{**SETTINGS, "baselines": "cheap"})
    return cross_validate(classifier, cells, "kind", n_folds=3, groups="donor", seed=4)


def test_every_cell_is_tested_once_and_no_group_leaks(found, cells):
    assert found.report.cell_ids.tolist() == cells.obs_names.tolist()
    tested = [fold.cell_ids.tolist() for fold in found.folds]
    assert sorted(name for fold in tested for name in fold) == sorted(cells.obs_names)
    for fold in tested:
        held = set(cells.obs.loc[fold, "donor"])
        assert not held & set(cells.obs.loc[~cells.obs_names.isin(fold), "donor"])


def test_predictions_are_those_of_the_folds_in_the_order_of_the_cells(found, cells):
    report = found.report
    names = np.array(report.evaluation.classes)
    assert names[report.truth].tolist() == cells.obs["kind"].tolist()
    place = {name: row for row, name in enumerate(cells.obs_names)}
    for fold in found.folds:
        rows = [place[name] for name in fold.cell_ids]
        assert np.array_equal(report.proba[rows], fold.proba)
        assert np.array_equal(report.predicted[rows], fold.predicted)
    alone = evaluate_classes(
        report.truth, report.proba, report.evaluation.classes, groups=cells.obs["donor"].to_numpy()
    )
    assert report.evaluation == alone
    assert report.evaluation.n_groups == 4


def test_a_fold_is_what_fit_gives_on_its_split(model, cells, found):
    classifier = CellClassifier(model, **SETTINGS)
    opened = open_cells(cells, classifier.base())
    codes = classifier.targets(opened, "kind").codes
    split = draw_folds(codes, 3, groups=cells.obs["donor"].to_numpy(), seed=4)[1]
    alone = classifier.fit(opened, "kind", groups="donor", split_rows=split).report_
    assert np.allclose(alone.proba, found.folds[1].proba, atol=1e-6)
    assert alone.cell_ids.tolist() == found.folds[1].cell_ids.tolist()


def test_baselines_see_the_same_folds(found):
    assert set(found.report.baselines) == {"logistic regression, variable genes", "library size", "majority class"}
    for name, pooled in found.report.baselines.items():
        hits = sum(fold.baselines[name].metrics["accuracy"].mean * fold.evaluation.n for fold in found.folds)
        assert pooled.metrics["accuracy"].mean == pytest.approx(hits / 24)
    assert found.report.baselines["library size"].metrics["accuracy"].mean > 0.6  # size decides the class


def test_mean_and_deviation_over_the_folds(found):
    table, summary = found.table(), found.summary()
    assert list(table["fold"].unique()) == [1, 2, 3]
    assert table.loc[table["model"] == "model", "cells"].sum() == 24
    for (model, metric), rows in summary.groupby(["model", "metric"]):
        values = table.loc[table["model"] == model, metric].dropna()
        assert rows["folds"].item() == len(values)
        assert rows["mean"].item() == pytest.approx(values.mean())
        assert rows["sd"].item() == pytest.approx(values.std(ddof=1), nan_ok=True)
    assert "± " in found.to_markdown()


def test_a_saved_cross_validation_comes_back(found, tmp_path):
    found.save(tmp_path / "folds")
    loaded = CrossValidation.load(tmp_path / "folds")
    assert loaded.report == found.report
    assert loaded.folds == found.folds
    assert loaded.to_dict() == found.to_dict()
    assert (tmp_path / "folds" / "cross_validation.md").read_text() == found.to_markdown()
    with pytest.raises(InputNotFoundError):
        CrossValidation.load(tmp_path)
    (tmp_path / "folds" / "fold_2" / "report.json").unlink()
    with pytest.raises(UnreadableInputError, match="fold_2"):
        CrossValidation.load(tmp_path / "folds")


def test_settings_of_one_fold_are_not_told_of_all(found):
    assert found.report.settings["folds"][0].keys() == {"train", "valid", "test"}
    assert sum(fold["test"] for fold in found.report.settings["folds"]) == 24
    assert "temperature" not in found.report.settings
    assert found.report.settings["label"] == "kind"


def test_the_estimator_is_copied_and_a_function_may_make_it(model, cells):
    classifier = CellClassifier(model, **{**SETTINGS, "calibrate": False})
    found = cross_validate(classifier, cells, "kind", n_folds=2)
    assert classifier.network_ is None
    made = cross_validate(lambda: clone(classifier), cells, "kind", n_folds=2)
    assert made.report == found.report


def test_a_clone_has_the_same_options_and_shares_the_pretrained_model(model):
    classifier = CellClassifier(model, **SETTINGS, unknown_below=0.3, test=0.4)
    base = classifier.base()
    copy = clone(classifier)
    assert copy is not classifier
    assert copy.base() is base
    for name in ("model", "vocabulary", "finetuning", "classify", "split", "runtime"):
        assert getattr(copy, name) == getattr(classifier, name)


def test_label_sets(model, cells):
    sets = cells.copy()
    sets.obs["sets"] = [f"{kind};odd" if i % 2 else kind for i, kind in enumerate(sets.obs["kind"])]
    sets.obs.iloc[0, sets.obs.columns.get_loc("sets")] = "odd"  # a combination that one cell has
    found = cross_validate(CellClassifier(model, multi_label=True, **SETTINGS), sets, "sets", n_folds=2)
    assert found.report.evaluation.n == 24
    assert found.report.truth[:, -1].sum() == 13
    assert found.report.evaluation.classes[-1] == "odd"


def test_several_tasks(model, cells):
    half = cells.copy()
    half.obs["side"] = np.where(np.arange(24) % 3 == 2, None, np.where(np.arange(24) % 2, "left", "right"))
    tasks = MultiTaskClassifier(model, **SETTINGS)
    with pytest.warns(match="no label"):
        found = cross_validate(tasks, half, ["kind", "side"], n_folds=2)
    assert {name: report.evaluation.n for name, report in found.report.items()} == {"kind": 24, "side": 16}
    known = half.obs_names[half.obs["side"].notna()]
    assert found.report["side"].cell_ids.tolist() == known.tolist()
    assert set(found.summary()["task"]) == {"kind", "side"}


def test_a_label_that_is_not_learnt_is_refused(model, cells):
    sets = cells.copy()
    sets.obs["sets"] = ["odd;rare" if donor == "donor 3" else "odd" for donor in sets.obs["donor"]]
    with pytest.raises(UnknownClassError, match=r"'rare'.*6 cells"):
        cross_validate(CellClassifier(model, multi_label=True, **SETTINGS), sets, "sets", n_folds=3, groups="donor")


def test_numbers(model, cells):
    regressor = CellRegressor(model, **{**SETTINGS, "baselines": "cheap"})
    found = cross_validate(regressor, cells, "age", n_folds=2)
    assert found.report.truth.tolist() == cells.obs["age"].tolist()
    assert "library size" in found.report.baselines
    assert {"mae", "r2"} <= set(found.table().columns)
    means = [fold.truth.mean() for fold in found.folds]
    assert abs(means[0] - means[1]) < 3  # folds have about the same numbers
    by_donor = cross_validate(regressor, cells, "age", n_folds=2, groups="donor")
    assert by_donor.report.evaluation.n_groups == 4


def test_lone_combinations_are_dealt_out_together():
    def dealt(codes, target):
        return Encoded({"sets": target}, {}, np.array(codes)).fold_codes()

    together = dealt([0, 0, 1, 2, 3, -1, 0], AnyOf("sets"))
    assert together[3] == together[2] == together[4] != together[0]
    assert together[5] == -1
    assert dealt([0, 0, 1, 0, 0, -1, 0], AnyOf("sets")).tolist() == [0, 0, 0, 0, 0, -1, 0]
    assert dealt([0, 0, 1, 0, 0, -1, 0], OneOf("sets")).tolist() == [0, 0, 1, 0, 0, -1, 0]


def test_pooled_reports_of_several_tasks_have_the_baselines_of_the_folds(model, cells):
    both = cells.copy()
    both.obs["side"] = np.where(np.arange(24) % 2, "left", "right")
    tasks = MultiTaskClassifier(model, **{**SETTINGS, "baselines": "cheap"})
    found = cross_validate(tasks, both, ["kind", "side"], n_folds=2)
    for task, pooled in found.report.items():
        assert list(pooled.baselines) == list(found.folds[0][task].baselines) != []
        for name, figures in pooled.baselines.items():
            hits = sum(fold[task].baselines[name].metrics["accuracy"].mean * 12 for fold in found.folds)
            assert figures.metrics["accuracy"].mean == pytest.approx(hits / 24)


def test_a_classifier_of_genes_is_refused_with_the_way_out(model, cells):
    with pytest.raises(OptionError, match="its own method cross_validate"):
        cross_validate(GeneClassifier(model, **SETTINGS), cells, {"a": ["GATA4"], "b": ["TBX5"]})


@pytest.mark.parametrize(
    ("changes", "error"),
    [({"n_folds": 1}, OutOfRangeError), ({"n_folds": 25}, OutOfRangeError), ({"groups": "donor"}, LeakageError)],
)
def test_folds_that_cannot_be_dealt_are_refused(model, cells, changes, error):
    with pytest.raises(error):
        cross_validate(CellClassifier(model, **SETTINGS), cells, "kind", **{"n_folds": 5, **changes})


def test_a_class_with_one_cell_is_refused(model, cells):
    lone = cells.copy()
    lone.obs["kind"] = ["rare", *lone.obs["kind"].iloc[1:]]
    with pytest.raises(RareClassError, match="one cell: 'rare'"):
        cross_validate(CellClassifier(model, **SETTINGS), lone, "kind")
