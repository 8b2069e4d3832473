"""Which genes are learnt from and which are held out."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from geneformer.errors import GeneListError
from geneformer.options._check import check_range
from geneformer.tasks.cell_split import deal_folds, draw_stratified

Ints = NDArray[np.int64]


@dataclass(frozen=True, slots=True, eq=False)
class GeneParts:
    """Genes learnt from, genes that choose the best step, and genes that are only tested on.

    Attributes
    ----------
    train, valid, test
        Rows, sorted, int64.
    """

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
    """Folds with the classes evenly spread; every gene is held out once.

    Parameters
    ----------
    codes
        Class of each gene, ``(n,)``.
    n_folds
        Number of folds.
    valid
        Share of the other genes of a fold that choose the best step; 0 for none.
    classes
        Names of the classes, for messages.
    seed
        Seed of the draw.

    Raises
    ------
    GeneListError
        A class has fewer genes than there are folds.

    Examples
    --------
    >>> from geneformer.tasks.gene_folds import draw_gene_folds
    >>> folds = draw_gene_folds([0, 0, 0, 1, 1, 1], 3, valid=0)
    >>> [len(fold.train) for fold in folds], sorted(row for fold in folds for row in fold.test.tolist())
    ([4, 4, 4], [0, 1, 2, 3, 4, 5])
    """
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
    """Genes drawn into parts with the shares of the classes kept; every class keeps a gene to learn from.

    Parameters
    ----------
    codes
        Class of each gene, ``(n,)``.
    valid, test
        Shares of all genes.
    classes
        Names of the classes, for messages.
    seed
        Seed of the draw.

    Raises
    ------
    GeneListError
        Too few genes to test on any.
    """
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
