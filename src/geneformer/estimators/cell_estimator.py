"""What the estimators of cells share: opening cells, the network's outputs in their order, and the folder."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar, Self

import numpy as np
from numpy.typing import NDArray

from geneformer.estimators.base import Estimator, Pairing
from geneformer.estimators.cells import CellInput, Cells, open_cells
from geneformer.estimators.cloning import restore_options
from geneformer.estimators.folder import read_folder, write_folder
from geneformer.models.cell_heads import GeneformerForCells, HeadSpec
from geneformer.models.encoder import GeneformerModel
from geneformer.models.finetuned import load_network
from geneformer.models.loading import LoadedModel
from geneformer.options import RuntimeOptions, SplitOptions
from geneformer.results.report_sets import load_report
from geneformer.runs.progress import progress_bar
from geneformer.tasks.cell_learning import embed_cells, predict_cells
from geneformer.tasks.finetuning import FinetuneResult


class CellEstimator(Estimator):
    """Base of the estimators whose network says something about every cell."""

    task_fields: ClassVar[tuple[str, ...]] = ()
    """Attributes kept in the folder beside the network."""

    network_kind: ClassVar[type[GeneformerModel]] = GeneformerForCells
    """Class of the network."""

    network_: Any = None
    """Fine-tuned network."""

    result_: FinetuneResult | None = None
    """What the training came to; None for an estimator that was loaded."""

    report_: Any = None
    """Evaluation on the test part of the split, if there was one."""

    split: SplitOptions
    _pairing: Pairing | None = None
    _history: list[dict[str, Any]]
    _options: Mapping[str, Any]

    def open(self, cells: CellInput, *, counts_layer: str | None = None, gene_ids: str | None = None) -> Cells:
        """Tokens for this estimator; see `open_cells`."""
        pairing = self._pairing if self._pairing is not None else self._pair(self.base())
        return open_cells(cells, pairing, counts_layer=counts_layer, gene_ids=gene_ids)

    def split_options(self, groups: str | None) -> SplitOptions:
        """How `fit` splits the cells."""
        return self.split

    def _pair(self, base: LoadedModel) -> Pairing:
        length = min(self.finetuning.max_length or base.max_length, base.max_length)
        return Pairing(base.name, base.vocabulary, length)

    def _learnt(self, network: GeneformerModel, result: FinetuneResult, base: LoadedModel) -> None:
        """Keep what training gave."""
        self.network_, self.result_ = network, result
        self._pairing, self._history = self._pair(base), result.history

    @property
    def specs(self) -> tuple[HeadSpec, ...]:
        """The heads."""
        network: GeneformerForCells = self._fitted("network_")
        return network.specs

    @property
    def pairing(self) -> Pairing:
        """Vocabulary and longest cell of the fitted network."""
        pairing: Pairing = self._fitted("_pairing")
        return pairing

    def outputs(
        self, cells: Cells, *, network: GeneformerForCells | None = None, progress: bool | None = None
    ) -> dict[str, NDArray[np.float32]]:
        """Outputs of every head for the tokenized cells, ``(n, …)``."""
        network = network or self._fitted("network_")
        pairing: Pairing = self._fitted("_pairing")
        shown = self.runtime.progress if progress is None else progress
        with progress_bar("Predicting", shown=shown) as update:
            return predict_cells(network, cells.tokens, self.runtime, max_length=pairing.max_length, progress=update)

    def embed(
        self, cells: CellInput, *, counts_layer: str | None = None, gene_ids: str | None = None
    ) -> NDArray[np.float32]:
        """The vector of each cell that the heads see, ``(n_cells, hidden_size)``; not a number for cells left out.

        Parameters
        ----------
        cells
            AnnData with raw counts, tokens, or paths of either.
        counts_layer, gene_ids
            Where counts and gene identifiers are.
        """
        network, pairing = self._fitted("network_"), self._fitted("_pairing")
        opened = self.open(cells, counts_layer=counts_layer, gene_ids=gene_ids)
        values = embed_cells(network, opened.tokens, self.runtime, max_length=pairing.max_length)
        return opened.spread(values, np.nan)

    def save(self, folder: str | Path, *, overwrite: bool = False) -> Path:
        """Write network, labels, vocabulary, preprocessing, options, history and report to a folder.

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
        """An estimator as `save` wrote it, ready to predict.

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
        stored = read_folder(folder, [cls.kind])
        estimator = cls(stored.told("base_model"), vocabulary=stored.vocabulary)  # type: ignore[call-arg]
        restore_options(estimator, stored.told("options"), runtime)
        for name in cls.task_fields:
            setattr(estimator, name, stored.told(name))
        estimator.network_ = load_network(Path(folder), cls.network_kind)
        estimator._pairing = Pairing(str(folder), stored.vocabulary, stored.told("preprocessing")["max_length"])
        estimator._history, estimator._options = stored.history, stored.told("options")
        estimator.report_ = load_report(Path(folder) / "report") if (Path(folder) / "report").is_dir() else None
        return estimator
