"""`gf.CellRegressor`: ages, doses, scores, counts and other numbers of cells."""

from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Self, overload

import numpy as np
from numpy.typing import NDArray

from geneformer.errors import OptionError
from geneformer.estimators.cell_estimator import CellEstimator
from geneformer.estimators.cell_parts import (
    TWIN,
    check_deleted,
    counts_like,
    describe_parts,
    part_of,
    without_pretraining,
)
from geneformer.estimators.cells import CellInput, Cells
from geneformer.estimators.splitting import draw_rows, given_rows
from geneformer.models.cell_heads import GeneformerForCells, HeadSpec
from geneformer.options import FinetuneOptions, RegressOptions, RuntimeOptions, SplitOptions
from geneformer.results.numbers import NumberReport
from geneformer.runs.progress import progress_bar
from geneformer.tasks.cell_learning import learn_cells
from geneformer.tasks.finetuning import FinetuneResult
from geneformer.tasks.labels import cap_cells
from geneformer.tasks.number_metrics import evaluate_numbers
from geneformer.tasks.number_targets import (
    NumberScale,
    NumberTargets,
    check_numbers,
    encode_numbers,
    number_strata,
)
from geneformer.tasks.regression_baselines import LIBRARY, regress_by_baselines
from geneformer.tasks.splits import Split
from geneformer.vocab.vocabulary import Vocabulary

if TYPE_CHECKING:
    from scipy import sparse

Floats = NDArray[np.float64]


@dataclass(frozen=True, slots=True, eq=False)
class _Learnt:
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
    >>> from geneformer.demo.cells import pbmc3k
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
    _training: _Learnt | None = None
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
        self._training = _Learnt(opened, parts, targets.values, donors, counts, deleted_genes)
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
        training: _Learnt = self._fitted("_training")
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
