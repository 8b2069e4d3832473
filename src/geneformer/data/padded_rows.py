"""Rows of tokens that a script filled up with `<pad>`, or changed without telling their lengths."""

import numpy as np
import pyarrow as pa

from geneformer import keys
from geneformer.data.dataset import TokenizedDataset
from geneformer.vocab.arrow_arrays import lists, numbers


def unpadded(table: pa.Table, pad_id: int) -> TokenizedDataset:
    """The rows without padding at their ends; `length`, where there is one, says how many tokens they have.

    Parameters
    ----------
    table
        Cells with `input_ids`.
    pad_id
        Id of `<pad>`.

    Raises
    ------
    DatasetError
        There are no tokens.
    """
    named = keys.LENGTH in table.column_names
    tokens = TokenizedDataset(table.drop_columns([keys.LENGTH]) if named else table)
    packed = tokens.gather(range(len(tokens)))
    lengths = np.diff(packed.cu_seqlens)
    place = np.arange(len(packed.input_ids)) - np.repeat(packed.cu_seqlens[:-1], lengths)
    some = lengths > 0
    kept = np.zeros_like(lengths)
    if some.any():
        ends = np.where(packed.input_ids == pad_id, 0, place + 1)
        kept[some] = np.maximum.reduceat(ends, packed.cu_seqlens[:-1][some])
    if not np.array_equal(kept, lengths):
        ids = lists(np.concatenate([[0], np.cumsum(kept)]), packed.input_ids[place < np.repeat(kept, lengths)])
        table = table.set_column(table.column_names.index(keys.INPUT_IDS), keys.INPUT_IDS, ids)
        table = table.drop_columns([keys.COUNTS]) if tokens.has_counts else table
    if named:
        table = table.set_column(table.column_names.index(keys.LENGTH), keys.LENGTH, numbers(kept))
    return TokenizedDataset(table)
