"""Files: atomic writes, manifests, journals, progress, the one restricted reader of pickles, and optional libraries."""

import hashlib
import json
import os
from importlib import import_module
from pathlib import Path
from typing import Any

from geneformer.errors import (
    GeneformerError,
    InputNotFoundError,
    MissingExtraError,
    PlaceholderFileError,
    UnreadableInputError,
    reason_of,
)
from geneformer.options.settings import settings


def require(module: str, needed_by: str, *, extra: str = "", instead: str = "") -> Any:
    """An optional library, imported; where it is missing, the error says what needs it and what to do."""
    try:
        return import_module(module)
    except ImportError as error:
        library = module.partition(".")[0]
        package = f'"geneformer[{extra}]"' if extra else library
        alternative = f", or {instead}" if instead else ""
        msg = f"{needed_by} needs {library}. Install it with `pip install {package}`{alternative}."
        raise MissingExtraError(msg) from error


def cache_folder() -> Path:
    """Where what is made once goes: `gf.settings.cache`, `GENEFORMER_CACHE`, or `geneformer` in the user's cache."""
    chosen = settings.cache or os.environ.get("GENEFORMER_CACHE")
    return expanded(Path(chosen) if chosen else Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache") / "geneformer")


def expanded(path: Path) -> Path:
    """An absolute path; one whose home folder is not known stays as it is."""
    try:
        return path.expanduser().absolute()
    except RuntimeError:
        return path


_LFS_POINTER = b"version https://git-lfs"


def refuse_lfs_pointer(path: Path) -> None:
    """Refuse a file of which only the pointer of git-lfs is there."""
    with path.open("rb") as file:
        if file.read(len(_LFS_POINTER)) == _LFS_POINTER:
            msg = (
                f'"{path}" is a git-lfs pointer of {path.stat().st_size} bytes, not the file itself. Fetch the file '
                "with `git lfs pull`, or download it from where the folder came from."
            )
            raise PlaceholderFileError(msg)


def check_file(path: Path) -> None:
    """Refuse a file that is not there, empty, or a git-lfs pointer."""
    if not path.exists():
        near = (
            f' The folder "{path.parent}" exists.' if path.parent.is_dir() else f' There is no folder "{path.parent}".'
        )
        msg = f'"{path}" does not exist.{near} Check the name.'
        raise InputNotFoundError(msg)
    if not path.is_file():
        kind = "a folder" if path.is_dir() else "a pipe, a socket or a device"
        msg = f'"{path}" is no file but {kind}. Give a file.'
        raise UnreadableInputError(msg)
    try:
        with path.open("rb") as file:
            is_empty = not file.read(1)
    except PermissionError as error:
        msg = f'"{path}" may not be read (permission denied). Change its permissions, or copy it.'
        raise UnreadableInputError(msg) from error
    if is_empty:
        msg = f'"{path}" is empty (0 bytes): an interrupted download or copy. Get it again.'
        raise UnreadableInputError(msg)
    refuse_lfs_pointer(path)


def refuse_foreign_link(path: Path, refusal: type[GeneformerError]) -> None:
    """Refuse a file of a folder that is a link to somewhere else; caches of the hub link to files of their own."""
    if not path.is_symlink():
        return
    folder, target = path.parent.resolve(), path.resolve()
    blobs = next((above.parent / "blobs" for above in folder.parents if above.name == "snapshots"), folder)
    if not target.is_relative_to(folder) and not target.is_relative_to(blobs):
        msg = f"{path} is a link out of its folder, to {target}. Copy that file into the folder if it belongs there."
        raise refusal(msg)


def read_json(path: Path, refusal: type[GeneformerError], advice: str = "Copy or download it again.") -> dict[str, Any]:
    """The JSON object in a file; whatever else the file holds becomes the given error."""
    try:
        if path.exists() and not path.is_file():
            msg = f"{path} is not a file. {advice}"
            raise refusal(msg)
        refuse_foreign_link(path, refusal)
        refuse_lfs_pointer(path)
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        if isinstance(error, GeneformerError):
            raise
        msg = f"{path} is not valid JSON ({reason_of(error)}). {advice}"
        raise refusal(msg) from error
    if not isinstance(content, dict):
        msg = f"{path} should hold a JSON object, found {type(content).__name__}. {advice}"
        raise refusal(msg)
    return content


def file_digest(path: Path) -> str:
    """SHA-256 of a file's content, read in pieces."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
