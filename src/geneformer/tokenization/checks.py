"""Whether values are raw counts: looked at before any work on a sample, and again on every value that is read."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from geneformer.errors import NonFiniteCountsError, NotRawCountsError
from geneformer.options import TokenizeOptions
from geneformer.tokenization.ranking import CellRows
from geneformer.tokenization.readers.matrices import Sample, triples
from geneformer.tokenization.readers.source import RAW, CountSource, place_of

_SHOWN = 5
_SAME_SUM = 1e-3
_LOG_LIMIT = 30.0
"""No logarithm of a count is larger than this."""


@dataclass(frozen=True, slots=True)
class _Findings:
    """What some nonzero values look like."""

    n: int
    fractional: NDArray[np.bool_]
    negative: NDArray[np.bool_]
    not_finite: NDArray[np.bool_]


def check_sample(source: CountSource, options: TokenizeOptions) -> None:
    """Refuse a matrix a sample of which is not raw counts."""
    sample = source.sample()
    found = _findings(sample.values)
    if options.missing == "error" and found.not_finite.any():
        raise _not_finite(source, sample, found)
    if found.negative.any():
        raise _negative(source, sample, found)
    if found.fractional.any() and not options.accept_normalized:
        raise _fractional(source, sample, found)


def checked(
    rows: CellRows, cells: NDArray[np.int64], source: CountSource, options: TokenizeOptions
) -> tuple[CellRows, int]:
    """The rows, missing values taken for zero where that was chosen, and how many there were."""
    data = rows.data
    kind = data.dtype.kind
    if kind in "ub" or not len(data):
        return rows, 0
    least = data.min()
    replaced = 0
    if kind == "f" and not (np.isfinite(least) and np.isfinite(data.max())):
        if options.missing == "error":
            found = _located(rows, cells)
            raise _not_finite(source, found, _findings(found.values))
        missing = ~np.isfinite(data)
        replaced = int(missing.sum())
        data = np.where(missing, 0, data)
        rows = CellRows(rows.indptr, rows.indices, data)
        least = data.min()
    if least < 0:
        found = _located(rows, cells)
        raise _negative(source, found, _findings(found.values))
    if kind == "f" and not options.accept_normalized and np.any(data != np.floor(data)):
        found = _located(rows, cells)
        raise _fractional(source, found, _findings(found.values))
    return rows, replaced


def _located(rows: CellRows, cells: NDArray[np.int64]) -> Sample:
    entries = triples(rows, 0)
    return Sample(cells[entries.cells], entries.genes, entries.values)


def looks_raw(sample: Sample) -> bool:
    """Whether a sample holds counts: some values, all of them whole and none negative."""
    found = _findings(sample.values)
    return found.n > 0 and not (found.fractional.any() or found.negative.any() or found.not_finite.any())


def _findings(values: NDArray[np.generic]) -> _Findings:
    numbers = np.asarray(values, dtype=np.float64)
    finite = np.isfinite(numbers)
    whole = numbers == np.floor(numbers)
    return _Findings(int(np.sum(numbers != 0)), finite & ~whole, finite & (numbers < 0), ~finite)


def _fractional(source: CountSource, sample: Sample, found: _Findings) -> NotRawCountsError:
    values = np.asarray(sample.values, dtype=np.float64)
    largest = float(np.nanmax(np.where(np.isfinite(values), values, np.nan)))
    share = found.fractional.sum() / max(found.n, 1)
    msg = (
        f"{source.label}: {source.place} does not hold raw counts. {share:.0%} of {found.n:,} nonzero values looked at "
        f"are fractional, for example {_example(source, sample, found.fractional)}; the largest is {largest:.6g}."
        f"{_kind_of_scaling(sample, largest)} {_where_raw(source)} "
        "Values that are no counts can be ranked all the same with --accept-normalized (accept_normalized=True)."
    )
    return NotRawCountsError(msg)


def _negative(source: CountSource, sample: Sample, found: _Findings) -> NotRawCountsError:
    share = found.negative.sum() / max(found.n, 1)
    msg = (
        f"{source.label}: {source.place} does not hold raw counts. {share:.0%} of {found.n:,} nonzero values looked at "
        f"are negative, for example {_example(source, sample, found.negative)}: scaled or batch-corrected values have "
        f"no rank. {_where_raw(source)}"
    )
    return NotRawCountsError(msg)


def _not_finite(source: CountSource, sample: Sample, found: _Findings) -> NonFiniteCountsError:
    where = np.flatnonzero(found.not_finite)
    shown = ", ".join(_entry(source, sample, int(place)) for place in where[:_SHOWN])
    more = f" and {len(where) - _SHOWN:,} more" if len(where) > _SHOWN else ""
    msg = (
        f"{source.label}: {source.place} holds missing or infinite values: {shown}{more}. Correct them, or take them "
        'for zero with --missing zero (missing="zero").'
    )
    return NonFiniteCountsError(msg)


def _example(source: CountSource, sample: Sample, marked: NDArray[np.bool_]) -> str:
    return _entry(source, sample, int(np.flatnonzero(marked)[0]))


def _entry(source: CountSource, sample: Sample, place: int) -> str:
    cell, gene = int(sample.cells[place]), int(sample.genes[place])
    cell_name = source.cell_names(cell, cell + 1)[0]
    gene_name = source.var.index(gene, gene + 1)[0]
    return f'{float(sample.values[place]):.6g} (cell "{cell_name}", gene "{gene_name}")'


def _kind_of_scaling(sample: Sample, largest: float) -> str:
    """What was done to the counts, where sums of cells give it away."""
    cells = np.unique(sample.cells, return_inverse=True)[1]
    values = np.asarray(sample.values, dtype=np.float64)
    scalings = {"normalized": values}
    if largest < _LOG_LIMIT:
        scalings["logarithms of normalized counts"] = np.expm1(values)
    for name, numbers in scalings.items():
        sums = np.bincount(cells, weights=numbers)
        if len(sums) > 2 and np.ptp(sums) <= _SAME_SUM * abs(sums.mean()):
            return f" They are {name}: every cell sums up to {sums.mean():,.6g}."
    return ""


def _where_raw(source: CountSource) -> str:
    raw = [layer for layer, make in source.others.items() if looks_raw(make().sample(20_000))]
    if not raw:
        return "No other layer holds raw counts: give the matrix as the sequencing pipeline wrote it."
    places = " and ".join(place_of(layer) for layer in raw)
    verb = "holds" if len(raw) == 1 else "hold"
    name = raw[0] if raw[0] != RAW or len(raw) == 1 else raw[1]
    return f'{places} {verb} raw counts: choose with --layer {name} (layer="{name}").'
