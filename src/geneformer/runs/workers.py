"""Processes that share a task, and which of them are still there."""

import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Self

CLAIM = "claim.lock"
"""Held by the process that looks for something to do."""


class Workers:
    """One of several processes that work on the same task.

    Each holds a lock on a file of its own; the system gives it free when the process ends, however it ends, so that
    others see at once what was left undone.

    Parameters
    ----------
    folder
        Where the locks are; made if there is none. None for a process on its own.

    Attributes
    ----------
    name
        Name of this process among them.
    """

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
