"""From a column of labels to what a network is trained on."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from geneformer.errors import UnknownClassError
from geneformer.models.losses import MISSING
from geneformer.options import ClassifyOptions
from geneformer.tasks.labels import cap_cells, class_weights, drop_rare, encode_label_sets, encode_labels
from geneformer.tasks.splits import Split, check_classes


@dataclass(frozen=True, slots=True, eq=False)
class ClassTargets:
    """What is to be learnt about each cell.

    Attributes
    ----------
    values
        Classes, `losses.MISSING` for cells that are not used, int64 ``(n,)``; or for label sets 0 and 1, not a number
        for cells that are not used, float32 ``(n, C)``.
    codes
        What cells are split by: classes, or combinations of labels; -1 for cells that are not used, ``(n,)``.
    classes
        Names of the classes, ``(C,)``.
    """

    values: NDArray[Any]
    codes: NDArray[np.int64]
    classes: tuple[str, ...]

    def weights(self, rows: NDArray[np.int64]) -> NDArray[np.float64]:
        """Weights that let every class, or the cells with and without a label, count alike in some rows, ``(C,)``."""
        values = self.values[rows]
        if values.ndim == 1:
            return class_weights(np.where(values == MISSING, -1, values), len(self.classes))
        positive = np.nansum(values, axis=0)
        weights: NDArray[np.float64] = ((~np.isnan(values[:, 0])).sum() - positive) / np.maximum(positive, 1)
        return weights

    def check_split(self, split: Split) -> None:
        """Refuse a split that tests classes, or labels, without learning them.

        Raises
        ------
        ConstantLabelError
            Fewer than two classes are learnt.
        UnknownClassError
            A class or label in the validation or test part that is not learnt. New combinations of labels are.
        """
        if self.values.ndim == 1:
            check_classes(split, self.codes, self.classes)
            return
        learnt = (self.values[split.train] == 1).any(axis=0)
        for name in ("valid", "test"):
            cells = (self.values[getattr(split, name)] == 1).sum(axis=0)
            unknown = np.flatnonzero((cells > 0) & ~learnt)
            if len(unknown):
                told = ", ".join(f"{self.classes[i]!r} ({cells[i]:,} cells)" for i in unknown[:5])
                msg = (
                    f"{len(unknown)} labels of the {name} part are not learnt: {told}. They are never predicted; drop "
                    "rare labels, or split by finer groups."
                )
                raise UnknownClassError(msg)


def class_targets(column: ArrayLike, options: ClassifyOptions, *, name: str, seed: int = 0) -> ClassTargets:
    """Targets from the labels of a column, rare classes and superfluous cells left out.

    Parameters
    ----------
    column
        Label or labels of each cell, ``(n,)``.
    options
        Which cells and classes are used.
    name
        Name of the column, for messages.
    seed
        Fixes which cells are drawn.

    Raises
    ------
    LabelError
        Labels that are missing throughout, constant, or all rare.
    """
    if options.multi_label:
        sets, classes = encode_label_sets(column, separator=options.separator, name=name)  # type: ignore[arg-type]
        known = ~np.isnan(sets).any(axis=1)
        combined = np.unique(np.nan_to_num(sets, nan=-1), axis=0, return_inverse=True)[1].reshape(-1)
        codes = _capped(np.where(known, combined, -1).astype(np.int64), options, seed)
        return ClassTargets(np.where((codes >= 0)[:, None], sets, np.nan).astype(np.float32), codes, classes)
    labels = encode_labels(column, name=name)
    if options.rare_below:
        labels = drop_rare(labels, options.rare_below)
    codes = _capped(labels.codes, options, seed)
    return ClassTargets(np.where(codes >= 0, codes, MISSING), codes, labels.classes)


def known_targets(
    column: ArrayLike, classes: Sequence[str], options: ClassifyOptions, *, name: str
) -> tuple[NDArray[Any], NDArray[np.int64]]:
    """Classes, ``(n,)``, or label sets, ``(n, C)``, among those that were learnt; and the rows that have any.

    Parameters
    ----------
    column
        Label or labels of each cell, ``(n,)``.
    classes
        Those that were learnt; cells with others are left out and told of.
    options
        Whether a cell may have several labels.
    name
        Name of the column, for messages.

    Raises
    ------
    MissingLabelError
        No cell has a label that was learnt.
    """
    if options.multi_label:
        sets, _ = encode_label_sets(
            column, classes=classes, separator=options.separator, name=name, others="leave_out"  # type: ignore[arg-type]
        )  # fmt: skip
        return sets, np.flatnonzero(~np.isnan(sets).any(axis=1))
    codes = encode_labels(column, classes=classes, name=name, others="leave_out").codes
    return codes, np.flatnonzero(codes >= 0)


def _capped(codes: NDArray[np.int64], options: ClassifyOptions, seed: int) -> NDArray[np.int64]:
    """Codes of the cells that are used, -1 for all others."""
    if options.max_cells is None and options.max_cells_per_class is None:
        return codes
    rows = cap_cells(codes, max_cells=options.max_cells, max_cells_per_class=options.max_cells_per_class, seed=seed)
    kept = np.full(len(codes), -1, dtype=np.int64)
    kept[rows] = codes[rows]
    return kept
