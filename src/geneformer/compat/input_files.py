"""Files of one format directly inside a folder, as published scripts name them."""

import logging
from collections.abc import Iterable
from pathlib import Path

from geneformer.errors import InputNotFoundError
from geneformer.options._check import check_choice

_logger = logging.getLogger(__name__)

FORMATS = ("loom", "h5ad", "zarr")

_LEFTOVER = "__dedup"
"""Ends the name of a copy that the published package writes beside a loom file and may leave behind."""


def input_files(folder: str | Path, file_format: str, identifier: str = "") -> list[Path]:
    """Files in the order of their names, without the copies that an interrupted run left behind.

    Parameters
    ----------
    folder
        Folder; those within it are not searched.
    file_format
        "loom", "h5ad" or "zarr": the suffix.
    identifier
        Text that names must contain.

    Raises
    ------
    UnknownChoiceError
        Another format.
    InputNotFoundError
        No such folder, or no such file in it.
    """
    check_choice("file_format", file_format, FORMATS)
    folder = Path(folder)
    if not folder.is_dir():
        msg = f'There is no folder "{folder}". Give the folder that holds the .{file_format} files.'
        raise InputNotFoundError(msg)
    pattern = f"*{identifier}*.{file_format}" if identifier else f"*.{file_format}"
    found = sorted(path for path in folder.glob(pattern) if not path.name.startswith("."))
    leftovers = [path for path in found if _is_leftover(path)]
    if leftovers:
        _logger.warning("Left out, because they are copies of other files here: %s", _listed(leftovers))
    files = [path for path in found if path not in leftovers]
    if not files:
        msg = f'The folder "{folder}" holds no {pattern}; it holds {_listed(folder.iterdir())}.'
        raise InputNotFoundError(msg)
    return files


def _is_leftover(path: Path) -> bool:
    return path.stem.endswith(_LEFTOVER) and path.with_stem(path.stem.removesuffix(_LEFTOVER)).exists()


def _listed(paths: Iterable[Path]) -> str:
    names = sorted(path.name for path in paths)
    return (", ".join(names[:8]) or "nothing") + (f" and {len(names) - 8} more" if len(names) > 8 else "")
