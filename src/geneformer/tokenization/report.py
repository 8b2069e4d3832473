"""What tokenizing did, as the table at the end and the manifest report it."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any


@dataclass(frozen=True, kw_only=True, slots=True)
class SourceReport:
    """What came of one input.

    Attributes
    ----------
    name, path, place
        The cells' `source`, where it is, and which of its matrices was read.
    n_cells
        Cells read.
    n_filtered
        Cells left out by `filter_pass`.
    n_empty, empty_cells
        Cells without a gene of the vocabulary, and names of the first ten thousand of them.
    n_written
        Cells in the dataset.
    n_truncated
        Cells with more genes than there was room for.
    n_missing
        Missing values taken for zero.
    n_other_features
        Columns left out because they are no genes.
    matched_share
        Share of the counts in genes of the vocabulary.
    genes
        How gene identifiers were matched.
    """

    name: str
    path: str | None
    place: str
    n_cells: int
    n_filtered: int
    n_empty: int
    empty_cells: tuple[str, ...]
    n_written: int
    n_truncated: int
    n_missing: int
    n_other_features: int
    matched_share: float
    genes: Mapping[str, Any]


@dataclass(frozen=True, kw_only=True, slots=True)
class TokenizeReport:
    """What tokenizing did.

    Attributes
    ----------
    sources
        One report per input.
    tokens_per_cell
        Least, median and most tokens of a cell; zeros without cells.
    warnings
        What was repaired or looks wrong.
    accepted_normalized
        Whether values that are no counts were allowed.
    """

    sources: tuple[SourceReport, ...]
    tokens_per_cell: tuple[int, float, int]
    warnings: tuple[str, ...]
    accepted_normalized: bool

    @property
    def n_cells(self) -> int:
        """Cells read."""
        return sum(source.n_cells for source in self.sources)

    @property
    def n_written(self) -> int:
        """Cells in the dataset."""
        return sum(source.n_written for source in self.sources)

    @property
    def n_filtered(self) -> int:
        """Cells left out by `filter_pass`."""
        return sum(source.n_filtered for source in self.sources)

    @property
    def n_empty(self) -> int:
        """Cells without a gene of the vocabulary."""
        return sum(source.n_empty for source in self.sources)

    @property
    def n_truncated(self) -> int:
        """Cells with more genes than there was room for."""
        return sum(source.n_truncated for source in self.sources)

    def to_dict(self) -> dict[str, Any]:
        """The report as JSON can hold it, totals included."""
        totals = ("n_cells", "n_written", "n_filtered", "n_empty", "n_truncated")
        return {**{name: getattr(self, name) for name in totals}, **asdict(self)}

    def rows(self) -> list[tuple[str, str]]:
        """Lines of a table for people: what, and how much."""
        least, median, most = self.tokens_per_cell
        lines = [
            ("cells read", f"{self.n_cells:,}"),
            ("cells tokenized", f"{self.n_written:,}"),
            ("left out: filter_pass", f"{self.n_filtered:,}"),
            ("left out: no gene of the vocabulary", f"{self.n_empty:,}{_some(self._empty_names())}"),
            ("tokens per cell", f"median {median:,.0f}, from {least:,} to {most:,}"),
            ("cells with more genes than fit", f"{self.n_truncated:,}"),
        ]
        lines.extend((f"genes of {source.name}", _genes(source)) for source in self.sources)
        missing = sum(source.n_missing for source in self.sources)
        if missing:
            lines.append(("missing values taken for zero", f"{missing:,}"))
        if self.accepted_normalized:
            lines.append(("values", "not checked to be raw counts (--accept-normalized)"))
        return lines

    def _empty_names(self) -> list[str]:
        return [name for source in self.sources for name in source.empty_cells]


def _some(names: list[str]) -> str:
    if not names:
        return ""
    return f" ({', '.join(names[:3])}{', …' if len(names) > 3 else ''})"


def _genes(source: SourceReport) -> str:
    genes = source.genes
    parts = [f"{genes['genes_matched']:,} of {genes['genes_read']:,} matched"]
    if genes["genes_summed"]:
        parts.append(f"{genes['genes_summed']:,} summed into another")
    parts.append(f"{genes['genes_left_out']:,} left out")
    if source.n_other_features:
        parts.append(f"{source.n_other_features:,} other features left out")
    parts.append(f"{source.matched_share:.1%} of the counts")
    return ", ".join(parts)
