"""The published argument `cell_states_to_model`: which column tells the states, and which of them are meant."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from geneformer.errors import StateError

_FIELDS = ("state_key", "start_state", "goal_state", "alt_states")


@dataclass(frozen=True, slots=True)
class CellStates:
    """States of cells by their part.

    Attributes
    ----------
    key
        Column that tells the state of a cell.
    start, goal
        State to leave, and state to reach.
    alternates
        Other states.
    """

    key: str
    start: Any
    goal: Any
    alternates: tuple[Any, ...] = ()

    @property
    def all(self) -> tuple[Any, ...]:
        """Start, goal, alternates."""
        return (self.start, self.goal, *self.alternates)


def read_cell_states(states: Any) -> CellStates:
    """States as published scripts give them.

    Parameters
    ----------
    states
        `state_key`, `start_state`, `goal_state` and, where there are, `alt_states`; or the older form
        ``{column: ([start], [goal], [alternate, ...])}``.

    Raises
    ------
    StateError
        Another form, or states that are not told apart.
    """
    if not isinstance(states, Mapping):
        msg = f"cell_states_to_model is a {type(states).__name__}. Give a dictionary with {', '.join(_FIELDS)}."
        raise StateError(msg)
    found = _older(states) if len(states) == 1 else _named(states)
    if len(set(found.all)) < len(found.all):
        msg = f"Start, goal and alternate states must differ, found {list(found.all)}."
        raise StateError(msg)
    return found


def _named(states: Mapping[str, Any]) -> CellStates:
    missing = [name for name in _FIELDS[:3] if states.get(name) is None]
    unknown = [name for name in states if name not in _FIELDS]
    alternates = states.get("alt_states") or []
    if missing or unknown or not isinstance(alternates, list | tuple):
        msg = (
            f"cell_states_to_model lacks {missing} and holds {list(states)}. It takes {', '.join(_FIELDS)}; the last "
            "is a list and may be left out."
        )
        raise StateError(msg)
    return CellStates(str(states["state_key"]), states["start_state"], states["goal_state"], _told(alternates))


def _older(states: Mapping[str, Any]) -> CellStates:
    [(key, parts)] = states.items()
    lists = isinstance(parts, list | tuple) and all(isinstance(part, list | tuple) for part in parts)
    if not lists or len(parts) not in (2, 3) or any(len(part) != 1 for part in parts[:2]):
        msg = f"cell_states_to_model={dict(states)!r} is not known. Give {', '.join(_FIELDS)}."
        raise StateError(msg)
    return CellStates(str(key), parts[0][0], parts[1][0], _told(parts[2]) if len(parts) == 3 else ())


def _told(alternates: Sequence[Any]) -> tuple[Any, ...]:
    """Old scripts write a single None where there are none."""
    return tuple(state for state in alternates if state is not None)
