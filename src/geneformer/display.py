"""What objects show of themselves in a session: a small table, as text and as HTML; and where their pictures come from.

Nothing below `gf.pl` may import it, so the package hands its functions down here; objects draw themselves through them.
"""

from collections.abc import Callable, Iterable, Sequence
from typing import Any, ClassVar, NamedTuple

MOST = 10
"""Rows that are shown of a longer table."""

LONGEST = 64
"""Letters of an entry."""


class Summary(NamedTuple):
    """A title, what is known by name, a table, and a note."""

    title: str
    facts: Sequence[tuple[str, object]] = ()
    header: Sequence[str] = ()
    rows: Sequence[Sequence[object]] = ()
    more: int = 0
    """Rows of the table beyond those given."""
    note: str = ""

    def text(self) -> str:
        """As plain text; of a table the first column is set left, the others right."""
        facts = _aligned([[name, _cut(value)] for name, value in self.facts], "left")
        lines = [_cut(self.title), *facts, *_aligned(self._table(), "right"), *([self.note] if self.note else [])]
        return "\n".join(line.rstrip() for line in lines)

    def html(self) -> str:
        """As HTML in which every entry is escaped."""
        from html import escape

        def row(entries: Sequence[str], first: str, others: str, side: str) -> str:
            cells = [f'<{first} style="text-align: left">{escape(entries[0])}</{first}>']
            cells += [f'<{others} style="text-align: {side}">{escape(entry)}</{others}>' for entry in entries[1:]]
            return f"<tr>{''.join(cells)}</tr>"

        header, *rows = self._table() or [[]]
        parts = [f"<div><strong>{escape(_cut(self.title))}</strong>"]
        if self.facts:
            facts = [row([name, _cut(value)], "th", "td", "left") for name, value in self.facts]
            parts.append(f"<table><tbody>{''.join(facts)}</tbody></table>")
        if rows:
            head, body = row(header, "th", "th", "right"), [row(entries, "td", "td", "right") for entries in rows]
            parts.append(f"<table><thead>{head}</thead><tbody>{''.join(body)}</tbody></table>")
        if self.note:
            parts.append(f"<small>{escape(self.note)}</small>")
        return "\n".join([*parts, "</div>"])

    def _table(self) -> list[list[str]]:
        """The header and the rows that are shown."""
        if not self.rows:
            return []
        table = [list(self.header), *([_cut(entry, LONGEST - 8) for entry in row] for row in self.rows[:MOST])]
        more = len(self.rows) + self.more + 1 - len(table)
        return [*table, [f"… {more:,} more", *[""] * (len(self.header) - 1)]] if more else table


class Pictures:
    """Where pictures come from."""

    of_name: ClassVar[Callable[[str], Callable[..., Any]]]
    """Functions of `gf.pl` by name."""


def draw(picture: str, source: Any, **options: Any) -> Any:
    """What `gf.pl.<picture>` makes of something."""
    return Pictures.of_name(picture)(source, **options)


class Summarized:
    """Base of what shows itself by a summary."""

    __slots__ = ()

    def summary_of(self) -> Summary:
        """What is shown."""
        raise NotImplementedError

    def __repr__(self) -> str:
        return self.summary_of().text()

    def _repr_html_(self) -> str | None:
        return self.summary_of().html()


def names_text(names: Iterable[object]) -> str:
    """Names one after the other, the last left out where there is no room; their number comes first."""
    texts = [str(name) for name in names]
    line = f"{len(texts):,}: {', '.join(texts)}"
    if len(line) <= LONGEST:
        return line
    while texts and len(line) > LONGEST:
        texts.pop()
        line = f"{line.partition(':')[0]}: {', '.join([*texts, '…'])}"
    return line


def _cut(value: object, longest: int = 2 * LONGEST) -> str:
    """An entry on one line, its end cut off where it is too long."""
    text = " ".join(str(value).split())
    return text if len(text) <= longest else f"{text[: longest - 1]}…"


def _aligned(rows: Sequence[Sequence[str]], side: str) -> list[str]:
    """Rows as lines with columns of equal width."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = []
    for first, *others in rows:
        padded = [
            text.rjust(width) if side == "right" else text.ljust(width)
            for text, width in zip(others, widths[1:], strict=True)
        ]
        lines.append("  ".join(["", first.ljust(widths[0]), *padded]))
    return lines
