"""Knobs of classifying cells."""

from dataclasses import dataclass
from typing import Literal

from geneformer.options._check import check_choice, check_range


@dataclass(frozen=True, kw_only=True, slots=True)
class ClassifyOptions:
    """Which cells and labels are used, and what a prediction is."""

    multi_label: bool = False
    """A cell may have several labels; its entry lists them, apart by `separator`."""

    separator: str = ";"
    """What stands between the labels of one cell."""

    rare_below: float = 0.0
    """Classes with less than this share of the labeled cells, or fewer cells than this number if it is 1 or more, are
    left out."""

    max_cells: int | None = None
    """Cells used, drawn at random. All by default."""

    max_cells_per_class: int | None = None
    """Cells used of any one class, drawn at random. All by default."""

    calibrate: bool = True
    """Fit a temperature on the validation cells, so that probabilities are shares of right answers."""

    unknown_below: float = 0.0
    """Cells whose best probability is lower are called "unknown"; 0 names every cell."""

    baselines: Literal["all", "cheap", "none"] = "all"
    """What stands beside the model in its report: majority class, library size and logistic regression on variable
    genes, and with "all" the same network trained from random weights, which takes as long as the model."""

    n_top_genes: int = 2000
    """Variable genes the logistic regression sees."""

    def __post_init__(self) -> None:
        check_choice("baselines", self.baselines, ("all", "cheap", "none"))
        check_range("rare_below", self.rare_below, low=0.0)
        check_range("max_cells", self.max_cells, low=2)
        check_range("max_cells_per_class", self.max_cells_per_class, low=1)
        check_range("unknown_below", self.unknown_below, low=0.0, high=1.0)
        check_range("n_top_genes", self.n_top_genes, low=2)
