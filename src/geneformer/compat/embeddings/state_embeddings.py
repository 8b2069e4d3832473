"""Files with one embedding per state, as `get_state_embs` writes them here and in the published package."""

from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from geneformer.compat.pickle_writing import write_pickle
from geneformer.errors import UnreadableInputError
from geneformer.models.tensor_pickles import read_tensor_pickle


def read_state_embeddings(path: str | Path) -> dict[Any, Tensor]:
    """Embedding of every state, float32 ``(d,)`` in main memory, whatever device they were written from.

    Nothing in the file is executed.

    Parameters
    ----------
    path
        Pickle of a dictionary from states to tensors, arrays or lists of numbers.

    Raises
    ------
    InputNotFoundError
        No such file.
    UnsafeFileError
        The file asks for code to be run.
    UnreadableInputError
        The file is damaged, or holds something else.
    """
    content = read_tensor_pickle(path)
    if not isinstance(content, dict) or not content:
        found = "an empty dictionary" if isinstance(content, dict) else f"a {type(content).__name__}"
        msg = f'"{path}" holds {found}, not embeddings by state. Give the .pkl that get_state_embs wrote.'
        raise UnreadableInputError(msg)
    return {state: _vector(value, f'"{path}", state {state!r}') for state, value in content.items()}


def write_state_embeddings(embeddings: dict[Any, Tensor], path: str | Path) -> Path:
    """Write embeddings of states where published scripts look for them; readable on every machine.

    Parameters
    ----------
    embeddings
        By state.
    path
        File to make or replace.
    """
    return write_pickle({state: value.detach().cpu().clone() for state, value in embeddings.items()}, path)


def _vector(value: Any, where: str) -> Tensor:
    """Numbers as a vector."""
    try:
        vector = torch.as_tensor(value).to(torch.float32)
    except (TypeError, ValueError, RuntimeError) as error:
        msg = f"{where}: a {type(value).__name__} where an embedding should be ({error}). Compute the states again."
        raise UnreadableInputError(msg) from error
    if vector.ndim != 1 or not len(vector) or not bool(torch.isfinite(vector).all()):
        msg = (
            f"{where}: shape {tuple(vector.shape)}, or values that are not finite. An embedding is one row of numbers."
        )
        raise UnreadableInputError(msg)
    return vector
