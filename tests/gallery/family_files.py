"""Paths: no file, no plain file, a file of another kind, the same one twice, folders of many."""

import os
import shutil
import socket

import numpy as np

from gallery.family_formats import mtx, tenx, text
from gallery.inputs import cells, h5ad
from gallery.rows import ACCEPTED, Row, command

TWO = command("tokenize", "in.h5ad", "{}", "-o", "out.dataset", "--no-progress")


def written(name, content):
    """A file with some bytes."""

    def make(folder):
        (folder / name).write_bytes(content)
        return name

    return make


def _pipe(name):
    def make(folder):
        os.mkfifo(folder / name)
        return name

    return make


def _socket(folder):
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(folder / "in.csv"))
    return "in.csv"


def _linked(folder):
    h5ad()(folder)
    (folder / "other.h5ad").symlink_to("in.h5ad")
    return "other.h5ad"


def _hard(folder):
    h5ad()(folder)
    os.link(folder / "in.h5ad", folder / "other.h5ad")
    return "other.h5ad"


def _dotted(folder):
    h5ad()(folder)
    return "./in.h5ad"


def _dangling(folder):
    (folder / "in.h5ad").symlink_to("nothing.h5ad")
    return "in.h5ad"


def _loop(folder):
    (folder / "in.h5ad").symlink_to("in.h5ad")
    return "in.h5ad"


def _not_utf8(folder):
    h5ad()(folder)
    name = os.fsdecode(b"in\xff\xfe.h5ad")
    (folder / "in.h5ad").rename(folder / name)
    return name


def _renamed(name, start=None):
    def make(folder):
        made = (start or h5ad())(folder)
        (folder / made).rename(folder / name)
        return name

    return make


def _forbidden(folder):
    h5ad()(folder)
    (folder / "in.h5ad").chmod(0)
    if os.access(folder / "in.h5ad", os.R_OK):  # root reads everything
        (folder / "in.h5ad").chmod(0o600)
        (folder / "in.h5ad").write_bytes(b"")
    return "in.h5ad"


def _folder(*files):
    def make(folder):
        (folder / "in").mkdir()
        for name in files:
            (folder / "in" / name).write_text("nothing of use")
        return "in"

    return make


def _outs(folder):
    (folder / "outs").mkdir()
    tenx()(folder)
    for kind in ("filtered", "raw"):
        shutil.copy(folder / "in.h5", folder / "outs" / f"{kind}_feature_bc_matrix.h5")
    (folder / "in.h5").unlink()
    mtx()(folder)
    (folder / "in").rename(folder / "outs" / "filtered_feature_bc_matrix")
    (folder / "outs" / "metrics_summary.csv").write_text("Estimated Number of Cells,Reads\n6,1000\n")
    return "outs"


def _folder_of_pipe(folder):
    (folder / "in").mkdir()
    os.mkfifo(folder / "in" / "a.h5ad")
    return "in"


def _different_genes(folder):
    h5ad()(folder)
    adata = cells()[:, 1000:].copy()
    adata.write_h5ad(folder / "other.h5ad")
    return "other.h5ad"


def _different_columns(folder):
    h5ad()(folder)
    adata = cells()
    adata.obs["score"] = "high"
    adata.obs["age"] = np.arange(20)
    adata.write_h5ad(folder / "other.h5ad")
    return "other.h5ad"


POINTER = b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n"

ROWS = [
    Row("no file", lambda _folder: "nothing.h5ad", "GF201", "does not exist"),
    Row("no folder", lambda _folder: "no/where/in.h5ad", "GF201", "There is no folder"),
    Row("link to nothing", _dangling, "GF201", "does not exist"),
    Row("link to itself", _loop, "GF201"),
    Row("empty file", written("in.h5ad", b""), "GF202", "is empty"),
    Row("pipe called .h5ad", _pipe("in.h5ad"), "GF202", "a pipe"),
    Row("pipe called .csv", _pipe("in.csv"), "GF202", "a pipe"),
    Row("pipe in a folder", _folder_of_pipe, "GF202", "a pipe"),
    Row("socket called .csv", _socket, "GF202", "a socket"),
    Row("/dev/null", lambda _folder: "/dev/null", "GF202", "a device"),
    Row("/dev/zero", lambda _folder: "/dev/zero", "GF202", "a device"),
    Row("pointer of git-lfs", written("in.h5ad", POINTER), "GF210", "git lfs pull"),
    Row("text called .h5ad", written("in.h5ad", b"a,b\n1,2\n"), "GF202", "not an HDF5 file"),
    Row("HTML called .h5ad", written("in.h5ad", b"<html>404</html>"), "GF202", "not an HDF5 file"),
    Row("HDF5 that ends after its signature", written("in.h5ad", b"\x89HDF\r\n\x1a\n"), "GF202"),
    Row("HDF5 of random bytes", written("in.h5ad", b"\x89HDF\r\n\x1a\n" + bytes(range(256)) * 40), "GF202"),
    Row("pickle called .h5ad", written("in.h5ad", b"\x80\x04cos\nsystem\n."), "GF202", "not an HDF5 file"),
    Row("name without suffix", _renamed("counts"), "GF209", "Its name ends in"),
    Row("name of R", written("in.rds", b"x"), "GF209", "Its name ends in"),
    Row("name of capitals", _renamed("IN.H5AD"), ACCEPTED, why="suffixes are read in either case"),
    Row(
        "name that is no text",
        _not_utf8,
        ACCEPTED,
        why="the file can be opened; what is no text of its name is replaced",
    ),
    Row("name of 200 letters", _renamed("x" * 200 + ".h5ad"), ACCEPTED, why="any name that the disk takes"),
    Row("name with quotes and a line break", _renamed('a"b\n.h5ad'), ACCEPTED, why="any name that the disk takes"),
    Row("AnnData called .loom", _renamed("in.loom"), ACCEPTED, why="what is inside decides"),
    Row("csv called .tsv", _renamed("in.tsv", text()), ACCEPTED, why="the separator is seen"),
    Row("may not be read", _forbidden, "GF202"),
    Row("folder without counts", _folder("readme.md"), "GF201", "holds no counts"),
    Row("empty folder", _folder(), "GF201", "holds no counts"),
    Row("folder of a text that is no table", _folder("notes.txt"), "GF202", "is no table"),
    Row("Cell Ranger's folder", _outs, ACCEPTED, "left out, as unfiltered droplets or the same cells twice"),
    Row("same file twice", h5ad(), ACCEPTED, "is given 2 times", TWO),
    Row("same file by two paths", _dotted, ACCEPTED, "is given 2 times", TWO),
    Row("same file through a link", _linked, ACCEPTED, "is given 2 times", TWO),
    Row("same file by two names", _hard, ACCEPTED, "is given 2 times", TWO),
    Row("inputs of different genes", _different_genes, ACCEPTED, "measure different genes", TWO),
    Row("inputs of different columns", _different_columns, ACCEPTED, why="the column becomes text, or empty", act=TWO),
    Row(
        "layer that is not there",
        h5ad(),
        "GF208",
        "has no layer",
        command("tokenize", "{}", "-o", "out.dataset", "--layer", "x"),
    ),
    Row(
        "column that is not there",
        h5ad(),
        "GF208",
        "No obs column",
        command("tokenize", "{}", "-o", "out.dataset", "--keep", "x"),
    ),
    Row(
        "max_length of 10^12",
        h5ad(),
        "GF102",
        "at most",
        command("tokenize", "{}", "-o", "out.dataset", "--max-length", str(10**12)),
    ),
]
