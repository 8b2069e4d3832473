"""Tables of text, `.csv` and `.tsv` (also `.gz`), as a source of counts: genes as columns or as rows."""

import csv
import gzip
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from io import StringIO
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from geneformer.errors import UnreadableInputError, UnsupportedFormatError
from geneformer.files import check_file
from geneformer.tokenization.ranking import CellRows
from geneformer.tokenization.readers.source import (
    MAX_DENSE,
    CountSource,
    Sample,
    SortedOnDisk,
    Table,
    from_dense,
    reading,
    triples,
)
from geneformer.tokenization.readers.structure import DamagedError

_ENSEMBL = re.compile(r"ENS[A-Z]*G\d{11}", re.IGNORECASE)
_LOOKED_AT = 3000
_SEPARATORS = ",\t;"

_LONGEST_LINE = 2**26
"""Characters; the longest lines of real tables have a tenth of that, and a file of a few bytes may claim any length."""


@dataclass(frozen=True, slots=True)
class _Layout:
    """How the lines of a table are to be read."""

    path: Path
    separator: str
    columns: list[str]
    rows: list[str]


def open_text(path: Path) -> CountSource:
    """Counts of a text table with names in its first row and first column."""
    check_file(path)
    layout = _layout(path)
    as_columns, as_rows = _gene_share(layout.columns), _gene_share(layout.rows)
    if max(as_columns, as_rows) == 0:
        msg = (
            f'Neither the first row of "{path}" ({", ".join(layout.columns[:3])} …) nor its first column '
            f"({', '.join(layout.rows[:3])} …) names human genes. Put Ensembl ids or gene symbols in one of them."
        )
        raise UnsupportedFormatError(msg)
    name = path.name.removesuffix(".gz").rsplit(".", 1)[0]
    columns, rows = (
        Table({}, np.array(names, dtype=object), n_rows=len(names)) for names in (layout.columns, layout.rows)
    )
    if as_columns >= as_rows:
        return CountSource(name, path, "X", _CellLines(layout), rows, columns)
    shape = (len(layout.columns), len(layout.rows))
    matrix = SortedOnDisk(lambda: _transposed(layout), shape, expected=_expected_entries(layout))
    return CountSource(name, path, "X", matrix, columns, rows, closers=(matrix.close,))


class _CellLines:
    """A table of cells by genes, read from its first line on."""

    seekable = False

    def __init__(self, layout: _Layout) -> None:
        self.layout = layout
        self.shape = (len(layout.rows), len(layout.columns))

    def chunks(self, size: int, start: int, stop: int) -> Iterator[CellRows]:
        """Cells `start` to `stop` in order, at most `size` at a time."""
        for block in _blocks(self.layout, size, start, stop):
            yield from_dense(block)

    def sample(self, entries: int) -> Sample:
        """Entries of the first cells."""
        few = max(min(entries // max(self.shape[1], 1), 64), 8)
        return triples(next(self.chunks(few, 0, min(few, self.shape[0]))), 0)


def _lines(path: Path) -> Iterator[str]:
    """The lines of a table that say something, the one with names of columns first; comments above it are left out."""
    opened: Any = gzip.open if path.suffix == ".gz" else open
    with opened(path, "rt", encoding="utf-8-sig") as file:
        comment, begun = "", False
        while line := file.readline(_LONGEST_LINE):
            if len(line) == _LONGEST_LINE:
                msg = f"it has a line of more than {_LONGEST_LINE:,} characters"
                raise DamagedError(msg)
            line = line.rstrip("\n")
            if not line.strip():
                continue
            if not begun and line.startswith("#"):
                comment = line
                continue
            if not begun and _is_header(comment, line):
                yield comment.lstrip("#")
            begun = True
            yield line


def _is_header(comment: str, line: str) -> bool:
    """Whether the last of the lines that begin with # holds the names of the columns."""
    separator = max(_SEPARATORS, key=line.count)
    fields = line.split(separator)
    return comment.count(separator) == len(fields) - 1 > 0 and fields[1].strip('"').replace(".", "", 1).isdigit()


def _layout(path: Path) -> _Layout:
    with reading(path):
        lines = _lines(path)
        first = next(lines, "")
        preferred = "," if ".csv" in path.name.lower() else "\t"
        separator = preferred if preferred in first else max(_SEPARATORS, key=first.count)
        if separator not in first:
            msg = f'"{path}" is no table: its first line has neither commas nor tabs ({first[:60]!r}).'
            raise UnreadableInputError(msg)
        header = _split(first, separator)
        second = next(lines, "")
        rows = [_first_field(line, separator) for line in (second, *lines) if line]
    if not rows:
        msg = f'"{path}" has a first line and nothing below it. Get it again.'
        raise UnreadableInputError(msg)
    # R leaves out the corner: then the header is one shorter than the lines.
    width = len(_split(second, separator))
    columns = header if len(header) == width - 1 else header[1:]
    if len(columns) != width - 1:
        msg = f'"{path}" has {len(header)} names in its first line but {width} fields in its second.'
        raise UnreadableInputError(msg)
    return _Layout(path, separator, columns, rows)


def _split(line: str, separator: str) -> list[str]:
    return next(csv.reader([line], delimiter=separator))


def _first_field(line: str, separator: str) -> str:
    if line.startswith('"'):
        return line[1 : line.find('"', 1)]
    return line[: line.find(separator)]


def _gene_share(names: Sequence[str]) -> float:
    """Share of names that look like genes; of a large table only the first ones are looked at."""
    from geneformer.genes.vocabulary import Vocabulary

    looked_at = names[:_LOOKED_AT]
    symbols = Vocabulary.load("V1").aliases
    hits = sum(bool(_ENSEMBL.search(name)) or name.strip().upper() in symbols for name in looked_at)
    return hits / max(len(looked_at), 1)


def _blocks(layout: _Layout, size: int, start: int, stop: int) -> Iterator[NDArray[np.float64]]:
    """Numbers of lines `start` to `stop`, some lines at a time: a large table never is in memory."""
    size = min(size, max(MAX_DENSE // 4 // max(len(layout.columns), 1), 1))
    done = start
    with reading(layout.path):
        lines = islice(_lines(layout.path), 1 + start, 1 + stop)
        while block := list(islice(lines, size)):
            yield _numbers(layout, block, done)
            done += len(block)
    if done != stop:
        msg = f'"{layout.path}" ends at line {done + 1} of {stop + 1}. It changed while it was read; start again.'
        raise UnreadableInputError(msg)


def _numbers(layout: _Layout, lines: list[str], done: int) -> NDArray[np.float64]:
    """Numbers of some lines, their names left out: so all columns are of one type, and pandas is fast with many."""
    import pandas as pd

    separator, n_columns = layout.separator, len(layout.columns)
    names = [_first_field(line, separator) for line in lines]
    quotes = [2 if line.startswith('"') else 0 for line in lines]
    fields = [line[len(name) + more + 1 :] for line, name, more in zip(lines, names, quotes, strict=True)]
    for number, rest in enumerate(fields):
        if rest.count(separator) != n_columns - 1 and '"' not in rest:
            found = rest.count(separator) + 1
            msg = f"its line {done + number + 2} has {found:,} numbers, but there are {n_columns:,} names in the first"
            raise DamagedError(msg)
    try:
        table = pd.read_csv(
            StringIO("\n".join(fields)), sep=separator, header=None, dtype=np.float64, low_memory=False,
            skip_blank_lines=False,
        )  # fmt: skip
    except (pd.errors.ParserError, ValueError) as error:
        msg = (
            f'"{layout.path}" holds something that is no number near line {done + 2} ({error}). Keep one column '
            "of names and counts only; put descriptions of cells into an .h5ad."
        )
        raise UnreadableInputError(msg) from error
    if table.shape != (len(lines), n_columns):
        msg = f"it has lines of {table.shape[1]:,} numbers near line {done + 2}, but {n_columns:,} names in the first"
        raise DamagedError(msg)
    return table.to_numpy()


def _transposed(layout: _Layout) -> Iterator[Sample]:
    first = 0
    for block in _blocks(layout, 2048, 0, len(layout.rows)):
        genes, cells = np.nonzero(block)
        yield Sample(cells, genes + first, block[genes, cells])
        first += len(block)


def _expected_entries(layout: _Layout) -> int:
    """At most the number of fields, and half the bytes where the file is not packed."""
    fields = len(layout.rows) * len(layout.columns)
    if layout.path.suffix == ".gz":
        return fields // 5
    return min(fields, layout.path.stat().st_size // 2) // 5
