"""Names of models, and the folders they stand for; no network is read, and no PyTorch loaded."""

import os
from dataclasses import dataclass
from fnmatch import fnmatchcase
from importlib.resources import files
from pathlib import Path

from geneformer.errors import CheckpointError, UnknownModelError
from geneformer.options._fields import nearest
from geneformer.options.settings import settings

BUNDLED = ("mini",)
"""Models that come with the package."""

CONFIG = "config.json"
WEIGHTS = "model.safetensors"
PICKLED_WEIGHTS = "pytorch_model.bin"


@dataclass(frozen=True, slots=True)
class HubModel:
    """Where a published model lives."""

    repository: str
    subfolder: str
    revision: str | None


_V2_RELEASE = "7cf49a35a86ed13714473b420b65bfe4a910de79"
_V1_RELEASE = "a34fbc27153a4c7e327b9471809a2dd51d1640eb"

HUB = {
    "V1-10M": HubModel("ctheodoris/Geneformer", "Geneformer-V1-10M", _V2_RELEASE),
    "V1-12L": HubModel("ctheodoris/Geneformer", "gf-12L-30M-i2048", _V1_RELEASE),
    "V2-104M": HubModel("ctheodoris/Geneformer", "Geneformer-V2-104M", _V2_RELEASE),
    "V2-104M_CLcancer": HubModel("ctheodoris/Geneformer", "Geneformer-V2-104M_CLcancer", _V2_RELEASE),
    "V2-316M": HubModel("ctheodoris/Geneformer", "Geneformer-V2-316M", _V2_RELEASE),
}
"""Published models, each pinned to a commit."""


@dataclass(frozen=True, slots=True)
class Architecture:
    """Sizes of one encoder."""

    layers: int
    hidden: int
    heads: int
    feed_forward: int
    positions: int
    vocabulary: str
    dropout: float


ARCHITECTURES = {
    # layers, hidden, heads, feed-forward, positions, vocabulary, dropout
    "mini": Architecture(3, 128, 2, 256, 1024, "V1", 0.0),
    "V1-10M": Architecture(6, 256, 4, 512, 2048, "V1", 0.02),
    "V1-12L": Architecture(12, 512, 8, 1024, 2048, "V1", 0.02),
    "V2-104M": Architecture(12, 768, 12, 3072, 4096, "V2", 0.1),
    "V2-316M": Architecture(18, 1152, 18, 4608, 4096, "V2", 0.1),
}
"""Sizes of the published models (Theodoris et al., 2023; Chen et al., 2024) and of the bundled `mini`."""


def list_models(pattern: str = "*") -> list[str]:
    """Names `load_model` knows: bundled models first, then published ones.

    Parameters
    ----------
    pattern
        Shell pattern the names must match.

    Examples
    --------
    >>> from geneformer import list_models
    >>> list_models("V1*")
    ['V1-10M', 'V1-12L']
    """
    return [name for name in (*BUNDLED, *HUB) if fnmatchcase(name, pattern)]


def find_folder(model: object, *, revision: str | None = None, cache_dir: Path | None = None) -> Path:
    """Folder of a model: bundled, local, or downloaded from the hub."""
    place = place_of_model(model)
    if isinstance(place, Path):
        return place
    return _download(place.repository, place.subfolder, revision or place.revision, cache_dir)


def place_of_model(model: object) -> Path | HubModel:
    """The folder of a model that is here, or where on the hub it is; what is neither is refused."""
    name = str(model)
    names = (*BUNDLED, *HUB)
    if not isinstance(model, (str, Path)) or not name.strip() or "\0" in name:
        given = f"{model!r:.200}" if isinstance(model, str | bytes | int | float | None) else type(model).__name__
        msg = f"model={given} names no model. Pass a name ({', '.join(names)}), a checkpoint folder or a fitted model."
        raise UnknownModelError(msg)
    if name in BUNDLED:
        return Path(str(files("geneformer.models") / "assets" / name))
    if name in HUB:
        return HUB[name]
    path = Path(os.path.expanduser(model))  # noqa: PTH111  pathlib raises where there is no such user
    if os.path.isdir(path):  # noqa: PTH112  pathlib raises for names that are too long
        return path
    if os.path.exists(path):  # noqa: PTH110
        msg = f"model={name!r} is a file. Pass the folder that holds config.json and model.safetensors."
        raise UnknownModelError(msg)
    parts = name.split("/")
    looks_local = name.startswith((".", "/", "~", "\\")) or len(parts) < 2 or not all(parts)
    if looks_local or name in ARCHITECTURES:
        msg = f"model={name!r:.200} is neither a known name ({', '.join(names)}) nor a folder.{nearest(name, names)}"
        raise UnknownModelError(msg)
    return HubModel("/".join(parts[:2]), "/".join(parts[2:]), None)


def config_file(folder: Path) -> Path:
    """Configuration of a checkpoint folder, which every one has."""
    path = folder / CONFIG
    if not path.is_file():
        msg = f"{folder} is not a checkpoint: there is no {CONFIG} in it. Found {first_names(folder)}."
        raise CheckpointError(msg)
    return path


def fitted_folder(folder: Path) -> Path:
    """The folder, if it can hold a fine-tuned model."""
    if not (folder / CONFIG).is_file():
        held = first_names(folder) if folder.is_dir() else "no such folder"
        msg = f"{folder} holds no fine-tuned model: there is no {CONFIG} in it ({held})."
        raise CheckpointError(msg)
    return folder


def first_names(folder: Path) -> list[str]:
    """Some of what is in a folder, for messages."""
    return sorted(path.name for path in folder.iterdir())[:8]


def _download(repository: str, subfolder: str, revision: str | None, cache_dir: Path | None) -> Path:
    """Checkpoint files of a hub repository, from the cache where they are there already."""
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

    # The HTTP library behind the hub's client differs between its releases; this is the base of its errors.
    transport_error: type[Exception] = HfHubHTTPError.__bases__[0]
    where = f"{repository}/{subfolder}".rstrip("/") + (f" at {revision}" if revision else "")

    def fetch(*file_names: str) -> Path:
        patterns = [f"{subfolder}/{name}".lstrip("/") for name in file_names]
        kept_in = cache_dir or (settings.cache / "hub" if settings.cache else None)
        root = snapshot_download(repository, revision=revision, allow_patterns=patterns, cache_dir=kept_in)
        return Path(root) / subfolder

    try:
        folder = fetch(CONFIG, WEIGHTS)
        if not (folder / WEIGHTS).is_file():
            folder = fetch(CONFIG, PICKLED_WEIGHTS)
    except LocalEntryNotFoundError as error:
        msg = (
            f"{where} is not in the local cache and the hub cannot be reached. Connect once, copy the cache folder, or "
            f'pass a checkpoint folder. Without a network, model="mini" always works.'
        )
        raise UnknownModelError(msg) from error
    except (HfHubHTTPError, HFValidationError, transport_error, OSError) as error:
        reason = next(iter(str(error).splitlines()), type(error).__name__).rstrip(". ")
        msg = f"{where} cannot be fetched from the hub: {reason}. Check name, network and space in the cache."
        raise UnknownModelError(msg) from error
    if not folder.is_dir():
        msg = f"{where}: there is no checkpoint in the repository, or in the part of it that the cache holds."
        raise CheckpointError(msg)
    return folder
