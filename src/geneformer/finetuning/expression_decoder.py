"""`gf.ExpressionDecoder`: value and rank of genes, learnt from genes taken out of cells."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Self

import numpy as np
import pyarrow as pa
import torch
from numpy.typing import NDArray

from geneformer import keys
from geneformer.engine.inference import Batch, run_batches
from geneformer.engine.training import Key, Scored, length_read
from geneformer.errors import DatasetError, OptionError, tokenizing
from geneformer.files.progress import Progress
from geneformer.finetuning.estimator import CellEstimator, Examples, groups_of, matched_in, shown_as
from geneformer.finetuning.evaluations import Figures
from geneformer.finetuning.labels import capped
from geneformer.finetuning.metrics import evaluate_numbers
from geneformer.finetuning.predictions import RANK, cell_names
from geneformer.finetuning.reports import MODEL, SYMBOL, ExpressionReport, ReportSet
from geneformer.finetuning.splits import Split
from geneformer.finetuning.targets import Encoded, Target
from geneformer.finetuning.training import Batches, FinetuneResult, finetune, packed_tensors
from geneformer.genes.lookup import GenePanel, resolve_panel
from geneformer.inference.cells import CellInput, Cells
from geneformer.models.finetuned import build_network
from geneformer.models.heads import GeneformerForExpression
from geneformer.options import ExpressionOptions, FinetuneOptions, RuntimeOptions, SplitOptions
from geneformer.tokens.dataset import Packed, TokenizedDataset

if TYPE_CHECKING:
    from anndata import AnnData

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

MEAN = "mean of the gene"
ADDITIVE = "mean of the gene + effect of the cell"
"""Names of the baselines in tables."""

BEYOND = "value beyond the gene's mean"
"""Name of the report on what differs between cells."""

CHUNK = 2048
"""Cells looked at together."""

PRIOR = 5.0
"""A gene's mean is drawn to that of all genes as if by this many cells."""


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
        Needed only where the checkpoint does not name its own.
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

    needs_counts = True

    expression: ExpressionOptions
    share_: float = 0.15

    def fit(  # type: ignore[override]  # there is no label
        self,
        cells: CellInput,
        *,
        groups: str | None = None,
        ids: str | None = None,
        split_rows: Split | None = None,
        counts_layer: str | None = None,
        gene_ids: str | None = None,
        accept_normalized: bool = False,
        output: str | Path | None = None,
        resume: bool = False,
        callbacks: Any = (),
    ) -> Self:
        """Learn the expression of genes, and evaluate on genes taken out of the test part of the split.

        Parameters
        ----------
        cells
            AnnData with raw counts, tokens with counts, or paths of either.
        groups, ids, split_rows, counts_layer, gene_ids, accept_normalized, output, resume, callbacks
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
            accept_normalized=accept_normalized,
            output=output, resume=resume, callbacks=callbacks,
        )  # fmt: skip

    def targets(self, cells: Cells, label: None = None, *, by_cell: bool = True) -> Encoded:
        """The tokenized cells to learn from; its `codes` are what they are split by."""
        check_counts(cells.tokens)
        codes = np.zeros(len(cells.tokens), dtype=np.int64)
        return Encoded({}, {}, capped(codes, max_cells=self.expression.max_cells, seed=self.split.seed))

    def _train(self, **run: Any) -> None:
        """Train after a look at the usual values of the genes."""
        self._usual = UsualValues.fit(size=self.base().network.config.vocab_size, **self._learnt_from())
        super()._train(**run)

    def _learnt_from(self) -> dict[str, Any]:
        training, pairing = self._training, self._pair()
        return {
            "tokens": training.cells.tokens,
            "rows": training.split.train,
            "special": pairing.vocabulary.special_ids,
            "max_length": pairing.max_length,
        }

    def _has_probe(self) -> bool:
        return False  # what is learnt is a decoder

    def _learn(self, options: FinetuneOptions, **run: Any) -> tuple[GeneformerForExpression, FinetuneResult]:
        training: Examples = self._fitted("_training")
        base, tokens, split, expression = self.base(), training.cells.tokens, training.split, self.expression
        weights = ("removed_weight", "visible_weight", "value_weight", "rank_weight")
        attributes = {
            "geneformer_pooling": options.pooling,
            "geneformer_decoder_size": expression.decoder_size,
            **{f"geneformer_{name}": getattr(expression, name) for name in weights},
        }
        network = build_network(GeneformerForExpression, base, options, attributes)
        network.usual.copy_(torch.from_numpy(self._usual.by_token))
        network.spread.copy_(torch.from_numpy(self._usual.spread))
        max_length, special = length_read(options.max_length, base.max_length, base.name), base.vocabulary.special_ids
        train, valid = (
            expression_batches(tokens, rows, special, max_length, share=expression.share, seed=options.seed)
            for rows in (split.train, split.valid)
        )
        about = {"expression": asdict(expression), "tokens": int(tokens.lengths[split.train].sum())}
        result = finetune(network, train, valid, options, self.runtime, score=score_expression, about=about, **run)
        return network, result

    def _describe(self) -> None:
        self.share_ = self.expression.share

    def _make_features(self, examples: Examples) -> "AdditiveModel":
        return AdditiveModel.fit(usual=self._usual, **self._learnt_from())

    def predict(
        self,
        cells: CellInput,
        genes: Sequence[str] | None = None,
        *,
        counts_layer: str | None = None,
        gene_ids: str | None = None,
        accept_normalized: bool = False,
        unknown: Literal["drop", "error"] = "drop",
    ) -> "AnnData":
        """Value and rank of genes in every cell, all genes of the cell being visible.

        Parameters
        ----------
        cells
            AnnData with raw counts, tokens, or paths of either.
        genes
            Ensembl ids or symbols, predicted in every cell as if it expressed them; by default every gene in the cells
            that express it.
        counts_layer, gene_ids, accept_normalized
            Where counts and gene identifiers are; whether values that are no raw counts are ranked all the same.
        unknown
            Leave genes without a token out with a warning that lists them, or raise.

        Returns
        -------
        AnnData
            Cells of the input by genes; `X` holds values, log(1 + counts per 10,000), and the layer "rank" ranks, from
            0 for the highest to 1. Dense for given genes, NaN for cells without a known gene; else sparse,
            with an entry for every expressed gene that is read.

        Raises
        ------
        UnknownGeneError
            None of the genes has a token; with ``unknown="error"`` any of them.
        """
        import anndata as ad

        blocks = list(
            self.predict_blocks(
                cells,
                genes,
                counts_layer=counts_layer,
                gene_ids=gene_ids,
                accept_normalized=accept_normalized,
                unknown=unknown,
            )
        )
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
        accept_normalized: bool = False,
        unknown: Literal["drop", "error"] = "drop",
    ) -> Iterator["AnnData"]:
        """What `predict` returns, some thousand cells at a time, in the order of the input.

        Parameters
        ----------
        cells, genes, counts_layer, gene_ids, accept_normalized, unknown
            See `predict`.
        cells_per_block
            Cells of the input per block.
        """
        vocabulary = self.pairing.vocabulary
        panel = None if genes is None else resolve_panel(genes, vocabulary, unknown=unknown).check(unknown)
        opened = self.open(cells, counts_layer=counts_layer, gene_ids=gene_ids, accept_normalized=accept_normalized)
        names = cell_names(opened)
        for start in range(0, max(opened.n_input, 1), cells_per_block):
            stop = min(start + cells_per_block, opened.n_input)
            rows = np.flatnonzero((opened.rows >= start) & (opened.rows < stop))
            yield self._block(opened, rows, opened.rows[rows] - start, names[start:stop], panel)

    def _block(self, cells: Cells, rows: Ints, places: Ints, names: NDArray[Any], panel: GenePanel | None) -> "AnnData":
        """Predictions for some tokenized cells, which are at some places among the named ones.

        They are dense for given genes, else sparse over the vocabulary.
        """
        import anndata as ad
        import pandas as pd
        from scipy import sparse

        vocabulary, max_length = self.pairing.vocabulary, self.pairing.max_length
        asked = None if panel is None else np.array(panel.tokens, dtype=np.int64)
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
        uns = {keys.UNS: self.provenance | ({} if panel is None else {"panel": panel.record()})}
        return ad.AnnData(sides[0], obs=pd.DataFrame(index=pd.Index(names)), var=var, layers={RANK: sides[1]}, uns=uns)

    @shown_as("Evaluation")
    def evaluate(  # type: ignore[override]  # there is no label
        self,
        cells: CellInput,
        *,
        groups: str | None = None,
        counts_layer: str | None = None,
        gene_ids: str | None = None,
        accept_normalized: bool = False,
    ) -> ReportSet:
        """How near the predictions are for genes taken out of cells, with the baselines if this was just fitted.

        Squared error, R2 and correlations over all genes taken out, with intervals from resampling whole cells.

        Parameters
        ----------
        cells
            Cells that were not learnt from, with counts.
        groups
            Column of donors or the like, to resample whole groups for the intervals.
        counts_layer, gene_ids, accept_normalized
            Where counts and gene identifiers are; whether values that are no raw counts are ranked all the same.

        Raises
        ------
        DatasetError
            Tokens without counts.
        """
        opened = self._open_fitted(cells, counts_layer, gene_ids, accept_normalized)
        check_counts(opened.tokens)
        self._warn_of_learnt(opened)
        return self._evaluate(Examples(opened, None, groups=groups_of(opened, groups)), np.arange(len(opened.tokens)))

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
            with self._bar("Predicting", unit="cells") as update:
                predictions[name] = predict_expression(
                    one, taken.visible, taken.starts, taken.genes, self.runtime,
                    max_length=max_length, progress=update,
                )  # fmt: skip
        target = Expression()
        predictions |= target.baselines(network.usual.cpu().double().numpy(), None, taken)
        cells = np.repeat(np.arange(len(rows)), np.diff(taken.starts))
        settings = {"model": self._base_name, "share": self.share_, "split": self.split_, **self._options}
        settings |= matched_in(tested.cells)
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


class Expression(Target):
    """Value and rank of genes in cells; a report is on one of the two."""

    report_kind = ExpressionReport

    def measure(self, truth: Floats, predictions: Floats, *, groups: NDArray[Any] | None, seed: int) -> Figures:
        """Figures of numbers."""
        return evaluate_numbers(truth, predictions, groups=groups, seed=seed)

    def baselines(self, features: Floats, values: None, tested: "TestedGenes", **_: Any) -> dict[str, Floats]:
        """What is usual for each gene, ``(V, 2)``, for the genes taken out; and that with an effect of the cell."""
        additive = {} if tested.additive is None else {ADDITIVE: tested.additive}
        return {MEAN: features[tested.genes], **additive}


@dataclass(frozen=True, slots=True, eq=False)
class GeneValues:
    """Genes of packed cells, one entry for each gene that a cell expresses."""

    cells: Ints
    genes: Ints
    values: NDArray[np.float32]
    removed: NDArray[np.bool_]


def check_counts(tokens: TokenizedDataset) -> None:
    """Refuse tokens without the counts behind them."""
    if not tokens.has_counts:
        msg = (
            "The tokenized dataset has no `counts`, so the values of its genes are missing. Tokenize with "
            f"{tokenizing(counts=True)}, or pass raw counts."
        )
        raise DatasetError(msg)


def hide_genes(
    packed: Packed, special: NDArray[Any], share: float, seeds: Sequence[Sequence[int]]
) -> tuple[Packed, GeneValues]:
    """Cells without a share of their genes, those behind moving up; and value and rank of all their genes."""
    ids, lengths = packed.input_ids, np.diff(packed.cu_seqlens)
    cells = np.repeat(np.arange(len(lengths)), lengths)
    places = np.flatnonzero(~np.isin(ids, special))
    n_genes = np.bincount(cells[places], minlength=len(lengths))
    starts = np.cumsum(n_genes) - n_genes
    rank = (np.arange(len(places)) - np.repeat(starts, n_genes) + 0.5) / np.repeat(n_genes, n_genes)
    counts = np.zeros(len(places)) if packed.counts is None else packed.counts[places]
    removed = np.zeros(len(places), dtype=bool)
    for start, n, seed in zip(starts, n_genes, seeds if share else (), strict=bool(share)):
        removed[start : start + n] = _drawn(int(n), share, seed)
    left = np.ones(len(ids), dtype=bool)
    left[places[removed]] = False
    left_lengths = np.bincount(cells[left], minlength=len(lengths))
    visible = Packed(ids[left], np.concatenate([[0], np.cumsum(left_lengths)]).astype(np.int64))
    values = np.column_stack([np.log1p(counts), rank]).astype(np.float32)
    return visible, GeneValues(cells[places], ids[places].astype(np.int64), values, removed)


def _drawn(n: int, share: float, seed: Sequence[int]) -> NDArray[np.bool_]:
    """Which of the genes of a cell go, ``(n,)``."""
    if n < 2:
        return np.zeros(n, dtype=bool)
    chance = np.random.default_rng(seed).random(n)
    gone: NDArray[np.bool_] = chance < share
    gone[chance.argmin()], gone[chance.argmax()] = True, False
    return gone


def hidden_chunks(
    tokens: TokenizedDataset, rows: Ints, special: NDArray[Any], share: float, *, max_length: int, seed: int
) -> Iterator[tuple[Ints, Packed, GeneValues]]:
    """Cells a few thousand at a time: their rows, what is left of them, and value and rank of all their genes."""
    for start in range(0, len(rows), CHUNK):
        some = rows[start : start + CHUNK]
        packed = tokens.gather(some, max_length=max_length, counts=True)
        visible, values = hide_genes(packed, special, share, [(seed, int(row)) for row in some])
        yield some, visible, values


@dataclass(frozen=True, slots=True, eq=False)
class UsualValues:
    """Value and rank that genes usually have where they are expressed, ``(V, 2)``, and their spread, ``(2,)``."""

    by_token: Floats
    spread: Floats

    @classmethod
    def fit(
        cls, tokens: TokenizedDataset, rows: Ints, special: NDArray[Any], size: int, *, max_length: int
    ) -> "UsualValues":
        """The usual values of some cells."""
        number, sums, squares = np.zeros(size), np.zeros((size, 2)), np.zeros((size, 2))
        for _, _, genes in hidden_chunks(tokens, rows, special, 0.0, max_length=max_length, seed=0):
            number += np.bincount(genes.genes, minlength=size)
            sums += _sums_by(genes.genes, genes.values, size)
            squares += _sums_by(genes.genes, genes.values.astype(np.float64) ** 2, size)
        overall = sums.sum(axis=0) / max(number.sum(), 1)
        usual = (sums + PRIOR * overall) / (number + PRIOR)[:, None]
        around = squares - 2 * usual * sums + number[:, None] * usual**2
        spread = np.sqrt(np.maximum(around.sum(axis=0), 0) / max(number.sum(), 1))
        return cls(usual, np.where(spread > 0, spread, 1.0))


@dataclass(frozen=True, slots=True, eq=False)
class AdditiveModel:
    """Value and rank as an effect of the gene and an effect of the cell: ``values[c, g] = gene[g] + cell[c]``."""

    by_token: Floats

    @classmethod
    def fit(
        cls, tokens: TokenizedDataset, rows: Ints, special: NDArray[Any], usual: UsualValues, *, max_length: int
    ) -> "AdditiveModel":
        """Effects of the genes in some cells, those of the cells taken out, by alternating least squares."""
        effects = usual.by_token
        for _ in range(5):
            number, sums = np.zeros(len(effects)), np.zeros_like(effects)
            for some, _, genes in hidden_chunks(tokens, rows, special, 0.0, max_length=max_length, seed=0):
                rest = genes.values - cell_effects(genes, effects, len(some))[genes.cells]
                number += np.bincount(genes.genes, minlength=len(effects))
                sums += _sums_by(genes.genes, rest, len(effects))
            before, effects = effects, (sums + PRIOR * usual.by_token) / (number + PRIOR)[:, None]
            if np.abs(effects - before).max(initial=0.0) < 1e-4:
                break
        return cls(effects)

    def predict(self, genes: GeneValues, n_cells: int) -> Floats:
        """Value and rank of every gene, ``(p, 2)``; the effects of the cells come from the genes not removed."""
        return self.by_token[genes.genes] + cell_effects(genes, self.by_token, n_cells)[genes.cells]


def cell_effects(genes: GeneValues, effects: Floats, n_cells: int) -> Floats:
    """How much higher the visible genes of each cell are than the effects of the genes say, ``(n_cells, 2)``."""
    visible = ~genes.removed
    cells = genes.cells[visible]
    rest = genes.values[visible] - effects[genes.genes[visible]]
    mean: Floats = _sums_by(cells, rest, n_cells) / np.maximum(np.bincount(cells, minlength=n_cells), 1)[:, None]
    return mean


def _sums_by(places: Ints, values: NDArray[Any], n: int) -> Floats:
    """Sums of values and ranks by gene, or by cell, ``(n, 2)``."""
    return np.column_stack([np.bincount(places, values[:, side], n) for side in range(2)])


PAIRS = 65_536
"""Pairs of a cell and a gene decoded at once."""


def expression_batches(
    tokens: TokenizedDataset,
    rows: Ints,
    special: NDArray[Any],
    max_length: int,
    *,
    share: float = 0.15,
    seed: int = 0,
) -> Batches:
    """Cells with genes taken out; which ones depends on seed, epoch and row only."""

    def make(packed: Packed, rows: Ints, keys: Sequence[Key]) -> dict[str, Any]:
        seeds = [(seed, epoch, int(row)) for (epoch, _), row in zip(keys, rows, strict=True)]
        visible, genes = hide_genes(packed, special, share, seeds)
        return packed_tensors(visible) | {
            "cells": torch.from_numpy(genes.cells),
            "genes": torch.from_numpy(genes.genes),
            "values": torch.from_numpy(genes.values),
            "removed": torch.from_numpy(genes.removed),
        }

    return Batches(tokens, rows, max_length, make, counts=True)


def score_expression(scored: Scored) -> dict[str, float]:
    """Metrics of validation batches over the genes removed, in units of the usual spread: 1 is the usual value."""
    sums = dict.fromkeys(("removed_loss", "value_loss", "rank_loss"), 0.0)
    n_removed = 0
    for batch, outputs in scored:
        n = int(batch["removed"].sum())
        n_removed += n
        for name in sums:
            sums[name] += float(outputs[name]) * n
    means = {name: value / max(n_removed, 1) for name, value in sums.items()}
    return {"loss": means.pop("removed_loss"), **means}


def predict_expression(
    network: GeneformerForExpression,
    tokens: TokenizedDataset,
    starts: Ints,
    genes: Ints,
    runtime: RuntimeOptions,
    *,
    max_length: int,
    progress: Progress | None = None,
) -> NDArray[np.float32]:
    """Value and rank of genes in cells, ``(p, 2)``: values of 0 and more, ranks from 0 to 1."""
    predicted = np.empty((len(genes), 2), dtype=np.float32)

    def step(batch: Batch) -> None:
        pooled = network.embed(batch.input_ids, batch.cu_seqlens, attention=batch.attention)
        lengths = starts[batch.rows + 1] - starts[batch.rows]
        cells = np.repeat(np.arange(len(batch.rows)), lengths)
        places = np.repeat(starts[batch.rows] - (np.cumsum(lengths) - lengths), lengths) + np.arange(len(cells))
        for first in range(0, len(cells), PAIRS):
            part = slice(first, first + PAIRS)
            asked = {"cells_P": cells[part], "genes_P": genes[places[part]]}
            moved: Mapping[str, torch.Tensor] = {k: torch.from_numpy(v).to(pooled.device) for k, v in asked.items()}
            predicted[places[part]] = network.decode(pooled, **moved).float().cpu().numpy()

    run_batches(tokens, network.train(False), step, runtime, max_length=max_length, progress=progress)
    np.maximum(predicted[:, 0], 0, out=predicted[:, 0])
    np.clip(predicted[:, 1], 0, 1, out=predicted[:, 1])
    return predicted


@dataclass(frozen=True, slots=True, eq=False)
class TestedGenes:
    """Genes taken out of cells, to be predicted from what is left."""

    visible: TokenizedDataset
    starts: Ints
    genes: Ints
    truth: Floats
    additive: Floats | None


def take_genes_out(
    tokens: TokenizedDataset,
    rows: Ints,
    special: NDArray[Any],
    *,
    share: float,
    max_length: int,
    seed: int,
    additive: AdditiveModel | None = None,
) -> TestedGenes:
    """Take a share of its genes out of each of some cells."""
    ids, lengths, number, genes, truth, effects = [], [], [], [], [], []
    for some, visible, chunk in hidden_chunks(tokens, rows, special, share, max_length=max_length, seed=seed):
        gone = chunk.removed
        ids.append(visible.input_ids)
        lengths.append(np.diff(visible.cu_seqlens))
        number.append(np.bincount(chunk.cells[gone], minlength=len(some)))
        genes.append(chunk.genes[gone])
        truth.append(chunk.values[gone].astype(np.float64))
        if additive is not None:
            effects.append(additive.predict(chunk, len(some))[gone])
    offsets = np.concatenate([[0], np.cumsum(np.concatenate(lengths))])
    lists = pa.LargeListArray.from_arrays(pa.array(offsets), pa.array(np.concatenate(ids)))
    return TestedGenes(
        TokenizedDataset(pa.table({keys.INPUT_IDS: lists}), vocabulary=tokens.vocabulary),
        np.concatenate([[0], np.cumsum(np.concatenate(number))]).astype(np.int64),
        np.concatenate(genes),
        np.concatenate(truth),
        np.concatenate(effects) if effects else None,
    )
