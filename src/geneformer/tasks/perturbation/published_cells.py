"""Which cells the published package perturbs, and in which order: filtered, drawn by seed, longest first, sliced."""

import warnings
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from geneformer.data.dataset import TokenizedDataset
from geneformer.data.row_order import longest_first, rows_with
from geneformer.errors import AbsentGeneError, GeneformerWarning, NoCellsError, OutOfRangeError
from geneformer.tasks.perturbation.edits import Ints

_CELLS_AT_ONCE = 4096


def published_cells(
    tokens: TokenizedDataset,
    filters: Sequence[Mapping[str, Sequence[Any]]],
    genes: Sequence[tuple[str, Sequence[int]]],
    *,
    max_cells: int | None = None,
    part: tuple[int, int] | None = None,
) -> Ints:
    """Rows of the cells, longest first; equal lengths keep their order.

    Parameters
    ----------
    tokens
        All cells.
    filters
        Accepted values by column, one filter after the other.
    genes
        Token ids that a cell must have all of, one list after the other; each with what it is called in errors.
    max_cells
        Most cells, drawn where there are more.
    part
        Slice of the ordered cells: first, and end (exclusive).

    Raises
    ------
    DatasetError
        No such column.
    NoCellsError
        No cell passes the filters.
    AbsentGeneError
        No cell that passes them has all genes of a list.
    OutOfRangeError
        The slice starts behind the last cell.
    """
    rows = np.arange(len(tokens))
    for wanted in filters:
        rows = np.intersect1d(rows, rows_with(tokens, wanted), assume_unique=True)
        if not len(rows):
            msg = f"No cell is left after keeping {dict(wanted)} among those that passed the filter before."
            raise NoCellsError(msg)
    for name, ids in genes:
        having = rows[_have_all(tokens, rows, ids)]
        if not len(having):
            msg = (
                f"{name} needs cells that have all of its {len(set(ids))} genes; none of the {len(rows):,} cells does. "
                "Name fewer genes, overexpress them, or choose other cells."
            )
            raise AbsentGeneError(msg)
        rows = having
    rows = longest_first(tokens, rows, max_cells)
    return rows if part is None else _sliced(rows, *part)


def _have_all(tokens: TokenizedDataset, rows: Ints, ids: Sequence[int]) -> np.ndarray:
    """Whether a cell has every one of some tokens, ``(n,)``."""
    wanted = np.unique(np.asarray(ids, dtype=np.int64))
    found = []
    for start in range(0, len(rows), _CELLS_AT_ONCE):
        packed = tokens.gather(rows[start : start + _CELLS_AT_ONCE])
        n_cells = len(packed.cu_seqlens) - 1
        cell = np.repeat(np.arange(n_cells), np.diff(packed.cu_seqlens))
        hit = np.isin(packed.input_ids, wanted)
        pairs = np.unique(np.stack([cell[hit], packed.input_ids[hit]]), axis=1)
        found.append(np.bincount(pairs[0], minlength=n_cells) == len(wanted))
    return np.concatenate(found) if found else np.zeros(0, dtype=bool)


def _sliced(rows: Ints, start: int, end: int) -> Ints:
    if start >= len(rows):
        msg = f"The slice starts at cell {start:,}, but there are {len(rows):,} cells. Start below that."
        raise OutOfRangeError(msg)
    if end > len(rows):
        msg = f"The slice ends at cell {end:,}, but there are {len(rows):,} cells: it ends there."
        warnings.warn(msg, GeneformerWarning, stacklevel=4)
    return rows[start:end]
