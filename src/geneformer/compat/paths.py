"""Module paths of the published package, such as `geneformer.tokenizer`: their names, and what replaces others."""

from collections.abc import Iterator, Mapping, Sequence
from importlib import import_module
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Any

from geneformer.errors import UnsupportedNameError

MODULES: dict[str, dict[str, str]] = {
    "classifier": {"classifier": "Classifier"},
    "classifier_utils": {
        "cells": "downsample_and_shuffle remove_cols rename_cols subsample_by_class",
        "classifier_training": "compute_metrics get_default_train_args get_num_classes",
        "token_edits": "label_gene_classes",
    },
    "collator_for_classification": {
        "collators": (
            "DataCollatorForCellClassification DataCollatorForGeneClassification "
            "PrecollatorForGeneAndCellClassification=GeneformerPreCollator"
        ),
    },
    "emb_extractor": {"emb_extractor": "EmbExtractor get_embs label_cell_embs label_gene_embs"},
    "evaluation_utils": {
        "classifier_reports": (
            "classifier_predict get_cross_valid_roc_metrics get_metrics plot_ROC plot_confusion_matrix "
            "plot_predictions py_softmax vote"
        ),
    },
    "in_silico_perturber": {"perturber": "InSilicoPerturber"},
    "in_silico_perturber_stats": {"perturber_stats": "InSilicoPerturberStats"},
    "mtl_classifier": {"mtl_classifier": "MTLClassifier"},
    "perturber_utils": {
        "cells": (
            "downsample_and_sort filter_by_dict filter_data_by_start_state filter_data_by_tokens get_possible_states "
            "load_and_filter slice_by_inds_to_perturb"
        ),
        "networks": "get_model_emb_dims get_model_input_size load_model=load_plain_network quant_layers",
        "perturber": "write_perturbation_dictionary",
        "tensors": (
            "cos_sim_shift gen_attention_mask mean_nonpadding_embs pad_2d_tensor pad_3d_tensor pad_tensor "
            "pad_tensor_list quant_cos_sims"
        ),
        "token_edits": (
            "calc_n_overflow delete_indices overexpress_indices overexpress_indices_special overexpress_tokens "
            "truncate_by_n_overflow truncate_by_n_overflow_special"
        ),
    },
    "pretrainer": {"collators": "GeneformerPreCollator", "pretrainer": "GeneformerPretrainer"},
    "tokenizer": {
        "dictionaries": (
            "ENSEMBL_DICTIONARY_FILE ENSEMBL_DICTIONARY_FILE_30M ENSEMBL_MAPPING_FILE ENSEMBL_MAPPING_FILE_30M "
            "GENE_MEDIAN_FILE GENE_MEDIAN_FILE_30M TOKEN_DICTIONARY_FILE TOKEN_DICTIONARY_FILE_30M"
        ),
        "tokenizer": "TranscriptomeTokenizer rank_genes tokenize_cell",
    },
}
"""By module: the file of `compat` that its names are in, and these; `published=own` where they differ."""

_PERTURB = "InSilicoPerturber(...).perturb_data(...) makes, runs and compares perturbed cells"
_STATISTICS = "InSilicoPerturberStats(...).get_stats(...) reads the files of a run"
_CLASSIFY = "Classifier(...).prepare_data(...) and .validate(...) label, split and balance"
_HELPER = "import it from geneformer.perturber_utils"

REPLACED: dict[str, dict[str, str]] = {
    "classifier_utils": {
        _CLASSIFY: (
            "balance_gene_split count_genes_for_balancing filter_data_balanced_genes label_classes "
            "prep_gene_classifier_all_data prep_gene_classifier_split prep_gene_classifier_train_eval_split "
            "remove_rare StratifiedKFold3 validate_and_clean_cols"
        ),
    },
    "emb_extractor": {
        "EmbExtractor(...).plot_embs(...) draws": (
            "gen_heatmap_class_colors gen_heatmap_class_dict make_colorbar plot_heatmap plot_umap"
        ),
        'summary_stat="mean" or "median" of EmbExtractor is exact': (
            "accumulate_tdigests summarize_gene_embs tdigest_mean tdigest_median update_tdigest_dict "
            "update_tdigest_dict_mean update_tdigest_dict_median"
        ),
        "label_gene_embs makes the table": "dict_lol_to_df",
    },
    "evaluation_utils": {
        "classifier_predict makes its own batches": "find_largest_div preprocess_classifier_batch",
    },
    "in_silico_perturber": {
        _HELPER: (
            "downsample_and_sort gen_attention_mask get_model_input_size get_possible_states load_and_filter "
            "load_model mean_nonpadding_embs pad_tensor pad_tensor_list quant_cos_sims quant_layers "
            "delete_indices overexpress_indices overexpress_tokens"
        ),
        _PERTURB: "make_perturbation_batch make_comparison_batch perturb_emb_by_index",
    },
    "in_silico_perturber_stats": {
        "the file is geneformer.ENSEMBL_DICTIONARY_FILE, or ENSEMBL_DICTIONARY_FILE_30M for models of V1": (
            "GENE_NAME_ID_DICTIONARY_FILE"
        ),
        _STATISTICS: (
            "find get_fdr get_gene_list get_impact_component isp_aggregate_gene_shifts "
            "isp_aggregate_grouped_perturb isp_stats_mixture_model isp_stats_to_goal_state isp_stats_vs_null "
            "n_detections read_dict read_dictionaries token_tuple_to_ensembl_ids"
        ),
    },
    "perturber_utils": {
        _PERTURB: (
            "compute_nonpadded_cell_embedding concatenate_cos_sims forward_pass_single_cell "
            "make_comparison_batch make_perturbation_batch make_perturbation_batch_special "
            "perturb_emb_by_index remove_indices_from_emb remove_indices_from_emb_batch "
            "remove_perturbed_indices_set remove_front_padding_from_emb validate_cell_states_to_model"
        ),
        "pad_tensor_list pads tensors of any dimension": "pad_list pad_or_truncate_encoding pad_xd_tensor",
    },
    "tokenizer": {"TranscriptomeTokenizer sums the columns of a gene by itself": "sum_ensembl_ids"},
}
"""By module: what does the job, and the published names it stands for."""


class PublishedModules:
    """Finds and loads `geneformer.tokenizer` and the other published module paths."""

    def find_spec(
        self, fullname: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        """A spec for a published module path, None for anything else."""
        package, _, module = fullname.rpartition(".")
        if package != "geneformer" or module not in MODULES:
            return None
        return ModuleSpec(fullname, self)  # type: ignore[arg-type]  # its base class would make every start slower

    def create_module(self, spec: ModuleSpec) -> ModuleType | None:
        """None: an ordinary module will do."""

    def exec_module(self, module: ModuleType) -> None:
        """Give the module its published names; path constants and names that were replaced wait to be asked for."""
        short = module.__name__.rpartition(".")[2]
        module.__doc__ = (
            f"Published path of what is in {' and '.join(f'geneformer.compat.{h}' for h in MODULES[short])}."
        )
        names = list(_names(MODULES[short]))
        for home, name in names:
            if home != "dictionaries":
                published, _, own = name.partition("=")
                setattr(module, published, getattr(import_module(f"geneformer.compat.{home}"), own or published))
        module.__dict__["__all__"] = sorted(name.partition("=")[0] for _, name in names)
        module.__dict__["__getattr__"] = lambda name: _constant_or_refusal(module.__name__, name)


def _names(table: Mapping[str, str]) -> Iterator[tuple[str, str]]:
    return ((key, name) for key, names in table.items() for name in names.split())


def _constant_or_refusal(module: str, name: str) -> Any:
    """A path constant, which every published module has; other names are refused with what replaces them."""
    from geneformer.compat import dictionaries

    if name in dictionaries.FILES:
        return getattr(dictionaries, name)
    if name == "token_dictionary" and module.endswith(("pretrainer", "collator_for_classification")):
        return dictionaries.all_tokens(dictionaries.published_vocabulary("V1"))  # scripts of before there was a V2
    for instead, replaced in _names(REPLACED.get(module.rpartition(".")[2], {})):
        if replaced == name:
            msg = f"{module}.{name} of the published package is not carried over. Instead: {instead}."
            raise UnsupportedNameError(msg)
    msg = f"module {module!r} has no attribute {name!r}"
    raise AttributeError(msg)
