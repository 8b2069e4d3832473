"""Predictions as users take them away: slots of AnnData, tables and files."""

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from geneformer import keys
from geneformer.files.atomic import atomic_file
from geneformer.finetuning.reports import GENE, SYMBOL
from geneformer.inference.cells import Cells
from geneformer.inference.slots import Origin, Slots
from geneformer.inference.tables import SUFFIXES, check_suffix, write_table

if TYPE_CHECKING:
    import pyarrow as pa
    from anndata import AnnData

RANK = "rank"
"""Layer, and column, of predicted ranks."""


def class_slots(
    *,
    label: str,
    classes: Sequence[str],
    predicted: NDArray[Any],
    proba: NDArray[np.float64],
    provenance: Mapping[str, Any],
    key_added: str | None = None,
) -> Slots:
    """Classes of cells as `obs[key]`, `obs[key + "_probability"]`, `obsm[key + "_proba"]` and `uns`."""
    import pandas as pd

    key = key_added or keys.predicted(label)
    named = [*classes, *sorted(set(predicted.astype(str)) - set(classes))]
    return Slots(
        obs={
            key: pd.Categorical(predicted.astype(str), categories=named).remove_unused_categories(),
            f"{key}_probability": proba.max(axis=1),
        },
        obsm={f"{key}_proba": pd.DataFrame(proba, columns=list(classes))},
        uns={key: {**provenance, "classes": list(classes)}},
    )


def save_cells(
    cells: "pa.Table",
    slots: Slots,
    path: str | Path,
    provenance: Mapping[str, Any],
    *,
    origin: Origin | None = None,
    overwrite: bool = False,
) -> None:
    """Write predictions and the columns of the input, complete or not at all; an `.h5ad` keeps all of the input.

    A table has probabilities of classes as columns of their own.
    """
    import pandas as pd

    path = check_suffix(path, SUFFIXES)
    with atomic_file(path, overwrite=overwrite) as temporary:
        if path.suffix == ".h5ad":
            slots.save(temporary, cells, origin)
            return
        tables = [values for values in slots.obsm.values() if isinstance(values, pd.DataFrame)]
        columns = {**slots.obs, **{f"probability {name}": table[name] for table in tables for name in table}}
        given = cells.to_pandas().drop(columns=list(columns), errors="ignore")
        write_table(pd.concat([pd.DataFrame(columns), given], axis=1), temporary, provenance, index=False)


def name_classes(
    proba: NDArray[np.float64], classes: Sequence[str], *, least: float, separator: str | None = None
) -> NDArray[Any]:
    """Most probable classes, ``(n,)``; "unknown" for cells without probabilities."""
    names = np.array(classes, dtype=object)
    missing = np.asarray(np.isnan(proba).any(axis=1))
    filled = np.where(missing[:, None], 0.0, proba)
    if separator is not None:
        predicted = np.array([separator.join(names[row >= 0.5]) for row in filled], dtype=object)
    else:
        predicted = names[filled.argmax(axis=1)]
        missing = missing | (filled.max(axis=1) < least)
    predicted[missing] = keys.UNKNOWN
    return predicted


def cell_names(cells: Cells) -> NDArray[Any]:
    """Names of all cells of the input, ``(n_input,)``."""
    if cells.adata is not None:
        return np.asarray(cells.adata.obs_names, dtype=object)
    return cells.spread(cells.tokens.cell_ids.astype(object), None)


def cell_table(cells: Cells) -> "pa.Table":
    """Columns of the tokens for every cell of the input, in its order; of cells that were left out, only the name."""
    import pyarrow as pa
    from pyarrow import compute

    rows = cells.spread(np.arange(len(cells.tokens)), -1)
    table = cells.tokens.table.select(cells.tokens.columns).take(pa.array(rows, mask=rows < 0))
    rest = {name: table[name] for name in table.column_names if name != keys.CELL_ID}
    if keys.LENGTH in rest:
        rest[keys.LENGTH] = compute.fill_null(rest[keys.LENGTH], 0)
    return pa.table({keys.CELL_ID: pa.array(cell_names(cells).astype(str)), **rest})


def save_expression(
    blocks: Iterator["AnnData"], path: str | Path, provenance: Mapping[str, Any], *, overwrite: bool = False
) -> tuple[int, int]:
    """Write predicted expression, complete or not at all; tables block by block."""
    path = check_suffix(path, SUFFIXES)
    first = next(blocks)
    with atomic_file(path, overwrite=overwrite) as temporary:
        if path.suffix == ".h5ad":
            first.write_h5ad(temporary)
            return first.n_obs, first.X.size
        n_cells = n_values = 0
        with _writer(temporary, expression_table(first).schema, provenance) as writer:
            for block in chain([first], blocks):
                table = expression_table(block)
                writer.write_table(table)
                n_cells, n_values = n_cells + block.n_obs, n_values + table.num_rows
    return n_cells, n_values


def expression_table(block: "AnnData") -> "pa.Table":
    """One row per cell and predicted gene: `cell_id`, `gene`, `symbol`, `value`, `rank`."""
    import pyarrow as pa
    from scipy import sparse

    values: Any = block.X
    ranks: Any = block.layers[RANK]
    if sparse.issparse(block.X):
        cells, genes = np.repeat(np.arange(block.n_obs), np.diff(values.indptr)), values.indices
        values, ranks = values.data, ranks.data
    else:
        cells, genes = (places.ravel() for places in np.indices(values.shape))
        values, ranks = values.ravel(), ranks.ravel()
    return pa.table(
        {
            keys.CELL_ID: pa.array(block.obs_names.astype(str), pa.string()).take(pa.array(cells)),
            GENE: pa.array(block.var_names, pa.string()).take(pa.array(genes)),
            SYMBOL: pa.array(block.var[SYMBOL], pa.string()).take(pa.array(genes)),
            "value": pa.array(values, from_pandas=True),  # NaN becomes a gap
            RANK: pa.array(ranks, from_pandas=True),
        }
    )


def _writer(path: Path, schema: "pa.Schema", provenance: Mapping[str, Any]) -> AbstractContextManager[Any]:
    if path.suffix == ".csv":
        from pyarrow import csv

        csv_writer: AbstractContextManager[Any] = csv.CSVWriter(path, schema)
        return csv_writer
    from pyarrow import parquet

    noted = {keys.UNS.encode(): json.dumps(provenance, default=str).encode()}
    writer: AbstractContextManager[Any] = parquet.ParquetWriter(path, schema.with_metadata(noted))
    return writer
