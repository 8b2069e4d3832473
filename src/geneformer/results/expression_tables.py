"""Predicted expression in a file: cells by genes, or one row per cell and gene."""

import json
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from geneformer import keys
from geneformer.results.expression import GENE, RANK
from geneformer.results.tables import check_suffix
from geneformer.runs.files import atomic_file

if TYPE_CHECKING:
    import pyarrow as pa
    from anndata import AnnData

SUFFIXES = (".h5ad", ".parquet", ".csv")
"""Files expression is written to."""

SYMBOL, VALUE = "symbol", "value"
"""Columns of the table beside cell, gene and rank."""


def save_expression(
    blocks: Iterator["AnnData"], path: str | Path, provenance: Mapping[str, Any], *, overwrite: bool = False
) -> tuple[int, int]:
    """Write predicted expression, complete or not at all; tables block by block.

    Parameters
    ----------
    blocks
        Cells by genes with the layer "rank", in order; one block only for an `.h5ad`.
    path
        File to make: `.h5ad`, `.parquet` or `.csv`.
    provenance
        Model, vocabulary fingerprint, versions; for the metadata of a `.parquet`.
    overwrite
        Replace a file that is there.

    Returns
    -------
    tuple of int
        Cells, and values of genes in cells.

    Raises
    ------
    UnsupportedFormatError
        Another suffix.
    OutputExistsError
        There is a file already.
    """
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
    """One row per cell and predicted gene: `cell_id`, `gene`, `symbol`, `value`, `rank`.

    Parameters
    ----------
    block
        Cells by genes with the layer "rank"; where they are sparse, their entries are what was predicted.
    """
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
            VALUE: pa.array(values, from_pandas=True),  # not a number becomes a gap
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
