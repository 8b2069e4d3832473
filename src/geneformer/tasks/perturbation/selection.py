"""Which cells are perturbed, and which stand for the named states."""

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from geneformer.data.dataset import TokenizedDataset
from geneformer.errors import StateError, UnknownColumnError
from geneformer.options import PerturbOptions
from geneformer.options._check import nearest
from geneformer.tasks.perturbation.edits import Ints

_SHOWN = 8


@dataclass(frozen=True, slots=True, eq=False)
class SelectedCells:
    """Rows of the dataset.

    Attributes
    ----------
    rows
        Cells to be perturbed, in the order of the input, ``(n,)``.
    of_state
        Cells each state's embedding is averaged over, by name: start, goal, alternates.
    state_key
        Column with the states.
    """

    rows: Ints
    of_state: dict[str, Ints] = field(default_factory=dict)
    state_key: str | None = None


def select_cells(tokens: TokenizedDataset, options: PerturbOptions, *, states_are_given: bool = False) -> SelectedCells:
    """Cells to be perturbed, and cells of every state.

    Parameters
    ----------
    tokens
        All cells.
    options
        States, and how many cells.
    states_are_given
        Embeddings of the states are known already: only cells of the start are looked for.

    Raises
    ------
    UnknownColumnError
        No column of that name.
    StateError
        A state without cells, or no single column that has all states.
    """
    rows = np.arange(len(tokens))
    of_state: dict[str, Ints] = {}
    key = None
    if options.start is not None:
        averaged = () if states_are_given else options.states
        wanted = averaged or (options.start,)
        key = _state_key(tokens, wanted, options.state_key)
        values = tokens.column(key).astype(str)
        members = {state: np.flatnonzero(values == state) for state in wanted}
        _check_members(members, key, values)
        rows = members[options.start]
        if averaged:
            of_state = {
                state: _drawn(found, options.max_state_cells, options.seed, place)
                for place, (state, found) in enumerate(members.items())
            }
    return SelectedCells(_drawn(rows, options.max_cells, options.seed, len(of_state)), of_state, key)


def _drawn(rows: Ints, most: int | None, seed: int, stream: int) -> Ints:
    """At most so many rows, drawn without replacement, in the order of the input."""
    if most is None or len(rows) <= most:
        return rows
    rng = np.random.default_rng([seed, stream])
    return np.sort(rng.choice(rows, most, replace=False))


def _state_key(tokens: TokenizedDataset, states: Sequence[str], key: str | None) -> str:
    """The column named, or the only one that has all states."""
    if key is not None:
        if key not in tokens.columns:
            hint = nearest(key, tokens.columns)
            msg = f"state_key={key!r} is no column of the cells; they have {tokens.columns}.{hint}"
            raise UnknownColumnError(msg)
        return key
    found = [name for name in tokens.columns if set(states) <= set(tokens.column(name).astype(str))]
    if len(found) == 1:
        return found[0]
    told = "no column has" if not found else f"the columns {found} all have"
    msg = (
        f"{told} the states {', '.join(map(repr, states))}. Name the column with state_key=; the cells have "
        f"{tokens.columns}."
    )
    raise StateError(msg[0].upper() + msg[1:])


def _check_members(members: dict[str, Ints], key: str, values: NDArray[np.str_]) -> None:
    empty = [state for state, rows in members.items() if not len(rows)]
    if not empty:
        return
    there, numbers = np.unique(values, return_counts=True)
    order = np.argsort(-numbers, kind="stable")[:_SHOWN]
    told = ", ".join(f"{there[i]} ({numbers[i]:,})" for i in order)
    more = f" and {len(there) - _SHOWN} more" if len(there) > _SHOWN else ""
    msg = f"No cell is {empty[0]!r} in column {key!r}; it has {told}{more}.{nearest(empty[0], list(there))}"
    raise StateError(msg)
