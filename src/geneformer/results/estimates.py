"""Measured figures with their uncertainty, and what was measured on."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar

UNDEFINED = "-"
"""What stands in a table for a figure that cannot be computed."""


@dataclass(frozen=True, slots=True)
class Estimate:
    """A figure with its 95% interval.

    Attributes
    ----------
    mean
        The figure over all cells; NaN where it is not defined.
    low, high
        95% interval; NaN where none was computed.
    """

    mean: float
    low: float = math.nan
    high: float = math.nan

    def __str__(self) -> str:
        if math.isnan(self.mean):
            return UNDEFINED
        if math.isnan(self.low):
            return told(self.mean)
        return f"{told(self.mean)} ({told(self.low)} to {told(self.high)})"


@dataclass(frozen=True, kw_only=True, eq=False)
class Measured:
    """Figures over held-out cells, and how their intervals were drawn.

    Two are equal when everything they hold is, to the last bit.

    Attributes
    ----------
    n
        Cells measured.
    metrics
        The figures by name.
    n_unlabeled
        Cells left out because their truth is not known.
    n_groups
        Groups resampled as a whole, or None where cells were resampled one by one.
    draws
        Resamples behind the interval of each figure; fewer for costly ones over many cells, 0 for no interval.
    seed
        Seed of the resamples.
    """

    unit: ClassVar[str] = "cell"
    """What was measured one by one."""

    n: int
    metrics: Mapping[str, Estimate]
    n_unlabeled: int = 0
    n_groups: int | None = None
    draws: Mapping[str, int] = field(default_factory=dict)
    seed: int = 0

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Measured) or type(self) is not type(other):
            return NotImplemented
        return self.to_dict() == other.to_dict()

    __hash__ = None  # type: ignore[assignment]

    def to_dict(self) -> dict[str, Any]:
        """Everything as JSON can hold it; what is not defined is None."""
        return {
            "n": self.n,
            "n_unlabeled": self.n_unlabeled,
            "n_groups": self.n_groups,
            "seed": self.seed,
            "draws": dict(self.draws),
            "metrics": {
                name: {"mean": known(found.mean), "low": known(found.low), "high": known(found.high)}
                for name, found in self.metrics.items()
            },
        }

    def told_size(self) -> str:
        """One sentence on the cells, and one on the intervals."""
        left_out = f"; {self.n_unlabeled:,} without a label left out" if self.n_unlabeled else ""
        drawn = {count for count in self.draws.values() if count}
        if not drawn:
            return f"{self.n:,} {self.unit}s{left_out}. No intervals."
        what = f"{self.unit}s" if self.n_groups is None else f"{self.n_groups:,} whole groups"
        often = f"{min(drawn):,}" if len(drawn) == 1 else f"{min(drawn):,} to {max(drawn):,}"
        return f"{self.n:,} {self.unit}s{left_out}. In parentheses: 95% intervals from {often} resamples of {what}."


def measured_fields(content: Mapping[str, Any]) -> dict[str, Any]:
    """Arguments of `Measured` from what its `to_dict` made."""
    names = ("n", "n_unlabeled", "n_groups", "seed", "draws")
    metrics = {
        name: Estimate(**{part: unknown(value) for part, value in found.items()})
        for name, found in content["metrics"].items()
    }
    return {name: content[name] for name in names} | {"metrics": metrics}


def known(value: float) -> float | None:
    """A number as JSON can hold it: None for NaN."""
    return None if math.isnan(value) else float(value)


def unknown(value: float | None) -> float:
    """The inverse of `known`."""
    return math.nan if value is None else value


def told(value: float) -> str:
    """A figure as tables show it: three decimals, or three digits where it is very small or large."""
    if math.isnan(value):
        return UNDEFINED
    return f"{value:.3f}" if value == 0 or 0.001 <= abs(value) < 1000 else f"{value:.3g}"
