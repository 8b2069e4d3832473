"""AnnData as a source of counts: in memory, backed, in views; and its files, `.h5ad` and `.zarr`, without AnnData."""

import zlib
from collections import OrderedDict
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from geneformer.errors import UnreadableInputError
from geneformer.tokenization.ranking import CellRows
from geneformer.tokenization.readers.matrices import (
    DenseRows,
    MemoryFrame,
    RowMatrix,
    Sample,
    SortedOnDisk,
    SparseRows,
    by_columns,
    from_dense,
    joined,
    sampled_spans,
    stored_frame,
    triples,
)
from geneformer.tokenization.readers.source import (
    RAW,
    CountSource,
    check_layer,
    open_hdf5,
    open_zarr,
    place_of,
    reading,
)

if TYPE_CHECKING:
    from anndata import AnnData

_DEFLATE, _SHUFFLE = 1, 2
_KEPT = 2
"""Unpacked pieces kept, for runs of cells that begin within the piece in which the one before them ended."""


class DeflatedArray:
    """One-dimensional HDF5 array whose chunks are read raw and unpacked here; threads may share it."""

    def __init__(self, dataset: Any) -> None:
        self.shape = dataset.shape
        self.dtype = dataset.dtype
        self._dataset = dataset
        self._size = int(dataset.chunks[0])
        self._shuffled = dataset.shuffle
        self._kept: OrderedDict[int, NDArray[Any]] = OrderedDict()

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
        found = self._kept.get(number)
        if found is None:
            found = self._unpacked(number)
            self._kept[number] = found
            if len(self._kept) > _KEPT:
                self._kept.popitem(last=False)
        return found

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


def deflated(array: Any) -> Any:
    """The array with threads able to unpack it, where it is a compressed one of numbers in an HDF5 file; else as is."""
    plist = getattr(getattr(array, "id", None), "get_create_plist", None)
    if plist is None or array.ndim != 1 or array.chunks is None or array.dtype.kind not in "iufb" or not len(array):
        return array
    properties = plist()
    filters = [properties.get_filter(place)[0] for place in range(properties.get_nfilters())]
    whole = array.id.get_num_chunks() * array.chunks[0] >= len(array)
    return DeflatedArray(array) if filters in ([_DEFLATE], [_SHUFFLE, _DEFLATE]) and whole else array


def open_anndata(adata: "AnnData", layer: str | None = None, *, name: str = "adata") -> CountSource:
    """Counts of an AnnData object, which is only read."""
    available = [*(["X"] if adata.X is not None else []), *adata.layers, *([RAW] if adata.raw is not None else [])]
    check_layer(layer, available, "adata")
    # AnnData cannot cut a piece out of a backed view, so that its cells are read at once.
    whole = adata.isbacked or not adata.is_view
    if layer in (None, "X"):
        matrix = _in_memory(adata.X) if whole else ViewRows(adata, lambda part: part.X)
    elif layer == RAW and adata.raw is not None:
        matrix = _in_memory(adata.raw.X) if whole else ViewRows(adata, lambda part: part.raw.X, adata.raw.shape[1])
    else:
        matrix = _in_memory(adata.layers[layer]) if whole else ViewRows(adata, lambda part: part.layers[layer])
    chosen = layer or "X"
    others = {other: _opener(adata, other) for other in available if other != chosen}
    var = adata.raw.var if chosen == RAW and adata.raw is not None else adata.var
    closers = (matrix.close,) if isinstance(matrix, SortedOnDisk) else ()
    return CountSource(
        name, None, place_of(layer), matrix, MemoryFrame(adata.obs), MemoryFrame(var), others, closers=closers
    )


def _opener(adata: "AnnData", layer: str) -> Callable[[], RowMatrix]:
    return lambda: open_anndata(adata, layer).matrix


def open_h5ad(path: Path, layer: str | None = None) -> CountSource:
    """Counts of an `.h5ad` file."""
    file = open_hdf5(path)
    return open_stored(file, path, layer)


def open_anndata_zarr(path: Path, layer: str | None = None) -> CountSource:
    """Counts of an AnnData in a Zarr store of format 2 or 3."""
    return open_stored(open_zarr(path), path, layer)


def open_stored(root: Any, path: Path, layer: str | None) -> CountSource:
    """Counts of an AnnData laid out in an open HDF5 file or Zarr group."""
    if not {"obs", "var"} <= set(root.keys()):
        msg = f'"{path}" has no obs and var, so it is no AnnData; it holds {sorted(root.keys())}. Write it again.'
        raise UnreadableInputError(msg)
    layers = sorted(root["layers"].keys()) if "layers" in root else []
    raw_matrix = root["raw/X"] if "raw" in root and "X" in root["raw"] else root.get("raw.X")
    stored = {"X": root.get("X"), **{name: root["layers"][name] for name in layers}}
    if raw_matrix is not None:
        stored[RAW] = raw_matrix
    stored = {name: element for name, element in stored.items() if element is not None}
    check_layer(layer, list(stored), f'"{path}"')
    chosen = layer or "X"
    var = root["var"]
    if chosen == RAW and raw_matrix is not None:
        var = root["raw/var"] if "raw" in root else root["raw.var"]
    with reading(path):
        matrix = stored_matrix(stored[chosen], path)
        obs_frame, var_frame = stored_frame(root["obs"]), stored_frame(var)
    closers: list[Callable[[], object]] = [matrix.close] if isinstance(matrix, SortedOnDisk) else []
    if hasattr(root, "close"):
        closers.append(root.close)
    others = {name: _stored_opener(stored[name], path) for name in stored if name != chosen}
    return CountSource(path.stem, path, place_of(layer), matrix, obs_frame, var_frame, others, closers=tuple(closers))


def _stored_opener(element: Any, path: Path) -> Callable[[], RowMatrix]:
    return lambda: stored_matrix(element, path)


def stored_matrix(element: Any, path: Path | None) -> RowMatrix:
    """A matrix in an HDF5 or Zarr file: an array, or a group with compressed rows or columns."""
    if hasattr(element, "shape") and hasattr(element, "dtype"):
        return DenseRows(element)
    attributes = element.attrs
    kind = attributes.get("encoding-type", attributes.get("h5sparse_format", ""))
    kind = kind.decode() if isinstance(kind, bytes) else str(kind)
    shape = attributes.get("shape", attributes.get("h5sparse_shape"))
    if shape is None or kind.removesuffix("_matrix") not in ("csr", "csc"):
        msg = f'A matrix of "{path}" is stored as "{kind}", which is not known. Write the file again with AnnData.'
        raise UnreadableInputError(msg)
    size = (int(shape[0]), int(shape[1]))
    parts = (element["indptr"], deflated(element["indices"]), deflated(element["data"]))
    return SparseRows(*parts, size) if kind.startswith("csr") else by_columns(*parts, size)


class ViewRows:
    """A view of an AnnData, resolved a few cells at a time instead of copied whole."""

    seekable = True
    _cells = 1024

    def __init__(self, adata: "AnnData", pick: Callable[[Any], Any], n_genes: int | None = None) -> None:
        self.adata = adata
        self.pick = pick
        self.shape = (adata.n_obs, adata.n_vars if n_genes is None else n_genes)

    def chunks(self, size: int, start: int, stop: int) -> Iterator[CellRows]:
        """Cells `start` to `stop` in order, at most `size` at a time."""
        size = min(size, self._cells)
        for first in range(start, stop, size):
            yield _compressed(self.pick(self.adata[first : min(first + size, stop)]))

    def sample(self, entries: int) -> Sample:
        """About `entries` entries from the first, middle and last cells."""
        cells = max(min(entries // max(self.shape[1], 1), 192), 24)
        spans = sampled_spans(self.shape[0], cells)
        return joined([triples(rows, first) for first, last in spans for rows in self.chunks(cells, first, last)])


def _in_memory(matrix: Any) -> RowMatrix:
    """The whole matrix of an AnnData that is no view; backed ones stay on disk."""
    if hasattr(matrix, "group") and hasattr(matrix, "format"):
        return stored_matrix(matrix.group, None)
    kind = getattr(matrix, "format", None)
    if kind == "csr":
        return SparseRows(matrix.indptr, matrix.indices, matrix.data, matrix.shape)
    if kind is not None:
        rows = matrix.tocsr()
        return SparseRows(rows.indptr, rows.indices, rows.data, rows.shape)
    return DenseRows(matrix)


def _compressed(part: Any) -> CellRows:
    """Compressed rows of a small matrix of any kind."""
    if hasattr(part, "to_memory"):
        part = part.to_memory()
    if hasattr(part, "tocsr"):
        rows = part.tocsr()
        return CellRows(rows.indptr, rows.indices, rows.data)
    return from_dense(np.asarray(part))
