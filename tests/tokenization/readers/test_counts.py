"""Every kind of input gives the same cells, genes and counts, and none is written to."""

import gzip
import hashlib

import anndata
import h5py
import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp
from scipy.io import mmwrite

from geneformer.errors import InputNotFoundError, UnknownColumnError
from geneformer.options import TokenizeOptions
from geneformer.tokenization.checks import open_counts, resolve_inputs, source_names
from geneformer.tokenization.readers import source as module
from geneformer.tokenization.tokenizer import tokenize_counts
from tokenization.conftest import make_adata, make_vocabulary

TOY = make_vocabulary()
OPTIONS = TokenizeOptions(counts=True)


def write_tenx(adata, path, *, generation=3):
    counts = adata.X.tocsr().astype(np.int32)
    with h5py.File(path, "w") as file:
        group = file.create_group("matrix" if generation == 3 else "hg19")
        group["barcodes"] = adata.obs_names.to_numpy().astype("S")
        group["data"], group["indices"], group["indptr"] = counts.data, counts.indices, counts.indptr
        group["shape"] = np.array(counts.shape[::-1])
        ids = adata.var_names.to_numpy().astype("S")
        if generation == 3:
            features = group.create_group("features")
            features["id"], features["name"] = ids, ids
            kinds = adata.var.get("feature_types", pd.Series("Gene Expression", index=adata.var_names))
            features["feature_type"] = kinds.to_numpy().astype("S")
        else:
            group["genes"], group["gene_names"] = ids, ids
    return path


def write_matrix_folder(adata, folder, *, packed, prefix="", cells_first=False):
    folder.mkdir()
    matrix = adata.X.tocoo() if cells_first else adata.X.T.tocoo()
    mmwrite(folder / f"{prefix}matrix.mtx", matrix.astype(np.int32), field="integer")
    (folder / f"{prefix}barcodes.tsv").write_text("\n".join(adata.obs_names) + "\n")
    lines = [f"{gene}\t{gene}\tGene Expression" for gene in adata.var_names]
    (folder / f"{prefix}features.tsv").write_text("\n".join(lines) + "\n")
    if packed:
        for file in list(folder.iterdir()):
            with gzip.open(f"{file}.gz", "wb") as out:
                out.write(file.read_bytes())
            file.unlink()
    return folder


def write_loom(adata, path):
    dense = adata.X.toarray().T
    with h5py.File(path, "w") as file:
        file["matrix"] = dense
        file.create_dataset("row_attrs/ensembl_id", data=adata.var_names.to_numpy().astype("S"))
        file.create_dataset("col_attrs/CellID", data=adata.obs_names.to_numpy().astype("S"))
        file.create_dataset("layers/doubled", data=dense * 2)
    return path


def write_old_h5ad(adata, path):
    """As AnnData before 0.7 laid it out: records for tables, `h5sparse` for the matrix."""
    with h5py.File(path, "w") as file:
        group = file.create_group("X")
        group.attrs["h5sparse_format"], group.attrs["h5sparse_shape"] = "csr", adata.shape
        group["data"], group["indices"], group["indptr"] = adata.X.data, adata.X.indices, adata.X.indptr
        for name, index in (("obs", adata.obs_names), ("var", adata.var_names)):
            file[name] = np.array([(text.encode(), 1) for text in index], dtype=[("index", "S20"), ("n", "i4")])
    return path


def table(adata):
    return pd.DataFrame(adata.X.toarray().astype(int), index=adata.obs_names, columns=adata.var_names)


def stored(adata, path, change=lambda a: a, **options):
    change(adata.copy()).write_h5ad(path, **options)
    return path


def with_matrix(convert):
    def change(adata):
        adata.X = convert(adata.X)
        return adata

    return change


def zarr_of(version):
    def write(adata, folder):
        pytest.importorskip("zarr")
        with anndata.settings.override(zarr_write_format=version):
            adata.write_zarr(folder / "a.zarr")
        return folder / "a.zarr"

    return write


DENSE = with_matrix(lambda matrix: matrix.toarray())
MAKERS = {
    "dense": lambda a, f: DENSE(a.copy()),
    "csc": lambda a, f: with_matrix(sp.csc_matrix)(a.copy()),
    "csr array": lambda a, f: with_matrix(sp.csr_array)(a.copy()),
    "int64": lambda a, f: with_matrix(lambda x: x.astype(np.int64))(a.copy()),
    "view": lambda a, f: anndata.concat([a, a], index_unique="-")[: a.n_obs],
    "view of genes": lambda a, f: a[:, np.arange(a.n_vars)],
    "dense view": lambda a, f: DENSE(a.copy())[np.arange(a.n_obs)],
    "backed": lambda a, f: anndata.read_h5ad(stored(a, f / "a.h5ad"), backed="r"),
    "backed csc": lambda a, f: anndata.read_h5ad(stored(a, f / "a.h5ad", with_matrix(sp.csc_matrix)), backed="r"),
    "backed dense": lambda a, f: anndata.read_h5ad(stored(a, f / "a.h5ad", DENSE), backed="r"),
    "backed view": lambda a, f: anndata.read_h5ad(stored(a, f / "a.h5ad"), backed="r")[np.arange(a.n_obs)],
    "h5ad": lambda a, f: stored(a, f / "a.h5ad", compression="gzip"),
    "h5ad csc": lambda a, f: stored(a, f / "a.h5ad", with_matrix(sp.csc_matrix)),
    "h5ad dense": lambda a, f: stored(a, f / "a.h5ad", DENSE),
    "old h5ad": lambda a, f: write_old_h5ad(a, f / "a.h5ad"),
    "zarr 2": zarr_of(2),
    "zarr 3": zarr_of(3),
    "loom": lambda a, f: write_loom(a, f / "a.loom"),
    "10x 3": lambda a, f: write_tenx(a, f / "a.h5"),
    "10x 2": lambda a, f: write_tenx(a, f / "a.h5", generation=2),
    "mtx": lambda a, f: write_matrix_folder(a, f / "a", packed=False),
    "mtx.gz": lambda a, f: write_matrix_folder(a, f / "a", packed=True, prefix="GSM1_"),
    "mtx cells first": lambda a, f: write_matrix_folder(a, f / "a", packed=False, cells_first=True),
    "csv": lambda a, f: table(a).to_csv(f / "a.csv") or f / "a.csv",
    "csv of genes": lambda a, f: table(a).T.to_csv(f / "a.csv") or f / "a.csv",
    "tsv.gz": lambda a, f: table(a).to_csv(f / "a.tsv.gz", sep="\t") or f / "a.tsv.gz",
    "tsv of genes": lambda a, f: table(a).T.to_csv(f / "a.tsv", sep="\t") or f / "a.tsv",
}


def as_lists(dataset):
    packed = dataset.gather(range(len(dataset)), counts=True)
    return dataset.cell_ids.tolist(), packed.cu_seqlens.tolist(), packed.input_ids.tolist(), packed.counts.tolist()


@pytest.fixture(scope="module")
def expected():
    return as_lists(tokenize_counts(make_adata(), OPTIONS, vocabulary=TOY)[0])


@pytest.mark.filterwarnings("ignore:Observation names are not unique")
@pytest.mark.parametrize("kind", MAKERS)
def test_every_kind_of_input_gives_the_same_tokens(kind, expected, tmp_path):
    source = MAKERS[kind](make_adata(), tmp_path)
    tokens, report = tokenize_counts(source, OPTIONS, vocabulary=TOY)
    names, *rest = as_lists(tokens)
    assert [name.removesuffix("-0") for name in names] == expected[0]
    assert tuple(rest) == expected[1:]
    assert report.sources[0].genes["genes_matched"] == 40


@pytest.mark.parametrize("kind", ["h5ad csc", "mtx", "tsv of genes", "csv", "h5ad dense", "h5ad"])
def test_small_pieces_of_a_matrix_give_the_same_tokens(kind, expected, tmp_path, monkeypatch):
    monkeypatch.setattr(module, "BUCKET_ENTRIES", 100)
    monkeypatch.setattr(module, "MAX_ENTRIES", 70)
    monkeypatch.setattr(module, "MAX_DENSE", 150)
    source = MAKERS[kind](make_adata(), tmp_path)
    assert as_lists(tokenize_counts(source, OPTIONS, vocabulary=TOY)[0]) == expected


def test_inputs_keep_their_bytes(tmp_path):
    adata = make_adata()
    paths = [stored(adata, tmp_path / "a.h5ad"), write_loom(adata, tmp_path / "b.loom")]
    paths.append(write_tenx(adata, tmp_path / "c.h5"))
    before = [(hashlib.sha256(path.read_bytes()).hexdigest(), path.stat().st_mtime_ns) for path in paths]
    for path in paths:
        path.chmod(0o444)
    tokenize_counts(paths, vocabulary=TOY)
    assert [(hashlib.sha256(path.read_bytes()).hexdigest(), path.stat().st_mtime_ns) for path in paths] == before
    assert len(list(tmp_path.iterdir())) == 3


def test_layers_and_raw(tmp_path, expected):
    adata = make_adata()
    adata.raw = adata.copy()
    adata.layers["counts"] = adata.X.copy()
    adata.X = adata.X.log1p()
    path = stored(adata, tmp_path / "a.h5ad")
    for source in (adata, path, adata[np.arange(adata.n_obs)]):
        for layer in ("counts", "raw"):
            tokens, report = tokenize_counts(source, TokenizeOptions(counts=True, layer=layer), vocabulary=TOY)
            assert as_lists(tokens) == expected
            assert report.sources[0].place == {"counts": 'layers["counts"]', "raw": "raw.X"}[layer]
        with pytest.raises(UnknownColumnError, match='Did you mean "counts"'):
            open_counts(source, "count")


def test_a_layer_of_a_loom(tmp_path, expected):
    path = write_loom(make_adata(), tmp_path / "a.loom")
    tokens, _ = tokenize_counts(path, TokenizeOptions(counts=True, layer="doubled"), vocabulary=TOY)
    assert as_lists(tokens)[2] == expected[2]


def test_features_that_are_no_genes_are_left_out(tmp_path, expected):
    adata = make_adata()
    proteins = anndata.AnnData(
        sp.csr_matrix(np.full((adata.n_obs, 3), 500.0)), obs=adata.obs, var=pd.DataFrame(index=["CD3", "CD4", "CD8"])
    )
    adata.var["feature_types"], proteins.var["feature_types"] = "Gene Expression", "Antibody Capture"
    both = anndata.concat([adata, proteins], axis="var", merge="first")
    both.X = both.X.tocsr()
    for source in (both, write_tenx(both, tmp_path / "a.h5")):
        with pytest.warns(UserWarning, match="3 features that are no genes"):
            tokens, report = tokenize_counts(source, OPTIONS, vocabulary=TOY)
        assert as_lists(tokens) == expected
        assert report.sources[0].n_other_features == 3


def test_a_folder_stands_for_its_files_in_order(tmp_path):
    for number, name in enumerate(["b.h5ad", "a.h5ad"]):
        stored(make_adata(seed=number), tmp_path / name)
    write_matrix_folder(make_adata(seed=2), tmp_path / "c", packed=True)
    (tmp_path / "notes.md").write_text("nothing to read")
    assert [path.name for path in resolve_inputs([tmp_path])] == ["a.h5ad", "b.h5ad", "matrix.mtx.gz"]
    tokens, report = tokenize_counts(tmp_path, vocabulary=TOY)
    assert list(dict.fromkeys(tokens.column("source"))) == ["a", "b", "c"]
    assert [source.n_written for source in report.sources] == [30, 30, 30]
    alone = tokenize_counts(tmp_path / "b.h5ad", vocabulary=TOY)[0]
    assert all(np.array_equal(tokens[30 + row], alone[row]) for row in range(30))


def test_a_folder_without_counts_is_refused(tmp_path):
    (tmp_path / "readme.md").write_text("-")
    with pytest.raises(InputNotFoundError, match=r"found: readme\.md.*Accepted: \.h5ad"):
        resolve_inputs([tmp_path])
    with pytest.raises(InputNotFoundError, match="does not exist"):
        resolve_inputs([tmp_path / "none.h5ad"])


def test_sources_of_one_name_are_told_apart(tmp_path):
    for sample in ("s1", "s2"):
        (tmp_path / sample).mkdir()
    paths = [stored(make_adata(), tmp_path / sample / "counts.h5ad") for sample in ("s1", "s2")]
    paths.append(write_loom(make_adata(), tmp_path / "other.loom"))
    sources = [open_counts(path) for path in paths]
    assert source_names(sources) == ["s1/counts", "s2/counts", "other"]
    assert source_names([sources[0], sources[0]]) == ["counts-1", "counts-2"]
    assert source_names([open_counts(make_adata()), open_counts(make_adata())]) == ["adata-1", "adata-2"]
    for source in sources:
        source.close()
