"""How well sets of labels, several per cell, were predicted in held-out cells."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Self

import numpy as np
from numpy.typing import NDArray

from geneformer import keys
from geneformer.errors import OptionError
from geneformer.results.classification import PROBABILITY, PerClass, per_class_fields, probabilities
from geneformer.results.reports import Report

if TYPE_CHECKING:
    import pyarrow as pa

TRUTH = "truth_"
"""Prefix of the columns with the truth about each label."""


@dataclass(frozen=True, kw_only=True, eq=False)
class LabelSetEvaluation(PerClass):
    """How well any number of labels per cell were predicted.

    Averages over labels ("macro", areas) are over the labels that some cell has.

    Attributes
    ----------
    threshold
        Probability from which a label is predicted.
    """

    threshold: float = 0.5

    def to_dict(self) -> dict[str, Any]:
        """Everything as JSON can hold it; what is not defined is None."""
        return super().to_dict() | {"threshold": self.threshold}

    @classmethod
    def from_dict(cls, content: Mapping[str, Any]) -> Self:
        """The evaluation that `to_dict` described."""
        return cls(threshold=content["threshold"], **per_class_fields(content))


@dataclass(frozen=True, kw_only=True, eq=False)
class LabelSetReport(Report):
    """A classifier of label sets on held-out cells, beside its baselines, with every prediction.

    Attributes
    ----------
    truth
        Whether each cell has each label, ``(n, C)``: 0, 1, or NaN where it is not known.
    proba
        Probability of each label, ``(n, C)``.

    The others are those of `Report`.
    """

    kind = "label sets"

    evaluation: LabelSetEvaluation
    truth: NDArray[Any]
    proba: NDArray[Any]

    @property
    def predicted(self) -> NDArray[np.bool_]:
        """Whether each label is predicted, ``(n, C)``."""
        above: NDArray[np.bool_] = self.proba >= self.evaluation.threshold
        return above

    def _columns(self) -> dict[str, Any]:
        classes = self.evaluation.classes
        if self.proba.shape != self.truth.shape or self.proba.shape[1:] != (len(classes),):
            found = f"truth has the shape {self.truth.shape} and proba {self.proba.shape}"
            msg = f"{found}; both take one row per cell and one column for each of {len(classes)} labels."
            raise OptionError(msg)
        truth = {f"{TRUTH}{name}": self.truth[:, i] for i, name in enumerate(classes)}
        return truth | {f"{PROBABILITY}{name}": self.proba[:, i] for i, name in enumerate(classes)}

    def _details(self) -> list[str]:
        return [
            f"Labels count as predicted from a probability of {self.evaluation.threshold}.",
            *self.evaluation.details(),
        ]

    @classmethod
    def _read(cls, content: Mapping[str, Any], table: "pa.Table") -> Self:
        evaluation = LabelSetEvaluation.from_dict(content["evaluation"])
        return cls(
            evaluation=evaluation,
            baselines={name: LabelSetEvaluation.from_dict(found) for name, found in content["baselines"].items()},
            cell_ids=np.array(table[keys.CELL_ID].to_pylist(), dtype=object),
            truth=np.stack([table[f"{TRUTH}{name}"].to_numpy() for name in evaluation.classes], axis=1),
            proba=probabilities(table, evaluation.classes),
            settings=content["settings"],
        )
