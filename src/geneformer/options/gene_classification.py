"""Knobs of classifying genes."""

from dataclasses import dataclass
from typing import Literal

from geneformer.errors import OutOfRangeError
from geneformer.options._check import check_choice, check_range


@dataclass(frozen=True, kw_only=True, slots=True)
class GeneClassifyOptions:
    """Which genes and cells are used, and what stands beside the model."""

    unknown_genes: Literal["refuse", "drop"] = "refuse"
    """Refuse lists with names that are no genes of the vocabulary, or leave such names out and tell which."""

    valid: float = 0.1
    """Share of the genes learnt from that choose the best step instead; 0 for none."""

    test: float = 0.0
    """Share of the genes that `fit` holds out and reports on. Cross-validation holds every gene out once anyway."""

    max_cells: int | None = None
    """Cells used, drawn at random among those with any of the labeled genes. All of them by default."""

    baselines: Literal["all", "cheap", "none"] = "all"
    """What stands beside the model in its report: the commonest class, and linear models of each gene's rank and
    detection, of its static embedding and of its embedding averaged over cells; with "all" also the same network
    trained from random weights, which takes as long as the model."""

    def __post_init__(self) -> None:
        check_choice("unknown_genes", self.unknown_genes, ("refuse", "drop"))
        check_choice("baselines", self.baselines, ("all", "cheap", "none"))
        check_range("max_cells", self.max_cells, low=1)
        for name in ("valid", "test"):
            check_range(name, getattr(self, name), low=0.0, high=1.0)
        if self.valid + self.test > 1 - 1e-9:  # 0.3 + 0.7 need not make 1 in floating point
            msg = (
                f"valid={self.valid} and test={self.test} leave no genes to learn from. They are shares of the genes "
                "and must sum to less than 1."
            )
            raise OutOfRangeError(msg)
