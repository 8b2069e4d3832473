"""Run a perturbation plan: shard by shard, in memory or into a folder that survives being killed."""

import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import torch
from numpy.typing import NDArray
from pyarrow import parquet

from geneformer.engine.device import resolve_device, verify_placement
from geneformer.errors import DatasetError, OptionError, OutputExistsError, RunMismatchError
from geneformer.files.atomic import (
    JOURNAL,
    LOCK,
    Journal,
    atomic_file,
    atomic_folder,
    check_output,
    lock,
    output_errors,
    partial_folder,
    publish_folder,
    refuse_overlap,
)
from geneformer.files.manifest import InputFile, Manifest
from geneformer.files.progress import Progress
from geneformer.perturbation.edits import Ints, Perturbation
from geneformer.perturbation.effects import (
    EFFECT_COLUMNS,
    EXACT,
    GENE_SIMILARITY,
    PROBABILITY_SHIFT,
    SCREEN,
    SHIFT,
    SIMILARITY,
    PerturbationEffects,
)
from geneformer.perturbation.exact import Edit, Effects, ExactRunner, Pairs, possible_edits
from geneformer.perturbation.plan import PerturbationPlan
from geneformer.perturbation.screen import agreement, head_of, screen_deletions

if TYPE_CHECKING:
    import pandas as pd

KINDS = (SIMILARITY, SHIFT, PROBABILITY_SHIFT, GENE_SIMILARITY)
"""Order of the effects of one edit."""

TOP = 50
"""Genes among which the recall of a screen is measured."""

WHOLE = (1, 1)
"""The only part of a run that was not divided."""

Finished = Callable[[int], pa.Table]
"""Table of a shard that was finished before."""


def run_plan(plan: PerturbationPlan, *, progress: Progress | None = None) -> PerturbationEffects:
    """All effects, in memory."""
    tables: list[pa.Table] = []
    for shard in range(plan.n_steps):
        tables.append(run_shard(plan, shard, tables.__getitem__))
        if progress is not None:
            progress(shard + 1, plan.n_steps)
    return _assembled(plan, tables)


def _assembled(plan: PerturbationPlan, tables: Sequence[pa.Table], **provenance: Any) -> PerturbationEffects:
    """The tables of shards, in their order, as effects; for a screen with how well its estimates agree."""
    effects = pa.concat_tables(tables).unify_dictionaries()
    screen = {"screen": screen_agreement(plan, effects)} if plan.options.method == SCREEN else {}
    notes = {**plan.provenance, **screen, **provenance}
    return PerturbationEffects(effects, plan.cell_table, plan.genes, plan.state_vectors, notes)


def run_to_folder(
    plan: PerturbationPlan,
    output: str | Path,
    *,
    part: tuple[int, int] = WHOLE,
    resume: bool = False,
    overwrite: bool = False,
    inputs: Sequence[InputFile] = (),
    progress: Progress | None = None,
) -> Path:
    """All effects, or one part of several, into a folder that appears when it is complete."""
    output = check_output(output, overwrite=overwrite)
    _check_part(part, plan)
    partial = partial_folder(output)
    shards = range(part[0] - 1, plan.n_steps, part[1])
    paths = {shard: partial / f"shard-{shard:06d}.parquet" for shard in shards}

    def read(shard: int) -> pa.Table:
        return parquet.read_table(paths[shard], memory_map=True)

    identity = {**plan.identity, "part": list(part)}
    if not (partial / LOCK).exists():
        _check_journal(partial, identity, resume=resume, overwrite=overwrite)  # before anything is written
    with output_errors(output):
        partial.mkdir(exist_ok=True)
        with lock(partial / LOCK):
            journal = _journal(partial, identity, resume=resume, overwrite=overwrite)
            check_output(output, overwrite=overwrite)  # another process may have finished it before the lock was free
            found = {entry["shard"] for entry in journal.entries} & paths.keys()
            done = {shard for shard in found if _is_complete(paths[shard])}
            for number, shard in enumerate(shards):
                if shard not in done:
                    table = run_shard(plan, shard, read)
                    with atomic_file(paths[shard], overwrite=True) as temporary:
                        parquet.write_table(table, temporary)
                    journal.append({"shard": shard})
                if progress is not None:
                    progress(number + 1, len(shards))
            tables = [read(shard) for shard in shards]
            sizes = [[shard, table.num_rows] for shard, table in zip(shards, tables, strict=True)]
            effects = _assembled(plan, tables, run=plan.identity, part=list(part), shards=sizes)
            finished = partial / "finished"
            shutil.rmtree(finished, ignore_errors=True)
            finished.mkdir()
            _save(effects, finished, inputs)
            publish_folder(finished, output)
    shutil.rmtree(partial, ignore_errors=True)
    return output


def merge_runs(folders: Sequence[str | Path], output: str | Path, *, overwrite: bool = False) -> Path:
    """Parts of one run, made on several machines, as the folder one machine would have made."""
    if not folders:
        msg = "No part is given. Pass the folders of all parts of a run."
        raise OptionError(msg)
    refuse_overlap([output], folders)
    parts = [PerturbationEffects.read(folder) for folder in folders]
    _check_parts(parts, folders)
    pieces: dict[int, pa.Table] = {}
    for part in parts:
        start = 0
        for shard, n_rows in part.provenance["shards"]:
            pieces[shard] = part.effects.slice(start, n_rows)
            start += n_rows
    first = parts[0]
    effects = pa.concat_tables([pieces[shard] for shard in sorted(pieces)]).unify_dictionaries()
    shards = [[shard, pieces[shard].num_rows] for shard in sorted(pieces)]
    provenance = {**first.provenance, "part": list(WHOLE), "shards": shards}
    merged = PerturbationEffects(effects, first.cells, first.genes, first.states, provenance)
    with atomic_folder(output, overwrite=overwrite) as temporary:
        _save(merged, temporary)
    return Path(output)


def _check_part(part: tuple[int, int], plan: PerturbationPlan) -> None:
    (number, parts), n_shards = part, plan.n_shards
    if parts > 1 and plan.options.method == SCREEN:
        msg = (
            'A screen ranks the genes of all cells, so that it runs as one part. Leave out part, or use method="exact".'
        )
        raise OptionError(msg)
    if not 1 <= number <= parts:
        most = max(parts, 1)
        msg = f"part {number} of {parts} does not exist. Count from 1: 1/{most} to {most}/{most}."
        raise OptionError(msg)
    if parts > n_shards:
        msg = f"The run has {n_shards} shards, too few for {parts} parts. Lower cells_per_shard, or make fewer parts."
        raise OptionError(msg)


def _tells_its_part(part: PerturbationEffects) -> bool:
    """Whether effects say which part of which run they are, and of which shards their rows are."""
    number, shards = part.provenance.get("part"), part.provenance.get("shards")
    pairs: list[Any] = [number, *shards] if isinstance(shards, list) else [None]
    whole = all(isinstance(pair, list) and len(pair) == 2 and all(type(n) is int for n in pair) for pair in pairs)
    return whole and "run" in part.provenance and sum(pair[1] for pair in pairs[1:]) == len(part)


def _check_parts(parts: Sequence[PerturbationEffects], folders: Sequence[str | Path]) -> None:
    for folder, part in zip(folders, parts, strict=True):
        if not _tells_its_part(part):
            msg = f'"{folder}" does not say which part of a run it is. Pass folders that `perturb run` finished.'
            raise DatasetError(msg)
        if part.provenance["run"] != parts[0].provenance["run"]:
            msg = f'"{folder}" is a part of another run than "{folders[0]}": cells, options or weights differ.'
            raise RunMismatchError(msg)
    numbers, totals = zip(*(part.provenance["part"] for part in parts), strict=True)
    total = totals[0]
    for folder, of in zip(folders, totals, strict=True):
        if of != total:
            msg = f'"{folder}" is one of {of} parts, "{folders[0]}" one of {total}.'
            raise RunMismatchError(msg)
    missing = sorted(set(range(1, total + 1)) - set(numbers))
    if missing or len(numbers) != total:
        twice = sorted({number for number in numbers if numbers.count(number) > 1})
        msg = f"The run has {total} parts; missing are {missing or 'none'}, given twice {twice or 'none'}."
        raise RunMismatchError(msg)


def _check_journal(partial: Path, identity: dict[str, Any], *, resume: bool, overwrite: bool) -> bool:
    """Whether a run that was broken off is taken up again."""
    path = partial / JOURNAL
    if not Journal.has_entries(path) or (overwrite and not resume):
        return False
    if not resume:
        msg = (
            f'An interrupted run lies in "{partial}". Go on with it by --resume (resume=True), or drop '
            "it with --overwrite (overwrite=True). "
            "Nothing was changed."
        )
        raise OutputExistsError(msg)
    entries = Journal.read(path, identity)[1:]
    if not all(type(entry.get("shard")) is int for entry in entries):
        msg = f'The journal in "{partial}" is damaged. Start over with --overwrite (overwrite=True).'
        raise RunMismatchError(msg)
    return True


def _journal(partial: Path, identity: dict[str, Any], *, resume: bool, overwrite: bool) -> Journal:
    """The journal of a new run, or of the one that is taken up again."""
    if not _check_journal(partial, identity, resume=resume, overwrite=overwrite):
        (partial / JOURNAL).unlink(missing_ok=True)
    return Journal(partial / JOURNAL, identity)


def _is_complete(path: Path) -> bool:
    """Whether a shard that was written is still there, to its end."""
    try:
        parquet.read_metadata(path)
    except (FileNotFoundError, pa.ArrowInvalid):
        return False
    return True


def _save(effects: PerturbationEffects, folder: Path, inputs: Sequence[InputFile] = ()) -> None:
    """The tables, and the manifest of the run."""
    effects.save(folder)
    provenance = effects.provenance
    Manifest(
        task="perturb",
        vocabulary=provenance["vocabulary_fingerprint"],
        inputs=tuple(inputs),
        options={"perturb": provenance["perturb"]},
        results={
            "cells": effects.cells.num_rows,
            "effects": len(effects),
            "part": provenance["part"],
            **({"panel": provenance["panel"]} if "panel" in provenance else {}),
        },
    ).write(folder)


def run_shard(plan: PerturbationPlan, shard: int, finished: Finished) -> pa.Table:
    """Effects of one shard."""
    rows = plan.rows_of(shard % plan.n_shards)
    if plan.options.method != SCREEN:
        return exact_effects(plan, rows, [plan.targets.of_cell(cell) for cell in plan.token_rows(rows)])
    if shard < plan.n_shards:
        return screened_effects(plan, rows)
    # Again over the cells, now exactly: the strongest genes everywhere, every gene in the cells that check the screen.
    strongest = strongest_genes(plan, [finished(number) for number in range(plan.n_shards)])
    checked = set(check_rows(plan).tolist())
    perturbations = [
        [p for p in plan.targets.of_cell(cell) if row in checked or p.tokens[0] in strongest]
        for row, cell in zip(rows.tolist(), plan.token_rows(rows), strict=True)
    ]
    return exact_effects(plan, rows, perturbations)


def exact_effects(plan: PerturbationPlan, rows: Ints, perturbations: Sequence[Sequence[Perturbation]]) -> pa.Table:
    """Effects of some perturbations of each of some cells."""
    cells, states = plan.token_rows(rows), plan.state_vectors
    runner = ExactRunner(plan.model, plan.options, plan.runtime, np.stack(list(states.values())) if states else None)
    effects = EffectRows(plan, rows, EXACT)
    runner.run(cells, possible_edits(cells, perturbations, plan.model), effects.take)
    return effects.table()


def screened_effects(plan: PerturbationPlan, rows: Ints) -> pa.Table:
    """Estimated effects of deleting every gene of some cells."""
    device, model, options = resolve_device(plan.runtime.device), plan.model, plan.options
    model.network.to(device)
    verify_placement(model.network, device)
    vectors = list(plan.state_vectors.values())
    states = torch.as_tensor(np.stack(vectors), device=device) if vectors else None
    effects = EffectRows(plan, rows, SCREEN)
    for place, cell in enumerate(plan.token_rows(rows)):
        ids = torch.as_tensor(cell, device=device)
        screened = screen_deletions(
            model.encoder,
            ids,
            layer=options.layer,
            pooling=options.pooling,
            special_ids=model.vocabulary.special_ids.tolist(),
            states=states,
            head=None if model.classifier is None else head_of(model.classifier, ids, model.temperature),
            probes=0 if vectors else None,
            seed=options.seed,
        )
        by_token = {perturbation.tokens[0]: perturbation for perturbation in plan.targets.of_cell(cell)}
        tokens = cell[screened.places]
        asked = np.isin(tokens, list(by_token))
        numbers = len(effects.edits) + np.arange(asked.sum())
        named = [(place, by_token[token]) for token in tokens[asked].tolist()]
        effects.edits |= dict(zip(numbers.tolist(), named, strict=True))
        similarity = None if screened.similarity is None else screened.similarity[None]
        kinds = (SIMILARITY, similarity), (SHIFT, screened.shifts), (PROBABILITY_SHIFT, screened.probability_shifts)
        for kind, values in kinds:
            if values is not None:
                effects.add(numbers, kind, values[:, asked].T)
    return effects.table()


def strongest_genes(plan: PerturbationPlan, screened: Sequence[pa.Table]) -> set[int]:
    """Token ids of the genes with the strongest estimated effect, averaged over the cells that have them."""
    frame = _main_effects(plan, pa.concat_tables(screened))
    names, place = np.unique(frame["genes"].astype(str), return_inverse=True)
    means = np.abs(np.bincount(place, weights=frame["value"].to_numpy(np.float64)) / np.bincount(place))
    best = names[np.argsort(-means, kind="stable")[: plan.options.verify]]
    return {plan.model.vocabulary.token_of[name] for name in best.tolist()}


def _main_effects(plan: PerturbationPlan, effects: pa.Table) -> "pd.DataFrame":
    """The effects genes are ranked by: shifts towards the goal, or else distances."""
    columns = ["cell_id", "genes", "effect", "target", "value", "method"]
    kind, target = (SIMILARITY, "") if plan.options.goal is None else (SHIFT, plan.options.goal)
    frame: pd.DataFrame = effects.select(columns).to_pandas()
    frame = frame[(frame["effect"] == kind) & (frame["target"] == target)]
    return frame.assign(value=1 - frame["value"].astype(np.float64)) if kind == SIMILARITY else frame


def check_rows(plan: PerturbationPlan) -> Ints:
    """Rows of the cells in which a screen runs every gene exactly as well."""
    rows = plan.cells.rows
    n_checked = min(plan.options.check_cells, len(rows))
    return np.sort(np.random.default_rng([plan.options.seed, 1]).choice(rows, n_checked, replace=False))


def screen_agreement(plan: PerturbationPlan, effects: pa.Table) -> dict[str, Any]:
    """How well the estimates agree with exact effects, in the cells where every gene was run exactly."""
    frame = _main_effects(plan, effects)
    names = plan.tokens.cell_ids[check_rows(plan)].astype(str)
    frame = frame[frame["cell_id"].isin(names)].astype({"method": str, "cell_id": str, "genes": str})
    wide = frame.pivot_table(index=["cell_id", "genes"], columns="method", values="value", sort=False).dropna()
    if len(wide) < 2 or SCREEN not in wide or EXACT not in wide:
        return {"cells": 0}
    cells = [
        agreement(part[SCREEN].to_numpy(), part[EXACT].to_numpy(), TOP)
        for _, part in wide.groupby(level="cell_id")
        if len(part) > 1
    ]
    means = wide.groupby(level="genes").mean()
    overall = agreement(means[SCREEN].to_numpy(), means[EXACT].to_numpy(), TOP)
    return {
        "cells": len(cells),
        "spearman": float(np.mean([cell["spearman"] for cell in cells])),
        f"recall_of_top_{TOP}": float(np.mean([cell["strongest"] for cell in cells])),
        "spearman_of_means": overall["spearman"],
        f"recall_of_top_{TOP}_of_means": overall["strongest"],
    }


EFFECTS_SCHEMA = pa.schema(
    [(name, pa.float32() if name == "value" else pa.dictionary(pa.int32(), pa.string())) for name in EFFECT_COLUMNS]
)
"""Columns of a table of effects: repeated texts once, numbers in float32."""


class EffectRows:
    """Rows of one shard as they come in, edit by edit."""

    def __init__(self, plan: PerturbationPlan, rows: Ints, method: str) -> None:
        self.plan, self.method = plan, method
        self.cell_ids = plan.tokens.cell_ids[rows]
        self.edits: dict[int, tuple[int, Perturbation]] = {}
        self._parts: list[tuple[Ints, Ints, Ints, NDArray[np.float32]]] = []

    def take(self, edits: Sequence[Edit], effects: Effects, pairs: Pairs) -> None:
        """Keep the effects of a batch."""
        self.edits |= {edit.number: (edit.cell, edit.perturbation) for edit in edits}
        numbers = np.array([edit.number for edit in edits], dtype=np.int64)
        similarity = None if effects.similarity is None else effects.similarity[:, None]
        kinds = (SIMILARITY, similarity), (SHIFT, effects.shifts), (PROBABILITY_SHIFT, effects.proba_shifts)
        for kind, values in kinds:
            if values is not None:
                self.add(numbers, kind, values.cpu().numpy())
        if effects.genes is not None:
            other = (pairs.weight > 0).cpu().numpy()
            tokens = np.concatenate([edit.edited.tokens for edit in edits])
            of_edit = numbers[pairs.cell.cpu().numpy()]
            self._add(of_edit[other], GENE_SIMILARITY, tokens[other], effects.genes.cpu().numpy()[other])

    def add(self, numbers: Ints, kind: str, values: NDArray[np.float32]) -> None:
        """Keep effects of one kind, ``(edits, targets)``."""
        n_edits, n_targets = values.shape
        self._add(np.repeat(numbers, n_targets), kind, np.tile(np.arange(n_targets), n_edits), values.ravel())

    def _add(self, numbers: Ints, kind: str, targets: Ints, values: NDArray[np.float32]) -> None:
        kinds = np.full(len(numbers), KINDS.index(kind))
        self._parts.append((numbers, kinds, targets, values.astype(np.float32)))

    def table(self) -> pa.Table:
        """All rows: cell by cell, edit by edit, effect by effect, in the order of states, classes and tokens."""
        if not self._parts:
            return EFFECTS_SCHEMA.empty_table()
        columns = [np.concatenate(parts) for parts in zip(*self._parts, strict=True)]
        numbers, kinds, targets, values = (column[np.lexsort(columns[2::-1])] for column in columns)
        edits = sorted(self.edits)
        place = np.searchsorted(edits, numbers)
        of_edit = [self.edits[number] for number in edits]
        # Names of targets one after the other: none for similarity, then states, classes and genes.
        genes = self.plan.model.vocabulary.gene_of
        states, classes = list(self.plan.state_vectors), self.plan.model.classes
        first = np.cumsum([0, 1, len(states), len(classes)])
        texts = {
            "cell_id": _texts([str(self.cell_ids[cell]) for cell, _ in of_edit], place),
            "perturbation": _texts([perturbation.name for _, perturbation in of_edit], place),
            "genes": _texts(["+".join(str(genes[t]) for t in p.tokens) for _, p in of_edit], place),
            "edit": _texts([perturbation.edit for _, perturbation in of_edit], place),
            "effect": _texts(KINDS, kinds),
            "target": _texts(["", *states, *classes, *map(str, genes)], first[kinds] + targets),
            "value": pa.array(values),
            "method": _texts([self.method], np.zeros(len(numbers), np.int64)),
        }
        return pa.table(texts, schema=EFFECTS_SCHEMA)


def _texts(names: Sequence[str], rows: Ints) -> pa.Array:
    """One of several texts per row; texts that no row has, and repetitions, are left out."""
    used, place = np.unique(rows, return_inverse=True)
    texts = [names[row] for row in used.tolist()]
    number = {text: place for place, text in enumerate(dict.fromkeys(texts))}
    numbers = np.array([number[text] for text in texts], dtype=np.int32)
    return pa.DictionaryArray.from_arrays(pa.array(numbers[place]), pa.array(list(number), pa.string()))
