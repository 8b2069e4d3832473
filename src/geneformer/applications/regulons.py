"""Activities of regulators in cells, from the expression of their targets.

Letters of axes: N cells, G genes, R regulators.
"""

from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from geneformer.applications.network_exports import signed_weights

Floats = NDArray[np.float64]


def regulon_weights(edges: pd.DataFrame, genes: pd.Index, *, top: int | None, min_targets: int) -> pd.DataFrame:
    """Signed weights of the strongest targets of each regulator, ``(G, R)``, 0 where a gene is none of them.

    Only genes that are there count, and only regulators with `min_targets` of them.
    """
    there = edges[edges["target"].isin(genes) & (edges["weight"] != 0)]
    kept = (
        there.sort_values("weight", ascending=False, kind="stable")
        .groupby("source", sort=False)
        .head(top or len(there))
    )
    sizes = kept["source"].value_counts()
    kept = kept[kept["source"].isin(sizes.index[sizes >= min_targets])]
    wide = kept.assign(weight=signed_weights(kept)).pivot_table(
        index="target", columns="source", values="weight", aggfunc="mean", sort=False
    )
    return wide.reindex(genes).fillna(0.0).sort_index(axis=1)


def univariate_activities(expression_NG: Any, weights_GR: Floats) -> Floats:
    """t-values of one linear model per cell and regulator: expression of all genes on their weights, ``(N, R)``.

    The univariate linear model of decoupler (Badia-i-Mompel et al., 2022), whose values it equals.

    Parameters
    ----------
    expression_NG
        Expression, dense or sparse.
    weights_GR
        Weights of genes in the regulon of each regulator, 0 outside of it.
    """
    n = weights_GR.shape[0]
    centered = weights_GR - weights_GR.mean(axis=0)
    mean_N = np.asarray(expression_NG.mean(axis=1), dtype=np.float64).reshape(-1, 1)
    squares = expression_NG.multiply(expression_NG) if hasattr(expression_NG, "multiply") else expression_NG**2
    variance_N = np.asarray(squares.mean(axis=1), dtype=np.float64).reshape(-1, 1) - mean_N**2
    covariance = np.asarray(expression_NG @ centered, dtype=np.float64) / n
    with np.errstate(divide="ignore", invalid="ignore"):
        r = covariance / np.sqrt(variance_N * (centered**2).mean(axis=0))
    tiny = 2.2e-16  # as decoupler has it, so that a perfect fit is finite
    activities: Floats = r * np.sqrt((n - 2) / ((1 - r + tiny) * (1 + r + tiny)))
    return activities
