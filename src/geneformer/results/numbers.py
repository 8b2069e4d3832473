"""How well a number per cell was predicted in held-out cells."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Self

import numpy as np
from numpy.typing import NDArray

from geneformer import keys
from geneformer.results.estimates import Measured, measured_fields
from geneformer.results.reports import Report

if TYPE_CHECKING:
    import pyarrow as pa


@dataclass(frozen=True, kw_only=True, eq=False)
class NumberEvaluation(Measured):
    """How well a number per cell was predicted: squared and absolute error, R2, Pearson and Spearman correlation."""

    @classmethod
    def from_dict(cls, content: Mapping[str, Any]) -> Self:
        """The evaluation that `to_dict` described."""
        return cls(**measured_fields(content))


@dataclass(frozen=True, kw_only=True, eq=False)
class NumberReport(Report):
    """A regression on held-out cells, beside its baselines, with every prediction.

    Attributes
    ----------
    truth
        The number of each cell, ``(n,)``; NaN where it is not known.
    predicted
        The number predicted, ``(n,)``.

    The others are those of `Report`.
    """

    kind = "numbers"

    evaluation: NumberEvaluation
    truth: NDArray[Any]
    predicted: NDArray[Any]

    def _columns(self) -> dict[str, Any]:
        return {"truth": np.asarray(self.truth), "predicted": np.asarray(self.predicted)}

    def _details(self) -> list[str]:
        return []

    @classmethod
    def _read(cls, content: Mapping[str, Any], table: "pa.Table") -> Self:
        return cls(
            evaluation=NumberEvaluation.from_dict(content["evaluation"]),
            baselines={name: NumberEvaluation.from_dict(found) for name, found in content["baselines"].items()},
            cell_ids=np.array(table[keys.CELL_ID].to_pylist(), dtype=object),
            truth=table["truth"].to_numpy(),
            predicted=table["predicted"].to_numpy(),
            settings=content["settings"],
        )
