"""Something goes wrong at the n-th change of the disk: a kill, a power cut, an interrupt, or an error of the system."""

# ruff: noqa: PTH100, PTH104, PTH109, PTH112, PTH115, PTH116, PTH118, PTH120  # an audit hook sees names as text

import errno
import mmap
import os
import signal
import stat
import sys
from pathlib import Path

CHANGES = {"os.rename": 2, "os.remove": 1, "os.mkdir": 2, "os.rmdir": 1, "os.truncate": None, "os.symlink": None}
"""By the name of the audit event: which of its arguments is the folder that the path is relative to."""

ERRORS = {"disk full": errno.ENOSPC, "i/o error": errno.EIO, "read only": errno.EROFS}
FAULTS = ("kill", "power cut", "interrupt", *ERRORS)

FIRED = mmap.mmap(-1, 1)
"""Whether the fault of the last fork came, for its parent to see."""


class Disk:
    """Counts the changes this process makes below a folder, and lets one of them fail.

    Libraries that write by themselves (Arrow, HDF5, safetensors) are seen when Python renames, syncs or deletes what
    they wrote. A power cut loses what was not synced: names given since their folder was synced are taken back, and
    files changed since they were synced end in the middle.
    """

    def __init__(self, under: Path, moment: int, fault: str) -> None:
        self.under, self.left, self.fault = str(under), moment, fault
        self.busy = False
        self.names: list[tuple[str, str]] = []
        self.synced: dict[int, int] = {}

    def arm(self) -> None:
        """Begin to count; there is no way back, so this is for a process of its own."""
        for path in Path(self.under).rglob("*"):
            self.note(os.stat(path, follow_symlinks=False))
        self.fsync, os.fsync = os.fsync, self.sync
        sys.addaudithook(self.audit)

    def note(self, found: os.stat_result) -> None:
        self.synced[found.st_ino] = found.st_mtime_ns

    def audit(self, event: str, arguments: tuple) -> None:
        writes = event == "open" and isinstance(arguments[2], int) and arguments[2] & (os.O_WRONLY | os.O_RDWR)
        if self.busy or not (writes or event in CHANGES) or isinstance(arguments[0], int):
            return
        folder = CHANGES.get(event)
        descriptor = -1 if folder is None else arguments[folder]
        base = os.getcwd() if descriptor < 0 else os.readlink(f"/proc/self/fd/{descriptor}")
        path = os.path.normpath(os.path.join(base, os.fsdecode(arguments[0])))
        if path.startswith(self.under):
            self.count()
            if event == "os.rename":
                self.names.append((path, os.path.abspath(os.fsdecode(arguments[1]))))

    def sync(self, descriptor: int) -> None:
        found = os.fstat(descriptor)
        path = os.readlink(f"/proc/self/fd/{descriptor}")
        if path.startswith(self.under):
            self.count()
            self.note(found)
            if stat.S_ISDIR(found.st_mode):
                self.names = [pair for pair in self.names if os.path.dirname(pair[1]) != path]
            self.count()

    def count(self) -> None:
        self.left -= 1
        if self.left:
            return
        FIRED[0] = 1
        if self.fault in ERRORS:
            raise OSError(ERRORS[self.fault], os.strerror(ERRORS[self.fault]))
        if self.fault == "interrupt":
            raise KeyboardInterrupt
        if self.fault == "power cut":
            self.busy = True
            self.cut()
        os.kill(os.getpid(), signal.SIGKILL)

    def cut(self) -> None:
        for before, after in reversed(self.names):
            if os.path.lexists(after) and not os.path.lexists(before) and os.path.isdir(os.path.dirname(before)):
                os.rename(after, before)
        for path in Path(self.under).rglob("*"):
            if path.is_file() and self.synced.get(path.stat().st_ino) != path.stat().st_mtime_ns:
                os.truncate(path, path.stat().st_size // 2)
