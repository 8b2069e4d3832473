"""What a published `Classifier` is constructed with."""

from pathlib import Path
from typing import Any

from geneformer.compat.classification import options as checked
from geneformer.compat.classification.evaluation import runtime_for
from geneformer.compat.vocabularies import published_vocabulary
from geneformer.errors import UnsupportedArgumentError
from geneformer.options import RuntimeOptions
from geneformer.options._check import check_choice, check_range


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
        for name, number in (("max_ncells", max_ncells), ("max_ncells_per_class", max_ncells_per_class)):
            check_range(name, number, low=1)
        for name, number in (("forward_batch_size", forward_batch_size), ("nproc", nproc)):
            check_range(name, number, low=1)
        for name, number in (("freeze_layers", freeze_layers), ("ngpu", ngpu)):
            check_range(name, number, low=0)
        if max_ncells_per_class is not None and classifier == "gene":
            msg = 'max_ncells_per_class is about states of cells; with classifier="gene" use max_ncells.'
            raise UnsupportedArgumentError(msg)
        self.classifier: Any = kind
        self.vocabulary = published_vocabulary(model_version, token_dictionary_file)
        self.quantize, self.ray_config = quantize, ray_config
        self.adapters, self.bits = checked.checked_quantize(quantize)
        self.cell_state_dict = checked.checked_states(kind, cell_state_dict)
        self.gene_class_dict = checked.checked_genes(kind, gene_class_dict, self.vocabulary)
        self.filter_data = checked.checked_filter(filter_data, self.cell_state_dict)
        self.rare_threshold, self.max_ncells = rare_threshold, max_ncells
        self.max_ncells_per_class = max_ncells_per_class
        self.training_args = checked.checked_words(training_args)
        self.freeze_layers, self.num_crossval_splits = freeze_layers, num_crossval_splits
        self.split_sizes = checked.checked_shares(split_sizes)
        self.train_size, self.oos_test_size = self.split_sizes["train"], self.split_sizes["test"]
        self.eval_size = self.split_sizes["valid"] / (self.split_sizes["train"] + self.split_sizes["valid"])
        self.stratify_splits_col, self.no_eval = stratify_splits_col, no_eval
        self.forward_batch_size, self.model_version = forward_batch_size, model_version
        self.token_dictionary_file = token_dictionary_file
        self.gene_token_dict = dict(self.vocabulary.token_of)
        self.nproc, self.ngpu = nproc, ngpu

    def runtime(self, network: Any) -> RuntimeOptions:
        """How evaluations run."""
        return runtime_for(network, self.forward_batch_size)
