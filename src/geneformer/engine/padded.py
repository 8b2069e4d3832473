"""Padded batches, as plain BERT takes them, and from there to packed cells.

Axes: ``B`` cells, ``L`` padded length, ``T`` packed tokens, ``M`` masked tokens.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from geneformer.data.collate import mask_genes
from geneformer.data.dataset import Packed

IGNORED = -100
"""Label of positions that are not predicted."""


class MaskedGenes:
    """A collator that hides genes, and never a special token, in padded batches.

    What it draws depends on PyTorch's global random state, which `transformers.Trainer` seeds.

    Parameters
    ----------
    genes
        Token ids that are genes, ``(g,)``.
    mask_id, pad_id
        Ids of `<mask>` and `<pad>`.
    probability
        Chance of each gene to be selected; see `mask_genes` for what becomes of it.
    """

    def __init__(self, genes: Sequence[int], *, mask_id: int, pad_id: int, probability: float) -> None:
        self.genes = np.asarray(genes, dtype=np.int64)
        self.mask_id, self.pad_id, self.probability = mask_id, pad_id, probability

    def __call__(self, cells: Sequence[Mapping[str, Any]]) -> dict[str, Tensor]:
        """`input_ids`, `attention_mask` and `labels`, ``(B, L)``.

        Parameters
        ----------
        cells
            Rows with `input_ids`.
        """
        rows = [np.asarray(cell["input_ids"], dtype=np.int64) for cell in cells]
        lengths = np.array([len(row) for row in rows], dtype=np.int64)
        packed = Packed(np.concatenate(rows).astype(np.int32), np.concatenate([[0], np.cumsum(lengths)]))
        rng = np.random.default_rng(int(torch.randint(1 << 62, ())))
        masked = mask_genes(packed, self.genes, self.mask_id, self.probability, rng)
        labels_T = np.full(len(masked.input_ids), IGNORED, dtype=np.int64)
        labels_T[masked.masked] = masked.labels
        filled_BL = np.arange(lengths.max(initial=0)) < lengths[:, None]
        return {
            "input_ids": torch.from_numpy(_spread(masked.input_ids, filled_BL, self.pad_id)),
            "attention_mask": torch.from_numpy(filled_BL.astype(np.int64)),
            "labels": torch.from_numpy(_spread(labels_T, filled_BL, IGNORED)),
        }


def pack(batch: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """A padded batch as this package's networks take it: `input_ids`, `cu_seqlens`, `masked`, `labels`.

    Parameters
    ----------
    batch
        `input_ids`, `attention_mask` and `labels`, ``(B, L)``; cells start at the first position.
    """
    filled_BL = batch["attention_mask"].bool()
    lengths = filled_BL.sum(1)
    labels_T = batch["labels"][filled_BL]
    masked = (labels_T != IGNORED).nonzero()[:, 0]
    return {
        "input_ids": batch["input_ids"][filled_BL],
        "cu_seqlens": torch.nn.functional.pad(lengths.cumsum(0), (1, 0)),
        "masked": masked,
        "labels": labels_T[masked],
    }


def _spread(values_T: NDArray[Any], filled_BL: NDArray[np.bool_], fill: int) -> NDArray[np.int64]:
    """Packed values at the filled positions, ``(B, L)``."""
    padded = np.full(filled_BL.shape, fill, dtype=np.int64)
    padded[filled_BL] = values_T
    return padded
