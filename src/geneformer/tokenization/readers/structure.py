"""Structure of what is stored, checked once when it is opened, so that readers behind it trust what they get.

HDF5 and Zarr go through the same functions. What they refuse is a `DamagedError`, to which `reading` adds the file.
"""

import os
from collections.abc import Iterator
from contextlib import suppress
from itertools import product
from math import prod
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from geneformer.errors import UnsafeFileError

NUMBERS = "biuf"
TEXTS = "OSTU"


class DamagedError(Exception):
    """What is wrong with the content of a file; `reading` names the file."""


def member(group: Any, name: str) -> Any:
    """A member of an HDF5 or Zarr group, which must lie inside the same file or store; None where there is none."""
    place = f"{group.name.rstrip('/')}/{name}"
    if hasattr(group, "file"):
        link = group.get(name, getlink=True)
        if link is None:
            return None
        # The link itself is asked first: following it would open whatever it names.
        found = None if hasattr(link, "filename") else group.get(name)
        if hasattr(link, "filename") or (found is not None and found.file.filename != group.file.filename):
            msg = f"{place} is a link to another file. Only what is inside is read: copy the data into the file"
            raise DamagedError(msg)
        if found is None:
            msg = f"{place} is a link that leads nowhere"
            raise DamagedError(msg)
        return found
    folder = _folder(group) / name
    _refuse_links(folder, group)
    for metadata in (folder / ".zarray", folder / "zarr.json"):
        with suppress(OSError):
            if b"pickle" in metadata.read_bytes():
                msg = (
                    f'"{metadata}" asks for pickled objects, and reading these runs whatever code they hold. '
                    "Write the store again with text as strings."
                )
                raise UnsafeFileError(msg)
    return group.get(name)


def required(group: Any, name: str) -> Any:
    """A member of a group."""
    if not hasattr(group, "keys"):
        msg = f"{getattr(group, 'name', '')} is no group with a {name}"
        raise DamagedError(msg)
    found = member(group, name)
    if found is None:
        msg = f"{group.name} has no {name}"
        raise DamagedError(msg)
    return found


def attribute(element: Any, *names: str) -> Any:
    """An attribute under the first of some names that is there, bytes as text; None where none is or it is null."""
    for name in names:
        if name in element.attrs:
            value = element.attrs[name]
            if type(value).__name__ == "Empty":
                return None
            return value.decode("utf-8", "replace") if isinstance(value, bytes) else value
    return None


def array(element: Any, *, kinds: str = NUMBERS, ndim: int = 1, length: int | None = None) -> Any:
    """The array itself, once its kind, dimensions and length are as they must be."""
    name = getattr(element, "name", "the matrix")
    if getattr(element, "shape", None) is None or not hasattr(element, "dtype"):
        msg = f"{name} is no array"
        raise DamagedError(msg)
    if np.dtype(element.dtype).kind not in kinds:
        msg = f"{name} holds {element.dtype}, not {'numbers' if kinds in NUMBERS else 'text or numbers'}"
        raise DamagedError(msg)
    if len(element.shape) != ndim:
        msg = f"{name} has {len(element.shape)} dimensions, {element.shape}, instead of {ndim}"
        raise DamagedError(msg)
    if length is not None and element.shape[0] != length:
        msg = f"{name} has {element.shape[0]:,} entries where {length:,} are expected"
        raise DamagedError(msg)
    if getattr(element, "external", None) or getattr(element, "is_virtual", False):
        msg = f"{name} keeps its values in another file. Only what is inside is read: copy the data into the file"
        raise DamagedError(msg)
    return element


def complete(element: Any) -> Any:
    """The array itself, once all its pieces are there: those that are not would be read as zeros."""
    if absent := n_absent(element):
        msg = f"{element.name} is incomplete: {absent:,} of its pieces are missing and would be read as zeros"
        raise DamagedError(msg)
    return element


def n_absent(element: Any) -> int:
    """Pieces of a stored array that are not there."""
    if not hasattr(element, "chunks") or not prod(element.shape):
        return 0
    if hasattr(element, "id"):
        if element.chunks is None:
            return int(element.id.get_storage_size() == 0)
        return max(prod(_grid(element.shape, element.chunks)) - int(element.id.get_num_chunks()), 0)
    return sum(1 for _ in absent_pieces(element))


def absent_pieces(element: Any) -> Iterator[tuple[int, ...]]:
    """Places, in the grid of pieces, of those that a Zarr array lacks."""
    folder = _folder(element)
    there: set[str] = set()
    for path, folders, names in os.walk(folder):
        for entry in (*folders, *names):
            _refuse_links(Path(path, entry), element)
        there.update(os.path.relpath(Path(path, entry), folder) for entry in names)
    grid = _grid(element.shape, getattr(element, "shards", None) or element.chunks)
    if prod(grid) > 1_000 * max(len(there), 1_000):
        msg = f"{element.name} declares {prod(grid):,} pieces, of which {len(there):,} are there at most"
        raise DamagedError(msg)
    for place in product(*map(range, grid)):
        if str(Path(element.metadata.encode_chunk_key(place))) not in there:
            yield place


def _grid(shape: tuple[int, ...], piece: tuple[int, ...]) -> list[int]:
    """Pieces along each dimension."""
    return [-(-length // size) for length, size in zip(shape, piece, strict=True)]


def _folder(element: Any) -> Path:
    return Path(element.store_path.store.root, element.path)


def _refuse_links(path: Path, element: Any) -> None:
    if path.is_symlink() and not path.resolve().is_relative_to(Path(element.store_path.store.root).resolve()):
        msg = f'"{path}" is a link to something outside. Only what is inside is read: copy the data into the store'
        raise DamagedError(msg)


def shape_of(shape: Any) -> tuple[int, int]:
    """A shape as it is stored beside a sparse matrix: two whole numbers that are not negative."""
    numbers = np.atleast_1d(np.asarray(shape))
    if numbers.shape != (2,) or numbers.dtype.kind not in "iu" or (numbers < 0).any():
        msg = f"the shape of its matrix is {numbers.tolist()}, not two whole numbers"
        raise DamagedError(msg)
    return int(numbers[0]), int(numbers[1])


def row_ends(indptr: Any, indices: Any, data: Any, n_rows: int) -> NDArray[Any]:
    """`indptr` of a compressed matrix in memory, once it describes `indices` and `data`."""
    name = getattr(indptr, "name", "indptr")
    complete(array(indptr, length=n_rows + 1))
    ends = whole(np.asarray(indptr[:]), name)
    n_indices, n_data = array(indices).shape[0], array(data).shape[0]
    if not n_indices == n_data == ends[-1]:
        msg = f"{name} ends at {ends[-1]:,}, but there are {n_indices:,} indices and {n_data:,} values"
        raise DamagedError(msg)
    if ends[0] != 0 or bool((ends[1:] < ends[:-1]).any()):
        msg = f"{name} does not rise from 0"
        raise DamagedError(msg)
    complete(data)
    if hasattr(indices, "store_path"):
        _require_indices(indices, ends)
    else:
        complete(indices)
    return ends


def _require_indices(indices: Any, ends: NDArray[Any]) -> None:
    """Refuse missing pieces of `indices`: Zarr leaves out pieces that are all zero, so one entry per row may be."""
    size = (getattr(indices, "shards", None) or indices.chunks)[0]
    for (number,) in absent_pieces(indices):
        first, last = number * size, min((number + 1) * size, indices.shape[0])
        rows = np.searchsorted(ends, np.arange(first, last), side="right")
        if len(np.unique(rows)) < last - first:
            msg = f"{indices.name} is incomplete: piece {number} is missing and would be read as zeros"
            raise DamagedError(msg)


def whole(numbers: NDArray[Any], name: str) -> NDArray[Any]:
    """The numbers as whole ones; fractions are refused."""
    if numbers.dtype.kind in "iu":
        return numbers
    if (
        numbers.dtype.kind != "f"
        or not bool((numbers == np.floor(numbers)).all())
        or np.abs(numbers).max(initial=0) > 2**53
    ):
        msg = f"{name} holds numbers that are not whole"
        raise DamagedError(msg)
    return numbers.astype(np.int64)


def in_range(indices: NDArray[Any], limit: int, what: str) -> NDArray[Any]:
    """Whole numbers from 0 below a limit; checked where they are read anyway."""
    indices = whole(indices, f"the numbers of {what}")
    # Seen without its sign a negative number is a large one, so that one look at all of them is enough.
    if len(indices) and indices.view(indices.dtype.str.replace("i", "u")).max() >= limit:
        wrong = indices[(indices < 0) | (indices >= limit)]
        msg = f"an entry names {what[:-1]} {wrong[0]:,}, but there are {limit:,} {what}, numbered from 0"
        raise DamagedError(msg)
    return indices


_KINDS_OF_COLUMNS = NUMBERS + TEXTS + "Mm"


def column_fault(column: Any, n_rows: int) -> str:
    """Why a stored column cannot be carried along, nothing where it can; a contradiction is refused."""
    encoding = str(attribute(column, "encoding-type") or "")
    if hasattr(column, "keys"):
        if encoding == "categorical":
            array(required(column, "codes"), kinds="iu", length=n_rows)
            return _fault_of_texts(required(column, "categories"))
        if encoding.startswith("nullable-"):
            array(required(column, "mask"), kinds="biu", length=n_rows)
            return column_fault(required(column, "values"), n_rows)
        return f"it is a group of kind {encoding!r}"
    kind, shape = np.dtype(column.dtype).kind, column.shape
    if shape is None or len(shape) != 1:
        return f"it has {0 if shape is None else len(shape)} dimensions"
    if kind not in _KINDS_OF_COLUMNS or (kind == "O" and hasattr(column, "asstr") and not _is_text(column)):
        return f"it holds {column.dtype}"
    array(column, kinds=_KINDS_OF_COLUMNS, length=n_rows)
    if hasattr(column, "id"):
        complete(column)
    return ""


def _is_text(column: Any) -> bool:
    """Whether objects in HDF5 are text, not references or lists."""
    import h5py

    return h5py.check_string_dtype(column.dtype) is not None


def _fault_of_texts(categories: Any) -> str:
    if hasattr(categories, "keys"):
        return column_fault(categories, required(categories, "values").shape[0])
    return column_fault(categories, categories.shape[0] if categories.shape else 0)
