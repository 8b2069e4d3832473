"""Which cells are learnt from and which are held out, and whether that is fair."""

import itertools
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from geneformer.errors import (
    ConstantLabelError,
    GeneformerWarning,
    LeakageError,
    OutOfRangeError,
    RareClassError,
    UnknownClassError,
)
from geneformer.options import SplitOptions
from geneformer.options._check import check_range
from geneformer.tasks.cell_split import deal_folds, draw_stratified
from geneformer.tasks.split_methods import (
    PARTS,
    Column,
    LabeledCells,
    deal_groups,
    draw_balanced,
    draw_cells,
    draw_groups,
    labeled_cells,
    take_listed,
)
from geneformer.tasks.words import distinct_words


@dataclass(frozen=True, slots=True, eq=False)
class Split:
    """Cells learnt from, cells that choose the best step, and cells that are only tested on.

    Attributes
    ----------
    train, valid, test
        Rows, sorted, int64.
    method
        How they were drawn; never "auto".
    shared_groups
        Groups with cells in two parts, by pair such as "train/test"; empty where no group leaks.
    left_out
        Rows in no part, sorted, int64: cells without a label, and cells whose id is in no list.
    notes
        What a reader of the scores should know, one sentence each.
    trials
        Table of the draws of a balanced split, one row each.
    """

    train: NDArray[np.int64]
    valid: NDArray[np.int64]
    test: NDArray[np.int64]
    method: str
    shared_groups: dict[str, tuple[str, ...]] = field(default_factory=dict)
    left_out: NDArray[np.int64] = field(default_factory=lambda: np.zeros(0, dtype=np.int64))
    notes: tuple[str, ...] = ()
    trials: tuple[dict[str, Any], ...] = ()


def draw_split(
    codes: ArrayLike,
    options: SplitOptions,
    *,
    groups: ArrayLike | None = None,
    ids: ArrayLike | None = None,
    attributes: Mapping[str, ArrayLike] | None = None,
    classes: Sequence[str] | None = None,
) -> Split:
    """Rows to learn from, to choose by and to test on.

    Drawn one by one, cells of every class are learnt from, and a class with one cell is not tested. Whole groups are
    dealt out so that sizes and classes come as close to their shares as they can. The balanced split draws the ids to
    test on first and those to choose by from the rest, see `balance_ids`; classes are balanced too where each id has
    cells of one class.

    Parameters
    ----------
    codes
        Class of each cell, -1 for none, ``(n,)``. Zeros where there are no classes.
    options
        Method, shares and lists.
    groups
        Donor, batch or the like of each cell, ``(n,)``, that must not be on two sides. Cells without one are kept
        together by method "group", and are not looked at otherwise.
    ids
        Id of each cell that the lists of method "ids" name, or that method "balanced" draws, ``(n,)``; `groups` by
        default.
    attributes
        Values per cell of the attributes to balance, ``(n,)`` each; the same in all cells of an id.
    classes
        Names of the classes, for messages.

    Warns
    -----
    GeneformerWarning
        Classes with one cell, "auto" that falls back to "random", a balanced split that is not balanced, cells without
        a group or id, groups that leak where that is allowed.

    Raises
    ------
    MissingLabelError
        No cell has a label, or none of the listed ones.
    LeakageError
        A group is on two sides, or there are fewer groups than parts.
    RareClassError
        Too few cells or ids to learn every class and to hold any out.
    ConstantLabelError
        One of several classes only is left to learn.
    UnknownIdError
        A listed id that no cell has.
    UnknownColumnError
        An attribute to balance that is not given.
    LabelError
        Columns of different lengths, or an attribute that differs within an id.
    OptionError
        The method needs groups or ids.

    Examples
    --------
    >>> import numpy as np
    >>> from geneformer.options import SplitOptions
    >>> from geneformer.tasks.splits import draw_split
    >>> split = draw_split(np.arange(100) % 2, SplitOptions(test=0.2), groups=np.arange(100) // 10)
    >>> split.method, len(split.train), len(split.valid), len(split.test), split.shared_groups
    ('group', 70, 10, 20, {})
    """
    cells = labeled_cells(codes, groups=groups, ids=ids, attributes=attributes, classes=classes)
    if cells.groups is not None and (cells.groups[0] < 0).any():
        cells.warn(f"{(cells.groups[0] < 0).sum():,} labeled cells have no group.")
    method = _method(cells, options)
    if method == "group":
        parts = draw_groups(cells, options)
    elif method == "ids":
        parts = take_listed(cells, options)
    elif method == "balanced":
        parts = draw_balanced(cells, options)
    else:
        parts = draw_cells(cells, options, method)
    shared = {} if cells.groups is None else _shared(_rows(parts), cells.groups)
    if shared:
        _judge_leakage(cells, shared, options)
    learnt = np.unique(cells.codes[parts == 0])
    if len(learnt) < 2 <= len(cells.counts):
        msg = (
            f"All {(parts == 0).sum():,} cells to learn from are {cells.classes[learnt[0]]!r}; the other "
            f"{len(cells.counts) - 1} classes are held out or left out. Learn from cells of at least two classes."
        )
        raise ConstantLabelError(msg)
    return _split(cells, parts, method, shared)


def draw_folds(
    codes: ArrayLike,
    n_folds: int,
    *,
    groups: ArrayLike | None = None,
    valid: float = 0.1,
    seed: int = 0,
    classes: Sequence[str] | None = None,
) -> list[Split]:
    """Splits whose test parts cover every labeled cell once.

    Classes are spread evenly over the folds; with groups, as evenly as whole groups allow.

    Parameters
    ----------
    codes
        Class of each cell, -1 for none, ``(n,)``. Zeros where there are no classes.
    n_folds
        Number of splits.
    groups
        Donor, batch or the like of each cell, ``(n,)``, that must not be on two sides.
    valid
        Share of all cells that is cut out of the rest of each fold to choose the best step by.
    seed
        Fixes the folds.
    classes
        Names of the classes, for messages.

    Raises
    ------
    OutOfRangeError
        Fewer than two folds, more folds than cells, or nothing left to learn from.
    RareClassError
        A class with one cell cannot be both learnt and tested.
    LeakageError
        Fewer groups than folds, or no group left to choose by.
    MissingLabelError
        No cell has a label.

    Examples
    --------
    >>> import numpy as np
    >>> from geneformer.tasks.splits import draw_folds
    >>> [len(split.test) for split in draw_folds(np.arange(50) % 2, 5)]
    [10, 10, 10, 10, 10]
    """
    cells = labeled_cells(codes, groups=groups, classes=classes)
    n_cells = len(cells.codes)
    check_range("n_folds", n_folds, low=2, high=n_cells)
    check_range("valid", valid, low=0.0, high=1.0)
    if valid + 1 / n_folds > 1 - 1e-9:
        msg = f"valid={valid} and one of {n_folds} folds leave no cells to learn from. Lower valid, or use more folds."
        raise OutOfRangeError(msg)
    if cells.groups is None:
        lone = [cells.classes[code] for code, number in cells.counts.items() if number == 1]
        if lone:
            shown = ", ".join(map(repr, lone[:5]))
            msg = f"Classes with one cell: {shown}. It cannot be both learnt and tested. Drop rare classes first."
            raise RareClassError(msg)
        folds = deal_folds(cells.codes, n_folds, np.random.default_rng(seed))
    else:
        folds = deal_groups(cells.codes, *cells.groups, [1 / n_folds] * n_folds, seed=seed, all_learnt=False)
    splits = []
    for fold in range(n_folds):
        parts = np.where(folds == fold, 2, 0)
        rest = np.flatnonzero(parts == 0)
        if valid and cells.groups is None:
            rng = np.random.default_rng([seed, fold])
            parts[rest] = draw_stratified(cells.codes[rest], (max(1, round(valid * n_cells)),), rng)
        elif valid and cells.groups is not None:
            share = valid * n_cells / len(rest)
            place, words = cells.groups
            parts[rest] = deal_groups(cells.codes[rest], place[rest], words, [1 - share, share], seed=seed)
        splits.append(_split(cells, parts, "stratified" if cells.groups is None else "group", {}))
    return splits


def shared_groups(split: Split, groups: ArrayLike) -> dict[str, tuple[str, ...]]:
    """Groups with cells in two parts of a split, by pair such as "train/test"; empty where no group leaks.

    Parameters
    ----------
    split
        Rows of each part.
    groups
        Donor, batch or the like of each cell, ``(n,)``; cells without one are not looked at.
    """
    return _shared({name: getattr(split, name) for name in PARTS}, distinct_words(groups, "groups"))


def check_classes(split: Split, codes: ArrayLike, classes: Sequence[str], *, allow_unknown: bool = False) -> None:
    """Refuse a split that learns fewer than two classes, or that tests classes it does not learn.

    Parameters
    ----------
    split
        Rows of each part.
    codes
        Class of each cell, ``(n,)``.
    classes
        Names of the classes.
    allow_unknown
        Warn of classes that are tested without being learnt, instead of refusing them.

    Warns
    -----
    GeneformerWarning
        Classes that are not learnt, where that is allowed.

    Raises
    ------
    ConstantLabelError
        Fewer than two classes are learnt.
    UnknownClassError
        A class in the validation or test part that is not learnt.
    """
    codes_n = np.asarray(codes, dtype=np.int64)
    learnt = np.unique(codes_n[split.train])
    if len(learnt) < 2:
        found = f"all {classes[learnt[0]]!r}" if len(learnt) else "none"
        msg = f"The {len(split.train):,} cells to learn from are {found}. At least two classes are needed."
        raise ConstantLabelError(msg)
    for name in PARTS[1:]:
        held = codes_n[getattr(split, name)]
        unknown = np.setdiff1d(held[held >= 0], learnt)
        if len(unknown):
            told = ", ".join(f"{classes[code]!r} ({(held == code).sum():,} cells)" for code in unknown[:5])
            msg = (
                f"{len(unknown)} classes of the {name} part are not learnt: {told}. They are always predicted wrongly; "
                "drop rare classes, or split by finer groups."
            )
            if not allow_unknown:
                raise UnknownClassError(msg)
            warnings.warn(msg, GeneformerWarning, stacklevel=2)


def _method(cells: LabeledCells, options: SplitOptions) -> str:
    """The method that "auto" stands for."""
    if options.method != "auto":
        return options.method
    if cells.groups is not None:
        return "group"
    n_parts = 1 + (options.valid > 0) + (options.test > 0)
    few = {code: number for code, number in cells.counts.items() if number < n_parts}
    if not few:
        return "stratified"
    rarest = min(few, key=lambda code: (few[code], code))
    cells.warn(
        f"{len(few)} classes have fewer cells than there are parts ({cells.classes[rarest]!r}: {few[rarest]}), so the "
        "cells are split at random. Drop rare classes for a split with the shares of the classes kept."
    )
    return "random"


def _split(cells: LabeledCells, parts: NDArray[np.int64], method: str, shared: dict[str, tuple[str, ...]]) -> Split:
    """The parts of labeled cells as rows of all cells."""
    used = np.zeros(cells.n_cells, dtype=bool)
    used[cells.rows[parts >= 0]] = True
    return Split(
        **{name: cells.rows[rows] for name, rows in _rows(parts).items()},
        method=method,
        shared_groups=shared,
        left_out=np.flatnonzero(~used),
        notes=(*cells.notes, *_absent(cells, parts)),
        trials=tuple(cells.trials),
    )


def _rows(parts: NDArray[np.int64]) -> dict[str, NDArray[np.int64]]:
    return {name: np.flatnonzero(parts == part) for part, name in enumerate(PARTS)}


def _absent(cells: LabeledCells, parts: NDArray[np.int64]) -> list[str]:
    """A note on the classes that a held-out part lacks."""
    notes = []
    for part, name in enumerate(PARTS[1:], start=1):
        absent = np.setdiff1d(cells.codes, cells.codes[parts == part])
        if len(absent) and (parts == part).any():
            shown = ", ".join(repr(cells.classes[code]) for code in absent[:5]) + (", ..." if len(absent) > 5 else "")
            notes.append(f"The {name} part has no cells of {len(absent)} classes: {shown}.")
    return notes


def _shared(sides: Mapping[str, NDArray[np.int64]], groups: Column) -> dict[str, tuple[str, ...]]:
    place, words = groups
    present = {name: np.unique(place[rows][place[rows] >= 0]) for name, rows in sides.items()}
    shared = {}
    for first, second in itertools.combinations(sides, 2):
        both = np.intersect1d(present[first], present[second])
        if len(both):
            shared[f"{first}/{second}"] = tuple(words[i] for i in both)
    return shared


def _judge_leakage(cells: LabeledCells, shared: Mapping[str, tuple[str, ...]], options: SplitOptions) -> None:
    pair, names = next(iter(shared.items()))
    shown = ", ".join(map(repr, names[:5])) + (", ..." if len(names) > 5 else "")
    told = f"{len(names)} groups have cells in both of {pair}: {shown}."
    if not options.allow_leakage:
        msg = f'{told} Scores come out too high. Pass method="group", mend the lists, or allow_leakage=True.'
        raise LeakageError(msg)
    cells.warn(f"{told} Scores come out too high.")
