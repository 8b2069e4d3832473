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
    from geneformer.estimators.loading import load_classifier
    from geneformer.models.loading import list_models, load_model
    from geneformer.vocab.vocabulary import Vocabulary

__all__ = [
    "CellClassifier",
    "TokenizedDataset",
    "Vocabulary",
    "__version__",
    "errors",
    "list_models",
    "load_classifier",
    "load_model",
    "pl",
    "pp",
    "read_dataset",
    "tl",
]

_MODULES = ("errors", "pl", "pp", "tl")
_HOMES = {
    "CellClassifier": "estimators.cell_classifier",
    "TokenizedDataset": "data.dataset",
    "Vocabulary": "vocab.vocabulary",
    "list_models": "models.loading",
    "load_classifier": "estimators.loading",
    "load_model": "models.loading",
    "read_dataset": "data.storage",
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
