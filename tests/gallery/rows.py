"""One row of the gallery: an input somebody may have, and the answer it must get. Rows run in forks of one process.

A family of inputs is a file `family_*.py` beside this one with a list `ROWS`, which `test_gallery.py` finds. A row says
how its input is made in an empty folder, what is done with it (`geneformer tokenize`, unless it says something else),
and which answer is right: the code of an error, or that the input is accepted, with the words that tell of a repair.
"""

import hashlib
import io
import multiprocessing
import os
import stat
import sys
import traceback
import warnings
from collections.abc import Callable
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gallery.watch import Watch, outside
from geneformer.errors import GeneformerError

TIMEOUT = 20
"""Seconds after which a row counts as hanging."""

ACCEPTED = "accepted"
"""Expected of inputs that are read: as they are, with a reason in `why`, or repaired, told with the words in `says`."""


@dataclass(frozen=True, slots=True)
class Answer:
    """What came back: a code of an error or `ACCEPTED`, and what was said."""

    code: str
    text: str


Act = Callable[[Path, Any], Answer]


def command(*words: str) -> Act:
    """Run ``geneformer words...`` inside the folder; "{}" stands for what `make` returned."""

    def act(_folder: Path, made: Any) -> Answer:
        from geneformer import cli

        sys.argv = ["geneformer", *(word.replace("{}", str(made)) for word in words)]
        out = io.StringIO()
        code: Any = 0
        with redirect_stdout(out), redirect_stderr(out):
            try:
                cli.main()
            except SystemExit as end:
                code = end.code
        text = out.getvalue()
        if not code:
            return Answer(ACCEPTED, text)
        head = text.partition(" (GF")[2]
        return Answer(f"GF{head[:3]}" if head else f"exit {code}", text)

    return act


def call(function: Callable[[Any], object]) -> Act:
    """Call a function with what `make` returned; warnings are part of what was said."""

    def act(_folder: Path, made: Any) -> Answer:
        with warnings.catch_warnings(record=True) as told:
            warnings.simplefilter("always")
            try:
                result = function(made)
            except GeneformerError as error:
                return Answer(error.code, str(error))
        return Answer(ACCEPTED, "\n".join([*(str(each.message) for each in told), repr(result)]))

    return act


tokenize = command("tokenize", "{}", "-o", "out.dataset", "--no-progress")


@dataclass(frozen=True, slots=True)
class Row:
    """An input and its right answer.

    `name` says what is odd about it. `make` puts it into an empty folder (the working directory) and returns what
    `act` is given. `expect` is a code of an error, or `ACCEPTED`; `says` are words that must be told. `why` is for
    inputs that are accepted as they are. `writes` names what may be new afterwards; nothing may be after a refusal.
    """

    name: str
    make: Callable[[Path], Any]
    expect: str
    says: str | tuple[str, ...] = ()
    act: Act = tokenize
    why: str = ""
    writes: tuple[str, ...] = ("out.dataset",)
    timeout: float = TIMEOUT

    @property
    def words(self) -> tuple[str, ...]:
        """What must be told."""
        return (self.says,) if isinstance(self.says, str) else self.says


def faults(row: Row, folder: Path) -> list[str]:
    """What was wrong with the answer to a row, run in a fork of this process; nothing where it was right."""
    folder = folder.resolve()
    context = multiprocessing.get_context("fork")
    receiver, sender = context.Pipe(duplex=False)
    child = context.Process(target=_run, args=(row, folder, sender))
    child.start()
    sender.close()
    try:
        found: list[str] = receiver.recv() if receiver.poll(row.timeout) else [f"hangs: no answer in {row.timeout} s"]
    except EOFError:
        child.join()
        found = [f"the process died with exit code {child.exitcode}"]
    if child.is_alive():
        child.join(1)
        child.kill()
    child.join()
    receiver.close()
    return found


def _run(row: Row, folder: Path, sender: Any) -> None:
    """In the fork: make the input, act, and send what was wrong."""
    os.chdir(folder)
    try:
        outside(folder).write_text("not to be read")
        made = row.make(folder)
        before = _snapshot(folder)
        watch = Watch(folder)
    except BaseException:  # noqa: BLE001  whatever it is, it belongs to the row
        sender.send([f"the input could not be made:\n{traceback.format_exc()}"])
        os._exit(0)
    watch.start()
    try:
        answer = row.act(folder, made)
        beyond = watch.found()
        found = beyond + _wrong(row, answer, before, _snapshot(folder))
    except BaseException:  # noqa: BLE001
        found = [f"a traceback:\n{traceback.format_exc()}"]
    sender.send(found)
    os._exit(0)


def _wrong(row: Row, answer: Answer, before: dict[str, str], after: dict[str, str]) -> list[str]:
    found = []
    if answer.code != row.expect:
        found.append(f"expected {row.expect}, not {answer.code}")
    if "Traceback (most recent call last)" in answer.text:
        found.append("a traceback")
    said = " ".join(answer.text.replace("│", " ").split())  # lines of a table are broken
    found += [f"does not say {words!r}" for words in row.words if words not in said]
    if row.expect == ACCEPTED and not (row.words or row.why):
        found.append("the row says neither how the repair is told nor why the input is accepted")
    found += [f"{name} was changed" for name, content in before.items() if after.get(name, "gone") != content]
    allowed = row.writes if answer.code == ACCEPTED else ()
    new = [name for name in after if name not in before and name.partition("/")[0] not in allowed]
    if new:
        found.append(f"left behind: {new[:5]}")
    return [*found, answer.text[-1500:]] if found else []


def _snapshot(folder: Path) -> dict[str, str]:
    """Every entry below a folder: what it is and what is in it."""
    return {str(path.relative_to(folder)): _described(path) for path in sorted(folder.rglob("*"))}


def _described(path: Path) -> str:
    mode = path.lstat().st_mode
    if stat.S_ISLNK(mode):
        return f"link to {path.readlink()}"
    if stat.S_ISREG(mode) and os.access(path, os.R_OK):
        if path.lstat().st_size > 2**26:  # nothing but holes
            return f"{path.lstat().st_size} bytes"
        return hashlib.sha256(path.read_bytes()).hexdigest()
    return f"mode {stat.S_IFMT(mode):o}"
