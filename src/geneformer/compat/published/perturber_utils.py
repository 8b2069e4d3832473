"""Parts of the perturbation that scripts call by themselves, under their published path."""

from typing import Any

from geneformer.compat.cells import (
    calc_n_overflow,
    delete_indices,
    downsample_and_sort,
    filter_by_dict,
    filter_data_by_start_state,
    filter_data_by_tokens,
    load_and_filter,
    overexpress_indices,
    overexpress_indices_special,
    overexpress_tokens,
    slice_by_inds_to_perturb,
    truncate_by_n_overflow,
    truncate_by_n_overflow_special,
)
from geneformer.compat.networks import (
    cos_sim_shift,
    gen_attention_mask,
    get_model_emb_dims,
    get_model_input_size,
    load_model,
    mean_nonpadding_embs,
    pad_2d_tensor,
    pad_3d_tensor,
    pad_tensor,
    pad_tensor_list,
    quant_cos_sims,
    quant_layers,
)
from geneformer.compat.paths import published_name
from geneformer.compat.perturber import get_possible_states, write_perturbation_dictionary

__all__ = [
    "calc_n_overflow",
    "cos_sim_shift",
    "delete_indices",
    "downsample_and_sort",
    "filter_by_dict",
    "filter_data_by_start_state",
    "filter_data_by_tokens",
    "gen_attention_mask",
    "get_model_emb_dims",
    "get_model_input_size",
    "get_possible_states",
    "load_and_filter",
    "load_model",
    "mean_nonpadding_embs",
    "overexpress_indices",
    "overexpress_indices_special",
    "overexpress_tokens",
    "pad_2d_tensor",
    "pad_3d_tensor",
    "pad_tensor",
    "pad_tensor_list",
    "quant_cos_sims",
    "quant_layers",
    "slice_by_inds_to_perturb",
    "truncate_by_n_overflow",
    "truncate_by_n_overflow_special",
    "write_perturbation_dictionary",
]


def __getattr__(name: str) -> Any:
    return published_name(__name__, name)
