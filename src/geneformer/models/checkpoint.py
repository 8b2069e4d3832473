"""Checkpoint folders: `config.json` and `model.safetensors`, as `transformers` lays them out."""

import re
from collections.abc import Callable, Mapping
from pathlib import Path
from shutil import copyfile

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import BertConfig

from geneformer.errors import CheckpointError, ConversionNeededError, UnsafeFileError
from geneformer.files import refuse_lfs_pointer
from geneformer.files.atomic import atomic_file
from geneformer.files.pickles import UnpicklingError
from geneformer.models.config import read_config_file, write_config
from geneformer.models.heads import GeneformerForMaskedLM

CONFIG = "config.json"
WEIGHTS = "model.safetensors"
PICKLED_WEIGHTS = "pytorch_model.bin"

HEAD = "cls.predictions."
"""Prefix of the vocabulary head."""

TIED = (f"{HEAD}decoder.weight", f"{HEAD}decoder.bias")
"""Copies of other entries, present in old files."""

FINE_TUNED = (
    "attention_pool.", "bert.pooler.", "cell_norm.", "classification_heads.", "classifier.", "decoder.", "dropout.",
    "from_cell.", "from_gene.", "gene_norm.", "heads.", "pool.", "spread", "task_log_variance", "usual",
)  # fmt: skip
"""Entries of task heads, of no use to the encoder."""


def read_config(folder: Path) -> BertConfig:
    """Configuration of a checkpoint folder."""
    path = folder / CONFIG
    if not path.is_file():
        msg = f"{folder} is not a checkpoint: there is no {CONFIG} in it. Found {_first_names(folder)}."
        raise CheckpointError(msg)
    _refuse_placeholder(path)
    return read_config_file(path)


def read_weights(folder: Path) -> dict[str, Tensor]:
    """Entries of `model.safetensors`, tied copies left out."""
    path = folder / WEIGHTS
    if not path.is_file():
        if (folder / PICKLED_WEIGHTS).is_file():
            msg = (
                f"{folder} only has {PICKLED_WEIGHTS}, a pickle. Convert it once, if you trust where it comes from: "
                f"`geneformer models --convert {folder} -o NEW_FOLDER`."
            )
            raise ConversionNeededError(msg)
        msg = f"{folder} has no {WEIGHTS}. Found {_first_names(folder)}."
        raise CheckpointError(msg)
    _refuse_placeholder(path)
    try:
        weights = load_file(path)
    except (SafetensorError, OSError, ValueError) as error:
        msg = f"{path} ({path.stat().st_size:,} bytes) is damaged or incomplete: {error}. Download or copy it again."
        raise CheckpointError(msg) from error
    return {name: value for name, value in weights.items() if name not in TIED}


def build_model(config: BertConfig, weights: Mapping[str, Tensor], where: str) -> tuple[GeneformerForMaskedLM, bool]:
    """A model with the weights of a checkpoint, in evaluation mode, and whether they include the vocabulary head."""
    if not any(name.startswith("bert.") for name in weights):
        weights = {name if name.startswith(HEAD) else f"bert.{name}": value for name, value in weights.items()}
    weights = {n: v for n, v in weights.items() if not n.startswith(FINE_TUNED) and not n.endswith("position_ids")}
    with torch.device("meta"):
        model = GeneformerForMaskedLM(config)
    expected = model.state_dict()
    has_head = any(name.startswith(HEAD) for name in weights)
    weights = {name: value for name, value in weights.items() if not name.startswith("cls.seq_relationship.")}
    check_fit(expected, weights, where, optional=lambda name: not has_head and name.startswith(HEAD))
    for name, value in weights.items():
        if not bool(torch.isfinite(value).all()):
            msg = f"{where}: {name} holds values that are not finite. The checkpoint is damaged, or training diverged."
            raise CheckpointError(msg)
    values = {name: value.float() for name, value in weights.items()}
    values |= {name: torch.zeros(expected[name].shape) for name in expected if name not in values}
    model.load_state_dict(values, assign=True)
    return model.eval(), has_head


def check_fit(
    expected: Mapping[str, Tensor],
    weights: Mapping[str, Tensor],
    where: str,
    advice: str = "The folder is incomplete or mixed; get it again.",
    *,
    optional: Callable[[str], bool] = lambda _: False,
) -> list[str]:
    """Refuse weights that do not fit the parameters of a network; returns the optional ones that are not there."""
    absent = [name for name in expected if name not in weights]
    missing = [name for name in absent if not optional(name)]
    unknown = [name for name in weights if name not in expected]
    if missing or unknown:
        msg = f"{where}: the weights do not fit {CONFIG}; missing {missing[:3]}, unknown {unknown[:3]}. {advice}"
        raise CheckpointError(msg)
    for name, value in weights.items():
        shape, needed = tuple(value.shape), tuple(expected[name].shape)
        if shape != needed:
            msg = f"{where}: {name} has shape {shape}, {CONFIG} calls for {needed}. {advice}"
            raise CheckpointError(msg)
    return absent


def save_checkpoint(model: GeneformerForMaskedLM, folder: Path, *, dtype: torch.dtype = torch.float32) -> None:
    """Write a folder that this package loads and, where the encoder is plain BERT, plain `transformers` too."""
    folder.mkdir(parents=True, exist_ok=True)
    weights = {name: value.detach().to("cpu", dtype).contiguous() for name, value in model.state_dict().items()}
    write_config(model.config, folder, dtype)
    with atomic_file(folder / WEIGHTS, overwrite=True) as temporary:
        save_file(weights, temporary, metadata={"format": "pt"})


def convert_pickled(folder: Path, output: Path) -> None:
    """Turn a folder with pickled weights into one with safetensors; every entry is kept, task heads included."""
    config, path = read_config(folder), folder / PICKLED_WEIGHTS
    weights = {name: value for name, value in unpickle_weights(path).items() if name not in TIED}
    build_model(config, weights, str(path))
    output.mkdir(parents=True, exist_ok=True)
    own = {name: value.clone(memory_format=torch.contiguous_format) for name, value in weights.items()}
    save_file(own, output / WEIGHTS, metadata={"format": "pt"})
    copyfile(folder / CONFIG, output / CONFIG)


def unpickle_weights(path: Path) -> dict[str, Tensor]:
    """Entries of a pickled file that holds tensors and nothing else, by PyTorch's restricted loader."""
    _refuse_placeholder(path)
    try:
        weights = torch.load(path, map_location="cpu", weights_only=True)
    except UnpicklingError as error:
        asked = re.search(r"GLOBAL ([\w.]+)", str(error))
        if asked:
            msg = f"{path} asks for {asked[1]} while it is read; tensors ask for nothing. Do not use this file."
            raise UnsafeFileError(msg) from error
        msg = f"{path} cannot be read as PyTorch weights. It is damaged, or another kind of pickle; get it again."
        raise CheckpointError(msg) from error
    except (RuntimeError, ValueError, EOFError, OSError, AttributeError, LookupError) as error:
        reason = next(iter(str(error).splitlines()), type(error).__name__)
        msg = f"{path} ({path.stat().st_size:,} bytes) is damaged or incomplete: {reason}. Download or copy it again."
        raise CheckpointError(msg) from error
    if not isinstance(weights, dict) or not all(isinstance(value, Tensor) for value in weights.values()):
        msg = f"{path} does not hold tensors by name, as a saved network does. Found {type(weights).__name__}."
        raise CheckpointError(msg)
    return weights


def _refuse_placeholder(path: Path) -> None:
    if not path.is_file():
        msg = f"{path} does not exist."
        raise CheckpointError(msg)
    refuse_lfs_pointer(path)


def _first_names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())[:8]
