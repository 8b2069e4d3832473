"""The demo's classifier: cell types learnt by fine-tuning, and how right it is on cells held out."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

from geneformer import pl
from geneformer.demo.cells import LABEL
from geneformer.estimators.cell_classifier import CellClassifier
from geneformer.options import ClassifyOptions, FinetuneOptions, RuntimeOptions, SplitOptions

if TYPE_CHECKING:
    from anndata import AnnData

    from geneformer.results.classification import ClassificationReport

OPTIONS = FinetuneOptions(epochs=3, max_length=256, learning_rate=1e-3, tokens_per_batch=4096)
"""Short enough for a demo: the highest ranked genes of each cell, three times."""

CLASSIFIER, MATRIX = "classifier", "confusion.png"
"""Names in the folder of the demo."""


def fit_classifier(adata: "AnnData", model: str | Path, runtime: RuntimeOptions, seed: int) -> CellClassifier:
    """A classifier of the cell types, evaluated on a fifth of the cells beside the cheap baselines.

    Parameters
    ----------
    adata
        Counts and labels.
    model
        Name, checkpoint folder or hub repository.
    runtime
        Where and how it runs.
    seed
        Fixes split and training.
    """
    from dataclasses import replace

    classifier = CellClassifier(
        model,
        finetuning=replace(OPTIONS, seed=seed),
        classify=ClassifyOptions(baselines="cheap", rare_below=9),
        split=SplitOptions(test=0.2, seed=seed),
        runtime=runtime,
    )
    return classifier.fit(adata, LABEL)


def write_classifier(classifier: CellClassifier, folder: Path) -> None:
    """Save the classifier with its report, and the picture of its confusion matrix; nothing stays open."""
    from matplotlib import pyplot

    classifier.save(folder / CLASSIFIER)
    before = pyplot.get_fignums()
    pl.confusion_matrix(classifier.report_, title="Cell types of held-out cells", save=folder / MATRIX)
    for number in set(pyplot.get_fignums()) - set(before):
        pyplot.close(number)


def figures(report: "ClassificationReport") -> dict[str, Any]:
    """Accuracy and macro-F1 of the classifier and its baselines on the held-out cells, by name.

    Parameters
    ----------
    report
        Evaluation of the classifier.
    """
    rows = {"fine-tuned": report.evaluation, **report.baselines}
    told = ("accuracy", "macro_f1")
    return {name: {metric: str(row.metrics[metric]) for metric in told} for name, row in rows.items()}
