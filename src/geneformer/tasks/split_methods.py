"""The ways to split labeled cells: one by one, by whole groups, by lists of ids, or balanced in attributes."""

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from geneformer.errors import (
    GeneformerWarning,
    LabelError,
    LeakageError,
    MissingLabelError,
    OptionError,
    UnknownColumnError,
    UnknownIdError,
)
from geneformer.options import SplitOptions
from geneformer.options._check import nearest
from geneformer.tasks.balanced_split import Trial, balance_ids, one_per_id
from geneformer.tasks.cell_split import draw_random, draw_stratified
from geneformer.tasks.group_split import assign_groups
from geneformer.tasks.words import distinct_words

PARTS = ("train", "valid", "test")
Column = tuple[NDArray[np.int64], list[str]]
"""Which word stands in each row, -1 for none; and the words."""


@dataclass(slots=True, eq=False)
class LabeledCells:
    """Cells with a label, and what is known of them.

    Attributes
    ----------
    n_cells
        All cells, with and without a label.
    rows
        Those with a label, ``(n,)``.
    codes
        Class of each, ``(n,)``.
    classes
        Names of the classes; their numbers where none are known.
    groups, ids
        Group and id of each labeled cell.
    attributes
        Values of each labeled cell.
    notes
        What there is to say about the split.
    trials
        Table of the draws of a balanced split.
    """

    n_cells: int
    rows: NDArray[np.int64]
    codes: NDArray[np.int64]
    classes: Sequence[str]
    groups: Column | None
    ids: Column | None
    attributes: Mapping[str, Any]
    notes: list[str] = field(default_factory=list)
    trials: list[dict[str, Any]] = field(default_factory=list)

    @property
    def counts(self) -> dict[int, int]:
        """Cells of every class that occurs."""
        codes, numbers = np.unique(self.codes, return_counts=True)
        return dict(zip(codes.tolist(), numbers.tolist(), strict=True))

    def warn(self, remark: str) -> None:
        """Say something now, and keep it in the notes."""
        self.notes.append(remark)
        warnings.warn(remark, GeneformerWarning, stacklevel=4)


def labeled_cells(
    codes: ArrayLike,
    *,
    groups: ArrayLike | None = None,
    ids: ArrayLike | None = None,
    attributes: Mapping[str, ArrayLike] | None = None,
    classes: Sequence[str] | None = None,
) -> LabeledCells:
    """The cells of a split; parameters are those of `draw_split`."""
    codes_n = np.asarray(codes, dtype=np.int64)
    rows = np.flatnonzero(codes_n >= 0)
    if not len(rows):
        msg = f"None of the {len(codes_n):,} cells has a label, so there is nothing to split."
        raise MissingLabelError(msg)
    columns: dict[str, Column | None] = {}
    for name, values in (("groups", groups), ("ids", ids)):
        columns[name] = None
        if values is not None:
            place, words = distinct_words(values, name)
            _check_length(name, len(place), len(codes_n))
            columns[name] = (place[rows], words)
    given = {name: np.asarray(values) for name, values in (attributes or {}).items()}
    for name, values in given.items():
        _check_length(name, len(values), len(codes_n))
    names = [str(code) for code in range(int(codes_n.max()) + 1)] if classes is None else classes
    return LabeledCells(
        n_cells=len(codes_n),
        rows=rows,
        codes=codes_n[rows],
        classes=names,
        groups=columns["groups"],
        ids=columns["groups"] if ids is None else columns["ids"],
        attributes={name: values[rows] for name, values in given.items()},
    )


def draw_cells(cells: LabeledCells, options: SplitOptions, method: str) -> NDArray[np.int64]:
    """Part of each labeled cell, drawn one by one."""
    lone = [cells.classes[code] for code, number in cells.counts.items() if number == 1]
    if lone:
        shown = ", ".join(map(repr, lone[:5])) + (", ..." if len(lone) > 5 else "")
        cells.warn(f"{len(lone)} classes have one cell, which is learnt from and cannot be tested: {shown}.")
    sizes = tuple(max(1, round(share * len(cells.codes))) if share else 0 for share in (options.valid, options.test))
    draw = draw_random if method == "random" else draw_stratified
    return draw(cells.codes, sizes, np.random.default_rng(options.seed))


def draw_groups(cells: LabeledCells, options: SplitOptions) -> NDArray[np.int64]:
    """Part of each labeled cell, by whole groups."""
    if cells.groups is None:
        msg = 'method="group" needs the group of each cell, such as its donor. Pass groups.'
        raise OptionError(msg)
    held_out = {1: options.valid, 2: options.test}
    parts = [0, *(part for part, share in held_out.items() if share)]
    shares = [1 - sum(held_out.values()), *(share for share in held_out.values() if share)]
    place, words = cells.groups
    return np.array(parts)[deal_groups(cells.codes, place, words, shares, seed=options.seed)]


def deal_groups(
    codes: NDArray[np.int64],
    place: NDArray[np.int64],
    words: Sequence[str],
    shares: Sequence[float],
    *,
    seed: int,
    all_learnt: bool = True,
) -> NDArray[np.int64]:
    """Part of each cell; cells without a group are one group.

    Parameters
    ----------
    codes
        Class of each cell, ``(n,)``.
    place, words
        Group of each cell, -1 for none, and the names of the groups.
    shares
        Share of the cells per part.
    seed
        Fixes the search.
    all_learnt
        Whether the first part must have every class.

    Raises
    ------
    LeakageError
        Fewer groups than parts.
    """
    present, group = np.unique(place, return_inverse=True)
    if len(present) < len(shares):
        listed = ", ".join(repr(words[i]) if i >= 0 else "cells without a group" for i in present)
        msg = (
            f"{len(present)} groups cannot be dealt out to {len(shares)} parts without one being on two sides: "
            f"{listed}. Use fewer parts (valid=0 or test=0), finer groups, or no groups."
        )
        raise LeakageError(msg)
    classes, code = np.unique(codes, return_inverse=True)
    counts = np.bincount(group * len(classes) + code, minlength=len(present) * len(classes))
    dealt = assign_groups(counts.reshape(len(present), -1), shares, seed=seed, all_learnt=all_learnt)
    return dealt[group]


def take_listed(cells: LabeledCells, options: SplitOptions) -> NDArray[np.int64]:
    """Part of each labeled cell whose id is listed, -1 for the others."""
    place, words = _ids(cells, "ids")
    place_of = {entry: i for i, entry in enumerate(words)}
    part_of = np.full(len(words) + 1, -1)
    for part, name in enumerate(PARTS):
        listed = getattr(options, f"{name}_ids")
        absent = [entry for entry in dict.fromkeys(listed) if entry not in place_of]
        if absent:
            shown = ", ".join(map(repr, absent[:5])) + (", ..." if len(absent) > 5 else "")
            msg = (
                f"{name}_ids names {len(absent)} ids that no cell has: {shown}. There are {len(words):,} ids, such as "
                f"{', '.join(map(repr, words[:5]))}.{nearest(absent[0], words)}"
            )
            raise UnknownIdError(msg)
        part_of[[place_of[entry] for entry in listed]] = part
        if listed and not np.isin(place, [place_of[entry] for entry in listed]).any():
            msg = f"None of the cells of the {len(listed)} ids in {name}_ids has a label. List others, or label them."
            raise MissingLabelError(msg)
    parts = part_of[place]
    if (parts < 0).any():
        unlisted = len(np.unique(place[parts < 0]))
        cells.notes.append(f"{(parts < 0).sum():,} labeled cells of {unlisted:,} ids in no list are left out.")
    return parts


def draw_balanced(cells: LabeledCells, options: SplitOptions) -> NDArray[np.int64]:
    """Part of each labeled cell, by ids that do not differ in attributes; -1 for cells without an id."""
    place, words = _ids(cells, "balanced")
    with_id = np.flatnonzero(place >= 0)
    if len(with_id) < len(place):
        cells.warn(f"{len(place) - len(with_id):,} labeled cells without an id are left out.")
    present, id_n = np.unique(place[with_id], return_inverse=True)
    names = [words[i] for i in present]
    has_class = np.zeros((len(names), len(cells.classes)), dtype=bool)
    has_class[id_n, cells.codes[with_id]] = True
    values = {name: one_per_id(_attribute(cells, name)[with_id], id_n, names, name) for name in options.balance}
    if (has_class.sum(axis=1) == 1).all():
        values.setdefault("label", np.array(cells.classes, dtype=object)[has_class.argmax(axis=1)])
    part_of = np.zeros(len(names), dtype=np.int64)
    for part, share in ((2, options.test), (1, options.valid)):
        if share:
            free = np.flatnonzero(part_of == 0)
            best, trials = balance_ids(
                {name: value[free] for name, value in values.items()},
                max(1, round(share * len(names))),
                has_class[free][:, has_class[free].any(axis=0)],
                max_trials=options.max_trials,
                p_threshold=options.p_threshold,
                seed=options.seed,
            )
            part_of[free[best.held_out]] = part
            cells.trials += [_row(trial, PARTS[part], [names[i] for i in free], trial is best) for trial in trials]
            if not best.passes(options.p_threshold):
                cells.warn(_told_unbalanced(best, PARTS[part], len(trials), options.p_threshold))
    parts = np.full(len(place), -1)
    parts[with_id] = part_of[id_n]
    return parts


def _ids(cells: LabeledCells, method: str) -> Column:
    if cells.ids is None:
        msg = f'method="{method}" needs the id of each cell, such as its donor. Pass ids or groups.'
        raise OptionError(msg)
    return cells.ids


def _attribute(cells: LabeledCells, name: str) -> Any:
    if name not in cells.attributes:
        listed = ", ".join(map(repr, cells.attributes)) or "none"
        msg = f"No attribute {name!r} to balance; given are {listed}.{nearest(name, cells.attributes)}"
        raise UnknownColumnError(msg)
    return cells.attributes[name]


def _row(trial: Trial, part: str, ids: Sequence[str], accepted: bool) -> dict[str, Any]:
    """One draw as the row of a table."""
    held_out = tuple(ids[i] for i in trial.held_out)
    row = {"part": part, "trial": trial.number, "accepted": accepted, "n_train": len(ids) - len(held_out)}
    row |= {"n_held_out": len(held_out), "held_out": held_out}
    for name, (learnt, held) in trial.summary.items():
        row |= {f"{name}_train": learnt, f"{name}_held_out": held, f"{name}_p": trial.p[name]}
    return row | {"mean_p": trial.mean_p}


def _told_unbalanced(best: Trial, part: str, n_trials: int, p_threshold: float) -> str:
    told = ", ".join(f"{name} {p:.2g}" for name, p in best.p.items())
    return (
        f"None of {n_trials} draws of the {part} ids reached p >= {p_threshold:g} in every attribute; the best one is "
        f"used (p: {told})."
    )


def _check_length(name: str, found: int, wanted: int) -> None:
    if found != wanted:
        msg = f"{name} has {found:,} values for {wanted:,} cells. Give one per cell, in the order of the labels."
        raise LabelError(msg)
