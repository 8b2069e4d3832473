"""Outputs that survive a kill: files and folders that appear whole or not at all, and journals of those in the making.

`lock` keeps a second process off a folder in the making; `Workers` share one.
"""

import errno
import glob
import json
import os
import platform
import re
import secrets
import shutil
import zlib
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from functools import cache
from pathlib import Path
from typing import Any, Self

from geneformer.errors import GeneformerError, OutputError, OutputExistsError, RunLockedError, RunMismatchError
from geneformer.options._fields import as_path

MANIFEST_NAME = "geneformer_manifest.json"
"""File that says what an output was made from; a folder that has it is ours to replace."""

_REASONS = {
    errno.ENOSPC: "The disk is full. Free some space, or write elsewhere.",
    errno.EDQUOT: "The disk quota is used up. Free some space, or write elsewhere.",
    errno.EFBIG: "The file is larger than the file system or a limit of the shell allows. Write elsewhere.",
    errno.EIO: "The disk reports an error. Look at its health, or write elsewhere.",
    errno.EACCES: "Permission denied. Choose a folder you may write to.",
    errno.EPERM: "Permission denied. Choose a folder you may write to.",
    errno.EROFS: "The file system is read-only. Choose a folder you may write to.",
    errno.ENOTDIR: "A file stands where one of its folders should be. Choose another place.",
    errno.EEXIST: "A file stands where one of its folders should be. Choose another place.",
    errno.ENAMETOOLONG: "The name is too long. Choose a shorter one.",
}


def check_output(path: str | Path, *, overwrite: bool = False, markers: tuple[str, ...] = (MANIFEST_NAME,)) -> Path:
    """The path, once it is certain that something can be put there."""
    path = as_path("The place to write to", path, "the path of a file or folder")
    parent = path.absolute().parent
    if not parent.is_dir():
        msg = f'Cannot write "{path}": there is no folder "{parent}". Make it first, or choose another place.'
        raise OutputError(msg)
    if not os.access(parent, os.W_OK | os.X_OK):
        msg = f'Cannot write "{path}": the folder "{parent}" is not writable. Choose a folder you may write to.'
        raise OutputError(msg)
    with output_errors(path), suppress(FileNotFoundError):
        path.with_name(f"{path.name}.manifest.json").lstat()  # the longest name beside an output
    if not os.path.lexists(path):
        return path
    if path.exists() and not path.is_file() and not path.is_dir():
        msg = f'"{path}" is a device, a pipe or a socket. Results go to a file or folder; choose another name.'
        raise OutputError(msg)
    if not overwrite:
        msg = (
            f'"{path}" exists already. Choose another name, or allow it to be replaced with --overwrite '
            "(overwrite=True)."
        )
        raise OutputExistsError(msg)
    if path.is_dir() and any(path.iterdir()) and not any((path / marker).exists() for marker in markers):
        msg = (
            f'"{path}" is a folder without {" or ".join(markers)}, so it was not made by this package and is not '
            "replaced. Choose another name."
        )
        raise OutputExistsError(msg)
    return path


_MARKS_OF_ONE = (MANIFEST_NAME, "state.json", "config.json", ".zgroup", "zarr.json")
"""Files by which a folder is one dataset, model or store; other folders may hold inputs and outputs side by side."""


def refuse_overlap(outputs: Iterable[str | Path], inputs: Iterable[str | Path], *, overwrite: bool = True) -> None:
    """Refuse outputs over or around an input, within one that is a single thing, or over each other; links count."""
    places: dict[str, str | Path] = {}
    for output in outputs:
        place = os.path.realpath(output)
        if place in places:
            msg = f'"{output}" and "{places[place]}" are one place. Give every result a name of its own.'
            raise OutputError(msg)
        places[place] = output
        for given in inputs:
            source = os.path.realpath(given)
            around = overwrite and source.startswith(place + os.sep)
            folders = [parent for parent in Path(place).parents if parent.is_relative_to(source)]
            inside = any((folder / mark).exists() for folder in folders for mark in _MARKS_OF_ONE)
            if place == source or inside or around:
                how = "is" if place == source else "lies in" if inside else "holds"
                msg = (
                    f'The output "{output}" {how} the input "{given}". Nothing is written there; choose another place.'
                )
                raise OutputError(msg)


def partial_folder(path: Path) -> Path:
    """The folder beside an output where that is made; one that is there already must be of a run like this."""
    partial = path.with_name(path.name + ".partial")
    if not os.path.lexists(partial):
        return partial
    entries = list(partial.iterdir()) if partial.is_dir() and not partial.is_symlink() else None
    ours = entries is not None and (not entries or any(entry.name in (JOURNAL, LOCK) for entry in entries))
    if not ours or any(entry.is_symlink() for entry in entries or ()):
        msg = (
            f'"{partial}" is in the way: "{path.name}" is made there, but this package did not make what is there now. '
            "Move it elsewhere, or choose another name."
        )
        raise OutputExistsError(msg)
    return partial


JOURNAL, LOCK = "journal.jsonl", "lock"
"""Files of an output in the making."""


def make_folder(folder: str | Path) -> Path:
    """The folder, made with its parents where it is missing."""
    folder = Path(folder)
    with output_errors(folder):
        folder.mkdir(parents=True, exist_ok=True)
    return folder


@contextmanager
def atomic_file(path: str | Path, *, overwrite: bool = False, parents: bool = False) -> Iterator[Path]:
    """A path beside `path` to write a file at; it takes the final name when the block ends well."""
    path = Path(path)
    if parents:
        with output_errors(path):
            path.absolute().parent.mkdir(parents=True, exist_ok=True)
    check_output(path, overwrite=overwrite)
    if path.is_dir():
        msg = f'"{path}" is a folder; a file is to be written. Give the name of a file.'
        raise OutputExistsError(msg)
    temporary = _sibling(path)
    try:
        with output_errors(path):
            yield temporary
            sync(temporary)
            temporary.replace(path)
            sync(path.absolute().parent)
    finally:
        with suppress(OSError):  # after a success there is nothing to delete; after a failure that is what to report
            temporary.unlink(missing_ok=True)


@contextmanager
def atomic_folder(
    path: str | Path, *, overwrite: bool = False, markers: tuple[str, ...] = (MANIFEST_NAME,)
) -> Iterator[Path]:
    """An empty folder beside `path` to fill; it takes the final name when the block ends well."""
    path = check_output(path, overwrite=overwrite, markers=markers)
    temporary = _sibling(path)
    try:
        with output_errors(path):
            temporary.mkdir()
            yield temporary
            publish_folder(temporary, path)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def publish_folder(finished: Path, path: Path) -> None:
    """Give a finished folder its final name, in the place of whatever is there, and make that last."""
    sync_folder(finished)
    aside = None
    if os.path.lexists(path):
        aside = _sibling(path, _REPLACED)
        path.rename(aside)
    finished.rename(path)
    sync(path.absolute().parent)
    if aside is None:
        return
    if aside.is_dir() and not aside.is_symlink():
        shutil.rmtree(aside)
    else:
        aside.unlink()


@contextmanager
def output_errors(path: Path) -> Iterator[None]:
    """Turn a full disk, a missing permission and the like into an `OutputError` that names `path`."""
    try:
        yield
    except GeneformerError:
        raise
    except _write_failures() as error:
        reason = _reason(error)
        if reason is None:
            raise
        msg = f'Cannot write "{path}". {reason}'
        raise OutputError(msg) from error


def _write_failures() -> tuple[type[Exception], ...]:
    """What libraries raise where the system does not let them write."""
    from safetensors import SafetensorError

    return OSError, RuntimeError, SafetensorError


def _reason(error: Exception) -> str | None:
    """Why the system did not let a library write, however that library says so."""
    if isinstance(error, OSError):
        return _REASONS.get(error.errno or 0)
    if match := re.search(r"\(os error (\d+)\)", str(error)):  # libraries in Rust
        return _REASONS.get(int(match[1]))
    if "inline_container" in str(error):  # PyTorch, of a file that ended early
        return "It could not be written to its end: the disk is full, or a limit is reached."
    return None


@contextmanager
def lock(path: Path) -> Iterator[None]:
    """Hold the lock file `path`; the operating system frees it when the process ends, however it ends."""
    from filelock import FileLock, Timeout

    held = FileLock(path)
    try:
        held.acquire(timeout=0)
    except Timeout as error:
        msg = (
            f'Another process is working on "{path.parent}" (it holds "{path.name}"). Wait for it to end, or write '
            "elsewhere."
        )
        raise RunLockedError(msg) from error
    try:
        yield
    finally:
        held.release()


def sync(path: Path) -> None:
    """Wait until a file, or the entries of a folder, have reached the disk."""
    if path.is_symlink() or (path.is_dir() and os.name == "nt"):
        return
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def sync_folder(folder: Path) -> None:
    """Wait until everything in a folder has reached the disk."""
    for path in sorted(folder.rglob("*")):
        sync(path)
    sync(folder)


_MADE, _REPLACED = "new", "old"


def _sibling(path: Path, kind: str = _MADE) -> Path:
    """A name beside `path` that is not taken, with the same suffix; what killed processes left there goes."""
    start = f".{path.stem[:64]}."
    mark = f"{zlib.crc32(f'{_place()} {path.name}'.encode('utf-8', 'surrogateescape')):08x}"
    own = re.compile(rf"({_MADE}|{_REPLACED})-{mark}-(\d+)-[0-9a-f]{{8}}")
    for left in path.absolute().parent.glob(f"{glob.escape(start)}*{glob.escape(path.suffix)}"):
        match = own.fullmatch(left.name.removeprefix(start).removesuffix(path.suffix))
        if match is None or _is_running(int(match[2])):
            continue
        if match[1] == _REPLACED and not os.path.lexists(path):  # killed before the new one had the name
            left.rename(path)
        elif left.is_dir() and not left.is_symlink():
            shutil.rmtree(left)
        else:
            left.unlink(missing_ok=True)
    return path.with_name(f"{start}{kind}-{mark}-{os.getpid()}-{secrets.token_hex(4)}{path.suffix}")


@cache
def _place() -> str:
    """Which numbers of processes mean the same: those of one machine, and on it of one container."""
    namespace = Path("/proc/self/ns/pid")
    return f"{platform.node()} {namespace.readlink() if namespace.is_symlink() else ''}"


def _is_running(process: int) -> bool:
    """Whether there is a process of that number here, as far as can be told."""
    if os.name == "nt":  # where asking is killing
        return True
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except OSError:  # of another user
        return True
    return True


Entry = dict[str, Any]


class Journal:
    """Finished shards of one run, as JSON lines below a header that says which run it is."""

    def __init__(self, path: Path, identity: Mapping[str, Any]) -> None:
        self.path = path
        self.entries: list[Entry] = []
        given = _plain(identity)
        lines = self.read(path, given)
        if not lines:
            path.write_bytes(_line({"identity": given}))
            sync(path)
            return
        self.entries = lines[1:]
        # A line cut short by a kill would otherwise run into the next one.
        os.truncate(path, sum(len(line) + 1 for line in _complete_lines(path)))

    @staticmethod
    def read(path: Path, identity: Mapping[str, Any]) -> list[Entry]:
        """Header and entries of the journal at `path`, if it is of the same run; nothing is written."""
        try:
            lines = [dict(json.loads(line)) for line in _complete_lines(path)] if path.exists() else []
            stored = dict(lines[0]["identity"]) if lines else {}
        except (ValueError, TypeError, KeyError, RecursionError) as error:
            msg = (
                f'The journal "{path}" of a half-finished run is damaged ({error!r:.100}). Start over with '
                "--overwrite (overwrite=True)."
            )
            raise RunMismatchError(msg) from error
        given = _plain(identity)
        if lines and stored != given:
            msg = (
                f'The half-finished run in "{path.parent}" was made from something else: {_difference(stored, given)}. '
                "Repeat the command it was started with, or start over with --overwrite (overwrite=True)."
            )
            raise RunMismatchError(msg)
        return lines

    @staticmethod
    def has_entries(path: Path) -> bool:
        """Whether the journal at `path` knows of a finished shard."""
        return path.is_file() and len(_complete_lines(path)) > 1

    def append(self, entry: Mapping[str, Any]) -> None:
        """Record a finished shard; it is on the disk when this returns."""
        with self.path.open("ab") as file:
            file.write(_line(entry))
            file.flush()
            os.fsync(file.fileno())
        self.entries.append(_plain(entry))


def _complete_lines(path: Path) -> list[bytes]:
    """Lines that were written to their end."""
    *lines, _cut_short = path.read_bytes().split(b"\n")
    return lines


def _line(entry: Mapping[str, Any]) -> bytes:
    return json.dumps(entry, sort_keys=True).encode() + b"\n"


def _plain(entry: Mapping[str, Any]) -> Entry:
    """The entry as it will be read back: lists for tuples, text for keys."""
    plain: Entry = json.loads(_line(entry))
    return plain


def _difference(stored: Mapping[str, Any], given: Mapping[str, Any]) -> str:
    """The first few keys that differ, with both values."""
    keys = [key for key in sorted({*stored, *given}) if stored.get(key) != given.get(key)]
    differences = [f"{key} was {stored.get(key)!r:.200}, now {given.get(key)!r:.200}" for key in keys[:3]]
    return "; ".join(differences)


CLAIM = "claim.lock"
"""Held by the process that looks for something to do."""


class Workers:
    """One of several processes that work on the same task."""

    def __init__(self, folder: Path | None) -> None:
        self.folder, self.name = folder, secrets.token_hex(8)
        self._own: Any = None

    def __enter__(self) -> Self:
        if self.folder is not None:
            self.folder.mkdir(parents=True, exist_ok=True)
            self._own = self._lock(self.name)
            self._own.acquire()
        return self

    def __exit__(self, *_: object) -> None:
        if self._own is not None:
            self._own.release()
            self._path(self.name).unlink(missing_ok=True)

    @contextmanager
    def claiming(self) -> Iterator[None]:
        """While the block runs, no other process is in such a block."""
        if self.folder is None:
            yield
            return
        from filelock import FileLock

        with FileLock(self.folder / CLAIM):
            yield

    def is_there(self, name: str) -> bool:
        """Whether a process still works; to be asked while claiming."""
        if self.folder is None or name == self.name:
            return True
        from filelock import Timeout

        lock = self._lock(name)
        try:
            lock.acquire(timeout=0)
        except Timeout:
            return True
        lock.release()
        self._path(name).unlink(missing_ok=True)
        return False

    def _path(self, name: str) -> Path:
        folder = self.folder or Path()
        return folder / f"{name}.lock"

    def _lock(self, name: str) -> Any:
        from filelock import FileLock

        return FileLock(self._path(name))
