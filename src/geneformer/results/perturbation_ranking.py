"""Ranked perturbations: a table, what each of its columns says, and files of it."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import numpy as np

from geneformer import keys
from geneformer.errors import DatasetError
from geneformer.results.tables import check_suffix, write_table
from geneformer.runs.files import atomic_file, check_output

if TYPE_CHECKING:
    import pandas as pd
    from anndata import AnnData

SUFFIXES = (".csv", ".parquet", ".h5ad")
"""Files rankings are written to."""

DEFINITIONS_SUFFIX = ".columns.json"
"""What the file with definitions and provenance beside a .csv is called, after its name."""


@dataclass(frozen=True, slots=True, eq=False)
class PerturbationRanking:
    """Statistics of the perturbations of a run.

    Attributes
    ----------
    frame
        Rows from the first to the last rank; the index is their place before sorting.
    mode
        Which statistics; see `RankOptions`.
    definitions
        What each column says, with unit and sign.
    states
        Columns with mean effects, by the state or class they are about.
    provenance
        That of the run, and options of the ranking.
    """

    frame: "pd.DataFrame"
    mode: str
    definitions: Mapping[str, str]
    states: Mapping[str, str] = field(default_factory=dict)
    provenance: Mapping[str, Any] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.frame)

    def notes(self) -> dict[str, Any]:
        """Everything but the table, as JSON can hold it."""
        told = {name: getattr(self, name) for name in ("mode", "definitions", "states", "provenance")}
        found: dict[str, Any] = json.loads(json.dumps(told, default=str))
        return found

    def to_frame(self) -> "pd.DataFrame":
        """The table, with the rest in `attrs["geneformer"]`."""
        frame = self.frame.copy()
        frame.attrs[keys.UNS] = self.notes()
        return frame

    @classmethod
    def from_frame(cls, frame: "pd.DataFrame") -> Self:
        """What `to_frame` made.

        Raises
        ------
        DatasetError
            The table does not tell what it is.
        """
        notes = frame.attrs.get(keys.UNS)
        if not isinstance(notes, Mapping) or not {"mode", "definitions"} <= notes.keys():
            msg = (
                f"This table with the columns {[str(name) for name in frame.columns][:8]} is no ranking, or lost its "
                "attrs on the way. Pass what gf.tl.rank_perturbations returned, or the effects themselves."
            )
            raise DatasetError(msg)
        return cls(frame, **notes)

    def to_anndata(self) -> "AnnData":
        """Perturbations as `obs`, states as `var`, mean effects as `X`; definitions and provenance in `uns`.

        `obs["perturbation"]` names the perturbation. Of a table of cells, `var` is the whole cell; of one of pairs of
        genes, the affected genes. Slashes in names become |, which files can hold.
        """
        import anndata as ad

        frame = _storable(self.frame)
        if self.mode == "aggregate":
            return self._noted(ad.AnnData(**_table_of(frame, "Cosine_sim", None)))
        if self.mode == "aggregate_gene_shifts":
            return self._noted(ad.AnnData(**_table_of(frame, "Cosine_sim_mean", "Affected_Ensembl_ID")))
        import pandas as pd

        means = frame[[column.replace("/", "|") for column in self.states.values()]].to_numpy(dtype=np.float64)
        var = pd.DataFrame(index=pd.Index(list(self.states), dtype=str))
        adata = ad.AnnData(X=means, obs=frame.set_index(frame["perturbation"].astype(str).to_numpy()), var=var)
        adata.obs_names_make_unique()
        return self._noted(adata)

    def _noted(self, adata: "AnnData") -> "AnnData":
        adata.uns[keys.UNS] = {"perturbation_ranking": json.dumps(self.notes())}
        definitions = {name.replace("/", "|"): text for name, text in self.definitions.items()}
        adata.uns["definitions"] = definitions
        return adata

    def save(self, path: str | Path, *, overwrite: bool = False) -> None:
        """Write a `.csv`, `.parquet` or `.h5ad`, complete or not at all.

        A `.csv` has the columns of the published package first, and `<file>.columns.json` beside it says what columns
        mean; the others say it in the file.

        Raises
        ------
        UnsupportedFormatError
            Another suffix.
        OutputExistsError
            There is a file already.
        """
        path = check_suffix(path, SUFFIXES)
        notes = path.with_name(path.name + DEFINITIONS_SUFFIX)
        if path.suffix == ".csv":
            check_output(notes, overwrite=overwrite)
        with atomic_file(path, overwrite=overwrite) as temporary:
            if path.suffix == ".h5ad":
                self.to_anndata().write_h5ad(temporary)
            elif path.suffix == ".parquet":
                write_table(_storable(self.frame, slashes=True), temporary, self.notes(), index=True)
            else:
                write_table(self.frame, temporary, {}, index=True)
        if path.suffix == ".csv":
            with atomic_file(notes, overwrite=overwrite) as temporary:
                temporary.write_text(json.dumps(self.notes(), indent=2) + "\n", encoding="utf-8")


def _storable(frame: "pd.DataFrame", *, slashes: bool = False) -> "pd.DataFrame":
    """Columns of one kind each: tuples, and tokens beside other names, as text."""
    stored = frame.copy()
    stored.attrs.clear()
    for name in frame.columns:
        if frame[name].dtype == object:
            known = frame[name].notna()
            stored[name] = frame[name].astype(str).where(known, None if slashes else "")
    return stored if slashes else stored.rename(columns=lambda name: str(name).replace("/", "|"))


def _table_of(frame: "pd.DataFrame", value: str, column: str | None) -> dict[str, Any]:
    """Means of a long table, one row per perturbation, and what is known about those rows."""
    import pandas as pd

    across = frame[column].where(frame[column] != "", "cell").to_numpy() if column else ["cell"] * len(frame)
    frame = frame.assign(across=across)
    means = frame.pivot_table(index="perturbation", columns="across", values=value, sort=False, observed=True)
    constant = [name for name in ("Perturbed", "Gene", "Gene_name", "Ensembl_ID", "edit") if name in frame]
    known = frame.drop_duplicates("perturbation").set_index("perturbation")[constant].loc[means.index]
    known.insert(0, "perturbation", known.index.to_numpy())
    known.index = pd.Index(known.index.astype(str).to_numpy())
    return {"X": means.to_numpy(), "obs": known, "var": pd.DataFrame(index=pd.Index(means.columns.astype(str)))}
