"""Figures of classifiers compared as data: what is drawn where, and what the labels say."""

import json
import sys

import matplotlib as mpl
import numpy as np
import pytest
from sklearn.metrics import auc, roc_curve

import geneformer as gf
from geneformer.errors import (
    DatasetError,
    InputNotFoundError,
    MissingExtraError,
    OptionError,
    UnknownChoiceError,
)
from geneformer.finetuning.baselines import majority
from geneformer.finetuning.metrics import evaluate_classes, evaluate_label_sets
from geneformer.finetuning.reports import ClassificationReport
from geneformer.pl._classification import GAP, LINES

mpl.use("agg")
from matplotlib import pyplot as plt

pytestmark = pytest.mark.contract

CLASSES = ("B cells", "T cells", "NK", "absent")


@pytest.fixture(autouse=True)
def _close_figures():
    settings = dict(mpl.rcParams)
    yield
    plt.close("all")
    assert dict(mpl.rcParams) == settings


def report_on(truth, proba, classes):
    return ClassificationReport(
        evaluation=evaluate_classes(truth, proba, classes, n_boot=20),
        truth=truth,
        predicted=proba.argmax(axis=1),
        proba=proba,
    )


@pytest.fixture
def report():
    rng = np.random.default_rng(0)
    truth = rng.choice([-1, 0, 1, 2], p=[0.1, 0.5, 0.35, 0.05], size=400)
    logits = rng.normal(size=(400, 4)) + np.eye(4)[truth]
    proba = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    return report_on(truth, proba, CLASSES)


def ticks(axis):
    return [label.get_text() for label in axis.get_ticklabels()]


def legend_of(ax):
    return [text.get_text() for text in ax.get_legend().get_texts()]


def written(ax):
    return {tuple(int(place) for place in text.get_position()[::-1]): text.get_text() for text in ax.texts}


@pytest.mark.parametrize("form", ["report", "evaluation", "folder"])
def test_a_confusion_matrix_shows_shares_of_the_truth(report, form, tmp_path):
    report.save(tmp_path / "report")
    given = {"report": report, "evaluation": report.evaluation, "folder": tmp_path / "report"}[form]
    ax = gf.pl.confusion_matrix(given, title="Held-out cells", save=tmp_path / "confusion.png")
    counts = report.evaluation.confusion
    totals = counts.sum(axis=1)
    shown = ax.images[0].get_array()
    np.testing.assert_allclose(shown[:3], counts[:3] / totals[:3, None])
    assert shown.mask.tolist() == [[False] * 4] * 3 + [[True] * 4]
    assert ticks(ax.xaxis) == list(CLASSES)
    assert ticks(ax.yaxis) == [f"{name}  n={total}" for name, total in zip(CLASSES, totals, strict=True)]
    found = {tuple(place): f"{counts[tuple(place)] / totals[place[0]]:.2f}" for place in np.argwhere(counts)}
    assert written(ax) == found
    assert ax.get_title(loc="left") == "Held-out cells"
    assert (tmp_path / "confusion.png").read_bytes().startswith(b"\x89PNG")


def test_a_confusion_matrix_in_another_order_with_numbers_of_cells(report):
    order = ["absent", "NK", "T cells", "B cells"]
    ax = gf.pl.confusion_matrix(report, order=order, normalize=False)
    counts = report.evaluation.confusion[::-1, ::-1]
    assert ticks(ax.xaxis) == order
    assert written(ax) == {tuple(place): str(counts[tuple(place)]) for place in np.argwhere(counts)}
    with pytest.raises(UnknownChoiceError, match="Did you mean"):
        gf.pl.confusion_matrix(report, order=["B cell", "T cells", "NK", "absent"])
    with pytest.raises(OptionError, match=r"without \['absent'\]"):
        gf.pl.predictions(report, order=["B cells", "T cells", "NK"])


def test_a_large_confusion_matrix_has_no_values(report):
    codes = np.arange(60) % 30
    ax = gf.pl.confusion_matrix(evaluate_classes(codes, np.eye(30)[codes], [str(i) for i in range(30)], n_boot=0))
    assert len(ax.texts) == 0
    assert len(ticks(ax.yaxis)) == 30


def test_every_class_has_its_roc_curve(report, tmp_path):
    ax = gf.pl.roc(report, save=tmp_path / "roc.pdf")
    lines = {line.get_label(): line for line in ax.lines if not line.get_label().startswith("_")}
    truth, proba = report.truth[report.truth >= 0], report.proba[report.truth >= 0]
    assert len(lines) == 3
    for code, (label, line) in enumerate(lines.items()):
        fpr, tpr, _ = roc_curve(truth == code, proba[:, code])
        assert label == f"{CLASSES[code]}  {auc(fpr, tpr):.3f}"
        assert auc(*line.get_data()) == pytest.approx(auc(fpr, tpr), abs=1e-9)
    assert legend_of(ax) == list(lines)
    assert (tmp_path / "roc.pdf").read_bytes().startswith(b"%PDF")


def test_models_are_compared_by_unweighted_means_over_classes(report, tmp_path):
    report.save(tmp_path / "report")
    constant = evaluate_classes(report.truth, majority(report.truth, 400, 4), CLASSES, n_boot=0)
    ax = gf.pl.roc({"model": tmp_path / "report", "majority": constant})
    model, guess = (line for line in ax.lines if not line.get_label().startswith("_"))
    metric = report.evaluation.metrics["roc_auc"]
    assert legend_of(ax) == [f"model  {metric}", "majority  0.500"]
    assert auc(*model.get_data()) == pytest.approx(metric.mean, abs=0.01)
    np.testing.assert_allclose(*guess.get_data(), atol=1e-12)
    ax = gf.pl.roc({"model": report}, classes=["NK"])
    assert legend_of(ax) == [f"model  {report.evaluation.roc['NK'].auc:.3f}"]


def test_precision_recall_curves_end_where_all_cells_are_found(report):
    ax = gf.pl.roc(report, curve="precision_recall", classes=["T cells", "NK"])
    areas = [report.evaluation.pr[name].average_precision for name in ("T cells", "NK")]
    assert legend_of(ax) == [f"{name}  {area:.3f}" for name, area in zip(("T cells", "NK"), areas, strict=True)]
    for line, area in zip(ax.lines, areas, strict=True):
        recall, precision = line.get_data()
        assert recall[-1] == 1
        assert (recall < 1).sum() == len(recall) - 1
        assert line.get_drawstyle() == "steps-pre"
        assert (np.diff(recall) * precision[1:]).sum() == pytest.approx(area, abs=0.02)
    mean = gf.pl.roc({"model": report}, curve="precision_recall").lines[0]
    recall, precision = mean.get_data()
    assert (np.diff(recall) * precision[1:]).sum() == pytest.approx(
        report.evaluation.metrics["average_precision"].mean, abs=0.02
    )
    share = np.mean([(report.truth == code).sum() / 360 for code in range(3)])
    constant = evaluate_classes(report.truth, majority(report.truth, 400, 4), CLASSES, n_boot=0)
    flat = gf.pl.roc({"majority": constant}, curve="precision_recall").lines[0].get_ydata()
    np.testing.assert_allclose(flat, share, rtol=0.05)


def test_label_sets_have_curves_too():
    rng = np.random.default_rng(0)
    found = evaluate_label_sets((rng.random((50, 2)) < 0.5).astype(float), rng.random((50, 2)), ["a", "b"], n_boot=0)
    assert [text.split("  ")[0] for text in legend_of(gf.pl.roc(found))] == ["a", "b"]


def test_a_legend_of_many_classes_leaves_room_for_the_curves():
    codes = np.arange(120) % 40
    proba = np.random.default_rng(0).dirichlet(np.ones(40), size=120)
    ax = gf.pl.roc(evaluate_classes(codes, proba, [f"a rather long name {i}" for i in range(40)], n_boot=0))
    ax.figure.canvas.draw()
    assert len(legend_of(ax)) == 40
    box = ax.get_window_extent()
    assert box.width > 300
    assert box.height > 300


def test_curves_that_cannot_be_drawn_are_refused(report):
    with pytest.raises(UnknownChoiceError, match="Did you mean"):
        gf.pl.roc(report, classes=["T cell"])
    with pytest.raises(UnknownChoiceError, match="curve="):
        gf.pl.roc(report, curve="pr")
    with pytest.raises(DatasetError, match=r"None of the classes \['absent'\] has a curve"):
        gf.pl.roc(report, classes=["absent"])
    with pytest.raises(OptionError, match="no report to draw"):
        gf.pl.roc({})


def test_predictions_are_blocks_of_cells_by_true_class(report, tmp_path):
    ax = gf.pl.predictions(report, title="Cells", save=tmp_path / "predictions.png")
    image = ax.images[0].get_array()
    assert image.shape == (4 * LINES + 3 * GAP, 4)
    counts = np.bincount(report.truth + 1, minlength=5)
    expected = [*(f"{CLASSES[code]}  n={counts[code + 1]}" for code in range(3)), f"no label  n={counts[0]}"]
    assert ticks(ax.yaxis) == expected
    assert ticks(ax.xaxis) == list(CLASSES)
    for number, code in enumerate([0, 1, 2, -1]):
        block = image[number * (LINES + GAP) : number * (LINES + GAP) + LINES]
        cells = {tuple(row) for row in report.proba[report.truth == code]}
        assert {tuple(row) for row in block.tolist()} <= cells
        assert len({tuple(row) for row in block.tolist()}) == min(len(cells), LINES)
        if code >= 0:
            assert (np.diff(block[:, code]) <= 0).all()
            middle = np.sort(report.proba[report.truth == code, code])
            assert np.median(np.asarray(block[:, code])) == pytest.approx(np.median(middle), abs=0.05)
        else:
            assert (np.diff(np.asarray(block).argmax(axis=1)) >= 0).all()
    assert image.mask[LINES : LINES + GAP].all()
    frames = [(patch.get_x(), patch.get_y(), patch.get_width(), patch.get_height()) for patch in ax.patches]
    assert frames == [(code - 0.5, code * (LINES + GAP) - 0.5, 1, LINES) for code in range(3)]
    assert (tmp_path / "predictions.png").read_bytes().startswith(b"\x89PNG")


def test_predictions_in_another_order(report):
    order = ["NK", "absent", "B cells", "T cells"]
    ax = gf.pl.predictions(report, order=order)
    assert ticks(ax.xaxis) == order
    assert [label.split("  ")[0] for label in ticks(ax.yaxis)] == ["NK", "B cells", "T cells", "no label"]
    assert [patch.get_x() for patch in ax.patches] == [-0.5, 1.5, 2.5]
    block = np.asarray(ax.images[0].get_array()[:LINES])
    cells = {tuple(row) for row in report.proba[report.truth == 2][:, [2, 3, 0, 1]].tolist()}
    assert {tuple(row) for row in block.tolist()} == cells
    last = np.asarray(ax.images[0].get_array()[-LINES:])
    assert (np.diff(last.argmax(axis=1)) >= 0).all()


def test_axes_of_a_caller_are_drawn_on(report):
    for draw in (gf.pl.confusion_matrix, gf.pl.roc, gf.pl.predictions):
        ax = mpl.figure.Figure().subplots()
        assert draw(report, ax=ax) is ax
    assert plt.get_fignums() == []


@pytest.mark.parametrize("draw", [gf.pl.confusion_matrix, gf.pl.roc, gf.pl.predictions])
def test_what_is_missing_is_named(report, draw, tmp_path, monkeypatch):
    with pytest.raises(InputNotFoundError, match=r"report\.json"):
        draw(tmp_path)
    with pytest.raises(UnknownChoiceError, match="suffix"):
        draw(report, save=tmp_path / "plot.xlsx")
    monkeypatch.setitem(sys.modules, "matplotlib.pyplot", None)
    with pytest.raises(MissingExtraError, match=r'pip install "geneformer\[plot\]"'):
        draw(report)


HISTORY = [
    {"step": 5, "loss": 2.0},
    {"step": 10, "loss": 1.0},
    {"step": 10, "eval_loss": 1.5, "eval_macro_f1": 0.5, "eval_accuracy": 0.6, "eval_runtime": 1.0},
    {"step": 20, "eval_loss": 1.25, "eval_macro_f1": 0.75, "eval_accuracy": 0.8, "eval_runtime": 1.0},
    {"train_runtime": 3.0},
]


def lines_of(ax):
    return {line.get_label(): (list(line.get_xdata()), list(line.get_ydata())) for line in ax.lines}


@pytest.mark.parametrize("form", ["content", "list", "file", "folder"])
def test_a_training_curve_shows_fine_tuning(form, tmp_path):
    (tmp_path / "training.json").write_text(json.dumps(HISTORY if form == "list" else {"history": HISTORY}))
    (tmp_path / "pretraining.json").write_text(json.dumps({"history": [{"step": 1, "masked_loss": 9.0}]}))
    given = {"content": {"history": HISTORY}, "list": tmp_path, "file": tmp_path / "training.json", "folder": tmp_path}
    loss, shares = gf.pl.training_curve(given[form], save=tmp_path / "curve.png")
    assert lines_of(loss) == {"training": ([5, 10], [2.0, 1.0]), "validation cells": ([10, 20], [1.5, 1.25])}
    assert lines_of(shares) == {"macro F1": ([10, 20], [0.5, 0.75]), "accuracy": ([10, 20], [0.6, 0.8])}
    assert (loss.get_title(), shares.get_title()) == ("Loss", "Validation cells")


def test_a_training_curve_without_validation_cells_and_of_numbers():
    loss, shares = gf.pl.training_curve({"history": HISTORY[:2]})
    assert list(lines_of(loss)) == ["training"]
    assert [text.get_text() for text in shares.texts] == ["nothing measured"]
    line = {"step": 2, "loss": 1.0, "eval_loss": 1.0, "eval_r2": -0.5, "eval_pearson": 0.1}
    _, shares = gf.pl.training_curve({"history": [line]})
    assert list(lines_of(shares)) == ["R2", "Pearson r"]
    assert shares.get_ylim()[0] <= -0.5


def test_a_reliability_curve_shows_how_often_the_sure_are_right(tmp_path):
    sure = np.repeat([0.6, 0.9], 50)
    truth = np.concatenate([np.repeat([0, 1], [20, 30]), np.repeat([0, 1], [45, 5])])  # right in 40 % and in 90 %
    proba = np.column_stack([sure, 1 - sure])
    evaluation = evaluate_classes(truth, proba, ["B", "T"], n_boot=0)
    report = ClassificationReport(evaluation=evaluation, truth=truth, predicted=np.zeros(100, dtype=int), proba=proba)
    ax = gf.pl.calibration(report, n_bins=2, save=tmp_path / "curve.svg")
    points = ax.containers[0].lines[0].get_xydata()
    np.testing.assert_allclose(points, [[0.6, 0.4], [0.9, 0.9]])
    assert "expected calibration error 0.100" in (tmp_path / "curve.svg").read_text()
