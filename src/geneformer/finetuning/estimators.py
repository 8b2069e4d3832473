"""`gf.CellClassifier`: cell types, disease states and other classes of cells."""

import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Self, overload

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
from geneformer.files.progress import progress_bar
from geneformer.finetuning.baselines import LIBRARY, classify_by_baselines, regress_by_baselines
from geneformer.finetuning.estimator import (
    TWIN,
    UNKNOWN,
    CellEstimator,
    GeneEstimator,
    Pairing,
    Proba,
    TaskTraining,
    TestedCells,
    cell_names,
    check_deleted,
    counts_like,
    describe_parts,
    name_classes,
    part_of,
    read_folder,
    report_tasks,
    without_pretraining,
)
from geneformer.finetuning.gene_targets import (
    MODEL,
    AdditiveModel,
    GeneClasses,
    GeneFeatures,
    LabeledGenes,
    TestedGenes,
    Told,
    UsualValues,
    add_baselines,
    check_counts,
    classify_genes_by_baselines,
    cross_validate_genes,
    gene_features,
    learn_expression,
    learn_genes,
    open_genes,
    predict_expression,
    report_expression,
    report_genes,
    take_genes_out,
    tell_held_out,
)
from geneformer.finetuning.labels import cap_cells
from geneformer.finetuning.metrics import (
    evaluate_classes,
    evaluate_label_sets,
    evaluate_numbers,
    expected_calibration_error,
    fit_temperature,
    softmax,
)
from geneformer.finetuning.reports import (
    ClassificationReport,
    GeneReport,
    LabelSetReport,
    NumberReport,
    ReportSet,
    expression_anndata,
)
from geneformer.finetuning.splits import GeneParts, Split, draw_gene_folds, draw_rows, given_rows, split_genes
from geneformer.finetuning.targets import (
    ClassTargets,
    NumberScale,
    NumberTargets,
    TaskLabels,
    check_numbers,
    class_targets,
    encode_numbers,
    encode_tasks,
    known_targets,
    known_tasks,
    number_strata,
)
from geneformer.finetuning.training import FinetuneResult, learn_cells
from geneformer.genes.lookup import tokens_of_genes
from geneformer.genes.vocabulary import Vocabulary
from geneformer.inference.cells import CellInput, Cells, open_cells
from geneformer.models.heads import GeneformerForCells, GeneformerForExpression, GeneformerForGenes, HeadSpec
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
    from scipy import sparse


@dataclass(frozen=True, slots=True, eq=False)
class _Learnt:
    """What baselines need of the training."""

    cells: Cells
    split: Split
    targets: ClassTargets
    groups: NDArray[Any] | None
    counts: "sparse.csr_matrix | None"
    deleted_genes: NDArray[Any] | None


class CellClassifier(CellEstimator):
    """A pretrained encoder that learns to tell classes of cells apart.

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
        Evaluation on the test part of the split, beside the baselines.
    baseline_proba_
        By baseline, its probabilities for the cells evaluated last, ``(n, C)``.
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
    task_fields = ("label_", "classes_", "multi_label_", "temperature_", "unknown_below_", "metrics_", "split_")

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
        groups = {
            "finetuning": finetuning or FinetuneOptions(),
            "classify": classify or ClassifyOptions(),
            "split": split or SplitOptions(),
            "runtime": runtime or RuntimeOptions(),
        }
        super().__init__(model, vocabulary, groups, changes)

    classify: ClassifyOptions
    split: SplitOptions
    label_: str | None = None
    classes_: tuple[str, ...] | None = None
    multi_label_: bool = False
    temperature_: float = 1.0
    unknown_below_: float = 0.0
    metrics_: dict[str, float]
    split_: dict[str, Any]
    baseline_proba_: dict[str, NDArray[np.float64]]
    _training: _Learnt | None = None
    _twin: GeneformerForCells | None = None

    def fit(  # noqa: PLR0913
        self,
        cells: CellInput,
        label: str,
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
        """Learn the classes in a column of `obs`, and evaluate on the test part of the split.

        Parameters
        ----------
        cells
            AnnData with raw counts, tokens, or paths of either.
        label
            Column with the classes.
        groups
            Column of donors, batches or the like; no group is on two sides of the split.
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
            Genes to delete, but no contrastive term.
        CountsError, PairingError
            The cells cannot be used with the model.
        """
        base = self.base()
        check_deleted(deleted_genes, self.finetuning)
        opened = self.open(cells, counts_layer=counts_layer, gene_ids=gene_ids)
        targets = self.targets(opened, label)
        together = None if groups is None else np.asarray(opened.column(groups))
        if split_rows is None:
            parts = draw_rows(opened, targets.codes, self.split, groups=groups, ids=ids or groups)
        else:
            parts = given_rows(split_rows, targets.codes, together, self.split)
        targets.check_split(parts)
        self.network_, self._twin, self.report_ = None, None, None
        self.label_, self.classes_, self.multi_label_ = label, targets.classes, self.classify.multi_label
        self.unknown_below_ = self.classify.unknown_below
        self._training = _Learnt(
            opened,
            parts,
            targets,
            together,
            None if self.classify.baselines == "none" else opened.counts(base),
            deleted_genes,
        )
        network, result = self._learn(self.finetuning, output, resume, callbacks)
        self._learnt(network, result, base)
        self._options = {name: asdict(getattr(self, name)) for name in ("finetuning", "classify", "split")}
        self.split_, self.metrics_ = describe_parts(parts, groups), dict(result.metrics)
        self._calibrate(opened, parts, targets.values)
        if len(parts.test):
            self.report_ = self._evaluate(opened, parts.test, targets.values, together)
        return self

    def targets(self, cells: Cells, label: str) -> ClassTargets:
        """What is to be learnt about the tokenized cells; its `codes` are what they are split by."""
        return class_targets(cells.column(label), self.classify, name=label, seed=self.split.seed)

    def _learn(
        self,
        options: FinetuneOptions,
        output: str | Path | None = None,
        resume: bool = False,
        callbacks: Any = (),
        title: str = "Training",
    ) -> tuple[GeneformerForCells, FinetuneResult]:
        """One network from the training part."""
        training: _Learnt = self._fitted("_training")
        name, classes = str(self.label_), tuple(self.classes_ or ())
        spec = HeadSpec(name=name, kind="any_of" if self.multi_label_ else "one_of", classes=classes)
        weights = None
        if options.class_weights == "balanced":
            weights = {name: training.targets.weights(training.split.train)}
        with progress_bar(title, shown=self.runtime.progress) as update:
            return learn_cells(
                self.base(),
                training.cells.tokens,
                [spec],
                {name: training.targets.values},
                train_rows=training.split.train,
                valid_rows=training.split.valid,
                options=options,
                runtime=self.runtime,
                class_weights=weights,
                deleted_genes=training.deleted_genes,
                output=None if output is None else Path(output),
                resume=resume,
                callbacks=callbacks,
                progress=update,
            )

    def _calibrate(self, cells: Cells, parts: Split, targets: NDArray[Any]) -> None:
        """A temperature from the validation cells."""
        self.temperature_ = 1.0
        if self.multi_label_ or not self.classify.calibrate or not len(parts.valid):
            return
        valid = part_of(cells, parts.valid)
        logits, codes = self.outputs(valid, progress=False)[str(self.label_)], targets[parts.valid]
        before = expected_calibration_error(softmax(logits), codes)
        self.temperature_ = fit_temperature(logits, codes)
        after = expected_calibration_error(softmax(logits, self.temperature_), codes)
        self.metrics_ |= {"calibration_error_before": before, "calibration_error": after}

    def probabilities(self, cells: Cells, network: GeneformerForCells | None = None) -> NDArray[np.float64]:
        """Probabilities of the tokenized cells, ``(n, C)``."""
        logits = self.outputs(cells, network=network)[str(self.label_)].astype(np.float64)
        if self.multi_label_:
            return 0.5 * (1.0 + np.tanh(0.5 * logits))  # the logistic function, without overflow
        return softmax(logits, self.temperature_)

    def predict_proba(
        self, cells: CellInput, *, counts_layer: str | None = None, gene_ids: str | None = None
    ) -> NDArray[np.float64]:
        """Calibrated probability of every class, ``(n_cells, C)``; not a number for cells without a known gene.

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

    def evaluate(
        self,
        cells: CellInput,
        label: str | None = None,
        *,
        groups: str | None = None,
        counts_layer: str | None = None,
        gene_ids: str | None = None,
    ) -> ClassificationReport | LabelSetReport:
        """How right the predictions are on labeled cells, beside the baselines if this classifier was just fitted.

        Cells whose label the classifier never learnt are left out and told of.

        Parameters
        ----------
        cells
            Cells that were not learnt from.
        label
            Column with the classes; the one learnt from by default.
        groups
            Column of donors or the like, to resample whole groups for the intervals.
        counts_layer, gene_ids
            Where counts and gene identifiers are.
        """
        self._fitted("network_")
        name = label or str(self.label_)
        opened = self.open(cells, counts_layer=counts_layer, gene_ids=gene_ids)
        targets, rows = known_targets(opened.column(name), self._fitted("classes_"), self.classify, name=name)
        return self._evaluate(opened, rows, targets, opened.column(groups) if groups else None)

    def _evaluate(
        self, cells: Cells, rows: NDArray[np.int64], targets: NDArray[Any], groups: Any
    ) -> ClassificationReport | LabelSetReport:
        """The report on some of the cells."""
        part = part_of(cells, rows)
        truth, proba = targets[rows], self.probabilities(part)
        parts = None if groups is None else np.asarray(groups)[rows]
        beside = self.baseline_proba_ = self._baselines(cells, rows, part)
        settings = {"model": self.model, "label": self.label_, "split": self.split_, **self._options}
        evaluate: Any = evaluate_label_sets if self.multi_label_ else evaluate_classes
        judged = partial(evaluate, truth, classes=self.classes_, groups=parts, seed=self.finetuning.seed)
        shared: dict[str, Any] = {
            "evaluation": judged(proba),
            "baselines": {name: judged(values) for name, values in beside.items()},
            "cell_ids": part.tokens.cell_ids,
            "truth": truth,
            "proba": proba,
        }
        if self.multi_label_:
            return LabelSetReport(**shared, settings=settings)
        calibration = {
            "temperature": self.temperature_,
            "expected_calibration_error": expected_calibration_error(proba, truth),
        }
        return ClassificationReport(**shared, predicted=proba.argmax(axis=1), settings=settings | calibration)

    def _baselines(self, cells: Cells, rows: NDArray[np.int64], part: Cells) -> dict[str, NDArray[np.float64]]:
        """Probabilities of what the model has to beat, by name."""
        training = self._training
        if training is None or self.classify.baselines == "none":
            return {}
        found: dict[str, NDArray[np.float64]] = {}
        if self.classify.baselines == "all":
            found[TWIN] = self.probabilities(part, self._random_twin())
        counts = counts_like(training.cells, training.counts, cells, self.base())
        if training.counts is None or counts is None:
            return found
        learnt = training.split.train
        found |= classify_by_baselines(
            training.counts[learnt],
            training.targets.values[learnt],
            counts[rows],
            n_classes=len(self.classes_ or ()),
            groups=None if training.groups is None else training.groups[learnt],
            n_top_genes=self.classify.n_top_genes,
            seed=self.finetuning.seed,
        )
        if cells.adata is None:
            del found[LIBRARY]
        return found

    def _random_twin(self) -> GeneformerForCells:
        """The same network with the same training, but without the pretrained weights."""
        if self._twin is None:
            options = without_pretraining(self.finetuning)
            self._twin = self._learn(options, title="Training from random weights")[0]
        return self._twin


Floats = NDArray[np.float64]


@dataclass(frozen=True, slots=True, eq=False)
class _CellRegressorLearnt:
    """What baselines need of the training."""

    cells: Cells
    split: Split
    values: Floats
    groups: NDArray[Any] | None
    counts: "sparse.csr_matrix | None"
    deleted_genes: NDArray[Any] | None


class CellRegressor(CellEstimator):
    """A pretrained encoder that learns to tell a number of cells.

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
        Evaluation on the test part of the split, beside the baselines.
    baseline_numbers_
        What the baselines predicted for those cells, by name.

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
    task_fields = ("label_", "loss_", "scale_", "metrics_", "split_")

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
        groups = {
            "finetuning": finetuning or FinetuneOptions(),
            "regress": regress or RegressOptions(),
            "split": split or SplitOptions(),
            "runtime": runtime or RuntimeOptions(),
        }
        super().__init__(model, vocabulary, groups, changes)

    regress: RegressOptions
    split: SplitOptions
    label_: str | None = None
    loss_: str = "squared_error"
    scale_: dict[str, float]
    metrics_: dict[str, float]
    split_: dict[str, Any]
    baseline_numbers_: dict[str, Floats]
    _training: _CellRegressorLearnt | None = None
    _twin: GeneformerForCells | None = None

    def fit(  # noqa: PLR0913  what the other estimators take
        self,
        cells: CellInput,
        label: str,
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
        """Learn the numbers in a column of `obs`, and evaluate on the test part of the split.

        Parameters
        ----------
        cells
            AnnData with raw counts, tokens, or paths of either.
        label
            Column with the numbers; cells without one are left out and told of.
        groups
            Column of donors, batches or the like; no group is on two sides of the split. Without it, the parts have
            about the same numbers.
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
        ConstantLabelError
            All numbers are the same.
        LabelError
            Not numbers, negative ones for a loss of counts, or a split that leaks.
        OptionError
            Genes to delete, but no contrastive term.
        CountsError, PairingError
            The cells cannot be used with the model.
        """
        check_deleted(deleted_genes, self.finetuning)
        opened = self.open(cells, counts_layer=counts_layer, gene_ids=gene_ids)
        targets = self.targets(opened, label, by_cell=groups is None and ids is None)
        donors = None if groups is None else np.asarray(opened.column(groups))
        if split_rows is None:
            parts = draw_rows(opened, targets.codes, self.split, groups=groups, ids=ids or groups)
        else:
            parts = given_rows(split_rows, targets.codes, donors, self.split)
        check_numbers(targets.values[parts.train], self.regress, name=label)
        self.network_, self._twin, self.report_ = None, None, None
        counts = None if self.regress.baselines == "none" else opened.counts(self.base())
        self.label_, self.loss_ = label, self.regress.loss
        self.scale_ = asdict(NumberScale.fit(targets.values[parts.train], self.regress))
        self._training = _CellRegressorLearnt(opened, parts, targets.values, donors, counts, deleted_genes)
        network, result = self._learn(self.finetuning, output, resume, callbacks)
        self._learnt(network, result, self.base())
        self._options = {name: asdict(getattr(self, name)) for name in ("finetuning", "regress", "split")}
        self.split_, self.metrics_ = describe_parts(parts, groups), dict(result.metrics)
        if len(parts.test):
            self.report_ = self._evaluate(opened, parts.test, targets.values, groups)
        return self

    def targets(self, cells: Cells, label: str, *, by_cell: bool = True) -> NumberTargets:
        """What is to be learnt about the tokenized cells; its `codes` are what they are split by.

        Parameters
        ----------
        cells
            Opened cells.
        label
            Column with the numbers.
        by_cell
            Split cell by cell, so that the parts can have about the same numbers.
        """
        values = encode_numbers(cells.column(label), name=label)
        check_numbers(values, self.regress, name=label)
        codes = number_strata(values, n_bins=10 if by_cell and self.split.method in ("auto", "stratified") else 1)
        if self.regress.max_cells is not None:
            rows = cap_cells(codes, max_cells=self.regress.max_cells, seed=self.split.seed)
            codes = np.where(np.isin(np.arange(len(codes)), rows), codes, -1)
        return NumberTargets(values, codes)

    def _learn(
        self,
        options: FinetuneOptions,
        output: str | Path | None = None,
        resume: bool = False,
        callbacks: Any = (),
        title: str = "Training",
    ) -> tuple[GeneformerForCells, FinetuneResult]:
        """One network from the training part."""
        training: _CellRegressorLearnt = self._fitted("_training")
        name, scale = str(self.label_), NumberScale(**self.scale_)
        spec = HeadSpec(name=name, kind="number", loss=self.loss_, activation=self.regress.output, scale=scale.inside)
        with progress_bar(title, shown=self.runtime.progress) as update:
            return learn_cells(
                self.base(),
                training.cells.tokens,
                [spec],
                {name: scale.to_network(training.values)},
                train_rows=training.split.train,
                valid_rows=training.split.valid,
                options=options,
                runtime=self.runtime,
                deleted_genes=training.deleted_genes,
                output=None if output is None else Path(output),
                resume=resume,
                callbacks=callbacks,
                progress=update,
            )

    def numbers(self, cells: Cells, network: GeneformerForCells | None = None) -> tuple[Floats, Floats | None]:
        """Predicted numbers of the tokenized cells and their standard deviation, where the loss has one, ``(n,)``."""
        outputs = self.outputs(cells, network=network)[str(self.label_)]
        scale = NumberScale(**self.scale_)
        return scale.mean(outputs), scale.deviation(outputs, self.loss_)

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
        """Predicted number of every cell, ``(n_cells,)``; not a number for cells without a known gene.

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

    def evaluate(
        self,
        cells: CellInput,
        label: str | None = None,
        *,
        groups: str | None = None,
        counts_layer: str | None = None,
        gene_ids: str | None = None,
    ) -> NumberReport:
        """How near the predictions are on cells with a number, beside the baselines if this was just fitted.

        Parameters
        ----------
        cells
            Cells that were not learnt from.
        label
            Column with the numbers; the one learnt from by default.
        groups
            Column of donors or the like, to resample whole groups for the intervals.
        counts_layer, gene_ids
            Where counts and gene identifiers are.
        """
        self._fitted("network_")
        name = label or str(self.label_)
        opened = self.open(cells, counts_layer=counts_layer, gene_ids=gene_ids)
        values = encode_numbers(opened.column(name), name=name)
        return self._evaluate(opened, np.flatnonzero(~np.isnan(values)), values, groups)

    def _evaluate(self, cells: Cells, rows: NDArray[np.int64], values: Floats, groups: str | None) -> NumberReport:
        """The report on some of the cells."""
        part, truth = part_of(cells, rows), values[rows]
        predicted, deviation = self.numbers(part)
        together = None if groups is None else np.asarray(cells.column(groups))[rows]
        judged = partial(evaluate_numbers, truth, groups=together, seed=self.finetuning.seed)
        settings: dict[str, Any] = {
            "model": self.model,
            "label": self.label_,
            "split": self.split_,
            "scale": self.scale_,
        }
        if deviation is not None:
            settings["within_two_deviations"] = float((np.abs(truth - predicted) <= 2 * deviation).mean())
        beside = self.baseline_numbers_ = self._baselines(cells, rows, part)
        return NumberReport(
            evaluation=judged(predicted),
            baselines={name: judged(said) for name, said in beside.items()},
            cell_ids=part.tokens.cell_ids,
            truth=truth,
            predicted=predicted,
            settings={**settings, **self._options},
        )

    def _baselines(self, cells: Cells, rows: NDArray[np.int64], part: Cells) -> dict[str, Floats]:
        """Numbers from what the model has to beat, by name."""
        training = self._training
        if training is None or self.regress.baselines == "none":
            return {}
        found: dict[str, Floats] = {}
        if self.regress.baselines == "all":
            if self._twin is None:
                options = without_pretraining(self.finetuning)
                self._twin = self._learn(options, title="Training from random weights")[0]
            found[TWIN] = self.numbers(part, self._twin)[0]
        counts = counts_like(training.cells, training.counts, cells, self.base())
        if training.counts is None or counts is None:
            return found
        learnt = training.split.train
        found |= regress_by_baselines(
            training.counts[learnt],
            training.values[learnt],
            counts[rows],
            groups=None if training.groups is None else training.groups[learnt],
            n_top_genes=self.regress.n_top_genes,
            seed=self.finetuning.seed,
        )
        if cells.adata is None:
            del found[LIBRARY]  # scaled counts have no library size
        return found


Ints = NDArray[np.int64]


@dataclass(frozen=True, slots=True, eq=False)
class _ExpressionDecoderLearnt:
    """What baselines need of the training."""

    cells: Cells
    split: Split
    usual: UsualValues
    additive: AdditiveModel


class ExpressionDecoder(CellEstimator):
    """A pretrained encoder that learns to tell how much of each gene a cell expresses.

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
        Evaluation on genes taken out of the test part of the split, beside the baselines: "value", "rank", and "value
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
    task_fields = ("share_", "metrics_", "split_")
    network_kind = GeneformerForExpression

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
        groups = {
            "finetuning": finetuning or FinetuneOptions(),
            "expression": expression or ExpressionOptions(),
            "split": split or SplitOptions(),
            "runtime": runtime or RuntimeOptions(),
        }
        super().__init__(model, vocabulary, groups, changes)

    expression: ExpressionOptions
    split: SplitOptions
    share_: float = 0.15
    metrics_: dict[str, float]
    split_: dict[str, Any]
    _training: _ExpressionDecoderLearnt | None = None
    _twin: GeneformerForExpression | None = None

    def open(self, cells: CellInput, *, counts_layer: str | None = None, gene_ids: str | None = None) -> Cells:
        """Tokens with the counts behind them, where they are known; see `open_cells`."""
        pairing = self._pairing if self._pairing is not None else self._pair(self.base())
        return open_cells(cells, pairing, counts_layer=counts_layer, gene_ids=gene_ids, counts=True)

    def fit(
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
        groups
            Column of donors, batches or the like; no group is on two sides of the split.
        ids
            Column of the ids that `split.train_ids` and the others list, or that a balanced split draws; `groups` by
            default.
        split_rows
            Split of the tokenized cells to use instead of drawing one.
        counts_layer, gene_ids
            Where counts and gene identifiers are.
        output
            Folder for training checkpoints, from which a killed run can go on.
        resume
            Go on from there.
        callbacks
            Further callbacks of `transformers.Trainer`.

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
        self._check_options()
        opened = self.open(cells, counts_layer=counts_layer, gene_ids=gene_ids)
        check_counts(opened.tokens)
        codes = np.zeros(len(opened.tokens), dtype=np.int64)
        if self.expression.max_cells is not None:
            codes[:] = -1
            codes[cap_cells(codes + 1, max_cells=self.expression.max_cells, seed=self.split.seed)] = 0
        if split_rows is None:
            parts = draw_rows(opened, codes, self.split_options(groups), groups=groups, ids=ids or groups)
        else:
            parts = given_rows(split_rows, codes, opened.column(groups) if groups else None, self.split)
        self.network_, self._twin, self.report_ = None, None, None
        self._training, self.share_ = self._look_at(opened, parts), self.expression.share
        network, result = self._learn(self.finetuning, output, resume, callbacks)
        self._learnt(network, result, self.base())
        self._options = {name: asdict(getattr(self, name)) for name in ("finetuning", "expression", "split")}
        self.split_, self.metrics_ = describe_parts(parts, groups), dict(result.metrics)
        if len(parts.test):
            self.report_ = self._evaluate(opened, parts.test, groups)
        return self

    def _check_options(self) -> None:
        usual = FinetuneOptions()
        for name in ("class_weights", "label_smoothing", "contrastive_weight"):
            value = getattr(self.finetuning, name)
            if value != getattr(usual, name):
                msg = f"{name}={value!r}, but expression is learnt without classes and second views. Leave it out."
                raise OptionError(msg)

    def _look_at(self, cells: Cells, parts: Split) -> _ExpressionDecoderLearnt:
        """Usual values of the genes, and their effects beside those of the cells."""
        pairing = self._pair(self.base())
        seen: dict[str, Any] = {
            "tokens": cells.tokens,
            "rows": parts.train,
            "special": pairing.vocabulary.special_ids,
            "max_length": pairing.max_length,
        }
        usual = UsualValues.fit(size=self.base().network.config.vocab_size, **seen)
        return _ExpressionDecoderLearnt(cells, parts, usual, AdditiveModel.fit(usual=usual, **seen))

    def _learn(
        self,
        options: FinetuneOptions,
        output: str | Path | None = None,
        resume: bool = False,
        callbacks: Any = (),
        title: str = "Training",
    ) -> tuple[GeneformerForExpression, FinetuneResult]:
        """One network from the training part."""
        training: _ExpressionDecoderLearnt = self._fitted("_training")
        with progress_bar(title, shown=self.runtime.progress) as update:
            return learn_expression(
                self.base(),
                training.cells.tokens,
                training.usual,
                train_rows=training.split.train,
                valid_rows=training.split.valid,
                expression=self.expression,
                options=options,
                runtime=self.runtime,
                output=None if output is None else Path(output),
                resume=resume,
                callbacks=callbacks,
                progress=update,
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
            0 for the highest to 1. Dense for given genes, not a number for cells without a known gene; else sparse,
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
        pairing: Pairing = self._fitted("_pairing")
        vocabulary = pairing.vocabulary
        wanted = None if genes is None else np.array(tokens_of_genes(genes, vocabulary), dtype=np.int64)
        opened = self.open(cells, counts_layer=counts_layer, gene_ids=gene_ids)
        names = cell_names(opened)
        for start in range(0, max(opened.n_input, 1), cells_per_block):
            stop = min(start + cells_per_block, opened.n_input)
            rows = np.flatnonzero((opened.rows >= start) & (opened.rows < stop))
            yield self._block(opened, rows, opened.rows[rows] - start, names[start:stop], wanted)

    def _block(self, cells: Cells, rows: Ints, places: Ints, names: NDArray[Any], wanted: Ints | None) -> "AnnData":
        """Predictions for some tokenized cells, which are at some places among the named ones."""
        pairing: Pairing = self._fitted("_pairing")
        vocabulary = pairing.vocabulary
        tokens = cells.tokens.take(rows)
        if wanted is not None:
            starts, asked = np.arange(len(rows) + 1) * len(wanted), np.tile(wanted, len(rows))
        else:
            packed = tokens.gather(np.arange(len(rows)), max_length=pairing.max_length)
            is_gene = ~np.isin(packed.input_ids, vocabulary.special_ids)
            starts = np.concatenate([[0], np.cumsum(is_gene)])[packed.cu_seqlens]
            asked = packed.input_ids[is_gene].astype(np.int64)
        predicted = predict_expression(
            self._fitted("network_"), tokens, starts, asked, self.runtime, max_length=pairing.max_length
        )
        return expression_anndata(
            predicted, starts, asked, names=names, places=places, wanted=wanted, vocabulary=vocabulary,
            provenance=self.provenance,
        )  # fmt: skip

    def evaluate(
        self,
        cells: CellInput,
        *,
        groups: str | None = None,
        counts_layer: str | None = None,
        gene_ids: str | None = None,
    ) -> ReportSet:
        """How near the predictions are for genes taken out of cells, beside the baselines if this was just fitted.

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
        return self._evaluate(opened, np.arange(len(opened.tokens)), groups)

    def _evaluate(self, cells: Cells, rows: Ints, groups: str | None) -> ReportSet:
        """The reports on some of the cells."""
        pairing, network, seed = self._fitted("_pairing"), self._fitted("network_"), self.finetuning.seed
        rows = rows[cap_cells(np.zeros(len(rows)), max_cells=self.expression.report_cells, seed=seed)]
        compared = self._training is not None and self.expression.baselines != "none"
        tested = take_genes_out(
            cells.tokens,
            rows,
            pairing.vocabulary.special_ids,
            share=self.share_,
            max_length=pairing.max_length,
            seed=seed,
            additive=self._training.additive if self._training is not None and compared else None,
        )
        predicted = {"": self._predict(network, tested)}
        if compared and self.expression.baselines == "all":
            if self._twin is None:
                options = without_pretraining(self.finetuning)
                self._twin = self._learn(options, title="Training from random weights")[0]
            predicted[TWIN] = self._predict(self._twin, tested)
        return report_expression(
            tested,
            predicted,
            network.usual.double().cpu().numpy()[tested.genes],
            names=cells.tokens.cell_ids[rows],
            genes=pairing.vocabulary.gene_of[tested.genes],
            groups=None if groups is None else np.asarray(cells.column(groups))[rows],
            seed=seed,
            settings={"model": self.model, "share": self.share_, "split": self.split_, **self._options},
        )

    def _predict(self, network: GeneformerForExpression, tested: TestedGenes) -> NDArray[np.float32]:
        """Value and rank of genes taken out of cells, ``(p, 2)``."""
        pairing: Pairing = self._fitted("_pairing")
        with progress_bar("Predicting", shown=self.runtime.progress) as update:
            return predict_expression(
                network,
                tested.visible,
                tested.starts,
                tested.genes,
                self.runtime,
                max_length=pairing.max_length,
                progress=update,
            )


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
    >>> from geneformer.datasets import pbmc3k
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


class GeneClassifier(GeneEstimator):
    """A pretrained encoder that learns to tell classes of genes apart by the company they keep in cells.

    The network learns from every occurrence of the labeled genes. What it says about a gene is its probability averaged
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
        groups = {
            "finetuning": finetuning or FinetuneOptions(),
            "classify": classify or GeneClassifyOptions(),
            "runtime": runtime or RuntimeOptions(),
        }
        super().__init__(model, vocabulary, groups, changes)

    classify: GeneClassifyOptions
    _training: LabeledGenes | None = None
    _split: GeneParts | None = None
    _features: GeneFeatures | None = None
    _twin: GeneformerForGenes | None = None

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
        base, chosen, seed = self.base(), self.classify, self.finetuning.seed
        prepared = self._open(cells, gene_classes, self._pair(), counts_layer=counts_layer, gene_ids=gene_ids)
        labels = prepared.labels
        parts = split_genes(labels.codes, valid=chosen.valid, test=chosen.test, classes=labels.classes, seed=seed)
        with self._bar("Training") as update:
            network, result = learn_genes(
                base, prepared.cells.tokens, labels, parts, self.finetuning, self.runtime,
                output=None if output is None else Path(output), resume=resume, callbacks=callbacks, progress=update,
            )  # fmt: skip
        self.network_, self.result_, self._history = network, result, result.history
        self._pairing, self._training, self._split = self._pair(), prepared, parts
        self._features, self._twin, self.report_ = None, None, None
        self.classes_, self.gene_classes_ = labels.classes, labels.by_class(base.vocabulary)
        names = base.vocabulary.gene_of[labels.tokens]
        self.parts_ = {name: names[getattr(parts, name)].tolist() for name in ("train", "valid", "test")}
        self.left_out_ = {"unknown": dict(labels.unknown), "absent": dict(labels.absent)}
        self.metrics_ = dict(result.metrics)
        self._options = {name: asdict(getattr(self, name)) for name in ("finetuning", "classify")}
        if len(parts.test):
            self.report_ = self._report(prepared, parts.test)
        return self

    def evaluate(
        self,
        cells: CellInput | None = None,
        gene_classes: GeneClasses | None = None,
        *,
        allow_learnt: bool = False,
        counts_layer: str | None = None,
        gene_ids: str | None = None,
    ) -> GeneReport:
        """How right the predictions are on genes of known class, beside the baselines if this was just fitted.

        Parameters
        ----------
        cells
            Where the genes are told; the cells of `fit` by default.
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
        if cells is None and gene_classes is None and self._training is not None and self._split is not None:
            self._test_genes()
            return self._report(self._training, self._split.test)
        given = self._test_genes() if gene_classes is None else gene_classes
        opened = self._fitted("_training").cells if cells is None else cells
        places = {"counts_layer": counts_layer, "gene_ids": gene_ids}
        prepared = self._open(opened, given, self._fitted("_pairing"), classes=self.classes_, all_cells=True, **places)
        labels, known = prepared.labels, self._known_genes()
        learnt = np.array([gene in known for gene in self._vocabulary.gene_of[labels.tokens]])
        if learnt.all() and not allow_learnt:
            msg = (
                f"All {len(labels):,} genes were learnt from. Give genes that were not, hold some out with test=0.2, "
                "or use cross_validate, which holds out every gene once."
            )
            raise GeneListError(msg)
        if learnt.any() and not allow_learnt:
            msg = f"{learnt.sum():,} of {len(labels):,} genes were learnt from and are left out of the evaluation."
            warnings.warn(msg, GeneformerWarning, stacklevel=2)
        return self._report(prepared, np.flatnonzero(~learnt | allow_learnt))

    def cross_validate(
        self,
        cells: CellInput | None = None,
        gene_classes: GeneClasses | None = None,
        n_folds: int = 5,
        *,
        counts_layer: str | None = None,
        gene_ids: str | None = None,
    ) -> GeneReport:
        """How right the classes of genes are told by networks that did not learn from them, beside the baselines.

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
            prepared = self._open(cells, gene_classes, self._pair(), counts_layer=counts_layer, gene_ids=gene_ids)
        base, labels, seed = self.base(), prepared.labels, self.finetuning.seed
        folds = draw_gene_folds(labels.codes, n_folds, valid=self.classify.valid, classes=labels.classes, seed=seed)
        variants = {MODEL: self.finetuning}
        if self.classify.baselines == "all":
            variants[TWIN] = without_pretraining(self.finetuning)
        results = cross_validate_genes(
            base,
            self._told(prepared, self._pair()),
            folds,
            variants,
            self.runtime,
            features=None if self.classify.baselines == "none" else self._features_of(prepared),
            bar=self._bar,
        )
        self.report_ = report_genes(
            results, labels, base.vocabulary, self._settings(prepared, n_folds=n_folds), seed=seed
        )
        return self.report_

    def _open(
        self, cells: CellInput | Cells, gene_classes: GeneClasses, pairing: Pairing, **places: Any
    ) -> LabeledGenes:
        return open_genes(cells, gene_classes, pairing, self.classify, seed=self.finetuning.seed, **places)

    def _test_genes(self) -> dict[str, list[str]]:
        test = set(self.parts_["test"])
        if not test:
            msg = "No gene was held out. Give genes that were not learnt from, or fit with test=0.2."
            raise GeneListError(msg)
        held_out = {name: [gene for gene in genes if gene in test] for name, genes in self.gene_classes_.items()}
        return {name: genes for name, genes in held_out.items() if genes}

    def _told(self, prepared: LabeledGenes, pairing: Pairing) -> Told:
        return Told(prepared.cells.tokens, prepared.labels, pairing.max_length, pairing.vocabulary.size)

    def _features_of(self, prepared: LabeledGenes) -> GeneFeatures:
        """What the baselines see; kept for the cells of `fit`."""
        if prepared is self._training and self._features is not None:
            return self._features
        base, length = self.base(), self._pair().max_length
        with self._bar("Embedding genes") as update:
            found = gene_features(
                base, prepared.cells.tokens, self.runtime,
                counts=prepared.cells.counts(base), max_length=length, progress=update,
            )  # fmt: skip
        if prepared is self._training:
            self._features = found
        return found

    def _report(self, prepared: LabeledGenes, rows: NDArray[np.int64]) -> GeneReport:
        """The report on some of the genes, which are all told by the one network."""
        networks = {MODEL: self._fitted("network_")}
        with_baselines = self._training is not None and self.classify.baselines != "none"
        if with_baselines and self.classify.baselines == "all":
            networks[TWIN] = self._random_twin()
        told = self._told(prepared, self._fitted("_pairing"))
        held_out = tell_held_out(networks, told, rows, self.runtime, self._bar)
        seed = self.finetuning.seed
        if with_baselines and self._training is not None and self._split is not None:
            features, seen = self._features_of(self._training), self._features_of(prepared)
            tokens = prepared.labels.tokens[rows]
            beside = classify_genes_by_baselines(
                self._training.labels, self._split.known, features, tokens, seen, seed=seed
            )
            add_baselines(held_out, prepared.labels, beside)
        return report_genes([held_out], prepared.labels, self._vocabulary, self._settings(prepared), seed=seed)

    def _random_twin(self) -> GeneformerForGenes:
        """The same network with the same training, but without the pretrained weights."""
        if self._twin is None:
            training, parts = self._fitted("_training"), self._fitted("_split")
            options = without_pretraining(self.finetuning)
            with self._bar("Training from random weights") as update:
                self._twin = learn_genes(
                    self.base(), training.cells.tokens, training.labels, parts, options, self.runtime, progress=update
                )[0]
        return self._twin

    def _settings(self, prepared: LabeledGenes, **more: Any) -> dict[str, Any]:
        """How a report was made."""
        labels = prepared.labels
        options = {name: asdict(getattr(self, name)) for name in ("finetuning", "classify")}
        return {
            "model": str(self.model),
            "cells": len(prepared.cells.tokens),
            "genes": dict(zip(labels.classes, labels.counts.tolist(), strict=True)),
            "unknown": dict(labels.unknown),
            "absent": dict(labels.absent),
            **more,
            **options,
        }


ESTIMATORS = {
    "cell_classifier": "CellClassifier",
    "cell_regressor": "CellRegressor",
    "expression_decoder": "ExpressionDecoder",
    "gene_classifier": "GeneClassifier",
    "multi_task_classifier": "MultiTaskClassifier",
}
"""Classes by the kind a folder names; each lives in the module of its kind."""


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
        msg = f"{folder} holds a {kind!r}, which this release does not know. Known are {', '.join(sorted(ESTIMATORS))}."
        raise CheckpointError(msg)
    estimator = getattr(import_module("geneformer.finetuning.estimators"), ESTIMATORS[kind])
    return estimator.load(folder, runtime=runtime)
