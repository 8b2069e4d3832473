"""Confidence that means what it says: temperature scaling and the expected calibration error."""

import math

import numpy as np
from numpy.typing import ArrayLike, NDArray

from geneformer.errors import LabelError, MissingLabelError, NonFiniteCountsError
from geneformer.options._check import check_range

TEMPERATURES = (0.05, 20.0)
"""Bounds of the temperature: logits that separate the classes without an error have no best one."""


def softmax(logits: ArrayLike, temperature: float = 1.0) -> NDArray[np.float64]:
    """Probability of each class, ``(n, C)``.

    Parameters
    ----------
    logits
        Scores of each class, ``(n, C)``.
    temperature
        Divides the scores: above 1 softens the probabilities, below 1 sharpens them. Their order stays.

    Raises
    ------
    OutOfRangeError
        A temperature that is not positive.
    NonFiniteCountsError
        Missing or infinite scores.
    LabelError
        `logits` is not one row per cell and one column per class.

    Examples
    --------
    >>> from geneformer.tasks.calibration import softmax
    >>> softmax([[0.0, 0.0], [50.0, -50.0]]).round(3)
    array([[0.5, 0.5],
           [1. , 0. ]])
    """
    from scipy import special

    check_range("temperature", temperature, above=0.0)
    proba: NDArray[np.float64] = special.softmax(_matrix(logits, "logits") / temperature, axis=1)
    return proba


def fit_temperature(logits: ArrayLike, codes: ArrayLike) -> float:
    """Temperature under which the labels are likeliest (Guo et al., ICML 2017), between 0.05 and 20.

    The negative log-likelihood has one valley in the temperature's logarithm, where it is minimized. Predicted
    classes do not change. 1 where no temperature does better.

    Parameters
    ----------
    logits
        Scores of cells that were not learnt from, ``(n, C)``.
    codes
        Their classes, -1 for none, ``(n,)``.

    Raises
    ------
    MissingLabelError
        No cell has a label.
    NonFiniteCountsError
        Missing or infinite scores.
    LabelError
        Scores and classes do not fit together.

    Examples
    --------
    >>> import numpy as np
    >>> from geneformer.tasks.calibration import fit_temperature
    >>> sure_but_wrong_once_in_four = np.tile([4.0, 0.0], (4, 1))
    >>> round(fit_temperature(sure_but_wrong_once_in_four, [0, 0, 0, 1]), 2)  # 4 / log(3)
    3.64
    """
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
    """How far confidence and accuracy are apart, from 0 to 1 (Naeini et al., AAAI 2015; Guo et al., ICML 2017).

    Cells are sorted into bins of equal width by the probability of their predicted class; the gap between its mean and
    the share of right predictions is averaged over the bins, weighted by their cells.

    Parameters
    ----------
    proba
        Probability of each class, ``(n, C)``.
    codes
        True classes, -1 for none, ``(n,)``.
    n_bins
        Bins between 0 and 1; each holds its upper edge.

    Raises
    ------
    OutOfRangeError
        Fewer than one bin.
    MissingLabelError
        No cell has a label.
    NonFiniteCountsError
        Missing or infinite probabilities.
    LabelError
        Values outside 0 to 1, or probabilities and classes that do not fit together.

    Examples
    --------
    >>> from geneformer.tasks.calibration import expected_calibration_error
    >>> expected_calibration_error([[0.75, 0.25]] * 4, [0, 0, 0, 1])
    0.0
    """
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
        raise NonFiniteCountsError(msg)
    return values_nc
