"""A perturbation run before it runs: cells, genes, states and shards, all checked."""

import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import torch
from numpy.typing import NDArray

from geneformer.engine.device import resolve_device, resolve_dtype
from geneformer.engine.inference import bytes_per_token, tokens_that_fit
from geneformer.errors import (
    AbsentGeneError,
    GroupTooLargeError,
    NoCellsError,
    OptionError,
    PerturbationError,
    StateError,
    UnknownColumnError,
    UnknownGeneError,
)
from geneformer.files.manifest import digest
from geneformer.finetuning.estimator import TASK, read_folder
from geneformer.finetuning.estimators import CellClassifier
from geneformer.genes.lookup import known_names, look_up
from geneformer.genes.vocabulary import Vocabulary
from geneformer.inference.cells import PairedModel, check_cls, check_layer, check_pairing, describe_run
from geneformer.models.loading import load_model
from geneformer.options import PerturbOptions, RuntimeOptions
from geneformer.options._fields import check_choice, check_range, nearest
from geneformer.options.perturbation import EDITS
from geneformer.perturbation.edits import Ints, Perturbation, Step
from geneformer.perturbation.effects import SCREEN
from geneformer.perturbation.exact import ExactRunner, PerturbedModel, possible_edits
from geneformer.tokens.dataset import Packed, TokenizedDataset

_CELLS_AT_ONCE = 2048


def gene_table(tokens: TokenizedDataset, perturbed: Ints, of_state: Mapping[str, Ints], model: PairedModel) -> pa.Table:
    """Genes found in any of the cells; columns as in `PerturbationEffects.genes`."""
    vocabulary = model.vocabulary
    n_cells, ranks, _ = _sums(tokens, perturbed, model)
    kind = "expression" if tokens.has_counts else "rank"
    by_state: dict[str, NDArray[np.float64]] = {}
    seen = n_cells > 0
    for state, rows in of_state.items():
        found, rank_sums, count_sums = _sums(tokens, rows, model)
        sums = count_sums if tokens.has_counts else found - rank_sums
        by_state[f"{kind}:{state}"] = sums / max(len(rows), 1)
        seen |= found > 0
    seen[vocabulary.special_ids] = False
    there = np.flatnonzero(seen)
    names = [str(gene) for gene in vocabulary.gene_of[there]]
    mean_rank = np.divide(ranks, n_cells, out=np.full(len(ranks), np.nan), where=n_cells > 0)
    return pa.table(
        {
            "gene": pa.array(names, pa.string()),
            "symbol": pa.array([vocabulary.symbol_of(name) for name in names], pa.string()),
            "token": pa.array(there.astype(np.int32)),
            "n_cells": pa.array(n_cells[there].astype(np.int64)),
            "mean_rank": pa.array(mean_rank[there]),
            **{name: pa.array(values[there]) for name, values in by_state.items()},
        }
    )


def rank_sums(
    tokens: TokenizedDataset, rows: Ints, model: PairedModel
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Cells that have each token as a model sees them, and the sum of its relative ranks in those, ``(V,)`` each."""
    n_cells, ranks, _ = _sums(tokens, rows, model)
    return n_cells, ranks


def _sums(
    tokens: TokenizedDataset, rows: Ints, model: PairedModel
) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]:
    """Per token: cells that have it, sum of its relative ranks, sum of its log1p counts, ``(V,)`` each."""
    vocabulary = model.vocabulary
    totals = np.zeros((3, vocabulary.size))
    for start in range(0, len(rows), _CELLS_AT_ONCE):
        packed = tokens.gather(
            rows[start : start + _CELLS_AT_ONCE], max_length=model.max_length, counts=tokens.has_counts
        )
        is_gene = ~np.isin(packed.input_ids, vocabulary.special_ids)
        cell = np.repeat(np.arange(len(packed.cu_seqlens) - 1), np.diff(packed.cu_seqlens))[is_gene]
        ids = packed.input_ids[is_gene]
        n_genes = np.bincount(cell, minlength=len(packed.cu_seqlens) - 1)
        within = np.arange(len(ids)) - np.repeat(np.cumsum(n_genes) - n_genes, n_genes)
        relative = within / np.maximum(n_genes[cell] - 1, 1)
        totals[0] += np.bincount(ids, minlength=vocabulary.size)
        totals[1] += np.bincount(ids, weights=relative, minlength=vocabulary.size)
        if packed.counts is not None:
            totals[2] += np.bincount(ids, weights=np.log1p(packed.counts[is_gene]), minlength=vocabulary.size)
    return totals[0], totals[1], totals[2]


_SHOWN = 8


@dataclass(frozen=True, slots=True, eq=False)
class SelectedCells:
    """Rows of the dataset."""

    rows: Ints
    of_state: dict[str, Ints] = field(default_factory=dict)
    state_key: str | None = None


def select_cells(tokens: TokenizedDataset, options: PerturbOptions, *, states_are_given: bool = False) -> SelectedCells:
    """Cells to be perturbed, and cells of every state."""
    rows = np.arange(len(tokens))
    of_state: dict[str, Ints] = {}
    key = None
    if options.start is not None:
        averaged = () if states_are_given else options.states
        wanted = averaged or (options.start,)
        key = _state_key(tokens, wanted, options.state_key)
        values = tokens.column(key).astype(str)
        members = {state: np.flatnonzero(values == state) for state in wanted}
        _check_members(members, key, values)
        rows = members[options.start]
        if averaged:
            of_state = {
                state: _drawn(found, options.max_state_cells, options.seed, place)
                for place, (state, found) in enumerate(members.items())
            }
    return SelectedCells(_drawn(rows, options.max_cells, options.seed, len(of_state)), of_state, key)


def _drawn(rows: Ints, most: int | None, seed: int, stream: int) -> Ints:
    """At most so many rows, drawn without replacement, in the order of the input."""
    if most is None or len(rows) <= most:
        return rows
    rng = np.random.default_rng([seed, stream])
    return np.sort(rng.choice(rows, most, replace=False))


def _state_key(tokens: TokenizedDataset, states: Sequence[str], key: str | None) -> str:
    """The column named, or the only one that has all states."""
    if key is not None:
        if key not in tokens.columns:
            hint = nearest(key, tokens.columns)
            msg = f"state_key={key!r} is no column of the cells; they have {tokens.columns}.{hint}"
            raise UnknownColumnError(msg)
        return key
    found = [name for name in tokens.columns if set(states) <= set(tokens.column(name).astype(str))]
    if len(found) == 1:
        return found[0]
    told = "no column has" if not found else f"the columns {found} all have"
    msg = (
        f"{told} the states {', '.join(map(repr, states))}. Name the column with state_key=; the cells have "
        f"{tokens.columns}."
    )
    raise StateError(msg[0].upper() + msg[1:])


def _check_members(members: dict[str, Ints], key: str, values: NDArray[np.str_]) -> None:
    empty = [state for state, rows in members.items() if not len(rows)]
    if not empty:
        return
    there, numbers = np.unique(values, return_counts=True)
    order = np.argsort(-numbers, kind="stable")[:_SHOWN]
    told = ", ".join(f"{there[i]} ({numbers[i]:,})" for i in order)
    more = f" and {len(there) - _SHOWN} more" if len(there) > _SHOWN else ""
    msg = f"No cell is {empty[0]!r} in column {key!r}; it has {told}{more}.{nearest(empty[0], list(there))}"
    raise StateError(msg)


_LEAST_SHARE = 0.5
"""A matched gene is found in at least this share of the cells the named gene is found in."""


def matched_perturbations(
    named: Sequence[Perturbation], tokens: TokenizedDataset, model: PairedModel, n_matched: int
) -> list[Perturbation]:
    """The same single edits of other genes, those of nearest mean rank first; no gene twice under one edit."""
    n_cells, ranks = rank_sums(tokens, np.arange(len(tokens)), model)
    rank = np.divide(ranks, n_cells, out=np.full(len(ranks), np.nan), where=n_cells > 0)
    single = [entry for entry in named if len(entry.steps) == 1 and len(entry.tokens) == 1]
    taken = {(entry.edit, entry.tokens[0]) for entry in single}
    names = {entry.name for entry in named}
    found = []
    for entry in single:
        [step], [token] = entry.steps, entry.tokens
        free = np.array([(entry.edit, other) not in taken for other in range(len(rank))])
        usable = free & (n_cells >= max(_LEAST_SHARE * n_cells[token], 1))
        distance = np.where(usable, np.abs(rank - rank[token]), np.inf)
        near = np.argsort(distance, kind="stable")[:n_matched]
        for other in near[np.isfinite(distance[near])].tolist():
            taken.add((entry.edit, other))
            name = str(model.vocabulary.gene_of[other])
            name = f"{entry.edit}:{name}" if name in names else name
            names.add(name)
            found.append(Perturbation(name, (replace(step, tokens=(other,)),)))
    return found


ALL = "all"
"""Every gene of a cell, one at a time."""

_TARGETS_CELLS_AT_ONCE = 4096


@dataclass(frozen=True, slots=True, eq=False)
class Targets:
    """What is done to the cells of a run."""

    named: tuple[Perturbation, ...]
    every: Ints | None
    edit: str
    dose: float
    anchor: int | None
    genes: np.ndarray

    def of_cell(self, cell: Ints) -> list[Perturbation]:
        """What is done to one cell, whether or not it changes it."""
        return [*self.named, *self._single(cell)]

    def _single(self, cell: Ints) -> Iterable[Perturbation]:
        if self.every is None or (self.anchor is not None and self.anchor not in cell):
            return
        for token in cell[np.isin(cell, self.every)].tolist():
            if token == self.anchor:
                continue
            tokens = (token,)
            if self.anchor is not None:
                # Both keep their order in the cell, as in the published package.
                tokens = tuple(sorted((self.anchor, token), key=lambda t: int(np.flatnonzero(cell == t)[0])))
            yield Perturbation(self.single_name(token), (Step(self.edit, tokens, self.dose),))

    def single_name(self, token: int) -> str:
        """What the perturbation of one of `every` is called."""
        return "+".join(str(self.genes[t]) for t in (self.anchor, token) if t is not None)


def find_targets(tokens: TokenizedDataset, model: PairedModel, options: PerturbOptions) -> Targets:
    """What a user asked for, checked against the cells before anything runs."""
    vocabulary = model.vocabulary
    n_cells = cells_with(tokens, model)
    anchor = None if options.anchor is None else gene_tokens([options.anchor], vocabulary)[0]
    every = None
    if ALL in options.genes:
        every = np.flatnonzero(n_cells >= options.min_cells)
        every = every[~np.isin(every, vocabulary.special_ids)]
        if not len(every):
            msg = f"No gene is found in {options.min_cells} or more of the {len(tokens):,} cells. Lower min_cells."
            raise AbsentGeneError(msg)
        _check_anchor(anchor, tokens, n_cells, vocabulary, options.min_cells)
    named = tuple(
        _with_anchor(parse_perturbation(entry, vocabulary, options), anchor) for entry in options.genes if entry != ALL
    )
    for perturbation in named:
        _check_room(perturbation, tokens, model)
        _check_presence(perturbation, tokens, n_cells, model, options.min_cells)
    if options.matched_genes and every is None:
        named = (*named, *matched_perturbations(named, tokens, model, options.matched_genes))
    targets = Targets(named, every, options.edit, options.dose, anchor, vocabulary.gene_of)
    _check_names(targets)
    return targets


def parse_perturbation(entry: str, vocabulary: Vocabulary, options: PerturbOptions) -> Perturbation:
    """One entry as written."""
    name, named, written = entry.rpartition("=")
    steps = tuple(_step(part.strip(), vocabulary, options) for part in written.split(">"))
    return Perturbation(name.strip() if named else written.strip(), steps)


def _step(text: str, vocabulary: Vocabulary, options: PerturbOptions) -> Step:
    what, colon, names = text.rpartition(":")
    edit, dose = (what or options.edit), options.dose
    if colon and "@" in edit:
        edit, _, told = edit.partition("@")
        try:
            dose = float(told)
        except ValueError as error:
            msg = f'"{text}" has the dose "{told}", which is no number. Write, for example, inhibit@0.25:ISG15.'
            raise OptionError(msg) from error
    edit = edit.strip()
    check_choice("edit", edit, EDITS)
    check_range("dose", dose, above=0.0, high=1.0)
    return Step(edit, gene_tokens([name.strip() for name in names.split("+")], vocabulary), dose)


def _with_anchor(perturbation: Perturbation, anchor: int | None) -> Perturbation:
    """The anchor joins the genes of the first edit."""
    if anchor is None or anchor in perturbation.tokens:
        return perturbation
    first, *others = perturbation.steps
    return replace(perturbation, steps=(replace(first, tokens=(anchor, *first.tokens)), *others))


def _check_anchor(
    anchor: int | None, tokens: TokenizedDataset, n_cells: Ints, vocabulary: Vocabulary, least: int
) -> None:
    """Every gene is perturbed together with the anchor, in cells that have it."""
    if anchor is None or n_cells[anchor] >= least:
        return
    msg = (
        f"The anchor {vocabulary.symbol_of(str(vocabulary.gene_of[anchor]))} is found in {n_cells[anchor]:,} of the "
        f"{len(tokens):,} cells, and min_cells={least}. Choose another anchor, or other cells."
    )
    raise AbsentGeneError(msg)


def _check_names(targets: Targets) -> None:
    names = [perturbation.name for perturbation in targets.named]
    single = {targets.single_name(token) for token in ([] if targets.every is None else targets.every.tolist())}
    twice = sorted({name for name in names if names.count(name) > 1 or name in single})
    if twice:
        msg = f"Two perturbations are called {twice[0]!r}. Name one of them otherwise: other_name=GENE."
        raise OptionError(msg)


def gene_tokens(names: Sequence[str], vocabulary: Vocabulary) -> tuple[int, ...]:
    """Token id of every name, each once."""
    found = look_up("genes", names, known_names(vocabulary)).positions
    unknown = [name for name, place in zip(names, found, strict=True) if place < 0]
    if unknown:
        hint = nearest(unknown[0], vocabulary.symbols) if unknown[0] else ""
        msg = (
            f"Not among the {len(vocabulary.genes):,} genes of vocabulary {vocabulary.name}: "
            f"{', '.join(map(repr, unknown[:10]))}. Pass Ensembl ids or symbols.{hint}"
        )
        raise UnknownGeneError(msg)
    return tuple(dict.fromkeys(int(vocabulary.token_ids[place]) for place in found))


def _blocks(tokens: TokenizedDataset, model: PairedModel) -> Iterator[Packed]:
    """Cells as the model sees them, some at a time."""
    for start in range(0, len(tokens), _TARGETS_CELLS_AT_ONCE):
        rows = np.arange(start, min(start + _TARGETS_CELLS_AT_ONCE, len(tokens)))
        yield tokens.gather(rows, max_length=model.max_length)


def cells_with(tokens: TokenizedDataset, model: PairedModel) -> Ints:
    """Cells that have each token, ``(V,)``; a cell has a token once."""
    counts = np.zeros(model.vocabulary.size, dtype=np.int64)
    for block in _blocks(tokens, model):
        counts += np.bincount(block.input_ids, minlength=len(counts))
    return counts


def _cells_with_all(tokens: TokenizedDataset, model: PairedModel, wanted: set[int]) -> int:
    """Cells that have several tokens at once."""
    found = 0
    for block in _blocks(tokens, model):
        cell = np.repeat(np.arange(len(block.cu_seqlens) - 1), np.diff(block.cu_seqlens))
        found += int((np.bincount(cell[np.isin(block.input_ids, list(wanted))]) == len(wanted)).sum())
    return found


def _check_room(perturbation: Perturbation, tokens: TokenizedDataset, model: PairedModel) -> None:
    frame = sum(token is not None for token in (model.vocabulary.cls_id, model.vocabulary.eos_id))
    most = model.max_length - frame
    added = {token for step in perturbation.steps if step.edit == "overexpress" for token in step.tokens}
    if len(added) > most:
        msg = f"{perturbation.name!r} overexpresses {len(added):,} genes at once; a cell has room for {most:,}."
        raise GroupTooLargeError(msg)
    longest = min(int(tokens.lengths.max(initial=0)), model.max_length) - frame
    deleted = max((len(step.tokens) for step in perturbation.steps if step.edit == "delete"), default=0)
    if deleted >= max(longest, 1):
        msg = (
            f"{perturbation.name!r} deletes {deleted:,} genes at once, and the largest cell has {longest:,}: nothing "
            "would be left. Name fewer genes."
        )
        raise GroupTooLargeError(msg)


def _check_presence(
    perturbation: Perturbation, tokens: TokenizedDataset, n_cells: Ints, model: PairedModel, least: int
) -> None:
    """Genes a cell must have are found together in enough cells."""
    vocabulary = model.vocabulary
    needed: set[int] = set()
    added: set[int] = set()
    for step in perturbation.steps:
        if step.edit == "overexpress":
            added |= set(step.tokens)
        else:
            needed |= set(step.tokens) - added
    missing = [vocabulary.symbol_of(str(vocabulary.gene_of[token])) for token in needed if n_cells[token] < least]
    if missing:
        msg = (
            f"{perturbation.name!r} needs cells that have {', '.join(sorted(missing)[:10])}; of the {len(tokens):,} "
            f"cells fewer than {least} do. Leave it out, choose other cells, or overexpress it."
        )
        raise AbsentGeneError(msg)
    if len(needed) > 1:
        together = _cells_with_all(tokens, model, needed)
        if together < least:
            msg = (
                f"{perturbation.name!r} needs cells that have all of its {len(needed)} genes at once; {together} of "
                f"{len(tokens):,} cells do, and min_cells={least}. Name fewer genes together, or one at a time."
            )
            raise AbsentGeneError(msg)


@dataclass(frozen=True, eq=False)
class PerturbationPlan:
    """Everything a run needs, checked."""

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
    """A run, with everything checked that can be known before the first forward pass."""
    given = None if states is None else _checked_states(states, model, options)
    check_pairing(tokens, model, truncate=options.truncate)
    check_layer(options.layer, model.name, model.n_layers)
    if options.pooling == "cls":
        check_cls(tokens, model)
    cells = select_cells(tokens, options, states_are_given=given is not None)
    targets = find_targets(tokens.take(cells.rows), model, options)
    plan = PerturbationPlan(tokens, cells, targets, model, options, runtime, given)
    _plan_check_names(plan)
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


def _plan_check_names(plan: PerturbationPlan) -> None:
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


_BYTES_PER_ROW = 12
"""Of a result file, about."""

_SCREEN_PASSES = 12
"""Passes that a screen of one cell takes as long as, about."""

_CALIBRATED = 12
"""Edits that are run to tell how long the others will take."""


@dataclass(frozen=True, slots=True)
class Cost:
    """What a run will take."""

    cells: int
    perturbations: int
    passes: int
    tokens: int
    seconds: float | None
    rows: int
    bytes_on_disk: int
    peak_bytes: int


def estimate(plan: PerturbationPlan, *, calibrate: bool = True, sample: int = 64) -> Cost:
    """What a run will take; with calibration a few edits are run first."""
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


def open_perturbed_model(
    model: "str | Path | CellClassifier",
    *,
    vocabulary: str | Path | Vocabulary | None = None,
    revision: str | None = None,
) -> PerturbedModel:
    """A pretrained encoder, or a fine-tuned classifier of cells, whose probabilities are then read as well."""
    if not isinstance(model, CellClassifier) and not _is_classifier(Path(model)):
        return PerturbedModel.pretrained(load_model(model, vocabulary=vocabulary, revision=revision))
    fitted = model if isinstance(model, CellClassifier) else CellClassifier.load(model)
    name = str(model) if not isinstance(model, CellClassifier) else "CellClassifier"
    pairing = fitted.pairing
    network = fitted.network_.eval()
    return PerturbedModel(name, pairing.vocabulary, network.bert, network, fitted.temperature_, pairing.max_length)


def _is_classifier(folder: Path) -> bool:
    return (folder / TASK).is_file() and str(read_folder(folder).task["kind"]) == CellClassifier.kind
