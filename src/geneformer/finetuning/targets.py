"""What is learnt about a cell: one class of many, any of many, or a number; how it is read, learnt and measured."""

import warnings
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from geneformer.errors import ConstantLabelError, GeneformerWarning, LabelError, MissingLabelError, UnknownClassError
from geneformer.finetuning.baselines import classify_by_baselines, regress_by_baselines
from geneformer.finetuning.evaluations import Figures
from geneformer.finetuning.labels import capped, class_weights, drop_rare, encode_label_sets, encode_labels
from geneformer.finetuning.metrics import (
    evaluate_classes,
    evaluate_label_sets,
    evaluate_numbers,
    expected_calibration_error,
    fit_temperature,
    softmax,
)
from geneformer.finetuning.reports import ClassificationReport, LabelSetReport, NumberReport, Report
from geneformer.finetuning.splits import Split
from geneformer.models.heads import HeadSpec
from geneformer.models.losses import MISSING
from geneformer.options import RegressOptions

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
Values = NDArray[Any]

FEWEST = 5
"""Cells of a bin by which a split is stratified."""


class Target(ABC):
    """One question about each cell. A new kind of question is a new target."""

    report_kind: ClassVar[type[Report]]
    metrics: ClassVar[tuple[str, ...]] = ("loss",)
    """Figures of the validation cells, the one that a search goes by last."""

    in_combinations: ClassVar[bool] = False
    """Whether the strata are combinations of labels, of which some may be rare without harm."""

    temperature: float = 1.0
    """Divides the logits before they become probabilities."""

    name: str

    @property
    @abstractmethod
    def head(self) -> HeadSpec:
        """The head that learns it."""

    @abstractmethod
    def encode(self, column: Any, name: str) -> Values:
        """Values of all cells, ``(n, ...)``; the first column encoded fixes the classes."""

    @abstractmethod
    def has_value(self, values: Values) -> NDArray[np.bool_]:
        """Cells whose value is known, ``(n,)``."""

    @abstractmethod
    def strata(self, values: Values, *, by_cell: bool) -> Ints:
        """What a split goes by, ``(n,)``; -1 for cells without a value."""

    @abstractmethod
    def prepare(self, values: Values, split: Split) -> None:
        """Refuse a split that cannot be learnt; fix what depends on the training cells."""

    def to_network(self, values: Values) -> Values:
        """Values as the loss takes them."""
        return values

    def weights(self, values: Values) -> Floats | None:
        """Weights that let every class count alike, ``(C,)``; None for a target without classes."""
        return None

    @abstractmethod
    def decode(self, outputs: NDArray[np.float32]) -> Floats:
        """Predictions from outputs of the head: probabilities ``(n, C)`` or numbers ``(n,)``."""

    def calibrate(self, outputs: NDArray[np.float32], truth: Values) -> dict[str, float]:
        """Adjust probabilities to validation cells; returns what it changed."""
        return {}

    @abstractmethod
    def measure(self, truth: Values, predictions: Floats, *, groups: Values | None, seed: int) -> Figures:
        """Figures of some predictions."""

    @abstractmethod
    def baselines(self, counts: Any, values: Values, tested: Any, **options: Any) -> dict[str, Floats]:
        """Predictions for the tested cells of models that learn from the counts of the training cells, by name."""

    def fold_settings(self, truth: Values, outputs: NDArray[np.float32]) -> dict[str, Any]:
        """What a report says about one fitted network."""
        return {}

    def report(
        self, truth: Values, predictions: Floats, baselines: Mapping[str, Floats], *,
        cell_ids: Values, groups: Values | None, seed: int, settings: Mapping[str, Any],
    ) -> Report:  # fmt: skip
        """Figures of the model and of the baselines on the same cells."""
        measure = partial(self.measure, truth, groups=groups, seed=seed)
        arrays = {"truth": truth} | self._report_fields(truth, predictions, dict(settings))
        return self.report_kind(
            evaluation=measure(predictions),
            baselines={name: measure(values) for name, values in baselines.items()},
            baseline_predictions=dict(baselines),
            cell_ids=cell_ids,
            **arrays,
        )

    @abstractmethod
    def _report_fields(self, truth: Values, predictions: Floats, settings: dict[str, Any]) -> dict[str, Any]:
        """Further fields of the report, settings among them."""


class _Classes(Target):
    """Base of the targets with classes."""

    classes: tuple[str, ...]

    def baselines(self, counts: Any, values: Values, tested: Any, **options: Any) -> dict[str, Floats]:
        """Linear models, the library size, and the majority; of label sets label by label."""
        return classify_by_baselines(counts, values, tested, n_classes=len(self.classes), **options)

    def _refuse_unlearnt(self, unlearnt: NDArray[Any], cells: NDArray[Any], part: str) -> None:
        if len(unlearnt):
            shown = ", ".join(f"{self.classes[code]!r} ({cells[code]:,} cells)" for code in unlearnt[:5])
            msg = (
                f"Labels {self.name!r}: {len(unlearnt)} classes of the {part} part are not learnt: {shown}. They are "
                "always predicted wrongly; drop rare classes (rare_below), or split by finer groups."
            )
            raise UnknownClassError(msg)


@dataclass(eq=False)
class OneOf(_Classes):
    """One class of many. Values are numbers of classes, `losses.MISSING` for no label."""

    report_kind = ClassificationReport
    metrics = ("loss", "accuracy", "macro_f1")

    name: str
    classes: tuple[str, ...] = ()
    temperature: float = 1.0
    rare_below: float = 0.0

    @property
    def head(self) -> HeadSpec:
        """The head that learns it."""
        return HeadSpec(name=self.name, classes=self.classes)

    def encode(self, column: Any, name: str) -> Values:
        """Numbers of classes, ``(n,)``."""
        labels = encode_labels(column, classes=self.classes or None, name=name, others="leave_out")
        if not self.classes:
            labels = drop_rare(labels, self.rare_below) if self.rare_below else labels
            self.classes = labels.classes
        return np.where(labels.codes >= 0, labels.codes, MISSING)

    def has_value(self, values: Values) -> NDArray[np.bool_]:
        """Cells with a label, ``(n,)``."""
        labeled: NDArray[np.bool_] = values >= 0
        return labeled

    def strata(self, values: Values, *, by_cell: bool) -> Ints:
        """The classes themselves, ``(n,)``."""
        return np.maximum(values, -1)

    def prepare(self, values: Values, split: Split) -> None:
        """Refuse a split that learns fewer than two classes, or tests classes that are not learnt."""
        codes = values[split.train]
        learnt = np.unique(codes[codes >= 0])
        if len(learnt) < 2:
            what = f"all {self.classes[learnt[0]]!r}" if len(learnt) else "without a label"
            msg = (
                f"Labels {self.name!r}: The {len(codes):,} cells to learn from are {what}. At least two classes are "
                "needed."
            )
            raise ConstantLabelError(msg)
        for part in ("valid", "test"):
            held_out = values[getattr(split, part)]
            codes = held_out[held_out >= 0]
            self._refuse_unlearnt(np.setdiff1d(codes, learnt), np.bincount(codes), part)

    def weights(self, values: Values) -> Floats:
        """Weights that let every class count alike, ``(C,)``."""
        return class_weights(np.maximum(values, -1), len(self.classes))

    def decode(self, outputs: NDArray[np.float32]) -> Floats:
        """Calibrated probabilities, ``(n, C)``."""
        return softmax(outputs.astype(np.float64), self.temperature)

    def calibrate(self, outputs: NDArray[np.float32], truth: Values) -> dict[str, float]:
        """Divide logits by the temperature under which the validation cells are likeliest."""
        logits = outputs.astype(np.float64)
        self.temperature = fit_temperature(logits, truth)
        return {
            "calibration_error_before": expected_calibration_error(softmax(logits), truth),
            "calibration_error": expected_calibration_error(softmax(logits, self.temperature), truth),
        }

    def measure(self, truth: Values, predictions: Floats, *, groups: Values | None, seed: int) -> Figures:
        """Figures of classes."""
        return evaluate_classes(truth, predictions, self.classes, groups=groups, seed=seed)

    def fold_settings(self, truth: Values, outputs: NDArray[np.float32]) -> dict[str, Any]:
        """The temperature."""
        return {"temperature": self.temperature}

    def _report_fields(self, truth: Values, predictions: Floats, settings: dict[str, Any]) -> dict[str, Any]:
        settings["expected_calibration_error"] = expected_calibration_error(predictions, truth)
        return {"predicted": predictions.argmax(axis=1), "proba": predictions, "settings": settings}


@dataclass(eq=False)
class AnyOf(_Classes):
    """Any of many labels. Values are 0 and 1 by label, NaN for cells whose labels are not known."""

    report_kind = LabelSetReport
    in_combinations = True

    name: str
    classes: tuple[str, ...] = ()
    separator: str = ";"

    @property
    def head(self) -> HeadSpec:
        """The head that learns it."""
        return HeadSpec(name=self.name, kind="any_of", classes=self.classes)

    def encode(self, column: Any, name: str) -> Values:
        """Whether each cell has each label, ``(n, C)``."""
        values, self.classes = encode_label_sets(
            column, classes=self.classes or None, separator=self.separator, name=name, others="leave_out"
        )
        return values

    def has_value(self, values: Values) -> NDArray[np.bool_]:
        """Cells whose labels are known, ``(n,)``."""
        return np.asarray(~np.isnan(values).any(axis=1))

    def strata(self, values: Values, *, by_cell: bool) -> Ints:
        """Combinations of labels, ``(n,)``."""
        combined = np.unique(np.nan_to_num(values, nan=-1), axis=0, return_inverse=True)[1].reshape(-1)
        return np.where(self.has_value(values), combined, -1).astype(np.int64)

    def prepare(self, values: Values, split: Split) -> None:
        """Refuse a split that tests labels without learning them."""
        learnt = (values[split.train] == 1).any(axis=0)
        for part in ("valid", "test"):
            cells = (values[getattr(split, part)] == 1).sum(axis=0)
            self._refuse_unlearnt(np.flatnonzero((cells > 0) & ~learnt), cells, part)

    def weights(self, values: Values) -> Floats:
        """Weights that let the cells with and without a label count alike, ``(C,)``."""
        positive = np.nansum(values, axis=0)
        weights: Floats = (self.has_value(values).sum() - positive) / np.maximum(positive, 1)
        return weights

    def decode(self, outputs: NDArray[np.float32]) -> Floats:
        """Probabilities, ``(n, C)``: the logistic function, without overflow."""
        probabilities: Floats = 0.5 * (1.0 + np.tanh(0.5 * outputs.astype(np.float64)))
        return probabilities

    def measure(self, truth: Values, predictions: Floats, *, groups: Values | None, seed: int) -> Figures:
        """Figures of label sets."""
        return evaluate_label_sets(truth, predictions, self.classes, groups=groups, seed=seed)

    def _report_fields(self, truth: Values, predictions: Floats, settings: dict[str, Any]) -> dict[str, Any]:
        return {"proba": predictions, "settings": settings}


@dataclass(frozen=True, slots=True)
class NumberScale:
    """Between numbers as they are and as a network learns them, around 0 or 1."""

    center: float = 0.0
    unit: float = 1.0
    inside: float = 1.0

    @classmethod
    def fit(cls, values: Floats, options: RegressOptions) -> "NumberScale":
        """The scale of training cells, ``(n,)``; NaN for cells that have none."""
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
        values = outputs.astype(np.float64)
        if loss == "gaussian":
            spread: Floats = np.exp(np.clip(values[:, 1], -10, 10) / 2) * self.unit
            return spread
        if loss == "poisson":
            return np.sqrt(np.maximum(values[:, 0], 1e-6))
        if loss == "negative_binomial":
            mean, size = np.maximum(values[:, 0], 1e-6), np.exp(np.clip(values[:, 1], -10, 10))
            return np.sqrt(mean + mean**2 / size)
        return None


@dataclass(eq=False)
class Number(Target):
    """A number. Values are the numbers as they are, NaN where there is none."""

    report_kind = NumberReport

    name: str
    options: RegressOptions
    scale: NumberScale = NumberScale()

    @property
    def head(self) -> HeadSpec:
        """The head that learns it."""
        loss, activation = self.options.loss, self.options.output
        return HeadSpec(name=self.name, kind="number", loss=loss, activation=activation, scale=self.scale.inside)

    def encode(self, column: Any, name: str) -> Values:
        """The numbers, ``(n,)``."""
        return encode_numbers(column, name=name)

    def has_value(self, values: Values) -> NDArray[np.bool_]:
        """Cells with a number, ``(n,)``."""
        return np.asarray(~np.isnan(values))

    def strata(self, values: Values, *, by_cell: bool) -> Ints:
        """Bins of about as many cells, so that parts split cell by cell have about the same numbers, ``(n,)``."""
        check_numbers(values, self.options, name=self.name)
        return number_strata(values, n_bins=10 if by_cell else 1)

    def prepare(self, values: Values, split: Split) -> None:
        """Refuse numbers to learn from that are all the same; fix the scale."""
        check_numbers(values[split.train], self.options, name=self.name)
        self.scale = NumberScale.fit(values[split.train], self.options)

    def to_network(self, values: Values) -> Values:
        """Numbers around 0 or 1, ``(n,)``."""
        return self.scale.to_network(values)

    def decode(self, outputs: NDArray[np.float32]) -> Floats:
        """Predicted numbers, ``(n,)``."""
        return self.scale.mean(outputs)

    def deviation(self, outputs: NDArray[np.float32]) -> Floats | None:
        """Predicted standard deviation, ``(n,)``; None for a loss without one."""
        return self.scale.deviation(outputs, self.options.loss)

    def measure(self, truth: Values, predictions: Floats, *, groups: Values | None, seed: int) -> Figures:
        """Figures of numbers."""
        return evaluate_numbers(truth, predictions, groups=groups, seed=seed)

    def baselines(self, counts: Any, values: Values, tested: Any, **options: Any) -> dict[str, Floats]:
        """A linear model, the library size, and the mean."""
        return regress_by_baselines(counts, values, tested, **options)

    def fold_settings(self, truth: Values, outputs: NDArray[np.float32]) -> dict[str, Any]:
        """The scale, and the share of cells within two standard deviations, of which about 95% should be."""
        settings: dict[str, Any] = {"scale": asdict(self.scale)}
        if (deviation := self.deviation(outputs)) is not None:
            settings["within_two_deviations"] = float((np.abs(truth - self.decode(outputs)) <= 2 * deviation).mean())
        return settings

    def _report_fields(self, truth: Values, predictions: Floats, settings: dict[str, Any]) -> dict[str, Any]:
        return {"predicted": predictions, "settings": settings}


@dataclass(frozen=True, slots=True, eq=False)
class Encoded:
    """What is to be learnt about each cell: values by target, and the codes that a split goes by."""

    targets: Mapping[str, Target]
    values: Mapping[str, Values]
    codes: Ints

    def prepare(self, split: Split) -> None:
        """Refuse a split that cannot be learnt; fix what depends on the training cells."""
        for name, target in self.targets.items():
            target.prepare(self.values[name], split)

    def fold_codes(self) -> Ints:
        """What cells are dealt into folds by, ``(n,)``; combinations of labels that one cell has go together."""
        if len(self.targets) == 1 and not any(target.in_combinations for target in self.targets.values()):
            return self.codes
        present, counts = np.unique(self.codes[self.codes >= 0], return_counts=True)
        lone = np.isin(self.codes, present[counts == 1])
        home = present.max(initial=0) + 1 if lone.sum() > 1 else present[counts.argmax()] if len(present) else 0
        return np.where(lone, home, self.codes)


def encode_targets(
    columns: Mapping[str, Any],
    targets: Sequence[Target],
    *,
    by_cell: bool = True,
    max_cells: int | None = None,
    max_cells_per_class: int | None = None,
    seed: int = 0,
) -> Encoded:
    """Values of several columns; a cell is used if any of them has a value, and if it is in the sample drawn."""
    if not targets:
        msg = 'No column to learn from. Name one or more: fit(cells, ["cell_type", "disease"]).'
        raise LabelError(msg)
    with warnings.catch_warnings():
        if len(targets) > 1:  # they say "left out", which is true of one target only
            warnings.simplefilter("ignore", GeneformerWarning)
        values = {target.name: target.encode(columns[target.name], target.name) for target in targets}
    strata = np.stack([target.strata(values[target.name], by_cell=by_cell) for target in targets])
    codes = strata[0]
    if len(targets) > 1:
        _warn_missing([target.name for target in targets], strata)
        labeled = (strata >= 0).any(axis=0)
        codes = np.full(strata.shape[1], -1, dtype=np.int64)
        codes[labeled] = np.unique(strata[:, labeled], axis=1, return_inverse=True)[1].reshape(-1)
    if max_cells is not None or max_cells_per_class is not None:
        codes = capped(codes, max_cells=max_cells, max_cells_per_class=max_cells_per_class, seed=seed)
        for name, given in values.items():
            used = given.copy()  # it may be a column of the user's
            used[codes < 0] = MISSING if np.issubdtype(used.dtype, np.integer) else np.nan
            values[name] = used
    return Encoded({target.name: target for target in targets}, values, codes)


def _warn_missing(names: Sequence[str], strata: Ints) -> None:
    missing = (strata < 0).sum(axis=1).tolist()
    if any(missing):
        shown = ", ".join(f"{number:,} in {name!r}" for name, number in zip(names, missing, strict=True) if number)
        n_none = int((strata < 0).all(axis=0).sum())
        dropped = f" {n_none:,} have none at all and are left out." if n_none else ""
        message = (
            f"Of {strata.shape[1]:,} cells, some have no label ({shown}); they teach the tasks they have one "
            f"for.{dropped}"
        )
        warnings.warn(message, GeneformerWarning, stacklevel=3)


def encode_numbers(values: Any, *, name: str = "number") -> Floats:
    """The numbers of a column, NaN where there is none, ``(n,)``."""
    import pandas as pd

    column = pd.Series(values)
    if isinstance(column.dtype, pd.CategoricalDtype):
        column = column.astype(object)
    given = column.notna().to_numpy()
    parsed = pd.to_numeric(column, errors="coerce") if not pd.api.types.is_bool_dtype(column) else column * np.nan
    numbers = np.asarray(parsed.to_numpy(dtype=np.float64, na_value=np.nan), dtype=np.float64)
    truths = column.map(lambda value: isinstance(value, (bool, np.bool_))).to_numpy(dtype=bool)
    wrong = np.flatnonzero(given & (~np.isfinite(numbers) | truths))
    if len(wrong):
        shown = ", ".join(dict.fromkeys(repr(column.iloc[row]) for row in wrong[:200].tolist()))
        msg = (
            f"{name!r} holds {len(wrong):,} entries that are not finite numbers, such as {shown[:80]}. Name a column "
            "of numbers to predict, or use CellClassifier for classes."
        )
        raise LabelError(msg)
    if not given.any():
        msg = f"None of the {len(given):,} cells has a number in {name!r}. Name the column that holds the numbers."
        raise MissingLabelError(msg)
    if not given.all():
        message = f"{(~given).sum():,} of {len(given):,} cells have no number in {name!r} and are left out."
        warnings.warn(message, GeneformerWarning, stacklevel=3)
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
            f"{below:,} cells have {name!r} below 0, down to {least:g}, which {why} cannot predict. Use "
            'loss="squared_error" or "gaussian" with activation="linear", or leave those cells out.'
        )
        raise LabelError(msg)


def number_strata(values: Floats, *, n_bins: int = 10) -> Ints:
    """Bins of about as many cells each, by which a split can be stratified; -1 for cells without a number, ``(n,)``."""
    given = np.flatnonzero(~np.isnan(values))
    n = int(np.clip(len(given) // FEWEST, 1, n_bins))
    order = values[given].argsort(kind="stable")
    strata = np.full(len(values), -1, dtype=np.int64)
    strata[given[order]] = np.arange(len(given)) * n // max(len(given), 1)
    return strata
