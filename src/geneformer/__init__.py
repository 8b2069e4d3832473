"""Geneformer: raw single-cell counts in; tokens, embeddings and pictures out.

Every name is loaded when it is first used, so `import geneformer` is instant.
"""

from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

from geneformer._version import __version__

if TYPE_CHECKING:
    from geneformer import errors, pl, pp, tl
    from geneformer.compat.classification.classifier import Classifier
    from geneformer.compat.classification.collators import (
        DataCollatorForCellClassification,
        DataCollatorForGeneClassification,
    )
    from geneformer.compat.dictionary_files import (
        ENSEMBL_DICTIONARY_FILE,
        ENSEMBL_DICTIONARY_FILE_30M,
        ENSEMBL_MAPPING_FILE,
        ENSEMBL_MAPPING_FILE_30M,
        GENE_MEDIAN_FILE,
        GENE_MEDIAN_FILE_30M,
        TOKEN_DICTIONARY_FILE,
        TOKEN_DICTIONARY_FILE_30M,
    )
    from geneformer.compat.embeddings.emb_extractor import EmbExtractor, get_embs
    from geneformer.compat.multi_task.mtl_classifier import MTLClassifier
    from geneformer.compat.perturbation.in_silico_perturber import InSilicoPerturber
    from geneformer.compat.perturbation.in_silico_perturber_stats import InSilicoPerturberStats
    from geneformer.compat.pretraining.pretrainer import GeneformerPretrainer
    from geneformer.compat.tokenizer import TranscriptomeTokenizer
    from geneformer.data.dataset import TokenizedDataset
    from geneformer.data.storage import read_dataset
    from geneformer.estimators.cell_classifier import CellClassifier
    from geneformer.estimators.cell_regressor import CellRegressor
    from geneformer.estimators.cross_validation import cross_validate
    from geneformer.estimators.expression_decoder import ExpressionDecoder
    from geneformer.estimators.gene_classifier import GeneClassifier
    from geneformer.estimators.loading import load_classifier
    from geneformer.estimators.multi_task_classifier import MultiTaskClassifier
    from geneformer.estimators.search import search
    from geneformer.models.loading import list_models, load_model
    from geneformer.vocab.vocabulary import Vocabulary

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
    "get_embs",
    "list_models",
    "load_classifier",
    "load_model",
    "pl",
    "pp",
    "read_dataset",
    "search",
    "tl",
]

_MODULES = ("errors", "pl", "pp", "tl")
_PUBLISHED_MODULES = (
    "classifier",
    "classifier_utils",
    "collator_for_classification",
    "emb_extractor",
    "evaluation_utils",
    "in_silico_perturber",
    "in_silico_perturber_stats",
    "mtl_classifier",
    "perturber_utils",
    "pretrainer",
    "tokenizer",
)
"""Modules that scripts for the published package import."""
_HOMES = {
    "CellClassifier": "estimators.cell_classifier",
    "CellRegressor": "estimators.cell_regressor",
    "Classifier": "compat.classification.classifier",
    "DataCollatorForCellClassification": "compat.classification.collators",
    "DataCollatorForGeneClassification": "compat.classification.collators",
    "ENSEMBL_DICTIONARY_FILE": "compat.dictionary_files",
    "ENSEMBL_DICTIONARY_FILE_30M": "compat.dictionary_files",
    "ENSEMBL_MAPPING_FILE": "compat.dictionary_files",
    "ENSEMBL_MAPPING_FILE_30M": "compat.dictionary_files",
    "EmbExtractor": "compat.embeddings.emb_extractor",
    "ExpressionDecoder": "estimators.expression_decoder",
    "GENE_MEDIAN_FILE": "compat.dictionary_files",
    "GENE_MEDIAN_FILE_30M": "compat.dictionary_files",
    "GeneClassifier": "estimators.gene_classifier",
    "GeneformerPretrainer": "compat.pretraining.pretrainer",
    "InSilicoPerturber": "compat.perturbation.in_silico_perturber",
    "InSilicoPerturberStats": "compat.perturbation.in_silico_perturber_stats",
    "MTLClassifier": "compat.multi_task.mtl_classifier",
    "MultiTaskClassifier": "estimators.multi_task_classifier",
    "TOKEN_DICTIONARY_FILE": "compat.dictionary_files",
    "TOKEN_DICTIONARY_FILE_30M": "compat.dictionary_files",
    "TokenizedDataset": "data.dataset",
    "TranscriptomeTokenizer": "compat.tokenizer",
    "Vocabulary": "vocab.vocabulary",
    "cross_validate": "estimators.cross_validation",
    "get_embs": "compat.embeddings.emb_extractor",
    "list_models": "models.loading",
    "load_classifier": "estimators.loading",
    "load_model": "models.loading",
    "read_dataset": "data.storage",
    "search": "estimators.search",
}
_WRITTEN_WHEN_ASKED_FOR = "compat.dictionary_files"
"""Home of paths of files, which may be gone or belong elsewhere when they are asked for again."""

__path__.append(str(Path(__file__).parent / "compat" / "published"))


def __getattr__(name: str) -> Any:
    if name in _MODULES or name in _PUBLISHED_MODULES:
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
