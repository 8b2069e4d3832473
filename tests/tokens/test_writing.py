"""Datasets are written whole, resumed exactly, and opened by `datasets`."""

import json
import subprocess
import sys

import datasets
import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from geneformer.errors import DatasetError, NonFiniteCountsError, OutputExistsError, RunLockedError, RunMismatchError
from geneformer.files.manifest import Manifest
from geneformer.tokens.dataset import TokenizedDataset, arrow_type
from geneformer.tokens.storage import DatasetWriter, read_dataset, write_dataset

KILLED = """
import os, signal, sys
import numpy as np
from geneformer.tokens.storage import DatasetWriter

stop = int(sys.argv[2])
with DatasetWriter(sys.argv[1], identity={"run": 1}, resume=True, shard_bytes=3000) as writer:
    start = (writer.progress or {"cell": 0})["cell"]
    for cell in range(start, 60):
        if cell == stop:
            os.kill(os.getpid(), signal.SIGKILL)
        rng = np.random.default_rng(cell)
        values = rng.integers(2, 99, size=cell + 30)
        writer.append([0, len(values)], values, {"cell_id": [f"c{cell}"]}, progress={"cell": cell + 1})
    writer.finish()
print(start)
"""


def killed_run(path, stop):
    return subprocess.run(
        [sys.executable, "-c", KILLED, str(path), str(stop)], capture_output=True, text=True, check=False
    )


def contents(folder):
    return {file.name: file.read_bytes() for file in sorted(folder.iterdir())}


def ragged(rows):
    return np.cumsum([0, *map(len, rows)]), np.array([value for row in rows for value in row], dtype=np.int64)


def test_a_killed_run_resumes_to_the_same_bytes(tmp_path):
    assert killed_run(tmp_path / "whole.dataset", -1).returncode == 0
    path = tmp_path / "killed.dataset"
    for stop in (25, 59):
        assert killed_run(path, stop).returncode == -9
        assert not path.exists()
    done = killed_run(path, -1)
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) > 25
    assert contents(path) == contents(tmp_path / "whole.dataset")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["killed.dataset", "whole.dataset"]


def test_a_run_killed_before_its_first_shard_starts_over_unasked(tmp_path):
    path = tmp_path / "x.dataset"
    assert killed_run(path, 2).returncode == -9
    with DatasetWriter(path) as writer:
        assert writer.progress is None
        writer.append([0, 1], [5])
        writer.finish()
    assert len(read_dataset(path)) == 1


def test_a_half_finished_run_is_not_thrown_away_unasked(tmp_path):
    path = tmp_path / "x.dataset"
    assert killed_run(path, 25).returncode == -9
    with pytest.raises(OutputExistsError, match="--resume"), DatasetWriter(path):
        pass
    with (
        pytest.raises(RunMismatchError, match="run was 1, now 2"),
        DatasetWriter(path, identity={"run": 2}, resume=True),
    ):
        pass
    with DatasetWriter(path, identity={"run": 1}, resume=True) as writer:
        assert writer.rows == writer.progress["cell"] > 0
    with DatasetWriter(path, identity={"run": 2}, overwrite=True) as writer:
        assert writer.rows == 0
        writer.append([0, 1], [5])
        writer.finish()
    assert len(read_dataset(path)) == 1


def test_a_damaged_shard_is_not_built_upon(tmp_path):
    path = tmp_path / "x.dataset"
    killed_run(path, 25)
    (tmp_path / "x.dataset.partial" / "dataset" / "data-00000.arrow").write_bytes(b"")
    with pytest.raises(DatasetError, match=r"data-00000\.arrow"), DatasetWriter(path, identity={"run": 1}, resume=True):
        pass


def test_a_run_killed_while_it_finished_resumes(tmp_path):
    path = tmp_path / "x.dataset"
    killed_run(path, 59)
    shards = tmp_path / "x.dataset.partial" / "dataset"
    (shards / "data-00000.arrow").rename(shards / "data-00000-of-00009.arrow")
    (shards / "state.json").write_text("{")
    assert killed_run(path, -1).returncode == 0
    assert read_dataset(path).cell_ids.tolist() == [f"c{cell}" for cell in range(60)]


def test_one_writer_at_a_time(tmp_path):
    with DatasetWriter(tmp_path / "x.dataset") as writer:
        with pytest.raises(RunLockedError), DatasetWriter(tmp_path / "x.dataset", overwrite=True):
            pass
        writer.append([0, 2], [5, 6])
        writer.finish()
    assert len(read_dataset(tmp_path / "x.dataset")) == 1


def test_a_refusal_leaves_nothing(tmp_path):
    def refuse():
        with DatasetWriter(tmp_path / "x.dataset", shard_bytes=1) as writer:
            writer.append([0, 1], [5])
            msg = "inf"
            raise NonFiniteCountsError(msg)

    with pytest.raises(NonFiniteCountsError):
        refuse()
    assert list(tmp_path.iterdir()) == []


def test_an_existing_dataset_stays_until_the_new_one_is_whole(tmp_path):
    path = tmp_path / "x.dataset"
    for value in (5, 6):
        with DatasetWriter(path, overwrite=value == 6) as writer:
            writer.append([0, 1], [value])
            if value == 6:
                assert read_dataset(path)[0].tolist() == [5]
            writer.finish()
    assert read_dataset(path)[0].tolist() == [6]
    with pytest.raises(OutputExistsError), DatasetWriter(path):
        pass
    assert sorted(p.name for p in tmp_path.iterdir()) == ["x.dataset"]


@settings(max_examples=15)
@given(
    rows=st.lists(st.lists(st.integers(0, 2**31 - 1), max_size=6), max_size=12),
    batch=st.integers(1, 5),
    shard=st.sampled_from([1, 10**9]),
    counts=st.booleans(),
)
def test_datasets_opens_what_is_written(tmp_path_factory, rows, batch, shard, counts):
    path = tmp_path_factory.mktemp("out") / "x.dataset"
    with DatasetWriter(path, columns={"cell_id": pa.string()}, counts=counts, shard_bytes=shard) as writer:
        for start in range(0, len(rows), batch):
            offsets, values = ragged(rows[start : start + batch])
            padded = np.concatenate([[1, 2, 3], values, [4]])
            names = [f"c{start + i}" for i in range(len(offsets) - 1)]
            scaled = padded * 0.5 if counts else None
            writer.append(offsets + 3, padded, {"cell_id": names}, counts=scaled)
        writer.finish()
    loaded = datasets.load_from_disk(str(path))
    ours = read_dataset(path)
    assert list(loaded["input_ids"]) == rows == [ours[row].tolist() for row in range(len(rows))]
    assert list(loaded["length"]) == [len(row) for row in rows] == ours.lengths.tolist()
    assert list(loaded["cell_id"]) == [f"c{i}" for i in range(len(rows))]
    assert ours.has_counts is counts
    if counts:
        assert list(loaded["counts"]) == [[value * 0.5 for value in row] for row in rows]


def test_the_published_columns_in_the_published_order(tmp_path):
    with DatasetWriter(tmp_path / "x", counts=True) as writer:
        writer.append([0, 1], [5], {"cell_type": ["B"], "age": [1]}, counts=np.array([2.0]))
        writer.finish()
    features = datasets.load_from_disk(str(tmp_path / "x")).features
    assert {name: str(kind) for name, kind in features.items()} == {
        "input_ids": "List(Value('int32'))",
        "counts": "List(Value('float64'))",
        "cell_type": "Value('string')",
        "age": "Value('int64')",
        "length": "Value('int64')",
    }
    assert list(features) == ["input_ids", "counts", "cell_type", "age", "length"]


@pytest.mark.parametrize(
    ("values", "kind", "back"),
    [
        (pd.Series(pd.Categorical(["a", None, "b"], categories=["b", "a", "unused"])), "string", ["a", None, "b"]),
        (pd.Series(["a", np.nan, None], dtype=object), "string", ["a", None, None]),
        (np.array(["1", 2.5, None], dtype=object), "string", ["1", "2.5", None]),
        (np.array([None, None, None], dtype=object), "string", [None, None, None]),
        (pd.Series([1, 2, None], dtype="Int64"), "int64", [1, 2, None]),
        (np.array([1, 2, 3], dtype=np.uint16), "uint16", [1, 2, 3]),
        (np.array([1.0, np.nan, 3.0], dtype=np.float32), "float32", [1.0, None, 3.0]),
        (np.array([True, False, True]), "bool", [True, False, True]),
        (pd.Series(pd.Categorical([3, 1, 3])), "int64", [3, 1, 3]),
        (pd.Series(["x", "y", pd.NA], dtype="string"), "string", ["x", "y", None]),
    ],
)
def test_columns_keep_their_kind_in_every_chunk(tmp_path, values, kind, back):
    types = {"c": arrow_type(values)}
    with DatasetWriter(tmp_path / "x", columns=types) as writer:
        for row in range(3):
            writer.append([0, 1], [5], {"c": values[row : row + 1]})
        writer.finish()
    loaded = datasets.load_from_disk(str(tmp_path / "x"))
    assert loaded.features["c"].dtype == kind
    assert list(loaded["c"]) == back


def test_times_and_lists_survive(tmp_path):
    times = pd.Series(pd.to_datetime(["2020-01-01", "2021-06-01"]))
    with DatasetWriter(tmp_path / "x") as writer:
        writer.append([0, 1, 2], [5, 6], {"when": times, "labels": [[1], [2, 3]]})
        writer.finish()
    loaded = datasets.load_from_disk(str(tmp_path / "x"))
    assert list(loaded["when"]) == list(times)
    assert list(loaded["labels"]) == [[1], [2, 3]]


def test_columns_that_do_not_fit(tmp_path):
    with DatasetWriter(tmp_path / "x", columns={"age": pa.int64(), "sex": pa.string()}) as writer:
        with pytest.raises(DatasetError, match="'age' was taken for int64"):
            writer.append([0, 1], [5], {"age": ["old"]})
        with pytest.raises(DatasetError, match="not announced"):
            writer.append([0, 1], [5], {"agee": [1]})
        with pytest.raises(DatasetError, match="2 values for 1 cells"):
            writer.append([0, 1], [5], {"age": [1, 2]})
        writer.append([0, 1], [5], {"age": [1]})
        writer.finish()
    assert read_dataset(tmp_path / "x").column("sex").tolist() == [None]


def test_no_cells_at_all(tmp_path):
    with DatasetWriter(tmp_path / "x") as writer:
        writer.append([0], [], {"cell_id": []})
        writer.finish()
    assert len(read_dataset(tmp_path / "x")) == 0
    assert len(datasets.load_from_disk(str(tmp_path / "x"))) == 0


def test_a_dataset_in_memory_keeps_everything(tmp_path):
    rows = [[2, 9], [], [4]]
    table = pa.table(
        {
            "length": [2, 0, 1],
            "counts": pa.array([[1.0, 2.0], [], [3.0]]),
            "kind": pa.array(["a", "b", "a"]).dictionary_encode(),
            "input_ids": pa.array(rows, pa.large_list(pa.int16())),
        }
    )
    path = write_dataset(TokenizedDataset(table, vocabulary="7f3a"), tmp_path / "x.dataset")
    again = read_dataset(path)
    assert again.vocabulary == "7f3a"
    assert again.table.column_names == ["input_ids", "counts", "kind", "length"]
    assert [again[row].tolist() for row in range(3)] == rows
    assert again.gather([2, 0], counts=True).counts.tolist() == [3.0, 1.0, 2.0]
    assert list(datasets.load_from_disk(str(path))["kind"]) == ["a", "b", "a"]
    part = write_dataset(again.take([2]), tmp_path / "y.dataset")
    assert read_dataset(part)[0].tolist() == [4]


def test_lengths_are_counted_where_there_are_none(tmp_path):
    table = pa.table({"input_ids": pa.array([[5, 6, 7], [], [8]], pa.list_(pa.int64())), "state": ["a", "b", "c"]})
    for rows, name in (([0, 1, 2], "all"), ([2, 0], "some")):
        path = write_dataset(TokenizedDataset(table).take(rows), tmp_path / name)
        assert read_dataset(path).column("length").tolist() == [[3, 0, 1][row] for row in rows]
        assert datasets.load_from_disk(str(path))["length"] == [[3, 0, 1][row] for row in rows]


def test_the_manifest_travels_with_the_tokens(tmp_path):
    with DatasetWriter(tmp_path / "x") as writer:
        writer.append([0, 1], [5])
        writer.finish(Manifest(task="tokenize", vocabulary="91cc", results={"cells": 1}))
    assert read_dataset(tmp_path / "x").vocabulary == "91cc"
    assert Manifest.read(tmp_path / "x").results == {"cells": 1}


def test_equal_content_has_an_equal_fingerprint(tmp_path):
    def fingerprint(name, value):
        with DatasetWriter(tmp_path / name) as writer:
            writer.append([0, 1], [value])
            writer.finish()
        return json.loads((tmp_path / name / "state.json").read_text())["_fingerprint"]

    assert fingerprint("a", 5) == fingerprint("b", 5) != fingerprint("c", 6)
