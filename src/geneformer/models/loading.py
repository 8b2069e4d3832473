"""From a name or a folder to a model, with the vocabulary it belongs to."""

from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path

from geneformer.errors import CheckpointError, UnknownModelError, UnknownVocabularyError, VocabularyMismatchError
from geneformer.genes.vocabulary import Vocabulary
from geneformer.models.checkpoint import CONFIG, PICKLED_WEIGHTS, WEIGHTS, build_model, read_config, read_weights
from geneformer.models.config import ARCHITECTURES
from geneformer.models.heads import GeneformerForMaskedLM
from geneformer.options._fields import nearest

BUNDLED = ("mini",)
"""Models that come with the package."""

VOCABULARY_KEY = "geneformer_vocabulary"
"""Entry of `config.json` with the fingerprint of the vocabulary."""


@dataclass(frozen=True, slots=True)
class HubModel:
    """Where a published model lives."""

    repository: str
    subfolder: str
    revision: str


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
class LoadedModel:
    """A model ready to run."""

    name: str
    folder: Path
    network: GeneformerForMaskedLM
    vocabulary: Vocabulary
    has_head: bool

    @property
    def max_length(self) -> int:
        """Longest cell the model has positions for."""
        return int(self.network.config.max_position_embeddings)

    @property
    def n_layers(self) -> int:
        """Encoder layers."""
        return int(self.network.config.num_hidden_layers)

    def __repr__(self) -> str:
        config = self.network.config
        size = f"{config.num_hidden_layers} layers, hidden size {config.hidden_size}"
        return f"LoadedModel({self.name}: {size}, {self.max_length} positions, vocabulary {self.vocabulary.name})"


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
    from fnmatch import fnmatchcase

    return [name for name in (*BUNDLED, *HUB) if fnmatchcase(name, pattern)]


def load_model(
    model: str | Path,
    *,
    vocabulary: str | Path | Vocabulary | None = None,
    revision: str | None = None,
    cache_dir: Path | None = None,
) -> LoadedModel:
    """A pretrained model by name, folder or hub repository.

    Parameters
    ----------
    model
        Bundled ("mini") or published name (`list_models`), a checkpoint folder, or a hub repository as
        "owner/name" or "owner/name/subfolder".
    vocabulary
        "V1", "V2", a folder or a `Vocabulary`; needed where neither the checkpoint's fingerprint nor its size tells.
    revision
        Commit, tag or branch on the hub; published names are pinned to a commit by default.
    cache_dir
        Where downloads are kept; by default the hub's cache. `HF_HUB_OFFLINE=1` keeps to what is there.

    Raises
    ------
    UnknownModelError
        No such name, folder or repository.
    CheckpointError
        A checkpoint that is incomplete, damaged or of another architecture.
    UnknownVocabularyError
        The vocabulary cannot be told; pass `vocabulary`.
    VocabularyMismatchError
        The vocabulary given is not the one the checkpoint was made with.

    Examples
    --------
    >>> from geneformer import load_model
    >>> load_model("mini").vocabulary.name
    'V1'
    """
    folder = find_folder(model, revision=revision, cache_dir=cache_dir)
    config = read_config(folder)
    network, has_head = build_model(config, read_weights(folder), str(folder))
    return LoadedModel(str(model), folder, network, recognize_vocabulary(config, folder, vocabulary), has_head)


def find_folder(model: str | Path, *, revision: str | None = None, cache_dir: Path | None = None) -> Path:
    """Folder of a model: bundled, local, or downloaded from the hub."""
    name = str(model)
    if name in BUNDLED:
        return Path(str(files("geneformer.models") / "assets" / name))
    if name in HUB:
        entry = HUB[name]
        return _download(entry.repository, entry.subfolder, revision or entry.revision, cache_dir)
    path = Path(model).expanduser()
    if path.is_dir():
        return path
    names = (*BUNDLED, *HUB)
    if path.exists():
        msg = f"model={name!r} is a file. Pass the folder that holds config.json and model.safetensors."
        raise UnknownModelError(msg)
    parts = name.split("/")
    looks_local = name.startswith((".", "/", "~", "\\")) or len(parts) < 2 or not all(parts)
    if looks_local or name in ARCHITECTURES:
        msg = f"model={name!r} is neither a known name ({', '.join(names)}) nor a folder.{nearest(name, names)}"
        raise UnknownModelError(msg)
    return _download("/".join(parts[:2]), "/".join(parts[2:]), revision, cache_dir)


def _download(repository: str, subfolder: str, revision: str | None, cache_dir: Path | None) -> Path:
    """Checkpoint files of a hub repository, from the cache where they are there already."""
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

    # The HTTP library behind the hub's client differs between its releases; this is the base of its errors.
    transport_error: type[Exception] = HfHubHTTPError.__bases__[0]
    where = f"{repository}/{subfolder}".rstrip("/") + (f" at {revision}" if revision else "")

    def fetch(*file_names: str) -> Path:
        patterns = [f"{subfolder}/{name}".lstrip("/") for name in file_names]
        root = snapshot_download(repository, revision=revision, allow_patterns=patterns, cache_dir=cache_dir)
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


def recognize_vocabulary(config: object, folder: Path, asked: str | Path | Vocabulary | None) -> Vocabulary:
    """Vocabulary of a checkpoint: by its fingerprint, by what was asked, or by its size."""
    fingerprint = getattr(config, VOCABULARY_KEY, None)
    size = int(getattr(config, "vocab_size", 0))
    if asked is not None:
        vocabulary = asked if isinstance(asked, Vocabulary) else Vocabulary.load(asked)
        if fingerprint not in (None, vocabulary.fingerprint) or vocabulary.size != size:
            msg = (
                f"{folder} belongs to vocabulary {fingerprint or 'unknown'} of {size:,} tokens, not to "
                f"{vocabulary.name} ({vocabulary.fingerprint}) of {vocabulary.size:,}. Leave vocabulary out, or pass "
                "its own."
            )
            raise VocabularyMismatchError(msg)
        return vocabulary
    bundled = [Vocabulary.load(name) for name in ("V1", "V2")]
    for vocabulary in bundled:
        if fingerprint == vocabulary.fingerprint or (fingerprint is None and size == vocabulary.size):
            return vocabulary
    sizes = ", ".join(f"{v.name} with {v.size:,}" for v in bundled)
    msg = (
        f"{folder} was made with {'vocabulary ' + fingerprint if fingerprint else 'an unnamed vocabulary'} of {size:,} "
        f"tokens, which is none of those bundled ({sizes}). Pass its folder as vocabulary=."
    )
    raise UnknownVocabularyError(msg)
