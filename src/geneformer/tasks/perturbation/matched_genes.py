"""Genes that are perturbed beside those a user names, because they are ranked alike: the null of targeted runs."""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from geneformer.data.dataset import TokenizedDataset
from geneformer.tasks.adata_inputs import PairedModel
from geneformer.tasks.perturbation.edits import Perturbation
from geneformer.tasks.perturbation.gene_table import rank_sums

_LEAST_SHARE = 0.5
"""A matched gene is found in at least this share of the cells the named gene is found in."""


def matched_perturbations(
    named: Sequence[Perturbation], tokens: TokenizedDataset, model: PairedModel, n_matched: int
) -> list[Perturbation]:
    """The same single edits of other genes, those of nearest mean rank first; no gene twice under one edit.

    Parameters
    ----------
    named
        What the user named; only edits of one gene are matched.
    tokens
        Cells to be perturbed.
    model
        Whose genes they are; what is beyond its longest cell is not there.
    n_matched
        Others for each of them.
    """
    n_cells, ranks = rank_sums(tokens, np.arange(len(tokens)), model)
    rank = np.divide(ranks, n_cells, out=np.full(len(ranks), np.nan), where=n_cells > 0)
    single = [entry for entry in named if len(entry.steps) == 1 and len(entry.tokens) == 1]
    taken = {(entry.edit, entry.tokens[0]) for entry in single}
    names = {entry.name for entry in named}
    found = []
    for entry in single:
        [step], [token] = entry.steps, entry.tokens
        free = np.array([(entry.edit, other) not in taken for other in range(len(rank))])
        usable = free & (n_cells >= max(_LEAST_SHARE * n_cells[token], 1))
        distance = np.where(usable, np.abs(rank - rank[token]), np.inf)
        near = np.argsort(distance, kind="stable")[:n_matched]
        for other in near[np.isfinite(distance[near])].tolist():
            taken.add((entry.edit, other))
            name = str(model.vocabulary.gene_of[other])
            name = f"{entry.edit}:{name}" if name in names else name
            names.add(name)
            found.append(Perturbation(name, (replace(step, tokens=(other,)),)))
    return found
