"""One cell with a gate on every token: what a number read from its states owes to each of them.

A gate of 1 leaves a token as it is; at 0 no other token attends to it, in any layer. Backward passes say what closing
one gate does to a number, to first order, and how the number follows the summed embedding of every token.

Of attention the exact part is kept: without key ``j``, a query that gave it the weight ``a`` gathers
``a / (1 - a) * (value - context)`` less, and not ``a`` times as much. Modules are the encoder's own.

Axes: ``L`` tokens of the cell, ``D`` hidden, ``H`` heads, ``K`` head size, ``C`` numbers, ``Q`` queries of a block.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, NamedTuple, cast

import torch
from torch import Tensor

from geneformer.errors import PairingError
from geneformer.models.extensions import describe_extensions, has_plain_attention

if TYPE_CHECKING:
    from geneformer.models.encoder import GeneformerEncoder, Layer

Gates = Literal["slopes", "removals", "pairs"]
"""Derivatives; what closing a gate takes away; or the same, told for every query that it is taken from."""

_BLOCK = 2**20
"""Attention weights, of all heads and numbers, that exist at the same time."""

_LEAST_ROWS = 128
"""Queries of a block: sums over few of them are slow."""

_KEPT = 2**28
"""Elements of all layers that are kept for backward passes; beyond, each pass computes a layer again."""


def can_gate(encoder: GeneformerEncoder) -> bool:
    """Whether positions are absolute and every token attends to its whole cell."""
    return has_plain_attention(encoder.config)


def sum_embeddings(encoder: GeneformerEncoder, input_ids_L: Tensor, position_L: Tensor) -> Tensor:
    """Token, type and position embeddings before their layer norm, ``(L, D)``."""
    parts = encoder.embeddings
    if parts.position_embeddings is None:
        raise PairingError(refusal(encoder))
    summed_LD: Tensor = parts.word_embeddings(input_ids_L) + parts.position_embeddings(position_L)
    return (summed_LD + parts.token_type_embeddings.weight[0]).detach()


def refusal(encoder: GeneformerEncoder) -> str:
    """Why an encoder cannot be gated, and what to do."""
    return (
        f"This encoder has attention of its own ({describe_extensions(encoder.config)}). Deletions are screened for "
        'encoders with absolute positions and no window; use method="exact" (--method exact) for this one.'
    )


@dataclass(frozen=True, slots=True, eq=False)
class Pulled:
    """What numbers owe to the tokens.

    Attributes
    ----------
    told
        ``(C, L)``: by how much each number falls when the gate of a token closes; for "slopes", its derivative with
        respect to the gate. For "pairs" ``(C, L, L)``: the part of it that goes through one query (first ``L``). What
        a token gives to itself is left out of all but the slopes. Empty where not asked for.
    embedded
        Gradient with respect to the summed embeddings, ``(C, L, D)``; empty where not asked for.
    """

    told: Tensor
    embedded: Tensor


class _Trace(NamedTuple):
    """One layer, recorded in two parts: up to the attention, and behind it."""

    hidden: Tensor
    query: Tensor
    key: Tensor
    value: Tensor
    context: Tensor
    after: Tensor


class GatedCell:
    """A cell, run forward once.

    Parameters
    ----------
    encoder
        Encoder in evaluation mode, with absolute positions and no window.
    embedded_LD
        Summed embeddings of the cell, from `sum_embeddings`.
    n_layers
        Layers that run.

    Attributes
    ----------
    states
        States after 0 to `n_layers` layers, ``(L, D)`` each.

    Raises
    ------
    PairingError
        An encoder with relative positions or a window.
    """

    def __init__(self, encoder: GeneformerEncoder, embedded_LD: Tensor, n_layers: int) -> None:
        if not can_gate(encoder):
            raise PairingError(refusal(encoder))
        self._layers = [cast("Layer", layer) for layer in encoder.encoder.layer[:n_layers]]
        with _recording(embedded_LD):
            self._embedded_LD = embedded_LD.detach().clone().requires_grad_()
            self._first_LD = encoder.embeddings.dropout(encoder.embeddings.LayerNorm(self._embedded_LD))
            self.states = [self._first_LD.detach()]
            self._contexts: list[Tensor] = []
            self._traces: list[_Trace | None] = []
            size = 2 * n_layers * len(embedded_LD) * (4 * encoder.config.hidden_size + encoder.config.intermediate_size)
            for layer in self._layers:
                trace = _trace(layer, self.states[-1], None)
                self.states.append(trace.after.detach())
                self._contexts.append(trace.context.detach())
                self._traces.append(trace if size <= _KEPT else None)

    def pull(self, grad_CLD: Tensor, n_layers: int, *, gates: Gates | None = None, embedded: bool = False) -> Pulled:
        """Follow numbers back to gates and embeddings.

        Parameters
        ----------
        grad_CLD
            Gradient of every number with respect to the states after `n_layers` layers, ``(C, L, D)``.
        n_layers
            Layers below the states that the numbers are read from.
        gates
            What is told of the gates.
        embedded
            Whether gradients of the embeddings are wanted.
        """
        n_tokens = grad_CLD.shape[1]
        shapes = {None: (0,), "pairs": (len(grad_CLD), n_tokens, n_tokens)}
        with _recording(grad_CLD):
            told = grad_CLD.new_zeros(shapes.get(gates, grad_CLD.shape[:2]))
            grad_CLD = grad_CLD.detach().clone()
            for place in range(n_layers)[::-1]:
                trace = self._traces[place] or _trace(self._layers[place], self.states[place], self._contexts[place])
                grad_CLD = _pull_layer(trace, grad_CLD, told, gates, below=embedded or place > 0)
            found = _gradients([self._first_LD], [self._embedded_LD], [grad_CLD])[0] if embedded else told.new_empty(0)
        return Pulled(told, found)


@contextmanager
def _recording(like: Tensor) -> Iterator[None]:
    """Gradients are recorded and arithmetic stays as it is, whatever the caller is in."""
    with torch.inference_mode(mode=False), torch.enable_grad(), torch.autocast(like.device.type, enabled=False):
        yield


def _trace(layer: Layer, hidden_LD: Tensor, context_LD: Tensor | None) -> _Trace:
    projections = layer.attention.self
    hidden_LD = hidden_LD.detach().requires_grad_()
    query, key, value = (
        project(hidden_LD).unflatten(1, (projections.n_heads, -1)).transpose(0, 1)
        for project in (projections.query, projections.key, projections.value)
    )
    if context_LD is None:
        with torch.no_grad():
            context_HLK = torch.nn.functional.scaled_dot_product_attention(query[None], key[None], value[None])[0]
            context_LD = context_HLK.transpose(0, 1).flatten(1)
    context_LD = context_LD.detach().requires_grad_()
    middle_LD = layer.attention.output(context_LD, hidden_LD)
    after_LD = layer.output(layer.intermediate(middle_LD), middle_LD)
    return _Trace(hidden_LD, query, key, value, context_LD, after_LD)


def _gradients(outputs: list[Tensor], inputs: list[Tensor], grads: list[Tensor]) -> tuple[Tensor, ...]:
    """Gradients for many numbers at once, the first axis of `grads`."""
    return torch.autograd.grad(outputs, inputs, grads, retain_graph=True, is_grads_batched=True)


def _pull_layer(trace: _Trace, grad_CLD: Tensor, told: Tensor, gates: Gates | None, *, below: bool) -> Tensor:
    """Gradients of the states before a layer; what its gates owe is added to `told`."""
    grad_context, grad_hidden = _gradients([trace.after], [trace.context, trace.hidden], [grad_CLD])
    with torch.no_grad():
        grads = _pull_attention(trace, grad_context, told, gates, below=below)
    if not below:
        return grad_CLD
    return grad_hidden + _gradients([trace.query, trace.key, trace.value], [trace.hidden], grads)[0]


def _pull_attention(trace: _Trace, grad_CLD: Tensor, told: Tensor, gates: Gates | None, *, below: bool) -> list[Tensor]:
    """Gradients of queries, keys and values, ``(C, H, L, K)`` each."""
    query, key, value = (x.detach().contiguous() for x in (trace.query, trace.key, trace.value))
    n_heads, n_tokens, head_size = query.shape
    n_numbers, scale = len(grad_CLD), head_size**-0.5
    grad_CHLK, context = (x.unflatten(-1, (n_heads, -1)).transpose(-3, -2) for x in (grad_CLD, trace.context))
    shared_HCL1 = (grad_CHLK * context).sum(-1, keepdim=True).transpose(0, 1)
    grad_HCLK = grad_CHLK.transpose(0, 1).contiguous()
    grads = [torch.zeros_like(grad_HCLK) for _ in range(3)] if below else []
    n_rows = max(_BLOCK // (n_heads * n_tokens * n_numbers), _LEAST_ROWS)
    for start in range(0, n_tokens, n_rows):
        rows = slice(start, start + n_rows)
        weights_HQL = torch.softmax((query[:, rows] * scale) @ key.mT, dim=-1)
        block_HCQK = grad_HCLK[:, :, rows]
        scores_HCQL = (block_HCQK.flatten(1, 2) @ value.mT).unflatten(1, (n_numbers, -1))
        scores_HCQL.sub_(shared_HCL1[:, :, rows]).mul_(weights_HQL[:, None])
        if below:
            into_query = (scores_HCQL.flatten(1, 2) @ key).mul_(scale)
            grads[0][:, :, rows] = into_query.unflatten(1, (n_numbers, -1))
            grads[1].add_(scores_HCQL.mT @ query[:, None, rows], alpha=scale)
            columns = block_HCQK.transpose(1, 2).flatten(2)
            grads[2] += (weights_HQL.mT @ columns).unflatten(2, (n_numbers, -1)).transpose(1, 2)
        if gates is not None:
            _tell(scores_HCQL, weights_HQL, told, start, gates)
    return [x.transpose(0, 1) for x in grads]


def _tell(scores_HCQL: Tensor, weights_HQL: Tensor, told: Tensor, start: int, gates: Gates) -> None:
    """Add what a block of queries owes to every key; the scores are used up."""
    n_rows = scores_HCQL.shape[2]
    if gates != "slopes":
        left_HQL = torch.sub(1, weights_HQL).clamp_(min=torch.finfo(weights_HQL.dtype).eps)
        scores_HCQL.div_(left_HQL[:, None])
        scores_HCQL[..., start : start + n_rows].diagonal(dim1=-2, dim2=-1).zero_()
    if gates == "pairs":
        told[:, start : start + n_rows] += scores_HCQL.sum(0)
    else:
        told += scores_HCQL.sum((0, 2))
