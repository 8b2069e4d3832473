"""Parts of the perturbation that scripts call by themselves, under their published path."""

from geneformer.compat.cell_selection import (
    downsample_and_sort,
    filter_by_dict,
    filter_data_by_start_state,
    filter_data_by_tokens,
    load_and_filter,
    slice_by_inds_to_perturb,
)
from geneformer.compat.perturbation.state_shifts import get_possible_states, write_perturbation_dictionary
from geneformer.compat.plain_models import (
    gen_attention_mask,
    get_model_emb_dims,
    get_model_input_size,
    load_model,
    quant_layers,
)
from geneformer.models.padding import (
    cos_sim_shift,
    mean_nonpadding_embs,
    pad_2d_tensor,
    pad_3d_tensor,
    pad_tensor,
    pad_tensor_list,
    quant_cos_sims,
)

__all__ = [
    "cos_sim_shift",
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
    "pad_2d_tensor",
    "pad_3d_tensor",
    "pad_tensor",
    "pad_tensor_list",
    "quant_cos_sims",
    "quant_layers",
    "slice_by_inds_to_perturb",
    "write_perturbation_dictionary",
]
