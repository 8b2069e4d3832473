"""Cells that a command leaves out, counted by reason where they are left out, for its report."""

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

_COUNTS: ContextVar[Counter[str] | None] = ContextVar("cells_left_out", default=None)


@contextmanager
def counting_left_out() -> Iterator[Counter[str]]:
    """Cells left out by reason, while this lasts."""
    counts: Counter[str] = Counter()
    token = _COUNTS.set(counts)
    try:
        yield counts
    finally:
        _COUNTS.reset(token)


def count_left_out(reason: str, number: int) -> None:
    """Add to the cells left out for a reason; of no effect where nobody counts."""
    counts = _COUNTS.get()
    if counts is not None and number:
        counts[reason] += number
