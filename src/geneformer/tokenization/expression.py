"""How much of a gene cells express, where a picture is colored by it."""

from contextlib import closing, suppress
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from geneformer.errors import GeneIdsNotFoundError, UnknownGeneError, UnsupportedGeneIdsError
from geneformer.genes.lookup import INDEX, find_genes, resolve_genes
from geneformer.genes.vocabulary import Vocabulary
from geneformer.tokenization.checks import open_counts
from geneformer.tokenization.readers.source import CountSource

if TYPE_CHECKING:
    from pathlib import Path

    from anndata import AnnData

_CELLS_AT_ONCE = 4096


def expression_of(cells: "Path | AnnData", gene: str, layer: str | None = None) -> NDArray[np.float32]:
    """Logarithm of 1 and a gene's counts per 10,000, of each cell, ``(n,)``; values that are no counts as they are."""
    with closing(open_counts(cells, layer)) as source:
        of_gene = np.isin(np.arange(source.n_genes), columns_of_gene(source, gene))
        values, totals, first = np.zeros(source.n_cells), np.zeros(source.n_cells), 0
        for rows in source.chunks(_CELLS_AT_ONCE):
            cell = np.repeat(np.arange(rows.n_cells), np.diff(rows.indptr))
            part = slice(first, first + rows.n_cells)
            values[part] = np.bincount(cell, rows.data * of_gene[rows.indices], minlength=rows.n_cells)
            totals[part] = np.bincount(cell, rows.data, minlength=rows.n_cells)
            first += rows.n_cells
    if not np.array_equal(totals, np.rint(totals)):
        return values.astype(np.float32)
    return np.log1p(1e4 * values / np.maximum(totals, 1)).astype(np.float32)


def columns_of_gene(source: CountSource, gene: str) -> NDArray[np.intp]:
    """Columns of a matrix with a gene, by a name in `var` as it is, or by another name of the same gene."""
    names: dict[str, Any] = {INDEX: source.var.index(0, source.n_genes)}
    names |= {one: source.var.texts(one) for one in source.var.names if source.var.kind(one) == pa.string()}
    for given in names.values():
        if len(columns := np.flatnonzero(np.asarray(given, dtype=object) == gene)):
            return columns
    vocabulary = Vocabulary.load("V2")
    place = int(find_genes([gene], vocabulary)[0])
    with suppress(GeneIdsNotFoundError, UnsupportedGeneIdsError):
        columns = np.flatnonzero(resolve_genes(names, vocabulary).positions == place) if place >= 0 else columns
    if not len(columns):
        msg = f"{source.label} has no gene {gene!r}."
        raise UnknownGeneError(msg)
    return columns
