"""A source of counts: one matrix of cells by genes with its two tables, whatever it was opened from."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from geneformer.errors import (
    InputNotFoundError,
    PlaceholderFileError,
    UnknownColumnError,
    UnreadableInputError,
    UnsupportedFormatError,
)
from geneformer.files import refuse_lfs_pointer, require
from geneformer.options._fields import nearest
from geneformer.tokenization.ranking import CellRows
from geneformer.tokenization.readers.matrices import (
    Frame,
    MemoryFrame,
    RowMatrix,
    Sample,
    select_columns,
    texts,
    to_pandas,
)

ACCEPTED = ".h5ad, .zarr, .loom, 10x .h5, a folder with matrix.mtx, .csv, .tsv (also .gz), or a folder of these"
"""What `open_counts` reads, for messages."""

_HDF5 = b"\x89HDF\r\n\x1a\n"
_CACHE_BYTES = 8 * 2**20
"""Holds a compressed block from one reading to the next, even a large one."""


def check_file(path: Path) -> None:
    """Refuse a file that is not there, empty, or a git-lfs pointer."""
    if not path.exists():
        near = (
            f' The folder "{path.parent}" exists.' if path.parent.is_dir() else f' There is no folder "{path.parent}".'
        )
        msg = f'"{path}" does not exist.{near} Check the name.'
        raise InputNotFoundError(msg)
    try:
        with path.open("rb") as file:
            is_empty = not file.read(1)
    except PermissionError as error:
        msg = f'"{path}" may not be read (permission denied). Change its permissions, or copy it.'
        raise UnreadableInputError(msg) from error
    if is_empty:
        msg = f'"{path}" is empty (0 bytes): an interrupted download or copy. Get it again.'
        raise UnreadableInputError(msg)
    refuse_lfs_pointer(path)


def open_hdf5(path: Path) -> Any:
    """The open HDF5 file, for reading only."""
    import h5py

    check_file(path)
    with path.open("rb") as file:
        signature = file.read(len(_HDF5))
    if signature != _HDF5:
        msg = (
            f'"{path}" is not an HDF5 file although its name says so (it begins with {signature[:8]!r}). Get it again.'
        )
        raise UnreadableInputError(msg)
    try:
        return h5py.File(path, "r", rdcc_nbytes=_CACHE_BYTES)
    except BlockingIOError as error:
        msg = f'"{path}" is locked: another program is writing to it. Close that program, or work on a copy.'
        raise UnreadableInputError(msg) from error
    except OSError as error:
        raise UnreadableInputError(_damage(path, error)) from error


def open_zarr(path: Path) -> Any:
    """The open Zarr group, for reading only."""
    zarr = require("zarr", f'Reading "{path}"', extra="zarr")
    try:
        return zarr.open_group(path, mode="r")
    except (OSError, ValueError, KeyError) as error:
        msg = f'"{path}" is not a Zarr store of an AnnData ({error}). It may have been copied incompletely.'
        raise UnreadableInputError(msg) from error


@contextmanager
def reading(path: Path | None) -> Iterator[None]:
    """Turn what a damaged file causes while it is read into an error that names it."""
    try:
        yield
    except (InputNotFoundError, UnreadableInputError, UnsupportedFormatError, PlaceholderFileError):
        raise
    except (OSError, EOFError, UnicodeDecodeError) as error:
        if path is None:
            raise
        raise UnreadableInputError(_damage(path, error)) from error


def unknown_content(path: Path, found: str) -> UnsupportedFormatError:
    """The refusal of a file whose content is none of the known kinds."""
    msg = f'"{path}" is none of the kinds of count files that are read. {found} Accepted: {ACCEPTED}.'
    return UnsupportedFormatError(msg)


def _damage(path: Path, error: Exception) -> str:
    """What is wrong with a file, with its size and, for HDF5, the size it should have."""
    size = path.stat().st_size if path.exists() else 0
    expected = _expected_size(path)
    if expected is not None and expected > size:
        return (
            f'"{path}" is incomplete: {size:,} of {expected:,} bytes are there. The download or copy was interrupted; '
            "get it again."
        )
    return f'"{path}" ({size:,} bytes) cannot be read: {error}. It is damaged or incomplete; get it again.'


def _expected_size(path: Path) -> int | None:
    """Size that an HDF5 file claims for itself, from its superblock."""
    if not path.is_file():
        return None
    with path.open("rb") as file:
        block = file.read(64)
    if not block.startswith(_HDF5):
        return None
    version, width = block[8], block[13] if block[8] < 2 else block[9]
    # Address fields follow: base, (free space,) end of file in versions 0 and 1; base, extension, end after that.
    start = {0: 24, 1: 28}.get(version, 12) + 2 * width
    end = int.from_bytes(block[start : start + width], "little")
    return end if 0 < end < 1 << 62 else None


RAW = "raw"
"""Name under which `adata.raw` is asked for."""

_FEATURE_TYPES = ("feature_types", "feature_type")
_GENES = "Gene Expression"


@dataclass(frozen=True, slots=True)
class CountSource:
    """Counts of cells over genes; opened for reading only and read a few cells at a time."""

    name: str
    path: Path | None
    place: str
    matrix: RowMatrix
    obs: Frame
    var: Frame
    others: Mapping[str, Callable[[], RowMatrix]] = field(default_factory=dict)
    n_other_features: int = 0
    companions: tuple[Path, ...] = ()
    closers: tuple[Callable[[], object], ...] = ()

    @property
    def n_cells(self) -> int:
        """Cells."""
        return self.matrix.shape[0]

    @property
    def n_genes(self) -> int:
        """Genes, known to a vocabulary or not."""
        return self.matrix.shape[1]

    @property
    def label(self) -> str:
        """The input in messages."""
        return f'"{self.path}"' if self.path is not None else "adata"

    def chunks(self, size: int, start: int = 0, stop: int | None = None) -> Iterator[CellRows]:
        """Cells `start` to `stop` in order, at most `size` at a time."""
        with reading(self.path):
            yield from self.matrix.chunks(size, start, self.n_cells if stop is None else stop)

    def sample(self, entries: int = 60_000) -> Sample:
        """A few entries from different places of the matrix."""
        with reading(self.path):
            return self.matrix.sample(entries)

    def cell_names(self, start: int, stop: int) -> NDArray[np.object_]:
        """Names of some cells."""
        with reading(self.path):
            return self.obs.index(start, stop)

    @property
    def files(self) -> tuple[Path, ...]:
        """All files it is read from; none in memory."""
        return () if self.path is None else (self.path, *self.companions)

    def close(self) -> None:
        """Close files and delete temporary ones."""
        for close in self.closers:
            close()


class SelectedColumns:
    """A matrix without some of its columns."""

    def __init__(self, matrix: RowMatrix, keep: NDArray[np.bool_]) -> None:
        self.matrix = matrix
        self.seekable = matrix.seekable
        self.shape = (matrix.shape[0], int(keep.sum()))
        self._renumbered = np.where(keep, np.cumsum(keep) - 1, -1).astype(np.int32)

    def chunks(self, size: int, start: int, stop: int) -> Iterator[CellRows]:
        """Cells `start` to `stop` in order, at most `size` at a time."""
        for rows in self.matrix.chunks(size, start, stop):
            yield select_columns(rows, self._renumbered)

    def sample(self, entries: int) -> Sample:
        """About `entries` entries."""
        cells, genes, values = self.matrix.sample(entries)
        renumbered = self._renumbered[genes].astype(np.int64)
        kept = renumbered >= 0
        return Sample(cells[kept], renumbered[kept], values[kept])


def genes_only(source: CountSource) -> CountSource:
    """The source without columns that its gene table marks as something else than gene expression."""
    for name in _FEATURE_TYPES:
        if name not in source.var.names:
            continue
        kinds = texts(source.var, name)
        keep = np.array([kind == _GENES for kind in kinds], dtype=bool)
        if keep.all() or not keep.any():
            return source
        others = {flag: _selected(make, keep) for flag, make in source.others.items() if flag != RAW}
        return replace(
            source,
            matrix=SelectedColumns(source.matrix, keep),
            var=MemoryFrame(to_pandas(source.var)[keep]),
            others=others,
            n_other_features=int((~keep).sum()),
        )
    return source


def _selected(make: Callable[[], RowMatrix], keep: NDArray[np.bool_]) -> Callable[[], RowMatrix]:
    return lambda: SelectedColumns(make(), keep)


def place_of(layer: str | None) -> str:
    """How a matrix is called in messages."""
    if layer in (None, "X"):
        return "X"
    return "raw.X" if layer == RAW else f'layers["{layer}"]'


def check_layer(layer: str | None, available: list[str], where: str) -> None:
    """Refuse a layer that is not there."""
    if (layer or "X") in available:
        return
    listed = ", ".join(f'"{name}"' for name in available) or "no matrix at all"
    if layer is None:
        msg = f"{where} has no X. It has {listed}: choose one with --layer (layer= in Python)."
    else:
        msg = f'{where} has no layer "{layer}". It has {listed}.{nearest(layer, available)}'
    raise UnknownColumnError(msg)
