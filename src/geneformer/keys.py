"""Every name this package reads from or writes into AnnData objects and tokenized datasets."""

UNS = "geneformer"
"""``uns`` slot with the provenance of every result, by the slot it is in: model, vocabulary fingerprint, options."""

MATCHED = "matched"
"""Entry of the provenance of every result, and of the settings of every report: which cells and genes were read.

``cells_read``, ``cells_used``, ``cells_filtered`` (by ``filter_pass``), ``cells_without_genes`` (without a gene of the
vocabulary) and ``cells_shortened`` (with more genes than the model reads) are numbers of cells; ``genes_read``,
``genes_matched``, ``genes_summed`` (into another column of the same gene) and ``genes_left_out`` numbers of columns;
``share_of_counts_matched`` is between 0 and 1; ``left_out_most_counts`` names columns left out with the most counts. Of
several inputs, numbers of cells are of all, and those of genes of the one of which the smallest share was matched.
"""

EMBEDDING = "X_geneformer"
"""``obsm`` slot of cell embeddings, and ``varm`` slot of gene embeddings averaged over cells."""

MAP, OWN_MAP = "X_umap", "X_geneformer_umap"
"""``obsm`` slots of the coordinates of a map; the second where the input has a map of its own, which stays."""

ATTENTION = "geneformer_attention"
"""``varp`` slot of attention weights, gene by gene."""

PERTURBATION = "geneformer_perturbation"
"""``uns`` slot of the effects of a perturbation run."""

NETWORK = "network"
"""``uns`` slot of the edges of a gene network, and ``varp`` slot of their weights."""

REGULONS = "regulons"
"""``obsm`` slot of activities of regulators."""

ENSEMBL_ID = "ensembl_id"
"""``var`` column of Ensembl ids in the published convention."""

N_COUNTS = "n_counts"
"""``obs`` column with each cell's total over all genes, known to the vocabulary or not."""

FILTER_PASS = "filter_pass"  # noqa: S105
"""``obs`` column that marks the cells to keep."""

INPUT_IDS = "input_ids"
LENGTH = "length"
COUNTS = "counts"
CELL_ID = "cell_id"
SOURCE = "source"
"""Columns of a tokenized dataset."""

ROW = "geneformer_row"
"""Column of tokens made from files on the way to a result: the row of each cell among all rows of the inputs."""

RESERVED = (INPUT_IDS, LENGTH, COUNTS, CELL_ID, SOURCE, ROW)
"""Dataset columns an ``obs`` column cannot take; such a column is written as ``obs_<name>``."""


UNKNOWN = "unknown"
"""What a cell is called that has no class, or none that is probable enough."""


def predicted(label: str) -> str:
    """``obs`` slot of predicted classes; their probabilities are in ``<slot>_probability`` and ``<slot>_proba``.

    Labels from a reference also have ``<slot>_nearest``, the class however far the cell is, and ``<slot>_distance``,
    that distance in units of the cut-off: a cell above 1 is called "unknown".
    """
    return f"geneformer_{label.replace('/', '|')}"  # a slash would be a folder in the file
