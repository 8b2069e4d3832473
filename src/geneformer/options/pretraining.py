"""Knobs of masked language model pretraining."""

from dataclasses import dataclass, fields
from typing import Annotated, Literal

from geneformer.errors import OptionError
from geneformer.options._fields import (
    AboveZero,
    Count,
    Epochs,
    Layer,
    LearningRate,
    Longest,
    NonNegative,
    Options,
    PartialShare,
    Positive,
    Range,
    Seed,
    Share,
    Steps,
    check_range,
    check_steps,
)

_BEGINNINGS = ("architecture", "spectral_start", "relative_positions", "attention_window")


@dataclass(frozen=True, kw_only=True, slots=True)
class PretrainOptions(Options):
    """How an encoder learns from cells without labels."""

    architecture: str = "mini"
    """Name of a known architecture, or a `config.json`; random weights of it are the start."""

    start_from: str = ""
    """Model to go on from instead, by name or folder; it brings its architecture."""

    vocabulary: str = "V1"
    """Vocabulary of the tokens; counts are tokenized with it on the way."""

    max_length: Longest = None
    """Tokens of a cell that are read. The number of positions of the architecture by default."""

    relative_positions: Count = 0
    """Learn relative positions, clipped at this distance, in place of absolute ones; 0 leaves the architecture's."""

    attention_window: Count = 0
    """Genes on either side that a gene attends to; 0 leaves the architecture's, which is all genes by default."""

    mask_probability: Annotated[float, Range(above=0.0, high=0.9)] = 0.15
    """Share of the genes of a cell that must be predicted."""

    contrastive_weight: NonNegative = 0.0
    """Weight of the contrastive term between two count-subsampled views of each cell; 0 switches it off."""

    contrastive_temperature: AboveZero = 0.1
    """Temperature of the contrastive term."""

    contrastive_layer: Layer = -1
    """Encoder layer whose states the contrastive term compares, counted back from the output: 0 is the last, -1 the one
    before it, which embeddings are read from."""

    subsample_counts: tuple[float, float] = (0.3, 0.7)
    """Range of the share of a cell's molecules that goes to its first view; the second view gets the others."""

    gene_share: tuple[float, float] = (1.0, 1.0)
    """Range of the share of all genes that a view of the contrastive term keeps, as on a panel; every batch draws one
    for each of its two views."""

    spectral_start: bool = False
    """Start the token embeddings from principal axes of the training cells, and the output bias from frequencies."""

    batch_by_source: bool = False
    """Cells of different sources never share a batch, so that the contrastive term compares cells, not experiments."""

    balance_sources: Share = 0.0
    """How far the sources come equally often: 0 as they are, 1 each as often as the others; small ones are repeated."""

    epochs: Epochs = 3.0
    """Passes over the training cells."""

    max_steps: Steps = -1
    """Optimizer steps; overrides `epochs` when positive."""

    tokens_per_batch: Positive = 8192
    """Tokens in one optimizer step and device, before accumulation."""

    accumulation: Positive = 1
    """Batches per optimizer step."""

    learning_rate: LearningRate = 1e-3
    """Peak learning rate."""

    schedule: Literal["linear", "cosine", "constant_with_warmup"] = "linear"
    """Shape of the learning rate after warm-up."""

    warmup_ratio: Share = 0.05
    """Share of the steps during which the learning rate rises."""

    weight_decay: NonNegative = 0.001
    """Decoupled weight decay."""

    held_out: PartialShare = 0.1
    """Share of the cells of every source kept for evaluation; never trained on."""

    hold_out_sources: tuple[str, ...] = ()
    """Sources (file names without suffix) kept for evaluation as a whole."""

    save_steps: Positive = 500
    """Optimizer steps between checkpoints."""

    eval_steps: Positive = 500
    """Optimizer steps between evaluations."""

    eval_cells: Positive = 1024
    """Held-out cells scored while training; at the end all of them are."""

    logging_steps: Positive = 50
    """Optimizer steps between log lines."""

    seed: Seed = 0
    """Seed of weights, masks, views, order and split."""

    def _check(self) -> None:
        check_steps(self.max_steps)
        for name in ("subsample_counts", "gene_share"):
            low, high = getattr(self, name)
            check_range(f"{name}[0]", low, above=0.0, high=high)
            check_range(f"{name}[1]", high, above=0.0, high=1.0)
        if not self.start_from:
            return
        # The model to go on from brings these; a value of its own would overwrite, or be overwritten.
        for field in fields(self):
            value = getattr(self, field.name)
            if field.name in _BEGINNINGS and value != field.default:
                msg = (
                    f"{field.name}={value!r} says how an encoder begins, but start_from={self.start_from!r} brings "
                    "one. Leave one of the two out."
                )
                raise OptionError(msg)
