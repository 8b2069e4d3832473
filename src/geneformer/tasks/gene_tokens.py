"""Figures over single occurrences of genes in cells, added up batch by batch in memory that does not grow."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from geneformer.results.classification import Estimate, RocCurve
from geneformer.results.genes import TokenEvaluation
from geneformer.tasks.class_figures import class_rows, mean_defined, shares

Floats = NDArray[np.float64]

_BOUND = 32.0
_BINS = 1 << 16
"""Log-odds are told apart in steps of a thousandth, which moves no area noticeably."""

_POINTS = 201


class TokenTally:
    """Confusion counts, and log-odds of every class in fine bins.

    Parameters
    ----------
    n_classes
        Classes, C.
    """

    def __init__(self, n_classes: int) -> None:
        self._confusion = np.zeros((n_classes, n_classes), dtype=np.int64)
        self._counts = np.zeros((n_classes, 2, _BINS), dtype=np.int64)

    def add(self, proba: Floats, codes: NDArray[np.int64], times: NDArray[np.int64] | None = None) -> None:
        """Count occurrences.

        Parameters
        ----------
        proba
            Probability of each class, ``(m, C)``.
        codes
            True classes, ``(m,)``.
        times
            How often each row is counted, ``(m,)``; once by default.
        """
        times = np.ones(len(codes), dtype=np.int64) if times is None else times
        np.add.at(self._confusion, (codes, proba.argmax(axis=1)), times)
        with np.errstate(divide="ignore"):
            odds = np.log(proba) - np.log1p(-np.minimum(proba, 1.0))
        bins = ((np.clip(odds, -_BOUND, _BOUND) + _BOUND) * ((_BINS - 1) / (2 * _BOUND))).round().astype(np.int64)
        for code in range(proba.shape[1]):
            np.add.at(self._counts[code], ((codes == code).astype(np.int64), bins[:, code]), times)

    def evaluation(self, classes: Sequence[str]) -> TokenEvaluation:
        """The figures; averages over classes are over those that occur.

        Parameters
        ----------
        classes
            Names of the classes.
        """
        names = tuple(str(name) for name in classes)
        roc = {name: curve for name, counts in zip(names, self._counts, strict=True) if (curve := _roc(*counts))}
        truth, predicted = self._confusion.sum(axis=1), self._confusion.sum(axis=0)
        hits, n = np.diag(self._confusion), int(self._confusion.sum())
        _, recall, f1 = shares(hits, truth, predicted)
        figures: dict[str, Any] = {
            "accuracy": hits.sum() / n if n else np.nan,
            "balanced_accuracy": mean_defined(recall[None])[0],
            "macro_f1": mean_defined(f1[None])[0],
            "roc_auc": np.mean([curve.auc for curve in roc.values()]) if roc else np.nan,
        }
        return TokenEvaluation(
            n=n,
            metrics={name: Estimate(float(value)) for name, value in figures.items()},
            classes=names,
            per_class=class_rows(names, hits, truth, predicted, roc, {}),
            roc=roc,
            confusion=self._confusion.copy(),
        )


def _roc(negative: NDArray[np.int64], positive: NDArray[np.int64]) -> RocCurve | None:
    """Curve and area from counts by rising score, equal ones counted half; None with one side empty."""
    n_negative, n_positive = int(negative.sum()), int(positive.sum())
    if not n_negative or not n_positive:
        return None
    below = np.cumsum(negative) - negative
    area = float((positive * (below + negative / 2)).sum() / n_positive / n_negative)
    false, true = (
        np.cumsum(counts[::-1]) / total for counts, total in ((negative, n_negative), (positive, n_positive))
    )
    grid = np.linspace(0.0, 1.0, _POINTS)
    return RocCurve(np.append(0.0, grid), np.append(0.0, np.interp(grid, false, true)), area)
