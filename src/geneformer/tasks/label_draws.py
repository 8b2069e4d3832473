"""Draws of cells and genes that come out as those of the published package: same seeds, same random sources."""

import math
import random
import warnings
from collections.abc import Mapping, Sequence
from itertools import islice
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from geneformer.data.row_order import SEED, drawn_rows
from geneformer.errors import GeneformerWarning, GeneListError, MissingExtraError, NoCellsError, RareClassError
from geneformer.tasks.cell_split import draw_stratified

Ints = NDArray[np.int64]


def without_rare(values: ArrayLike, threshold: float) -> Ints:
    """Rows whose value is held by more than a share of the rows.

    Parameters
    ----------
    values
        Value of each row, ``(n,)``.
    threshold
        Values of this share of the rows or less are left out.

    Raises
    ------
    NoCellsError
        Every value is that rare.
    """
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
    """Rows to learn from and rows held out, as `datasets.Dataset.train_test_split` with seed 42 gives them.

    Parameters
    ----------
    n
        Rows.
    share
        Share held out, rounded up.
    strata
        Value of each row whose shares are kept on both sides, ``(n,)``.

    Raises
    ------
    RareClassError
        Nothing would be left on one of the sides.
    """
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
    """Genes to learn from, to validate with and to test on, of each fold.

    Every gene is held out once; scikit-learn draws, with seed 0. Held-out genes are divided once more with the shares
    of the classes kept. A fold that holds out a single gene of a class, or too few to divide, validates with all.

    Parameters
    ----------
    codes
        Class of each gene, ``(n,)``.
    n_folds
        Folds; one gene in so many is held out.
    test_share
        Share of the held-out genes that are tested on.
    classes
        Names of the classes, for messages.
    first
        Folds wanted; all by default.

    Warns
    -----
    GeneformerWarning
        A fold without genes to test on.

    Raises
    ------
    GeneListError
        A class has fewer genes than there are folds.
    """
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
    """Classes of the genes that are kept so that two classes occur about equally often.

    Genes of the more frequent class are taken away at random until the ratio of occurrences is between 0.8 and 1.25;
    of `trials` draws the first that reaches it, or the one closest to 1.

    Parameters
    ----------
    counts
        Occurrences of each token id.
    class_of
        Class, 0 or 1, of each token id.
    trials
        Draws made at most.

    Raises
    ------
    GeneListError
        One class does not occur at all.
    """

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
