"""Data that asks for more than being read: programs in pickles, names of modules, files elsewhere."""

import json
import pickle
import shutil
from pathlib import Path

import numpy as np

import geneformer
from gallery.model_folders import model
from gallery.rows import ACCEPTED, Row, call, command
from gallery.token_folders import tokens
from gallery.watch import outside
from geneformer.files.pickles import read_pickle

EVIL = "open('ran', 'w')"
"""What hostile data would have run; nothing may be left behind after a refusal."""


class _Program:
    def __init__(self, *parts):
        self.parts = parts

    def __reduce__(self):
        return self.parts


def _module(folder: Path) -> None:
    """A module that data may name; it lies where Python would find it."""
    (folder / "evilmod.py").write_text(EVIL)


def pickled(*parts, protocol=4):
    def make(folder: Path) -> Path:
        (folder / "data.pkl").write_bytes(pickle.dumps(_Program(*parts), protocol=protocol))
        return Path("data.pkl")

    return make


def _text(text):
    def make(folder: Path) -> Path:
        _module(folder)
        (folder / "data.pkl").write_bytes(text)
        return Path("data.pkl")

    return make


def _weights(folder: Path) -> Path:
    path = model()(folder)
    (path / "model.safetensors").unlink()
    (path / "pytorch_model.bin").write_bytes(pickle.dumps({"bert.x": _Program(exec, (EVIL,))}, protocol=2))
    return path


def _with_code(folder: Path) -> Path:
    """A checkpoint with classes of its own, as trusted repositories have them."""
    path = model(auto_map={"AutoModel": "evilmod.Model", "AutoConfig": "evilmod.Config"}, trust_remote_code=True)(
        folder
    )
    for name in ("evilmod.py", "modeling_bert.py", "configuration_bert.py", "__init__.py"):
        (path / name).write_text(EVIL)
    return path


def _linked(name):
    """A checkpoint of which a file is a link out of it."""

    def make(folder: Path) -> Path:
        path = model()(folder)
        shutil.move(path / name, outside(folder))
        (path / name).symlink_to(outside(folder))
        return path

    return make


def _vocabulary(folder: Path) -> Path:
    path = folder / "dictionaries"
    path.mkdir()
    for name in ("token_dictionary", "gene_median_dictionary", "gene_name_id_dict"):
        (path / f"{name}_gc30M.pkl").write_bytes(pickle.dumps(_Program(exec, (EVIL,))))
    return path / "token_dictionary_gc30M.pkl"


def _extension(folder: Path) -> Path:
    """Tokens with a column of a type that Python would have to be asked for."""
    import pyarrow as pa

    from gallery.token_folders import put, rows

    def more(path):
        noted = {
            b"ARROW:extension:name": b"arrow.py_extension_type",
            b"ARROW:extension:metadata": pickle.dumps(_Program(exec, (EVIL,))),
        }
        fields = [pa.field("input_ids", pa.list_(pa.int64())), pa.field("x", pa.int64(), metadata=noted)]
        table = pa.Table.from_arrays([pa.array(rows()), pa.array(range(6))], schema=pa.schema(fields))
        put(path / "data-00000-of-00001.arrow", table)

    return tokens(more=more)(folder)


def _info(folder: Path) -> Path:
    """Tokens whose description names a script and a format of arrays."""
    path = tokens(state=lambda state: state.update(_format_type="evilmod", _format_kwargs={"a": "evilmod"}))(folder)
    _module(folder)
    info = {"builder_name": "evilmod", "features": {"input_ids": {"_type": "evilmod.Feature"}}, "splits": {}}
    (path / "dataset_info.json").write_text(json.dumps(info))
    (path / "dataset.py").write_text(EVIL)
    return path


def _objects(folder: Path) -> Path:
    """A pickle of an array of objects."""
    (folder / "data.pkl").write_bytes(pickle.dumps(np.array([_Program(exec, (EVIL,))], dtype=object)))
    return Path("data.pkl")


unpickle, load = call(read_pickle), call(geneformer.load_model)
convert = command("models", "--convert", "{}", "-o", "out")

ROWS = [
    *(Row(f"a pickle that calls {name}", pickled(*parts), "GF601", act=unpickle)
      for name, parts in (
          ("exec", (exec, (EVIL,))),
          ("eval", (eval, (EVIL,))),
          ("getattr", (getattr, (1, "real"))),
          ("open", (open, ("ran", "w"))),
          ("import", (__import__, ("evilmod",))),
      )),
    Row("a pickle of the oldest protocol that calls exec", pickled(exec, (EVIL,), protocol=0), "GF601", act=unpickle),
    Row("a pickle with an object of a module", _text(b"ievilmod\nThing\n."), "GF601", act=unpickle),
    Row("a pickle that names a module", _text(b"cevilmod\nThing\n."), "GF601", act=unpickle),
    Row("a pickle with a name of several parts", _text(b"\x80\x04\x8c\x08builtins\x8c\x0deval.__call__\x93."), "GF601",
        act=unpickle),
    Row("a pickle with an array of programs", _objects, "GF601", act=unpickle),
    Row("weights in a pickle that is a program", _weights, "GF307", act=load),
    Row("weights in a pickle that is a program, converted", _weights, "GF601", "exec", act=convert),
    Row("dictionaries that are programs", _vocabulary, "GF601", act=call(geneformer.Vocabulary.load)),
    Row("a model with classes of its own", _with_code, ACCEPTED, act=load,
        why="nothing of a configuration names code here, so that such files just lie there"),
    Row("a configuration behind a link", _linked("config.json"), "GF305", "a link out of its folder", act=load),
    Row("weights behind a link", _linked("model.safetensors"), "GF305", "a link out of its folder", act=load),
    Row("a column of a type of Python", _extension, ACCEPTED, act=call(geneformer.read_dataset),
        why="the type is not known here, so that the column is what it is stored as"),
    Row("tokens that name a script", _info, ACCEPTED, act=call(geneformer.read_dataset),
        why="only the files, their rows and their columns are read"),
]  # fmt: skip
