"""The one place that writes pickles, because published scripts open them; nothing here reads any."""

import pickle
from pathlib import Path
from typing import Any

from geneformer.runs.files import atomic_file, output_errors


def write_pickle(content: Any, path: str | Path) -> Path:
    """Write plain data where a published script will look for it; returns where it is.

    Parameters
    ----------
    content
        Dictionaries, lists, tuples, text, numbers, arrays, tables or tensors in main memory.
    path
        File to make; its folder is made too, and a file that is there is replaced as a whole.

    Raises
    ------
    OutputError
        The place cannot be written to, or the disk is full.
    """
    path = Path(path)
    with output_errors(path):
        path.absolute().parent.mkdir(parents=True, exist_ok=True)
    with atomic_file(path, overwrite=True) as temporary:
        temporary.write_bytes(pickle.dumps(content, protocol=4))
    return path
