"""Commands of the estimators: fit, predict and evaluate them, and `classify search`."""

import dataclasses
import inspect
import json
import math
import tomllib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Annotated, Any, TypedDict, Unpack, get_type_hints

import typer

from geneformer.cli._options import (
    CELLS_FILE,
    COUNTS_LAYER,
    FITTED,
    FOLDER,
    FOLDS,
    GENE_IDS,
    GENES,
    GROUPS,
    HIDDEN,
    IDS,
    INPUTS,
    LABEL,
    LABELS,
    MODEL,
    NUMBER,
    OF_CELLS,
    OF_CLASSES,
    OF_SECOND_VIEWS,
    OF_SPLITS,
    OVERWRITE,
    REPORT,
    RESAMPLED,
    RESUME,
    TABLE_FILE,
    UNKNOWN,
    VOCABULARY,
    one_seed,
    with_options,
)
from geneformer.cli._output import Outcome
from geneformer.errors import (
    GeneListError,
    InputNotFoundError,
    OptionError,
    UnreadableInputError,
    UnsupportedFormatError,
)
from geneformer.options import (
    ClassifyOptions,
    ExpressionOptions,
    FinetuneOptions,
    GeneClassifyOptions,
    MultiTaskOptions,
    RegressOptions,
    RuntimeOptions,
    SearchOptions,
    SplitOptions,
)

FIGURES = {"classes": "macro_f1", "expression": "r2", "genes": "roc_auc", "label sets": "macro_f1", "numbers": "r2"}
"""The one figure that closing tables show, by kind of report."""

Rows = list[tuple[str, object]]
Inputs = Annotated[list[Path], INPUTS]


class Places(TypedDict):
    """Where counts and gene identifiers are."""

    counts_layer: Annotated[str | None, COUNTS_LAYER]
    gene_ids: Annotated[str | None, GENE_IDS]


class Using(Places):
    """What every command takes that uses a fitted model."""

    model: Annotated[Path, FITTED]
    runtime: RuntimeOptions
    overwrite: Annotated[bool, OVERWRITE]


class Learning(Places):
    """What every command takes that trains."""

    model: Annotated[str, MODEL]
    vocabulary: Annotated[str | None, VOCABULARY]
    finetuning: FinetuneOptions
    runtime: RuntimeOptions
    overwrite: Annotated[bool, OVERWRITE]


class LearningCells(Learning):
    """The same where cells are split."""

    groups: Annotated[str | None, GROUPS]
    split: SplitOptions


DEFAULTS = {"model": "mini", "overwrite": False}
"""Defaults of shared parameters that are not None."""


def command(*, hide: Mapping[type, tuple[str, ...]] | None = None) -> Callable[..., Callable[..., None]]:
    """`with_options` for a function whose shared parameters are a `TypedDict`, unpacked."""

    def decorate(function: Callable[..., Outcome]) -> Callable[..., None]:
        *own, shared = inspect.signature(function).parameters.values()
        hints = get_type_hints(function, include_extras=True)
        (given,) = hints.pop(shared.name).__args__
        for name, hint in get_type_hints(given, include_extras=True).items():
            required = dataclasses.is_dataclass(hint) or getattr(hint, "__metadata__", ()) == (FITTED,)
            default = inspect.Parameter.empty if required else DEFAULTS.get(name)
            own.append(inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=hint))
            hints[name] = hint
        function.__annotations__ = hints
        vars(function)["__signature__"] = inspect.Signature(own)
        return with_options(hide=hide)(function)

    return decorate


def made(estimator: str, given: Mapping[str, Any], **options: Any) -> tuple[Any, dict[str, Any]]:
    """An estimator with the options of a command, and what is left of them: where things are."""
    from geneformer.finetuning import estimators

    left = {name: value for name, value in given.items() if name in ("groups", "ids", "counts_layer", "gene_ids")}
    options |= one_seed(given["finetuning"], given.get("split"), given["runtime"])
    return getattr(estimators, estimator)(given["model"], vocabulary=given["vocabulary"], **options), left


def fitted(estimator: str, output: Path, *learnt: Any, given: Mapping[str, Any], resume: bool, **options: Any) -> Any:
    """Fit a model and write its folder."""
    import shutil

    from geneformer.files.atomic import check_output

    unfitted, places = made(estimator, given, **options)
    check_output(output, overwrite=given["overwrite"])
    target = output.absolute()
    working = target.with_name(f".{target.name}.training")
    unfitted.fit(*learnt, **places, output=working, resume=resume)
    unfitted.save(output, overwrite=given["overwrite"])
    shutil.rmtree(working, ignore_errors=True)
    return unfitted


def loaded(estimator: str, given: Mapping[str, Any]) -> tuple[Any, dict[str, Any]]:
    """A fitted estimator, and where counts and gene identifiers are."""
    from geneformer.finetuning import estimators

    places = {name: given[name] for name in ("counts_layer", "gene_ids")}
    return getattr(estimators, estimator).load(given["model"], runtime=given["runtime"]), places


def reported(report: Any, output: Path, *, overwrite: bool) -> Outcome:
    """Write the report of an evaluation, and show its figures."""
    from geneformer.finetuning.evaluations import metric_name
    from geneformer.finetuning.reports import by_task

    report.save(output, overwrite=overwrite)
    rows: Rows = [
        (", ".join(filter(None, (task, metric_name(name)))), str(value))
        for task, of_task in by_task(report).items()
        for name, value in of_task.evaluation.metrics.items()
    ]
    return Outcome(f"Report in {output}", rows, {"output": str(output), "metrics": report_figures(report)})


def trained_rows(estimator: Any) -> Rows:
    """Lines of the closing table: how cells were split, what was trained, and how it did next to the baselines."""
    share = estimator.result_.share
    rows: Rows = []
    if hasattr(estimator, "split_"):
        split = estimator.split_
        cells = f"{split['train']:,} to learn, {split['valid']:,} to choose, {split['test']:,} to test"
        rows = [("Cells", cells), ("Split", split["method"])]
    return [
        *rows,
        ("Parameters trained", f"{share.trained:,} of {share.total:,} ({share.trained / share.total:.1%})"),
        ("Optimizer steps", estimator.result_.steps),
        *((name, f"{value:.4f}") for name, value in estimator.metrics_.items()),
        *compared_rows(estimator.report_),
    ]


def trained_figures(estimator: Any) -> dict[str, Any]:
    """The same for programs."""
    split = {"split": estimator.split_} if hasattr(estimator, "split_") else {}
    return split | {
        "steps": estimator.result_.steps,
        "trained": estimator.result_.share.trained,
        "total": estimator.result_.share.total,
        "validation": estimator.metrics_,
        "test": report_figures(estimator.report_),
    }


def compared_rows(report: Any) -> Rows:
    """One figure of the model and of every baseline, for every task; none without a report."""
    from geneformer.finetuning.evaluations import metric_name
    from geneformer.finetuning.reports import by_task

    rows: Rows = []
    for task, of_task in by_task(report).items():
        figure = FIGURES[of_task.kind]
        for model, evaluation in {"this model": of_task.evaluation, **of_task.baselines}.items():
            label = ", ".join(filter(None, (f"Test {metric_name(figure)}", task, model)))
            rows.append((label, str(evaluation.metrics[figure])))
    return rows


def report_figures(report: Any) -> dict[str, Any] | None:
    """All figures of a model with their intervals; of several tasks, by task."""
    from geneformer.finetuning.reports import by_task

    figures = {task: one.evaluation.to_dict()["metrics"] for task, one in by_task(report).items()}
    return figures.get("", figures or None)


def check_report_folder(output: Path, *, overwrite: bool) -> None:
    """Refuse a place that a report cannot go to, before anything is computed."""
    from geneformer.files.atomic import check_output
    from geneformer.finetuning.reports import CONTENT, REPORT

    check_output(output, overwrite=overwrite, markers=(REPORT, CONTENT))


def check_predictions_file(output: Path, *, overwrite: bool) -> None:
    """Refuse a file that predictions cannot go to, before anything is computed."""
    from geneformer.files.atomic import check_output
    from geneformer.finetuning.predictions import SUFFIXES
    from geneformer.inference.tables import check_suffix

    check_output(check_suffix(output, SUFFIXES), overwrite=overwrite)


@command(hide=HIDDEN)
def classify_fit(
    inputs: Inputs,
    *,
    label: Annotated[str, LABEL],
    output: Annotated[Path, FOLDER],
    ids: Annotated[str | None, IDS] = None,
    classify: ClassifyOptions,
    resume: Annotated[bool, RESUME] = False,
    **given: Unpack[LearningCells],
) -> Outcome:
    """Fine-tune a pretrained model to tell classes of cells apart."""
    learnt = (inputs, label)
    classifier = fitted("CellClassifier", output, *learnt, given=given | {"ids": ids}, resume=resume, classify=classify)
    rows, data = classes_of(classifier)
    return Outcome(f"Classifier in {output}", rows, {"output": str(output), **data})


def classes_of(classifier: Any) -> tuple[Rows, dict[str, Any]]:
    """Lines of the closing table of a classifier, and the same for programs."""
    rows: Rows = [("Classes", ", ".join(classifier.classes_)), *trained_rows(classifier)]
    return rows, {"classes": list(classifier.classes_), **trained_figures(classifier)}


@command()
def classify_predict(
    inputs: Inputs,
    *,
    output: Annotated[Path, CELLS_FILE],
    unknown_below: Annotated[float | None, UNKNOWN] = None,
    **given: Unpack[Using],
) -> Outcome:
    """Tell the classes of cells."""
    import numpy as np

    from geneformer.finetuning.predictions import CellPredictions, cell_table
    from geneformer.options._fields import check_range

    check_predictions_file(output, overwrite=given["overwrite"])
    check_range("unknown_below", unknown_below, low=0.0, high=1.0)
    classifier, places = loaded("CellClassifier", given)
    opened = classifier.open(inputs, **places)
    proba = opened.spread(classifier.probabilities(opened), np.nan)
    named = classifier.name_classes(proba, unknown_below)
    result = CellPredictions(
        cell_table(opened), str(classifier.label_), tuple(classifier.classes_), named, proba, classifier.provenance
    )
    result.save(output, overwrite=given["overwrite"])
    counts = result.counts()
    return Outcome(f"Predictions in {output}", list(counts.items()), {"output": str(output), "counts": counts})


LEARNT_LABEL = typer.Option("--label", "-l", help="Column of obs with the classes; the one learnt from by default.")


@command()
def classify_evaluate(
    inputs: Inputs,
    *,
    output: Annotated[Path, REPORT],
    label: Annotated[str | None, LEARNT_LABEL] = None,
    groups: Annotated[str | None, RESAMPLED] = None,
    **given: Unpack[Using],
) -> Outcome:
    """Score a fitted classifier on labeled cells it has not seen."""
    check_report_folder(output, overwrite=given["overwrite"])
    classifier, places = loaded("CellClassifier", given)
    return reported(classifier.evaluate(inputs, label, groups=groups, **places), output, overwrite=given["overwrite"])


@command(hide=HIDDEN | {SplitOptions: OF_SPLITS})
def classify_cross_validate(
    inputs: Inputs,
    *,
    label: Annotated[str, LABEL],
    output: Annotated[Path, REPORT],
    folds: Annotated[int, FOLDS] = 5,
    classify: ClassifyOptions,
    **given: Unpack[LearningCells],
) -> Outcome:
    """Fit once per fold, and score every cell by a classifier that has not seen it."""
    from geneformer.finetuning.cross_validation import cross_validate
    from geneformer.finetuning.evaluations import metric_name

    check_report_folder(output, overwrite=given["overwrite"])
    classifier, places = made("CellClassifier", given, classify=classify)
    result = cross_validate(classifier, inputs, label, n_folds=folds, **places)
    result.save(output, overwrite=given["overwrite"])
    report: Any = result.report
    figure, summary = FIGURES[report.kind], result.summary()
    rows: Rows = [("Cells", report.evaluation.n), ("Folds", len(result.folds))]
    rows += [
        (f"Test {metric_name(figure)}, {row['model']}", f"{row['mean']:.4f} ± {row['sd']:.4f}")
        for row in summary[summary["metric"] == figure].to_dict("records")
    ]
    data = {"folds": len(result.folds), "metrics": report_figures(report), "summary": result.to_dict()["summary"]}
    return Outcome(f"Report in {output}", rows, {"output": str(output), **data})


FITTED_FOLDER = typer.Option(
    "--output", "-o", metavar="DIR", help="Folder of the classifier and of trials.csv.", show_default=False
)
SPACE = typer.Option(
    help="TOML file with the options to search, such as learning_rate = {low = 1e-5, high = 1e-2, log = true} or "
    'strategy = ["full", "lora"].',
    exists=True,
    dir_okay=False,
    show_default=False,
)

TRIALS = "trials.csv"
"""File of the trials in the folder of a classifier."""


@command(hide=HIDDEN | {SearchOptions: ("seed",)})
def classify_search(
    inputs: Inputs,
    *,
    label: Annotated[str, LABEL],
    output: Annotated[Path | None, FITTED_FOLDER] = None,
    space: Annotated[Path | None, SPACE] = None,
    ids: Annotated[str | None, IDS] = None,
    options: SearchOptions,
    classify: ClassifyOptions,
    **given: Unpack[LearningCells],
) -> Outcome:
    """Search for the best training options, and fit with them."""
    from geneformer.files.atomic import check_output
    from geneformer.finetuning.search import search

    if (output is None) != (options.refit == "none"):
        what = "no --output" if output is None else "--output"
        msg = f"{what} with --refit {options.refit}. Name a folder for the classifier, or fit none with --refit none."
        raise OptionError(msg)
    if output is not None:
        check_output(output, overwrite=given["overwrite"])
    classifier, places = made("CellClassifier", given | {"ids": ids}, classify=classify)
    seeded = dataclasses.replace(options, seed=given["finetuning"].seed)
    result = search(classifier, inputs, label, space=space, options=seeded, **places)
    states = result.trials["state"].value_counts()
    rows: Rows = [
        ("Trials", ", ".join(f"{count} {state}" for state, count in states.items())),
        (f"Best validation {result.metric}", f"{result.best_value:.4f}"),
        *((name, f"{value:.4g}" if isinstance(value, float) else value) for name, value in result.best_options.items()),
    ]
    data: dict[str, Any] = {
        "output": None if output is None else str(output),
        "metric": result.metric,
        "best_value": None if math.isnan(result.best_value) else result.best_value,
        "best_options": result.best_options,
        "trials": {str(state): int(count) for state, count in states.items()},
    }
    if output is None:
        return Outcome(f"Study {options.study} in {options.storage}", rows, data)
    result.estimator.save(output, overwrite=given["overwrite"])
    result.trials.to_csv(output / TRIALS, index=False)
    more_rows, more_data = classes_of(result.estimator)
    return Outcome(f"Classifier in {output}", rows + more_rows, data | more_data)


@command(hide=HIDDEN | {FinetuneOptions: OF_CLASSES})
def regress_fit(
    inputs: Inputs,
    *,
    label: Annotated[str, NUMBER],
    output: Annotated[Path, FOLDER],
    ids: Annotated[str | None, IDS] = None,
    regress: RegressOptions,
    resume: Annotated[bool, RESUME] = False,
    **given: Unpack[LearningCells],
) -> Outcome:
    """Fine-tune a pretrained model to tell a number of cells."""
    learnt = (inputs, label)
    regressor = fitted("CellRegressor", output, *learnt, given=given | {"ids": ids}, resume=resume, regress=regress)
    rows: Rows = [("Number", f"{label}, {regressor.loss_} loss"), *trained_rows(regressor)]
    return Outcome(f"Model in {output}", rows, {"output": str(output), "label": label, **trained_figures(regressor)})


SPREAD = typer.Option("--with-spread", help="Also tell the standard deviation expected around each number.")


@command()
def regress_predict(
    inputs: Inputs,
    *,
    output: Annotated[Path, CELLS_FILE],
    with_spread: Annotated[bool, SPREAD] = False,
    **given: Unpack[Using],
) -> Outcome:
    """Tell the numbers of cells."""
    from geneformer import keys
    from geneformer.finetuning.predictions import save_cells

    check_predictions_file(output, overwrite=given["overwrite"])
    regressor, places = loaded("CellRegressor", given)
    opened = regressor.open(inputs, **places)
    key = keys.predicted(str(regressor.label_))
    values = regressor.predict(opened, return_std=with_spread)
    columns = dict(zip((key, f"{key}_spread"), values if with_spread else (values,), strict=False))
    columns = {name: column[opened.rows] for name, column in columns.items()}
    cells = opened.tokens.table.select(opened.tokens.columns)
    save_cells(cells, columns, output, regressor.provenance, overwrite=given["overwrite"])
    numbers = columns[key]
    figures = {"min": float(numbers.min()), "mean": float(numbers.mean()), "max": float(numbers.max())}
    rows: Rows = [
        ("Cells", len(numbers)),
        (str(regressor.label_), f"{figures['min']:.4g} to {figures['max']:.4g}, mean {figures['mean']:.4g}"),
    ]
    return Outcome(f"Predictions in {output}", rows, {"output": str(output), "cells": len(numbers), **figures})


LEARNT_NUMBER = typer.Option("--label", "-l", help="Column of obs with the numbers; the one learnt from by default.")


@command()
def regress_evaluate(
    inputs: Inputs,
    *,
    output: Annotated[Path, REPORT],
    label: Annotated[str | None, LEARNT_NUMBER] = None,
    groups: Annotated[str | None, RESAMPLED] = None,
    **given: Unpack[Using],
) -> Outcome:
    """Score a fitted model on cells with numbers it has not seen."""
    check_report_folder(output, overwrite=given["overwrite"])
    regressor, places = loaded("CellRegressor", given)
    return reported(regressor.evaluate(inputs, label, groups=groups, **places), output, overwrite=given["overwrite"])


@command(hide=HIDDEN)
def multi_task_fit(
    inputs: Inputs,
    *,
    label: Annotated[list[str], LABELS],
    output: Annotated[Path, FOLDER],
    ids: Annotated[str | None, IDS] = None,
    multi_task: MultiTaskOptions,
    resume: Annotated[bool, RESUME] = False,
    **given: Unpack[LearningCells],
) -> Outcome:
    """Fine-tune a pretrained model to tell several columns of classes at once."""
    classifier = fitted(
        "MultiTaskClassifier", output, inputs, label, given=given | {"ids": ids}, resume=resume, multi_task=multi_task
    )
    tasks = {name: list(classes) for name, classes in classifier.classes_.items()}
    weights = classifier.task_weights_
    rows: Rows = [
        *((f"Classes of {name}", ", ".join(classes)) for name, classes in tasks.items()),
        ("Task weights", ", ".join(f"{name} {weight:.3g}" for name, weight in weights.items())),
        *trained_rows(classifier),
    ]
    data = {"output": str(output), "classes": tasks, "task_weights": weights, **trained_figures(classifier)}
    return Outcome(f"Classifier in {output}", rows, data)


@command()
def multi_task_predict(
    inputs: Inputs,
    *,
    output: Annotated[Path, CELLS_FILE],
    unknown_below: Annotated[float | None, UNKNOWN] = None,
    **given: Unpack[Using],
) -> Outcome:
    """Tell the classes of cells in every task."""
    import pandas as pd

    from geneformer import keys
    from geneformer.finetuning.predictions import save_cells

    check_predictions_file(output, overwrite=given["overwrite"])
    classifier, places = loaded("MultiTaskClassifier", given)
    opened = classifier.open(inputs, **places)
    predicted = classifier.predict(opened, unknown_below=unknown_below).iloc[opened.rows]
    columns: dict[str, Any] = {}
    counts: dict[str, dict[str, int]] = {}
    for task in classifier.classes_:
        key = keys.predicted(task)
        probability = predicted[f"{task}_probability"].to_numpy()
        columns |= {key: pd.Categorical(predicted[task]), f"{key}_probability": probability}
        counts[task] = {str(name): int(number) for name, number in predicted[task].value_counts().items()}
    cells = opened.tokens.table.select(opened.tokens.columns)
    save_cells(cells, columns, output, classifier.provenance, overwrite=given["overwrite"])
    rows: Rows = [(f"{task}: {name}", number) for task, numbers in counts.items() for name, number in numbers.items()]
    return Outcome(f"Predictions in {output}", rows, {"output": str(output), "counts": counts})


TASKS = typer.Option(
    "--label", "-l", help="Task to score, or TASK=COLUMN where its column has another name; once per task. All of them "
    "by default.", show_default=False,
)  # fmt: skip


@command()
def multi_task_evaluate(
    inputs: Inputs,
    *,
    output: Annotated[Path, REPORT],
    label: Annotated[list[str] | None, TASKS] = None,
    groups: Annotated[str | None, RESAMPLED] = None,
    **given: Unpack[Using],
) -> Outcome:
    """Score a fitted classifier in every task, on labeled cells it has not seen."""
    check_report_folder(output, overwrite=given["overwrite"])
    classifier, places = loaded("MultiTaskClassifier", given)
    columns = dict(_column(entry, tuple(classifier.classes_)) for entry in label or classifier.classes_)
    return reported(classifier.evaluate(inputs, columns, groups=groups, **places), output, overwrite=given["overwrite"])


def _column(entry: str, tasks: tuple[str, ...]) -> tuple[str, str]:
    """A task and its column; the name of a task may itself have an equals sign."""
    for task in tasks:
        if entry.startswith(f"{task}=") and len(entry) > len(task) + 1:
            return task, entry[len(task) + 1 :]
    return entry, entry


@command(hide=HIDDEN | {FinetuneOptions: OF_CLASSES + OF_SECOND_VIEWS})
def decode_expression_fit(
    inputs: Inputs,
    *,
    output: Annotated[Path, FOLDER],
    ids: Annotated[str | None, IDS] = None,
    expression: ExpressionOptions,
    resume: Annotated[bool, RESUME] = False,
    **given: Unpack[LearningCells],
) -> Outcome:
    """Fine-tune a pretrained model to tell how much of each gene a cell expresses."""
    decoder = fitted(
        "ExpressionDecoder", output, inputs, given=given | {"ids": ids}, resume=resume, expression=expression
    )
    return Outcome(f"Decoder in {output}", trained_rows(decoder), {"output": str(output), **trained_figures(decoder)})


GENE_TO_PREDICT = typer.Option(
    help="Gene to predict in every cell, as Ensembl id or symbol; once per gene. By default every gene in the cells "
    "that express it.",
    show_default=False,
)


@command()
def decode_expression_predict(
    inputs: Inputs,
    *,
    output: Annotated[Path, CELLS_FILE],
    gene: Annotated[list[str] | None, GENE_TO_PREDICT] = None,
    **given: Unpack[Using],
) -> Outcome:
    """Tell values and ranks of genes in cells."""
    from geneformer.finetuning.predictions import save_expression

    check_predictions_file(output, overwrite=given["overwrite"])
    decoder, places = loaded("ExpressionDecoder", given)
    genes = list(dict.fromkeys(gene)) if gene else None
    if output.suffix == ".h5ad":
        blocks = iter([decoder.predict(inputs, genes, **places)])
    else:
        blocks = decoder.predict_blocks(inputs, genes, cells_per_block=1024, **places)
    cells, values = save_expression(blocks, output, decoder.provenance, overwrite=given["overwrite"])
    rows: Rows = [("Cells", cells), ("Values", values)]
    return Outcome(f"Predictions in {output}", rows, {"output": str(output), "cells": cells, "values": values})


@command()
def decode_expression_evaluate(
    inputs: Inputs,
    *,
    output: Annotated[Path, REPORT],
    groups: Annotated[str | None, RESAMPLED] = None,
    **given: Unpack[Using],
) -> Outcome:
    """Score a fitted decoder on genes taken out of cells it has not seen."""
    check_report_folder(output, overwrite=given["overwrite"])
    decoder, places = loaded("ExpressionDecoder", given)
    return reported(decoder.evaluate(inputs, groups=groups, **places), output, overwrite=given["overwrite"])


@command(hide=HIDDEN | {FinetuneOptions: OF_CELLS})
def classify_genes_fit(
    inputs: Inputs,
    *,
    genes: Annotated[Path, GENES],
    output: Annotated[Path, FOLDER],
    classify: GeneClassifyOptions,
    resume: Annotated[bool, RESUME] = False,
    **given: Unpack[Learning],
) -> Outcome:
    """Fine-tune a pretrained model to tell classes of genes apart."""
    lists = read_gene_file(genes)
    classifier = fitted("GeneClassifier", output, inputs, lists, given=given, resume=resume, classify=classify)
    parts = {name: len(members) for name, members in classifier.parts_.items()}
    classes = {name: len(members) for name, members in classifier.gene_classes_.items()}
    left_out = {why: sum(map(len, lists.values())) for why, lists in classifier.left_out_.items()}
    rows: Rows = [
        ("Classes", ", ".join(f"{name} ({number:,} genes)" for name, number in classes.items())),
        ("Genes", f"{parts['train']:,} to learn, {parts['valid']:,} to choose, {parts['test']:,} to test"),
        ("Left out", f"{left_out['unknown']:,} unknown to the vocabulary, {left_out['absent']:,} in no cell"),
        *trained_rows(classifier),
    ]
    data: dict[str, Any] = {"output": str(output), "classes": classes, "parts": parts, "left_out": left_out}
    return Outcome(f"Classifier in {output}", rows, data | trained_figures(classifier))


@command()
def classify_genes_predict(inputs: Inputs, *, output: Annotated[Path, TABLE_FILE], **given: Unpack[Using]) -> Outcome:
    """Tell the classes of all genes."""
    from geneformer.files.atomic import check_output
    from geneformer.inference.tables import check_suffix, save_table

    check_output(check_suffix(output), overwrite=given["overwrite"])
    classifier, places = loaded("GeneClassifier", given)
    table = classifier.predict(inputs, **places)
    save_table(table, output, classifier.provenance, overwrite=given["overwrite"])
    counts = {str(name): int(number) for name, number in table["predicted"].value_counts().items()}
    rows: Rows = [("Genes in the cells", sum(counts.values())), *counts.items()]
    return Outcome(f"Predictions in {output}", rows, {"output": str(output), "counts": counts})


@command(hide=HIDDEN | {FinetuneOptions: OF_CELLS, GeneClassifyOptions: ("test",)})
def classify_genes_cross_validate(
    inputs: Inputs,
    *,
    genes: Annotated[Path, GENES],
    output: Annotated[Path, REPORT],
    folds: Annotated[int, FOLDS] = 5,
    classify: GeneClassifyOptions,
    **given: Unpack[Learning],
) -> Outcome:
    """Fit once per fold, and score every gene by a classifier that has not seen it."""
    lists = read_gene_file(genes)
    check_report_folder(output, overwrite=given["overwrite"])
    classifier, places = made("GeneClassifier", given, classify=classify)
    report = classifier.cross_validate(inputs, lists, folds, **places)
    report.save(output, overwrite=given["overwrite"])
    n_folds = len(report.evaluation.folds)
    rows: Rows = [("Genes", report.evaluation.n), ("Folds", n_folds), *compared_rows(report)]
    data = {"output": str(output), "folds": n_folds, "metrics": report_figures(report)}
    return Outcome(f"Report in {output}", rows, data)


GENE, CLASS = "gene", "class"
"""Columns of a table of genes."""


def read_gene_file(path: Path) -> dict[str, list[str]]:
    """Genes by class, as the file names them and in its order."""
    if not path.is_file():
        msg = f'There is no file "{path}". Give a .csv, .tsv, .toml or .json file of genes and their classes.'
        raise InputNotFoundError(msg)
    if path.suffix.lower() not in _READERS:
        msg = f'"{path}" ends in "{path.suffix}". Genes and classes are read from {", ".join(_READERS)} files.'
        raise UnsupportedFormatError(msg)
    try:
        text = path.read_text(encoding="utf-8-sig")
        return _READERS[path.suffix.lower()](text, path)
    except GeneListError:
        raise
    except (OSError, ValueError) as error:
        msg = f'"{path}" cannot be read as {path.suffix}: {error}. Save it as UTF-8 text of that format.'
        raise UnreadableInputError(msg) from error


def _from_table(text: str, path: Path, *, delimiter: str) -> dict[str, list[str]]:
    import csv
    import io

    try:
        lines = list(csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True))
    except csv.Error as error:
        raise ValueError(str(error)) from error
    header = [name.strip().lower() for name in lines[0]] if lines else []
    for name in (GENE, CLASS):
        if header.count(name) != 1:
            held = ", ".join(map(repr, header)) or "nothing"
            msg = f'"{path}" must have one column "{name}", named in its first line; that holds {held}.'
            raise GeneListError(msg)
    at_gene, at_class = header.index(GENE), header.index(CLASS)
    classes: dict[str, list[str]] = {}
    for number, line in enumerate(lines[1:], start=2):
        gene, name = (line[at].strip() if at < len(line) else "" for at in (at_gene, at_class))
        if not gene and not name:
            continue
        if not gene or not name:
            missing = f"a class ({name!r}) but no gene" if name else f"a gene ({gene!r}) but no class"
            msg = f'Line {number} of "{path}" has {missing}. Fill it in, or delete the line.'
            raise GeneListError(msg)
        classes.setdefault(name, []).append(gene)
    return classes


def _from_csv(text: str, path: Path) -> dict[str, list[str]]:
    return _from_table(text, path, delimiter=",")


def _from_tsv(text: str, path: Path) -> dict[str, list[str]]:
    return _from_table(text, path, delimiter="\t")


def _from_toml(text: str, path: Path) -> dict[str, list[str]]:
    return _checked(tomllib.loads(text), path)


def _from_json(text: str, path: Path) -> dict[str, list[str]]:
    return _checked(json.loads(text, object_pairs_hook=_each_once), path)


def _each_once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """An object; JSON itself would drop the first of two lists of one name."""
    names = [name for name, _ in pairs]
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        msg = f"{twice[0]!r} is there twice"
        raise ValueError(msg)
    return dict(pairs)


def _checked(content: Any, path: Path) -> dict[str, list[str]]:
    if not isinstance(content, dict):
        msg = f'"{path}" holds a {type(content).__name__}; it takes a list of genes for every class.'
        raise GeneListError(msg)
    for name, genes in content.items():
        if not isinstance(genes, list) or not all(isinstance(gene, str) for gene in genes):
            msg = f'Class {name!r} of "{path}" is not a list of names. Write {name} = ["GATA4", "TBX5"], or the like.'
            raise GeneListError(msg)
    return content


_READERS: dict[str, Callable[[str, Path], dict[str, list[str]]]] = {
    ".csv": _from_csv, ".tsv": _from_tsv, ".txt": _from_tsv, ".toml": _from_toml, ".json": _from_json,
}  # fmt: skip
