"""How far a run has come: a bar that stays, on terminals and in notebooks; in log files a line now and then."""

import logging
import os
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from datetime import timedelta
from html import escape
from typing import TYPE_CHECKING, Any, TypeVar

if TYPE_CHECKING:
    from rich.console import Console
    from rich.live import Live

    from geneformer.options.settings import Settings

Item = TypeVar("Item")

Progress = Callable[[int, int | None], None]
"""Called with how many are done, of how many."""

SECONDS_BETWEEN_LINES = 60.0
"""Time between two lines where no bar can be drawn; shorter runs print nothing there."""

SECONDS_UNTIL_DRAWN = 0.5
"""A bar appears for what takes longer, so that many short calls leave no heap of bars."""

_SECONDS_BETWEEN_DRAWINGS = 0.2


@dataclass(eq=False)
class _Phase:
    """Something that takes time, and the phases within it that are shown."""

    label: str
    unit: str
    started: float
    done: int | None = None
    total: int | None = None
    first: tuple[int, float] = (0, 0.0)
    ended: float | None = None
    broke_off: bool = False
    within: list["_Phase"] = field(default_factory=list)

    def count(self, done: int, total: int | None) -> None:
        """One step further; a phase that counts needs no lines of the parts that it went through."""
        if self.done is None:
            self.first = done, time.monotonic()  # what was done before says nothing about the pace
            self.within = [phase for phase in self.within if phase.ended is None]
        self.done, self.total = done, total

    @property
    def counted(self) -> str:
        """How many, of how many."""
        if self.done is None:
            return ""
        of = "" if self.total is None else f" of {self.total:,}"
        return f"{self.done:,}{of}{f' {self.unit}' if self.unit else ''}"

    def clock(self, now: float) -> str:
        """Time taken, and the time left at the pace so far."""
        took = (self.ended or now) - self.started
        if self.ended is not None:
            return f"{'stopped after' if self.broke_off else 'in'} {_clock(took)}"
        text = f"after {_clock(took)}"
        before, since = self.first
        if self.done is not None and self.total is not None and self.done > before:
            text += f", about {_clock((now - since) * (self.total - self.done) / (self.done - before))} left"
        return text

    def text(self, now: float) -> str:
        """One line that says all."""
        return f"{self.label}: {' '.join(filter(None, (self.counted, self.clock(now))))}"

    def lines(self, depth: int = 0) -> Iterator[tuple[int, "_Phase"]]:
        """The phase and those within it, with their depth; one without a label only holds others."""
        if self.label:
            yield depth, self
        for phase in self.within:
            yield from phase.lines(depth + bool(self.label))


class _Display:
    """What one call shows of its phases; this base shows nothing."""

    def __init__(self) -> None:
        self.root: _Phase | None = None
        self.open: list[_Phase] = []

    def begin(self, label: str, unit: str) -> _Phase:
        """Go into a phase."""
        phase = _Phase(label, unit, time.monotonic())
        if self.open:
            self.open[-1].within.append(phase)
        else:
            self.root = phase
        self.open.append(phase)
        self.draw()
        return phase

    def end(self, phase: _Phase, *, broke_off: bool) -> None:
        """Go out of a phase; its line goes as well if it took no time, or is part of what has a count of its own."""
        self.open.remove(phase)
        phase.ended, phase.broke_off = time.monotonic(), broke_off
        around = self.open[-1] if self.open else None
        brief = phase.ended - phase.started < SECONDS_UNTIL_DRAWN
        if around and around.label and phase in around.within and not broke_off and (brief or around.done is not None):
            around.within.remove(phase)
        self.draw()
        if not self.open:
            self.close()

    def is_due(self, now: float) -> bool:
        """Whether there is something to show that takes long enough."""
        late = self.root is not None and now - self.root.started >= SECONDS_UNTIL_DRAWN
        return late and any(self.root.lines() if self.root else ())

    def draw(self) -> None:
        """Show how things stand."""

    def close(self) -> None:
        """Leave the last state."""


class _Lines(_Display):
    """A line now and then."""

    def __init__(self, target: "Console") -> None:
        super().__init__()
        self.target, self.last_line = target, time.monotonic()

    def draw(self) -> None:
        now = time.monotonic()
        if not self.open or now - self.last_line < SECONDS_BETWEEN_LINES:
            return
        self.last_line = now
        around = (f"{phase.label} ({phase.counted})" if phase.counted else phase.label for phase in self.open[:-1])
        self.target.print(", ".join([*filter(None, around), self.open[-1].text(now)]), markup=False, soft_wrap=True)


class _Terminal(_Display):
    """Lines with bars that are drawn anew where they stand."""

    def __init__(self, target: "Console") -> None:
        super().__init__()
        self.target = target
        self.live: Live | None = None

    def draw(self) -> None:
        if self.live is None and self.is_due(time.monotonic()):
            from rich.live import Live

            self.live = Live(
                get_renderable=self.table,
                console=self.target,
                redirect_stdout=sys.stdout.isatty(),
                redirect_stderr=True,
            )
            self.live.start()

    def table(self) -> Any:
        """A row for every phase that is shown."""
        from rich.progress_bar import ProgressBar
        from rich.table import Column, Table
        from rich.text import Text

        table = Table.grid(Column(no_wrap=True), Column(), Column(no_wrap=True), padding=(0, 1))
        now, width = time.monotonic(), min(max(self.target.width - 76, 8), 32)
        for depth, phase in self.root.lines() if self.root else ():
            bar = ProgressBar(phase.total or 1, phase.done or 0, width=width) if phase.total is not None else ""
            text = " ".join(filter(None, (phase.counted, phase.clock(now))))
            table.add_row(Text("  " * depth + phase.label), bar, Text(text))
        return table

    def close(self) -> None:
        if self.live is not None:
            self.live.stop()


class _Notebook(_Display):
    """An output of the cell that is changed where it stands: HTML without widgets, which some front ends lack."""

    def __init__(self) -> None:
        super().__init__()
        self.handle: Any = None
        self.last_drawing = -1.0

    def draw(self) -> None:
        now = time.monotonic()
        if self.root is None or (self.handle is None and not self.is_due(now)):
            return
        if self.open and now - self.last_drawing < _SECONDS_BETWEEN_DRAWINGS:
            return
        from IPython import display

        self.last_drawing = now
        lines = list(self.root.lines())
        texts = ["  " * depth + phase.text(now) for depth, phase in lines]
        rows = [_row(depth, phase, now) for depth, phase in lines]
        shown = {"text/plain": "\n".join(texts), "text/html": "".join(rows)}
        if self.handle is None:
            self.handle = display.display(shown, raw=True, display_id=True)  # type: ignore[no-untyped-call]
        else:
            self.handle.update(shown, raw=True)


def _row(depth: int, phase: _Phase, now: float) -> str:
    """A phase as HTML that follows the colors of the notebook."""
    value = f'<progress value="{phase.done}" max="{phase.total or 1}"></progress> ' if phase.total is not None else ""
    return f'<div style="padding-left:{depth * 1.5}em">{value}{escape(phase.text(now))}</div>'


_shown: ContextVar[_Display | None] = ContextVar("shown", default=None)
"""The display of the call at work in this thread."""


@contextmanager
def progress_bar(label: str = "", *, shown: bool = True, unit: str = "") -> Iterator[Progress]:
    """Show on stderr, or below the cell of a notebook, how far the block has come.

    A bar within the block of another becomes a line of that one, and is as silent as that one is. Without a label the
    bar has no line of its own and only decides whether those within it are shown.
    """
    around = _shown.get()
    if around is None or not shown:
        display = _display() if shown and _settings().progress else _Display()
        _shown.set(display)
    else:
        display = around
    phase = display.begin(label, unit)

    def update(done: int, total: int | None = None) -> None:
        phase.count(done, total)
        display.draw()

    completed = False
    try:
        yield update
        completed = True
    finally:
        _shown.set(around)
        display.end(phase, broke_off=not completed)


def counted(items: Sequence[Item], update: Progress) -> Iterator[Item]:
    """The items, while a bar tells how many have been gone through."""
    for number, item in enumerate(items):
        update(number, len(items))
        yield item
    update(len(items), len(items))


def _display() -> _Display:
    """What suits where this process runs; of the processes of a launcher only the first one shows anything."""
    if os.environ.get("RANK", "0") != "0":
        return _Display()
    if _in_notebook():
        return _Notebook()
    target = _console()
    return _Terminal(target) if target.is_terminal and not target.is_dumb_terminal else _Lines(target)


def _settings() -> "Settings":
    """The settings of the session; the help of the command line, which shows no bar, does not load options."""
    from geneformer.options.settings import settings

    return settings


def _console() -> "Console":
    from rich.console import Console

    return Console(stderr=True, highlight=False)


def _in_notebook() -> bool:
    """Whether a kernel runs this process; the terminal of IPython has none."""
    ipython = sys.modules.get("IPython")
    shell = ipython.get_ipython() if ipython is not None else None
    return getattr(shell, "kernel", None) is not None


def _clock(seconds: float) -> str:
    """Hours, minutes and seconds."""
    return str(timedelta(seconds=round(seconds)))


_log = logging.getLogger("geneformer")


class _Printing(logging.Handler):
    """Prints what nobody else has asked `logging` for."""

    def emit(self, record: logging.LogRecord) -> None:
        """One line on stderr, above a bar if one is drawn; on stdout in notebooks, which show stderr as an alarm."""
        is_for_users = record.name == _log.name or record.levelno >= logging.WARNING
        if logging.root.handlers or not (is_for_users or _settings().verbosity == "debug"):
            return
        if _in_notebook():
            sys.stdout.write(f"{record.getMessage()}\n")
        else:
            _console().print(record.getMessage(), markup=False, soft_wrap=True)


def inform(message: str) -> None:
    """Print, or hand to `logging`, what is worth knowing and no warning, if `settings.verbosity` says so."""
    if not message:
        return
    if not _log.handlers:
        _log.addHandler(_Printing())
    _log.setLevel(_settings().verbosity.upper())
    _log.info(message)
