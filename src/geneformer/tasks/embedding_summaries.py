"""One vector for many cells."""

from typing import Literal

import numpy as np
from numpy.typing import NDArray

Statistic = Literal["mean", "median", "lower_median"]


def summarize(values_nd: NDArray[np.float32], statistic: Statistic) -> NDArray[np.float32]:
    """A statistic over the cells in every dimension, exact, ``(d,)``.

    Parameters
    ----------
    values_nd
        Embeddings, one row per cell.
    statistic
        "median" is halfway between the two middle values where their number is even; "lower_median" is the lower one.
    """
    vector_d: NDArray[np.float64]
    if statistic == "mean":
        vector_d = values_nd.mean(axis=0, dtype=np.float64)
    elif statistic == "median":
        vector_d = np.median(values_nd, axis=0)
    else:
        middle = (len(values_nd) - 1) // 2
        vector_d = np.partition(values_nd, middle, axis=0)[middle]
    return vector_d.astype(np.float32)
