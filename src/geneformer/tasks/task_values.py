"""Tasks whose classes are the values of a column, as they are: learnt from some cells, told about others."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from geneformer import keys
from geneformer.data.dataset import TokenizedDataset
from geneformer.errors import MissingLabelError, UnknownClassError
from geneformer.models.cell_heads import GeneformerForCells, HeadSpec
from geneformer.models.losses import MISSING
from geneformer.options import RuntimeOptions
from geneformer.tasks.calibration import softmax
from geneformer.tasks.cell_learning import class_scores, learn_cells, predict_cells
from geneformer.tasks.class_figures import confusion
from geneformer.tasks.finetuning import FinetuneResult

Classes = dict[str, tuple[Any, ...]]
"""Values of each column, ascending; their places are the class numbers."""


@dataclass(frozen=True, slots=True, eq=False)
class Told:
    """What a network says about cells, in the order of the dataset.

    Attributes
    ----------
    classes
        Values of each task, in the order of the probabilities.
    proba
        Probability of every class by task, ``(n, C)``.
    truth
        Class number of each cell by task, `losses.MISSING` where it is not among the classes, ``(n,)``; only of tasks
        whose column the dataset has.
    """

    classes: Classes
    proba: dict[str, NDArray[np.float64]]
    truth: dict[str, NDArray[np.int64]]

    def figures(self) -> dict[str, dict[str, Any]]:
        """By task: cells with a known class and others, cross-entropy in nats, accuracy, macro-F1, confusion matrix.

        Tasks that no cell has a known class of are left out.
        """
        return {
            name: _figures(self.proba[name], codes, self.classes[name])
            for name, codes in self.truth.items()
            if (codes != MISSING).any()
        }

    def loss(self, weights: Sequence[float] | None = None) -> float:
        """Sum of the cross-entropies of the tasks; by default each counts alike, and all together once.

        Parameters
        ----------
        weights
            Weight of every task.

        Raises
        ------
        KeyError
            A task without a cell of known class.
        """
        shares = weights or [1 / len(self.classes)] * len(self.classes)
        figures = self.figures()
        return float(sum(share * figures[name]["loss"] for share, name in zip(shares, self.classes, strict=True)))


def column_classes(tokens: TokenizedDataset, columns: Sequence[str]) -> Classes:
    """Values of the columns, ascending.

    Parameters
    ----------
    tokens
        Tokenized cells.
    columns
        Names of the columns.

    Raises
    ------
    DatasetError
        No such column.
    MissingLabelError
        Cells without a value.
    """
    return {name: tuple(sorted(set(_values(tokens, name)))) for name in columns}


def column_codes(tokens: TokenizedDataset, classes: Classes, *, refuse: bool = True) -> dict[str, NDArray[np.int64]]:
    """Class number of each cell by task, ``(n,)``.

    Parameters
    ----------
    tokens
        Tokenized cells.
    classes
        Values by column.
    refuse
        Whether other values are refused; else they become `losses.MISSING`, and columns that are not there are left
        out.

    Raises
    ------
    UnknownClassError
        A value that is not among the classes.
    """
    found: dict[str, NDArray[np.int64]] = {}
    for name, values in classes.items():
        if not refuse and name not in tokens.columns:
            continue
        place = {value: code for code, value in enumerate(values)}
        column = _values(tokens, name) if refuse else tokens.table.column(name).to_pylist()
        codes = np.array([place.get(value, MISSING) for value in column], dtype=np.int64)
        if refuse and (codes == MISSING).any():
            others = sorted({str(value) for value in column} - {str(value) for value in values})
            msg = f"Column {name!r} holds {', '.join(others[:5])}, of which there is no cell to learn from."
            raise UnknownClassError(msg)
        found[name] = codes
    return found


def learn_values(
    base: Any, train: TokenizedDataset, classes: Classes, **options: Any
) -> tuple[GeneformerForCells, FinetuneResult]:
    """Fine-tune an encoder with a head for each column; the weights are those after the last step.

    Parameters
    ----------
    base
        Pretrained model.
    train
        Cells to learn from, with the columns.
    classes
        Values by column.
    **options
        Further arguments of `learn_cells`.
    """
    specs = [HeadSpec(name=name, classes=tuple(map(str, values))) for name, values in classes.items()]
    rows = np.arange(len(train))
    return learn_cells(
        base, train, specs, column_codes(train, classes), train_rows=rows, valid_rows=rows[:0], **options
    )


def tell_values(
    network: GeneformerForCells,
    tokens: TokenizedDataset,
    classes: Classes,
    runtime: RuntimeOptions,
    **options: Any,
) -> Told:
    """What a network says about cells, beside what is known about them.

    Parameters
    ----------
    network
        Fine-tuned network.
    tokens
        Tokenized cells; columns with the truth may be missing.
    classes
        Values by column.
    runtime
        Where and how it runs.
    **options
        Further arguments of `predict_cells`.
    """
    logits = predict_cells(network, tokens, runtime, **options)
    return Told(
        classes,
        {name: softmax(values.astype(np.float64)) for name, values in logits.items()},
        column_codes(tokens, classes, refuse=False),
    )


def names_of_cells(tokens: TokenizedDataset) -> list[str]:
    """Name of each cell: its `unique_cell_id`, else its `cell_id`, else `cell_` and its row."""
    for name in ("unique_cell_id", keys.CELL_ID):
        if name in tokens.columns:
            return [str(value) for value in tokens.column(name).tolist()]
    return [f"cell_{row}" for row in range(len(tokens))]


def _values(tokens: TokenizedDataset, name: str) -> list[Any]:
    """Values of a column, none of them missing."""
    tokens.column(name)  # says so where there is none
    values: list[Any] = tokens.table.column(name).to_pylist()
    n_missing = sum(value is None or value != value for value in values)  # noqa: PLR0124  not a number
    if n_missing:
        msg = (
            f"{n_missing:,} of {len(values):,} cells have no value in column {name!r}. Leave them out of the dataset, "
            f"or use `geneformer.MultiTaskClassifier`, for which a cell may lack some of its labels."
        )
        raise MissingLabelError(msg)
    return values


def _figures(proba: NDArray[np.float64], codes: NDArray[np.int64], classes: Sequence[Any]) -> dict[str, Any]:
    known = codes != MISSING
    truth, said = codes[known], proba[known]
    accuracy, macro_f1 = class_scores(said, truth)
    own = said[np.arange(len(truth)), truth]
    return {
        "n_cells": len(truth),
        "n_unknown": int((~known).sum()),
        "loss": float(-np.log(np.maximum(own, np.finfo(np.float64).tiny)).mean()),
        "accuracy": accuracy,
        "macro_f1": macro_f1,
        "classes": list(classes),
        "confusion": confusion(truth, said.argmax(1), len(classes)).tolist(),
    }
