"""Cell Ranger's output as a source of counts: `.h5` files of both generations, and `matrix.mtx` folders."""

import gzip
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from geneformer.errors import UnreadableInputError, UnsupportedFormatError
from geneformer.tokenization.readers.matrices import BUCKET_ENTRIES, ArrayFrame, Sample, SortedOnDisk, SparseRows
from geneformer.tokenization.readers.source import CountSource, check_file, reading

_FEATURES = {"id": "gene_ids", "name": "gene_symbol", "feature_type": "feature_types", "genome": "genome"}
_HUMAN = ("GRCh38", "hg19", "hg38", "GRCh37")
MATRIX_NAMES = ("matrix.mtx", "matrix.mtx.gz")


def genomes_of(root: Any) -> list[str]:
    """Groups of an open HDF5 file that hold a 10x matrix."""
    wanted = {"barcodes", "data", "indices", "indptr", "shape"}
    return [name for name in root if hasattr(root[name], "keys") and wanted <= set(root[name].keys())]


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
    obs = ArrayFrame({}, group["barcodes"])
    var = ArrayFrame(stored, stored["gene_ids"])
    return CountSource(path.stem, path, "X", matrix, obs, var, closers=(root.close,))


def matrix_files(folder: Path) -> list[Path]:
    """The `matrix.mtx` files of a folder, with or without a sample's name before them."""
    return sorted(file for file in folder.iterdir() if file.name.endswith(MATRIX_NAMES))


def open_tenx_folder(matrix: Path) -> CountSource:
    """Counts of a `matrix.mtx` with its barcodes and features beside it."""
    check_file(matrix)
    prefix = matrix.name.removesuffix(".gz").removesuffix("matrix.mtx")
    cell_file = _companion(matrix, prefix, ("barcodes.tsv",))
    gene_file = _companion(matrix, prefix, ("features.tsv", "genes.tsv"))
    barcodes, features = _lines(cell_file), _lines(gene_file)
    n_rows, n_columns, n_entries, n_skipped = _dimensions(matrix)
    by_gene = (n_rows, n_columns) == (len(features), len(barcodes))
    if not by_gene and (n_rows, n_columns) != (len(barcodes), len(features)):
        msg = (
            f'"{matrix}" is {n_rows:,} x {n_columns:,}, but there are {len(features):,} features and '
            f"{len(barcodes):,} barcodes beside it. Put together the three files of one sample."
        )
        raise UnreadableInputError(msg)
    fields = [line.split("\t") for line in features]
    columns = {"gene_ids": _column(fields, 0), "gene_symbol": _column(fields, 1)}
    if all(len(field) > 2 for field in fields):
        columns["feature_types"] = _column(fields, 2)

    def entries() -> Iterator[Sample]:
        return _entries(matrix, n_skipped, n_entries, by_gene=by_gene)

    rows = SortedOnDisk(entries, (len(barcodes), len(features)), expected=n_entries)
    name = prefix.rstrip("._-") or matrix.absolute().parent.name
    obs = ArrayFrame({}, np.array([line.split("\t")[0] for line in barcodes], dtype=object), n_rows=len(barcodes))
    var = ArrayFrame(columns, columns["gene_ids"])
    companions = (cell_file, gene_file)
    return CountSource(name, matrix, "X", rows, obs, var, companions=companions, closers=(rows.close,))


def _column(fields: list[list[str]], number: int) -> NDArray[np.object_]:
    return np.array([field[min(number, len(field) - 1)] for field in fields], dtype=object)


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


def _opened(path: Path) -> Any:
    return gzip.open(path, "rt", encoding="utf-8") if path.suffix == ".gz" else path.open(encoding="utf-8")


def _lines(path: Path) -> list[str]:
    with reading(path), _opened(path) as file:
        return [line.rstrip("\r\n") for line in file if line.strip()]


def _dimensions(path: Path) -> tuple[int, int, int, int]:
    """Rows, columns, entries, and how many lines stand before the first entry."""
    with reading(path), _opened(path) as file:
        banner = file.readline()
        words = banner.lower().split()
        if words[:1] != ["%%matrixmarket"] or words[1:3] != ["matrix", "coordinate"] or "general" not in words:
            msg = (
                f'"{path}" does not begin as a sparse Matrix Market file does, but with {banner[:60]!r}. Get it again.'
            )
            raise UnreadableInputError(msg)
        for number, line in enumerate(file, start=2):
            if not line.startswith("%") and line.strip():
                rows, columns, entries = (int(word) for word in line.split())
                return rows, columns, entries, number
    msg = f'"{path}" ends before its first entry. Get it again.'
    raise UnreadableInputError(msg)


def _entries(path: Path, n_skipped: int, n_entries: int, *, by_gene: bool) -> Iterator[Sample]:
    import pandas as pd

    found = 0
    with reading(path):
        try:
            blocks = pd.read_csv(
                path,
                sep=r"\s+",
                header=None,
                skiprows=n_skipped,
                names=["row", "column", "value"],
                dtype={"row": np.int64, "column": np.int64, "value": np.float64},
                chunksize=BUCKET_ENTRIES,
            )
            for block in blocks:
                first, second = block["row"].to_numpy() - 1, block["column"].to_numpy() - 1
                cells, genes = (second, first) if by_gene else (first, second)
                found += len(cells)
                yield Sample(cells, genes, block["value"].to_numpy())
        except (pd.errors.ParserError, pd.errors.EmptyDataError, ValueError) as error:
            if n_entries:
                msg = f'"{path}" cannot be read as numbers ({error}). It is damaged; get it again.'
                raise UnreadableInputError(msg) from error
    if found != n_entries:
        msg = f'"{path}" announces {n_entries:,} entries but has {found:,}. It is incomplete; get it again.'
        raise UnreadableInputError(msg)
