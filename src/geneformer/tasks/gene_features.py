"""What can be said about genes without fine-tuning: how they are expressed, and their pretrained embeddings."""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from geneformer.data.dataset import TokenizedDataset
from geneformer.engine.inference import Progress
from geneformer.models.loading import LoadedModel
from geneformer.options import EmbedOptions, RuntimeOptions
from geneformer.results.embeddings import GeneEmbeddings
from geneformer.tasks.embedding import embed
from geneformer.tasks.expression import log_normalized
from geneformer.tasks.gene_batches import count_cells, mean_ranks

STATISTICS = "logistic regression, rank and detection"
STATIC = "logistic regression, static gene embeddings"
CONTEXTUAL = "logistic regression, gene embeddings averaged over cells"


@dataclass(frozen=True, slots=True, eq=False)
class GeneFeatures:
    """Numbers about every token of a vocabulary, NaN where a gene occurs in no cell.

    Attributes
    ----------
    tables
        By the name of the baseline that sees them, ``(V, d)`` each.
    n_cells
        Cells each token occurs in, ``(V,)``.
    """

    tables: dict[str, NDArray[Any]]
    n_cells: NDArray[np.int64]


def gene_features(
    base: LoadedModel,
    tokens: TokenizedDataset,
    runtime: RuntimeOptions,
    *,
    counts: Any = None,
    max_length: int | None = None,
    progress: Progress | None = None,
) -> GeneFeatures:
    """What the baselines see of the genes in some cells.

    How a gene is expressed is its mean place in the ranking of the cells that have it, the logarithm of the share of
    cells that have it, and, where there are counts, its mean log(1 + counts per 10,000) over all cells; and the squares
    of these, so that a class may lie between two others. The static embedding is the pretrained token embedding; the
    one averaged over cells is that of the last layer but one.

    Parameters
    ----------
    base
        Pretrained model.
    tokens
        Tokenized cells.
    runtime
        Where and how the model runs.
    counts
        Raw counts of the cells by genes of the vocabulary, ``(n, g)``.
    max_length
        Tokens of a cell that are read.
    progress
        Called with the cells done and in all.
    """
    size, length = base.vocabulary.size, max_length or base.max_length
    n_cells = count_cells(tokens, size, length)
    found = embed(tokens, base, EmbedOptions(pooling="gene", truncate=True), runtime, progress=progress)
    tables = {
        STATISTICS: _expression(base, tokens, n_cells, length, counts),
        STATIC: base.network.bert.embeddings.word_embeddings.weight.detach().float().cpu().numpy(),
    }
    if isinstance(found, GeneEmbeddings):
        token_of = {name: token for token, name in enumerate(base.vocabulary.gene_of.tolist())}
        contextual = np.full((size, found.values.shape[1]), np.nan, dtype=np.float32)
        contextual[[token_of[name] for name in found.genes.tolist()]] = found.values
        tables[CONTEXTUAL] = contextual
    return GeneFeatures(tables, n_cells)


def _expression(
    base: LoadedModel, tokens: TokenizedDataset, n_cells: NDArray[np.int64], max_length: int, counts: Any
) -> NDArray[np.float64]:
    """Statistics of every token, ``(V, 4)`` or ``(V, 6)``."""
    seen = np.where(n_cells > 0, n_cells, np.nan)
    columns = [mean_ranks(tokens, len(n_cells), max_length), np.log(seen / len(tokens))]
    if counts is not None:
        level = np.full(len(n_cells), np.nan)
        level[base.vocabulary.token_ids] = np.asarray(log_normalized(counts).mean(axis=0)).reshape(-1)
        columns.append(level)
    scaled = [(column - np.nanmean(column)) / (np.nanstd(column) or 1.0) for column in columns]
    return np.column_stack([*scaled, *(column**2 for column in scaled)])
