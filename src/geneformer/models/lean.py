"""Layers where no gradient is needed, on CPUs: the same numbers with fewer passes over memory.

Queries, keys and values come from one product, residuals are added in place, and what follows attention runs over
stretches of rows that stay in a cache. In half precision stretches have one of few sizes, because every new size
of a product costs time and memory to prepare.

Axes: ``T`` packed tokens, ``R >= T`` rows, ``S`` rows of a stretch, ``D`` hidden, ``E = 3 D``.
"""

from collections.abc import Iterable, Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional

from geneformer.models.attention import Attention, equal_length_runs
from geneformer.models.layers import Layer, Residual, SelfAttention

_STRETCH = 1024
_STEP = 256


def suits(layers: Iterable[Layer], hidden_TD: Tensor) -> bool:
    """Whether layers can run this way: nothing records, drops, was put into them or listens to them."""
    return (
        torch.is_inference_mode_enabled()
        and hidden_TD.device.type == "cpu"
        and hidden_TD.dtype == torch.float32
        and all(_is_plain(layer) for layer in layers)
    )


def _is_plain(layer: Layer) -> bool:
    block, projections = layer.attention, layer.attention.self
    dense = (
        *(projections.query, projections.key, projections.value),
        *(block.output.dense, layer.intermediate.dense, layer.output.dense),
    )
    return (
        not layer.training
        and all(type(module) is nn.Linear for module in dense)
        and block.output.adapter is None
        and layer.output.adapter is None
        and not any(module._forward_hooks or module._forward_pre_hooks for module in layer.modules())
    )


def run_layers(layers: Iterable[Layer], hidden_TD: Tensor, lengths: Sequence[int], attend: Attention) -> Tensor:
    """States after some layers, ``(T, D)``."""
    dtype = products_dtype(hidden_TD)
    n_tokens = len(hidden_TD)
    hidden_RD = hidden_TD if dtype == hidden_TD.dtype else _with_rows(hidden_TD, -(-n_tokens // _STEP) * _STEP)
    with torch.autocast("cpu", enabled=False):
        for layer in layers:
            query_THK, key_THK, value_THK = _project(layer.attention.self, hidden_RD.to(dtype), n_tokens)
            kernel = layer.attention.self.kernel(attend, lengths)
            context_TD = kernel(query_THK, key_THK, value_THK, lengths, 0.0).flatten(1)
            _finish(layer, hidden_RD, _with_rows(context_TD, len(hidden_RD)))
    return hidden_RD[:n_tokens]


def finish_layer(layer: Layer, hidden_TD: Tensor, context_TD: Tensor) -> Tensor:
    """States after one layer whose attention was computed already, ``(T, D)``; overwrites those that go in."""
    n_tokens = len(hidden_TD)
    half = context_TD.dtype != hidden_TD.dtype
    hidden_RD = _with_rows(hidden_TD, -(-n_tokens // _STEP) * _STEP) if half else hidden_TD
    with torch.autocast("cpu", enabled=False):
        _finish(layer, hidden_RD, _with_rows(context_TD, len(hidden_RD)))
    return hidden_RD[:n_tokens]


def products_dtype(hidden_TD: Tensor) -> torch.dtype:
    """Precision of matrix products where these states are computed with."""
    return torch.get_autocast_dtype("cpu") if torch.is_autocast_enabled("cpu") else hidden_TD.dtype


def _with_rows(x_TD: Tensor, n_rows: int) -> Tensor:
    """With rows of zeros below."""
    return functional.pad(x_TD, (0, 0, 0, n_rows - len(x_TD))) if n_rows > len(x_TD) else x_TD


def _project(projections: SelfAttention, states_RD: Tensor, n_tokens: int) -> Iterable[Tensor]:
    """Queries, keys and values of all tokens, ``(T, H, K)`` each."""
    dense = (projections.query, projections.key, projections.value)
    weight_ED = torch.cat([module.weight for module in dense]).to(states_RD.dtype)
    bias_E = torch.cat([module.bias for module in dense]).to(states_RD.dtype)
    all_RE = states_RD.new_empty((len(states_RD), len(weight_ED)))
    for states_SD, all_SE in zip(states_RD.split(_STRETCH), all_RE.split(_STRETCH), strict=True):
        torch.addmm(bias_E, states_SD, weight_ED.T, out=all_SE)
    return all_RE[:n_tokens].unflatten(1, (3, projections.n_heads, -1)).unbind(1)


def _finish(layer: Layer, hidden_RD: Tensor, context_RD: Tensor) -> None:
    """What follows attention, in place."""
    parts = layer.attention.output, layer.intermediate, layer.output
    first, wide, last = parts
    dtype = context_RD.dtype
    weights = [part.dense.weight.to(dtype).T for part in parts]
    biases = [part.dense.bias.to(dtype) for part in parts]
    for hidden_SD, context_SD in zip(hidden_RD.split(_STRETCH), context_RD.split(_STRETCH), strict=True):
        middle_SD = _residual(first, context_SD, weights[0], biases[0], hidden_SD)
        activations = wide.activation(torch.addmm(biases[1], middle_SD.to(dtype), weights[1]))
        hidden_SD.copy_(_residual(last, activations, weights[2], biases[2], middle_SD))


def _residual(residual: Residual, update: Tensor, weight: Tensor, bias: Tensor, hidden_SD: Tensor) -> Tensor:
    """Dense, residual, layer norm; overwrites the states it gets."""
    return residual.LayerNorm(hidden_SD.add_(torch.addmm(bias, update, weight)))


def first_token_states(layer: Layer, hidden_TD: Tensor, lengths: Sequence[int]) -> Tensor:
    """States of the first token of each cell after one more layer, ``(B, D)``."""
    projections = layer.attention.self
    starts = torch.tensor([0, *lengths[:-1]], device=hidden_TD.device).cumsum(0)
    first_BD = hidden_TD[starts]
    query_BHK, key_THK, value_THK = (
        project(x).unflatten(-1, (projections.n_heads, -1))
        for project, x in (
            (projections.query, first_BD),
            (projections.key, hidden_TD),
            (projections.value, hidden_TD),
        )
    )
    contexts, token, cell = [], 0, 0
    for cells, length in equal_length_runs(lengths):
        query = query_BHK[cell : cell + cells].unsqueeze(2)
        key, value = (
            x[token : token + cells * length].unflatten(0, (cells, length)).transpose(1, 2)
            for x in (key_THK, value_THK)
        )
        contexts.append(functional.scaled_dot_product_attention(query, key, value).squeeze(2))
        token, cell = token + cells * length, cell + cells
    middle_BD = layer.attention.output(torch.cat(contexts).flatten(1), first_BD)
    states_BD: Tensor = layer.output(layer.intermediate(middle_BD), middle_BD)
    return states_BD
