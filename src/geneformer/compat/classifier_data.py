"""Cells that the published classifiers learn from: read, labeled, and split as published."""

import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from geneformer import errors
from geneformer.compat.cells import drawn_rows, listed, rows_with, split_rows
from geneformer.compat.classifier_training import LABELS, highest_token
from geneformer.files.atomic import make_folder
from geneformer.files.pickles import read_pickle
from geneformer.finetuning.splits import draw_split
from geneformer.finetuning.training import cells_with_labeled_genes
from geneformer.genes.vocabulary import Vocabulary
from geneformer.models.losses import MISSING
from geneformer.options import SplitOptions
from geneformer.options._fields import check_range
from geneformer.tokens.dataset import TokenizedDataset, arrow_lists
from geneformer.tokens.storage import read_dataset, write_dataset


class _Shares(dict[str, float]):
    """A dictionary that may stand as a default in a dataclass; nobody changes it."""

    __hash__ = object.__hash__  # type: ignore[assignment]


SPLIT_SIZES = _Shares(train=0.8, valid=0.1, test=0.1)
"""Published shares of cells or genes."""

_AT_ONCE = 2048


def as_tokens(data: Any) -> TokenizedDataset:
    """Tokenized cells, from a folder, a `datasets.Dataset` or as they are."""
    if isinstance(data, TokenizedDataset):
        return data
    if isinstance(data, str | Path):
        return read_dataset(data)
    if hasattr(data, "with_format") and hasattr(data, "column_names"):
        return TokenizedDataset(data.with_format("arrow")[:])
    msg = f"The cells are a {type(data).__name__}. Give a folder, or a datasets.Dataset."
    raise errors.DatasetError(msg)


def shuffled(data: TokenizedDataset, most: int | None = None) -> TokenizedDataset:
    """Cells in the order of the published draw; at most so many."""
    return data.take(drawn_rows(len(data))[:most])


def save_labeled(data: TokenizedDataset, path: Path) -> None:
    """Write cells, replacing those that are there."""
    make_folder(path.parent)
    write_dataset(data, path, overwrite=True)


def read_classes(path: str | Path) -> dict[int, Any]:
    """Labels by class id, from a `_id_class_dict.pkl` of this or the published package."""
    classes = read_pickle(path)
    if not isinstance(classes, dict) or not classes or not all(isinstance(key, int) for key in classes):
        msg = f'"{path}" is no dictionary of class ids and labels. Give the _id_class_dict.pkl of prepare_data.'
        raise errors.OptionError(msg)
    if sorted(classes) != list(range(len(classes))):
        msg = f'"{path}" numbers its classes {sorted(classes)}. They must be numbered from 0 without gaps.'
        raise errors.OptionError(msg)
    return classes


def label_cells(
    data: TokenizedDataset, state_key: str, classes: dict[int, Any] | None
) -> tuple[TokenizedDataset, dict[int, Any]]:
    """The state column as class ids in a column `label`, and the label of each id."""
    states = data.column(state_key).tolist()
    if any(state is None or state != state for state in states):  # noqa: PLR0124  NaN
        msg = f"Some cells have no value of {state_key!r}. Leave them out with filter_data."
        raise errors.MissingLabelError(msg)
    if classes is None:
        classes = dict(enumerate(sorted(set(states), key=lambda state: (isinstance(state, str), state))))
        if len(classes) == 1:
            msg = f"All cells left have {state_key!r} {classes[0]!r}: there is nothing to learn. Choose other cells."
            raise errors.ConstantLabelError(msg)
    id_of = {label: number for number, label in classes.items()}
    unknown = sorted({str(state) for state in states if state not in id_of})
    if unknown:
        msg = f"States that the dictionary of classes does not have: {', '.join(unknown[:5])}. It has {list(id_of)}."
        raise errors.UnknownClassError(msg)
    codes = pa.array([id_of[state] for state in states], pa.int64())
    place = data.table.column_names.index(state_key)
    return _with_table(data, data.table.set_column(place, LABELS["cell"], codes)), dict(classes)


def label_genes(data: TokenizedDataset, class_of: Mapping[int, int]) -> TokenizedDataset:
    """Cells with any of the genes, with the class of every token in a column `labels`."""
    name, class_by_token = LABELS["gene"], np.full(max(highest_token(data), *class_of) + 1, MISSING, dtype=np.int64)
    class_by_token[list(class_of)] = list(class_of.values())
    labeled = data.take(cells_with_labeled_genes(data, class_by_token, int(data.lengths.max(initial=1))))
    chunks = []
    for start in range(0, len(labeled), _AT_ONCE):
        packed = labeled.gather(np.arange(start, min(start + _AT_ONCE, len(labeled))))
        chunks.append(arrow_lists(packed.cu_seqlens, class_by_token[packed.input_ids]))
    classes, table = pa.chunked_array(chunks, type=pa.list_(pa.int64())), labeled.table
    if name in table.column_names:
        return _with_table(labeled, table.set_column(table.column_names.index(name), name, classes))
    return _with_table(labeled, table.append_column(name, classes))


def _with_table(data: TokenizedDataset, table: pa.Table) -> TokenizedDataset:
    return TokenizedDataset(table, vocabulary=data.vocabulary, path=data.path)


@dataclass(frozen=True, slots=True)
class CellSplit:
    """The published arguments that say how cells are split, and what the side that is not learnt from is called."""

    held_out: str
    split_id_dict: Mapping[str, Any] | None
    attr_to_split: str | None
    attr_to_balance: Any
    max_trials: int
    pval_threshold: float
    trials_file: Path

    def __post_init__(self) -> None:
        msg = ""
        if self.split_id_dict is not None and self.attr_to_split is not None:
            msg = "split_id_dict and attr_to_split are two ways to split. Give one of them."
        elif (self.attr_to_split is None) is not (self.attr_to_balance is None):
            msg = "attr_to_split (a column of ids) and attr_to_balance (columns to balance) go together. Give both."
        if msg:
            raise errors.UnsupportedArgumentError(msg)

    @property
    def is_at_random(self) -> bool:
        """Whether single cells are drawn."""
        return self.split_id_dict is None and self.attr_to_split is None

    def draw(
        self, data: TokenizedDataset, share: float, state_names: Mapping[str, list[str]], stratify: str | None
    ) -> tuple[TokenizedDataset, TokenizedDataset]:
        """Cells to learn from and cells held out: by lists of ids, by balanced ids, or one by one as published."""
        if self.split_id_dict is not None:
            rows = self._listed_rows(data, self.split_id_dict)
        elif self.attr_to_split is not None:
            rows = self._balanced_rows(data, share, state_names)
        else:
            rows = split_rows(len(data), share, None if stratify is None else data.column(stratify))
        return data.take(rows[0]), data.take(rows[1])

    def _listed_rows(self, data: TokenizedDataset, ids: Mapping[str, Any]) -> tuple[NDArray[np.int64], ...]:
        """Cells by lists of ids, in the order of the file."""
        if set(ids) != {"attr_key", "train", self.held_out}:
            msg = f"split_id_dict has the keys {sorted(ids)}. It takes attr_key, train and {self.held_out}."
            raise errors.OptionError(msg)
        sides = [listed(ids["train"]), listed(ids[self.held_out])]
        both = sorted(set(map(str, sides[0])) & set(map(str, sides[1])))
        if both:
            msg = f"split_id_dict has ids on both sides: {', '.join(both[:5])}. Scores come out too high."
            warnings.warn(msg, errors.GeneformerWarning, stacklevel=4)
        return tuple(rows_with(data, {ids["attr_key"]: side}) for side in sides)

    def _balanced_rows(
        self, data: TokenizedDataset, share: float, state_names: Mapping[str, list[str]]
    ) -> tuple[NDArray[np.int64], ...]:
        """Ids drawn so that the sides do not differ in the attributes; all draws go to a file."""
        import pandas as pd

        names, ids = listed(self.attr_to_balance), data.column(str(self.attr_to_split))
        attributes = {
            name: state_names[name] if name in state_names and name not in data.columns else data.column(name)
            for name in names
        }
        options = SplitOptions(
            method="balanced", valid=0.0, test=share, balance=tuple(names), max_trials=self.max_trials,
            p_threshold=self.pval_threshold, seed=0,
        )  # fmt: skip
        split = draw_split(data.column(LABELS["cell"]), options, ids=ids, attributes=attributes)
        everyone = sorted({str(entry) for entry in ids.tolist()})
        rows = []
        for trial in split.trials:
            eval_ids = [str(entry) for entry in trial["held_out"]]
            row = {"trial_num": trial["trial"], "train_ids": [entry for entry in everyone if entry not in eval_ids]}
            row["eval_ids"] = eval_ids
            for name in names:
                row[f"{name}_train_mean_or_counts"] = trial[f"{name}_train"]
                row[f"{name}_eval_mean_or_counts"] = trial[f"{name}_held_out"]
                row[f"{name}_pval"] = trial[f"{name}_p"]
            rows.append(row | {"mean_pval": trial["mean_p"], "accepted": trial["accepted"]})
        make_folder(self.trials_file.parent)
        pd.DataFrame(rows).to_csv(self.trials_file)
        return split.train, split.test


def checked_states(states: Any) -> dict[str, Any]:
    """`cell_state_dict`, copied."""
    if not isinstance(states, Mapping) or set(states) != {"state_key", "states"}:
        takes = '{"state_key": a column, "states": a list of values or "all"}'
        msg = f'classifier="cell" takes cell_state_dict={takes}; got {states!r}.'
        raise errors.OptionError(msg)
    values = listed(states["states"])
    if values != ["all"] and len(set(values)) < 2:
        msg = f'cell_state_dict["states"] is {states["states"]!r}. It takes "all", or a list of two values or more.'
        raise errors.OptionError(msg)
    return {"state_key": states["state_key"], "states": "all" if values == ["all"] else values}


def checked_genes(genes: Any, vocabulary: Vocabulary) -> dict[Any, list[int]]:
    """Token ids by class, each id once."""
    if not isinstance(genes, Mapping) or len(genes) < 2:
        takes = "{label: [Ensembl ids]} with two classes or more"
        msg = f'classifier="gene" takes gene_class_dict={takes}; got {genes!r}.'
        raise errors.OptionError(msg)
    tokens: dict[Any, list[int]] = {}
    unknown: list[str] = []
    owner: dict[int, Any] = {}
    for label, members in genes.items():
        names = [str(gene) for gene in listed(members)]
        unknown += [name for name in names if name not in vocabulary.token_of]
        tokens[label] = list({int(vocabulary.token_of[name]) for name in names if name in vocabulary.token_of})
        if not tokens[label]:
            msg = f"None of the {len(names)} genes of class {label!r} has a token in vocabulary {vocabulary.name}."
            raise errors.GeneListError(msg)
        for token in tokens[label]:
            if owner.setdefault(token, label) != label:
                gene = vocabulary.gene_of[token]
                msg = f"Gene {gene} is in class {owner[token]!r} and in class {label!r}. Leave it in one of them."
                raise errors.GeneListError(msg)
    if unknown:
        shown = ", ".join(unknown[:5]) + (", ..." if len(unknown) > 5 else "")
        msg = f"{len(unknown)} genes of gene_class_dict have no token and are left out: {shown}."
        warnings.warn(msg, errors.GeneformerWarning, stacklevel=4)
    return tokens


def checked_filter(
    filter_data: Mapping[str, Any] | None, states: Mapping[str, Any] | None
) -> dict[str, list[Any]] | None:
    """`filter_data` with lists of values, and with the states where they are listed; a copy."""
    accepted = {name: listed(value) for name, value in (filter_data or {}).items()}
    if states is not None and states["states"] != "all":
        accepted[states["state_key"]] = list(states["states"])
    return accepted or None


def checked_shares(split_sizes: Mapping[str, float] | None) -> dict[str, float]:
    """`split_sizes`, whose rounding errors do not count; None for the published shares."""
    shares = dict(SPLIT_SIZES if split_sizes is None else split_sizes)
    if set(shares) != set(SPLIT_SIZES):
        msg = f"split_sizes names {sorted(shares)}. It takes train, valid and test."
        raise errors.OptionError(msg)
    for name, share in shares.items():
        check_range(f"split_sizes[{name!r}]", share, low=0.0, high=1.0)
    if abs(sum(shares.values()) - 1.0) > 1e-6:
        msg = f"split_sizes adds up to {sum(shares.values()):.6g}: {shares}. Make it 1."
        raise errors.OptionError(msg)
    check_range("split_sizes['train']", shares["train"], above=0.0)
    return shares
