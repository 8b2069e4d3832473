"""Networks of plain `transformers` as published scripts run them, and what these scripts ask of a network."""

from copy import copy
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from geneformer.compat.model_folders import readable_folder
from geneformer.compat.quantization import checked_quantize
from geneformer.engine.device import resolve_device
from geneformer.engine.low_bit import check_low_bit
from geneformer.errors import OptionError
from geneformer.models.adapter_folders import adapter_base, is_adapter_folder
from geneformer.models.given_adapters import peft_library
from geneformer.models.low_bit import quantize_linears
from geneformer.models.plain_bert import Kind, load_plain_bert, n_layers
from geneformer.options._check import check_choice, check_range

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

_KINDS: "dict[str, Kind]" = {
    "Pretrained": "masked",
    "GeneClassifier": "genes",
    "CellClassifier": "cells",
    "MTLCellClassifier": "masked",
}
_QUANTIZED = "-Quantized"
_TYPES = (*_KINDS, f"Pretrained{_QUANTIZED}", f"MTLCellClassifier{_QUANTIZED}")


def load_model(
    model_type: str, num_classes: int, model_directory: str | Path, mode: str, quantize: bool | dict[str, Any] = False
) -> Any:
    """A network of plain `transformers` on the accelerator if there is one.

    Parameters
    ----------
    model_type
        "Pretrained", "GeneClassifier", "CellClassifier" or "MTLCellClassifier"; "Pretrained-Quantized" and
        "MTLCellClassifier-Quantized" keep the weights of the encoder in 8 bits. Of a multi-task model the encoder is
        loaded.
    num_classes
        Classes of cells or genes.
    model_directory
        Folder with weights of this package, of the published one, or of adapters; or a name that
        `geneformer.load_model` knows. Pickled weights are read without running anything.
    mode
        "eval" for a network in evaluation mode that returns the states of all layers; "train".
    quantize
        True for frozen weights in 4 bits with low-rank updates that are trained; or a dictionary with `bnb_config`
        and `peft_config`, the second alone for updates over weights of full precision.

    Returns
    -------
    `BertForMaskedLM`, `BertForTokenClassification` or `BertForSequenceClassification`, wrapped by PEFT where there are
    low-rank updates. A head that the folder does not hold starts at random.

    Raises
    ------
    UnknownChoiceError
        Another type or mode.
    UnknownModelError, CheckpointError, UnsafeFileError
        No such folder, or weights that do not fit, or that ask for code to be run.
    DeviceError
        Weights of few bits where there is no accelerator for them.
    MissingExtraError
        A library for adapters or few bits is not installed.
    """
    check_choice("model_type", model_type, _TYPES)
    check_choice("mode", mode, ("eval", "train"))
    kind = _KINDS[model_type.removesuffix(_QUANTIZED)]
    if kind != "masked":
        check_range("num_classes", num_classes, low=1)
    adapters, bits = checked_quantize(quantize)
    if model_type.endswith(_QUANTIZED):
        bits = "8bit"
    device = resolve_device()
    check_low_bit(bits, device)
    folder = readable_folder(model_directory)
    trained = is_adapter_folder(folder)
    base = readable_folder(adapter_base(folder)) if trained else folder
    network = load_plain_bert(base, kind, num_classes, hidden_states=mode == "eval")
    if bits != "full":
        quantize_linears(network.bert.encoder, bits)
    if trained:
        network = peft_library().PeftModel.from_pretrained(network, str(folder), is_trainable=mode == "train")
    elif adapters is not None:
        network = peft_library().get_peft_model(network, _with_pooler(adapters) if kind == "cells" else adapters)
        network.enable_input_require_grads()
    return network.to(device).train(mode == "train")


def _with_pooler(adapters: Any) -> Any:
    """The settings with the pooler learnt and saved too: in front of a new head it is as new as the head."""
    own = copy(adapters)
    own.modules_to_save = list(dict.fromkeys([*(adapters.modules_to_save or ()), "pooler"]))
    return own


def quant_layers(model: Any) -> int:
    """Encoder layers of a network."""
    return n_layers(model)


def get_model_emb_dims(model: Any) -> int:
    """Width of the states of a network."""
    return int(model.config.hidden_size)


def get_model_input_size(model: Any) -> int:
    """Positions of a network: tokens of the longest cell it reads."""
    return int(model.config.max_position_embeddings)


def gen_attention_mask(minibatch_encoding: "Mapping[str, Sequence[int]]", max_len: int | None = None) -> torch.Tensor:
    """One for each token and zero for padding, on the accelerator if there is one, ``(B, max_len)``.

    Parameters
    ----------
    minibatch_encoding
        Cells with a column `length`.
    max_len
        Width of the mask; the length of the longest cell by default.

    Raises
    ------
    OptionError
        There are no cells.
    """
    lengths = torch.tensor(list(minibatch_encoding["length"]), dtype=torch.int64)
    if not len(lengths):
        msg = "There are no cells to make an attention mask of."
        raise OptionError(msg)
    width = int(lengths.max()) if max_len is None else max_len
    mask_BL = (torch.arange(width)[None, :] < lengths[:, None]).to(torch.int64)
    return mask_BL.to(resolve_device())
