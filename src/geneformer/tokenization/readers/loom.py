"""Loom files as a source of counts, read with h5py and never written to."""

from functools import partial
from pathlib import Path
from typing import Any

from geneformer.tokenization.readers.source import CountSource, DenseRows, Table, place_of, reading, require_layer

_CELL_NAMES = ("CellID", "obs_names", "cell_id", "barcode", "barcodes")
_GENE_NAMES = ("ensembl_id", "Accession", "var_names", "gene_ids", "Gene", "gene")


def open_loom(root: Any, path: Path, layer: str | None = None) -> CountSource:
    """Counts of an open loom file; its matrix is genes by cells."""
    layers = sorted(root["layers"].keys()) if "layers" in root else []
    require_layer(layer, ["X", *layers], f'"{path}"')
    stored = {"X": root["matrix"], **{name: root["layers"][name] for name in layers}}
    chosen = layer or "X"
    with reading(path):
        matrix = DenseRows(stored[chosen], transposed=True)
        obs = _attributes(root["col_attrs"], matrix.shape[0], _CELL_NAMES)
        var = _attributes(root["row_attrs"], matrix.shape[1], _GENE_NAMES)
    others = {name: partial(DenseRows, stored[name], transposed=True) for name in stored if name != chosen}
    return CountSource(path.stem, path, place_of(layer), matrix, obs, var, others, closers=(root.close,))


def _attributes(group: Any, n_rows: int, names: tuple[str, ...]) -> Table:
    columns = {name: group[name] for name in group if group[name].shape == (n_rows,)}
    index = next((name for name in names if name in columns), None)
    hidden = (index,) if names is _CELL_NAMES and index else ()
    return Table(columns, columns[index] if index else None, n_rows=n_rows, hidden=hidden)
