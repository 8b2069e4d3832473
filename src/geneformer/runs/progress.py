"""Progress bars, on stderr and in notebooks."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

Progress = Callable[[int, int | None], None]
"""Told how many are done, of how many."""


@contextmanager
def progress_bar(label: str, *, shown: bool = True) -> Iterator[Progress]:
    """A progress bar while the block runs; silent where there is neither a terminal nor a notebook.

    Parameters
    ----------
    label
        What is going on.
    shown
        False keeps it silent everywhere.

    Yields
    ------
    A function to call with how many are done, of how many (None: unknown).
    """
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeElapsedColumn, TimeRemainingColumn
    from rich.progress import Progress as Bar

    target = Console(stderr=True, highlight=False)
    bar = Bar(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
        console=target,
        disable=not (shown and (target.is_terminal or target.is_jupyter)),
        transient=True,
    )
    with bar:
        task = bar.add_task(label, total=None)

        def update(done: int, total: int | None = None) -> None:
            bar.update(task, completed=done, total=total)

        yield update
