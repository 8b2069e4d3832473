"""Knobs of turning counts into tokens."""

from dataclasses import dataclass
from typing import Literal

from geneformer.options._fields import check_choice, check_range


@dataclass(frozen=True, kw_only=True, slots=True)
class TokenizeOptions:
    """How counts become rank value encodings."""

    vocabulary: str = "V1"
    """"V1" (gc30M), "V2" (gc104M) or a folder with a vocabulary of one's own."""

    layer: str | None = None
    """Layer that holds the raw counts; "raw" for `adata.raw`. `X` by default."""

    gene_ids: str | None = None
    """Column of `var` with the gene identifiers, "index" for the row names. Found automatically by default."""

    keep: tuple[str, ...] | None = None
    """Columns of `obs` to carry along. All by default."""

    missing: Literal["error", "zero"] = "error"
    """What a missing or infinite count means: a refusal, or zero."""

    counts: bool = False
    """Also write each token's count scaled to 10,000 per cell."""

    max_length: int | None = None
    """Tokens kept per cell, special tokens included. The vocabulary's input size by default."""

    min_matched: float = 0.3
    """Least share of the counts that must lie in genes of the vocabulary."""

    accept_normalized: bool = False
    """Rank values that are not raw counts, and record that in the manifest."""

    chunk_size: int = 2048
    """Cells read at a time."""

    workers: int = 1
    """Threads that rank cells side by side. The result does not depend on it."""

    def __post_init__(self) -> None:
        check_choice("missing", self.missing, ("error", "zero"))
        check_range("max_length", self.max_length, low=3)
        check_range("min_matched", self.min_matched, low=0.0, high=1.0)
        check_range("chunk_size", self.chunk_size, low=1)
        check_range("workers", self.workers, low=1)
