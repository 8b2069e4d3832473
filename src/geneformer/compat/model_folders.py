"""Model folders as published scripts have them: those with pickled weights are converted once, in the user's cache."""

import hashlib
import logging
from pathlib import Path

from geneformer._version import __version__
from geneformer.compat.dictionary_files import cache_folder, written_cache
from geneformer.errors import CheckpointError, OutputExistsError
from geneformer.models.checkpoint import CONFIG, PICKLED_WEIGHTS, WEIGHTS, convert_pickled
from geneformer.models.loading import find_folder
from geneformer.runs.files import atomic_folder, output_errors

_logger = logging.getLogger(__name__)


def readable_folder(path: str | Path) -> Path:
    """A folder with the same network that the rest of the package opens.

    A folder that has `model.safetensors` is returned as it is. One that only has `pytorch_model.bin` is read by
    PyTorch's restricted loader, which builds tensors and nothing else, and is written to the cache as safetensors; the
    same weights are converted once. Heads of fine-tuned models are kept.

    Parameters
    ----------
    path
        Model folder; or a name or hub repository that `geneformer.load_model` knows.

    Raises
    ------
    UnknownModelError
        No such folder.
    UnsafeFileError
        The weights ask for code to be run.
    CheckpointError
        The weights are damaged, hold more than tensors, or do not fit the configuration; or the folder is one above
        that of the model.
    PlaceholderFileError
        A git-lfs pointer stands in for the weights.
    OutputError
        The cache cannot be written to.
    """
    folder = find_folder(path)
    _refuse_parent(folder)
    if (folder / WEIGHTS).is_file() or not (folder / PICKLED_WEIGHTS).is_file():
        return folder
    converted = cache_folder() / f"models-{__version__}" / _content_key(folder)
    if (converted / WEIGHTS).is_file():
        return converted
    try:
        with written_cache():
            with output_errors(converted):
                converted.parent.mkdir(parents=True, exist_ok=True)
            with atomic_folder(converted) as temporary:
                convert_pickled(folder, temporary)
    except OutputExistsError:
        return converted  # another process was faster
    _logger.info("%s holds pickled weights; a copy as safetensors is kept at %s", folder, converted)
    return converted


def _refuse_parent(folder: Path) -> None:
    """Name the model folders in a folder that is none itself."""
    if (folder / CONFIG).is_file():
        return
    within = sorted(entry.parent.name for entry in folder.glob(f"*/{CONFIG}"))
    if within:
        msg = f"{folder} is no model folder, but has some in it: {', '.join(within)}. Give {folder / within[0]}."
        raise CheckpointError(msg)


def _content_key(folder: Path) -> str:
    """What tells the weights and configuration of a folder from others."""
    whole = hashlib.sha256()
    for name in (CONFIG, PICKLED_WEIGHTS):
        if (folder / name).is_file():
            with (folder / name).open("rb") as file:
                whole.update(hashlib.file_digest(file, "sha256").digest())
    return whole.hexdigest()[:32]
