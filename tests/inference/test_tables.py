"""Files of embeddings: cells in order, provenance kept, complete or not there."""

import json

import anndata
import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from geneformer.errors import OutputError, OutputExistsError, UnsupportedFormatError
from geneformer.inference.tables import CellEmbeddings, GeneEmbeddings, save_table

PROVENANCE = {"model": "tiny", "vocabulary": "V1", "embedding": {"pooling": "mean", "layer": -1, "truncate": False}}
NAMES = ["c3", "c1", "c2"]
VALUES = np.random.default_rng(0).normal(size=(3, 4)).astype(np.float32)


@pytest.fixture
def cells():
    table = pa.table({"cell_id": NAMES, "source": ["a", "a", "b"], "length": [5, 6, 7]})
    return CellEmbeddings(VALUES, table, PROVENANCE)


@pytest.fixture
def genes():
    return GeneEmbeddings(VALUES, np.array(["ENSG1", "ENSG2", "<eos>"], dtype=object), np.array([3, 1, 9]), PROVENANCE)


def test_h5ad(cells, tmp_path):
    cells.save(tmp_path / "out.h5ad")
    found = anndata.read_h5ad(tmp_path / "out.h5ad")
    np.testing.assert_array_equal(found.obsm["X_geneformer"], VALUES)
    assert list(found.obs_names) == NAMES
    assert list(found.obs["source"]) == ["a", "a", "b"]
    told = found.uns["geneformer"]["X_geneformer"]
    assert (told["model"], told["embedding"]["pooling"], int(told["embedding"]["layer"])) == ("tiny", "mean", -1)


@pytest.mark.filterwarnings("ignore:Observation names are not unique")
def test_names_that_repeat_are_told_apart_in_h5ad(tmp_path):
    CellEmbeddings(VALUES, pa.table({"cell_id": ["a", "a", "b"]})).save(tmp_path / "out.h5ad")
    assert anndata.read_h5ad(tmp_path / "out.h5ad").obs_names.is_unique


def test_cells_without_names_are_numbered(tmp_path):
    CellEmbeddings(VALUES, pa.table({"length": [1, 2, 3]})).save(tmp_path / "out.h5ad")
    assert list(anndata.read_h5ad(tmp_path / "out.h5ad").obs_names) == ["0", "1", "2"]


def test_parquet(cells, tmp_path):
    cells.save(tmp_path / "out.parquet")
    found = pd.read_parquet(tmp_path / "out.parquet")
    assert list(found.columns) == ["0", "1", "2", "3", "cell_id", "source", "length"]
    assert list(found["cell_id"]) == NAMES
    np.testing.assert_array_equal(found[list("0123")].to_numpy(), VALUES)
    noted = pq.read_schema(tmp_path / "out.parquet").metadata[b"geneformer"]
    assert json.loads(noted) == PROVENANCE


def test_csv(cells, tmp_path):
    cells.save(tmp_path / "out.csv")
    found = pd.read_csv(tmp_path / "out.csv")
    assert list(found["cell_id"]) == NAMES
    np.testing.assert_allclose(found[list("0123")].to_numpy(), VALUES, rtol=1e-6)


@pytest.mark.parametrize("suffix", ["parquet", "csv"])
def test_tables_of_genes_are_indexed_by_gene(genes, tmp_path, suffix):
    path = tmp_path / f"genes.{suffix}"
    genes.save(path)
    found = pd.read_parquet(path) if suffix == "parquet" else pd.read_csv(path, index_col="ensembl_id")
    assert list(found.index) == ["ENSG1", "ENSG2", "<eos>"]
    assert list(found["n_cells"]) == [3, 1, 9]
    np.testing.assert_allclose(found[list("0123")].to_numpy(), VALUES, rtol=1e-6)


def test_genes_as_h5ad(genes, tmp_path):
    genes.save(tmp_path / "genes.h5ad")
    found = anndata.read_h5ad(tmp_path / "genes.h5ad")
    assert list(found.obs_names) == ["ENSG1", "ENSG2", "<eos>"]
    np.testing.assert_array_equal(found.obsm["X_geneformer"], VALUES)


@pytest.mark.parametrize("name", ["out.h5ad", "out.parquet", "out.csv"])
def test_a_file_that_is_there_stays(cells, genes, tmp_path, name):
    path = tmp_path / name
    path.write_text("mine")
    for result in (cells, genes):
        with pytest.raises(OutputExistsError, match="exists already"):
            result.save(path)
    assert path.read_text() == "mine"
    cells.save(path, overwrite=True)
    assert path.read_bytes() != b"mine"
    assert [entry.name for entry in tmp_path.iterdir()] == [name]


@pytest.mark.parametrize("name", ["out.txt", "out", "out.h5"])
def test_other_suffixes_are_refused(cells, genes, tmp_path, name):
    for result in (cells, genes):
        with pytest.raises(UnsupportedFormatError, match=r"\.h5ad, \.parquet, \.csv, not to"):
            result.save(tmp_path / name)
    with pytest.raises(UnsupportedFormatError, match=r"\.parquet, \.csv, not to"):
        save_table(pd.DataFrame({"a": [1]}), tmp_path / "out.h5ad", {})
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("name", ["out.h5ad", "out.parquet", "out.csv"])
def test_a_failure_leaves_nothing(cells, tmp_path, monkeypatch, name):
    def fail(*_, **__):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(anndata.AnnData, "write_h5ad", fail)
    monkeypatch.setattr(pq, "write_table", fail)
    monkeypatch.setattr(pd.DataFrame, "to_csv", fail)
    with pytest.raises(OutputError, match="The disk is full"):
        cells.save(tmp_path / name)
    assert not list(tmp_path.iterdir())


def test_a_table_is_saved_without_row_names(tmp_path):
    frame = pd.DataFrame({"source": ["a"], "attention": [0.5]}, index=[7])
    save_table(frame, tmp_path / "t.parquet", PROVENANCE)
    save_table(frame, tmp_path / "t.csv", PROVENANCE)
    assert list(pd.read_csv(tmp_path / "t.csv").columns) == ["source", "attention"]
    assert pd.read_parquet(tmp_path / "t.parquet").equals(frame.reset_index(drop=True))
    assert json.loads(pq.read_schema(tmp_path / "t.parquet").metadata[b"geneformer"]) == PROVENANCE


def test_texts_that_a_spreadsheet_would_compute_are_written_as_texts(tmp_path):
    odd = ["=HYPERLINK(1)", "+1+cmd", "-2+3", "@SUM(1)", "-5", "T cell", "-1e-3", None]
    frame = pd.DataFrame({"label": odd, "value": np.arange(len(odd)) - 3.0})
    save_table(frame, tmp_path / "t.csv", {})
    read = pd.read_csv(tmp_path / "t.csv", keep_default_na=False)
    assert read["label"].tolist() == ["'=HYPERLINK(1)", "'+1+cmd", "'-2+3", "'@SUM(1)", "-5", "T cell", "-1e-3", ""]
    assert read["value"].tolist() == frame["value"].tolist()
    assert frame["label"].tolist() == odd
