"""Scores of classifiers from counts: accuracy, macro-F1, confusion, and ROC curves on a common grid."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from geneformer.engine.training import Scored
from geneformer.errors import MissingExtraError, NoCellsError
from geneformer.models.losses import MISSING
from geneformer.tasks.calibration import softmax
from geneformer.tasks.class_figures import confusion

Floats = NDArray[np.float64]

POINTS = 100
"""Points of the grid of false positive rates on which curves of several splits are averaged."""


def accuracy_and_f1(table: NDArray[np.int64]) -> tuple[float, float]:
    """Share of cells told right, and the mean F1 of the classes that occur in truth or prediction.

    Parameters
    ----------
    table
        Confusion matrix, ``(C, C)``.

    Raises
    ------
    NoCellsError
        The table is empty.
    """
    if not table.sum():
        msg = "There is nothing to score: no cell or gene with a label was told. Check the data set."
        raise NoCellsError(msg)
    met = table.sum(axis=0) + table.sum(axis=1)
    f1 = 2 * np.diag(table)[met > 0] / met[met > 0]
    return float(np.trace(table) / table.sum()), float(f1.mean())


class score_labels:  # noqa: N801  used as a function
    """Metrics of validation batches: the mean loss of what has a label, accuracy and macro-F1.

    Parameters
    ----------
    n_classes
        Classes, C.
    """

    def __init__(self, n_classes: int) -> None:
        self.n_classes = n_classes

    def __call__(self, scored: Scored) -> dict[str, float]:
        """The metrics."""
        loss, table = 0.0, np.zeros((self.n_classes, self.n_classes), dtype=np.int64)
        for _, outputs in scored:
            truth = outputs.labels.cpu().numpy()
            told = outputs.logits.float().cpu().numpy().argmax(axis=1)
            known = truth != MISSING
            loss += float(outputs.loss) * int(known.sum())
            table += confusion(truth[known], told[known], self.n_classes)
        accuracy, macro_f1 = accuracy_and_f1(table)
        return {"loss": loss / int(table.sum()), "accuracy": accuracy, "macro_f1": macro_f1}


def roc_metrics(truth: ArrayLike, logits: ArrayLike) -> dict[str, Any]:
    """ROC curve of the second of two classes.

    Parameters
    ----------
    truth
        Class of each row, 0 or 1, ``(n,)``.
    logits
        Scores, ``(n, 2)``; the probability of the second class decides.

    Returns
    -------
    `fpr` and `tpr` of the corners of the curve, `interp_tpr` at `POINTS` false positive rates from 0 to 1, `auc`, and
    `tpr_wt`, the number of corners. The area is not a number where one class has no row.
    """
    try:
        from sklearn.metrics import auc, roc_curve
    except ImportError as error:
        msg = "ROC curves need scikit-learn. Install it with `pip install geneformer[train]`."
        raise MissingExtraError(msg) from error
    proba = softmax(np.asarray(logits, dtype=np.float64))[:, 1]
    codes = np.asarray(truth, dtype=np.int64)
    if len(np.unique(codes)) < 2:
        grid = np.full(POINTS, np.nan)
        return {"fpr": grid, "tpr": grid, "interp_tpr": grid, "auc": float("nan"), "tpr_wt": 0}
    fpr, tpr, _ = roc_curve(codes, proba)
    interpolated = np.interp(mean_fpr(), fpr, tpr)
    interpolated[0] = 0.0
    return {"fpr": fpr, "tpr": tpr, "interp_tpr": interpolated, "auc": float(auc(fpr, tpr)), "tpr_wt": len(tpr)}


def mean_fpr() -> Floats:
    """False positive rates at which curves are averaged, `POINTS` from 0 to 1."""
    return np.linspace(0, 1, POINTS)


def pool_rocs(
    all_tpr: Sequence[ArrayLike], all_auc: Sequence[float], weights: Sequence[float]
) -> tuple[Floats, float, float]:
    """Mean curve, mean area and its standard deviation over splits, weighted.

    Parameters
    ----------
    all_tpr
        True positive rates of each split on the common grid.
    all_auc
        Area of each split.
    weights
        Weight of each split. `roc_metrics` gives the number of corners of its curve, which the published figures are
        weighted by. Splits of weight 0 do not count.
    """
    share = np.asarray(weights, dtype=np.float64)
    used = share > 0
    if not used.any():
        return np.full(POINTS, np.nan), float("nan"), float("nan")
    share = share[used] / share[used].sum()
    curves, areas = np.asarray(all_tpr, dtype=np.float64)[used], np.asarray(all_auc, dtype=np.float64)[used]
    mean_tpr = share @ curves
    mean_tpr[-1] = 1.0
    area = float(share @ areas)
    return mean_tpr, area, float(np.sqrt(share @ (areas - area) ** 2))
