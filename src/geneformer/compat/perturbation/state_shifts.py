"""States that cells are moved between, and the file their shifts go to, for scripts that do the rest by themselves."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from geneformer.compat.cell_states import read_cell_states
from geneformer.compat.pickle_writing import write_pickle


def get_possible_states(cell_states_to_model: Mapping[str, Any]) -> list[Any]:
    """Start, goal and alternate states, in this order.

    Parameters
    ----------
    cell_states_to_model
        `state_key`, `start_state`, `goal_state` and, if any, `alt_states`.

    Raises
    ------
    StateError
        A part is missing, or states are the same.
    """
    return list(read_cell_states(cell_states_to_model).all)


def write_perturbation_dictionary(cos_sims_dict: Mapping[Any, Any], output_path_prefix: str | Path) -> None:
    """Write shifts by tokens perturbed to `<output_path_prefix>_raw.pickle`; dots in the prefix stay.

    Raises
    ------
    OutputError
        The place cannot be written to.
    """
    write_pickle(cos_sims_dict, f"{output_path_prefix}_raw.pickle")
