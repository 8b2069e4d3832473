"""Figures of classifiers of genes: over single occurrences, and over the genes held out in several folds."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from geneformer.finetuning.evaluations import Estimate, FoldedEvaluation, GeneEvaluation, RocCurve, TokenEvaluation
from geneformer.finetuning.metrics import (
    AREAS,
    Bootstrap,
    ClassRanking,
    class_rows,
    estimate,
    evaluate_classes,
    mean_defined,
    shares,
)

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

_BOUND = 32.0
_BINS = 1 << 16
"""Log-odds are binned in steps of a thousandth, which moves no area noticeably."""

_POINTS = 201


def evaluate_genes(
    codes: Ints,
    proba: Floats,
    folds: Ints,
    occurrences: Sequence[TokenEvaluation],
    classes: Sequence[str],
    *,
    seed: int = 0,
    n_boot: int = 1000,
) -> FoldedEvaluation:
    """Figures of a classifier of genes; see `FoldedEvaluation` for what is a mean over what."""
    pooled = evaluate_classes(codes, proba, classes, seed=seed, n_boot=n_boot)
    rows = [np.flatnonzero(folds == fold) for fold in range(1, len(occurrences) + 1)]
    parts = [evaluate_classes(codes[part], proba[part], classes, seed=seed, n_boot=0) for part in rows]
    drawn = _draw_areas(codes, proba, rows, seed, n_boot)
    figures: dict[str, Estimate] = {}
    for place, name in enumerate(AREAS):
        figures[name] = estimate(_mean(parts, name), mean_defined(drawn[:, :, place].T))
    of_folds = [part.metrics["roc_auc"].mean for part in parts]
    figures["roc_auc_sd"] = Estimate(float(np.std(of_folds, ddof=1)) if len(of_folds) > 1 else np.nan)
    for name in ("accuracy", "macro_f1", "roc_auc"):
        figures[f"token_{name}"] = Estimate(_mean(occurrences, name))
    return FoldedEvaluation(
        **vars(pooled)
        | {
            "metrics": {**pooled.metrics, **figures},
            "draws": {**pooled.draws, **dict.fromkeys(AREAS, drawn.shape[1])},
        },
        folds=tuple(GeneEvaluation(**vars(part)) for part in parts),
        occurrences=tuple(occurrences),
    )


def _draw_areas(codes: Ints, proba: Floats, rows: Sequence[NDArray[np.intp]], seed: int, n_boot: int) -> Floats:
    """Areas, each the mean over the classes it is defined for, with genes resampled within folds, ``(F, draws, 2)``."""
    seeds = [int(np.random.SeedSequence([seed, fold]).generate_state(1)[0]) for fold in range(len(rows))]
    boots = [Bootstrap.over(None, len(part), n_boot=n_boot, seed=own) for part, own in zip(rows, seeds, strict=True)]
    n_draws = min(boot.draws(proba.size) for boot in boots)
    drawn = np.empty((len(rows), n_draws, len(AREAS)))
    for fold, (part, boot) in enumerate(zip(rows, boots, strict=True)):
        rankings = [ClassRanking(proba[part, code], codes[part] == code) for code in range(proba.shape[1])]
        done = 0
        for weights in boot.weights(n_draws):
            by_class = np.array([ranking.areas(weights) for ranking in rankings])
            for place in range(len(AREAS)):
                drawn[fold, done : done + len(weights), place] = mean_defined(by_class[:, place].T)
            done += len(weights)
    return drawn


def _mean(evaluations: Sequence[Any], name: str) -> float:
    """Mean of a figure over the folds it is defined for."""
    return float(mean_defined(np.array([[one.metrics[name].mean for one in evaluations]]))[0])


class TokenTally:
    """Confusion counts, and log-odds of every class in fine bins."""

    def __init__(self, n_classes: int) -> None:
        self._confusion = np.zeros((n_classes, n_classes), dtype=np.int64)
        self._counts = np.zeros((n_classes, 2, _BINS), dtype=np.int64)

    def add(self, proba: Floats, codes: Ints, times: Ints | None = None) -> None:
        """Count occurrences."""
        times = np.ones(len(codes), dtype=np.int64) if times is None else times
        np.add.at(self._confusion, (codes, proba.argmax(axis=1)), times)
        with np.errstate(divide="ignore"):
            odds = np.log(proba) - np.log1p(-np.minimum(proba, 1.0))
        bins = ((np.clip(odds, -_BOUND, _BOUND) + _BOUND) * ((_BINS - 1) / (2 * _BOUND))).round().astype(np.int64)
        for code in range(proba.shape[1]):
            np.add.at(self._counts[code], ((codes == code).astype(np.int64), bins[:, code]), times)

    def evaluation(self, classes: Sequence[str]) -> TokenEvaluation:
        """The figures; averages over classes are over those that occur."""
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


def _roc(negative: Ints, positive: Ints) -> RocCurve | None:
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
