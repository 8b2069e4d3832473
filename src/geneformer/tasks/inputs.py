"""Tokens for a model, from counts or from a dataset folder."""

import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from geneformer._version import __version__
from geneformer.data.dataset import TokenizedDataset
from geneformer.data.storage import read_dataset
from geneformer.engine.inference import Progress
from geneformer.errors import (
    NoCellsError,
    OptionError,
    OutOfRangeError,
    PairingError,
    SequenceTooLongError,
    UnknownVocabularyError,
    VocabularyMismatchError,
)
from geneformer.options import TokenizeOptions
from geneformer.tasks.adata_inputs import PairedModel
from geneformer.tokenization.tokenizer import tokenize_counts


def open_tokens(
    inputs: Sequence[Path],
    model: PairedModel,
    *,
    layer: str | None = None,
    gene_ids: str | None = None,
    counts: bool = False,
    progress: Progress | None = None,
) -> TokenizedDataset:
    """Tokens of a dataset folder as they are, or of counts, made to fit the model.

    Tokens made on the way go through a temporary folder and are memory-mapped, so that memory does not grow with the
    number of cells; the folder goes when the dataset does.

    Parameters
    ----------
    inputs
        One `.dataset` folder, or files and folders of counts.
    model
        Decides vocabulary and length.
    layer, gene_ids
        Where counts and gene identifiers are.
    counts
        Also keep each token's scaled count, where tokens are made.
    progress
        Called while counts are tokenized.

    Raises
    ------
    OptionError
        Several dataset folders, or a mixture with counts.
    """
    folders = [path for path in inputs if is_dataset(path)]
    if folders and len(inputs) > 1:
        msg = f"{folders[0]} is a dataset of tokens; pass it alone, or pass counts only. Got {len(inputs)} inputs."
        raise OptionError(msg)
    if folders:
        return read_dataset(folders[0])
    options = TokenizeOptions(
        vocabulary=model.vocabulary.name, layer=layer, gene_ids=gene_ids, counts=counts, max_length=model.max_length
    )
    with tempfile.TemporaryDirectory(prefix="geneformer-") as folder:
        target = Path(folder) / "tokens.dataset"
        tokens, _ = tokenize_counts(inputs, options, output=target, vocabulary=model.vocabulary, progress=progress)
    # The files stay readable through the memory map after their names are gone.
    return tokens


def is_dataset(path: Path) -> bool:
    """Whether a folder holds tokens rather than counts, in the layout of any `datasets` release."""
    return (path / "state.json").is_file() or (path / "dataset_info.json").is_file()


def check_pairing(tokens: TokenizedDataset, model: PairedModel, *, truncate: bool) -> None:
    """Refuse tokens the model cannot read, before any work.

    Raises
    ------
    NoCellsError
        No cells.
    VocabularyMismatchError
        The tokens belong to another vocabulary.
    UnknownVocabularyError
        Nothing says which vocabulary they belong to, and they do not fit the model's.
    SequenceTooLongError
        Cells longer than the model's positions, and no consent to cut them.
    """
    if not len(tokens):
        msg = "There are no cells in the tokenized dataset."
        raise NoCellsError(msg)
    theirs, ours = tokens.vocabulary, model.vocabulary
    if theirs not in (None, ours.fingerprint):
        msg = (
            f"The tokens were made with vocabulary {theirs[:12] if theirs else theirs}, but {model.name} expects "
            f'{ours.name} ({ours.fingerprint[:12]}). Tokenize again with vocabulary="{ours.name}".'
        )
        raise VocabularyMismatchError(msg)
    if theirs is None:
        _check_ids(tokens, model)
    longest = int(tokens.lengths.max())
    if longest > model.max_length and not truncate:
        n_long = int((tokens.lengths > model.max_length).sum())
        msg = (
            f"{n_long:,} of {len(tokens):,} cells have more than the {model.max_length:,} tokens {model.name} has "
            f"positions for (longest: {longest:,}). Tokenize with max_length={model.max_length} (model_input_size in "
            "TranscriptomeTokenizer), or pass truncate=True (--truncate), where there is such an option, to keep "
            "their highest ranked genes."
        )
        raise SequenceTooLongError(msg)


def _check_ids(tokens: TokenizedDataset, model: PairedModel) -> None:
    """For datasets without a fingerprint: every id must exist, and every cell must start as the vocabulary says."""
    size, cls_id = model.vocabulary.size, model.vocabulary.cls_id
    rows = np.unique(np.linspace(0, len(tokens) - 1, min(len(tokens), 2000)).astype(np.int64))
    packed = tokens.gather(rows)
    largest = int(packed.input_ids.max(initial=0))
    starts = packed.input_ids[packed.cu_seqlens[:-1][np.diff(packed.cu_seqlens) > 0]]
    has_cls = cls_id is not None and bool((starts == cls_id).all())
    if largest >= size or (cls_id is not None and not has_cls):
        found = f"token id {largest}" if largest >= size else "cells that do not start with <cls>"
        msg = (
            f"The tokens carry no vocabulary fingerprint and do not look like {model.vocabulary.name} "
            f"({size:,} tokens): found {found}. Tokenize the counts with vocabulary={model.vocabulary.name!r}."
        )
        raise UnknownVocabularyError(msg)


def check_layer(layer: int, name: str, n_layers: int, *, option: str = "layer") -> None:
    """Refuse a layer that the model does not have.

    Raises
    ------
    OutOfRangeError
        It is further from the output than the model is deep.
    """
    if -layer > n_layers:
        msg = f"{option}={layer}, but {name} has {n_layers} layers. Use 0 to -{n_layers}."
        raise OutOfRangeError(msg)


def check_cls(tokens: TokenizedDataset, model: PairedModel) -> None:
    """Refuse `pooling="cls"` for tokens without `<cls>`.

    Raises
    ------
    PairingError
        The vocabulary has none, or some cells do not start with it.
    """
    cls_id = model.vocabulary.cls_id
    if cls_id is None:
        msg = f'pooling="cls" needs <cls>, which vocabulary {model.vocabulary.name} does not have. Use pooling="mean".'
        raise PairingError(msg)
    first = tokens.gather(np.arange(len(tokens)), max_length=1)
    if len(first.input_ids) != len(tokens) or bool((first.input_ids != cls_id).any()):
        msg = 'pooling="cls", but some cells do not start with <cls>. Tokenize again, or use pooling="mean".'
        raise PairingError(msg)


def describe_run(model: PairedModel, **options: Any) -> dict[str, Any]:
    """Where a result comes from: for `uns`, for files."""
    return {
        "model": model.name,
        "vocabulary": model.vocabulary.name,
        "vocabulary_fingerprint": model.vocabulary.fingerprint,
        "geneformer_version": __version__,
        **options,
    }
