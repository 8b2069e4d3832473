"""What the commands print: messages, progress and closing tables on stderr, `--json` on stdout, and exit codes."""

import json
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, TextIO

from geneformer.errors import GeneformerWarning

if TYPE_CHECKING:
    from rich.console import Console

Rows = list[tuple[str, object]]
"""Lines of a closing table."""

FAILED = 1
"""Exit code of a refusal; 0 is success, 2 a wrong command line, 130 an interruption."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a command did."""

    title: str
    rows: Sequence[tuple[str, object]] = ()
    data: Mapping[str, Any] = field(default_factory=dict)

    table: Sequence[Sequence[object]] = ()
    """Its head and lines, below the others; a glance at what was written."""
    failed: bool = False
    """Whether what was looked at is not in order."""

    def without_cells(self, left_out: Mapping[str, int]) -> "Outcome":
        """The same with the cells that were left out, by reason."""
        rows = [*self.rows, *((f"Cells left out, {reason}", number) for reason, number in left_out.items())]
        return replace(self, rows=rows, data={**self.data, "cells_left_out": dict(left_out)})


def written(what: str, output: object, rows: Sequence[tuple[str, object]], **data: Any) -> Outcome:
    """The outcome of a command that wrote a file or folder."""
    return Outcome(f"{what} in {output}", rows, {"output": str(output), **data})


def panel_rows(panel: Mapping[str, Any] | None) -> Rows:
    """The lines on a panel of genes of which some are left out."""
    if not panel or not panel["left_out"]:
        return []
    return [("Asked for", panel["asked"]), ("Left out", f"{len(panel['left_out']):,}: {', '.join(panel['left_out'])}")]


def duration(seconds: float) -> str:
    """A time for people."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    if seconds < 5400:
        return f"{seconds / 60:.0f} min"
    return f"{seconds / 3600:.1f} h"


def console() -> "Console":
    """The console messages go to; stdout stays free for results."""
    from rich.console import Console

    return Console(stderr=True, highlight=False)


def show(outcome: Outcome, *, as_json: bool = False) -> None:
    """Close a command: its table on stderr, or its data as one line of JSON on stdout."""
    if as_json:
        import typer

        typer.echo(json.dumps(outcome.data, default=str))
        return
    from rich.table import Table
    from rich.text import Text

    table = Table(title=Text(outcome.title), title_justify="left", show_header=False)
    table.add_column(style="bold")
    table.add_column(overflow="fold")
    for label, value in outcome.rows:
        text = f"{value:,}" if isinstance(value, int) and not isinstance(value, bool) else str(value)
        table.add_row(Text(label), Text(text))
    console().print(table)
    if outcome.table:
        head, *lines = outcome.table
        glance = Table(box=None, pad_edge=False)
        for name in head:
            glance.add_column(Text(str(name)), overflow="fold")
        for line in lines:
            glance.add_row(*(Text(str(entry)) for entry in line))
        console().print(glance)


def show_error(error: Exception) -> None:
    """Print a refusal: the message, without the trail of calls."""
    console().print(str(error), style="red", markup=False, soft_wrap=True)


@contextmanager
def warnings_shown() -> Iterator[None]:
    """Print this package's warnings as one line each, once."""
    with warnings.catch_warnings():
        warnings.simplefilter("once", GeneformerWarning)
        usual = warnings.showwarning

        def show_warning(
            message: Warning | str,
            category: type[Warning],
            filename: str,
            lineno: int,
            file: TextIO | None = None,
            line: str | None = None,
        ) -> None:
            if issubclass(category, GeneformerWarning):
                console().print(f"Note: {message}", style="yellow", markup=False, soft_wrap=True)
            else:
                usual(message, category, filename, lineno, file, line)

        warnings.showwarning = show_warning
        yield
