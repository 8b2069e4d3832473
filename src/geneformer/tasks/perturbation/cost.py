"""What a perturbation run will take, told before it runs."""

import time
from dataclasses import dataclass

import numpy as np

from geneformer.engine.device import resolve_device
from geneformer.engine.inference import bytes_per_token, tokens_that_fit
from geneformer.results.perturbation import SCREEN
from geneformer.tasks.perturbation.edits import Ints, Perturbation
from geneformer.tasks.perturbation.exact import ExactRunner, possible_edits
from geneformer.tasks.perturbation.plan import PerturbationPlan

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
        Memory of the network's weights and of one batch, about; the program itself comes on top.
    """

    cells: int
    perturbations: int
    passes: int
    tokens: int
    seconds: float | None
    rows: int
    bytes_on_disk: int
    peak_bytes: int


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
    if plan.options.method == SCREEN:
        share = _screened_share(plan, passes / max(len(counted), 1))
        passes, tokens, others = int(passes * share), int(tokens * share), 0
    factor = len(rows) / max(len(counted), 1)
    per_edit = max(len(plan.options.states), 1) + len(plan.model.classes)
    n_rows = int(passes * factor * per_edit) + int(others * factor)
    seconds = None
    if calibrate and edits:
        seconds = _seconds_per_token(plan, edits) * tokens * factor
    return Cost(
        cells=len(rows),
        perturbations=len(plan.targets.named) + (0 if plan.targets.every is None else len(plan.targets.every)),
        passes=int(passes * factor),
        tokens=int(tokens * factor),
        seconds=seconds,
        rows=n_rows,
        bytes_on_disk=n_rows * _BYTES_PER_ROW,
        peak_bytes=_peak_bytes(plan),
    )


def _peak_bytes(plan: PerturbationPlan) -> int:
    network, runtime = plan.model.network, plan.runtime
    weights: int = sum(value.numel() * value.element_size() for value in network.state_dict().values())
    budget = runtime.tokens_per_batch or tokens_that_fit(network, resolve_device(runtime.device))
    longest = min(int(plan.tokens.lengths[plan.cells.rows].max()), plan.model.max_length)
    return weights + bytes_per_token(network) * max(budget, longest)


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
