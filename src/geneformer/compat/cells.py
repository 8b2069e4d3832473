"""Which cells published scripts work on, and in which order: states, filters, draws, splits and slices.

Cells are those of a `datasets.Dataset` where a function is published, of a `TokenizedDataset` elsewhere. `nproc` is the
number of processes that filter in the published package. Here one pass over a column is enough; it has nothing to do.
A column that is missing raises `DatasetError`, no cells left `NoCellsError`, other arguments `OptionError`.
"""

import logging
import math
import random
import warnings
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
from numpy.typing import ArrayLike
from pyarrow import compute

from geneformer import errors, keys
from geneformer.files import require
from geneformer.finetuning.splits import draw_stratified
from geneformer.genes.vocabulary import BUNDLED, Vocabulary
from geneformer.options._fields import check_range, nearest, some_of, whole_number
from geneformer.tokens.dataset import Ints, TokenizedDataset, arrow_lists, arrow_numbers
from geneformer.tokens.storage import read_dataset

if TYPE_CHECKING:
    from datasets import Dataset

_logger = logging.getLogger(__name__)

SEED = 42
"""What the published package draws cells with."""

# Rows of cells.


def listed(values: Any) -> list[Any]:
    """Values of a list, a set, an array or a column; a single value, text too, as the only one."""
    if hasattr(values, "tolist"):
        values = values.tolist()
    return list(values) if isinstance(values, Iterable) and not isinstance(values, str | bytes) else [values]


def _checked(data: "Dataset", name: str) -> str:
    if name not in data.column_names:
        msg = f"No column {name!r} in the dataset; it has {data.column_names}.{nearest(name, data.column_names)}"
        raise errors.DatasetError(msg)
    return name


def _column(data: "TokenizedDataset | Dataset", name: str) -> list[Any]:
    return list(data.column(name).tolist() if isinstance(data, TokenizedDataset) else data[_checked(data, name)])


def rows_with(data: "TokenizedDataset | Dataset", filters: Mapping[str, Any]) -> Ints:
    """Rows whose value is accepted in every column named; a single accepted value needs no list."""
    rows = np.arange(len(data))
    for name, values in filters.items():
        column, accepted = _column(data, name), set(listed(values))
        rows = rows[np.fromiter((value in accepted for value in column), dtype=bool, count=len(column))[rows]]
        if not len(rows):
            holds = some_of(sorted({str(value) for value in column}))
            msg = f"No cell is left after keeping {name!r} in {listed(values)}. The column holds {holds}."
            raise errors.NoCellsError(msg)
    return rows


_CELLS_AT_ONCE = 4096


def rows_with_genes(tokens: TokenizedDataset, rows: Ints, ids: Iterable[int]) -> Ints:
    """Those of some rows whose cell has every one of some tokens."""
    needed = np.unique(np.fromiter(ids, dtype=np.int64))
    chosen = []
    for start in range(0, len(rows), _CELLS_AT_ONCE):
        some = rows[start : start + _CELLS_AT_ONCE]
        packed = tokens.gather(some)
        packed = packed.keep(np.isin(packed.input_ids, needed))
        n_genes = np.zeros(len(some), dtype=np.int64)
        for token in needed:
            n_genes += np.bincount(packed.cells[packed.input_ids == token], minlength=len(some)) > 0
        chosen.append(some[n_genes == len(needed)])
    return np.concatenate([rows[:0], *chosen])


def drawn_rows(n: int, size: int | None = None) -> Ints:
    """`size` of `n` rows in the order of the published draw; all of them by default."""
    return np.random.default_rng(SEED).permutation(n)[: n if size is None else size]


def longest_first(lengths: Ints, rows: Ints, max_cells: int | None) -> Ints:
    """At most `max_cells` of the rows, drawn where there are more, by descending length; equal lengths keep order."""
    if max_cells is not None and len(rows) > max_cells:
        rows = rows[drawn_rows(len(rows), max_cells)]
    return rows[np.argsort(-lengths[rows], kind="stable")]


Slice = tuple[int, int]
"""First cell, and the one behind the last."""


def read_slice(value: Any) -> Slice | None:
    """A slice of the cells as scripts give it; None for all."""
    if isinstance(value, str) and value == "all":
        return None
    if not isinstance(value, Mapping) or not {"start", "end"} <= set(value):
        msg = f'cell_inds_to_perturb={value!r} is neither "all" nor a slice such as {{"start": 0, "end": 100}}.'
        raise errors.OptionError(msg)
    start, end = (whole_number(f"{name} of cell_inds_to_perturb", value[name], low=0) for name in ("start", "end"))
    if end <= start:
        msg = f"cell_inds_to_perturb={dict(value)} is empty: its end is not above its start."
        raise errors.OutOfRangeError(msg)
    return start, end


def _check_start(start: int, n: int) -> None:
    if start >= n:
        msg = f"The slice starts at cell {start:,}, and there is no cell of {n:,} behind that. Start below."
        raise errors.OutOfRangeError(msg)


def published_cells(
    tokens: TokenizedDataset,
    filters: Sequence[Mapping[str, Any]],
    genes: Mapping[str, Sequence[int]] | None = None,
    *,
    max_cells: int | None = None,
    part: Slice | None = None,
) -> Ints:
    """Rows of the cells that pass the filters and have the genes, longest first; equal lengths keep their order."""
    rows = np.arange(len(tokens))
    for accepted in filters:
        rows = np.intersect1d(rows, rows_with(tokens, accepted), assume_unique=True)
        if not len(rows):
            msg = f"No cell is left after keeping {dict(accepted)} among those that passed the filter before."
            raise errors.NoCellsError(msg)
    for name, ids in (genes or {}).items():
        n, rows = len(rows), rows_with_genes(tokens, rows, ids)
        if not len(rows):
            msg = (
                f"{name} needs cells that have all of its {len(set(ids))} genes; none of the {n:,} cells does. "
                "Name fewer genes, overexpress them, or choose other cells."
            )
            raise errors.AbsentGeneError(msg)
    rows = longest_first(tokens.lengths, rows, max_cells)
    if part is None:
        return rows
    _check_start(part[0], len(rows))
    if part[1] > len(rows):
        msg = f"The slice ends at cell {part[1]:,}, but there are {len(rows):,} cells: it ends there."
        warnings.warn(msg, errors.GeneformerWarning, stacklevel=3)
    return rows[slice(*part)]


# States of cells.

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

    @property
    def by_name(self) -> dict[str, Any]:
        """The user's values by their names as text: start, goal, alternates."""
        named = dict(zip(map(str, self.all), self.all, strict=True))
        if len(named) < len(self.all):
            msg = f"Two of the states {list(self.all)} read the same. Rename one of them in the column of the cells."
            raise errors.StateError(msg)
        return named


def read_cell_states(states: Any) -> CellStates:
    """States as published scripts give them: by name, or of old ``{key: ([start], [goal], [alternates])}``."""
    takes = f"It takes {', '.join(_FIELDS)}; the last is a list and may be left out."
    if not isinstance(states, Mapping):
        msg = f"cell_states_to_model is a {type(states).__name__}, not a dictionary. {takes}"
        raise errors.StateError(msg)
    if len(states) == 1:
        [(key, parts)] = states.items()
        are_lists = isinstance(parts, list | tuple) and all(isinstance(part, list | tuple) for part in parts)
        if not are_lists or len(parts) not in (2, 3) or any(len(part) != 1 for part in parts[:2]):
            msg = f"cell_states_to_model={dict(states)!r} is not known. {takes}"
            raise errors.StateError(msg)
        start, goal, alternates = parts[0][0], parts[1][0], parts[2] if len(parts) == 3 else ()
    else:
        missing = [name for name in _FIELDS[:3] if states.get(name) is None]
        alternates = states.get("alt_states") or []
        if missing or not set(states) <= set(_FIELDS) or not isinstance(alternates, list | tuple):
            msg = f"cell_states_to_model lacks {missing} and holds {list(states)}. {takes}"
            raise errors.StateError(msg)
        key, start, goal = (states[name] for name in _FIELDS[:3])
    # Old scripts write a single None where there are no alternates.
    result = CellStates(str(key), start, goal, tuple(state for state in alternates if state is not None))
    if len(set(result.all)) < len(result.all):
        msg = f"Start, goal and alternate states must differ, found {list(result.all)}."
        raise errors.StateError(msg)
    return result


def get_possible_states(cell_states_to_model: Mapping[str, Any]) -> list[Any]:
    """Start, goal and alternate states, in this order; `StateError` where a part is missing, or states are the same."""
    return list(read_cell_states(cell_states_to_model).all)


# Functions of the published package over a `datasets.Dataset`.


def load_and_filter(filter_data: Mapping[str, Any] | None, nproc: int, input_data_file: str | Path) -> "Dataset":
    """The dataset in a folder, in the order of the file, reduced to cells with the accepted values of each column."""
    library = require("datasets", "load_and_filter", extra="published")
    read_dataset(input_data_file)  # which says what is wrong with a folder
    data = library.load_from_disk(str(input_data_file))
    return filter_by_dict(data, filter_data, nproc) if filter_data else data


def filter_by_dict(data: "Dataset", filter_data: Mapping[str, Any], nproc: int) -> "Dataset":
    """Cells whose value is accepted in every column named; a single accepted value needs no list."""
    check_range("nproc", nproc, low=1)
    return data.select(rows_with(data, filter_data).tolist()) if filter_data else data


def filter_data_by_tokens(filtered_input_data: "Dataset", tokens: Sequence[int], nproc: int) -> "Dataset":
    """Cells that have all of the tokens."""
    check_range("nproc", nproc, low=1)
    cells = TokenizedDataset(remove_cols(filtered_input_data, [keys.INPUT_IDS]).with_format("arrow")[:])
    rows = rows_with_genes(cells, np.arange(len(cells)), tokens)
    if not len(rows):
        msg = f"No cell is left of {len(cells):,}: none has all of the tokens {sorted(set(tokens))}."
        raise errors.NoCellsError(msg)
    return filtered_input_data.select(rows.tolist())


def filter_data_by_start_state(
    filtered_input_data: "Dataset", cell_states_to_model: Mapping[str, Any], nproc: int
) -> "Dataset":
    """Cells in the start state."""
    states = read_cell_states(cell_states_to_model)
    return filter_by_dict(filtered_input_data, {states.key: [states.start]}, nproc)


def slice_by_inds_to_perturb(filtered_input_data: "Dataset", cell_inds_to_perturb: Mapping[str, int]) -> "Dataset":
    """Cells from `start` up to, and without, `end`; an end behind the last cell is moved there."""
    n = len(filtered_input_data)
    start, end = read_slice(cell_inds_to_perturb) or (0, n)
    _check_start(start, n)
    if end > n:
        _logger.warning("cell_inds_to_perturb ends at %d, but there are %d cells; it ends there.", end, n)
    return filtered_input_data.select(range(start, min(end, n)))


def downsample_and_sort(data: "Dataset", max_ncells: int | None) -> "Dataset":
    """At most `max_ncells` cells, drawn with seed 42 where there are more, longest first; equal lengths keep order."""
    check_range("max_ncells", max_ncells, low=1)
    lengths = np.asarray(_column(data, keys.LENGTH), dtype=np.int64)
    return data.select(longest_first(lengths, np.arange(len(data)), max_ncells).tolist())


def downsample_and_shuffle(
    data: "Dataset",
    max_ncells: int | None,
    max_ncells_per_class: int | None,
    cell_state_dict: Mapping[str, Any] | None,
) -> "Dataset":
    """Cells shuffled with seed 42, at most so many in all, and at most so many of each class.

    Parameters
    ----------
    data, max_ncells : Cells, and how many of them; None for no limit.
    max_ncells_per_class, cell_state_dict : Cells of each class, grouped by it, and its column as the `state_key`.
    """
    check_range("max_ncells", max_ncells, low=1)
    check_range("max_ncells_per_class", max_ncells_per_class, low=1)
    data = data.select(drawn_rows(len(data), max_ncells).tolist())
    if max_ncells_per_class is None:
        return data
    if not cell_state_dict or "state_key" not in cell_state_dict:
        msg = 'max_ncells_per_class needs the column of the classes: cell_state_dict={"state_key": ...}.'
        raise errors.OptionError(msg)
    return data.select(subsample_by_class(_column(data, cell_state_dict["state_key"]), max_ncells_per_class))


def subsample_by_class(labels: Sequence[Any], N: int) -> list[int]:
    """Rows with at most `N` of each label, drawn with seed 42, grouped by label in the order of first appearance."""
    check_range("N", N, low=1)
    by_label: dict[Any, list[int]] = {}
    for row, label in enumerate(labels):
        by_label.setdefault(label, []).append(row)
    rng = random.Random(SEED)  # noqa: S311  the published draw
    return [row for rows in by_label.values() for row in (rng.sample(rows, N) if len(rows) > N else rows)]


def rename_cols(data: "Dataset", state_key: str) -> "Dataset":
    """The dataset with the column of the states called `label`."""
    return data.rename_column(_checked(data, state_key), "label")


def remove_cols(data: "Dataset", cols_to_keep: Sequence[str]) -> "Dataset":
    """The dataset without columns that are not named."""
    return data.remove_columns([name for name in data.column_names if name not in cols_to_keep])


# Cells of scripts as tokens of this package.


def dataset_tokens(data: Any, pad_id: int = 0) -> TokenizedDataset:
    """The cells of a `datasets.Dataset`, in its order, without padding."""
    if isinstance(data, TokenizedDataset):
        return data
    if not hasattr(data, "with_format"):
        msg = f"The data is a {type(data).__name__}. Give a datasets.Dataset, as `load_from_disk` returns it."
        raise errors.DatasetError(msg)
    return unpadded(data.with_format("arrow")[:], pad_id)


def unpadded(table: pa.Table, pad_id: int) -> TokenizedDataset:
    """The rows without padding at their ends; `length`, where there is one, says how many tokens they have."""
    has_length = keys.LENGTH in table.column_names
    tokens = TokenizedDataset(table.drop_columns([keys.LENGTH]) if has_length else table)
    table, packed = tokens.table, tokens.gather(range(len(tokens)))
    last, is_token = np.full(len(tokens), -1), packed.input_ids != pad_id
    last[packed.cells[is_token]] = np.flatnonzero(is_token)  # of the places of a cell the last one stays
    if not is_token.all():
        packed = packed.keep(np.arange(len(is_token)) <= last[packed.cells])
        rows = arrow_lists(packed.cu_seqlens, packed.input_ids)
        table = table.set_column(table.column_names.index(keys.INPUT_IDS), keys.INPUT_IDS, rows)
        table = table.drop_columns([keys.COUNTS]) if tokens.has_counts else table
    return TokenizedDataset(table.append_column(keys.LENGTH, arrow_numbers(packed.lengths)) if has_length else table)


_SAMPLED = 2000
"""Cells that are looked at to tell which vocabulary their tokens belong to."""


def mark_tokens(tokens: TokenizedDataset, vocabulary: Vocabulary) -> TokenizedDataset:
    """The same tokens, marked as those of a vocabulary; tokens that name a bundled one keep it."""
    bundled = {Vocabulary.load(name).fingerprint for name in BUNDLED}
    is_own = vocabulary.fingerprint not in bundled and tokens.vocabulary not in bundled
    if not len(tokens) or not (tokens.vocabulary is None or is_own):
        return tokens
    chunks = tokens.table.column(keys.INPUT_IDS).chunks
    largest = max((compute.max(chunk.flatten()).as_py() or 0 for chunk in chunks if len(chunk)), default=0)
    if largest >= vocabulary.size:
        msg = (
            f"The tokens hold id {largest:,}, but vocabulary {vocabulary.name} has {vocabulary.size:,} tokens. They "
            "were made with another one; use a model of theirs, or tokenize the counts again."
        )
        raise errors.UnknownVocabularyError(msg)
    rows = np.unique(np.linspace(0, len(tokens) - 1, min(len(tokens), _SAMPLED)).astype(np.int64))
    ends = {(int(cell[0]), int(cell[-1])) for row in rows if len(cell := tokens[int(row)])}
    framed = Vocabulary.load("V2")
    if vocabulary.cls_id is not None:
        if vocabulary.cls_id not in {first for first, _ in ends}:
            _logger.warning("No cell starts with <cls>, so that all tokens are taken for genes.")
    # Cells that all begin and end with what <cls> and <eos> are elsewhere are of that vocabulary.
    elif len(rows) > 1 and ends == {(framed.cls_id, framed.eos_id)}:
        msg = (
            f"All cells start with token {framed.cls_id} and end with {framed.eos_id}: they were made with vocabulary "
            f"{framed.name}, not {vocabulary.name}. Use a model of {framed.name}, or tokenize the counts again."
        )
        raise errors.UnknownVocabularyError(msg)
    return TokenizedDataset(tokens.table, vocabulary=vocabulary.fingerprint, path=tokens.path)


# Draws, splits and folds of the published classifier.


def without_rare(values: ArrayLike, threshold: float) -> Ints:
    """Rows whose value is held by more than a share of the rows."""
    import pandas as pd

    column = pd.Series(np.asarray(values))
    share = column.map(column.value_counts(normalize=True))
    rows = np.flatnonzero(share.to_numpy(dtype=np.float64) > threshold).astype(np.int64)
    if not len(rows):
        msg = f"rare_threshold={threshold} leaves no cell: every state is that rare. Lower it."
        raise errors.NoCellsError(msg)
    return rows


def split_rows(n: int, share: float, strata: ArrayLike | None = None) -> tuple[Ints, Ints]:
    """Rows to learn from and rows held out, as `datasets.Dataset.train_test_split` with seed 42 gives them."""
    n_held_out = math.ceil(share * n)
    if not 0 < n_held_out < n:
        msg = f"{share:.3g} of {n:,} cells held out leaves nothing on one side. Give more cells, or another share."
        raise errors.RareClassError(msg)
    if strata is not None:
        _, codes = np.unique(np.asarray(strata), return_inverse=True)
        part = draw_stratified(codes.astype(np.int64), (n_held_out,), np.random.default_rng(SEED))
        return np.flatnonzero(part == 0), np.flatnonzero(part == 1)
    order = drawn_rows(n)
    return order[n_held_out:], order[:n_held_out]


def blocks(n: int, n_folds: int) -> list[tuple[Ints, Ints]]:
    """Rows to learn from and rows held out of each fold: contiguous blocks that cover every row once."""
    from sklearn.model_selection import KFold

    if n < n_folds:
        msg = f"{n:,} cells are too few for {n_folds} folds."
        raise errors.RareClassError(msg)
    return list(KFold(n_folds).split(np.arange(n)))


def gene_folds(
    codes: ArrayLike, n_folds: int, test_share: float, classes: Sequence[Any], *, first: int | None = None
) -> list[tuple[Ints, Ints, Ints]]:
    """Genes to learn from, to validate with and to test on, of each fold."""
    from sklearn.model_selection import StratifiedKFold, train_test_split

    codes_n = np.asarray(codes, dtype=np.int64)
    counts = np.bincount(codes_n, minlength=len(classes))
    if counts.min() < n_folds:
        few = ", ".join(f"{name!r} {count}" for name, count in zip(classes, counts, strict=True) if count < n_folds)
        msg = f"Too few genes for {n_folds} folds: {few}. Every fold holds out a gene of each class; give more genes."
        raise errors.GeneListError(msg)
    folds: list[tuple[Ints, Ints, Ints]] = []
    splits = StratifiedKFold(n_folds, shuffle=True, random_state=0).split(codes_n, codes_n)
    for learnt, held_out in islice(splits, first):
        n_test = math.ceil(test_share * len(held_out))
        _, per_class = np.unique(codes_n[held_out], return_counts=True)
        enough = per_class.min() >= 2 and len(per_class) <= n_test <= len(held_out) - len(per_class)
        valid, test = held_out, np.empty(0, dtype=np.int64)
        if test_share and enough:
            valid, test = train_test_split(
                held_out, stratify=codes_n[held_out], test_size=test_share, shuffle=True, random_state=0
            )
        elif test_share:
            msg = f"Fold {len(folds) + 1} holds out {len(held_out)} genes, too few for a test part; all validate."
            warnings.warn(msg, errors.GeneformerWarning, stacklevel=2)
        folds.append((learnt.astype(np.int64), np.asarray(valid, dtype=np.int64), np.asarray(test, dtype=np.int64)))
    return folds


def balanced_classes(counts: Mapping[int, int], class_of: Mapping[int, int], *, trials: int = 25) -> dict[int, int]:
    """Classes of the genes that are kept so that two classes occur about equally often."""

    def ratio(chosen: Mapping[int, int]) -> float:
        sums = [sum(counts.get(token, 0) for token, code in chosen.items() if code == label) for label in (0, 1)]
        return sums[0] / sums[1] if all(sums) else 0.0

    first = ratio(class_of)
    if not first:
        msg = "gene_balance: the genes of one class occur in no cell of the training part. Give other genes or cells."
        raise errors.GeneListError(msg)
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
        balance = ratio(drawn)
        if balance and abs(math.log(balance)) < abs(math.log(ratio(best))):
            best = drawn
        boost *= 1.1 if (balance > 1) == (first > 1) else 0.9
    return best
