"""AnnData as a source of counts: in memory, backed, in views; and its files, `.h5ad` and `.zarr`, without AnnData."""

import zlib
from collections import OrderedDict
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from geneformer.errors import UnsupportedFormatError
from geneformer.tokenization.ranking import CellRows
from geneformer.tokenization.readers.source import (
    RAW,
    CountSource,
    DenseRows,
    RowMatrix,
    Sample,
    SortedOnDisk,
    SparseRows,
    Table,
    by_columns,
    from_dense,
    open_zarr,
    place_of,
    reading,
    require_layer,
    sample_cells,
    stored_table,
)
from geneformer.tokenization.readers.structure import DamagedError, attribute, member, n_absent, required, shape_of

if TYPE_CHECKING:
    from anndata import AnnData


def open_anndata(adata: "AnnData", layer: str | None = None, *, name: str = "adata") -> CountSource:
    """Counts of an AnnData object, which is only read."""
    available = [*(["X"] if adata.X is not None else []), *adata.layers, *([RAW] if adata.raw is not None else [])]
    require_layer(layer, available, "adata")
    chosen = layer or "X"
    matrix = _layer_rows(adata, chosen)
    others = {other: partial(_layer_rows, adata, other) for other in available if other != chosen}
    obs, var = Table.of(adata.obs), Table.of(_features(adata, chosen).var)
    return CountSource(name, None, place_of(layer), matrix, obs, var, others, closers=_closers(matrix))


def _features(adata: "AnnData", layer: str) -> Any:
    """What holds the features of a layer."""
    return adata.raw if layer == RAW else adata


def _layer_rows(adata: "AnnData", layer: str) -> RowMatrix:
    def matrix_of(part: "AnnData") -> Any:
        return _features(part, layer).X if layer in ("X", RAW) else part.layers[layer]

    # AnnData cannot cut a piece out of a backed view, so that its cells are read at once.
    if adata.is_view and not adata.isbacked:
        return ViewRows(adata, matrix_of, _features(adata, layer).n_vars)
    return _row_matrix(matrix_of(adata))


def open_anndata_zarr(path: Path, layer: str | None = None) -> CountSource:
    """Counts of an AnnData in a Zarr store of format 2 or 3."""
    with reading(path):
        return open_stored(open_zarr(path), path, layer)


def open_stored(root: Any, path: Path, layer: str | None) -> CountSource:
    """Counts of an AnnData laid out in an open HDF5 file or Zarr group."""
    if "mod" in root or not {"obs", "var"} <= set(root.keys()):
        raise UnsupportedFormatError(_no_anndata(root, path))
    raw: Any = member(root, "raw") if "raw" in root else None
    if not hasattr(raw, "keys"):  # as it was called before AnnData 0.7
        raw, parts = root, {"X": "raw.X", "var": "raw.var"}
    else:
        parts = {"X": "X", "var": "var"}
    layers: Any = member(root, "layers") if "layers" in root else {}
    stored = {"X": (root, "X"), **{name: (layers, name) for name in sorted(layers)}, RAW: (raw, parts["X"])}
    stored = {name: (group, key) for name, (group, key) in stored.items() if key in set(group.keys())}
    require_layer(layer, list(stored), f'"{path}"')
    chosen = layer or "X"
    uns = member(root, "uns") if "uns" in root else None
    obs = stored_table(root, "obs", uns)
    var = stored_table(raw, parts["var"], uns) if chosen == RAW else stored_table(root, "var", uns)
    element = required(*stored[chosen])
    matrix = stored_matrix(element)
    remarks = _absence(element, path) if isinstance(matrix, DenseRows) else ()
    others = {name: partial(_other_matrix, *stored[name]) for name in stored if name != chosen}
    closers = [*_closers(matrix), *([root.close] if hasattr(root, "close") else [])]
    return CountSource(
        path.stem, path, place_of(layer), matrix, obs, var, others, closers=tuple(closers), remarks=remarks
    )


def _no_anndata(root: Any, path: Path) -> str:
    """The refusal of a file or store without `obs` and `var`, with the place of tables that it may hold."""
    for container, how in (("mod", "mdata.mod[NAME].write_h5ad(...)"), ("tables", "give its folder")):
        place = path / container
        if container in root or place.is_dir():
            names = [entry.name for entry in place.iterdir()] if place.is_dir() else required(root, container).keys()
            tables = ", ".join(
                f'"{container}/{name}"' for name in sorted(names)[:5] if not name.startswith((".", "zarr."))
            )
            return f'"{path}" holds several tables, and is no AnnData itself. Give one of them: {tables} ({how}).'
    return f'"{path}" has no obs and var, so it is no AnnData; it holds {sorted(root.keys())}. Write it again.'


def _absence(element: Any, path: Path) -> tuple[str, ...]:
    """A remark on pieces of a dense matrix that are not stored: they are zeros, or were lost."""
    absent = n_absent(element)
    if not absent:
        return ()
    return (
        f'"{path}": {absent:,} pieces of {element.name} are not stored and are read as zeros. '
        "Where the file was copied or downloaded, it may be incomplete.",
    )


def _other_matrix(group: Any, name: str) -> RowMatrix:
    return stored_matrix(required(group, name))


def stored_matrix(element: Any) -> RowMatrix:
    """A matrix in an HDF5 or Zarr file: an array, or a group with compressed rows or columns."""
    if hasattr(element, "dtype"):
        return DenseRows(element)
    kind = str(attribute(element, "encoding-type", "h5sparse_format"))
    if kind.removesuffix("_matrix") not in ("csr", "csc"):
        msg = f'{element.name} is stored as "{kind}", which is not known. Write the file again with AnnData'
        raise DamagedError(msg)
    size = shape_of(attribute(element, "shape", "h5sparse_shape"))
    indptr, indices, data = (required(element, name) for name in ("indptr", "indices", "data"))
    open_by = SparseRows if kind.startswith("csr") else by_columns
    return open_by(indptr, deflated(indices), deflated(data), size)


def _row_matrix(matrix: Any) -> RowMatrix:
    """The matrix of an AnnData that is no view; backed ones stay on disk."""
    if hasattr(matrix, "group") and hasattr(matrix, "format"):
        return stored_matrix(matrix.group)
    if getattr(matrix, "format", None) is None:
        return DenseRows(matrix)
    rows = matrix if matrix.format == "csr" else matrix.tocsr()
    return SparseRows(rows.indptr, rows.indices, rows.data, rows.shape)


def _closers(matrix: RowMatrix) -> tuple[Callable[[], object], ...]:
    return (matrix.close,) if isinstance(matrix, SortedOnDisk) else ()


class ViewRows:
    """A view of an AnnData, resolved a few cells at a time instead of copied whole."""

    seekable = True
    _cells = 1024

    def __init__(self, adata: "AnnData", pick: Callable[[Any], Any], n_genes: int) -> None:
        self.adata = adata
        self.pick = pick
        self.shape = (adata.n_obs, n_genes)

    def chunks(self, size: int, start: int, stop: int) -> Iterator[CellRows]:
        """Cells `start` to `stop` in order, at most `size` at a time."""
        size = min(size, self._cells)
        for first in range(start, stop, size):
            part = self.pick(self.adata[first : min(first + size, stop)])
            if hasattr(part, "to_memory"):
                part = part.to_memory()
            if hasattr(part, "tocsr"):
                rows = part.tocsr()
                yield CellRows(rows.indptr, rows.indices, rows.data)
            else:
                yield from_dense(np.asarray(part))

    def sample(self, entries: int) -> Sample:
        """About `entries` entries from the first, middle and last cells."""
        return sample_cells(self, max(min(entries // max(self.shape[1], 1), 192), 24))


_DEFLATE, _SHUFFLE = 1, 2
_KEPT = 2
"""Unpacked pieces kept, for runs of cells that begin within the piece in which the one before them ended."""


def deflated(array: Any) -> Any:
    """The array with threads able to unpack it, where it is a compressed one of numbers in an HDF5 file; else as is."""
    plist = getattr(getattr(array, "id", None), "get_create_plist", None)
    if plist is None or array.ndim != 1 or array.chunks is None or array.dtype.kind not in "iufb" or not len(array):
        return array
    properties = plist()
    filters = [properties.get_filter(place)[0] for place in range(properties.get_nfilters())]
    complete = array.id.get_num_chunks() * array.chunks[0] >= len(array)
    return DeflatedArray(array) if filters in ([_DEFLATE], [_SHUFFLE, _DEFLATE]) and complete else array


class DeflatedArray:
    """One-dimensional HDF5 array whose chunks are read raw and unpacked here; threads may share it."""

    def __init__(self, dataset: Any) -> None:
        self.name = dataset.name
        self.shape = dataset.shape
        self.dtype = dataset.dtype
        self._dataset = dataset
        self._size = int(dataset.chunks[0])
        self._shuffled = dataset.shuffle
        self._last_pieces: OrderedDict[int, NDArray[Any]] = OrderedDict()

    def __len__(self) -> int:
        return int(self.shape[0])

    def __getitem__(self, span: slice) -> NDArray[Any]:
        start, stop, _ = span.indices(len(self))
        values = np.empty(max(stop - start, 0), dtype=self.dtype)
        at = start
        while at < stop:
            number, offset = divmod(at, self._size)
            piece = self._piece(number)[offset : offset + stop - at]
            values[at - start : at - start + len(piece)] = piece
            at += len(piece)
        return values

    def _piece(self, number: int) -> NDArray[Any]:
        piece = self._last_pieces.get(number)
        if piece is None:
            piece = self._last_pieces[number] = self._unpacked(number)
            if len(self._last_pieces) > _KEPT:
                self._last_pieces.popitem(last=False)
        return piece

    def _unpacked(self, number: int) -> NDArray[Any]:
        first = number * self._size
        size = self._size * self.dtype.itemsize
        skipped, packed = self._dataset.id.read_direct_chunk((first,))
        if skipped:
            return np.asarray(self._dataset[first : first + self._size])
        try:
            unpacked = zlib.decompress(packed, bufsize=size)
        except zlib.error as error:
            raise OSError(str(error)) from error
        if len(unpacked) != size:
            msg = f"{self._dataset.name} holds {len(unpacked):,} bytes in a piece of {size:,}"
            raise OSError(msg)
        if self._shuffled:
            planes = np.frombuffer(unpacked, dtype=np.uint8).reshape(self.dtype.itemsize, self._size)
            unpacked = planes.T.tobytes()
        return np.frombuffer(unpacked, dtype=self.dtype)[: len(self) - first]
