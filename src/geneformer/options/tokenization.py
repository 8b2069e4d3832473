"""Knobs of turning counts into tokens."""

from dataclasses import dataclass
from typing import Literal

from geneformer.options._fields import Longest, Options, Positive, Share


@dataclass(frozen=True, kw_only=True, slots=True)
class TokenizeOptions(Options):
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

    max_length: Longest = None
    """Tokens kept per cell, special tokens included. The vocabulary's input size by default."""

    min_matched: Share = 0.3
    """Least share of the counts that must lie in genes of the vocabulary."""

    accept_normalized: bool = False
    """Rank values that are not raw counts, and record that in the manifest."""

    chunk_size: Positive = 2048
    """Cells read at a time."""

    workers: Positive = 1
    """Threads that rank cells side by side. The result does not depend on it."""
