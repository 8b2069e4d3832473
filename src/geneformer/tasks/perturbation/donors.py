"""Effects donor by donor: cells of one donor are alike, and only other donors tell what holds for others."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from geneformer.errors import DatasetError, UnknownColumnError
from geneformer.options._check import nearest
from geneformer.tasks.perturbation.effect_arrays import Floats, Ints, Perturbed, Values, mean_by


@dataclass(frozen=True, slots=True, eq=False)
class DonorMeans:
    """Mean effect of every perturbation in every donor that has it.

    Attributes
    ----------
    group, donor
        Perturbation and donor, ``(k,)`` each.
    mean
        Mean over the cells of the donor, ``(k,)``.
    """

    group: Ints
    donor: Ints
    mean: Floats

    @classmethod
    def of(cls, values: Values, donor_of_cell: Ints) -> "DonorMeans":
        """From effects of cells and the donor of each cell."""
        n_donors = max(int(donor_of_cell.max(initial=-1)) + 1, 1)
        keys, place = np.unique(values.group * n_donors + donor_of_cell[values.cell], return_inverse=True)
        return cls(keys // n_donors, keys % n_donors, mean_by(values.value, place.reshape(-1), len(keys)))

    def minus_average(self) -> "DonorMeans":
        """Every mean less the average over all perturbations of the donor."""
        average = mean_by(self.mean, self.donor, int(self.donor.max(initial=-1)) + 1)
        return DonorMeans(self.group, self.donor, self.mean - average[self.donor])

    def minus(self, other: "DonorMeans") -> "DonorMeans":
        """Differences where both have the perturbation in the same donor."""
        n_donors = 1 + max(int(some.donor.max(initial=-1)) for some in (self, other))
        here, there = (some.group * n_donors + some.donor for some in (self, other))
        _, mine, theirs = np.intersect1d(here, there, return_indices=True)
        return DonorMeans(self.group[mine], self.donor[mine], self.mean[mine] - other.mean[theirs])

    def averages(self, n_groups: int) -> tuple[Floats, Ints]:
        """Mean over donors and number of donors of each perturbation, ``(G,)`` each."""
        return mean_by(self.mean, self.group, n_groups), np.bincount(self.group, minlength=n_groups)

    def p_values(self, n_groups: int) -> Floats:
        """Two-sided p of a mean of 0 over donors, ``(G,)``: Student's t, from two donors on; else NaN.

        Not Wilcoxon's signed ranks: with five donors their smallest p is 0.06, and studies often have no more. A mean
        over a donor's cells is near enough to normal for t.
        """
        from scipy import stats

        mean, n = self.averages(n_groups)
        squares = np.bincount(self.group, weights=(self.mean - mean[self.group]) ** 2, minlength=n_groups)
        with np.errstate(divide="ignore", invalid="ignore"):
            t = mean / np.sqrt(squares / (n - 1) / n)
        p = np.asarray(2 * stats.t.sf(np.abs(t), np.maximum(n - 1, 1)), dtype=np.float64)
        return np.where(n >= 2, p, np.nan)


def donors_of(perturbed: Perturbed, column: str) -> tuple[Ints, NDArray[np.object_]]:
    """Donor of each cell, ``(C,)``, and the names of the donors.

    Raises
    ------
    UnknownColumnError
        The cells have no such column.
    DatasetError
        Some cells have no value in it.
    """
    import pandas as pd

    known = [name for name in perturbed.source.cells.schema.names if name != "cell_id"]
    if column not in known:
        msg = (
            f"The perturbed cells have no column {column!r}; they have {known or 'none'}. Name one of these as donor, "
            f"or leave it out.{nearest(column, known)}"
        )
        raise UnknownColumnError(msg)
    codes, names = pd.factorize(perturbed.cell_column(column), sort=True)
    missing = int((codes < 0).sum())
    if missing:
        msg = (
            f"{missing:,} of {len(codes):,} perturbed cells have no value in the column {column!r}. Every cell needs a "
            "donor: fill the column, or leave donor out."
        )
        raise DatasetError(msg)
    return np.asarray(codes, dtype=np.intp), np.asarray(names.astype(str), dtype=object)
