"""`gf.MultiTaskClassifier`: several columns of labels at once, with one encoder."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import numpy as np
from numpy.typing import NDArray

from geneformer.errors import LabelError, OptionError, UnknownClassError
from geneformer.estimators.cell_estimator import CellEstimator
from geneformer.estimators.cell_parts import (
    TWIN,
    UNKNOWN,
    cell_names,
    check_deleted,
    describe_parts,
    name_classes,
    part_of,
    without_pretraining,
)
from geneformer.estimators.cells import CellInput, Cells
from geneformer.estimators.multi_task_reports import Proba, TaskTraining, TestedCells, report_tasks
from geneformer.estimators.splitting import draw_rows, given_rows
from geneformer.models.cell_heads import GeneformerForCells, HeadSpec
from geneformer.options import FinetuneOptions, MultiTaskOptions, RuntimeOptions, SplitOptions
from geneformer.options._check import check_range
from geneformer.results.report_sets import ReportSet
from geneformer.runs.progress import progress_bar
from geneformer.tasks.calibration import expected_calibration_error, fit_temperature, softmax
from geneformer.tasks.cell_learning import learn_cells
from geneformer.tasks.finetuning import FinetuneResult
from geneformer.tasks.splits import Split
from geneformer.tasks.task_labels import TaskLabels, encode_tasks, known_tasks
from geneformer.vocab.vocabulary import Vocabulary

if TYPE_CHECKING:
    import pandas as pd


class MultiTaskClassifier(CellEstimator):
    """A pretrained encoder that learns several columns of labels at once, with a head for each.

    Parameters
    ----------
    model
        Name ("mini", "V1-10M", …), checkpoint folder or hub repository to start from.
    vocabulary
        Needed only where the checkpoint does not tell its own.
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
        Evaluation of every task on the test part of the split, beside the baselines.

    Examples
    --------
    >>> import geneformer as gf
    >>> from geneformer.demo.cells import pbmc3k
    >>> adata = pbmc3k()[:200].copy()
    >>> adata.obs["depth"] = ["deep" if n > 2000 else "shallow" for n in adata.X.sum(axis=1)]
    >>> tasks = gf.MultiTaskClassifier(model="mini", max_steps=2, baselines="none", progress=False)
    >>> tasks = tasks.fit(adata, ["cell_type", "depth"])
    >>> list(tasks.predict(adata).columns)
    ['cell_type', 'cell_type_probability', 'depth', 'depth_probability']
    """

    kind = "multi_task_classifier"
    task_fields = ("tasks_", "classes_", "task_weights_", "temperatures_", "unknown_below_", "metrics_", "split_")

    def __init__(
        self,
        model: str | Path = "mini",
        *,
        vocabulary: "str | Path | Vocabulary | None" = None,
        finetuning: FinetuneOptions | None = None,
        multi_task: MultiTaskOptions | None = None,
        split: SplitOptions | None = None,
        runtime: RuntimeOptions | None = None,
        **changes: Any,
    ) -> None:
        groups = {
            "finetuning": finetuning or FinetuneOptions(),
            "multi_task": multi_task or MultiTaskOptions(),
            "split": split or SplitOptions(),
            "runtime": runtime or RuntimeOptions(),
        }
        super().__init__(model, vocabulary, groups, changes)

    multi_task: MultiTaskOptions
    split: SplitOptions
    tasks_: tuple[str, ...] | None = None
    classes_: dict[str, tuple[str, ...]]
    task_weights_: dict[str, float]
    temperatures_: dict[str, float]
    unknown_below_: float = 0.0
    metrics_: dict[str, float]
    split_: dict[str, Any]
    _training: TaskTraining | None = None
    _twin: GeneformerForCells | None = None

    def fit(  # noqa: PLR0913  what the other estimators take
        self,
        cells: CellInput,
        labels: Sequence[str],
        *,
        groups: str | None = None,
        ids: str | None = None,
        split_rows: Split | None = None,
        counts_layer: str | None = None,
        gene_ids: str | None = None,
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
            Column of donors, batches or the like; no group is on two sides of the split. Without it, the parts have the
            same shares of every combination of labels.
        ids
            Column of the ids that `split.train_ids` and the others list, or that a balanced split draws; `groups` by
            default.
        split_rows
            Split of the tokenized cells to use instead of drawing one.
        counts_layer, gene_ids
            Where counts and gene identifiers are.
        deleted_genes
            Token ids deleted in the second views of the contrastive term, instead of a random share.
        output
            Folder for training checkpoints, from which a killed run can go on.
        resume
            Go on from there.
        callbacks
            Further callbacks of `transformers.Trainer`.

        Raises
        ------
        LabelError
            Labels or split cannot be used: missing, constant, unknown, leaking.
        OptionError
            Another number of task weights than of tasks; or genes to delete, but no contrastive term.
        CountsError, PairingError
            The cells cannot be used with the model.
        """
        tasks = self._tasks(labels)
        check_deleted(deleted_genes, self.finetuning)
        opened = self.open(cells, counts_layer=counts_layer, gene_ids=gene_ids)
        targets = self.targets(opened, tasks)
        donors = None if groups is None else np.asarray(opened.column(groups))
        if split_rows is None:
            parts = draw_rows(opened, targets.codes, self.split_options(groups), groups=groups, ids=ids or groups)
        else:
            parts = given_rows(split_rows, targets.codes, donors, self.split)
        targets.check_split(parts)
        self.network_, self._twin, self.report_ = None, None, None
        self.tasks_, self.classes_ = tasks, targets.classes
        self.unknown_below_ = self.multi_task.unknown_below
        counts = None if self.multi_task.baselines == "none" else opened.counts(self.base())
        self._training = TaskTraining(opened, parts, targets, donors, counts, deleted_genes)
        network, result = self._learn(self.finetuning, output, resume, callbacks)
        self._learnt(network, result, self.base())
        self._options = {name: asdict(getattr(self, name)) for name in ("finetuning", "multi_task", "split")}
        self.split_, self.metrics_ = describe_parts(parts, groups), dict(result.metrics)
        self.task_weights_ = dict(zip(tasks, network.weights_now(), strict=True))
        self._calibrate(opened, parts, targets)
        if len(parts.test):
            self.report_ = self._evaluate(opened, parts.test, targets.by_task, groups)
        return self

    def targets(self, cells: Cells, labels: Sequence[str]) -> TaskLabels:
        """What is to be learnt about the tokenized cells; its `codes` are what they are split by."""
        return encode_tasks(
            {name: cells.column(name) for name in labels},
            rare_below=self.multi_task.rare_below,
            max_cells=self.multi_task.max_cells,
            seed=self.split.seed,
        )

    def _tasks(self, labels: Sequence[str]) -> tuple[str, ...]:
        """The columns, checked against the weights."""
        tasks = (labels,) if isinstance(labels, str) else tuple(labels)
        if len(set(tasks)) < len(tasks):
            msg = f"labels={list(tasks)} names a column twice. Name each one once."
            raise LabelError(msg)
        weights = self.multi_task.task_weights
        if weights and len(weights) != len(tasks):
            msg = f"task_weights={weights} has {len(weights)} weights for {len(tasks)} tasks. Give one for each task."
            raise OptionError(msg)
        return tasks

    def split_options(self, groups: str | None) -> SplitOptions:
        """Combinations of labels are often rare, and no reason to split at random."""
        if groups is None and self.split.method == "auto":
            return replace(self.split, method="stratified")
        return self.split

    def _learn(
        self,
        options: FinetuneOptions,
        output: str | Path | None = None,
        resume: bool = False,
        callbacks: Any = (),
        title: str = "Training",
    ) -> tuple[GeneformerForCells, FinetuneResult]:
        """One network from the training part."""
        training: TaskTraining = self._fitted("_training")
        labels, split = training.labels, training.split
        with progress_bar(title, shown=self.runtime.progress) as update:
            return learn_cells(
                self.base(),
                training.cells.tokens,
                [HeadSpec(name=name, classes=classes) for name, classes in labels.classes.items()],
                labels.targets(),
                train_rows=split.train,
                valid_rows=split.valid,
                options=options,
                runtime=self.runtime,
                class_weights=labels.weights(split.train) if options.class_weights == "balanced" else None,
                task_weights=self.multi_task.task_weights or None,
                learn_task_weights=self.multi_task.learn_task_weights,
                deleted_genes=training.deleted_genes,
                output=None if output is None else Path(output),
                resume=resume,
                callbacks=callbacks,
                progress=update,
            )

    def _calibrate(self, cells: Cells, parts: Split, labels: TaskLabels) -> None:
        """A temperature per task from the validation cells."""
        self.temperatures_ = dict.fromkeys(self.tasks_ or (), 1.0)
        if not self.multi_task.calibrate or not len(parts.valid):
            return
        outputs = self.outputs(part_of(cells, parts.valid), progress=False)
        for name, codes in labels.by_task.items():
            known = codes[parts.valid] >= 0
            if not known.any():
                continue
            logits, truth = outputs[name][known].astype(np.float64), codes[parts.valid][known]
            self.temperatures_[name] = temperature = fit_temperature(logits, truth)
            self.metrics_ |= {
                f"{name}/calibration_error_before": expected_calibration_error(softmax(logits), truth),
                f"{name}/calibration_error": expected_calibration_error(softmax(logits, temperature), truth),
            }

    def probabilities(self, cells: Cells, network: GeneformerForCells | None = None) -> Proba:
        """Probabilities of the tokenized cells, ``(n, C)`` for every task."""
        outputs = self.outputs(cells, network=network)
        return {
            name: softmax(outputs[name].astype(np.float64), self.temperatures_[name]) for name in self._fitted("tasks_")
        }

    def predict_proba(self, cells: CellInput, *, counts_layer: str | None = None, gene_ids: str | None = None) -> Proba:
        """Calibrated probability of every class of every task, ``(n_cells, C)`` each; not a number for empty cells.

        Parameters
        ----------
        cells
            AnnData with raw counts, tokens, or paths of either; no labels are needed.
        counts_layer, gene_ids
            Where counts and gene identifiers are.
        """
        self._fitted("network_")
        opened = self.open(cells, counts_layer=counts_layer, gene_ids=gene_ids)
        return {name: opened.spread(proba, np.nan) for name, proba in self.probabilities(opened).items()}

    def predict(
        self,
        cells: CellInput,
        *,
        unknown_below: float | None = None,
        counts_layer: str | None = None,
        gene_ids: str | None = None,
    ) -> "pd.DataFrame":
        """Most probable class of every cell and its probability: columns `<task>` and `<task>_probability`.

        A class is "unknown" where even the best one is too improbable, or the cell has no known gene.

        Parameters
        ----------
        cells
            AnnData with raw counts, tokens, or paths of either; no labels are needed.
        unknown_below
            Probability a class must reach; as fitted by default.
        counts_layer, gene_ids
            Where counts and gene identifiers are.
        """
        import pandas as pd

        check_range("unknown_below", unknown_below, low=0.0, high=1.0)
        self._fitted("network_")
        opened = self.open(cells, counts_layer=counts_layer, gene_ids=gene_ids)
        least = self.unknown_below_ if unknown_below is None else unknown_below
        columns: dict[str, NDArray[Any]] = {}
        for name, proba in self.probabilities(opened).items():
            columns[name] = opened.spread(name_classes(proba, self.classes_[name], least=least), UNKNOWN)
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
    ) -> ReportSet:
        """A `ClassificationReport` per task on labeled cells, beside the baselines if this was just fitted.

        Cells without a label that was learnt are left out of the task and told of.

        Parameters
        ----------
        cells
            Cells that were not learnt from.
        labels
            Tasks to evaluate; or the column with the classes of each. All tasks, by their names, by default.
        groups
            Column of donors or the like, to resample whole groups for the intervals.
        counts_layer, gene_ids
            Where counts and gene identifiers are.
        """
        tasks = self._fitted("tasks_")
        asked = labels if isinstance(labels, Mapping) else {name: name for name in labels or tasks}
        foreign = [name for name in asked if name not in tasks]
        if foreign:
            msg = f"{foreign[0]!r} is not a task of this classifier. Tasks are {', '.join(map(repr, tasks))}."
            raise UnknownClassError(msg)
        opened = self.open(cells, counts_layer=counts_layer, gene_ids=gene_ids)
        codes = known_tasks({name: opened.column(column) for name, column in asked.items()}, self.classes_)
        return self._evaluate(opened, np.arange(len(opened.tokens)), codes, groups)

    def _evaluate(
        self, cells: Cells, rows: NDArray[np.int64], codes: Mapping[str, NDArray[np.int64]], groups: str | None
    ) -> ReportSet:
        """The reports on some of the cells."""
        rows = rows[np.any([values[rows] >= 0 for values in codes.values()], axis=0)]
        part = part_of(cells, rows)
        together = None if groups is None else np.asarray(cells.column(groups))[rows]
        shared = {"model": self.model, "tasks": self.tasks_, "task_weights": self.task_weights_, "split": self.split_}
        return report_tasks(
            TestedCells(cells, rows, codes, part.tokens.cell_ids, together),
            self.probabilities(part),
            self._twin_probabilities(part),
            self._training,
            self.base() if self._training is not None else self._fitted("_pairing"),
            classes=self.classes_,
            n_top_genes=self.multi_task.n_top_genes,
            seed=self.finetuning.seed,
            settings={
                name: {**shared, "label": name, "temperature": self.temperatures_[name], **self._options}
                for name in codes
            },
        )

    def _twin_probabilities(self, part: Cells) -> dict[str, Proba]:
        """What the same network with the same training says that did not start from the pretrained weights."""
        if self._training is None or self.multi_task.baselines != "all":
            return {}
        if self._twin is None:
            options = without_pretraining(self.finetuning)
            self._twin = self._learn(options, title="Training from random weights")[0]
        return {TWIN: self.probabilities(part, self._twin)}

    @classmethod
    def load(cls, folder: str | Path, *, runtime: RuntimeOptions | None = None) -> Self:
        """An estimator as `save` wrote it, ready to predict; see `CellEstimator.load`."""
        loaded = super().load(folder, runtime=runtime)
        loaded.classes_ = {name: tuple(classes) for name, classes in loaded.classes_.items()}
        return loaded
