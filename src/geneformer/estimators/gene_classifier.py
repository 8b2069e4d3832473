"""`gf.GeneClassifier`: classes of genes, learnt from the cells they occur in."""

import warnings
from dataclasses import asdict
from pathlib import Path
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from geneformer.errors import GeneformerWarning, GeneListError, OptionError
from geneformer.estimators.base import Pairing
from geneformer.estimators.cell_parts import TWIN, without_pretraining
from geneformer.estimators.cells import CellInput, Cells
from geneformer.estimators.gene_cells import LabeledGenes, open_genes
from geneformer.estimators.gene_estimator import GeneEstimator
from geneformer.models.token_heads import GeneformerForGenes
from geneformer.options import FinetuneOptions, GeneClassifyOptions, RuntimeOptions
from geneformer.results.genes import GeneReport
from geneformer.tasks.gene_baselines import classify_genes_by_baselines
from geneformer.tasks.gene_features import GeneFeatures, gene_features
from geneformer.tasks.gene_folds import GeneParts, draw_gene_folds, split_genes
from geneformer.tasks.gene_learning import learn_genes
from geneformer.tasks.gene_lists import GeneClasses
from geneformer.tasks.gene_validation import (
    MODEL,
    Told,
    add_baselines,
    cross_validate_genes,
    report_genes,
    tell_held_out,
)
from geneformer.vocab.vocabulary import Vocabulary


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
    >>> from geneformer.demo.cells import pbmc3k
    >>> from geneformer.estimators.gene_classifier import GeneClassifier
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
