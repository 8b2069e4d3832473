"""Gene networks as tables of edges: their columns, their files, and networks with the same degrees to compare with."""

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Final

import numpy as np
from numpy.typing import NDArray

from geneformer import keys
from geneformer.display import MOST, Summary
from geneformer.errors import UnknownColumnError, UnreadableInputError, reason_of
from geneformer.files import check_file
from geneformer.inference.tables import TABLES, SavedResult, check_suffix

if TYPE_CHECKING:
    import pandas as pd

COLUMNS: Final = {
    "source": "The regulator, by the name its column of the cells has, or by its symbol.",
    "target": "The gene it may regulate.",
    "weight": "Strength of the edge: more is stronger. What it is depends on the method.",
    "sign": "1 where the regulator activates, -1 where it represses; NaN where the method cannot tell.",
    "z": "Effect less the mean of matched genes on the same target, in their standard deviations.",
    "p": "Share of effects of matched genes that are as high.",
    "q": "False discovery rate (Benjamini-Hochberg) over all edges of a group that were tested.",
    "n_cells": "Cells with both genes.",
    "n_donors": "Donors with such cells; NaN without donors.",
    "null_mean": "Mean effect on the target of genes that are found as often, and ranked as high, as the source.",
    "null_sd": "Standard deviation of the same.",
    "low": "Lower end of the interval of the weight, over donors, or else over cells.",
    "high": "Upper end of the interval.",
    "group": 'Group of the cells; "all" without groups.',
    "method": 'Method, or "consensus".',
}
"""Columns of a network, in their order, and what each means. What a method does not give is NaN."""

ALL_CELLS: Final = "all"
"""Group of a network without groups."""

CONSENSUS: Final = "consensus"
"""Method of edges that several methods rank together."""

TEXTS: Final = ("source", "target", "group", "method")
"""Columns that are texts; all others are numbers."""


def as_edges(table: "pd.DataFrame") -> "pd.DataFrame":
    """A table with the columns of a network in their order, missing ones NaN; at least `source` and `target`."""
    import pandas as pd

    missing = [name for name in ("source", "target") if name not in table.columns]
    if missing:
        msg = f"A network has no column {missing[0]!r}; the table has {list(table.columns)}. Name the columns so."
        raise UnknownColumnError(msg)
    usual = {"group": ALL_CELLS, "method": "", "weight": 1.0}
    columns = {name: table.get(name, usual.get(name, np.nan)) for name in COLUMNS}
    edges = pd.DataFrame(columns, index=table.index).reset_index(drop=True).fillna({"group": ALL_CELLS, "method": ""})
    types: dict[str, Any] = {name: object if name in TEXTS else np.float64 for name in COLUMNS}
    return edges.astype(dict.fromkeys(TEXTS, str)).astype(types)


@dataclass(frozen=True, slots=True, repr=False)
class GeneNetwork(SavedResult):
    """Edges between genes, strongest first within each group, with what they were made from.

    Attributes
    ----------
    edges
        One row per edge, with the columns of `COLUMNS`.
    differential
        Edges that differ between groups: `source`, `target`, `group`, `difference` (of the weight in the group to that
        in all other groups), `z`, `p`, `q`; empty without groups.
    provenance
        Model, vocabulary, options, regulators that were left out, and how stable the strongest edges are.
    """

    suffixes: ClassVar[tuple[str, ...]] = TABLES
    edges: "pd.DataFrame"
    differential: "pd.DataFrame"
    provenance: Mapping[str, Any] = field(default_factory=dict)

    @property
    def groups(self) -> list[str]:
        """Groups in the order of the table."""
        return list(dict.fromkeys(self.edges["group"]))

    def summary_of(self) -> Summary:
        """The strongest edges."""
        shown = self.edges.head(MOST)
        rows = [
            (row.source, row.target, f"{row.weight:.4g}", f"{row.z:.2f}", f"{row.q:.2g}", row.group)
            for row in shown.itertuples()
        ]
        facts = [*self.made_by(), ("method", ", ".join(dict.fromkeys(self.edges["method"])))]
        return Summary(
            title=f"GeneNetwork of {len(self.edges):,} edges",
            facts=[*facts, ("groups", ", ".join(self.groups))],
            header=("source", "target", "weight", "z", "q", "group"),
            rows=rows,
            more=len(self.edges) - len(rows),
        )

    def to_frame(self) -> "pd.DataFrame":
        """The edges."""
        return self.edges


def read_network(path: str | Path) -> GeneNetwork:
    """A network from a file of edges: one that was saved, or any table with `source` and `target`.

    Raises
    ------
    InputNotFoundError, UnreadableInputError
        There is no such file, or it is no table.
    UnknownColumnError
        It has other columns.
    """
    import pandas as pd
    from pyarrow import parquet

    path = check_suffix(path)
    check_file(path)
    try:
        frame = pd.read_csv(path) if path.suffix == ".csv" else pd.read_parquet(path)
        noted = {} if path.suffix == ".csv" else parquet.read_schema(path).metadata or {}
        provenance = json.loads(noted.get(keys.UNS.encode(), b"{}"))
    except (OSError, ValueError) as error:
        msg = f'"{path}" cannot be read as a network: {reason_of(error)}. Save edges as .csv or .parquet.'
        raise UnreadableInputError(msg) from error
    return GeneNetwork(as_edges(frame), frame.iloc[:0, :0], provenance)


def rewired(source: NDArray[Any], target: NDArray[Any], *, seed: int = 0, swaps_per_edge: int = 10) -> NDArray[Any]:
    """New targets for the same sources, such that every gene keeps the number of its edges, ``(n_edges,)``.

    Pairs of edges trade their targets wherever that makes no edge twice and none from a gene to itself.

    Parameters
    ----------
    source, target
        Genes of the edges, ``(n_edges,)`` each.
    seed
        Of the draws.
    swaps_per_edge
        Trades that are tried, for each edge.

    Returns
    -------
    numpy.ndarray
        Targets.
    """
    names, coded = np.unique(np.concatenate([source, target]).astype(object), return_inverse=True)
    sources, targets = coded[: len(source)].tolist(), coded[len(source) :].tolist()
    present = set(zip(sources, targets, strict=True))
    draws = np.random.default_rng(seed).integers(len(sources), size=(swaps_per_edge * len(sources), 2)).tolist()
    for one, other in draws if len(sources) > 1 else []:
        new = (sources[one], targets[other]), (sources[other], targets[one])
        if any(pair in present or pair[0] == pair[1] for pair in new):
            continue
        present -= {(sources[one], targets[one]), (sources[other], targets[other])}
        present |= set(new)
        targets[one], targets[other] = targets[other], targets[one]
    return np.asarray(names[targets])


def varp_name(key: str, group: str) -> str:
    """Slot of ``varp`` with the weights of a group."""
    return key if group == ALL_CELLS else f"{key}_{group.replace('/', '|')}"  # a slash would be a folder in the file


def strongest(edges: "pd.DataFrame", most: int) -> "pd.DataFrame":
    """The edges of highest weight of each group and method."""
    return (
        edges.sort_values("weight", ascending=False, kind="stable").groupby(["group", "method"], sort=False).head(most)
    )


def jaccard(one: Iterable[Any], other: Iterable[Any]) -> float:
    """Share of all entries that both have; NaN where there are none."""
    first, second = set(one), set(other)
    return len(first & second) / len(first | second) if first | second else float("nan")
