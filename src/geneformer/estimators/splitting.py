"""The split of opened cells, by columns of what is known about them."""

import inspect
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from geneformer.errors import LeakageError
from geneformer.estimators.cells import Cells
from geneformer.options import SplitOptions
from geneformer.tasks.split_methods import PARTS
from geneformer.tasks.splits import Split, draw_split, shared_groups


def draw_rows(
    cells: Cells, codes: NDArray[np.int64], options: SplitOptions, *, groups: str | None = None, ids: str | None = None
) -> Split:
    """Rows of the tokenized cells to learn from, to choose by and to test on.

    Parameters
    ----------
    cells
        Opened cells.
    codes
        What they are split by, -1 for cells that are not used, ``(n,)``.
    options
        How they are split.
    groups, ids
        Columns of donors or the like, and of the ids that the options list or balance.

    Raises
    ------
    LabelError
        The cells cannot be split like that.
    UnknownColumnError
        No such column.
    """
    attributes = {name: np.asarray(cells.column(name)) for name in options.balance}
    return draw_split(
        codes,
        options,
        groups=None if groups is None else np.asarray(cells.column(groups)),
        ids=None if ids is None else np.asarray(cells.column(ids)),
        attributes=attributes or None,
    )


def given_rows(parts: Split, codes: NDArray[np.int64], groups: Any, options: SplitOptions) -> Split:
    """A split that came from elsewhere, without cells that are not used; refused if it leaks, unless that is allowed.

    Parameters
    ----------
    parts
        The split.
    codes
        What is to be learnt about each cell, -1 for cells that are not used, ``(n,)``.
    groups
        Donor, batch or the like of each cell, ``(n,)``, or None.
    options
        Whether leakage is allowed.

    Raises
    ------
    LeakageError
        A group has cells on two sides.
    """
    rows = {name: getattr(parts, name) for name in PARTS}
    parts = replace(parts, **{name: found[codes[found] >= 0] for name, found in rows.items()})
    if groups is None:
        return parts
    shared = shared_groups(parts, np.asarray(groups))
    if shared and not options.allow_leakage:
        pair, names = next(iter(shared.items()))
        told = ", ".join(map(repr, names[:5])) + (", ..." if len(names) > 5 else "")
        msg = f"{len(names)} groups of split_rows are in both of {pair}: {told}. Mend it, or pass allow_leakage=True."
        raise LeakageError(msg)
    return replace(parts, shared_groups=shared)


def targets_of(estimator: Any, cells: Cells, label: Any, *, by_cell: bool) -> Any:
    """What an estimator would learn about opened cells; its `codes` are what they are split by.

    Parameters
    ----------
    estimator
        Estimator of cells.
    cells
        Opened cells.
    label
        What `fit` takes as labels.
    by_cell
        Whether cells are split one by one. Numbers are then split such that all parts have about the same.
    """
    ways = {"by_cell": by_cell} if "by_cell" in inspect.signature(estimator.targets).parameters else {}
    return estimator.targets(cells, label, **ways)
