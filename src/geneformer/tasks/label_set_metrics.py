"""How well sets of labels, any number per cell, were predicted in held-out cells."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from geneformer.errors import NoCellsError, OptionError
from geneformer.options._check import check_range
from geneformer.results.classification import Estimate
from geneformer.results.label_sets import LabelSetEvaluation
from geneformer.tasks.class_figures import checked_names, checked_probabilities, class_rows, mean_defined, shares
from geneformer.tasks.rank_curves import AREAS, ClassRanking, macro_areas, named_curves
from geneformer.tasks.resampling import Bootstrap, checked_groups, estimate

COUNTED = ("subset_accuracy", "micro_f1", "macro_f1")
"""Figures that the predicted labels tell."""


def evaluate_label_sets(
    truth: ArrayLike,
    proba: ArrayLike,
    classes: Sequence[str],
    *,
    threshold: float = 0.5,
    groups: ArrayLike | None = None,
    seed: int = 0,
    n_boot: int = 1000,
) -> LabelSetEvaluation:
    """Figures of a classifier of label sets on held-out cells, with 95% bootstrap intervals, label by label.

    `metrics` holds `subset_accuracy` (cells with every label right), `micro_f1` over all labels together, `macro_f1`,
    and `roc_auc` and `average_precision` as unweighted means over labels. They are scikit-learn's; means over labels
    are over those that some cell has.

    Parameters
    ----------
    truth
        Whether each cell has each label, ``(n, C)``: 0 or 1. Cells with NaN in their row are left out.
    proba
        Probability of each label, ``(n, C)``.
    classes
        Names of the labels, all different, ``(C,)``.
    threshold
        Probability from which a label is predicted.
    groups
        Donor, batch or the like of each cell, ``(n,)``, resampled as a whole.
    seed
        Seed of the resamples.
    n_boot
        Resamples; 0 for no intervals.

    Raises
    ------
    OptionError
        Shapes or values that do not fit together.
    NoCellsError
        No cell has labels that are known.

    Examples
    --------
    >>> from geneformer.tasks.metrics import evaluate_label_sets
    >>> found = evaluate_label_sets([[1, 0], [1, 1]], [[0.9, 0.2], [0.8, 0.3]], ["cycling", "stressed"])
    >>> found.metrics["subset_accuracy"].mean
    0.5
    """
    check_range("n_boot", n_boot, low=0)
    check_range("threshold", threshold, low=0.0, high=1.0)
    names = checked_names(classes)
    proba_nc = checked_probabilities(proba, len(names))
    truth_nc, known = _checked_truth(truth, proba_nc)
    parts = checked_groups(groups, len(known))
    proba_nc, n = proba_nc[known], int(known.sum())
    boot = Bootstrap.over(None if parts is None else parts[known], n, n_boot=n_boot, seed=seed)
    predicted_nc = proba_nc >= threshold
    rankings = [ClassRanking(proba_nc[:, i], truth_nc[:, i]) for i in range(len(names))]
    roc, pr = named_curves(names, rankings)
    hits = (truth_nc & predicted_nc).sum(axis=0)
    return LabelSetEvaluation(
        n=n,
        n_unlabeled=int((~known).sum()),
        n_groups=boot.n_groups,
        draws=dict.fromkeys((*COUNTED, *AREAS), boot.draws(proba_nc.size)),
        seed=seed,
        metrics=_counted(truth_nc, predicted_nc, boot) | macro_areas(rankings, boot),
        classes=names,
        per_class=class_rows(names, hits, truth_nc.sum(axis=0), predicted_nc.sum(axis=0), roc, pr),
        roc=roc,
        pr=pr,
        threshold=float(threshold),
    )


def _checked_truth(truth: ArrayLike, proba_nc: NDArray[np.floating]) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    """Labels of the cells whose labels are known, ``(known, C)``, and which cells those are, ``(n,)``."""
    values_nc = np.asarray(truth, dtype=np.float64)
    if values_nc.shape != proba_nc.shape:
        msg = f"truth has the shape {values_nc.shape} and proba {proba_nc.shape}. Give both for every cell and label."
        raise OptionError(msg)
    known: NDArray[np.bool_] = np.asarray(~np.isnan(values_nc).any(axis=1))
    if not known.any():
        msg = f"None of the {len(known):,} cells has labels that are known, so nothing can be measured."
        raise NoCellsError(msg)
    values_nc = values_nc[known]
    if not np.isin(values_nc, (0, 1)).all():
        other = np.setdiff1d(values_nc, (0, 1))[:5].tolist()
        msg = f"truth holds {other}; it takes 1 for a label the cell has, 0 for one it has not, and NaN for not known."
        raise OptionError(msg)
    return values_nc.astype(bool), known


def _counted(truth_nc: NDArray[np.bool_], predicted_nc: NDArray[np.bool_], boot: Bootstrap) -> dict[str, Estimate]:
    """The figures in `COUNTED`, with intervals."""
    right = (truth_nc == predicted_nc).all(axis=1, keepdims=True)
    counts = np.hstack([truth_nc & predicted_nc, truth_nc, predicted_nc, right]).astype(np.float64)
    drawn = [_figures(weights @ counts, weights.sum(axis=1)) for weights in boot.weights(boot.draws(truth_nc.size))]
    values = _figures(counts.sum(axis=0, keepdims=True), np.array([float(boot.n)]))
    return {
        name: estimate(value[0], np.concatenate([np.empty(0), *(figures[i] for figures in drawn)]))
        for i, (name, value) in enumerate(zip(COUNTED, values, strict=True))
    }


def _figures(counts: NDArray[np.float64], n: NDArray[np.float64]) -> tuple[NDArray[Any], ...]:
    hits, truth, predicted = np.split(counts[:, :-1], 3, axis=1)
    _, _, f1 = shares(hits, truth, predicted)
    listed = truth.sum(axis=1) + predicted.sum(axis=1)
    micro = 2 * hits.sum(axis=1) / np.where(listed > 0, listed, 1)
    return counts[:, -1] / n, micro, mean_defined(f1)
