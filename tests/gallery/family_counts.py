"""Values of the matrix: what is counted, and whether these are counts at all."""

import numpy as np

from gallery.inputs import h5ad
from gallery.rows import ACCEPTED, Row


def _scaled(adata):
    adata.X.data = np.log1p(adata.X.data)


def _negative(adata):
    adata.X.data[:10] = -1


ROWS = [
    Row("counts as they should be", h5ad(), ACCEPTED, why="the plain case: it shows that rows can pass"),
    Row("logarithms", h5ad(_scaled), "GF203", "does not hold raw counts"),
    Row("negative values", h5ad(_negative), "GF203", "negative"),
]
