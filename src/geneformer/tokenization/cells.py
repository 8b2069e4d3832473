"""What a table of cells says about them: which ones to keep, their totals, and the columns to carry along."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from geneformer import keys
from geneformer.errors import FilterPassError, InvalidTotalsError, UnknownColumnError
from geneformer.options._check import nearest
from geneformer.tokenization.frames import has_column
from geneformer.tokenization.source import CountSource
from geneformer.vocab.arrow_arrays import values_of

_YES = {"true", "t", "yes", "y", "1", "1.0", "pass", "passed"}
_NO = {"false", "f", "no", "n", "0", "0.0", "fail", "failed"}
_BLOCK = 200_000


@dataclass(frozen=True, slots=True)
class OutputColumn:
    """A column of the dataset that comes from the tables of cells.

    Attributes
    ----------
    name
        In the dataset.
    origin
        In `obs`.
    kind
        Type of its values.
    """

    name: str
    origin: str
    kind: pa.DataType


def kept_cells(source: CountSource) -> NDArray[np.bool_] | None:
    """Cells that `filter_pass` marks, ``(n,)``; None where there is no such column.

    Raises
    ------
    FilterPassError
        A value that is neither yes nor no.
    """
    if keys.FILTER_PASS not in source.obs.names:
        return None
    seen = value_counts(source, keys.FILTER_PASS)
    unclear = {value: n for value, n in seen.items() if str(value).strip().lower() not in _YES | _NO}
    if unclear:
        msg = (
            f"{source.label}: obs column `filter_pass` holds {_listed(unclear)}, which cannot be read as yes or no. "
            "Use true and false, yes and no, 1 and 0, or pass and fail; or drop the column to keep all cells."
        )
        raise FilterPassError(msg)
    kept = np.empty(source.n_cells, dtype=bool)
    for start in range(0, source.n_cells, _BLOCK):
        values = source.obs.column(keys.FILTER_PASS, start, min(start + _BLOCK, source.n_cells)).dictionary_encode()
        verdicts = np.array([str(value).strip().lower() in _YES for value in values.dictionary.to_pylist()], dtype=bool)
        kept[start : start + len(values)] = verdicts[values.indices.to_numpy()]
    return kept


def filter_values(source: CountSource) -> str:
    """What stands in `filter_pass`, for messages."""
    return _listed(value_counts(source, keys.FILTER_PASS))


def value_counts(source: CountSource, column: str) -> dict[object, int]:
    """How often each value of a column of cells occurs."""
    seen: dict[object, int] = {}
    for start in range(0, source.n_cells, _BLOCK):
        values = source.obs.column(column, start, min(start + _BLOCK, source.n_cells))
        for entry in values.value_counts().to_pylist():
            seen[entry["values"]] = seen.get(entry["values"], 0) + entry["counts"]
    return seen


def _listed(seen: dict[object, int]) -> str:
    commonest = sorted(seen.items(), key=lambda item: -item[1])[:8]
    more = ", …" if len(seen) > len(commonest) else ""
    return ", ".join(f"{value!r} in {n:,} cells" for value, n in commonest) + more


def given_totals(source: CountSource, kept: NDArray[np.bool_] | None) -> NDArray[np.float64] | None:
    """Totals in `n_counts`, ``(n,)``; None where there is no such column.

    Zero passes here, because a cell without counts may say so.

    Raises
    ------
    InvalidTotalsError
        A missing, infinite or negative total in a cell that is kept, or text.
    """
    if keys.N_COUNTS not in source.obs.names:
        return None
    try:
        column = source.obs.column(keys.N_COUNTS, 0, source.n_cells)
        if not (pa.types.is_floating(column.type) or pa.types.is_integer(column.type)):
            column = column.cast(pa.float64())
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError) as error:
        msg = f"{source.label}: obs column `n_counts` does not hold numbers ({error}). Drop it to have it computed."
        raise InvalidTotalsError(msg) from error
    totals = np.asarray(values_of(column), dtype=np.float64)
    wrong = ~(np.isfinite(totals) & (totals >= 0))
    if kept is not None:
        wrong &= kept
    if wrong.any():
        raise invalid_total(source, np.flatnonzero(wrong), totals)
    return totals


def invalid_total(source: CountSource, cells: NDArray[np.int64], totals: NDArray[np.float64]) -> InvalidTotalsError:
    """The refusal of totals that cannot be."""
    cell = int(cells[0])
    name = source.cell_names(cell, cell + 1)[0]
    msg = (
        f'{source.label}: obs column `n_counts` is {totals[cell]:g} in cell "{name}" and wrong in {len(cells):,} cells '
        "in all. A total is a number above zero. Correct it, or drop the column to have it computed from the counts."
    )
    return InvalidTotalsError(msg)


def plan_columns(sources: Sequence[CountSource], keep: tuple[str, ...] | None) -> tuple[list[OutputColumn], list[str]]:
    """Columns of `obs` that go into the dataset, with one type for all sources; and remarks on them.

    Parameters
    ----------
    sources
        All inputs.
    keep
        Columns asked for; None for all there are.

    Raises
    ------
    UnknownColumnError
        A column asked for that no source has.
    """
    available = list(dict.fromkeys(name for source in sources for name in source.obs.names))
    remarks = []
    for name in keep or ():
        lacking = [source.label for source in sources if not has_column(source.obs, name)]
        if len(lacking) == len(sources):
            listed = ", ".join(available) or "no columns"
            msg = f'No obs column "{name}". There is {listed}.{nearest(name, available)}'
            raise UnknownColumnError(msg)
        if lacking:
            remarks.append(f'Column "{name}" is missing in {", ".join(lacking)} and left empty there.')
    taken = set(keys.RESERVED)
    columns = []
    for name in available if keep is None else dict.fromkeys(keep):
        written = name
        while written in taken:
            written = f"obs_{written}"
        taken.add(written)
        kinds = [source.obs.kind(name) for source in sources if has_column(source.obs, name)]
        columns.append(OutputColumn(written, name, _common_kind(kinds)))
    return columns, remarks


def _common_kind(kinds: list[pa.DataType]) -> pa.DataType:
    """A type that holds the values of all sources."""
    if len(set(kinds)) == 1:
        return kinds[0]
    if all(pa.types.is_integer(kind) for kind in kinds):
        return pa.int64()
    if all(pa.types.is_integer(kind) or pa.types.is_floating(kind) for kind in kinds):
        return pa.float64()
    return pa.string()
