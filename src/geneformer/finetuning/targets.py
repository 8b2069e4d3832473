"""From a column of labels to what a network is trained on."""

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from geneformer.errors import ConstantLabelError, GeneformerWarning, LabelError, MissingLabelError, UnknownClassError
from geneformer.finetuning.labels import cap_cells, class_weights, drop_rare, encode_label_sets, encode_labels
from geneformer.finetuning.splits import Split, check_classes
from geneformer.models.losses import MISSING
from geneformer.options import ClassifyOptions, RegressOptions


@dataclass(frozen=True, slots=True, eq=False)
class ClassTargets:
    """What is to be learnt about each cell."""

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
        """Refuse a split that tests classes, or labels, without learning them."""
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
    """Targets from the labels of a column, rare classes and superfluous cells left out."""
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
    """Classes, ``(n,)``, or label sets, ``(n, C)``, among those that were learnt; and the rows that have any."""
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


Floats = NDArray[np.float64]

FEWEST = 5
"""Cells of a bin by which a split is stratified."""


@dataclass(frozen=True, slots=True, eq=False)
class NumberTargets:
    """What is to be learnt about each cell."""

    values: Floats
    codes: NDArray[np.int64]


def encode_numbers(values: Any, *, name: str = "number") -> Floats:
    """The numbers of a column, not a number where there is none, ``(n,)``."""
    import pandas as pd

    column = pd.Series(values)
    if isinstance(column.dtype, pd.CategoricalDtype):
        column = column.astype(object)
    known = column.notna().to_numpy()
    found = pd.to_numeric(column, errors="coerce") if not pd.api.types.is_bool_dtype(column) else column * np.nan
    numbers = np.asarray(found.to_numpy(dtype=np.float64, na_value=np.nan), dtype=np.float64)
    words = column.map(lambda value: isinstance(value, (bool, np.bool_))).to_numpy(dtype=bool)
    wrong = np.flatnonzero(known & (~np.isfinite(numbers) | words))
    if len(wrong):
        shown = ", ".join(dict.fromkeys(repr(column.iloc[row]) for row in wrong[:200].tolist()))
        msg = (
            f"{name!r} holds {len(wrong):,} entries that are no finite numbers, such as {shown[:80]}. Name a column of "
            "numbers to predict, or use CellClassifier for classes."
        )
        raise LabelError(msg)
    if not known.any():
        msg = f"None of the {len(known):,} cells has a number in {name!r}. Name the column that holds the numbers."
        raise MissingLabelError(msg)
    if not known.all():
        remark = f"{(~known).sum():,} of {len(known):,} cells have no number in {name!r} and are left out."
        warnings.warn(remark, GeneformerWarning, stacklevel=3)
    return numbers


def check_numbers(values: Floats, options: RegressOptions, *, name: str = "number") -> None:
    """Refuse numbers that cannot be learnt as the options have it."""
    least, most = np.nanmin(values), np.nanmax(values)
    if least == most:
        msg = f"All cells have {name!r} = {least:g}. There is nothing to learn from a constant."
        raise ConstantLabelError(msg)
    if least < 0 and options.output != "linear":
        below = int((values < 0).sum())
        why = f'loss="{options.loss}"' if options.counts else f'activation="{options.output}"'
        msg = (
            f"{below:,} cells have {name!r} below 0, down to {least:g}, and {why} knows no such numbers. Use "
            'loss="squared_error" or "gaussian" with activation="linear", or leave those cells out.'
        )
        raise LabelError(msg)


def number_strata(values: Floats, *, n_bins: int = 10) -> NDArray[np.int64]:
    """Bins of about as many cells each, by which a split can be stratified; -1 for cells without a number, ``(n,)``."""
    known = np.flatnonzero(~np.isnan(values))
    n = int(np.clip(len(known) // FEWEST, 1, n_bins))
    order = values[known].argsort(kind="stable")
    strata = np.full(len(values), -1, dtype=np.int64)
    strata[known[order]] = np.arange(len(known)) * n // max(len(known), 1)
    return strata


@dataclass(frozen=True, slots=True)
class NumberScale:
    """Between numbers as they are and as a network learns them, around 0 or 1."""

    center: float = 0.0
    unit: float = 1.0
    inside: float = 1.0

    @classmethod
    def fit(cls, values: Floats, options: RegressOptions) -> "NumberScale":
        """The scale of training cells, ``(n,)``; not a number for cells that have none."""
        mean, deviation = float(np.nanmean(values)), float(np.nanstd(values))
        if options.counts:
            return cls(inside=mean or 1.0)
        if options.output != "linear":
            return cls(unit=mean or 1.0)
        return cls(mean, deviation or 1.0)

    def to_network(self, values: Floats) -> NDArray[np.float32]:
        """As the network learns them, ``(n,)``."""
        return ((values - self.center) / self.unit).astype(np.float32)

    def mean(self, outputs: NDArray[np.float32]) -> Floats:
        """Predicted numbers from outputs of the network, ``(n, 1)`` or ``(n, 2)``, as they are, ``(n,)``."""
        return outputs[:, 0].astype(np.float64) * self.unit + self.center

    def deviation(self, outputs: NDArray[np.float32], loss: str) -> Floats | None:
        """Predicted standard deviation, ``(n,)``; None for a loss without one."""
        said = outputs.astype(np.float64)
        if loss == "gaussian":
            spread: Floats = np.exp(np.clip(said[:, 1], -10, 10) / 2) * self.unit
            return spread
        if loss == "poisson":
            return np.sqrt(np.maximum(said[:, 0], 1e-6))
        if loss == "negative_binomial":
            mean, size = np.maximum(said[:, 0], 1e-6), np.exp(np.clip(said[:, 1], -10, 10))
            return np.sqrt(mean + mean**2 / size)
        return None


Ints = NDArray[np.int64]


@dataclass(frozen=True, slots=True, eq=False)
class TaskLabels:
    """Class of each cell in every task."""

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
        """Refuse a split that learns fewer than two classes of a task, or tests classes that are not learnt."""
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
    """Class numbers of several columns; a cell is used if any of them has a label."""
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
    """Class numbers of columns for classes that were learnt; -1 for cells with another label or none, ``(n,)`` each."""
    return {
        name: encode_labels(values, classes=classes[name], name=name, others="leave_out").codes
        for name, values in columns.items()
    }


def _combined(stacked: Ints) -> Ints:
    """Combination of classes of each cell, ``(n,)``; -1 where none is known."""
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
