"""Pictures of whatever has what they draw: reports, fitted models, results, and folders of all of them."""

from pathlib import Path

import matplotlib as mpl
import numpy as np
import pandas as pd
import pytest

import geneformer as gf
from geneformer.errors import DatasetError, InputNotFoundError, NotFittedError, OptionError, UnknownChoiceError
from geneformer.finetuning.metrics import evaluate_numbers
from geneformer.finetuning.reports import CrossValidation, NumberReport, load_report
from geneformer.perturbation.effects import PerturbationRanking
from small_perturbations import made_run

mpl.use("agg")
from matplotlib import pyplot as plt

WRITTEN = Path(__file__).parents[1] / "data" / "written_before"
CLASSIFIER, TASKS = WRITTEN / "cell_classifier", WRITTEN / "multi_task_classifier"


@pytest.fixture(autouse=True)
def _close_figures():
    yield
    plt.close("all")


@pytest.fixture(scope="module")
def fitted():
    return gf.load_classifier(CLASSIFIER)


SOURCES = {
    "the report": lambda fitted: fitted.report_,
    "the fitted model": lambda fitted: fitted,
    "its folder": lambda _: CLASSIFIER,
    "its folder as text": lambda _: str(CLASSIFIER),
    "the folder of the report": lambda _: CLASSIFIER / "report",
    "the file of the report": lambda _: CLASSIFIER / "report" / "report.json",
}


@pytest.mark.parametrize("source", SOURCES)
@pytest.mark.parametrize("picture", ["confusion_matrix", "predictions", "roc"])
def test_a_report_is_drawn_from_wherever_it_is(source, picture, fitted):
    axes = getattr(gf.pl, picture)(SOURCES[source](fitted))
    labels = axes.get_yticklabels() if picture != "roc" else axes.get_legend().get_texts()
    assert [label.get_text().split("  ")[0] for label in labels] == ["kind 0", "kind 1", "kind 2"]


@pytest.mark.parametrize("source", SOURCES)
def test_calibration_is_drawn_from_wherever_the_report_is(source, fitted):
    assert gf.pl.calibration(SOURCES[source](fitted)).get_ylabel() == "share of cells that are right"


def test_folds_are_drawn_together(fitted):
    folds = CrossValidation(report=fitted.report_, folds=(fitted.report_,))
    assert gf.pl.confusion_matrix(folds).get_ylabel() == "truth"
    pooled = CrossValidation.load(WRITTEN / "folds").report
    assert len(gf.pl.predictions(WRITTEN / "folds").get_xticks()) == len(pooled.evaluation.classes)


def test_things_draw_themselves(fitted):
    assert fitted.plot().get_xlabel() == "predicted"
    assert fitted.report_.plot("roc", title="Areas").get_title(loc="left") == "Areas"
    assert len(fitted.plot("training_curve")) == 2
    with pytest.raises(UnknownChoiceError, match="confusion_matrix"):
        fitted.plot("confusion")
    with pytest.raises(NotFittedError):
        gf.CellClassifier().plot()
    run = made_run(n_genes=12)
    assert len(run.plot(n_genes=5).get_yticks()) == 5
    ranked = PerturbationRanking.from_frame(gf.tl.rank_perturbations(run, permutations=20))
    assert len(ranked.plot("heatmap", n_genes=5).get_yticks()) == 5


@pytest.mark.parametrize("source", [CLASSIFIER, "fitted", "history"])
def test_the_curve_of_a_training_is_drawn_from_wherever_it_is(source, fitted):
    history = {"fitted": fitted, "history": fitted.history_}.get(source, source)
    loss, shares = gf.pl.training_curve(history)
    assert [line.get_label() for line in loss.get_lines()] == ["training", "validation cells"]
    assert list(loss.get_lines()[0].get_xdata()) == [1, 2, 3]
    assert shares.get_lines()


def test_a_training_too_short_to_be_logged_has_a_curve_of_its_validation():
    loss, _ = gf.pl.training_curve([{"step": 2, "eval_loss": 0.7}])
    assert [line.get_label() for line in loss.get_lines()] == ["validation cells"]


def test_several_tasks_have_a_report_each():
    tasks = gf.load_classifier(TASKS)
    with pytest.raises(OptionError, match=r"'kind', 'side'. Pass one, such as report\['kind'\]"):
        gf.pl.confusion_matrix(tasks)
    assert [text.get_text()[:4] for text in gf.pl.roc(tasks).get_legend().get_texts()] == ["kind", "side"]
    assert len(gf.pl.confusion_matrix(tasks.report_["side"]).get_yticks()) == 2


def test_numbers_are_drawn_against_the_truth():
    truth = np.array([1.0, 2.0, 3.0, np.nan])
    report = NumberReport(evaluation=evaluate_numbers(truth, truth + 1, n_boot=0), truth=truth, predicted=truth + 1)
    axes = report.plot(title="Ages")
    assert axes.get_title(loc="left") == "Ages"
    assert axes.collections[0].get_offsets().tolist() == [[1, 2], [2, 3], [3, 4]]
    assert gf.pl.predictions(WRITTEN / "cell_regressor").get_xlabel() == "truth"
    with pytest.raises(DatasetError, match="report on numbers, which this plot does not draw"):
        gf.pl.confusion_matrix(report)


def test_what_has_no_report_is_refused(tmp_path, fitted):
    with pytest.raises(NotFittedError, match="CellClassifier has no report"):
        gf.pl.roc(gf.CellClassifier())
    with pytest.raises(InputNotFoundError):
        gf.pl.roc(tmp_path)
    for wrong in (None, 3, [fitted], pd.DataFrame(), np.ones(3), made_run(n_genes=3)):
        with pytest.raises(OptionError, match="came as"):
            gf.pl.confusion_matrix(wrong)
    assert load_report(CLASSIFIER / "report") == fitted.report_
