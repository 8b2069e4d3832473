"""Which cells of a `datasets.Dataset` a published script works on, and in which order.

`nproc` says how many processes filter in the published package. Here one pass over a column is enough, so that it has
nothing to do.
"""

import logging
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from geneformer import keys
from geneformer.compat.cell_states import read_cell_states
from geneformer.compat.hf_datasets import datasets_library
from geneformer.data.row_order import drawn_rows, listed
from geneformer.data.storage import read_dataset
from geneformer.errors import DatasetError, NoCellsError, OptionError
from geneformer.options._check import check_range, nearest
from geneformer.tasks.label_draws import cap_classes

if TYPE_CHECKING:
    from datasets import Dataset

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
