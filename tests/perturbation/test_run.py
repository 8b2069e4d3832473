"""Runs give the same numbers however they are cut up, and survive being stopped, killed and out of disk."""

import errno
import json
import subprocess
import sys
from copy import deepcopy
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
import torch
from pyarrow import parquet

from geneformer.errors import (
    DatasetError,
    OptionError,
    OutputError,
    OutputExistsError,
    RunLockedError,
    RunMismatchError,
)
from geneformer.files.manifest import Manifest
from geneformer.perturbation import run
from geneformer.perturbation.effects import PerturbationEffects
from geneformer.perturbation.run import merge_runs, run_plan, run_to_folder
from geneformer.tokens.dataset import TokenizedDataset
from geneformer.tokens.storage import read_dataset, write_dataset
from small_plans import frame_of, planned, small_cells, small_model

pytestmark = pytest.mark.contract

STATES = {"start": "sick", "goal": "well", "state_key": "kind"}
TABLES = ["cells.parquet", "effects.parquet", "genes.parquet", "states.parquet"]
HERE = Path(__file__).parent


def same(one, other):
    """Same rows in the same order; values to within rounding."""
    one, other = frame_of(one), frame_of(other)
    pd.testing.assert_frame_equal(one.drop(columns="value"), other.drop(columns="value"))
    np.testing.assert_allclose(one["value"], other["value"], atol=1e-6, rtol=0)


def contents(folder):
    """Bytes of every file; of the manifest all but the time."""
    found = {path.name: path.read_bytes() for path in sorted(folder.iterdir())}
    manifest = json.loads(found.pop("geneformer_manifest.json"))
    manifest.pop("created")
    return found | {"manifest": manifest}


@pytest.fixture(scope="module")
def whole():
    """All deletions in all cells, in one shard."""
    return run_plan(planned(**STATES, cells_per_shard=137))


@pytest.fixture(scope="module")
def plan():
    """Shards 0 to 4, four cells of the start state and of length 17 at most."""
    return planned(small_cells(10, 17), genes=("all",), **STATES, cells_per_shard=1, gene_effects=True)


@pytest.fixture(scope="module")
def finished(plan, tmp_path_factory):
    return run_to_folder(plan, tmp_path_factory.mktemp("finished") / "whole")


@pytest.mark.parametrize(("per_shard", "per_batch"), [(1, None), (2, 30), (7, 10_000), (137, 1)])
def test_shards_and_batches_do_not_change_the_table(whole, per_shard, per_batch):
    found = run_plan(planned(**STATES, cells_per_shard=per_shard, tokens_per_batch=per_batch))
    assert len(found) > 100
    same(whole, found)
    assert found.cells.equals(whole.cells)
    pd.testing.assert_frame_equal(found.genes.to_pandas(), whole.genes.to_pandas())
    for state, vector in whole.states.items():
        np.testing.assert_allclose(found.states[state], vector, atol=1e-6)


@pytest.mark.parametrize("per_shard", [1, 3])
def test_gene_effects_of_groups_do_not_depend_on_shards_either(per_shard):
    [first, second, third] = [small_model().vocabulary.gene_of[token] for token in small_cells()[0][[1, 4, 9]]]
    options = {
        "genes": ("all", f"pair={first}+{second}", f"delete:{first} > overexpress:{third}", f"inhibit@0.5:{third}"),
        "gene_effects": True,
    }
    found = run_plan(planned(**options, cells_per_shard=per_shard, tokens_per_batch=45))
    same(run_plan(planned(**options, cells_per_shard=64)), found)
    assert {"pair", "similarity", "gene_similarity"} <= {*frame_of(found)["perturbation"], *frame_of(found)["effect"]}


def test_cells_in_another_order_give_their_rows_in_that_order(whole):
    order = np.random.default_rng(3).permutation(8)
    frame = frame_of(run_plan(planned(small_cells().take(order), **STATES, cells_per_shard=3)))
    wanted = frame_of(whole)
    cells = small_cells().cell_ids[order]
    wanted = pd.concat([wanted[wanted["cell_id"] == cell] for cell in cells], ignore_index=True)
    pd.testing.assert_frame_equal(frame.drop(columns="value"), wanted.drop(columns="value"))
    np.testing.assert_allclose(frame["value"], wanted["value"], atol=1e-6)


def test_progress_counts_to_the_end(plan, tmp_path):
    seen = []
    run_plan(plan, progress=lambda *told: seen.append(told))
    assert seen == [(number, 5) for number in range(1, 6)]
    seen.clear()
    run_to_folder(plan, tmp_path / "out", part=(2, 2), progress=lambda *told: seen.append(told))
    assert seen == [(1, 2), (2, 2)]


def test_a_folder_holds_what_memory_does(plan, finished):
    read, memory = PerturbationEffects.read(finished), run_plan(plan)
    assert frame_of(read).equals(frame_of(memory))
    assert read.cells.replace_schema_metadata().equals(memory.cells)
    assert {path.name for path in finished.iterdir()} == {*TABLES, "geneformer_manifest.json"}
    assert Manifest.read(finished).results == {"cells": 5, "effects": len(memory), "part": [1, 1]}
    assert [path.name for path in finished.parent.iterdir()] == ["whole"]


# Parts


@pytest.fixture(scope="module")
def parts(plan, tmp_path_factory):
    folder = tmp_path_factory.mktemp("parts")
    return [run_to_folder(plan, folder / f"part{i}", part=(i, 3)) for i in (1, 2, 3)]


@pytest.mark.parametrize("order", [(0, 1, 2), (2, 0, 1), (1, 2, 0)])
def test_merged_parts_are_the_whole_run(finished, parts, order, tmp_path):
    merged = merge_runs([parts[i] for i in order], tmp_path / "merged")
    found, wanted = contents(merged), contents(finished)
    for content in (found, wanted):  # the same but for the order of its dictionaries
        del content["effects.parquet"], content["manifest"]["outputs"]["effects.parquet"]
    assert found == wanted
    assert frame_of(PerturbationEffects.read(merged)).equals(frame_of(PerturbationEffects.read(finished)))


def test_parts_that_do_not_belong_together(plan, finished, parts, tmp_path):
    other = run_to_folder(planned(small_cells(9, 17), **STATES, cells_per_shard=1), tmp_path / "other", part=(3, 3))
    halves = [run_to_folder(plan, tmp_path / f"half{i}", part=(i, 2)) for i in (1, 2)]
    out = tmp_path / "merged"
    for folders, told in [
        ([*parts[:2], other], 'other" is a part of another run'),
        (parts[:2], r"has 3 parts; missing are \[3\]"),
        ([*parts, parts[1]], r"given twice \[2\]"),
        ([parts[0], parts[1], parts[1]], r"missing are \[3\], given twice \[2\]"),
        ([halves[1], parts[0]], "one of 3 parts.*one of 2"),
        ([parts[1], parts[2], halves[0]], "one of 2 parts.*one of 3"),
        ([finished, finished], r"given twice \[1\]"),
    ]:
        with pytest.raises(RunMismatchError, match=told):
            merge_runs(folders, out)
        assert not out.exists()
    with pytest.raises(OutputExistsError):
        merge_runs(parts, halves[0])


def test_folders_that_are_no_finished_parts(plan, parts, tmp_path):
    with pytest.raises(KeyboardInterrupt):
        run_to_folder(plan, tmp_path / "p", part=(3, 3), progress=stopping_after(1))
    empty, unlabeled = tmp_path / "empty", tmp_path / "unlabeled"
    empty.mkdir()
    unlabeled.mkdir()
    run_plan(plan).save(unlabeled)
    for folder in (tmp_path / "p.partial", tmp_path / "p", empty, unlabeled):
        with pytest.raises(DatasetError, match=folder.name):
            merge_runs([*parts[:2], folder], tmp_path / "merged")
    with pytest.raises(OptionError, match="No part"):
        merge_runs([], tmp_path / "merged")
    assert not (tmp_path / "merged").exists()


@pytest.mark.parametrize(
    ("part", "told"), [((0, 2), "1/2 to 2/2"), ((3, 2), "1/2 to 2/2"), ((0, 0), "1/1 to 1/1"), ((1, 6), "5 shards")]
)
def test_parts_that_cannot_be(plan, tmp_path, part, told):
    with pytest.raises(OptionError, match=told):
        run_to_folder(plan, tmp_path / "out", part=part)
    assert not list(tmp_path.iterdir())


# Interruptions


def stopping_after(shards):
    """Progress that interrupts the run."""

    def progress(done, _):
        if done == shards:
            raise KeyboardInterrupt

    return progress


@pytest.mark.parametrize("shard", [0, 2, 4])
def test_a_run_that_failed_repeats_no_finished_shard(plan, finished, tmp_path, monkeypatch, shard):
    made, real = [], run.run_shard

    def failing(_plan, number, *rest):
        made.append(number)
        if number == shard and made.count(number) == 1:
            msg = "power"
            raise RuntimeError(msg)
        return real(_plan, number, *rest)

    monkeypatch.setattr(run, "run_shard", failing)
    with pytest.raises(RuntimeError, match="power"):
        run_to_folder(plan, tmp_path / "out")
    assert not (tmp_path / "out").exists()
    run_to_folder(plan, tmp_path / "out", resume=True)
    assert made == [*range(shard + 1), *range(shard, 5)]
    assert contents(tmp_path / "out") == contents(finished)
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


@pytest.mark.parametrize("call", [1, 3, 6, 8])
def test_a_full_disk(plan, finished, tmp_path, monkeypatch, call):
    """Calls 1 to 5 write shards, the others tables of the result."""
    real, calls = parquet.write_table, []

    def write(*arguments, **named):
        calls.append(arguments[1])
        if len(calls) == call:
            raise OSError(errno.ENOSPC, "No space left on device")
        real(*arguments, **named)

    with monkeypatch.context() as patched:
        patched.setattr(parquet, "write_table", write)
        with pytest.raises(OutputError, match=r'out.*"\. The disk is full'):
            run_to_folder(plan, tmp_path / "out")
    assert not (tmp_path / "out").exists()
    assert len(list((tmp_path / "out.partial").glob("shard-*.parquet"))) == min(call - 1, 5)
    made = []
    monkeypatch.setattr(run, "run_shard", lambda *args, real=run.run_shard: made.append(args[1]) or real(*args))
    run_to_folder(plan, tmp_path / "out", resume=True)
    assert made == list(range(min(call - 1, 5), 5))
    assert contents(tmp_path / "out") == contents(finished)


@pytest.fixture
def interrupted(plan, tmp_path):
    with pytest.raises(KeyboardInterrupt):
        run_to_folder(plan, tmp_path / "out", progress=stopping_after(2))
    return tmp_path / "out"


def nudged(model):
    """The same network with one weight changed a little."""
    encoder = deepcopy(model.encoder)
    with torch.no_grad():
        next(encoder.parameters())[100, 3] += 1e-4
    return replace(model, encoder=encoder)


def test_other_runs_do_not_go_on_with_it(plan, finished, interrupted):
    options = {"genes": ("all",), **STATES, "cells_per_shard": 1, "gene_effects": True}
    cells, before = small_cells(10, 17), sorted((interrupted.parent / "out.partial").iterdir())
    renamed = small_cells(10, 17, donor=["d"] * 10)
    names = renamed.table.column("cell_id").to_pylist()
    renamed.table = renamed.table.set_column(
        renamed.table.column_names.index("cell_id"), "cell_id", pa.array([f"x{name}" for name in names])
    )
    for other, told in [
        (planned(cells, nudged(small_model()), **options), "weights was"),
        (planned(cells, **options | {"edit": "inhibit"}), "'edit': 'delete'.*'edit': 'inhibit'"),
        (planned(small_cells(9, 17), **options), "cells was"),
        (planned(renamed, **options), "cell_ids was"),
    ]:
        with pytest.raises(RunMismatchError, match=told):
            run_to_folder(other, interrupted, resume=True)
    with pytest.raises(RunMismatchError, match=r"part was \[1, 1\], now \[1, 2\]"):
        run_to_folder(plan, interrupted, part=(1, 2), resume=True)
    assert sorted((interrupted.parent / "out.partial").iterdir()) == before
    assert contents(run_to_folder(plan, interrupted, resume=True)) == contents(finished)


def test_an_interrupted_run_is_not_thrown_away_unasked(plan, finished, interrupted):
    with pytest.raises(OutputExistsError, match=r"out\.partial.*--resume.*--overwrite"):
        run_to_folder(plan, interrupted)
    assert len(list((interrupted.parent / "out.partial").glob("shard-*.parquet"))) == 2
    other = planned(small_cells(9, 17), **STATES, cells_per_shard=1)
    run_to_folder(other, interrupted, overwrite=True)
    assert PerturbationEffects.read(interrupted).provenance["run"] == json.loads(json.dumps(other.identity))
    assert [path.name for path in interrupted.parent.iterdir()] == ["out"]
    assert contents(interrupted) != contents(finished)


@pytest.mark.parametrize("damage", [Path.unlink, lambda path: path.write_bytes(path.read_bytes()[:-9])])
def test_shards_that_were_lost_or_damaged_are_made_again(plan, finished, interrupted, damage):
    damage(interrupted.parent / "out.partial" / "shard-000001.parquet")
    assert contents(run_to_folder(plan, interrupted, resume=True)) == contents(finished)


def test_a_finished_run_is_replaced_only_on_demand(plan, tmp_path):
    out = run_to_folder(plan, tmp_path / "out", part=(1, 2))
    before = contents(out)
    for again in ({}, {"resume": True}):
        with pytest.raises(OutputExistsError, match="--overwrite"):
            run_to_folder(plan, out, **again)
    assert contents(out) == before
    run_to_folder(plan, out, part=(2, 2), overwrite=True)
    assert Manifest.read(out).results["part"] == [2, 2]
    theirs = tmp_path / "theirs"
    theirs.mkdir()
    (theirs / "thesis.txt").write_text("precious")
    with pytest.raises(OutputExistsError, match="not made by this package"):
        run_to_folder(plan, theirs, overwrite=True)
    with pytest.raises(OutputError, match="there is no folder"):
        run_to_folder(plan, tmp_path / "nowhere" / "out")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out", "theirs"]


def test_one_process_at_a_time(plan, finished, tmp_path):
    refused = []

    def meddle(done, _):
        if done == 2:
            for how in ({}, {"resume": True}, {"overwrite": True}):
                with pytest.raises(RunLockedError, match=r"out\.partial"):
                    run_to_folder(plan, tmp_path / "out", **how)
                refused.append(how)

    run_to_folder(plan, tmp_path / "out", progress=meddle)
    assert len(refused) == 3
    assert contents(tmp_path / "out") == contents(finished)


def test_a_run_that_finishes_second_replaces_nothing(plan, tmp_path, monkeypatch):
    """Between looking at the folder and locking it, another process has finished."""
    real = run.lock

    def late(path):
        monkeypatch.setattr(run, "lock", real)
        run_to_folder(plan, tmp_path / "out", part=(1, 5))
        path.parent.mkdir(exist_ok=True)
        return real(path)

    monkeypatch.setattr(run, "lock", late)
    with pytest.raises(OutputExistsError):
        run_to_folder(plan, tmp_path / "out", part=(2, 5))
    assert Manifest.read(tmp_path / "out").results["part"] == [1, 5]


def test_killed_at_any_moment(tmp_path):
    """`killed_runs.py` kills a run at every change of the disk, torn writes included, and takes it up again."""
    table, lengths = small_cells(4, 12).table, small_cells(4, 12).lengths
    cells = TokenizedDataset(table.append_column("length", pa.array(lengths)), vocabulary=small_cells().vocabulary)
    tokens = write_dataset(cells, tmp_path / "cells.dataset")
    plan = planned(read_dataset(tokens), genes=("all",), **STATES, cells_per_shard=1)
    before = {path.name: path.read_bytes() for path in tokens.iterdir()}
    whole = run_to_folder(plan, tmp_path / "whole")
    (tmp_path / "killed").mkdir()
    script = HERE / "killed_runs.py"
    done = subprocess.run(
        [sys.executable, str(script), str(tokens), str(tmp_path / "killed"), str(whole)],
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout)
    assert told["wrong"] == {}
    assert told["kills"] > 40
    assert 0 < told["complete"] < told["kills"]
    assert {path.name: path.read_bytes() for path in tokens.iterdir()} == before
