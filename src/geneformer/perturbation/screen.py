"""A screen: the deletion of every gene of a cell, estimated from a few passes over that cell.

A deletion does three things, estimated one by one and added up:

==========================  ======================================================================================
no other gene sees it       Gates on the attention to it, from one backward pass over the cell as it is
it leaves the mean          Exactly, with the states of the cell as it is
genes behind it move up     The cell is also run with all genes moved, and with those behind a few cuts. Between
                            cuts, every gene adds the mean of two gradients, before and after it moved
==========================  ======================================================================================

Moves are no small steps: where neighboring positions differ much, a gradient of the unmoved cell alone says nothing.

Similarities have no gradient at the unedited cell: they fall with ``|change|² / 2`` of unit vectors, which is estimated
from random directions. With pooling "cls" the change in a direction is an effect like any other. With "mean", moves are
read from the moved cells, and what genes that no longer see another one lose is taken pair by pair of genes. One
direction then tests all pairs at once, so that few are enough; what many pairs do in concert is left out.

Axes: ``L`` tokens, ``D`` hidden, ``S`` states, ``C`` classes, ``N`` genes of the cell, ``X`` numbers, ``M`` runs of
the moved cell.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, NamedTuple, cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn.functional import normalize

from geneformer.errors import PairingError
from geneformer.models.encoder import RANK_SCALE, GeneformerEncoder, describe_extensions, has_plain_attention
from geneformer.models.heads import AttentionPool, DensePool, GeneformerForCells, MeanPool, class_probabilities

if TYPE_CHECKING:
    from geneformer.models.encoder import Layer

Weigh = Callable[..., Tensor]
"""Weight of every token in the vector of the cell, from the states; with `moved`, at the rank before its own."""

Gates = Literal["slopes", "removals", "pairs"]
"""Derivatives; what closing a gate takes away; or the same, for every query that it is taken from."""

_BLOCK = 2**20
"""Attention weights, of all heads and numbers, that exist at the same time."""

_LEAST_ROWS = 128
"""Queries of a block: sums over few of them are slow."""

_KEPT = 2**28
"""Elements of all layers that are kept for backward passes; beyond, each pass computes a layer again."""


def check_gates(encoder: GeneformerEncoder) -> None:
    """Refuse an encoder in which positions are not absolute, or a token does not attend to its whole cell."""
    if not has_plain_attention(encoder.config):
        msg = (
            f"This encoder has attention of its own ({describe_extensions(encoder.config)}). Deletions are screened "
            'for encoders with absolute positions and no window; use method="exact" (--method exact) for this one.'
        )
        raise PairingError(msg)


def sum_embeddings(encoder: GeneformerEncoder, input_ids_L: Tensor, position_L: Tensor) -> Tensor:
    """Token, type and position embeddings before their layer norm, ``(L, D)``."""
    check_gates(encoder)
    parts = encoder.embeddings
    positions = cast("nn.Embedding", parts.position_embeddings)
    summed_LD: Tensor = parts.word_embeddings(input_ids_L) + positions(position_L)
    return (summed_LD + parts.token_type_embeddings.weight[0]).detach()


@dataclass(frozen=True, slots=True, eq=False)
class Pulled:
    """What numbers owe to every token: through its gates, ``(C, L)`` or ``(C, L, L)``, and through its embedding."""

    gates: Tensor
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
    """A cell, run forward once."""

    def __init__(self, encoder: GeneformerEncoder, embedded_LD: Tensor, n_layers: int) -> None:
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
        """Follow numbers back to gates and embeddings."""
        n_tokens = grad_CLD.shape[1]
        shapes = {None: (0,), "pairs": (len(grad_CLD), n_tokens, n_tokens)}
        with _recording(grad_CLD):
            owed = grad_CLD.new_zeros(shapes.get(gates, grad_CLD.shape[:2]))
            grad_CLD = grad_CLD.detach().clone()
            for place in range(n_layers)[::-1]:
                trace = self._traces[place] or _trace(self._layers[place], self.states[place], self._contexts[place])
                grad_CLD = _pull_layer(trace, grad_CLD, owed, gates, below=embedded or place > 0)
            into_embedded = owed.new_empty(0)
            if embedded:
                (into_embedded,) = _gradients([self._first_LD], [self._embedded_LD], [grad_CLD])
        return Pulled(owed, into_embedded)


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


def _pull_layer(trace: _Trace, grad_CLD: Tensor, owed: Tensor, gates: Gates | None, *, below: bool) -> Tensor:
    """Gradients of the states before a layer; what its gates owe is added to `owed`."""
    grad_context, grad_hidden = _gradients([trace.after], [trace.context, trace.hidden], [grad_CLD])
    with torch.no_grad():
        grads = _pull_attention(trace, grad_context, owed, gates, below=below)
    if not below:
        return grad_CLD
    return grad_hidden + _gradients([trace.query, trace.key, trace.value], [trace.hidden], grads)[0]


def _pull_attention(trace: _Trace, grad_CLD: Tensor, owed: Tensor, gates: Gates | None, *, below: bool) -> list[Tensor]:
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
        if gates is None:
            continue
        # The scores are used up from here on. Closing the gate of a key takes its weight w away and scales the others
        # up by 1 / (1 - w); its slope is the first order of that. A query keeps its own token.
        if gates != "slopes":
            left_HQL = torch.sub(1, weights_HQL).clamp_(min=torch.finfo(weights_HQL.dtype).eps)
            scores_HCQL.div_(left_HQL[:, None])
            scores_HCQL[..., start : start + scores_HCQL.shape[2]].diagonal(dim1=-2, dim2=-1).zero_()
        if gates == "pairs":
            owed[:, start : start + scores_HCQL.shape[2]] += scores_HCQL.sum(0)
        else:
            owed += scores_HCQL.sum((0, 2))
    return [x.transpose(0, 1) for x in grads]


Floats = NDArray[np.float32]

_PROBES = {"mean": 2, "rank": 2, "cls": 16}
"""Random directions by pooling: a mean tests its genes one by one, and so needs few."""


_AT_ONCE = 4
"""Random directions of one backward pass."""


@dataclass(frozen=True, slots=True, eq=False)
class ScreenedCell:
    """Estimated effects of deleting each gene of a cell, in float32."""

    places: NDArray[np.int64]
    shifts: Floats | None = None
    probability_shifts: Floats | None = None
    similarity: Floats | None = None


@dataclass(frozen=True, slots=True, eq=False)
class Head:
    """How a fine-tuned network reads the last layer."""

    weigh: Weigh
    probabilities: Callable[[Tensor], Tensor]


def head_of(network: GeneformerForCells, token_ids: Tensor, temperature: float = 1.0) -> Head:
    """The first head of a network, for one cell."""
    pool, linear, spec = network.pool, network.heads[0], network.specs[0]

    def weigh(states_LD: Tensor, *, moved: bool = False) -> Tensor:
        if isinstance(pool, MeanPool):
            return _gene_weights(~torch.isin(token_ids, pool.special), states_LD, pool.pooling, moved=moved)
        if isinstance(pool, AttentionPool):
            return torch.softmax((states_LD @ pool.attention_weights)[:, 0], dim=0)
        return _first_weights(states_LD)

    def probabilities(vectors_BD: Tensor) -> Tensor:
        vectors_BD = torch.tanh(pool.dense(vectors_BD)) if isinstance(pool, DensePool) else vectors_BD
        return class_probabilities(linear(vectors_BD), spec, temperature)

    return Head(weigh, probabilities)


def genes_of(token_ids: Tensor, special_ids: Sequence[int]) -> Tensor:
    """Which tokens are genes, ``(L,)``."""
    return ~torch.isin(token_ids, torch.tensor(special_ids, device=token_ids.device, dtype=token_ids.dtype))


def _gene_weights(is_gene_L: Tensor, states_LD: Tensor, pooling: str, *, moved: bool = False) -> Tensor:
    weights_L = is_gene_L.to(states_LD.dtype)
    if pooling != "rank":
        return weights_L / weights_L.sum()
    rank_L = weights_L.cumsum(0) - 1
    still_L = weights_L / (1 + rank_L / RANK_SCALE)
    return (weights_L / (1 + (rank_L - 1) / RANK_SCALE) if moved else still_L) / still_L.sum()


def _first_weights(states_LD: Tensor) -> Tensor:
    weights_L = states_LD.new_zeros(len(states_LD))
    weights_L[0] = 1
    return weights_L


def screen_deletions(
    encoder: GeneformerEncoder,
    token_ids: Tensor,
    *,
    layer: int,
    pooling: str,
    special_ids: Sequence[int],
    states: Tensor | None = None,
    head: Head | None = None,
    probes: int | None = None,
    cuts: int = 4,
    seed: int = 0,
) -> ScreenedCell:
    """Effects of deleting each gene of a cell, estimated."""
    check_gates(encoder)
    probes = _PROBES[pooling] if probes is None else probes
    with torch.inference_mode(mode=False), torch.autocast(token_ids.device.type, enabled=False):
        is_gene = genes_of(token_ids, special_ids)
        if is_gene.sum() < 2:
            return ScreenedCell(np.empty(0, dtype=np.int64))
        cell = _Cell(encoder, token_ids.clone(), pooling, encoder.layers_below(layer), is_gene, cuts=cuts, head=head)
        shifts = proba = similarity = None
        if states is not None:
            unit_SD = normalize(states.to(cell.embedded), dim=1)
            shifts = cell.effects(cell.weigh, lambda x: normalize(x, dim=-1) @ unit_SD.T, cell.n_layers)
        if head is not None:
            proba = cell.effects(head.weigh, head.probabilities, len(encoder.encoder.layer))
        if probes:
            similarity = 1 - cell.dissimilarity(probes, seed)
        effects = [None if x is None else x.detach().float().cpu().numpy() for x in (shifts, proba, similarity)]
    return ScreenedCell(cell.places.cpu().numpy(), *effects)


class _Cell:
    """One cell, as it is and moved."""

    def __init__(
        self,
        encoder: GeneformerEncoder,
        ids: Tensor,
        pooling: str,
        n_layers: int,
        is_gene: Tensor,
        *,
        cuts: int,
        head: Head | None,
    ) -> None:
        self.encoder, self.ids, self.pooling, self.n_layers, self.is_gene = encoder, ids, pooling, n_layers, is_gene
        self.places = is_gene.nonzero()[:, 0]
        position_L = torch.arange(len(ids), device=ids.device)
        first = int(self.places[0]) + 1
        self.embedded = sum_embeddings(encoder, ids, position_L)
        moved_LD = sum_embeddings(encoder, ids, position_L - (position_L >= first).long())
        self.step = moved_LD - self.embedded
        self.starts = sorted({round(start) for start in np.linspace(first, len(ids), cuts + 1)})
        deepest = n_layers if head is None else len(encoder.encoder.layer)
        self.still, self.moved = (GatedCell(encoder, x, deepest) for x in (self.embedded, moved_LD))
        self.between = self._run_between({n_layers, deepest})

    def _run_between(self, depths: set[int]) -> dict[int, Tensor]:
        """States of the cell moved from each inner start on, by layers, ``(M, L, D)``."""
        n_tokens, starts = len(self.ids), self.starts[1:-1]
        moved = torch.arange(n_tokens, device=self.ids.device) >= torch.tensor(starts, device=self.ids.device)[:, None]
        states, done = {}, 0
        with torch.inference_mode():
            embedded_MLD = self.embedded + self.step * moved[:, :, None]
            hidden_TD = self.encoder.embeddings.LayerNorm(embedded_MLD).flatten(0, 1)
            for n_layers in sorted(depths):
                lengths = [n_tokens] * len(starts)
                hidden_TD = self.encoder.run_layers(hidden_TD, lengths, start=done, stop=n_layers)
                done = n_layers
                states[n_layers] = hidden_TD.clone().reshape(embedded_MLD.shape)
        return states

    def _moved_states(self, n_layers: int) -> Tensor:
        """States of the moved cells, ``(M, L, D)``."""
        moved, still = self.moved.states[n_layers], self.still.states[n_layers]
        return torch.cat([moved[None], self.between[n_layers].clone(), still[None]])

    def weigh(self, states_LD: Tensor, *, moved: bool = False) -> Tensor:
        """Weight of every token in the embedding of the cell, ``(L,)``."""
        if self.pooling == "cls":
            return _first_weights(states_LD)
        return _gene_weights(self.is_gene, states_LD, self.pooling, moved=moved)

    def effects(self, weigh: Weigh, read: Callable[[Tensor], Tensor], n_layers: int) -> Tensor:
        """Change of numbers read from the cell vector, for the deletion of each gene, ``(X, N)``."""
        still_LD = self.still.states[n_layers]
        grad_still, before_X = _read_gradients(weigh, read, still_LD)
        grad_moved, _ = _read_gradients(weigh, read, self.moved.states[n_layers])
        at_still = self.still.pull(grad_still, n_layers, gates="removals", embedded=True)
        at_moved = self.moved.pull(grad_moved, n_layers, embedded=True)
        steps_XL = ((at_still.embedded + at_moved.embedded) * self.step).sum(-1) / 2
        with torch.no_grad():
            vectors_MD = torch.stack([weigh(x) @ x for x in self._moved_states(n_layers)])
            moves_XM = (read(vectors_MD) - before_X).T
            leaves_XN = (read(_vectors_without(weigh, still_LD, self.places)) - before_X).T
        return self._moves(steps_XL, moves_XM) - at_still.gates[:, self.places] + leaves_XN

    def _moves(self, steps_XL: Tensor, moves_XM: Tensor) -> Tensor:
        """Change that comes of the moves of all tokens behind each gene, ``(X, N)``; right at the starts."""
        steps_XL = steps_XL.clone()
        for place, (start, stop) in enumerate(zip(self.starts, self.starts[1:], strict=False)):
            measured_X = moves_XM[:, place] - moves_XM[:, place + 1]
            steps_XL[:, start:stop] += ((measured_X - steps_XL[:, start:stop].sum(1)) / (stop - start))[:, None]
        return (steps_XL.flip(1).cumsum(1).flip(1) - steps_XL)[:, self.places]

    def dissimilarity(self, probes: int, seed: int) -> Tensor:
        """1 - similarity for the deletion of each gene, ``(N,)``: half of ``|change|²`` of unit vectors."""
        # Drawn on the host, so that all devices see the same directions.
        generator = torch.Generator().manual_seed(seed)
        if self.pooling == "cls":
            size = self.embedded.shape[1]
            # At right angles, so that as many directions as there are axes leave nothing to chance.
            draw_DX = torch.linalg.qr(torch.randn(size, min(probes, size), generator=generator, dtype=torch.double))[0]
            draw_DX = draw_DX.to(self.embedded)
            change_XN = self.effects(self.weigh, lambda x: normalize(x, dim=-1) @ draw_DX, self.n_layers)
            return change_XN.square().mean(0) * size / 2
        unit_LD = normalize(self.still.states[self.n_layers], dim=-1)
        changed_MLD = normalize(self._moved_states(self.n_layers), dim=-1) - unit_LD
        weights_L = self.weigh(unit_LD)
        changed_ML = changed_MLD.square().sum(-1) * weights_L / 2
        moves_N = self._moves(changed_ML[:1], changed_ML.sum(1)[None])[0]
        left_N = 1 - weights_L[self.places]
        return (moves_N + self._without_sight(probes, generator, weights_L)).clamp(min=0) / left_N

    def moves_of_pairs(self) -> Tensor:
        """What moves add to half of ``|change|²`` of every gene, for the deletion of each, ``(L, L)``."""
        states_LD = self.still.states[self.n_layers]
        norms_L1 = states_LD.norm(dim=1, keepdim=True)
        unit_LD = states_LD / norms_L1
        changed_MLD = normalize(self._moved_states(self.n_layers), dim=-1) - unit_LD
        along_MLD = changed_MLD - (changed_MLD * unit_LD).sum(-1, keepdim=True) * unit_LD
        # What a gene owes to another is taken from it, in the directions that it moves in.
        taken_MLL = self.still.pull(along_MLD[:-1] / norms_L1, self.n_layers, gates="pairs").gates
        taken_MLL = torch.cat([taken_MLL, torch.zeros_like(taken_MLL[:1])])
        added_MLL = (changed_MLD.square().sum(-1) / 2)[:, :, None] - taken_MLL
        found_LL = torch.zeros_like(added_MLL[0])
        token_L = torch.arange(len(unit_LD), device=unit_LD.device)
        for place, (start, stop) in enumerate(zip(self.starts, self.starts[1:], strict=False)):
            # Of the genes between two cuts, those behind the deleted one have moved.
            deleted = token_L[max(start - 1, 0) : stop - 1]
            before_PL, after_PL = (added_MLL[cut][:, deleted].T for cut in (place, place + 1))
            share_P1 = ((deleted + 1 - start) / (stop - start))[:, None]
            between_PL = before_PL + share_P1 * (after_PL - before_PL)
            near_L = (token_L >= start) & (token_L < stop)
            exact_PL = torch.where(token_L > deleted[:, None], before_PL, after_PL)
            found_LL[deleted] = torch.where(near_L, exact_PL, between_PL)
        return found_LL

    def _without_sight(self, probes: int, generator: torch.Generator, weights_L: Tensor) -> Tensor:
        """Half of ``|change|²`` of unit vectors, weighted, when the genes no longer see each gene, ``(N,)``."""
        squares_L = torch.zeros_like(weights_L)
        for gates_CLL in _seen_pairs(self.still, self.n_layers, weights_L, probes, generator):
            squares_L += gates_CLL.square().sum((0, 1))
        return squares_L[self.places] / (2 * probes)


def _seen_pairs(
    cell: GatedCell, n_layers: int, weights_L: Tensor, probes: int, generator: torch.Generator
) -> Iterator[Tensor]:
    """Change of unit vectors of genes in random directions, when each no longer sees each other one, ``(C, L, L)``."""
    states_LD = cell.states[n_layers]
    norms_L1 = states_LD.norm(dim=1, keepdim=True)
    unit_LD = states_LD / norms_L1
    for done in range(0, probes, _AT_ONCE):
        n_draws = min(_AT_ONCE, probes - done)
        draws = [torch.randn(unit_LD.shape, generator=generator, dtype=unit_LD.dtype) for _ in range(n_draws)]
        draw_CLD = torch.stack(draws).to(unit_LD.device)
        draw_CLD = draw_CLD - (draw_CLD * unit_LD).sum(-1, keepdim=True) * unit_LD
        draw_CLD = draw_CLD / norms_L1 * weights_L.sqrt()[:, None]
        yield cell.pull(draw_CLD, n_layers, gates="pairs").gates


def screen_gene_effects(
    encoder: GeneformerEncoder,
    token_ids: Tensor,
    *,
    layer: int,
    special_ids: Sequence[int],
    probes: int = 1,
    cuts: int = 2,
    seed: int = 0,
) -> NDArray[np.float32]:
    """1 - similarity of every gene of a cell when another is deleted, estimated; ``(L, L)``, deleted genes in rows.

    The change of a gene is that by the move of genes behind the deleted one, known at a few cuts, and that by not
    seeing it any more. Half of the square of their sum is half of both squares, and their product.
    """
    check_gates(encoder)
    with torch.inference_mode(mode=False), torch.autocast(token_ids.device.type, enabled=False):
        token_ids = token_ids.clone()
        is_gene = genes_of(token_ids, special_ids)
        n_tokens, n_layers = len(token_ids), encoder.layers_below(layer)
        squares_LL = torch.zeros((n_tokens, n_tokens), device=token_ids.device)
        if is_gene.sum() > 1:
            cell = _Cell(encoder, token_ids, "mean", n_layers, is_gene, cuts=cuts, head=None)
            generator = torch.Generator().manual_seed(seed)
            for gates_CLL in _seen_pairs(cell.still, n_layers, is_gene.float(), probes, generator):
                squares_LL += gates_CLL.square().sum(0).T / (2 * probes)
            squares_LL += cell.moves_of_pairs()
        found: NDArray[np.float32] = squares_LL.clamp(min=0).detach().cpu().numpy()
    return found


def _read_gradients(weigh: Weigh, read: Callable[[Tensor], Tensor], states_LD: Tensor) -> tuple[Tensor, Tensor]:
    """Gradients of all numbers with respect to the states, ``(X, L, D)``, and the numbers, ``(X,)``."""
    with torch.enable_grad():
        states_LD = states_LD.detach().clone().requires_grad_()
        numbers_X = read((weigh(states_LD) @ states_LD)[None])[0]
        each_XX = torch.eye(len(numbers_X), dtype=numbers_X.dtype, device=numbers_X.device)
        (grad_XLD,) = torch.autograd.grad(numbers_X, states_LD, each_XX, is_grads_batched=True)
    return grad_XLD, numbers_X.detach()


def _vectors_without(weigh: Weigh, states_LD: Tensor, places_N: Tensor) -> Tensor:
    """Cell vectors without the state of one gene at a time, ``(N, D)``."""
    weights_L = weigh(states_LD)
    gained_L = weigh(states_LD, moved=True) - weights_L  # the genes behind move up
    left_N = 1 - (weights_L - _behind(gained_L))[places_N]
    lost_LD = weights_L[:, None] * states_LD - _behind(gained_L[:, None] * states_LD)
    vectors_ND = (weights_L @ states_LD - lost_LD[places_N]) / left_N[:, None]
    # The vector of a cell that is read from the gene itself moves on to the next one.
    return torch.where(left_N[:, None] > 0, vectors_ND, states_LD[(places_N + 1).clamp(max=len(states_LD) - 1)])


def _behind(values: Tensor) -> Tensor:
    """Sums of the values behind each token."""
    return values.flip(0).cumsum(0).flip(0) - values


def agreement(estimated: NDArray[np.floating], exact: NDArray[np.floating], k: int) -> dict[str, float]:
    """How well estimates rank: Spearman correlation, and the share of the strongest they find."""
    from scipy.stats import spearmanr

    k = min(k, len(exact))

    def recall(one: NDArray[np.floating], other: NDArray[np.floating]) -> float:
        return len(np.intersect1d(np.argsort(-one)[:k], np.argsort(-other)[:k])) / max(k, 1)

    return {
        "spearman": float(spearmanr(estimated, exact).statistic),
        "highest": recall(estimated, exact),
        "strongest": recall(np.abs(estimated), np.abs(exact)),
    }
