"""One hash over arrays, tables and texts, by which the same inputs are recognized."""

import dataclasses
import hashlib
from collections.abc import Mapping
from typing import Any

import numpy as np


def digest(*values: Any) -> str:
    """Hash of arrays, numbers, texts, and lists, tables and dataclasses of them, 64 hexadecimal digits.

    Parameters
    ----------
    *values
        What is to be recognized; the order counts.

    Examples
    --------
    >>> from geneformer.runs.digest import digest
    >>> digest([1, 2]) == digest([1, 2]) != digest([2, 1])
    True
    """
    whole = hashlib.sha256()
    for value in values:
        _add(whole, value)
    return whole.hexdigest()


def _add(whole: Any, value: Any) -> None:
    """Every entry goes in with its kind and size, so that none runs into the next."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        value = {field.name: getattr(value, field.name) for field in dataclasses.fields(value)}
    if isinstance(value, np.ndarray) and value.dtype != object:
        whole.update(f"array {value.dtype} {value.shape}\n".encode())
        whole.update(np.ascontiguousarray(value).tobytes())
    elif isinstance(value, Mapping):
        whole.update(f"table {len(value)}\n".encode())
        for name in sorted(value, key=str):
            _add(whole, str(name))
            _add(whole, value[name])
    elif isinstance(value, (list, tuple, np.ndarray)):
        whole.update(f"list {len(value)}\n".encode())
        for entry in value:
            _add(whole, entry)
    else:
        text = f"{type(value).__name__} {value!r}".encode()
        whole.update(f"{len(text)}\n".encode())
        whole.update(text)
