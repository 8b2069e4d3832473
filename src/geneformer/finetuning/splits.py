"""Which cells or genes are trained on and which are held out, and whether that is fair."""

import itertools
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from geneformer.display import Summarized, Summary
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

PARTS = ("train", "valid", "test")

Ints = NDArray[np.int64]
Column = tuple[Ints, list[str]]
"""Which of the names stands in each row, -1 for none; and the names."""

Labels = Mapping[str, tuple[Ints, Sequence[str]]]
"""Class of each cell, -1 for none, and the classes, by column: each part of a split by groups should have every one."""


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class Split(Summarized):
    """Rows of cells, or genes, trained on, of those that choose the best step, and of those only tested on."""

    train: Ints
    valid: Ints
    test: Ints
    method: str
    shared_groups: dict[str, tuple[str, ...]] = field(default_factory=dict)
    trials: tuple[dict[str, Any], ...] = ()

    def summary_of(self) -> Summary:
        """How many rows each part has."""
        return Summary(
            title=f"{type(self).__name__} ({self.method})",
            facts=[(name, f"{len(rows):,}") for name, rows in zip(PARTS, self.parts, strict=True)],
        )

    @property
    def learnt(self) -> Ints:
        """Rows that are not tested on, sorted."""
        return np.sort(np.concatenate([self.train, self.valid]))

    @property
    def parts(self) -> tuple[Ints, ...]:
        """The rows of every part, in the order of `PARTS`."""
        return self.train, self.valid, self.test


def draw_split(
    codes: ArrayLike,
    options: SplitOptions,
    *,
    groups: ArrayLike | None = None,
    ids: ArrayLike | None = None,
    attributes: Mapping[str, ArrayLike] | None = None,
    classes: Sequence[str] | None = None,
    labels: Labels | None = None,
) -> Split:
    """Rows to train on, to choose the best step with and to test on."""
    cells = _labeled_cells(codes, groups=groups, ids=ids, attributes=attributes, classes=classes, labels=labels)
    if cells.groups is not None and (cells.groups[0] < 0).any():
        _warn(f"{(cells.groups[0] < 0).sum():,} labeled cells have no group.")
    method = _method(cells, options)
    trials: list[dict[str, Any]] = []
    if method == "group":
        part_of = _draw_groups(cells, options)
    elif method == "ids":
        part_of = _take_listed(cells, options)
    elif method == "balanced":
        part_of, trials = _draw_balanced(cells, options)
    else:
        part_of = _draw_cells(cells, options, method)
    parts = [np.flatnonzero(part_of == part) for part in range(len(PARTS))]
    shared = {} if cells.groups is None else _shared(parts, cells.groups)
    if shared:
        leak = _leak(shared, "have cells")
        if not options.allow_leakage:
            msg = f'{leak} Scores come out too high. Pass method="group", mend the lists, or allow_leakage=True.'
            raise LeakageError(msg)
        _warn(f"{leak} Scores come out too high.")
    trained = np.unique(cells.codes[parts[0]])
    if len(trained) < 2 <= len(cells.counts):
        msg = (
            f"All {len(parts[0]):,} cells to learn from are {cells.classes[trained[0]]!r}; the other "
            f"{len(cells.counts) - 1} classes are held out or left out. Learn from cells of at least two classes."
        )
        raise ConstantLabelError(msg)
    return cells.split(part_of, method, shared_groups=shared, trials=tuple(trials))


def draw_folds(
    codes: ArrayLike,
    n_folds: int,
    *,
    groups: ArrayLike | None = None,
    valid: float = 0.1,
    seed: int = 0,
    classes: Sequence[str] | None = None,
    labels: Labels | None = None,
) -> list[Split]:
    """Splits whose test parts cover every labeled cell once."""
    cells = _labeled_cells(codes, groups=groups, classes=classes, labels=labels)
    n_cells = len(cells.codes)
    check_range("n_folds", n_folds, low=2, high=n_cells)
    check_range("valid", valid, low=0.0, high=1.0)
    if valid + 1 / n_folds > 1 - 1e-9:
        msg = f"valid={valid} and one of {n_folds} folds leave no cells to learn from. Lower valid, or use more folds."
        raise OutOfRangeError(msg)
    if cells.groups is None:
        if cells.lone:
            msg = (
                f"Classes with one cell: {_listed(cells.lone)}. It cannot be both learnt and tested. Drop rare classes "
                "first."
            )
            raise RareClassError(msg)
        folds = _deal_folds(cells.codes, n_folds, np.random.default_rng(seed))
    else:
        folds = _deal_groups(cells, [1 / n_folds] * n_folds, seed=seed, all_trained=False)
        _refuse_unlearnt(cells, folds)
    method, splits = "stratified" if cells.groups is None else "group", []
    for fold in range(n_folds):
        part_of = np.where(folds == fold, 2, 0)
        rest = np.flatnonzero(part_of == 0)
        if valid and cells.groups is None:
            rng = np.random.default_rng([seed, fold])
            part_of[rest] = draw_stratified(cells.codes[rest], (max(1, round(valid * n_cells)),), rng)
        elif valid and cells.groups is not None:
            share = valid * n_cells / len(rest)
            learnt = cells.take(rest)
            part_of[rest] = _deal_groups(learnt, [1 - share, share], seed=seed)
            _refuse_lacking(learnt, part_of[rest], (0, 1), f" once fold {fold + 1} of {n_folds} is left out")
        splits.append(cells.split(part_of, method))
    return splits


def draw_rows(
    cells: Cells,
    encoded: Any,
    options: SplitOptions,
    *,
    groups: str | None = None,
    ids: str | None = None,
) -> Split:
    """A split of opened cells by what is learnt about them and by their columns."""
    return draw_split(
        encoded.codes,
        options,
        groups=None if groups is None else np.asarray(cells.column(groups)),
        ids=None if ids is None else np.asarray(cells.column(ids)),
        attributes={name: np.asarray(cells.column(name)) for name in options.balance} or None,
        classes=encoded.classes,
        labels=encoded.labels,
    )


def given_rows(split: Split, codes: Ints, groups: Any, options: SplitOptions) -> Split:
    """A given split without the cells that are not used; refused if it leaks, unless that is allowed."""
    train, valid, test = (rows[codes[rows] >= 0] for rows in split.parts)
    split = replace(split, train=train, valid=valid, test=test)
    shared = {} if groups is None else shared_groups(split, np.asarray(groups))
    if shared and not options.allow_leakage:
        msg = f"{_leak(shared, 'of split_rows are')} Mend it, or pass allow_leakage=True."
        raise LeakageError(msg)
    return replace(split, shared_groups=shared)


def shared_groups(split: Split, groups: ArrayLike) -> dict[str, tuple[str, ...]]:
    """Groups with cells in two parts of a split, by pair such as "train/test"; empty where no group leaks."""
    return _shared(split.parts, distinct_words(groups, "groups"))


def _shared(parts: Sequence[Ints], groups: Column) -> dict[str, tuple[str, ...]]:
    place, names = groups
    present = {name: np.unique(place[rows][place[rows] >= 0]) for name, rows in zip(PARTS, parts, strict=True)}
    both = {f"{a}/{b}": np.intersect1d(present[a], present[b]) for a, b in itertools.combinations(PARTS, 2)}
    return {pair: tuple(names[i] for i in places) for pair, places in both.items() if len(places)}


def _leak(shared: Mapping[str, tuple[str, ...]], what: str) -> str:
    pair, names = next(iter(shared.items()))
    return f"{len(names)} groups {what} in both of {pair}: {_listed(names)}."


# Genes


def draw_gene_folds(
    codes: ArrayLike, n_folds: int, *, valid: float = 0.1, classes: Sequence[str] = (), seed: int = 0
) -> list[Split]:
    """Folds with the classes evenly spread; every gene is held out once."""
    check_range("n_folds", n_folds, low=2)
    codes_n = np.asarray(codes, dtype=np.int64)
    counts = np.bincount(codes_n, minlength=len(classes))
    few = np.flatnonzero(counts < n_folds)
    if len(few):
        names = [str(name) for name in classes] or [str(code) for code in range(len(counts))]
        fewer = f", or pass --folds {counts.min()} (n_folds={counts.min()})" if counts.min() > 1 else ""
        listed = ", ".join(f"{names[code]!r} {counts[code]:,}" for code in few)
        msg = (
            f"Too few genes that occur in the cells for {n_folds} folds: {listed}. Every fold holds out at least one "
            f"gene of each class; give more genes{fewer}."
        )
        raise GeneListError(msg)
    fold_of = _deal_folds(codes_n, n_folds, np.random.default_rng([seed, 0]))
    return [
        _split_of_genes(codes_n, fold_of == fold, valid, np.random.default_rng([seed, fold + 1]))
        for fold in range(n_folds)
    ]


def split_genes(
    codes: ArrayLike, *, valid: float = 0.1, test: float = 0.0, classes: Sequence[str] = (), seed: int = 0
) -> Split:
    """Genes drawn into parts with the shares of the classes kept; every class keeps a gene to train on."""
    codes_n = np.asarray(codes, dtype=np.int64)
    rng = np.random.default_rng([seed, 0])
    size = round(test * len(codes_n))
    if test and not 0 < size <= len(codes_n) - len(np.unique(codes_n)):
        named = f" of {', '.join(map(str, classes))}" if classes else ""
        msg = (
            f"test={test} of {len(codes_n):,} genes{named} is {size:,}; it takes at least one gene, and one of each "
            "class must be left to learn from. Give more genes, or another share."
        )
        raise GeneListError(msg)
    return _split_of_genes(codes_n, draw_stratified(codes_n, (size,), rng) == 1, min(valid / (1 - test), 1.0), rng)


def _split_of_genes(codes: Ints, is_tested: NDArray[np.bool_], valid: float, rng: np.random.Generator) -> Split:
    """Parts with a share of the other genes for validation; never the last gene of a class."""
    rest = np.flatnonzero(~is_tested)
    size = min(round(valid * len(rest)), len(rest) - len(np.unique(codes[rest])))
    is_valid = draw_stratified(codes[rest], (size,), rng) == 1
    return Split(rest[~is_valid], rest[is_valid], np.flatnonzero(is_tested), method="stratified")


# Cells that have a label, and how they are split


@dataclass(frozen=True, slots=True, eq=False)
class _LabeledCells:
    rows: Ints
    codes: Ints
    classes: Sequence[str]
    groups: Column | None
    ids: Column | None
    attributes: Mapping[str, NDArray[Any]]
    labels: Labels

    def take(self, places: Ints) -> "_LabeledCells":
        """Some of them."""
        of = {name: (codes[places], classes) for name, (codes, classes) in self.labels.items()}
        groups = None if self.groups is None else (self.groups[0][places], self.groups[1])
        return replace(self, rows=self.rows[places], codes=self.codes[places], groups=groups, labels=of)

    @property
    def by_group(self) -> tuple[list[str], Ints]:
        """Names of the groups that occur, and which of them each cell is in; cells without a group are one."""
        place, names = self.groups or (np.zeros(len(self.rows), dtype=np.int64), ["all cells"])
        present, group = np.unique(place, return_inverse=True)
        return [names[i] if i >= 0 else "cells without a group" for i in present], group

    @property
    def counts(self) -> dict[int, int]:
        """Cells of every class that occurs."""
        codes, numbers = np.unique(self.codes, return_counts=True)
        return dict(zip(codes.tolist(), numbers.tolist(), strict=True))

    @property
    def lone(self) -> list[str]:
        """Classes with a single cell."""
        return [self.classes[code] for code, number in self.counts.items() if number == 1]

    def split(self, part_of: Ints, method: str, **about: Any) -> Split:
        """Parts of the labeled cells, -1 for none, as rows of all cells."""
        train, valid, test = (self.rows[part_of == part] for part in range(len(PARTS)))
        return Split(train, valid, test, method=method, **about)

    def require_ids(self, method: str) -> Column:
        if self.ids is None:
            msg = f'method="{method}" needs the id of each cell, such as its donor. Pass ids or groups.'
            raise OptionError(msg)
        return self.ids


def _labeled_cells(
    codes: ArrayLike,
    *,
    groups: ArrayLike | None = None,
    ids: ArrayLike | None = None,
    attributes: Mapping[str, ArrayLike] | None = None,
    classes: Sequence[str] | None = None,
    labels: Labels | None = None,
) -> _LabeledCells:
    codes_n = np.asarray(codes, dtype=np.int64)
    rows = np.flatnonzero(codes_n >= 0)
    if not len(rows):
        msg = f"None of the {len(codes_n):,} cells has a label, so there is nothing to split."
        raise MissingLabelError(msg)

    def of_labeled(name: str, values: NDArray[Any]) -> NDArray[Any]:
        if len(values) != len(codes_n):
            n = len(values)
            msg = f"{name} has {n:,} values for {len(codes_n):,} cells. Give one per cell, in the order of the labels."
            raise LabelError(msg)
        labeled: NDArray[Any] = values[rows]
        return labeled

    columns: dict[str, Column] = {}
    for name, values in (("groups", groups), ("ids", ids)):
        if values is not None:
            place, names = distinct_words(values, name)
            columns[name] = (of_labeled(name, place), names)
    named = [str(code) for code in range(int(codes_n.max()) + 1)] if classes is None else classes
    of = {"label": (codes_n, named)} if labels is None else labels
    return _LabeledCells(
        rows=rows,
        codes=codes_n[rows],
        classes=named,
        labels={name: (of_labeled(name, places), words) for name, (places, words) in of.items()},
        groups=columns.get("groups"),
        ids=columns.get("ids", columns.get("groups")),
        attributes={name: of_labeled(name, np.asarray(values)) for name, values in (attributes or {}).items()},
    )


def _method(cells: _LabeledCells, options: SplitOptions) -> str:
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
    _warn(
        f"{len(few)} classes have fewer cells than there are parts ({cells.classes[rarest]!r}: {few[rarest]}), so the "
        "cells are split at random. Drop rare classes for a split with the shares of the classes kept."
    )
    return "random"


def _warn(message: str) -> None:
    warnings.warn(message, GeneformerWarning, stacklevel=4)


def _listed(names: Sequence[str]) -> str:
    return ", ".join(map(repr, names[:5])) + (", ..." if len(names) > 5 else "")


# Cell by cell. scikit-learn's StratifiedShuffleSplit and StratifiedKFold draw alike, but refuse a class of one cell,
# parts of fewer cells than there are classes, and folds where every class is smaller; real labels have all of these.


def _draw_cells(cells: _LabeledCells, options: SplitOptions, method: str) -> Ints:
    if cells.lone:
        _warn(
            f"{len(cells.lone)} classes have one cell, which is learnt from and cannot be tested: "
            f"{_listed(cells.lone)}."
        )
    sizes = tuple(max(1, round(share * len(cells.codes))) if share else 0 for share in (options.valid, options.test))
    draw = _draw_random if method == "random" else draw_stratified
    return draw(cells.codes, sizes, np.random.default_rng(options.seed))


def _draw_random(codes: Ints, sizes: tuple[int, ...], rng: np.random.Generator) -> Ints:
    """Part of each cell, ``(n,)``: 0 to train on, with a cell of every class, 1 and up for `sizes`."""
    order = rng.permutation(len(codes))
    _, first = np.unique(codes[order], return_index=True)
    free = np.delete(order, first)
    _check_sizes(len(free), sizes, len(first))
    parts = np.zeros(len(codes), dtype=np.int64)
    parts[free[: sum(sizes)]] = np.repeat(np.arange(len(sizes)) + 1, sizes)
    return parts


def draw_stratified(codes: Ints, sizes: tuple[int, ...], rng: np.random.Generator) -> Ints:
    """Part of each cell, ``(n,)``: 0 to train on, with a cell of every class, 1 and up for `sizes`.

    Every part takes of each class its share, rounded by largest remainder, equal remainders by lot.
    """
    _, place, counts = np.unique(codes, return_inverse=True, return_counts=True)
    _check_sizes(int((counts - 1).sum()), sizes, len(counts))
    parts = np.zeros(len(codes), dtype=np.int64)
    shuffled = rng.permutation(len(codes))
    by_class = np.split(shuffled[np.argsort(place[shuffled], kind="stable")], np.cumsum(counts)[:-1])
    used = np.zeros_like(counts)
    for part, size in enumerate(sizes, start=1):
        free, share = counts - 1 - used, size * counts / counts.sum()
        quotas = np.minimum(np.floor(share).astype(np.int64), free)
        lot = rng.random(len(counts))
        while quotas.sum() < size:
            remainder = np.where(quotas < free, share - quotas, -np.inf)
            quotas[np.lexsort((lot, -remainder))[0]] += 1
        for rows, start, number in zip(by_class, used, quotas, strict=True):
            parts[rows[start : start + number]] = part
        used += quotas
    return parts


def _deal_folds(codes: Ints, n_folds: int, rng: np.random.Generator) -> Ints:
    """Fold of each cell, ``(n,)``; neither folds nor the cells of one class in them differ by more than one."""
    shuffled = rng.permutation(len(codes))
    folds = np.empty(len(codes), dtype=np.int64)
    folds[shuffled[np.argsort(codes[shuffled], kind="stable")]] = np.arange(len(codes)) % n_folds
    return folds


def _check_sizes(n_free: int, sizes: tuple[int, ...], n_classes: int) -> None:
    if n_free < sum(sizes):
        msg = (
            f"{sum(sizes):,} cells are to be held out, but {n_free:,} are left when one cell of each of the "
            f"{n_classes:,} classes is learnt from. Drop rare classes, or hold out less."
        )
        raise RareClassError(msg)


# By whole groups. The best of 500 draws of ShuffleSplit over the groups is at least 1.5 times as far from the shares
# asked for as this search, over 100 times for 100 groups, and StratifiedGroupKFold, for folds alone, 1.0 to 1.6 times.

_EXHAUSTIVE = 20_000
"""Assignments that are all looked at."""

_EMPTY, _UNTRAINED, _ABSENT, _FORBIDDEN = 1e6, 10.0, 0.5, 100.0
"""Losses of a part without groups, of a class that is not trained on, and of all classes absent from one part: high
enough to hold out two donors of eight, one of each state, where the shares alone would hold out one; or so high that
the shares count only among the splits in which the fewest classes are absent."""


def _draw_groups(cells: _LabeledCells, options: SplitOptions) -> Ints:
    if cells.groups is None:
        msg = 'method="group" needs the group of each cell, such as its donor. Pass groups.'
        raise OptionError(msg)
    shares = {0: 1 - options.valid - options.test, 1: options.valid, 2: options.test}
    parts = [part for part, share in shares.items() if part == 0 or share]
    dealt = np.array(parts)[_deal_groups(cells, [shares[part] for part in parts], seed=options.seed)]
    _refuse_lacking(cells, dealt, parts)
    return dealt


def _in_turn(n: int) -> str:
    return (
        f"`geneformer classify cross-validate --folds {n}` (`gf.cross_validate(n_folds={n})`) tests every group in turn"
    )


def _deal_groups(cells: _LabeledCells, shares: Sequence[float], *, seed: int, all_trained: bool = True) -> Ints:
    """Part of each cell; cells without a group are one group."""
    present, group = cells.by_group
    if len(present) < len(shares):
        listed = ", ".join(map(repr, present))
        msg = (
            f"{len(present)} groups cannot be dealt out to {len(shares)} parts without one being on two sides: "
            f"{listed}. Use fewer parts (valid=0 or test=0), finer groups, or no groups. With valid=0, "
            f"{_in_turn(len(present))}."
        )
        raise LeakageError(msg)
    counts = _by_group(group, len(present), np.unique(cells.codes, return_inverse=True)[1])
    dealt = assign_groups(counts, shares, seed=seed, all_trained=all_trained)
    # The shares are what counts as long as every part has every class, and give way where it could have it.
    held = np.hstack([_by_group(group, len(present), codes) for codes, _ in cells.labels.values()] or [counts])
    n_parts = sum(held[dealt == part].any(axis=0).astype(int) for part in range(len(shares)))
    if (n_parts < np.minimum((held > 0).sum(axis=0), len(shares))).any():
        dealt = assign_groups(held, shares, seed=seed, all_trained=all_trained, absent=_FORBIDDEN)
    return dealt[group]


def _by_group(group: Ints, n_groups: int, codes: Ints) -> Ints:
    """Cells of every code, -1 for none, in every group, ``(G, C)``."""
    rows, n_codes = codes >= 0, int(codes.max(initial=-1)) + 1
    counts = np.bincount(group[rows] * n_codes + codes[rows], minlength=n_groups * n_codes)
    return counts.reshape(n_groups, n_codes)


def assign_groups(
    counts: ArrayLike, shares: ArrayLike, *, seed: int = 0, all_trained: bool = True, absent: float = _ABSENT
) -> Ints:
    """Part of each group, ``(G,)``, from its cells of every class, ``(G, C)``: the best of many, then of its moves."""
    counts_gc, shares_p = np.asarray(counts, dtype=np.float64), np.asarray(shares, dtype=np.float64)
    # The last column is all cells; it weighs as much as the classes together.
    content = np.column_stack([counts_gc / counts_gc.sum(axis=0), counts_gc.sum(axis=1) / counts_gc.sum()])
    penalties = absent, max(_UNTRAINED, 10 * absent) if all_trained else 0.0
    rng = np.random.default_rng(seed)
    n_groups, every_part = len(content), np.arange(len(shares_p))
    if len(shares_p) ** n_groups <= _EXHAUSTIVE:
        starts = rng.permutation(np.array(list(itertools.product(every_part, repeat=n_groups))))
    else:
        starts = _greedy(content, shares_p, rng)
    held = np.stack([(starts == part) @ content for part in every_part], axis=1)
    parts: Ints = starts[_part_losses(held, shares_p, every_part, penalties).sum(axis=1).argmin()]
    while True:
        held = np.stack([(parts == part) @ content for part in every_part])
        losses = _part_losses(held, shares_p, every_part, penalties)
        left = _part_losses(held[parts] - content, shares_p, parts, penalties) - losses[parts]
        joined = _part_losses(held + content[:, None], shares_p, every_part, penalties) - losses
        change = left[:, None] + joined
        change[np.arange(n_groups), parts] = 0
        group, part = np.unravel_index(change.argmin(), change.shape)
        if change[group, part] > -1e-9 * max(absent, 1):  # below, it may be rounding
            return parts
        parts[group] = part


def _part_losses(
    held: NDArray[np.float64], shares: NDArray[np.float64], parts: Ints, penalties: tuple[float, float]
) -> NDArray[np.float64]:
    """How far each part, ``(...)``, is from its share with what it holds, ``(..., C + 1)``."""
    squares = (held - shares[parts][..., None]) ** 2
    of_absent, of_untrained = penalties
    absent = held[..., :-1] < 1e-9  # rounding where a group was taken away
    loss: NDArray[np.float64] = squares[..., :-1].mean(axis=-1) + squares[..., -1]
    loss += _EMPTY * (held[..., -1] < 1e-9) + of_absent * absent.mean(axis=-1)
    loss += of_untrained * absent.sum(axis=-1) * (parts == 0)
    return loss


def _greedy(content: NDArray[np.float64], shares: NDArray[np.float64], rng: np.random.Generator) -> Ints:
    """Assignments from many random orders, ``(S, G)``: each group, large ones early, goes where it helps the most."""
    n_groups, n_columns = content.shape
    n_starts = int(np.clip(2**16 // n_groups, 64, 1024))
    weight = np.append(np.full(n_columns - 1, 1 / (n_columns - 1)), 1.0)
    order = np.argsort(-content.sum(axis=1) * rng.lognormal(size=(n_starts, n_groups)), axis=1, kind="stable")
    parts = np.zeros((n_starts, n_groups), dtype=np.int64)
    lacking = np.tile(shares[None, :, None], (n_starts, 1, n_columns))
    starts = np.arange(n_starts)
    for group in order.T:
        added = content[group]
        part = (((added[:, None] - 2 * lacking) * added[:, None]) @ weight).argmin(axis=1)
        parts[starts, group] = part
        lacking[starts, part] -= added
    return parts


def _refuse_lacking(cells: _LabeledCells, part_of: Ints, parts: Sequence[int], when: str = "") -> None:
    """Refuse parts without a class where each group is of one class, and parts of one class only: both deceive.

    A rare class that some groups have next to others is no reason to refuse.
    """
    names, group = cells.by_group
    for label, (codes, classes) in cells.labels.items():
        in_group = _by_group(group, len(names), codes) > 0
        in_part = _by_group(part_of, max(parts) + 1, codes)[list(parts)] > 0
        lacking = in_group.any(axis=0) & ~in_part.all(axis=0)
        deceives = in_group.sum(axis=1).max() < 2 or in_part.sum(axis=1).min() < 2
        if len(classes) < 2 or in_group.any(axis=0).sum() < 2 or not (lacking.any() and deceives):
            continue
        code = int(np.flatnonzero(lacking)[in_group[:, lacking].sum(axis=0).argmin()])
        having = [name for name, has in zip(names, in_group[:, code], strict=True) if has]
        n, which = len(having), ", ".join(PARTS[part] for part in parts)
        if n == 1:
            way = (
                f"What sets {classes[code]!r} apart cannot be told from what sets {having[0]!r} apart: add groups of "
                "that class, leave it out, or split cell by cell, which measures how well these groups are recognized "
                '(method="stratified", allow_leakage=True).'
            )
        else:
            way = f"Use fewer parts (valid=0); with valid=0, {_in_turn(n)}."
        msg = (
            f"Labels {label!r}: {classes[code]!r} is found in {n} of {len(names):,} groups ({_listed(having)}){when}, "
            f"and each of {len(parts)} parts ({which}) needs one: a part of one class measures nothing. {way}"
        )
        raise RareClassError(msg)


def _refuse_unlearnt(cells: _LabeledCells, folds: Ints) -> None:
    """Refuse folds that would test a class without learning it, before the first one is fitted."""
    names, group = cells.by_group
    for label, (codes, classes) in cells.labels.items():
        for code, name in enumerate(classes):
            rows = codes == code
            if rows.any() and np.ptp(folds[rows]) == 0:
                having = _listed([names[i] for i in np.unique(group[rows])])
                msg = (
                    f"Labels {label!r}: {name!r} ({rows.sum():,} cells) is found in one fold only (groups {having}), "
                    "so that it would be tested without being learnt. Leave it out (rare_below), or split by finer "
                    "groups."
                )
                raise UnknownClassError(msg)


# By ids


def _take_listed(cells: _LabeledCells, options: SplitOptions) -> Ints:
    """Part of each labeled cell whose id is listed, -1 for the others."""
    place, names = cells.require_ids("ids")
    place_of = {entry: i for i, entry in enumerate(names)}
    part_of = np.full(len(names) + 1, -1)
    for part, name in enumerate(PARTS):
        listed = getattr(options, f"{name}_ids")
        absent = [entry for entry in dict.fromkeys(listed) if entry not in place_of]
        if absent:
            msg = (
                f"{name}_ids names {len(absent)} ids that no cell has: {_listed(absent)}. There are {len(names):,} "
                f"ids, such as {', '.join(map(repr, names[:5]))}.{nearest(absent[0], names)}"
            )
            raise UnknownIdError(msg)
        part_of[[place_of[entry] for entry in listed]] = part
        if listed and not np.isin(place, [place_of[entry] for entry in listed]).any():
            msg = f"None of the cells of the {len(listed)} ids in {name}_ids has a label. List others, or label them."
            raise MissingLabelError(msg)
    parts: Ints = part_of[place]
    return parts


def _draw_balanced(cells: _LabeledCells, options: SplitOptions) -> tuple[Ints, list[dict[str, Any]]]:
    """Part of each labeled cell, by ids that do not differ in attributes, -1 for cells without an id; and all draws."""
    place, all_names = cells.require_ids("balanced")
    with_id = np.flatnonzero(place >= 0)
    if len(with_id) < len(place):
        _warn(f"{len(place) - len(with_id):,} labeled cells without an id are left out.")
    present, id_n = np.unique(place[with_id], return_inverse=True)
    names = [all_names[i] for i in present]
    has_class = np.zeros((len(names), len(cells.classes)), dtype=bool)
    has_class[id_n, cells.codes[with_id]] = True
    values = {}
    for name in options.balance:
        if name not in cells.attributes:
            listed = ", ".join(map(repr, cells.attributes)) or "none"
            msg = f"No attribute {name!r} to balance; given are {listed}.{nearest(name, cells.attributes)}"
            raise UnknownColumnError(msg)
        values[name] = _one_per_id(cells.attributes[name][with_id], id_n, names, name)
    if (has_class.sum(axis=1) == 1).all():
        values.setdefault("label", np.array(cells.classes, dtype=object)[has_class.argmax(axis=1)])
    part_of = np.zeros(len(names), dtype=np.int64)
    rows = []
    for part, share in ((2, options.test), (1, options.valid)):
        if not share:
            continue
        free = np.flatnonzero(part_of == 0)
        best, trials = balance_ids(
            {name: value[free] for name, value in values.items()},
            max(1, round(share * len(names))),
            has_class[free][:, has_class[free].any(axis=0)],
            options,
        )
        part_of[free[best.held_out]] = part
        rows += [trial.to_row(PARTS[part], [names[i] for i in free], trial is best) for trial in trials]
        if not best.passes(options.p_threshold):
            reached = ", ".join(f"{name} {p:.2g}" for name, p in best.p.items())
            _warn(
                f"None of {len(trials)} draws of the {PARTS[part]} ids reached p >= {options.p_threshold:g} in every "
                f"attribute; the best one is used (p: {reached})."
            )
    parts = np.full(len(place), -1)
    parts[with_id] = part_of[id_n]
    return parts, rows


def _one_per_id(values: NDArray[Any], id_n: Ints, ids: Sequence[str], name: str) -> NDArray[Any]:
    """Value of an attribute for each id, ``(m,)``."""
    import pandas as pd

    codes, _ = pd.factorize(pd.Series(values).astype(object), use_na_sentinel=True)
    _, first = np.unique(id_n, return_index=True)
    differing = np.flatnonzero(codes != codes[first][id_n])
    if len(differing):
        row = differing[0]
        msg = (
            f"Attribute {name!r} differs between cells of id {ids[id_n[row]]!r}: {values[first[id_n[row]]]} and "
            f"{values[row]}. Balance what belongs to the id, such as the age of a donor, or split by other ids."
        )
        raise LabelError(msg)
    values_m: NDArray[Any] = values[first]
    return values_m


@dataclass(frozen=True, slots=True, eq=False)
class Trial:
    """One draw of ids to hold out, and how the attributes differ between both sides."""

    number: int
    held_out: Ints
    p: dict[str, float]
    summary: dict[str, tuple[Any, Any]]

    @property
    def mean_p(self) -> float:
        """Mean of the p-values that are defined; 1 if none is."""
        defined = [p for p in self.p.values() if not np.isnan(p)]
        return float(np.mean(defined)) if defined else 1.0

    def passes(self, p_threshold: float) -> bool:
        """Whether no attribute differs between the sides."""
        return not any(p < p_threshold for p in self.p.values())

    def to_row(self, part: str, ids: Sequence[str], accepted: bool) -> dict[str, Any]:
        """The draw as the row of a table."""
        row = {
            "part": part,
            "trial": self.number,
            "accepted": accepted,
            "held_out": tuple(ids[i] for i in self.held_out),
        }
        for name, (train, held) in self.summary.items():
            row |= {f"{name}_train": train, f"{name}_held_out": held, f"{name}_p": self.p[name]}
        return row | {"mean_p": self.mean_p}


def balance_ids(
    attributes: Mapping[str, ArrayLike], size: int, has_class: NDArray[np.bool_], options: SplitOptions
) -> tuple[Trial, list[Trial]]:
    """The first draw of ids to hold out that passes, else the one with the highest mean p; and all draws."""
    columns = {name: _numbers_or_texts(values, name) for name, values in attributes.items()}
    trials: list[Trial] = []
    for number in range(options.max_trials):
        held_out = _draw_ids(has_class, size, np.random.default_rng([options.seed, number]))
        is_held = np.isin(np.arange(len(has_class)), held_out)
        compared = {name: _compare(values[~is_held], values[is_held]) for name, values in columns.items()}
        p = {name: p for name, (p, _) in compared.items()}
        trials.append(Trial(number, held_out, p, {name: sides for name, (_, sides) in compared.items()}))
        if trials[-1].passes(options.p_threshold):
            return trials[-1], trials
    return max(trials, key=lambda trial: trial.mean_p), trials


def _draw_ids(has_class: NDArray[np.bool_], size: int, rng: np.random.Generator) -> Ints:
    """Places of ids to hold out: one per class first, and never the last id of a class."""

    def one_per_class(order: Ints) -> list[int]:
        """The first ids that have a class not met so far, rarest classes first."""
        chosen: list[int] = []
        for code in np.argsort(has_class.sum(axis=0), kind="stable"):
            having = order[has_class[order, code]]
            if len(having) and not has_class[chosen, code].any():
                chosen.append(int(having[0]))
        return chosen

    order = rng.permutation(len(has_class))
    order = order[~np.isin(order, one_per_class(order))]
    if not len(order):
        msg = (
            f"All {len(has_class):,} ids are needed to learn {has_class.shape[1]} classes. A balanced split takes at "
            "least two ids per class; give more ids, or drop rare classes."
        )
        raise RareClassError(msg)
    forced = one_per_class(order)
    others = order[~np.isin(order, forced)][: max(size - len(forced), 0)]
    return np.sort(np.concatenate([forced, others])).astype(np.int64)


def _numbers_or_texts(values: ArrayLike, name: str) -> NDArray[Any]:
    """Numbers as float64, everything else as texts; booleans are texts."""
    import pandas as pd

    column = pd.Series(values)
    if isinstance(column.dtype, pd.CategoricalDtype):
        column = column.astype(object)
    kind = pd.api.types.infer_dtype(column, skipna=True)
    if kind in ("integer", "floating", "mixed-integer-float", "decimal"):
        return np.asarray(pd.to_numeric(column), dtype=np.float64)
    if kind.startswith("mixed"):
        some = [repr(value) for value in dict.fromkeys(column.dropna().tolist())][:5]
        msg = f"Attribute {name!r} mixes texts and numbers: {', '.join(some)}. Make it all numbers or all texts."
        raise LabelError(msg)
    return column.astype(object).map(lambda value: str(value).strip(), na_action="ignore").fillna("missing").to_numpy()


def _compare(train: NDArray[Any], held: NDArray[Any]) -> tuple[float, tuple[Any, Any]]:
    """P-value for no difference, and both sides in short: means of numbers, counts of texts."""
    from scipy import stats

    if train.dtype == np.float64:
        sides = [side[~np.isnan(side)] for side in (train, held)]
        p = float(stats.ranksums(*sides).pvalue) if all(map(len, sides)) else np.nan
        before, after = (float(side.mean()) if len(side) else None for side in sides)
        return p, (before, after)
    values = sorted({*train, *held})
    counts = [{value: int((side == value).sum()) for value in values} for side in (train, held)]
    with np.errstate(divide="ignore"):  # a value that is not held out at all: p is 0
        expected = np.array(list(counts[1].values())) * len(train) / len(held)
        p = float(stats.chisquare(list(counts[0].values()), expected).pvalue) if len(values) > 1 else 1.0
    return p, (counts[0], counts[1])
