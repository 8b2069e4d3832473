"""`gf.CellClassifier`: cell types, disease states and other classes of cells."""

from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import numpy as np
from numpy.typing import NDArray

from geneformer.estimators.cell_estimator import CellEstimator
from geneformer.estimators.cell_parts import (
    TWIN,
    check_deleted,
    counts_like,
    describe_parts,
    name_classes,
    part_of,
    without_pretraining,
)
from geneformer.estimators.cells import CellInput, Cells
from geneformer.estimators.splitting import draw_rows, given_rows
from geneformer.models.cell_heads import GeneformerForCells, HeadSpec
from geneformer.options import ClassifyOptions, FinetuneOptions, RuntimeOptions, SplitOptions
from geneformer.options._check import check_range
from geneformer.results.classification import ClassificationReport
from geneformer.results.label_sets import LabelSetReport
from geneformer.runs.progress import progress_bar
from geneformer.tasks.calibration import expected_calibration_error, fit_temperature, softmax
from geneformer.tasks.cell_learning import learn_cells
from geneformer.tasks.class_baselines import LIBRARY, classify_by_baselines
from geneformer.tasks.class_targets import ClassTargets, class_targets, known_targets
from geneformer.tasks.finetuning import FinetuneResult
from geneformer.tasks.label_set_metrics import evaluate_label_sets
from geneformer.tasks.metrics import evaluate_classes
from geneformer.tasks.splits import Split
from geneformer.vocab.vocabulary import Vocabulary

if TYPE_CHECKING:
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
    >>> from geneformer.demo.cells import pbmc3k
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
