"""Identifiers of genes: spelled oddly, missing, of another species or kind, in another place."""

import numpy as np
import scipy.sparse as sp

from gallery.inputs import N_GENES, cells, counts, genes, h5ad
from gallery.rows import ACCEPTED, Row, command
from geneformer.genes.vocabulary import Vocabulary


def named(spell):
    """Cells whose genes are named by what `spell` makes of their Ensembl ids."""
    return h5ad(lambda _adata: cells(names=[spell(gene) for gene in genes()]))


def symbol(gene):
    """A gene's symbol, its id where it has none."""
    return Vocabulary.load("V1").symbol_of(gene) or gene


def with_ids(*words):
    """`geneformer tokenize` with a column of identifiers."""
    return command("tokenize", "{}", "-o", "out.dataset", "--no-progress", "--gene-ids", *words)


def _column(name, values):
    def change(_adata):
        adata = cells(names=[f"row{number}" for number in range(N_GENES)])
        adata.var[name] = values()
        return adata

    return h5ad(change)


def _holes(adata):
    adata.var["ensembl_id"] = [None if row % 10 == 0 else gene for row, gene in enumerate(genes())]
    adata.var_names = [f"row{number}" for number in range(N_GENES)]


def _barnyard(_adata):
    human, mouse = counts(10).toarray(), counts(10, seed=1).toarray()
    few = mouse * (np.random.default_rng(0).random(mouse.shape) < 0.02)
    dense = np.vstack([np.hstack([human, 0 * human]), np.hstack([few, mouse])])
    names = [f"GRCh38_{gene}" for gene in genes()] + [f"mm10_ENSMUSG{gene[4:]}" for gene in genes()]
    adata = cells(names=names)
    adata.X = sp.csr_matrix(dense)
    return adata


def _usa(_adata):
    adata = cells(names=[gene + suffix for suffix in ("", "-U", "-A") for gene in genes()])
    adata.X = sp.hstack([counts()] * 3).tocsr()
    return adata


def _half_unknown(_adata):
    return cells(names=[gene if row % 2 else f"novel{row}" for row, gene in enumerate(genes())])


def _transposed(adata):
    return adata.T.copy()


def _twice(_adata):
    return cells(names=genes(1500) * 2)


def _numbers(adata):
    adata.var["n_cells"] = np.arange(N_GENES) * 7 % 911


SAME = "the spelling leaves no doubt; repairs are counted in the manifest"

ROWS = [
    Row("symbols", named(symbol), ACCEPTED, why="symbols are looked up"),
    Row("symbols in small letters", named(lambda gene: symbol(gene).lower()), ACCEPTED, why=SAME),
    Row("ids with versions", named(lambda gene: f"{gene}.12"), ACCEPTED, why=SAME),
    Row("ids with GENCODE's lifted versions", named(lambda gene: f"{gene}.12_4"), ACCEPTED, why=SAME),
    Row("ids in small letters", named(str.lower), ACCEPTED, why=SAME),
    Row("ids with spaces", named(lambda gene: f" {gene} "), ACCEPTED, why=SAME),
    Row("ids after GRCh38_", named(lambda gene: f"GRCh38_{gene}"), ACCEPTED, why=SAME),
    Row("ids after GRCh38- (Seurat)", named(lambda gene: f"GRCh38-{gene}"), ACCEPTED, why=SAME),
    Row("symbols after hg19-", named(lambda gene: f"hg19-{symbol(gene)}"), ACCEPTED, why=SAME),
    Row("ids after GRCh38-2020-A_", named(lambda gene: f"GRCh38-2020-A_{gene}"), ACCEPTED, why=SAME),
    Row("id_symbol", named(lambda gene: f"{gene}_{symbol(gene)}"), ACCEPTED, why=SAME),
    Row("id|symbol", named(lambda gene: f"{gene}|{symbol(gene)}"), ACCEPTED, why=SAME),
    Row("symbol_id", named(lambda gene: f"{symbol(gene)}_{gene}"), ACCEPTED, why=SAME),
    Row("symbol (id)", named(lambda gene: f"{symbol(gene)} ({gene})"), ACCEPTED, why=SAME),
    Row("probes of Flex", named(lambda gene: f"{gene}|{symbol(gene)}|8eab823"), ACCEPTED, why=SAME),
    Row("two ids in one name", named(lambda gene: f"{gene}_ENSG00000000003"), "GF221"),
    Row("unspliced only", named(lambda gene: f"{gene}-U"), "GF224", "unspliced"),
    Row("spliced, unspliced, ambiguous", h5ad(_usa), ACCEPTED, ("67% of the counts", "unspliced or ambiguous")),
    Row("half of the genes unknown", h5ad(_half_unknown), ACCEPTED, "of the counts lie outside vocabulary"),
    Row("mouse ids", named(lambda gene: f"ENSMUSG{gene[4:]}"), "GF222", "mouse"),
    Row("mouse symbols", named(lambda gene: symbol(gene).capitalize()), "GF222", "mouse"),
    Row("zebrafish ids", named(lambda gene: f"ENSDARG{gene[4:]}"), "GF222", "zebrafish"),
    Row("human and mouse cells together", h5ad(_barnyard), ACCEPTED, ("mouse", "10 of 20 cells")),
    Row("transcripts", named(lambda gene: f"ENST{gene[4:]}"), "GF224", "transcripts"),
    Row("proteins", named(lambda gene: f"ENSP{gene[4:]}"), "GF224", "proteins"),
    Row("Entrez numbers", named(lambda gene: str(int(gene[4:]) * 3)), "GF224", "Entrez"),
    Row("probes", named(lambda gene: f"{int(gene[4:])}_at"), "GF224", "probes"),
    Row("names that say nothing", named(lambda gene: f"x{gene[9:]}"), "GF221", "No gene of vocabulary"),
    Row("row numbers", named(lambda gene: str(genes().index(gene))), "GF221", "only row numbers"),
    Row("every gene twice", h5ad(_twice), ACCEPTED, "1,500 summed into another"),
    Row("a tenth without an id", h5ad(_holes), "GF221", "without an identifier"),
    Row("ids in a column of another name", _column("my ids", genes), ACCEPTED, why="every column is looked at"),
    Row("genes as rows", h5ad(_transposed), "GF221", "Transpose"),
    Row("--gene-ids names no column", h5ad(), "GF208", "no column", with_ids("nothing")),
    Row("--gene-ids names a column of numbers", h5ad(_numbers), "GF224", "Entrez", with_ids("n_cells")),
    Row("--gene-ids names numbers like 0 and 1", h5ad(), "GF224", "Entrez", with_ids("length")),
]
