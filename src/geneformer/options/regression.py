"""Knobs of predicting a number per cell."""

from dataclasses import dataclass
from typing import Literal

from geneformer.errors import OptionError
from geneformer.options._check import check_choice, check_range

LOSSES = ("squared_error", "gaussian", "poisson", "negative_binomial")
COUNT_LOSSES = ("poisson", "negative_binomial")
ACTIVATIONS = ("auto", "linear", "relu", "softplus")


@dataclass(frozen=True, kw_only=True, slots=True)
class RegressOptions:
    """What is minimized, and what the predicted number goes through."""

    loss: Literal["squared_error", "gaussian", "poisson", "negative_binomial"] = "squared_error"
    """Squared error; or the likelihood of a normal distribution with a spread of its own for each cell, or of counts
    without or with a dispersion of their own. All but the first also tell the spread."""

    activation: Literal["auto", "linear", "relu", "softplus"] = "auto"
    """Output function: any number, or none below 0. "auto" is linear, and softplus for counts."""

    max_cells: int | None = None
    """Cells used, drawn at random. All by default."""

    baselines: Literal["all", "cheap", "none"] = "all"
    """What stands beside the model in its report: mean of the training cells, library size and ridge regression on
    variable genes, and with "all" the same network trained from random weights, which takes as long as the model."""

    n_top_genes: int = 2000
    """Variable genes the ridge regression sees."""

    def __post_init__(self) -> None:
        check_choice("loss", self.loss, LOSSES)
        check_choice("activation", self.activation, ACTIVATIONS)
        check_choice("baselines", self.baselines, ("all", "cheap", "none"))
        check_range("max_cells", self.max_cells, low=2)
        check_range("n_top_genes", self.n_top_genes, low=2)
        if self.counts and self.activation == "linear":
            msg = (
                f'activation="linear" may fall below 0, which loss="{self.loss}" has no likelihood for. Use "softplus".'
            )
            raise OptionError(msg)

    @property
    def counts(self) -> bool:
        """Whether the loss is one of counts."""
        return self.loss in COUNT_LOSSES

    @property
    def output(self) -> Literal["linear", "relu", "softplus"]:
        """The output function that `activation` stands for."""
        if self.activation == "auto":
            return "softplus" if self.counts else "linear"
        return self.activation
