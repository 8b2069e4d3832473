"""Models for perturbation by their published types."""

from pathlib import Path

from geneformer.compat.loaded_models import published_model
from geneformer.engine.device import resolve_device
from geneformer.engine.low_bit import check_low_bit
from geneformer.errors import DeviceError, MissingExtraError
from geneformer.models.low_bit import quantize_linears
from geneformer.tasks.perturbation.reading import PerturbedModel
from geneformer.vocab.vocabulary import Vocabulary

_QUANTIZED = "-Quantized"

MODEL_TYPES = (
    "Pretrained",
    "GeneClassifier",
    "CellClassifier",
    "MTLCellClassifier",
    "MTLCellClassifier-Quantized",
    "Pretrained-Quantized",
)
"""Published types; of all of them the encoder is read."""


def open_model(model_type: str, folder: str | Path, vocabulary: Vocabulary, *, num_classes: int = 0) -> PerturbedModel:
    """The encoder of a model of a published type.

    Parameters
    ----------
    model_type
        One of `MODEL_TYPES`; the quantized ones keep dense layers in 8 bits.
    folder
        Folder, name or hub repository.
    vocabulary
        Genes of its tokens.
    num_classes
        Classes of the head of a classifier, which is not read; 0 if not told.

    Raises
    ------
    DeviceError, MissingExtraError
        A quantized type where the device or the installation cannot run it.
    PairingError
        No such folder, weights that cannot be used, or those of another vocabulary or number of classes.
    UnsafeFileError
        Weights that ask for code to be run.
    """
    quantized = model_type.endswith(_QUANTIZED)
    if quantized:
        _check_quantized(model_type)
    told = num_classes if model_type in ("CellClassifier", "GeneClassifier") else 0
    model = PerturbedModel.pretrained(published_model(folder, vocabulary, num_classes=told))
    if quantized:
        quantize_linears(model.encoder, "8bit")
    return model


def _check_quantized(model_type: str) -> None:
    try:
        check_low_bit("8bit", resolve_device("auto"))
    except (DeviceError, MissingExtraError) as error:
        plain = model_type.removesuffix(_QUANTIZED)
        reason = str(error).partition(": ")[2]
        msg = f'model_type="{model_type}" cannot run here: {reason} In other words, use model_type="{plain}".'
        raise type(error)(msg) from error
