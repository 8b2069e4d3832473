"""Folders of fitted models and of reports that an earlier version wrote still load, predict and draw the same."""

import json
from pathlib import Path

import numpy as np
import pytest

import geneformer as gf
from geneformer.finetuning.estimators import load_classifier
from geneformer.finetuning.reports import CrossValidation, ReportSet, load_report
from geneformer.options import RuntimeOptions
from small_finetuning import labeled_blood

pytestmark = pytest.mark.contract

BEFORE = Path(__file__).parents[1] / "data" / "written_before"
EXPECTED = json.loads((BEFORE / "expected.json").read_text(encoding="utf-8"))
FITTED = [
    "cell_classifier", "label_sets", "cell_regressor", "multi_task_classifier", "gene_classifier", "expression_decoder",
]  # fmt: skip
REPORTS = [path.relative_to(BEFORE) for path in sorted(BEFORE.rglob("report.json"))]


@pytest.fixture(scope="module")
def cells():
    return labeled_blood(48)


def predicted(name, model, cells):
    """What the folder's model predicts of the first cells, or genes, as it was noted when the folder was written."""
    if name == "cell_regressor":
        return np.stack(model.predict(cells, return_std=True))[:, :6]
    if name == "expression_decoder":
        few = model.predict(cells[:6].copy(), model.pairing.vocabulary.genes[:3].tolist())
        return np.stack([few.X, few.layers["rank"]])
    if name == "multi_task_classifier":
        return {task: proba[:6] for task, proba in model.predict_proba(cells).items()}
    return model.predict_proba(cells)[:6]


@pytest.mark.filterwarnings("ignore:.*of the counts lie outside vocabulary:geneformer.errors.GeneformerWarning")
@pytest.mark.parametrize("name", FITTED)
def test_a_fitted_model_predicts_the_same(name, cells):
    model = load_classifier(BEFORE / name, runtime=RuntimeOptions(device="cpu", dtype="float32", progress=False))
    found, expected = predicted(name, model, cells), EXPECTED[name]
    tasks = expected if isinstance(expected, dict) else {"": expected}
    for task, values in tasks.items():
        np.testing.assert_allclose(found[task] if task else found, np.array(values, dtype=float), atol=2e-3)


@pytest.mark.parametrize("name", FITTED)
def test_a_fitted_model_comes_with_its_report(name, tmp_path):
    model = load_classifier(BEFORE / name)
    assert model.report_ is not None
    assert model.report_ == load_report(BEFORE / name / "report")
    model.save(tmp_path / "again")
    assert load_classifier(tmp_path / "again").report_ == model.report_


@pytest.mark.parametrize("place", REPORTS, ids=str)
def test_a_report_loads_and_is_written_as_it_was(place, tmp_path):
    report = load_report((BEFORE / place).parent)
    content = json.loads((BEFORE / place).read_text(encoding="utf-8"))
    if not isinstance(report, ReportSet):
        assert report.to_dict() == content
    report.save(tmp_path / "again")
    assert json.loads((tmp_path / "again" / "report.json").read_text(encoding="utf-8")) == content
    assert load_report(tmp_path / "again") == report
    assert report.to_markdown()


@pytest.mark.parametrize("name", ["folds", "folds_of_tasks"])
def test_a_cross_validation_loads(name, tmp_path):
    found = CrossValidation.load(BEFORE / name)
    content = json.loads((BEFORE / name / "cross_validation.json").read_text(encoding="utf-8"))
    for entry in ("n_folds", "summary", "report", "folds"):
        assert found.to_dict()[entry] == content[entry]
    found.save(tmp_path / "again")
    assert CrossValidation.load(tmp_path / "again").to_dict() == found.to_dict()


@pytest.mark.parametrize("place", ["gene_folds", "gene_classifier/report", "cell_classifier/report", "folds/all_cells"])
def test_reports_are_drawn_from_their_folders(place):
    for draw in (gf.pl.roc, gf.pl.confusion_matrix):
        ax = draw(BEFORE / place)
        assert ax.figure is not None
        ax.figure.clear()
