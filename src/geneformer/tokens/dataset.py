"""Tokenized cells in memory: ragged rows as offsets and values, and a table of what is known about each cell.

Batches of them are planned here, and cells are masked, thinned and cut for training.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from geneformer import keys
from geneformer.display import Summarized, Summary, names_text
from geneformer.errors import DatasetError, tokenizing
from geneformer.options._fields import nearest

Ints = NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Packed:
    """Cells laid end to end, without padding."""

    input_ids: NDArray[Any]
    cu_seqlens: Ints
    counts: NDArray[np.float64] | None = None

    @classmethod
    def of_lengths(
        cls, input_ids: NDArray[Any], lengths: NDArray[Any], counts: NDArray[np.float64] | None = None
    ) -> "Packed":
        """Cells of the given numbers of tokens."""
        return cls(input_ids, np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64), counts)

    @property
    def lengths(self) -> Ints:
        """Tokens of each cell."""
        return np.diff(self.cu_seqlens)

    @property
    def cells(self) -> Ints:
        """Cell of each token."""
        return np.repeat(np.arange(len(self.lengths)), self.lengths)

    def keep(self, tokens: NDArray[np.bool_]) -> "Packed":
        """The cells with only some of their tokens."""
        lengths = np.bincount(self.cells[tokens], minlength=len(self.lengths))
        counts = None if self.counts is None else self.counts[tokens]
        return Packed.of_lengths(self.input_ids[tokens], lengths, counts)


@dataclass(frozen=True, slots=True)
class _Rows:
    """One contiguous block of ragged rows, as Arrow keeps it."""

    offsets: Ints
    values: NDArray[Any]
    counts: NDArray[np.float64] | None


MATCHED_CELLS = {
    "read": "cells", "used": "written", "filtered": "filtered", "without_genes": "empty", "shortened": "truncated",
}  # fmt: skip
MATCHED_GENES = ("genes_read", "genes_matched", "genes_summed", "genes_left_out")
MATCHED_SHARE = "share_of_counts_matched"
"""Entries of `TokenizedDataset.matched`; those of cells by the names in reports."""


def describe_matched(matched: Mapping[str, Any]) -> str:
    """One line that says which cells and genes were read; empty if that is not known."""
    if not matched:
        return ""
    most = matched.get("left_out_most_counts", ())
    left_out = f"; left out with the most counts: {', '.join(most)}" if most else ""
    return (
        f"Read {matched['cells_used']:,} of {matched['cells_read']:,} cells, and {matched['genes_matched']:,} of "
        f"{matched['genes_read']:,} genes with {matched[MATCHED_SHARE]:.1%} of the counts{left_out}."
    )


PADDING = 0
"""Id of `<pad>` in every vocabulary; cells are kept without it."""

_CHECKED_AT_ONCE = 2**24


class TokenizedDataset(Summarized):
    """Rank value encodings with the identity of every cell.

    Columns are those of a Hugging Face `.dataset` folder: `input_ids`, `length`, optionally `counts`, and whatever is
    known about the cells (`cell_id`, `source`, columns of `obs`). Rows keep the order of the input.

    Parameters
    ----------
    table
        Arrow table with at least `input_ids` (lists of integers).
    vocabulary
        Fingerprint of the vocabulary the ids belong to, if known.
    path
        Folder the dataset came from, if any.
    report
        What tokenizing reported, as the manifest of a dataset has it; empty if not known.

    Raises
    ------
    DatasetError
        No `input_ids`, or lengths that contradict them.
    """

    def __init__(
        self,
        table: pa.Table,
        *,
        vocabulary: str | None = None,
        path: Path | None = None,
        report: Mapping[str, Any] | None = None,
    ) -> None:
        where = f" in {path}" if path else ""
        if keys.INPUT_IDS not in table.column_names:
            columns = table.column_names
            msg = f"No `input_ids`{where}; found the columns {columns}. Make tokens with `geneformer tokenize`."
            raise DatasetError(msg)
        self.table = table
        self.vocabulary = vocabulary
        self.path = path
        self.report = report or {}
        self._rows = _blocks(table, where)
        self._starts = np.cumsum([0, *(len(block.offsets) - 1 for block in self._rows)])
        self.lengths: Ints = np.concatenate(
            [np.diff(block.offsets) for block in self._rows] or [np.empty(0, np.int64)]
        ).astype(np.int64)
        if self.lengths.min(initial=0) < 0:
            msg = f"The rows of `input_ids`{where} end before they begin. The dataset is damaged; make it again."
            raise DatasetError(msg)
        self._where, self._size = where, -1
        if keys.LENGTH in table.column_names and not np.array_equal(self.column(keys.LENGTH), self.lengths):
            msg = f"Column `length`{where} contradicts the rows of `input_ids`. The dataset is damaged; make it again."
            raise DatasetError(msg)

    def __len__(self) -> int:
        return len(self.lengths)

    def summary_of(self) -> Summary:
        """How many cells of how many tokens there are, and what is known about them."""
        n, lengths = len(self), self.lengths
        spread = f", {int(np.median(lengths)):,} in the median, {int(lengths.max()):,} at most" if n else ""
        vocabulary = f"fingerprint {self.vocabulary[:12]}" if self.vocabulary else "not recorded"
        return Summary(
            title=f"TokenizedDataset of {n:,} cells",
            facts=[
                ("tokens", f"{int(lengths.sum()):,}{spread}"),
                ("vocabulary", vocabulary),
                ("counts", "kept with the tokens" if self.has_counts else "not kept"),
                ("columns", names_text(self.columns)),
                ("folder", str(self.path) if self.path else "none, in memory"),
            ],
        )

    @property
    def columns(self) -> list[str]:
        """Names of the columns that describe cells."""
        return [c for c in self.table.column_names if c not in (keys.INPUT_IDS, keys.COUNTS, keys.ROW)]

    @property
    def input_rows(self) -> Ints | None:
        """Row of each cell among all rows of the inputs, ``(n,)``; None where that is not recorded."""
        return _values(self.table.column(keys.ROW)) if keys.ROW in self.table.column_names else None

    @property
    def matched(self) -> dict[str, Any]:
        """Which cells and genes of the input were read, as `keys.MATCHED` says; empty if not known."""
        try:
            source = min(self.report["sources"], key=lambda source: float(source["matched_share"]))
            genes, found = source["genes"], {MATCHED_SHARE: float(source["matched_share"])}
            found |= {f"cells_{name}": int(self.report[f"n_{told}"]) for name, told in MATCHED_CELLS.items()}
            found |= {name: int(genes[name]) for name in MATCHED_GENES}
            most = [str(name) for name in genes["left_out_most_counts"]]
        except (KeyError, TypeError, ValueError, AttributeError):
            return {}  # of a manifest that an earlier version, or somebody else, wrote
        return {**found, "left_out_most_counts": most} if most else found

    @property
    def has_counts(self) -> bool:
        """Whether each token's scaled count is stored."""
        return keys.COUNTS in self.table.column_names

    def column(self, name: str) -> NDArray[Any]:
        """Values of one column that describes cells, ``(n,)``.

        Raises
        ------
        DatasetError
            No such column.
        """
        if name not in self.columns:
            msg = f"No column {name!r} in the tokenized dataset; it has {self.columns}.{nearest(name, self.columns)}"
            raise DatasetError(msg)
        return _values(self.table.column(name))

    @property
    def cell_ids(self) -> NDArray[Any]:
        """Names of the cells, or row numbers where the dataset has none, ``(n,)``."""
        if keys.CELL_ID in self.table.column_names:
            return self.column(keys.CELL_ID)
        return np.arange(len(self)).astype(str)

    def __getitem__(self, row: int) -> NDArray[Any]:
        """Token ids of one cell, ``(length,)``."""
        row = int(self._checked([row])[0])
        block = int(np.searchsorted(self._starts, row, side="right")) - 1
        rows, local = self._rows[block], row - self._starts[block]
        return rows.values[rows.offsets[local] : rows.offsets[local + 1]]

    def _checked(self, rows: Sequence[int] | Ints) -> Ints:
        """Row numbers counted from the start, ``(B,)``."""
        rows = np.asarray(rows, dtype=np.int64)
        outside = rows[(rows < -len(self)) | (rows >= len(self))]
        if len(outside):
            msg = f"Row {outside[0]} of a dataset of {len(self)} cells."
            raise IndexError(msg)
        return np.where(rows < 0, rows + len(self), rows)

    def check_ids(self, size: int) -> None:
        """Refuse token ids that a vocabulary of so many tokens does not have, before any work; reads them once."""
        if self._size == size:
            return
        for number, block in enumerate(self._rows):
            stop = int(block.offsets[-1])
            for start in range(int(block.offsets[0]), stop, _CHECKED_AT_ONCE):
                ids = block.values[start : min(start + _CHECKED_AT_ONCE, stop)]
                if ids.min() <= PADDING or ids.max() >= size:
                    place = start + int(np.flatnonzero((ids <= PADDING) | (ids >= size))[0])
                    row = int(self._starts[number] + np.searchsorted(block.offsets, place, side="right") - 1)
                    msg = (
                        f"Cell {row}{self._where} has the token id {block.values[place]}; here ids are 1 to "
                        f"{size - 1:,}, 0 being padding. Tokenize the counts again with the vocabulary of the model."
                    )
                    raise DatasetError(msg)
        self._size = size

    def gather(self, rows: Sequence[int] | Ints, *, max_length: int | None = None, counts: bool = False) -> Packed:
        """Cells of the given rows laid end to end, each cut to its first `max_length` tokens.

        Parameters
        ----------
        rows
            Row numbers, in the order of the result, ``(B,)``.
        max_length
            Most tokens of one cell.
        counts
            Also gather the scaled counts.
        """
        rows = self._checked(rows)
        lengths = self.lengths[rows]
        if max_length is not None:
            lengths = np.minimum(lengths, max_length)
        cu_seqlens = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)
        ids = np.empty(int(cu_seqlens[-1]), dtype=np.int32)
        values = np.empty(len(ids), dtype=np.float64) if counts else None
        within = np.searchsorted(self._starts, rows, side="right") - 1
        for position, (row, block, length) in enumerate(zip(rows, within, lengths, strict=True)):
            source = self._rows[block]
            start = int(source.offsets[row - self._starts[block]])
            target = slice(int(cu_seqlens[position]), int(cu_seqlens[position + 1]))
            ids[target] = source.values[start : start + length]
            if values is not None:
                if source.counts is None:
                    msg = f"The tokenized dataset has no `counts`. Tokenize with {tokenizing(counts=True)}."
                    raise DatasetError(msg)
                values[target] = source.counts[start : start + length]
        return Packed(ids, cu_seqlens, values)

    def take(self, rows: Sequence[int] | Ints) -> "TokenizedDataset":
        """The dataset reduced to the given rows, in the order given."""
        taken = self.table.take(pa.array(np.asarray(rows, dtype=np.int64)))
        return TokenizedDataset(taken, vocabulary=self.vocabulary, path=self.path, report=self.report)


def _blocks(table: pa.Table, where: str) -> list[_Rows]:
    """Views of the list columns, block by block, without copying."""
    ids, kind = table.column(keys.INPUT_IDS), table.schema.field(keys.INPUT_IDS).type
    if not (pa.types.is_list(kind) or pa.types.is_large_list(kind)) or not pa.types.is_integer(kind.value_type):
        msg = f"`input_ids`{where} holds {kind}, not lists of integers. Make tokens with `geneformer tokenize`."
        raise DatasetError(msg)
    if ids.null_count:
        msg = f"Column `input_ids`{where} has {ids.null_count} empty rows. Drop them, or tokenize again."
        raise DatasetError(msg)
    if any(chunk.values.null_count for chunk in ids.chunks):
        msg = f"Column `input_ids`{where} has missing tokens. The dataset is damaged; make it again."
        raise DatasetError(msg)
    counts = table.column(keys.COUNTS) if keys.COUNTS in table.column_names else None
    if counts is not None and [len(c) for c in counts.chunks] != [len(c) for c in ids.chunks]:
        return _blocks(table.combine_chunks(), where)
    blocks = []
    for number, chunk in enumerate(ids.chunks):
        if not len(chunk):
            continue
        offsets, values = _ragged(chunk)
        scaled = None
        if counts is not None:
            count_offsets, scaled = _ragged(counts.chunks[number])
            if not np.array_equal(np.diff(count_offsets), np.diff(offsets)):
                msg = "Columns `counts` and `input_ids` differ in their lengths. The dataset is damaged; make it again."
                raise DatasetError(msg)
            scaled = scaled[count_offsets[0] :]
            values, offsets = values[offsets[0] :], offsets - offsets[0]
        blocks.append(_Rows(offsets, values, scaled))
    return blocks


def _ragged(chunk: pa.Array) -> tuple[Ints, NDArray[Any]]:
    """Offsets and values of a list array; the values are those of the whole buffer."""
    return np.asarray(arrow_values(chunk.offsets), dtype=np.int64), arrow_values(chunk.values)


def _values(column: pa.ChunkedArray) -> NDArray[Any]:
    kind = column.type
    if column.num_chunks and (pa.types.is_integer(kind) or pa.types.is_floating(kind)) and not column.null_count:
        return np.concatenate([arrow_values(chunk) for chunk in column.chunks])
    return np.asarray(column.to_numpy())


def arrow_type(values: Any) -> pa.DataType:
    """The Arrow type that holds a whole column: text for categories and for mixed objects."""
    try:
        kind = pa.array(values, from_pandas=True).type
    except (pa.ArrowInvalid, pa.ArrowTypeError, pa.ArrowNotImplementedError):
        return pa.string()
    while pa.types.is_dictionary(kind):
        kind = kind.value_type
    t = pa.types
    odd = (t.is_null, t.is_large_string, t.is_string_view, t.is_struct, t.is_interval)
    is_odd = isinstance(kind, pa.ExtensionType) or any(is_type(kind) for is_type in odd)
    return pa.string() if is_odd else kind


def arrow_column(name: str, values: Any, kind: pa.DataType) -> pa.Array:
    """One column as an Arrow array of the given type; missing values become nulls."""
    if isinstance(values, pa.ChunkedArray):
        values = values.combine_chunks()
    try:
        array = values if isinstance(values, pa.Array) else pa.array(values, from_pandas=True)
        if pa.types.is_dictionary(array.type):
            array = array.dictionary_decode()
        if isinstance(array, pa.ExtensionArray):
            array = array.storage
        return array.cast(kind)
    except (pa.ArrowInvalid, pa.ArrowTypeError, pa.ArrowNotImplementedError) as error:
        if pa.types.is_string(kind):
            return pa.array([None if _missing(value) else str(value) for value in values], pa.string())
        msg = f"Column {name!r} was taken for {kind} but holds something else ({error}). Make it one kind of value."
        raise DatasetError(msg) from error


def feature(kind: pa.DataType) -> dict[str, Any]:
    """The entry of one column in `dataset_info.json`, in words that every `datasets` release since 1.0 reads."""
    if pa.types.is_list(kind) or pa.types.is_large_list(kind):
        return {"feature": feature(kind.value_type), "_type": "Sequence"}
    names = {"double": "float64", "float": "float32", "halffloat": "float16", "date32[day]": "date32"}
    return {"dtype": names.get(str(kind), str(kind)), "_type": "Value"}


def _missing(value: Any) -> bool:
    """None, NaN, NaT and pandas' NA."""
    try:
        return value is None or bool(value != value)  # noqa: PLR0124  only NaN and NaT differ from themselves
    except TypeError:  # NA does not decide
        return True
    except ValueError:  # nor does an array, which is there
        return False


def arrow_numbers(values: NDArray[Any], *, missing: NDArray[np.bool_] | None = None) -> pa.Array:
    """Numbers or truth values, their memory shared where possible."""
    values = values.astype(values.dtype.newbyteorder("="), copy=False)
    kind = pa.from_numpy_dtype(values.dtype)
    stored = np.packbits(values, bitorder="little") if pa.types.is_boolean(kind) else np.ascontiguousarray(values)
    present = None
    if missing is not None and missing.any():
        present = pa.py_buffer(np.packbits(~missing, bitorder="little"))
    return pa.Array.from_buffers(kind, len(values), [present, pa.py_buffer(stored)])


def arrow_texts(values: Sequence[str]) -> pa.Array:
    """Texts, none of them missing."""
    data = "".join(values).encode()
    lengths = np.fromiter(map(len, values), dtype=np.int64, count=len(values))
    if len(data) != lengths.sum():
        lengths = np.fromiter((len(value.encode()) for value in values), dtype=np.int64, count=len(values))
    ends = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int32)
    return pa.Array.from_buffers(pa.string(), len(values), [None, pa.py_buffer(ends), pa.py_buffer(data)])


def arrow_lists(starts: NDArray[Any], values: NDArray[Any]) -> pa.Array:
    """Lists of numbers."""
    return pa.ListArray.from_arrays(arrow_numbers(starts.astype(np.int32)), arrow_numbers(values))


def arrow_values(array: pa.Array) -> NDArray[Any]:
    """Numbers of an Arrow array, their memory shared where possible; missing ones are NaN."""
    if array.null_count or pa.types.is_boolean(array.type):
        return np.asarray(array.to_numpy(zero_copy_only=False))
    buffer = array.buffers()[1]
    values = np.frombuffer(b"" if buffer is None else buffer, dtype=array.type.to_pandas_dtype())
    return values[array.offset : array.offset + len(array)]


_BATCHES_PER_BUCKET = 50

CELL = 1 << 24
"""Length that stands for any cell where batches are planned by cells; large, so that budgets are exact."""


def budget_of_cells(n_cells: int, cells_per_batch: int) -> int:
    """Budget with which cells of length `CELL` make as many batches as so many each would, all about equally large."""
    n_batches = max(1, -(-n_cells // cells_per_batch))
    return max(n_cells, 1) * CELL // n_batches


def plan_batches(lengths: Sequence[int] | Ints, tokens_per_batch: int) -> list[Ints]:
    """Rows of each batch, longest cells first, so that no batch holds more tokens than allowed."""
    lengths = np.asarray(lengths, dtype=np.int64)
    order = np.argsort(-lengths, kind="stable")
    ends = np.cumsum(lengths[order])
    batches = []
    start = 0
    while start < len(order):
        before = int(ends[start - 1]) if start else 0
        stop = int(np.searchsorted(ends, before + tokens_per_batch, side="right"))
        stop = max(stop, start + 1)
        batches.append(order[start:stop])
        start = stop
    return batches


def plan_epoch(
    lengths: Sequence[int] | Ints,
    tokens_per_batch: int,
    seed: Sequence[int],
    *,
    multiple: int = 1,
    groups: NDArray[Any] | None = None,
) -> list[Ints]:
    """Rows of each training batch of one epoch: shuffled, yet cells of similar length together."""
    lengths = np.asarray(lengths, dtype=np.int64)
    rng = np.random.default_rng(list(seed))
    members = [np.arange(len(lengths))] if len(lengths) else []
    if groups is not None:
        members = [np.flatnonzero(groups == group) for group in np.unique(groups)]
    batches = [batch for rows in members for batch in _plan_group(rows, lengths, tokens_per_batch, multiple, rng)]
    return [batches[i] for i in rng.permutation(len(batches))]


def _plan_group(
    rows: Ints, lengths: Ints, tokens_per_batch: int, multiple: int, rng: np.random.Generator
) -> list[Ints]:
    """Batches of one group of cells."""
    n_batches = max(1, round(int(lengths[rows].sum()) / tokens_per_batch))
    n_batches = min(-(-n_batches // multiple) * multiple, len(rows))
    n_buckets = max(1, round(n_batches / _BATCHES_PER_BUCKET))
    shuffled = rng.permutation(rows)
    shares = np.array_split(np.arange(n_batches), n_buckets)
    batches: list[Ints] = []
    for bucket, share in zip(np.array_split(shuffled, n_buckets), shares, strict=True):
        by_length = bucket[np.argsort(-lengths[bucket], kind="stable")]
        batches.extend(_cut_evenly(by_length, lengths, len(share)))
    return batches


def _cut_evenly(rows: Ints, lengths: Ints, parts: int) -> list[Ints]:
    """Consecutive parts of about equal token numbers, none of them empty."""
    ends = np.cumsum(lengths[rows])
    cuts = np.searchsorted(ends, ends[-1] * np.arange(1, parts) / parts)
    cuts = np.maximum(cuts, np.arange(1, parts))
    cuts = np.minimum(
        np.maximum.accumulate(cuts - np.arange(parts - 1)) + np.arange(parts - 1),
        len(rows) - parts + np.arange(1, parts),
    )
    return np.split(rows, cuts)


@dataclass(frozen=True, slots=True)
class Masked:
    """Packed cells with some genes hidden."""

    input_ids: Ints
    cu_seqlens: Ints
    masked: Ints
    labels: Ints


def mask_genes(
    packed: Packed, genes: NDArray[Any], mask_id: int, probability: float, rng: np.random.Generator
) -> Masked:
    """Mask as BERT (Devlin et al., 2019): of the selected genes 80 % become `<mask>`, 10 % another, 10 % stay."""
    ids = packed.input_ids.astype(np.int64)
    is_gene = np.isin(ids, genes)
    selected = is_gene & (rng.random(len(ids)) < probability)
    if not selected.any() and is_gene.any():
        selected[rng.choice(np.flatnonzero(is_gene))] = True
    masked = np.flatnonzero(selected)
    labels = ids[masked]
    fate = rng.random(len(masked))
    ids[masked[fate < 0.8]] = mask_id
    swapped = masked[(fate >= 0.8) & (fate < 0.9)]
    ids[swapped] = rng.choice(genes, len(swapped))
    return Masked(ids, packed.cu_seqlens, masked, labels)


def split_counts(
    packed: Packed,
    medians: NDArray[np.float64],
    share: tuple[float, float],
    max_length: int,
    rng: np.random.Generator,
    gene_share: tuple[float, float] = (1.0, 1.0),
) -> tuple[Packed, Packed]:
    """Two views of every cell, each with a part of its molecules on a panel of its own, ranked again."""
    if packed.counts is None:
        msg = "Count-subsampled views need counts."
        raise ValueError(msg)
    lengths, cells = packed.lengths, packed.cells
    genes = ~np.isnan(medians[packed.input_ids])
    unit = np.full(len(lengths), np.inf)
    np.minimum.at(unit, cells[genes], packed.counts[genes])
    molecules = np.zeros(len(cells), dtype=np.int64)
    molecules[genes] = np.rint(packed.counts[genes] / unit[cells[genes]]).astype(np.int64)
    first = rng.binomial(molecules, rng.uniform(*share, len(lengths))[cells])
    parts = [first, molecules - first]
    if gene_share != (1.0, 1.0):
        parts = [part * (rng.random(len(medians)) < rng.uniform(*gene_share))[packed.input_ids] for part in parts]
    one, other = (_rank_again(packed, part, medians, max_length) for part in parts)
    return one, other


def _rank_again(packed: Packed, molecules: Ints, medians: NDArray[np.float64], max_length: int) -> Packed:
    """The cells with other numbers of molecules, cut to their first tokens; a closing special token survives."""
    cells, median = packed.cells, medians[packed.input_ids]
    special = np.isnan(median)
    opens = np.zeros(len(cells), dtype=bool)
    opens[packed.cu_seqlens[:-1][packed.lengths > 0]] = True
    value = np.where(special, np.where(opens, np.inf, 0.0), molecules / np.where(special, 1.0, median))
    alive = np.flatnonzero((molecules > 0) | special)
    alive = alive[np.lexsort((-value[alive], cells[alive]))]
    lengths = np.bincount(cells[alive], minlength=len(packed.lengths))
    ranked, special = Packed.of_lengths(packed.input_ids[alive], lengths), special[alive]
    rank = np.arange(len(alive)) - np.repeat(ranked.cu_seqlens[:-1], lengths)
    last = rank == np.repeat(lengths, lengths) - 1
    closes = np.zeros(len(lengths), dtype=np.int64)
    closes[ranked.cells[last & special & (rank > 0)]] = 1
    return ranked.keep((rank < max_length - np.repeat(closes, lengths)) | (last & special))


def concatenate(*parts: Packed) -> Packed:
    """Packed cells of several parts, end to end."""
    shifts = np.cumsum([0, *(int(part.cu_seqlens[-1]) for part in parts)])
    cu_seqlens = [part.cu_seqlens[1:] + shift for part, shift in zip(parts, shifts[:-1], strict=True)]
    return Packed(
        np.concatenate([part.input_ids for part in parts]),
        np.concatenate([np.zeros(1, dtype=np.int64), *cu_seqlens]),
    )


def delete_genes(
    packed: Packed,
    special: NDArray[Any],
    rng: np.random.Generator,
    *,
    share: float = 0.15,
    chosen: NDArray[Any] | None = None,
) -> Packed:
    """Cells without some of their genes; those behind a deleted gene move up."""
    ids, lengths, cells = packed.input_ids, packed.lengths, packed.cells
    is_gene = ~np.isin(ids, special)
    deleted = is_gene & (np.isin(ids, chosen) if chosen is not None else rng.random(len(ids)) < share)
    n_genes = np.bincount(cells[is_gene], minlength=len(lengths))
    emptied = (np.bincount(cells[deleted], minlength=len(lengths)) == n_genes) & (n_genes > 0)
    if emptied.any():
        genes = np.flatnonzero(is_gene & emptied[cells])
        first = genes[np.unique(cells[genes], return_index=True)[1]]
        deleted[first] = False
    return packed.keep(~deleted)
