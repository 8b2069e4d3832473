"""Bootstrap intervals: cells, or whole groups of cells, drawn again with replacement."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from geneformer.errors import OptionError
from geneformer.results.estimates import Estimate

WORK = 4e7
"""Numbers looked at for one interval; over more, the resamples are fewer."""

FEWEST = 100
"""Resamples that an interval takes however many numbers there are."""

BATCH = 5e5
"""Weights held at once."""


@dataclass(frozen=True, kw_only=True)
class Bootstrap:
    """Resamples of cells: which ones, how often and with which seed.

    Cells of a group are alike, so where groups are known whole groups are drawn, as a new group would be. One group, or
    one cell, says nothing about others: then nothing is drawn.

    Attributes
    ----------
    n
        Cells.
    place
        Position of the group of each cell, ``(n,)``, or None to draw cells one by one.
    n_boot
        Resamples.
    seed
        Seed of the draws.
    """

    n: int
    place: NDArray[np.intp] | None
    n_boot: int
    seed: int

    @classmethod
    def over(cls, groups: NDArray[Any] | None, n: int, *, n_boot: int, seed: int) -> "Bootstrap":
        """Resamples of `n` cells, or of the groups they are in, ``(n,)``."""
        place = None if groups is None else np.unique(groups, return_inverse=True)[1].reshape(-1)
        return cls(n=n, place=place, n_boot=n_boot, seed=seed)

    @property
    def n_groups(self) -> int | None:
        """Groups, or None where cells are drawn one by one."""
        return None if self.place is None else int(self.place.max(initial=-1)) + 1

    def draws(self, numbers: int = 0) -> int:
        """Resamples to draw for a figure that looks at that many numbers in each."""
        units = self.n if self.n_groups is None else self.n_groups
        if units < 2 or not self.n_boot:
            return 0
        affordable = self.n_boot if not numbers else int(WORK // numbers)
        return min(self.n_boot, max(FEWEST, affordable))

    def weights(self, n_draws: int) -> Iterator[NDArray[np.float64]]:
        """How often each cell is drawn, ``(draws, n)`` at a time."""
        rng = np.random.default_rng(self.seed)
        units = self.n if self.n_groups is None else self.n_groups
        step = max(1, int(BATCH // self.n))
        for start in range(0, n_draws, step):
            count = min(step, n_draws - start)
            drawn = np.empty((count, units))
            for row in drawn:
                row[:] = np.bincount(rng.integers(units, size=units), minlength=units)
            yield drawn if self.place is None else drawn[:, self.place]

    def tables(self, kinds: NDArray[np.int64], n_draws: int) -> Iterator[NDArray[np.int64]]:
        """How many cells of each kind are drawn, ``(draws, kinds)`` at a time, without drawing every single cell.

        Parameters
        ----------
        kinds
            Kind of each cell, from 0, ``(n,)``; each occurs.
        n_draws
            Resamples.
        """
        from scipy import sparse

        rng = np.random.default_rng(self.seed)
        counts = np.bincount(kinds)
        step = max(1, int(BATCH // len(counts)))
        for start in range(0, n_draws, step):
            count = min(step, n_draws - start)
            if self.place is None:
                yield rng.multinomial(self.n, counts / self.n, size=count)
                continue
            n_groups = int(self.place.max()) + 1
            ones = np.ones(self.n, dtype=np.int64)
            held = sparse.csr_array((ones, (kinds, self.place)), shape=(len(counts), n_groups))
            drawn = rng.multinomial(n_groups, np.full(n_groups, 1 / n_groups), size=count)
            yield np.asarray(held @ drawn.T).T


def estimate(value: float, drawn: NDArray[np.float64]) -> Estimate:
    """A figure with the middle 95% of its resamples, ``(draws,)``; those where it is not defined are left out."""
    drawn = drawn[np.isfinite(drawn)]
    if not len(drawn) or np.isnan(value):
        return Estimate(float(value))
    low, high = np.quantile(drawn, (0.025, 0.975))
    return Estimate(float(value), float(low), float(high))


def checked_groups(groups: ArrayLike | None, n: int) -> NDArray[Any] | None:
    """Groups as text, one per cell.

    Raises
    ------
    OptionError
        Another number of groups than of cells.
    """
    if groups is None:
        return None
    names = np.asarray(groups, dtype=object).astype(str)
    if names.shape != (n,):
        msg = f"groups has the shape {names.shape} for {n:,} cells. Give the group of each cell."
        raise OptionError(msg)
    return names
