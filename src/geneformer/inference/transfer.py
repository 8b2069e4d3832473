"""Labels of a reference passed on to other cells in the same space, and which of these lie far from the reference."""

import warnings
from dataclasses import dataclass, field
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from geneformer.errors import OptionError
from geneformer.options import AnnotateOptions

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

STRENGTH = 0.1
"""Inverse strength of the penalty of the logistic regression."""


@dataclass(frozen=True, slots=True, eq=False)
class Transferred:
    """What becomes of cells: probabilities of classes, ``(n, C)``, and how far they are from the reference.

    `distance` is the mean Euclidean distance to the nearest reference cells, ``(n,)``;
    `relative` the same in units of the cut-off of the class that is called: a cell is far above 1.
    """

    proba: Floats
    distance: Floats
    relative: Floats

    @property
    def is_far(self) -> NDArray[np.bool_]:
        """Whether cells lie beyond the cut-off, ``(n,)``."""
        far: NDArray[np.bool_] = self.relative > 1
        return far


@dataclass(frozen=True, slots=True, eq=False)
class LabelTransfer:
    """A labeled reference, ready to label other cells.

    Attributes
    ----------
    cutoffs
        Distance beyond which a cell is far, by the class that is called, ``(C,)``.
    held_out
        The reference cells themselves, each while its fold was held out.
    rejected
        Share of the held-out cells that are far by cut-offs from the other folds: what `false_rejection` came to.
    """

    _labeler: "_Labeler"
    cutoffs: Floats
    held_out: Transferred
    rejected: float = field(default=0.0)

    @classmethod
    def fit(
        cls,
        values_nd: NDArray[Any],
        codes: Ints,
        n_classes: int,
        options: AnnotateOptions,
        *,
        groups: NDArray[Any] | None = None,
        standardize: bool = True,
    ) -> Self:
        """Learn classes and cut-offs from reference cells; groups, such as donors, are held out whole."""
        proba, distance = np.zeros((len(codes), n_classes)), np.zeros(len(codes))
        fold_of = folds_of(codes, groups, options)
        for fold in np.unique(fold_of):
            out = fold_of == fold
            labeler = _Labeler(values_nd[~out], codes[~out], n_classes, options, standardize=standardize)
            proba[out], distance[out] = labeler.label(values_nd[out])
        called = proba.argmax(axis=1)
        cutoffs = cutoffs_of(distance, called, n_classes, options.false_rejection)
        far = np.zeros(len(codes), dtype=bool)
        for fold in np.unique(fold_of):
            out = fold_of == fold
            others = cutoffs_of(distance[~out], called[~out], n_classes, options.false_rejection)
            far[out] = distance[out] > others[called[out]]
        held_out = Transferred(proba, distance, distance / cutoffs[called])
        labeler = _Labeler(values_nd, codes, n_classes, options, standardize=standardize)
        return cls(labeler, cutoffs, held_out, float(far.mean()))

    def predict(self, values_nd: NDArray[Any]) -> Transferred:
        """Classes and distances of other cells."""
        proba, distance = self._labeler.label(values_nd)
        return Transferred(proba, distance, distance / self.cutoffs[proba.argmax(axis=1)])


def cutoffs_of(distance: Floats, called: Ints, n_classes: int, false_rejection: float) -> Floats:
    """Distance that at most the given share of cells like the held-out ones exceed, by the class called, ``(C,)``.

    The order statistic of split-conformal prediction: for cells that are exchangeable with the held-out ones the share
    holds for any distribution. Classes with too few held-out cells for it take the cut-off of all cells together.
    """
    cutoffs = np.full(n_classes, _order_statistic(distance, false_rejection))
    for code in range(n_classes):
        own = _order_statistic(distance[called == code], false_rejection)
        if np.isfinite(own):
            cutoffs[code] = own
    return cutoffs


def _order_statistic(distance: Floats, share: float) -> float:
    rank = int(np.ceil((len(distance) + 1) * (1 - share)))
    return float(np.sort(distance)[rank - 1]) if rank <= len(distance) else np.inf


def folds_of(codes: Ints, groups: NDArray[Any] | None, options: AnnotateOptions) -> Ints:
    """The fold in which each reference cell is held out, ``(n,)``: classes spread evenly, groups whole."""
    from sklearn.model_selection import StratifiedGroupKFold, StratifiedKFold

    sizes = np.bincount(codes)
    if (sizes > 0).sum() < 2:
        msg = "The reference has cells of one class only. Give one with at least two classes."
        raise OptionError(msg)
    n_groups = len(codes) if groups is None else len(np.unique(groups))
    if n_groups < 2:
        msg = "All reference cells belong to one group. At least two are needed to hold one out; leave out the groups."
        raise OptionError(msg)
    n_folds, seed = min(options.folds, n_groups, int(sizes.max())), options.seed
    splitter: Any = StratifiedKFold if groups is None else StratifiedGroupKFold
    fold_of = np.zeros(len(codes), dtype=np.int64)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # a rare class is missing in some folds
        for fold, (_, out) in enumerate(splitter(n_folds, shuffle=True, random_state=seed).split(codes, codes, groups)):
            fold_of[out] = fold
    return fold_of


class _Labeler:
    """Reference cells, in standardized dimensions or as they are, and what calls classes by them."""

    def __init__(
        self, values_nd: NDArray[Any], codes: Ints, n_classes: int, options: AnnotateOptions, *, standardize: bool
    ) -> None:
        from sklearn.linear_model import LogisticRegression
        from sklearn.neighbors import NearestNeighbors
        from sklearn.preprocessing import StandardScaler

        self._codes, self._n_classes = codes, n_classes
        self._scaler = StandardScaler(with_mean=standardize, with_std=standardize).fit(values_nd)
        scaled_nd = self._scaler.transform(values_nd)
        self._neighbors = NearestNeighbors(n_neighbors=min(options.n_neighbors, len(codes))).fit(scaled_nd)
        self._probe: Any = None
        if options.method == "probe":
            self._probe = LogisticRegression(C=STRENGTH, max_iter=2000).fit(scaled_nd, codes)

    def label(self, values_nd: NDArray[Any]) -> tuple[Floats, Floats]:
        """Probabilities of classes, ``(n, C)``, and mean distances to the nearest reference cells, ``(n,)``."""
        scaled_nd = self._scaler.transform(values_nd)
        distances_nk, rows_nk = self._neighbors.kneighbors(scaled_nd)
        proba = np.zeros((len(values_nd), self._n_classes))
        if self._probe is not None:
            proba[:, self._probe.classes_] = self._probe.predict_proba(scaled_nd)
        else:
            cells = np.repeat(np.arange(len(values_nd)), rows_nk.shape[1])
            np.add.at(proba, (cells, self._codes[rows_nk].ravel()), 1)
            proba /= rows_nk.shape[1]
        return proba, distances_nk.mean(axis=1)
