"""Options: one frozen dataclass per task, checked when made; every surface derives from them."""

from geneformer.options.finetuning import (
    ClassifyOptions,
    ExpressionOptions,
    FinetuneOptions,
    GeneClassifyOptions,
    MultiTaskOptions,
    RegressOptions,
    SearchOptions,
    SplitOptions,
)
from geneformer.options.inference import AnnotateOptions, AttentionOptions, EmbedOptions, PredictOptions, RuntimeOptions
from geneformer.options.networks import NetworkEvaluateOptions, NetworkOptions
from geneformer.options.perturbation import PerturbOptions, RankOptions
from geneformer.options.pretraining import PretrainOptions
from geneformer.options.tokenization import TokenizeOptions

__all__ = [
    "AnnotateOptions",
    "AttentionOptions",
    "ClassifyOptions",
    "EmbedOptions",
    "ExpressionOptions",
    "FinetuneOptions",
    "GeneClassifyOptions",
    "MultiTaskOptions",
    "NetworkEvaluateOptions",
    "NetworkOptions",
    "PerturbOptions",
    "PredictOptions",
    "PretrainOptions",
    "RankOptions",
    "RegressOptions",
    "RuntimeOptions",
    "SearchOptions",
    "SplitOptions",
    "TokenizeOptions",
]
