"""How far a run has come: a bar on terminals and in notebooks, a line now and then in log files."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.console import Console

Progress = Callable[[int, int | None], None]
"""Told how many are done, of how many."""

SECONDS_BETWEEN_LINES = 60.0
"""Time between two lines where no bar can be drawn; shorter runs say nothing there."""


@contextmanager
def progress_bar(label: str, *, shown: bool = True) -> Iterator[Progress]:
    """Tell on stderr how far the block has come."""
    from rich.console import Console

    target = Console(stderr=True, highlight=False)
    if not shown:
        yield _silent
    elif target.is_terminal or target.is_jupyter:
        with _bar(label, target) as update:
            yield update
    else:
        yield _lines(label, target)


def _silent(done: int, total: int | None = None) -> None:
    """Nothing."""


@contextmanager
def _bar(label: str, target: "Console") -> Iterator[Progress]:
    """A bar that is gone when the block ends."""
    from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeElapsedColumn, TimeRemainingColumn
    from rich.progress import Progress as Bar

    bar = Bar(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
        console=target,
        transient=True,
    )
    with bar:
        task = bar.add_task(label, total=None)

        def update(done: int, total: int | None = None) -> None:
            bar.update(task, completed=done, total=total)

        yield update


def _lines(label: str, target: "Console") -> Progress:
    """A line now and then, with the time left at the pace so far; a run that goes on is judged by its new part."""
    started = last_line = time.monotonic()
    first: int | None = None

    def update(done: int, total: int | None = None) -> None:
        nonlocal last_line, first
        first = done if first is None else first
        now = time.monotonic()
        if now - last_line < SECONDS_BETWEEN_LINES:
            return
        last_line = now
        line = f"{label}: {done:,}" + ("" if total is None else f" of {total:,}") + f" after {_clock(now - started)}"
        if total is not None and done > first:
            line += f", about {_clock((now - started) * (total - done) / (done - first))} left"
        target.print(line, markup=False, soft_wrap=True)

    return update


def _clock(seconds: float) -> str:
    """Hours, minutes and seconds."""
    return str(timedelta(seconds=round(seconds)))
