"""Options: one frozen dataclass per task, checked when made; every surface derives from them."""

from geneformer.options.attention import AttentionOptions
from geneformer.options.classification import ClassifyOptions
from geneformer.options.embedding import EmbedOptions
from geneformer.options.finetuning import FinetuneOptions
from geneformer.options.prediction import PredictOptions
from geneformer.options.pretraining import PretrainOptions
from geneformer.options.runtime import RuntimeOptions
from geneformer.options.splitting import SplitOptions
from geneformer.options.tokenization import TokenizeOptions

__all__ = [
    "AttentionOptions",
    "ClassifyOptions",
    "EmbedOptions",
    "FinetuneOptions",
    "PredictOptions",
    "PretrainOptions",
    "RuntimeOptions",
    "SplitOptions",
    "TokenizeOptions",
]
