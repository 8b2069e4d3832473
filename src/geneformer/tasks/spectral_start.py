"""A start from the data: genes of the same cells begin close to each other, common genes begin likely."""

import numpy as np
import torch
from numpy.typing import NDArray

from geneformer.data.dataset import TokenizedDataset
from geneformer.models.heads import GeneformerForMaskedLM
from geneformer.vocab.vocabulary import Vocabulary

_SMALLEST_SHARE = 1e-5


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
    """Set token embeddings from principal axes of the training cells, and the output bias from gene frequencies.

    The axes are right singular vectors of the cells by genes matrix of log-normalized counts; the first, which only
    says how common a gene is, is left out. Every gene gets the same further direction added, so that layer
    normalization does not blow up the genes that tell nothing.

    Parameters
    ----------
    model
        Its token embeddings and output bias are changed.
    dataset
        Tokenized cells, with counts.
    rows
        Training cells; a seeded sample of them when there are more than `max_cells`.
    vocabulary
        Their vocabulary.
    max_length
        Most tokens of one cell.
    seed
        Fixes sample and decomposition.
    max_cells
        Cells decomposed at most.
    """
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
