"""Compressed arrays of HDF5 files unpacked by any thread: the HDF5 library itself lets one at a time do anything."""

import zlib
from collections import OrderedDict
from typing import Any

import numpy as np
from numpy.typing import NDArray

_DEFLATE, _SHUFFLE = 1, 2
_KEPT = 2
"""Unpacked pieces kept, for runs of cells that begin within the piece in which the one before them ended."""


class DeflatedArray:
    """One-dimensional array of an HDF5 file whose pieces are read as they are and unpacked here; threads may share it.

    Parameters
    ----------
    dataset
        The `h5py.Dataset`; see `is_deflated`.
    """

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
