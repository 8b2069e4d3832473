"""Which cells are learnt from and which are held out, and whether that is fair."""

import inspect
import itertools
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from geneformer.errors import (
    ConstantLabelError,
    GeneformerWarning,
    GeneListError,
    LabelError,
    LeakageError,
    MissingLabelError,
    OptionError,
    OutOfRangeError,
    RareClassError,
    UnknownClassError,
    UnknownColumnError,
    UnknownIdError,
)
from geneformer.finetuning.labels import distinct_words
from geneformer.inference.cells import Cells
from geneformer.options import SplitOptions
from geneformer.options._fields import check_range, nearest


def draw_random(codes: NDArray[np.int64], sizes: tuple[int, ...], rng: np.random.Generator) -> NDArray[np.int64]:
    """Part of each cell, ``(n,)``: 0 for learning, which gets a cell of every class, 1 and up for `sizes`."""
    order = rng.permutation(len(codes))
    _, first = np.unique(codes[order], return_index=True)
    free = np.delete(order, first)
    _refuse_few(len(free), sizes, len(first))
    parts = np.zeros(len(codes), dtype=np.int64)
    parts[free[: sum(sizes)]] = np.repeat(np.arange(len(sizes)) + 1, sizes)
    return parts


def draw_stratified(codes: NDArray[np.int64], sizes: tuple[int, ...], rng: np.random.Generator) -> NDArray[np.int64]:
    """Part of each cell, ``(n,)``: 0 for learning, which gets a cell of every class, 1 and up for `sizes`."""
    _, place, counts = np.unique(codes, return_inverse=True, return_counts=True)
    _refuse_few(int((counts - 1).sum()), sizes, len(counts))
    parts = np.zeros(len(codes), dtype=np.int64)
    shuffled = rng.permutation(len(codes))
    by_class = np.split(shuffled[np.argsort(place[shuffled], kind="stable")], np.cumsum(counts)[:-1])
    used = np.zeros_like(counts)
    for part, size in enumerate(sizes, start=1):
        given = _quotas(counts, size, counts - 1 - used, rng)
        for rows, start, number in zip(by_class, used, given, strict=True):
            parts[rows[start : start + number]] = part
        used += given
    return parts


def deal_folds(codes: NDArray[np.int64], n_folds: int, rng: np.random.Generator) -> NDArray[np.int64]:
    """Fold of each cell, ``(n,)``; neither folds nor the cells of one class in them differ by more than one."""
    shuffled = rng.permutation(len(codes))
    folds = np.empty(len(codes), dtype=np.int64)
    folds[shuffled[np.argsort(codes[shuffled], kind="stable")]] = np.arange(len(codes)) % n_folds
    return folds


def _quotas(
    counts: NDArray[np.int64], size: int, caps: NDArray[np.int64], rng: np.random.Generator
) -> NDArray[np.int64]:
    """Cells of each class in a part, by largest remainder; equal ones by lot."""
    wanted = size * counts / counts.sum()
    quotas: NDArray[np.int64] = np.minimum(np.floor(wanted).astype(np.int64), caps)
    lot = rng.random(len(counts))
    while quotas.sum() < size:
        lacking = np.where(quotas < caps, wanted - quotas, -np.inf)
        quotas[np.lexsort((lot, -lacking))[0]] += 1
    return quotas


def _refuse_few(n_free: int, sizes: tuple[int, ...], n_classes: int) -> None:
    if n_free < sum(sizes):
        msg = (
            f"{sum(sizes):,} cells are to be held out, but {n_free:,} are left when one cell of each of the "
            f"{n_classes:,} classes is learnt from. Drop rare classes, or hold out less."
        )
        raise RareClassError(msg)


@dataclass(frozen=True, slots=True, eq=False)
class Trial:
    """One draw."""

    number: int
    held_out: NDArray[np.int64]
    p: dict[str, float]
    summary: dict[str, tuple[Any, Any]]

    @property
    def mean_p(self) -> float:
        """Mean of the p-values that can be told; 1 if none can."""
        told = [p for p in self.p.values() if p == p]  # noqa: PLR0124  not NaN
        return float(np.mean(told)) if told else 1.0

    def passes(self, p_threshold: float) -> bool:
        """Whether no attribute differs between the sides."""
        return not any(p < p_threshold for p in self.p.values())


def balance_ids(
    attributes: Mapping[str, ArrayLike],
    size: int,
    has_class: NDArray[np.bool_],
    *,
    max_trials: int = 100,
    p_threshold: float = 0.1,
    seed: int = 0,
) -> tuple[Trial, list[Trial]]:
    """The accepted draw of ids to hold out, and all draws that were made."""
    check_range("max_trials", max_trials, low=1)
    tests = {name: _prepared(values, name) for name, values in attributes.items()}
    trials: list[Trial] = []
    for number in range(max_trials):
        held_out = _draw(has_class, size, np.random.default_rng([seed, number]))
        is_held = np.zeros(len(has_class), dtype=bool)
        is_held[held_out] = True
        compared = {name: _compare(values[~is_held], values[is_held]) for name, values in tests.items()}
        trials.append(
            Trial(number, held_out, {n: c[0] for n, c in compared.items()}, {n: c[1:] for n, c in compared.items()})
        )
        if trials[-1].passes(p_threshold):
            return trials[-1], trials
    return max(trials, key=lambda trial: trial.mean_p), trials


def _draw(has_class: NDArray[np.bool_], size: int, rng: np.random.Generator) -> NDArray[np.int64]:
    """Places of ids to hold out: one per class first, and never the last id of a class."""
    order = rng.permutation(len(has_class))
    kept = _one_per_class(has_class, order)
    order = order[~np.isin(order, kept)]
    if not len(order):
        msg = (
            f"All {len(has_class):,} ids are needed to learn {has_class.shape[1]} classes. A balanced split takes at "
            "least two ids per class; give more ids, or drop rare classes."
        )
        raise RareClassError(msg)
    forced = _one_per_class(has_class, order)
    filled = order[~np.isin(order, forced)][: max(size - len(forced), 0)]
    return np.sort(np.concatenate([forced, filled])).astype(np.int64)


def _one_per_class(has_class: NDArray[np.bool_], order: NDArray[np.int64]) -> NDArray[np.int64]:
    """The first ids in an order that have a class not met so far, rarest classes first."""
    chosen: list[int] = []
    for code in np.argsort(has_class.sum(axis=0), kind="stable"):
        having = order[has_class[order, code]]
        if len(having) and not has_class[chosen, code].any():
            chosen.append(int(having[0]))
    return np.array(chosen, dtype=np.int64)


def _prepared(values: ArrayLike, name: str) -> NDArray[Any]:
    """Numbers as float64, everything else as words; booleans are words."""
    import pandas as pd

    column = pd.Series(values)
    if isinstance(column.dtype, pd.CategoricalDtype):
        column = column.astype(object)
    kind = pd.api.types.infer_dtype(column, skipna=True)
    if kind in ("integer", "floating", "mixed-integer-float", "decimal"):
        return np.asarray(pd.to_numeric(column), dtype=np.float64)
    if kind.startswith("mixed"):
        found = [repr(value) for value in dict.fromkeys(column.dropna().tolist())][:5]
        msg = f"Attribute {name!r} mixes texts and numbers: {', '.join(found)}. Make it all numbers or all texts."
        raise LabelError(msg)
    return column.astype(object).map(lambda value: str(value).strip(), na_action="ignore").fillna("missing").to_numpy()


def _compare(learnt: NDArray[Any], held: NDArray[Any]) -> tuple[float, Any, Any]:
    """P-value for no difference, and both sides in short."""
    if learnt.dtype == np.float64:
        return _rank_sum(learnt[~np.isnan(learnt)], held[~np.isnan(held)])
    return _chi_square(learnt, held)


def _rank_sum(learnt: NDArray[np.float64], held: NDArray[np.float64]) -> tuple[float, float | None, float | None]:
    from scipy import stats

    p = float(stats.ranksums(learnt, held).pvalue) if len(learnt) and len(held) else float("nan")
    return p, _mean(learnt), _mean(held)


def _mean(values: NDArray[np.float64]) -> float | None:
    return float(values.mean()) if len(values) else None


def _chi_square(learnt: NDArray[Any], held: NDArray[Any]) -> tuple[float, dict[str, int], dict[str, int]]:
    from scipy import stats

    values = sorted({*learnt, *held})
    observed, scale = ([int((side == value).sum()) for value in values] for side in (learnt, held))
    with np.errstate(divide="ignore"):  # a value that is not held out at all: p is 0
        expected = np.array(scale) * len(learnt) / len(held)
        p = float(stats.chisquare(observed, expected).pvalue) if len(values) > 1 else 1.0
    return p, dict(zip(values, observed, strict=True)), dict(zip(values, scale, strict=True))


def one_per_id(values: ArrayLike, place: NDArray[np.int64], ids: Sequence[str], name: str) -> NDArray[Any]:
    """Value of an attribute for each id, ``(m,)``."""
    import pandas as pd

    codes, _ = pd.factorize(pd.Series(values).astype(object), use_na_sentinel=True)
    _, first = np.unique(place, return_index=True)
    differing = np.flatnonzero(codes != codes[first][place])
    if len(differing):
        row = differing[0]
        column = pd.Series(values)
        found = [str(column.iloc[i]) for i in (first[place[row]], row)]
        msg = (
            f"Attribute {name!r} differs between cells of id {ids[place[row]]!r}: {' and '.join(found)}. Balance what "
            "belongs to the id, such as the age of a donor, or split by other ids."
        )
        raise LabelError(msg)
    values_n: NDArray[Any] = np.asarray(pd.Series(values).iloc[first].array)
    return values_n


_STARTS = 64
_PROPOSALS = 256
_ROUNDS = 200
_PATIENCE = 10
_EMPTY, _NOT_LEARNT, _ABSENT = 1e6, 10.0, 0.5
"""Losses of a part without groups, of a class that is not learnt, and of all classes absent from one part: high enough
to hold out two donors of eight, one of each state, where the shares alone would hold out one."""


def assign_groups(counts: ArrayLike, shares: ArrayLike, *, seed: int = 0, all_learnt: bool = True) -> NDArray[np.int64]:
    """Part of each group, ``(G,)``."""
    counts_gc = np.asarray(counts, dtype=np.float64)
    counts_gc = np.column_stack([counts_gc / counts_gc.sum(axis=0), counts_gc.sum(axis=1) / counts_gc.sum()])
    shares_p = np.asarray(shares, dtype=np.float64)
    rng = np.random.default_rng(seed)
    starts = _deal(counts_gc, shares_p, rng)
    losses = split_loss(_held(counts_gc, starts, len(shares_p)), shares_p, all_learnt)
    return _improve(starts[losses.argmin()], counts_gc, shares_p, rng, all_learnt)


def split_loss(held: NDArray[np.float64], shares: NDArray[np.float64], all_learnt: bool) -> NDArray[np.float64]:
    """How far parts are from their shares, ``(...)``."""
    loss: NDArray[np.float64] = _part_losses(held, shares, np.arange(len(shares)), all_learnt).sum(axis=-1)
    return loss


def _part_losses(
    held: NDArray[np.float64], shares: NDArray[np.float64], parts: NDArray[np.int64], all_learnt: bool
) -> NDArray[np.float64]:
    """What each part adds to the loss, ``(...)``, for what it holds, ``(..., C + 1)``."""
    squares = (held - shares[parts][..., None]) ** 2
    absent = held[..., :-1] == 0
    loss: NDArray[np.float64] = squares[..., :-1].mean(axis=-1) + squares[..., -1]
    loss += _EMPTY * (held[..., -1] == 0) + _ABSENT * absent.mean(axis=-1)
    return loss + _NOT_LEARNT * absent.sum(axis=-1) * (parts == 0) if all_learnt else loss


def _deal(counts: NDArray[np.float64], shares: NDArray[np.float64], rng: np.random.Generator) -> NDArray[np.int64]:
    """Parts from many starts, ``(S, G)``."""
    n_groups, n_columns = counts.shape
    weight = np.append(np.full(n_columns - 1, 1 / (n_columns - 1)), 1.0)
    order = np.argsort(-counts.sum(axis=1) * rng.lognormal(size=(_STARTS, n_groups)), axis=1, kind="stable")
    parts = np.zeros((_STARTS, n_groups), dtype=np.int64)
    lacking = np.tile(shares[None, :, None], (_STARTS, 1, n_columns))
    starts = np.arange(_STARTS)
    for group in order.T:
        added = counts[group]
        change = ((added[:, None] - 2 * lacking) * added[:, None]) @ weight
        part = change.argmin(axis=1)
        parts[starts, group] = part
        lacking[starts, part] -= added
    return parts


def _held(counts: NDArray[np.float64], parts: NDArray[np.int64], n_parts: int) -> NDArray[np.float64]:
    return np.stack([(parts == part) @ counts for part in range(n_parts)], axis=-2)


def _improve(
    parts: NDArray[np.int64],
    counts: NDArray[np.float64],
    shares: NDArray[np.float64],
    rng: np.random.Generator,
    all_learnt: bool,
) -> NDArray[np.int64]:
    """The best of many moves and swaps, again and again."""
    n_groups, n_parts = len(parts), len(shares)
    idle = 0
    for _ in range(_ROUNDS):
        first, second = rng.integers(n_groups, size=(2, _PROPOSALS))
        swaps = rng.random(_PROPOSALS) < 0.5
        source = parts[first]
        to = np.where(swaps, parts[second], rng.integers(n_parts, size=_PROPOSALS))
        held = _held(counts, parts, n_parts)
        losses = _part_losses(held, shares, np.arange(n_parts), all_learnt)
        moved = counts[first] - np.where(swaps[:, None], counts[second], 0)
        without, with_it = held[source] - moved, held[to] + moved
        without[np.abs(without) < 1e-12] = 0
        change = _part_losses(without, shares, source, all_learnt) - losses[source]
        change += _part_losses(with_it, shares, to, all_learnt) - losses[to]
        change[source == to] = 0
        best = int(change.argmin())
        if change[best] < -1e-12:
            idle = 0
            parts = parts.copy()
            parts[first[best]] = to[best]
            if swaps[best]:
                parts[second[best]] = source[best]
        elif (idle := idle + 1) == _PATIENCE:
            break
    return parts


PARTS = ("train", "valid", "test")
Column = tuple[NDArray[np.int64], list[str]]
"""Which word stands in each row, -1 for none; and the words."""


@dataclass(slots=True, eq=False)
class LabeledCells:
    """Cells with a label, and what is known of them."""

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
    """Part of each cell; cells without a group are one group."""
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


@dataclass(frozen=True, slots=True, eq=False)
class Split:
    """Cells learnt from, cells that choose the best step, and cells that are only tested on."""

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
    """Rows to learn from, to choose by and to test on."""
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
    """Splits whose test parts cover every labeled cell once."""
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
    """Groups with cells in two parts of a split, by pair such as "train/test"; empty where no group leaks."""
    return _shared({name: getattr(split, name) for name in PARTS}, distinct_words(groups, "groups"))


def check_classes(split: Split, codes: ArrayLike, classes: Sequence[str], *, allow_unknown: bool = False) -> None:
    """Refuse a split that learns fewer than two classes, or that tests classes it does not learn."""
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


Ints = NDArray[np.int64]


@dataclass(frozen=True, slots=True, eq=False)
class GeneParts:
    """Genes learnt from, genes that choose the best step, and genes that are only tested on."""

    train: Ints
    valid: Ints
    test: Ints

    @property
    def known(self) -> Ints:
        """Rows whose class the training knows of, to learn or to choose by; sorted."""
        return np.sort(np.concatenate([self.train, self.valid]))


def draw_gene_folds(
    codes: ArrayLike, n_folds: int, *, valid: float = 0.1, classes: Sequence[str] = (), seed: int = 0
) -> list[GeneParts]:
    """Folds with the classes evenly spread; every gene is held out once."""
    check_range("n_folds", n_folds, low=2)
    codes_n = np.asarray(codes, dtype=np.int64)
    counts = np.bincount(codes_n, minlength=len(classes))
    few = np.flatnonzero(counts < n_folds)
    if len(few):
        names = [str(name) for name in classes] or [str(code) for code in range(len(counts))]
        fewer = f", or pass n_folds={counts.min()}" if counts.min() > 1 else ""
        told = ", ".join(f"{names[code]!r} {counts[code]:,}" for code in few)
        msg = (
            f"Too few genes that occur in the cells for {n_folds} folds: {told}. Every fold holds out at least one "
            f"gene of each class; give more genes{fewer}."
        )
        raise GeneListError(msg)
    fold_of = deal_folds(codes_n, n_folds, np.random.default_rng([seed, 0]))
    return [
        _with_valid(
            codes_n, fold_of != fold, np.flatnonzero(fold_of == fold), valid, np.random.default_rng([seed, fold + 1])
        )
        for fold in range(n_folds)
    ]


def split_genes(
    codes: ArrayLike, *, valid: float = 0.1, test: float = 0.0, classes: Sequence[str] = (), seed: int = 0
) -> GeneParts:
    """Genes drawn into parts with the shares of the classes kept; every class keeps a gene to learn from."""
    codes_n = np.asarray(codes, dtype=np.int64)
    rng = np.random.default_rng([seed, 0])
    held_out = np.zeros(len(codes_n), dtype=bool)
    size = round(test * len(codes_n))
    n_classes = len(np.unique(codes_n))
    if test and not 0 < size <= len(codes_n) - n_classes:
        named = f" of {', '.join(map(str, classes))}" if classes else ""
        msg = (
            f"test={test} of {len(codes_n):,} genes{named} is {size:,}; it takes at least one gene, and one of each "
            "class must be left to learn from. Give more genes, or another share."
        )
        raise GeneListError(msg)
    if size:
        held_out = draw_stratified(codes_n, (size,), rng) == 1
    share = min(valid / (1 - test), 1.0)
    return _with_valid(codes_n, ~held_out, np.flatnonzero(held_out), share, rng)


def _with_valid(
    codes: Ints, is_known: NDArray[np.bool_], test: NDArray[np.intp], valid: float, rng: np.random.Generator
) -> GeneParts:
    """Parts with a share of the genes that are not held out cut off; never the last gene of a class."""
    known = np.flatnonzero(is_known)
    n_free = len(known) - len(np.unique(codes[known]))
    size = min(round(valid * len(known)), n_free)
    chosen = np.zeros(len(known), dtype=bool)
    if size:
        chosen = draw_stratified(codes[known], (size,), rng) == 1
    return GeneParts(known[~chosen].astype(np.int64), known[chosen].astype(np.int64), test.astype(np.int64))


def draw_rows(
    cells: Cells, codes: NDArray[np.int64], options: SplitOptions, *, groups: str | None = None, ids: str | None = None
) -> Split:
    """Rows of the tokenized cells to learn from, to choose by and to test on."""
    attributes = {name: np.asarray(cells.column(name)) for name in options.balance}
    return draw_split(
        codes,
        options,
        groups=None if groups is None else np.asarray(cells.column(groups)),
        ids=None if ids is None else np.asarray(cells.column(ids)),
        attributes=attributes or None,
    )


def given_rows(parts: Split, codes: NDArray[np.int64], groups: Any, options: SplitOptions) -> Split:
    """A given split without the cells that are not used; refused if it leaks, unless that is allowed."""
    rows = {name: getattr(parts, name) for name in PARTS}
    parts = replace(parts, **{name: found[codes[found] >= 0] for name, found in rows.items()})
    if groups is None:
        return parts
    shared = shared_groups(parts, np.asarray(groups))
    if shared and not options.allow_leakage:
        pair, names = next(iter(shared.items()))
        told = ", ".join(map(repr, names[:5])) + (", ..." if len(names) > 5 else "")
        msg = f"{len(names)} groups of split_rows are in both of {pair}: {told}. Mend it, or pass allow_leakage=True."
        raise LeakageError(msg)
    return replace(parts, shared_groups=shared)


def targets_of(estimator: Any, cells: Cells, label: Any, *, by_cell: bool) -> Any:
    """What an estimator would learn about opened cells; its `codes` are what they are split by."""
    ways = {"by_cell": by_cell} if "by_cell" in inspect.signature(estimator.targets).parameters else {}
    return estimator.targets(cells, label, **ways)
