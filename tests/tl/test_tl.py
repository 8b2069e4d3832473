"""`gf.tl`: results in their slots, aligned to the AnnData they came from; nothing else touched."""

import anndata
import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp

import geneformer as gf
from geneformer.errors import (
    GeneformerWarning,
    NotRawCountsError,
    OptionError,
    UnknownColumnError,
    UnknownGeneError,
    VocabularyMismatchError,
)
from golden import golden_table, save_tiny_checkpoint
from small_cells import blood

pytestmark = pytest.mark.contract

QUIET = {"device": "cpu", "dtype": "float32", "progress": False}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return save_tiny_checkpoint("V1", tmp_path_factory.mktemp("V1"))


@pytest.fixture
def adata():
    return blood(8)


@pytest.fixture(scope="module")
def wanted(folder):
    """Embeddings of the first eight cells, checked against the published package where it has them."""
    adata = blood(40)
    gf.tl.embed(adata, model=folder, **QUIET)
    golden = golden_table("embs_V1_cell_-1").set_index("cell_id")
    rows = adata.obs_names.get_indexer(golden.index)
    assert (rows >= 0).sum() > 10
    np.testing.assert_allclose(adata.obsm["X_geneformer"][rows[rows >= 0]], golden[rows >= 0], atol=1e-5)
    return adata.obsm["X_geneformer"][:8]


def close(one, other):
    np.testing.assert_allclose(one, other, atol=2e-6)


def test_embeddings_are_in_the_order_of_the_cells(adata, folder, wanted):
    before = adata.copy()
    shuffled = adata[[5, 1, 7, 0]].copy()
    assert gf.tl.embed(shuffled, model=folder, **QUIET) is None
    close(shuffled.obsm["X_geneformer"], wanted[[5, 1, 7, 0]])
    assert shuffled.obsm["X_geneformer"].dtype == np.float32
    gf.tl.embed(adata, model=folder, **QUIET)
    assert (adata.X != before.X).nnz == 0
    assert adata.obs.equals(before.obs)
    assert adata.var.equals(before.var)
    assert set(adata.obsm) == {*before.obsm, "X_geneformer"}


def test_a_copy_leaves_the_original_alone(adata, folder, wanted):
    copied = gf.tl.embed(adata, model=folder, copy=True, key_added="X_mine", **QUIET)
    close(copied.obsm["X_mine"], wanted)
    assert "X_mine" not in adata.obsm
    assert "geneformer" not in adata.uns
    assert copied.uns["geneformer"]["X_mine"]["vocabulary"] == "V1"


def test_a_view_and_names_that_repeat(adata, folder, wanted):
    adata.obs_names = ["a", "b", "a", "b", "a", "b", "c", "d"]
    gf.tl.embed(adata, model=folder, **QUIET)
    close(adata.obsm["X_geneformer"], wanted)
    assert list(adata.obs_names)[:3] == ["a", "b", "a"]
    table = gf.tl.predict_masked(adata, model=folder, genes=("B2M",), n_predictions=1, **QUIET)
    assert list(table["cell_id"]) == [name for name in adata.obs_names if name in set(table["cell_id"])]


@pytest.mark.filterwarnings("ignore::geneformer.errors.GeneformerWarning")
def test_cells_without_a_known_gene_keep_their_place(adata, folder, wanted):
    counts = adata.X.tolil()
    counts[2] = 0
    adata.X = counts.tocsr()
    adata.obs["filter_pass"] = [1, 1, 1, 1, 0, 1, 1, 1]
    with pytest.warns(GeneformerWarning, match=f"2 of 8 cells have no embedding.*{adata.obs_names[2]}"):
        gf.tl.embed(adata, model=folder, **QUIET)
    found = adata.obsm["X_geneformer"]
    assert np.isnan(found[[2, 4]]).all()
    rest = [0, 1, 3, 5, 6, 7]
    close(found[rest], wanted[rest])


def test_counts_are_found_where_they_are_said_to_be(adata, folder, wanted):
    adata.layers["raw_counts"] = adata.X.copy()
    adata.raw = adata.copy()
    adata.X = np.log1p(adata.X.toarray() * 3.7)
    for layer in ("raw_counts", "raw"):
        gf.tl.embed(adata, model=folder, counts_layer=layer, key_added=layer, **QUIET)
        close(adata.obsm[layer], wanted)
    with pytest.raises(NotRawCountsError, match="raw_counts"):
        gf.tl.embed(adata, model=folder, **QUIET)
    with pytest.raises(UnknownColumnError):
        gf.tl.embed(adata, model=folder, counts_layer="count", **QUIET)
    assert set(adata.uns["geneformer"]) == {"raw_counts", "raw"}


def test_backed_counts(adata, folder, wanted, tmp_path):
    adata.write_h5ad(tmp_path / "b.h5ad")
    backed = anndata.read_h5ad(tmp_path / "b.h5ad", backed="r")
    gf.tl.embed(backed, model=folder, **QUIET)
    close(backed.obsm["X_geneformer"], wanted)
    backed.file.close()


def test_genes_get_their_vectors(adata, folder):
    twice = anndata.concat([adata, adata[:, :3]], axis=1, merge="same")
    twice.var_names = [*adata.var_names, *(f"{name}.7" for name in adata.var_names[:3])]
    gf.tl.embed(twice, model=folder, pooling="gene", key_added="genes", **QUIET)
    vectors = twice.varm["genes"]
    np.testing.assert_array_equal(vectors[:3], vectors[-3:])
    vocabulary = gf.Vocabulary.load("V1")
    known = np.array([name in vocabulary.token_of for name in adata.var_names])
    assert np.isnan(vectors[: adata.n_vars][~known]).all()
    tokens = gf.pp.tokenize(twice)
    from geneformer.inference.embedding import embed
    from geneformer.options import EmbedOptions, RuntimeOptions

    frame = embed(tokens, gf.load_model(folder), EmbedOptions(pooling="gene"), RuntimeOptions(**QUIET)).to_frame()
    expected = frame.reindex(adata.var_names[known]).drop(columns="n_cells")
    assert 0 < expected["0"].isna().sum() < len(expected)
    close(vectors[: adata.n_vars][known], expected)


def test_provenance_survives_a_file(adata, folder, tmp_path):
    gf.tl.embed(adata, model=folder, layer=0, **QUIET)
    gf.tl.attention(adata, model=folder, genes=("CD3D", "B2M"), **QUIET)
    adata.write_h5ad(tmp_path / "out.h5ad")
    found = anndata.read_h5ad(tmp_path / "out.h5ad")
    told = found.uns["geneformer"]
    assert set(told) == {"X_geneformer", "geneformer_attention"}
    assert told["X_geneformer"]["embedding"]["layer"] == 0
    assert told["X_geneformer"]["vocabulary_fingerprint"] == gf.Vocabulary.load("V1").fingerprint
    assert list(told["geneformer_attention"]["attention"]["genes"]) == ["CD3D", "B2M"]
    close(found.obsm["X_geneformer"], adata.obsm["X_geneformer"])


def test_attention_is_aligned_to_the_genes(adata, folder):
    expressed = np.asarray(adata.X.mean(0)).ravel().argsort()[::-1]
    chosen = [g for g in adata.var_names[expressed[:60]] if g in gf.Vocabulary.load("V1").token_of][:20]
    reordered = adata[:, ::-1].copy()
    for cells in (adata, reordered):
        gf.tl.attention(cells, model=folder, genes=tuple(chosen), layer=-1, **QUIET)
    found = adata.varp["geneformer_attention"]
    assert sp.issparse(found)
    assert (found.shape, found.dtype) == ((adata.n_vars, adata.n_vars), np.float32)
    place = adata.var_names.get_indexer(chosen)
    inside = found[place][:, place]
    assert inside.nnz == found.nnz == len(chosen) ** 2
    assert (inside.toarray() > 0).all()
    assert abs(reordered.varp["geneformer_attention"][::-1][:, ::-1] - found).max() < 2e-6
    copied = gf.tl.attention(adata, model=folder, genes=("B2M",), min_weight=0.5, key_added="m", copy=True, **QUIET)
    assert copied.varp["m"].nnz == 0
    assert "m" not in adata.varp


def test_attention_per_cell_is_a_layer(adata, folder, tmp_path):
    adata.obs_names = ["a", "b", "a", "b", "a", "b", "c", "d"]
    adata.obs["filter_pass"] = [1, 1, 0, 1, 1, 1, 1, 1]
    assert gf.tl.attention(adata, model=folder, per="cell", **QUIET) is None
    weights = adata.layers["geneformer_attention"]
    assert sp.issparse(weights)
    assert (weights.shape, weights.dtype) == (adata.shape, np.float32)
    close(weights.sum(1).A1, [1, 1, 0, 1, 1, 1, 1, 1])
    vocabulary = gf.Vocabulary.load("V1")
    known = np.array([name in vocabulary.token_of for name in adata.var_names])
    assert ((weights[0].toarray()[0] > 0) == ((adata.X[0].toarray()[0] > 0) & known)).all()
    assert "geneformer_attention" not in adata.varp
    # What the genes of one cell pay to each other is the average over a data set of that cell.
    gf.tl.attention(one := adata[[4]].copy(), model=folder, **QUIET)
    pairs = one.varp["geneformer_attention"]
    close(weights[4].toarray()[0], pairs.sum(0).A1 / (weights[4] > 0).sum())
    adata.obs_names_make_unique()
    adata.write_h5ad(tmp_path / "out.h5ad")
    told = anndata.read_h5ad(tmp_path / "out.h5ad").uns["geneformer"]
    assert told["geneformer_attention"]["attention"]["per"] == "cell"


def test_predictions_are_a_table_of_cells_and_genes(adata, folder):
    before = adata.copy()
    table = gf.tl.predict_masked(adata, genes=["B2M", "ENSG00000205542"], model=folder, n_predictions=3, **QUIET)
    assert isinstance(table, pd.DataFrame)
    assert set(table["cell_id"]) <= set(adata.obs_names)
    assert set(table["masked_symbol"]) == {"B2M", "TMSB4X"}
    assert (table.groupby(["cell_id", "masked_gene"]).size() == 3).all()
    assert (table["probability"] > 0).all()
    assert (adata.X != before.X).nnz == 0
    assert not adata.uns


def test_a_gene_is_found_by_every_name_it_has_had(adata, folder):
    """Names that only the newer vocabulary's history knows, with V1's model."""
    known, history = gf.Vocabulary.load("V1"), gf.Vocabulary.load("V2").aliases
    adata.X = sp.csr_matrix(np.where(np.arange(adata.n_vars) < 40, 1.0, adata.X.toarray()))
    del adata.obs["n_counts"]
    here = {gene for gene in adata.var_names[:40] if gene in known.token_of}
    own = {symbol.upper() for symbol in known.symbols}
    former = [n for n, gene in history.items() if gene in here and n not in own and not n.startswith("ENSG")][:5]
    assert len(former) == 5
    ids = [history[name] for name in former]
    by_name, by_id = (gf.tl.predict_masked(adata, model=folder, genes=genes, **QUIET) for genes in (former, ids))
    pd.testing.assert_frame_equal(by_name, by_id)
    weights = []
    for genes in (former, ids):
        gf.tl.attention(adata, model=folder, genes=tuple(genes), **QUIET)
        weights.append(adata.varp["geneformer_attention"])
    assert weights[0].nnz
    assert (weights[0] != weights[1]).nnz == 0


def test_refusals_leave_the_data_alone(adata, folder):
    for call, error in (
        (lambda: gf.tl.embed(adata, model=folder, vocabulary="V2", **QUIET), VocabularyMismatchError),
        (lambda: gf.tl.embed(adata, model=folder, pooling="men", **QUIET), OptionError),
        (lambda: gf.tl.attention(adata, model=folder, genes=("NOTAGENE",), **QUIET), UnknownGeneError),
        (lambda: gf.tl.predict_masked(adata, model=folder, **QUIET), OptionError),
    ):
        with pytest.raises(error, match=r"\(GF\d{3}\)"):
            call()
    assert not adata.uns
    assert not adata.varp
    assert "X_geneformer" not in adata.obsm
