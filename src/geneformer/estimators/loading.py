"""`gf.load_classifier`: any estimator from the folder it was saved to."""

from importlib import import_module
from pathlib import Path
from typing import Any

from geneformer.errors import CheckpointError
from geneformer.estimators.folder import read_folder
from geneformer.options import RuntimeOptions

ESTIMATORS = {
    "cell_classifier": "CellClassifier",
    "cell_regressor": "CellRegressor",
    "expression_decoder": "ExpressionDecoder",
    "gene_classifier": "GeneClassifier",
    "multi_task_classifier": "MultiTaskClassifier",
}
"""Classes by the kind a folder names; each lives in the module of its kind."""


def load_classifier(folder: str | Path, *, runtime: RuntimeOptions | None = None) -> Any:
    """A fine-tuned model as its `save` wrote it: a `CellClassifier`, `GeneClassifier`, or whatever was saved.

    Parameters
    ----------
    folder
        Folder of a saved estimator.
    runtime
        Where and how it runs.

    Raises
    ------
    CheckpointError
        Not such a folder, or a damaged one.
    VocabularyMismatchError
        Network and vocabulary do not belong together.
    """
    kind = str(read_folder(folder).task["kind"])
    if kind not in ESTIMATORS:
        msg = f"{folder} holds a {kind!r}, which this release does not know. Known are {', '.join(sorted(ESTIMATORS))}."
        raise CheckpointError(msg)
    estimator = getattr(import_module(f"geneformer.estimators.{kind}"), ESTIMATORS[kind])
    return estimator.load(folder, runtime=runtime)
