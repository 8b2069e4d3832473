"""What a published `Classifier` is constructed with."""

import warnings
from pathlib import Path
from typing import Any

from geneformer.compat.classification import options as checked
from geneformer.compat.loaded_models import published_runtime
from geneformer.compat.quantization import checked_quantize
from geneformer.compat.vocabularies import published_vocabulary
from geneformer.errors import GeneformerWarning, UnsupportedArgumentError
from geneformer.options import RuntimeOptions
from geneformer.options._check import check_choice, check_range, whole_number


class ClassifierSettings:
    """Arguments of the constructor, checked; see `Classifier`."""

    def __init__(  # noqa: PLR0913, PLR0917  the published signature
        self,
        classifier: str | None = None,
        quantize: bool | dict[str, Any] = False,
        cell_state_dict: dict[str, Any] | None = None,
        gene_class_dict: dict[Any, list[str]] | None = None,
        filter_data: dict[str, Any] | None = None,
        rare_threshold: float = 0,
        max_ncells: int | None = None,
        max_ncells_per_class: int | None = None,
        training_args: dict[str, Any] | None = None,
        ray_config: dict[str, Any] | None = None,
        freeze_layers: int = 0,
        num_crossval_splits: int = 1,
        split_sizes: dict[str, float] | None = {"train": 0.8, "valid": 0.1, "test": 0.1},  # noqa: B006  never changed
        stratify_splits_col: str | None = None,
        no_eval: bool = False,
        forward_batch_size: int = 100,
        model_version: str = "V2",
        token_dictionary_file: str | Path | None = None,
        nproc: int = 4,
        ngpu: int = 1,
    ) -> None:
        check_choice("classifier", classifier, ("cell", "gene"))
        kind = str(classifier)
        check_choice("num_crossval_splits", num_crossval_splits, (0, 1, 5))
        check_range("rare_threshold", rare_threshold, low=0.0, high=1.0)
        self.max_ncells = whole_number("max_ncells", max_ncells, low=1)
        self.max_ncells_per_class = whole_number("max_ncells_per_class", max_ncells_per_class, low=1)
        self.forward_batch_size = whole_number("forward_batch_size", forward_batch_size, low=1)
        self.nproc, self.ngpu = whole_number("nproc", nproc, low=1), whole_number("ngpu", ngpu, low=0)
        self.freeze_layers = whole_number("freeze_layers", freeze_layers, low=0)
        self.num_crossval_splits = int(num_crossval_splits)
        if max_ncells_per_class is not None and classifier == "gene":
            msg = 'max_ncells_per_class is about states of cells; with classifier="gene" use max_ncells.'
            raise UnsupportedArgumentError(msg)
        if kind == "cell":
            warn_unused(kind, gene_class_dict=gene_class_dict)
        else:
            unused = {"rare_threshold": rare_threshold, "stratify_splits_col": stratify_splits_col}
            warn_unused(kind, cell_state_dict=cell_state_dict, **unused)
        self.classifier: Any = kind
        self.vocabulary = published_vocabulary(model_version, token_dictionary_file)
        self.quantize, self.ray_config = quantize, ray_config
        self.adapters, self.bits = checked_quantize(quantize)
        self.cell_state_dict = checked.checked_states(kind, cell_state_dict)
        self.gene_class_dict = checked.checked_genes(kind, gene_class_dict, self.vocabulary)
        self.filter_data = checked.checked_filter(filter_data, self.cell_state_dict)
        self.rare_threshold = rare_threshold
        self.training_args = checked.checked_words(training_args)
        self.split_sizes = checked.checked_shares(split_sizes)
        self.train_size, self.oos_test_size = self.split_sizes["train"], self.split_sizes["test"]
        self.eval_size = self.split_sizes["valid"] / (self.split_sizes["train"] + self.split_sizes["valid"])
        self.stratify_splits_col, self.no_eval = stratify_splits_col, no_eval
        self.model_version, self.token_dictionary_file = model_version, token_dictionary_file
        self.gene_token_dict = dict(self.vocabulary.token_of)

    def runtime(self, network: Any) -> RuntimeOptions:
        """How evaluations run."""
        return published_runtime(network, self.forward_batch_size, progress=False)


def warn_unused(kind: str, **arguments: Any) -> None:
    """Say which of some arguments are given, but have no meaning for this kind of classifier."""
    given = [name for name, value in arguments.items() if value]
    if given:
        msg = f'{", ".join(given)} has no meaning for classifier="{kind}" and is left out.'
        warnings.warn(msg, GeneformerWarning, stacklevel=4)
