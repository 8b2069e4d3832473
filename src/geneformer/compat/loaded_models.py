"""Models of published scripts: pretrained, fine-tuned, with pickled weights or with adapters; read for embeddings."""

from pathlib import Path
from typing import Any

from geneformer.compat.model_folders import readable_folder
from geneformer.engine.device import resolve_device
from geneformer.engine.inference import tokens_that_fit
from geneformer.errors import CheckpointError, UnknownModelError, VocabularyMismatchError
from geneformer.models.adapter_folders import adapt_encoder, adapter_base, adapter_entries, is_adapter_folder
from geneformer.models.checkpoint import build_model, read_config, read_weights
from geneformer.models.given_adapters import ADAPTER_CONFIG
from geneformer.models.loading import LoadedModel, recognize_vocabulary
from geneformer.options import RuntimeOptions
from geneformer.vocab.vocabulary import BUNDLED, Vocabulary

_HEADS = ("classifier.weight", "heads.0.weight", "base_model.model.classifier.weight")
"""Entries with one row for each class, in a published folder, in one of this package, and beside adapters."""


def published_model(
    model_directory: str | Path, vocabulary: Vocabulary | None = None, *, num_classes: int = 0
) -> LoadedModel:
    """The encoder of a model folder, and the vocabulary head where it has one.

    Which task a folder was fine-tuned for is seen from its weights; heads are not needed for embeddings.

    Parameters
    ----------
    model_directory
        Folder of the published package, of `transformers`, of this package, or of PEFT adapters; or a name that
        `geneformer.load_model` knows.
    vocabulary
        What the user says it was made with; by default what it says itself, or what its size tells.
    num_classes
        Classes of a fine-tuned model; 0 if not told.

    Raises
    ------
    UnknownModelError
        No such folder.
    CheckpointError
        It is damaged, or tells another number of classes apart.
    UnsafeFileError
        The weights ask for code to be run.
    UnknownVocabularyError, VocabularyMismatchError
        The vocabulary cannot be told, or is another one.
    """
    given = Path(model_directory).expanduser()
    adapters = given if is_adapter_folder(given) else None
    folder = adapter_base_folder(adapters) if adapters else readable_folder(model_directory)
    config, weights = read_config(folder), read_weights(folder)
    network, has_head = build_model(config, weights, str(folder))
    if adapters:
        network, weights = adapt_encoder(network, adapters), adapter_entries(adapters)
    heads = [len(weights[name]) for name in _HEADS if name in weights]
    if num_classes and heads and heads[0] != num_classes:
        msg = f"{given} tells {heads[0]} classes apart, not num_classes={num_classes}. Set num_classes={heads[0]}."
        raise CheckpointError(msg)
    own = folder / "vocabulary"
    if vocabulary is not None and vocabulary.name not in BUNDLED:
        _check_size(vocabulary, config.vocab_size, folder)
    else:
        asked = own if vocabulary is None and own.is_dir() else vocabulary
        vocabulary = _recognized(config, folder, asked)
    return LoadedModel(str(model_directory), folder, network, vocabulary, has_head)


def published_runtime(network: Any, forward_batch_size: int, *, progress: bool = True) -> RuntimeOptions:
    """Published arithmetic, and at most so many of the longest cells in one pass.

    Parameters
    ----------
    network
        Has a `config`, whose positions are the length of the longest cell.
    forward_batch_size
        Cells; fewer where memory or caches have no room for them.
    progress
        Whether there is a bar.
    """
    most = forward_batch_size * int(network.config.max_position_embeddings)
    fitting = tokens_that_fit(network, resolve_device())
    return RuntimeOptions(dtype="float32", tokens_per_batch=min(most, fitting), progress=progress)


def adapter_base_folder(adapters: Path) -> Path:
    """Folder of the model that adapters were trained on.

    Raises
    ------
    UnknownModelError
        It is not where the adapters say.
    """
    base = adapter_base(adapters)
    try:
        return readable_folder(base)
    except UnknownModelError as error:
        msg = (
            f"{adapters} changes the weights of {base!r}, which is not there. Write the folder of that model as "
            f"base_model_name_or_path into {adapters / ADAPTER_CONFIG}."
        )
        raise UnknownModelError(msg) from error


def _recognized(config: Any, folder: Path, asked: Path | Vocabulary | None) -> Vocabulary:
    """The vocabulary of a model; where `model_version` contradicts it, the right one is told."""
    try:
        return recognize_vocabulary(config, folder, asked)
    except VocabularyMismatchError as error:
        fits = [name for name in BUNDLED if Vocabulary.load(name).size == config.vocab_size]
        if not fits or not isinstance(asked, Vocabulary) or asked.name in fits:
            raise
        msg = f'{folder} belongs to vocabulary {fits[0]}, not to {asked.name}. Pass model_version="{fits[0]}".'
        raise VocabularyMismatchError(msg) from error


def _check_size(vocabulary: Vocabulary, size: int | None, folder: Path) -> None:
    """Refuse a vocabulary that does not have as many tokens as a model; medians are not compared."""
    if vocabulary.size != size:
        msg = f"{folder} has {size:,} tokens, but the dictionary {vocabulary.name} has {vocabulary.size:,}."
        raise VocabularyMismatchError(msg)
