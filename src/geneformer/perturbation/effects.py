"""Effects of perturbations: one row per cell, perturbation and effect, with the cells and genes; and their ranking."""

import json
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import numpy as np
from numpy.typing import NDArray

from geneformer import keys
from geneformer.display import MOST, Summarized, Summary, draw, names_text
from geneformer.errors import DatasetError, UnknownColumnError, reason_of
from geneformer.files.atomic import atomic_file, check_output
from geneformer.genes.vocabulary import BUNDLED, Vocabulary
from geneformer.inference.tables import check_suffix, write_table
from geneformer.options._fields import nearest

if TYPE_CHECKING:
    import pandas as pd
    import pyarrow as pa
    from anndata import AnnData

SIMILARITY, SHIFT = "similarity", "shift"
GENE_SIMILARITY, PROBABILITY_SHIFT = "gene_similarity", "probability_shift"
"""Values of the column `effect`."""

EXACT, SCREEN = "exact", "screen"
"""Values of the column `method`."""

EFFECT_COLUMNS = ("cell_id", "perturbation", "genes", "edit", "effect", "target", "value", "method")

DEFINITIONS = {
    "cell_id": "Cell that was perturbed.",
    "perturbation": "Name of what was done to it.",
    "genes": "Ensembl ids of the perturbed genes, joined by +.",
    "edit": "What was done to them; edits one after the other are joined by >.",
    "effect": (
        "similarity: cosine of the cell before and after, 1 = no effect (with pooling mean, the mean over its other "
        "genes). shift: change of the cosine with the target state, above 0 = towards it. gene_similarity: cosine of "
        "the target gene before and after, 1 = no effect. probability_shift: change of the probability of the target "
        "class, above 0 = more probable."
    ),
    "target": "State, class or affected gene; empty for similarity.",
    "value": "The effect; no unit.",
    "method": "exact: from the network run on the edited cell. screen: first-order estimate.",
}
"""What each column says, with unit and sign."""

RUN_TABLES = ("effects", "cells", "genes", "states")


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class PerturbationEffects(Summarized):
    """Result of a perturbation run.

    Attributes
    ----------
    effects
        Columns `EFFECT_COLUMNS`; `DEFINITIONS` says what they mean.
    cells
        Perturbed cells: `cell_id`, `state` where states were named, `length`, and their other columns.
    genes
        Genes of the vocabulary found in the perturbed cells: `gene`, `symbol`, `token`, `n_cells`, `mean_rank` (0 =
        highest, 1 = lowest, over the cells that have it), and `expression:<state>` (mean of log1p counts per 10,000
        over all cells of a state, where counts are known) or else `rank:<state>` (mean of 1 - rank, 0 where absent).
    states
        Embeddings of the named states by name, ``(D,)`` each; the first is the start, the second the goal.
    provenance
        Model, vocabulary fingerprint, options, versions; for a screen, how well its estimates agree with exact effects.
    """

    effects: "pa.Table"
    cells: "pa.Table"
    genes: "pa.Table"
    states: Mapping[str, NDArray[np.float32]] = field(default_factory=dict)
    provenance: Mapping[str, Any] = field(default_factory=dict)

    def __len__(self) -> int:
        return int(self.effects.num_rows)

    @property
    def start(self) -> str | None:
        """Name of the start state."""
        return next(iter(self.states), None)

    @property
    def goal(self) -> str | None:
        """Name of the goal state."""
        return next(islice(self.states, 1, None), None)

    def summary_of(self) -> Summary:
        """How many effects there are, of what; nothing is computed."""
        options = self.provenance.get("perturb", {})
        asked = [str(gene) for gene in options.get("genes", ())]
        states = " → ".join(name for name in (self.start, self.goal) if name is not None)
        facts = [
            ("model", str(self.provenance.get("model", ""))),
            ("genes", "all" if asked == ["all"] else names_text(asked) if asked else ""),
            ("edit", ", ".join(str(options[name]) for name in ("edit", "method") if name in options)),
            ("cells", f"{self.cells.num_rows:,}{f', {states}' if states else ''}"),
        ]
        return Summary(
            title=f"PerturbationEffects: {len(self):,} effects",
            facts=[fact for fact in facts if fact[1]],
            note="Ranked and tested by gf.tl.rank_perturbations; the rows by .to_frame().",
        )

    def plot(self, kind: str = "ranked", **options: Any) -> Any:
        """Ranked and drawn by `gf.pl.perturbation`, which takes the same kinds and options."""
        return draw("perturbation", self, kind=kind, **options)

    def to_frame(self) -> "pd.DataFrame":
        """One row per cell, perturbation and effect."""
        frame: pd.DataFrame = self.effects.to_pandas()
        return frame

    def save(self, folder: Path) -> None:
        """Write the tables into a folder that exists: Parquet, each with provenance and definitions in its metadata."""
        import pyarrow as pa
        from pyarrow import parquet

        notes = {"provenance": dict(self.provenance), "definitions": DEFINITIONS}
        metadata = {keys.UNS.encode(): json.dumps(notes, default=str).encode()}
        vectors = [np.asarray(vector, dtype=np.float32).tolist() for vector in self.states.values()]
        states = {
            "state": pa.array(list(self.states), pa.string()),
            "embedding": pa.array(vectors, pa.list_(pa.float32())),
        }
        for name in RUN_TABLES:
            table = pa.table(states) if name == "states" else getattr(self, name)
            table = table.replace_schema_metadata((table.schema.metadata or {}) | metadata)
            parquet.write_table(table, folder / f"{name}.parquet")

    @classmethod
    def read(cls, folder: str | Path) -> Self:
        """What `save` wrote.

        Raises
        ------
        DatasetError
            The folder is not such a result, or a file of it is missing or damaged.
        """
        import pyarrow as pa
        from pyarrow import parquet

        folder = Path(folder)
        try:
            tables = {name: parquet.read_table(folder / f"{name}.parquet") for name in RUN_TABLES}
            told = {(table.schema.metadata or {})[keys.UNS.encode()] for table in tables.values()}
            provenance = dict(json.loads(told.pop())["provenance"])
            rows = tables.pop("states").to_pylist()
            states = {row["state"]: np.asarray(row["embedding"], dtype=np.float32) for row in rows}
            _check_tables(tables)
        except (OSError, KeyError, ValueError, TypeError, RecursionError, pa.ArrowException) as error:
            reason = reason_of(error).replace(f"{folder}{os.sep}", "")
            msg = (
                f'"{folder}" holds no finished perturbation run ({reason}). It must be a folder that `geneformer '
                "perturb run` finished; run the same command again to finish it."
            )
            raise DatasetError(msg) from error
        if told:
            msg = f'"{folder}" is mixed: its tables are of different runs. Copy it again, or repeat the run.'
            raise DatasetError(msg)
        return cls(**tables, states=states, provenance=provenance)


FRAMES = ("effects", "cells", "genes")

_NEEDED = {"effects": EFFECT_COLUMNS, "cells": ("cell_id",), "genes": ("gene", "symbol", "token")}


def _check_tables(tables: Mapping[str, "pa.Table"]) -> None:
    """Refuse tables of a run without what is read from them."""
    import pyarrow as pa

    for name, columns in _NEEDED.items():
        missing = [column for column in columns if column not in tables[name].column_names]
        if missing:
            msg = f"the table of {name} lacks {', '.join(missing)}"
            raise ValueError(msg)
    kind = tables["effects"].schema.field("value").type
    if not pa.types.is_floating(kind) and not pa.types.is_integer(kind):
        msg = f"the values are {kind}, no numbers"
        raise ValueError(msg)


def to_uns(effects: PerturbationEffects) -> dict[str, Any]:
    """Effects as an entry of `uns` that `write_h5ad` can hold."""
    entry: dict[str, Any] = {name: _stored(getattr(effects, name)) for name in FRAMES}
    states = effects.states
    entry["state_names"] = np.array(list(states), dtype=object)
    entry["state_embeddings"] = np.array(list(states.values()), dtype=np.float32).reshape(
        len(states), -1 if states else 0
    )
    entry["provenance"] = json.dumps(dict(effects.provenance), default=str)
    return entry


def from_uns(entry: Mapping[str, Any]) -> PerturbationEffects:
    """What `to_uns` made, also after a round through a file."""
    try:
        tables = {name: _restored(entry[name]) for name in FRAMES}
        _check_tables(tables)
        tables["effects"] = tables["effects"].select(EFFECT_COLUMNS)
        names = [str(name) for name in entry["state_names"]]
        embeddings = np.asarray(entry["state_embeddings"], dtype=np.float32)
        states = dict(zip(names, embeddings, strict=True))
        provenance = dict(json.loads(str(entry["provenance"])))
    except (KeyError, TypeError, AttributeError, ValueError, RecursionError) as error:
        msg = f"This entry of uns holds no effects of perturbations ({error!r}). Run gf.tl.perturb first."
        raise DatasetError(msg) from error
    return PerturbationEffects(**tables, states=states, provenance=provenance)


def effects_of(
    source: "PerturbationEffects | AnnData | str | Path", key: str = keys.PERTURBATION
) -> PerturbationEffects:
    """Effects from wherever they are."""
    if isinstance(source, PerturbationEffects):
        return source
    if isinstance(source, str | Path):
        return PerturbationEffects.read(source)
    slots = getattr(source, "uns", None)
    if slots is None:
        msg = (
            f"Effects of perturbations cannot be read from {type(source).__name__}. Pass an AnnData object after "
            "gf.tl.perturb, its PerturbationEffects, or the folder of a finished run."
        )
        raise DatasetError(msg)
    if key not in slots:
        names = [str(name) for name in slots]
        msg = f"adata.uns has no {key!r}; it has {names or 'nothing'}.{nearest(key, names)} Run gf.tl.perturb first."
        raise UnknownColumnError(msg)
    return from_uns(slots[key])


def _stored(table: "pa.Table") -> "pd.DataFrame":
    """A table that HDF5 can hold: texts as categories, dates as text."""
    frame: pd.DataFrame = table.to_pandas()
    for name in frame.columns:
        if frame[name].dtype.kind in "Mm":
            frame[name] = frame[name].astype(str).where(frame[name].notna(), None)
        if frame[name].dtype == object:
            frame[name] = frame[name].astype("category")
    frame.index = frame.index.astype(str)
    return frame.rename(columns=lambda name: str(name).replace("%", "%25").replace("/", "%2F"))


def _restored(frame: "pd.DataFrame") -> "pa.Table":
    import pyarrow as pa

    frame = frame.rename(columns=lambda name: str(name).replace("%2F", "/").replace("%25", "%"))
    return pa.Table.from_pandas(frame, preserve_index=False)


Ints = NDArray[np.intp]
Floats = NDArray[np.float64]

UNKNOWN_TOKEN = -1

PERTURBATION_COLUMNS = ("perturbation", "genes", "edit")
"""Effects that agree in these are of one perturbation."""


@dataclass(frozen=True, slots=True, eq=False)
class Values:
    """Finite effects of one kind, ``(n,)`` each: row of `Perturbed.table`, place in `Perturbed.cell_ids`, effect."""

    group: Ints
    cell: Ints
    value: Floats

    def __len__(self) -> int:
        return len(self.value)

    def counts(self, n_groups: int) -> Ints:
        """Effects of each group, ``(G,)``."""
        return np.bincount(self.group, minlength=n_groups)

    def means(self, n_groups: int) -> Floats:
        """Mean effect of each group, ``(G,)``; NaN where there is none."""
        return mean_by(self.value, self.group, n_groups)

    def by_group(self) -> "Values":
        """The same, group by group; the order within a group stays."""
        order = np.argsort(self.group, kind="stable")
        return Values(self.group[order], self.cell[order], self.value[order])

    def distances(self) -> "Values":
        """Similarities as distances: 1 - value."""
        return Values(self.group, self.cell, 1.0 - self.value)

    def of_donors(self, donor_of_cell: Ints) -> "Values":
        """The same with the donor in the place of each cell."""
        return Values(self.group, donor_of_cell[self.cell], self.value)

    def means_per_cell(self) -> "Values":
        """One effect per group and cell, or donor: the mean."""
        n = max(int(self.cell.max(initial=-1)) + 1, 1)
        pairs, place = np.unique(self.group * n + self.cell, return_inverse=True)
        return Values(pairs // n, pairs % n, mean_by(self.value, place.reshape(-1), len(pairs)))

    def cells_per_group(self, n_groups: int) -> Ints:
        """Cells, or donors, that each group has effects of, ``(G,)``."""
        n = max(int(self.cell.max(initial=-1)) + 1, 1)
        return np.bincount(np.unique(self.group * n + self.cell) // n, minlength=n_groups)


def mean_by(values: Floats, groups: Ints, n_groups: int) -> Floats:
    """Mean of each group, ``(G,)``; NaN where there is no value."""
    counts = np.bincount(groups, minlength=n_groups)
    sums = np.bincount(groups, weights=values, minlength=n_groups)
    return np.where(counts > 0, sums / np.maximum(counts, 1), np.nan)


class Perturbed:
    """Effects of a run by kind and target, for statistics.

    `table` has one row per perturbation, by ascending token id: `Gene`, `Gene_name` and `Ensembl_ID` as in the
    published statistics, `perturbation`, `genes` and `edit`. `cell_ids` names the cells, ``(C,)``.
    """

    def __init__(self, effects: PerturbationEffects) -> None:
        self.source = effects
        self.names = GeneNames(effects)
        frame = effects.to_frame()
        self._value = frame.pop("value").to_numpy(dtype=np.float64)
        # Codes instead of texts: runs have up to hundreds of millions of rows.
        frame = frame.astype("category")
        self._codes: dict[Any, Any] = {name: frame[name].cat.codes.to_numpy(dtype=np.intp) for name in frame}
        self._texts = {name: [str(text) for text in frame[name].cat.categories] for name in frame}
        self.cell_ids: NDArray[Any] = np.array(self._texts["cell_id"], dtype=object)
        self.table, self._group = self._perturbations(frame[list(PERTURBATION_COLUMNS)])

    def __len__(self) -> int:
        return len(self.table)

    def keep(self, stays: NDArray[np.bool_]) -> None:
        """Forget every other perturbation, ``(G,)`` true where it stays."""
        place = np.where(stays, np.cumsum(stays) - 1, -1)
        self.table = self.table[stays].reset_index(drop=True)
        self._group = np.where(self._group < 0, -1, place[self._group])

    def kinds(self) -> list[str]:
        """Kinds of effects the run has, exact or estimated."""
        return [self._texts["effect"][code] for code in np.unique(self._codes["effect"])]

    def targets(self, effect: str) -> list[str]:
        """Targets of the effects of a kind, in order of their first row."""
        codes, first = np.unique(self._codes["target"][self._rows(effect)], return_index=True)
        return [self._texts["target"][code] for code in codes[np.argsort(first)]]

    def values(self, effect: str, target: str | None = None, *, exact: bool = True) -> Values:
        """Effects of a kind, towards one target or all; NaN is left out."""
        rows = self._finite(effect, exact=exact)
        if target is not None:
            rows = rows[self._codes["target"][rows] == self._code("target", target)]
        return Values(self._group[rows], self._codes["cell_id"][rows], self._value[rows])

    def pairs(self, effect: str) -> tuple[Ints, list[str]]:
        """Target of each effect of a kind, ``(n,)``, and what targets are called; rows as in `values`."""
        return self._codes["target"][self._finite(effect)], self._texts["target"]

    def cell_column(self, name: str) -> "pd.Series[Any]":
        """A column of the cells, in the order of `cell_ids`."""
        cells = self.source.cells.to_pandas()
        by_cell = cells.set_index(cells["cell_id"].astype(str))[name]
        column: pd.Series[Any] = by_cell[~by_cell.index.duplicated()].reindex(self.cell_ids)
        return column

    def _code(self, column: str, text: str) -> int:
        return self._texts[column].index(text) if text in self._texts[column] else -1

    def _rows(self, effect: str, *, exact: bool = True) -> Ints:
        is_exact = self._codes["method"] == self._code("method", EXACT)
        is_kind = self._codes["effect"] == self._code("effect", effect)
        return np.flatnonzero(is_kind & (is_exact == exact) & (self._group >= 0))

    def _finite(self, effect: str, *, exact: bool = True) -> Ints:
        rows: Ints = self._rows(effect, exact=exact)
        finite: Ints = rows[np.isfinite(self._value[rows])]
        return finite

    def _perturbations(self, columns: "pd.DataFrame") -> tuple["pd.DataFrame", Ints]:
        """The table, and the row of it of every effect."""
        import pandas as pd

        group = columns.groupby(list(columns), observed=True, sort=False).ngroup().to_numpy(dtype=np.intp)
        distinct = columns.drop_duplicates().astype(str)
        genes = [tuple(text.split("+")) for text in distinct["genes"]]
        tokens = [self.names.tokens(some) for some in genes]
        symbols = [self.names.symbols(some) for some in genes]
        ids: dict[str, Any] = {"Gene": tokens, "Gene_name": symbols, "Ensembl_ID": genes}
        table = pd.DataFrame(
            {name: object_column(e[0] if len(e) == 1 else e for e in entries) for name, entries in ids.items()}
        )
        for name in columns:
            table[name] = distinct[name].to_numpy(dtype=object)
        by = list(zip(tokens, distinct["edit"], distinct["perturbation"], genes, strict=True))
        order = sorted(range(len(by)), key=by.__getitem__)
        return table.iloc[order].reset_index(drop=True), np.argsort(order)[group]


class GeneNames:
    """Token ids and symbols of genes: from the run, or else from the vocabulary it names."""

    def __init__(self, effects: PerturbationEffects) -> None:
        genes = effects.genes
        names = [str(gene) for gene in genes.column("gene").to_pylist()]
        self._token = dict(zip(names, genes.column("token").to_pylist(), strict=True))
        self._symbol = dict(zip(names, genes.column("symbol").to_pylist(), strict=True))
        name, fingerprint = (effects.provenance.get(key) for key in ("vocabulary", "vocabulary_fingerprint"))
        bundled = Vocabulary.load(str(name)) if name in BUNDLED else None
        self._vocabulary = bundled if bundled is not None and fingerprint in (None, bundled.fingerprint) else None

    def tokens(self, genes: Sequence[str]) -> tuple[int, ...]:
        """Token id of each; `UNKNOWN_TOKEN` where there is none."""
        spare = {} if self._vocabulary is None else self._vocabulary.token_of
        return tuple(int(self._token.get(gene, spare.get(gene, UNKNOWN_TOKEN))) for gene in genes)

    def symbols(self, genes: Sequence[str]) -> tuple[str, ...]:
        """Symbol of each, or its id where there is none."""
        vocabulary = self._vocabulary
        return tuple(
            self._symbol.get(gene) or (gene if vocabulary is None else vocabulary.symbol_of(gene)) for gene in genes
        )


def object_column(entries: Iterable[Any]) -> NDArray[Any]:
    """Entries as a column: whole numbers where all are, else objects such as tuples."""
    listed = list(entries)
    if listed and all(isinstance(entry, int) for entry in listed):
        return np.array(listed, dtype=np.int64)
    column = np.empty(len(listed), dtype=object)
    column[:] = listed
    return column


RANKING_SUFFIXES = (".csv", ".parquet", ".h5ad")
"""Files rankings are written to."""

DEFINITIONS_SUFFIX = ".columns.json"
"""What the file with definitions and provenance next to a .csv is called, after its name."""


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class PerturbationRanking(Summarized):
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

    def summary_of(self) -> Summary:
        """The first ranks, with what a reader looks at first."""
        frame, mode = self.frame, self.mode
        if mode == "aggregate":
            per_cell = (1 - frame["Cosine_sim"]).groupby(frame["perturbation"].astype(str))
            frame = per_cell.agg(effect="mean", N_Detections="count").reset_index()
            frame = frame.sort_values("effect", ascending=False, kind="stable")
        more, frame = max(len(frame) - MOST, 0), frame.head(MOST)
        name = frame["perturbation"].astype(str)
        if "Ensembl_ID" in frame:
            name = name.where(name != frame["Ensembl_ID"].astype(str), frame["Gene_name"].astype(str))
        shown = {"Perturbation": name}
        if mode == "aggregate_gene_shifts":
            shown["Affected"] = frame["Affected_gene_name"].fillna("the cell")
        goal = next((state for state, column in self.states.items() if column == "Shift_to_goal_end"), None)
        shown["Effect" if goal is None else f"Shift to {goal}"] = frame["effect"].map("{:.4g}".format)
        if "ci_low" in frame:
            ends = frame["ci_low"].map("{:.4g} to ".format) + frame["ci_high"].map("{:.4g}".format)
            shown["Interval"] = ends.where(frame["ci_low"].notna(), "")
        rate = next((rate for rate in RATES if rate in frame and frame[rate].notna().any()), None)
        if rate is not None:
            shown["FDR"] = frame[rate].map("{:.2g}".format)
        detections = frame["N_Detections" if "N_Detections" in frame else "N_Detections_test"]
        shown["Cells"] = detections.map("{:,}".format)
        return Summary(
            title=f"PerturbationRanking of {len(self):,} rows ({mode})",
            header=list(shown),
            rows=list(zip(*shown.values(), strict=True)),
            more=more,
        )

    def plot(self, kind: str = "ranked", **options: Any) -> Any:
        """Drawn by `gf.pl.perturbation`, which takes the same kinds and options."""
        return draw("perturbation", self, kind=kind, **options)

    def notes(self) -> dict[str, Any]:
        """Everything but the table, as JSON can hold it."""
        notes = {name: getattr(self, name) for name in ("mode", "definitions", "states", "provenance")}
        plain: dict[str, Any] = json.loads(json.dumps(notes, default=str))
        return plain

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
            The table does not say what it is.
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
        import pandas as pd

        frame = _storable(self.frame)
        if self.mode == "aggregate":
            adata = _means_of(frame.assign(affected="cell"), "Cosine_sim", "affected")
        elif self.mode == "aggregate_gene_shifts":
            genes = frame["Affected_Ensembl_ID"]
            adata = _means_of(frame.assign(affected=genes.where(genes != "", "cell")), "Cosine_sim_mean", "affected")
        else:
            means = frame[[column.replace("/", "|") for column in self.states.values()]].to_numpy(dtype=np.float64)
            var = pd.DataFrame(index=pd.Index(list(self.states), dtype=str))
            adata = ad.AnnData(X=means, obs=frame.set_index(frame["perturbation"].astype(str).to_numpy()), var=var)
            adata.obs_names_make_unique()
        adata.uns[keys.UNS] = {"perturbation_ranking": json.dumps(self.notes())}
        adata.uns["definitions"] = {name.replace("/", "|"): text for name, text in self.definitions.items()}
        return adata

    def save(self, path: str | Path, *, overwrite: bool = False) -> None:
        """Write a `.csv`, `.parquet` or `.h5ad`, complete or not at all.

        A `.csv` has the columns of the published package first, and `<file>.columns.json` next to it says what columns
        mean; the others say it in the file.

        Raises
        ------
        UnsupportedFormatError
            Another suffix.
        OutputExistsError
            There is a file already.
        """
        path = check_suffix(path, RANKING_SUFFIXES)
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


RATES = ("Goal_end_FDR", "Test_vs_null_FDR", "matched_fdr", "donor_fdr")
"""Columns of a ranking with false discovery rates, the one that counts most first."""


def _storable(frame: "pd.DataFrame", *, slashes: bool = False) -> "pd.DataFrame":
    """Columns of one kind each: tuples, and tokens among other names, as text."""
    stored = frame.copy()
    stored.attrs.clear()
    for name in frame.columns:
        if frame[name].dtype == object:
            stored[name] = frame[name].astype(str).where(frame[name].notna(), None if slashes else "")
    return stored if slashes else stored.rename(columns=lambda name: str(name).replace("/", "|"))


def _means_of(frame: "pd.DataFrame", value: str, across: str) -> "AnnData":
    """Means of a long table, perturbations by affected genes, with the columns that describe perturbations."""
    import anndata as ad
    import pandas as pd

    means = frame.pivot_table(index="perturbation", columns=across, values=value, sort=False, observed=True)
    constant = [name for name in ("Perturbed", "Gene", "Gene_name", "Ensembl_ID", "edit") if name in frame]
    obs = frame.drop_duplicates("perturbation").set_index("perturbation")[constant].loc[means.index]
    obs.insert(0, "perturbation", obs.index.to_numpy())
    obs.index = pd.Index(obs.index.astype(str).to_numpy())
    return ad.AnnData(X=means.to_numpy(), obs=obs, var=pd.DataFrame(index=pd.Index(means.columns.astype(str))))
