"""Where genes stand in a network: degrees, betweenness against networks of the same degrees, central or peripheral."""

from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from geneformer.applications.networks import rewired

CENTRAL, PERIPHERAL = "central", "peripheral"

PLACES = ("degree", "in_degree", "out_degree", "betweenness")


def roles_of(
    edges: pd.DataFrame, *, by: str = "degree", share: float = 0.25, n_null: int = 20, seed: int = 0
) -> pd.DataFrame:
    """Degrees and betweenness of every gene of a network, and its role.

    Parameters
    ----------
    edges
        `source` and `target`.
    by
        What makes a gene central: one of `PLACES`.
    share
        Share of the genes at either end that are called central, or peripheral; ties go to neither end where they would
        belong to both.
    n_null
        Networks of the same degrees that betweenness is compared with.
    seed
        Of these.

    Returns
    -------
    pandas.DataFrame
        By gene: `out_degree`, `in_degree`, `degree`, `betweenness`, `null_mean` and `z` of the betweenness, and `role`:
        "central", "peripheral", or "" between. The most central first.
    """
    pairs = edges[["source", "target"]].drop_duplicates()
    source, target = pairs["source"].to_numpy(dtype=object), pairs["target"].to_numpy(dtype=object)
    genes = pd.Index(pd.unique(np.concatenate([source, target])), name="gene")
    table = pd.DataFrame(index=genes)
    for name, ends in (("out_degree", source), ("in_degree", target)):
        table[name] = pd.Series(ends).value_counts().reindex(genes).fillna(0).astype(np.int64)
    table["degree"] = table["out_degree"] + table["in_degree"]
    table["betweenness"] = _betweenness(source, target, genes)
    null = np.zeros((n_null, len(genes)))
    current = target
    for draw in range(n_null):
        current = rewired(source, current, seed=seed + draw, swaps_per_edge=2 if draw else 10)
        null[draw] = _betweenness(source, current, genes)
    if n_null:
        spread = null.std(axis=0)
        table["null_mean"] = null.mean(axis=0)
        difference = table["betweenness"] - table["null_mean"]
        table["z"] = np.where(spread > 0, difference / np.where(spread > 0, spread, 1), np.nan)
    values = table[by]
    low, high = np.quantile(values, [share, 1 - share])
    table["role"] = np.where(values >= high, CENTRAL, np.where(values <= low, PERIPHERAL, "")) if high > low else ""
    return table.sort_values([by, "degree"], ascending=False, kind="stable")


def _betweenness(source: NDArray[Any], target: NDArray[Any], genes: pd.Index) -> NDArray[np.float64]:
    """Shortest paths through each gene, as a share of the pairs of genes."""
    import networkx as nx

    graph = nx.DiGraph()
    graph.add_nodes_from(genes)
    graph.add_edges_from(zip(source, target, strict=True))
    values = nx.betweenness_centrality(graph)
    return np.array([values[gene] for gene in genes], dtype=np.float64)
