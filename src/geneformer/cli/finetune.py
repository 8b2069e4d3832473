"""Commands of the estimators: fit, predict and evaluate them, and `classify search`."""

import math
import shutil
from collections import Counter
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from geneformer.cli._options import (
    AcceptNormalized,
    CellsFile,
    CountsLayer,
    Flags,
    GeneIds,
    Inputs,
    Model,
    Overwrite,
    TableFile,
    VocabularyName,
    flag,
    output_option,
    with_options,
)
from geneformer.cli._output import Outcome, Rows, written
from geneformer.cli._pictures import Pictures, check_pictures, given_pictures, picture, picture_rows
from geneformer.errors import (
    CheckpointError,
    OptionError,
    OutputExistsError,
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

if TYPE_CHECKING:
    from geneformer.inference.slots import Slots

HIDDEN: dict[type, tuple[str, ...]] = {RuntimeOptions: ("tokens_per_batch",), SplitOptions: ("seed",)}
"""Fields another options class has already; one seed and one size of batch serve all."""

OF_CLASSES = ("class_weights", "label_smoothing")
OF_SECOND_VIEWS = ("contrastive_weight", "contrastive_temperature", "contrastive_delete", "supervised_weight")
"""Fields of the training that have no effect where there are no classes, or no second views of cells."""

OF_CELLS = ("pooling", *OF_SECOND_VIEWS)
"""Fields that have no effect where genes are classified rather than cells."""

OF_SPLITS = tuple(field.name for field in fields(SplitOptions) if field.name != "valid")
"""Fields that have no effect where folds take the place of a split."""


def _label(text: str) -> Any:
    return flag(text, "--label", "-l")


ClassColumn = Annotated[str, _label("Column of obs with the classes.")]
Resume = Annotated[bool, flag("Go on with a run that was interrupted, from its last checkpoint.", "--resume")]
ModelFolder = Annotated[Path, output_option("DIR", "Folder of the fitted model.")]
ReportFolder = Annotated[Path, output_option("DIR", "Folder of the report.")]
Ids = Annotated[str | None, flag("Column of the ids that the split lists or draws; that of the groups by default.")]
Folds = Annotated[int, flag("Parts, each of which is tested once by a model that learnt from the others.")]
GeneFile = Annotated[
    Path,
    flag(
        'CSV or TSV with the columns "gene" and "class", TOML or JSON with a list of genes for every class, or GMT.',
        "--genes",
        metavar="FILE",
    ),
]
UnknownBelow = Annotated[float | None, flag('Cells whose best probability is lower are called "unknown".')]


@dataclass(frozen=True, kw_only=True)
class Places(Flags):
    """Where counts and gene identifiers are."""

    counts_layer: CountsLayer = None
    gene_ids: GeneIds = None
    accept_normalized: AcceptNormalized = False

    @property
    def places(self) -> dict[str, Any]:
        """The same as keywords of an estimator's methods."""
        return {
            "counts_layer": self.counts_layer,
            "gene_ids": self.gene_ids,
            "accept_normalized": self.accept_normalized,
        }


@dataclass(frozen=True, kw_only=True)
class Using(Places):
    """What every command takes that uses a fitted model."""

    model: Annotated[Path, flag("Folder of a fitted model.", "--model", "-m")]
    runtime: RuntimeOptions
    overwrite: Overwrite = False

    def load(self, estimator: str) -> Any:
        """The fitted estimator."""
        from geneformer.finetuning import estimators  # seconds: not before the checks

        return getattr(estimators, estimator).load(self.model, runtime=self.runtime)


@dataclass(frozen=True, kw_only=True)
class Predicting(Using):
    """What every command takes that predicts something of cells."""

    output: CellsFile

    def load(self, estimator: str) -> Any:
        """The fitted estimator; before, a file is refused that predictions cannot go to."""
        from geneformer.files.atomic import check_output
        from geneformer.inference.tables import SUFFIXES, check_suffix

        check_output(check_suffix(self.output, SUFFIXES), overwrite=self.overwrite)
        return super().load(estimator)


@dataclass(frozen=True, kw_only=True)
class PredictingCells(Predicting):
    """The same where cells get columns, and are drawn."""

    pictures: Pictures

    def load(self, estimator: str) -> Any:
        """The fitted estimator; before, what cannot be written is refused."""
        self.pictures.check(overwrite=self.overwrite)
        return super().load(estimator)

    def open(self, inputs: list[Path], estimator: Any, *added: str) -> tuple[Any, dict[str, Any]]:
        """The cells, and the genes to color by; other colors than these and columns, theirs or added, are refused."""
        from geneformer.inference.slots import Origin

        opened = estimator.open(inputs, **self.places)
        self.pictures.check_number(len(opened.tokens))
        origin = Origin.of(inputs, opened.input_rows, self.counts_layer)
        return opened, self.pictures.expressed([*opened.columns, *added], origin)

    def save(
        self, inputs: list[Path], estimator: Any, opened: Any, slots: "Slots", color: list[str], genes: dict[str, Any]
    ) -> Rows:
        """Write predictions beside everything the input holds, draw pictures, and say where things are."""
        from geneformer import keys
        from geneformer.finetuning.predictions import cell_table, save_cells
        from geneformer.inference.slots import Origin

        cells = cell_table(opened)
        origin = Origin.of(inputs, opened.input_rows, self.counts_layer)
        if self.pictures.paths:
            slots = slots.with_obsm(keys.EMBEDDING, estimator.embed(opened), estimator.provenance)
            slots = self.pictures.with_map(slots, keys.EMBEDDING, origin)
        save_cells(cells, slots, self.output, estimator.provenance, origin=origin, overwrite=self.overwrite)
        self.pictures.draw(opened.described(), slots, keys.EMBEDDING, origin, color, genes=genes)
        shown = slots.rows(origin) if self.output.suffix == ".h5ad" else []
        return [*shown, *picture_rows(self.pictures.paths)]


@dataclass(frozen=True, kw_only=True)
class Evaluating(Using):
    """What every command takes that scores a fitted model."""

    output: ReportFolder
    groups: Annotated[str | None, flag("Column of donors or the like, resampled whole for the intervals.")] = None

    def load(self, estimator: str) -> Any:
        """The fitted estimator; before, a folder is refused that a report cannot go to."""
        check_report_folder(self.output, overwrite=self.overwrite)
        return super().load(estimator)

    def evaluate(self, fitted: Any, cells: Any, *truth: Any) -> Outcome:
        """Score a model on new cells, write the report, and show its figures."""
        from geneformer.finetuning.evaluations import metric_name
        from geneformer.finetuning.reports import by_task

        report = fitted.evaluate(cells, *truth, groups=self.groups, **self.places)
        report.save(self.output, overwrite=self.overwrite)
        rows: Rows = [
            (", ".join(filter(None, (task, metric_name(name)))), str(value))
            for task, of_task in by_task(report).items()
            for name, value in of_task.evaluation.metrics.items()
        ]
        return written("Report", self.output, rows, metrics=report_figures(report))


@dataclass(frozen=True, kw_only=True)
class EvaluatingClasses(Evaluating):
    """The same for classes, which are drawn."""

    confusion: Annotated[Path | None, picture("the confusion matrix")] = None
    calibration: Annotated[Path | None, picture("the reliability curve of the probabilities")] = None
    umap: Annotated[Path | None, picture("maps of the cells by true and by predicted class")] = None

    def load(self, estimator: str) -> Any:
        """The fitted classifier; before, what cannot be written is refused."""
        check_pictures(self.paths, overwrite=self.overwrite)
        classifier = super().load(estimator)
        if self.paths and classifier.multi_label_:
            msg = f"--{next(iter(self.paths))} draws cells of one class each; this classifier gives several labels."
            raise OptionError(msg)
        return classifier

    @property
    def paths(self) -> dict[str, Path]:
        """Pictures that are asked for, by their kind."""
        return given_pictures(confusion=self.confusion, calibration=self.calibration, umap=self.umap)

    def draw(self, classifier: Any, opened: Any, label: str) -> Rows:
        """Draw what is asked for of the cells that were scored last."""
        from geneformer import keys, pl

        if self.confusion is not None:
            pl.confusion_matrix(self.output, save=self.confusion)
        if self.calibration is not None:
            pl.calibration(self.output, save=self.calibration)
        if self.umap is not None:
            adata = opened.described()
            adata.obsm[keys.EMBEDDING] = classifier.embed(opened)
            adata.obs[keys.predicted(label)] = classifier.predict(opened)
            pl.embedding(adata, color=[label, keys.predicted(label)], save=self.umap)
        return picture_rows(self.paths)


@dataclass(frozen=True, kw_only=True)
class Learning(Places):
    """What every command takes that trains."""

    model: Model = "mini"
    vocabulary: VocabularyName = None
    finetuning: FinetuneOptions
    runtime: RuntimeOptions
    overwrite: Overwrite = False

    def estimator(self, name: str, **options: Any) -> Any:
        """An estimator that is to be fitted; the seed and the size of a batch of the training hold everywhere."""
        from geneformer.finetuning import estimators

        runtime = replace(self.runtime, tokens_per_batch=self.finetuning.tokens_per_batch)
        options |= {"finetuning": self.finetuning, "runtime": runtime}
        return getattr(estimators, name)(self.model, vocabulary=self.vocabulary, **options)


@dataclass(frozen=True, kw_only=True)
class LearningCells(Learning):
    """The same where cells are split."""

    groups: Annotated[str | None, flag("Column of donors or batches; none is on two sides of the split.")] = None
    split: SplitOptions

    @property
    def places(self) -> dict[str, Any]:
        """Columns and layers that the fit reads."""
        return {**super().places, "groups": self.groups}

    def estimator(self, name: str, **options: Any) -> Any:
        """An estimator with the split, which has the seed of the training."""
        return super().estimator(name, split=replace(self.split, seed=self.finetuning.seed), **options)


@dataclass(frozen=True, kw_only=True)
class Fitting(Learning):
    """What every command takes that writes a fitted model."""

    output: ModelFolder
    resume: Resume = False

    def fit(self, estimator: str, *learnt: Any, **options: Any) -> Any:
        """Fit a model and write its folder."""
        from geneformer.files.atomic import check_output

        check_output(self.output, overwrite=self.overwrite)
        fitted = self.estimator(estimator, **options)
        target = self.output.absolute()
        working = target.with_name(f".{target.name}.training")
        if working.is_symlink() or (
            working.is_dir() and any(entry.name != "checkpoints" for entry in working.iterdir())
        ):
            msg = f'"{working}" is in the way: checkpoints go there, but other things are in it. Move it elsewhere.'
            raise OutputExistsError(msg)
        if target.is_dir() and _went_into(target, working):
            shutil.rmtree(working)
        fitted.fit(*learnt, **self.places, output=working, resume=self.resume)
        fitted.save(self.output, overwrite=self.overwrite)
        shutil.rmtree(working, ignore_errors=True)
        return fitted

    def outcome(self, what: str, fitted: Any, rows: Rows | None = None, **data: Any) -> Outcome:
        """What was fitted, how it was trained and how it did, for readers and for programs."""
        trained_rows, trained_data = training_summary(fitted)
        return written(what, self.output, (rows or []) + trained_rows, **data, **trained_data)


def _went_into(folder: Path, working: Path) -> bool:
    """Whether checkpoints are those of the finished model in a folder, left behind where the end was broken off."""
    from geneformer.engine.run_folder import has_checkpoints
    from geneformer.engine.training import last_stage
    from geneformer.files import read_json
    from geneformer.finetuning.estimator import HISTORY

    if not has_checkpoints(working) or not (folder / HISTORY).is_file():
        return False
    lines = last_stage(working).history
    return bool(lines) and read_json(folder / HISTORY, CheckpointError).get("history", [])[: len(lines)] == lines


@dataclass(frozen=True, kw_only=True)
class FittingCells(Fitting, LearningCells):
    """The same for a model of cells."""

    ids: Ids = None

    @property
    def places(self) -> dict[str, Any]:
        """Columns and layers that the fit reads."""
        return {**super().places, "ids": self.ids}


@with_options(
    "classify fit cells.h5ad --label cell_type -o classifier",
    "classify fit cells.h5ad -l disease --groups donor --strategy lora -o classifier",
    hide=HIDDEN,
)
def classify_fit(inputs: Inputs, *, label: ClassColumn, classify: ClassifyOptions, given: FittingCells) -> Outcome:
    """Fine-tune a pretrained model to tell classes of cells apart."""
    classifier = given.fit("CellClassifier", inputs, label, classify=classify)
    rows: Rows = [("Classes", ", ".join(classifier.classes_))]
    return given.outcome("Classifier", classifier, rows, classes=list(classifier.classes_))


@with_options(
    "regress fit cells.h5ad --label age --groups donor -o regressor",
    "regress fit cells.h5ad -l pseudotime --strategy head --epochs 3 -o regressor",
    hide=HIDDEN | {FinetuneOptions: OF_CLASSES},
)
def regress_fit(
    inputs: Inputs,
    *,
    label: Annotated[str, _label("Column of obs with the numbers.")],
    regress: RegressOptions,
    given: FittingCells,
) -> Outcome:
    """Fine-tune a pretrained model to predict a number of cells."""
    regressor = given.fit("CellRegressor", inputs, label, regress=regress)
    return given.outcome("Model", regressor, [("Number", f"{label}, {regressor.loss_} loss")], label=label)


@with_options(
    "multi-task fit cells.h5ad --label cell_type --label disease -o classifier",
    "multi-task fit cells.h5ad -l cell_type -l sex --groups donor --epochs 3 -o classifier",
    hide=HIDDEN,
)
def multi_task_fit(
    inputs: Inputs,
    *,
    label: Annotated[list[str], _label("Column of obs with the classes of one task; once per task.")],
    multi_task: MultiTaskOptions,
    given: FittingCells,
) -> Outcome:
    """Fine-tune a pretrained model to predict several columns of classes at once."""
    classifier = given.fit("MultiTaskClassifier", inputs, label, multi_task=multi_task)
    tasks = {name: list(classes) for name, classes in classifier.classes_.items()}
    weights = classifier.task_weights_
    rows: Rows = [(f"Classes of {name}", ", ".join(classes)) for name, classes in tasks.items()]
    rows += [("Task weights", ", ".join(f"{name} {weight:.3g}" for name, weight in weights.items()))]
    return given.outcome("Classifier", classifier, rows, classes=tasks, task_weights=weights)


@with_options(
    "decode-expression fit cells.h5ad -o decoder",
    "decode-expression fit cells.h5ad --groups donor --epochs 3 -o decoder",
    hide=HIDDEN | {FinetuneOptions: OF_CLASSES + OF_SECOND_VIEWS},
)
def decode_expression_fit(inputs: Inputs, *, expression: ExpressionOptions, given: FittingCells) -> Outcome:
    """Fine-tune a pretrained model to predict how much of each gene a cell expresses."""
    return given.outcome("Decoder", given.fit("ExpressionDecoder", inputs, expression=expression))


@with_options(
    "classify-genes fit cells.h5ad --genes classes.csv -o classifier",
    "classify-genes fit cells.h5ad --genes sets.gmt --strategy lora -o classifier",
    hide=HIDDEN | {FinetuneOptions: OF_CELLS},
)
def classify_genes_fit(inputs: Inputs, *, genes: GeneFile, classify: GeneClassifyOptions, given: Fitting) -> Outcome:
    """Fine-tune a pretrained model to tell classes of genes apart."""
    from geneformer.genes.lists import read_gene_file

    classifier = given.fit("GeneClassifier", inputs, read_gene_file(genes), classify=classify)
    parts = {name: len(members) for name, members in classifier.parts_.items()}
    classes = {name: len(members) for name, members in classifier.gene_classes_.items()}
    left_out = {why: sum(map(len, lists.values())) for why, lists in classifier.left_out_.items()}
    rows: Rows = [
        ("Classes", ", ".join(f"{name} ({number:,} genes)" for name, number in classes.items())),
        ("Genes", f"{parts['train']:,} to learn, {parts['valid']:,} to choose, {parts['test']:,} to test"),
        ("Left out", f"{left_out['unknown']:,} unknown to the vocabulary, {left_out['absent']:,} in no cell"),
    ]
    return given.outcome("Classifier", classifier, rows, classes=classes, parts=parts, left_out=left_out)


@with_options(
    "classify cross-validate cells.h5ad --label disease --groups donor -o report",
    "classify cross-validate cells.h5ad -l cell_type --folds 3 --baselines cheap -o report",
    hide=HIDDEN | {SplitOptions: OF_SPLITS},
)
def classify_cross_validate(
    inputs: Inputs,
    *,
    label: ClassColumn,
    output: ReportFolder,
    folds: Folds = 5,
    classify: ClassifyOptions,
    given: LearningCells,
) -> Outcome:
    """Fit once per fold, and score every cell by a classifier that has not seen it."""
    from geneformer.finetuning.evaluations import metric_name

    check_report_folder(output, overwrite=given.overwrite)
    from geneformer.finetuning.cross_validation import cross_validate

    classifier = given.estimator("CellClassifier", classify=classify)
    result = cross_validate(classifier, inputs, label, n_folds=folds, **given.places)
    result.save(output, overwrite=given.overwrite)
    report: Any = result.report
    figure, summary = report.evaluation.headline[0], result.summary()
    rows: Rows = [("Cells", report.evaluation.n), ("Folds", len(result.folds))]
    rows += [
        (f"Test {metric_name(figure)}, {row['model']}", f"{row['mean']:.4f} ± {row['sd']:.4f}")
        for row in summary[summary["metric"] == figure].to_dict("records")
    ]
    data = {"folds": len(result.folds), "metrics": report_figures(report), "summary": result.to_dict()["summary"]}
    return written("Report", output, rows, **data)


@with_options(
    "classify-genes cross-validate cells.h5ad --genes classes.csv -o report",
    "classify-genes cross-validate cells.h5ad --genes classes.toml --folds 3 -o report",
    hide=HIDDEN | {FinetuneOptions: OF_CELLS, GeneClassifyOptions: ("test",)},
)
def classify_genes_cross_validate(
    inputs: Inputs,
    *,
    genes: GeneFile,
    output: ReportFolder,
    folds: Folds = 5,
    classify: GeneClassifyOptions,
    given: Learning,
) -> Outcome:
    """Fit once per fold, and score every gene by a classifier that has not seen it."""
    from geneformer.genes.lists import read_gene_file

    lists = read_gene_file(genes)
    check_report_folder(output, overwrite=given.overwrite)
    classifier = given.estimator("GeneClassifier", classify=classify)
    report = classifier.cross_validate(inputs, lists, folds, **given.places)
    report.save(output, overwrite=given.overwrite)
    n_folds = len(report.evaluation.folds)
    rows: Rows = [("Genes", report.evaluation.n), ("Folds", n_folds), *compared_rows(report)]
    return written("Report", output, rows, folds=n_folds, metrics=report_figures(report))


@with_options(
    "classify search cells.h5ad --label cell_type --trials 20 -o best",
    "classify search cells.h5ad -l cell_type --space space.toml --refit none --storage trials.db",
    hide=HIDDEN | {SearchOptions: ("seed",)},
)
def classify_search(
    inputs: Inputs,
    *,
    label: ClassColumn,
    output: Annotated[Path | None, output_option("DIR", "Folder of the classifier and of trials.csv.")] = None,
    space: Annotated[
        Path | None,
        flag(
            "TOML file with the options to search, such as learning_rate = {low = 1e-5, high = 1e-2, log = true} "
            'or strategy = ["full", "lora"].',
            exists=True,
            dir_okay=False,
        ),
    ] = None,
    ids: Ids = None,
    options: SearchOptions,
    classify: ClassifyOptions,
    given: LearningCells,
) -> Outcome:
    """Search for the best training options, and fit with them.

    Several processes with the same --storage share the trials; give all but one --refit none.
    """
    from geneformer.files.atomic import check_output

    if (output is None) != (options.refit == "none"):
        what = "no --output" if output is None else "--output"
        msg = f"{what} with --refit {options.refit}. Name a folder for the classifier, or fit none with --refit none."
        raise OptionError(msg)
    if output is not None:
        check_output(output, overwrite=given.overwrite)
    from geneformer.finetuning.search import search

    classifier = given.estimator("CellClassifier", classify=classify)
    seeded = replace(options, seed=given.finetuning.seed)
    result = search(classifier, inputs, label, space=space, options=seeded, ids=ids, **given.places)
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
    result.estimator.save(output, overwrite=given.overwrite)
    result.trials.to_csv(output / "trials.csv", index=False)
    classes = list(result.estimator.classes_)
    trained_rows, trained_data = training_summary(result.estimator)
    rows += [("Classes", ", ".join(classes)), *trained_rows]
    return Outcome(f"Classifier in {output}", rows, data | {"classes": classes} | trained_data)


@with_options(
    "classify predict new.h5ad --model classifier -o predicted.h5ad",
    "classify predict new.h5ad -m classifier -o predicted.csv --unknown-below 0.5",
)
def classify_predict(inputs: Inputs, *, unknown_below: UnknownBelow = None, given: PredictingCells) -> Outcome:
    """Predict the classes of cells."""
    from geneformer import keys
    from geneformer.finetuning.predictions import class_slots
    from geneformer.options._fields import check_range

    check_range("unknown_below", unknown_below, low=0.0, high=1.0)
    classifier = given.load("CellClassifier")
    label = str(classifier.label_)
    key = keys.predicted(label)
    opened, genes = given.open(inputs, classifier, key, f"{key}_probability")
    proba = classifier.predict_proba(opened)
    named = classifier.name_classes(proba, unknown_below)
    slots = class_slots(
        label=label,
        classes=tuple(classifier.classes_),
        predicted=named,
        proba=proba,
        provenance=classifier.provenance,
    )
    places = given.save(inputs, classifier, opened, slots, [label, key], genes)
    counts = dict(Counter(sorted(named.tolist())).most_common())
    return written("Predictions", given.output, [*counts.items(), *places], counts=counts)


@with_options(
    "regress predict new.h5ad --model regressor -o ages.h5ad",
    "regress predict new.h5ad -m regressor -o ages.csv --with-spread",
)
def regress_predict(
    inputs: Inputs,
    *,
    with_spread: Annotated[
        bool, flag("Also predict the standard deviation expected around each number.", "--with-spread")
    ] = False,
    given: PredictingCells,
) -> Outcome:
    """Predict the numbers of cells."""
    from geneformer import keys
    from geneformer.inference.slots import Slots

    regressor = given.load("CellRegressor")
    key = keys.predicted(str(regressor.label_))
    opened, genes = given.open(inputs, regressor, key, *([f"{key}_spread"] if with_spread else []))
    values = regressor.predict(opened, return_std=with_spread)
    columns = dict(zip((key, f"{key}_spread"), values if with_spread else (values,), strict=False))
    slots = Slots(obs=columns, uns=dict.fromkeys(columns, regressor.provenance))
    places = given.save(inputs, regressor, opened, slots, [key], genes)
    numbers = columns[key][opened.rows]
    figures = {"min": float(numbers.min()), "mean": float(numbers.mean()), "max": float(numbers.max())}
    rows: Rows = [
        ("Cells", len(numbers)),
        (str(regressor.label_), f"{figures['min']:.4g} to {figures['max']:.4g}, mean {figures['mean']:.4g}"),
        *places,
    ]
    return written("Predictions", given.output, rows, cells=len(numbers), **figures)


@with_options(
    "multi-task predict new.h5ad --model classifier -o predicted.h5ad",
    "multi-task predict new.h5ad -m classifier -o predicted.csv --unknown-below 0.5",
)
def multi_task_predict(inputs: Inputs, *, unknown_below: UnknownBelow = None, given: PredictingCells) -> Outcome:
    """Predict the classes of cells in every task."""
    import pandas as pd

    from geneformer import keys
    from geneformer.inference.slots import Slots

    classifier = given.load("MultiTaskClassifier")
    slots_of_tasks = [keys.predicted(task) for task in classifier.classes_]
    opened, genes = given.open(inputs, classifier, *slots_of_tasks, *(f"{key}_probability" for key in slots_of_tasks))
    predicted = classifier.predict(opened, unknown_below=unknown_below)
    columns: dict[str, Any] = {}
    counts: dict[str, dict[str, int]] = {}
    for task in classifier.classes_:
        key = keys.predicted(task)
        probability = predicted[f"{task}_probability"].to_numpy()
        columns |= {key: pd.Categorical(predicted[task]), f"{key}_probability": probability}
        counts[task] = {
            str(name): int(number) for name, number in predicted[task].iloc[opened.rows].value_counts().items()
        }
    slots = Slots(obs=columns, uns=dict.fromkeys(columns, classifier.provenance))
    places = given.save(inputs, classifier, opened, slots, slots_of_tasks, genes)
    rows: Rows = [(f"{task}: {name}", number) for task, numbers in counts.items() for name, number in numbers.items()]
    return written("Predictions", given.output, [*rows, *places], counts=counts)


@with_options(
    "decode-expression predict new.h5ad --model decoder --gene ISG15,IFI6 -o values.csv",
    "decode-expression predict new.h5ad -m decoder -o values.h5ad",
)
def decode_expression_predict(
    inputs: Inputs,
    *,
    gene: Annotated[
        list[str] | None,
        flag(
            "Genes to predict in every cell, as Ensembl ids or symbols: GENE,GENE or a file. By default every gene "
            "in the cells that express it.",
            metavar="GENES",
        ),
    ] = None,
    given: Predicting,
) -> Outcome:
    """Predict values and ranks of genes in cells.

    An .h5ad has cells by genes, a table one row per cell and gene.
    """
    from geneformer.finetuning.predictions import save_expression
    from geneformer.genes.lists import named_genes

    decoder = given.load("ExpressionDecoder")
    genes = list(named_genes(gene)) if gene else None
    if given.output.suffix == ".h5ad":
        blocks = iter([decoder.predict(inputs, genes, **given.places)])
    else:
        blocks = decoder.predict_blocks(inputs, genes, cells_per_block=1024, **given.places)
    cells, values = save_expression(blocks, given.output, decoder.provenance, overwrite=given.overwrite)
    return written("Predictions", given.output, [("Cells", cells), ("Values", values)], cells=cells, values=values)


@with_options(
    "classify-genes predict cells.h5ad --model classifier -o genes.csv",
    "classify-genes predict cells.h5ad -m classifier -o genes.parquet --device cpu",
)
def classify_genes_predict(inputs: Inputs, *, output: TableFile, given: Using) -> Outcome:
    """Predict the classes of all genes.

    One row per gene of the vocabulary: the cells it occurs in, and its probabilities averaged over them.
    """
    from geneformer.files.atomic import check_output
    from geneformer.inference.tables import check_suffix, save_table

    check_output(check_suffix(output), overwrite=given.overwrite)
    classifier = given.load("GeneClassifier")
    table = classifier.predict(inputs, **given.places)
    save_table(table, output, classifier.provenance, overwrite=given.overwrite)
    counts = {str(name): int(number) for name, number in table["predicted"].value_counts().items()}
    rows: Rows = [("Genes in the cells", sum(counts.values())), *counts.items()]
    return written("Predictions", output, rows, counts=counts)


@with_options(
    "classify evaluate new.h5ad --model classifier -o report",
    "classify evaluate new.h5ad -m classifier --label kind --groups donor -o report",
)
def classify_evaluate(
    inputs: Inputs,
    *,
    label: Annotated[str | None, _label("Column of obs with the classes; the one learnt from by default.")] = None,
    given: EvaluatingClasses,
) -> Outcome:
    """Score a fitted classifier on labeled cells it has not seen."""
    classifier = given.load("CellClassifier")
    opened = classifier.open(inputs, **given.places) if given.paths else inputs
    outcome = given.evaluate(classifier, opened, label)
    return replace(outcome, rows=[*outcome.rows, *given.draw(classifier, opened, label or classifier.label_)])


@with_options(
    "regress evaluate new.h5ad --model regressor -o report",
    "regress evaluate new.h5ad -m regressor --label age --groups donor -o report",
)
def regress_evaluate(
    inputs: Inputs,
    *,
    label: Annotated[str | None, _label("Column of obs with the numbers; the one learnt from by default.")] = None,
    given: Evaluating,
) -> Outcome:
    """Score a fitted model on cells with numbers it has not seen."""
    return given.evaluate(given.load("CellRegressor"), inputs, label)


@with_options(
    "decode-expression evaluate new.h5ad --model decoder -o report",
    "decode-expression evaluate new.h5ad -m decoder --groups donor -o report",
)
def decode_expression_evaluate(inputs: Inputs, *, given: Evaluating) -> Outcome:
    """Score a fitted decoder on genes taken out of cells it has not seen."""
    return given.evaluate(given.load("ExpressionDecoder"), inputs)


@with_options(
    "multi-task evaluate new.h5ad --model classifier -o report",
    "multi-task evaluate new.h5ad -m classifier --label cell_type=kind -o report",
)
def multi_task_evaluate(
    inputs: Inputs,
    *,
    label: Annotated[
        list[str] | None,
        _label(
            "Task to score, or TASK=COLUMN where its column has another name; once per task. All of them by default."
        ),
    ] = None,
    given: Evaluating,
) -> Outcome:
    """Score a fitted classifier in every task, on labeled cells it has not seen."""
    classifier = given.load("MultiTaskClassifier")
    columns = dict(_column(entry, tuple(classifier.classes_)) for entry in label or classifier.classes_)
    return given.evaluate(classifier, inputs, columns)


def _column(entry: str, tasks: tuple[str, ...]) -> tuple[str, str]:
    """A task and its column; the name of a task may itself have an equals sign."""
    for task in tasks:
        if entry.startswith(f"{task}=") and len(entry) > len(task) + 1:
            return task, entry[len(task) + 1 :]
    return entry, entry


def training_summary(estimator: Any) -> tuple[Rows, dict[str, Any]]:
    """How cells were split, what was trained, and how it did next to the baselines, for readers and for programs."""
    share, steps = estimator.result_.share, estimator.result_.steps
    rows: Rows = []
    data: dict[str, Any] = {}
    if hasattr(estimator, "split_"):
        split = data["split"] = estimator.split_
        cells = f"{split['train']:,} to learn, {split['valid']:,} to choose, {split['test']:,} to test"
        rows = [("Cells", cells), ("Split", split["method"])]
    rows += [
        ("Parameters trained", f"{share.trained:,} of {share.total:,} ({share.trained / share.total:.1%})"),
        ("Optimizer steps", steps),
        *((name, f"{value:.4f}") for name, value in estimator.metrics_.items()),
        *compared_rows(estimator.report_),
    ]
    data |= {"steps": steps, "trained": share.trained, "total": share.total, "validation": estimator.metrics_}
    return rows, data | {"test": report_figures(estimator.report_)}


def compared_rows(report: Any) -> Rows:
    """One figure of the model and of every baseline, for every task; none without a report."""
    from geneformer.finetuning.evaluations import metric_name
    from geneformer.finetuning.reports import by_task

    rows: Rows = []
    for task, of_task in by_task(report).items():
        figure = of_task.evaluation.headline[0]
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
