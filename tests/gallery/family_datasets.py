"""Folders of tokens: ids, what `state.json` names, tables of rows, and what is said about the cells."""

import json
import os
import shutil
from pathlib import Path

import numpy as np
import pyarrow as pa

import geneformer
from gallery.rows import ACCEPTED, Row, call, command
from gallery.token_folders import N_CELLS, put, rows, tokens, write
from gallery.watch import outside


def _read(path):
    return geneformer.read_dataset(path)


embed = command("embed", "{}", "-m", "mini", "-o", "out.csv", "--no-progress", "--device", "cpu")
read = call(_read)
FILES = ("out.csv", "out.csv.json", "out.csv.manifest.json")


def _with(value, kind=None, cell=3, place=5):
    def ids(cells):
        cells[cell][place] = value
        return pa.array(cells, kind)

    return ids


def _cell(content):
    def ids(cells):
        cells[2] = content
        return pa.array(cells, pa.list_(pa.int32()))

    return ids


def _encoded(cells):
    flat = pa.array(np.concatenate(cells)).dictionary_encode()
    return pa.ListArray.from_arrays(np.arange(0, 20 * N_CELLS + 1, 20, dtype=np.int32), flat)


def _set(key, value):
    return lambda state: state.__setitem__(key, value)


def _file(value):
    return _set("_data_files", [{"filename": value}])


def _table_of_rows(values):
    def more(path):
        put(path / "indices.arrow", values if isinstance(values, pa.Table) else pa.table({"indices": values}))
        said = json.loads((path / "state.json").read_text())
        said["_indices_data_files"] = [{"filename": "indices.arrow"}]
        (path / "state.json").write_text(json.dumps(said))

    return more


def _two_columns(name):
    def more(path):
        arrays = [pa.array(rows()), pa.array(["a"] * N_CELLS), pa.array(["b"] * N_CELLS)]
        names = ["input_ids", "cell_type", "cell_type"]
        if name == "input_ids":
            arrays[1], names = pa.array(rows()), ["input_ids", "input_ids", "cell_type"]
        put(path / "data-00000-of-00001.arrow", pa.Table.from_arrays(arrays, names=names))

    return more


def _outside(where):
    """The data lie beside the folder of the row, and `state.json` points there."""

    def make(folder: Path) -> Path:
        path = tokens()(folder)
        shutil.move(path / "data-00000-of-00001.arrow", outside(folder))
        (path / "state.json").write_text(json.dumps({"_data_files": [{"filename": where(folder)}]}))
        return path

    return make


def _linked(folder: Path) -> Path:
    path = tokens()(folder)
    shutil.move(path / "data-00000-of-00001.arrow", outside(folder))
    (path / "data-00000-of-00001.arrow").symlink_to(outside(folder))
    return path


def _in_the_cache_of_the_hub(folder: Path) -> Path:
    made = tokens()(folder)
    snapshot = folder / "snapshots" / "abc"
    snapshot.mkdir(parents=True)
    (folder / "blobs").mkdir()
    for number, file in enumerate(made.iterdir()):
        shutil.copy(file, folder / "blobs" / str(number))
        (snapshot / file.name).symlink_to(folder / "blobs" / str(number))
    return Path("snapshots/abc")


def _bytes(where, new):
    def more(path):
        file = path / "data-00000-of-00001.arrow"
        data = bytearray(file.read_bytes())
        data[where : where + len(new)] = new
        file.write_bytes(data)

    return more


def _splits(splits):
    return lambda path: (path / "dataset_dict.json").write_text(json.dumps({"splits": splits}))


def _pipe(path):
    (path / "data-00000-of-00001.arrow").unlink()
    os.mkfifo(path / "data-00000-of-00001.arrow")


def _state_pipe(path):
    (path / "state.json").unlink()
    os.mkfifo(path / "state.json")


DEEP = '{"a":' * 100_000
BEYOND = "has the token id"

ROWS = [
    Row("tokens as they should be", tokens(), ACCEPTED, act=embed, writes=FILES, why="the plain case"),
    Row("tokens in the cache of the hub", _in_the_cache_of_the_hub, ACCEPTED, act=read,
        why="its folders hold links to files that lie in the same cache"),
    *(Row(f"{name}, {whose}", tokens(_with(value, kind), fingerprint=print_), code, act=embed)
      for whose, print_ in (("of a known vocabulary", True), ("of a vocabulary not told", None))
      for name, value, kind, code in (
          ("a negative id", -3, None, "GF308"),
          ("an id beyond the vocabulary", 25_426, None, "GF308" if print_ else "GF302"),
          ("an id of more than 32 bits", 2**32 + 7, pa.list_(pa.int64()), "GF308"),
          ("an id of 32 bits", 2**31, pa.list_(pa.int64()), "GF308"),
          ("an id near 2^64", 2**64 - 5, pa.list_(pa.uint64()), "GF308"),
      )),
    Row("a cell without a token", tokens(_cell([])), ACCEPTED, "have no token", act=embed, writes=FILES),
    Row("padding inside a cell", tokens(_cell([5, 0, 7])), "GF308", "0 being padding", act=embed),
    Row("a gene twice in a cell", tokens(_cell([5, 9, 7, 9])), ACCEPTED, "1 tokens are repeated", act=embed,
        writes=FILES),
    Row("a masked gene", tokens(_cell([5, 1, 7])), ACCEPTED, "1 are <mask>", act=embed, writes=FILES),
    Row("only cells without a token", tokens(lambda _: pa.array([[]] * 6, pa.list_(pa.int32()))), "GF205",
        "None of the 6 cells has a token", act=embed),
    Row("a row of null", tokens(_cell(None)), "GF308", "empty rows", act=read),
    Row("ids as repeated values", tokens(_encoded), ACCEPTED, act=embed, writes=FILES,
        why="an encoding of the same numbers"),
    Row("ids as text", tokens(lambda _: pa.array([["a"]])), "GF308", "not lists of integers", act=read),
    Row("two columns of ids", tokens(more=_two_columns("input_ids")), "GF308", "two columns", act=read),
    Row("two columns of one name", tokens(more=_two_columns("cell_type")), "GF308", "two columns", act=read),
    Row("a fingerprint that is a number", tokens(fingerprint=7), "GF308", "vocabulary=7", act=read),
    Row("a manifest nested too deeply", tokens(more=lambda p: (p / "geneformer_manifest.json").write_text(DEEP)),
        "GF308", "not valid JSON", act=read),
    Row("a state nested too deeply", tokens(state=lambda _: DEEP), "GF308", "not valid JSON", act=read),
    Row("a state that is a list", tokens(state=lambda _: "[]"), "GF308", "JSON object", act=read),
    Row("a state without names", tokens(state=_set("_data_files", [{}])), "GF308", "filename", act=read),
    Row("a state with a text for files", tokens(state=_set("_data_files", "data")), "GF308", act=read),
    Row("a number for files", tokens(state=_set("_data_files", 7)), "GF308", act=read),
    Row("a number for a file", tokens(state=_file(5)), "GF308", act=read),
    Row("no name for a file", tokens(state=_file("")), "GF308", act=read),
    Row("a file twice", tokens(state=_set("_data_files", [{"filename": "data-00000-of-00001.arrow"}] * 2)), "GF308",
        "a file twice", act=read),
    Row("a file that is not there", tokens(state=_file("data-9.arrow")), "GF308", "missing", act=read),
    Row("data elsewhere", _outside(lambda folder: str(outside(folder))), "GF308", "outside the folder", act=read),
    Row("data above", _outside(lambda folder: f"../../{outside(folder).name}"), "GF308", "outside the folder",
        act=read),
    Row("data behind a link", _linked, "GF308", "a link out of its folder", act=read),
    Row("a pipe for data", tokens(more=_pipe), "GF308", act=read),
    Row("a pipe for the state", tokens(more=_state_pipe), "GF308", act=read),
    Row("rows out of range", tokens(more=_table_of_rows([0, 99])), "GF308", "lists rows", act=read),
    Row("negative rows", tokens(more=_table_of_rows([0, -1])), "GF308", "lists rows", act=read),
    Row("rows by text", tokens(more=_table_of_rows(["a"])), "GF308", "lists rows", act=read),
    Row("rows without a column", tokens(more=_table_of_rows(pa.table({}))), "GF308", "lists rows", act=read),
    Row("no rows", tokens(more=_table_of_rows(pa.array([], pa.uint64()))), "GF205", act=embed),
    Row("a number for splits", tokens(more=_splits(7)), "GF308", "splits", act=read),
    Row("numbers for splits", tokens(more=_splits([1, 2])), "GF308", "splits", act=read),
    Row("a stream that is garbled", tokens(more=_bytes(300, b"\xff" * 64)), "GF308", act=read),
    Row("a stream cut short", tokens(more=_bytes(0, b"")), ACCEPTED, act=read, why="nothing was cut"),
    Row("lengths that contradict the rows", tokens(more=lambda p: write(
        p / "data-00000-of-00001.arrow", pa.array(rows()), length=[1] * N_CELLS)), "GF308", "contradicts", act=read),
    Row("nothing there", lambda _: Path("gone.dataset"), "GF201", act=read),
    Row("an empty folder", lambda folder: (folder / "e.dataset").mkdir() or Path("e.dataset"), "GF308", act=read),
]  # fmt: skip
