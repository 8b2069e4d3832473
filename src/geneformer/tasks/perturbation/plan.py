"""A perturbation run before it runs: cells, genes, states and shards, all checked."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from functools import cached_property
from typing import Any

import numpy as np
import pyarrow as pa
import torch
from numpy.typing import NDArray

from geneformer.data.dataset import TokenizedDataset
from geneformer.engine.device import resolve_device
from geneformer.engine.precision import resolve_dtype
from geneformer.errors import NoCellsError, PerturbationError, StateError
from geneformer.options import PerturbOptions, RuntimeOptions
from geneformer.runs.digest import digest
from geneformer.tasks.inputs import check_cls, check_layer, check_pairing, describe_run
from geneformer.tasks.perturbation.edits import Ints
from geneformer.tasks.perturbation.exact import ExactRunner, possible_edits
from geneformer.tasks.perturbation.gene_table import gene_table
from geneformer.tasks.perturbation.reading import PerturbedModel
from geneformer.tasks.perturbation.selection import SelectedCells, select_cells
from geneformer.tasks.perturbation.targets import Targets, find_targets


@dataclass(frozen=True, eq=False)
class PerturbationPlan:
    """Everything a run needs, checked.

    Attributes
    ----------
    tokens
        All cells.
    cells
        Those to be perturbed, and those of the states.
    targets
        What is done to them.
    model, options, runtime
        With what, and how.
    states
        Embeddings of the states, where they are not averaged over cells here.
    """

    tokens: TokenizedDataset
    cells: SelectedCells
    targets: Targets
    model: PerturbedModel
    options: PerturbOptions
    runtime: RuntimeOptions
    states: Mapping[str, NDArray[np.float32]] | None = None

    @property
    def n_shards(self) -> int:
        """Parts in which the run finishes."""
        return -(-len(self.cells.rows) // self.options.cells_per_shard)

    def rows_of(self, shard: int) -> Ints:
        """Rows of the cells of one shard."""
        size = self.options.cells_per_shard
        return self.cells.rows[shard * size : (shard + 1) * size]

    def token_rows(self, rows: Ints) -> list[Ints]:
        """Token ids of some cells, cut to what the model takes."""
        packed = self.tokens.gather(rows, max_length=self.model.max_length)
        return [row.astype(np.int64) for row in np.split(packed.input_ids, packed.cu_seqlens[1:-1])]

    @cached_property
    def state_vectors(self) -> dict[str, np.ndarray]:
        """Embedding of every state, ``(D,)`` each: start, goal, alternates. Means over cells, unless given."""
        if self.states is not None:
            return dict(self.states)
        runner = ExactRunner(self.model, self.options, self.runtime, reads_states=True)
        return {
            state: torch.cat([reading.vectors for reading in runner.read(self.token_rows(rows))]).mean(0).cpu().numpy()
            for state, rows in self.cells.of_state.items()
        }

    @cached_property
    def genes(self) -> pa.Table:
        """What is known of every gene."""
        return gene_table(self.tokens, self.cells.rows, self.cells.of_state, self.model)

    @cached_property
    def cell_table(self) -> pa.Table:
        """What is known of the perturbed cells."""
        rows, columns, table = pa.array(self.cells.rows), self.tokens.columns, self.tokens.table
        if "cell_id" not in columns:
            columns = [*columns, "cell_id"]
            table = table.append_column("cell_id", pa.array(self.tokens.cell_ids.astype(str)))
        table = table.select(columns).take(rows)
        if self.options.start is not None:
            state = pa.array([self.options.start] * len(rows))
            place = table.column_names.index("state") if "state" in table.column_names else -1
            table = table.append_column("state", state) if place < 0 else table.set_column(place, "state", state)
        return table

    @property
    def provenance(self) -> dict[str, Any]:
        """Where results come from."""
        return describe_run(self.model, perturb=asdict(self.options), state_key=self.cells.state_key)

    @cached_property
    def identity(self) -> dict[str, Any]:
        """What a run is recognized by when it is taken up again: everything that decides its numbers."""
        device = resolve_device(self.runtime.device)
        packed = [self.tokens.gather(rows) for rows in (self.cells.rows, *self.cells.of_state.values())]
        given = {} if self.states is None else {"states": digest(dict(self.states))}
        weights = {
            name: value.detach().cpu().float().numpy() for name, value in self.model.network.state_dict().items()
        }
        return {
            "options": asdict(self.options),
            "cells": digest(*(array for part in packed for array in (part.input_ids, part.cu_seqlens))),
            "cell_ids": digest(self.tokens.cell_ids[self.cells.rows].astype(str).tolist()),
            "weights": digest(weights),
            "vocabulary": self.model.vocabulary.fingerprint,
            "device": device.type,
            "dtype": str(resolve_dtype(self.runtime.dtype, device)),
            **given,
        }


def plan_perturbation(
    tokens: TokenizedDataset,
    model: PerturbedModel,
    options: PerturbOptions,
    runtime: RuntimeOptions,
    *,
    states: Mapping[str, NDArray[np.float32]] | None = None,
) -> PerturbationPlan:
    """A run, with everything checked that can be known before the first forward pass.

    Parameters
    ----------
    tokens
        All cells.
    model
        What they are read with.
    options, runtime
        What is done to them, and how.
    states
        Embeddings of the start, the goal and the alternates by name, ``(D,)`` each, used as they are. By default they
        are means over the cells of each state.

    Raises
    ------
    NoCellsError
        No cells.
    PairingError
        Tokens that do not belong to the model, or `pooling="cls"` for tokens without `<cls>`.
    PerturbationError
        Genes or states that cannot be used; see `find_targets` and `select_cells`.
    StateError
        Embeddings that lack a state of the options, or are no vectors of the model's width.
    """
    given = None if states is None else _checked_states(states, model, options)
    check_pairing(tokens, model, truncate=options.truncate)
    check_layer(options.layer, model.name, model.n_layers)
    if options.pooling == "cls":
        check_cls(tokens, model)
    cells = select_cells(tokens, options, states_are_given=given is not None)
    targets = find_targets(tokens.take(cells.rows), model, options)
    plan = PerturbationPlan(tokens, cells, targets, model, options, runtime, given)
    _check_names(plan)
    if not any(_is_changed(plan, row) for row in cells.rows):
        msg = "None of the perturbations changes any of the cells. Name other genes, or choose other cells."
        raise NoCellsError(msg)
    return plan


def _checked_states(
    states: Mapping[str, NDArray[np.float32]], model: PerturbedModel, options: PerturbOptions
) -> dict[str, NDArray[np.float32]]:
    """The embeddings a run needs, in the order of its states."""
    missing = [state for state in options.states if state not in states]
    if missing or not options.states:
        told = (
            f"lack {', '.join(map(repr, missing))}" if missing else "are given, but the options name no start and goal"
        )
        msg = (
            f"The embeddings of states {told}; they are of {', '.join(map(repr, states)) or 'none'}. Give one of each."
        )
        raise StateError(msg)
    width = int(model.encoder.config.hidden_size)
    vectors = {state: np.asarray(states[state], dtype=np.float32) for state in options.states}
    for state, vector in vectors.items():
        if vector.shape != (width,) or not np.isfinite(vector).all() or not vector.any():
            msg = (
                f"The embedding of {state!r} has the shape {vector.shape}, or holds values that are not finite or all "
                f"zero. {model.name} needs {width} numbers per state: make them with the same model."
            )
            raise StateError(msg)
    return vectors


def _check_names(plan: PerturbationPlan) -> None:
    """Effects are told apart by the names of their cells."""
    names, numbers = np.unique(plan.tokens.cell_ids[plan.cells.rows].astype(str), return_counts=True)
    if not len(names) or numbers.max() == 1:
        return
    msg = (
        f'{numbers.max():,} perturbed cells have the cell_id "{names[numbers.argmax()]}"; their effects could not be '
        "told apart. Make the names unique."
    )
    raise PerturbationError(msg)


def _is_changed(plan: PerturbationPlan, row: int) -> bool:
    """Whether any perturbation changes a cell."""
    [cell] = plan.token_rows(np.array([row]))
    return next(possible_edits([cell], [plan.targets.of_cell(cell)], plan.model), None) is not None
