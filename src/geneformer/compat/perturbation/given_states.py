"""Embeddings of states that a user hands over, under the names by which options call the states."""

from collections.abc import Mapping
from typing import Any

from geneformer.compat.cell_states import CellStates
from geneformer.errors import StateError


def state_names(states: CellStates | None) -> dict[str, Any]:
    """The user's values of the states by their names as text: start, goal, alternates; none without states.

    Raises
    ------
    StateError
        Two states of one name.
    """
    values = () if states is None else states.all
    named = dict(zip(map(str, values), values, strict=True))
    if len(named) < len(values):
        msg = f"Two of the states {list(values)} read the same. Rename one of them in the column of the cells."
        raise StateError(msg)
    return named


def state_vectors(states: CellStates | None, embeddings: Mapping[Any, Any] | None) -> dict[str, Any] | None:
    """Embeddings of the states by their names, on the host, ``(D,)`` each; None without states.

    Parameters
    ----------
    states
        States of a run.
    embeddings
        Tensor, array or list of numbers by state.

    Raises
    ------
    StateError
        A state without an embedding, or one that is no vector of numbers.
    """
    if states is None:
        return None
    missing = [state for state in states.all if state not in (embeddings or {})]
    if embeddings is None or missing:
        msg = (
            f"cell_states_to_model needs state_embs_dict with an embedding of each state; {missing} are missing. Make "
            "it with EmbExtractor(summary_stat=...).get_state_embs."
        )
        raise StateError(msg)
    import torch

    vectors: dict[str, Any] = {}
    for name, state in state_names(states).items():
        try:
            vector = torch.as_tensor(embeddings[state])
        except (TypeError, ValueError, RuntimeError) as error:
            msg = f"state_embs_dict[{state!r}] is no tensor, array or list of numbers ({error})."
            raise StateError(msg) from error
        vectors[name] = vector.detach().to("cpu", torch.float32).reshape(-1).numpy()
    return vectors
