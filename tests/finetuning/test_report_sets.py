"""Several reports in one folder."""

import json

import numpy as np
import pytest

from geneformer.errors import DatasetError, InputNotFoundError, OutputExistsError, UnreadableInputError
from geneformer.finetuning.metrics import evaluate_numbers
from geneformer.finetuning.reports import ExpressionReport, NumberReport, ReportSet, load_report

TRUTH, SAID = np.array([1.0, 2.0, 3.0, 5.0]), np.array([1.5, 2.0, 2.0, 6.0])


def report(kind=NumberReport, **more):
    found = evaluate_numbers(TRUTH, SAID, n_boot=20)
    return kind(evaluation=found, baselines={"mean": found}, cell_ids=list("abcd"), truth=TRUTH, predicted=SAID, **more)


def reports():
    genes = np.array(["ENSG1", "ENSG2", "ENSG1", "ENSG3"], dtype=object)
    return ReportSet({"age / years": report(), "age_years": report(ExpressionReport, genes=genes)})


def test_saved_and_loaded_they_are_equal(tmp_path):
    reports().save(tmp_path / "reports")
    loaded = ReportSet.load(tmp_path / "reports")
    assert loaded == reports()
    assert list(loaded) == ["age / years", "age_years"]
    assert load_report(tmp_path / "reports") == reports()
    assert list(loaded["age_years"].genes) == ["ENSG1", "ENSG2", "ENSG1", "ENSG3"]
    assert loaded["age_years"].predictions().column_names == ["cell_id", "gene", "truth", "predicted"]


def test_the_text_holds_every_report(tmp_path):
    text = reports().to_markdown()
    assert "# age / years" in text
    assert "# age_years" in text
    reports().save(tmp_path / "reports")
    assert (tmp_path / "reports" / "report.md").read_text() == text


def test_nothing_is_overwritten_unasked(tmp_path):
    reports().save(tmp_path / "reports")
    with pytest.raises(OutputExistsError):
        reports().save(tmp_path / "reports")
    reports().save(tmp_path / "reports", overwrite=True)


def test_folders_without_reports_are_told(tmp_path):
    with pytest.raises(InputNotFoundError):
        ReportSet.load(tmp_path)
    report().save(tmp_path / "single")
    with pytest.raises(DatasetError, match="single report"):
        ReportSet.load(tmp_path / "single")
    reports().save(tmp_path / "reports")
    path = tmp_path / "reports" / "report.json"
    path.write_text("{")
    with pytest.raises(UnreadableInputError):
        ReportSet.load(tmp_path / "reports")


def test_a_folder_cannot_point_elsewhere(tmp_path):
    reports().save(tmp_path / "reports")
    path = tmp_path / "reports" / "report.json"
    content = json.loads(path.read_text())
    content["reports"]["age_years"]["folder"] = "../../elsewhere"
    path.write_text(json.dumps(content))
    with pytest.raises(InputNotFoundError, match="reports"):
        ReportSet.load(tmp_path / "reports")
