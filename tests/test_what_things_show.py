"""What objects show of themselves in a session: short tables that say how good a model is, as text and as HTML."""

import re
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from scipy.sparse import csr_matrix

import geneformer as gf
from geneformer.display import LONGEST, MOST, Summary
from geneformer.finetuning.evaluations import Estimate, NumberEvaluation
from geneformer.finetuning.metrics import evaluate_classes, evaluate_numbers
from geneformer.finetuning.reports import ClassificationReport, CrossValidation, NumberReport, ReportSet
from geneformer.inference.attention import CellAttention, GeneAttention
from geneformer.inference.tables import CellEmbeddings
from geneformer.perturbation.effects import PerturbationRanking
from small_cells import short_tokens
from small_perturbations import made_run

WRITTEN = Path(__file__).parent / "data" / "written_before"
CLASSES = ("B", "<b>T</b>")


def report(*, n=40, names=CLASSES, seed=0):
    rng = np.random.default_rng(seed)
    truth = np.arange(n) % 2
    proba = rng.dirichlet([1, 1], size=n)
    return ClassificationReport(
        evaluation=evaluate_classes(truth, proba, names, n_boot=20),
        baselines={"majority class": evaluate_classes(truth, np.tile([0.6, 0.4], (n, 1)), names, n_boot=20)},
        truth=truth,
        predicted=proba.argmax(axis=1),
        proba=proba,
    )


def ranking(n=30):
    run = made_run(n_genes=n)
    return PerturbationRanking.from_frame(gf.tl.rank_perturbations(run, permutations=50))


def attention():
    weights = csr_matrix(np.arange(1, 17, dtype=np.float32).reshape(4, 4))
    genes = np.array([f"ENSG{i}" for i in range(4)], dtype=object)
    return GeneAttention(genes, weights, csr_matrix(np.full((4, 4), 7)))


def cell_attention():
    weights = csr_matrix(np.eye(5, 20, dtype=np.float32))
    genes = np.array([f"ENSG{i}" for i in range(20)], dtype=object)
    cells = pa.table({"cell_id": [str(i) for i in range(5)]})
    return CellAttention(genes, genes, weights, cells, np.arange(5).astype(str))


THINGS = {
    "report": report,
    "evaluation": lambda: report().evaluation,
    "numbers": lambda: NumberReport(
        evaluation=evaluate_numbers(np.arange(9.0), np.arange(9.0)[::-1], n_boot=20),
        truth=np.arange(9.0),
        predicted=np.arange(9.0)[::-1],
    ),
    "reports": lambda: ReportSet({f"task {i}": report(seed=i) for i in range(4)}),
    "folds": lambda: CrossValidation(report=report(), folds=(report(seed=1), report(seed=2))),
    "fitted classifier": lambda: gf.load_classifier(WRITTEN / "cell_classifier"),
    "fitted on tasks": lambda: gf.load_classifier(WRITTEN / "multi_task_classifier"),
    "fitted on genes": lambda: gf.load_classifier(WRITTEN / "gene_classifier"),
    "fitted on numbers": lambda: gf.load_classifier(WRITTEN / "cell_regressor"),
    "fitted on expression": lambda: gf.load_classifier(WRITTEN / "expression_decoder"),
    "tokens": short_tokens,
    "model": lambda: gf.load_model("mini"),
    "vocabulary": lambda: gf.Vocabulary.load("V2"),
    "effects": made_run,
    "ranking": ranking,
    "attention": attention,
    "attention of cells": cell_attention,
    "embeddings": lambda: CellEmbeddings(np.ones((3, 4), np.float32), pa.table({"cell_id": ["a", "b", "c"]})),
}


@pytest.fixture(scope="module", params=THINGS)
def thing(request):
    return THINGS[request.param]()


def test_everything_shows_itself_in_a_few_short_lines(thing):
    lines = repr(thing).splitlines()
    assert 3 <= len(lines) <= 16
    assert max(map(len, lines)) <= 2 * LONGEST + 12
    assert type(thing).__name__ in lines[0]
    assert "array(" not in repr(thing)
    assert "object at 0x" not in repr(thing)


def test_html_says_what_the_text_says(thing):
    html = thing._repr_html_()
    words = set(re.findall(r"\w+", repr(thing)))
    assert words <= set(re.findall(r"\w+", html))
    assert html.count("<table>") == html.count("</table>") >= 1
    assert html.count("<tr>") == html.count("</tr>")


def test_tasks_of_other_sizes_are_told_one_by_one():
    note = repr(ReportSet({"kind": report(), "side": report(n=30)})).splitlines()[-1]
    assert note.startswith("kind: 40 cells. ")
    assert " side: 30 cells. " in note


def test_a_report_shows_intervals_and_baselines():
    title, header, model, baseline, note = repr(report()).splitlines()
    assert title == "ClassificationReport"
    assert re.split("  +", header) == ["", "held out", "macro F1", "accuracy", "ROC AUC"]
    for line, name in ((model, "model"), (baseline, "majority class")):
        assert re.fullmatch(rf"  {name}( +0\.\d{{3}} \(0\.\d{{3}} to 0\.\d{{3}}\)){{3}}", line)
    assert len(header) == len(model) == len(baseline)
    assert note == "40 cells. In parentheses: 95% intervals from 20 resamples of cells."


def test_names_of_classes_are_escaped():
    fitted = report().evaluation._repr_html_()
    assert "<b>T</b>" not in fitted
    assert "&lt;b&gt;T&lt;/b&gt;" in fitted


def test_an_estimator_that_is_not_fitted_shows_what_was_set():
    assert repr(gf.CellClassifier()) == "CellClassifier()"
    assert repr(gf.CellRegressor("V1-10M", epochs=3, test=0.2, loss="gaussian")) == (
        "CellRegressor(model='V1-10M', epochs=3, loss='gaussian', test=0.2)"
    )
    vocabulary = gf.Vocabulary.load("V1")
    assert repr(gf.GeneClassifier(vocabulary=vocabulary)) == "GeneClassifier(vocabulary='V1')"
    assert gf.CellClassifier()._repr_html_() is None


def test_a_fitted_estimator_shows_classes_cells_and_what_was_held_out():
    text = repr(gf.load_classifier(WRITTEN / "cell_classifier"))
    for line in (
        "  kind         3: kind 0, kind 1, kind 2",
        "  cells        29 learnt from, 5 to choose the best step, 14 held out",
    ):
        assert line in text.splitlines()
    assert re.search(r"^  model +0\.175 \(0\.083 to 0\.261\)", text, re.MULTILINE)
    assert re.search(r"^  majority class +0\.148", text, re.MULTILINE)


def test_many_reports_show_the_strongest_baseline():
    reports = THINGS["reports"]()
    assert sum("model" in line for line in repr(reports).splitlines()) == 4
    both = {
        "bad": NumberEvaluation(n=1, metrics={"r2": Estimate(0.1)}),
        "good": NumberEvaluation(n=1, metrics={"r2": Estimate(0.2)}),
    }
    one = NumberReport(
        evaluation=NumberEvaluation(n=1, metrics={"r2": Estimate(0.3)}),
        baselines=both, truth=np.ones(1), predicted=np.ones(1),
    )  # fmt: skip
    shown = repr(ReportSet({"a": one, "b": one}))
    assert "a, good" in shown
    assert "bad" not in shown


def test_what_is_long_is_cut():
    long = Summary(
        title="x" * 1000,
        facts=[("a", "y" * 1000)],
        header=("gene", "n"),
        rows=[(f"g{i}", i) for i in range(1000)],
        note="z",
    )
    lines = long.text().splitlines()
    assert len(lines) == MOST + 5
    assert lines[-2].split() == ["…", "990", "more"]
    assert max(map(len, lines)) < 3 * LONGEST


def test_the_history_of_a_training_is_a_table():
    fitted = gf.load_classifier(WRITTEN / "cell_classifier")
    history = fitted.history_
    assert history.columns[0] == "step"
    assert history["step"].tolist() == [1, 2, 3]
    assert {"epoch", "loss", "eval_loss", "eval_macro_f1"} <= set(history)
    assert not any("per_second" in name for name in history)
    with pytest.raises(gf.errors.NotFittedError):
        _ = gf.CellClassifier().history_
