"""Knobs of predicting masked genes."""

from dataclasses import dataclass

from geneformer.options._check import check_range


@dataclass(frozen=True, kw_only=True, slots=True)
class PredictOptions:
    """Which genes are masked, and how many predictions are listed for each."""

    genes: tuple[str, ...] = ()
    """Ensembl ids or symbols of the genes to mask, each on its own, in every cell that expresses it."""

    n_predictions: int = 10
    """Genes listed in the place of a masked one, the most expected first."""

    def __post_init__(self) -> None:
        check_range("n_predictions", self.n_predictions, low=1)
