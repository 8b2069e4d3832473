"""Knobs of learning several columns of labels at once."""

from dataclasses import dataclass
from typing import Literal

from geneformer.errors import OptionError
from geneformer.options._check import check_choice, check_range


@dataclass(frozen=True, kw_only=True, slots=True)
class MultiTaskOptions:
    """How tasks that share an encoder are weighed, and what a prediction is."""

    task_weights: tuple[float, ...] = ()
    """Weight of each task's loss, in the order of the columns. All 1 by default."""

    learn_task_weights: bool = False
    """Learn the weights from the uncertainty of each task (Kendall et al., CVPR 2018) in place of fixed ones."""

    rare_below: float = 0.0
    """Classes with at most this share of the labeled cells of their task, or this many cells if it is 1 or more, are
    left out of it; 0 keeps all."""

    max_cells: int | None = None
    """Cells used, drawn at random. All by default."""

    calibrate: bool = True
    """Fit a temperature per task on the validation cells, so that probabilities are shares of right answers."""

    unknown_below: float = 0.0
    """Cells whose best probability is lower are called "unknown"; 0 names every cell."""

    baselines: Literal["all", "cheap", "none"] = "all"
    """What stands beside the model in its reports: majority class, library size and logistic regression on variable
    genes, and with "all" the same network trained from random weights, which takes as long as the model."""

    n_top_genes: int = 2000
    """Variable genes the logistic regression sees."""

    def __post_init__(self) -> None:
        check_choice("baselines", self.baselines, ("all", "cheap", "none"))
        object.__setattr__(self, "task_weights", tuple(self.task_weights))
        for weight in self.task_weights:
            check_range("task_weights", weight, low=0.0)
        if self.task_weights and not any(self.task_weights):
            msg = f"task_weights={self.task_weights} learns nothing. Give at least one task a weight above 0."
            raise OptionError(msg)
        if self.task_weights and self.learn_task_weights:
            msg = (
                f"task_weights={self.task_weights} are fixed, and learn_task_weights=True learns them. Choose one of "
                "the two."
            )
            raise OptionError(msg)
        check_range("rare_below", self.rare_below, low=0.0)
        check_range("max_cells", self.max_cells, low=2)
        check_range("unknown_below", self.unknown_below, low=0.0, high=1.0)
        check_range("n_top_genes", self.n_top_genes, low=2)
