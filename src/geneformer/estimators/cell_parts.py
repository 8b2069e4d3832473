"""Parts of opened cells: to predict, to name, and to tell about."""

from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from geneformer.errors import NoCellsError
from geneformer.estimators.cells import Cells
from geneformer.options import FinetuneOptions
from geneformer.tasks.splits import Split

TWIN = "random weights, same network"
"""The network without its pretraining, in tables."""


def part_of(cells: Cells, rows: NDArray[np.int64]) -> Cells:
    """Some of the tokenized cells, by themselves.

    Parameters
    ----------
    cells
        Opened cells.
    rows
        Which of them, ``(k,)``.

    Raises
    ------
    NoCellsError
        None at all.
    """
    if not len(rows):
        msg = "No labeled cell to evaluate on. Check the labels and the split."
        raise NoCellsError(msg)
    return Cells(cells.tokens.take(rows), np.arange(len(rows)), len(rows))


def cell_names(cells: Cells) -> NDArray[Any]:
    """Names of all cells of the input, ``(n_input,)``."""
    if cells.adata is not None:
        return np.asarray(cells.adata.obs_names, dtype=object)
    return cells.spread(cells.tokens.cell_ids.astype(object), None)


def describe_parts(parts: Split, groups: str | None) -> dict[str, Any]:
    """What reports and folders tell of a split.

    Parameters
    ----------
    parts
        The split.
    groups
        Column it keeps together.
    """
    return {
        "method": parts.method,
        "train": len(parts.train),
        "valid": len(parts.valid),
        "test": len(parts.test),
        "groups": groups,
        "shared_groups": {pair: list(names) for pair, names in parts.shared_groups.items()},
    }


def without_pretraining(options: FinetuneOptions) -> FinetuneOptions:
    """Options under which the same network learns from random weights; all of them move, as none are worth keeping."""
    return replace(options, weights="random", strategy="full", freeze_layers=0, bits="full")
