"""Numbers as users have them, as what a network is trained on."""

import warnings
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from geneformer.errors import ConstantLabelError, GeneformerWarning, LabelError, MissingLabelError
from geneformer.options import RegressOptions

Floats = NDArray[np.float64]

FEWEST = 5
"""Cells of a bin by which a split is stratified."""


@dataclass(frozen=True, slots=True, eq=False)
class NumberTargets:
    """What is to be learnt about each cell.

    Attributes
    ----------
    values
        Numbers, not a number for none, ``(n,)``.
    codes
        What cells are split by, -1 for cells that are not used, ``(n,)``.
    """

    values: Floats
    codes: NDArray[np.int64]


def encode_numbers(values: Any, *, name: str = "number") -> Floats:
    """The numbers of a column, not a number where there is none, ``(n,)``.

    Numbers written as text are numbers; True and False, and anything else, are not.

    Parameters
    ----------
    values
        Number of each cell, ``(n,)``.
    name
        Name of the column, for messages.

    Warns
    -----
    GeneformerWarning
        How many cells have no number.

    Raises
    ------
    LabelError
        Something that is not a finite number.
    MissingLabelError
        No cell has a number.

    Examples
    --------
    >>> from geneformer.tasks.number_targets import encode_numbers
    >>> encode_numbers(["3", 4.5]).tolist()
    [3.0, 4.5]
    """
    import pandas as pd

    column = pd.Series(values)
    if isinstance(column.dtype, pd.CategoricalDtype):
        column = column.astype(object)
    known = column.notna().to_numpy()
    found = pd.to_numeric(column, errors="coerce") if not pd.api.types.is_bool_dtype(column) else column * np.nan
    numbers = np.asarray(found.to_numpy(dtype=np.float64, na_value=np.nan), dtype=np.float64)
    words = column.map(lambda value: isinstance(value, (bool, np.bool_))).to_numpy(dtype=bool)
    wrong = np.flatnonzero(known & (~np.isfinite(numbers) | words))
    if len(wrong):
        shown = ", ".join(dict.fromkeys(repr(column.iloc[row]) for row in wrong[:200].tolist()))
        msg = (
            f"{name!r} holds {len(wrong):,} entries that are no finite numbers, such as {shown[:80]}. Name a column of "
            "numbers to predict, or use CellClassifier for classes."
        )
        raise LabelError(msg)
    if not known.any():
        msg = f"None of the {len(known):,} cells has a number in {name!r}. Name the column that holds the numbers."
        raise MissingLabelError(msg)
    if not known.all():
        remark = f"{(~known).sum():,} of {len(known):,} cells have no number in {name!r} and are left out."
        warnings.warn(remark, GeneformerWarning, stacklevel=3)
    return numbers


def check_numbers(values: Floats, options: RegressOptions, *, name: str = "number") -> None:
    """Refuse numbers that cannot be learnt as the options have it.

    Parameters
    ----------
    values
        Number of each cell, not a number for none, ``(n,)``.
    options
        Loss and output function.
    name
        Name of the column, for messages.

    Raises
    ------
    ConstantLabelError
        All numbers are the same.
    LabelError
        Numbers below 0 where a loss or an output function has none.
    """
    least, most = np.nanmin(values), np.nanmax(values)
    if least == most:
        msg = f"All cells have {name!r} = {least:g}. There is nothing to learn from a constant."
        raise ConstantLabelError(msg)
    if least < 0 and options.output != "linear":
        below = int((values < 0).sum())
        why = f'loss="{options.loss}"' if options.counts else f'activation="{options.output}"'
        msg = (
            f"{below:,} cells have {name!r} below 0, down to {least:g}, and {why} knows no such numbers. Use "
            'loss="squared_error" or "gaussian" with activation="linear", or leave those cells out.'
        )
        raise LabelError(msg)


def number_strata(values: Floats, *, n_bins: int = 10) -> NDArray[np.int64]:
    """Bins of about as many cells each, by which a split can be stratified; -1 for cells without a number, ``(n,)``.

    Parameters
    ----------
    values
        Number of each cell, not a number for none, ``(n,)``.
    n_bins
        Most bins; fewer of few cells.
    """
    known = np.flatnonzero(~np.isnan(values))
    n = int(np.clip(len(known) // FEWEST, 1, n_bins))
    order = values[known].argsort(kind="stable")
    strata = np.full(len(values), -1, dtype=np.int64)
    strata[known[order]] = np.arange(len(known)) * n // max(len(known), 1)
    return strata


@dataclass(frozen=True, slots=True)
class NumberScale:
    """Between numbers as they are and as a network learns them, around 0 or 1.

    Attributes
    ----------
    center
        Taken from each number first.
    unit
        It is divided by this then.
    inside
        What the network itself multiplies its output with; for counts, whose likelihood needs them as they are.
    """

    center: float = 0.0
    unit: float = 1.0
    inside: float = 1.0

    @classmethod
    def fit(cls, values: Floats, options: RegressOptions) -> "NumberScale":
        """The scale of training cells, ``(n,)``; not a number for cells that have none."""
        mean, deviation = float(np.nanmean(values)), float(np.nanstd(values))
        if options.counts:
            return cls(inside=mean or 1.0)
        if options.output != "linear":
            return cls(unit=mean or 1.0)
        return cls(mean, deviation or 1.0)

    def to_network(self, values: Floats) -> NDArray[np.float32]:
        """As the network learns them, ``(n,)``."""
        return ((values - self.center) / self.unit).astype(np.float32)

    def mean(self, outputs: NDArray[np.float32]) -> Floats:
        """Predicted numbers from outputs of the network, ``(n, 1)`` or ``(n, 2)``, as they are, ``(n,)``."""
        return outputs[:, 0].astype(np.float64) * self.unit + self.center

    def deviation(self, outputs: NDArray[np.float32], loss: str) -> Floats | None:
        """Predicted standard deviation, ``(n,)``; None for a loss without one.

        Parameters
        ----------
        outputs
            Of the network, ``(n, 1)`` or ``(n, 2)``.
        loss
            Key of `losses.NUMBER_LOSSES`.
        """
        said = outputs.astype(np.float64)
        if loss == "gaussian":
            spread: Floats = np.exp(np.clip(said[:, 1], -10, 10) / 2) * self.unit
            return spread
        if loss == "poisson":
            return np.sqrt(np.maximum(said[:, 0], 1e-6))
        if loss == "negative_binomial":
            mean, size = np.maximum(said[:, 0], 1e-6), np.exp(np.clip(said[:, 1], -10, 10))
            return np.sqrt(mean + mean**2 / size)
        return None
