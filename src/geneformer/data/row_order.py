"""Which cells a run takes, and in which order: filtered by columns, drawn by seed, longest first.

The draw is that of `datasets.Dataset.shuffle`, so that the same cells are taken as by the published package.
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from geneformer.data.dataset import TokenizedDataset
from geneformer.errors import NoCellsError

Ints = NDArray[np.int64]

SEED = 42
"""What the published package draws cells with."""


def listed(values: Any) -> list[Any]:
    """Values of a list, a set, an array or a column; a single value, text too, as the only one."""
    if hasattr(values, "tolist"):
        values = values.tolist()
    return list(values) if isinstance(values, Iterable) and not isinstance(values, str | bytes) else [values]


def rows_with(dataset: TokenizedDataset, wanted: Mapping[str, Sequence[Any]]) -> Ints:
    """Rows whose value is among those wanted, in every column named.

    Parameters
    ----------
    dataset
        Tokenized cells.
    wanted
        Accepted values by column.

    Raises
    ------
    DatasetError
        No such column.
    NoCellsError
        No cell has the values; what the column holds is told.
    """
    keep = np.ones(len(dataset), dtype=bool)
    for name, values in wanted.items():
        column = dataset.column(name)
        accepted = set(values)
        keep &= np.fromiter((value in accepted for value in column.tolist()), dtype=bool, count=len(column))
        if not keep.any():
            held = sorted({str(value) for value in column.tolist()})
            more = f" and {len(held) - 10} more" if len(held) > 10 else ""
            msg = (
                f"No cell is left after keeping {name!r} in {list(values)}. The column holds "
                f"{', '.join(held[:10])}{more}."
            )
            raise NoCellsError(msg)
    return np.flatnonzero(keep)


def drawn_rows(n: int, size: int | None = None) -> Ints:
    """`size` of `n` rows in the order of the published draw; all of them by default."""
    return np.random.default_rng(SEED).permutation(n)[: n if size is None else size]


def longest_first(dataset: TokenizedDataset, rows: Ints, max_cells: int | None) -> Ints:
    """At most `max_cells` of the rows, drawn where there are more, by descending length; equal lengths keep order."""
    if max_cells is not None and len(rows) > max_cells:
        rows = rows[drawn_rows(len(rows), max_cells)]
    return rows[np.argsort(-dataset.lengths[rows], kind="stable")]
