"""How counts are stored, cut into pieces, ordered and shared among workers shows in no result."""

import anndata as ad
import numpy as np
import pytest
import scipy.io
import scipy.sparse as sp

import geneformer as gf
from geneformer.options import TokenizeOptions
from geneformer.tokenization.tokenizer import tokenize_counts
from small_cells import blood

pytestmark = [
    pytest.mark.contract,
    pytest.mark.filterwarnings("ignore:.*only .* genes:geneformer.errors.GeneformerWarning"),
    pytest.mark.filterwarnings("ignore:Writing zarr v2:UserWarning"),
]


@pytest.fixture(scope="module")
def cells():
    adata = blood(24)
    adata = adata[:, adata.X.getnnz(0) > 1].copy()
    return ad.AnnData(sp.csr_matrix(adata.X), obs=adata.obs[[]], var=adata.var[[]])


@pytest.fixture(scope="module")
def expected(cells):
    return tokenize_counts(cells.copy(), TokenizeOptions())[0]


def write_mtx(adata, path):
    path.mkdir()
    scipy.io.mmwrite(str(path / "matrix.mtx"), sp.csc_matrix(adata.X.T).astype(int))
    (path / "barcodes.tsv").write_text("".join(f"{name}\n" for name in adata.obs_names))
    (path / "genes.tsv").write_text("".join(f"{gene}\t{gene}\n" for gene in adata.var_names))
    return path


def with_matrix(kind):
    def write(adata, path):
        adata = adata.copy()
        adata.X = kind(adata.X)
        adata.write_h5ad(path.with_suffix(".h5ad"), compression="gzip")
        return path.with_suffix(".h5ad")

    return write


def write_zarr(adata, path):
    adata.write_zarr(path.with_suffix(".zarr"), chunks=(5, 100))
    return path.with_suffix(".zarr")


def write_table(adata, path):
    adata.to_df().to_csv(path.with_suffix(".csv"))
    return path.with_suffix(".csv")


STORED = {
    "rows": with_matrix(sp.csr_matrix),
    "columns": with_matrix(sp.csc_matrix),
    "dense": with_matrix(lambda X: X.toarray()),
    "integers": with_matrix(lambda X: X.astype(np.int64)),
    "zarr": write_zarr,
    "matrix market": write_mtx,
    "table": write_table,
}


def assert_same(tokens, expected):
    assert tokens.cell_ids.tolist() == expected.cell_ids.tolist()
    assert all(np.array_equal(*pair) for pair in zip(tokens, expected, strict=True))


@pytest.mark.parametrize("stored", STORED)
@pytest.mark.parametrize("pieces", [{"chunk_size": 5}, {"chunk_size": 7, "workers": 2}], ids=["chunks", "workers"])
def test_tokens(cells, expected, tmp_path, stored, pieces):
    path = STORED[stored](cells, tmp_path / "cells")
    assert_same(tokenize_counts(path, TokenizeOptions(**pieces))[0], expected)


def test_the_order_of_files_and_genes(cells, expected, tmp_path):
    order = np.random.default_rng(0).permutation(cells.n_vars)
    for name, part in (("a", cells[:10]), ("b", cells[10:])):
        part[:, order].copy().write_h5ad(tmp_path / f"{name}.h5ad")
    for names, rows in (("ab", np.arange(24)), ("ba", np.r_[10:24, 0:10])):
        tokens = tokenize_counts([tmp_path / f"{name}.h5ad" for name in names], TokenizeOptions())[0]
        assert_same(tokens, expected.take(rows))


def test_embeddings_of_cells_in_other_batches_and_company(cells):
    def embedded(adata, **options):
        return gf.tl.embed(adata, model="mini", progress=False, copy=True, **options).obsm["X_geneformer"]

    once = embedded(cells)
    for batch in (700, 5000):
        again = embedded(cells[::-1].copy(), tokens_per_batch=batch)
        np.testing.assert_allclose(again[::-1], once, rtol=0, atol=2e-6)
    np.testing.assert_allclose(embedded(cells[3:4].copy())[0], once[3], rtol=0, atol=2e-6)


def test_effects_of_perturbations_in_other_shards(cells):
    def effects(**options):
        found = cells[:6].copy()
        gf.tl.perturb(found, model="mini", genes=["LYZ", "B2M"], min_cells=1, progress=False, **options)
        return found.uns["geneformer_perturbation"]["effects"]

    first, other = effects(), effects(cells_per_shard=2)
    names = [name for name in first if name != "value"]
    assert first[names].astype(str).equals(other[names].astype(str))
    np.testing.assert_allclose(other["value"], first["value"], rtol=0, atol=2e-6)
