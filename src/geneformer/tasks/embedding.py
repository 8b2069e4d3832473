"""Cell and gene embeddings from a pretrained encoder."""

from dataclasses import asdict
from typing import Any

import numpy as np
import torch
from torch import Tensor

from geneformer._version import __version__
from geneformer.data.dataset import TokenizedDataset
from geneformer.engine.inference import Batch, Progress, run_batches
from geneformer.errors import (
    NoCellsError,
    OutOfRangeError,
    PairingError,
    SequenceTooLongError,
    UnknownVocabularyError,
    VocabularyMismatchError,
)
from geneformer.models.encoder import mean_over_genes
from geneformer.models.loading import LoadedModel
from geneformer.options import EmbedOptions, RuntimeOptions
from geneformer.results.embeddings import CellEmbeddings, GeneEmbeddings
from geneformer.tasks.adata_inputs import PairedModel


def embed(
    tokens: TokenizedDataset,
    model: LoadedModel,
    options: EmbedOptions,
    runtime: RuntimeOptions,
    *,
    progress: Progress | None = None,
) -> CellEmbeddings | GeneEmbeddings:
    """Embeddings of tokenized cells, or of the genes in them.

    Parameters
    ----------
    tokens
        Tokenized cells.
    model
        Pretrained model of the same vocabulary.
    options, runtime
        What to extract, and where.
    progress
        Called with the cells done and the cells in all.

    Returns
    -------
    CellEmbeddings or GeneEmbeddings
        Cells in the order of `tokens`, or genes in the order of their token ids.

    Raises
    ------
    NoCellsError
        No cells.
    VocabularyMismatchError
        The tokens belong to another vocabulary.
    SequenceTooLongError
        Cells longer than the model's positions, and no consent to cut them.
    OutOfRangeError
        A layer the model does not have.
    PairingError
        `pooling="cls"` for tokens without `<cls>`.
    """
    check_pairing(tokens, model, truncate=options.truncate)
    check_layer(options.layer, model.name, model.n_layers)
    provenance = describe_run(model, embedding=asdict(options))
    if options.pooling == "gene":
        return _embed_genes(tokens, model, options, runtime, progress, provenance)
    if options.pooling == "cls":
        check_cls(tokens, model)
    pool = _pool_first if options.pooling == "cls" else _MeanOverGenes(model)
    values = np.empty((len(tokens), model.network.config.hidden_size), dtype=np.float32)

    def step(batch: Batch) -> None:
        hidden_TD = model.network.bert(
            batch.input_ids, batch.cu_seqlens, layer=options.layer, attention=batch.attention
        )
        values[batch.rows] = pool(hidden_TD, batch).float().cpu().numpy()

    run_batches(tokens, model.network.bert, step, runtime, max_length=model.max_length, progress=progress)
    return CellEmbeddings(values, tokens.table.select(tokens.columns), provenance)


class _MeanOverGenes:
    """Mean over the genes of each cell; special tokens do not count."""

    def __init__(self, model: LoadedModel) -> None:
        self.special = torch.from_numpy(np.asarray(model.vocabulary.special_ids, dtype=np.int64))

    def __call__(self, hidden_TD: Tensor, batch: Batch) -> Tensor:
        special = self.special.to(batch.input_ids.device)
        return mean_over_genes(hidden_TD, batch.input_ids, batch.cu_seqlens, special)


def _pool_first(hidden_TD: Tensor, batch: Batch) -> Tensor:
    return hidden_TD[batch.cu_seqlens[:-1]]


def _embed_genes(
    tokens: TokenizedDataset,
    model: LoadedModel,
    options: EmbedOptions,
    runtime: RuntimeOptions,
    progress: Progress | None,
    provenance: dict[str, Any],
) -> GeneEmbeddings:
    """Running sums per token; memory does not grow with the number of cells."""
    sums_VD = np.zeros((model.vocabulary.size, model.network.config.hidden_size))
    n_cells = np.zeros(model.vocabulary.size, dtype=np.int64)

    def step(batch: Batch) -> None:
        hidden_TD = model.network.bert(
            batch.input_ids, batch.cu_seqlens, layer=options.layer, attention=batch.attention
        )
        seen, place_T, count = torch.unique(batch.input_ids, return_inverse=True, return_counts=True)
        partial = hidden_TD.new_zeros((len(seen), hidden_TD.shape[1]), dtype=torch.float32)
        partial = partial.index_add(0, place_T, hidden_TD.float())
        sums_VD[seen.cpu().numpy()] += partial.cpu().numpy()
        n_cells[seen.cpu().numpy()] += count.cpu().numpy()

    run_batches(tokens, model.network.bert, step, runtime, max_length=model.max_length, progress=progress)
    found = np.flatnonzero(n_cells)
    means = (sums_VD[found] / n_cells[found, None]).astype(np.float32)
    return GeneEmbeddings(means, model.vocabulary.gene_of[found], n_cells[found], provenance)


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
