"""Datasets of Hugging Face `datasets` are read; damaged ones are named."""

import json
import shutil

import datasets
import numpy as np
import pyarrow as pa
import pytest

from geneformer.errors import DatasetError, InputNotFoundError, PlaceholderFileError
from geneformer.tokens.storage import read_dataset

ROWS = [[2, 9, 4], [7], [], [5, 5, 8, 1]]
CELLS = {"cell_type": ["B", None, "T", "T"], "age": [1.5, 2.0, None, 4.0]}


def saved(folder, kind=None, **settings):
    """A dataset as `datasets` writes it."""
    columns = {"input_ids": ROWS, **CELLS, "length": [len(row) for row in ROWS]}
    features = None
    if kind is not None:
        features = datasets.Features(
            {
                "input_ids": kind,
                "cell_type": datasets.Value("string"),
                "age": datasets.Value("float64"),
                "length": datasets.Value("int64"),
            }
        )
    datasets.Dataset.from_dict(columns, features=features).save_to_disk(folder, **settings)
    return folder


@pytest.mark.parametrize("width", ["int16", "int32", "int64"])
@pytest.mark.parametrize("kind", [datasets.List, datasets.LargeList, datasets.Sequence])
def test_every_integer_and_list(tmp_path, kind, width):
    dataset = read_dataset(saved(tmp_path / "x.dataset", kind(datasets.Value(width))))
    assert [dataset[row].tolist() for row in range(4)] == ROWS
    assert dataset.lengths.tolist() == [3, 1, 0, 4]
    assert dataset.column("cell_type").tolist() == CELLS["cell_type"]
    assert dataset.vocabulary is None


def test_several_shards_keep_their_order(tmp_path):
    dataset = read_dataset(saved(tmp_path / "x.dataset", num_shards=3))
    assert [dataset[row].tolist() for row in range(4)] == ROWS
    assert dataset.gather([3, 0]).input_ids.tolist() == [5, 5, 8, 1, 2, 9, 4]


def test_the_single_file_of_early_releases(tmp_path):
    folder = saved(tmp_path / "x.dataset")
    (folder / "data-00000-of-00001.arrow").rename(folder / "dataset.arrow")
    state = json.loads((folder / "state.json").read_text())
    state["_data_files"] = [{"filename": "dataset.arrow"}]
    (folder / "state.json").write_text(json.dumps(state))
    assert len(read_dataset(folder)) == 4
    (folder / "state.json").unlink()
    assert len(read_dataset(folder)) == 4
    assert len(read_dataset(folder / "dataset.arrow")) == 4


def test_the_selected_rows_of_early_releases(tmp_path):
    folder = saved(tmp_path / "x.dataset")
    with pa.OSFile(str(folder / "indices.arrow"), "wb") as file:
        table = pa.table({"indices": pa.array([3, 1], pa.uint64())})
        with pa.ipc.new_stream(file, table.schema) as stream:
            stream.write_table(table)
    state = json.loads((folder / "state.json").read_text())
    (folder / "state.json").write_text(json.dumps({**state, "_indices_data_files": [{"filename": "indices.arrow"}]}))
    dataset = read_dataset(folder)
    assert [dataset[row].tolist() for row in range(2)] == [ROWS[3], ROWS[1]]


def test_the_arrow_file_format_and_lists_of_one_length(tmp_path):
    ids = pa.FixedSizeListArray.from_arrays(pa.array([1, 2, 3, 4, 5, 6], pa.int16()), 2)
    table = pa.table({"input_ids": ids})
    with pa.OSFile(str(tmp_path / "x.arrow"), "wb") as file, pa.ipc.new_file(file, table.schema) as writer:
        writer.write_table(table)
    dataset = read_dataset(tmp_path / "x.arrow")
    assert [dataset[row].tolist() for row in range(3)] == [[1, 2], [3, 4], [5, 6]]


def test_reading_maps_instead_of_copying(tmp_path):
    before = pa.total_allocated_bytes()
    n = 200_000
    table = pa.table(
        {"input_ids": pa.ListArray.from_arrays(np.arange(0, n + 1, 100, np.int32), np.arange(n, dtype=np.int32))}
    )
    with pa.OSFile(str(tmp_path / "x.arrow"), "wb") as file, pa.ipc.new_stream(file, table.schema) as writer:
        writer.write_table(table)
    del table
    dataset = read_dataset(tmp_path / "x.arrow")
    assert len(dataset) == 2000
    assert pa.total_allocated_bytes() - before < n


def refused(path, error, match):
    with pytest.raises(error, match=match):
        read_dataset(path)


def test_nothing_there(tmp_path):
    refused(tmp_path / "none.dataset", InputNotFoundError, "no dataset")


def test_splits_are_named(tmp_path):
    part = datasets.Dataset.from_dict({"input_ids": ROWS})
    datasets.DatasetDict({"train": part, "test": part}).save_to_disk(tmp_path / "x.dataset")
    refused(tmp_path / "x.dataset", DatasetError, r"splits train, test.*x.dataset/train")


def test_a_folder_that_is_no_dataset(tmp_path):
    (tmp_path / "notes.txt").write_text("")
    refused(tmp_path, DatasetError, "notes.txt")


def test_a_missing_shard(tmp_path):
    folder = saved(tmp_path / "x.dataset", num_shards=2)
    (folder / "data-00001-of-00002.arrow").unlink()
    refused(folder, DatasetError, "incomplete.*data-00001-of-00002.arrow")


@pytest.mark.parametrize("share", [0.0, 0.3, 0.6, 0.95, 0.999])
def test_a_file_cut_short(tmp_path, share):
    file = saved(tmp_path / "x.dataset") / "data-00000-of-00001.arrow"
    whole = file.read_bytes()
    file.write_bytes(whole[: int(len(whole) * share)])
    refused(tmp_path / "x.dataset", DatasetError, "data-00000-of-00001.arrow")


def test_a_file_cut_between_batches(tmp_path):
    file = saved(tmp_path / "x.dataset") / "data-00000-of-00001.arrow"
    file.write_bytes(file.read_bytes()[:-8])
    refused(tmp_path / "x.dataset", DatasetError, "ends too early")


def test_noise(tmp_path):
    file = saved(tmp_path / "x.dataset") / "data-00000-of-00001.arrow"
    file.write_bytes(np.random.default_rng(0).bytes(1000) + b"\xff" * 4 + bytes(4))
    refused(tmp_path / "x.dataset", DatasetError, "cannot be read")


@pytest.mark.parametrize("name", ["state.json", "data-00000-of-00001.arrow"])
def test_a_git_lfs_pointer(tmp_path, name):
    folder = saved(tmp_path / "x.dataset")
    (folder / name).write_text("version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 12\n")
    refused(folder, PlaceholderFileError, "git lfs pull")


@pytest.mark.parametrize("text", ["{", "[]"])
def test_a_damaged_state(tmp_path, text):
    folder = saved(tmp_path / "x.dataset")
    (folder / "state.json").write_text(text)
    refused(folder, DatasetError, "state.json")


def test_tokens_of_the_wrong_kind(tmp_path):
    datasets.Dataset.from_dict({"input_ids": [[0.5]]}).save_to_disk(tmp_path / "floats")
    refused(tmp_path / "floats", DatasetError, "lists of integers")
    datasets.Dataset.from_dict({"input_ids": [1]}).save_to_disk(tmp_path / "flat")
    refused(tmp_path / "flat", DatasetError, "lists of integers")
    datasets.Dataset.from_dict({"tokens": [[1]]}).save_to_disk(tmp_path / "other")
    refused(tmp_path / "other", DatasetError, "No `input_ids`")
    datasets.Dataset.from_dict({"input_ids": [[1, None]]}).save_to_disk(tmp_path / "holes")
    refused(tmp_path / "holes", DatasetError, "missing token")


def test_shards_of_different_datasets(tmp_path):
    folder = saved(tmp_path / "x.dataset", num_shards=2)
    datasets.Dataset.from_dict({"input_ids": ROWS}).save_to_disk(tmp_path / "y.dataset")
    shutil.copy(tmp_path / "y.dataset" / "data-00000-of-00001.arrow", folder / "data-00001-of-00002.arrow")
    refused(folder, DatasetError, "differ in their columns")
