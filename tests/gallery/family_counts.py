"""Values of the matrix: what is counted, and whether these are counts at all."""

import numpy as np
import pandas as pd
import scipy.sparse as sp

from gallery.inputs import cells, counts, edited, genes, h5ad, put
from gallery.rows import ACCEPTED, Row, command

ANYWAY = command("tokenize", "{}", "-o", "out.dataset", "--no-progress", "--accept-normalized")
MISSING = command("tokenize", "{}", "-o", "out.dataset", "--no-progress", "--missing", "zero")


def values(change):
    """Cells of which the stored values are changed."""

    def changed(adata):
        adata.X.data = change(adata.X.data)

    return h5ad(changed)


def some(value):
    def change(data):
        data[3:9] = value
        return data

    return values(change)


def _normalized(adata):
    dense = adata.X.toarray()
    adata.X = sp.csr_matrix(dense / dense.sum(1, keepdims=True) * 1e4)


def _logarithms(adata):
    _normalized(adata)
    adata.X.data = np.log1p(adata.X.data)


def _scaled(adata):
    dense = adata.X.toarray()
    adata.X = (dense - dense.mean(0)) / (dense.std(0) + 1)


def _raw_beside(adata):
    adata.layers["counts"] = adata.X.copy()
    _logarithms(adata)


def _rounded_logarithms(adata):
    adata.X.data = np.rint(np.log1p(adata.X.data * 20))


def _log1p_noted(adata):
    adata.uns["log1p"] = {"base": None}


def _zeros(adata):
    adata.X = sp.csr_matrix(adata.shape, dtype=np.float32)


def _stored_zeros(adata):
    adata.X.data[:] = 0


def _one_empty(adata):
    dense = adata.X.toarray()
    dense[3] = 0
    adata.X = sp.csr_matrix(dense)


def _no_cells(adata):
    return adata[:0].copy()


def _no_genes(adata):
    return adata[:, :0].copy()


def _pseudobulk(adata):
    adata.X = sp.csr_matrix(adata.X.toarray() * 5000)


def _droplets(adata):
    x = adata.X.tolil()
    for cell in range(4, 20):
        x[cell] = 0
        x[cell, :3] = 1
    adata.X = x.tocsr()


def _totals(value):
    def change(adata):
        adata.obs["n_counts"] = value

    return h5ad(change)


def _filter(value):
    def change(adata):
        adata.obs["filter_pass"] = value

    return h5ad(change)


def _dtype(kind):
    def change(adata):
        adata.X = adata.X.astype(kind)

    return h5ad(change)


def _features(kinds, column="feature_types"):
    """Genes and nine proteins named like genes, called by two words."""

    def change(_adata):
        symbols = ["CD4", "CD14", "CD19", "CD27", "CD28", "CD38", "CD69", "CD86", "CD274"]
        adata = cells(names=[*genes(), *symbols])
        proteins = np.random.default_rng(0).poisson(300, (20, 9))
        adata.X = sp.hstack([counts(), sp.csr_matrix(proteins.astype(np.float32))]).tocsr()
        adata.var[column] = pd.Categorical([kinds[0]] * len(genes()) + [kinds[1]] * len(symbols))
        return adata

    return h5ad(change)


def _only_antibodies(adata):
    adata.var["feature_types"] = "Antibody Capture"


LEFT_OUT = "9 features that are no genes are left out"
WHOLE = "whole numbers that are not negative are what counts are"

ROWS = [
    Row("counts as they should be", h5ad(), ACCEPTED, why="the plain case: it shows that rows can pass"),
    Row("normalized", h5ad(_normalized), "GF203", ("does not hold raw counts", "every cell sums up to 10,000")),
    Row("normalized, accepted", h5ad(_normalized), ACCEPTED, "not checked to be raw counts", ANYWAY),
    Row("logarithms", h5ad(_logarithms), "GF203", "logarithms of normalized counts"),
    Row("logarithms beside raw counts", h5ad(_raw_beside), "GF203", 'layers["counts"] holds raw counts'),
    Row("scaled", h5ad(_scaled), "GF203", "negative"),
    Row("negative values", some(-1), "GF203", "negative"),
    Row("negative values, accepted", some(-1), "GF203", "negative", ANYWAY),
    Row("one fraction", some(0.5), "GF203", "fractional"),
    Row("off by rounding errors", values(lambda v: v * np.float32(1 + 1e-7)), ACCEPTED, "were rounded"),
    Row("through a logarithm and back", values(lambda v: np.expm1(np.log1p(v))), ACCEPTED, "were rounded"),
    Row("rounded logarithms", h5ad(_rounded_logarithms), ACCEPTED, why=f"{WHOLE}; a shallow library looks the same"),
    Row(
        "counts beside a note of log1p", h5ad(_log1p_noted), ACCEPTED, why=f"{WHOLE}; X is often put back from a layer"
    ),
    Row("NaN", some(np.nan), "GF204", "missing or infinite"),
    Row("NaN, taken for zero", some(np.nan), ACCEPTED, "missing values taken for zero", MISSING),
    Row("infinite", some(np.inf), "GF204", "missing or infinite"),
    Row("infinite, taken for zero", some(-np.inf), ACCEPTED, "missing values taken for zero", MISSING),
    Row("1e30", values(lambda v: v * np.float32(1e30)), "GF203", "too large to be counts"),
    Row("1e15 as whole numbers", values(lambda v: v.astype(np.int64) * 10**15), "GF203", "too large to be counts"),
    Row("0 and 1 only", values(np.sign), ACCEPTED, "every value looked at is 1"),
    Row("truth values", _dtype(bool), ACCEPTED, "every value looked at is 1"),
    Row("int8", _dtype(np.int8), ACCEPTED, why=WHOLE),
    Row("uint64", _dtype(np.uint64), ACCEPTED, why=WHOLE),
    Row("big-endian", edited(put("X/data", lambda v: v.astype(">f8"))), ACCEPTED, why=WHOLE),
    Row("sums of cells (pseudobulk)", h5ad(_pseudobulk), ACCEPTED, why=f"{WHOLE}; sums of cells have an order too"),
    Row("all zero", h5ad(_zeros), "GF205", "None of 20 cells has a count"),
    Row("all stored zeros", h5ad(_stored_zeros), "GF205", "None of 20 cells has a count"),
    Row("a cell without counts", h5ad(_one_empty), ACCEPTED, "cell3"),
    Row("no cells", h5ad(_no_cells), "GF205", "no cells"),
    Row("no genes", h5ad(_no_genes), "GF221"),
    Row("mostly empty droplets", h5ad(_droplets), ACCEPTED, "16 of 20 cells have fewer than 20 genes"),
    Row("n_counts text", _totals("many"), "GF207", "does not hold numbers"),
    Row("n_counts negative", _totals(-3.0), "GF207", "above zero"),
    Row("n_counts NaN", _totals(np.nan), "GF207"),
    Row("n_counts another total", _totals(10_000.0), ACCEPTED, "`n_counts` differs by more than 1 %"),
    Row("filter_pass of odd words", _filter("maybe"), "GF206", "cannot be read as yes or no"),
    Row("filter_pass false everywhere", _filter(False), "GF205", "0 of 20 cells have `filter_pass` true"),
    Row("antibodies, as 10x calls them", _features(("Gene Expression", "Antibody Capture")), ACCEPTED, LEFT_OUT),
    Row("antibodies, GEX and ADT", _features(("GEX", "ADT")), ACCEPTED, LEFT_OUT),
    Row("antibodies, rna and prot", _features(("rna", "prot")), ACCEPTED, LEFT_OUT),
    Row("antibodies, gene_expression", _features(("gene_expression", "antibody_capture")), ACCEPTED, LEFT_OUT),
    Row("antibodies, genes of another word", _features(("scRNA", "Antibody Capture")), ACCEPTED, LEFT_OUT),
    Row("antibodies, modality", _features(("RNA", "Protein"), "modality"), ACCEPTED, LEFT_OUT),
    Row("guides", _features(("Gene Expression", "CRISPR Guide Capture")), ACCEPTED, LEFT_OUT),
    Row("kinds of genes", _features(("protein_coding", "lncRNA")), ACCEPTED, why="biotypes: all of them are genes"),
    Row("only antibody features", h5ad(_only_antibodies), "GF221", "has no genes"),
]
