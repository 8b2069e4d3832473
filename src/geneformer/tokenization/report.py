"""What tokenizing did: added up while it runs, and reported in the table at the end and in the manifest."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from geneformer.genes.lookup import check_matched_share
from geneformer.options import TokenizeOptions
from geneformer.tokenization.checks import Preparation
from geneformer.tokenization.ranking import RankedCells


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
        totals = {
            "n_cells": self.n_cells,
            "n_written": self.n_written,
            "n_filtered": self.n_filtered,
            "n_empty": self.n_empty,
            "n_truncated": self.n_truncated,
        }
        return {**totals, **asdict(self)}

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


@dataclass(slots=True)
class Tally:
    """What came of some cells, in sums that can be added up."""

    n_cells: int = 0
    n_filtered: int = 0
    n_truncated: int = 0
    n_missing: int = 0
    n_disagreeing: int = 0
    given: float = 0.0
    counted: float = 0.0

    def add(self, other: Self) -> None:
        """Add another tally to this one."""
        for each in fields(self):
            setattr(self, each.name, getattr(self, each.name) + getattr(other, each.name))


@dataclass(frozen=True, slots=True)
class RankedUnit:
    """Tokens of a run of cells: `cells` have some, `empty` have none; all are numbered within their source."""

    ranked: RankedCells
    cells: NDArray[np.int64]
    empty: NDArray[np.int64]
    gene_counts: NDArray[np.float64]
    tally: Tally


_MOST_NAMES = 10_000
_SELECTED = 1.2
"""Given totals above the counts by this factor: genes were taken away after counting."""


class Account:
    """Adds up units of cells in their order, one source after the other; a killed run goes on from its `state`."""

    def __init__(self, preparation: Preparation, options: TokenizeOptions, max_length: int) -> None:
        self._preparation = preparation
        self._options = options
        self._finished: list[dict[str, Any]] = []
        self._lengths = np.zeros(max_length + 1, dtype=np.int64)
        self._empty_cells: list[str]
        self._open_next()

    @property
    def source(self) -> int:
        """Number of the source that is being read; the number of sources at the end."""
        return len(self._finished)

    @property
    def cell(self) -> int:
        """Cells of that source that were read."""
        return self._tally.n_cells

    @property
    def n_cells(self) -> int:
        """Cells read so far."""
        return sum(int(source["n_cells"]) for source in self._finished) + self.cell

    def add(self, unit: RankedUnit) -> None:
        """Take up the next unit."""
        source = self._preparation.sources[self.source].source
        self._gene_counts += unit.gene_counts
        self._tally.add(unit.tally)
        self._n_empty += len(unit.empty)
        for cell in unit.empty[: max(_MOST_NAMES - len(self._empty_cells), 0)].tolist():
            self._empty_cells.append(str(source.cell_names(cell, cell + 1)[0]))
        self._lengths += np.bincount(np.diff(unit.ranked.offsets), minlength=len(self._lengths))
        if self.cell == source.n_cells:
            self._finish_source()

    def state(self) -> dict[str, Any]:
        """Everything `restore` needs, as JSON can hold it."""
        return {
            "finished": self._finished,
            "lengths": self._lengths.tolist(),
            "gene_counts": self._gene_counts.tolist(),
            "tally": asdict(self._tally),
            "n_empty": self._n_empty,
            "empty_cells": self._empty_cells,
        }

    def restore(self, state: Mapping[str, Any]) -> None:
        """Go on where a killed run stood."""
        self._finished = list(state["finished"])
        self._lengths = np.array(state["lengths"], dtype=np.int64)
        self._gene_counts = np.array(state["gene_counts"], dtype=np.float64)
        self._tally = Tally(**state["tally"])
        self._n_empty = int(state["n_empty"])
        self._empty_cells = list(state["empty_cells"])

    def report(self) -> TokenizeReport:
        """The report, once all cells are in."""
        sources, remarks = [], [*self._preparation.remarks]
        for finished in self._finished:
            fields_of_report = {**finished, "empty_cells": tuple(finished["empty_cells"])}
            remark = fields_of_report.pop("remark")
            sources.append(SourceReport(**fields_of_report))
            remarks.extend([remark] if remark else [])
        return TokenizeReport(
            sources=tuple(sources),
            tokens_per_cell=self._spread(),
            warnings=tuple(remarks),
            accepted_normalized=self._options.accept_normalized,
        )

    def _spread(self) -> tuple[int, float, int]:
        """Least, median and most tokens of a cell."""
        cells_up_to = np.cumsum(self._lengths)
        n = int(cells_up_to[-1])
        if not n:
            return 0, 0.0, 0
        ranks = [1, (n + 1) // 2, n // 2 + 1, n]
        least, low, high, most = np.searchsorted(cells_up_to, ranks).tolist()
        return least, (low + high) / 2, most

    def _open_next(self) -> None:
        """Turn to the next source; one without cells is at its end already."""
        more = self.source < len(self._preparation.sources)
        source = self._preparation.sources[self.source].source if more else None
        self._gene_counts = np.zeros(source.n_genes if source is not None else 0)
        self._tally = Tally()
        self._n_empty = 0
        self._empty_cells = []
        if source is not None and not source.n_cells:
            self._finish_source()

    def _finish_source(self) -> None:
        ready = self._preparation.sources[self.source]
        source, match, tally = ready.source, ready.match, self._tally
        report = SourceReport(
            name=ready.name,
            path=None if source.path is None else str(source.path),
            place=source.place,
            n_cells=tally.n_cells,
            n_filtered=tally.n_filtered,
            n_empty=self._n_empty,
            empty_cells=tuple(self._empty_cells),
            n_written=tally.n_cells - tally.n_filtered - self._n_empty,
            n_truncated=tally.n_truncated,
            n_missing=tally.n_missing,
            n_other_features=source.n_other_features,
            matched_share=check_matched_share(match, self._gene_counts, self._options.min_matched),
            genes=match.report(self._gene_counts),
        )
        self._finished.append({**asdict(report), "remark": _totals_remark(source.label, tally)})
        self._open_next()


def _totals_remark(label: str, tally: Tally) -> str:
    """What is wrong with given totals that disagree with the counts."""
    if not tally.n_disagreeing:
        return ""
    n_cells = tally.n_cells - tally.n_filtered
    disagreement = (
        f"{label}: `n_counts` differs by more than 1 % from the sum of the counts in {tally.n_disagreeing:,} of "
        f"{n_cells:,} cells"
    )
    if tally.given > _SELECTED * tally.counted:
        share = tally.counted / tally.given
        advice = "genes were probably removed. Give the full matrix if there is one."
        return f"{disagreement}; the counts are {share:.0%} of it: {advice}"
    return f"{disagreement}. It is used for scaled counts as it is; the order of tokens does not depend on it."
