"""Which cells of a `datasets.Dataset` a published script works on, and in which order.

`nproc` says how many processes filter in the published package. Here one pass over a column is enough, so that it has
nothing to do.
"""

import logging
import math
import random
import warnings
from collections.abc import Callable, Iterable, Mapping, MutableMapping, Sequence
from dataclasses import dataclass
from importlib import import_module
from itertools import islice, pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
from numpy.typing import ArrayLike, NDArray
from pyarrow import compute

from geneformer import keys
from geneformer.errors import (
    AbsentGeneError,
    DatasetError,
    GeneformerWarning,
    GeneListError,
    InputNotFoundError,
    MissingExtraError,
    NoCellsError,
    OptionError,
    OutOfRangeError,
    RareClassError,
    StateError,
    UnknownVocabularyError,
)
from geneformer.finetuning.splits import draw_stratified
from geneformer.genes.vocabulary import BUNDLED, Vocabulary, lists, numbers
from geneformer.options._fields import check_choice, check_range, nearest
from geneformer.perturbation.edits import Ints as Ints_of_edits
from geneformer.tokens.dataset import TokenizedDataset
from geneformer.tokens.storage import read_dataset

if TYPE_CHECKING:
    from datasets import Dataset

_FIELDS = ("state_key", "start_state", "goal_state", "alt_states")


@dataclass(frozen=True, slots=True)
class CellStates:
    """States of cells by their part."""

    key: str
    start: Any
    goal: Any
    alternates: tuple[Any, ...] = ()

    @property
    def all(self) -> tuple[Any, ...]:
        """Start, goal, alternates."""
        return (self.start, self.goal, *self.alternates)


def read_cell_states(states: Any) -> CellStates:
    """States as published scripts give them."""
    if not isinstance(states, Mapping):
        msg = f"cell_states_to_model is a {type(states).__name__}. Give a dictionary with {', '.join(_FIELDS)}."
        raise StateError(msg)
    found = _older(states) if len(states) == 1 else _named(states)
    if len(set(found.all)) < len(found.all):
        msg = f"Start, goal and alternate states must differ, found {list(found.all)}."
        raise StateError(msg)
    return found


def _named(states: Mapping[str, Any]) -> CellStates:
    missing = [name for name in _FIELDS[:3] if states.get(name) is None]
    unknown = [name for name in states if name not in _FIELDS]
    alternates = states.get("alt_states") or []
    if missing or unknown or not isinstance(alternates, list | tuple):
        msg = (
            f"cell_states_to_model lacks {missing} and holds {list(states)}. It takes {', '.join(_FIELDS)}; the last "
            "is a list and may be left out."
        )
        raise StateError(msg)
    return CellStates(str(states["state_key"]), states["start_state"], states["goal_state"], _told(alternates))


def _older(states: Mapping[str, Any]) -> CellStates:
    [(key, parts)] = states.items()
    lists = isinstance(parts, list | tuple) and all(isinstance(part, list | tuple) for part in parts)
    if not lists or len(parts) not in (2, 3) or any(len(part) != 1 for part in parts[:2]):
        msg = f"cell_states_to_model={dict(states)!r} is not known. Give {', '.join(_FIELDS)}."
        raise StateError(msg)
    return CellStates(str(key), parts[0][0], parts[1][0], _told(parts[2]) if len(parts) == 3 else ())


def _told(alternates: Sequence[Any]) -> tuple[Any, ...]:
    """Old scripts write a single None where there are none."""
    return tuple(state for state in alternates if state is not None)


def datasets_library() -> Any:
    """The module `datasets`."""
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
    """A dataset in memory with the published order of columns."""
    columns = {name: lists(offsets, values) for name, values in ragged.items()}
    columns |= {name: pa.array(values) for name, values in described.items()}
    columns[keys.LENGTH] = pa.array([stop - start for start, stop in pairwise(offsets)], pa.int64())
    if uncut is not None:
        columns[f"{keys.INPUT_IDS}_uncropped"] = pa.array([list(cell) for cell in uncut], columns[keys.INPUT_IDS].type)
        columns[f"{keys.LENGTH}_uncropped"] = pa.array(map(len, uncut), pa.int64())
    table: Dataset = datasets_library().Dataset(pa.table(columns))
    return table


Ints = NDArray[np.int64]

SEED = 42
"""What the published package draws cells with."""


def listed(values: Any) -> list[Any]:
    """Values of a list, a set, an array or a column; a single value, text too, as the only one."""
    if hasattr(values, "tolist"):
        values = values.tolist()
    return list(values) if isinstance(values, Iterable) and not isinstance(values, str | bytes) else [values]


def rows_with(dataset: TokenizedDataset, wanted: Mapping[str, Sequence[Any]]) -> Ints:
    """Rows whose value is among those wanted, in every column named."""
    keep = np.ones(len(dataset), dtype=bool)
    for name, values in wanted.items():
        column = dataset.column(name)
        accepted = set(values)
        keep &= np.fromiter((value in accepted for value in column.tolist()), dtype=bool, count=len(column))
        if not keep.any():
            held = sorted({str(value) for value in column.tolist()})
            more = f" and {len(held) - 10} more" if len(held) > 10 else ""
            msg = (
                f"No cell is left after keeping {name!r} in {list(values)}. The column holds "
                f"{', '.join(held[:10])}{more}."
            )
            raise NoCellsError(msg)
    return np.flatnonzero(keep)


def drawn_rows(n: int, size: int | None = None) -> Ints:
    """`size` of `n` rows in the order of the published draw; all of them by default."""
    return np.random.default_rng(SEED).permutation(n)[: n if size is None else size]


def longest_first(dataset: TokenizedDataset, rows: Ints, max_cells: int | None) -> Ints:
    """At most `max_cells` of the rows, drawn where there are more, by descending length; equal lengths keep order."""
    if max_cells is not None and len(rows) > max_cells:
        rows = rows[drawn_rows(len(rows), max_cells)]
    return rows[np.argsort(-dataset.lengths[rows], kind="stable")]


def without_rare(values: ArrayLike, threshold: float) -> Ints:
    """Rows whose value is held by more than a share of the rows."""
    import pandas as pd

    column = pd.Series(np.asarray(values))
    share = column.map(column.value_counts(normalize=True))
    rows = np.flatnonzero(share.to_numpy(dtype=np.float64) > threshold).astype(np.int64)
    if not len(rows):
        msg = f"rare_threshold={threshold} leaves no cell: every state is that rare. Lower it."
        raise NoCellsError(msg)
    return rows


def cap_classes(values: Sequence[Any], most: int) -> Ints:
    """Rows with at most so many of each value, drawn; grouped by value in order of appearance."""
    by_value: dict[Any, list[int]] = {}
    for row, value in enumerate(values):
        by_value.setdefault(value, []).append(row)
    rng = random.Random(SEED)  # noqa: S311  the published draw
    chosen = [row for rows in by_value.values() for row in (rng.sample(rows, most) if len(rows) > most else rows)]
    return np.array(chosen, dtype=np.int64)


def split_rows(n: int, share: float, strata: ArrayLike | None = None) -> tuple[Ints, Ints]:
    """Rows to learn from and rows held out, as `datasets.Dataset.train_test_split` with seed 42 gives them."""
    held = math.ceil(share * n)
    if not 0 < held < n:
        msg = f"{share:.3g} of {n:,} cells held out leaves nothing on one side. Give more cells, or another share."
        raise RareClassError(msg)
    if strata is not None:
        _, codes = np.unique(np.asarray(strata), return_inverse=True)
        part = draw_stratified(codes.astype(np.int64), (held,), np.random.default_rng(SEED))
        return np.flatnonzero(part == 0), np.flatnonzero(part == 1)
    order = drawn_rows(n)
    return order[held:], order[:held]


def blocks(n: int, n_folds: int) -> list[tuple[Ints, Ints]]:
    """Rows to learn from and rows held out of each fold: contiguous blocks that cover every row once."""
    if n < n_folds:
        msg = f"{n:,} cells are too few for {n_folds} folds."
        raise RareClassError(msg)
    rows = np.arange(n)
    return [(np.setdiff1d(rows, block), block) for block in np.array_split(rows, n_folds)]


def gene_folds(
    codes: ArrayLike, n_folds: int, test_share: float, classes: Sequence[Any], *, first: int | None = None
) -> list[tuple[Ints, Ints, Ints]]:
    """Genes to learn from, to validate with and to test on, of each fold."""
    try:
        from sklearn.model_selection import StratifiedKFold, train_test_split
    except ImportError as error:
        msg = "Folds of genes need scikit-learn. Install it with `pip install geneformer[train]`."
        raise MissingExtraError(msg) from error
    codes_n = np.asarray(codes, dtype=np.int64)
    counts = np.bincount(codes_n, minlength=len(classes))
    if counts.min() < n_folds:
        told = ", ".join(f"{name!r} {count}" for name, count in zip(classes, counts, strict=True) if count < n_folds)
        msg = f"Too few genes for {n_folds} folds: {told}. Every fold holds out a gene of each class; give more genes."
        raise GeneListError(msg)
    folds: list[tuple[Ints, Ints, Ints]] = []
    splits = StratifiedKFold(n_folds, shuffle=True, random_state=0).split(codes_n, codes_n)
    for learnt, held in islice(splits, first):
        n_test = math.ceil(test_share * len(held))
        fewest = min(np.bincount(codes_n[held])[np.unique(codes_n[held])])
        n_classes = len(np.unique(codes_n[held]))
        if test_share == 0 or fewest < 2 or n_test < n_classes or len(held) - n_test < n_classes:
            if test_share:
                msg = f"Fold {len(folds) + 1} holds out {len(held)} genes, too few for a test part; all validate."
                warnings.warn(msg, GeneformerWarning, stacklevel=2)
            valid, test = held, np.empty(0, dtype=np.int64)
        else:
            valid, test = train_test_split(
                held, stratify=codes_n[held], test_size=test_share, shuffle=True, random_state=0
            )
        folds.append((learnt.astype(np.int64), np.asarray(valid, dtype=np.int64), np.asarray(test, dtype=np.int64)))
    return folds


def fold_count(train: float) -> int:
    """Folds of genes that leave a share to learn from; at least two."""
    return max(int(1 / (1 - train) + 1e-9), 2)


def balanced_classes(counts: Mapping[int, int], class_of: Mapping[int, int], *, trials: int = 25) -> dict[int, int]:
    """Classes of the genes that are kept so that two classes occur about equally often."""

    def ratio(chosen: Mapping[int, int]) -> float:
        sums = [sum(counts.get(token, 0) for token, code in chosen.items() if code == wanted) for wanted in (0, 1)]
        if not all(sums):
            return 0.0
        return sums[0] / sums[1]

    first = ratio(class_of)
    if not first:
        msg = "gene_balance: the genes of one class occur in no cell of the training part. Give other genes or cells."
        raise GeneListError(msg)
    best, boost = dict(class_of), 1.0
    for trial in range(trials):
        if 0.8 <= ratio(best) <= 1.25:
            break
        larger = 0 if first > 1 else 1
        tokens = [token for token, code in class_of.items() if code == larger]
        excess = max(first, 1 / first) * boost
        n_gone = min(max(1, math.floor(len(tokens) - len(tokens) / excess)), len(tokens) - 1)
        gone = set(random.Random(trial).sample(tokens, n_gone))  # noqa: S311  the published draw
        drawn = {token: code for token, code in class_of.items() if token not in gone}
        found = ratio(drawn)
        if found and abs(math.log(found)) < abs(math.log(ratio(best))):
            best = drawn
        boost *= 1.1 if (found > 1) == (first > 1) else 0.9
    return best


_logger = logging.getLogger(__name__)


def load_and_filter(filter_data: Mapping[str, Any] | None, nproc: int, input_data_file: str | Path) -> "Dataset":
    """The dataset in a folder, in the order of the file, reduced to cells with the values wanted.

    Parameters
    ----------
    filter_data
        Accepted values by column; None for all cells.
    nproc
        At least one.
    input_data_file
        Folder of the dataset.

    Raises
    ------
    InputNotFoundError, DatasetError
        There is no dataset, or it is damaged.
    NoCellsError
        No cell is left.
    MissingExtraError
        `datasets` is not installed.
    """
    library = datasets_library()
    read_dataset(input_data_file)  # which says what is wrong with a folder
    data = library.load_from_disk(str(input_data_file))
    return filter_by_dict(data, filter_data, nproc) if filter_data else data


def filter_by_dict(data: "Dataset", filter_data: Mapping[str, Any], nproc: int) -> "Dataset":
    """Cells whose value is among those wanted, in every column named.

    Parameters
    ----------
    data
        Cells.
    filter_data
        Accepted values by column; a single value is taken whole.
    nproc
        At least one.

    Raises
    ------
    DatasetError
        No such column.
    NoCellsError
        No cell is left.
    """
    check_range("nproc", nproc, low=1)
    for column, wanted in filter_data.items():
        accepted = listed(wanted)
        data = _kept(data, column, accepted.__contains__, f"among {accepted}")
    return data


def filter_data_by_tokens(filtered_input_data: "Dataset", tokens: Sequence[int], nproc: int) -> "Dataset":
    """Cells that have all of the tokens.

    Raises
    ------
    NoCellsError
        No cell has them.
    """
    check_range("nproc", nproc, low=1)
    wanted = set(tokens)
    return _kept(
        filtered_input_data, keys.INPUT_IDS, wanted.issubset, f"a cell with all of the tokens {sorted(wanted)}"
    )


def filter_data_by_start_state(
    filtered_input_data: "Dataset", cell_states_to_model: Mapping[str, Any], nproc: int
) -> "Dataset":
    """Cells in the start state.

    Raises
    ------
    StateError
        A part of the states is missing, or states are the same.
    NoCellsError
        No cell is in it.
    """
    states = read_cell_states(cell_states_to_model)
    return filter_by_dict(filtered_input_data, {states.key: [states.start]}, nproc)


def slice_by_inds_to_perturb(filtered_input_data: "Dataset", cell_inds_to_perturb: Mapping[str, int]) -> "Dataset":
    """Cells from `start` up to, and without, `end`; an end behind the last cell is moved there.

    Raises
    ------
    OptionError
        There is no start or no end, or the start lies behind the last cell or the end.
    """
    n = len(filtered_input_data)
    if not {"start", "end"} <= set(cell_inds_to_perturb):
        msg = f"cell_inds_to_perturb={dict(cell_inds_to_perturb)} takes start and end."
        raise OptionError(msg)
    start, end = cell_inds_to_perturb["start"], cell_inds_to_perturb["end"]
    if not 0 <= start < min(n, end):
        msg = f"cell_inds_to_perturb={dict(cell_inds_to_perturb)} selects no cell of {n:,}. Give a start below both."
        raise OptionError(msg)
    if end > n:
        _logger.warning("cell_inds_to_perturb ends at %d, but there are %d cells; it ends there.", end, n)
    return filtered_input_data.select(range(start, min(end, n)))


def downsample_and_sort(data: "Dataset", max_ncells: int | None) -> "Dataset":
    """At most `max_ncells` cells, drawn with seed 42 where there are more, longest first; equal lengths keep order."""
    check_range("max_ncells", max_ncells, low=1)
    rows = list(range(len(data)))
    if max_ncells is not None and len(data) > max_ncells:
        rows = drawn_rows(len(data), max_ncells).tolist()
    lengths = list(data[_checked(data, keys.LENGTH)])
    return data.select(sorted(rows, key=lambda row: -lengths[row]))


def downsample_and_shuffle(
    data: "Dataset",
    max_ncells: int | None,
    max_ncells_per_class: int | None,
    cell_state_dict: Mapping[str, Any] | None,
) -> "Dataset":
    """Cells shuffled with seed 42, at most so many in all, and at most so many of each class.

    Parameters
    ----------
    data
        Cells.
    max_ncells
        Cells in all; None for no limit.
    max_ncells_per_class
        Cells of each class, grouped by class then; None for no limit.
    cell_state_dict
        Its `state_key` is the column of the classes.

    Raises
    ------
    OptionError
        A limit per class without a column.
    """
    check_range("max_ncells", max_ncells, low=1)
    check_range("max_ncells_per_class", max_ncells_per_class, low=1)
    data = data.select(drawn_rows(len(data), max_ncells).tolist())
    if max_ncells_per_class is None:
        return data
    if not cell_state_dict or "state_key" not in cell_state_dict:
        msg = 'max_ncells_per_class needs the column of the classes: cell_state_dict={"state_key": ...}.'
        raise OptionError(msg)
    classes = data[_checked(data, cell_state_dict["state_key"])]
    return data.select(subsample_by_class(list(classes), max_ncells_per_class))


def subsample_by_class(labels: Sequence[Any], N: int) -> list[int]:
    """Rows with at most `N` of each label, drawn with seed 42, grouped by label in the order of first appearance."""
    check_range("N", N, low=1)
    rows: list[int] = cap_classes(labels, N).tolist()
    return rows


def rename_cols(data: "Dataset", state_key: str) -> "Dataset":
    """The dataset with the column of the states called `label`."""
    return data.rename_column(_checked(data, state_key), "label")


def remove_cols(data: "Dataset", cols_to_keep: Sequence[str]) -> "Dataset":
    """The dataset without columns that are not named."""
    return data.remove_columns([name for name in data.column_names if name not in cols_to_keep])


def _kept(data: "Dataset", column: str, wanted: Callable[[Any], bool], told: str) -> "Dataset":
    rows = [row for row, value in enumerate(data[_checked(data, column)]) if wanted(value)]
    if not rows:
        held = sorted({str(value) for value in data[column]}) if column != keys.INPUT_IDS else []
        shown = f" The column holds {', '.join(held[:10])}{', ...' if len(held) > 10 else ''}." if held else ""
        msg = f"No cell is left of {len(data):,}: none has {column!r} {told}.{shown}"
        raise NoCellsError(msg)
    return data if len(rows) == len(data) else data.select(rows)


def _checked(data: "Dataset", column: str) -> str:
    if column not in data.column_names:
        msg = f"No column {column!r} in the dataset; it has {data.column_names}.{nearest(column, data.column_names)}"
        raise DatasetError(msg)
    return column


Row = MutableMapping[str, Any]

PERTURB_INDEX, TO_PERTURB, OVERFLOW = "perturb_index", "tokens_to_perturb", "n_overflow"

ABSENT = -100
"""Stands alone in `perturb_index` where a row has none of the tokens, and for the class of tokens of none."""


def delete_indices(example: Row) -> Row:
    """The row without the tokens at its `perturb_index`, which may be nested; `length` is that of what is left.

    Parameters
    ----------
    example
        A row; it is changed.

    Raises
    ------
    DatasetError
        A column is missing, or a position is not in the row.
    """
    gone = set(_positions(example))
    return _with_ids(example, [token for place, token in enumerate(_ids(example)) if place not in gone])


def overexpress_indices(example: Row) -> Row:
    """The row with the tokens at its `perturb_index` moved to the front, in the order in which the row has them.

    Parameters
    ----------
    example
        A row; it is changed.

    Raises
    ------
    DatasetError
        A column is missing, or a position is not in the row.
    """
    return _to_front(example, 0)


def overexpress_indices_special(example: Row) -> Row:
    """As `overexpress_indices`, behind the first token, which is `<cls>`.

    Parameters
    ----------
    example
        A row; it is changed.

    Raises
    ------
    DatasetError
        A column is missing, or a position is not in the row.
    """
    return _to_front(example, 1)


def overexpress_tokens(example: Row, max_len: int, special_token: bool) -> Row:
    """The row with its `tokens_to_perturb` in front, whether it had them or not, and no longer than `max_len`.

    Parameters
    ----------
    example
        A row, with the positions of those it has in `perturb_index`, or -100 alone; it is changed.
    max_len
        Most tokens.
    special_token
        Whether the row starts with `<cls>` and ends with `<eos>`, which stay where they are.

    Raises
    ------
    DatasetError
        A column is missing, or a position is not in the row.
    """
    row, gone = _ids(example), set(_positions(example))
    start, end = (row[:1], row[-1:]) if special_token and len(row) > 1 else ([], [])
    others = [row[place] for place in range(len(start), len(row) - len(end)) if place not in gone]
    front = [*start, *_column(example, TO_PERTURB)]
    return _with_ids(example, [*front, *others][: max_len - len(end)] + end)


def calc_n_overflow(
    max_len: int, example_len: int, tokens_to_perturb: Sequence[int], indices_to_perturb: Sequence[int]
) -> int:
    """By how many tokens a row exceeds the longest one after tokens it lacks were added; negative with room left.

    Parameters
    ----------
    max_len
        Most tokens.
    example_len
        Tokens of the row before.
    tokens_to_perturb
        Tokens that it has afterwards.
    indices_to_perturb
        Positions of those that it had before.
    """
    return example_len + len(tokens_to_perturb) - len(indices_to_perturb) - max_len


def truncate_by_n_overflow(example: Row) -> Row:
    """The row without its last `n_overflow` tokens; whole where that is not positive.

    Parameters
    ----------
    example
        A row; it is changed.

    Raises
    ------
    DatasetError
        A column is missing.
    """
    row = _ids(example)
    return _with_ids(example, row[: _token_rows_kept(example, row)])


def truncate_by_n_overflow_special(example: Row) -> Row:
    """As `truncate_by_n_overflow`, before the last token, which is `<eos>` and stays.

    Parameters
    ----------
    example
        A row; it is changed.

    Raises
    ------
    DatasetError
        A column is missing.
    """
    row = _ids(example)
    return _with_ids(example, row[: max(_token_rows_kept(example, row) - 1, 0)] + row[-1:])


def label_gene_classes(example: Row, class_id_dict: Mapping[Any, int], gene_class_dict: Mapping[int, Any]) -> list[int]:
    """Number of the class of each token; -100 for tokens of none.

    Parameters
    ----------
    example
        A row.
    class_id_dict
        Number of each class.
    gene_class_dict
        Class of each token that has one.

    Raises
    ------
    DatasetError
        The row has no tokens.
    """
    return [class_id_dict.get(gene_class_dict.get(token, ABSENT), ABSENT) for token in _ids(example)]


def _token_rows_kept(example: Row, row: Sequence[Any]) -> int:
    """Tokens that are left of a row once what exceeds the longest one is cut off."""
    return max(len(row) - max(int(_column(example, OVERFLOW)), 0), 0)


def _to_front(example: Row, first: int) -> Row:
    row, places = _ids(example), set(_positions(example))
    moved = [token for place, token in enumerate(row) if place in places]
    others = [token for place, token in enumerate(row) if place not in places]
    return _with_ids(example, [*others[:first], *moved, *others[first:]])


def _positions(example: Row) -> list[int]:
    """Positions of what is perturbed, counted from the start."""
    places, n = list(_flat(_column(example, PERTURB_INDEX))), len(_ids(example))
    if places == [ABSENT]:
        return []
    outside = [place for place in places if not 0 <= place < n]
    if outside:
        msg = f"{PERTURB_INDEX} names position {outside[0]} of a row of {n:,} tokens. Give positions from 0 to {n - 1}."
        raise DatasetError(msg)
    return places


def _flat(values: Iterable[Any]) -> Iterable[int]:
    for value in values:
        if isinstance(value, Iterable):
            yield from _flat(value)
        else:
            yield int(value)


def _ids(example: Row) -> list[Any]:
    return list(_column(example, keys.INPUT_IDS))


def _column(example: Row, name: str) -> Any:
    if name not in example:
        msg = f"The row has no {name!r}; it has {sorted(example)}. Set it before this step."
        raise DatasetError(msg)
    return example[name]


def _with_ids(example: Row, ids: list[Any]) -> Row:
    example[keys.INPUT_IDS] = ids
    example[keys.LENGTH] = len(ids)
    return example


def unpadded(table: pa.Table, pad_id: int) -> TokenizedDataset:
    """The rows without padding at their ends; `length`, where there is one, says how many tokens they have."""
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


_LOOKED_AT = 2000


def mark_tokens(tokens: TokenizedDataset, vocabulary: Vocabulary) -> TokenizedDataset:
    """The same tokens, marked as those of a vocabulary; tokens that name a bundled one keep what they say."""
    bundled = {Vocabulary.load(name).fingerprint for name in BUNDLED}
    is_own = vocabulary.fingerprint not in bundled and tokens.vocabulary not in bundled
    if not len(tokens) or not (tokens.vocabulary is None or is_own):
        return tokens
    largest = _largest(tokens)
    if largest >= vocabulary.size:
        msg = (
            f"The tokens hold id {largest:,}, but vocabulary {vocabulary.name} has {vocabulary.size:,} tokens. They "
            "were made with another one; use a model of theirs, or tokenize the counts again."
        )
        raise UnknownVocabularyError(msg)
    rows = np.unique(np.linspace(0, len(tokens) - 1, min(len(tokens), _LOOKED_AT)).astype(np.int64))
    cells = [cell for row in rows if len(cell := tokens[int(row)])]
    if vocabulary.cls_id is None:
        _refuse_enclosed(cells, vocabulary)
    elif not any(cell[0] == vocabulary.cls_id for cell in cells):
        _logger.warning("No cell starts with <cls>, so that all tokens are taken for genes.")
    return TokenizedDataset(tokens.table, vocabulary=vocabulary.fingerprint, path=tokens.path)


def _refuse_enclosed(cells: list[np.ndarray], vocabulary: Vocabulary) -> None:
    """Cells that all begin and end with what `<cls>` and `<eos>` are elsewhere are of that vocabulary."""
    other = Vocabulary.load("V2")
    if len(cells) > 1 and all(cell[0] == other.cls_id and cell[-1] == other.eos_id for cell in cells):
        msg = (
            f"All cells start with token {other.cls_id} and end with {other.eos_id}: they were made with vocabulary "
            f"{other.name}, not {vocabulary.name}. Use a model of {other.name}, or tokenize the counts again."
        )
        raise UnknownVocabularyError(msg)


def _largest(tokens: TokenizedDataset) -> int:
    ids = tokens.table.column(keys.INPUT_IDS)
    return max((compute.max(chunk.flatten()).as_py() or 0 for chunk in ids.chunks if len(chunk)), default=0)


_CELLS_AT_ONCE = 4096


def published_cells(
    tokens: TokenizedDataset,
    filters: Sequence[Mapping[str, Sequence[Any]]],
    genes: Sequence[tuple[str, Sequence[int]]],
    *,
    max_cells: int | None = None,
    part: tuple[int, int] | None = None,
) -> Ints_of_edits:
    """Rows of the cells, longest first; equal lengths keep their order."""
    rows = np.arange(len(tokens))
    for wanted in filters:
        rows = np.intersect1d(rows, rows_with(tokens, wanted), assume_unique=True)
        if not len(rows):
            msg = f"No cell is left after keeping {dict(wanted)} among those that passed the filter before."
            raise NoCellsError(msg)
    for name, ids in genes:
        having = rows[_have_all(tokens, rows, ids)]
        if not len(having):
            msg = (
                f"{name} needs cells that have all of its {len(set(ids))} genes; none of the {len(rows):,} cells does. "
                "Name fewer genes, overexpress them, or choose other cells."
            )
            raise AbsentGeneError(msg)
        rows = having
    rows = longest_first(tokens, rows, max_cells)
    return rows if part is None else _sliced(rows, *part)


def _have_all(tokens: TokenizedDataset, rows: Ints_of_edits, ids: Sequence[int]) -> np.ndarray:
    """Whether a cell has every one of some tokens, ``(n,)``."""
    wanted = np.unique(np.asarray(ids, dtype=np.int64))
    found = []
    for start in range(0, len(rows), _CELLS_AT_ONCE):
        packed = tokens.gather(rows[start : start + _CELLS_AT_ONCE])
        n_cells = len(packed.cu_seqlens) - 1
        cell = np.repeat(np.arange(n_cells), np.diff(packed.cu_seqlens))
        hit = np.isin(packed.input_ids, wanted)
        pairs = np.unique(np.stack([cell[hit], packed.input_ids[hit]]), axis=1)
        found.append(np.bincount(pairs[0], minlength=n_cells) == len(wanted))
    return np.concatenate(found) if found else np.zeros(0, dtype=bool)


def _sliced(rows: Ints_of_edits, start: int, end: int) -> Ints_of_edits:
    if start >= len(rows):
        msg = f"The slice starts at cell {start:,}, but there are {len(rows):,} cells. Start below that."
        raise OutOfRangeError(msg)
    if end > len(rows):
        msg = f"The slice ends at cell {end:,}, but there are {len(rows):,} cells: it ends there."
        warnings.warn(msg, GeneformerWarning, stacklevel=4)
    return rows[start:end]


FORMATS = ("loom", "h5ad", "zarr")

_LEFTOVER = "__dedup"
"""Ends the name of a copy that the published package writes beside a loom file and may leave behind."""


def input_files(folder: str | Path, file_format: str, identifier: str = "") -> list[Path]:
    """Files in the order of their names, without the copies that an interrupted run left behind."""
    check_choice("file_format", file_format, FORMATS)
    folder = Path(folder)
    if not folder.is_dir():
        msg = f'There is no folder "{folder}". Give the folder that holds the .{file_format} files.'
        raise InputNotFoundError(msg)
    pattern = f"*{identifier}*.{file_format}" if identifier else f"*.{file_format}"
    found = sorted(path for path in folder.glob(pattern) if not path.name.startswith("."))
    leftovers = [path for path in found if _is_leftover(path)]
    if leftovers:
        _logger.warning("Left out, because they are copies of other files here: %s", _listed(leftovers))
    files = [path for path in found if path not in leftovers]
    if not files:
        msg = f'The folder "{folder}" holds no {pattern}; it holds {_listed(folder.iterdir())}.'
        raise InputNotFoundError(msg)
    return files


def _is_leftover(path: Path) -> bool:
    return path.stem.endswith(_LEFTOVER) and path.with_stem(path.stem.removesuffix(_LEFTOVER)).exists()


def _listed(paths: Iterable[Path]) -> str:
    names = sorted(path.name for path in paths)
    return (", ".join(names[:8]) or "nothing") + (f" and {len(names) - 8} more" if len(names) > 8 else "")
