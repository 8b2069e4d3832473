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
    columns
        Arrow type of each column that describes cells.
    counts
        Whether each token's scaled count is kept.
    """

    def __init__(self, columns: Mapping[str, pa.DataType], *, counts: bool) -> None:
        fields = [(keys.INPUT_IDS, pa.list_(pa.int32()))]
        fields += [(keys.COUNTS, pa.list_(pa.float64()))] if counts else []
        self._schema = pa.schema([*fields, *columns.items(), (keys.LENGTH, pa.int64())])
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

    def dataset(self, vocabulary: str) -> TokenizedDataset:
        """All cells so far.

        Parameters
        ----------
        vocabulary
            Fingerprint of the vocabulary.
        """
        table = pa.Table.from_batches(self._batches, schema=self._schema)
        return TokenizedDataset(table, vocabulary=vocabulary)
