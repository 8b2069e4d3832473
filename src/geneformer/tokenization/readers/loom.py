"""Loom files as a source of counts, read with h5py and never written to."""

from functools import partial
from pathlib import Path
from typing import Any

from geneformer.tokenization.readers.source import CountSource, DenseRows, Table, place_of, require_layer
from geneformer.tokenization.readers.structure import DamagedError, column_fault, complete, required

_CELL_NAMES = ("CellID", "obs_names", "cell_id", "barcode", "barcodes")
_GENE_NAMES = ("ensembl_id", "Accession", "var_names", "gene_ids", "Gene", "gene")


def open_loom(root: Any, path: Path, layer: str | None = None) -> CountSource:
    """Counts of an open loom file; its matrix is genes by cells."""
    layers: Any = required(root, "layers") if "layers" in root else {}
    require_layer(layer, ["X", *sorted(layers)], f'"{path}"')
    stored = {"X": (root, "matrix"), **{name: (layers, name) for name in sorted(layers)}}
    chosen = layer or "X"
    matrix = _genes_by_cells(*stored[chosen])
    obs = _attributes(required(root, "col_attrs"), matrix.shape[0], _CELL_NAMES)
    var = _attributes(required(root, "row_attrs"), matrix.shape[1], _GENE_NAMES)
    others = {name: partial(_genes_by_cells, *stored[name]) for name in stored if name != chosen}
    return CountSource(path.stem, path, place_of(layer), matrix, obs, var, others, closers=(root.close,))


def _genes_by_cells(group: Any, name: str) -> DenseRows:
    return DenseRows(complete(required(group, name)), transposed=True)


def _attributes(group: Any, n_rows: int, names: tuple[str, ...]) -> Table:
    if not hasattr(group, "keys"):
        msg = f"{group.name} is no group of attributes"
        raise DamagedError(msg)
    stored = {name: required(group, name) for name in group}
    faults = {name: column_fault(column, n_rows) for name, column in stored.items()}
    columns = {name: column for name, column in stored.items() if not faults[name]}
    index = next((name for name in names if name in columns), None)
    hidden = (index,) if names is _CELL_NAMES and index else ()
    left_out = {name: fault for name, fault in faults.items() if fault}
    return Table(columns, columns[index] if index else None, n_rows=n_rows, hidden=hidden, left_out=left_out)
