"""How near predicted values and ranks are, for genes taken out of held-out cells."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from geneformer import keys
from geneformer.data.dataset import TokenizedDataset
from geneformer.results.expression import ExpressionReport
from geneformer.results.report_sets import ReportSet
from geneformer.tasks.gene_values import AdditiveModel, hidden_chunks
from geneformer.tasks.number_metrics import evaluate_numbers

Ints = NDArray[np.int64]
Floats = NDArray[np.float64]

MEAN = "mean of the gene"
ADDITIVE = "mean of the gene + effect of the cell"
"""Names of the baselines in tables."""

BEYOND = "value beyond the gene's mean"
"""Name of the report on what tells cells apart."""


@dataclass(frozen=True, slots=True, eq=False)
class TestedGenes:
    """Genes taken out of cells, to be predicted from what is left.

    Attributes
    ----------
    visible
        The cells without them.
    starts
        Where those of each cell start, and the total, ``(n + 1,)``.
    genes
        Their token ids, cell after cell, ``(p,)``.
    truth
        Their value and rank, ``(p, 2)``.
    additive
        What effects of gene and cell make of them, ``(p, 2)``, if asked for.
    """

    visible: TokenizedDataset
    starts: Ints
    genes: Ints
    truth: Floats
    additive: Floats | None

    @property
    def cells(self) -> Ints:
        """Cell of each gene, ``(p,)``."""
        return np.repeat(np.arange(len(self.visible)), np.diff(self.starts))


def take_genes_out(
    tokens: TokenizedDataset,
    rows: Ints,
    special: NDArray[Any],
    *,
    share: float,
    max_length: int,
    seed: int,
    additive: AdditiveModel | None = None,
) -> TestedGenes:
    """Take a share of its genes out of each of some cells.

    Parameters
    ----------
    tokens
        Tokenized cells with counts.
    rows
        Which of them, ``(n,)``.
    special
        Token ids that are no genes.
    share
        Chance of each gene to go.
    max_length
        Tokens of a cell that are read.
    seed
        Fixes the genes that go; they are the same in whatever company a cell is.
    additive
        Effects to predict the genes from, too.
    """
    ids, lengths, number, genes, truth, effects = [], [], [], [], [], []
    for some, visible, found in hidden_chunks(tokens, rows, special, share, max_length=max_length, seed=seed):
        gone = found.removed
        ids.append(visible.input_ids)
        lengths.append(np.diff(visible.cu_seqlens))
        number.append(np.bincount(found.cells[gone], minlength=len(some)))
        genes.append(found.genes[gone])
        truth.append(found.values[gone].astype(np.float64))
        if additive is not None:
            effects.append(additive.predict(found, len(some))[gone])
    offsets = np.concatenate([[0], np.cumsum(np.concatenate(lengths))])
    lists = pa.LargeListArray.from_arrays(pa.array(offsets), pa.array(np.concatenate(ids)))
    return TestedGenes(
        TokenizedDataset(pa.table({keys.INPUT_IDS: lists}), vocabulary=tokens.vocabulary),
        np.concatenate([[0], np.cumsum(np.concatenate(number))]).astype(np.int64),
        np.concatenate(genes),
        np.concatenate(truth),
        np.concatenate(effects) if effects else None,
    )


def report_expression(
    tested: TestedGenes,
    predicted: Mapping[str, NDArray[Any]],
    usual: Floats,
    *,
    names: NDArray[Any],
    genes: NDArray[Any],
    groups: NDArray[Any] | None,
    seed: int,
    settings: Mapping[str, Any],
) -> ReportSet:
    """Reports on values, on ranks, and on how values differ from what is usual for the gene.

    The last one is about what tells cells apart: the mean of each gene, which explains most of the values, has nothing
    to say there.

    Parameters
    ----------
    tested
        The genes.
    predicted
        Value and rank by the model, under the name "", and by others, ``(p, 2)`` each.
    usual
        Mean value and rank of each gene over the training cells, ``(p, 2)``.
    names
        Name of each cell, ``(n,)``.
    genes
        Ensembl id of each gene, ``(p,)``.
    groups
        Donor or the like of each cell, ``(n,)``; cells by default. Groups are resampled as a whole.
    seed
        Fixes the resamples.
    settings
        What the reports tell of their making.
    """
    cells = tested.cells
    together = (np.arange(len(tested.visible)) if groups is None else np.asarray(groups))[cells]
    said = {**predicted, MEAN: usual}
    if tested.additive is not None:
        said[ADDITIVE] = tested.additive
    zero = np.zeros(len(usual))
    found = ReportSet()
    for name, side, center in (("value", 0, zero), ("rank", 1, zero), (BEYOND, 0, usual[:, 0])):
        truth = tested.truth[:, side] - center
        columns = {label: values[:, side] - center for label, values in said.items()}
        judged = partial(evaluate_numbers, truth, groups=together, seed=seed)
        found[name] = ExpressionReport(
            evaluation=judged(columns[""]),
            baselines={label: judged(values) for label, values in columns.items() if label},
            cell_ids=names[cells],
            genes=genes,
            truth=truth,
            predicted=columns[""],
            settings={**settings, "quantity": name},
        )
    return found
