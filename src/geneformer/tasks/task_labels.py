"""Labels of several tasks on the same cells, some of them missing."""

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from geneformer.errors import ConstantLabelError, GeneformerWarning, LabelError, UnknownClassError
from geneformer.models.losses import MISSING
from geneformer.tasks.labels import cap_cells, class_weights, drop_rare, encode_labels
from geneformer.tasks.splits import Split

Ints = NDArray[np.int64]


@dataclass(frozen=True, slots=True, eq=False)
class TaskLabels:
    """Class of each cell in every task.

    Attributes
    ----------
    by_task
        Class number of each cell, -1 for none, ``(n,)`` each.
    classes
        Names of the classes of every task.
    codes
        Combination of labels that a cell has, by which cells are split; -1 for cells without any label, ``(n,)``.
    """

    by_task: dict[str, Ints]
    classes: dict[str, tuple[str, ...]]
    codes: Ints

    def targets(self) -> dict[str, Ints]:
        """What the network is trained on: `losses.MISSING` for cells that are not used, ``(n,)`` each."""
        return {name: np.where(self.used(codes), codes, MISSING) for name, codes in self.by_task.items()}

    def used(self, codes: Ints) -> NDArray[np.bool_]:
        """Cells that are used in a task with these class numbers, ``(n,)``."""
        used: NDArray[np.bool_] = (codes >= 0) & (self.codes >= 0)
        return used

    def weights(self, rows: Ints) -> dict[str, NDArray[np.float64]]:
        """Weights that let every class of a task count alike in some rows, ``(C,)`` each."""
        return {name: class_weights(codes[rows], len(self.classes[name])) for name, codes in self.by_task.items()}

    def check_split(self, split: Split) -> None:
        """Refuse a split that learns fewer than two classes of a task, or tests classes that are not learnt.

        Raises
        ------
        ConstantLabelError
            Fewer than two classes of a task are learnt.
        UnknownClassError
            A class in the validation or test part that is not learnt.
        """
        for name, codes in self.by_task.items():
            learnt = np.unique(codes[split.train][codes[split.train] >= 0])
            if len(learnt) < 2:
                found = f"all {self.classes[name][learnt[0]]!r}" if len(learnt) else "without a label"
                msg = f"The cells to learn {name!r} from are {found}. At least two classes are needed."
                raise ConstantLabelError(msg)
            held = np.concatenate([codes[split.valid], codes[split.test]])
            unknown = np.setdiff1d(held[held >= 0], learnt)
            if len(unknown):
                told = ", ".join(repr(self.classes[name][code]) for code in unknown[:5])
                msg = (
                    f"{len(unknown)} classes of {name!r} are held out without being learnt: {told}. Drop rare classes "
                    "(rare_below), or split by finer groups."
                )
                raise UnknownClassError(msg)


def encode_tasks(
    columns: Mapping[str, Any], *, rare_below: float = 0.0, max_cells: int | None = None, seed: int = 0
) -> TaskLabels:
    """Class numbers of several columns; a cell is used if any of them has a label.

    Parameters
    ----------
    columns
        Label of each cell by task, ``(n,)`` each.
    rare_below
        See `drop_rare`; 0 keeps all classes.
    max_cells
        Cells used, drawn at random. All by default.
    seed
        Fixes the draw.

    Warns
    -----
    GeneformerWarning
        How many cells lack a label.

    Raises
    ------
    LabelError
        No task, or labels of one that cannot be used: see `encode_labels`.

    Examples
    --------
    >>> from geneformer.tasks.task_labels import encode_tasks
    >>> labels = encode_tasks({"kind": ["T", "B", "T"], "state": ["ill", "well", "well"]})
    >>> labels.classes["state"], labels.by_task["state"].tolist(), labels.codes.tolist()
    (('ill', 'well'), [0, 1, 1], [1, 0, 2])
    """
    if not columns:
        msg = 'No column to learn from. Name one or more: fit(cells, ["cell_type", "disease"]).'
        raise LabelError(msg)
    by_task: dict[str, Ints] = {}
    classes: dict[str, tuple[str, ...]] = {}
    for name, values in columns.items():
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", GeneformerWarning)  # says "left out", which is true of one task only
            labels = encode_labels(values, name=name)
        labels = drop_rare(labels, rare_below) if rare_below else labels
        by_task[name], classes[name] = labels.codes, labels.classes
    stacked = np.stack(list(by_task.values()))
    _tell_missing(by_task, stacked)
    codes = _combined(stacked)
    if max_cells is not None:
        rows = cap_cells(codes, max_cells=max_cells, seed=seed)
        kept = np.full(len(codes), -1, dtype=np.int64)
        kept[rows] = codes[rows]
        codes = kept
    return TaskLabels(by_task, classes, codes)


def known_tasks(columns: Mapping[str, Any], classes: Mapping[str, Sequence[str]]) -> dict[str, Ints]:
    """Class numbers of columns for classes that were learnt; -1 for cells with another label or none, ``(n,)`` each.

    Parameters
    ----------
    columns
        Label of each cell by task, ``(n,)`` each.
    classes
        Classes by task.

    Raises
    ------
    MissingLabelError
        No cell has a label that was learnt.
    """
    return {
        name: encode_labels(values, classes=classes[name], name=name, others="leave_out").codes
        for name, values in columns.items()
    }


def _combined(stacked: Ints) -> Ints:
    """Combination of classes of each cell, ``(n,)``; -1 where none is known.

    Parameters
    ----------
    stacked
        Class numbers, ``(tasks, n)``.
    """
    codes = np.full(stacked.shape[1], -1, dtype=np.int64)
    labeled = (stacked >= 0).any(axis=0)
    codes[labeled] = np.unique(stacked[:, labeled], axis=1, return_inverse=True)[1].reshape(-1)
    return codes


def _tell_missing(by_task: Mapping[str, Ints], stacked: Ints) -> None:
    missing = {name: int((codes < 0).sum()) for name, codes in by_task.items()}
    if not any(missing.values()):
        return
    told = ", ".join(f"{number:,} in {name!r}" for name, number in missing.items() if number)
    n_none = int((stacked < 0).all(axis=0).sum())
    dropped = f" {n_none:,} have none at all and are left out." if n_none else ""
    remark = (
        f"Of {stacked.shape[1]:,} cells, some have no label ({told}); they teach the tasks they have one for.{dropped}"
    )
    warnings.warn(remark, GeneformerWarning, stacklevel=3)
