"""What the rows of a dataset are made of: columns and their order, special tokens or none, the longest row."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from geneformer import keys
from geneformer.options import TokenizeOptions
from geneformer.tokenization.frames import has_column
from geneformer.tokenization.lengths import max_length_of
from geneformer.tokenization.preparation import Preparation
from geneformer.tokenization.ranking import RankedGenes
from geneformer.tokenization.units import UnitResult
from geneformer.vocab.arrow_arrays import numbers, texts
from geneformer.vocab.vocabulary import Vocabulary


@dataclass(frozen=True, kw_only=True, slots=True)
class UnframedGenes:
    """Genes of a vocabulary for cells without `<cls>` and `<eos>`.

    Attributes
    ----------
    token_ids, medians
        Token id and nonzero median of each gene, ``(g,)``.
    """

    token_ids: NDArray[np.int32]
    medians: NDArray[np.float64]
    cls_id: int | None = None
    eos_id: int | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class RowForm:
    """How rows are built; by default as everywhere in this package.

    Attributes
    ----------
    names
        Dataset column of each `obs` column to carry along; `cell_id` then comes last, behind `length`, unless one of
        them is called so. None for this package's order: `cell_id`, `source`, the columns of `obs`, `length`.
    id_type
        Type of the token ids.
    special_tokens
        Whether cells are framed by `<cls>` and `<eos>` where the vocabulary has them.
    max_length
        Most tokens of a cell, special tokens included; None for what options and vocabulary say.
    names_vocabulary
        Whether the dataset says which vocabulary it belongs to.
    """

    names: Mapping[str, str] | None = None
    id_type: Literal["int16", "int32"] = "int32"
    special_tokens: bool = True
    max_length: int | None = None
    names_vocabulary: bool = True

    def schema(self, preparation: Preparation, *, counts: bool) -> pa.Schema:
        """Columns of the dataset, in order."""
        fields = [(keys.INPUT_IDS, pa.list_(pa.type_for_alias(self.id_type)))]
        fields += [(keys.COUNTS, pa.list_(pa.float64()))] if counts else []
        length = (keys.LENGTH, pa.int64())
        if self.names is None:
            own = [(keys.CELL_ID, pa.string()), (keys.SOURCE, pa.string())]
            return pa.schema([*fields, *own, *((c.name, c.kind) for c in preparation.columns), length])
        described = [(self.names[column.origin], column.kind) for column in preparation.columns]
        last = [] if self._has_cell_id else [(keys.CELL_ID, pa.string())]
        return pa.schema([*fields, *described, length, *last])

    def described(self, preparation: Preparation, number: int, result: UnitResult) -> dict[str, Any]:
        """What is known about the cells of a result of source `number`, by column."""
        ready = preparation.sources[number]
        if not len(result.cells):
            return {}
        start, stop = int(result.cells[0]), int(result.cells[-1]) + 1
        columns: dict[str, Any] = {}
        if not self._has_cell_id:
            names = ready.source.cell_names(start, stop)
            columns[keys.CELL_ID] = texts(names[result.cells - start].tolist())
        if self.names is None:
            columns[keys.SOURCE] = texts([ready.name] * len(result.cells))
        for column in preparation.columns:
            written = column.name if self.names is None else self.names[column.origin]
            if not has_column(ready.source.obs, column.origin):
                columns[written] = pa.nulls(len(result.cells), column.kind)
                continue
            columns[written] = ready.source.obs.column(column.origin, start, stop)
            if len(result.cells) < stop - start:
                columns[written] = columns[written].take(numbers(result.cells - start))
        return columns

    def genes(self, vocabulary: Vocabulary) -> RankedGenes:
        """What cells are ranked by."""
        if self.special_tokens:
            return vocabulary
        return UnframedGenes(token_ids=vocabulary.token_ids, medians=vocabulary.medians)

    def longest(self, options: TokenizeOptions, vocabulary: Vocabulary) -> int:
        """Most tokens of a cell."""
        return max_length_of(options, vocabulary) if self.max_length is None else self.max_length

    def fingerprint(self, vocabulary: Vocabulary) -> str | None:
        """What the dataset says about its vocabulary."""
        return vocabulary.fingerprint if self.names_vocabulary else None

    def as_dict(self) -> dict[str, Any]:
        """The form as JSON can hold it."""
        return {
            "names": None if self.names is None else dict(self.names),
            "id_type": self.id_type,
            "special_tokens": self.special_tokens,
            "max_length": self.max_length,
        }

    @property
    def _has_cell_id(self) -> bool:
        return self.names is not None and keys.CELL_ID in self.names.values()
