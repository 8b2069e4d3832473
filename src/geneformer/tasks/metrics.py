"""How well classes were predicted in held-out cells, with bootstrap intervals."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from geneformer.errors import NoCellsError, OptionError
from geneformer.options._check import check_range
from geneformer.results.classification import Estimate, Evaluation
from geneformer.tasks.class_figures import checked_names, checked_probabilities, class_rows, mean_defined, shares
from geneformer.tasks.label_set_metrics import evaluate_label_sets
from geneformer.tasks.number_metrics import evaluate_numbers
from geneformer.tasks.rank_curves import AREAS, ClassRanking, macro_areas, named_curves
from geneformer.tasks.resampling import Bootstrap, checked_groups, estimate

__all__ = ["evaluate_classes", "evaluate_label_sets", "evaluate_numbers"]

COUNTED = ("accuracy", "balanced_accuracy", "macro_f1", "weighted_f1")
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
    """Figures of a classifier on held-out cells, with 95% bootstrap intervals, class by class, with curves.

    The class predicted is the most probable one; of equally probable ones, the first. `metrics` holds `accuracy`,
    `balanced_accuracy`, `macro_f1`, `weighted_f1`, `log_loss` in nats, and `roc_auc` and `average_precision`, each the
    unweighted mean of every class against all others. They are scikit-learn's; averages over classes are over the
    classes that occur in the truth. Intervals are the middle 95% of resamples; for `log_loss` and the areas there are
    fewer of them where cells are many, see `draws` of the result.

    Parameters
    ----------
    codes
        True class of each cell as a position in `classes`, ``(n,)``; cells with -1 have no label and are left out.
    proba
        Probability of each class, ``(n, C)``; rows add up to 1.
    classes
        Names of the classes, all different, ``(C,)``.
    groups
        Donor, batch or the like of each cell, ``(n,)``. The intervals then come from resampling whole groups, and are
        rough where there are few; there are none with a single group.
    seed
        Seed of the resamples.
    n_boot
        Resamples; 0 for no intervals.

    Raises
    ------
    OptionError
        Shapes, codes or probabilities that do not fit together.
    NoCellsError
        No cell has a label.

    Examples
    --------
    >>> import numpy as np
    >>> from geneformer.tasks.metrics import evaluate_classes
    >>> proba = np.array([[0.9, 0.1], [0.6, 0.4], [0.3, 0.7], [0.8, 0.2]])
    >>> found = evaluate_classes([0, 0, 1, 1], proba, ["B", "T"])
    >>> found.metrics["accuracy"].mean
    0.75
    >>> found.confusion.tolist()
    [[2, 0], [1, 1]]
    """
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
        draws=dict.fromkeys(COUNTED, boot.draws())
        | {"log_loss": boot.draws(losses.size)}
        | dict.fromkeys(AREAS, boot.draws(proba_nc.size)),
        seed=seed,
        metrics=_counted(confusion, kinds, boot) | {"log_loss": _mean_loss(losses, boot)} | macro_areas(rankings, boot),
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


def _counted(confusion: NDArray[np.int64], kinds: NDArray[np.int64], boot: Bootstrap) -> dict[str, Estimate]:
    """Figures that the confusion matrix tells, from resampled confusion matrices."""
    n_classes = len(confusion)
    found, place = np.unique(kinds, return_inverse=True)
    truth, predicted = np.eye(n_classes)[found // n_classes], np.eye(n_classes)[found % n_classes]
    hits = truth * predicted
    drawn = [
        _figures(table @ hits, table @ truth, table @ predicted)
        for table in boot.tables(place.reshape(-1), boot.draws())
    ]
    values = _figures(np.diag(confusion)[None], confusion.sum(axis=1)[None], confusion.sum(axis=0)[None])
    return {
        name: estimate(value[0], np.concatenate([np.empty(0), *(figures[i] for figures in drawn)]))
        for i, (name, value) in enumerate(zip(COUNTED, values, strict=True))
    }


def _figures(
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
