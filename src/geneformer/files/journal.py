"""The journal of a run that finishes in shards: one line per finished shard, so that a killed run resumes exactly."""

import json
import os
import secrets
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Self

from geneformer.errors import RunMismatchError
from geneformer.files.atomic import sync

Entry = dict[str, Any]


class Journal:
    """Finished shards of one run, as JSON lines below a header that says which run it is."""

    def __init__(self, path: Path, identity: Mapping[str, Any]) -> None:
        self.path = path
        self.entries: list[Entry] = []
        given = _plain(identity)
        lines = _complete_lines(path) if path.exists() else []
        if not lines:
            path.write_bytes(_line({"identity": given}))
            sync(path)
            return
        stored = json.loads(lines[0])["identity"]
        if stored != given:
            msg = (
                f'The half-finished run in "{path.parent}" was made from something else: {_difference(stored, given)}. '
                "Repeat the command it was started with, or start over with --overwrite."
            )
            raise RunMismatchError(msg)
        self.entries = [json.loads(line) for line in lines[1:]]
        # A line cut short by a kill would otherwise run into the next one.
        os.truncate(path, sum(len(line) + 1 for line in lines))

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
