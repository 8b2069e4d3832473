"""The running account of a tokenization: what each result adds to the report, and how a resumed run takes it up."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from geneformer.options import TokenizeOptions
from geneformer.tokenization.preparation import Preparation
from geneformer.tokenization.report import SourceReport, TokenizeReport
from geneformer.tokenization.units import Tally, UnitResult
from geneformer.vocab.gene_ids import check_matched_share

_MOST_NAMES = 10_000
_SELECTED = 1.2
"""Given totals above the counts by this factor: genes were taken away after counting."""


@dataclass(slots=True)
class _Open:
    """What is known of the source that is being read."""

    gene_counts: NDArray[np.float64]
    tally: Tally = field(default_factory=Tally)
    n_empty: int = 0
    empty_cells: list[str] = field(default_factory=list)


class Account:
    """Adds up results, in the order of the cells.

    Parameters
    ----------
    preparation
        The inputs.
    options
        How they are tokenized.
    max_length
        Most tokens of a cell.
    """

    def __init__(self, preparation: Preparation, options: TokenizeOptions, max_length: int) -> None:
        self._preparation = preparation
        self._options = options
        self._finished: list[dict[str, Any]] = []
        self._lengths = np.zeros(max_length + 1, dtype=np.int64)
        self._open = self._next()
        self._finish_read()

    @property
    def source(self) -> int:
        """Number of the source that is being read; the number of sources at the end."""
        return len(self._finished)

    @property
    def cell(self) -> int:
        """Cells of that source that were read."""
        return self._open.tally.n_cells

    @property
    def n_cells(self) -> int:
        """Cells read so far."""
        return sum(int(done["n_cells"]) for done in self._finished) + self.cell

    def add(self, result: UnitResult) -> None:
        """Take up the next result.

        Raises
        ------
        TooFewGenesMatchedError, GeneIdsNotFoundError
            The source is read, and too few of its counts lie in genes of the vocabulary.
        """
        current, source = self._open, self._preparation.sources[self.source].source
        current.gene_counts += result.gene_counts
        current.tally.add(result.tally)
        current.n_empty += len(result.empty)
        for cell in result.empty[: max(_MOST_NAMES - len(current.empty_cells), 0)]:
            current.empty_cells.append(str(source.cell_names(int(cell), int(cell) + 1)[0]))
        self._lengths += np.bincount(np.diff(result.ranked.offsets), minlength=len(self._lengths))
        self._finish_read()

    def state(self) -> dict[str, Any]:
        """Everything `restore` needs, as JSON can hold it."""
        return {
            "finished": self._finished,
            "lengths": self._lengths.tolist(),
            "gene_counts": self._open.gene_counts.tolist(),
            "tally": asdict(self._open.tally),
            "n_empty": self._open.n_empty,
            "empty_cells": self._open.empty_cells,
        }

    def restore(self, state: Mapping[str, Any]) -> None:
        """Go on where a killed run stood."""
        self._finished = list(state["finished"])
        self._lengths = np.array(state["lengths"], dtype=np.int64)
        self._open = _Open(
            np.array(state["gene_counts"], dtype=np.float64),
            Tally(**state["tally"]),
            int(state["n_empty"]),
            list(state["empty_cells"]),
        )

    def report(self) -> TokenizeReport:
        """The report, once all cells are in."""
        n = int(self._lengths.sum())
        present = np.flatnonzero(self._lengths)
        spread = (int(present[0]), self._median(), int(present[-1])) if n else (0, 0.0, 0)
        remarks = [*self._preparation.remarks]
        remarks.extend(done["remark"] for done in self._finished if done["remark"])
        sources = [{key: value for key, value in done.items() if key != "remark"} for done in self._finished]
        return TokenizeReport(
            sources=tuple(
                SourceReport(**{**source, "empty_cells": tuple(source["empty_cells"])}) for source in sources
            ),
            tokens_per_cell=spread,
            warnings=tuple(remarks),
            accepted_normalized=self._options.accept_normalized,
        )

    def _median(self) -> float:
        below = np.cumsum(self._lengths)
        low, high = (int(np.searchsorted(below, rank)) for rank in ((below[-1] + 1) // 2, below[-1] // 2 + 1))
        return (low + high) / 2

    def _next(self) -> _Open:
        sources = self._preparation.sources
        n_genes = sources[self.source].source.n_genes if self.source < len(sources) else 0
        return _Open(np.zeros(n_genes))

    def _finish_read(self) -> None:
        """Close the books of the sources that are read to their end, those without cells included."""
        sources = self._preparation.sources
        while self.source < len(sources) and self.cell == sources[self.source].source.n_cells:
            self._finished.append(self._closed())
            self._open = self._next()

    def _closed(self) -> dict[str, Any]:
        ready, match = self._preparation.sources[self.source], self._preparation.matches[self.source]
        current, tally = self._open, self._open.tally
        share = check_matched_share(match, current.gene_counts, self._options.min_matched)
        report = SourceReport(
            name=ready.name,
            path=None if ready.source.path is None else str(ready.source.path),
            place=ready.source.place,
            n_cells=tally.n_cells,
            n_filtered=tally.n_filtered,
            n_empty=current.n_empty,
            empty_cells=tuple(current.empty_cells),
            n_written=tally.n_cells - tally.n_filtered - current.n_empty,
            n_truncated=tally.n_truncated,
            n_missing=tally.n_missing,
            n_other_features=ready.source.n_other_features,
            matched_share=share,
            genes=match.report(current.gene_counts).as_dict(),
        )
        return {**asdict(report), "remark": _totals_remark(ready.source.label, tally)}


def _totals_remark(label: str, tally: Tally) -> str:
    """What is wrong with given totals that disagree with the counts."""
    if not tally.n_disagreeing:
        return ""
    kept = tally.n_cells - tally.n_filtered
    told = (
        f"{label}: `n_counts` differs by more than 1 % from the sum of the counts in {tally.n_disagreeing:,} of "
        f"{kept:,} cells"
    )
    if tally.given > _SELECTED * tally.counted:
        share = tally.counted / tally.given
        return (
            f"{told}; the counts are {share:.0%} of it: genes were probably removed. Give the full matrix if there is "
            "one."
        )
    return f"{told}. It is used for scaled counts as it is; the order of tokens does not depend on it."
