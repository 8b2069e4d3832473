"""How well classes were predicted in held-out cells, with bootstrap intervals."""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from geneformer.errors import LabelError, MissingLabelError, NoCellsError, NonFiniteValuesError, OptionError
from geneformer.finetuning.evaluations import (
    ClassRow,
    Estimate,
    Evaluation,
    LabelSetEvaluation,
    NumberEvaluation,
    PrCurve,
    RocCurve,
)
from geneformer.options._fields import check_range


def confusion(truth: ArrayLike, predicted: ArrayLike, n_classes: int) -> NDArray[np.int64]:
    """Cells by true class, in rows, and predicted class, ``(C, C)``."""
    pairs = np.asarray(truth, dtype=np.int64) * n_classes + np.asarray(predicted, dtype=np.int64)
    return np.bincount(pairs, minlength=n_classes**2).reshape(n_classes, n_classes)


def shares(
    hits: NDArray[Any], truth: NDArray[Any], predicted: NDArray[Any]
) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]:
    """Precision, recall and F1; NaN for classes without cells, precision 0 where nothing was predicted."""
    occurs = np.where(truth > 0, 1.0, np.nan)
    with np.errstate(divide="ignore", invalid="ignore"):
        precision = np.nan_to_num(hits / predicted) * occurs
        recall = np.nan_to_num(hits / truth) * occurs
        f1 = np.nan_to_num(2 * hits / (truth + predicted)) * occurs
    return precision, recall, f1


def mean_defined(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """Mean of each row over what is not NaN; NaN for a row without."""
    with np.errstate(invalid="ignore"):
        mean: NDArray[np.float64] = np.nansum(values, axis=1) / np.isfinite(values).sum(axis=1)
    return mean


def class_rows(
    classes: Sequence[str],
    hits: NDArray[Any],
    truth: NDArray[Any],
    predicted: NDArray[Any],
    roc: Mapping[str, RocCurve],
    pr: Mapping[str, PrCurve],
) -> tuple[ClassRow, ...]:
    """Figures of every class from its counts, ``(C,)`` each, and its curves."""
    rows = zip(classes, *shares(hits, truth, predicted), truth, strict=True)
    return tuple(
        ClassRow(
            name=name,
            precision=float(precision),
            recall=float(recall),
            f1=float(f1),
            n=int(n),
            roc_auc=roc[name].auc if name in roc else np.nan,
            average_precision=pr[name].average_precision if name in pr else np.nan,
        )
        for name, precision, recall, f1, n in rows
    )


def checked_names(classes: Sequence[str]) -> tuple[str, ...]:
    """Names of classes as text, all different."""
    names = tuple(str(name) for name in classes)
    twice = sorted({name for name in names if names.count(name) > 1})
    if not names or twice:
        told = f"classes names {twice} more than once" if twice else "classes is empty"
        msg = f"{told}. Name each class once, in the order of the columns of proba."
        raise OptionError(msg)
    return names


def checked_probabilities(proba: ArrayLike, n_classes: int) -> NDArray[np.floating]:
    """Probabilities with one column per class, in their own precision."""
    proba_nc = np.asarray(proba)
    if not np.issubdtype(proba_nc.dtype, np.floating):
        proba_nc = proba_nc.astype(np.float64)
    if proba_nc.ndim != 2 or proba_nc.shape[1] != n_classes:
        found = f"proba has the shape {proba_nc.shape}"
        msg = f"{found}; it takes one row per cell and one column for each of {n_classes} classes."
        raise OptionError(msg)
    inside = ((proba_nc >= 0) & (proba_nc <= 1 + 1e-3)).all(axis=1)  # NaN is not inside
    if not inside.all():
        row = int(np.flatnonzero(~inside)[0])
        msg = (
            f"proba holds values outside 0 to 1 in {(~inside).sum():,} rows, first in row {row}: "
            f"{proba_nc[row].tolist()[:5]}. Give probabilities."
        )
        raise OptionError(msg)
    return proba_nc


WORK = 4e7
"""Numbers looked at for one interval; over more, the resamples are fewer."""

FEWEST = 100
"""Resamples that an interval takes however many numbers there are."""

BATCH = 5e5
"""Weights held at once."""


@dataclass(frozen=True, kw_only=True)
class Bootstrap:
    """Resamples of cells: which ones, how often and with which seed."""

    n: int
    place: NDArray[np.intp] | None
    n_boot: int
    seed: int

    @classmethod
    def over(cls, groups: NDArray[Any] | None, n: int, *, n_boot: int, seed: int) -> "Bootstrap":
        """Resamples of `n` cells, or of the groups they are in, ``(n,)``."""
        place = None if groups is None else np.unique(groups, return_inverse=True)[1].reshape(-1)
        return cls(n=n, place=place, n_boot=n_boot, seed=seed)

    @property
    def n_groups(self) -> int | None:
        """Groups, or None where cells are drawn one by one."""
        return None if self.place is None else int(self.place.max(initial=-1)) + 1

    def draws(self, numbers: int = 0) -> int:
        """Resamples to draw for a figure that looks at that many numbers in each."""
        units = self.n if self.n_groups is None else self.n_groups
        if units < 2 or not self.n_boot:
            return 0
        affordable = self.n_boot if not numbers else int(WORK // numbers)
        return min(self.n_boot, max(FEWEST, affordable))

    def weights(self, n_draws: int) -> Iterator[NDArray[np.float64]]:
        """How often each cell is drawn, ``(draws, n)`` at a time."""
        rng = np.random.default_rng(self.seed)
        units = self.n if self.n_groups is None else self.n_groups
        step = max(1, int(BATCH // self.n))
        for start in range(0, n_draws, step):
            count = min(step, n_draws - start)
            drawn = np.empty((count, units))
            for row in drawn:
                row[:] = np.bincount(rng.integers(units, size=units), minlength=units)
            yield drawn if self.place is None else drawn[:, self.place]

    def tables(self, kinds: NDArray[np.int64], n_draws: int) -> Iterator[NDArray[np.int64]]:
        """How many cells of each kind are drawn, ``(draws, kinds)`` at a time, without drawing every single cell."""
        from scipy import sparse

        rng = np.random.default_rng(self.seed)
        counts = np.bincount(kinds)
        step = max(1, int(BATCH // len(counts)))
        for start in range(0, n_draws, step):
            count = min(step, n_draws - start)
            if self.place is None:
                yield rng.multinomial(self.n, counts / self.n, size=count)
                continue
            n_groups = int(self.place.max()) + 1
            ones = np.ones(self.n, dtype=np.int64)
            held = sparse.csr_array((ones, (kinds, self.place)), shape=(len(counts), n_groups))
            drawn = rng.multinomial(n_groups, np.full(n_groups, 1 / n_groups), size=count)
            yield np.asarray(held @ drawn.T).T


def estimate(value: float, drawn: NDArray[np.float64]) -> Estimate:
    """A figure with the middle 95% of its resamples, ``(draws,)``; those where it is not defined are left out."""
    drawn = drawn[np.isfinite(drawn)]
    if not len(drawn) or np.isnan(value):
        return Estimate(float(value))
    low, high = np.quantile(drawn, (0.025, 0.975))
    return Estimate(float(value), float(low), float(high))


def checked_groups(groups: ArrayLike | None, n: int) -> NDArray[Any] | None:
    """Groups as text, one per cell."""
    if groups is None:
        return None
    names = np.asarray(groups, dtype=object).astype(str)
    if names.shape != (n,):
        msg = f"groups has the shape {names.shape} for {n:,} cells. Give the group of each cell."
        raise OptionError(msg)
    return names


AREAS = ("roc_auc", "average_precision")
"""Figures that the order of the cells tells."""

POINTS = 200
"""Points kept of a curve."""


class ClassRanking:
    """Cells ordered by their probability of a class, ready to be weighed."""

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
        """ROC AUC and average precision under each weighting, ``(draws,)``; NaN where they are not defined."""
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
    """ROC AUC and average precision, each the mean over the classes it is defined for, with intervals."""
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
    """Figures of a classifier of label sets on held-out cells, with 95% bootstrap intervals, label by label."""
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


FIGURES = ("mse", "mae", "r2", "pearson", "spearman")
"""Mean squared and absolute error, coefficient of determination, and correlations of values and of ranks."""


def evaluate_numbers(
    truth: ArrayLike,
    predicted: ArrayLike,
    groups: ArrayLike | None = None,
    *,
    seed: int = 0,
    n_boot: int = 1000,
) -> NumberEvaluation:
    """Figures of a regression on held-out cells, with 95% bootstrap intervals."""
    check_range("n_boot", n_boot, low=0)
    values, guesses = np.asarray(truth, dtype=np.float64), np.asarray(predicted, dtype=np.float64)
    if values.ndim != 1 or values.shape != guesses.shape:
        msg = f"truth has the shape {values.shape} and predicted {guesses.shape}. Give one number of each per cell."
        raise OptionError(msg)
    known = ~np.isnan(values)
    parts = checked_groups(groups, len(values))
    if not known.any():
        msg = f"None of the {len(values):,} cells has a number, so nothing can be measured."
        raise NoCellsError(msg)
    values, guesses = values[known], guesses[known]
    broken = ~np.isfinite(guesses) | ~np.isfinite(values)
    if broken.any():
        row = int(np.flatnonzero(known)[np.flatnonzero(broken)[0]])
        msg = f"{broken.sum():,} cells have a truth or prediction that is not finite, first row {row}. Leave them out."
        raise OptionError(msg)
    boot = Bootstrap.over(None if parts is None else parts[known], len(values), n_boot=n_boot, seed=seed)
    n_draws = boot.draws(2 * len(values))
    measured = _Weighed(values, guesses)
    drawn = [measured.figures(weights) for weights in boot.weights(n_draws)]
    exact = measured.figures(np.ones((1, len(values))))
    return NumberEvaluation(
        n=len(values),
        n_unlabeled=int((~known).sum()),
        n_groups=boot.n_groups,
        draws=dict.fromkeys(FIGURES, n_draws),
        seed=seed,
        metrics={
            name: estimate(value[0], np.concatenate([np.empty(0), *(figures[i] for figures in drawn)]))
            for i, (name, value) in enumerate(zip(FIGURES, exact, strict=True))
        },
    )


class _Weighed:
    """Truth and prediction of the same cells, for figures under many weightings at once."""

    def __init__(self, values: NDArray[np.float64], guesses: NDArray[np.float64]) -> None:
        # Centered, so that sums of squares keep their digits far from 0.
        self._x, self._y = values - values.mean(), guesses - guesses.mean()
        self._error = guesses - values
        self._constant = (values == values[0]).all() or (guesses == guesses[0]).all()
        self._orders = [_Order(values), _Order(guesses)]

    def figures(self, weights: NDArray[np.float64]) -> tuple[NDArray[np.float64], ...]:
        """The figures in `FIGURES` under each weighting, ``(draws,)``."""
        n = weights.sum(axis=1)
        squared = weights @ self._error**2 / n
        absolute = weights @ np.abs(self._error) / n
        spread = weights @ self._x**2 / n - (weights @ self._x / n) ** 2
        with np.errstate(divide="ignore", invalid="ignore"):
            r2 = np.where(spread > 1e-12 * np.mean(self._x**2), 1 - squared / spread, np.nan)
        ranks = [order.ranks(weights) for order in self._orders]
        same = np.full(len(n), np.nan)
        pearson = same if self._constant else _correlation(weights, self._x[None], self._y[None])
        spearman = same if self._constant else _correlation(weights, ranks[0], ranks[1])
        return squared, absolute, r2, pearson, spearman


class _Order:
    """Order of values, for their ranks when some are drawn several times and others not at all."""

    def __init__(self, values: NDArray[np.float64]) -> None:
        self._order = np.argsort(values, kind="stable")
        ranked = values[self._order]
        self._starts = np.append(0, np.flatnonzero(ranked[1:] != ranked[:-1]) + 1)
        self._group = np.empty(len(values), dtype=np.intp)
        self._group[self._order] = np.cumsum(np.isin(np.arange(len(values)), self._starts)) - 1

    def ranks(self, weights: NDArray[np.float64]) -> NDArray[np.float64]:
        """Rank of each value among those drawn, equal ones sharing their mean rank, centered, ``(draws, n)``."""
        held = np.add.reduceat(weights[:, self._order], self._starts, axis=1)
        middle = np.cumsum(held, axis=1) - held / 2 - weights.sum(axis=1, keepdims=True) / 2
        ranks: NDArray[np.float64] = middle[:, self._group]
        return ranks


def _correlation(weights: NDArray[np.float64], x: NDArray[np.float64], y: NDArray[np.float64]) -> NDArray[np.float64]:
    """Weighted Pearson correlation of each row, ``(draws,)``; NaN where either is constant."""
    n = weights.sum(axis=1, keepdims=True)
    x = x - (weights * x).sum(axis=1, keepdims=True) / n
    y = y - (weights * y).sum(axis=1, keepdims=True) / n
    xx, yy, xy = (weights * x * x).sum(axis=1), (weights * y * y).sum(axis=1), (weights * x * y).sum(axis=1)
    with np.errstate(divide="ignore", invalid="ignore"):
        found: NDArray[np.float64] = np.clip(xy / np.sqrt(xx * yy), -1, 1)
    return found


METRICS_COUNTED = ("accuracy", "balanced_accuracy", "macro_f1", "weighted_f1")
"""Figures that the confusion matrix tells."""

TOLERANCE = 0.01
"""How far a row of probabilities may be from adding up to 1: half precision rounds."""


def evaluate_classes(
    codes: ArrayLike,
    proba: ArrayLike,
    classes: Sequence[str],
    *,
    groups: ArrayLike | None = None,
    seed: int = 0,
    n_boot: int = 1000,
) -> Evaluation:
    """Figures of a classifier on held-out cells, with 95% bootstrap intervals, class by class, with curves."""
    check_range("n_boot", n_boot, low=0)
    truth, proba_nc, parts, names = _checked(codes, proba, classes, groups)
    labeled = truth >= 0
    n_unlabeled = int((~labeled).sum())
    truth, proba_nc = truth[labeled], proba_nc[labeled]
    boot = Bootstrap.over(None if parts is None else parts[labeled], len(truth), n_boot=n_boot, seed=seed)
    predicted = proba_nc.argmax(axis=1)
    kinds = truth * len(names) + predicted
    confusion = np.bincount(kinds, minlength=len(names) ** 2).reshape(len(names), len(names))
    rankings = [ClassRanking(proba_nc[:, code], truth == code) for code in range(len(names))]
    roc, pr = named_curves(names, rankings)
    losses = _losses(truth, proba_nc)
    return Evaluation(
        n=len(truth),
        n_unlabeled=n_unlabeled,
        n_groups=boot.n_groups,
        draws=dict.fromkeys(METRICS_COUNTED, boot.draws())
        | {"log_loss": boot.draws(losses.size)}
        | dict.fromkeys(AREAS, boot.draws(proba_nc.size)),
        seed=seed,
        metrics=_metrics_counted(confusion, kinds, boot)
        | {"log_loss": _mean_loss(losses, boot)}
        | macro_areas(rankings, boot),
        classes=names,
        per_class=class_rows(names, np.diag(confusion), confusion.sum(axis=1), confusion.sum(axis=0), roc, pr),
        roc=roc,
        pr=pr,
        confusion=confusion,
    )


def _checked(
    codes: ArrayLike, proba: ArrayLike, classes: Sequence[str], groups: ArrayLike | None
) -> tuple[NDArray[np.int64], NDArray[np.floating], NDArray[Any] | None, tuple[str, ...]]:
    """Codes, probabilities, groups and names that fit together."""
    names = checked_names(classes)
    proba_nc = checked_probabilities(proba, len(names))
    truth = np.asarray(codes)
    if truth.shape != proba_nc.shape[:1] or not np.issubdtype(truth.dtype, np.integer):
        msg = (
            f"codes holds {truth.dtype} of shape {truth.shape} for {len(proba_nc):,} rows of proba. Give one whole "
            "number per cell: the position of its class, or -1."
        )
        raise OptionError(msg)
    if len(truth) and not -1 <= truth.min() <= truth.max() < len(names):
        found = f"codes go from {truth.min()} to {truth.max()}"
        msg = f"{found}; with {len(names)} classes they go from -1 for no label to {len(names) - 1}."
        raise OptionError(msg)
    if not (truth >= 0).any():
        msg = (
            f"None of the {len(truth):,} cells has a label, so nothing can be measured. Give cells with a known class."
        )
        raise NoCellsError(msg)
    off = np.flatnonzero(np.abs(proba_nc.sum(axis=1, dtype=np.float64) - 1) > TOLERANCE)
    if len(off):
        msg = (
            f"{len(off):,} rows of proba do not add up to 1, first row {off[0]} with {proba_nc[off[0]].sum():.4g}. "
            "Give probabilities, not logits; for labels that exclude nothing, use evaluate_label_sets."
        )
        raise OptionError(msg)
    return truth.astype(np.int64), proba_nc, checked_groups(groups, len(truth)), names


def _metrics_counted(confusion: NDArray[np.int64], kinds: NDArray[np.int64], boot: Bootstrap) -> dict[str, Estimate]:
    """Figures that the confusion matrix tells, from resampled confusion matrices."""
    n_classes = len(confusion)
    found, place = np.unique(kinds, return_inverse=True)
    truth, predicted = np.eye(n_classes)[found // n_classes], np.eye(n_classes)[found % n_classes]
    hits = truth * predicted
    drawn = [
        _metrics_figures(table @ hits, table @ truth, table @ predicted)
        for table in boot.tables(place.reshape(-1), boot.draws())
    ]
    values = _metrics_figures(np.diag(confusion)[None], confusion.sum(axis=1)[None], confusion.sum(axis=0)[None])
    return {
        name: estimate(value[0], np.concatenate([np.empty(0), *(figures[i] for figures in drawn)]))
        for i, (name, value) in enumerate(zip(METRICS_COUNTED, values, strict=True))
    }


def _metrics_figures(
    hits: NDArray[Any], truth: NDArray[Any], predicted: NDArray[Any]
) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]:
    """The figures in `COUNTED` from cells found, cells of each class and cells predicted, ``(draws, C)`` each."""
    _, recall, f1 = shares(hits, truth, predicted)
    n = truth.sum(axis=1)
    return hits.sum(axis=1) / n, mean_defined(recall), mean_defined(f1), np.nansum(f1 * truth, axis=1) / n


def _losses(truth: NDArray[np.int64], proba_nc: NDArray[np.floating]) -> NDArray[np.float64]:
    """Negative log probability of each cell's class; a probability of 0 counts as the smallest step of its type."""
    given = proba_nc[np.arange(len(truth)), truth]
    step = np.finfo(given.dtype).eps
    losses: NDArray[np.float64] = -np.log(np.clip(given, step, 1 - step).astype(np.float64))
    return losses


def _mean_loss(losses: NDArray[np.float64], boot: Bootstrap) -> Estimate:
    drawn = [weights @ losses / weights.sum(axis=1) for weights in boot.weights(boot.draws(losses.size))]
    return estimate(losses.mean(), np.concatenate([np.empty(0), *drawn]))


TEMPERATURES = (0.05, 20.0)
"""Bounds of the temperature: logits that separate the classes without an error have no best one."""


def softmax(logits: ArrayLike, temperature: float = 1.0) -> NDArray[np.float64]:
    """Probability of each class, ``(n, C)``."""
    from scipy import special

    check_range("temperature", temperature, above=0.0)
    proba: NDArray[np.float64] = special.softmax(_matrix(logits, "logits") / temperature, axis=1)
    return proba


def fit_temperature(logits: ArrayLike, codes: ArrayLike) -> float:
    """Temperature under which the labels are likeliest (Guo et al., ICML 2017), between 0.05 and 20."""
    from scipy import optimize, special

    logits_nc, codes_n = _labeled(logits, codes, "logits")
    right = logits_nc[np.arange(len(codes_n)), codes_n]

    def loss(log_temperature: float) -> float:
        scale = math.exp(-log_temperature)
        return float(np.mean(special.logsumexp(logits_nc * scale, axis=1) - right * scale))

    low, high = np.log(TEMPERATURES)
    found = optimize.minimize_scalar(loss, bounds=(low, high), method="bounded", options={"xatol": 1e-8})
    return float(np.exp(found.x)) if found.fun < loss(0.0) else 1.0


def expected_calibration_error(proba: ArrayLike, codes: ArrayLike, n_bins: int = 15) -> float:
    """How far confidence and accuracy are apart, from 0 to 1 (Naeini et al., AAAI 2015; Guo et al., ICML 2017)."""
    check_range("n_bins", n_bins, low=1)
    proba_nc, codes_n = _labeled(proba, codes, "proba")
    if proba_nc.min() < 0 or proba_nc.max() > 1 + 1e-6:
        msg = f"proba holds values from {proba_nc.min():.3g} to {proba_nc.max():.3g}. Pass probabilities, not logits."
        raise LabelError(msg)
    confidence = proba_nc.max(axis=1)
    right = proba_nc.argmax(axis=1) == codes_n
    edges = np.linspace(0, 1, n_bins + 1)
    place = np.clip(np.searchsorted(edges, confidence, side="left") - 1, 0, n_bins - 1)
    gaps = np.bincount(place, weights=right - confidence, minlength=n_bins)
    return float(np.abs(gaps).sum() / len(codes_n))


def _labeled(values: ArrayLike, codes: ArrayLike, name: str) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """Rows with a label, and their classes."""
    values_nc, codes_n = _matrix(values, name), np.asarray(codes, dtype=np.int64)
    n_classes = values_nc.shape[1]
    if codes_n.shape != (len(values_nc),) or codes_n.max(initial=-1) >= n_classes:
        msg = (
            f"{name} has shape {values_nc.shape} and codes {codes_n.shape}, up to {codes_n.max(initial=-1)}. They take "
            "one row and one class per cell, and one column per class."
        )
        raise LabelError(msg)
    labeled = codes_n >= 0
    if not labeled.any():
        msg = f"None of the {len(codes_n):,} cells has a label. Calibration is measured on labeled cells."
        raise MissingLabelError(msg)
    return values_nc[labeled], codes_n[labeled]


def _matrix(values: ArrayLike, name: str) -> NDArray[np.float64]:
    values_nc = np.asarray(values, dtype=np.float64)
    if values_nc.ndim != 2 or values_nc.shape[1] == 0:
        msg = f"{name} has shape {values_nc.shape}; it takes one row per cell and one column per class."
        raise LabelError(msg)
    if not np.isfinite(values_nc).all():
        row = int(np.flatnonzero(~np.isfinite(values_nc).all(axis=1))[0])
        msg = f"{name} has missing or infinite values, first in row {row}. Look at that cell, or train more gently."
        raise NonFiniteValuesError(msg)
    return values_nc
