"""Padded tensors and cosines as published scripts use them; the rest of this package packs its cells.

Axes: ``B`` cells, ``L`` tokens of the longest cell, ``D`` hidden.
"""

import logging
from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor
from torch.nn import functional

from geneformer.engine.device import resolve_device
from geneformer.errors import OptionError
from geneformer.options._fields import check_choice

_logger = logging.getLogger(__name__)


def gen_attention_mask(minibatch_encoding: Mapping[str, Sequence[int]], max_len: int | None = None) -> Tensor:
    """One for each token of cells with a `length` and zero for padding, ``(B, max_len)``, on the accelerator if any.

    `max_len` is the length of the longest cell by default.
    """
    lengths = torch.tensor(list(minibatch_encoding["length"]), dtype=torch.int64)
    if not len(lengths):
        msg = "There are no cells to make an attention mask of."
        raise OptionError(msg)
    width = int(lengths.max()) if max_len is None else max_len
    return (torch.arange(width)[None, :] < lengths[:, None]).to(resolve_device(), torch.int64)


def pad_tensor(tensor: Tensor, pad_token_id: float, max_len: int) -> Tensor:
    """A vector, ``(L,)``, padded on the right, or cut, to `max_len`."""
    return _pad(tensor, pad_token_id, max_len, 0)


def pad_2d_tensor(tensor: Tensor, pad_token_id: float, max_len: int, dim: int) -> Tensor:
    """A matrix padded behind one of its two dimensions to `max_len`; other tensors raise `OptionError`."""
    return _pad(tensor, pad_token_id, max_len, dim, n_dims=2)


def pad_3d_tensor(tensor: Tensor, pad_token_id: float, max_len: int, dim: int) -> Tensor:
    """A block padded behind one of its three dimensions to `max_len`; other tensors raise `OptionError`."""
    return _pad(tensor, pad_token_id, max_len, dim, n_dims=3)


def _pad(tensor: Tensor, value: float, length: int, dim: int, n_dims: int | None = None) -> Tensor:
    if n_dims is not None and tensor.ndim != n_dims:
        msg = f"A tensor of {n_dims} dimensions is padded here; this one has the shape {tuple(tensor.shape)}."
        raise OptionError(msg)
    dim = dim % tensor.ndim
    # The library counts dimensions from the last; what is negative is cut.
    amounts = [0] * (2 * (tensor.ndim - 1 - dim)) + [0, length - tensor.shape[dim]]
    return functional.pad(tensor, amounts, value=value)


def pad_tensor_list(
    tensor_list: Sequence[Tensor],
    dynamic_or_constant: str | int,
    pad_token_id: float,
    model_input_size: int,
    dim: int | None = None,
    padding_func: Callable[[Tensor, float, int, int], Tensor] | None = None,
) -> Tensor:
    """Tensors of different lengths, stacked; blocks of three dimensions one behind the other along their first.

    Parameters
    ----------
    tensor_list : Vectors, matrices or blocks.
    dynamic_or_constant : "dynamic" for the length of the longest, or a length.
    pad_token_id : Value to pad with.
    model_input_size : Length to pad to where `dynamic_or_constant` is neither.
    dim, padding_func : Dimension to pad, None for vectors; and `pad_2d_tensor` or `pad_3d_tensor`.
    """
    if not len(tensor_list):
        msg = "There is no tensor to pad."
        raise OptionError(msg)
    along, length = dim or 0, dynamic_or_constant
    if length == "dynamic":
        length = max(tensor.shape[along] for tensor in tensor_list)
    elif not isinstance(length, int):
        _logger.warning("Padding to the input size of the model, %d, as %r is no length.", model_input_size, length)
        length = model_input_size
    pad = _pad if dim is None or padding_func is None else padding_func
    padded = [pad(tensor, pad_token_id, length, along) for tensor in tensor_list]
    return torch.cat(padded) if dim is not None and padded[0].ndim == 3 else torch.stack(padded)


def mean_nonpadding_embs(embs: Tensor, original_lens: Tensor | Sequence[int], dim: int = 1) -> Tensor:
    """Means over the positions that are no padding, ``(B, D)`` or ``(B,)``.

    Parameters
    ----------
    embs, dim : Embeddings, ``(B, L, D)``, or one number per position, ``(B, L)``; and the dimension of the positions.
    original_lens : Positions of each cell that are no padding, ``(B,)``.
    """
    lengths = torch.as_tensor(original_lens, device=embs.device)
    inside_BL = torch.arange(embs.shape[dim], device=embs.device)[None, :] < lengths[:, None]
    shape = [1] * embs.ndim
    shape[0], shape[dim] = inside_BL.shape
    total = embs.masked_fill(~inside_BL.view(shape), 0).sum(dim)
    return total / lengths.view(-1, *[1] * (total.ndim - 1))


def cos_sim_shift(
    original_emb: Tensor, perturbed_emb: Tensor, end_emb: Tensor, cos: Callable[[Tensor, Tensor], Tensor]
) -> Tensor:
    """How much closer cells come to a state: cosine after minus cosine before, ``(B,)``.

    Parameters
    ----------
    original_emb, perturbed_emb, end_emb : Cells before and after, each ``(B, D)``, and the state, ``(D,)``.
    cos : Cosine of rows, such as ``torch.nn.CosineSimilarity(dim=1)``.
    """
    state = end_emb.to(original_emb).reshape(1, -1)
    return cos(perturbed_emb, state) - cos(original_emb, state)


def quant_cos_sims(
    perturbation_emb: Tensor,
    original_emb: Tensor,
    cell_states_to_model: Mapping[str, object] | None,
    state_embs_dict: Mapping[str, Tensor] | None,
    emb_mode: str = "gene",
) -> Tensor | dict[str, Tensor]:
    """How similar cells or genes are to what they were, or how much closer cells come to states.

    Parameters
    ----------
    perturbation_emb, original_emb : After and before: ``(B, L, D)`` in mode "gene", ``(B, D)`` in mode "cell".
    cell_states_to_model, state_embs_dict
        None for cosines, ``(B, L)`` or ``(B,)``; else, for cells, shifts towards each state, ``(B,)``, by state.
    emb_mode : "gene" or "cell".
    """
    check_choice("emb_mode", emb_mode, ("gene", "cell"))
    cos = torch.nn.CosineSimilarity(dim=2 if emb_mode == "gene" else 1)
    if emb_mode == "gene" or cell_states_to_model is None:
        similarities: Tensor = cos(perturbation_emb, original_emb)
        return similarities
    if not state_embs_dict:
        msg = "Shifts toward states need the embeddings of the states. Pass state_embs_dict."
        raise OptionError(msg)
    return {state: cos_sim_shift(original_emb, perturbation_emb, emb, cos) for state, emb in state_embs_dict.items()}
