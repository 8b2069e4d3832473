"""The estimators: classes of cells, numbers, several tasks at once, classes of genes, and expression."""

import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Generic, Literal, NamedTuple, Self, TypeVar, overload

import numpy as np
from numpy.typing import NDArray

from geneformer import keys
from geneformer.errors import (
    CheckpointError,
    GeneformerWarning,
    GeneListError,
    LabelError,
    OptionError,
    UnknownClassError,
)
from geneformer.finetuning.estimator import CellEstimator, Estimator, Examples, Pairing, clone, read_folder
from geneformer.finetuning.evaluations import TokenEvaluation
from geneformer.finetuning.expression_targets import (
    BEYOND,
    MEAN,
    AdditiveModel,
    Expression,
    UsualValues,
    check_counts,
    learn_expression,
    predict_expression,
    take_genes_out,
)
from geneformer.finetuning.gene_targets import (
    FoldedGenes,
    GeneClasses,
    GeneLists,
    TokenTally,
    gene_features,
    learn_genes,
    occurring,
    predict_genes,
    read_gene_classes,
)
from geneformer.finetuning.labels import capped
from geneformer.finetuning.predictions import RANK, UNKNOWN, cell_names, name_classes
from geneformer.finetuning.reports import GENE, MODEL, N_CELLS, PROBABILITY, RANDOM, SYMBOL, GeneReport, ReportSet
from geneformer.finetuning.splits import Split, draw_gene_folds, split_genes
from geneformer.finetuning.targets import AnyOf, Encoded, Number, OneOf, encode_targets
from geneformer.finetuning.training import FinetuneResult, cells_with_labeled_genes, count_cells
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

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

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
        self, cells: CellInput, *, counts_layer: str | None = None, gene_ids: str | None = None
    ) -> Probabilities:
        """Calibrated probability of every class, ``(n_cells, C)``, for each task where there are several.

        They are NaN for cells without a known gene.

        Parameters
        ----------
        cells
            AnnData with raw counts, tokens, or paths of either; no labels are needed.
        counts_layer, gene_ids
            Where counts and gene identifiers are.
        """
        self._fitted("network_")
        opened = self.open(cells, counts_layer=counts_layer, gene_ids=gene_ids)
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

    regress: RegressOptions
    label_: str | None = None
    loss_: str = "squared_error"
    scale_: dict[str, float]

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

    def _describe(self) -> None:
        (target,) = self._training.encoded.targets.values()
        self.label_, self.loss_, self.scale_ = target.name, self.regress.loss, target.scale

    def _targets(self) -> tuple[Number]:
        return (Number(str(self.label_), self.regress, **self.scale_),)

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


class MultiTaskClassifier(_Classifier[dict[str, Floats]]):
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
        return super().fit(
            cells, (labels,) if isinstance(labels, str) else tuple(labels), groups=groups, ids=ids,
            split_rows=split_rows, counts_layer=counts_layer, gene_ids=gene_ids, deleted_genes=deleted_genes,
            output=output, resume=resume, callbacks=callbacks,
        )  # fmt: skip

    def targets(self, cells: Cells, labels: Sequence[str], *, by_cell: bool = True) -> Encoded:
        """What is to be learnt about the tokenized cells; its `codes` are what they are split by."""
        chosen, weights = self.multi_task, self.multi_task.task_weights
        if len(set(labels)) < len(labels):
            msg = f"labels={list(labels)} names a column twice. Name each one once."
            raise LabelError(msg)
        if weights and len(weights) != len(labels):
            msg = f"task_weights={weights} has {len(weights)} weights for {len(labels)} tasks. Give one for each task."
            raise OptionError(msg)
        return encode_targets(
            {name: cells.column(name) for name in labels},
            [OneOf(name, rare_below=chosen.rare_below) for name in labels],
            max_cells=chosen.max_cells,
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
        opened = self.open(cells, counts_layer=counts_layer, gene_ids=gene_ids)
        reports: ReportSet = self._evaluate_columns(opened, columns, groups)
        return reports

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

    def fit(
        self,
        cells: CellInput,
        gene_classes: GeneLists,
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
        examples = self._prepare(cells, gene_classes, self._pair(), counts_layer=counts_layer, gene_ids=gene_ids)
        labels, chosen, seed = examples.encoded, self.classify, self.finetuning.seed
        examples.split = split_genes(
            labels.codes, valid=chosen.valid, test=chosen.test, classes=labels.classes, seed=seed
        )
        return self._fit(examples, output=output, resume=resume, callbacks=callbacks)

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

        proba, n_cells = self._predict(cells, counts_layer, gene_ids)
        vocabulary, classes = self.pairing.vocabulary, self._fitted("classes_")
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
        return self._predict(cells, counts_layer, gene_ids)[0]

    def evaluate(
        self,
        cells: CellInput | None = None,
        gene_classes: GeneLists | None = None,
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
            return self._evaluate(self._training, self._training.split.test)
        given = self._test_genes() if gene_classes is None else gene_classes
        opened = self._fitted("_training").cells if cells is None else cells
        tested = self._prepare(
            opened, given, self.pairing, classes=self.classes_, counts_layer=counts_layer, gene_ids=gene_ids
        )
        labels, trained = tested.encoded, self._trained_genes()
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
        return self._evaluate(tested, np.flatnonzero(~learnt | allow_learnt))

    def cross_validate(
        self,
        cells: CellInput | None = None,
        gene_classes: GeneLists | None = None,
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
            examples: Examples = self._fitted("_training")
        else:
            examples = self._prepare(cells, gene_classes, self._pair(), counts_layer=counts_layer, gene_ids=gene_ids)
        labels, seed = examples.encoded, self.finetuning.seed
        splits = draw_gene_folds(labels.codes, n_folds, valid=self.classify.valid, classes=labels.classes, seed=seed)
        if self.classify.baselines != "none":
            examples.features = self._see(examples)  # once for all folds
        folds = [self._fold(examples, split, f"Fold {number} of {n_folds}") for number, split in enumerate(splits, 1)]
        self.report_ = report = self._report(examples, folds, n_folds=n_folds)
        return report

    def _fold(self, examples: Examples, split: Split, title: str) -> "_HeldOutGenes":
        """Predictions of a classifier that learns of the genes held out nothing but their places in the cells."""
        fold = clone(self)
        fold._training = replace(examples, split=split)
        fold._train(title=f"{title}, {MODEL}")
        if self.classify.baselines == "all":
            fold._random_initialisation(f"{title}, {RANDOM}")
        return fold._held_out(fold._training, split.test)

    def _prepare(
        self,
        cells: CellInput,
        gene_classes: GeneLists,
        pairing: Pairing,
        *,
        classes: Sequence[str] | None = None,
        **places: Any,
    ) -> Examples:
        """The genes listed that occur in the cells; and the cells with any of them, or all cells for known classes."""
        vocabulary, length, chosen = pairing.vocabulary, pairing.max_length, self.classify
        labels = read_gene_classes(gene_classes, vocabulary, unknown=chosen.unknown_genes, classes=classes)
        opened = open_cells(cells, pairing, **places)
        tokens = opened.tokens
        rows = cells_with_labeled_genes(tokens, labels.class_of(vocabulary.size), length)
        if not len(rows):
            msg = (
                f"None of the {len(labels):,} labeled genes occurs in any of the {len(tokens):,} cells, as far as "
                "the model reads them. Use cells that express them, or other genes."
            )
            raise GeneListError(msg)
        if classes is not None:
            rows = np.arange(len(tokens))
        if chosen.max_cells is not None and len(rows) > chosen.max_cells:
            rng = np.random.default_rng(self.finetuning.seed)
            rows = np.sort(rng.choice(rows, chosen.max_cells, replace=False))
        if len(rows) < len(tokens):
            tokens = tokens.take(rows)
            opened = replace(opened, tokens=tokens, rows=opened.rows[rows])
        return Examples(opened, occurring(labels, count_cells(tokens, vocabulary.size, length), vocabulary))

    def _learn(self, options: FinetuneOptions, **run: Any) -> tuple[GeneformerForGenes, FinetuneResult]:
        training: Examples = self._fitted("_training")
        return learn_genes(
            self.base(), training.cells.tokens, training.encoded, training.split, options, self.runtime, **run
        )

    def _describe(self) -> None:
        labels, vocabulary = self._training.encoded, self.base().vocabulary
        self.classes_, self.gene_classes_ = labels.classes, labels.by_class(vocabulary)
        names = vocabulary.gene_of[labels.tokens]
        self.parts_ = {part: names[getattr(self._training.split, part)].tolist() for part in ("train", "valid", "test")}
        self.left_out_ = {"unknown": dict(labels.unknown), "absent": dict(labels.absent)}

    def _predict(self, cells: CellInput, counts_layer: str | None, gene_ids: str | None) -> tuple[Floats, Ints]:
        """Probabilities of all genes of the vocabulary, ``(n_genes, C)``, and the cells each occurs in."""
        network, pairing = self._fitted("network_"), self.pairing
        opened = self.open(cells, counts_layer=counts_layer, gene_ids=gene_ids)
        size, places = pairing.vocabulary.size, pairing.vocabulary.token_ids
        with self._bar("Predicting") as update:
            proba, n_cells, _ = predict_genes(
                network, opened.tokens, self.runtime, size=size, max_length=pairing.max_length, progress=update
            )
        return proba[places], n_cells[places]

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

    def _see(self, examples: Examples) -> dict[str, NDArray[Any]]:
        base, tokens = self.base(), examples.cells.tokens
        with self._bar("Embedding genes") as update:
            return gene_features(
                base, tokens, self.runtime,
                counts=examples.cells.counts(base), max_length=self._pair().max_length, progress=update,
            )  # fmt: skip

    def _evaluate(self, tested: Examples, rows: Ints) -> GeneReport:
        return self._report(tested, [self._held_out(tested, rows)])

    def _held_out(self, tested: Examples, rows: Ints) -> "_HeldOutGenes":
        """Predictions for genes that were not learnt from, of the network and of the baselines."""
        labels, tokens, pairing = tested.encoded, tested.cells.tokens, self.pairing
        asked, codes, size = labels.tokens[rows], labels.codes[rows], pairing.vocabulary.size
        truth_of = labels.class_of(size, rows)
        having = cells_with_labeled_genes(tokens, truth_of, pairing.max_length)
        part = tokens if 2 * len(having) > len(tokens) else tokens.take(having)  # taking copies
        predictions = {}
        for name, network in self._networks().items():
            with self._bar("Predicting") as update:
                proba, n_cells, tally = predict_genes(
                    network, part, self.runtime,
                    size=size, max_length=pairing.max_length, truth_of=truth_of, progress=update,
                )  # fmt: skip
            predictions[name] = proba[asked], tally.evaluation(labels.classes)
        features, tested_features = self._features(self._training), self._features(tested)
        if features is not None:
            learnt, of_training = self._training.split.learnt, self._training.encoded
            baselines = GeneClasses(labels.classes).baselines(
                {name: table[of_training.tokens[learnt]] for name, table in features.items()},
                of_training.codes[learnt],
                {name: table[asked] for name, table in tested_features.items()},
                seed=self.finetuning.seed,
            )
            for name, values in baselines.items():  # the same for a gene in every cell
                tally = TokenTally(values.shape[1])
                tally.add(values, codes, n_cells[asked])
                predictions[name] = values, tally.evaluation(labels.classes)
        return _HeldOutGenes(rows, n_cells[asked], predictions)

    def _report(self, examples: Examples, folds: "Sequence[_HeldOutGenes]", **settings: Any) -> GeneReport:
        """The report on the genes held out in all folds, in the order of their token ids."""
        labels, vocabulary = examples.encoded, (self._pairing or self._pair()).vocabulary
        rows = np.concatenate([fold.rows for fold in folds])
        order = np.argsort(rows)
        fold_of = np.repeat(np.arange(1, len(folds) + 1), [len(fold.rows) for fold in folds])[order]
        names = vocabulary.gene_of[labels.tokens[rows[order]]]
        predictions = {
            name: FoldedGenes(
                np.concatenate([fold.predictions[name][0] for fold in folds])[order],
                fold_of,
                [fold.predictions[name][1] for fold in folds],
            )
            for name in folds[0].predictions
        }
        settings = {
            "model": str(self.model),
            "cells": len(examples.cells.tokens),
            "genes": dict(zip(labels.classes, labels.counts.tolist(), strict=True)),
            "unknown": dict(labels.unknown),
            "absent": dict(labels.absent),
            **settings,
            **{name: asdict(getattr(self, name)) for name in ("finetuning", "classify")},
        }
        report: Any = GeneClasses(labels.classes).report(
            labels.codes[rows[order]],
            predictions.pop(MODEL),
            predictions,
            groups=None,
            seed=self.finetuning.seed,
            cell_ids=names,
            symbols=np.array([vocabulary.symbol_of(name) for name in names], dtype=object),
            folds=fold_of,
            n_cells=np.concatenate([fold.n_cells for fold in folds])[order],
            settings=settings,
        )
        return report  # type: ignore[no-any-return]


class _HeldOutGenes(NamedTuple):
    """Genes of one fold, the cells they occur in; probabilities and figures of occurrences by model and baseline."""

    rows: Ints
    n_cells: Ints
    predictions: dict[str, tuple[Floats, TokenEvaluation]]


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
            cells, None, groups=groups, ids=ids, split_rows=split_rows, counts_layer=counts_layer, gene_ids=gene_ids,
            output=output, resume=resume, callbacks=callbacks,
        )  # fmt: skip

    def targets(self, cells: Cells, label: None = None, *, by_cell: bool = True) -> Encoded:
        """The tokenized cells to learn from; its `codes` are what they are split by."""
        check_counts(cells.tokens)
        codes = np.zeros(len(cells.tokens), dtype=np.int64)
        return Encoded({}, {}, capped(codes, max_cells=self.expression.max_cells, seed=self.split.seed))

    def _train(self, title: str = "Training", **run: Any) -> None:
        """Train after a look at the usual values of the genes."""
        self._usual = UsualValues.fit(size=self.base().network.config.vocab_size, **self._learnt_from())
        super()._train(title, **run)

    def _learnt_from(self) -> dict[str, Any]:
        training, pairing = self._training, self._pair()
        return {
            "tokens": training.cells.tokens,
            "rows": training.split.train,
            "special": pairing.vocabulary.special_ids,
            "max_length": pairing.max_length,
        }

    def _learn(self, options: FinetuneOptions, **run: Any) -> tuple[GeneformerForExpression, FinetuneResult]:
        training: Examples = self._fitted("_training")
        tokens, split = training.cells.tokens, training.split
        return learn_expression(
            self.base(), tokens, self._usual, split, self.expression, options, runtime=self.runtime, **run
        )

    def _describe(self) -> None:
        self.share_ = self.expression.share

    def _see(self, examples: Examples) -> AdditiveModel:
        return AdditiveModel.fit(usual=self._usual, **self._learnt_from())

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
        """Predictions for some tokenized cells, which are at some places among the named ones.

        They are dense for given genes, else sparse over the vocabulary.
        """
        import anndata as ad
        import pandas as pd
        from scipy import sparse

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
        shape = (len(names), len(vocabulary.genes if asked is None else asked))
        column_of = np.full(vocabulary.size, -1, dtype=np.int64)
        column_of[vocabulary.token_ids] = np.arange(len(vocabulary.genes))
        sides: list[Any] = []
        for values in predicted.T:
            if asked is None:
                sides.append(sparse.csr_matrix((values, (np.repeat(places, np.diff(starts)), column_of[genes])), shape))
            else:
                sides.append(np.full(shape, np.nan, dtype=np.float32))
                sides[-1][places] = values.reshape(len(places), -1)
        ids = vocabulary.genes if asked is None else vocabulary.gene_of[asked]
        var = pd.DataFrame({SYMBOL: [vocabulary.symbol_of(gene) for gene in ids]}, index=pd.Index(ids))
        uns = {keys.UNS: self.provenance}
        return ad.AnnData(sides[0], obs=pd.DataFrame(index=pd.Index(names)), var=var, layers={RANK: sides[1]}, uns=uns)

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
        return self._evaluate(Examples(opened, None, groups=donors), np.arange(len(opened.tokens)))

    def _evaluate(self, tested: Examples, rows: Ints) -> ReportSet:
        """Reports on values, on ranks, and on how values differ from what is usual for the gene."""
        network, seed, vocabulary = self._fitted("network_"), self.finetuning.seed, self.pairing.vocabulary
        max_length = self.pairing.max_length
        rows = rows[capped(np.zeros(len(rows)), max_cells=self.expression.report_cells, seed=seed) >= 0]
        taken = take_genes_out(
            tested.cells.tokens,
            rows,
            vocabulary.special_ids,
            share=self.share_,
            max_length=max_length,
            seed=seed,
            additive=self._features(self._training),
        )
        predictions: dict[str, NDArray[Any]] = {}
        for name, one in self._networks().items():
            with self._bar("Predicting") as update:
                predictions[name] = predict_expression(
                    one, taken.visible, taken.starts, taken.genes, self.runtime,
                    max_length=max_length, progress=update,
                )  # fmt: skip
        target = Expression()
        predictions |= target.baselines(network.usual.double().cpu().numpy(), None, taken)
        cells = np.repeat(np.arange(len(rows)), np.diff(taken.starts))
        settings = {"model": self.model, "share": self.share_, "split": self.split_, **self._options}
        reports = ReportSet()
        for name, side, center in (("value", 0, 0.0), ("rank", 1, 0.0), (BEYOND, 0, predictions[MEAN][:, 0])):
            columns = {label: values[:, side] - center for label, values in predictions.items()}
            reports[name] = target.report(
                taken.truth[:, side] - center,
                columns.pop(MODEL),
                columns,
                groups=cells if tested.groups is None else tested.groups[rows][cells],
                seed=seed,
                cell_ids=tested.cells.tokens.cell_ids[rows][cells],
                genes=vocabulary.gene_of[taken.genes],
                settings={**settings, "quantity": name},
            )
        return reports


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
