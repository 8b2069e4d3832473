"""How well classes were predicted for held-out genes, over all folds."""

from collections.abc import Sequence
from dataclasses import fields
from typing import Any

import numpy as np
from numpy.typing import NDArray

from geneformer.results.classification import Estimate, Evaluation
from geneformer.results.genes import FoldedEvaluation, GeneEvaluation, TokenEvaluation
from geneformer.tasks.class_figures import mean_defined
from geneformer.tasks.metrics import evaluate_classes
from geneformer.tasks.rank_curves import AREAS, ClassRanking
from geneformer.tasks.resampling import Bootstrap, estimate

Floats = NDArray[np.float64]

OF_TOKENS = ("accuracy", "macro_f1", "roc_auc")
"""Figures of single occurrences that stand beside those of genes."""


def evaluate_genes(
    codes: NDArray[np.int64],
    proba: Floats,
    folds: NDArray[np.int64],
    occurrences: Sequence[TokenEvaluation],
    classes: Sequence[str],
    *,
    seed: int = 0,
    n_boot: int = 1000,
) -> FoldedEvaluation:
    """Figures of a classifier of genes; see `FoldedEvaluation` for what is a mean over what.

    Parameters
    ----------
    codes
        True class of each gene, ``(n,)``.
    proba
        Its probability of each class, averaged over cells, by the network that did not learn from it, ``(n, C)``.
    folds
        Fold it was held out in, from 1, ``(n,)``.
    occurrences
        Figures of every fold over single occurrences.
    classes
        Names of the classes.
    seed, n_boot
        Seed and number of resamples of genes.
    """
    pooled = evaluate_classes(codes, proba, classes, seed=seed, n_boot=n_boot)
    rows = [np.flatnonzero(folds == fold) for fold in range(1, len(occurrences) + 1)]
    parts = [evaluate_classes(codes[part], proba[part], classes, seed=seed, n_boot=0) for part in rows]
    areas, n_draws = _mean_areas(codes, proba, rows, seed, n_boot)
    of_folds = [part.metrics["roc_auc"].mean for part in parts]
    spread = float(np.std(of_folds, ddof=1)) if len(of_folds) > 1 else float("nan")
    means = {
        f"token_{name}": Estimate(_mean([found.metrics[name].mean for found in occurrences])) for name in OF_TOKENS
    }
    whole = _fields(pooled)
    whole["metrics"] = dict(pooled.metrics) | areas | {"roc_auc_sd": Estimate(spread)} | means
    whole["draws"] = dict(pooled.draws) | dict.fromkeys(AREAS, n_draws)
    return FoldedEvaluation(
        **whole,
        folds=tuple(GeneEvaluation(**_fields(part)) for part in parts),
        occurrences=tuple(occurrences),
    )


def _mean_areas(
    codes: NDArray[np.int64], proba: Floats, rows: Sequence[NDArray[np.intp]], seed: int, n_boot: int
) -> tuple[dict[str, Estimate], int]:
    """ROC AUC and average precision, each the mean over folds and classes, with genes resampled within folds."""
    n_classes = proba.shape[1]
    rankings = [[ClassRanking(proba[part, c], codes[part] == c) for c in range(n_classes)] for part in rows]
    boots = [
        Bootstrap.over(
            None, len(part), n_boot=n_boot, seed=int(np.random.SeedSequence([seed, fold]).generate_state(1)[0])
        )
        for fold, part in enumerate(rows)
    ]
    n_draws = min(boot.draws(proba.size) for boot in boots)
    found = {}
    for place, name in enumerate(AREAS):
        whole = [
            _over_classes(ranking, np.ones((1, len(part))), place) for ranking, part in zip(rankings, rows, strict=True)
        ]
        drawn = [
            np.concatenate(
                [np.empty(0), *(_over_classes(ranking, weights, place) for weights in boot.weights(n_draws))]
            )
            for ranking, boot in zip(rankings, boots, strict=True)
        ]
        found[name] = estimate(_mean([values[0] for values in whole]), mean_defined(np.array(drawn).T))
    return found, n_draws


def _over_classes(ranking: Sequence[ClassRanking], weights: Floats, place: int) -> Floats:
    """One of the areas, mean over the classes it is defined for, under every weighting, ``(draws,)``."""
    return mean_defined(np.array([one.areas(weights)[place] for one in ranking]).T)


def _mean(values: Sequence[float]) -> float:
    """Mean over the folds it is defined for."""
    return float(mean_defined(np.array([values], dtype=np.float64))[0])


def _fields(found: Evaluation) -> dict[str, Any]:
    """What an evaluation holds, to make one of a subclass of it."""
    return {field.name: getattr(found, field.name) for field in fields(Evaluation)}
