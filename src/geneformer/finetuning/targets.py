"""What is learnt about cells and genes, and how it is measured; here of cells: a class, any of many, or a number."""

import warnings
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from geneformer.errors import ConstantLabelError, GeneformerWarning, LabelError, MissingLabelError, UnknownClassError
from geneformer.files.left_out import count_left_out
from geneformer.finetuning.baselines import classify_by_baselines, regress_by_baselines
from geneformer.finetuning.evaluations import Figures, absent_text
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
    """One question about every cell, every gene, or genes in cells. A new kind of question is a new target."""

    report_kind: ClassVar[type[Report]]

    @abstractmethod
    def measure(self, truth: Values, predictions: Any, *, groups: Any, seed: int) -> Figures:
        """Figures of some predictions; `groups` are resampled as a whole."""

    @abstractmethod
    def baselines(self, features: Any, values: Any, tested: Any, **options: Any) -> dict[str, Any]:
        """Predictions of models that learn from what is known without a network, by name."""

    def report(
        self, truth: Values, predictions: Any, baselines: Mapping[str, Any], *,
        groups: Values | None, seed: int, **content: Any,
    ) -> Report:  # fmt: skip
        """Figures of the model and of the baselines on the same cells or genes."""
        figures = {
            name: self.measure(truth, values, groups=groups, seed=seed)
            for name, values in {"": predictions, **baselines}.items()
        }
        content |= {"truth": truth, **self.columns(predictions)}
        of_baselines = {
            name: self.columns(values)[self.report_kind.measured_from] for name, values in baselines.items()
        }
        return self.report_kind(
            evaluation=figures.pop(""), baselines=figures, baseline_predictions=of_baselines, **content
        )

    def columns(self, predictions: Any) -> dict[str, Values]:
        """Predictions by field of the report."""
        return {self.report_kind.measured_from: predictions}


class CellTarget(Target):
    """A question about each cell, with a head of its own on the network."""

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
    def labels(self, values: Values) -> dict[str, tuple[Ints, Sequence[str]]]:
        """What every part of a split by groups should have, by column: classes, or halves without a name."""

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

    def fold_settings(self, truth: Values, outputs: NDArray[np.float32]) -> dict[str, Any]:
        """Settings of a report that hold for one fitted network."""
        return {}


class _Classes(CellTarget):
    """Base of the targets with classes."""

    classes: tuple[str, ...]

    def baselines(self, features: Any, values: Values, tested: Any, **options: Any) -> dict[str, Floats]:
        """Linear models, the library size, and the majority; of label sets label by label."""
        return classify_by_baselines(features, values, tested, n_classes=len(self.classes), **options)

    def _refuse_unlearnt(self, unlearnt: NDArray[Any], cells: NDArray[Any], part: str) -> None:
        if len(unlearnt):
            shown = ", ".join(f"{self.classes[code]!r} ({cells[code]:,} cells)" for code in unlearnt[:5])
            msg = (
                f"Labels {self.name!r}: {len(unlearnt)} classes of the {part} part are not learnt: {shown}. They are "
                "always predicted wrongly; drop rare classes (rare_below), or split by finer groups."
            )
            raise UnknownClassError(msg)

    def _warn_untested(self, untested: NDArray[Any], n_tested: int) -> None:
        if len(untested) and n_tested:
            absent = [self.classes[code] for code in untested]
            warnings.warn(f"Labels {self.name!r}: {absent_text(absent, n_tested)}", GeneformerWarning, stacklevel=5)


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
        codes, classes = encode_labels(column, classes=self.classes or None, name=name)
        if self.rare_below and not self.classes:
            codes, classes = drop_rare(codes, classes, self.rare_below)
        self.classes = classes
        return np.where(codes >= 0, codes, MISSING)

    def has_value(self, values: Values) -> NDArray[np.bool_]:
        """Cells with a label, ``(n,)``."""
        labeled: NDArray[np.bool_] = values >= 0
        return labeled

    def strata(self, values: Values, *, by_cell: bool) -> Ints:
        """The classes themselves, ``(n,)``."""
        return np.maximum(values, -1)

    def text(self, value: Any) -> str:
        """A value in words."""
        return self.classes[value] if value >= 0 else f"no {self.name}"

    def labels(self, values: Values) -> dict[str, tuple[Ints, Sequence[str]]]:
        """The classes."""
        return {self.name: (self.strata(values, by_cell=False), self.classes)}

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
        self._warn_untested(np.setdiff1d(learnt, codes), len(codes))

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

    def report(self, truth: Values, predictions: Floats, baselines: Mapping[str, Floats], **content: Any) -> Report:
        """The calibration error comes with the figures."""
        error = expected_calibration_error(predictions, truth)
        content["settings"] = {**content["settings"], "expected_calibration_error": error}
        return super().report(truth, predictions, baselines, **content)

    def columns(self, predictions: Floats) -> dict[str, Values]:
        """The most probable class, and all probabilities."""
        return {"predicted": predictions.argmax(axis=1), "proba": predictions}


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
            column, classes=self.classes or None, separator=self.separator, name=name
        )
        return values

    def has_value(self, values: Values) -> NDArray[np.bool_]:
        """Cells whose labels are known, ``(n,)``."""
        return np.asarray(~np.isnan(values).any(axis=1))

    def strata(self, values: Values, *, by_cell: bool) -> Ints:
        """Combinations of labels, ``(n,)``."""
        combined = np.unique(np.nan_to_num(values, nan=-1), axis=0, return_inverse=True)[1].reshape(-1)
        return np.where(self.has_value(values), combined, -1).astype(np.int64)

    def text(self, value: Any) -> str:
        """A value in words."""
        return self.separator.join(name for name, has in zip(self.classes, value, strict=True) if has == 1) or "none"

    def labels(self, values: Values) -> dict[str, tuple[Ints, Sequence[str]]]:
        """Every label by itself."""
        return {
            f"{self.name}: {label}": (np.where(of_cell == 1, 0, -1), (label,))
            for label, of_cell in zip(self.classes, values.T, strict=True)
        }

    def prepare(self, values: Values, split: Split) -> None:
        """Refuse a split that tests labels without learning them."""
        learnt = (values[split.train] == 1).any(axis=0)
        for part in ("valid", "test"):
            cells = (values[getattr(split, part)] == 1).sum(axis=0)
            self._refuse_unlearnt(np.flatnonzero((cells > 0) & ~learnt), cells, part)
        self._warn_untested(np.flatnonzero(learnt & (cells == 0)), len(split.test))

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


@dataclass(eq=False)
class Number(CellTarget):
    """A number. Values are the numbers as they are, NaN where there is none.

    The network learns `(value - center) / unit`, around 0 or 1; its head multiplies what it predicts by `inside`.
    """

    report_kind = NumberReport

    name: str
    options: RegressOptions
    center: float = 0.0
    unit: float = 1.0
    inside: float = 1.0

    @property
    def scale(self) -> dict[str, float]:
        """Between the numbers and the outputs of the network."""
        return {"center": self.center, "unit": self.unit, "inside": self.inside}

    @property
    def head(self) -> HeadSpec:
        """The head that learns it."""
        loss, activation = self.options.loss, self.options.output
        return HeadSpec(name=self.name, kind="number", loss=loss, activation=activation, scale=self.inside)

    def encode(self, column: Any, name: str) -> Values:
        """The numbers, ``(n,)``."""
        return encode_numbers(column, name=name)

    def has_value(self, values: Values) -> NDArray[np.bool_]:
        """Cells with a number, ``(n,)``."""
        return np.asarray(~np.isnan(values))

    def strata(self, values: Values, *, by_cell: bool) -> Ints:
        """Bins of about as many cells, so that parts split cell by cell have about the same numbers, ``(n,)``."""
        self._check(values)
        rows = np.flatnonzero(~np.isnan(values))
        n_bins = int(np.clip(len(rows) // FEWEST, 1, 10 if by_cell else 1))
        strata = np.full(len(values), -1, dtype=np.int64)
        strata[rows[values[rows].argsort(kind="stable")]] = np.arange(len(rows)) * n_bins // len(rows)
        return strata

    def labels(self, values: Values) -> dict[str, tuple[Ints, Sequence[str]]]:
        """The lower and the upper half: donors with a number each are held out from both."""
        above = values > np.nanmedian(values)
        return {self.name: (np.where(np.isnan(values), -1, above).astype(np.int64), ())}

    def prepare(self, values: Values, split: Split) -> None:
        """Refuse numbers to learn from that are all the same; fix the scale."""
        learnt = values[split.train]
        self._check(learnt)
        tested = np.unique(values[split.test])
        if len(tested) == 1:
            msg = (
                f"All {len(split.test):,} cells of the test part have {self.name!r} = {tested[0]:g}: R2 and "
                "correlations are not defined. Test more groups (a larger share), or all in turn with cross_validate."
            )
            warnings.warn(msg, GeneformerWarning, stacklevel=4)
        mean, deviation = float(np.nanmean(learnt)), float(np.nanstd(learnt))
        if self.options.counts:
            self.inside = mean or 1.0
        elif self.options.output != "linear":
            self.unit = mean or 1.0
        else:
            self.center, self.unit = mean, deviation or 1.0

    def to_network(self, values: Values) -> Values:
        """Numbers around 0 or 1, ``(n,)``."""
        return ((values - self.center) / self.unit).astype(np.float32)

    def decode(self, outputs: NDArray[np.float32]) -> Floats:
        """Predicted numbers, ``(n,)``."""
        numbers: Floats = outputs[:, 0].astype(np.float64) * self.unit + self.center
        return numbers

    def deviation(self, outputs: NDArray[np.float32]) -> Floats | None:
        """Predicted standard deviation, ``(n,)``; None for a loss without one."""
        values, loss = outputs.astype(np.float64), self.options.loss
        if loss == "gaussian":
            spread: Floats = np.exp(np.clip(values[:, 1], -10, 10) / 2) * self.unit
            return spread
        if loss == "poisson":
            return np.sqrt(np.maximum(values[:, 0], 1e-6))
        if loss == "negative_binomial":
            mean, size = np.maximum(values[:, 0], 1e-6), np.exp(np.clip(values[:, 1], -10, 10))
            return np.sqrt(mean + mean**2 / size)
        return None

    def measure(self, truth: Values, predictions: Floats, *, groups: Values | None, seed: int) -> Figures:
        """Figures of numbers."""
        return evaluate_numbers(truth, predictions, groups=groups, seed=seed)

    def baselines(self, features: Any, values: Values, tested: Any, **options: Any) -> dict[str, Floats]:
        """A linear model, the library size, and the mean."""
        return regress_by_baselines(features, values, tested, **options)

    def fold_settings(self, truth: Values, outputs: NDArray[np.float32]) -> dict[str, Any]:
        """The scale, and the share of cells within two standard deviations, of which about 95% should be."""
        settings: dict[str, Any] = {"scale": self.scale}
        if (deviation := self.deviation(outputs)) is not None:
            settings["within_two_deviations"] = float((np.abs(truth - self.decode(outputs)) <= 2 * deviation).mean())
        return settings

    def _check(self, values: Values) -> None:
        """Refuse numbers that cannot be learnt as the options have it."""
        least, most = np.nanmin(values), np.nanmax(values)
        if least == most:
            msg = f"All cells have {self.name!r} = {least:g}. There is nothing to learn from a constant."
            raise ConstantLabelError(msg)
        if least < 0 and self.options.output != "linear":
            below, loss = int((values < 0).sum()), self.options.loss
            why = f'loss="{loss}"' if self.options.counts else f'activation="{self.options.output}"'
            msg = (
                f"{below:,} cells have {self.name!r} below 0, down to {least:g}, which {why} cannot predict. Use "
                'loss="squared_error" or "gaussian" with activation="linear", or leave those cells out.'
            )
            raise LabelError(msg)


@dataclass(frozen=True, slots=True, eq=False)
class Encoded:
    """What is to be learnt about each cell: values by target, and the codes that a split goes by."""

    targets: Mapping[str, Any]
    values: Mapping[str, Values]
    codes: Ints

    @property
    def classes(self) -> tuple[str, ...] | None:
        """Names of the codes: classes of one column, or combinations."""
        (target, *others) = self.targets.values() or [None]
        if target is None or (not others and not target.in_combinations):
            return getattr(target, "classes", None)
        present, first = np.unique(self.codes, return_index=True)
        names = [""] * (int(present.max(initial=-1)) + 1)
        for code, row in zip(present.tolist(), first, strict=True):
            if code >= 0:
                names[code] = ", ".join(one.text(self.values[name][row]) for name, one in self.targets.items())
        return (*names, "rare combinations")  # where `fold_codes` puts them together

    @property
    def labels(self) -> dict[str, tuple[Ints, Sequence[str]]]:
        """What every part of a split by groups should have, by column."""
        of_target = [target.labels(self.values[name]) for name, target in self.targets.items()]
        return {column: labels for every in of_target for column, labels in every.items()}

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
    targets: Sequence[CellTarget],
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


_LARGEST = 1e30
"""Networks compute with 32 bits, and squares of deviations must be finite."""


def encode_numbers(values: Any, *, name: str = "number") -> Floats:
    """The numbers of a column, NaN where there is none, ``(n,)``."""
    import pandas as pd

    column = pd.Series(values).astype(object)
    given = column.notna().to_numpy()
    truths = column.map(lambda value: isinstance(value, (bool, np.bool_))).to_numpy(dtype=bool)
    numbers = pd.to_numeric(column.mask(truths), errors="coerce").to_numpy(dtype=np.float64, na_value=np.nan)
    wrong = np.flatnonzero(given & ~(np.abs(numbers) <= _LARGEST))
    if len(wrong):
        shown = ", ".join(dict.fromkeys(repr(column.iloc[row]) for row in wrong[:200].tolist()))
        msg = (
            f"{name!r} holds {len(wrong):,} entries that are not finite numbers up to {_LARGEST:g}, such as "
            f"{shown[:80]}. Name a column of numbers to predict, or use CellClassifier for classes."
        )
        raise LabelError(msg)
    if not given.any():
        msg = f"None of the {len(given):,} cells has a number in {name!r}. Name the column that holds the numbers."
        raise MissingLabelError(msg)
    if not given.all():
        count_left_out(f"without a number in {name}", int((~given).sum()))
        message = f"{(~given).sum():,} of {len(given):,} cells have no number in {name!r} and are left out."
        warnings.warn(message, GeneformerWarning, stacklevel=3)
    return numbers
