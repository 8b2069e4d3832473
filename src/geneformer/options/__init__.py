"""Options: one frozen dataclass per task, checked when made; every surface derives from them."""

from geneformer.options.attention import AttentionOptions
from geneformer.options.classification import ClassifyOptions
from geneformer.options.embedding import EmbedOptions
from geneformer.options.expression import ExpressionOptions
from geneformer.options.finetuning import FinetuneOptions
from geneformer.options.gene_classification import GeneClassifyOptions
from geneformer.options.multi_task import MultiTaskOptions
from geneformer.options.perturbation import PerturbOptions
from geneformer.options.perturbation_ranking import RankOptions
from geneformer.options.prediction import PredictOptions
from geneformer.options.pretraining import PretrainOptions
from geneformer.options.regression import RegressOptions
from geneformer.options.runtime import RuntimeOptions
from geneformer.options.search import SearchOptions
from geneformer.options.splitting import SplitOptions
from geneformer.options.tokenization import TokenizeOptions

__all__ = [
    "AttentionOptions",
    "ClassifyOptions",
    "EmbedOptions",
    "ExpressionOptions",
    "FinetuneOptions",
    "GeneClassifyOptions",
    "MultiTaskOptions",
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
