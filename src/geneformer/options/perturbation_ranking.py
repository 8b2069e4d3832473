"""Knobs of the statistics of in silico perturbation."""

from dataclasses import dataclass
from typing import Literal

from geneformer.errors import OptionError
from geneformer.options._check import check_choice, check_range

MODES = ("auto", "goal_state_shift", "vs_null", "mixture_model", "aggregate", "aggregate_gene_shifts")


@dataclass(frozen=True, kw_only=True, slots=True)
class RankOptions:
    """How the effects of perturbations are tested and ranked."""

    mode: Literal["auto", "goal_state_shift", "vs_null", "mixture_model", "aggregate", "aggregate_gene_shifts"] = "auto"
    """Shifts towards the goal state; similarities compared with those of a null run; similarities split into two
    components; one row per cell; or one row per pair of genes. "auto" takes shifts where there are states, "vs_null"
    where a null run has the same perturbations, else components for 20 perturbations or more, and cells for fewer."""

    fdr: float = 0.05
    """False discovery rate below which a row is significant."""

    donor: str | None = None
    """Column of the cells with their donors. Then intervals are over donors, and there is a test over donors."""

    permutations: int = 1000
    """Draws among matched genes for each p-value."""

    matched: int = 100
    """Most genes of similar mean rank a gene is compared with."""

    max_rank_difference: float = 0.1
    """Largest difference of the mean rank (0 = highest, 1 = lowest) of a matched gene."""

    confidence: float = 0.95
    """Coverage of intervals."""

    min_detections: int = 1
    """Perturbations of fewer cells are left out."""

    seed: int = 0
    """Of every draw."""

    def __post_init__(self) -> None:
        check_choice("mode", self.mode, MODES)
        check_range("fdr", self.fdr, above=0.0, high=1.0)
        check_range("permutations", self.permutations, low=1)
        check_range("matched", self.matched, low=1)
        check_range("max_rank_difference", self.max_rank_difference, low=0.0, high=1.0)
        check_range("confidence", self.confidence, low=0.5, high=0.999)
        check_range("min_detections", self.min_detections, low=1)
        check_range("seed", self.seed, low=0)
        if self.donor is not None and not self.donor:
            msg = 'donor is empty. Name a column of the cells, such as "donor", or leave it out.'
            raise OptionError(msg)
