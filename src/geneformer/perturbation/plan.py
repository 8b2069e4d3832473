"""A perturbation run before it runs: cells, genes, states and shards, all checked."""

import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple, cast

import numpy as np
import pyarrow as pa
import torch
from numpy.typing import NDArray

from geneformer.engine.device import resolve_device, resolve_dtype
from geneformer.engine.inference import bytes_per_token, tokens_that_fit
from geneformer.errors import (
    AbsentGeneError,
    GroupTooLargeError,
    LabelError,
    NoCellsError,
    OptionError,
    PerturbationError,
    StateError,
    UnknownColumnError,
)
from geneformer.files.manifest import digest
from geneformer.finetuning.labels import distinct_words, word
from geneformer.genes.lookup import GenePanel, resolve_panel
from geneformer.genes.vocabulary import Vocabulary
from geneformer.inference.cells import (
    PairedModel,
    cells_per_token,
    check_cls,
    check_layer,
    check_pairing,
    describe_run,
    token_blocks,
)
from geneformer.models.finetuned import TASK
from geneformer.models.loading import Fitted, LoadedModel, load_model
from geneformer.options import PerturbOptions, RuntimeOptions
from geneformer.options._fields import check_choice, check_range, nearest, some_of
from geneformer.options.perturbation import EDITS
from geneformer.perturbation.edits import Ints, Perturbation, Step
from geneformer.perturbation.effects import SCREEN
from geneformer.perturbation.exact import Edit, ExactRunner, PerturbedModel, possible_edits
from geneformer.tokens.dataset import TokenizedDataset

ALL = "all"
"""Every gene of a cell, one at a time."""

_SHOWN = 8
"""States that an error lists."""

_LEAST_SHARE = 0.5
"""A matched gene is found in at least this share of the cells the named gene is found in."""

_BYTES_PER_ROW = 12
"""Of a result file, about."""

_SCREEN_PASSES = 12
"""Passes that a screen of one cell takes as long as, about."""

_CALIBRATED = 12
"""Edits that are run to measure how long the others will take."""


@dataclass(frozen=True, eq=False)
class PerturbationPlan:
    """Everything a run needs, checked."""

    tokens: TokenizedDataset
    cells: "SelectedCells"
    targets: "Targets"
    model: PerturbedModel
    options: PerturbOptions
    runtime: RuntimeOptions
    states: Mapping[str, NDArray[np.float32]] | None = None

    @property
    def n_shards(self) -> int:
        """Parts in which the run finishes."""
        return -(-len(self.cells.rows) // self.options.cells_per_shard)

    @property
    def n_steps(self) -> int:
        """Shards that are run; a screen goes over the cells twice."""
        return self.n_shards * (2 if self.options.method == SCREEN else 1)

    def rows_of(self, shard: int) -> Ints:
        """Rows of the cells of one shard."""
        size = self.options.cells_per_shard
        return self.cells.rows[shard * size : (shard + 1) * size]

    def token_rows(self, rows: Ints) -> list[Ints]:
        """Token ids of some cells, cut to what the model takes."""
        packed = self.tokens.gather(rows, max_length=self.model.max_length)
        return [row.astype(np.int64) for row in np.split(packed.input_ids, packed.cu_seqlens[1:-1])]

    def edits_of(self, row: int) -> Iterator[Edit]:
        """Perturbations that change the cell in a row, and what they make of it."""
        [cell] = self.token_rows(np.array([row]))
        return possible_edits([cell], [self.targets.of_cell(cell)], self.model)

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
        """Genes in the cells; columns as in `PerturbationEffects.genes`."""
        return gene_table(self.tokens, self.cells.rows, self.cells.of_state, self.model)

    @cached_property
    def cell_table(self) -> pa.Table:
        """Columns of the perturbed cells."""
        rows = self.cells.rows
        table = self.tokens.table.select(self.tokens.columns).take(pa.array(rows))
        columns = {name: table.column(name) for name in table.column_names}
        columns.setdefault("cell_id", pa.array(self.tokens.cell_ids[rows].astype(str)))
        if self.options.start is not None:
            columns["state"] = pa.array([self.options.start] * len(rows))
        return pa.table(columns)

    @property
    def provenance(self) -> dict[str, Any]:
        """Where results come from."""
        panel = self.targets.panel
        about: dict[str, Any] = {} if panel is None else {"panel": panel.record()}
        about |= {"perturb": asdict(self.options), "state_key": self.cells.state_key}
        return describe_run(self.model, self.tokens, **about)

    @cached_property
    def identity(self) -> dict[str, Any]:
        """What a run is recognized by when it is taken up again: everything that decides its numbers."""
        device = resolve_device(self.runtime.device)
        packed = [self.tokens.gather(rows) for rows in (self.cells.rows, *self.cells.of_state.values())]
        weights = self.model.network.state_dict()
        return {
            # Which genes are left out follows from the others; runs begun before there was a choice go on.
            "options": {name: value for name, value in asdict(self.options).items() if name != "unknown"},
            "cells": digest(*(array for part in packed for array in (part.input_ids, part.cu_seqlens))),
            "cell_ids": digest(self.tokens.cell_ids[self.cells.rows].astype(str).tolist()),
            "weights": digest({name: value.detach().cpu().float().numpy() for name, value in weights.items()}),
            "vocabulary": self.model.vocabulary.fingerprint,
            "device": device.type,
            "dtype": str(resolve_dtype(self.runtime.dtype, device)),
            **({} if self.states is None else {"states": digest(dict(self.states))}),
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
    cells = select_perturbed_cells(tokens, options, states_are_given=given is not None)
    targets = find_targets(tokens.take(cells.rows), model, options)
    names, repeats = np.unique(tokens.cell_ids[cells.rows].astype(str), return_counts=True)
    if len(names) and repeats.max() > 1:
        msg = (
            f'{repeats.max():,} perturbed cells have the cell_id "{names[repeats.argmax()]}"; their effects could not '
            "be told apart. Make the names unique."
        )
        raise PerturbationError(msg)
    plan = PerturbationPlan(tokens, cells, targets, model, options, runtime, given)
    if not any(any(True for _ in plan.edits_of(row)) for row in cells.rows):
        msg = "None of the perturbations changes any of the cells. Name other genes, or choose other cells."
        raise NoCellsError(msg)
    return plan


def _checked_states(
    states: Mapping[str, NDArray[np.float32]], model: PerturbedModel, options: PerturbOptions
) -> dict[str, NDArray[np.float32]]:
    """The embeddings a run needs, in the order of its states."""
    missing = [state for state in options.states if state not in states]
    if missing or not options.states:
        reason = (
            f"lack {', '.join(map(repr, missing))}" if missing else "are given, but the options name no start and goal"
        )
        msg = (
            f"The embeddings of states {reason}; they are of {', '.join(map(repr, states)) or 'none'}. Give one of "
            "each."
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


def open_perturbed_model(
    model: "str | Path | LoadedModel | Fitted",
    *,
    vocabulary: str | Path | Vocabulary | None = None,
    revision: str | None = None,
) -> PerturbedModel:
    """A pretrained encoder, or a fine-tuned classifier of cells, whose probabilities are then read as well."""
    name, classifier = type(model).__name__, cast(Any, model)
    if isinstance(model, str | Path) and is_cell_classifier(Path(model)):
        from geneformer.finetuning.estimators import CellClassifier

        name, classifier = str(model), CellClassifier.load(model)
    if getattr(type(classifier), "kind", "") != CELL_CLASSIFIER:
        return PerturbedModel.pretrained(load_model(model, vocabulary=vocabulary, revision=revision))
    pairing, network = classifier.pairing, classifier.network_.eval()
    return PerturbedModel(name, pairing.vocabulary, network.bert, network, classifier.temperature_, pairing.max_length)


def is_cell_classifier(folder: Path) -> bool:
    """Whether a folder holds a fitted classifier of cells; what trains one is loaded only if it is a fitted model."""
    if not (folder / TASK).is_file():
        return False
    from geneformer.finetuning.estimator import read_folder

    return str(read_folder(folder).task["kind"]) == CELL_CLASSIFIER


CELL_CLASSIFIER = "cell_classifier"
"""Kind of the fine-tuned model whose probabilities are read."""


@dataclass(frozen=True, slots=True, eq=False)
class SelectedCells:
    """Rows of the dataset: cells to perturb, and cells that states are averaged over."""

    rows: Ints
    of_state: dict[str, Ints] = field(default_factory=dict)
    state_key: str | None = None


def select_perturbed_cells(
    tokens: TokenizedDataset, options: PerturbOptions, *, states_are_given: bool = False
) -> SelectedCells:
    """Cells to be perturbed, and cells of every state."""
    if options.start is None:
        return SelectedCells(_sample(np.arange(len(tokens)), options.max_cells, options.seed, 0))
    averaged = () if states_are_given else options.states
    states = averaged or (options.start,)
    key = _state_key(tokens, states, options.state_key)
    place, words = distinct_words(tokens.column(key), key)
    rows_of = {state: np.flatnonzero(place == _place_of(state, words)) for state in states}
    empty = next((state for state, rows in rows_of.items() if not len(rows)), None)
    if empty is not None:
        names, numbers = np.array(words), np.bincount(place[place >= 0], minlength=len(words))
        held = some_of((f"{names[i]} ({numbers[i]:,})" for i in np.argsort(-numbers, kind="stable")), _SHOWN)
        msg = f"No cell is {empty!r} in column {key!r}; it has {held}.{nearest(empty, list(names))}"
        raise StateError(msg)
    if len({_place_of(state, words) for state in states}) < len(states):
        msg = f"Of the states {', '.join(map(repr, states))}, two are the same value of column {key!r}. Name others."
        raise StateError(msg)
    of_state = {
        state: _sample(rows_of[state], options.max_state_cells, options.seed, stream)
        for stream, state in enumerate(averaged)
    }
    rows = _sample(rows_of[options.start], options.max_cells, options.seed, len(of_state))
    return SelectedCells(rows, of_state, key)


def _place_of(state: str, words: Sequence[str]) -> int:
    """Which of the words a state is, or -2; missing values are none, and 1 is 1.0."""
    text = state.strip()
    with suppress(ValueError):
        text = text if text in words else word(float(text), "state")
    return words.index(text) if text in words else -2


def _has_states(column: NDArray[Any], states: Sequence[str], name: str) -> bool:
    try:
        words = distinct_words(column, name)[1]
    except LabelError:  # lists are no states
        return False
    return all(_place_of(state, words) >= 0 for state in states)


def _sample(rows: Ints, most: int | None, seed: int, stream: int) -> Ints:
    """At most so many rows, drawn without replacement, in the order of the input."""
    if most is None or len(rows) <= most:
        return rows
    return np.sort(np.random.default_rng([seed, stream]).choice(rows, most, replace=False))


def _state_key(tokens: TokenizedDataset, states: Sequence[str], key: str | None) -> str:
    """The column named, or the only one that has all states."""
    if key is not None:
        if key not in tokens.columns:
            hint = nearest(key, tokens.columns)
            msg = f"state_key={key!r} is no column of the cells; they have {tokens.columns}.{hint}"
            raise UnknownColumnError(msg)
        return key
    candidates = [name for name in tokens.columns if set(states) <= set(tokens.column(name).astype(str))]
    if not candidates:
        candidates = [name for name in tokens.columns if _has_states(tokens.column(name), states, name)]
    if len(candidates) == 1:
        return candidates[0]
    which = f"The columns {candidates} all have" if candidates else "No column has"
    msg = (
        f"{which} the states {', '.join(map(repr, states))}. Name the column with state_key=; the cells have "
        f"{tokens.columns}."
    )
    raise StateError(msg)


@dataclass(frozen=True, slots=True, eq=False)
class Targets:
    """What is done to the cells of a run: named perturbations, and `every` gene of a cell one at a time."""

    named: tuple[Perturbation, ...]
    every: Ints | None
    edit: str
    dose: float
    anchor: int | None
    genes: np.ndarray
    panel: GenePanel | None = None

    def told_apart(self) -> Iterator[tuple[str, object]]:
        """Name of every perturbation, and what it does."""
        yield from ((perturbation.name, perturbation.key) for perturbation in self.named)
        for token in [] if self.every is None else self.every.tolist():
            genes = (token,) if self.anchor is None else (self.anchor, token)
            name = self.single_name(token)
            yield name, Perturbation(name, (Step(self.edit, genes, self.dose),)).key

    def of_cell(self, cell: Ints) -> list[Perturbation]:
        """What is done to one cell, whether or not it changes it."""
        anchor = self.anchor
        if self.every is None or (anchor is not None and anchor not in cell):
            return list(self.named)
        perturbations = list(self.named)
        anchored_at = None if anchor is None else int(np.flatnonzero(cell == anchor)[0])
        for place in np.flatnonzero(np.isin(cell, self.every)).tolist():
            if place == anchored_at:
                continue
            token = int(cell[place])
            # Gene and anchor keep their order in the cell, as in the published package.
            tokens = (token,) if anchor is None else (token, anchor)
            tokens = tokens[::-1] if anchored_at is not None and place > anchored_at else tokens
            perturbations.append(Perturbation(self.single_name(token), (Step(self.edit, tokens, self.dose),)))
        return perturbations

    def single_name(self, token: int) -> str:
        """What the perturbation of one of `every` is called."""
        return "+".join(str(self.genes[t]) for t in (self.anchor, token) if t is not None)


def find_targets(tokens: TokenizedDataset, model: PairedModel, options: PerturbOptions) -> Targets:
    """What a user asked for, checked against the cells before anything runs; what cells do not allow is left out."""
    vocabulary = model.vocabulary
    n_cells = cells_per_token(tokens, model)
    anchor = None if options.anchor is None else gene_tokens([options.anchor], vocabulary)[0]
    every = None
    if ALL in options.genes:
        every = np.flatnonzero(n_cells >= options.min_cells)
        every = every[~np.isin(every, vocabulary.special_ids)]
        if not len(every):
            msg = f"No gene is found in {options.min_cells} or more of the {len(tokens):,} cells. Lower min_cells."
            raise AbsentGeneError(msg)
        if anchor is not None and n_cells[anchor] < options.min_cells:
            msg = (
                f"The anchor {_symbol(anchor, vocabulary)} is found in {n_cells[anchor]:,} of the {len(tokens):,} "
                f"cells, and min_cells={options.min_cells}. Choose another anchor, or other cells."
            )
            raise AbsentGeneError(msg)
    targets = Targets((), every, options.edit, options.dose, anchor, vocabulary.gene_of)
    entries = [_read_entry(entry, options) for entry in options.genes if entry != ALL]
    if entries:
        named, panel = _usable(entries, targets, tokens, model, options, n_cells)
        targets = replace(targets, named=tuple(named), panel=panel)
    if options.matched_genes and every is None:
        matched = matched_perturbations(targets.named, tokens, model, options.matched_genes)
        targets = replace(targets, named=(*targets.named, *matched))
    names = Counter(name for name, _ in targets.told_apart())
    twice = sorted(name for name, times in names.items() if times > 1)
    if twice:
        msg = f"Two perturbations are called {twice[0]!r}. Name one of them otherwise: other_name=GENE."
        raise OptionError(msg)
    name_of: dict[object, str] = {}
    for name, key in targets.told_apart():
        if name_of.setdefault(key, name) != name:
            msg = f"{name_of[key]!r} and {name!r} are the same perturbation. Leave one of them out."
            raise OptionError(msg)
    return targets


def _usable(
    entries: "Sequence[_Entry]",
    targets: Targets,
    tokens: TokenizedDataset,
    model: PairedModel,
    options: PerturbOptions,
    n_cells: Ints,
) -> tuple[list[Perturbation], GenePanel]:
    """The perturbations that the vocabulary and the cells allow, and an account of what is left out."""
    vocabulary, least = model.vocabulary, options.min_cells
    genes = resolve_panel([gene for entry in entries for gene in entry.genes], vocabulary, unknown=options.unknown)
    panel = GenePanel(vocabulary, {}, {}, unit="perturbations", asked=len(entries), used=0)
    refusals: list[str] = []
    kept: list[tuple[Perturbation, bool]] = []
    for entry in entries:
        present, absent = entry.in_cells(genes, n_cells, least)
        perturbation = entry.perturbation(present, genes, targets.anchor)
        if all(present):
            _check_room(perturbation, tokens, model)
            refusal, reason = (
                _too_few_together(perturbation, tokens, model, least),
                "not together in any cell" if least == 1 else f"not together in {least:,} cells",
            )
        else:
            known = [genes.token_of[gene] for gene in absent if gene in genes.token_of][:10]
            listed = ", ".join(sorted(_symbol(token, vocabulary) for token in known))
            reason = next(iter(absent.values()))
            refusal = (
                f"{entry.label!r} needs cells that have {listed}; of the {len(tokens):,} cells fewer than {least} "
                "do. Leave it out, choose other cells, or overexpress it."
            )
        if refusal:
            panel.leave_out(entry.label, reason)
            refusals.append(refusal)
            continue
        kept.append((perturbation, bool(absent)))
        for gene, reason in absent.items():
            panel.left_out[gene] = f"{reason}, of {perturbation.name!r}, which goes on without"
    taken = {perturbation.key for perturbation, is_reduced in kept if not is_reduced}
    taken |= {key for _, key in targets.told_apart()}
    named = []
    for perturbation, is_reduced in kept:
        if is_reduced and perturbation.key in taken:
            panel.leave_out(perturbation.name, "the same as another one without the genes that are left out")
            continue
        taken.add(perturbation.key)
        named.append(perturbation)
    panel.used = len(named)
    panel.check(options.unknown, refusals[0] if len(entries) == len(refusals) == 1 else "")
    return named, panel


@dataclass(frozen=True, slots=True)
class _WrittenStep:
    """One edit as written, with the names of its genes."""

    before: str
    edit: str
    dose: float
    genes: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class _Entry:
    """A perturbation as written, with the names of its genes."""

    name: str | None
    written: str
    steps: tuple[_WrittenStep, ...]

    @property
    def label(self) -> str:
        """What it is called in messages and results."""
        return self.written if self.name is None else self.name

    @property
    def genes(self) -> tuple[str, ...]:
        """Names of the genes of all edits."""
        return tuple(gene for step in self.steps for gene in step.genes)

    def in_cells(self, panel: GenePanel, n_cells: Ints, least: int) -> tuple[list[tuple[str, ...]], dict[str, str]]:
        """Of each edit the genes that can be edited, and why the others cannot; what is added need not be there."""
        present: list[tuple[str, ...]] = []
        absent: dict[str, str] = {}
        added = set[int]()
        for step in self.steps:
            tokens = {gene: panel.token_of[gene] for gene in step.genes if gene in panel.token_of}
            absent |= {gene: panel.left_out[gene] for gene in step.genes if gene not in tokens}
            if step.edit == "overexpress":
                added |= set(tokens.values())
            few = {gene for gene, token in tokens.items() if token not in added and n_cells[token] < least}
            absent |= dict.fromkeys(
                few, "in none of the cells" if least == 1 else f"in fewer than {least:,} of the cells"
            )
            present.append(tuple(gene for gene in tokens if gene not in few))
        return present, absent

    def perturbation(
        self, present: Sequence[Sequence[str]], panel: GenePanel, anchor: int | None = None
    ) -> Perturbation:
        """The perturbation of the genes that are there; its name says which, unless it was given one."""
        whole = all(set(step.genes) == set(genes) for step, genes in zip(self.steps, present, strict=True))
        left = " > ".join(step.before + "+".join(genes) for step, genes in zip(self.steps, present, strict=True))
        steps = [
            Step(step.edit, tuple(dict.fromkeys(panel.token_of[gene] for gene in genes)), step.dose)
            for step, genes in zip(self.steps, present, strict=True)
        ]
        if anchor is not None and all(anchor not in step.tokens for step in steps):
            steps[0] = replace(steps[0], tokens=(anchor, *steps[0].tokens))  # it joins the genes of the first edit
        return Perturbation(self.label if whole or self.name is not None else left, tuple(steps))


def _read_entry(entry: str, options: PerturbOptions) -> _Entry:
    name, equals, written = entry.rpartition("=")
    if equals and not name.strip():
        msg = f'"{entry}" has no name before "=". Write name=GENE+GENE, or leave "=" out.'
        raise OptionError(msg)
    if written.strip().lower() == ALL:
        msg = f'"{entry}" is not clear. Write "{ALL}" for every gene, or the Ensembl id of the gene that is meant.'
        raise OptionError(msg)
    steps = tuple(_read_step(part.strip(), options) for part in written.split(">"))
    return _Entry(name.strip() if equals else None, written.strip(), steps)


def _read_step(text: str, options: PerturbOptions) -> _WrittenStep:
    before, colon, names = text.rpartition(":")
    edit, dose = (before.strip() if colon else options.edit), options.dose
    if "@" in edit:
        edit, _, number = (part.strip() for part in edit.partition("@"))
        if edit in ("delete", "overexpress"):
            msg = f'"{text}" has a dose, which "{edit}" does not take; "inhibit" and "activate" do.'
            raise OptionError(msg)
        try:
            dose = float(number)
        except ValueError as error:
            msg = f'"{text}" has the dose "{number}", which is no number. Write, for example, inhibit@0.25:ISG15.'
            raise OptionError(msg) from error
    check_choice("edit", edit, EDITS)
    check_range("dose", dose, above=0.0, high=1.0)
    return _WrittenStep(before + colon, edit, dose, tuple(name.strip() for name in names.split("+")))


def gene_tokens(names: Sequence[str], vocabulary: Vocabulary) -> tuple[int, ...]:
    """Token id of every name, each once."""
    return tuple(resolve_panel(names, vocabulary, unknown="error").tokens)


def _symbol(token: int, vocabulary: Vocabulary) -> str:
    return vocabulary.symbol_of(str(vocabulary.gene_of[token]))


def _check_room(perturbation: Perturbation, tokens: TokenizedDataset, model: PairedModel) -> None:
    """Something is left of a cell after deletions, and overexpressed genes fit into one."""
    n_special = sum(token is not None for token in (model.vocabulary.cls_id, model.vocabulary.eos_id))
    room = model.max_length - n_special
    added = {token for step in perturbation.steps if step.edit == "overexpress" for token in step.tokens}
    if len(added) > room:
        msg = f"{perturbation.name!r} overexpresses {len(added):,} genes at once; a cell has room for {room:,}."
        raise GroupTooLargeError(msg)
    longest = min(int(tokens.lengths.max(initial=0)), model.max_length) - n_special
    deleted = max((len(step.tokens) for step in perturbation.steps if step.edit == "delete"), default=0)
    if deleted >= max(longest, 1):
        msg = (
            f"{perturbation.name!r} deletes {deleted:,} genes at once, and the largest cell has {longest:,}: nothing "
            "would be left. Name fewer genes."
        )
        raise GroupTooLargeError(msg)


def _too_few_together(perturbation: Perturbation, tokens: TokenizedDataset, model: PairedModel, min_cells: int) -> str:
    """Why a perturbation is refused whose genes too few cells have all at once; nothing if enough do."""
    needed, added = set[int](), set[int]()
    for step in perturbation.steps:
        if step.edit == "overexpress":
            added |= set(step.tokens)
        else:
            needed |= set(step.tokens) - added
    if len(needed) < 2:
        return ""
    together = 0
    for packed in token_blocks(tokens, np.arange(len(tokens)), model):
        cell = packed.cells[np.isin(packed.input_ids, list(needed))]
        together += int((np.bincount(cell) == len(needed)).sum())
    if together >= min_cells:
        return ""
    return (
        f"{perturbation.name!r} needs cells that have all of its {len(needed)} genes at once; {together} of "
        f"{len(tokens):,} cells do, and min_cells={min_cells}. Name fewer genes together, or one at a time."
    )


def matched_perturbations(
    named: Sequence[Perturbation], tokens: TokenizedDataset, model: PairedModel, n_matched: int
) -> list[Perturbation]:
    """The same single edits of other genes, those of nearest mean rank first; no gene twice under one edit."""
    sums = _gene_sums(tokens, np.arange(len(tokens)), model)
    rank = sums.mean_rank
    single = [entry for entry in named if len(entry.steps) == 1 and len(entry.tokens) == 1]
    taken = {(entry.edit, entry.tokens[0]) for entry in single}
    names = {entry.name for entry in named}
    matched = []
    for entry in single:
        [step], [token] = entry.steps, entry.tokens
        is_free = np.array([(entry.edit, other) not in taken for other in range(len(rank))])
        usable = is_free & (sums.n_cells >= max(_LEAST_SHARE * sums.n_cells[token], 1))
        distance = np.where(usable, np.abs(rank - rank[token]), np.inf)
        near = np.argsort(distance, kind="stable")[:n_matched]
        for other in near[np.isfinite(distance[near])].tolist():
            taken.add((entry.edit, other))
            gene = str(model.vocabulary.gene_of[other])
            name = f"{entry.edit}:{gene}" if gene in names else gene
            names.add(name)
            matched.append(Perturbation(name, (replace(step, tokens=(other,)),)))
    return matched


def gene_table(tokens: TokenizedDataset, perturbed: Ints, of_state: Mapping[str, Ints], model: PairedModel) -> pa.Table:
    """Genes found in any of the cells; columns as in `PerturbationEffects.genes`."""
    vocabulary = model.vocabulary
    sums = _gene_sums(tokens, perturbed, model)
    is_expressed = sums.n_cells > 0
    by_state: dict[str, NDArray[np.float64]] = {}
    for state, rows in of_state.items():
        in_state = _gene_sums(tokens, rows, model)
        kind, totals = (
            ("expression", in_state.log_counts) if tokens.has_counts else ("rank", in_state.n_cells - in_state.ranks)
        )
        by_state[f"{kind}:{state}"] = totals / max(len(rows), 1)
        is_expressed |= in_state.n_cells > 0
    is_expressed[vocabulary.special_ids] = False
    ids = np.flatnonzero(is_expressed)
    names = [str(gene) for gene in vocabulary.gene_of[ids]]
    return pa.table(
        {
            "gene": pa.array(names, pa.string()),
            "symbol": pa.array([vocabulary.symbol_of(name) for name in names], pa.string()),
            "token": pa.array(ids.astype(np.int32)),
            "n_cells": pa.array(sums.n_cells[ids].astype(np.int64)),
            "mean_rank": pa.array(sums.mean_rank[ids]),
            **{name: pa.array(values[ids]) for name, values in by_state.items()},
        }
    )


class _GeneSums(NamedTuple):
    """Over some cells and by token, ``(V,)`` each: cells that have it, its relative ranks, its log1p counts."""

    n_cells: NDArray[np.float64]
    ranks: NDArray[np.float64]
    log_counts: NDArray[np.float64]

    @property
    def mean_rank(self) -> NDArray[np.float64]:
        """0 = highest, 1 = lowest, over the cells that have the gene; NaN where there is none."""
        means = np.full(len(self.ranks), np.nan)
        np.divide(self.ranks, self.n_cells, out=means, where=self.n_cells > 0)
        return means


def _gene_sums(tokens: TokenizedDataset, rows: Ints, model: PairedModel) -> _GeneSums:
    size = model.vocabulary.size
    sums = _GeneSums(*np.zeros((3, size)))
    for packed in token_blocks(tokens, rows, model, counts=tokens.has_counts):
        is_gene = ~np.isin(packed.input_ids, model.vocabulary.special_ids)
        ids, cell = packed.input_ids[is_gene], packed.cells[is_gene]
        n_genes = np.bincount(cell, minlength=len(packed.lengths))
        rank = np.arange(len(ids)) - np.repeat(np.cumsum(n_genes) - n_genes, n_genes)
        sums.n_cells[:] += np.bincount(ids, minlength=size)
        sums.ranks[:] += np.bincount(ids, weights=rank / np.maximum(n_genes[cell] - 1, 1), minlength=size)
        if packed.counts is not None:
            sums.log_counts[:] += np.bincount(ids, weights=np.log1p(packed.counts[is_gene]), minlength=size)
    return sums


@dataclass(frozen=True, slots=True)
class Cost:
    """What a run will take; bytes and rows are estimates."""

    cells: int
    perturbations: int
    passes: int
    tokens: int
    seconds: float | None
    rows: int
    bytes_on_disk: int
    peak_bytes: int


def estimate_cost(plan: PerturbationPlan, *, calibrate: bool = True, sample: int = 64) -> Cost:
    """What a run will take, from some of its cells; with calibration a few edits are run first."""
    rows, options = plan.cells.rows, plan.options
    counted = rows[np.unique(np.linspace(0, len(rows) - 1, min(sample, len(rows))).astype(np.int64))]
    passes = tokens = other_genes = 0
    edits: list[tuple[Ints, Perturbation]] = []
    special = plan.model.vocabulary.special_ids.tolist()
    for cell in plan.token_rows(counted):
        for edit in possible_edits([cell], [plan.targets.of_cell(cell)], plan.model):
            passes, tokens = passes + 1, tokens + len(edit.edited.tokens)
            if options.gene_effects:
                other_genes += int((~np.isin(edit.edited.tokens, [*edit.perturbation.tokens, *special])).sum())
            if len(edits) < _CALIBRATED:
                edits.append((cell, edit.perturbation))
    if options.method == SCREEN:
        # A screen goes over every cell, and runs all edits of the checked cells and the strongest ones of the others.
        per_cell = max(passes / max(len(counted), 1), 1)
        checked = min(options.check_cells, len(rows)) / max(len(rows), 1)
        share = checked + (1 - checked) * min(options.verify / per_cell, 1) + _SCREEN_PASSES / per_cell
        passes, tokens, other_genes = int(passes * share), int(tokens * share), 0
    factor = len(rows) / max(len(counted), 1)
    per_edit = max(len(options.states), 1) + len(plan.model.classes)
    n_rows = int(passes * factor * per_edit) + int(other_genes * factor)
    network, runtime = plan.model.network, plan.runtime
    weights = sum(value.numel() * value.element_size() for value in network.state_dict().values())
    budget = runtime.tokens_per_batch or tokens_that_fit(network, resolve_device(runtime.device))
    longest = min(int(plan.tokens.lengths[rows].max()), plan.model.max_length)
    return Cost(
        cells=len(rows),
        perturbations=len(plan.targets.named) + (0 if plan.targets.every is None else len(plan.targets.every)),
        passes=int(passes * factor),
        tokens=int(tokens * factor),
        seconds=_seconds_per_token(plan, edits) * tokens * factor if calibrate and edits else None,
        rows=n_rows,
        bytes_on_disk=n_rows * _BYTES_PER_ROW,
        peak_bytes=weights + bytes_per_token(network) * max(budget, longest),
    )


def _seconds_per_token(plan: PerturbationPlan, edits: list[tuple[Ints, Perturbation]]) -> float:
    """Time per token of edited cells, of the second of two runs."""
    n_states, width = len(plan.options.states), plan.model.encoder.config.hidden_size
    any_states = np.ones((n_states, width), dtype=np.float32) if n_states else None
    runner = ExactRunner(plan.model, plan.options, plan.runtime, any_states)
    cells = [cell for cell, _ in edits]
    seconds = 0.0
    for _ in range(2):
        started = time.perf_counter()
        runner.run(cells, possible_edits(cells, [[p] for _, p in edits], plan.model), lambda *_: None)
        seconds = time.perf_counter() - started
    return seconds / (2 * sum(map(len, cells)))  # the unedited cells were read as well
