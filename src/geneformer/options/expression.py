"""Knobs of predicting the expression of genes."""

from dataclasses import dataclass
from typing import Literal

from geneformer.errors import OptionError
from geneformer.options._check import check_choice, check_range


@dataclass(frozen=True, kw_only=True, slots=True)
class ExpressionOptions:
    """How genes are removed from cells, and how their values and ranks are learnt."""

    share: float = 0.15
    """Share of the genes of every cell that is removed from the input, drawn anew in every pass."""

    removed_weight: float = 1.0
    """Weight of the removed genes in what is minimized."""

    visible_weight: float = 0.25
    """Weight of the genes that stay in the input."""

    value_weight: float = 1.0
    """Weight of the error of the values."""

    rank_weight: float = 1.0
    """Weight of the error of the ranks."""

    decoder_size: int = 256
    """Width of the decoder's two hidden layers."""

    max_cells: int | None = None
    """Cells used, drawn at random. All by default."""

    report_cells: int = 1000
    """Most cells a report is measured on, drawn at random; each brings a hundred numbers or more."""

    baselines: Literal["all", "cheap", "none"] = "all"
    """What stands beside the model in its report: the mean of each gene over the training cells, that mean with an
    effect of the cell, and with "all" the same network trained from random weights, which takes as long as the
    model."""

    def __post_init__(self) -> None:
        check_range("share", self.share, above=0.0, high=0.9)
        for name in ("removed_weight", "visible_weight", "value_weight", "rank_weight"):
            check_range(name, getattr(self, name), low=0.0)
        for pair in (("removed_weight", "visible_weight"), ("value_weight", "rank_weight")):
            if not any(getattr(self, name) for name in pair):
                msg = f"{pair[0]} and {pair[1]} are both 0, so nothing is learnt. Give one of them a weight above 0."
                raise OptionError(msg)
        check_range("decoder_size", self.decoder_size, low=1)
        check_range("max_cells", self.max_cells, low=2)
        check_range("report_cells", self.report_cells, low=1)
        check_choice("baselines", self.baselines, ("all", "cheap", "none"))
