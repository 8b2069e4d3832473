"""Exact effects: the network runs once per edited cell.

All edits of a cell share the reading of the unedited one. Deletions of single genes share their first layer too.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np
import pyarrow as pa
import torch
from numpy.typing import NDArray
from torch import Tensor

from geneformer.data.dataset import TokenizedDataset
from geneformer.engine.device import has_float64, resolve_device
from geneformer.engine.inference import Batch, run_batches
from geneformer.models.deletions import Deletions, can_share_first_layer
from geneformer.options import PerturbOptions, RuntimeOptions
from geneformer.tasks.perturbation.edits import ADDED, EditedCell, Ints, Perturbation, edit_cell
from geneformer.tasks.perturbation.reading import PerturbedModel, Reader, Reading
from geneformer.tasks.perturbation.shifts import Effects, Pairs, compare

_LEAST_SHARED = 8
"""Fewer deletions of a cell do not pay for sharing their first layer."""

_TOKENS_IN_HAND = 2_000_000
"""Tokens of edited cells that exist at the same time, on the host."""


@dataclass(frozen=True, slots=True, eq=False)
class Edit:
    """One cell to be edited.

    Attributes
    ----------
    number
        Its place among the edits of the shard.
    cell
        Its place among the cells of the shard.
    perturbation
        What is done to it.
    edited
        What comes of it.
    """

    number: int
    cell: int
    perturbation: Perturbation
    edited: EditedCell


Take = Callable[[Sequence[Edit], Effects, Pairs], None]
"""Called with edits, their effects, and which token is which; batches come in no particular order."""


def possible_edits(
    cells: Sequence[Ints], perturbations: Sequence[Sequence[Perturbation]], model: PerturbedModel
) -> Iterator[Edit]:
    """Every edit that changes its cell, cell by cell.

    Parameters
    ----------
    cells
        Token ids of each cell.
    perturbations
        What is done to each cell.
    model
        Decides special tokens and the most tokens of a cell.
    """
    special, number = model.vocabulary.special_ids.tolist(), 0
    for place, (cell, wanted) in enumerate(zip(cells, perturbations, strict=True)):
        for perturbation in wanted:
            edited = edit_cell(cell, perturbation.steps, special, model.max_length)
            if edited is not None:
                yield Edit(number, place, perturbation, edited)
                number += 1


@dataclass(slots=True, eq=False)
class ExactRunner:
    """Runs edits of a shard of cells.

    Parameters
    ----------
    model
        The network.
    options, runtime
        What is read, and where it runs.
    states
        Embeddings of states, ``(S, D)``, or None.
    reads_states
        Only embeddings of cells are wanted, to make those of states from.
    """

    model: PerturbedModel
    options: PerturbOptions
    runtime: RuntimeOptions
    states: NDArray[np.float32] | None = None
    reads_states: bool = False
    device: torch.device = field(init=False)
    _reader: Reader = field(init=False)
    _state_vectors: Tensor | None = field(init=False)

    def __post_init__(self) -> None:
        self.device = resolve_device(self.runtime.device)
        special = torch.as_tensor(self.model.vocabulary.special_ids.tolist(), device=self.device)
        options = self.options
        needs_genes = options.gene_effects or (self.states is None and options.pooling == "mean")
        needs_genes = needs_genes and not self.reads_states
        self._reader = Reader(self.model, options.pooling, options.layer, needs_genes, special)
        self._state_vectors = None if self.states is None else torch.as_tensor(self.states, device=self.device)

    def read(self, cells: Sequence[Ints]) -> list[Reading]:
        """Each cell as it is; its states stay on the device where genes are compared."""
        found: list[Reading | None] = [None] * len(cells)

        def step(batch: Batch) -> None:
            lengths = [len(cells[row]) for row in batch.rows]
            reading = self._reader.read(batch.input_ids, lengths, batch.attention)
            ends = np.cumsum([0, *lengths])
            for place, row in enumerate(batch.rows):
                proba = None if reading.proba is None else reading.proba[place : place + 1]
                states = None
                if self._reader.needs_genes and reading.hidden is not None:
                    states = reading.hidden[ends[place] : ends[place + 1]].clone()
                found[row] = Reading(reading.vectors[place : place + 1], states, proba)

        run_batches(_packed(cells), self.model.network, step, self.runtime)
        return [reading for reading in found if reading is not None]

    def run(self, cells: Sequence[Ints], edits: Iterator[Edit], take: Take) -> None:
        """Effects of edits of some cells.

        Parameters
        ----------
        cells
            Token ids of each cell.
        edits
            Edits of these cells, those of a cell after one another.
        take
            Called for every batch.
        """
        readings = dict(enumerate(self.read(cells)))
        shared = can_share_first_layer(self.model.encoder) and -self.options.layer < self.model.n_layers
        for part in _in_hand(edits):
            lost = {(e.cell, e.edited.lost.tobytes()): e for e in part if len(e.edited.lost)}
            shorter = self.read([np.delete(cells[e.cell], e.edited.lost) for e in lost.values()]) if lost else []
            cropped = dict(zip(lost, shorter, strict=True))
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
            edited = self._reader.read(batch.input_ids, lengths, batch.attention, hidden_TD=hidden_TD)
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
        origins, others = [], []
        for edit, key in zip(edits, keys, strict=True):
            origin = edit.edited.origin
            touched = [*edit.perturbation.tokens, *self.model.vocabulary.special_ids.tolist()]
            others.append((origin != ADDED) & ~np.isin(edit.edited.tokens, touched))
            origins.append(np.maximum(origin, 0) + (offsets[place_of[key]] if hidden else 0))
        lengths = [len(origin) for origin in origins]
        origin_T, other_T = (torch.as_tensor(np.concatenate(x), device=self.device) for x in (origins, others))
        cell_T = torch.repeat_interleave(torch.arange(len(edits)), torch.as_tensor(lengths)).to(self.device)
        compared_B = torch.as_tensor([place_of[key] for key in keys], device=self.device)
        return before, Pairs(cell_T, origin_T, other_T, compared_B)


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
