"""Knobs of embedding extraction."""

from dataclasses import dataclass
from typing import Literal

from geneformer.options._check import check_choice, check_range

POOLINGS = ("mean", "cls", "gene")


@dataclass(frozen=True, kw_only=True, slots=True)
class EmbedOptions:
    """What an embedding is."""

    pooling: Literal["mean", "cls", "gene"] = "mean"
    """One vector per cell as the mean over its genes, or the state of `<cls>`; or one vector per gene, averaged over
    the cells that express it."""

    layer: int = -1
    """Encoder layer to read, counted back from the output: 0 is the last, -1 the one before it."""

    truncate: bool = False
    """Cut cells with more tokens than the model has positions, instead of refusing them."""

    def __post_init__(self) -> None:
        check_choice("pooling", self.pooling, POOLINGS)
        check_range("layer", self.layer, high=0)
