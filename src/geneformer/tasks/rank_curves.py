"""Areas and curves of one class against all others, from the order its probabilities put the cells in."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from geneformer.results.classification import Estimate, PrCurve, RocCurve
from geneformer.tasks.class_figures import mean_defined
from geneformer.tasks.resampling import Bootstrap, estimate

AREAS = ("roc_auc", "average_precision")
"""Figures that the order of the cells tells."""

POINTS = 200
"""Points kept of a curve."""


class ClassRanking:
    """Cells ordered by their probability of a class, ready to be weighed.

    The areas are those of scikit-learn's `roc_auc_score` and `average_precision_score` with sample weights, for many
    weightings at once.

    Parameters
    ----------
    score
        Probability of the class, ``(n,)``.
    positive
        Whether each cell is of the class, ``(n,)``.
    """

    def __init__(self, score: NDArray[np.floating], positive: NDArray[np.bool_]) -> None:
        self._order = np.argsort(-score, kind="stable")
        ranked, self._positive = score[self._order], positive[self._order]
        changes = np.flatnonzero(ranked[1:] != ranked[:-1])
        self._ends = np.append(changes, len(ranked) - 1)  # of runs of equal scores
        starts, run = np.append(0, changes + 1), np.searchsorted(self._ends, np.flatnonzero(self._positive))
        # Only runs that hold cells of the class contribute to either area.
        runs, self._first = np.unique(run, return_index=True)
        self._from, self._to = starts[runs], self._ends[runs] + 1

    def areas(self, weights: NDArray[np.float64]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """ROC AUC and average precision under each weighting, ``(draws,)``; NaN where they are not defined.

        Parameters
        ----------
        weights
            Weight of each cell, ``(draws, n)``.
        """
        if not len(self._first):
            return np.full(len(weights), np.nan), np.full(len(weights), np.nan)
        ranked = weights[:, self._order]
        total = np.zeros((len(weights), ranked.shape[1] + 1))
        np.cumsum(ranked, axis=1, out=total[:, 1:])
        held = np.add.reduceat(ranked[:, self._positive], self._first, axis=1)
        true, all_down = np.cumsum(held, axis=1), total[:, self._to]
        false_twice = all_down + total[:, self._from] - 2 * true + held  # above a run, and down to its end
        n_true, n_all = true[:, -1], total[:, -1]
        with np.errstate(divide="ignore", invalid="ignore"):
            auc = 1 - np.einsum("dr,dr->d", held, false_twice) / (2 * n_true * (n_all - n_true))
            average = (held * np.nan_to_num(true / all_down)).sum(axis=1) / n_true
        return auc, average

    def curves(self) -> tuple[RocCurve | None, PrCurve | None]:
        """ROC and precision-recall curves, thinned; None where they are not defined."""
        (auc,), (average,) = self.areas(np.ones((1, len(self._order))))
        true = np.cumsum(self._positive)[self._ends]
        total = self._ends + 1
        false = total - true
        roc = pr = None
        if true[-1] and false[-1]:
            roc = RocCurve(*_thinned(np.append(0, false / false[-1]), np.append(0, true / true[-1])), float(auc))
        if true[-1]:
            pr = PrCurve(*_thinned(np.append(0, true / true[-1]), np.append(1, true / total)), float(average))
        return roc, pr


def macro_areas(rankings: list[ClassRanking], boot: Bootstrap) -> dict[str, Estimate]:
    """ROC AUC and average precision, each the mean over the classes it is defined for, with intervals.

    Parameters
    ----------
    rankings
        The same cells ranked for every class.
    boot
        Resamples of the cells.
    """
    weightings = boot.weights(boot.draws(boot.n * len(rankings)))
    drawn = [_mean_areas(rankings, weights) for weights in weightings]
    values = _mean_areas(rankings, np.ones((1, boot.n)))
    return {
        name: estimate(value[0], np.concatenate([np.empty(0), *(areas[i] for areas in drawn)]))
        for i, (name, value) in enumerate(zip(AREAS, values, strict=True))
    }


def named_curves(
    classes: Sequence[str], rankings: list[ClassRanking]
) -> tuple[dict[str, RocCurve], dict[str, PrCurve]]:
    """Curves by class, for the classes they are defined for."""
    curves = {name: ranking.curves() for name, ranking in zip(classes, rankings, strict=True)}
    roc = {name: found for name, (found, _) in curves.items() if found is not None}
    return roc, {name: found for name, (_, found) in curves.items() if found is not None}


def _mean_areas(
    rankings: list[ClassRanking], weights: NDArray[np.float64]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Mean areas over the classes they are defined for, under every weighting, ``(draws,)``."""
    auc, average = zip(*(ranking.areas(weights) for ranking in rankings), strict=True)
    return mean_defined(np.array(auc).T), mean_defined(np.array(average).T)


def _thinned(x: NDArray[np.float64], y: NDArray[np.float64]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """At most `POINTS` points of a curve, both ends among them: its corners, or points about equally far apart."""
    if len(x) > POINTS:
        turns = np.abs(np.diff(x)[1:] * np.diff(y)[:-1] - np.diff(x)[:-1] * np.diff(y)[1:]) > 1e-14
        corners = np.concatenate([[0], np.flatnonzero(turns) + 1, [len(x) - 1]])
        x, y = x[corners], y[corners]
    if len(x) <= POINTS:
        return x, y
    along = np.append(0, np.cumsum(np.abs(np.diff(x)) + np.abs(np.diff(y))))
    kept = np.unique(np.searchsorted(along, np.linspace(0, along[-1], POINTS - 1)))
    kept[0], last = 0, len(x) - 1
    kept = np.append(kept[kept < last], last)
    return x[kept], y[kept]
