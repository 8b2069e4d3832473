"""Batches of cells whose classes, of the cell or of each of its genes, stand in a column of the data set."""

from collections.abc import Sequence
from typing import Any, Literal

import numpy as np
import pyarrow as pa
import torch
from numpy.typing import NDArray

from geneformer import keys
from geneformer.data.dataset import TokenizedDataset
from geneformer.engine.training import Key
from geneformer.errors import DatasetError
from geneformer.models.losses import MISSING

Kind = Literal["cell", "gene"]
COLUMNS: dict[str, str] = {"cell": "label", "gene": "labels"}
"""Column with the class of each cell, or with the class of each of its tokens."""


class LabelBatches:
    """Batches from keys: cells end to end, and the class of every cell or of every token.

    Parameters
    ----------
    dataset
        Tokenized cells with the column of `COLUMNS`.
    kind
        Whether cells or genes have classes.

    Raises
    ------
    DatasetError
        No such column, another kind of values, or another number of labels than of tokens.
    """

    def __init__(self, dataset: TokenizedDataset, kind: Kind) -> None:
        self.dataset, self.kind = dataset, kind
        self.classes = _classes(dataset) if kind == "cell" else None
        self.per_token = _per_token(dataset) if kind == "gene" else None

    @property
    def lengths(self) -> NDArray[np.int64]:
        """Tokens each cell brings to a batch, ``(n,)``."""
        return self.dataset.lengths

    def labels(self, rows: Sequence[int] | NDArray[np.int64]) -> NDArray[np.int64]:
        """Class of the cells, ``(B,)``, or of their tokens end to end, ``(T,)``; `losses.MISSING` for none."""
        if self.per_token is not None:
            return self.per_token.gather(rows).input_ids.astype(np.int64)
        found: NDArray[np.int64] = np.asarray(self.classes)[np.asarray(rows)]
        return found

    def __call__(self, keys_: Sequence[Key]) -> dict[str, Any]:
        """The batch as tensors."""
        rows = [row for _, row in keys_]
        packed = self.dataset.gather(rows)
        return {
            "input_ids": torch.from_numpy(packed.input_ids.astype(np.int64)),
            "cu_seqlens": torch.from_numpy(packed.cu_seqlens),
            "labels": torch.from_numpy(self.labels(rows)),
        }


def _classes(dataset: TokenizedDataset) -> NDArray[np.int64]:
    values = dataset.column(COLUMNS["cell"])
    if not np.issubdtype(values.dtype, np.integer):
        msg = f"Column `label` holds {values.dtype}, not class numbers. Make the data set with `prepare_data`."
        raise DatasetError(msg)
    return values.astype(np.int64)


def _per_token(dataset: TokenizedDataset) -> TokenizedDataset:
    """The labels of every token, as ragged rows."""
    name = COLUMNS["gene"]
    if name not in dataset.table.column_names:
        msg = f"No column `labels`; the data set has {dataset.columns}. Make it with `prepare_data`."
        raise DatasetError(msg)
    column = dataset.table.column(name)
    kind = column.type
    if not (pa.types.is_list(kind) or pa.types.is_large_list(kind)):
        msg = f"Column `labels` holds {kind}, not one class number per gene. Make the data set with `prepare_data`."
        raise DatasetError(msg)
    labels = TokenizedDataset(pa.table({keys.INPUT_IDS: column}))
    if not np.array_equal(labels.lengths, dataset.lengths):
        msg = "Column `labels` has another number of entries than `input_ids`. The data set is damaged; make it again."
        raise DatasetError(msg)
    return labels


def label_lists(dataset: TokenizedDataset, class_of: NDArray[np.int64], *, at_once: int = 2048) -> pa.ChunkedArray:
    """Class of every token of every cell, as a column of lists of int64.

    Parameters
    ----------
    dataset
        Tokenized cells.
    class_of
        Class by token id, `losses.MISSING` for those without, ``(V,)``.
    at_once
        Cells looked at in one go.
    """
    chunks = []
    for start in range(0, len(dataset), at_once):
        packed = dataset.gather(np.arange(start, min(start + at_once, len(dataset))))
        values = pa.array(class_of[packed.input_ids])
        chunks.append(pa.ListArray.from_arrays(pa.array(packed.cu_seqlens.astype(np.int32)), values))
    return pa.chunked_array(chunks, type=pa.list_(pa.int64()))


def class_table(size: int, class_of_token: dict[int, int]) -> NDArray[np.int64]:
    """Class by token id, `losses.MISSING` for those without, ``(size,)``."""
    table = np.full(size, MISSING, dtype=np.int64)
    for token, code in class_of_token.items():
        table[token] = code
    return table
