"""Pairs with an anchor against both alone."""

import numpy as np
import pyarrow as pa
import pytest

from geneformer.compat.perturber_stats import ALONE, ANCHOR, TOGETHER, anchored_mixture_model
from geneformer.errors import PerturbationError
from geneformer.perturbation.effects import EFFECT_COLUMNS, SIMILARITY, PerturbationEffects, Perturbed

pytestmark = pytest.mark.contract


def perturbed(values):
    """Effects of genes by name: `{gene: {target: numbers}}`."""
    rows = [
        (f"c{cell}", gene, gene, "", SIMILARITY, target, value, "exact")
        for gene, of_target in values.items()
        for target, numbers in of_target.items()
        for cell, value in enumerate(numbers)
    ]
    table = pa.table(dict(zip(EFFECT_COLUMNS, zip(*rows, strict=True), strict=True)))
    genes = pa.table({"gene": list(values), "symbol": list(values), "token": list(range(4, 4 + len(values)))})
    cells = pa.table({"cell_id": sorted({row[0] for row in rows})})
    return Perturbed(PerturbationEffects(table, cells, genes))


def three(anchor, alone, together):
    return {ANCHOR: anchor, ALONE: alone, TOGETHER: together}


def test_numbers_by_hand():
    genes = {f"G{place}": three([0.9], [0.95], [0.85]) for place in range(8)}
    genes |= {"G8": three([0.9, 0.8], [0.9, 0.9], [0.5, 0.3]), "G9": three([0.9], [0.7], [0.45])}
    found = anchored_mixture_model(perturbed(genes))
    assert found["Gene_name"].tolist()[:2] == ["G8", "G9"]
    numbers = ["Anchor_shift", "Test_token_shift", "Sum_of_indiv_shifts", "Combo_shift", "Combo_minus_sum_shift"]
    np.testing.assert_allclose(found.iloc[0][numbers].tolist(), [0.85, 0.9, 0.75, 0.4, -0.35])
    np.testing.assert_allclose(found.iloc[1][numbers].tolist(), [0.9, 0.7, 0.6, 0.45, -0.15])
    assert found["Impact_component"].tolist() == [1, 1] + [0] * 8
    assert found["Impact_component_percent"].tolist() == [100.0, 100.0] + [0.0] * 8
    assert found["N_Detections"].tolist() == [2, 1] + [1] * 8


def test_all_three_are_needed():
    with pytest.raises(PerturbationError, match="all three"):
        anchored_mixture_model(perturbed({"A": three([0.9], [0.8], [0.5]), "B": {ANCHOR: [0.9], TOGETHER: [0.9]}}))
