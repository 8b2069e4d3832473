"""`gf.ExpressionDecoder`: the expression of any gene, from what the encoder makes of the other genes of the cell."""

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import numpy as np
from numpy.typing import NDArray

from geneformer.errors import OptionError
from geneformer.estimators.base import Pairing
from geneformer.estimators.cell_estimator import CellEstimator
from geneformer.estimators.cell_parts import TWIN, cell_names, describe_parts, without_pretraining
from geneformer.estimators.cells import CellInput, Cells, open_cells
from geneformer.estimators.splitting import draw_rows, given_rows
from geneformer.models.expression_head import GeneformerForExpression
from geneformer.options import ExpressionOptions, FinetuneOptions, RuntimeOptions, SplitOptions
from geneformer.results.expression import expression_anndata
from geneformer.results.report_sets import ReportSet
from geneformer.runs.progress import progress_bar
from geneformer.tasks.expression_learning import learn_expression, predict_expression
from geneformer.tasks.expression_reports import TestedGenes, report_expression, take_genes_out
from geneformer.tasks.finetuning import FinetuneResult
from geneformer.tasks.gene_values import AdditiveModel, UsualValues, check_counts
from geneformer.tasks.genes import token_of_gene
from geneformer.tasks.labels import cap_cells
from geneformer.tasks.splits import Split
from geneformer.vocab.vocabulary import Vocabulary

if TYPE_CHECKING:
    from anndata import AnnData

Ints = NDArray[np.int64]


@dataclass(frozen=True, slots=True, eq=False)
class _Learnt:
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
    >>> from geneformer.demo.cells import pbmc3k
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
    _training: _Learnt | None = None
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

    def _look_at(self, cells: Cells, parts: Split) -> _Learnt:
        """Usual values of the genes, and their effects beside those of the cells."""
        pairing = self._pair(self.base())
        seen: dict[str, Any] = {
            "tokens": cells.tokens,
            "rows": parts.train,
            "special": pairing.vocabulary.special_ids,
            "max_length": pairing.max_length,
        }
        usual = UsualValues.fit(size=self.base().network.config.vocab_size, **seen)
        return _Learnt(cells, parts, usual, AdditiveModel.fit(usual=usual, **seen))

    def _learn(
        self,
        options: FinetuneOptions,
        output: str | Path | None = None,
        resume: bool = False,
        callbacks: Any = (),
        title: str = "Training",
    ) -> tuple[GeneformerForExpression, FinetuneResult]:
        """One network from the training part."""
        training: _Learnt = self._fitted("_training")
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
        UnknownColumnError
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
        wanted = (
            None if genes is None else np.array([token_of_gene(gene, vocabulary) for gene in genes], dtype=np.int64)
        )
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
