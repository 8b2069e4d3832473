"""The estimators of cells: classes, numbers, and several tasks at once; and all estimators by name."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Generic, Literal, Self, TypeVar, overload

import numpy as np
from numpy.typing import NDArray

from geneformer import keys
from geneformer.errors import CheckpointError, LabelError, OptionError, UnknownClassError
from geneformer.finetuning.estimator import CellEstimator, Estimator, read_folder
from geneformer.finetuning.expression_decoder import ExpressionDecoder
from geneformer.finetuning.gene_classifier import GeneClassifier
from geneformer.finetuning.predictions import cell_names, name_classes
from geneformer.finetuning.reports import ReportSet
from geneformer.finetuning.splits import Split
from geneformer.finetuning.targets import AnyOf, Encoded, Number, OneOf, encode_targets
from geneformer.inference.cells import CellInput, Cells
from geneformer.models.heads import GeneformerForCells
from geneformer.options import (
    ClassifyOptions,
    FinetuneOptions,
    MultiTaskOptions,
    RegressOptions,
    RuntimeOptions,
    SplitOptions,
)
from geneformer.options._fields import came_as, check_range

if TYPE_CHECKING:
    import pandas as pd

Floats = NDArray[np.float64]

Probabilities = TypeVar("Probabilities", Floats, dict[str, Floats])


class _Classifier(CellEstimator, Generic[Probabilities]):
    """Base of the estimators that predict classes of cells."""

    def probabilities(self, cells: Cells, network: GeneformerForCells | None = None) -> Probabilities:
        """Probabilities of the tokenized cells, ``(n, C)``; for each task where there are several."""
        outputs = self.outputs(cells, network=network)
        proba: Probabilities = self._one(
            {target.name: target.decode(outputs[target.name]) for target in self._targets()}
        )
        return proba

    def predict_proba(
        self,
        cells: CellInput,
        *,
        counts_layer: str | None = None,
        gene_ids: str | None = None,
        accept_normalized: bool = False,
    ) -> Probabilities:
        """Calibrated probability of every class, ``(n_cells, C)``, for each task where there are several.

        They are NaN for cells without a known gene.

        Parameters
        ----------
        cells
            AnnData with raw counts, tokens, or paths of either; no labels are needed.
        counts_layer, gene_ids, accept_normalized
            Where counts and gene identifiers are; whether values that are no raw counts are ranked all the same.
        """
        opened = self._open_fitted(cells, counts_layer, gene_ids, accept_normalized)
        proba = self.probabilities(opened)
        if isinstance(proba, dict):
            return {task: opened.spread(values, np.nan) for task, values in proba.items()}
        return opened.spread(proba, np.nan)


class CellClassifier(_Classifier[Floats]):
    """A pretrained encoder that learns classes of cells.

    Parameters
    ----------
    model
        Name ("mini", "V1-10M", …), checkpoint folder or hub repository to start from.
    vocabulary
        Needed only where the checkpoint does not name its own.
    finetuning, classify, split, runtime
        Options as objects.
    **changes
        Single options by keyword, such as `epochs=3`, `strategy="lora"`, `test=0.2`, `device="cpu"`.

    Attributes
    ----------
    classes_
        Names of the classes, in the order of the probabilities.
    report_
        Evaluation on the test part of the split, with the baselines.
    temperature_
        Divides the logits before they become probabilities.

    Examples
    --------
    >>> import geneformer as gf
    >>> from geneformer.datasets import pbmc3k
    >>> adata = pbmc3k()
    >>> adata = adata[adata.obs["cell_type"] != "unassigned"][:200].copy()
    >>> classifier = gf.CellClassifier(model="mini", max_steps=2, baselines="none", rare_below=9, progress=False)
    >>> classifier = classifier.fit(adata, "cell_type")
    >>> len(classifier.predict(adata))
    200
    """

    kind = "cell_classifier"
    option_kinds: ClassVar = {
        "finetuning": FinetuneOptions, "classify": ClassifyOptions, "split": SplitOptions, "runtime": RuntimeOptions,
    }  # fmt: skip
    task_fields = ("label_", "classes_", "multi_label_", "temperature_", "unknown_below_", "metrics_", "split_")

    classify: ClassifyOptions
    label_: str | None = None
    classes_: tuple[str, ...] | None = None
    multi_label_: bool = False
    temperature_: float = 1.0
    unknown_below_: float = 0.0

    def targets(self, cells: Cells, label: str, *, by_cell: bool = True) -> Encoded:
        """What is to be learnt about the tokenized cells; its `codes` are what they are split by."""
        chosen = self.classify
        target = (
            AnyOf(label, separator=chosen.separator)
            if chosen.multi_label
            else OneOf(label, rare_below=chosen.rare_below)
        )
        return encode_targets(
            {label: cells.column(label)},
            [target],
            max_cells=chosen.max_cells,
            max_cells_per_class=chosen.max_cells_per_class,
            seed=self.split.seed,
        )

    @property
    def validation_metrics(self) -> tuple[str, ...]:
        """Figures of the validation cells that a search can go by, the default last."""
        return (AnyOf if self.classify.multi_label else OneOf).metrics

    @property
    def baseline_proba_(self) -> Mapping[str, Floats]:
        """By baseline, its probabilities for the cells evaluated last, ``(n, C)``."""
        baselines: Mapping[str, Floats] = self._fitted("_evaluated").baseline_predictions
        return baselines

    def _describe(self) -> None:
        (target,) = self._training.encoded.targets.values()
        self.label_, self.classes_, self.temperature_ = target.name, target.classes, target.temperature
        self.multi_label_, self.unknown_below_ = self.classify.multi_label, self.classify.unknown_below

    def _targets(self) -> tuple[OneOf | AnyOf]:
        name, classes = str(self.label_), tuple(self.classes_ or ())
        if self.multi_label_:
            return (AnyOf(name, classes, self.classify.separator),)
        return (OneOf(name, classes, self.temperature_),)

    def predict(
        self,
        cells: CellInput,
        *,
        unknown_below: float | None = None,
        counts_layer: str | None = None,
        gene_ids: str | None = None,
        accept_normalized: bool = False,
    ) -> NDArray[Any]:
        """Most probable class of every cell, ``(n_cells,)``; "unknown" where even that one is too improbable.

        With several labels per cell, every label from 0.5 on is listed. Cells without a known gene are "unknown".

        Parameters
        ----------
        cells
            AnnData with raw counts, tokens, or paths of either; no labels are needed.
        unknown_below
            Probability a class must reach; as fitted by default. Of no effect with several labels per cell.
        counts_layer, gene_ids, accept_normalized
            Where counts and gene identifiers are; whether values that are no raw counts are ranked all the same.
        """
        proba = self.predict_proba(
            cells, counts_layer=counts_layer, gene_ids=gene_ids, accept_normalized=accept_normalized
        )
        return self.name_classes(proba, unknown_below)

    def name_classes(self, proba: NDArray[np.float64], unknown_below: float | None = None) -> NDArray[Any]:
        """Classes for probabilities, ``(n,)``; see `predict`."""
        check_range("unknown_below", unknown_below, low=0.0, high=1.0)
        least: float = self.unknown_below_ if unknown_below is None else unknown_below
        separator = self.classify.separator if self.multi_label_ else None
        return name_classes(proba, self._fitted("classes_"), least=least, separator=separator)


class CellRegressor(CellEstimator):
    """A pretrained encoder that learns a number of each cell.

    Parameters
    ----------
    model
        Name ("mini", "V1-10M", …), checkpoint folder or hub repository to start from.
    vocabulary
        Needed only where the checkpoint does not name its own.
    finetuning, regress, split, runtime
        Options as objects.
    **changes
        Single options by keyword, such as `loss="gaussian"`, `epochs=3`, `strategy="lora"`.

    Attributes
    ----------
    label_
        Column learnt.
    loss_
        What was minimized.
    scale_
        Between the numbers and the outputs of the network: a number is an output times `unit` plus `center`.
    report_
        Evaluation on the test part of the split, with the baselines.

    Examples
    --------
    >>> import geneformer as gf
    >>> from geneformer.datasets import pbmc3k
    >>> adata = pbmc3k()[:200].copy()
    >>> adata.obs["depth"] = adata.X.sum(axis=1)
    >>> regressor = gf.CellRegressor(model="mini", loss="gaussian", max_steps=2, baselines="none", progress=False)
    >>> numbers, spread = regressor.fit(adata, "depth").predict(adata, return_std=True)
    >>> numbers.shape, bool((spread > 0).all())
    ((200,), True)
    """

    kind = "cell_regressor"
    option_kinds: ClassVar = {
        "finetuning": FinetuneOptions, "regress": RegressOptions, "split": SplitOptions, "runtime": RuntimeOptions,
    }  # fmt: skip
    task_fields = ("label_", "loss_", "scale_", "metrics_", "split_")

    target_kind: ClassVar[type[Number]] = Number
    """What is asked about the column."""

    regress: RegressOptions
    label_: str | None = None
    loss_: str = "squared_error"
    scale_: dict[str, float]

    def targets(self, cells: Cells, label: str, *, by_cell: bool = True) -> Encoded:
        """What is to be learnt about the tokenized cells; its `codes` are what they are split by."""
        return encode_targets(
            {label: cells.column(label)},
            [self.target_kind(label, self.regress)],
            by_cell=by_cell and self.split.method in ("auto", "stratified"),
            max_cells=self.regress.max_cells,
            seed=self.split.seed,
        )

    @property
    def baseline_numbers_(self) -> Mapping[str, Floats]:
        """By baseline, its numbers for the cells evaluated last, ``(n,)``."""
        baselines: Mapping[str, Floats] = self._fitted("_evaluated").baseline_predictions
        return baselines

    def _describe(self) -> None:
        (target,) = self._training.encoded.targets.values()
        self.label_, self.loss_, self.scale_ = target.name, self.regress.loss, target.scale

    def _targets(self) -> tuple[Number]:
        return (self.target_kind(str(self.label_), self.regress, **self.scale_),)

    def numbers(self, cells: Cells, network: GeneformerForCells | None = None) -> tuple[Floats, Floats | None]:
        """Predicted numbers of the tokenized cells and their standard deviation, where the loss has one, ``(n,)``."""
        (target,) = self._targets()
        outputs = self.outputs(cells, network=network)[target.name]
        return target.decode(outputs), target.deviation(outputs)

    @overload
    def predict(
        self,
        cells: CellInput,
        *,
        return_std: Literal[False] = False,
        counts_layer: str | None = None,
        gene_ids: str | None = None,
        accept_normalized: bool = False,
    ) -> Floats: ...

    @overload
    def predict(
        self,
        cells: CellInput,
        *,
        return_std: Literal[True],
        counts_layer: str | None = None,
        gene_ids: str | None = None,
        accept_normalized: bool = False,
    ) -> tuple[Floats, Floats]: ...

    def predict(
        self,
        cells: CellInput,
        *,
        return_std: bool = False,
        counts_layer: str | None = None,
        gene_ids: str | None = None,
        accept_normalized: bool = False,
    ) -> Floats | tuple[Floats, Floats]:
        """Predicted number of every cell, ``(n_cells,)``; NaN for cells without a known gene.

        Parameters
        ----------
        cells
            AnnData with raw counts, tokens, or paths of either; no labels are needed.
        return_std
            Also return the standard deviation that the model expects around each number, ``(n_cells,)``.
        counts_layer, gene_ids, accept_normalized
            Where counts and gene identifiers are; whether values that are no raw counts are ranked all the same.

        Raises
        ------
        OptionError
            A standard deviation of a loss that has none.
        """
        self._fitted("network_")
        if return_std and self.loss_ == "squared_error":
            msg = (
                '--with-spread (return_std=True), but loss="squared_error" learns no spread. Fit with loss="gaussian", '
                'or "poisson" or "negative_binomial" for counts.'
            )
            raise OptionError(msg)
        opened = self.open(cells, counts_layer=counts_layer, gene_ids=gene_ids, accept_normalized=accept_normalized)
        mean, deviation = self.numbers(opened)
        if deviation is None or not return_std:
            return opened.spread(mean, np.nan)
        return opened.spread(mean, np.nan), opened.spread(deviation, np.nan)


class MultiTaskClassifier(_Classifier[dict[str, Floats]]):
    """A pretrained encoder that learns several columns of labels at once, with a head for each.

    Parameters
    ----------
    model
        Name ("mini", "V1-10M", …), checkpoint folder or hub repository to start from.
    vocabulary
        Needed only where the checkpoint does not name its own.
    finetuning, multi_task, split, runtime
        Options as objects.
    **changes
        Single options by keyword, such as `epochs=3`, `pooling="attention"`, `learn_task_weights=True`.

    Attributes
    ----------
    tasks_
        Columns learnt, in the order of the heads.
    classes_
        Names of the classes of every task, in the order of the probabilities.
    task_weights_
        Weight of every task's loss; where learnt, as it was in the end.
    temperatures_
        Divides the logits of every task before they become probabilities.
    report_
        Evaluation of every task on the test part of the split, with the baselines.

    Examples
    --------
    >>> import geneformer as gf
    >>> from geneformer.datasets import pbmc3k
    >>> adata = pbmc3k()[:200].copy()
    >>> adata.obs["depth"] = ["deep" if n > 2000 else "shallow" for n in adata.X.sum(axis=1)]
    >>> tasks = gf.MultiTaskClassifier(model="mini", max_steps=2, baselines="none", progress=False)
    >>> tasks = tasks.fit(adata, ["cell_type", "depth"])
    >>> list(tasks.predict(adata).columns)
    ['cell_type', 'cell_type_probability', 'depth', 'depth_probability']
    """

    kind = "multi_task_classifier"
    option_kinds: ClassVar = {
        "finetuning": FinetuneOptions, "multi_task": MultiTaskOptions, "split": SplitOptions, "runtime": RuntimeOptions,
    }  # fmt: skip
    task_fields = ("tasks_", "classes_", "task_weights_", "temperatures_", "unknown_below_", "metrics_", "split_")

    multi_task: MultiTaskOptions
    tasks_: tuple[str, ...] | None = None
    classes_: dict[str, tuple[str, ...]]
    task_weights_: dict[str, float]
    temperatures_: dict[str, float]
    unknown_below_: float = 0.0
    validation_metrics = OneOf.metrics
    several = True

    def fit(  # noqa: PLR0913  several columns
        self,
        cells: CellInput,
        labels: Sequence[str],
        *,
        groups: str | None = None,
        ids: str | None = None,
        split_rows: Split | None = None,
        counts_layer: str | None = None,
        gene_ids: str | None = None,
        accept_normalized: bool = False,
        deleted_genes: NDArray[Any] | None = None,
        output: str | Path | None = None,
        resume: bool = False,
        callbacks: Any = (),
    ) -> Self:
        """Learn the classes in several columns of `obs`, and evaluate on the test part of the split.

        A cell is used if it has a label in at least one of the columns; it teaches the tasks it has one for.

        Parameters
        ----------
        cells
            AnnData with raw counts, tokens, or paths of either.
        labels
            Columns with the classes, one per task.
        groups
            Column of donors, batches or the like; no group is on two sides of the split. Without it, the parts have
            the same shares of every combination of labels.
        ids, split_rows, counts_layer, gene_ids, deleted_genes, output, resume, callbacks
            As `CellClassifier.fit` takes them.

        Raises
        ------
        LabelError
            Labels or split cannot be used: missing, constant, unknown, leaking.
        OptionError
            Another number of task weights than of tasks; or genes to delete, but no contrastive term.
        CountsError, PairingError
            The cells cannot be used with the model.
        """
        weights = self.multi_task.task_weights
        if not isinstance(labels, str | Sequence) or not all(isinstance(name, str) for name in labels):
            msg = f"{came_as('labels', labels)}. Pass names of columns, one per task."
            raise OptionError(msg)
        tasks = (labels,) if isinstance(labels, str) else tuple(labels)
        if len(set(tasks)) < len(tasks):
            msg = f"The labels {list(tasks)} name a column twice. Name each one once."
            raise LabelError(msg)
        if weights and len(weights) != len(tasks):
            msg = f"task_weights={weights} has {len(weights)} weights for {len(tasks)} tasks. Give one for each task."
            raise OptionError(msg)
        return super().fit(
            cells, tasks, groups=groups, ids=ids, split_rows=split_rows, counts_layer=counts_layer, gene_ids=gene_ids,
            accept_normalized=accept_normalized, deleted_genes=deleted_genes, output=output, resume=resume,
            callbacks=callbacks,
        )  # fmt: skip

    def targets(self, cells: Cells, labels: Sequence[str], *, by_cell: bool = True) -> Encoded:
        """What is to be learnt about the tokenized cells; its `codes` are what they are split by."""
        return encode_targets(
            {name: cells.column(name) for name in labels},
            [OneOf(name, rare_below=self.multi_task.rare_below) for name in labels],
            max_cells=self.multi_task.max_cells,
            seed=self.split.seed,
        )

    def split_options(self, groups: str | None) -> SplitOptions:
        """Combinations of labels are often rare, and no reason to split at random."""
        if groups is None and self.split.method == "auto":
            return replace(self.split, method="stratified")
        return self.split

    def _describe(self) -> None:
        targets = self._training.encoded.targets
        self.tasks_ = tuple(targets)
        self.classes_ = {name: target.classes for name, target in targets.items()}
        self.temperatures_ = {name: target.temperature for name, target in targets.items()}
        self.task_weights_ = dict(zip(targets, self.network_.weights_now(), strict=True))
        self.unknown_below_ = self.multi_task.unknown_below

    def _targets(self) -> tuple[OneOf, ...]:
        return tuple(OneOf(name, self.classes_[name], self.temperatures_[name]) for name in self.tasks_ or ())

    def _loss_options(self) -> dict[str, Any]:
        chosen = self.multi_task
        return {"task_weights": chosen.task_weights or None, "learn_task_weights": chosen.learn_task_weights}

    def _shared_settings(self) -> dict[str, Any]:
        return {"tasks": self.tasks_, "task_weights": self.task_weights_}

    def predict(
        self,
        cells: CellInput,
        *,
        unknown_below: float | None = None,
        counts_layer: str | None = None,
        gene_ids: str | None = None,
        accept_normalized: bool = False,
    ) -> "pd.DataFrame":
        """Most probable class of every cell and its probability: columns `<task>` and `<task>_probability`.

        A class is "unknown" where even the best one is too improbable, or the cell has no known gene.

        Parameters
        ----------
        cells
            AnnData with raw counts, tokens, or paths of either; no labels are needed.
        unknown_below
            Probability a class must reach; as fitted by default.
        counts_layer, gene_ids, accept_normalized
            Where counts and gene identifiers are; whether values that are no raw counts are ranked all the same.
        """
        import pandas as pd

        check_range("unknown_below", unknown_below, low=0.0, high=1.0)
        opened = self._open_fitted(cells, counts_layer, gene_ids, accept_normalized)
        least = self.unknown_below_ if unknown_below is None else unknown_below
        columns: dict[str, NDArray[Any]] = {}
        for name, proba in self.probabilities(opened).items():
            columns[name] = opened.spread(name_classes(proba, self.classes_[name], least=least), keys.UNKNOWN)
            columns[f"{name}_probability"] = opened.spread(proba.max(axis=1), np.nan)
        return pd.DataFrame(columns, index=pd.Index(cell_names(opened)))

    def evaluate(
        self,
        cells: CellInput,
        labels: "Sequence[str] | Mapping[str, str] | None" = None,
        *,
        groups: str | None = None,
        counts_layer: str | None = None,
        gene_ids: str | None = None,
        accept_normalized: bool = False,
    ) -> ReportSet:
        """A `ClassificationReport` per task on labeled cells, with the baselines if this was just fitted.

        Cells without a label that was learnt are left out of the task with a warning.

        Parameters
        ----------
        cells
            Cells that were not learnt from.
        labels
            Tasks to evaluate; or the column with the classes of each. All tasks, by their names, by default.
        groups
            Column of donors or the like, to resample whole groups for the intervals.
        counts_layer, gene_ids, accept_normalized
            Where counts and gene identifiers are; whether values that are no raw counts are ranked all the same.
        """
        tasks = self._fitted("tasks_")
        columns = labels if isinstance(labels, Mapping) else {name: name for name in labels or tasks}
        foreign = [name for name in columns if name not in tasks]
        if foreign:
            msg = f"{foreign[0]!r} is not a task of this classifier. Tasks are {', '.join(map(repr, tasks))}."
            raise UnknownClassError(msg)
        opened = self.open(cells, counts_layer=counts_layer, gene_ids=gene_ids, accept_normalized=accept_normalized)
        reports: ReportSet = self._evaluate_columns(opened, columns, groups)
        return reports

    @classmethod
    def load(cls, folder: str | Path, *, runtime: RuntimeOptions | None = None) -> Self:
        """An estimator as `save` wrote it, ready to predict; see `CellClassifier.load`."""
        loaded = super().load(folder, runtime=runtime)
        loaded.classes_ = {name: tuple(classes) for name, classes in loaded.classes_.items()}
        return loaded


ESTIMATORS: dict[str, type[Estimator]] = {
    estimator.kind: estimator
    for estimator in (CellClassifier, CellRegressor, ExpressionDecoder, GeneClassifier, MultiTaskClassifier)
}
"""Estimators by the kind a folder names."""


def load_classifier(folder: str | Path, *, runtime: RuntimeOptions | None = None) -> Any:
    """A fine-tuned model as its `save` wrote it: a `CellClassifier`, `GeneClassifier`, or whatever was saved.

    Parameters
    ----------
    folder
        Folder of a saved estimator.
    runtime
        Where and how it runs.

    Raises
    ------
    CheckpointError
        Not such a folder, or a damaged one.
    VocabularyMismatchError
        Network and vocabulary do not belong together.
    """
    kind = str(read_folder(folder).task["kind"])
    if kind not in ESTIMATORS:
        msg = f"{folder} holds a {kind!r}, which this release does not know. It knows {', '.join(sorted(ESTIMATORS))}."
        raise CheckpointError(msg)
    return ESTIMATORS[kind].load(folder, runtime=runtime)
