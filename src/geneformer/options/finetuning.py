"""Knobs of fine-tuning."""

from dataclasses import dataclass
from typing import Literal

from geneformer.options._check import check_choice, check_range

STRATEGIES = ("full", "last_layer", "extra_layer", "adapters", "lora", "head")
POOLINGS = ("mean", "cls", "attention", "pooler")
SCHEDULES = ("linear", "cosine", "polynomial", "constant_with_warmup")


@dataclass(frozen=True, kw_only=True, slots=True)
class FinetuneOptions:
    """How a pretrained encoder learns a task."""

    strategy: Literal["full", "last_layer", "extra_layer", "adapters", "lora", "head"] = "full"
    """Which parameters move, beside the head: all; those of the last layer; of one new layer on top; of bottleneck
    adapters in every layer; of low-rank updates (PEFT); none."""

    freeze_layers: int = 0
    """Lowest encoder layers kept as they are. With strategy "full"; the token embeddings go on learning."""

    adapter_size: int = 32
    """Width of the bottleneck of an adapter."""

    lora_rank: int = 8
    """Rank of the low-rank updates."""

    lora_alpha: float = 16.0
    """Scale of the low-rank updates; they are multiplied by alpha over rank."""

    lora_dropout: float = 0.0
    """Dropout on the input of the low-rank updates."""

    bits: Literal["full", "8bit", "4bit"] = "full"
    """Precision the frozen weights are kept in while low-rank updates are learnt; needs a device that has it."""

    weights: Literal["pretrained", "random"] = "pretrained"
    """Start from the pretrained weights, or from random ones of the same shape."""

    pooling: Literal["mean", "cls", "attention", "pooler"] = "mean"
    """How a cell becomes one vector: mean over its genes, state of its first token, a learnt weighting, or the dense
    layer over the first token that published classifiers have."""

    relative_positions: int = 0
    """Learn relative positions, clipped at this distance, in place of absolute ones; 0 keeps absolute positions."""

    attention_window: int = 0
    """Genes on either side that a gene attends to; 0 for all."""

    dropout: float | None = None
    """Dropout of the encoder and before the head; as pretrained by default."""

    class_weights: Literal["none", "balanced"] = "none"
    """Count every class equally, however many cells it has, or every cell."""

    label_smoothing: float = 0.0
    """Share of the target given to the other classes."""

    contrastive_weight: float = 0.0
    """Weight of the contrastive term between each cell and itself with genes deleted; 0 switches it off."""

    contrastive_temperature: float = 0.1
    """Temperature of the contrastive term."""

    contrastive_delete: float = 0.15
    """Share of a cell's genes deleted in its second view, unless genes are named."""

    supervised_weight: float = 1.0
    """Weight of the labels' term; 0 learns from the contrastive term alone."""

    epochs: float = 5.0
    """Passes over the training cells."""

    max_steps: int = -1
    """Optimizer steps; overrides `epochs` when positive."""

    tokens_per_batch: int = 8192
    """Tokens in one batch and device."""

    accumulation: int = 1
    """Batches per optimizer step."""

    learning_rate: float = 3e-4
    """Peak learning rate."""

    schedule: Literal["linear", "cosine", "polynomial", "constant_with_warmup"] = "linear"
    """Shape of the learning rate after warm-up."""

    warmup_ratio: float = 0.1
    """Share of the steps during which the learning rate rises."""

    weight_decay: float = 0.001
    """Decoupled weight decay."""

    max_grad_norm: float = 1.0
    """Gradients are scaled down to this norm; 0 leaves them alone."""

    patience: int = 0
    """Stop when so many evaluations in a row did not improve; 0 trains to the end. Either way the weights of the best
    evaluation are kept."""

    eval_steps: int = 0
    """Optimizer steps between evaluations on the validation cells; 0 for once per pass."""

    logging_steps: int = 10
    """Optimizer steps between log lines."""

    max_length: int | None = None
    """Tokens of a cell that are read. The model's positions by default."""

    seed: int = 0
    """Seed of new weights, dropout, order and views."""

    def __post_init__(self) -> None:
        check_choice("strategy", self.strategy, STRATEGIES)
        check_choice("bits", self.bits, ("full", "8bit", "4bit"))
        check_choice("weights", self.weights, ("pretrained", "random"))
        check_choice("pooling", self.pooling, POOLINGS)
        check_choice("class_weights", self.class_weights, ("none", "balanced"))
        check_choice("schedule", self.schedule, SCHEDULES)
        for name in ("freeze_layers", "relative_positions", "attention_window", "patience", "eval_steps"):
            check_range(name, getattr(self, name), low=0)
        for name in ("adapter_size", "lora_rank", "tokens_per_batch", "accumulation", "logging_steps"):
            check_range(name, getattr(self, name), low=1)
        for name in ("lora_alpha", "contrastive_temperature", "epochs", "learning_rate"):
            check_range(name, getattr(self, name), above=0.0)
        for name in ("contrastive_weight", "supervised_weight", "weight_decay", "max_grad_norm"):
            check_range(name, getattr(self, name), low=0.0)
        for name in ("lora_dropout", "label_smoothing", "contrastive_delete"):
            check_range(name, getattr(self, name), low=0.0, high=0.9)
        check_range("dropout", self.dropout, low=0.0, high=0.9)
        check_range("warmup_ratio", self.warmup_ratio, low=0.0, high=1.0)
        check_range("max_length", self.max_length, low=3)
