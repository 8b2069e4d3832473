"""Reports: what is saved is what is loaded, and the text holds every figure."""

import json

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from geneformer.errors import DatasetError, InputNotFoundError, OptionError, OutputExistsError, UnreadableInputError
from geneformer.finetuning.baselines import majority
from geneformer.finetuning.evaluations import Estimate, markdown_table
from geneformer.finetuning.metrics import evaluate_classes, evaluate_label_sets, evaluate_numbers
from geneformer.finetuning.reports import ClassificationReport, LabelSetReport, NumberReport

CLASSES = ("T | NK", "B", "cell_id", "absent")


def class_report(*, n=60, seed=0, dtype=np.float32, **fields):
    rng = np.random.default_rng(seed)
    truth = rng.integers(-1, 3, size=n)
    truth[0] = 0
    proba = rng.dirichlet(np.ones(4), size=n).astype(dtype)
    evaluation = evaluate_classes(truth, proba, CLASSES, n_boot=50)
    constant = evaluate_classes(truth, majority(truth, n, 4), CLASSES, n_boot=50)
    given = {
        "evaluation": evaluation,
        "baselines": {"majority": constant},
        "cell_ids": np.array([f"cell{i}" for i in range(n)]),
        "truth": truth,
        "predicted": proba.argmax(axis=1),
        "proba": proba,
        "settings": {"seed": seed, "classes": CLASSES},
    }
    return ClassificationReport(**given | fields)


def label_set_report():
    rng = np.random.default_rng(0)
    truth = (rng.random((30, 2)) < 0.5).astype(np.float32)
    truth[3] = np.nan
    proba = rng.random((30, 2))
    evaluation = evaluate_label_sets(truth, proba, ["a", "b"], threshold=0.4, n_boot=20)
    return LabelSetReport(evaluation=evaluation, truth=truth, proba=proba, baselines={"same": evaluation})


def number_report():
    truth = np.array([1.0, 2.0, np.nan, 4.0])
    predicted = np.array([1.5, 2.0, 3.0, 3.0])
    evaluation = evaluate_numbers(truth, predicted, n_boot=20)
    return NumberReport(evaluation=evaluation, truth=truth, predicted=predicted, baselines={"same": evaluation})


@settings(max_examples=20)
@given(st.integers(1, 40), st.integers(0, 5), st.sampled_from([np.float32, np.float64]))
def test_what_is_loaded_equals_what_was_saved(tmp_path_factory, n, seed, dtype):
    folder = tmp_path_factory.mktemp("reports") / "report"
    report = class_report(n=n, seed=seed, dtype=dtype)
    report.save(folder)
    loaded = ClassificationReport.load(folder)
    assert loaded == report
    assert sorted(path.name for path in folder.iterdir()) == ["predictions.parquet", "report.json", "report.md"]
    np.testing.assert_array_equal(loaded.truth, report.truth)
    np.testing.assert_array_equal(loaded.predicted, report.predicted)
    np.testing.assert_array_equal(loaded.proba, report.proba)
    assert loaded.proba.dtype == dtype
    assert list(loaded.cell_ids) == list(report.cell_ids)
    assert loaded.evaluation == report.evaluation
    assert loaded.baselines == report.baselines
    assert loaded.to_markdown() == report.to_markdown() == (folder / "report.md").read_text(encoding="utf-8")


@pytest.mark.parametrize("make", [label_set_report, number_report])
def test_other_reports_load_as_they_were_saved(make, tmp_path):
    report = make()
    report.save(tmp_path)
    loaded = type(report).load(tmp_path)
    assert loaded == report
    np.testing.assert_array_equal(loaded.truth, report.truth)
    np.testing.assert_array_equal(loaded.predicted, report.predicted)
    assert loaded.to_markdown() == report.to_markdown()
    assert list(loaded.cell_ids)[:2] == ["0", "1"]
    with pytest.raises(DatasetError, match=f"a report on {report.kind}, not on classes"):
        ClassificationReport.load(tmp_path)


def test_reports_that_differ_anywhere_are_not_equal():
    report = class_report()
    moved = report.proba.copy()
    moved[0, 0] = np.nextafter(moved[0, 0], 1)
    assert report == class_report()
    assert report != class_report(proba=moved)
    assert report != class_report(settings={})
    assert report != class_report(baselines={})
    assert report != class_report(cell_ids=None)
    assert report.evaluation != report.baselines["majority"]
    assert report != "report"
    assert report.evaluation != number_report().evaluation


def test_predictions_are_a_table_of_names_and_probabilities(tmp_path):
    report = class_report()
    report.save(tmp_path)
    table = pd.read_parquet(tmp_path / "predictions.parquet")
    assert list(table.columns) == ["cell_id", "truth", "predicted", *(f"probability_{name}" for name in CLASSES)]
    assert list(table["cell_id"]) == [f"cell{i}" for i in range(60)]
    assert [CLASSES.index(name) if name is not None else -1 for name in table["truth"]] == report.truth.tolist()
    assert [CLASSES.index(name) for name in table["predicted"]] == report.predicted.tolist()


def table_after(text, heading):
    """Cells of the first table below some words."""
    lines = text.partition(heading)[2].splitlines()
    first = next(i for i, line in enumerate(lines) if line.startswith("|"))
    rows = []
    for line in lines[first:]:
        if not line.startswith("|"):
            break
        rows.append([cell.strip() for cell in line.replace("\\|", "/").strip("|").split("|")])
    return rows


def test_the_text_holds_models_classes_and_confusion():
    report = class_report()
    text = report.to_markdown()
    header, _, model, baseline = table_after(text, "resamples")
    assert header[1:4] == ["accuracy", "balanced accuracy", "macro F1"]
    assert (model[0], baseline[0]) == ("model", "majority")
    assert model[1:] == [str(figure) for figure in report.evaluation.metrics.values()]
    assert baseline[1:] == [str(figure) for figure in report.baselines["majority"].metrics.values()]
    assert f"{report.evaluation.n_unlabeled} without a label left out" in text
    assert "None of the 46 cells measured is of 'absent'" in text
    classes = table_after(text, "## Classes")
    assert [row[0] for row in classes[2:]] == ["T / NK", "B", "cell_id", "absent"]
    assert classes[-1] == ["absent", "-", "-", "-", "-", "-", "0"]
    confusion = table_after(text, "## Confusion matrix")
    assert confusion[0] == ["truth", "T / NK", "B", "cell_id", "absent"]
    counts = np.array([[int(count) for count in row[1:]] for row in confusion[2:]])
    np.testing.assert_array_equal(counts, report.evaluation.confusion)


def test_baselines_may_lack_figures_that_the_model_has():
    evaluation = class_report().evaluation
    kept = {name: figure for name, figure in evaluation.metrics.items() if name != "roc_auc"}
    fewer = type(evaluation)(
        n=1, metrics=kept, classes=CLASSES, per_class=evaluation.per_class, confusion=evaluation.confusion
    )
    rows = table_after(class_report(baselines={"other": fewer}).to_markdown(), "resamples")
    column = rows[0].index("ROC AUC")
    assert rows[3][column] == "-"
    assert fewer.size_text() == "1 cells. No intervals."


def test_a_report_does_not_replace_another_unless_told(tmp_path):
    folder = tmp_path / "classifier"
    folder.mkdir()
    (folder / "model.safetensors").write_text("weights")
    class_report().save(folder)
    with pytest.raises(OutputExistsError, match=r"predictions\.parquet"):
        class_report(seed=1).save(folder)
    assert ClassificationReport.load(folder) == class_report()
    class_report(seed=1).save(folder, overwrite=True)
    assert ClassificationReport.load(folder) == class_report(seed=1)
    assert (folder / "model.safetensors").read_text() == "weights"


def test_what_is_missing_or_damaged_is_named(tmp_path):
    with pytest.raises(InputNotFoundError, match=r"report\.json"):
        ClassificationReport.load(tmp_path)
    class_report().save(tmp_path)
    content = json.loads((tmp_path / "report.json").read_text())
    for damaged in ("{", "[]", json.dumps({"kind": "classes"}), json.dumps(content | {"evaluation": {}})):
        (tmp_path / "report.json").write_text(damaged)
        with pytest.raises(UnreadableInputError, match="damaged or incomplete"):
            ClassificationReport.load(tmp_path)
    (tmp_path / "report.json").write_text(json.dumps(content))
    (tmp_path / "predictions.parquet").write_bytes(b"PAR1")
    with pytest.raises(UnreadableInputError, match="damaged or incomplete"):
        ClassificationReport.load(tmp_path)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"cell_ids": ["a"]}, "there are 1 cell ids"),
        ({"truth": np.zeros(59, dtype=int)}, "proba has the shape"),
        ({"predicted": np.zeros(59, dtype=int)}, "one row per cell in everything"),
        ({"proba": np.ones((60, 3))}, r"it takes \(60, 4\)"),
    ],
)
def test_a_report_takes_one_row_per_cell(fields, message):
    with pytest.raises(OptionError, match=message):
        class_report(**fields)


@pytest.mark.parametrize(
    ("estimate", "text"),
    [
        (Estimate(0.5, 0.25, 0.75), "0.500 (0.250 to 0.750)"),
        (Estimate(0.0), "0.000"),
        (Estimate(float("nan"), 0.0, 1.0), "-"),
        (Estimate(12345.678, 1.5, 2e-5), "1.23e+04 (1.500 to 2e-05)"),
    ],
)
def test_estimates_as_text(estimate, text):
    assert str(estimate) == text


def test_markdown_tables_survive_odd_names():
    assert markdown_table(["a", "b"], [["x|y\nz", "1"]]) == "| a | b |\n| :-- | --: |\n| x\\|y z | 1 |"
