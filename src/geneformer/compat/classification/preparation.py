"""Cells made ready for a published `Classifier`: filtered, drawn, labeled, split and written."""

import warnings
from pathlib import Path
from typing import Any

from geneformer.compat.classification import data as cells
from geneformer.compat.classification import validation as classifier_validation
from geneformer.compat.classification.data import made_folder
from geneformer.compat.classification.settings import ClassifierSettings
from geneformer.errors import GeneformerWarning, GeneListError, UnsupportedArgumentError, VocabularyMismatchError
from geneformer.options._check import check_range
from geneformer.tasks.label_draws import cap_classes, without_rare


class Preparation(ClassifierSettings):
    """`prepare_data` of the published `Classifier`."""

    def prepare_data(  # noqa: PLR0917  the published signature
        self,
        input_data_file: str | Path,
        output_directory: str | Path,
        output_prefix: str,
        split_id_dict: dict[str, Any] | None = None,
        test_size: float | None = None,
        attr_to_split: str | None = None,
        attr_to_balance: list[str] | None = None,
        max_trials: int = 100,
        pval_threshold: float = 0.1,
        id_class_dict_path: str | Path | None = None,
    ) -> None:
        """Filter, draw, label and split tokenized cells.

        Writes `<prefix>_id_class_dict.pkl`, and `<prefix>_labeled_train.dataset` with `<prefix>_labeled_test.dataset`,
        or `<prefix>_labeled.dataset` where nothing is held out. Class ids count through the sorted states of cells, or
        the classes of genes as given.

        Parameters
        ----------
        input_data_file
            Tokenized cells.
        output_directory, output_prefix
            Where files go; the folder is made.
        split_id_dict
            `attr_key`, a column, and the ids of `train` and of `test`.
        test_size
            Share of the cells held out; that of `split_sizes` by default, 0 for none. For cells.
        attr_to_split, attr_to_balance
            Column of ids that are held out as a whole, and attributes in which both sides must not differ. Draws are
            kept in `<prefix>_train_test_balance_df.csv`.
        max_trials, pval_threshold
            Draws made at most, and the p-value all attributes must reach; the best draw is used if none does.
        id_class_dict_path
            Class ids made before.

        Raises
        ------
        CountsError, DatasetError
            The cells cannot be read, or none are left.
        LabelError
            States that cannot be used.
        OptionError
            Arguments that contradict each other.
        """
        way = cells.CellSplit(
            split_id_dict=split_id_dict, attr_to_split=attr_to_split, attr_to_balance=attr_to_balance,
            max_trials=max_trials, pval_threshold=pval_threshold,
        )  # fmt: skip
        data = cells.opened(input_data_file)
        cells.refuse_labels(data)
        data = cells.selected(data, self.filter_data)
        known = None if id_class_dict_path is None else cells.read_classes(id_class_dict_path)
        stem = made_folder(output_directory) / output_prefix
        if self.classifier == "gene":
            self._prepare_genes(data, stem, known, way, test_size)
        else:
            share = self.oos_test_size if test_size is None else test_size
            check_range("test_size", share, low=0.0, high=1.0)
            self._prepare_cells(data, stem, known, way, share)

    def _prepare_cells(
        self, data: cells.Data, stem: Path, known: dict[int, Any] | None, way: cells.CellSplit, share: float
    ) -> None:
        states = self.cell_state_dict or {}
        _warn_absent(states["states"], set(data.column(states["state_key"]).tolist()), states["state_key"])
        labeled, classes = cells.label_cells(self._drawn(data, states["state_key"]), states["state_key"], known)
        cells.write_classes(classes, stem)
        if way.split_id_dict is not None:
            _save_split(cells.split_by_ids(labeled, way.split_id_dict, "test"), stem)
        elif way.attr_to_split is not None:
            draws = stem.with_name(f"{stem.name}_train_test_balance_df.csv")
            _save_split(classifier_validation.balanced(self, labeled, classes, way, share, draws), stem)
        elif 0 < share < 1:
            _save_split(cells.split_at_random(labeled, share, classifier_validation.stratum(self)), stem)
        else:
            cells.saved(labeled, stem.with_name(f"{stem.name}_labeled.dataset"))

    def _drawn(self, data: cells.Data, state_key: str) -> cells.Data:
        """Cells without rare states, in the order of the published draw, at most so many in all and of each state."""
        if self.rare_threshold > 0:
            data = data.take(without_rare(data.column(state_key), self.rare_threshold))
        data = cells.shuffled(data, self.max_ncells)
        if self.max_ncells_per_class is not None:
            data = data.take(cap_classes(data.column(state_key).tolist(), self.max_ncells_per_class))
        return data

    def _prepare_genes(
        self, data: cells.Data, stem: Path, known: dict[int, Any] | None, way: cells.CellSplit, test_size: float | None
    ) -> None:
        if way.attr_to_split is not None or test_size:
            msg = (
                "Genes are split, not cells, when they are validated. Leave out attr_to_split and test_size; "
                "split_id_dict keeps cells apart."
            )
            raise UnsupportedArgumentError(msg)
        if data.vocabulary is not None and data.vocabulary != self.vocabulary.fingerprint:
            msg = (
                f"The cells were tokenized with another vocabulary than {self.vocabulary.name}, where the genes were "
                "looked up. Construct the Classifier with the model_version of the cells."
            )
            raise VocabularyMismatchError(msg)
        classes = dict(enumerate(self.gene_class_dict or {})) if known is None else known
        labeled = cells.label_genes(data, classifier_validation.class_of_genes(self, classes))
        if not len(labeled):
            msg = "None of the cells has any of the genes of gene_class_dict."
            raise GeneListError(msg)
        cells.write_classes(classes, stem)
        if way.split_id_dict is not None:
            _save_split(cells.split_by_ids(labeled, way.split_id_dict, "test"), stem)
        else:
            cells.saved(labeled, stem.with_name(f"{stem.name}_labeled.dataset"))


def _warn_absent(states: Any, found: set[Any], column: str) -> None:
    absent = [] if states == "all" else [state for state in states if state not in found]
    if absent:
        msg = f"No cell has {column!r} among {absent}, which cell_state_dict lists; the classes are the other states."
        warnings.warn(msg, GeneformerWarning, stacklevel=4)


def _save_split(parts: tuple[cells.Data, cells.Data], stem: Path) -> None:
    for data, name in zip(parts, ("train", "test"), strict=True):
        cells.saved(data, stem.with_name(f"{stem.name}_labeled_{name}.dataset"))
