"""A few real blood cells, cut short, as tokens and as counts."""

from pathlib import Path

import anndata
import numpy as np
import pyarrow as pa

from geneformer import keys
from geneformer.tokens.dataset import TokenizedDataset
from golden import GOLDEN, golden_tokens


def dataset_of(rows, **columns) -> TokenizedDataset:
    """A dataset with the given token ids."""
    lists = pa.array([np.asarray(row, dtype=np.int32) for row in rows], pa.large_list(pa.int32()))
    fingerprint = columns.pop("vocabulary", None)
    return TokenizedDataset(pa.table({keys.INPUT_IDS: lists, **columns}), vocabulary=fingerprint)


def short_tokens(version="V1", cells=12, length=40, **known) -> TokenizedDataset:
    """Cells of different lengths, the longest cut to `length` tokens, with their names."""
    tokens = golden_tokens(version)
    rows = [tokens[row][: length - 3 * (row % 5)] for row in range(cells)]
    return dataset_of(rows, cell_id=tokens.cell_ids[:cells].astype(str), **known)


def blood(cells=40) -> anndata.AnnData:
    """Raw counts of PBMC3k cells."""
    return anndata.read_h5ad(GOLDEN / "pbmc_120_cells.h5ad")[:cells].copy()


def write_blood(path: Path, cells=40) -> Path:
    """The same as a file."""
    blood(cells).write_h5ad(path)
    return path
