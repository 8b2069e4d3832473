"""What modules of the published package have beside what is carried over: path constants, and what to use instead."""

from typing import Any, NoReturn

from geneformer.compat import dictionaries as dictionary_files
from geneformer.errors import UnsupportedNameError

_PERTURB = "InSilicoPerturber(...).perturb_data(...) makes, runs and compares perturbed cells"
_STATISTICS = "InSilicoPerturberStats(...).get_stats(...) reads the files of a run"
_CLASSIFY = "Classifier(...).prepare_data(...) and .validate(...) label, split and balance"
_DICTIONARY = "open geneformer.TOKEN_DICTIONARY_FILE, or TOKEN_DICTIONARY_FILE_30M for models of V1"
_HELPER = "import it from geneformer.perturber_utils"

_INSTEAD = {
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
    "collator_for_classification": {
        _DICTIONARY: "token_dictionary",
    },
    "pretrainer": {
        _DICTIONARY: "token_dictionary",
    },
    "tokenizer": {
        "TranscriptomeTokenizer sums the columns of a gene by itself": "sum_ensembl_ids",
    },
}
"""By module: what does the job, and the names it stands for."""


def published_name(module: str, name: str) -> Any:
    """A path constant of a published module."""
    if name in dictionary_files.FILES:
        return getattr(dictionary_files, name)
    for instead, names in _INSTEAD.get(module.rpartition(".")[2], {}).items():
        if name in names.split():
            _refuse(module, name, instead)
    msg = f"module {module!r} has no attribute {name!r}"
    raise AttributeError(msg)


def _refuse(module: str, name: str, instead: str) -> NoReturn:
    msg = f"{module}.{name} of the published package is not carried over. Instead: {instead}."
    raise UnsupportedNameError(msg)
