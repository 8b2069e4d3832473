"""Tables written whole or not at all."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from geneformer import keys
from geneformer.errors import UnsupportedFormatError
from geneformer.runs.files import atomic_file

if TYPE_CHECKING:
    import pandas as pd
    import pyarrow as pa
    from anndata import AnnData

TABLES = (".parquet", ".csv")
"""Files tables are written to."""


def check_suffix(path: str | Path, suffixes: Sequence[str] = TABLES) -> Path:
    """The path, if its suffix is among those that are written.

    Raises
    ------
    UnsupportedFormatError
        It is not.
    """
    path = Path(path)
    if path.suffix not in suffixes:
        found = f'"{path.suffix}"' if path.suffix else "a name without suffix"
        msg = f"Cannot write {path}: results go to files that end in {', '.join(suffixes)}, not to {found}."
        raise UnsupportedFormatError(msg)
    return path


def save_table(
    frame: "pd.DataFrame", path: str | Path, provenance: Mapping[str, Any], *, overwrite: bool = False
) -> None:
    """Write a table as `.parquet`, with its provenance in the file's metadata, or as `.csv`.

    Parameters
    ----------
    frame
        The table; row names are not written.
    path
        File to make.
    provenance
        Model, vocabulary fingerprint, options, versions.
    overwrite
        Replace a file that is there.

    Raises
    ------
    UnsupportedFormatError
        Another suffix.
    OutputExistsError
        There is a file already.
    """
    path = check_suffix(path)
    with atomic_file(path, overwrite=overwrite) as temporary:
        write_table(frame, temporary, provenance, index=False)


def write_table(frame: "pd.DataFrame", path: Path, provenance: Mapping[str, Any], *, index: bool) -> None:
    """Write a table at a path, with or without its row names."""
    if path.suffix == ".csv":
        frame.to_csv(path, index=index)
        return
    import json

    import pyarrow as pa
    from pyarrow import parquet

    table = pa.Table.from_pandas(frame, preserve_index=index)
    noted = {keys.UNS.encode(): json.dumps(provenance, default=str).encode()}
    parquet.write_table(table.replace_schema_metadata((table.schema.metadata or {}) | noted), path)


def cells_as_anndata(cells: "pa.Table") -> "AnnData":
    """AnnData without counts, with what is known about the cells as `obs`, under their names.

    Parameters
    ----------
    cells
        One row per cell.
    """
    import anndata as ad

    obs = cells.to_pandas()
    names = obs.pop(keys.CELL_ID) if keys.CELL_ID in obs else obs.index
    obs.index = names.astype(str)
    adata = ad.AnnData(obs=obs)
    adata.obs_names_make_unique()
    return adata
