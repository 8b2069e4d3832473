"""The estimators: classes of cells, numbers, several tasks at once, classes of genes, and expression."""

import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Self, overload

import numpy as np
from numpy.typing import NDArray

from geneformer.errors import (
    CheckpointError,
    GeneformerWarning,
    GeneListError,
    LabelError,
    OptionError,
    UnknownClassError,
)
from geneformer.finetuning.estimator import CellEstimator, Estimator, Pairing, Training, clone, read_folder
from geneformer.finetuning.expression_targets import (
    AdditiveModel,
    TestedGenes,
    UsualValues,
    check_counts,
    learn_expression,
    predict_expression,
    report_expression,
    take_genes_out,
)
from geneformer.finetuning.gene_targets import (
    GeneClasses,
    GeneFeatures,
    GenePrediction,
    HeldOutGenes,
    LabeledGenes,
    classify_genes_by_baselines,
    gene_features,
    learn_genes,
    open_genes,
    predict_genes,
    predict_held_out,
    report_genes,
)
from geneformer.finetuning.labels import cap_cells, capped
from geneformer.finetuning.predictions import UNKNOWN, cell_names, expression_anndata, name_classes
from geneformer.finetuning.reports import GENE, MODEL, N_CELLS, PROBABILITY, RANDOM, SYMBOL, GeneReport, ReportSet
from geneformer.finetuning.splits import Split, draw_gene_folds, split_genes
from geneformer.finetuning.targets import AnyOf, Encoded, Number, NumberScale, OneOf, Target, encode_targets
from geneformer.finetuning.training import FinetuneResult
from geneformer.genes.lookup import tokens_of_genes
from geneformer.inference.cells import CellInput, Cells, open_cells
from geneformer.models.heads import GeneformerForCells, GeneformerForExpression, GeneformerForGenes
from geneformer.options import (
    ClassifyOptions,
    ExpressionOptions,
    FinetuneOptions,
    GeneClassifyOptions,
    MultiTaskOptions,
    RegressOptions,
    RuntimeOptions,
    SplitOptions,
)
from geneformer.options._fields import check_range

if TYPE_CHECKING:
    import pandas as pd
    from anndata import AnnData

    from geneformer.genes.vocabulary import Vocabulary

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]


class CellClassifier(CellEstimator):
    """A pretrained encoder that learns classes of cells.

    Parameters
    ----------
    model
        Name ("mini", "V1-10M", …), checkpoint folder or hub repository to start from.
    vocabulary
        Needed only where the checkpoint does not tell its own.
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

    def __init__(
        self,
        model: str | Path = "mini",
        *,
        vocabulary: "str | Path | Vocabulary | None" = None,
        finetuning: FinetuneOptions | None = None,
        classify: ClassifyOptions | None = None,
        split: SplitOptions | None = None,
        runtime: RuntimeOptions | None = None,
        **changes: Any,
    ) -> None:
        super().__init__(
            model,
            vocabulary=vocabulary,
            finetuning=finetuning,
            classify=classify,
            split=split,
            runtime=runtime,
            **changes,
        )

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

    def _describe(self, encoded: Encoded) -> None:
        (target,) = encoded.targets.values()
        head = target.head
        self.label_, self.classes_, self.multi_label_ = head.name, head.classes, self.classify.multi_label
        self.temperature_ = target.temperature
        self.unknown_below_ = self.classify.unknown_below

    def _targets(self) -> tuple[Target, ...]:
        name, classes = str(self.label_), tuple(self.classes_ or ())
        if self.multi_label_:
            return (AnyOf(name, classes, self.classify.separator),)
        return (OneOf(name, classes, self.temperature_),)

    def probabilities(self, cells: Cells, network: GeneformerForCells | None = None) -> Floats:
        """Probabilities of the tokenized cells, ``(n, C)``."""
        (target,) = self._targets()
        return target.decode(self.outputs(cells, network=network)[target.name])

    def predict_proba(
        self, cells: CellInput, *, counts_layer: str | None = None, gene_ids: str | None = None
    ) -> NDArray[np.float64]:
        """Calibrated probability of every class, ``(n_cells, C)``; NaN for cells without a known gene.

        Parameters
        ----------
        cells
            AnnData with raw counts, tokens, or paths of either; no labels are needed.
        counts_layer, gene_ids
            Where counts and gene identifiers are.
        """
        self._fitted("network_")
        opened = self.open(cells, counts_layer=counts_layer, gene_ids=gene_ids)
        return opened.spread(self.probabilities(opened), np.nan)

    def predict(
        self,
        cells: CellInput,
        *,
        unknown_below: float | None = None,
        counts_layer: str | None = None,
        gene_ids: str | None = None,
    ) -> NDArray[Any]:
        """Most probable class of every cell, ``(n_cells,)``; "unknown" where even that one is too improbable.

        With several labels per cell, every label from 0.5 on is listed. Cells without a known gene are "unknown".

        Parameters
        ----------
        cells
            AnnData with raw counts, tokens, or paths of either; no labels are needed.
        unknown_below
            Probability a class must reach; as fitted by default. Of no effect with several labels per cell.
        counts_layer, gene_ids
            Where counts and gene identifiers are.
        """
        proba = self.predict_proba(cells, counts_layer=counts_layer, gene_ids=gene_ids)
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
        Needed only where the checkpoint does not tell its own.
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
        Between the numbers and the outputs of the network; see `NumberScale`.
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

    regress: RegressOptions
    label_: str | None = None
    loss_: str = "squared_error"
    scale_: dict[str, float]

    def __init__(
        self,
        model: str | Path = "mini",
        *,
        vocabulary: "str | Path | Vocabulary | None" = None,
        finetuning: FinetuneOptions | None = None,
        regress: RegressOptions | None = None,
        split: SplitOptions | None = None,
        runtime: RuntimeOptions | None = None,
        **changes: Any,
    ) -> None:
        super().__init__(
            model,
            vocabulary=vocabulary,
            finetuning=finetuning,
            regress=regress,
            split=split,
            runtime=runtime,
            **changes,
        )

    def targets(self, cells: Cells, label: str, *, by_cell: bool = True) -> Encoded:
        """What is to be learnt about the tokenized cells; its `codes` are what they are split by."""
        return encode_targets(
            {label: cells.column(label)},
            [Number(label, self.regress)],
            by_cell=by_cell and self.split.method in ("auto", "stratified"),
            max_cells=self.regress.max_cells,
            seed=self.split.seed,
        )

    @property
    def baseline_numbers_(self) -> Mapping[str, Floats]:
        """By baseline, its numbers for the cells evaluated last, ``(n,)``."""
        baselines: Mapping[str, Floats] = self._fitted("_evaluated").baseline_predictions
        return baselines

    def _describe(self, encoded: Encoded) -> None:
        (self.label_,), self.loss_ = encoded.targets, self.regress.loss
        (target,) = encoded.targets.values()
        self.scale_ = asdict(target.scale)  # type: ignore[attr-defined]

    def _targets(self) -> tuple[Number]:
        return (Number(str(self.label_), self.regress, NumberScale(**self.scale_)),)

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
    ) -> Floats: ...

    @overload
    def predict(
        self,
        cells: CellInput,
        *,
        return_std: Literal[True],
        counts_layer: str | None = None,
        gene_ids: str | None = None,
    ) -> tuple[Floats, Floats]: ...

    def predict(
        self,
        cells: CellInput,
        *,
        return_std: bool = False,
        counts_layer: str | None = None,
        gene_ids: str | None = None,
    ) -> Floats | tuple[Floats, Floats]:
        """Predicted number of every cell, ``(n_cells,)``; NaN for cells without a known gene.

        Parameters
        ----------
        cells
            AnnData with raw counts, tokens, or paths of either; no labels are needed.
        return_std
            Also return the standard deviation that the model expects around each number, ``(n_cells,)``.
        counts_layer, gene_ids
            Where counts and gene identifiers are.

        Raises
        ------
        OptionError
            A standard deviation of a loss that has none.
        """
        self._fitted("network_")
        if return_std and self.loss_ == "squared_error":
            msg = (
                'return_std=True, but loss="squared_error" learns no spread. Fit with loss="gaussian", or "poisson" or '
                '"negative_binomial" for counts.'
            )
            raise OptionError(msg)
        opened = self.open(cells, counts_layer=counts_layer, gene_ids=gene_ids)
        mean, deviation = self.numbers(opened)
        if deviation is None or not return_std:
            return opened.spread(mean, np.nan)
        return opened.spread(mean, np.nan), opened.spread(deviation, np.nan)


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
        super().__init__(
            model,
            vocabulary=vocabulary,
            finetuning=finetuning,
            multi_task=multi_task,
            split=split,
            runtime=runtime,
            **changes,
        )

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
        tasks = (labels,) if isinstance(labels, str) else tuple(labels)
        if len(set(tasks)) < len(tasks):
            msg = f"labels={list(tasks)} names a column twice. Name each one once."
            raise LabelError(msg)
        weights = self.multi_task.task_weights
        if weights and len(weights) != len(tasks):
            msg = f"task_weights={weights} has {len(weights)} weights for {len(tasks)} tasks. Give one for each task."
            raise OptionError(msg)
        return super().fit(
            cells,
            tasks,
            groups=groups,
            ids=ids,
            split_rows=split_rows,
            counts_layer=counts_layer,
            gene_ids=gene_ids,
            deleted_genes=deleted_genes,
            output=output,
            resume=resume,
            callbacks=callbacks,
        )

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

    def _describe(self, encoded: Encoded) -> None:
        self.tasks_ = tuple(encoded.targets)
        self.classes_ = {name: target.head.classes for name, target in encoded.targets.items()}
        self.temperatures_ = {name: target.temperature for name, target in encoded.targets.items()}
        self.unknown_below_ = self.multi_task.unknown_below

    def _targets(self) -> tuple[Target, ...]:
        return tuple(OneOf(name, tuple(self.classes_[name]), self.temperatures_[name]) for name in self.tasks_ or ())

    def _loss_options(self) -> dict[str, Any]:
        chosen = self.multi_task
        return {"task_weights": chosen.task_weights or None, "learn_task_weights": chosen.learn_task_weights}

    def _train(self, title: str = "Training", **run: Any) -> None:
        super()._train(title, **run)
        self.task_weights_ = dict(zip(self.tasks_ or (), self.network_.weights_now(), strict=True))

    def _shared_settings(self) -> dict[str, Any]:
        return {"tasks": self.tasks_, "task_weights": self.task_weights_}

    def _as_report(self, reports: ReportSet) -> ReportSet:
        return reports

    def probabilities(self, cells: Cells, network: GeneformerForCells | None = None) -> dict[str, Floats]:
        """Probabilities of the tokenized cells, ``(n, C)`` for every task."""
        outputs = self.outputs(cells, network=network)
        return {target.name: target.decode(outputs[target.name]) for target in self._targets()}

    def predict_proba(
        self, cells: CellInput, *, counts_layer: str | None = None, gene_ids: str | None = None
    ) -> dict[str, Floats]:
        """Calibrated probability of every class of every task, ``(n_cells, C)`` each; NaN for empty cells.

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
        counts_layer, gene_ids
            Where counts and gene identifiers are.
        """
        tasks = self._fitted("tasks_")
        columns = labels if isinstance(labels, Mapping) else {name: name for name in labels or tasks}
        foreign = [name for name in columns if name not in tasks]
        if foreign:
            msg = f"{foreign[0]!r} is not a task of this classifier. Tasks are {', '.join(map(repr, tasks))}."
            raise UnknownClassError(msg)
        report: ReportSet = self._evaluate_columns(cells, columns, groups, counts_layer, gene_ids)
        return report

    @classmethod
    def load(cls, folder: str | Path, *, runtime: RuntimeOptions | None = None) -> Self:
        """An estimator as `save` wrote it, ready to predict; see `CellClassifier.load`."""
        loaded = super().load(folder, runtime=runtime)
        loaded.classes_ = {name: tuple(classes) for name, classes in loaded.classes_.items()}
        return loaded


class GeneClassifier(Estimator):
    """A pretrained encoder that learns classes of genes from the company they keep in cells.

    The network learns from every occurrence of the labeled genes. Its prediction for a gene is the probability averaged
    over all cells the gene occurs in.

    Parameters
    ----------
    model
        Name ("mini", "V1-10M", …), checkpoint folder or hub repository to start from.
    vocabulary
        Needed only where the checkpoint does not tell its own.
    finetuning, classify, runtime
        Options as objects.
    **changes
        Single options by keyword, such as `epochs=1`, `freeze_layers=2`, `unknown_genes="drop"`, `device="cpu"`.

    Attributes
    ----------
    classes_
        Names of the classes, in the order of the probabilities.
    gene_classes_
        Ensembl ids learnt from, by class.
    report_
        The last report on genes that were not learnt from: the test part of `fit`, or `cross_validate`.

    Examples
    --------
    >>> import geneformer as gf
    >>> from geneformer.datasets import pbmc3k
    >>> from geneformer.finetuning.estimators import GeneClassifier
    >>> adata = pbmc3k()[:50].copy()
    >>> classes = {"ribosomal": ["RPL3", "RPL5", "RPS6", "RPS3"], "immune": ["CD74", "B2M", "HLA-A", "HLA-DRA"]}
    >>> classifier = GeneClassifier(model="mini", max_steps=2, progress=False).fit(adata, classes)
    >>> genes = classifier.predict(adata)
    >>> list(genes.columns)
    ['gene', 'symbol', 'n_cells', 'learnt', 'probability_ribosomal', 'probability_immune', 'predicted']
    """

    kind = "gene_classifier"
    option_kinds: ClassVar = {
        "finetuning": FinetuneOptions, "classify": GeneClassifyOptions, "runtime": RuntimeOptions,
    }  # fmt: skip
    task_fields = ("classes_", "gene_classes_", "parts_", "left_out_", "metrics_")
    network_kind = GeneformerForGenes

    classify: GeneClassifyOptions
    classes_: tuple[str, ...] | None = None

    gene_classes_: dict[str, list[str]]
    """Ensembl ids of the labeled genes that occur in the cells, by class."""

    parts_: dict[str, list[str]]
    """Which of them were learnt from ("train"), chose the best step ("valid") and were held out ("test")."""

    left_out_: dict[str, dict[str, Sequence[str]]]
    """Genes left out, by class: "unknown" to the vocabulary, "absent" from the cells."""

    _training: LabeledGenes | None = None

    def __init__(
        self,
        model: str | Path = "mini",
        *,
        vocabulary: "str | Path | Vocabulary | None" = None,
        finetuning: FinetuneOptions | None = None,
        classify: GeneClassifyOptions | None = None,
        runtime: RuntimeOptions | None = None,
        **changes: Any,
    ) -> None:
        super().__init__(
            model, vocabulary=vocabulary, finetuning=finetuning, classify=classify, runtime=runtime, **changes
        )

    def fit(
        self,
        cells: CellInput,
        gene_classes: GeneClasses,
        *,
        counts_layer: str | None = None,
        gene_ids: str | None = None,
        output: str | Path | None = None,
        resume: bool = False,
        callbacks: Any = (),
    ) -> Self:
        """Learn classes of genes from the cells the genes occur in.

        Parameters
        ----------
        cells
            AnnData with raw counts, tokens, or paths of either. Cells without any of the genes are passed over.
        gene_classes
            Genes by class, as Ensembl ids or symbols; every gene in one class.
        counts_layer, gene_ids
            Where counts and gene identifiers are.
        output
            Folder for training checkpoints, from which a killed run can go on.
        resume
            Go on from there.
        callbacks
            Further callbacks of `transformers.Trainer`.

        Warns
        -----
        GeneformerWarning
            Genes left out: unknown ones with ``unknown_genes="drop"``, and those that occur in no cell.

        Raises
        ------
        GeneListError
            The lists cannot be used: unknown genes, a gene in two classes, a class without genes.
        CountsError, PairingError
            The cells cannot be used with the model.
        """
        vocabulary = self.base().vocabulary
        prepared = self._prepare(cells, gene_classes, self._pair(), counts_layer=counts_layer, gene_ids=gene_ids)
        labels, seed = prepared.labels, self.finetuning.seed
        split = split_genes(
            labels.codes, valid=self.classify.valid, test=self.classify.test, classes=labels.classes, seed=seed
        )
        prepared.split, self._training = split, prepared
        self._train(output=output, resume=resume, callbacks=callbacks)
        self.classes_, self.gene_classes_ = labels.classes, labels.by_class(vocabulary)
        names = vocabulary.gene_of[labels.tokens]
        self.parts_ = {name: names[getattr(split, name)].tolist() for name in ("train", "valid", "test")}
        self.left_out_ = {"unknown": dict(labels.unknown), "absent": dict(labels.absent)}
        if len(split.test):
            self.report_ = self._report([self._held_out(prepared, split.test)], prepared)
        return self

    def predict(
        self, cells: CellInput, *, counts_layer: str | None = None, gene_ids: str | None = None
    ) -> "pd.DataFrame":
        """Classes of all genes of the vocabulary, one row each.

        Columns are `gene` (Ensembl id), `symbol`, `n_cells` (cells it occurs in), `learnt` (the class it was learnt
        with, None for a gene that is new to the classifier), `probability_<class>` averaged over these cells, and
        `predicted`. Genes that occur in no cell have no probabilities (NaN) and no class (None).

        Parameters
        ----------
        cells
            AnnData with raw counts, tokens, or paths of either.
        counts_layer, gene_ids
            Where counts and gene identifiers are.
        """
        import pandas as pd

        prediction, vocabulary = self._predict(cells, counts_layer, gene_ids), self.pairing.vocabulary
        proba, n_cells = prediction.proba[vocabulary.token_ids], prediction.n_cells[vocabulary.token_ids]
        classes: tuple[str, ...] = self._fitted("classes_")
        trained = self._trained_genes()
        class_of = {gene: name for name, genes in self.gene_classes_.items() for gene in genes if gene in trained}
        best = np.where(n_cells > 0, np.nan_to_num(proba).argmax(axis=1), -1)
        columns = {
            GENE: vocabulary.genes,
            SYMBOL: [vocabulary.symbol_of(gene) for gene in vocabulary.genes],
            N_CELLS: n_cells,
            "learnt": [class_of.get(gene) for gene in vocabulary.genes],
            **{f"{PROBABILITY}{name}": proba[:, code] for code, name in enumerate(classes)},
            "predicted": np.array([*classes, None], dtype=object)[best],
        }
        return pd.DataFrame(columns)

    def predict_proba(
        self, cells: CellInput, *, counts_layer: str | None = None, gene_ids: str | None = None
    ) -> NDArray[np.float64]:
        """Probability of every class, averaged over cells, by gene of the vocabulary, ``(n_genes, C)``; NaN for others.

        Parameters
        ----------
        cells
            AnnData with raw counts, tokens, or paths of either.
        counts_layer, gene_ids
            Where counts and gene identifiers are.
        """
        return self._predict(cells, counts_layer, gene_ids).proba[self.pairing.vocabulary.token_ids]

    def evaluate(
        self,
        cells: CellInput | None = None,
        gene_classes: GeneClasses | None = None,
        *,
        allow_learnt: bool = False,
        counts_layer: str | None = None,
        gene_ids: str | None = None,
    ) -> GeneReport:
        """Figures of the predictions on genes of known class, and of the baselines if this was just fitted.

        Parameters
        ----------
        cells
            Where the genes are predicted; the cells of `fit` by default.
        gene_classes
            Genes by class, of the classes learnt; by default the test part of `fit`. Genes learnt from are left out.
        allow_learnt
            Keep genes learnt from. The scores then say nothing about other genes.
        counts_layer, gene_ids
            Where counts and gene identifiers are.

        Raises
        ------
        GeneListError
            No gene to test on that was not learnt from; other classes than those learnt.
        """
        self._fitted("network_")
        if cells is None and gene_classes is None and self._training is not None:
            self._test_genes()
            return self._report([self._held_out(self._training, self._training.split.test)], self._training)
        given = self._test_genes() if gene_classes is None else gene_classes
        opened = self._fitted("_training").cells if cells is None else cells
        prepared = self._prepare(
            opened,
            given,
            self.pairing,
            classes=self.classes_,
            all_cells=True,
            counts_layer=counts_layer,
            gene_ids=gene_ids,
        )
        labels, trained = prepared.labels, self._trained_genes()
        learnt = np.array([gene in trained for gene in self.pairing.vocabulary.gene_of[labels.tokens]])
        if learnt.all() and not allow_learnt:
            msg = (
                f"All {len(labels):,} genes were learnt from. Give genes that were not, hold some out with test=0.2, "
                "or use cross_validate, which holds out every gene once."
            )
            raise GeneListError(msg)
        if learnt.any() and not allow_learnt:
            msg = f"{learnt.sum():,} of {len(labels):,} genes were learnt from and are left out of the evaluation."
            warnings.warn(msg, GeneformerWarning, stacklevel=2)
        return self._report([self._held_out(prepared, np.flatnonzero(~learnt | allow_learnt))], prepared)

    def cross_validate(
        self,
        cells: CellInput | None = None,
        gene_classes: GeneClasses | None = None,
        n_folds: int = 5,
        *,
        counts_layer: str | None = None,
        gene_ids: str | None = None,
    ) -> GeneReport:
        """Figures of networks on genes they did not learn from, and of the baselines.

        Every gene is held out once, with the classes evenly spread over the folds; in its fold its occurrences are
        context without a label. All folds see the same cells. The networks of the folds are thrown away: a fitted
        classifier stays as it is.

        Parameters
        ----------
        cells, gene_classes
            As in `fit`; those of `fit` by default.
        n_folds
            Number of folds, and of networks trained.
        counts_layer, gene_ids
            Where counts and gene identifiers are.

        Raises
        ------
        GeneListError
            The lists cannot be used, or a class has fewer genes than there are folds.
        """
        if (cells is None) is not (gene_classes is None):
            msg = "cross_validate takes cells and gene_classes, or neither to use those of fit."
            raise OptionError(msg)
        if cells is None or gene_classes is None:
            prepared: LabeledGenes = self._fitted("_training")
        else:
            prepared = self._prepare(cells, gene_classes, self._pair(), counts_layer=counts_layer, gene_ids=gene_ids)
        labels, seed = prepared.labels, self.finetuning.seed
        folds = draw_gene_folds(labels.codes, n_folds, valid=self.classify.valid, classes=labels.classes, seed=seed)
        if self.classify.baselines != "none":
            self._features_of(prepared)  # once for all folds
        results = [
            self._fold(prepared, split, f"Fold {number} of {n_folds}") for number, split in enumerate(folds, start=1)
        ]
        self.report_ = report = self._report(results, prepared, n_folds=n_folds)
        return report

    def _fold(self, prepared: LabeledGenes, split: Split, title: str) -> HeldOutGenes:
        """Predictions of a classifier that learns of the genes held out nothing but their places in the cells."""
        fold = clone(self)
        fold._training = replace(prepared, split=split)
        fold._train(title=f"{title}, {MODEL}")
        if self.classify.baselines == "all":
            fold._random_initialisation(f"{title}, {RANDOM}")
        return fold._held_out(fold._training, split.test)

    def _prepare(
        self, cells: CellInput | Cells, gene_classes: GeneClasses, pairing: Pairing, **options: Any
    ) -> LabeledGenes:
        return open_genes(cells, gene_classes, pairing, self.classify, seed=self.finetuning.seed, **options)

    def _learn(self, options: FinetuneOptions, **run: Any) -> tuple[GeneformerForGenes, FinetuneResult]:
        training: LabeledGenes = self._fitted("_training")
        tokens, labels, split = training.cells.tokens, training.labels, training.split
        return learn_genes(self.base(), tokens, labels, split, options, self.runtime, **run)

    def _predict(self, cells: CellInput, counts_layer: str | None, gene_ids: str | None) -> GenePrediction:
        network, pairing = self._fitted("network_"), self.pairing
        opened = self.open(cells, counts_layer=counts_layer, gene_ids=gene_ids)
        size = pairing.vocabulary.size
        with self._bar("Predicting") as update:
            return predict_genes(
                network, opened.tokens, self.runtime, size=size, max_length=pairing.max_length, progress=update
            )

    def _trained_genes(self) -> set[str]:
        """Genes whose class the training knew."""
        return {*self.parts_["train"], *self.parts_["valid"]}

    def _test_genes(self) -> dict[str, list[str]]:
        test = set(self.parts_["test"])
        if not test:
            msg = "No gene was held out. Give genes that were not learnt from, or fit with test=0.2."
            raise GeneListError(msg)
        held_out = {name: [gene for gene in genes if gene in test] for name, genes in self.gene_classes_.items()}
        return {name: genes for name, genes in held_out.items() if genes}

    def _features_of(self, prepared: LabeledGenes) -> GeneFeatures:
        """What the baselines see, made once for the same cells."""
        if prepared.features is None:
            base, length = self.base(), self._pair().max_length
            with self._bar("Embedding genes") as update:
                prepared.features = gene_features(
                    base, prepared.cells.tokens, self.runtime,
                    counts=prepared.cells.counts(base), max_length=length, progress=update,
                )  # fmt: skip
        return prepared.features

    def _held_out(self, prepared: LabeledGenes, rows: Ints) -> HeldOutGenes:
        """Predictions for genes that were not learnt from, of the network and of the baselines."""
        training, seed = self._training, self.finetuning.seed
        held_out = predict_held_out(self._networks(), prepared, rows, self.pairing, self.runtime, self._bar)
        if training is not None and self.classify.baselines != "none":
            rows_learnt, tokens = training.split.learnt, prepared.labels.tokens[rows]
            learnt, tested = self._features_of(training), self._features_of(prepared)
            held_out.add(classify_genes_by_baselines(training.labels, rows_learnt, learnt, tokens, tested, seed=seed))
        return held_out

    def _report(self, folds: Sequence[HeldOutGenes], prepared: LabeledGenes, **settings: Any) -> GeneReport:
        """The report on genes held out, with how it was made."""
        labels = prepared.labels
        settings = {
            "model": str(self.model),
            "cells": len(prepared.cells.tokens),
            "genes": dict(zip(labels.classes, labels.counts.tolist(), strict=True)),
            "unknown": dict(labels.unknown),
            "absent": dict(labels.absent),
            **settings,
            **{name: asdict(getattr(self, name)) for name in ("finetuning", "classify")},
        }
        vocabulary = (self._pairing or self._pair()).vocabulary
        return report_genes(folds, labels, vocabulary, settings, seed=self.finetuning.seed)


class ExpressionDecoder(CellEstimator):
    """A pretrained encoder that learns how much of each gene a cell expresses.

    Some genes of every training cell are taken out. From the encoder's vector of what is left and the input embedding
    of a gene, a small network predicts the gene's value, log(1 + counts per 10,000), and its rank: its place among the
    genes read, as a fraction from 0 (the highest) to 1. Both are those of a cell that expresses the gene; whether it
    does is not predicted.

    Parameters
    ----------
    model
        Name ("mini", "V1-10M", …), checkpoint folder or hub repository to start from.
    vocabulary
        Needed only where the checkpoint does not tell its own.
    finetuning, expression, split, runtime
        Options as objects.
    **changes
        Single options by keyword, such as `share=0.3`, `epochs=3`, `strategy="lora"`.

    Attributes
    ----------
    report_
        Evaluation on genes taken out of the test part of the split, with the baselines: "value", "rank", and "value
        beyond the gene's mean".

    Examples
    --------
    >>> import geneformer as gf
    >>> from geneformer.datasets import pbmc3k
    >>> adata = pbmc3k()[:100].copy()
    >>> decoder = gf.ExpressionDecoder(model="mini", max_steps=2, report_cells=10, baselines="none", progress=False)
    >>> predicted = decoder.fit(adata).predict(adata, ["CD3E", "LYZ"])
    >>> predicted.shape, list(predicted.var["symbol"]), list(predicted.layers)
    ((100, 2), ['CD3E', 'LYZ'], ['rank'])
    """

    kind = "expression_decoder"
    option_kinds: ClassVar = {
        "finetuning": FinetuneOptions, "expression": ExpressionOptions, "split": SplitOptions,
        "runtime": RuntimeOptions,
    }  # fmt: skip
    task_fields = ("share_", "metrics_", "split_")
    network_kind = GeneformerForExpression

    expression: ExpressionOptions
    share_: float = 0.15

    def __init__(
        self,
        model: str | Path = "mini",
        *,
        vocabulary: "str | Path | Vocabulary | None" = None,
        finetuning: FinetuneOptions | None = None,
        expression: ExpressionOptions | None = None,
        split: SplitOptions | None = None,
        runtime: RuntimeOptions | None = None,
        **changes: Any,
    ) -> None:
        super().__init__(
            model,
            vocabulary=vocabulary,
            finetuning=finetuning,
            expression=expression,
            split=split,
            runtime=runtime,
            **changes,
        )

    def open(self, cells: CellInput, *, counts_layer: str | None = None, gene_ids: str | None = None) -> Cells:
        """Tokens with the counts behind them, where they are known; see `open_cells`."""
        pairing = self._pairing or self._pair()
        return open_cells(cells, pairing, counts_layer=counts_layer, gene_ids=gene_ids, counts=True)

    def fit(  # type: ignore[override]  # there is no label
        self,
        cells: CellInput,
        *,
        groups: str | None = None,
        ids: str | None = None,
        split_rows: Split | None = None,
        counts_layer: str | None = None,
        gene_ids: str | None = None,
        output: str | Path | None = None,
        resume: bool = False,
        callbacks: Any = (),
    ) -> Self:
        """Learn the expression of genes, and evaluate on genes taken out of the test part of the split.

        Parameters
        ----------
        cells
            AnnData with raw counts, tokens with counts, or paths of either.
        groups, ids, split_rows, counts_layer, gene_ids, output, resume, callbacks
            As `CellClassifier.fit` takes them.

        Raises
        ------
        DatasetError
            Tokens without counts.
        LabelError
            The split leaks.
        OptionError
            Options of classes or of second views, which there are none of here.
        CountsError, PairingError
            The cells cannot be used with the model.
        """
        usual = FinetuneOptions()
        for name in ("class_weights", "label_smoothing", "contrastive_weight"):
            value = getattr(self.finetuning, name)
            if value != getattr(usual, name):
                msg = f"{name}={value!r}, but expression is learnt without classes and second views. Leave it out."
                raise OptionError(msg)
        return super().fit(
            cells,
            None,
            groups=groups,
            ids=ids,
            split_rows=split_rows,
            counts_layer=counts_layer,
            gene_ids=gene_ids,
            output=output,
            resume=resume,
            callbacks=callbacks,
        )

    def targets(self, cells: Cells, label: None = None, *, by_cell: bool = True) -> Encoded:
        """The tokenized cells to learn from; its `codes` are what they are split by."""
        check_counts(cells.tokens)
        codes = np.zeros(len(cells.tokens), dtype=np.int64)
        return Encoded({}, {}, capped(codes, max_cells=self.expression.max_cells, seed=self.split.seed))

    def _train(self, title: str = "Training", **run: Any) -> None:
        """Train after a look at the usual values of the genes, and their effects next to those of the cells."""
        training, pairing = self._training, self._pair()
        learnt: dict[str, Any] = {
            "tokens": training.cells.tokens,
            "rows": training.split.train,
            "special": pairing.vocabulary.special_ids,
            "max_length": pairing.max_length,
        }
        self._usual = UsualValues.fit(size=self.base().network.config.vocab_size, **learnt)
        self._additive = AdditiveModel.fit(usual=self._usual, **learnt)
        self.share_ = self.expression.share
        super()._train(title, **run)

    def _learn(self, options: FinetuneOptions, **run: Any) -> tuple[GeneformerForExpression, FinetuneResult]:
        training: Training = self._fitted("_training")
        return learn_expression(
            self.base(),
            training.cells.tokens,
            self._usual,
            train_rows=training.split.train,
            valid_rows=training.split.valid,
            expression=self.expression,
            options=options,
            runtime=self.runtime,
            **run,
        )

    def predict(
        self,
        cells: CellInput,
        genes: Sequence[str] | None = None,
        *,
        counts_layer: str | None = None,
        gene_ids: str | None = None,
    ) -> "AnnData":
        """Value and rank of genes in every cell, all genes of the cell being visible.

        Parameters
        ----------
        cells
            AnnData with raw counts, tokens, or paths of either.
        genes
            Ensembl ids or symbols, predicted in every cell as if it expressed them; by default every gene in the cells
            that express it.
        counts_layer, gene_ids
            Where counts and gene identifiers are.

        Returns
        -------
        AnnData
            Cells of the input by genes; `X` holds values, log(1 + counts per 10,000), and the layer "rank" ranks, from
            0 for the highest to 1. Dense for given genes, NaN for cells without a known gene; else sparse,
            with an entry for every expressed gene that is read.

        Raises
        ------
        UnknownGeneError
            A gene that the vocabulary does not have.
        """
        import anndata as ad

        blocks = list(self.predict_blocks(cells, genes, counts_layer=counts_layer, gene_ids=gene_ids))
        joined = ad.concat(blocks, merge="same", uns_merge="same") if len(blocks) > 1 else blocks[0]
        joined.obs_names = np.concatenate([block.obs_names for block in blocks])
        return joined

    def predict_blocks(
        self,
        cells: CellInput,
        genes: Sequence[str] | None = None,
        *,
        cells_per_block: int = 4096,
        counts_layer: str | None = None,
        gene_ids: str | None = None,
    ) -> Iterator["AnnData"]:
        """What `predict` returns, some thousand cells at a time, in the order of the input.

        Parameters
        ----------
        cells, genes, counts_layer, gene_ids
            See `predict`.
        cells_per_block
            Cells of the input per block.
        """
        vocabulary = self.pairing.vocabulary
        asked = None if genes is None else np.array(tokens_of_genes(genes, vocabulary), dtype=np.int64)
        opened = self.open(cells, counts_layer=counts_layer, gene_ids=gene_ids)
        names = cell_names(opened)
        for start in range(0, max(opened.n_input, 1), cells_per_block):
            stop = min(start + cells_per_block, opened.n_input)
            rows = np.flatnonzero((opened.rows >= start) & (opened.rows < stop))
            yield self._block(opened, rows, opened.rows[rows] - start, names[start:stop], asked)

    def _block(self, cells: Cells, rows: Ints, places: Ints, names: NDArray[Any], asked: Ints | None) -> "AnnData":
        """Predictions for some tokenized cells, which are at some places among the named ones."""
        vocabulary, max_length = self.pairing.vocabulary, self.pairing.max_length
        tokens = cells.tokens.take(rows)
        if asked is not None:
            starts, genes = np.arange(len(rows) + 1) * len(asked), np.tile(asked, len(rows))
        else:
            packed = tokens.gather(np.arange(len(rows)), max_length=max_length)
            is_gene = ~np.isin(packed.input_ids, vocabulary.special_ids)
            starts = np.concatenate([[0], np.cumsum(is_gene)])[packed.cu_seqlens]
            genes = packed.input_ids[is_gene].astype(np.int64)
        network = self._fitted("network_")
        predicted = predict_expression(network, tokens, starts, genes, self.runtime, max_length=max_length)
        return expression_anndata(
            predicted, starts, genes, names=names, places=places, asked=asked, vocabulary=vocabulary,
            provenance=self.provenance,
        )  # fmt: skip

    def evaluate(  # type: ignore[override]  # there is no label
        self,
        cells: CellInput,
        *,
        groups: str | None = None,
        counts_layer: str | None = None,
        gene_ids: str | None = None,
    ) -> ReportSet:
        """How near the predictions are for genes taken out of cells, with the baselines if this was just fitted.

        Squared error, R2 and correlations over all genes taken out, with intervals from resampling whole cells.

        Parameters
        ----------
        cells
            Cells that were not learnt from, with counts.
        groups
            Column of donors or the like, to resample whole groups for the intervals.
        counts_layer, gene_ids
            Where counts and gene identifiers are.

        Raises
        ------
        DatasetError
            Tokens without counts.
        """
        self._fitted("network_")
        opened = self.open(cells, counts_layer=counts_layer, gene_ids=gene_ids)
        check_counts(opened.tokens)
        donors = None if groups is None else np.asarray(opened.column(groups))
        return self._evaluate(opened, np.arange(len(opened.tokens)), {}, donors)

    def _evaluate(self, cells: Cells, rows: Ints, values: Mapping[str, Any], groups: NDArray[Any] | None) -> ReportSet:
        network, seed, vocabulary = self._fitted("network_"), self.finetuning.seed, self.pairing.vocabulary
        rows = rows[cap_cells(np.zeros(len(rows)), max_cells=self.expression.report_cells, seed=seed)]
        compared = self._training is not None and self.expression.baselines != "none"
        tested = take_genes_out(
            cells.tokens,
            rows,
            vocabulary.special_ids,
            share=self.share_,
            max_length=self.pairing.max_length,
            seed=seed,
            additive=self._additive if compared else None,
        )
        predicted = {name: self._predict(one, tested) for name, one in self._networks().items()}
        return report_expression(
            tested,
            predicted,
            network.usual.double().cpu().numpy()[tested.genes],
            names=cells.tokens.cell_ids[rows],
            genes=vocabulary.gene_of[tested.genes],
            groups=None if groups is None else groups[rows],
            seed=seed,
            settings={"model": self.model, "share": self.share_, "split": self.split_, **self._options},
        )

    def _predict(self, network: GeneformerForExpression, tested: TestedGenes) -> NDArray[np.float32]:
        """Value and rank of genes taken out of cells, ``(p, 2)``."""
        with self._bar("Predicting") as update:
            return predict_expression(
                network, tested.visible, tested.starts, tested.genes, self.runtime,
                max_length=self.pairing.max_length, progress=update,
            )  # fmt: skip


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
