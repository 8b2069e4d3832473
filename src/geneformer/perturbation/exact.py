"""Exact effects: the network runs once per edited cell.

All edits of a cell share the reading of the unedited one. Deletions of single genes share their first layer too.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, cast

import numpy as np
import pyarrow as pa
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn.functional import cosine_similarity, normalize

from geneformer.engine.device import has_float64, resolve_device
from geneformer.engine.inference import Batch, run_batches
from geneformer.genes.vocabulary import Vocabulary
from geneformer.models.encoder import (
    RANK_SCALE,
    GeneformerEncoder,
    finish_layer_fast,
    first_token_states,
    has_plain_attention,
    pool_cells,
    products_dtype,
    runs_fast,
)
from geneformer.models.heads import GeneformerForCells, class_probabilities
from geneformer.models.loading import LoadedModel
from geneformer.options import PerturbOptions, RuntimeOptions
from geneformer.perturbation.edits import ADDED, EditedCell, Ints, Perturbation, edit_cell
from geneformer.tokens.dataset import TokenizedDataset

if TYPE_CHECKING:
    from geneformer.models.encoder import Layer

_LEAST_SHARED = 8
"""Fewer deletions of a cell do not pay for sharing their first layer."""

_TOKENS_IN_HAND = 2_000_000
"""Tokens of edited cells that exist at the same time, on the host."""

_KEYS_AT_ONCE = 256
"""Keys whose weights exist at the same time."""


@dataclass(frozen=True, slots=True, eq=False)
class PerturbedModel:
    """A pretrained encoder, or a fine-tuned one whose classes are read as well."""

    name: str
    vocabulary: Vocabulary
    encoder: GeneformerEncoder
    classifier: GeneformerForCells | None = None
    temperature: float = 1.0
    cut: int | None = None

    @classmethod
    def pretrained(cls, model: LoadedModel) -> PerturbedModel:
        """A model without classes."""
        return cls(model.name, model.vocabulary, model.network.bert)

    @property
    def network(self) -> nn.Module:
        """What is moved to a device."""
        return self.encoder if self.classifier is None else self.classifier

    @property
    def max_length(self) -> int:
        """Longest cell the model has positions for."""
        positions = int(self.encoder.config.max_position_embeddings)
        return positions if self.cut is None else min(self.cut, positions)

    @property
    def n_layers(self) -> int:
        """Encoder layers."""
        return len(self.encoder.encoder.layer)

    @property
    def classes(self) -> tuple[str, ...]:
        """Classes whose probabilities are read."""
        return () if self.classifier is None else self.classifier.specs[0].classes


@dataclass(frozen=True, slots=True, eq=False)
class Edit:
    """One cell to be edited."""

    number: int
    cell: int
    perturbation: Perturbation
    edited: EditedCell


Take = Callable[[Sequence[Edit], "Effects", "Pairs"], None]
"""Called with edits, their effects, and which token is which; batches come in no particular order."""


def possible_edits(
    cells: Sequence[Ints], perturbations: Sequence[Sequence[Perturbation]], model: PerturbedModel
) -> Iterator[Edit]:
    """Every edit that changes its cell, cell by cell."""
    special, number = model.vocabulary.special_ids.tolist(), 0
    for place, (cell, of_cell) in enumerate(zip(cells, perturbations, strict=True)):
        for perturbation in of_cell:
            edited = edit_cell(cell, perturbation.steps, special, model.max_length)
            if edited is not None:
                yield Edit(number, place, perturbation, edited)
                number += 1


class ExactRunner:
    """Reads cells from a model, and runs edits of a shard of them."""

    def __init__(
        self,
        model: PerturbedModel,
        options: PerturbOptions,
        runtime: RuntimeOptions,
        states: NDArray[np.float32] | None = None,
        *,
        reads_states: bool = False,
    ) -> None:
        self.model, self.options, self.runtime = model, options, runtime
        self.device = resolve_device(runtime.device)
        self._special = torch.as_tensor(model.vocabulary.special_ids.tolist(), device=self.device)
        self._state_vectors = None if states is None else torch.as_tensor(states, device=self.device)
        compares_genes = options.gene_effects or (states is None and options.pooling != "cls")
        self._needs_genes = compares_genes and not reads_states

    def read(self, cells: Sequence[Ints]) -> list[Reading]:
        """Each cell as it is; its states stay on the device where genes are compared."""
        readings: list[Reading | None] = [None] * len(cells)

        def step(batch: Batch) -> None:
            lengths = [len(cells[row]) for row in batch.rows]
            reading = self._read_batch(batch, lengths)
            ends = np.cumsum([0, *lengths])
            for place, row in enumerate(batch.rows):
                proba = None if reading.proba is None else reading.proba[place : place + 1]
                states = None
                if self._needs_genes and reading.hidden is not None:
                    states = reading.hidden[ends[place] : ends[place + 1]].clone()
                readings[row] = Reading(reading.vectors[place : place + 1], states, proba)

        run_batches(_packed(cells), self.model.network, step, self.runtime)
        return [reading for reading in readings if reading is not None]

    def _read_batch(self, batch: Batch, lengths: Sequence[int], hidden_TD: Tensor | None = None) -> Reading:
        """Embeddings, states and probabilities of packed cells, from their states after the first layer if given."""
        encoder, ids_T, attention = self.model.encoder, batch.input_ids, batch.attention
        start, stop = 0 if hidden_TD is None else 1, encoder.layers_below(self.options.layer)
        cu_seqlens = torch.tensor([0, *lengths], device=ids_T.device).cumsum(0)
        if hidden_TD is None:
            hidden_TD = encoder.embed_tokens(ids_T, cu_seqlens)
        network, is_cls = self.model.classifier, self.options.pooling == "cls"
        if (
            is_cls
            and not self._needs_genes
            and network is None
            and has_plain_attention(encoder.config)
            and stop > start
        ):
            # The last layer is needed for the first token of each cell only.
            hidden_TD = encoder.run_layers(hidden_TD, lengths, start=start, stop=stop - 1, attention=attention)
            layer = encoder.encoder.layer[stop - 1]
            return Reading(first_token_states(layer, hidden_TD, lengths).float())  # type: ignore[arg-type]
        hidden_TD = encoder.run_layers(hidden_TD, lengths, start=start, stop=stop, attention=attention)
        vectors_BD = pool_cells(hidden_TD, ids_T, cu_seqlens, self._special, self.options.pooling)
        if network is None:
            return Reading(vectors_BD, hidden_TD)
        last_TD = hidden_TD
        if stop < self.model.n_layers:
            last_TD = encoder.run_layers(hidden_TD.clone(), lengths, start=stop, attention=attention)
        logits_BC = network.heads[0](network.pool(last_TD, ids_T, cu_seqlens))
        proba_BC = class_probabilities(logits_BC, network.specs[0], self.model.temperature)
        return Reading(vectors_BD, hidden_TD, proba_BC)

    def run(self, cells: Sequence[Ints], edits: Iterator[Edit], take: Take) -> None:
        """Effects of edits of some cells."""
        readings = dict(enumerate(self.read(cells)))
        # The first layer can be shared where it is plain attention over absolute positions, and drops nothing.
        encoder, n_layers = self.model.encoder, self.model.n_layers
        shared = has_plain_attention(encoder.config) and not encoder.training and -self.options.layer < n_layers
        for part in _in_hand(edits):
            lost = {(e.cell, e.edited.lost.tobytes()): e for e in part if len(e.edited.lost)}
            shorter = self.read([np.delete(cells[e.cell], e.edited.lost) for e in lost.values()]) if lost else []
            cropped = dict(zip(lost, shorter, strict=True))
            # Single deletions cell by cell, from one first layer; everything else packed into batches together.
            for cell, some in _by_cell(part) if shared else [(None, part)]:
                self._run_batches(some, readings, cropped, take, None if cell is None else cells[cell])

    def _run_batches(
        self,
        edits: Sequence[Edit],
        readings: dict[int, Reading],
        cropped: dict[tuple[int, bytes], Reading],
        take: Take,
        cell: Ints | None,
    ) -> None:
        """Some edits; with `cell`, deletions of single tokens of this one."""
        deletions: list[Deletions] = []

        def step(batch: Batch) -> None:
            some = [edits[row] for row in batch.rows]
            lengths = [len(edit.edited.tokens) for edit in some]
            hidden_TD = None
            if cell is not None:
                if not deletions:
                    ids = torch.as_tensor(cell, device=self.device)
                    sums = torch.float64 if has_float64(self.device) else torch.float32
                    deletions.append(Deletions(self.model.encoder, ids, sums=sums))
                hidden_TD = deletions[0].states([_deleted_place(edit.edited) for edit in some])
            edited = self._read_batch(batch, lengths, hidden_TD)
            before, pairs = self._before(some, readings, cropped)
            effects = compare(
                edited,
                before,
                pairs,
                states_SD=self._state_vectors,
                pooling=self.options.pooling,
                gene_effects=self.options.gene_effects,
            )
            take(some, effects, pairs)

        run_batches(_packed([edit.edited.tokens for edit in edits]), self.model.network, step, self.runtime)

    def _before(
        self, edits: Sequence[Edit], readings: dict[int, Reading], cropped: dict[tuple[int, bytes], Reading]
    ) -> tuple[Reading, Pairs]:
        """Readings of the compared cells, and which token is which."""
        keys = [(edit.cell, edit.edited.lost.tobytes()) for edit in edits]
        place_of = {key: place for place, key in enumerate(dict.fromkeys(keys))}
        compared = [cropped[key] if key in cropped else readings[key[0]] for key in place_of]
        hidden = [reading.hidden for reading in compared if reading.hidden is not None]
        proba = [reading.proba for reading in compared if reading.proba is not None]
        before = Reading(
            torch.cat([reading.vectors for reading in compared]),
            torch.cat(hidden) if hidden else None,
            torch.cat(proba) if proba else None,
        )
        offsets = np.cumsum([0, *(len(states) for states in hidden)])
        origins, weights = [], []
        for edit, key in zip(edits, keys, strict=True):
            origin = edit.edited.origin
            touched = [*edit.perturbation.tokens, *self.model.vocabulary.special_ids.tolist()]
            weights.append(
                self._weights(edit.edited.tokens) * ((origin != ADDED) & ~np.isin(edit.edited.tokens, touched))
            )
            origins.append(np.maximum(origin, 0) + (offsets[place_of[key]] if hidden else 0))
        lengths = [len(origin) for origin in origins]
        origin_T, weight_T = (torch.as_tensor(np.concatenate(x), device=self.device) for x in (origins, weights))
        cell_T = torch.repeat_interleave(torch.arange(len(edits)), torch.as_tensor(lengths)).to(self.device)
        compared_B = torch.as_tensor([place_of[key] for key in keys], device=self.device)
        return before, Pairs(cell_T, origin_T, weight_T, compared_B)

    def _weights(self, tokens: Ints) -> NDArray[np.float32]:
        """Weight of every token in the embedding of its cell, ``(L,)``; special tokens have none."""
        is_gene = ~np.isin(tokens, self.model.vocabulary.special_ids)
        rank = np.cumsum(is_gene) - 1 if self.options.pooling == "rank" else 0
        return (is_gene / (1 + rank / RANK_SCALE)).astype(np.float32)


def _packed(rows: Sequence[Ints]) -> TokenizedDataset:
    """Token rows as a dataset."""
    offsets = np.cumsum([0, *(len(row) for row in rows)]).astype(np.int64)
    values = np.concatenate(rows).astype(np.int32) if len(rows) else np.empty(0, np.int32)
    return TokenizedDataset(pa.table({"input_ids": pa.LargeListArray.from_arrays(offsets, values)}))


def _in_hand(edits: Iterator[Edit]) -> Iterator[list[Edit]]:
    """Edits in parts that fit the memory of the host."""
    part: list[Edit] = []
    tokens = 0
    for edit in edits:
        part.append(edit)
        tokens += len(edit.edited.tokens)
        if tokens >= _TOKENS_IN_HAND:
            yield part
            part, tokens = [], 0
    if part:
        yield part


def _by_cell(edits: Sequence[Edit]) -> Iterator[tuple[int | None, list[Edit]]]:
    """Deletions of single genes cell by cell, then everything else together, under None."""
    single: dict[int, list[Edit]] = {}
    rest: list[Edit] = []
    for edit in edits:
        steps = edit.perturbation.steps
        alone = len(steps) == 1 and steps[0].edit == "delete" and len(steps[0].tokens) == 1
        single.setdefault(edit.cell, []).append(edit) if alone else rest.append(edit)
    for cell, some in single.items():
        if len(some) < _LEAST_SHARED:
            rest.extend(some)
        else:
            yield cell, sorted(some, key=lambda edit: _deleted_place(edit.edited))
    if rest:
        yield None, rest


def _deleted_place(edited: EditedCell) -> int:
    """Place of the one token that was deleted."""
    missing = np.flatnonzero(edited.origin != np.arange(len(edited.origin)))
    return int(missing[0]) if len(missing) else len(edited.origin)


@dataclass(frozen=True, slots=True, eq=False)
class Reading:
    """Some cells as the network sees them."""

    vectors: Tensor
    hidden: Tensor | None = None
    proba: Tensor | None = None


@dataclass(frozen=True, slots=True, eq=False)
class Pairs:
    """Which token of a compared cell each token of an edited cell is."""

    cell: Tensor
    origin: Tensor
    weight: Tensor
    compared: Tensor


@dataclass(frozen=True, slots=True, eq=False)
class Effects:
    """Effects of a batch of edits, float32; None where they were not asked for."""

    similarity: Tensor | None = None
    shifts: Tensor | None = None
    genes: Tensor | None = None
    proba_shifts: Tensor | None = None


def compare(
    edited: Reading, before: Reading, pairs: Pairs, *, states_SD: Tensor | None, pooling: str, gene_effects: bool
) -> Effects:
    """Effects of a batch of edits."""
    genes_T = similarity = shifts = proba = None
    if edited.hidden is not None and before.hidden is not None:
        genes_T = cosine_similarity(edited.hidden.float(), before.hidden[pairs.origin].float())
    if states_SD is not None:
        # Unit vectors are subtracted first: their small difference is exact, that of two cosines is not.
        moved_BD = normalize(edited.vectors, dim=1) - normalize(before.vectors, dim=1)[pairs.compared]
        # Not a matrix product, which autocast would round to half precision.
        shifts = (moved_BD.unsqueeze(1) * normalize(states_SD.float(), dim=1)).sum(-1)
    elif pooling == "cls":
        similarity = cosine_similarity(edited.vectors, before.vectors[pairs.compared])
    elif genes_T is not None:
        # The mean over the genes of each cell that were not edited; NaN where there are none.
        weights_T = pairs.weight.to(genes_T.dtype)
        sums_B, numbers_B = (
            genes_T.new_zeros(len(pairs.compared)).index_add(0, pairs.cell, values)
            for values in (genes_T * weights_T, weights_T)
        )
        similarity = sums_B / numbers_B
    if edited.proba is not None and before.proba is not None:
        proba = edited.proba - before.proba[pairs.compared]
    return Effects(similarity, shifts, genes_T if gene_effects else None, proba)


class Deletions:
    """A cell of which any one token can be deleted, with the first layer computed from parts that deletions share.

    Without token ``p``, the tokens before it keep their position and those behind it move up by one. Every token of a
    cell of ``L`` therefore has two versions, at its own position and at the one before, and the ``Q = 2 L`` versions
    serve as queries, keys and values of all ``L`` deletions. What a query gathers is a sum over keys of
    ``exp(score) * value``, divided by the sum of ``exp(score)``: over keys ``0..p-1`` at their own positions and
    ``p+1..L-1`` at the moved ones. From one deletion to the next one key changes sides, so that both sums are carried
    along, in float64 where there is some, and a deletion costs ``O(L)`` instead of ``O(L²)``.
    """

    def __init__(self, encoder: GeneformerEncoder, input_ids_L: Tensor, *, sums: torch.dtype = torch.float64) -> None:
        self.encoder, self.length = encoder, len(input_ids_L)
        self.layer = cast("Layer", encoder.encoder.layer[0])
        position_L = torch.arange(self.length, device=input_ids_L.device)
        moved_L = (position_L - 1).clamp(min=0)
        with torch.autocast(input_ids_L.device.type, enabled=False):
            self.embedded_QD = encoder.embeddings(input_ids_L.repeat(2), torch.cat([position_L, moved_L]))
            projections = self.layer.attention.self
            query, key, value = (
                project(self.embedded_QD).unflatten(1, (projections.n_heads, -1)).transpose(0, 1)
                for project in (projections.query, projections.key, projections.value)
            )
            self._query_HQK = query * query.shape[-1] ** -0.5
            self._key_HQK, self._value_HQK = key, value.to(sums)
            self._largest_HQ = self._largest_scores()
            self._all_moved = self._gathered(self.length, self.length * 2)
        self._restart()

    def states(self, deleted: Sequence[int]) -> Tensor:
        """States after the first layer of the cell without one token at a time, packed, ``(N (L - 1), D)``."""
        device = self.embedded_QD.device
        places_N = torch.as_tensor(list(deleted), device=device)
        token_M = torch.arange(self.length - 1, device=device)
        behind_NM = token_M >= places_N[:, None]
        # Behind the deleted token: the next one of the cell, at its new position.
        taken_NM = token_M + behind_NM * (1 + self.length)
        hidden_TD = self.embedded_QD[taken_NM.flatten()]
        is_fast = runs_fast([self.layer], hidden_TD)
        dtype = products_dtype(hidden_TD) if is_fast else hidden_TD.dtype
        context_NMD = hidden_TD.new_empty((len(deleted), self.length - 1, hidden_TD.shape[1]), dtype=dtype)
        with torch.autocast(device.type, enabled=False):
            for number, place in enumerate(deleted):
                context_HQK = self._context_without(place)
                context_NMD[number] = context_HQK[:, taken_NM[number]].transpose(0, 1).flatten(1)
        context_TD = context_NMD.flatten(0, 1)
        if is_fast:
            return finish_layer_fast(self.layer, hidden_TD, context_TD)
        middle_TD = self.layer.attention.output(context_TD, hidden_TD)
        states_TD: Tensor = self.layer.output(self.layer.intermediate(middle_TD), middle_TD)
        return states_TD

    def _largest_scores(self) -> Tensor:
        """Largest score of every query, ``(H, Q, 1)``."""
        parts = [
            torch.matmul(self._query_HQK, key_HWK.mT).amax(-1, keepdim=True)
            for key_HWK in self._key_HQK.split(_KEYS_AT_ONCE, dim=1)
        ]
        return torch.stack(parts).amax(0)

    def _weights(self, start: int, stop: int) -> Tensor:
        """Weights of some keys before they are divided by their sum, ``(H, Q, W)``."""
        scores_HQW = torch.matmul(self._query_HQK, self._key_HQK[:, start:stop].mT)
        return scores_HQW.sub_(self._largest_HQ).exp_().to(self._value_HQK.dtype)

    def _gathered(self, start: int, stop: int) -> tuple[Tensor, Tensor]:
        """Sums of weighted values ``(H, Q, K)`` and of weights ``(H, Q, 1)`` over some keys."""
        values, weights = torch.zeros_like(self._value_HQK), torch.zeros_like(self._value_HQK[:, :, :1])
        for first in range(start, stop, _KEYS_AT_ONCE):
            last = min(first + _KEYS_AT_ONCE, stop)
            weights_HQW = self._weights(first, last)
            values.baddbmm_(weights_HQW, self._value_HQK[:, first:last])
            weights += weights_HQW.sum(-1, keepdim=True)
        return values, weights

    def _restart(self) -> None:
        """Before the first token: all keys are at their new positions."""
        self._at = 0
        self._values_HQK, self._sums_HQ = (x.clone() for x in self._all_moved)

    def _context_without(self, place: int) -> Tensor:
        """What every query gathers from the cell without one token, ``(H, Q, K)``."""
        if place < self._at:
            self._restart()
        if place > self._at:
            for sign, shift in ((1, 0), (-1, self.length)):
                values, sums = self._gathered(self._at + shift, place + shift)
                self._values_HQK.add_(values, alpha=sign)
                self._sums_HQ.add_(sums, alpha=sign)
            self._at = place
        own = self.length + place
        weights_HQ1 = self._weights(own, own + 1)
        values = torch.addcmul(self._values_HQK, weights_HQ1, self._value_HQK[:, own : own + 1], value=-1)
        return values.div_(self._sums_HQ - weights_HQ1).to(self.embedded_QD.dtype)
