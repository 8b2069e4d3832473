"""Geneformer: raw single-cell counts in; tokens, embeddings and pictures out.

Every name is loaded when it is first used, so `import geneformer` is instant.
"""

import sys
import warnings
from importlib import import_module
from typing import TYPE_CHECKING, Any

from geneformer import display
from geneformer._version import __version__
from geneformer.compat.paths import MODULES as PUBLISHED
from geneformer.compat.paths import PublishedModules

if TYPE_CHECKING:
    from geneformer import errors, pl, pp, tl
    from geneformer.compat.classifier import Classifier
    from geneformer.compat.collators import DataCollatorForCellClassification, DataCollatorForGeneClassification
    from geneformer.compat.dictionaries import (
        ENSEMBL_DICTIONARY_FILE,
        ENSEMBL_DICTIONARY_FILE_30M,
        ENSEMBL_MAPPING_FILE,
        ENSEMBL_MAPPING_FILE_30M,
        GENE_MEDIAN_FILE,
        GENE_MEDIAN_FILE_30M,
        TOKEN_DICTIONARY_FILE,
        TOKEN_DICTIONARY_FILE_30M,
    )
    from geneformer.compat.emb_extractor import EmbExtractor, get_embs
    from geneformer.compat.mtl_classifier import MTLClassifier
    from geneformer.compat.perturber import InSilicoPerturber
    from geneformer.compat.perturber_stats import InSilicoPerturberStats
    from geneformer.compat.pretrainer import GeneformerPretrainer
    from geneformer.compat.tokenizer import TranscriptomeTokenizer
    from geneformer.errors import explain
    from geneformer.finetuning.cross_validation import cross_validate
    from geneformer.finetuning.estimators import CellClassifier, CellRegressor, MultiTaskClassifier, load_classifier
    from geneformer.finetuning.expression_decoder import ExpressionDecoder
    from geneformer.finetuning.gene_classifier import GeneClassifier
    from geneformer.finetuning.search import search
    from geneformer.genes.vocabulary import Vocabulary
    from geneformer.models.hub import list_models
    from geneformer.models.loading import load_model
    from geneformer.options.settings import settings
    from geneformer.tokens.dataset import TokenizedDataset
    from geneformer.tokens.storage import read_dataset

__all__ = [
    "ENSEMBL_DICTIONARY_FILE",
    "ENSEMBL_DICTIONARY_FILE_30M",
    "ENSEMBL_MAPPING_FILE",
    "ENSEMBL_MAPPING_FILE_30M",
    "GENE_MEDIAN_FILE",
    "GENE_MEDIAN_FILE_30M",
    "TOKEN_DICTIONARY_FILE",
    "TOKEN_DICTIONARY_FILE_30M",
    "CellClassifier",
    "CellRegressor",
    "Classifier",
    "DataCollatorForCellClassification",
    "DataCollatorForGeneClassification",
    "EmbExtractor",
    "ExpressionDecoder",
    "GeneClassifier",
    "GeneformerPretrainer",
    "InSilicoPerturber",
    "InSilicoPerturberStats",
    "MTLClassifier",
    "MultiTaskClassifier",
    "TokenizedDataset",
    "TranscriptomeTokenizer",
    "Vocabulary",
    "__version__",
    "cross_validate",
    "errors",
    "explain",
    "get_embs",
    "list_models",
    "load_classifier",
    "load_model",
    "pl",
    "pp",
    "read_dataset",
    "search",
    "settings",
    "tl",
]

_MODULES = ("errors", "pl", "pp", "tl")
_HOMES = {
    "CellClassifier": "finetuning.estimators",
    "CellRegressor": "finetuning.estimators",
    "Classifier": "compat.classifier",
    "DataCollatorForCellClassification": "compat.collators",
    "DataCollatorForGeneClassification": "compat.collators",
    "ENSEMBL_DICTIONARY_FILE": "compat.dictionaries",
    "ENSEMBL_DICTIONARY_FILE_30M": "compat.dictionaries",
    "ENSEMBL_MAPPING_FILE": "compat.dictionaries",
    "ENSEMBL_MAPPING_FILE_30M": "compat.dictionaries",
    "EmbExtractor": "compat.emb_extractor",
    "ExpressionDecoder": "finetuning.expression_decoder",
    "GENE_MEDIAN_FILE": "compat.dictionaries",
    "GENE_MEDIAN_FILE_30M": "compat.dictionaries",
    "GeneClassifier": "finetuning.gene_classifier",
    "GeneformerPretrainer": "compat.pretrainer",
    "InSilicoPerturber": "compat.perturber",
    "InSilicoPerturberStats": "compat.perturber_stats",
    "MTLClassifier": "compat.mtl_classifier",
    "MultiTaskClassifier": "finetuning.estimators",
    "TOKEN_DICTIONARY_FILE": "compat.dictionaries",
    "TOKEN_DICTIONARY_FILE_30M": "compat.dictionaries",
    "TokenizedDataset": "tokens.dataset",
    "TranscriptomeTokenizer": "compat.tokenizer",
    "Vocabulary": "genes.vocabulary",
    "cross_validate": "finetuning.cross_validation",
    "explain": "errors",
    "get_embs": "compat.emb_extractor",
    "list_models": "models.hub",
    "load_classifier": "finetuning.estimators",
    "load_model": "models.loading",
    "read_dataset": "tokens.storage",
    "search": "finetuning.search",
    "settings": "options.settings",
}
_WRITTEN_WHEN_ASKED_FOR = "compat.dictionaries"
"""Home of paths of files, which may be gone or belong elsewhere when they are asked for again."""

sys.meta_path.append(PublishedModules())

# The library of the models loads bars with widgets and warns where those are missing; the bars here need none.
warnings.filterwarnings("ignore", message="IProgress not found")


def _picture(name: str) -> Any:
    return getattr(import_module(f"{__name__}.pl"), name)


display.Pictures.of_name = _picture


def __getattr__(name: str) -> Any:
    if name in _MODULES or name in PUBLISHED:
        return import_module(f"{__name__}.{name}")
    if name in _HOMES:
        value = getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
        if _HOMES[name] != _WRITTEN_WHEN_ASKED_FOR:
            globals()[name] = value
        return value
    msg = f"module {__name__!r} has no attribute {name!r}"
    raise AttributeError(msg)


def __dir__() -> list[str]:
    return sorted(__all__)
