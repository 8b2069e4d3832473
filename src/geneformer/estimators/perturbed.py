"""From the name or folder of a model to what perturbations are run with."""

from pathlib import Path

from geneformer.estimators.cell_classifier import CellClassifier
from geneformer.estimators.folder import TASK, read_folder
from geneformer.models.loading import load_model
from geneformer.tasks.perturbation.reading import PerturbedModel
from geneformer.vocab.vocabulary import Vocabulary


def open_perturbed_model(
    model: "str | Path | CellClassifier",
    *,
    vocabulary: str | Path | Vocabulary | None = None,
    revision: str | None = None,
) -> PerturbedModel:
    """A pretrained encoder, or a fine-tuned classifier of cells, whose probabilities are then read as well.

    Parameters
    ----------
    model
        Name, checkpoint folder or hub repository; a fitted `CellClassifier`, or the folder of one.
    vocabulary, revision
        As for `gf.load_model`.

    Raises
    ------
    NotFittedError
        A classifier that has learnt nothing yet.
    """
    if not isinstance(model, CellClassifier) and not _is_classifier(Path(model)):
        return PerturbedModel.pretrained(load_model(model, vocabulary=vocabulary, revision=revision))
    fitted = model if isinstance(model, CellClassifier) else CellClassifier.load(model)
    name = str(model) if not isinstance(model, CellClassifier) else "CellClassifier"
    pairing = fitted.pairing
    network = fitted.network_.eval()
    return PerturbedModel(name, pairing.vocabulary, network.bert, network, fitted.temperature_, pairing.max_length)


def _is_classifier(folder: Path) -> bool:
    return (folder / TASK).is_file() and str(read_folder(folder).task["kind"]) == CellClassifier.kind
