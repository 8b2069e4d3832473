"""A perturbation run before it runs: cells, genes, states and shards, all checked, and what it will cost."""

import time
from dataclasses import asdict, dataclass
from functools import cached_property
from typing import Any

import numpy as np
import pyarrow as pa
import torch

from geneformer._version import __version__
from geneformer.data.dataset import TokenizedDataset
from geneformer.engine.device import resolve_device
from geneformer.engine.precision import resolve_dtype
from geneformer.errors import NoCellsError, OutOfRangeError, PerturbationError
from geneformer.options import PerturbOptions, RuntimeOptions
from geneformer.results.perturbation import EFFECT_COLUMNS
from geneformer.runs.digest import digest
from geneformer.tasks.embedding import check_cls, check_pairing
from geneformer.tasks.perturbation.edits import Ints, Perturbation
from geneformer.tasks.perturbation.exact import ExactRunner, possible_edits
from geneformer.tasks.perturbation.gene_table import gene_table
from geneformer.tasks.perturbation.reading import PerturbedModel
from geneformer.tasks.perturbation.selection import SelectedCells, select_cells
from geneformer.tasks.perturbation.targets import Targets, find_targets

_BYTES_PER_ROW = 12
"""Of a result file, about."""

_SCREEN_PASSES = 12
"""Passes that a screen of one cell takes as long as, about."""

_CALIBRATED = 12
"""Edits that are run to tell how long the others will take."""


@dataclass(frozen=True, slots=True)
class Cost:
    """What a run will take.

    Attributes
    ----------
    cells, perturbations
        Cells to be perturbed, and different perturbations.
    passes
        Runs of the network, one per edited cell, estimated from a sample of the cells where there are many.
    tokens
        Tokens of all of them.
    seconds
        Time on this machine, from a short calibration; None where none was made.
    rows, bytes_on_disk
        Rows of the result, and about how large it is.
    peak_bytes
        Memory of the network's weights and of one cell's largest batch, about.
    """

    cells: int
    perturbations: int
    passes: int
    tokens: int
    seconds: float | None
    rows: int
    bytes_on_disk: int
    peak_bytes: int


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
    """

    tokens: TokenizedDataset
    cells: SelectedCells
    targets: Targets
    model: PerturbedModel
    options: PerturbOptions
    runtime: RuntimeOptions

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
        """Mean embedding of every state, ``(D,)`` each: start, goal, alternates."""
        runner = ExactRunner(self.model, self.options, self.runtime, reads_states=True)
        return {
            state: torch.cat([reading.vectors for reading in runner.read(self.token_rows(rows))]).mean(0).cpu().numpy()
            for state, rows in self.cells.of_state.items()
        }

    @cached_property
    def genes(self) -> pa.Table:
        """What is known of every gene."""
        return gene_table(self.tokens, self.cells.rows, self.cells.of_state, self.model.vocabulary)

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
        vocabulary = self.model.vocabulary
        return {
            "model": self.model.name,
            "vocabulary": vocabulary.name,
            "vocabulary_fingerprint": vocabulary.fingerprint,
            "geneformer_version": __version__,
            "perturb": asdict(self.options),
            "state_key": self.cells.state_key,
        }

    @cached_property
    def identity(self) -> dict[str, Any]:
        """What a run is recognized by when it is taken up again: everything that decides its numbers."""
        device = resolve_device(self.runtime.device)
        packed = [self.tokens.gather(rows) for rows in (self.cells.rows, *self.cells.of_state.values())]
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
        }


def plan_perturbation(
    tokens: TokenizedDataset, model: PerturbedModel, options: PerturbOptions, runtime: RuntimeOptions
) -> PerturbationPlan:
    """A run, with everything checked that can be known before the first forward pass.

    Raises
    ------
    NoCellsError
        No cells.
    PairingError
        Tokens that do not belong to the model, or `pooling="cls"` for tokens without `<cls>`.
    PerturbationError
        Genes or states that cannot be used; see `find_targets` and `select_cells`.
    """
    check_pairing(tokens, model, truncate=options.truncate)
    if -options.layer > model.n_layers:
        msg = f"layer={options.layer}, but {model.name} has {model.n_layers} layers. Use 0 to -{model.n_layers}."
        raise OutOfRangeError(msg)
    if options.pooling == "cls":
        check_cls(tokens, model)
    cells = select_cells(tokens, options)
    targets = find_targets(tokens.take(cells.rows), model.vocabulary, options)
    plan = PerturbationPlan(tokens, cells, targets, model, options, runtime)
    _check_names(plan)
    if not any(_edits_of(plan, row) for row in cells.rows):
        msg = "None of the perturbations changes any of the cells. Name other genes, or choose other cells."
        raise NoCellsError(msg)
    return plan


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


def _edits_of(plan: PerturbationPlan, row: int) -> bool:
    """Whether anything changes a cell."""
    [cell] = plan.token_rows(np.array([row]))
    return next(possible_edits([cell], [plan.targets.of_cell(cell)], plan.model), None) is not None


def estimate(plan: PerturbationPlan, *, calibrate: bool = True, sample: int = 64) -> Cost:
    """What a run will take; with calibration a few edits are run first.

    Parameters
    ----------
    plan
        The run.
    calibrate
        Run a few edits to tell the time.
    sample
        Cells whose edits are counted; the others are taken to be like them.
    """
    rows = plan.cells.rows
    counted = rows[np.unique(np.linspace(0, len(rows) - 1, min(sample, len(rows))).astype(np.int64))]
    passes = tokens = others = 0
    edits: list[tuple[Ints, Perturbation]] = []
    special = plan.model.vocabulary.special_ids.tolist()
    for cell in plan.token_rows(counted):
        for edit in possible_edits([cell], [plan.targets.of_cell(cell)], plan.model):
            passes, tokens = passes + 1, tokens + len(edit.edited.tokens)
            touched = [*edit.perturbation.tokens, *special]
            others += int((~np.isin(edit.edited.tokens, touched)).sum()) if plan.options.gene_effects else 0
            if len(edits) < _CALIBRATED:
                edits.append((cell, edit.perturbation))
    if plan.options.method == "screen":
        share = _screened_share(plan, passes / max(len(counted), 1))
        passes, tokens, others = int(passes * share), int(tokens * share), 0
    factor = len(rows) / max(len(counted), 1)
    per_edit = max(len(plan.options.states), 1) + len(plan.model.classes)
    n_rows = int(passes * factor * per_edit) + int(others * factor)
    seconds = None
    if calibrate and edits:
        seconds = _seconds_per_token(plan, edits) * tokens * factor
    config = plan.model.encoder.config
    weights = sum(value.numel() * value.element_size() for value in plan.model.network.state_dict().values())
    widest = max(config.intermediate_size, 3 * config.hidden_size) + config.hidden_size
    longest = int(plan.tokens.lengths[rows].max())
    return Cost(
        cells=len(rows),
        perturbations=len(plan.targets.named) + (0 if plan.targets.every is None else len(plan.targets.every)),
        passes=int(passes * factor),
        tokens=int(tokens * factor),
        seconds=seconds,
        rows=n_rows,
        bytes_on_disk=n_rows * _BYTES_PER_ROW,
        peak_bytes=weights + 4 * widest * max(longest, 8192) + len(EFFECT_COLUMNS) * n_rows // max(plan.n_shards, 1),
    )


def _screened_share(plan: PerturbationPlan, per_cell: float) -> float:
    """Passes of a screen as a share of those of an exact run with so many edits of each cell."""
    checked = min(plan.options.check_cells, len(plan.cells.rows)) / max(len(plan.cells.rows), 1)
    verified = min(plan.options.verify / max(per_cell, 1), 1)
    return checked + (1 - checked) * verified + _SCREEN_PASSES / max(per_cell, 1)


def _seconds_per_token(plan: PerturbationPlan, edits: list[tuple[Ints, Perturbation]]) -> float:
    """Time per token of edited cells, of the second of two runs."""
    runner = ExactRunner(plan.model, plan.options, plan.runtime, _any_states(plan))
    cells = [cell for cell, _ in edits]
    seconds = 0.0
    tokens = sum(len(cell) for cell in cells)
    for _ in range(2):
        started = time.perf_counter()
        runner.run(cells, possible_edits(cells, [[p] for _, p in edits], plan.model), lambda *_: None)
        seconds = time.perf_counter() - started
    return seconds / (2 * tokens)  # the unedited cells were read as well


def _any_states(plan: PerturbationPlan) -> np.ndarray | None:
    """Vectors in the place of the states, to measure time with."""
    n_states, width = len(plan.options.states), plan.model.encoder.config.hidden_size
    return np.ones((n_states, width), dtype=np.float32) if n_states else None
