"""Value and rank of every gene in a cell, and genes taken out of the input to be predicted."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from geneformer.data.dataset import Packed, TokenizedDataset
from geneformer.errors import DatasetError

Ints = NDArray[np.int64]

CHUNK = 2048
"""Cells looked at together."""

PRIOR = 5.0
"""Genes are as likely to be like all others as this many cells say."""


@dataclass(frozen=True, slots=True, eq=False)
class GeneValues:
    """Genes of packed cells, one entry for each gene that a cell expresses.

    Attributes
    ----------
    cells
        Cell of each gene within the batch, ``(p,)``.
    genes
        Its token id, ``(p,)``.
    values
        Its value and rank, float32 ``(p, 2)``: the logarithm of 1 plus its counts per 10,000; and its place in the rank
        value encoding as a fraction of the genes that are read, from 0 for the highest to 1.
    removed
        Whether it was taken out of the input, ``(p,)``.
    """

    cells: Ints
    genes: Ints
    values: NDArray[np.float32]
    removed: NDArray[np.bool_]


def check_counts(tokens: TokenizedDataset) -> None:
    """Refuse tokens that do not tell the counts behind them.

    Raises
    ------
    DatasetError
        Tokens without counts.
    """
    if not tokens.has_counts:
        msg = (
            "The tokenized dataset has no `counts`, so the values of its genes are not known. Tokenize with "
            "counts=True (--counts), or pass raw counts."
        )
        raise DatasetError(msg)


def hide_genes(
    packed: Packed, special: NDArray[Any], share: float, seeds: Sequence[Sequence[int]]
) -> tuple[Packed, GeneValues]:
    """Cells without a share of their genes, those behind moving up; and value and rank of all their genes.

    Which genes go depends on the cell's own seed alone, not on the batch. Of every cell with several genes at least one
    goes and one stays.

    Parameters
    ----------
    packed
        Cells end to end, with counts.
    special
        Token ids that are no genes, ``(s,)``.
    share
        Chance of each gene to go; 0 keeps all.
    seeds
        Seed of each cell, ``(B,)``.
    """
    ids, lengths = packed.input_ids, np.diff(packed.cu_seqlens)
    cells = np.repeat(np.arange(len(lengths)), lengths)
    places = np.flatnonzero(~np.isin(ids, special))
    n_genes = np.bincount(cells[places], minlength=len(lengths))
    starts = np.cumsum(n_genes) - n_genes
    rank = (np.arange(len(places)) - np.repeat(starts, n_genes) + 0.5) / np.repeat(n_genes, n_genes)
    counts = np.zeros(len(places)) if packed.counts is None else packed.counts[places]
    removed = np.zeros(len(places), dtype=bool)
    for start, n, seed in zip(starts, n_genes, seeds if share else (), strict=bool(share)):
        removed[start : start + n] = _drawn(int(n), share, seed)
    kept = np.ones(len(ids), dtype=bool)
    kept[places[removed]] = False
    kept_lengths = np.bincount(cells[kept], minlength=len(lengths))
    visible = Packed(ids[kept], np.concatenate([[0], np.cumsum(kept_lengths)]).astype(np.int64))
    values = np.column_stack([np.log1p(counts), rank]).astype(np.float32)
    return visible, GeneValues(cells[places], ids[places].astype(np.int64), values, removed)


def _drawn(n: int, share: float, seed: Sequence[int]) -> NDArray[np.bool_]:
    """Which of the genes of a cell go, ``(n,)``."""
    if n < 2:
        return np.zeros(n, dtype=bool)
    chance = np.random.default_rng(seed).random(n)
    gone: NDArray[np.bool_] = chance < share
    gone[chance.argmin()], gone[chance.argmax()] = True, False
    return gone


def hidden_chunks(
    tokens: TokenizedDataset, rows: Ints, special: NDArray[Any], share: float, *, max_length: int, seed: int
) -> Iterator[tuple[Ints, Packed, GeneValues]]:
    """Cells a few thousand at a time: their rows, what is left of them, and value and rank of all their genes.

    Parameters
    ----------
    tokens
        Tokenized cells with counts.
    rows
        Which of them, ``(k,)``.
    special, share
        See `hide_genes`.
    max_length
        Tokens of a cell that are read.
    seed
        Fixes the genes that go.
    """
    for start in range(0, len(rows), CHUNK):
        some = rows[start : start + CHUNK]
        packed = tokens.gather(some, max_length=max_length, counts=True)
        visible, values = hide_genes(packed, special, share, [(seed, int(row)) for row in some])
        yield some, visible, values


@dataclass(frozen=True, slots=True, eq=False)
class UsualValues:
    """Value and rank that genes usually have where they are expressed.

    Attributes
    ----------
    by_token
        Mean value and rank by token id, drawn a little towards those of all genes; those of all genes for genes that
        were not seen, ``(V, 2)``.
    spread
        Standard deviation around them over all genes and cells, ``(2,)``.
    """

    by_token: NDArray[np.float64]
    spread: NDArray[np.float64]

    @classmethod
    def fit(
        cls, tokens: TokenizedDataset, rows: Ints, special: NDArray[Any], size: int, *, max_length: int
    ) -> "UsualValues":
        """The usual values of some cells.

        Parameters
        ----------
        tokens
            Tokenized cells with counts.
        rows
            Cells to look at, ``(k,)``.
        special
            Token ids that are no genes.
        size
            Token ids in all, V.
        max_length
            Tokens of a cell that are read.
        """
        number, sums, squares = np.zeros(size), np.zeros((size, 2)), np.zeros((size, 2))
        for _, _, found in hidden_chunks(tokens, rows, special, 0.0, max_length=max_length, seed=0):
            number += np.bincount(found.genes, minlength=size)
            for side in range(2):
                values = found.values[:, side].astype(np.float64)
                sums[:, side] += np.bincount(found.genes, values, size)
                squares[:, side] += np.bincount(found.genes, values**2, size)
        overall = sums.sum(axis=0) / max(number.sum(), 1)
        usual = (sums + PRIOR * overall) / (number + PRIOR)[:, None]
        around = squares - 2 * usual * sums + number[:, None] * usual**2
        spread = np.sqrt(np.maximum(around.sum(axis=0), 0) / max(number.sum(), 1))
        return cls(usual, np.where(spread > 0, spread, 1.0))


@dataclass(frozen=True, slots=True, eq=False)
class AdditiveModel:
    """Value and rank as an effect of the gene and an effect of the cell: ``values[c, g] = gene[g] + cell[c]``.

    Attributes
    ----------
    by_token
        Effect of each gene, ``(V, 2)``.
    """

    by_token: NDArray[np.float64]

    @classmethod
    def fit(
        cls,
        tokens: TokenizedDataset,
        rows: Ints,
        special: NDArray[Any],
        usual: UsualValues,
        *,
        max_length: int,
        rounds: int = 5,
    ) -> "AdditiveModel":
        """Effects of the genes in some cells, those of the cells taken out, by alternating least squares.

        Parameters
        ----------
        tokens, rows, special, max_length
            As in `UsualValues.fit`.
        usual
            Where the effects of the genes start, and what they are drawn to.
        rounds
            Rounds of the two effects in turn.
        """
        effects = usual.by_token
        for _ in range(rounds):
            number, sums = np.zeros(len(effects)), np.zeros_like(effects)
            for some, _, found in hidden_chunks(tokens, rows, special, 0.0, max_length=max_length, seed=0):
                own = cell_effects(found, effects, len(some))
                number += np.bincount(found.genes, minlength=len(effects))
                for side in range(2):
                    rest = found.values[:, side] - own[found.cells, side]
                    sums[:, side] += np.bincount(found.genes, rest, len(effects))
            updated = (sums + PRIOR * usual.by_token) / (number + PRIOR)[:, None]
            done = np.abs(updated - effects).max(initial=0.0) < 1e-4
            effects = updated
            if done:
                break
        return cls(effects)

    def predict(self, found: GeneValues, n_cells: int) -> NDArray[np.float64]:
        """Value and rank of every gene, ``(p, 2)``; the effects of the cells come from the genes not removed."""
        return self.by_token[found.genes] + cell_effects(found, self.by_token, n_cells)[found.cells]


def cell_effects(found: GeneValues, effects: NDArray[np.float64], n_cells: int) -> NDArray[np.float64]:
    """How much higher the visible genes of each cell are than the effects of the genes say, ``(n_cells, 2)``."""
    seen = ~found.removed
    cells, number = found.cells[seen], np.bincount(found.cells[seen], minlength=n_cells)
    rest = found.values[seen] - effects[found.genes[seen]]
    sums = np.column_stack([np.bincount(cells, rest[:, side], n_cells) for side in range(2)])
    mean: NDArray[np.float64] = sums / np.maximum(number, 1)[:, None]
    return mean
