"""Every name this package reads from or writes into AnnData objects and tokenized datasets."""

UNS = "geneformer"
"""``uns`` slot with the provenance of every result, by the slot it is in: model, vocabulary fingerprint, options."""

EMBEDDING = "X_geneformer"
"""``obsm`` slot of cell embeddings, and ``varm`` slot of gene embeddings averaged over cells."""

ATTENTION = "geneformer_attention"
"""``varp`` slot of attention weights, gene by gene."""

PERTURBATION = "geneformer_perturbation"
"""``uns`` slot of the effects of a perturbation run."""

ENSEMBL_ID = "ensembl_id"
"""``var`` column of Ensembl ids in the published convention."""

N_COUNTS = "n_counts"
"""``obs`` column with each cell's total over all genes, known to the vocabulary or not."""

FILTER_PASS = "filter_pass"  # noqa: S105
"""``obs`` column that marks the cells to keep."""

COUNTS_LAYER = "counts"
"""Layer where raw counts are looked for when ``X`` holds something else."""

INPUT_IDS = "input_ids"
LENGTH = "length"
COUNTS = "counts"
CELL_ID = "cell_id"
SOURCE = "source"
"""Columns of a tokenized dataset."""

RESERVED = (INPUT_IDS, LENGTH, COUNTS, CELL_ID, SOURCE)
"""Dataset columns an ``obs`` column cannot take; such a column is written as ``obs_<name>``."""


def predicted(label: str) -> str:
    """``obs`` slot of predicted classes; their probabilities are in ``<slot>_probability`` and ``<slot>_proba``."""
    return f"geneformer_{label.replace('/', '|')}"  # a slash would be a folder in the file
