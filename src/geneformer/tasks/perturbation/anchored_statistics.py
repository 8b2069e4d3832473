"""Statistics of genes that were perturbed together with an anchor: whether the pair does more than both alone."""

from typing import TYPE_CHECKING

import numpy as np

from geneformer.errors import PerturbationError
from geneformer.results.perturbation import SIMILARITY
from geneformer.tasks.perturbation.effect_arrays import Perturbed, mean_by
from geneformer.tasks.perturbation.published_statistics import NAMES, Impact

if TYPE_CHECKING:
    import pandas as pd

ANCHOR, ALONE, TOGETHER = "anchor", "alone", "together"
"""Targets of the three similarities of a gene: of its anchor alone, of the gene alone, of both."""


def anchored_mixture_model(perturbed: Perturbed) -> "pd.DataFrame":
    """Genes split into those with and without impact by what they do together with the anchor.

    Parameters
    ----------
    perturbed
        Similarities with the targets `ANCHOR`, `ALONE` and `TOGETHER`, three per gene and cell, in this order.

    Returns
    -------
    table
        One row per gene. The sum of two shifts is 1 - (distance of the anchor + distance of the gene); impact is told
        from the similarity of the pair.

    Raises
    ------
    PerturbationError
        A gene without all three, or fewer than two genes with different effects.
    MissingExtraError
        scikit-learn is not installed.
    """
    n = len(perturbed)
    anchor, alone, together = (perturbed.values(SIMILARITY, target) for target in (ANCHOR, ALONE, TOGETHER))
    if not len(anchor) == len(alone) == len(together) or not np.array_equal(alone.group, together.group):
        msg = (
            f"{len(together):,} effects of pairs, {len(alone):,} of genes alone and {len(anchor):,} of the anchor "
            "alone: all three are needed of every cell. Run the perturbations with the anchor again."
        )
        raise PerturbationError(msg)
    means = together.means(n)
    impact = Impact(means)
    sums = anchor.value + alone.value - 1
    table = perturbed.table[NAMES].copy()
    table["Anchor_shift"] = anchor.means(n)
    table["Test_token_shift"] = alone.means(n)
    table["Sum_of_indiv_shifts"] = mean_by(sums, together.group, n)
    table["Combo_shift"] = means
    table["Combo_minus_sum_shift"] = mean_by(together.value - sums, together.group, n)
    table["Impact_component"] = impact.of(means)
    table["Impact_component_percent"] = 100 * mean_by(impact.of(together.value).astype(float), together.group, n)
    table["N_Detections"] = together.counts(n)
    return table.sort_values(["Impact_component", "Combo_minus_sum_shift"], ascending=[False, True])
