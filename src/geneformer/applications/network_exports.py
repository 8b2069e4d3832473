"""Networks as other programs read them: GraphML, JSON of Cytoscape, and the columns of decoupler and geneRNIB."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from geneformer import keys
from geneformer.applications.networks import GeneNetwork, as_edges, read_network
from geneformer.errors import OptionError, UnknownColumnError
from geneformer.files.atomic import atomic_file
from geneformer.inference.tables import TABLES, check_suffix, write_table
from geneformer.options._fields import came_as, check_choice, nearest, some_of

GRAPHS = (".graphml", ".cyjs")
"""Files of graphs: GraphML, and JSON as Cytoscape reads it."""

EXPORTS = {
    "all": (),
    "decoupler": ("source", "target", "weight"),
    "genernib": ("source", "target", "weight", "cell_type"),
}
"""Columns of a table that other programs read."""


def edges_of(network: Any, key: str = keys.NETWORK) -> pd.DataFrame:
    """The edges of a network in any of its forms: cells that have one, a table, `GeneNetwork`, or a file.

    Raises
    ------
    UnknownColumnError
        The cells have no such slot, or the table other columns.
    OptionError
        Something else.
    """
    if isinstance(network, GeneNetwork):
        return network.edges
    if isinstance(network, pd.DataFrame):
        return as_edges(network)
    if isinstance(network, str | Path):
        return read_network(network).edges
    if not hasattr(network, "uns"):
        msg = f"{came_as('The network', network)}. Pass cells after gf.tl.network, a table of edges, or a file of one."
        raise OptionError(msg)
    if key not in network.uns:
        slots = [str(name) for name in network.uns]
        msg = f"adata.uns has no {key!r}; it has {slots or 'nothing'}.{nearest(key, slots)} Run gf.tl.network first."
        raise UnknownColumnError(msg)
    return as_edges(network.uns[key])


def one_network(edges: pd.DataFrame, *, group: str | None = None, method: str | None = None) -> pd.DataFrame:
    """The edges of one group and one method; of the only ones where none are named.

    Raises
    ------
    UnknownColumnError
        No such group or method.
    OptionError
        There are several, and none is named.
    """
    for column, value in (("group", group), ("method", method)):
        names = edges[column].astype(str).unique().tolist()
        if value is not None and value not in names:
            msg = f"The network has no {column} {value!r}; it has {some_of(names)}.{nearest(value, names)}"
            raise UnknownColumnError(msg)
        if value is None and len(names) > 1:
            msg = f"There are networks of several {column}s: {some_of(names)}. Choose one with {column}=."
            raise OptionError(msg)
        edges = edges if value is None else edges[edges[column] == value]
    return edges


def signed_weights(edges: pd.DataFrame) -> "pd.Series[Any]":
    """Weights, negative where an edge represses."""
    return edges["weight"] * np.where(edges["sign"] < 0, -1.0, 1.0)


def export_network(
    edges: pd.DataFrame,
    path: str | Path,
    *,
    columns: str = "all",
    n_edges: int | None = None,
    group: str | None = None,
    method: str | None = None,
    overwrite: bool = False,
) -> pd.DataFrame:
    """Write a network for another program, and return what was written.

    Parameters
    ----------
    edges
        A network's table.
    path
        `.parquet` or `.csv`, `.graphml`, or `.cyjs` (JSON as Cytoscape reads it).
    columns
        Of a table: "all"; "decoupler" (`source, target, weight`, each pair once); or "genernib" (those and
        `cell_type`, the group). Weights of the latter two have the sign of the edge.
    n_edges
        Most edges, those with the highest weights; all by default.
    group, method
        One network of several; a table of all columns, and geneRNIB's, can hold them all.
    """
    check_choice("columns", columns, EXPORTS)
    path = check_suffix(path, (*TABLES, *GRAPHS))
    is_table, wanted = path.suffix in TABLES, list(EXPORTS[columns])
    if columns == "genernib" and group is None:
        parts = [one_network(rows, method=method) for _, rows in edges.groupby("group", sort=False)]
    elif columns == "all" and is_table and group is None and method is None:
        parts = [edges]
    else:
        parts = [one_network(edges, group=group, method=method)]
    rows = [part.sort_values("weight", ascending=False, kind="stable").head(n_edges or len(part)) for part in parts]
    kept = edges.loc[sorted(set().union(*(part.index for part in rows)))].reset_index(drop=True)
    if wanted:
        kept = kept.assign(weight=signed_weights(kept), cell_type=kept["group"])[wanted]
    with atomic_file(path, overwrite=overwrite) as temporary:
        if is_table:
            write_table(kept, temporary, {}, index=False)
        else:
            _write_graph(graph_of(kept), temporary)
    return kept


def graph_of(edges: pd.DataFrame) -> Any:
    """A directed graph whose edges have what the table knows of them, without what is NaN."""
    import networkx as nx

    graph = nx.DiGraph()
    for row in edges.to_dict(orient="records"):
        known: dict[str, Any] = {str(name): value for name, value in row.items() if not pd.isna(value)}
        graph.add_edge(known.pop("source"), known.pop("target"), **known)
    return graph


def _write_graph(graph: Any, path: Path) -> None:
    import networkx as nx

    if path.suffix == ".graphml":
        nx.write_graphml(graph, path)
    else:
        path.write_text(json.dumps(nx.cytoscape_data(graph)) + "\n", encoding="utf-8")
