"""Data of the published `Classifier`: what it reads, labels, draws and writes."""

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from geneformer.compat.pickle_writing import write_pickle
from geneformer.data.dataset import TokenizedDataset
from geneformer.data.row_order import drawn_rows, listed, rows_with
from geneformer.data.storage import read_dataset, write_dataset
from geneformer.errors import (
    ConstantLabelError,
    DatasetError,
    GeneformerWarning,
    MissingLabelError,
    OptionError,
    UnknownClassError,
    UnsupportedArgumentError,
)
from geneformer.options import SplitOptions
from geneformer.runs.files import output_errors
from geneformer.tasks.gene_batches import cells_with
from geneformer.tasks.label_batches import COLUMNS, class_table, label_lists
from geneformer.tasks.label_draws import split_rows
from geneformer.tasks.splits import draw_split
from geneformer.vocab.pickles import read_pickle

Data = TokenizedDataset


def opened(data: Any) -> Data:
    """Tokenized cells, from a folder, a `datasets.Dataset` or as they are.

    Raises
    ------
    DatasetError
        Something else.
    """
    if isinstance(data, Data):
        return data
    if isinstance(data, str | Path):
        return read_dataset(data)
    if hasattr(data, "with_format") and hasattr(data, "column_names"):
        return Data(data.with_format("arrow")[:])
    msg = f"The cells are a {type(data).__name__}. Give a folder, or a datasets.Dataset."
    raise DatasetError(msg)


def made_folder(path: str | Path) -> Path:
    """A folder, made with its parents."""
    folder = Path(path)
    with output_errors(folder):
        folder.mkdir(parents=True, exist_ok=True)
    return folder


def saved(data: Data, path: Path) -> Path:
    """Write a data set, replacing the one that is there."""
    made_folder(path.parent)
    return write_dataset(data, path, overwrite=True)


def with_column(data: Data, name: str, values: Any, *, place_of: str | None = None) -> Data:
    """A data set with one more column, last or in the place of another."""
    table = data.table
    if place_of is None:
        table = table.append_column(name, values)
    else:
        table = table.set_column(table.column_names.index(place_of), name, values)
    return Data(table, vocabulary=data.vocabulary, path=data.path)


def selected(data: Data, filter_data: Mapping[str, Sequence[Any]] | None) -> Data:
    """Cells with the values wanted, in the order of the file."""
    return data if not filter_data else data.take(rows_with(data, filter_data))


def shuffled(data: Data, most: int | None = None) -> Data:
    """Cells in the order of the published draw; at most so many."""
    return data.take(drawn_rows(len(data))[:most])


def refuse_labels(data: Data) -> None:
    """Refuse data that is labeled already.

    Raises
    ------
    DatasetError
        A column `label` or `labels`.
    """
    for name in COLUMNS.values():
        if name in data.table.column_names:
            msg = f"The data set has a column {name!r} already, which is the name of the labels to be made. Rename it."
            raise DatasetError(msg)


def read_classes(path: str | Path) -> dict[int, Any]:
    """Labels by class id, from a `_id_class_dict.pkl` of this or the published package.

    Raises
    ------
    OptionError
        The file holds something else.
    UnsafeFileError, UnreadableInputError, InputNotFoundError
        The file cannot be read as data.
    """
    found = read_pickle(path)
    if not isinstance(found, dict) or not found or not all(isinstance(key, int) for key in found):
        msg = f'"{path}" is no dictionary of class ids and labels. Give the _id_class_dict.pkl of prepare_data.'
        raise OptionError(msg)
    if sorted(found) != list(range(len(found))):
        msg = f'"{path}" numbers its classes {sorted(found)}. They must be numbered from 0 without gaps.'
        raise OptionError(msg)
    return found


def write_classes(classes: Mapping[int, Any], stem: Path) -> Path:
    """`<prefix>_id_class_dict.pkl`."""
    return write_pickle(dict(classes), stem.with_name(f"{stem.name}_id_class_dict.pkl"))


def label_cells(data: Data, state_key: str, known: Mapping[int, Any] | None) -> tuple[Data, dict[int, Any]]:
    """The state column as class ids in a column `label`, and the label of each id.

    Ids are those of a dictionary made before, or count through the sorted labels.

    Raises
    ------
    MissingLabelError
        Cells without a state.
    UnknownClassError
        A state that the dictionary does not have.
    ConstantLabelError
        A single state, and no dictionary.
    """
    import pyarrow as pa

    states = data.column(state_key).tolist()
    if any(state is None or state != state for state in states):  # noqa: PLR0124  not a number
        msg = f"Some cells have no value of {state_key!r}. Leave them out with filter_data."
        raise MissingLabelError(msg)
    if known is None:
        known = dict(enumerate(sorted(set(states), key=lambda state: (isinstance(state, str), state))))
        if len(known) == 1:
            msg = f"All cells left have {state_key!r} {known[0]!r}: there is nothing to tell apart. Choose other cells."
            raise ConstantLabelError(msg)
    id_of = {label: number for number, label in known.items()}
    unknown = sorted({str(state) for state in states if state not in id_of})
    if unknown:
        msg = f"States that the dictionary of classes does not have: {', '.join(unknown[:5])}. It has {list(id_of)}."
        raise UnknownClassError(msg)
    codes = pa.chunked_array([pa.array([id_of[state] for state in states], pa.int64())])
    return with_column(data, COLUMNS["cell"], codes, place_of=state_key), dict(known)


def label_genes(data: Data, class_of: Mapping[int, int]) -> Data:
    """Cells with any of the genes, with the class of every token in a column `labels`."""
    table = class_table(max(_highest(data), *class_of) + 1, dict(class_of))
    kept = data.take(cells_with(data, table, int(data.lengths.max()) if len(data) else 1))
    name = COLUMNS["gene"]
    before = name if name in kept.table.column_names else None
    return with_column(kept, name, label_lists(kept, table), place_of=before)


def _highest(data: Data) -> int:
    from geneformer.tasks.argument_training import highest_token

    return highest_token(data)


def split_by_ids(data: Data, split_id_dict: Mapping[str, Any], held: str) -> tuple[Data, Data]:
    """Cells by lists of ids, in the order of the file.

    Parameters
    ----------
    data
        Cells.
    split_id_dict
        `attr_key`, `train` and the part held out.
    held
        Name of that part, "test" or "eval".

    Raises
    ------
    OptionError
        Other keys.
    NoCellsError
        No cell has any of the ids.
    """
    if set(split_id_dict) != {"attr_key", "train", held}:
        msg = f"split_id_dict has the keys {sorted(split_id_dict)}. It takes attr_key, train and {held}."
        raise OptionError(msg)
    lists = {part: listed(split_id_dict[part]) for part in ("train", held)}
    both = sorted({str(entry) for entry in lists["train"]} & {str(entry) for entry in lists[held]})
    if both:
        msg = f"split_id_dict has ids on both sides: {', '.join(both[:5])}. Scores come out too high."
        warnings.warn(msg, GeneformerWarning, stacklevel=4)
    key = split_id_dict["attr_key"]
    return data.take(rows_with(data, {key: lists["train"]})), data.take(rows_with(data, {key: lists[held]}))


def split_at_random(data: Data, share: float, column: str | None = None) -> tuple[Data, Data]:
    """Cells drawn one by one, as published; with the shares of a column kept where there is one."""
    learnt, held = split_rows(len(data), share, None if column is None else data.column(column))
    return data.take(learnt), data.take(held)


def split_balanced(data: Data, attributes: Mapping[str, Any], way: "CellSplit", share: float) -> tuple[Data, Data, Any]:
    """Cells by ids drawn so that the sides do not differ, and the table of the draws under their published names.

    The first draw without a difference is taken; if there is none, the one with the highest mean p-value.

    Parameters
    ----------
    data
        Cells with a column `label`.
    attributes
        Values of the attributes to balance by name, ``(n,)`` each.
    way
        Column of the ids, draws made at most, and the p-value that all attributes must reach.
    share
        Share of the ids held out.
    """
    import pandas as pd

    options = SplitOptions(
        method="balanced", valid=0.0, test=share, balance=tuple(attributes), max_trials=way.max_trials,
        p_threshold=way.pval_threshold, seed=0,
    )  # fmt: skip
    ids, codes = str(way.attr_to_split), data.column(COLUMNS["cell"])
    split = draw_split(codes, options, ids=data.column(ids), attributes=dict(attributes))
    everyone = sorted({str(entry) for entry in data.column(ids).tolist()})
    rows = [_draw(trial, everyone, list(attributes)) for trial in split.trials]
    return data.take(split.train), data.take(split.test), pd.DataFrame(rows)


def _draw(trial: Mapping[str, Any], everyone: list[str], attributes: list[str]) -> dict[str, Any]:
    held = [str(entry) for entry in trial["held_out"]]
    row = {"trial_num": trial["trial"], "train_ids": [entry for entry in everyone if entry not in held]}
    row["eval_ids"] = held
    for name in attributes:
        row[f"{name}_train_mean_or_counts"] = trial[f"{name}_train"]
        row[f"{name}_eval_mean_or_counts"] = trial[f"{name}_held_out"]
        row[f"{name}_pval"] = trial[f"{name}_p"]
    return row | {"mean_pval": trial["mean_p"], "accepted": trial["accepted"]}


@dataclass(frozen=True, kw_only=True, slots=True)
class CellSplit:
    """Published arguments that say how cells are split.

    Attributes
    ----------
    split_id_dict, attr_to_split, attr_to_balance, max_trials, pval_threshold
        See `Classifier.prepare_data`.

    Raises
    ------
    UnsupportedArgumentError
        Two ways to split at once, or half a way.
    """

    split_id_dict: Mapping[str, Any] | None
    attr_to_split: str | None
    attr_to_balance: Any
    max_trials: int
    pval_threshold: float

    def __post_init__(self) -> None:
        if self.split_id_dict is not None and self.attr_to_split is not None:
            msg = "split_id_dict and attr_to_split are two ways to split. Give one of them."
            raise UnsupportedArgumentError(msg)
        if (self.attr_to_split is None) is not (self.attr_to_balance is None):
            msg = "attr_to_split (a column of ids) and attr_to_balance (columns to balance) go together. Give both."
            raise UnsupportedArgumentError(msg)

    @property
    def is_at_random(self) -> bool:
        """Whether single cells are drawn."""
        return self.split_id_dict is None and self.attr_to_split is None
