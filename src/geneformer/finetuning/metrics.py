"""How well classes, sets of labels and numbers were predicted in held-out cells, with bootstrap intervals.

The figures are those of scikit-learn and SciPy, and the tests compare them. They are written out here for many
weightings of the cells at once, as an interval takes a thousand: for 20,000 cells of 10 classes in 20 donors that is
1.1 s, where scikit-learn's functions take 0.1 s for each resample (and `scipy.stats.bootstrap` draws no groups).
"""

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from geneformer.errors import LabelError, NoCellsError, NonFiniteValuesError, OptionError
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

Floats = NDArray[np.float64]

COUNTED = ("accuracy", "balanced_accuracy", "macro_f1", "weighted_f1")
"""Figures of the confusion matrix."""

SETS_COUNTED = ("subset_accuracy", "micro_f1", "macro_f1")
"""Figures of predicted sets of labels."""

AREAS = ("roc_auc", "average_precision")
"""Figures of the order of the cells."""

NUMBERS = ("mse", "mae", "r2", "pearson", "spearman")
"""Mean squared and absolute error, coefficient of determination, and correlations of values and of ranks."""

TOLERANCE = 0.01
"""How far a row of probabilities may be from adding up to 1: half precision rounds."""

TEMPERATURES = (0.05, 20.0)
"""Bounds of the temperature: logits that separate the classes without an error have no best one."""

WORK = 4e7
"""Numbers looked at for one interval; over more, the resamples are fewer."""

FEWEST = 100
"""Resamples that an interval takes however many numbers there are."""

BATCH = 5e5
"""Weights held at once."""

POINTS = 200
"""Most points of a curve in a report."""


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
    names = _checked_names(classes)
    proba_nc = _checked_probabilities(proba, len(names))
    truth = _checked_codes(codes, proba_nc)
    labeled = truth >= 0
    boot = _resamples(groups, labeled, n_boot, seed)
    truth, proba_nc = truth[labeled], proba_nc[labeled]
    predicted = proba_nc.argmax(axis=1)
    table = confusion(truth, predicted, len(names))
    own = proba_nc[np.arange(len(truth)), truth]
    step = np.finfo(own.dtype).eps  # a probability of 0 counts as the smallest step of its type, as in scikit-learn
    losses = -np.log(np.clip(own, step, 1 - step).astype(np.float64))
    positives = (truth == code for code in range(len(names)))
    by_class, areas = _by_class(names, positives, (np.diag(table), table.sum(1), table.sum(0)), proba_nc, boot)
    log_loss = boot.estimates(("log_loss",), lambda weights: (weights @ losses / weights.sum(axis=1),), losses.size)
    return Evaluation(
        n_unlabeled=int((~labeled).sum()),
        confusion=table,
        **by_class,
        **boot.summary(_counted(truth, predicted, table, boot) | log_loss | areas),
    )


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
    check_range("threshold", threshold, low=0.0, high=1.0)
    names = _checked_names(classes)
    proba_nc = _checked_probabilities(proba, len(names))
    truth_nc, labeled = _checked_sets(truth, proba_nc)
    boot = _resamples(groups, labeled, n_boot, seed)
    proba_nc = proba_nc[labeled]
    predicted_nc = proba_nc >= threshold
    right = (truth_nc == predicted_nc).all(axis=1, keepdims=True)
    counts = np.hstack([truth_nc & predicted_nc, truth_nc, predicted_nc, right]).astype(np.float64)

    def figures(weights: Floats) -> tuple[Floats, ...]:
        """Those in `SETS_COUNTED`."""
        drawn = weights @ counts
        hits, true, predicted = np.split(drawn[:, :-1], 3, axis=1)
        listed = true.sum(axis=1) + predicted.sum(axis=1)
        micro = 2 * hits.sum(axis=1) / np.where(listed > 0, listed, 1)
        return drawn[:, -1] / weights.sum(axis=1), micro, mean_defined(shares(hits, true, predicted)[2])

    by_class, areas = _by_class(names, truth_nc.T, np.split(counts[:, :-1].sum(axis=0), 3), proba_nc, boot)
    return LabelSetEvaluation(
        n_unlabeled=int((~labeled).sum()),
        threshold=float(threshold),
        **by_class,
        **boot.summary(boot.estimates(SETS_COUNTED, figures, proba_nc.size) | areas),
    )


def evaluate_numbers(
    truth: ArrayLike,
    predicted: ArrayLike,
    groups: ArrayLike | None = None,
    *,
    seed: int = 0,
    n_boot: int = 1000,
) -> NumberEvaluation:
    """Figures of a regression on held-out cells, with 95% bootstrap intervals."""
    values, guesses = np.asarray(truth, dtype=np.float64), np.asarray(predicted, dtype=np.float64)
    if values.ndim != 1 or values.shape != guesses.shape:
        msg = f"truth has the shape {values.shape} and predicted {guesses.shape}. Give one number of each per cell."
        raise OptionError(msg)
    measured = ~np.isnan(values)
    if not measured.any():
        msg = f"None of the {len(values):,} cells has a number, so nothing can be measured."
        raise NoCellsError(msg)
    broken = np.flatnonzero(measured & ~(np.isfinite(guesses) & np.isfinite(values)))
    if len(broken):
        n, first = len(broken), broken[0]
        msg = f"{n:,} cells have a truth or prediction that is not finite, first row {first}. Leave them out."
        raise OptionError(msg)
    boot = _resamples(groups, measured, n_boot, seed)
    figures = _number_figures(values[measured], guesses[measured])
    return NumberEvaluation(
        n_unlabeled=int((~measured).sum()), **boot.summary(boot.estimates(NUMBERS, figures, 2 * boot.n))
    )


# Classes


def confusion(truth: ArrayLike, predicted: ArrayLike, n_classes: int) -> NDArray[np.int64]:
    """Cells by true class, in rows, and predicted class, ``(C, C)``."""
    pairs = np.asarray(truth, dtype=np.int64) * n_classes + np.asarray(predicted, dtype=np.int64)
    return np.bincount(pairs, minlength=n_classes**2).reshape(n_classes, n_classes)


def shares(hits: NDArray[Any], truth: NDArray[Any], predicted: NDArray[Any]) -> tuple[Floats, Floats, Floats]:
    """Precision, recall and F1; NaN for classes without cells, precision 0 where nothing was predicted."""
    occurs = np.where(truth > 0, 1.0, np.nan)
    with np.errstate(divide="ignore", invalid="ignore"):
        precision = np.nan_to_num(hits / predicted) * occurs
        recall = np.nan_to_num(hits / truth) * occurs
        f1 = np.nan_to_num(2 * hits / (truth + predicted)) * occurs
    return precision, recall, f1


def mean_defined(values: Floats) -> Floats:
    """Mean of each row over what is not NaN; NaN for a row without."""
    with np.errstate(invalid="ignore"):
        mean: Floats = np.nansum(values, axis=1) / np.isfinite(values).sum(axis=1)
    return mean


def accuracy_and_macro_f1(truth: ArrayLike, predicted: ArrayLike) -> tuple[float, float]:
    """Share predicted right, and mean F1 of the classes in truth or predictions; NaN without a cell."""
    from sklearn.metrics import accuracy_score, f1_score

    if not np.size(truth):
        return math.nan, math.nan
    return float(accuracy_score(truth, predicted)), float(f1_score(truth, predicted, average="macro"))


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


def _counted(
    truth: NDArray[np.int64], predicted: NDArray[np.int64], table: NDArray[np.int64], boot: "Bootstrap"
) -> "Estimates":
    """The figures in `COUNTED`, from resampled confusion matrices."""
    n_classes = len(table)
    kinds, place = np.unique(truth * n_classes + predicted, return_inverse=True)
    is_true, is_predicted = np.eye(n_classes)[kinds // n_classes], np.eye(n_classes)[kinds % n_classes]

    def figures(counts: NDArray[Any]) -> tuple[Floats, ...]:
        hits, true = counts @ (is_true * is_predicted), counts @ is_true
        _, recall, f1 = shares(hits, true, counts @ is_predicted)
        n = true.sum(axis=1)
        return hits.sum(axis=1) / n, mean_defined(recall), mean_defined(f1), np.nansum(f1 * true, axis=1) / n

    place = place.reshape(-1)
    drawn = [figures(counts) for counts in boot.tables(place, boot.draws())]
    return _intervals(COUNTED, figures(np.bincount(place)[None]), drawn, boot.draws())


def _by_class(
    names: tuple[str, ...],
    positives: Iterable[NDArray[np.bool_]],
    counts: Sequence[NDArray[Any]],
    proba_nc: NDArray[np.floating],
    boot: "Bootstrap",
) -> tuple[dict[str, Any], "Estimates"]:
    """The fields of `PerClass`; and the areas, each the mean over the classes it is defined for."""
    rankings = [ClassRanking(score, positive) for score, positive in zip(proba_nc.T, positives, strict=True)]
    curves = {name: ranking.curves() for name, ranking in zip(names, rankings, strict=True)}
    roc = {name: curve for name, (curve, _) in curves.items() if curve is not None}
    pr = {name: curve for name, (_, curve) in curves.items() if curve is not None}

    def areas(weights: Floats) -> tuple[Floats, ...]:
        auc, average = zip(*(ranking.areas(weights) for ranking in rankings), strict=True)
        return mean_defined(np.array(auc).T), mean_defined(np.array(average).T)

    hits, true, predicted = counts
    rows = class_rows(names, hits, true, predicted, roc, pr)
    return {"classes": names, "per_class": rows, "roc": roc, "pr": pr}, boot.estimates(AREAS, areas, proba_nc.size)


# The order of the cells


class ClassRanking:
    """Cells ordered by their probability of a class, for areas under many weightings at once."""

    def __init__(self, score: NDArray[np.floating], positive: NDArray[np.bool_]) -> None:
        self._order = np.argsort(-score, kind="stable")
        ranked, self._positive = score[self._order], positive[self._order]
        changes = np.flatnonzero(ranked[1:] != ranked[:-1])
        self._ends = np.append(changes, len(ranked) - 1)  # of runs of equal scores
        starts, run = np.append(0, changes + 1), np.searchsorted(self._ends, np.flatnonzero(self._positive))
        # Only runs that hold cells of the class contribute to either area.
        runs, self._first = np.unique(run, return_index=True)
        self._from, self._to = starts[runs], self._ends[runs] + 1

    def areas(self, weights: Floats) -> tuple[Floats, Floats]:
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
        true, total = np.cumsum(self._positive)[self._ends], self._ends + 1
        false = total - true
        roc = pr = None
        if true[-1] and false[-1]:
            roc = RocCurve(*_thinned(np.append(0, false / false[-1]), np.append(0, true / true[-1])), float(auc))
        if true[-1]:
            pr = PrCurve(*_thinned(np.append(0, true / true[-1]), np.append(1, true / total)), float(average))
        return roc, pr


def _thinned(x: Floats, y: Floats) -> tuple[Floats, Floats]:
    """At most `POINTS` points of a curve, both ends among them: its corners, or points about equally far apart."""
    if len(x) > POINTS:
        turns = np.abs(np.diff(x)[1:] * np.diff(y)[:-1] - np.diff(x)[:-1] * np.diff(y)[1:]) > 1e-14
        corners = np.concatenate([[0], np.flatnonzero(turns) + 1, [len(x) - 1]])
        x, y = x[corners], y[corners]
    if len(x) <= POINTS:
        return x, y
    along = np.append(0, np.cumsum(np.abs(np.diff(x)) + np.abs(np.diff(y))))
    chosen = np.unique(np.searchsorted(along, np.linspace(0, along[-1], POINTS - 1)))
    chosen[0], last = 0, len(x) - 1
    chosen = np.append(chosen[chosen < last], last)
    return x[chosen], y[chosen]


# Numbers


def _number_figures(values: Floats, guesses: Floats) -> Callable[[Floats], tuple[Floats, ...]]:
    """A function of weights that gives the figures in `NUMBERS` under each weighting, ``(draws,)``."""
    # Centered, so that sums of squares keep their digits far from 0.
    x, y, error = values - values.mean(), guesses - guesses.mean(), guesses - values
    is_constant = (values == values[0]).all() or (guesses == guesses[0]).all()
    ranks_x, ranks_y = _weighted_ranks(values), _weighted_ranks(guesses)

    def figures(weights: Floats) -> tuple[Floats, ...]:
        n = weights.sum(axis=1)
        squared, absolute = weights @ error**2 / n, weights @ np.abs(error) / n
        spread = weights @ x**2 / n - (weights @ x / n) ** 2
        with np.errstate(divide="ignore", invalid="ignore"):
            r2 = np.where(spread > 1e-12 * np.mean(x**2), 1 - squared / spread, np.nan)
        pearson = spearman = np.full(len(n), np.nan)
        if not is_constant:
            pearson = _correlation(weights, x[None], y[None])
            spearman = _correlation(weights, ranks_x(weights), ranks_y(weights))
        return squared, absolute, r2, pearson, spearman

    return figures


def _weighted_ranks(values: Floats) -> Callable[[Floats], Floats]:
    """A function of weights that gives the centered rank of each value, ``(draws, n)``; equal ones share theirs."""
    order = np.argsort(values, kind="stable")
    _, starts, group = np.unique(values[order], return_index=True, return_inverse=True)
    place = np.empty(len(values), dtype=np.intp)
    place[order] = group

    def ranks(weights: Floats) -> Floats:
        held = np.add.reduceat(weights[:, order], starts, axis=1)
        middle = np.cumsum(held, axis=1) - held / 2 - weights.sum(axis=1, keepdims=True) / 2
        ranked: Floats = middle[:, place]
        return ranked

    return ranks


def _correlation(weights: Floats, x: Floats, y: Floats) -> Floats:
    """Weighted Pearson correlation of each row, ``(draws,)``; NaN where either is constant."""
    n = weights.sum(axis=1, keepdims=True)
    x = x - (weights * x).sum(axis=1, keepdims=True) / n
    y = y - (weights * y).sum(axis=1, keepdims=True) / n
    xx, yy, xy = (weights * x * x).sum(axis=1), (weights * y * y).sum(axis=1), (weights * x * y).sum(axis=1)
    with np.errstate(divide="ignore", invalid="ignore"):
        correlation: Floats = np.clip(xy / np.sqrt(xx * yy), -1, 1)
    return correlation


# Intervals

Estimates = dict[str, tuple[Estimate, int]]
"""Figures by name, with the number of resamples behind each interval."""


@dataclass(frozen=True, kw_only=True)
class Bootstrap:
    """Resamples of cells, or of the groups they are in: how often and with which seed."""

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

    def estimates(
        self, names: Sequence[str], figures: Callable[[Floats], tuple[Floats, ...]], numbers: int
    ) -> Estimates:
        """Figures of all cells, with intervals from as many resamples as that many numbers in each allow."""
        n_draws = self.draws(numbers)
        drawn = [figures(weights) for weights in self.weights(n_draws)]
        return _intervals(names, figures(np.ones((1, self.n))), drawn, n_draws)

    def summary(self, measured: Estimates) -> dict[str, Any]:
        """The fields of `Figures` about what was measured and resampled."""
        metrics, draws = ({name: pair[i] for name, pair in measured.items()} for i in (0, 1))
        return {"n": self.n, "n_groups": self.n_groups, "seed": self.seed, "metrics": metrics, "draws": draws}

    def weights(self, n_draws: int) -> Iterator[Floats]:
        """How often each cell is drawn, ``(draws, n)`` at a time."""
        rng = np.random.default_rng(self.seed)
        units = self.n if self.n_groups is None else self.n_groups
        step = max(1, int(BATCH // self.n))
        for start in range(0, n_draws, step):
            drawn = np.empty((min(step, n_draws - start), units))
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


def estimate(value: float, drawn: Floats) -> Estimate:
    """A figure with the middle 95% of its resamples, ``(draws,)``; those where it is not defined are left out."""
    drawn = drawn[np.isfinite(drawn)]
    if not len(drawn) or np.isnan(value):
        return Estimate(float(value))
    low, high = np.quantile(drawn, (0.025, 0.975))
    return Estimate(float(value), float(low), float(high))


def _intervals(
    names: Sequence[str], exact: Sequence[Floats], drawn: Sequence[Sequence[Floats]], n_draws: int
) -> Estimates:
    columns = [np.concatenate(parts) for parts in zip(*drawn, strict=True)] or [np.empty(0)] * len(names)
    return {n: (estimate(value[0], col), n_draws) for n, value, col in zip(names, exact, columns, strict=True)}


def _resamples(groups: ArrayLike | None, measured: NDArray[np.bool_], n_boot: int, seed: int) -> Bootstrap:
    """Resamples of the cells measured, ``(n,)``, or of the groups they are in."""
    check_range("n_boot", n_boot, low=0)
    names = checked_groups(groups, len(measured))
    return Bootstrap.over(None if names is None else names[measured], int(measured.sum()), n_boot=n_boot, seed=seed)


# Calibration


def softmax(logits: ArrayLike, temperature: float = 1.0) -> Floats:
    """Probability of each class, ``(n, C)``."""
    from scipy import special

    check_range("temperature", temperature, above=0.0)
    proba: Floats = special.softmax(_matrix(logits, "logits") / temperature, axis=1)
    return proba


def fit_temperature(logits: ArrayLike, codes: NDArray[np.int64]) -> float:
    """Temperature under which the labels are likeliest (Guo et al., ICML 2017), between 0.05 and 20."""
    from scipy import optimize, special

    logits_nc = _matrix(logits, "logits")
    right = logits_nc[np.arange(len(codes)), codes]

    def loss(log_temperature: float) -> float:
        scale = math.exp(-log_temperature)
        return float(np.mean(special.logsumexp(logits_nc * scale, axis=1) - right * scale))

    low, high = np.log(TEMPERATURES)
    best = optimize.minimize_scalar(loss, bounds=(low, high), method="bounded", options={"xatol": 1e-8})
    return float(np.exp(best.x)) if best.fun < loss(0.0) else 1.0


def expected_calibration_error(proba: NDArray[np.floating], codes: NDArray[np.int64], n_bins: int = 15) -> float:
    """How far confidence and accuracy are apart, from 0 to 1 (Naeini et al., AAAI 2015; Guo et al., ICML 2017)."""
    confidence = proba.max(axis=1)
    right = proba.argmax(axis=1) == codes
    edges = np.linspace(0, 1, n_bins + 1)
    place = np.clip(np.searchsorted(edges, confidence, side="left") - 1, 0, n_bins - 1)
    gaps = np.bincount(place, weights=right - confidence, minlength=n_bins)
    return float(np.abs(gaps).sum() / len(codes))


def _matrix(values: ArrayLike, name: str) -> Floats:
    values_nc = np.asarray(values, dtype=np.float64)
    if values_nc.ndim != 2 or values_nc.shape[1] == 0:
        msg = f"{name} has shape {values_nc.shape}; it takes one row per cell and one column per class."
        raise LabelError(msg)
    if not np.isfinite(values_nc).all():
        row = int(np.flatnonzero(~np.isfinite(values_nc).all(axis=1))[0])
        msg = f"{name} has missing or infinite values, first in row {row}. Look at that cell, or train more gently."
        raise NonFiniteValuesError(msg)
    return values_nc


# What was given


def checked_groups(groups: ArrayLike | None, n: int) -> NDArray[Any] | None:
    """Groups as text, one per cell."""
    if groups is None:
        return None
    names = np.asarray(groups, dtype=object).astype(str)
    if names.shape != (n,):
        msg = f"groups has the shape {names.shape} for {n:,} cells. Give the group of each cell."
        raise OptionError(msg)
    return names


def _checked_codes(codes: ArrayLike, proba_nc: NDArray[np.floating]) -> NDArray[np.int64]:
    """Classes of the cells, -1 for none, that go with probabilities that add up to 1."""
    truth, n_classes = np.asarray(codes), proba_nc.shape[1]
    if truth.shape != proba_nc.shape[:1] or not np.issubdtype(truth.dtype, np.integer):
        msg = (
            f"codes holds {truth.dtype} of shape {truth.shape} for {len(proba_nc):,} rows of proba. Give one whole "
            "number per cell: the position of its class, or -1."
        )
        raise OptionError(msg)
    if len(truth) and not -1 <= truth.min() <= truth.max() < n_classes:
        msg = (
            f"codes go from {truth.min()} to {truth.max()}; with {n_classes} classes they go from -1 for no label to "
            f"{n_classes - 1}."
        )
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
    return truth.astype(np.int64)


def _checked_sets(truth: ArrayLike, proba_nc: NDArray[np.floating]) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    """Labels of the cells that have them all, ``(labeled, C)``, and which cells those are, ``(n,)``."""
    values_nc = np.asarray(truth, dtype=np.float64)
    if values_nc.shape != proba_nc.shape:
        msg = f"truth has the shape {values_nc.shape} and proba {proba_nc.shape}. Give both for every cell and label."
        raise OptionError(msg)
    labeled: NDArray[np.bool_] = np.asarray(~np.isnan(values_nc).any(axis=1))
    if not labeled.any():
        msg = f"None of the {len(labeled):,} cells has labels that are known, so nothing can be measured."
        raise NoCellsError(msg)
    values_nc = values_nc[labeled]
    if not np.isin(values_nc, (0, 1)).all():
        other = np.setdiff1d(values_nc, (0, 1))[:5].tolist()
        msg = f"truth holds {other}; it takes 1 for a label the cell has, 0 for one it has not, and NaN for not known."
        raise OptionError(msg)
    return values_nc.astype(bool), labeled


def _checked_names(classes: Sequence[str]) -> tuple[str, ...]:
    """Names of classes as text, all different."""
    names = tuple(str(name) for name in classes)
    twice = sorted({name for name in names if names.count(name) > 1})
    if not names or twice:
        wrong = f"classes names {twice} more than once" if twice else "classes is empty"
        msg = f"{wrong}. Name each class once, in the order of the columns of proba."
        raise OptionError(msg)
    return names


def _checked_probabilities(proba: ArrayLike, n_classes: int) -> NDArray[np.floating]:
    """Probabilities with one column per class, in their own precision."""
    proba_nc = np.asarray(proba)
    if not np.issubdtype(proba_nc.dtype, np.floating):
        proba_nc = proba_nc.astype(np.float64)
    if proba_nc.ndim != 2 or proba_nc.shape[1] != n_classes:
        msg = (
            f"proba has the shape {proba_nc.shape}; it takes one row per cell and one column for each of {n_classes} "
            "classes."
        )
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
