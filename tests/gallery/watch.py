"""What a process does beside its work, while it reads data that may want more: code, network, files elsewhere."""

import ctypes
import importlib.metadata
import os
import struct
import sys
import sysconfig
import tempfile
from functools import cache
from pathlib import Path
from types import CodeType, FrameType
from typing import Any

STARTS_SOMETHING = {
    "os.exec", "os.fork", "os.forkpty", "os.posix_spawn", "os.spawn", "os.system", "pty.spawn", "subprocess.Popen",
}  # fmt: skip
REACHES_OUT = {"socket.bind", "socket.connect", "socket.getaddrinfo", "socket.gethostbyname", "socket.sendto"}

SYSTEM = ("/proc/", "/sys/", "/dev/", "/etc/mime", "/etc/localtime", "/usr/share/zoneinfo", "/etc/nsswitch.conf")
"""What libraries look at to know the machine."""


def outside(folder: Path) -> Path:
    """The file beside the folder of a row that nothing inside may lead to."""
    return folder.parent / f"{folder.name}.outside"


@cache
def _code_roots() -> tuple[str, ...]:
    """Folders of the standard library, of installed packages, and of this one."""
    import geneformer

    found = [sysconfig.get_path(name) for name in ("stdlib", "platstdlib", "purelib", "platlib")]
    found += [str(Path(geneformer.__file__).parent), str(Path(__file__).parents[1]), sys.base_prefix, sys.prefix]
    return tuple({os.path.realpath(root) + os.sep for root in found if root})


@cache
def _known_modules() -> frozenset[str]:
    installed = importlib.metadata.packages_distributions()
    loaded = {name.partition(".")[0] for name in sys.modules}
    return frozenset({*sys.stdlib_module_names, *installed, *loaded, "geneformer", "gallery"})


def _is_code(path: str) -> bool:
    """Whether a file belongs to a library."""
    return path.startswith("<frozen ") or os.path.realpath(path).startswith(_code_roots())


class Watch:
    """From `start` on, keeps what goes beyond reading the files in a folder; it cannot be switched off again."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.seen: list[str] = []
        self._busy = False
        self._notes = _Notes(outside(folder))
        temporary = Path(tempfile.gettempdir()).resolve()
        self._own = (str(folder) + os.sep, str(temporary / "geneformer-"))

    def start(self) -> None:
        _code_roots(), _known_modules()
        sys.addaudithook(self._hook)

    def found(self) -> list[str]:
        """What went beyond."""
        self._busy = True
        return [*dict.fromkeys(self.seen), *self._notes.read()]

    def _hook(self, event: str, arguments: tuple[Any, ...]) -> None:
        if self._busy:
            return
        self._busy = True
        try:
            said = self._judge(event, arguments)
            if said:
                self.seen.append(said)
        finally:
            self._busy = False

    def _judge(self, event: str, arguments: tuple[Any, ...]) -> str:
        if event in STARTS_SOMETHING or event in REACHES_OUT:
            return f"{event} {arguments!r:.200}"
        if event == "pickle.find_class":
            return f"a pickle asked for {arguments[0]}.{arguments[1]}"
        if event in ("exec", "compile"):
            return self._judge_code(event, arguments)
        if event == "import" and arguments[0].partition(".")[0] not in _known_modules():
            return "" if _written_out(arguments[0], sys._getframe(2)) else f"an import of {arguments[0]!r}"
        if event == "open" and isinstance(arguments[0], (str, bytes)):
            return self._judge_file(os.fsdecode(arguments[0]))
        return ""

    def _judge_code(self, event: str, arguments: tuple[Any, ...]) -> str:
        if event == "exec":
            code: CodeType = arguments[0]
            name = code.co_filename
        else:
            name = os.fsdecode(arguments[1]) if arguments[1] else "<string>"
        if _is_code(name):
            return ""
        # Libraries generate methods of classes as text, mostly while they are imported. Text of data would come through
        # the same door, so it is asked who opened it.
        frame: FrameType | None = sys._getframe(3)
        opener = frame.f_globals.get("__name__", "") if frame else ""
        if opener.partition(".")[0] in GENERATES or _imports(frame):
            return ""
        return f"{event} of {name} by {opener}"

    def _judge_file(self, name: str) -> str:
        path = os.path.realpath(name)
        expected = path == str(self.folder) or path.startswith((*self._own, *SYSTEM)) or _is_code(path)
        return "" if expected else f"a file elsewhere was opened: {path}"


GENERATES = {"collections", "dataclasses", "attr", "typing", "enum", "functools", "huggingface_hub", "pydantic"}
"""Libraries that write methods of their own classes as text."""


def _imports(frame: FrameType | None) -> bool:
    """Whether a module is being imported."""
    while frame is not None:
        if frame.f_code.co_filename.startswith("<frozen importlib"):
            return True
        frame = frame.f_back
    return False


def _written_out(name: str, frame: FrameType | None) -> bool:
    """Whether an import stands in the code of a library, rather than in a text that came from somewhere."""
    while frame is not None and frame.f_code.co_filename.startswith("<frozen importlib"):
        frame = frame.f_back
    if frame is None or not _is_code(frame.f_code.co_filename):
        return False
    known = {*frame.f_code.co_names, *(text for text in frame.f_code.co_consts if isinstance(text, str))}
    return name in known or name.partition(".")[0] in known


class _Notes:
    """Whether anything, also a library in C, opened a file: the system itself takes note."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._queue = -1
        if not sys.platform.startswith("linux"):
            return
        system = ctypes.CDLL(None, use_errno=True)
        self._queue = system.inotify_init1(os.O_NONBLOCK)
        system.inotify_add_watch(self._queue, os.fsencode(path), 0x20 | 0x02 | 0x400)  # opened, changed, deleted

    def read(self) -> list[str]:
        if self._queue < 0:
            return []
        try:
            data = os.read(self._queue, struct.calcsize("iIII") + 4096)
        except BlockingIOError:
            return []
        return [f"{self.path.name} was reached from inside"] if data else []
