"""`gf.GeneClassifier`: classes of genes, learnt from the cells they occur in."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import numpy as np
from numpy.typing import NDArray

from geneformer.estimators.base import Estimator, Pairing
from geneformer.estimators.cells import CellInput, Cells
from geneformer.models.token_heads import GeneformerForGenes
from geneformer.options import FinetuneOptions, RuntimeOptions
from geneformer.options.gene_classification import GeneClassifyOptions
from geneformer.results.classification import PROBABILITY
from geneformer.results.genes import GENE, N_CELLS, SYMBOL, GeneReport
from geneformer.tasks.finetuning import FinetuneResult
from geneformer.tasks.gene_features import GeneFeatures
from geneformer.tasks.gene_folds import GeneParts, split_genes
from geneformer.tasks.gene_learning import learn_genes
from geneformer.tasks.gene_lists import GeneClasses, GeneLabels
from geneformer.vocab.vocabulary import Vocabulary

if TYPE_CHECKING:
    import pandas as pd

LEARNT = "learnt"
"""Column of predictions with the class a gene was learnt with."""


@dataclass(frozen=True, slots=True, eq=False)
class _Prepared:
    """Cells with labeled genes, and those genes."""

    cells: Cells
    labels: GeneLabels


class GeneClassifier(Estimator):
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
    task_fields = ("classes_", "gene_classes_", "parts_", "left_out_", "metrics_")

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
    classes_: tuple[str, ...] | None = None
    gene_classes_: dict[str, list[str]]
    parts_: dict[str, list[str]]
    left_out_: dict[str, dict[str, Sequence[str]]]
    metrics_: dict[str, float]
    network_: GeneformerForGenes | None = None
    result_: FinetuneResult | None = None
    report_: GeneReport | None = None
    _pairing: Pairing | None = None
    _history: list[dict[str, Any]]
    _options: Mapping[str, Any]
    _training: _Prepared | None = None
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
        prepared = self._prepare(cells, gene_classes, counts_layer, gene_ids)
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
        self.classes_, self.gene_classes_ = labels.classes, labels.by_class(base.vocabulary, parts.known)
        names = base.vocabulary.gene_of[labels.tokens]
        self.parts_ = {name: names[getattr(parts, name)].tolist() for name in ("train", "valid", "test")}
        self.left_out_ = {"unknown": dict(labels.unknown), "absent": dict(labels.absent)}
        self.metrics_ = dict(result.metrics)
        self._options = {name: asdict(getattr(self, name)) for name in ("finetuning", "classify")}
        if len(parts.test):
            self.report_ = self._report(prepared, parts.test)
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

        said, vocabulary = self._say(cells, counts_layer, gene_ids), self._vocabulary
        proba, n_cells = said.proba[vocabulary.token_ids], said.n_cells[vocabulary.token_ids]
        classes: tuple[str, ...] = self._fitted("classes_")
        class_of = {gene: name for name, genes in self.gene_classes_.items() for gene in genes}
        best = np.where(n_cells > 0, np.nan_to_num(proba).argmax(axis=1), -1)
        columns = {
            GENE: vocabulary.genes,
            SYMBOL: [vocabulary.symbol_of(gene) for gene in vocabulary.genes],
            N_CELLS: n_cells,
            LEARNT: [class_of.get(gene) for gene in vocabulary.genes],
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
        return self._say(cells, counts_layer, gene_ids).proba[self._vocabulary.token_ids]

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
        if gene_classes is None:
            parts = self.parts_
            truth = {name: [g for g in genes if g in set(parts["test"])] for name, genes in self._all_genes().items()}
            truth = {name: genes for name, genes in truth.items() if genes}
