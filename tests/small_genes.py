"""Genes that are seen at the top of small blood cells, in classes, for tests of what is learnt about genes."""

import numpy as np

from geneformer.finetuning.labels import GeneLabels
from geneformer.finetuning.training import count_cells
from geneformer.genes.vocabulary import Vocabulary
from small_cells import short_tokens

V1 = Vocabulary.load("V1")


def common_genes(tokens, number: int, max_length: int = 64) -> list[str]:
    """Ensembl ids of the genes in most cells, commonest first."""
    counts = count_cells(tokens, V1.size, max_length)
    counts[V1.special_ids] = 0
    return V1.gene_of[np.argsort(-counts, kind="stable")[:number]].tolist()


def dealt(genes: list[str], classes: int = 2) -> dict[str, list[str]]:
    """The genes in classes, by turns."""
    return {f"class {code}": genes[code::classes] for code in range(classes)}


def labels_of(gene_classes: dict[str, list[str]]) -> GeneLabels:
    """Labels put together by hand, without any lookup."""
    pairs = sorted((V1.token_of[gene], code) for code, genes in enumerate(gene_classes.values()) for gene in genes)
    tokens, codes = (np.array(values, dtype=np.int64) for values in zip(*pairs, strict=True))
    return GeneLabels(tokens, codes, tuple(gene_classes))


def cells(number: int = 24, length: int = 60):
    """Cells of different lengths over the V1 vocabulary."""
    return short_tokens("V1", cells=number, length=length, vocabulary=V1.fingerprint)
