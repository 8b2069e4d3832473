"""Run a perturbation plan: shard by shard, in memory or into a folder that survives being killed."""

import shutil
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pyarrow as pa
from pyarrow import parquet

from geneformer.errors import DatasetError, OptionError, OutputExistsError, RunMismatchError
from geneformer.results.perturbation import SCREEN, PerturbationEffects
from geneformer.runs.files import atomic_file, atomic_folder, check_output, lock, output_errors, publish_folder
from geneformer.runs.journal import Journal
from geneformer.runs.manifest import Manifest
from geneformer.tasks.perturbation.plan import PerturbationPlan
from geneformer.tasks.perturbation.shards import count_shards, run_shard, screen_agreement

Progress = Callable[[int, int | None], None]

WHOLE = (1, 1)
"""The part of a run that is all of it."""


def run_plan(plan: PerturbationPlan, *, progress: Progress | None = None) -> PerturbationEffects:
    """All effects, in memory.

    Parameters
    ----------
    plan
        The run.
    progress
        Called with the shards done and the shards in all.
    """
    tables: list[pa.Table] = []
    total = count_shards(plan)
    for shard in range(total):
        tables.append(run_shard(plan, shard, tables.__getitem__))
        if progress is not None:
            progress(shard + 1, total)
    effects = pa.concat_tables(tables).unify_dictionaries()
    told = _with_agreement(plan, effects)
    return PerturbationEffects(effects, plan.cell_table, plan.genes, plan.state_vectors, told)


def _with_agreement(plan: PerturbationPlan, effects: pa.Table) -> dict[str, Any]:
    """Provenance; for a screen with what its estimates were worth."""
    told = plan.provenance
    return {**told, "screen": screen_agreement(plan, effects)} if plan.options.method == SCREEN else told


def run_to_folder(
    plan: PerturbationPlan,
    output: str | Path,
    *,
    part: tuple[int, int] = WHOLE,
    resume: bool = False,
    overwrite: bool = False,
    progress: Progress | None = None,
) -> Path:
    """All effects, or one part of several, into a folder that appears when it is complete.

    Until then finished shards lie in `<output>.partial` with a journal; a run that was killed goes on from there with
    `resume`, to the same bytes.

    Parameters
    ----------
    plan
        The run.
    output
        Folder to make.
    part
        Which of how many parts, counted from 1; parts are put together by `merge_runs`.
    resume
        Go on with a run that was interrupted, if there is one.
    overwrite
        Replace a folder this package made, and drop an interrupted run.
    progress
        Called with the shards done and the shards in all.

    Raises
    ------
    OutputExistsError
        The folder exists, or an interrupted run lies beside it, and neither `resume` nor `overwrite` was given.
    RunMismatchError
        The interrupted run was made from other cells, options or weights.
    RunLockedError
        Another process writes the same folder.
    """
    output = check_output(output, overwrite=overwrite)
    _check_part(part, plan)
    total = count_shards(plan)
    partial = output.with_name(output.name + ".partial")
    mine = list(range(part[0] - 1, total, part[1]))
    identity = {**plan.identity, "part": list(part)}
    with output_errors(output):
        partial.mkdir(exist_ok=True)
        with lock(partial / "lock"), _journal(partial, identity, resume=resume, overwrite=overwrite) as journal:
            check_output(output, overwrite=overwrite)  # another process may have finished it before the lock was free
            done = {shard for shard in (int(entry["shard"]) for entry in journal.entries) if _is_whole(partial, shard)}
            for number, shard in enumerate(mine):
                if shard not in done:
                    _write_shard(partial, shard, run_shard(plan, shard, lambda number: _read_shard(partial, number)))
                    journal.append({"shard": shard})
                if progress is not None:
                    progress(number + 1, len(mine))
            _publish(plan, partial, output, mine, part)
    shutil.rmtree(partial, ignore_errors=True)
    return output


def merge_runs(folders: Sequence[str | Path], output: str | Path, *, overwrite: bool = False) -> Path:
    """Parts of one run, made on several machines, as the folder one machine would have made.

    Parameters
    ----------
    folders
        Every part, in any order.
    output
        Folder to make.
    overwrite
        Replace a folder this package made.

    Raises
    ------
    OptionError
        No folders.
    RunMismatchError
        Parts of different runs, a part given twice, or one that is missing.
    DatasetError
        A folder that is no finished part.
    """
    if not folders:
        msg = "No part is given. Pass the folders of all parts of a run."
        raise OptionError(msg)
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
        merged.save(temporary)
        _manifest(merged).write(temporary)
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


def _check_parts(parts: Sequence[PerturbationEffects], folders: Sequence[str | Path]) -> None:
    for folder, part in zip(folders, parts, strict=True):
        if not {"run", "part", "shards"} <= part.provenance.keys():
            msg = f'"{folder}" does not tell which part of a run it is. Pass folders that `perturb run` finished.'
            raise DatasetError(msg)
        if part.provenance["run"] != parts[0].provenance["run"]:
            msg = f'"{folder}" is a part of another run than "{folders[0]}": cells, options or weights differ.'
            raise RunMismatchError(msg)
    numbers = [part.provenance["part"][0] for part in parts]
    total = parts[0].provenance["part"][1]
    for folder, part in zip(folders, parts, strict=True):
        if part.provenance["part"][1] != total:
            msg = f'"{folder}" is one of {part.provenance["part"][1]} parts, "{folders[0]}" one of {total}.'
            raise RunMismatchError(msg)
    missing = sorted(set(range(1, total + 1)) - set(numbers))
    if missing or len(numbers) != total:
        twice = sorted({number for number in numbers if numbers.count(number) > 1})
        msg = f"The run has {total} parts; missing are {missing or 'none'}, given twice {twice or 'none'}."
        raise RunMismatchError(msg)


@contextmanager
def _journal(partial: Path, identity: dict[str, Any], *, resume: bool, overwrite: bool) -> Iterator[Journal]:
    """The journal of a new run, or of the one that is taken up again."""
    path = partial / "journal.jsonl"
    if overwrite and not resume:
        path.unlink(missing_ok=True)
    elif Journal.has_entries(path) and not resume:
        msg = (
            f'An interrupted run lies in "{partial}". Go on with it by --resume, or drop it with --overwrite. '
            "Nothing was changed."
        )
        raise OutputExistsError(msg)
    elif path.exists() and not Journal.has_entries(path):
        path.unlink()
    yield Journal(path, identity)


def _shard_path(partial: Path, shard: int) -> Path:
    return partial / f"shard-{shard:06d}.parquet"


def _is_whole(partial: Path, shard: int) -> bool:
    """Whether a shard that was written is still there, to its end."""
    try:
        parquet.read_metadata(_shard_path(partial, shard))
    except (FileNotFoundError, pa.ArrowInvalid):
        return False
    return True


def _write_shard(partial: Path, shard: int, table: pa.Table) -> None:
    with atomic_file(_shard_path(partial, shard), overwrite=True) as temporary:
        parquet.write_table(table, temporary)


def _read_shard(partial: Path, shard: int) -> pa.Table:
    return parquet.read_table(_shard_path(partial, shard), memory_map=True)


def _publish(plan: PerturbationPlan, partial: Path, output: Path, shards: Sequence[int], part: tuple[int, int]) -> None:
    """Put the shards together, in order, and give the folder its name."""
    tables = [_read_shard(partial, shard) for shard in shards]
    effects = pa.concat_tables(tables).unify_dictionaries()
    provenance = {
        **_with_agreement(plan, effects),
        "run": plan.identity,
        "part": list(part),
        "shards": [[shard, table.num_rows] for shard, table in zip(shards, tables, strict=True)],
    }
    found = PerturbationEffects(effects, plan.cell_table, plan.genes, plan.state_vectors, provenance)
    finished = partial / "finished"
    shutil.rmtree(finished, ignore_errors=True)
    finished.mkdir()
    found.save(finished)
    _manifest(found).write(finished)
    publish_folder(finished, output)


def _manifest(found: PerturbationEffects) -> Manifest:
    told = found.provenance
    return Manifest(
        task="perturb",
        vocabulary=told["vocabulary_fingerprint"],
        options={"perturb": told["perturb"]},
        results={"cells": found.cells.num_rows, "effects": len(found), "part": told["part"]},
    )
