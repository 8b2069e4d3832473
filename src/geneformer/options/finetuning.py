"""Knobs of fine-tuning."""

from collections import Counter
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any, Literal

from geneformer.errors import OptionError, OutOfRangeError
from geneformer.options._fields import (
    AboveZero,
    Count,
    Epochs,
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
    read_table,
)


@dataclass(frozen=True, kw_only=True, slots=True)
class FinetuneOptions(Options):
    """How a pretrained encoder learns a task."""

    strategy: Literal["auto", "full", "last_layer", "extra_layer", "adapters", "lora", "head", "probe"] = "auto"
    """Which parameters move besides the head: all; those of the last layer; of one new layer on top; of bottleneck
    adapters in every layer; of low-rank updates (PEFT); none. Or, with "probe", nothing is trained: the head is the
    linear model of the frozen embeddings, fitted in seconds. "auto" is "probe" on a CPU for up to 20,000 cells if no
    option of the training is set, else "full"."""

    head_start: Literal["probe", "random"] = "probe"
    """Start the head from the linear model of the frozen embeddings of the training cells, or from random weights.
    Steps of the training count only where they make the validation cells better than the start."""

    freeze_layers: Count = 0
    """Lowest encoder layers kept as they are. With strategy "full"; the token embeddings go on learning."""

    freeze_embeddings: bool = False
    """Keep the embeddings of tokens and ranks as they are as well. With frozen layers, and in a network without
    dropout, the frozen part then runs once for each cell, as it does with "last_layer" and "head"."""

    layer_decay: Annotated[float, Range(above=0.0, high=1.0)] = 1.0
    """Factor on the learning rate from a layer to the one below it, from the head downwards; 1 for one rate."""

    adapter_size: Positive = 32
    """Width of the bottleneck of an adapter."""

    lora_rank: Positive = 8
    """Rank of the low-rank updates."""

    lora_alpha: AboveZero = 16.0
    """Scale of the low-rank updates; they are multiplied by alpha over rank."""

    lora_dropout: PartialShare = 0.0
    """Dropout on the input of the low-rank updates."""

    bits: Literal["full", "8bit", "4bit"] = "full"
    """Precision the frozen weights are kept in while low-rank updates are learnt; needs a device that has it."""

    weights: Literal["pretrained", "random"] = "pretrained"
    """Start from the pretrained weights, or from random ones of the same shape."""

    pooling: Literal["mean", "rank", "cls", "attention", "pooler"] = "mean"
    """How a cell becomes one vector: mean over its genes, the same with a gene of rank r (from 0) weighing
    1 / (1 + r / 100), state of its first token, a learnt weighting, or the dense layer over the first token that
    published classifiers have."""

    relative_positions: Count = 0
    """Learn relative positions, clipped at this distance, in place of absolute ones; 0 keeps absolute positions."""

    attention_window: Count = 0
    """Genes on either side that a gene attends to; 0 for all."""

    dropout: Annotated[float | None, Range(low=0.0, high=0.9)] = None
    """Dropout of the encoder and before the head; as pretrained by default."""

    class_weights: Literal["none", "balanced"] = "none"
    """Count every class equally, however many cells it has, or every cell."""

    label_smoothing: PartialShare = 0.0
    """Share of the target given to the other classes."""

    contrastive_weight: NonNegative = 0.0
    """Weight of the contrastive term between each cell and itself with genes deleted; 0 switches it off."""

    contrastive_temperature: AboveZero = 0.1
    """Temperature of the contrastive term."""

    contrastive_delete: PartialShare = 0.15
    """Share of a cell's genes deleted in its second view, unless genes are named."""

    supervised_weight: NonNegative = 1.0
    """Weight of the labels' term; 0 learns from the contrastive term alone."""

    epochs: Epochs = 5.0
    """Passes over the training cells."""

    max_steps: Steps = -1
    """Optimizer steps; overrides `epochs` when positive."""

    tokens_per_batch: Positive = 8192
    """Tokens in one batch and device."""

    accumulation: Positive = 1
    """Batches per optimizer step."""

    learning_rate: LearningRate = 3e-4
    """Peak learning rate."""

    schedule: Literal["linear", "cosine", "polynomial", "constant_with_warmup"] = "linear"
    """Shape of the learning rate after warm-up."""

    warmup_ratio: Share = 0.1
    """Share of the steps during which the learning rate rises."""

    weight_decay: NonNegative = 0.001
    """Decoupled weight decay."""

    max_grad_norm: NonNegative = 1.0
    """Gradients are scaled down to this norm; 0 leaves them alone."""

    patience: Count = 3
    """Stop when so many evaluations in a row did not improve; 0 trains to the end. Either way the weights of the best
    evaluation are kept."""

    eval_steps: Count = 0
    """Optimizer steps between evaluations on the validation cells; 0 for once per pass."""

    logging_steps: Positive = 10
    """Optimizer steps between log lines."""

    max_length: Longest = None
    """Tokens of a cell that are read. The model's positions by default."""

    seed: Seed = 0
    """Seed of new weights, dropout, order and views."""

    def _check(self) -> None:
        check_steps(self.max_steps)


@dataclass(frozen=True, kw_only=True, slots=True)
class _ClassOptions(Options):
    """What learning one column of classes, or several, has in common."""

    max_cells: Annotated[int | None, Range(low=2)] = None
    """Cells used, drawn at random. All by default."""

    calibrate: bool = True
    """Fit a temperature on the validation cells, one for each column, so that probabilities are shares of right
    answers."""

    unknown_below: Share = 0.0
    """Cells whose best probability is lower are called "unknown"; 0 names every cell."""

    baselines: Literal["all", "cheap", "none"] = "cheap"
    """What the report compares the model with: majority class, library size and logistic regression on variable genes;
    with "all" also the same network trained from random weights, which takes as long as the model."""

    n_top_genes: Annotated[int, Range(low=2)] = 2000
    """Variable genes the logistic regression sees."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ClassifyOptions(_ClassOptions):
    """Which cells and labels are used, and what a prediction is."""

    multi_label: bool = False
    """A cell may have several labels; its entry lists them, apart by `separator`."""

    separator: str = ";"
    """What stands between the labels of one cell."""

    rare_below: NonNegative = 0.0
    """Classes with less than this share of the labeled cells, or fewer cells than this number if it is 1 or more, are
    left out."""

    max_cells_per_class: Annotated[int | None, Range(low=1)] = None
    """Cells used of any one class, drawn at random. All by default."""


COUNT_LOSSES = ("poisson", "negative_binomial")


@dataclass(frozen=True, kw_only=True, slots=True)
class RegressOptions(Options):
    """What is minimized, and what the predicted number goes through."""

    loss: Literal["squared_error", "gaussian", "poisson", "negative_binomial"] = "squared_error"
    """Squared error; or the likelihood of a normal distribution with a spread of its own for each cell, or of counts
    without or with a dispersion of their own. All but the first also predict the spread."""

    activation: Literal["auto", "linear", "relu", "softplus"] = "auto"
    """Output function: any number, or none below 0. "auto" is linear, and softplus for counts."""

    max_cells: Annotated[int | None, Range(low=2)] = None
    """Cells used, drawn at random. All by default."""

    baselines: Literal["all", "cheap", "none"] = "cheap"
    """What the report compares the model with: mean of the training cells, library size and ridge regression on
    variable genes, and with "all" the same network trained from random weights, which takes as long as the model."""

    n_top_genes: Annotated[int, Range(low=2)] = 2000
    """Variable genes the ridge regression sees."""

    def _check(self) -> None:
        if self.counts and self.activation == "linear":
            msg = (
                f'activation="linear" may fall below 0, which loss="{self.loss}" has no likelihood for. Use "softplus".'
            )
            raise OptionError(msg)

    @property
    def counts(self) -> bool:
        """Whether the loss is one of counts."""
        return self.loss in COUNT_LOSSES

    @property
    def output(self) -> Literal["linear", "relu", "softplus"]:
        """The output function that `activation` stands for."""
        if self.activation == "auto":
            return "softplus" if self.counts else "linear"
        return self.activation


@dataclass(frozen=True, kw_only=True, slots=True)
class ExpressionOptions(Options):
    """How genes are removed from cells, and how their values and ranks are learnt."""

    share: Annotated[float, Range(above=0.0, high=0.9)] = 0.15
    """Share of the genes of every cell that is removed from the input, drawn anew in every pass."""

    removed_weight: NonNegative = 1.0
    """Weight of the removed genes in what is minimized."""

    visible_weight: NonNegative = 0.25
    """Weight of the genes that stay in the input."""

    value_weight: NonNegative = 1.0
    """Weight of the error of the values."""

    rank_weight: NonNegative = 1.0
    """Weight of the error of the ranks."""

    decoder_size: Positive = 256
    """Width of the decoder's two hidden layers."""

    max_cells: Annotated[int | None, Range(low=2)] = None
    """Cells used, drawn at random. All by default."""

    report_cells: Positive = 1000
    """Most cells a report is measured on, drawn at random; each brings a hundred numbers or more."""

    baselines: Literal["all", "cheap", "none"] = "cheap"
    """What the report compares the model with: the mean of each gene over the training cells, that mean with an
    effect of the cell, and with "all" the same network trained from random weights, which takes as long as the
    model."""

    def _check(self) -> None:
        for pair in (("removed_weight", "visible_weight"), ("value_weight", "rank_weight")):
            if not any(getattr(self, name) for name in pair):
                msg = f"{pair[0]} and {pair[1]} are both 0, so nothing is learnt. Give one of them a weight above 0."
                raise OptionError(msg)


@dataclass(frozen=True, kw_only=True, slots=True)
class GeneClassifyOptions(Options):
    """Which genes and cells are used, and what the model is compared with."""

    unknown_genes: Literal["refuse", "drop"] = "refuse"
    """Refuse lists with names that are no genes of the vocabulary, or leave such names out with a warning that lists
    them."""

    valid: Share = 0.1
    """Share of the genes learnt from that choose the best step instead; 0 for none."""

    test: Share = 0.0
    """Share of the genes that `fit` holds out and reports on. Cross-validation holds every gene out once anyway."""

    max_cells: Annotated[int | None, Range(low=1)] = None
    """Cells used, drawn at random among those with any of the labeled genes. All of them by default."""

    baselines: Literal["all", "cheap", "none"] = "cheap"
    """What the report compares the model with: the commonest class, and linear models of each gene's rank and
    detection, of its static embedding and of its embedding averaged over cells; with "all" also the same network
    trained from random weights, which takes as long as the model."""

    def _check(self) -> None:
        _check_shares(self.valid, self.test, "genes")


@dataclass(frozen=True, kw_only=True, slots=True)
class MultiTaskOptions(_ClassOptions):
    """How tasks that share an encoder are weighed, and what a prediction is."""

    task_weights: tuple[float, ...] = ()
    """Weight of each task's loss, in the order of the columns. All 1 by default."""

    learn_task_weights: bool = False
    """Learn the weights from the uncertainty of each task (Kendall et al., CVPR 2018) in place of fixed ones."""

    rare_below: NonNegative = 0.0
    """Classes with at most this share of the labeled cells of their task, or this many cells if it is 1 or more, are
    left out of it; 0 keeps all."""

    def _check(self) -> None:
        object.__setattr__(self, "task_weights", tuple(self.task_weights))
        for weight in self.task_weights:
            check_range("task_weights", weight, low=0.0)
        if self.task_weights and not any(self.task_weights):
            msg = f"task_weights={self.task_weights} learns nothing. Give at least one task a weight above 0."
            raise OptionError(msg)
        if self.task_weights and self.learn_task_weights:
            msg = (
                f"task_weights={self.task_weights} are fixed, and learn_task_weights=True learns them. Choose one of "
                "the two."
            )
            raise OptionError(msg)


@dataclass(frozen=True, kw_only=True, slots=True)
class SplitOptions(Options):
    """Which cells are learnt from, which choose the best step, and which are only tested on."""

    method: Literal["auto", "random", "stratified", "group", "ids", "balanced"] = "auto"
    """Draw cells at random; with the shares of the classes kept; whole groups, such as donors; take the ids listed; or
    draw ids until attributes are balanced. "auto" is "group" where groups are given, else "stratified" where every
    class has enough cells, else "random"."""

    valid: Share = 0.1
    """Share of the cells that choose the best step and the temperature; of the ids with "balanced"."""

    test: Share = 0.1
    """Share of the cells that are only tested on; of the ids with "balanced". The rest is learnt from."""

    train_ids: tuple[str, ...] = ()
    """Ids, such as donors, that are learnt from. With method "ids"; ids in no list are left out."""

    valid_ids: tuple[str, ...] = ()
    """Ids that choose the best step. With method "ids"."""

    test_ids: tuple[str, ...] = ()
    """Ids that are only tested on. With method "ids"."""

    balance: tuple[str, ...] = ()
    """Attributes, such as age or sex, that the parts must not differ in. With method "balanced"."""

    max_trials: Positive = 100
    """Draws of a balanced split; the best one is taken if none passes."""

    p_threshold: Share = 0.1
    """A balanced split is accepted when the p-value of every attribute reaches this."""

    allow_leakage: bool = False
    """Accept a split with cells of one group on two sides. They resemble each other, and scores come out too high."""

    seed: Seed = 0
    """Seed of the draw."""

    def _check(self) -> None:
        _check_shares(self.valid, self.test, "cells")
        for name in ("train_ids", "valid_ids", "test_ids", "balance"):
            # Ids may be numbers.
            object.__setattr__(self, name, tuple(str(entry).strip() for entry in getattr(self, name)))
        self._check_lists()

    def _check_lists(self) -> None:
        lists = {name: getattr(self, name) for name in ("train_ids", "valid_ids", "test_ids")}
        for method, given in (("ids", [name for name in lists if lists[name]]), ("balanced", ["balance"])):
            if self.method != method and any(getattr(self, name) for name in given):
                msg = f'{given[0]} is given, but method="{self.method}". Pass method="{method}", or leave it out.'
                raise OptionError(msg)
        if self.method == "ids" and not self.train_ids:
            msg = 'method="ids" without train_ids. List the ids that are to be learnt from.'
            raise OptionError(msg)
        if self.method == "balanced" and not self.balance:
            msg = 'method="balanced" without balance. Name the attributes to balance, such as balance=["age", "sex"].'
            raise OptionError(msg)
        counted = Counter(entry for entries in lists.values() for entry in dict.fromkeys(entries))
        twice = sorted(entry for entry, number in counted.items() if number > 1)
        if twice:
            homes = ", ".join(name for name, entries in lists.items() if twice[0] in entries)
            msg = (
                f"{len(twice)} ids in two lists, first {twice[0]!r}, in {homes}. An id is learnt from or held out; "
                "list it once."
            )
            raise OptionError(msg)


@dataclass(frozen=True, kw_only=True, slots=True)
class SearchOptions(Options):
    """How many trials, what they are compared by, and where they are kept."""

    trials: Positive = 20
    """Trials in all, however many processes work on the study."""

    metric: str = "auto"
    """Figure of the validation cells that decides, such as "macro_f1", "accuracy" or "loss". "auto" is "macro_f1" for
    one class per cell, else "loss"."""

    storage: str | None = None
    """Where trials are kept, for going on later and for several processes at once: "sqlite:///study.db", or the path
    of a journal file. In memory by default."""

    study: str = "geneformer"
    """Name of the study; a storage may hold several."""

    timeout: Annotated[float | None, Range(above=0.0)] = None
    """Seconds after which no further trial starts."""

    pruner: Literal["median", "halving", "none"] = "median"
    """Stop a trial whose evaluation is worse than the median of the others at that point; or all but the best part at
    growing intervals; or none."""

    n_startup_trials: Count = 10
    """Trials drawn at random before the others are drawn where the best ones were."""

    prune_after: Count = 5
    """Trials that are finished before the median stops any."""

    refit: Literal["train", "train_valid", "none"] = "train"
    """Cells the best options are fitted on once more, before the test cells are looked at: those learnt from; the
    validation cells as well, without a best step or a temperature to choose by then; or none, for further processes."""

    seed: Seed = 0
    """Seed of the draws."""


PROBE_CELLS = 20_000
"""Most cells for which a probe is the default."""

FOR_PROBES = frozenset({"strategy", "head_start", "pooling", "class_weights", "max_length", "seed"})
"""Options that a probe reads as well: to set one does not ask for training."""

LEARNT_POOLING = ("attention", "pooler")


def resolved(options: FinetuneOptions, *, probe: bool) -> FinetuneOptions:
    """The same with a strategy in the place of "auto"; `probe` says whether cells, task and device suit a probe."""
    if options.strategy != "auto":
        return options
    trains = options.asked - FOR_PROBES or options.head_start == "random" or options.pooling in LEARNT_POOLING
    return replace(options, strategy="probe" if probe and not trains else "full")


def _check_shares(valid: float, test: float, what: str) -> None:
    if valid + test > 1 - 1e-9:  # 0.3 + 0.7 need not make 1 in floating point
        msg = (
            f"valid={valid} and test={test} leave no {what} to learn from. They are shares of the {what} and must sum "
            "to less than 1."
        )
        raise OutOfRangeError(msg)


def read_space(path: str | Path) -> dict[str, Any]:
    """The table of options to search in a TOML file: its table `[space]`, or the whole file where there is none.

    Parameters
    ----------
    path
        A TOML file. A range is `learning_rate = {low = 1e-5, high = 1e-2, log = true}`, a choice
        `strategy = ["full", "lora"]`.

    Raises
    ------
    OptionError
        The file cannot be read.
    """
    content = read_table(path, "The options to search in", "TOML file")
    table = content.get("space", content) if isinstance(content, dict) else content
    if not isinstance(table, dict):
        msg = f'"{path}" sets space={table!r}. It takes a table of options: [space].'
        raise OptionError(msg)
    return table
