"""`geneformer classify fit`: labeled cells in, a classifier out."""

import dataclasses
import json
import tomllib
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

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
from geneformer.errors import GeneListError, InputNotFoundError, UnreadableInputError, UnsupportedFormatError
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
"""The one figure that closing tables tell, by kind of report."""

Rows = list[tuple[str, object]]


def fit_into(output: Path, estimator: Any, *learnt: Any, resume: bool, overwrite: bool, **places: Any) -> None:
    """Fit a model and write its folder."""
    import shutil

    from geneformer.files.atomic import check_output

    check_output(output, overwrite=overwrite)
    whole = output.absolute()
    working = whole.with_name(f".{whole.name}.training")
    estimator.fit(*learnt, **places, output=working, resume=resume)
    estimator.save(output, overwrite=overwrite)
    shutil.rmtree(working, ignore_errors=True)


def fitted_rows(estimator: Any) -> Rows:
    """Lines of the closing table: how cells were split, what was trained, and how it did beside the baselines."""
    split = estimator.split_
    return [
        ("Cells", f"{split['train']:,} to learn, {split['valid']:,} to choose, {split['test']:,} to test"),
        ("Split", split["method"]),
        *trained_rows(estimator),
    ]


def trained_rows(estimator: Any) -> Rows:
    """The same without the split."""
    share = estimator.result_.share
    return [
        ("Parameters trained", f"{share.trained:,} of {share.total:,} ({share.trained / share.total:.1%})"),
        ("Optimizer steps", estimator.result_.steps),
        *((name, f"{value:.4f}") for name, value in estimator.metrics_.items()),
        *compared_rows(estimator.report_),
    ]


def trained_figures(estimator: Any) -> dict[str, Any]:
    """What was trained and how it did, for programs."""
    return {
        "steps": estimator.result_.steps,
        "trained": estimator.result_.share.trained,
        "total": estimator.result_.share.total,
        "validation": estimator.metrics_,
        "test": report_figures(estimator.report_),
    }


def compared_rows(report: Any) -> Rows:
    """One figure of the model and of every baseline, for every task; none without a report."""
    from geneformer.finetuning.reports import metric_name

    rows: Rows = []
    for task, found in _by_task(report).items():
        figure = FIGURES[found.kind]
        for model, evaluation in {"this model": found.evaluation, **found.baselines}.items():
            told = ", ".join(filter(None, (f"Test {metric_name(figure)}", task, model)))
            rows.append((told, str(evaluation.metrics[figure])))
    return rows


def report_figures(report: Any) -> dict[str, Any] | None:
    """All figures of a model with their intervals; of several tasks, by task."""
    if report is None:
        return None
    found = {task: one.evaluation.to_dict()["metrics"] for task, one in _by_task(report).items()}
    return found if isinstance(report, dict) else found[""]


def check_report_folder(output: Path, *, overwrite: bool) -> None:
    """Refuse a place that a report cannot go to, before anything is computed."""
    from geneformer.files.atomic import check_output
    from geneformer.finetuning.reports import CONTENT, REPORT

    check_output(output, overwrite=overwrite, markers=(REPORT, CONTENT))


def save_report(report: Any, output: Path, *, overwrite: bool) -> Outcome:
    """Write the report of an evaluation, and tell its figures."""
    from geneformer.finetuning.reports import metric_name

    report.save(output, overwrite=overwrite)
    rows: Rows = [
        (", ".join(filter(None, (task, metric_name(name)))), str(value))
        for task, found in _by_task(report).items()
        for name, value in found.evaluation.metrics.items()
    ]
    return Outcome(f"Report in {output}", rows, {"output": str(output), "metrics": report_figures(report)})


def _by_task(report: Any) -> dict[str, Any]:
    """Reports by task; a single one has no task."""
    if report is None:
        return {}
    return report if isinstance(report, dict) else {"": report}


@with_options(hide=HIDDEN)
def classify_fit(  # noqa: PLR0913
    inputs: Annotated[list[Path], INPUTS],
    *,
    label: Annotated[str, LABEL],
    output: Annotated[Path, FOLDER],
    model: Annotated[str, MODEL] = "mini",
    vocabulary: Annotated[str | None, VOCABULARY] = None,
    groups: Annotated[str | None, GROUPS] = None,
    ids: Annotated[str | None, IDS] = None,
    counts_layer: Annotated[str | None, COUNTS_LAYER] = None,
    gene_ids: Annotated[str | None, GENE_IDS] = None,
    finetuning: FinetuneOptions,
    classify: ClassifyOptions,
    split: SplitOptions,
    runtime: RuntimeOptions,
    resume: Annotated[bool, RESUME] = False,
    overwrite: Annotated[bool, OVERWRITE] = False,
) -> Outcome:
    """Fine-tune a pretrained model to tell classes of cells apart."""
    from geneformer.finetuning.estimators import CellClassifier

    options = one_seed(finetuning, split, runtime)
    classifier = CellClassifier(model, vocabulary=vocabulary, classify=classify, **options)
    places = {"groups": groups, "ids": ids, "counts_layer": counts_layer, "gene_ids": gene_ids}
    fit_into(output, classifier, inputs, label, **places, resume=resume, overwrite=overwrite)
    return Outcome(f"Classifier in {output}", summary(classifier), {"output": str(output), **figures(classifier)})


def summary(classifier: Any) -> list[tuple[str, object]]:
    """Lines of the closing table: what was trained, on how much, and how it did beside the baselines."""
    return [("Classes", ", ".join(classifier.classes_)), *fitted_rows(classifier)]


def figures(classifier: Any) -> dict[str, Any]:
    """The same for programs."""
    return {"classes": list(classifier.classes_), "split": classifier.split_, **trained_figures(classifier)}


@with_options()
def classify_predict(
    inputs: Annotated[list[Path], INPUTS],
    *,
    model: Annotated[Path, FITTED],
    output: Annotated[Path, CELLS_FILE],
    unknown_below: Annotated[float | None, UNKNOWN] = None,
    counts_layer: Annotated[str | None, COUNTS_LAYER] = None,
    gene_ids: Annotated[str | None, GENE_IDS] = None,
    runtime: RuntimeOptions,
    overwrite: Annotated[bool, OVERWRITE] = False,
) -> Outcome:
    """Tell the classes of cells."""
    import numpy as np

    from geneformer.files.atomic import check_output
    from geneformer.finetuning.estimator import cell_table
    from geneformer.finetuning.estimators import CellClassifier
    from geneformer.finetuning.reports import SUFFIXES, CellPredictions
    from geneformer.inference.tables import check_suffix
    from geneformer.options._fields import check_range

    check_output(check_suffix(output, SUFFIXES), overwrite=overwrite)
    check_range("unknown_below", unknown_below, low=0.0, high=1.0)
    classifier = CellClassifier.load(model, runtime=runtime)
    opened = classifier.open(inputs, counts_layer=counts_layer, gene_ids=gene_ids)
    proba = opened.spread(classifier.probabilities(opened), np.nan)
    result = CellPredictions(
        cell_table(opened),
        str(classifier.label_),
        tuple(classifier.classes_ or ()),
        classifier.name_classes(proba, unknown_below),
        proba,
        classifier.provenance,
    )
    result.save(output, overwrite=overwrite)
    rows = [(name, count) for name, count in result.counts().items()]
    return Outcome(f"Predictions in {output}", rows, {"output": str(output), "counts": result.counts()})


LEARNT_LABEL = typer.Option("--label", "-l", help="Column of obs with the classes; the one learnt from by default.")


@with_options()
def classify_evaluate(
    inputs: Annotated[list[Path], INPUTS],
    *,
    model: Annotated[Path, FITTED],
    output: Annotated[Path, REPORT],
    label: Annotated[str | None, LEARNT_LABEL] = None,
    groups: Annotated[str | None, RESAMPLED] = None,
    counts_layer: Annotated[str | None, COUNTS_LAYER] = None,
    gene_ids: Annotated[str | None, GENE_IDS] = None,
    runtime: RuntimeOptions,
    overwrite: Annotated[bool, OVERWRITE] = False,
) -> Outcome:
    """Score a fitted classifier on labeled cells it has not seen."""
    from geneformer.finetuning.estimators import CellClassifier

    check_report_folder(output, overwrite=overwrite)
    classifier = CellClassifier.load(model, runtime=runtime)
    report = classifier.evaluate(inputs, label, groups=groups, counts_layer=counts_layer, gene_ids=gene_ids)
    return save_report(report, output, overwrite=overwrite)


@with_options(hide=HIDDEN | {SplitOptions: OF_SPLITS})
def classify_cross_validate(  # noqa: PLR0913
    inputs: Annotated[list[Path], INPUTS],
    *,
    label: Annotated[str, LABEL],
    output: Annotated[Path, REPORT],
    folds: Annotated[int, FOLDS] = 5,
    model: Annotated[str, MODEL] = "mini",
    vocabulary: Annotated[str | None, VOCABULARY] = None,
    groups: Annotated[str | None, GROUPS] = None,
    counts_layer: Annotated[str | None, COUNTS_LAYER] = None,
    gene_ids: Annotated[str | None, GENE_IDS] = None,
    finetuning: FinetuneOptions,
    classify: ClassifyOptions,
    split: SplitOptions,
    runtime: RuntimeOptions,
    overwrite: Annotated[bool, OVERWRITE] = False,
) -> Outcome:
    """Fit once per fold, and score every cell by a classifier that has not seen it."""
    from geneformer.finetuning.cross_validation import cross_validate
    from geneformer.finetuning.estimators import CellClassifier

    check_report_folder(output, overwrite=overwrite)
    options = one_seed(finetuning, split, runtime)
    classifier = CellClassifier(model, vocabulary=vocabulary, classify=classify, **options)
    found = cross_validate(
        classifier, inputs, label, n_folds=folds, groups=groups, counts_layer=counts_layer, gene_ids=gene_ids
    )
    found.save(output, overwrite=overwrite)
    data = {
        "output": str(output),
        "folds": len(found.folds),
        "metrics": report_figures(found.report),
        "summary": found.to_dict()["summary"],
    }
    return Outcome(f"Report in {output}", _rows(found), data)


def _rows(found: Any) -> list[tuple[str, object]]:
    """Lines of the closing table: one figure of the model and of every baseline over the folds."""
    from geneformer.finetuning.reports import metric_name

    figure, summary = FIGURES[found.report.kind], found.summary()
    spread = summary[summary["metric"] == figure]
    return [
        ("Cells", found.report.evaluation.n),
        ("Folds", len(found.folds)),
        *(
            (f"Test {metric_name(figure)}, {row['model']}", f"{row['mean']:.4f} ± {row['sd']:.4f}")
            for row in spread.to_dict("records")
        ),
    ]


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
"""File of the trials beside a classifier."""


@with_options(hide=HIDDEN | {SearchOptions: ("seed",)})
def classify_search(  # noqa: PLR0913
    inputs: Annotated[list[Path], INPUTS],
    *,
    label: Annotated[str, LABEL],
    output: Annotated[Path | None, FITTED_FOLDER] = None,
    space: Annotated[Path | None, SPACE] = None,
    model: Annotated[str, MODEL] = "mini",
    vocabulary: Annotated[str | None, VOCABULARY] = None,
    groups: Annotated[str | None, GROUPS] = None,
    ids: Annotated[str | None, IDS] = None,
    counts_layer: Annotated[str | None, COUNTS_LAYER] = None,
    gene_ids: Annotated[str | None, GENE_IDS] = None,
    options: SearchOptions,
    finetuning: FinetuneOptions,
    classify: ClassifyOptions,
    split: SplitOptions,
    runtime: RuntimeOptions,
    overwrite: Annotated[bool, OVERWRITE] = False,
) -> Outcome:
    """Search for the best training options, and fit with them."""
    from geneformer.errors import OptionError
    from geneformer.files.atomic import check_output
    from geneformer.finetuning.estimators import CellClassifier
    from geneformer.finetuning.search import search

    if (output is None) != (options.refit == "none"):
        given = "no --output" if output is None else "--output"
        msg = f"{given} with --refit {options.refit}. Name a folder for the classifier, or fit none with --refit none."
        raise OptionError(msg)
    if output is not None:
        check_output(output, overwrite=overwrite)
    made: dict[str, Any] = {**one_seed(finetuning, split, runtime), "classify": classify}
    classifier = CellClassifier(model, vocabulary=vocabulary, **made)
    result = search(
        classifier,
        inputs,
        label,
        space=space,
        options=dataclasses.replace(options, seed=finetuning.seed),
        groups=groups,
        ids=ids,
        counts_layer=counts_layer,
        gene_ids=gene_ids,
    )
    if output is not None:
        result.estimator.save(output, overwrite=overwrite)
        result.trials.to_csv(output / TRIALS, index=False)
    return Outcome(_title(output, options), _classify_search_rows(result), _figures(result, output))


def _title(output: Path | None, options: SearchOptions) -> str:
    return f"Classifier in {output}" if output is not None else f"Study {options.study} in {options.storage}"


def _classify_search_rows(result: Any) -> list[tuple[str, object]]:
    """Lines of the closing table: the trials, the best of them, and how the classifier did."""
    states = result.trials["state"].value_counts()
    rows: list[tuple[str, object]] = [
        ("Trials", ", ".join(f"{count} {state}" for state, count in states.items())),
        (f"Best validation {result.metric}", f"{result.best_value:.4f}"),
        *((name, f"{value:.4g}" if isinstance(value, float) else value) for name, value in result.best_options.items()),
    ]
    return rows if result.estimator is None else rows + summary(result.estimator)


def _figures(result: Any, output: Path | None) -> dict[str, Any]:
    """The same for programs."""
    import math

    told = {
        "output": None if output is None else str(output),
        "metric": result.metric,
        "best_value": None if math.isnan(result.best_value) else result.best_value,
        "best_options": result.best_options,
        "trials": {str(state): int(count) for state, count in result.trials["state"].value_counts().items()},
    }
    return told if result.estimator is None else told | figures(result.estimator)


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
            found = ", ".join(map(repr, header)) or "nothing"
            msg = f'"{path}" must have one column "{name}", named in its first line; that holds {found}.'
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


@with_options(hide=HIDDEN | {FinetuneOptions: OF_CELLS})
def classify_genes_fit(  # noqa: PLR0913
    inputs: Annotated[list[Path], INPUTS],
    *,
    genes: Annotated[Path, GENES],
    output: Annotated[Path, FOLDER],
    model: Annotated[str, MODEL] = "mini",
    vocabulary: Annotated[str | None, VOCABULARY] = None,
    counts_layer: Annotated[str | None, COUNTS_LAYER] = None,
    gene_ids: Annotated[str | None, GENE_IDS] = None,
    finetuning: FinetuneOptions,
    classify: GeneClassifyOptions,
    runtime: RuntimeOptions,
    resume: Annotated[bool, RESUME] = False,
    overwrite: Annotated[bool, OVERWRITE] = False,
) -> Outcome:
    """Fine-tune a pretrained model to tell classes of genes apart."""
    listed = read_gene_file(genes)
    from geneformer.finetuning.estimators import GeneClassifier

    options = one_seed(finetuning, None, runtime)
    classifier = GeneClassifier(model, vocabulary=vocabulary, classify=classify, **options)
    places = {"counts_layer": counts_layer, "gene_ids": gene_ids}
    fit_into(output, classifier, inputs, listed, **places, resume=resume, overwrite=overwrite)
    parts = {name: len(members) for name, members in classifier.parts_.items()}
    known = {name: len(members) for name, members in classifier.gene_classes_.items()}
    left_out = {why: sum(map(len, lists.values())) for why, lists in classifier.left_out_.items()}
    rows: list[tuple[str, object]] = [
        ("Classes", ", ".join(f"{name} ({number:,} genes)" for name, number in known.items())),
        ("Genes", f"{parts['train']:,} to learn, {parts['valid']:,} to choose, {parts['test']:,} to test"),
        ("Left out", f"{left_out['unknown']:,} unknown to the vocabulary, {left_out['absent']:,} in no cell"),
        *trained_rows(classifier),
    ]
    data: dict[str, Any] = {"output": str(output), "classes": known, "parts": parts, "left_out": left_out}
    return Outcome(f"Classifier in {output}", rows, data | trained_figures(classifier))


@with_options()
def classify_genes_predict(
    inputs: Annotated[list[Path], INPUTS],
    *,
    model: Annotated[Path, FITTED],
    output: Annotated[Path, TABLE_FILE],
    counts_layer: Annotated[str | None, COUNTS_LAYER] = None,
    gene_ids: Annotated[str | None, GENE_IDS] = None,
    runtime: RuntimeOptions,
    overwrite: Annotated[bool, OVERWRITE] = False,
) -> Outcome:
    """Tell the classes of all genes."""
    from geneformer.files.atomic import check_output
    from geneformer.finetuning.estimators import GeneClassifier
    from geneformer.inference.tables import check_suffix, save_table

    check_output(check_suffix(output), overwrite=overwrite)
    classifier = GeneClassifier.load(model, runtime=runtime)
    table = classifier.predict(inputs, counts_layer=counts_layer, gene_ids=gene_ids)
    save_table(table, output, classifier.provenance, overwrite=overwrite)
    counts = {str(name): int(number) for name, number in table["predicted"].value_counts().items()}
    rows: list[tuple[str, object]] = [("Genes in the cells", sum(counts.values())), *counts.items()]
    return Outcome(f"Predictions in {output}", rows, {"output": str(output), "counts": counts})


@with_options(hide=HIDDEN | {FinetuneOptions: OF_CELLS, GeneClassifyOptions: ("test",)})
def classify_genes_cross_validate(  # noqa: PLR0913
    inputs: Annotated[list[Path], INPUTS],
    *,
    genes: Annotated[Path, GENES],
    output: Annotated[Path, REPORT],
    folds: Annotated[int, FOLDS] = 5,
    model: Annotated[str, MODEL] = "mini",
    vocabulary: Annotated[str | None, VOCABULARY] = None,
    counts_layer: Annotated[str | None, COUNTS_LAYER] = None,
    gene_ids: Annotated[str | None, GENE_IDS] = None,
    finetuning: FinetuneOptions,
    classify: GeneClassifyOptions,
    runtime: RuntimeOptions,
    overwrite: Annotated[bool, OVERWRITE] = False,
) -> Outcome:
    """Fit once per fold, and score every gene by a classifier that has not seen it."""
    listed = read_gene_file(genes)
    from geneformer.finetuning.estimators import GeneClassifier

    check_report_folder(output, overwrite=overwrite)
    options = one_seed(finetuning, None, runtime)
    classifier = GeneClassifier(model, vocabulary=vocabulary, classify=classify, **options)
    report = classifier.cross_validate(inputs, listed, folds, counts_layer=counts_layer, gene_ids=gene_ids)
    report.save(output, overwrite=overwrite)
    rows: list[tuple[str, object]] = [
        ("Genes", report.evaluation.n),
        ("Folds", len(report.evaluation.folds)),
        *compared_rows(report),
    ]
    data = {"output": str(output), "folds": len(report.evaluation.folds), "metrics": report_figures(report)}
    return Outcome(f"Report in {output}", rows, data)


@with_options(hide=HIDDEN | {FinetuneOptions: OF_CLASSES})
def regress_fit(  # noqa: PLR0913
    inputs: Annotated[list[Path], INPUTS],
    *,
    label: Annotated[str, NUMBER],
    output: Annotated[Path, FOLDER],
    model: Annotated[str, MODEL] = "mini",
    vocabulary: Annotated[str | None, VOCABULARY] = None,
    groups: Annotated[str | None, GROUPS] = None,
    ids: Annotated[str | None, IDS] = None,
    counts_layer: Annotated[str | None, COUNTS_LAYER] = None,
    gene_ids: Annotated[str | None, GENE_IDS] = None,
    finetuning: FinetuneOptions,
    regress: RegressOptions,
    split: SplitOptions,
    runtime: RuntimeOptions,
    resume: Annotated[bool, RESUME] = False,
    overwrite: Annotated[bool, OVERWRITE] = False,
) -> Outcome:
    """Fine-tune a pretrained model to tell a number of cells."""
    from geneformer.finetuning.estimators import CellRegressor

    options = one_seed(finetuning, split, runtime)
    regressor = CellRegressor(model, vocabulary=vocabulary, regress=regress, **options)
    places = {"groups": groups, "ids": ids, "counts_layer": counts_layer, "gene_ids": gene_ids}
    fit_into(output, regressor, inputs, label, **places, resume=resume, overwrite=overwrite)
    rows: list[tuple[str, object]] = [("Number", f"{label}, {regressor.loss_} loss"), *fitted_rows(regressor)]
    data = {"output": str(output), "label": label, "split": regressor.split_, **trained_figures(regressor)}
    return Outcome(f"Model in {output}", rows, data)


SPREAD = typer.Option("--with-spread", help="Also tell the standard deviation expected around each number.")


@with_options()
def regress_predict(
    inputs: Annotated[list[Path], INPUTS],
    *,
    model: Annotated[Path, FITTED],
    output: Annotated[Path, CELLS_FILE],
    with_spread: Annotated[bool, SPREAD] = False,
    counts_layer: Annotated[str | None, COUNTS_LAYER] = None,
    gene_ids: Annotated[str | None, GENE_IDS] = None,
    runtime: RuntimeOptions,
    overwrite: Annotated[bool, OVERWRITE] = False,
) -> Outcome:
    """Tell the numbers of cells."""
    from geneformer import keys
    from geneformer.files.atomic import check_output
    from geneformer.finetuning.estimators import CellRegressor
    from geneformer.finetuning.reports import SUFFIXES, save_cells
    from geneformer.inference.tables import check_suffix

    check_output(check_suffix(output, SUFFIXES), overwrite=overwrite)
    regressor = CellRegressor.load(model, runtime=runtime)
    opened = regressor.open(inputs, counts_layer=counts_layer, gene_ids=gene_ids)
    key = keys.predicted(str(regressor.label_))
    found: dict[str, Any] = {}
    if with_spread:
        found[key], found[f"{key}_spread"] = regressor.predict(opened, return_std=True)
    else:
        found[key] = regressor.predict(opened)
    found = {name: values[opened.rows] for name, values in found.items()}
    cells = opened.tokens.table.select(opened.tokens.columns)
    save_cells(cells, found, output, regressor.provenance, overwrite=overwrite)
    numbers = found[key]
    told = {"min": float(numbers.min()), "mean": float(numbers.mean()), "max": float(numbers.max())}
    rows: list[tuple[str, object]] = [
        ("Cells", len(numbers)),
        (str(regressor.label_), f"{told['min']:.4g} to {told['max']:.4g}, mean {told['mean']:.4g}"),
    ]
    return Outcome(f"Predictions in {output}", rows, {"output": str(output), "cells": len(numbers), **told})


LEARNT_NUMBER = typer.Option("--label", "-l", help="Column of obs with the numbers; the one learnt from by default.")


@with_options()
def regress_evaluate(
    inputs: Annotated[list[Path], INPUTS],
    *,
    model: Annotated[Path, FITTED],
    output: Annotated[Path, REPORT],
    label: Annotated[str | None, LEARNT_NUMBER] = None,
    groups: Annotated[str | None, RESAMPLED] = None,
    counts_layer: Annotated[str | None, COUNTS_LAYER] = None,
    gene_ids: Annotated[str | None, GENE_IDS] = None,
    runtime: RuntimeOptions,
    overwrite: Annotated[bool, OVERWRITE] = False,
) -> Outcome:
    """Score a fitted model on cells with numbers it has not seen."""
    from geneformer.finetuning.estimators import CellRegressor

    check_report_folder(output, overwrite=overwrite)
    regressor = CellRegressor.load(model, runtime=runtime)
    report = regressor.evaluate(inputs, label, groups=groups, counts_layer=counts_layer, gene_ids=gene_ids)
    return save_report(report, output, overwrite=overwrite)


@with_options(hide=HIDDEN)
def multi_task_fit(  # noqa: PLR0913
    inputs: Annotated[list[Path], INPUTS],
    *,
    label: Annotated[list[str], LABELS],
    output: Annotated[Path, FOLDER],
    model: Annotated[str, MODEL] = "mini",
    vocabulary: Annotated[str | None, VOCABULARY] = None,
    groups: Annotated[str | None, GROUPS] = None,
    ids: Annotated[str | None, IDS] = None,
    counts_layer: Annotated[str | None, COUNTS_LAYER] = None,
    gene_ids: Annotated[str | None, GENE_IDS] = None,
    finetuning: FinetuneOptions,
    multi_task: MultiTaskOptions,
    split: SplitOptions,
    runtime: RuntimeOptions,
    resume: Annotated[bool, RESUME] = False,
    overwrite: Annotated[bool, OVERWRITE] = False,
) -> Outcome:
    """Fine-tune a pretrained model to tell several columns of classes at once."""
    from geneformer.finetuning.estimators import MultiTaskClassifier

    options = one_seed(finetuning, split, runtime)
    classifier = MultiTaskClassifier(model, vocabulary=vocabulary, multi_task=multi_task, **options)
    places = {"groups": groups, "ids": ids, "counts_layer": counts_layer, "gene_ids": gene_ids}
    fit_into(output, classifier, inputs, label, **places, resume=resume, overwrite=overwrite)
    tasks = {name: list(classes) for name, classes in classifier.classes_.items()}
    rows: list[tuple[str, object]] = [
        *((f"Classes of {name}", ", ".join(classes)) for name, classes in tasks.items()),
        ("Task weights", ", ".join(f"{name} {weight:.3g}" for name, weight in classifier.task_weights_.items())),
        *fitted_rows(classifier),
    ]
    data = {
        "output": str(output),
        "classes": tasks,
        "task_weights": classifier.task_weights_,
        "split": classifier.split_,
        **trained_figures(classifier),
    }
    return Outcome(f"Classifier in {output}", rows, data)


@with_options()
def multi_task_predict(
    inputs: Annotated[list[Path], INPUTS],
    *,
    model: Annotated[Path, FITTED],
    output: Annotated[Path, CELLS_FILE],
    unknown_below: Annotated[float | None, UNKNOWN] = None,
    counts_layer: Annotated[str | None, COUNTS_LAYER] = None,
    gene_ids: Annotated[str | None, GENE_IDS] = None,
    runtime: RuntimeOptions,
    overwrite: Annotated[bool, OVERWRITE] = False,
) -> Outcome:
    """Tell the classes of cells in every task."""
    import pandas as pd

    from geneformer import keys
    from geneformer.files.atomic import check_output
    from geneformer.finetuning.estimators import MultiTaskClassifier
    from geneformer.finetuning.reports import SUFFIXES, save_cells
    from geneformer.inference.tables import check_suffix

    check_output(check_suffix(output, SUFFIXES), overwrite=overwrite)
    classifier = MultiTaskClassifier.load(model, runtime=runtime)
    opened = classifier.open(inputs, counts_layer=counts_layer, gene_ids=gene_ids)
    said = classifier.predict(opened, unknown_below=unknown_below).iloc[opened.rows]
    found: dict[str, Any] = {}
    counts: dict[str, dict[str, int]] = {}
    for task in classifier.classes_:
        key = keys.predicted(task)
        found |= {key: pd.Categorical(said[task]), f"{key}_probability": said[f"{task}_probability"].to_numpy()}
        counts[task] = {str(name): int(number) for name, number in said[task].value_counts().items()}
    cells = opened.tokens.table.select(opened.tokens.columns)
    save_cells(cells, found, output, classifier.provenance, overwrite=overwrite)
    rows = [(f"{task}: {name}", number) for task, numbers in counts.items() for name, number in numbers.items()]
    return Outcome(f"Predictions in {output}", rows, {"output": str(output), "counts": counts})


TASKS = typer.Option(
    "--label", "-l", help="Task to score, or TASK=COLUMN where its column has another name; once per task. All of them "
    "by default.", show_default=False,
)  # fmt: skip


@with_options()
def multi_task_evaluate(
    inputs: Annotated[list[Path], INPUTS],
    *,
    model: Annotated[Path, FITTED],
    output: Annotated[Path, REPORT],
    label: Annotated[list[str] | None, TASKS] = None,
    groups: Annotated[str | None, RESAMPLED] = None,
    counts_layer: Annotated[str | None, COUNTS_LAYER] = None,
    gene_ids: Annotated[str | None, GENE_IDS] = None,
    runtime: RuntimeOptions,
    overwrite: Annotated[bool, OVERWRITE] = False,
) -> Outcome:
    """Score a fitted classifier in every task, on labeled cells it has not seen."""
    from geneformer.finetuning.estimators import MultiTaskClassifier

    check_report_folder(output, overwrite=overwrite)
    classifier = MultiTaskClassifier.load(model, runtime=runtime)
    asked = dict(_column(entry, tuple(classifier.classes_)) for entry in label or classifier.classes_)
    report = classifier.evaluate(inputs, asked, groups=groups, counts_layer=counts_layer, gene_ids=gene_ids)
    return save_report(report, output, overwrite=overwrite)


def _column(entry: str, tasks: tuple[str, ...]) -> tuple[str, str]:
    """A task and its column; the name of a task may itself have an equals sign."""
    for task in tasks:
        if entry.startswith(f"{task}=") and len(entry) > len(task) + 1:
            return task, entry[len(task) + 1 :]
    return entry, entry


@with_options(hide=HIDDEN | {FinetuneOptions: OF_CLASSES + OF_SECOND_VIEWS})
def decode_expression_fit(  # noqa: PLR0913
    inputs: Annotated[list[Path], INPUTS],
    *,
    output: Annotated[Path, FOLDER],
    model: Annotated[str, MODEL] = "mini",
    vocabulary: Annotated[str | None, VOCABULARY] = None,
    groups: Annotated[str | None, GROUPS] = None,
    ids: Annotated[str | None, IDS] = None,
    counts_layer: Annotated[str | None, COUNTS_LAYER] = None,
    gene_ids: Annotated[str | None, GENE_IDS] = None,
    finetuning: FinetuneOptions,
    expression: ExpressionOptions,
    split: SplitOptions,
    runtime: RuntimeOptions,
    resume: Annotated[bool, RESUME] = False,
    overwrite: Annotated[bool, OVERWRITE] = False,
) -> Outcome:
    """Fine-tune a pretrained model to tell how much of each gene a cell expresses."""
    from geneformer.finetuning.estimators import ExpressionDecoder

    options = one_seed(finetuning, split, runtime)
    decoder = ExpressionDecoder(model, vocabulary=vocabulary, expression=expression, **options)
    places = {"groups": groups, "ids": ids, "counts_layer": counts_layer, "gene_ids": gene_ids}
    fit_into(output, decoder, inputs, **places, resume=resume, overwrite=overwrite)
    data = {"output": str(output), "split": decoder.split_, **trained_figures(decoder)}
    return Outcome(f"Decoder in {output}", fitted_rows(decoder), data)


DECODE_EXPRESSION_PREDICT_GENE = typer.Option(
    help="Gene to predict in every cell, as Ensembl id or symbol; once per gene. By default every gene in the cells "
    "that express it.",
    show_default=False,
)


@with_options()
def decode_expression_predict(
    inputs: Annotated[list[Path], INPUTS],
    *,
    model: Annotated[Path, FITTED],
    output: Annotated[Path, CELLS_FILE],
    gene: Annotated[list[str] | None, DECODE_EXPRESSION_PREDICT_GENE] = None,
    counts_layer: Annotated[str | None, COUNTS_LAYER] = None,
    gene_ids: Annotated[str | None, GENE_IDS] = None,
    runtime: RuntimeOptions,
    overwrite: Annotated[bool, OVERWRITE] = False,
) -> Outcome:
    """Tell values and ranks of genes in cells."""
    from geneformer.files.atomic import check_output
    from geneformer.finetuning.estimators import ExpressionDecoder
    from geneformer.finetuning.reports import SUFFIXES, save_expression
    from geneformer.inference.tables import check_suffix

    check_output(check_suffix(output, SUFFIXES), overwrite=overwrite)
    decoder = ExpressionDecoder.load(model, runtime=runtime)
    genes = list(dict.fromkeys(gene)) if gene else None
    places = {"counts_layer": counts_layer, "gene_ids": gene_ids}
    if output.suffix == ".h5ad":
        blocks = iter([decoder.predict(inputs, genes, **places)])
    else:
        blocks = decoder.predict_blocks(inputs, genes, cells_per_block=1024, **places)
    cells, values = save_expression(blocks, output, decoder.provenance, overwrite=overwrite)
    rows: list[tuple[str, object]] = [("Cells", cells), ("Values", values)]
    return Outcome(f"Predictions in {output}", rows, {"output": str(output), "cells": cells, "values": values})


@with_options()
def decode_expression_evaluate(
    inputs: Annotated[list[Path], INPUTS],
    *,
    model: Annotated[Path, FITTED],
    output: Annotated[Path, REPORT],
    groups: Annotated[str | None, RESAMPLED] = None,
    counts_layer: Annotated[str | None, COUNTS_LAYER] = None,
    gene_ids: Annotated[str | None, GENE_IDS] = None,
    runtime: RuntimeOptions,
    overwrite: Annotated[bool, OVERWRITE] = False,
) -> Outcome:
    """Score a fitted decoder on genes taken out of cells it has not seen."""
    from geneformer.finetuning.estimators import ExpressionDecoder

    check_report_folder(output, overwrite=overwrite)
    decoder = ExpressionDecoder.load(model, runtime=runtime)
    report = decoder.evaluate(inputs, groups=groups, counts_layer=counts_layer, gene_ids=gene_ids)
    return save_report(report, output, overwrite=overwrite)
