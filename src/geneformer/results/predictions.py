"""Predicted classes with the identity of the cells, and files of them."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from geneformer import keys
from geneformer.results.tables import cells_as_anndata, check_suffix, write_table
from geneformer.runs.files import atomic_file

if TYPE_CHECKING:
    import pandas as pd
    import pyarrow as pa
    from anndata import AnnData

SUFFIXES = (".h5ad", ".parquet", ".csv")
"""Files predictions are written to."""


@dataclass(frozen=True, slots=True)
class CellPredictions:
    """A class and its probability for every cell, in the order of the input.

    Attributes
    ----------
    cells
        What is known about each cell.
    label
        What was predicted, such as "cell_type".
    classes
        Names of the classes, ``(C,)``.
    predicted
        Class of each cell, ``(n,)``.
    proba
        Probability of every class, ``(n, C)``.
    provenance
        Model, vocabulary fingerprint, options, versions.
    """

    cells: "pa.Table"
    label: str
    classes: tuple[str, ...]
    predicted: NDArray[Any]
    proba: NDArray[np.float64]
    provenance: Mapping[str, Any] = field(default_factory=dict)

    def counts(self) -> dict[str, int]:
        """Cells of each predicted class, the commonest first."""
        names, numbers = np.unique(self.predicted.astype(str), return_counts=True)
        order = np.argsort(-numbers, kind="stable")
        return {str(names[i]): int(numbers[i]) for i in order}

    def to_frame(self) -> "pd.DataFrame":
        """One row per cell: class, its probability, every class's probability, then what is known about the cell."""
        import pandas as pd

        key = keys.predicted(self.label)
        found = {key: self.predicted, f"{key}_probability": self.proba.max(axis=1)}
        found |= {f"probability {name}": self.proba[:, i] for i, name in enumerate(self.classes)}
        known = self.cells.to_pandas()
        frame: pd.DataFrame = pd.concat([pd.DataFrame(found), known.drop(columns=list(found), errors="ignore")], axis=1)
        return frame

    def to_anndata(self) -> "AnnData":
        """Cells as `obs` with class and probability, all probabilities in `obsm`, provenance in `uns`."""
        adata = cells_as_anndata(self.cells)
        write_predictions(
            adata,
            label=self.label,
            classes=self.classes,
            predicted=self.predicted,
            proba=self.proba,
            provenance=self.provenance,
        )
        return adata

    def save(self, path: str | Path, *, overwrite: bool = False) -> None:
        """Write an `.h5ad`, `.parquet` or `.csv`, complete or not at all.

        Raises
        ------
        UnsupportedFormatError
            Another suffix.
        OutputExistsError
            There is a file already.
        """
        path = check_suffix(path, SUFFIXES)
        with atomic_file(path, overwrite=overwrite) as temporary:
            if path.suffix == ".h5ad":
                self.to_anndata().write_h5ad(temporary)
            else:
                write_table(self.to_frame(), temporary, self.provenance, index=False)


def write_predictions(
    adata: "AnnData",
    *,
    label: str,
    classes: tuple[str, ...],
    predicted: NDArray[Any],
    proba: NDArray[np.float64],
    provenance: Mapping[str, Any],
    key_added: str | None = None,
) -> None:
    """Put predictions into `adata`: `obs[key]`, `obs[key + "_probability"]`, `obsm[key + "_proba"]`, `uns`.

    Columns in `obsm` are called by their classes, with "|" for "/", which files cannot hold.

    Parameters
    ----------
    adata
        One row per prediction.
    label, classes, predicted, proba, provenance
        As in `CellPredictions`.
    key_added
        The key; `geneformer_<label>` by default.
    """
    import pandas as pd

    key = key_added or keys.predicted(label)
    named = [*classes, *sorted(set(predicted.astype(str)) - set(classes))]
    adata.obs[key] = pd.Categorical(predicted.astype(str), categories=named).remove_unused_categories()
    best = np.full(len(proba), np.nan)
    known = ~np.isnan(proba).any(axis=1)
    best[known] = proba[known].max(axis=1)
    adata.obs[f"{key}_probability"] = best
    columns = [name.replace("/", "|") for name in classes]  # a slash would be a folder in the file
    adata.obsm[f"{key}_proba"] = pd.DataFrame(proba, index=adata.obs_names, columns=columns)
    adata.uns[keys.UNS] = {**adata.uns.get(keys.UNS, {}), key: {**provenance, "classes": list(classes)}}
