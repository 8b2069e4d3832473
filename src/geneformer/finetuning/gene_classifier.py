"""`gf.GeneClassifier`: classes of genes, learnt wherever the genes occur in cells."""

import hashlib
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple, Self

import numpy as np
import torch
from numpy.typing import NDArray

from geneformer.display import names_text
from geneformer.engine.inference import Batch, run_batches
from geneformer.engine.training import Key, Scored, length_read
from geneformer.errors import GeneformerWarning, GeneListError, OptionError
from geneformer.files.progress import Progress, counted
from geneformer.finetuning.baselines import MAJORITY, log_normalized, logistic_regression_on, majority
from geneformer.finetuning.estimator import PARTS_FOR, Estimator, Examples, Pairing, clone, matched_in, shown_as
from geneformer.finetuning.evaluations import FoldedEvaluation, TokenEvaluation
from geneformer.finetuning.gene_metrics import TokenTally, evaluate_genes
from geneformer.finetuning.labels import GeneLabels, GeneLists, occurring, read_gene_classes
from geneformer.finetuning.metrics import confusion, mean_defined, shares, softmax
from geneformer.finetuning.probe import fit_head
from geneformer.finetuning.reports import GENE, MODEL, N_CELLS, PROBABILITY, SYMBOL, GeneReport
from geneformer.finetuning.splits import Split, draw_gene_folds, split_genes
from geneformer.finetuning.targets import Target
from geneformer.finetuning.training import (
    Batches,
    FinetuneResult,
    Kept,
    cells_with_labeled_genes,
    count_cells,
    encoder_key,
    finetune,
    mean_ranks,
    packed_tensors,
    probed,
)
from geneformer.inference.cells import CellInput, open_cells
from geneformer.inference.embedding import embed
from geneformer.inference.tables import GeneEmbeddings
from geneformer.models.finetuned import build_network
from geneformer.models.heads import GeneformerForGenes, HeadSpec
from geneformer.models.loading import LoadedModel
from geneformer.models.losses import MISSING
from geneformer.options import EmbedOptions, FinetuneOptions, GeneClassifyOptions, RuntimeOptions
from geneformer.tokens.dataset import Packed, TokenizedDataset, plan_batches

if TYPE_CHECKING:
    import pandas as pd

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

STATISTICS = "logistic regression, rank and detection"
STATIC = "logistic regression, static gene embeddings"
CONTEXTUAL = "logistic regression, gene embeddings averaged over cells"
"""Names of the baselines in tables."""


class GeneClassifier(Estimator):
    """A pretrained encoder that learns classes of genes from the company they keep in cells.

    The network learns from every occurrence of the labeled genes. Its prediction for a gene is the probability averaged
    over all cells the gene occurs in.

    Parameters
    ----------
    model
        Name ("mini", "V1-10M", …), checkpoint folder or hub repository to start from.
    vocabulary
        Needed only where the checkpoint does not name its own.
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
    >>> adata = pbmc3k()[:50].copy()
    >>> classes = {"ribosomal": ["RPL3", "RPL5", "RPS6", "RPS3"], "immune": ["CD74", "B2M", "HLA-A", "HLA-DRA"]}
    >>> classifier = gf.GeneClassifier(model="mini", max_steps=2, progress=False).fit(adata, classes)
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

    @shown_as("Fitting")
    def fit(
        self,
        cells: CellInput,
        gene_classes: GeneLists,
        *,
        counts_layer: str | None = None,
        gene_ids: str | None = None,
        accept_normalized: bool = False,
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
        counts_layer, gene_ids, accept_normalized
            Where counts and gene identifiers are; whether values that are no raw counts are ranked all the same.
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
        examples = self._prepare(
            cells,
            gene_classes,
            self._pair(),
            counts_layer=counts_layer,
            gene_ids=gene_ids,
            accept_normalized=accept_normalized,
        )
        labels, chosen, seed = examples.encoded, self.classify, self.finetuning.seed
        examples.split = split_genes(
            labels.codes, valid=chosen.valid, test=chosen.test, classes=labels.classes, seed=seed
        )
        return self._fit(examples, output=output, resume=resume, callbacks=callbacks)

    def predict(
        self,
        cells: CellInput,
        *,
        counts_layer: str | None = None,
        gene_ids: str | None = None,
        accept_normalized: bool = False,
    ) -> "pd.DataFrame":
        """Classes of all genes of the vocabulary, one row each.

        Columns are `gene` (Ensembl id), `symbol`, `n_cells` (cells it occurs in), `learnt` (the class it was learnt
        with, None for a gene that is new to the classifier), `probability_<class>` averaged over these cells, and
        `predicted`. Genes that occur in no cell have no probabilities (NaN) and no class (None).

        Parameters
        ----------
        cells
            AnnData with raw counts, tokens, or paths of either.
        counts_layer, gene_ids, accept_normalized
            Where counts and gene identifiers are; whether values that are no raw counts are ranked all the same.
        """
        import pandas as pd

        proba, n_cells = self._predict(cells, counts_layer, gene_ids, accept_normalized)
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
        self,
        cells: CellInput,
        *,
        counts_layer: str | None = None,
        gene_ids: str | None = None,
        accept_normalized: bool = False,
    ) -> NDArray[np.float64]:
        """Probability of every class, averaged over cells, by gene of the vocabulary, ``(n_genes, C)``; NaN for others.

        Parameters
        ----------
        cells
            AnnData with raw counts, tokens, or paths of either.
        counts_layer, gene_ids, accept_normalized
            Where counts and gene identifiers are; whether values that are no raw counts are ranked all the same.
        """
        return self._predict(cells, counts_layer, gene_ids, accept_normalized)[0]

    @shown_as("Evaluation")
    def evaluate(
        self,
        cells: CellInput | None = None,
        gene_classes: GeneLists | None = None,
        *,
        allow_learnt: bool = False,
        counts_layer: str | None = None,
        gene_ids: str | None = None,
        accept_normalized: bool = False,
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
        counts_layer, gene_ids, accept_normalized
            Where counts and gene identifiers are; whether values that are no raw counts are ranked all the same.

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
            opened,
            given,
            self.pairing,
            classes=self.classes_,
            counts_layer=counts_layer,
            gene_ids=gene_ids,
            accept_normalized=accept_normalized,
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
        accept_normalized: bool = False,
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
        counts_layer, gene_ids, accept_normalized
            Where counts and gene identifiers are; whether values that are no raw counts are ranked all the same.

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
            examples = self._prepare(
                cells,
                gene_classes,
                self._pair(),
                counts_layer=counts_layer,
                gene_ids=gene_ids,
                accept_normalized=accept_normalized,
            )
        labels, seed = examples.encoded, self.finetuning.seed
        splits = draw_gene_folds(labels.codes, n_folds, valid=self.classify.valid, classes=labels.classes, seed=seed)
        if self.classify.baselines != "none" and examples.features is None:
            examples.features = self._make_features(examples)  # once for all folds
        with self._bar("Cross-validation", unit="folds") as update:
            folds = [self._fold(examples, split, tells=split is splits[0]) for split in counted(splits, update)]
        self.report_ = report = self._report(examples, folds, n_folds=n_folds)
        return report

    def _fold(self, examples: Examples, split: Split, *, tells: bool = True) -> "_HeldOutGenes":
        """Predictions of a classifier that learns of the genes held out nothing but their places in the cells."""
        fold = clone(self)
        fold._training, fold._tells = replace(examples, split=split), tells
        fold._train()
        if self.classify.baselines == "all":
            fold._random_initialisation()
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
        with self._bar():
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
            opened = replace(opened, tokens=tokens, rows=opened.rows[rows], vectors={})
        return Examples(opened, occurring(labels, count_cells(tokens, vocabulary.size, length), vocabulary))

    def _has_probe(self) -> bool:
        return True

    def _learn(self, options: FinetuneOptions, **run: Any) -> tuple[GeneformerForGenes, FinetuneResult]:
        training: Examples = self._fitted("_training")
        cells = training.cells
        return learn_genes(
            self.base(),
            cells.tokens,
            training.encoded,
            training.split,
            options,
            self.runtime,
            kept=cells.vectors,
            **run,
        )

    def _describe(self) -> None:
        labels, vocabulary = self._training.encoded, self.base().vocabulary
        self.classes_, self.gene_classes_ = labels.classes, labels.by_class(vocabulary)
        names = vocabulary.gene_of[labels.tokens]
        self.parts_ = {part: names[getattr(self._training.split, part)].tolist() for part in ("train", "valid", "test")}
        self.left_out_ = {"unknown": dict(labels.unknown), "absent": dict(labels.absent)}

    def _facts(self) -> list[tuple[str, str]]:
        parts = [f"{len(self.parts_[part]):,} {use}" for part, use in PARTS_FOR.items() if self.parts_.get(part)]
        return [("classes", names_text(self.classes_ or ())), ("genes", ", ".join(parts))]

    def _predict(
        self, cells: CellInput, counts_layer: str | None, gene_ids: str | None, accept_normalized: bool
    ) -> tuple[Floats, Ints]:
        """Probabilities of all genes of the vocabulary, ``(n_genes, C)``, and the cells each occurs in."""
        tokens, vocabulary = (
            self._open_fitted(cells, counts_layer, gene_ids, accept_normalized).tokens,
            self.pairing.vocabulary,
        )
        proba, n_cells, _ = self._predict_tokens(self.network_, tokens)
        return proba[vocabulary.token_ids], n_cells[vocabulary.token_ids]

    def _predict_tokens(self, network: Any, tokens: TokenizedDataset, **options: Any) -> Any:
        """What `predict_genes` returns."""
        size, max_length = self.pairing.vocabulary.size, self.pairing.max_length
        with self._bar("Predicting", unit="cells") as update:
            return predict_genes(
                network, tokens, self.runtime, size=size, max_length=max_length, progress=update, **options
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

    def _make_features(self, examples: Examples) -> dict[str, NDArray[Any]]:
        base, tokens = self.base(), examples.cells.tokens
        with self._bar("Embedding genes", unit="cells") as update:
            return gene_features(
                base, tokens, self.runtime,
                counts=examples.cells.counts(base), max_length=self._pair().max_length, progress=update,
            )  # fmt: skip

    def _evaluate(self, tested: Examples, rows: Ints) -> GeneReport:
        return self._report(tested, [self._held_out(tested, rows)])

    def _held_out(self, tested: Examples, rows: Ints) -> "_HeldOutGenes":
        """Predictions for genes that were not learnt from, of the network and of the baselines."""
        labels, tokens = tested.encoded, tested.cells.tokens
        asked, codes = labels.tokens[rows], labels.codes[rows]
        truth_of = labels.class_of(self.pairing.vocabulary.size, rows)
        having = cells_with_labeled_genes(tokens, truth_of, self.pairing.max_length)
        part = tokens if 2 * len(having) > len(tokens) else tokens.take(having)  # taking copies
        predictions = {}
        for name, network in self._networks().items():
            proba, n_cells, tally = self._predict_tokens(network, part, truth_of=truth_of)
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
        return _HeldOutGenes(rows, n_cells[asked], predictions, self.strategy_)

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
            "model": self._base_name,
            "strategy": folds[0].strategy,
            "cells": len(examples.cells.tokens),
            "genes": dict(zip(labels.classes, labels.counts.tolist(), strict=True)),
            "unknown": dict(labels.unknown),
            "absent": dict(labels.absent),
            **matched_in(examples.cells),
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
    strategy: str


class FoldedGenes(NamedTuple):
    """Probabilities of genes, ``(n, C)``, the fold each was held out in, and figures of occurrences by fold."""

    proba: Floats
    folds: Ints
    occurrences: Sequence[TokenEvaluation]


@dataclass(eq=False)
class GeneClasses(Target):
    """One class of many for each gene, learnt wherever the gene occurs."""

    report_kind = GeneReport

    classes: tuple[str, ...]

    def measure(self, truth: Ints, predictions: FoldedGenes, *, groups: Any, seed: int) -> FoldedEvaluation:
        """Figures over folds."""
        return evaluate_genes(truth, *predictions, self.classes, seed=seed)

    def baselines(
        self, features: Mapping[str, NDArray[Any]], values: Ints, tested: Mapping[str, NDArray[Any]], **options: Any
    ) -> dict[str, Floats]:
        """Linear models of what is known about each gene, ``(n, d)`` by name, and the majority."""
        n_tested, n_classes = len(next(iter(tested.values()))), len(self.classes)
        linear = {
            name: logistic_regression_on(table, values, tested[name], n_classes, **options)
            for name, table in features.items()
            if name in tested and table.shape[1] == tested[name].shape[1]
        }
        return linear | {MAJORITY: majority(values, n_tested, n_classes)}

    def columns(self, predictions: FoldedGenes) -> dict[str, NDArray[Any]]:
        """The most probable class, and all probabilities."""
        return {"predicted": predictions.proba.argmax(axis=1), "proba": predictions.proba}


# Learning


def learn_genes(
    base: LoadedModel,
    tokens: TokenizedDataset,
    labels: GeneLabels,
    split: Split,
    options: FinetuneOptions,
    runtime: RuntimeOptions,
    *,
    kept: Kept | None = None,
    **run: Any,
) -> tuple[GeneformerForGenes, FinetuneResult]:
    """Fine-tune an encoder to classify genes wherever they occur."""
    if options.contrastive_weight > 0:
        msg = f"Genes are learnt without the contrastive term, and its weight is {options.contrastive_weight}. Pass 0."
        raise OptionError(msg)
    size, max_length = base.vocabulary.size, length_read(options.max_length, base.max_length, base.name)
    train_of, valid_of = (labels.class_of(size, rows) for rows in (split.train, split.valid))
    names = dict(enumerate(labels.classes))
    attributes = {"id2label": names, "label2id": {name: code for code, name in names.items()}}
    network = build_network(GeneformerForGenes, base, options, attributes)
    network.label_smoothing = options.label_smoothing
    if options.class_weights == "balanced":
        n_cells = count_cells(tokens, size, max_length)[labels.tokens[split.train]]
        occurrences = np.bincount(labels.codes[split.train], n_cells, minlength=len(names))
        network.class_weights = torch.from_numpy(occurrences.sum() / (len(names) * np.maximum(occurrences, 1)))
    train, valid = (
        gene_batches(tokens, cells_with_labeled_genes(tokens, class_of, max_length), class_of, max_length)
        for class_of in (train_of, valid_of)
    )
    starts_from_probe = options.head_start == "probe"
    if options.strategy == "probe" or starts_from_probe:
        shown = run.get("progress") if options.strategy == "probe" else None
        vectors = gene_vectors(network, tokens, runtime, max_length=max_length, kept=kept, progress=shown)
        fit_head(
            network.classifier,
            HeadSpec(name="class", classes=labels.classes),
            vectors[labels.tokens[split.train]],
            labels.codes[split.train],
            balanced=options.class_weights == "balanced",
            seed=options.seed,
        )
    if options.strategy == "probe":
        scored = outputs_of(network, valid, options.tokens_per_batch)
        return network, probed(network, options, score_genes(len(names), size, scored) if len(valid.rows) else {})
    result = finetune(
        network,
        train,
        valid,
        options,
        runtime,
        score=partial(score_genes, len(names), size),
        best_by="log_likelihood",
        about={
            "classes": list(labels.classes),
            "genes": hashlib.sha256(np.stack([train_of, valid_of]).tobytes()).hexdigest()[:16],
            "tokens": int(tokens.lengths[train.rows].sum()),
        },
        start_counts=starts_from_probe,
        **run,
    )
    return network, result


def gene_vectors(
    network: GeneformerForGenes,
    tokens: TokenizedDataset,
    runtime: RuntimeOptions,
    *,
    max_length: int,
    kept: Kept | None = None,
    progress: Progress | None = None,
) -> NDArray[np.float32]:
    """States of every token averaged over the cells it occurs in, ``(V, D)``; NaN for those in none."""
    key = encoder_key(network, max_length)
    if kept is not None and key in kept:
        return kept[key]
    sums = np.zeros((network.config.vocab_size, network.config.hidden_size))

    def step(batch: Batch) -> None:
        states_TD = network.bert(batch.input_ids, batch.cu_seqlens, attention=batch.attention).float()
        seen, place_T = torch.unique(batch.input_ids, return_inverse=True)
        sums[seen.cpu().numpy()] += states_TD.new_zeros((len(seen), states_TD.shape[1])).index_add(
            0, place_T, states_TD
        ).cpu().numpy()  # fmt: skip

    run_batches(tokens, network.train(False), step, runtime, max_length=max_length, progress=progress)
    with np.errstate(invalid="ignore"):
        vectors = (sums / count_cells(tokens, len(sums), max_length)[:, None]).astype(np.float32)
    if kept is not None:
        kept[key] = vectors
    return vectors


def outputs_of(network: GeneformerForGenes, batches: Batches, tokens_per_batch: int) -> Scored:
    """Batches with what a network on the CPU makes of them."""
    network.cpu().train(False)
    for rows in plan_batches(batches.lengths, tokens_per_batch):
        batch = batches([(0, int(row)) for row in rows])
        with torch.inference_mode():
            yield batch, network(**batch)


def gene_batches(tokens: TokenizedDataset, rows: Ints, class_of: Ints, max_length: int) -> Batches:
    """Cells with the class of every token, `losses.MISSING` where it has none."""

    def make(packed: Packed, rows: Ints, keys: Sequence[Key]) -> dict[str, Any]:
        return packed_tensors(packed) | {"labels": torch.from_numpy(class_of[packed.input_ids])}

    return Batches(tokens, rows, max_length, make)


def score_genes(n_classes: int, size: int, scored: Scored) -> dict[str, float]:
    """Metrics of validation batches: the loss of occurrences, and log-likelihood, accuracy and macro-F1 of genes."""
    loss, n_tokens = 0.0, 0
    sums, counts = np.zeros((size, n_classes)), np.zeros(size, dtype=np.int64)
    truth_of = np.full(size, MISSING, dtype=np.int64)
    for batch, outputs in scored:
        ids = batch["input_ids"][batch["labels"] != MISSING].cpu().numpy()
        proba = softmax(outputs.logits.float().cpu().numpy().astype(np.float64))
        loss, n_tokens = loss + float(outputs.loss) * len(ids), n_tokens + len(ids)
        truth_of[ids] = outputs.labels.cpu().numpy()
        np.add.at(sums, ids, proba)
        counts += np.bincount(ids, minlength=size)
    seen = np.flatnonzero(counts)
    proba, truth = sums[seen] / counts[seen, None], truth_of[seen]
    given = proba[np.arange(len(seen)), truth]
    table = confusion(truth, proba.argmax(axis=1), n_classes)
    _, _, f1 = shares(np.diag(table), table.sum(axis=1), table.sum(axis=0))
    return {
        "loss": loss / max(n_tokens, 1),
        "log_likelihood": float(np.log(np.maximum(given, 1e-12)).mean()),
        "accuracy": float(np.trace(table) / table.sum()),
        "macro_f1": float(mean_defined(f1[None])[0]),
    }


def predict_genes(
    network: GeneformerForGenes,
    tokens: TokenizedDataset,
    runtime: RuntimeOptions,
    *,
    size: int,
    max_length: int,
    truth_of: Ints | None = None,
    progress: Progress | None = None,
) -> tuple[Floats, Ints, "TokenTally"]:
    """Of every token: its probabilities averaged over cells, and how many; and figures of occurrences of known class.

    They are running sums: memory does not grow with the cells.
    """
    network.train(False)
    n_classes = network.classifier.out_features
    sums, counts, tally = np.zeros((size, n_classes)), np.zeros(size, dtype=np.int64), TokenTally(n_classes)

    def step(batch: Batch) -> None:
        logits_TC = network(batch.input_ids, batch.cu_seqlens, attention=batch.attention).logits
        seen, place_T, count = torch.unique(batch.input_ids, return_inverse=True, return_counts=True)
        partial = logits_TC.new_zeros((len(seen), n_classes)).index_add(0, place_T, logits_TC.softmax(-1))
        ids, values, times = seen.cpu().numpy(), partial.cpu().numpy(), count.cpu().numpy()
        if truth_of is not None:
            truth_T = truth_of[batch.input_ids.cpu().numpy()]
            labeled = np.flatnonzero(truth_T != MISSING)
            logits = logits_TC[torch.from_numpy(labeled).to(logits_TC.device)].cpu().numpy()
            if len(labeled):
                tally.add(softmax(logits.astype(np.float64)), truth_T[labeled])
        sums[ids] += values
        counts[ids] += times

    run_batches(tokens, network, step, runtime, max_length=max_length, progress=progress)
    with np.errstate(invalid="ignore"):
        proba: Floats = sums / counts[:, None]
    return proba, counts, tally


# What the baselines see


def gene_features(
    base: LoadedModel,
    tokens: TokenizedDataset,
    runtime: RuntimeOptions,
    *,
    counts: Any = None,
    max_length: int | None = None,
    progress: Progress | None = None,
) -> dict[str, NDArray[Any]]:
    """Numbers about every token of the vocabulary, ``(V, d)`` by baseline; NaN for genes that occur in no cell."""
    size, length = base.vocabulary.size, max_length or base.max_length
    n_cells = count_cells(tokens, size, length)
    occurring_in = np.where(n_cells > 0, n_cells, np.nan)
    columns = [mean_ranks(tokens, size, length), np.log(occurring_in / len(tokens))]
    if counts is not None:
        level = np.full(size, np.nan)
        level[base.vocabulary.token_ids] = np.asarray(log_normalized(counts).mean(axis=0)).reshape(-1)
        columns.append(level)
    scaled = [(column - np.nanmean(column)) / (np.nanstd(column) or 1.0) for column in columns]
    tables = {
        STATISTICS: np.column_stack([*scaled, *(column**2 for column in scaled)]),
        STATIC: base.network.bert.embeddings.word_embeddings.weight.detach().float().cpu().numpy(),
    }
    embeddings = embed(tokens, base, EmbedOptions(pooling="gene", truncate=True), runtime, progress=progress)
    if isinstance(embeddings, GeneEmbeddings):
        token_of = {name: token for token, name in enumerate(base.vocabulary.gene_of.tolist())}
        contextual = np.full((size, embeddings.values.shape[1]), np.nan, dtype=np.float32)
        contextual[[token_of[name] for name in embeddings.genes.tolist()]] = embeddings.values
        tables[CONTEXTUAL] = contextual
    return tables
