"""Whether a file can be opened at all: placeholders, cut-off downloads, locks, and what kind of file it is."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from geneformer.errors import (
    InputNotFoundError,
    MissingExtraError,
    PlaceholderFileError,
    UnreadableInputError,
    UnsupportedFormatError,
)

ACCEPTED = ".h5ad, .zarr, .loom, 10x .h5, a folder with matrix.mtx, .csv, .tsv (also .gz), or a folder of these"
"""What `open_counts` reads, for messages."""

_HDF5 = b"\x89HDF\r\n\x1a\n"
_CACHE_BYTES = 8 * 2**20
"""Holds a compressed block from one reading to the next, even a large one."""

_POINTER = b"version https://git-lfs"


def check_file(path: Path) -> None:
    """Refuse a file that is not there, empty, or a git-lfs pointer.

    Raises
    ------
    InputNotFoundError
        Nothing there.
    UnreadableInputError
        No permission, or an empty file.
    PlaceholderFileError
        A git-lfs pointer.
    """
    if not path.exists():
        near = (
            f' The folder "{path.parent}" exists.' if path.parent.is_dir() else f' There is no folder "{path.parent}".'
        )
        msg = f'"{path}" does not exist.{near} Check the name.'
        raise InputNotFoundError(msg)
    try:
        with path.open("rb") as file:
            start = file.read(200)
    except PermissionError as error:
        msg = f'"{path}" may not be read (permission denied). Change its permissions, or copy it.'
        raise UnreadableInputError(msg) from error
    if not start:
        msg = f'"{path}" is empty (0 bytes): an interrupted download or copy. Get it again.'
        raise UnreadableInputError(msg)
    if start.startswith(_POINTER):
        size = path.stat().st_size
        msg = (
            f'"{path}" is a git-lfs pointer of {size} bytes, not the file itself. Run `git lfs pull` where it came '
            "from."
        )
        raise PlaceholderFileError(msg)


def open_hdf5(path: Path) -> Any:
    """The open HDF5 file, for reading only.

    Raises
    ------
    UnreadableInputError
        Cut off, damaged, locked, or no HDF5 at all.
    """
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
    """The open Zarr group, for reading only.

    Raises
    ------
    MissingExtraError
        The zarr library is not installed.
    UnreadableInputError
        Not a Zarr store.
    """
    try:
        import zarr
    except ImportError as error:
        msg = f'Reading "{path}" needs zarr. Install it with `pip install "geneformer[zarr]"`.'
        raise MissingExtraError(msg) from error
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
