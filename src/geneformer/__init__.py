"""Geneformer: raw single-cell counts in; tokens, embeddings and pictures out.

Every name is loaded when it is first used, so `import geneformer` is instant.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from geneformer._version import __version__

if TYPE_CHECKING:
    from geneformer import errors, pl, pp, tl
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
    "CellClassifier",
    "CellRegressor",
    "ExpressionDecoder",
    "GeneClassifier",
    "MultiTaskClassifier",
    "TokenizedDataset",
    "Vocabulary",
    "__version__",
    "cross_validate",
    "errors",
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
_HOMES = {
    "CellClassifier": "estimators.cell_classifier",
    "CellRegressor": "estimators.cell_regressor",
    "ExpressionDecoder": "estimators.expression_decoder",
    "GeneClassifier": "estimators.gene_classifier",
    "MultiTaskClassifier": "estimators.multi_task_classifier",
    "TokenizedDataset": "data.dataset",
    "Vocabulary": "vocab.vocabulary",
    "cross_validate": "estimators.cross_validation",
    "list_models": "models.loading",
    "load_classifier": "estimators.loading",
    "load_model": "models.loading",
    "read_dataset": "data.storage",
    "search": "estimators.search",
}


def __getattr__(name: str) -> Any:
    if name in _MODULES:
        return import_module(f"{__name__}.{name}")
    if name in _HOMES:
        value = getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
        globals()[name] = value
        return value
    msg = f"module {__name__!r} has no attribute {name!r}"
    raise AttributeError(msg)


def __dir__() -> list[str]:
    return sorted(__all__)
