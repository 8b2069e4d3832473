"""What a classifier of genes has to beat, learnt from the same genes."""

import numpy as np
from numpy.typing import NDArray

from geneformer.tasks.baselines import logistic_regression_on, majority
from geneformer.tasks.gene_features import GeneFeatures
from geneformer.tasks.gene_lists import GeneLabels
from geneformer.tasks.gene_tokens import TokenTally

MAJORITY = "majority class"
"""Name of a baseline in tables, beside those of `gene_features`."""


def classify_genes_by_baselines(
    labels: GeneLabels,
    known: NDArray[np.int64],
    features: GeneFeatures,
    tokens: NDArray[np.int64],
    seen: GeneFeatures | None = None,
    *,
    seed: int = 0,
) -> dict[str, NDArray[np.float64]]:
    """Probabilities of every class for some genes, ``(n, C)``, by baseline.

    Parameters
    ----------
    labels, known
        Genes with classes, and the rows of those to learn from.
    features
        Features of the genes, from the cells that are learnt from.
    tokens
        Token ids of the genes to tell the class of, ``(n,)``.
    seen
        Features from the cells those genes are told in; `features` by default.
    seed
        Fixes the parts in which penalties are tried.
    """
    learnt, codes, n_classes = labels.tokens[known], labels.codes[known], len(labels.classes)
    told = features if seen is None else seen
    linear = {
        name: logistic_regression_on(table[learnt], codes, told.tables[name][tokens], n_classes, seed=seed)
        for name, table in features.tables.items()
        if name in told.tables and table.shape[1] == told.tables[name].shape[1]
    }
    return linear | {MAJORITY: majority(codes, len(tokens), n_classes)}


def tally_genes(proba: NDArray[np.float64], codes: NDArray[np.int64], n_cells: NDArray[np.int64]) -> TokenTally:
    """Single occurrences of genes that are told the same in every cell.

    Parameters
    ----------
    proba
        Probability of each class, ``(n, C)``.
    codes
        True classes, ``(n,)``.
    n_cells
        Cells each gene occurs in, ``(n,)``.
    """
    tally = TokenTally(proba.shape[1])
    tally.add(proba, codes, n_cells)
    return tally
