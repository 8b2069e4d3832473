"""Embeddings with the identity of what they describe, and files of them."""

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from geneformer import keys
from geneformer.display import Summarized, Summary, names_text
from geneformer.errors import InputNotFoundError, ProvenanceError, UnsupportedFormatError, reason_of
from geneformer.files.atomic import atomic_file
from geneformer.files.manifest import InputFile, Manifest

if TYPE_CHECKING:
    import pandas as pd
    import pyarrow as pa
    from anndata import AnnData

TABLES = (".parquet", ".csv")
"""Files tables are written to."""


def check_suffix(path: str | Path, suffixes: Sequence[str] = TABLES) -> Path:
    """The path, if its suffix is among those that are written."""
    path = Path(path)
    if path.suffix not in suffixes:
        given = f'"{path.suffix}"' if path.suffix else "a name without suffix"
        msg = f"Cannot write {path}: results go to files that end in {', '.join(suffixes)}, not to {given}."
        raise UnsupportedFormatError(msg)
    return path


def save_table(
    frame: "pd.DataFrame", path: str | Path, provenance: Mapping[str, Any], *, overwrite: bool = False
) -> None:
    """Write a table as `.parquet`, with its provenance in the file's metadata, or as `.csv`."""
    path = check_suffix(path)
    with atomic_file(path, overwrite=overwrite) as temporary:
        write_table(frame, temporary, provenance, index=False)


def write_table(frame: "pd.DataFrame", path: Path, provenance: Mapping[str, Any], *, index: bool) -> None:
    """Write a table at a path, with or without its row names."""
    if path.suffix == ".csv":
        _without_formulas(frame).to_csv(path, index=index)
        return
    import pyarrow as pa
    from pyarrow import parquet

    table = pa.Table.from_pandas(frame, preserve_index=index)
    noted = {keys.UNS.encode(): json.dumps(provenance, default=str).encode()}
    parquet.write_table(table.replace_schema_metadata((table.schema.metadata or {}) | noted), path)


def read_manifest(output: Path) -> Manifest:
    """What a result was made from: of a folder its manifest, of a file what is noted inside it."""
    manifest = Manifest.read(output)
    if manifest is not None:
        return manifest
    noted = _noted(output)
    if "versions" not in noted:
        msg = (
            f'"{output}" does not say what it was made from. Folders that this program made say so, and the .parquet '
            "and .h5ad files of its commands."
        )
        raise ProvenanceError(msg)
    inputs = tuple(InputFile(**json.loads(str(source))) for source in noted["inputs"])
    task = next((task for task in ("embedding", "attention", "prediction", "network") if task in noted), "a run")
    return Manifest(task=task, inputs=inputs, versions=noted["versions"])


def _noted(path: Path) -> dict[str, Any]:
    """Provenance inside a file, or nothing."""
    if not path.exists():
        msg = f'There is no "{path}". Give a folder or file that this program made.'
        raise InputNotFoundError(msg)
    try:
        if path.suffix == ".parquet":
            from pyarrow import parquet

            return dict(json.loads((parquet.read_schema(path).metadata or {}).get(keys.UNS.encode(), b"{}")))
        if path.suffix == ".h5ad":
            import h5py
            from anndata.io import read_elem

            with h5py.File(path) as file:
                slots = read_elem(file[f"uns/{keys.UNS}"]) if f"uns/{keys.UNS}" in file else {}
            return next((noted for noted in slots.values() if "versions" in noted), {})
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        msg = f'"{path}" cannot be read: {reason_of(error)}. Make it again.'
        raise ProvenanceError(msg) from error
    return {}


_FORMULA = r"(?!-?[\d.]+(?:e-?\d+)?$)[=+\-@\t\r]"
"""Start of a text that a spreadsheet would take for a formula and compute."""


def _without_formulas(frame: "pd.DataFrame") -> "pd.DataFrame":
    """The table with an apostrophe before texts that spreadsheets would compute."""
    import pandas as pd

    changed = {}
    for place, name in enumerate(frame.columns):
        column = frame.iloc[:, place]
        if not pd.api.types.is_numeric_dtype(column):
            texts = column.astype(object)
            found = texts.map(lambda value: isinstance(value, str) and re.match(_FORMULA, value) is not None)
            if found.any():
                changed[name] = texts.where(~found.astype(bool), "'" + texts.astype(str))
    rows = [f"'{name}" if isinstance(name, str) and re.match(_FORMULA, name) else name for name in frame.index]
    safe = frame.assign(**changed) if changed else frame
    return safe if rows == list(frame.index) else safe.set_axis(pd.Index(rows, name=frame.index.name), axis=0)


def cells_as_anndata(cells: "pa.Table") -> "AnnData":
    """AnnData without counts, with what is known about the cells as `obs`, under their names."""
    import anndata as ad

    obs = cells.to_pandas()
    names = obs.pop(keys.CELL_ID) if keys.CELL_ID in obs else obs.index
    obs.index = names.astype(str)
    adata = ad.AnnData(obs=obs)
    adata.obs_names_make_unique()
    return adata


SUFFIXES = (".h5ad", *TABLES)
"""Files that results with a place in AnnData are written to."""


class SavedResult(Summarized):
    """A result that is a table and may be AnnData as well."""

    __slots__ = ()
    suffixes: ClassVar[tuple[str, ...]] = SUFFIXES
    names_rows: ClassVar[bool] = False
    provenance: Mapping[str, Any]

    def made_by(self) -> list[tuple[str, str]]:
        """Model and vocabulary, as summaries show them."""
        return [(name, str(self.provenance[name])) for name in ("model", "vocabulary") if name in self.provenance]

    def to_frame(self) -> "pd.DataFrame":
        """The result as a table."""
        raise NotImplementedError

    def to_anndata(self) -> "AnnData":
        """The result as AnnData."""
        raise NotImplementedError

    def save(self, path: str | Path, *, overwrite: bool = False) -> None:
        """Write a `.parquet` or `.csv`, or an `.h5ad` where the result has that form; complete or not at all.

        Raises
        ------
        UnsupportedFormatError
            Another suffix.
        OutputExistsError
            There is a file already.
        """
        path = check_suffix(path, self.suffixes)
        with atomic_file(path, overwrite=overwrite) as temporary:
            if path.suffix == ".h5ad":
                self.to_anndata().write_h5ad(temporary)
            else:
                write_table(self.to_frame(), temporary, self.provenance, index=self.names_rows)


@dataclass(frozen=True, slots=True, repr=False)
class CellEmbeddings(SavedResult):
    """One vector per cell, in the order of the input.

    Attributes
    ----------
    values
        Embeddings, ``(n_cells, hidden_size)``, float32.
    cells
        What is known about each cell; `cell_id` and `source` where the tokens had them.
    provenance
        Model, vocabulary fingerprint, options, versions.
    """

    values: NDArray[np.float32]
    cells: "pa.Table"
    provenance: Mapping[str, Any] = field(default_factory=dict)

    def summary_of(self) -> Summary:
        """How many vectors of how many dimensions there are, and what is known about the cells."""
        n, width = self.values.shape
        facts = [("dimensions", f"{width:,}"), *self.made_by(), ("columns", names_text(self.cells.column_names))]
        return Summary(title=f"CellEmbeddings of {n:,} cells", facts=facts)

    def to_frame(self) -> "pd.DataFrame":
        """One row per cell: columns `0` to `hidden_size - 1`, then what is known about the cell."""
        import pandas as pd

        values = pd.DataFrame(self.values, columns=[str(i) for i in range(self.values.shape[1])])
        frame: pd.DataFrame = pd.concat([values, self.cells.to_pandas()], axis=1)
        return frame

    def to_anndata(self) -> "AnnData":
        """Cells as `obs`, embeddings in ``obsm["X_geneformer"]``, provenance in ``uns["geneformer"]``."""
        adata = cells_as_anndata(self.cells)
        adata.obsm[keys.EMBEDDING] = self.values
        adata.uns[keys.UNS] = {keys.EMBEDDING: dict(self.provenance)}
        return adata


@dataclass(frozen=True, slots=True, repr=False)
class GeneEmbeddings(SavedResult):
    """One vector per gene, averaged over the cells that express it.

    Attributes
    ----------
    values
        Embeddings, ``(n_genes, hidden_size)``, float32.
    genes
        Ensembl ids, and names of special tokens, ``(n_genes,)``.
    n_cells
        Cells each mean is taken over, ``(n_genes,)``.
    provenance
        Model, vocabulary fingerprint, options, versions.
    """

    names_rows: ClassVar[bool] = True
    values: NDArray[np.float32]
    genes: NDArray[Any]
    n_cells: NDArray[np.int64]
    provenance: Mapping[str, Any] = field(default_factory=dict)

    def summary_of(self) -> Summary:
        """How many vectors of how many dimensions there are."""
        n, width = self.values.shape
        return Summary(
            title=f"GeneEmbeddings of {n:,} genes",
            facts=[
                ("dimensions", f"{width:,}"),
                *self.made_by(),
                ("cells per gene", f"{int(self.n_cells.min()):,} to {int(self.n_cells.max()):,}" if n else "none"),
            ],
        )

    def to_frame(self) -> "pd.DataFrame":
        """One row per gene, indexed by Ensembl id: `n_cells`, then columns `0` to `hidden_size - 1`."""
        import pandas as pd

        index = pd.Index(self.genes, name=keys.ENSEMBL_ID)
        values = pd.DataFrame(self.values, index=index, columns=[str(i) for i in range(self.values.shape[1])])
        values.insert(0, "n_cells", self.n_cells)
        return values

    def to_anndata(self) -> "AnnData":
        """Genes as `obs`, embeddings in ``obsm["X_geneformer"]``."""
        import anndata as ad
        import pandas as pd

        adata = ad.AnnData(obs=pd.DataFrame({"n_cells": self.n_cells}, index=self.genes.astype(str)))
        adata.obsm[keys.EMBEDDING] = self.values
        adata.uns[keys.UNS] = {keys.EMBEDDING: dict(self.provenance)}
        return adata
