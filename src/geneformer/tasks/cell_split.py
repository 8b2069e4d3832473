"""Cells drawn one by one: at random, or with the shares of the classes kept."""

import numpy as np
from numpy.typing import NDArray

from geneformer.errors import RareClassError


def draw_random(codes: NDArray[np.int64], sizes: tuple[int, ...], rng: np.random.Generator) -> NDArray[np.int64]:
    """Part of each cell, ``(n,)``: 0 for learning, which gets a cell of every class, 1 and up for `sizes`.

    Parameters
    ----------
    codes
        Class of each cell, ``(n,)``.
    sizes
        Cells of each held-out part.
    rng
        Draws the cells.

    Raises
    ------
    RareClassError
        Too few cells are left when one of every class is learnt from.
    """
    order = rng.permutation(len(codes))
    _, first = np.unique(codes[order], return_index=True)
    free = np.delete(order, first)
    _refuse_few(len(free), sizes, len(first))
    parts = np.zeros(len(codes), dtype=np.int64)
    parts[free[: sum(sizes)]] = np.repeat(np.arange(len(sizes)) + 1, sizes)
    return parts


def draw_stratified(codes: NDArray[np.int64], sizes: tuple[int, ...], rng: np.random.Generator) -> NDArray[np.int64]:
    """Part of each cell, ``(n,)``: 0 for learning, which gets a cell of every class, 1 and up for `sizes`.

    Cells are given to the classes in proportion and the remainder goes to the largest fractions. Classes with fewer
    cells than parts give what they can.

    Parameters
    ----------
    codes
        Class of each cell, ``(n,)``.
    sizes
        Cells of each held-out part.
    rng
        Draws the cells.

    Raises
    ------
    RareClassError
        Too few cells are left when one of every class is learnt from.
    """
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
    """Fold of each cell, ``(n,)``; neither folds nor the cells of one class in them differ by more than one.

    Parameters
    ----------
    codes
        Class of each cell, ``(n,)``.
    n_folds
        Number of folds.
    rng
        Draws the cells.
    """
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
