"""Cell Ranger's output as a source of counts: `.h5` files of both generations, and `matrix.mtx` folders."""

import gzip
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from geneformer.errors import UnreadableInputError, UnsupportedFormatError
from geneformer.tokenization.readers.source import (
    BUCKET_ENTRIES,
    CountSource,
    Sample,
    SortedOnDisk,
    SparseRows,
    Table,
    check_file,
    reading,
)

_FEATURES = {"id": "gene_ids", "name": "gene_symbol", "feature_type": "feature_types", "genome": "genome"}
_HUMAN = ("GRCh38", "hg19", "hg38", "GRCh37")
MATRIX_NAMES = ("matrix.mtx", "matrix.mtx.gz")


def genomes_of(root: Any) -> list[str]:
    """Groups of an open HDF5 file that hold a 10x matrix."""
    members = {"barcodes", "data", "indices", "indptr", "shape"}
    return [name for name in root if hasattr(root[name], "keys") and members <= set(root[name].keys())]


def open_tenx_h5(root: Any, path: Path) -> CountSource:
    """Counts of an open 10x `.h5` file."""
    genomes = genomes_of(root)
    name = next((genome for genome in ("matrix", *_HUMAN) if genome in genomes), genomes[0])
    if len(genomes) > 1 and name not in ("matrix", *_HUMAN):
        msg = f'"{path}" holds the genomes {genomes}, none of which is a known human one. Split the file by genome.'
        raise UnsupportedFormatError(msg)
    group = root[name]
    with reading(path):
        if "features" in group:
            stored = {new: group["features"][old] for old, new in _FEATURES.items() if old in group["features"]}
        else:
            stored = {"gene_ids": group["genes"], "gene_symbol": group["gene_names"]}
        n_genes, n_cells = (int(length) for length in group["shape"][:])
        # Compressed columns of genes by cells are compressed rows of cells by genes.
        matrix = SparseRows(group["indptr"], group["indices"], group["data"], (n_cells, n_genes))
    obs = Table({}, group["barcodes"], n_rows=n_cells)
    var = Table(stored, stored["gene_ids"], n_rows=n_genes)
    return CountSource(path.stem, path, "X", matrix, obs, var, closers=(root.close,))


def matrix_files(folder: Path) -> list[Path]:
    """The `matrix.mtx` files of a folder, with or without a sample's name before them."""
    return sorted(file for file in folder.iterdir() if file.name.endswith(MATRIX_NAMES))


def open_tenx_folder(matrix: Path) -> CountSource:
    """Counts of a `matrix.mtx` and the barcodes and features of its folder."""
    check_file(matrix)
    prefix = matrix.name.removesuffix(".gz").removesuffix("matrix.mtx")
    cell_file = _companion(matrix, prefix, ("barcodes.tsv",))
    gene_file = _companion(matrix, prefix, ("features.tsv", "genes.tsv"))
    barcodes, features = _fields(cell_file), _fields(gene_file)
    n_rows, n_columns, n_entries = _dimensions(matrix)
    by_gene = (n_rows, n_columns) == (len(features), len(barcodes))
    if not by_gene and (n_rows, n_columns) != (len(barcodes), len(features)):
        msg = (
            f'"{matrix}" is {n_rows:,} x {n_columns:,}, but there are {len(features):,} features and '
            f"{len(barcodes):,} barcodes beside it. Put together the three files of one sample."
        )
        raise UnreadableInputError(msg)
    columns = {"gene_ids": _column(features, 0), "gene_symbol": _column(features, 1)}
    if all(len(fields) > 2 for fields in features):
        columns["feature_types"] = _column(features, 2)
    shape = (len(barcodes), len(features))
    rows = SortedOnDisk(lambda: _entries(matrix, n_entries, by_gene=by_gene), shape, expected=n_entries)
    name = prefix.rstrip("._-") or matrix.absolute().parent.name
    obs = Table({}, _column(barcodes, 0), n_rows=len(barcodes))
    var = Table(columns, columns["gene_ids"], n_rows=len(features))
    companions = (cell_file, gene_file)
    return CountSource(name, matrix, "X", rows, obs, var, companions=companions, closers=(rows.close,))


def _companion(matrix: Path, prefix: str, names: tuple[str, ...]) -> Path:
    for name in names:
        for suffix in ("", ".gz"):
            path = matrix.with_name(prefix + name + suffix)
            if path.exists():
                check_file(path)
                return path
    there = ", ".join(sorted(file.name for file in matrix.parent.iterdir())[:8])
    msg = f'Beside "{matrix}" there is no {prefix}{names[0]} (or .gz); the folder holds {there}. Copy it there.'
    raise UnreadableInputError(msg)


def _fields(path: Path) -> list[list[str]]:
    """The fields of every line."""
    opened: Any = gzip.open if path.suffix == ".gz" else open
    with reading(path), opened(path, "rt", encoding="utf-8") as file:
        return [line.rstrip("\r\n").split("\t") for line in file if line.strip()]


def _column(lines: list[list[str]], number: int) -> NDArray[np.object_]:
    return np.array([fields[min(number, len(fields) - 1)] for fields in lines], dtype=object)


def _dimensions(path: Path) -> tuple[int, int, int]:
    """Rows, columns and entries."""
    from scipy.io import mminfo

    try:
        with reading(path):
            rows, columns, entries, layout, _, symmetry = mminfo(path)
    except ValueError as error:
        msg = f'"{path}" does not begin as a sparse Matrix Market file does ({error}). Get it again.'
        raise UnreadableInputError(msg) from error
    if (layout, symmetry) != ("coordinate", "general"):
        msg = f'"{path}" is a Matrix Market file of the kind {layout} {symmetry}, not coordinate general. Get it again.'
        raise UnreadableInputError(msg)
    return int(rows), int(columns), int(entries)


def _entries(path: Path, n_entries: int, *, by_gene: bool) -> Iterator[Sample]:
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
                first, second = block["row"].to_numpy() - 1, block["column"].to_numpy() - 1
                cells, genes = (second, first) if by_gene else (first, second)
                n_read += len(cells)
                yield Sample(cells, genes, block["value"].to_numpy())
        except (pd.errors.ParserError, pd.errors.EmptyDataError, ValueError) as error:
            msg = f'"{path}" cannot be read as numbers ({error}). It is damaged; get it again.'
            raise UnreadableInputError(msg) from error
    if n_read != n_entries:
        msg = f'"{path}" announces {n_entries:,} entries but has {n_read:,}. It is incomplete; get it again.'
        raise UnreadableInputError(msg)
