"""From embeddings to what `extract_embs` writes and returns, for every mode and summary."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, cast

import torch

from geneformer.compat.embeddings.extraction import Extraction, by_token, vector
from geneformer.compat.embeddings.frames import cell_frame, gene_frame, state_frame, vector_frame
from geneformer.tasks.embedding_summaries import Statistic

if TYPE_CHECKING:
    import pandas as pd


@dataclass(frozen=True, slots=True)
class Extracted:
    """What is made of some cells.

    Attributes
    ----------
    written, returned
        Tables for the file and for the caller.
    tensor
        The same as a tensor, or as a dictionary by token id; None where nobody asked.
    """

    written: "pd.DataFrame"
    returned: "pd.DataFrame"
    tensor: Any = None


def extract_cells(cells: Extraction, mode: str, labels: Sequence[str], summary: str | None) -> Extracted:
    """Cells, or one row that sums them up.

    Parameters
    ----------
    cells
        What is read, and with what.
    mode
        "cls" or "cell".
    labels
        Columns to add.
    summary
        "mean" or "median"; with "exact_" before it, the file has all cells nevertheless.
    """
    found = cells.cells(mode)
    if summary in ("mean", "median"):
        whole = vector(found.values, summary)
        frame = vector_frame(whole.numpy())
        return Extracted(frame, frame, whole)
    written = cell_frame(found.values, found.cells, labels)
    if summary is None:
        return Extracted(written, written, torch.from_numpy(found.values))
    plain = summary.removeprefix("exact_")
    returned = vector_frame(vector(found.values, plain).numpy(), summary)
    return Extracted(written, returned, vector(found.values, "lower_median" if plain == "median" else plain))


def extract_genes(cells: Extraction, style: str, summary: str | None, *, with_tensor: bool) -> Extracted:
    """Genes, each as the mean or median over cells or in every cell.

    Parameters
    ----------
    cells
        What is read, and with what.
    style
        "mean_pool", or "all" for one row per gene and cell.
    summary
        "mean" or "median"; decides in place of the style.
    with_tensor
        Whether the states of all tokens are wanted, which take far more memory than their means.
    """
    vocabulary = cells.model.vocabulary
    of_each = style == "all" and summary is None
    if not of_each and summary != "median" and (summary or not with_tensor):
        found = cells.genes()
        tokens = {**vocabulary.special_tokens, **vocabulary.token_of}
        frame = gene_frame(found.values, found.genes.tolist())
        return Extracted(frame, frame, by_token([tokens[gene] for gene in found.genes], found.values))
    states = cells.states()
    if of_each:
        frame = state_frame(states, vocabulary.gene_of[states.tokens_in_order].tolist(), cells.tokens.table)
        return Extracted(frame, frame, torch.from_numpy(states.padded()) if with_tensor else None)
    ids, values = states.summaries(cast(Statistic, summary or "mean"))
    frame = gene_frame(values, vocabulary.gene_of[ids].tolist())
    return Extracted(frame, frame, by_token(ids.tolist(), values) if summary else torch.from_numpy(states.padded()))
