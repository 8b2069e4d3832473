"""What a classifier of genes does once it has learnt: telling the classes of genes, and the folder."""

from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Self

import numpy as np
from numpy.typing import NDArray

from geneformer.estimators.base import Estimator, Pairing
from geneformer.estimators.cells import CellInput, open_cells
from geneformer.estimators.cloning import restore_options
from geneformer.estimators.folder import read_folder, write_folder
from geneformer.models.finetuned import load_network
from geneformer.models.token_heads import GeneformerForGenes
from geneformer.options import RuntimeOptions
from geneformer.results.classification import PROBABILITY
from geneformer.results.genes import GENE, N_CELLS, SYMBOL, GeneReport
from geneformer.runs.progress import Progress, progress_bar
from geneformer.tasks.finetuning import FinetuneResult
from geneformer.tasks.gene_learning import GenePrediction, predict_genes
from geneformer.vocab.vocabulary import Vocabulary

if TYPE_CHECKING:
    import pandas as pd

LEARNT = "learnt"
"""Column of predictions with the class a gene was learnt with."""


class GeneEstimator(Estimator):
    """Base of the estimators whose network says something about the genes of cells."""

    task_fields: ClassVar[tuple[str, ...]] = ("classes_", "gene_classes_", "parts_", "left_out_", "metrics_")
    """Attributes kept in the folder beside the network."""

    classes_: tuple[str, ...] | None = None
    """Names of the classes, in the order of the probabilities."""

    gene_classes_: dict[str, list[str]]
    """Ensembl ids of the labeled genes that occur in the cells, by class."""

    parts_: dict[str, list[str]]
    """Which of them were learnt from ("train"), chose the best step ("valid") and were held out ("test")."""

    left_out_: dict[str, dict[str, Sequence[str]]]
    """Genes left out, by class: "unknown" to the vocabulary, "absent" from the cells."""

    metrics_: dict[str, float]
    """Metrics of the validation genes at the weights that were kept."""

    network_: GeneformerForGenes | None = None
    """Fine-tuned network."""

    result_: FinetuneResult | None = None
    """What the training came to; None for an estimator that was loaded."""

    report_: GeneReport | None = None
    """The last report on genes that were not learnt from."""

    _pairing: Pairing | None = None
    _history: list[dict[str, Any]]
    _options: Mapping[str, Any]

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
        known = self._known_genes()
        class_of = {gene: name for name, genes in self.gene_classes_.items() for gene in genes if gene in known}
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

    def save(self, folder: str | Path, *, overwrite: bool = False) -> Path:
        """Write network, genes, vocabulary, preprocessing, options, history and report to a folder.

        Parameters
        ----------
        folder
            To be made.
        overwrite
            Replace one that is there.
        """
        network, pairing = self._fitted("network_"), self._fitted("_pairing")
        task = {
            "kind": self.kind,
            **{name: getattr(self, name) for name in self.task_fields},
            "base_model": str(self.model),
            "preprocessing": {"max_length": pairing.max_length, "normalize_to": 10_000},
            "options": self._options,
        }
        return write_folder(
            folder, network, pairing.vocabulary, task, self._history, report=self.report_, overwrite=overwrite
        )

    @classmethod
    def load(cls, folder: str | Path, *, runtime: RuntimeOptions | None = None) -> Self:
        """A classifier as `save` wrote it, ready to predict.

        Parameters
        ----------
        folder
            Folder of a saved classifier.
        runtime
            Where and how it runs.

        Raises
        ------
        CheckpointError
            Not such a folder, or a damaged one.
        VocabularyMismatchError
            Network and vocabulary do not belong together.
        """
        stored = read_folder(folder, [cls.kind])
        classifier = cls(stored.told("base_model"), vocabulary=stored.vocabulary)  # type: ignore[call-arg]
        restore_options(classifier, stored.told("options"), runtime)
        for name in cls.task_fields:
            setattr(classifier, name, stored.told(name))
        classifier.network_ = load_network(Path(folder), GeneformerForGenes)
        classifier._pairing = Pairing(str(folder), stored.vocabulary, stored.told("preprocessing")["max_length"])
        classifier._history, classifier._options = stored.history, stored.told("options")
        return classifier

    @property
    def _vocabulary(self) -> Vocabulary:
        pairing: Pairing = self._fitted("_pairing")
        return pairing.vocabulary

    def _pair(self) -> Pairing:
        """What tokens for a network that is to be trained depend on."""
        base = self.base()
        return Pairing(base.name, base.vocabulary, min(self.finetuning.max_length or base.max_length, base.max_length))

    def _bar(self, label: str) -> AbstractContextManager[Progress]:
        return progress_bar(label, shown=self.runtime.progress)

    def _known_genes(self) -> set[str]:
        """Genes whose class the training knew."""
        return {*self.parts_["train"], *self.parts_["valid"]}

    def _say(self, cells: CellInput, counts_layer: str | None, gene_ids: str | None) -> GenePrediction:
        network, pairing = self._fitted("network_"), self._fitted("_pairing")
        opened = open_cells(cells, pairing, counts_layer=counts_layer, gene_ids=gene_ids)
        size = pairing.vocabulary.size
        with self._bar("Predicting") as update:
            return predict_genes(
                network, opened.tokens, self.runtime, size=size, max_length=pairing.max_length, progress=update
            )
