"""Splits of donors, or of other ids, until the two sides do not differ in attributes such as age and sex."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from geneformer.errors import LabelError, RareClassError
from geneformer.options._check import check_range


@dataclass(frozen=True, slots=True, eq=False)
class Trial:
    """One draw.

    Attributes
    ----------
    number
        Place among the draws, from 0.
    held_out
        Ids held out, as sorted places, int64.
    p
        P-value of each attribute; NaN where it cannot be told.
    summary
        Of each attribute, for the ids learnt from and those held out: the mean of numbers, ids per value of others.
    """

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
    """The accepted draw of ids to hold out, and all draws that were made.

    Each draw keeps one id of every class for learning, holds one of every class out, and fills the held-out side at
    random. The first draw without a difference is accepted: numbers are compared by Wilcoxon's rank-sum test, and
    everything else by a chi-square test of the ids learnt from against those held out, scaled to as many. If there is
    none, the draw with the highest mean p-value is taken.

    Parameters
    ----------
    attributes
        Values of each id, ``(m,)`` each. Missing numbers are left out of the test; other missing values are a value.
    size
        Ids to hold out; more where there are more classes.
    has_class
        Whether an id has cells of a class, ``(m, C)``.
    max_trials
        Draws made at most.
    p_threshold
        P-value below which the sides differ.
    seed
        Fixes the draws.

    Raises
    ------
    RareClassError
        Every id is needed for learning.
    LabelError
        An attribute mixes texts and numbers.

    Examples
    --------
    >>> import numpy as np
    >>> from geneformer.tasks.balanced_split import balance_ids
    >>> sick = np.arange(10) % 2 == 0
    >>> best, _ = balance_ids({"age": np.arange(40, 50)}, 2, np.column_stack([sick, ~sick]))
    >>> best.held_out.size, best.passes(0.1)
    (2, True)
    """
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
    """Value of an attribute for each id, ``(m,)``.

    Parameters
    ----------
    values
        Value of each cell, ``(n,)``.
    place
        Id of each cell as a place among `ids`, ``(n,)``; every id has cells.
    ids
        The ids, ``(m,)``.
    name
        The attribute, for messages.

    Raises
    ------
    LabelError
        An id has cells with several values.
    """
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
