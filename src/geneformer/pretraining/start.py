"""The network a pretraining run begins with: random weights, a spectrum of the cells, or a pretrained encoder."""

import numpy as np
import torch
from numpy.typing import NDArray
from transformers import BertConfig

from geneformer.errors import CheckpointError, VocabularyMismatchError
from geneformer.genes.vocabulary import Vocabulary
from geneformer.inference.cells import check_layer
from geneformer.models.encoder import ATTENTION_WINDOW, RELATIVE_CLIP
from geneformer.models.heads import GeneformerForMaskedLM
from geneformer.models.hub import find_folder
from geneformer.models.loading import architecture_config, build_model, read_config, read_weights, recognize_vocabulary
from geneformer.options import PretrainOptions
from geneformer.tokens.dataset import TokenizedDataset

_SMALLEST_SHARE = 1e-5
"""Share of one token below which genes that no cell has are not set."""


def initial_config(options: PretrainOptions, vocabulary: Vocabulary) -> BertConfig:
    """Configuration of the encoder to train; what is wrong with it shows before any work."""
    if options.start_from:
        folder = find_folder(options.start_from)
        config = read_config(folder)
        try:
            recognize_vocabulary(config, folder, vocabulary)
        except VocabularyMismatchError as error:
            msg = (
                f"start_from={options.start_from!r} was made with another vocabulary than {vocabulary.name}, which "
                "this run uses. Pass its own as vocabulary, or go on from another model."
            )
            raise VocabularyMismatchError(msg) from error
    else:
        config = architecture_config(options.architecture, vocab_size=vocabulary.size)
        for name, size in ((RELATIVE_CLIP, options.relative_positions), (ATTENTION_WINDOW, options.attention_window)):
            if size:
                setattr(config, name, size)
    name = options.start_from or options.architecture
    check_layer(options.contrastive_layer, name, config.num_hidden_layers, option="contrastive_layer")
    return config


def initial_model(options: PretrainOptions, vocabulary: Vocabulary) -> GeneformerForMaskedLM:
    """The network before its first step; random weights come from PyTorch's global generator."""
    config = initial_config(options, vocabulary)
    if not options.start_from:
        model = GeneformerForMaskedLM(config)
    else:
        folder = find_folder(options.start_from)
        model, has_head = build_model(config, read_weights(folder), str(folder))
        if not has_head:
            msg = (
                f"start_from={options.start_from!r} has no vocabulary head, so it cannot predict masked genes. Go on "
                "from a pretrained checkpoint; a fine-tuned one has lost its head."
            )
            raise CheckpointError(msg)
    model.config.geneformer_vocabulary = vocabulary.fingerprint
    return model


def start_from_spectrum(
    model: GeneformerForMaskedLM,
    dataset: TokenizedDataset,
    rows: NDArray[np.int64],
    vocabulary: Vocabulary,
    max_length: int,
    seed: int,
    *,
    max_cells: int = 10_000,
) -> None:
    """Set token embeddings from principal axes of the training cells, and the output bias from gene frequencies."""
    from scipy.sparse import csr_matrix
    from scipy.sparse.linalg import svds

    rng = np.random.default_rng(seed)
    if len(rows) > max_cells:
        rows = np.sort(rng.choice(rows, max_cells, replace=False))
    packed = dataset.gather(rows, max_length=max_length, counts=True)
    expression = csr_matrix(
        (np.log1p(np.asarray(packed.counts)), packed.input_ids, packed.cu_seqlens), shape=(len(rows), vocabulary.size)
    )
    frequency = np.bincount(packed.input_ids, minlength=vocabulary.size) / max(len(packed.input_ids), 1)
    embedding = model.bert.embeddings.word_embeddings.weight
    width = embedding.shape[1]
    n_axes = min(width + 1, min(expression.shape) - 1)
    start = rng.standard_normal(min(expression.shape))
    _, _, right = svds(expression, k=n_axes, v0=start, return_singular_vectors="vh")  # type: ignore[arg-type]
    axes = np.zeros((vocabulary.size, width))
    axes[:, : n_axes - 1] = right[::-1][1:].T

    norm = model.config.initializer_range * np.sqrt(width)
    spread = np.sqrt(frequency @ (axes**2).sum(axis=1))
    shared = rng.standard_normal(width)
    vectors = axes * (norm / max(spread, 1e-12)) + shared * (norm / np.linalg.norm(shared))
    genes = torch.tensor(vocabulary.token_ids)
    with torch.no_grad():
        embedding[genes] = torch.from_numpy(vectors)[genes].to(embedding.dtype)
        model.cls.predictions.bias.copy_(torch.from_numpy(np.log(frequency + _SMALLEST_SHARE / vocabulary.size)))
