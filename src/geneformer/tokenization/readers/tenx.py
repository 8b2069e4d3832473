"""Cell Ranger's output as a source of counts: `.h5` files of both generations, and `matrix.mtx` folders."""

import gzip
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from geneformer.errors import UnreadableInputError, UnsupportedFormatError
from geneformer.files import check_file
from geneformer.tokenization.readers.source import (
    BUCKET_ENTRIES,
    CountSource,
    Sample,
    SortedOnDisk,
    SparseRows,
    Table,
    reading,
)
from geneformer.tokenization.readers.structure import (
    TEXTS,
    DamagedError,
    array,
    complete,
    in_range,
    member,
    required,
    shape_of,
)

_FEATURES = {"id": "gene_ids", "name": "gene_symbol", "feature_type": "feature_types", "genome": "genome"}
_HUMAN = ("GRCh38", "hg19", "hg38", "GRCh37")
MATRIX_SUFFIXES = (".mtx", ".mtx.gz")
_MATRIX_NAMES = ("matrix.mtx", "matrix.mtx.gz")
_NAME_SUFFIXES = tuple(f"{kind}{gz}" for kind in (".tsv", ".txt", ".mtx_rows", ".mtx_cols") for gz in ("", ".gz"))
_ROLES = {
    "cells": re.compile(r"barcodes|cell(?!_metadata)|mtx_cols|^_rows"),
    "genes": re.compile(r"features|genes|mtx_rows|^_cols"),
}
"""How files with names are called by Cell Ranger, STARsolo, kallisto, alevin-fry, the Expression Atlas and in GEO."""

_USUAL_NAMES = {"cells": "barcodes.tsv", "genes": "features.tsv"}
_PLAIN_NAMES = ("barcodes.tsv", "features.tsv")
_COUNTED = ("integer", "real", "unsigned-integer")


def genomes_of(root: Any) -> list[str]:
    """Groups of an open HDF5 file that hold a 10x matrix."""
    members = {"barcodes", "data", "indices", "indptr", "shape"}
    groups = {name: member(root, name) for name in root}
    return [name for name, group in groups.items() if hasattr(group, "keys") and members <= set(group.keys())]


def open_tenx_h5(root: Any, path: Path) -> CountSource:
    """Counts of an open 10x `.h5` file."""
    genomes = genomes_of(root)
    name = next((genome for genome in ("matrix", *_HUMAN) if genome in genomes), genomes[0])
    if len(genomes) > 1 and name not in ("matrix", *_HUMAN):
        msg = f'"{path}" holds the genomes {genomes}, none of which is a known human one. Split the file by genome.'
        raise UnsupportedFormatError(msg)
    group = required(root, name)
    n_genes, n_cells = shape_of(array(required(group, "shape"), kinds="iu")[:])
    if "features" in group:
        features = required(group, "features")
        stored = {new: required(features, old) for old, new in _FEATURES.items() if old in features}
        stored["gene_ids"] = required(features, "id")
    else:
        stored = {"gene_ids": required(group, "genes"), "gene_symbol": required(group, "gene_names")}
    for column in stored.values():
        complete(array(column, kinds=TEXTS, length=n_genes))
    barcodes = complete(array(required(group, "barcodes"), kinds=TEXTS, length=n_cells))
    # Compressed columns of genes by cells are compressed rows of cells by genes.
    indptr, indices, data = (required(group, part) for part in ("indptr", "indices", "data"))
    matrix = SparseRows(indptr, indices, data, (n_cells, n_genes))
    obs = Table({}, barcodes, n_rows=n_cells)
    var = Table(stored, stored["gene_ids"], n_rows=n_genes)
    return CountSource(path.stem, path, "X", matrix, obs, var, closers=(root.close,))


def matrix_files(folder: Path) -> list[Path]:
    """The `matrix.mtx` files of a folder, with or without a sample's name before them; else whatever `.mtx` it has."""
    files = sorted(file for file in folder.iterdir() if file.name.endswith(MATRIX_SUFFIXES))
    return [file for file in files if file.name.endswith(_MATRIX_NAMES)] or files


def open_tenx_folder(matrix: Path) -> CountSource:
    """Counts of a Matrix Market file and the names of cells and genes beside it."""
    check_file(matrix)
    prefix = matrix.name.removesuffix(".gz").removesuffix(".mtx").removesuffix("matrix")
    n_rows, n_columns, n_entries = _dimensions(matrix)
    cell_file, gene_file = _companions(matrix, prefix)
    barcodes, features = _fields(cell_file), _fields(gene_file)
    by_gene = (n_rows, n_columns) == (len(features), len(barcodes))
    if not by_gene and (n_rows, n_columns) != (len(barcodes), len(features)):
        msg = (
            f'"{matrix}" is {n_rows:,} x {n_columns:,}, but there are {len(features):,} features and '
            f"{len(barcodes):,} barcodes beside it ({gene_file.name}, {cell_file.name}). Put together the three files "
            "of one sample."
        )
        raise UnreadableInputError(msg)
    columns = {"gene_ids": _column(features, 0), "gene_symbol": _column(features, 1)}
    if all(len(fields) > 2 for fields in features):
        columns["feature_types"] = _column(features, 2)
    shape = (len(barcodes), len(features))
    rows = SortedOnDisk(lambda: _entries(matrix, shape, n_entries, by_gene=by_gene), shape, expected=n_entries)
    name = prefix.rstrip("._-") or matrix.absolute().parent.name
    obs = Table({}, _column(barcodes, 0), n_rows=len(barcodes))
    var = Table(columns, columns["gene_ids"], n_rows=len(features))
    companions = (cell_file, gene_file)
    return CountSource(name, matrix, "X", rows, obs, var, companions=companions, closers=(rows.close,))


def _companions(matrix: Path, prefix: str) -> tuple[Path, Path]:
    """The files with the names of cells and of genes: those that share most of the name of the matrix."""
    there = sorted(file for file in matrix.parent.iterdir() if file.name.lower().endswith(_NAME_SUFFIXES))
    found = []
    for role, pattern in _ROLES.items():
        named = [file for file in there if pattern.search(file.name.lower().removeprefix(prefix.lower()))]
        own = [file for file in named if file.name.startswith(prefix)]
        own = own if own or matrix.name.endswith(_MATRIX_NAMES) else named
        shared = [_n_shared(file.name, matrix.name) for file in own]
        best = [file for file, length in zip(own, shared, strict=True) if length == max(shared)]
        if len(best) > 1:
            plain = [file for file in best if file.name.removesuffix(".gz").endswith(_PLAIN_NAMES)]
            best = plain[:1] or best
        if len(best) != 1:
            listed = ", ".join(file.name for file in matrix.parent.iterdir())[:200]
            msg = (
                f'Beside "{matrix}" there is no {prefix}{_USUAL_NAMES[role]} (or .gz), nor one other file that names '
                f"{role}; the folder holds {listed}. Copy it there."
            )
            raise UnreadableInputError(msg)
        check_file(best[0])
        found.append(best[0])
    return found[0], found[1]


def _n_shared(name: str, other: str) -> int:
    """Characters with which both names begin."""
    return next((place for place, (a, b) in enumerate(zip(name, other, strict=False)) if a != b), len(name))


def _fields(path: Path) -> list[list[str]]:
    """The fields of every line, empty lines at the end left out."""
    opened: Any = gzip.open if path.suffix == ".gz" else open
    with reading(path), opened(path, "rt", encoding="utf-8") as file:
        lines = [line.rstrip("\r\n").split("\t") for line in file]
    while lines and not any(field.strip() for field in lines[-1]):
        lines.pop()
    return lines


def _column(lines: list[list[str]], number: int) -> NDArray[np.object_]:
    return np.array([fields[min(number, len(fields) - 1)] for fields in lines], dtype=object)


def _dimensions(path: Path) -> tuple[int, int, int]:
    """Rows, columns and entries."""
    from scipy.io import mminfo

    try:
        rows, columns, entries, layout, field, symmetry = mminfo(path)
    except (ValueError, OverflowError) as error:
        msg = f'"{path}" does not begin as a sparse Matrix Market file does ({error}). Get it again.'
        raise UnreadableInputError(msg) from error
    if (layout, symmetry) != ("coordinate", "general") or field not in _COUNTED:
        kind = f"{layout} {symmetry} of {field} entries"
        msg = (
            f'"{path}" is a Matrix Market file of the kind {kind}, not coordinate general of integer (or real) ones: '
            "it holds no counts of genes in cells. Give another."
        )
        raise UnreadableInputError(msg)
    return int(rows), int(columns), int(entries)


def _entries(path: Path, shape: tuple[int, int], n_entries: int, *, by_gene: bool) -> Iterator[Sample]:
    """The entries, some at a time: a large matrix never is in memory."""
    import pandas as pd

    n_read = 0
    with reading(path):
        try:
            blocks = pd.read_csv(
                path,
                sep=r"\s+",
                comment="%",
                header=0,  # the dimensions
                names=["row", "column", "value"],
                dtype={"row": np.int64, "column": np.int64, "value": np.float64},
                chunksize=BUCKET_ENTRIES,
            )
            for block in blocks:
                if not isinstance(block.index, pd.RangeIndex):
                    msg = "its lines have more than three numbers"
                    raise DamagedError(msg)
                first, second = block["row"].to_numpy() - 1, block["column"].to_numpy() - 1
                cells, genes = (second, first) if by_gene else (first, second)
                n_read += len(cells)
                values = block["value"].to_numpy()
                yield Sample(in_range(cells, shape[0], "cells"), in_range(genes, shape[1], "genes"), values)
        except (pd.errors.ParserError, pd.errors.EmptyDataError, ValueError) as error:
            if isinstance(error, UnreadableInputError):
                raise
            msg = f'"{path}" cannot be read as numbers ({error}). It is damaged; get it again.'
            raise UnreadableInputError(msg) from error
    if n_read != n_entries:
        msg = f'"{path}" announces {n_entries:,} entries but has {n_read:,}. It is incomplete; get it again.'
        raise UnreadableInputError(msg)
