"""Whatever was predicted about cells, in a file with one row per cell."""

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from geneformer import keys
from geneformer.results.predictions import SUFFIXES
from geneformer.results.tables import cells_as_anndata, check_suffix, write_table
from geneformer.runs.files import atomic_file

if TYPE_CHECKING:
    import pyarrow as pa


def save_cells(
    cells: "pa.Table",
    columns: Mapping[str, Any],
    path: str | Path,
    provenance: Mapping[str, Any],
    *,
    overwrite: bool = False,
) -> None:
    """Write an `.h5ad`, `.parquet` or `.csv` of what was predicted and what is known, complete or not at all.

    Parameters
    ----------
    cells
        What is known about each cell.
    columns
        What was predicted by slot of `obs`, ``(n,)`` each. Known columns of these names are left out.
    path
        File to make.
    provenance
        Model, vocabulary fingerprint, versions.
    overwrite
        Replace a file that is there.

    Raises
    ------
    UnsupportedFormatError
        Another suffix.
    OutputExistsError
        There is a file already.
    """
    import pandas as pd

    path = check_suffix(path, SUFFIXES)
    with atomic_file(path, overwrite=overwrite) as temporary:
        if path.suffix == ".h5ad":
            adata = cells_as_anndata(cells)
            for name, values in columns.items():
                adata.obs[name] = values
            adata.uns[keys.UNS] = {name: dict(provenance) for name in columns}
            adata.write_h5ad(temporary)
            return
        known = cells.to_pandas().drop(columns=list(columns), errors="ignore")
        write_table(pd.concat([pd.DataFrame(dict(columns)), known], axis=1), temporary, provenance, index=False)
