"""Manifests say what went in, and are read back."""

import hashlib
import json
import sys

import numpy as np
import pytest

from geneformer import __version__
from geneformer.errors import OutputError
from geneformer.files.manifest import InputFile, Manifest, describe_inputs, manifest_path
from geneformer.options import TokenizeOptions
from geneformer.options._fields import read_options, to_table


def test_it_comes_back_as_it_was(tmp_path):
    manifest = Manifest(
        task="tokenize",
        vocabulary="7f3a",
        inputs=(InputFile(path="a.h5ad", size=3, sha256="00"),),
        options=to_table(TokenizeOptions(layer="counts")),
        results={"cells": np.int64(5), "share": np.float64(0.5)},
    )
    path = manifest.write(tmp_path)
    assert path.name == "geneformer_manifest.json"
    read = Manifest.read(tmp_path)
    assert read.inputs == manifest.inputs
    assert read.results == {"cells": 5, "share": 0.5}
    assert read.versions["geneformer"] == __version__
    assert read.versions["python"] == ".".join(map(str, sys.version_info[:3]))
    assert json.loads(path.read_text())["created"].endswith("+00:00")


def test_a_manifest_serves_as_configuration(tmp_path):
    options = TokenizeOptions(layer="counts", keep=("cell_type", "donor"), max_length=100)
    path = Manifest(task="tokenize", options=to_table(options)).write(tmp_path)
    assert TokenizeOptions(**read_options(path, TokenizeOptions)[TokenizeOptions]) == options


def test_beside_a_file(tmp_path):
    (tmp_path / "out.csv").write_text("")
    Manifest(task="embed").write(tmp_path / "out.csv")
    assert manifest_path(tmp_path / "out.csv") == tmp_path / "out.csv.manifest.json"
    assert Manifest.read(tmp_path / "out.csv").task == "embed"
    assert Manifest.read(tmp_path / "other.csv") is None


@pytest.mark.parametrize("text", ["{", "[]", '{"tusk": 1}', '{"task": "x", "inputs": [{"file": 1}]}'])
def test_a_damaged_one_is_named(tmp_path, text):
    (tmp_path / "geneformer_manifest.json").write_text(text)
    with pytest.raises(OutputError, match=r"geneformer_manifest\.json"):
        Manifest.read(tmp_path)


def test_inputs_are_hashed_in_full(tmp_path):
    (tmp_path / "a").write_bytes(b"counts")
    (described,) = describe_inputs([tmp_path / "a"])
    assert (described.size, described.sha256) == (6, hashlib.sha256(b"counts").hexdigest())
    (huge,) = describe_inputs([tmp_path / "a"], hash_limit=5)
    assert huge.sha256 is None
    assert huge.modified == (tmp_path / "a").stat().st_mtime_ns


def test_a_folder_changes_with_every_file_in_it(tmp_path):
    store = tmp_path / "x.zarr"
    (store / "X").mkdir(parents=True)
    (store / "X" / "0").write_bytes(b"one")
    before = describe_inputs([store])
    (store / "X" / "0").write_bytes(b"two")
    assert describe_inputs([store]) != before
    (store / "X" / "0").write_bytes(b"one")
    assert describe_inputs([store]) == before
    (store / "X" / "0").rename(store / "X" / "1")
    assert describe_inputs([store]) != before
