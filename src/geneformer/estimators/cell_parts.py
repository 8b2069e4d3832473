"""Parts of opened cells: to predict, to name, and to tell about."""

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from geneformer import keys
from geneformer.errors import NoCellsError, OptionError
from geneformer.estimators.cells import Cells
from geneformer.options import FinetuneOptions
from geneformer.tasks.adata_inputs import PairedModel
from geneformer.tasks.splits import Split

if TYPE_CHECKING:
    import pyarrow as pa
    from scipy import sparse

TWIN = "random weights, same network"
"""The network without its pretraining, in tables."""

UNKNOWN = "unknown"
"""What a cell is called whose best class is too improbable."""


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


def name_classes(
    proba: NDArray[np.float64], classes: Sequence[str], *, least: float, separator: str | None = None
) -> NDArray[Any]:
    """Most probable classes, ``(n,)``; "unknown" for cells without probabilities.

    Parameters
    ----------
    proba
        Probability of every class, ``(n, C)``.
    classes
        Names of the classes.
    least
        Probability a class must reach.
    separator
        A cell has every class from 0.5 on, and this stands between them.
    """
    names = np.array(classes, dtype=object)
    missing = np.asarray(np.isnan(proba).any(axis=1))
    filled = np.where(missing[:, None], 0.0, proba)
    if separator is not None:
        predicted = np.array([separator.join(names[row >= 0.5]) for row in filled], dtype=object)
    else:
        predicted = names[filled.argmax(axis=1)]
        missing = missing | (filled.max(axis=1) < least)
    predicted[missing] = UNKNOWN
    return predicted


def counts_like(learnt: Cells, counts: "sparse.csr_matrix | None", tested: Cells, model: PairedModel) -> Any:
    """Counts of cells to test baselines on, ``(n, g)``, None where they are not like those the baselines learn from.

    Parameters
    ----------
    learnt
        Cells the baselines learn from.
    counts
        Their counts.
    tested
        Cells to test on.
    model
        Decides the genes.
    """
    if counts is None or tested is learnt:
        return counts
    # Counts kept with tokens are scaled ones.
    return tested.counts(model) if (learnt.adata is None) == (tested.adata is None) else None


def cell_names(cells: Cells) -> NDArray[Any]:
    """Names of all cells of the input, ``(n_input,)``."""
    if cells.adata is not None:
        return np.asarray(cells.adata.obs_names, dtype=object)
    return cells.spread(cells.tokens.cell_ids.astype(object), None)


def cell_table(cells: Cells) -> "pa.Table":
    """What the tokens tell of every cell of the input, in its order; of cells that were left out, only the name."""
    import pyarrow as pa
    from pyarrow import compute

    rows = cells.spread(np.arange(len(cells.tokens)), -1)
    table = cells.tokens.table.select(cells.tokens.columns).take(pa.array(rows, mask=rows < 0))
    told = {name: table[name] for name in table.column_names if name != keys.CELL_ID}
    if keys.LENGTH in told:
        told[keys.LENGTH] = compute.fill_null(told[keys.LENGTH], 0)
    return pa.table({keys.CELL_ID: pa.array(cell_names(cells).astype(str)), **told})


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


def check_deleted(genes: NDArray[Any] | None, options: FinetuneOptions) -> None:
    """Refuse genes to delete in second views where there are no second views.

    Raises
    ------
    OptionError
        There is no contrastive term.
    """
    if genes is not None and not options.contrastive_weight:
        msg = "deleted_genes has no effect without a contrastive term. Pass contrastive_weight, or leave it out."
        raise OptionError(msg)


def without_pretraining(options: FinetuneOptions) -> FinetuneOptions:
    """Options under which the same network learns from random weights; all of them move, as none are worth keeping."""
    return replace(options, weights="random", strategy="full", freeze_layers=0, bits="full")
