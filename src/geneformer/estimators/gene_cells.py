"""Cells with labeled genes, wherever they come from."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from geneformer.errors import GeneListError
from geneformer.estimators.cells import CellInput, Cells, open_cells
from geneformer.options import GeneClassifyOptions
from geneformer.tasks.adata_inputs import PairedModel
from geneformer.tasks.gene_batches import cells_with, count_cells
from geneformer.tasks.gene_lists import GeneClasses, GeneLabels, occurring, read_gene_classes


@dataclass(frozen=True, slots=True, eq=False)
class LabeledGenes:
    """Cells with labeled genes, and those genes.

    Attributes
    ----------
    cells
        The cells that are used.
    labels
        Genes that occur in any of the cells.
    """

    cells: Cells
    labels: GeneLabels


def open_genes(
    cells: CellInput | Cells,
    gene_classes: GeneClasses,
    model: PairedModel,
    options: GeneClassifyOptions,
    *,
    classes: Sequence[str] | None = None,
    all_cells: bool = False,
    counts_layer: str | None = None,
    gene_ids: str | None = None,
    seed: int = 0,
) -> LabeledGenes:
    """Cells to learn about the genes listed from, and those of the genes that occur in them.

    Parameters
    ----------
    cells
        AnnData with raw counts, tokens, paths of either, or cells that are open.
    gene_classes
        Genes by class.
    model
        Decides vocabulary and length.
    options
        What is done about unknown genes, and how many cells are used.
    classes
        Classes that are known already; those of the lists by default.
    all_cells
        Keep cells that have none of the genes.
    counts_layer, gene_ids
        Where counts and gene identifiers are.
    seed
        Fixes the sample of the cells.

    Raises
    ------
    GeneListError
        The lists cannot be used, or no gene of a class occurs in any cell.
    """
    vocabulary = model.vocabulary
    labels = read_gene_classes(gene_classes, vocabulary, unknown=options.unknown_genes, classes=classes)
    if not isinstance(cells, Cells):
        cells = open_cells(cells, model, counts_layer=counts_layer, gene_ids=gene_ids)
    rows = cells_with(cells.tokens, labels.class_of(vocabulary.size), model.max_length)
    if not len(rows):
        msg = (
            f"None of the {len(labels):,} labeled genes occurs in any of the {len(cells.tokens):,} cells, as far as "
            "the model reads them. Use cells that express them, or other genes."
        )
        raise GeneListError(msg)
    if all_cells:
        rows = np.arange(len(cells.tokens))
    if options.max_cells is not None and len(rows) > options.max_cells:
        rows = np.sort(np.random.default_rng(seed).choice(rows, options.max_cells, replace=False))
    if len(rows) < len(cells.tokens):
        cells = replace(cells, tokens=cells.tokens.take(rows), rows=cells.rows[rows])
    return LabeledGenes(
        cells, occurring(labels, count_cells(cells.tokens, vocabulary.size, model.max_length), vocabulary)
    )
