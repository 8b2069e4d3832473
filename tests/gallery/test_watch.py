"""The watch over rows sees what it is there to see, also where a library written in C does it."""

import pickle
import socket
import subprocess
import sys
from pathlib import Path

import pyarrow as pa
import pytest

from gallery.rows import ACCEPTED, Answer, Row, faults
from gallery.watch import outside


def _module(folder):
    (folder / "evilmod.py").write_text("x = 1")
    sys.path.insert(0, str(folder))
    return "evilmod"


ACTS = {
    "text that is run": ("exec of", lambda folder, made: exec("1")),
    "text that is computed": ("compile of", lambda folder, made: eval("1 + 1")),
    "a module named by data": ("an import of 'evilmod'", lambda folder, made: __import__(made)),
    "a pickle": ("a pickle asked for", lambda folder, made: pickle.loads(b"cbuiltins\nlen\n.")),
    "a process": ("subprocess.Popen", lambda folder, made: subprocess.run(["true"], check=True)),
    "a connection": ("socket.connect", lambda folder, made: socket.socket(socket.AF_UNIX).connect_ex("no")),
    "a name that is looked up": ("socket.getaddrinfo", lambda folder, made: socket.getaddrinfo("127.0.0.1", 1)),
    "a file elsewhere": ("a file elsewhere", lambda folder, made: outside(folder).read_text()),
    "a file elsewhere, by a library in C": (
        "was reached from inside", lambda folder, made: pa.memory_map(str(outside(folder))).read()
    ),
    "a file elsewhere, by a link": ("a file elsewhere", lambda folder, made: (folder / "link").read_text()),
}  # fmt: skip


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="the system takes note of opened files on Linux")
@pytest.mark.parametrize("name", ACTS)
def test_what_goes_beyond_is_seen(name, tmp_path):
    said, act = ACTS[name]
    made = _module if "module" in name else lambda folder: (folder / "link").symlink_to(outside(folder))
    row = Row(name, made, ACCEPTED, act=lambda folder, m: Answer(ACCEPTED, f"{act(folder, m)}"[:0]), why="a trial")
    (tmp_path / "row").mkdir()
    assert any(said in found for found in faults(row, tmp_path / "row"))


def test_reading_what_is_given_is_not_beyond(tmp_path):
    (tmp_path / "row").mkdir()
    row = Row("plain", lambda folder: (folder / "in").write_text("x") and Path("in"), ACCEPTED,
              act=lambda folder, made: Answer(ACCEPTED, made.read_text()), why="a trial")  # fmt: skip
    assert not faults(row, tmp_path / "row")
