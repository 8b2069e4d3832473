"""Figures of tables of cells, one for each label."""

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from geneformer.compat.embeddings.frames import dimensions
from geneformer.errors import UnknownColumnError
from geneformer.pl._label_figures import label_heatmap, label_layout, label_umap
from geneformer.runs.files import output_errors

if TYPE_CHECKING:
    import pandas as pd

_logger = logging.getLogger(__name__)

SEED = 0
"""Which cells are drawn where there are too many."""


def plot_labels(
    embs: "pd.DataFrame",
    style: str,
    labels: Sequence[str],
    start: Path,
    most: int,
    settings: Mapping[str, Any] | None,
) -> None:
    """Write one figure for each label that the table has; others are named in a warning of the log.

    Parameters
    ----------
    embs
        One row per cell: the numbers of its embedding, and its labels.
    style
        "umap" or "heatmap".
    labels
        Columns to plot.
    start
        Path of the files up to the label.
    most
        Most cells.
    settings
        For `scanpy.pl.umap` or `seaborn.clustermap`.

    Raises
    ------
    UnknownColumnError
        The table has no columns of an embedding.
    """
    numbers = dimensions(embs)
    if not numbers:
        msg = f"The table has no columns 0, 1, ... of an embedding; it has {list(embs.columns)[:8]}."
        raise UnknownColumnError(msg)
    shown = [label for label in labels if label in embs.columns]
    if len(shown) < len(labels):
        missing = [label for label in labels if label not in embs.columns]
        _logger.warning("Not plotted, because the table does not have them: %s", missing)
    if len(embs) > most:
        embs = embs.sample(most, random_state=SEED).sort_index()
    values = embs[numbers].to_numpy()
    with output_errors(start):
        start.absolute().parent.mkdir(parents=True, exist_ok=True)
    layout = label_layout(values) if style == "umap" and shown else None
    for label in shown:
        path = start.with_name(f"{start.name}_{label}.pdf")
        if layout is None:
            label_heatmap(values, embs[label], path, settings)
        else:
            label_umap(layout, embs[label], path, settings)
