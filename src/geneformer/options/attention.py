"""Knobs of reading attention weights."""

from dataclasses import dataclass

from geneformer.options._check import check_range


@dataclass(frozen=True, kw_only=True, slots=True)
class AttentionOptions:
    """Which attention weights are read, and how they become one weight per pair of genes."""

    layer: int = 0
    """Layer whose attention is read, counted back from the output: 0 is the last, -1 the one before it."""

    genes: tuple[str, ...] = ()
    """Ensembl ids or symbols that both genes of a pair must be among. All by default, which takes memory for every
    pair that meets in a cell."""

    min_weight: float = 0.0
    """Pairs are left out of the cells in which they weigh less; saves memory."""

    def __post_init__(self) -> None:
        check_range("layer", self.layer, high=0)
        check_range("min_weight", self.min_weight, low=0.0, high=1.0)
