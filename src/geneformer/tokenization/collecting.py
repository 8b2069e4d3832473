"""Tokenized cells gathered in memory, with the manners of `DatasetWriter`."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from geneformer import keys
from geneformer.data.columns import arrow_column
from geneformer.data.dataset import TokenizedDataset
from geneformer.vocab.arrow_arrays import lists, numbers


class Collector:
    """Gathers batches of cells.

    Parameters
    ----------
    schema
        Columns of the dataset, in order.
    """

    def __init__(self, schema: pa.Schema) -> None:
        self._schema = schema
        self._batches: list[pa.RecordBatch] = []

    def append(
        self,
        offsets: NDArray[np.int64],
        values: NDArray[np.int32],
        columns: Mapping[str, Any],
        *,
        counts: NDArray[np.float64] | None = None,
        progress: Mapping[str, Any] | None = None,
    ) -> None:
        """Add a batch of cells, see `DatasetWriter.append`."""
        if len(offsets) < 2:
            return
        arrays = {keys.INPUT_IDS: lists(offsets, values)}
        if counts is not None:
            arrays[keys.COUNTS] = lists(offsets, counts)
        arrays[keys.LENGTH] = numbers(np.diff(offsets))
        whole = {**columns, **arrays}
        ordered = [arrow_column(field.name, whole[field.name], field.type) for field in self._schema]
        self._batches.append(pa.record_batch(ordered, schema=self._schema))

    def dataset(self, vocabulary: str | None) -> TokenizedDataset:
        """All cells so far.

        Parameters
        ----------
        vocabulary
            Fingerprint of the vocabulary, where it is to be known.
        """
        table = pa.Table.from_batches(self._batches, schema=self._schema)
        return TokenizedDataset(table, vocabulary=vocabulary)
