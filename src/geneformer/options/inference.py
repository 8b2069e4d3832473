"""Knobs of the machine, shared by every task."""

from dataclasses import dataclass
from typing import Annotated, Literal

from geneformer.options._fields import Layer, Options, Positive, Range, Seed, Share
from geneformer.options.settings import settings


@dataclass(frozen=True, kw_only=True, slots=True)
class RuntimeOptions(Options):
    """Where and how a model runs; never changes what is computed beyond rounding."""

    device: str = "auto"
    """"auto" (the accelerator if there is one, else the CPU) or a PyTorch device such as "cpu" or "cuda:1"."""

    dtype: Literal["auto", "float32", "bfloat16", "float16"] = "auto"
    """Arithmetic of the matrix products. "auto" takes bfloat16 where the device has instructions for it."""

    tokens_per_batch: Annotated[int | None, Range(low=1)] = None
    """Tokens in one forward pass. By default as many as the free memory allows, halved when it runs out."""

    progress: bool = True
    """Show a progress bar; where there is no terminal, a line a minute."""

    def _check(self) -> None:
        for name in ("device", "dtype"):
            if getattr(self, name) == "auto":
                object.__setattr__(self, name, getattr(settings, name))


@dataclass(frozen=True, kw_only=True, slots=True)
class EmbedOptions(Options):
    """What an embedding is."""

    pooling: Literal["mean", "rank", "cls", "gene"] = "mean"
    """One vector per cell as the mean over its genes, the same with a gene of rank r (from 0) weighing
    1 / (1 + r / 100), or the state of `<cls>`; or one vector per gene, averaged over the cells that express it."""

    layer: Layer = -1
    """Encoder layer to read, counted back from the output: 0 is the last, -1 the one before it."""

    truncate: bool = False
    """Cut cells with more tokens than the model has positions, instead of refusing them."""


@dataclass(frozen=True, kw_only=True, slots=True)
class AttentionOptions(Options):
    """Which attention weights are read, and what they are averaged over."""

    per: Literal["pair", "cell"] = "pair"
    """One weight per "pair" of genes, averaged over the cells that express both; or, per "cell", one weight for each of
    its genes: the attention its genes pay to that one, on average. Both are averaged over heads."""

    layer: Layer = 0
    """Layer whose attention is read, counted back from the output: 0 is the last, -1 the one before it."""

    genes: tuple[str, ...] = ()
    """Ensembl ids or symbols that both genes of a pair, or the genes a cell attends to, must be among. All by default,
    which takes memory for every pair that meets in a cell."""

    min_weight: Share = 0.0
    """Pairs, or genes, are left out of the cells in which they weigh less; saves memory."""

    unknown: Literal["drop", "error"] = "drop"
    """Genes without a token, or that no cell has, are left out with one warning that lists them; or they are an
    error. None left is always one."""


@dataclass(frozen=True, kw_only=True, slots=True)
class PredictOptions(Options):
    """Which genes are masked, and how many predictions are listed for each."""

    genes: tuple[str, ...] = ()
    """Ensembl ids or symbols of the genes to mask, each on its own, in every cell that expresses it."""

    n_predictions: Positive = 10
    """Genes listed in the place of a masked one, the most expected first."""

    unknown: Literal["drop", "error"] = "drop"
    """Genes without a token, or that no cell has, are left out with one warning that lists them; or they are an
    error. None left is always one."""


@dataclass(frozen=True, kw_only=True, slots=True)
class AnnotateOptions(Options):
    """How labels of a reference are transferred to cells, and when a cell is called "unknown"."""

    method: Literal["neighbors", "probe"] = "neighbors"
    """Classes by the votes of the nearest reference cells, or by a logistic regression on the embedding."""

    n_neighbors: Positive = 15
    """Reference cells that vote, and whose mean distance says how far a cell is from the reference."""

    false_rejection: Annotated[float, Range(low=0.0, high=0.5)] = 0.05
    """Share of cells like those of the reference that may be called "unknown" for their distance; 0 calls none so. The
    cut-off of every class comes from reference cells that were held out."""

    unknown_below: Share = 0.0
    """Cells whose best class has a lower probability are called "unknown" as well."""

    folds: Annotated[int, Range(low=2)] = 5
    """Parts of the reference that are held out in turn."""

    baseline: bool = True
    """Also transfer labels by principal components of the counts, for comparison; takes all counts in memory."""

    seed: Seed = 0
    """Fixes the folds."""
