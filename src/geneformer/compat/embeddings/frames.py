"""Embeddings as the tables that the published package returns and writes."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from geneformer import keys
from geneformer.runs.files import atomic_file, output_errors
from geneformer.tasks.gene_states import GeneStates

if TYPE_CHECKING:
    import pandas as pd
    import pyarrow as pa

IDENTIFIER = "Identifier"
"""Column that counts the states of one gene."""


def cell_frame(values_nd: Any, cells: "pa.Table", labels: Sequence[str]) -> "pd.DataFrame":
    """One row per cell: columns `0` to `d - 1`, the labels, and `cell_id` where it is known."""
    import pandas as pd

    frame = pd.DataFrame(values_nd)
    for name in _with_cell_id(labels, cells):
        frame[name] = cells.column(name).to_pandas()
    return frame


def vector_frame(vector_d: Any, name: str | int = 0) -> "pd.DataFrame":
    """One row that sums up all cells, under a name."""
    import pandas as pd

    return pd.DataFrame([vector_d], index=[name])


def gene_frame(values_gd: Any, genes: Sequence[str]) -> "pd.DataFrame":
    """One row per gene, named by it: columns `0` to `d - 1`."""
    import pandas as pd

    return pd.DataFrame(values_gd, index=list(genes))


def state_frame(states: GeneStates, genes: Sequence[str], cells: "pa.Table") -> "pd.DataFrame":
    """One row per gene and cell: `Identifier`, columns `0` to `d - 1`, and `cell_id` where it is known.

    Parameters
    ----------
    states
        States of the cells.
    genes
        Gene of each row: of `states.tokens_in_order`.
    cells
        What is known about the cells.
    """
    import pandas as pd

    order = states.by_token
    frame = pd.DataFrame(states.values[order], index=list(genes))
    frame.insert(0, IDENTIFIER, states.repeat)
    for name in _with_cell_id((), cells):
        frame[name] = cells.column(name).to_pandas().to_numpy()[states.cells[order]]
    return frame


def dimensions(frame: "pd.DataFrame") -> list[Any]:
    """Columns with the numbers of an embedding, also in a frame that was read from a file."""
    return [name for name in frame.columns if str(name).isdecimal()]


def write_frame(frame: "pd.DataFrame", path: Path) -> None:
    """Write a CSV with row names, replacing what is there.

    Raises
    ------
    OutputError
        The place cannot be written to, or the disk is full.
    """
    with output_errors(path):
        path.absolute().parent.mkdir(parents=True, exist_ok=True)
    with atomic_file(path, overwrite=True) as temporary:
        frame.to_csv(temporary)


def _with_cell_id(labels: Sequence[str], cells: "pa.Table") -> list[str]:
    known = keys.CELL_ID in cells.column_names and keys.CELL_ID not in labels
    return [*labels, keys.CELL_ID] if known else list(labels)
