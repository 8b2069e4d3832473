"""Cells between this package and Hugging Face `datasets`, which published scripts work with."""

from collections.abc import Mapping, Sequence
from importlib import import_module
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from geneformer import keys
from geneformer.errors import MissingExtraError
from geneformer.vocab.arrow_arrays import lists

if TYPE_CHECKING:
    from datasets import Dataset


def datasets_library() -> Any:
    """The module `datasets`.

    Raises
    ------
    MissingExtraError
        It is not installed.
    """
    try:
        return import_module("datasets")
    except ImportError as error:
        msg = 'This works with the library `datasets`, which is not installed: pip install "geneformer[published]".'
        raise MissingExtraError(msg) from error


def from_columns(
    offsets: Any,
    ragged: Mapping[str, Any],
    described: Mapping[str, Sequence[Any]],
    *,
    uncut: Sequence[Any] | None = None,
) -> "Dataset":
    """A dataset in memory with the published order of columns.

    Parameters
    ----------
    offsets
        Where each cell starts, and the total, ``(n + 1,)``.
    ragged
        Values of all tokens by column, each ``(T,)``.
    described
        Values of all cells by column, each ``(n,)``.
    uncut
        Tokens of each cell before it was cut, to be kept too.

    Raises
    ------
    MissingExtraError
        `datasets` is not installed.
    """
    columns = {name: lists(offsets, values) for name, values in ragged.items()}
    columns |= {name: pa.array(values) for name, values in described.items()}
    columns[keys.LENGTH] = pa.array([stop - start for start, stop in pairwise(offsets)], pa.int64())
    if uncut is not None:
        columns[f"{keys.INPUT_IDS}_uncropped"] = pa.array([list(cell) for cell in uncut], columns[keys.INPUT_IDS].type)
        columns[f"{keys.LENGTH}_uncropped"] = pa.array(map(len, uncut), pa.int64())
    table: Dataset = datasets_library().Dataset(pa.table(columns))
    return table
