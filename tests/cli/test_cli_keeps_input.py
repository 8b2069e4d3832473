"""Results as `.h5ad` keep all of the input: counts, tables and slots, whatever the cells came in."""

import gzip
import json

import anndata as ad
import h5py
import numpy as np
import pytest
import scanpy as sc
from scipy import io, sparse
from typer.testing import CliRunner

import geneformer as gf
from geneformer import cli
from geneformer.datasets import pbmc3k, pbmc3k_path
from geneformer.inference.slots import Origin, Slots, write_with_input
from small_finetuning import labeled_blood, tiny_model

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning", "ignore::FutureWarning")

CPU = ["--device", "cpu", "--dtype", "float32", "--no-progress"]


def told(*arguments):
    result = CliRunner().invoke(cli.app, [*map(str, arguments), *CPU, "--json"])
    assert result.exit_code == 0, result.output
    return json.loads(result.stdout)


def test_a_picture_without_a_suffix_replaces_nothing(tmp_path):
    (tmp_path / "map.png").write_bytes(b"mine")
    given = ["embed", pbmc3k_path(), "-o", tmp_path / "out.csv", "--umap", tmp_path / "map", *CPU]
    result = CliRunner().invoke(cli.app, list(map(str, given)))
    assert result.exit_code == 1
    assert "map.png" in result.stderr
    assert (tmp_path / "map.png").read_bytes() == b"mine"


def test_a_map_of_too_few_cells_is_refused_before_they_are_embedded(tmp_path, monkeypatch):
    from geneformer.inference import embedding

    monkeypatch.setattr(embedding, "embed", None)  # is not called
    pbmc3k()[:3].copy().write_h5ad(tmp_path / "few.h5ad")
    given = ["embed", tmp_path / "few.h5ad", "-o", tmp_path / "out.csv", "--umap", tmp_path / "map.png", *CPU]
    done = CliRunner().invoke(cli.app, [str(word) for word in given])
    assert (done.exit_code, "A map needs at least 4 cells" in done.stderr) == (1, True), done.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["few.h5ad"]


def same(found, expected):
    """All that `expected` holds is in `found`."""
    assert list(found.obs_names) == list(expected.obs_names)
    assert list(found.var_names) == list(expected.var_names)
    assert sparse.issparse(found.X)
    assert (found.X != expected.X).nnz == 0
    for name in expected.obs:
        assert list(found.obs[name]) == list(expected.obs[name])
        assert found.obs[name].dtype == expected.obs[name].dtype
    for name in expected.var:
        assert list(found.var[name]) == list(expected.var[name])
    for name, layer in expected.layers.items():
        assert (found.layers[name] != layer).nnz == 0
    for name, values in expected.obsm.items():
        np.testing.assert_array_equal(found.obsm[name], values)
    assert (found.raw is None) == (expected.raw is None)
    if expected.raw is not None:
        assert (found.raw.X != expected.raw.X).nnz == 0
    assert set(expected.uns) <= set(found.uns)


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """Cells in several formats, one of them without a count; a model and a classifier."""
    place = tmp_path_factory.mktemp("kept")
    tiny_model(place / "model", seed=3)
    adata = labeled_blood(40)
    adata.X = sparse.csr_matrix(adata.X).astype(np.float32)
    adata.write_h5ad(place / "labeled.h5ad")
    told("classify", "fit", place / "labeled.h5ad", "-l", "kind", "-m", place / "model", "-o", place / "fitted",
         "--max-steps", 2, "--tokens-per-batch", 600, "--valid", 0.25, "--test", 0.25,
         "--baselines", "none")  # fmt: skip
    adata.raw = adata
    adata.layers["twice"] = adata.X * 2
    adata.obsm["X_umap"] = np.zeros((40, 2))
    adata.obs["kind"] = adata.obs["kind"].astype("category")
    adata.uns["kind_colors"] = np.array(["#111111", "#222222", "#333333"])
    adata.uns["notes"] = {"by": "me"}
    adata.X = sparse.csr_matrix(sparse.diags((np.arange(40) != 7).astype(np.float32)) @ adata.X)
    adata.write_h5ad(place / "cells.h5ad")
    adata.write_zarr(place / "cells.zarr")
    folder = place / "tenx"
    folder.mkdir()
    with gzip.open(folder / "matrix.mtx.gz", "wb") as file:
        io.mmwrite(file, adata.X.T.tocoo().astype(np.int64), field="integer")
    lines = [f"{name}\tsymbol {place}\tGene Expression" for place, name in enumerate(adata.var_names)]
    for name, rows in (("features", lines), ("barcodes", list(adata.obs_names))):
        with gzip.open(folder / f"{name}.tsv.gz", "wt") as file:
            file.write("\n".join(rows) + "\n")
    return place


@pytest.mark.parametrize("name", ["cells.h5ad", "cells.zarr"])
def test_embeddings_stand_beside_all_of_an_anndata(place, tmp_path, name):
    before = (place / "cells.h5ad").read_bytes()
    told("embed", place / name, "-m", place / "model", "-o", tmp_path / "out.h5ad", "--umap", tmp_path / "map.png")
    found, given = ad.read_h5ad(tmp_path / "out.h5ad"), ad.read_h5ad(place / "cells.h5ad")
    same(found, given)
    gf.tl.embed(given, model=place / "model", device="cpu", dtype="float32", progress=False)
    np.testing.assert_allclose(found.obsm["X_geneformer"], given.obsm["X_geneformer"], atol=2e-6)
    assert np.isnan(found.obsm["X_geneformer"]).any(axis=1).nonzero()[0].tolist() == [7]
    # The map of the input stays; that of the embedding has a slot of its own.
    assert np.isnan(found.obsm["X_geneformer_umap"]).any(axis=1).nonzero()[0].tolist() == [7]
    assert found.uns["geneformer"]["X_geneformer"]["vocabulary"] == "V1"
    assert (place / "cells.h5ad").read_bytes() == before


def test_a_folder_of_10x_becomes_what_scanpy_reads(place, tmp_path):
    told("embed", place / "tenx", "-m", place / "model", "-o", tmp_path / "out.h5ad", "--umap", tmp_path / "map.png")
    found = ad.read_h5ad(tmp_path / "out.h5ad")
    same(found, sc.read_10x_mtx(place / "tenx"))
    assert found.obsm["X_umap"].shape == (40, 2)
    assert np.isnan(found.obsm["X_geneformer"]).any(axis=1).sum() == 1


def test_classes_are_those_of_the_function(place, tmp_path):
    flags = ["-m", place / "fitted", "-o", tmp_path / "out.h5ad", "--umap", tmp_path / "map.svg"]
    report = told("classify", "predict", place / "cells.h5ad", *flags, "--heatmap", tmp_path / "heat.png")
    found, given = ad.read_h5ad(tmp_path / "out.h5ad"), ad.read_h5ad(place / "cells.h5ad")
    same(found, given)
    gf.tl.classify(given, place / "fitted")
    for name in ("geneformer_kind", "geneformer_kind_probability"):
        assert found.obs[name].isna().equals(given.obs[name].isna())
    assert list(found.obs["geneformer_kind"]) == list(given.obs["geneformer_kind"])
    assert list(found.obsm["geneformer_kind_proba"].columns) == list(given.obsm["geneformer_kind_proba"].columns)
    assert found.obs["geneformer_kind"].iloc[7] == "unknown"
    assert report["counts"]["unknown"] == 1
    drawn = (tmp_path / "map.svg").read_text()
    # Truth and prediction stand side by side in the colors that the input keeps for the truth.
    assert all(color in drawn for color in ("kind", "geneformer_kind", "#111111"))
    told("classify", "predict", place / "tenx", "-m", place / "fitted", "-o", tmp_path / "tenx.h5ad")
    assert list(ad.read_h5ad(tmp_path / "tenx.h5ad").obs["geneformer_kind"]) == list(found.obs["geneformer_kind"])


def test_several_inputs_are_put_together(place, tmp_path):
    some = ad.read_h5ad(place / "labeled.h5ad")[:5, 10:].copy()
    some.write_h5ad(tmp_path / "some.h5ad")
    paths = [place / "labeled.h5ad", tmp_path / "some.h5ad"]
    told("embed", *paths, "-m", place / "model", "-o", tmp_path / "out.h5ad")
    found = ad.read_h5ad(tmp_path / "out.h5ad")
    both = ad.concat([ad.read_h5ad(path) for path in paths], join="outer", merge="first")
    assert found.shape == both.shape == (45, len(some.var_names) + 10)
    assert (found.X != both[:, found.var_names].X).nnz == 0
    assert list(found.obs["source"]) == ["labeled"] * 40 + ["some"] * 5
    assert list(found.obs["kind"]) == list(both.obs["kind"])
    np.testing.assert_allclose(found.obsm["X_geneformer"][20], found.obsm["X_geneformer"][20])
    assert found.obs_names.is_unique


def test_a_second_run_takes_the_place_of_the_first_and_other_slots_stay(place, tmp_path):
    told("embed", place / "cells.h5ad", "-m", place / "model", "-o", tmp_path / "one.h5ad")
    told("classify", "predict", tmp_path / "one.h5ad", "-m", place / "fitted", "-o", tmp_path / "two.h5ad")
    told("classify", "predict", tmp_path / "two.h5ad", "-m", place / "fitted", "-o", tmp_path / "three.h5ad",
         "--unknown-below", 1.0)  # fmt: skip
    found = ad.read_h5ad(tmp_path / "three.h5ad")
    assert set(found.uns["geneformer"]) == {"X_geneformer", "geneformer_kind"}
    assert set(found.obs["geneformer_kind"]) == {"unknown"}
    assert list(found.obs.columns).count("geneformer_kind") == 1


def test_matrices_are_never_whole_in_memory(place, tmp_path, monkeypatch):
    """A file is copied as it is: neither its matrix nor its layers are read."""
    rows = np.arange(40)
    slots = Slots(obs={"number": rows.astype(np.float32)})
    for name in ("read_h5ad", "read_zarr"):
        monkeypatch.setattr(ad, name, None)
    write_with_input(tmp_path / "out.h5ad", slots, Origin(inputs=[place / "cells.h5ad"], rows=rows))
    with h5py.File(tmp_path / "out.h5ad") as file, h5py.File(place / "cells.h5ad") as given:
        assert file["X/data"].id.get_offset() == given["X/data"].id.get_offset()
        assert file["obs/number"][:].tolist() == rows.tolist()


def test_tables_of_earlier_versions_of_anndata_are_written_anew(place, tmp_path):
    with h5py.File(place / "labeled.h5ad") as given, h5py.File(tmp_path / "old.h5ad", "w") as file:
        given.copy(given["X"], file)
        given.copy(given["var"], file)
        names = given["obs"][given["obs"].attrs["_index"]].asstr()[:]
        table = np.array([(name, 1.5) for name in names], dtype=[("index", h5py.string_dtype()), ("age", "f4")])
        file["obs"] = table
    told("embed", tmp_path / "old.h5ad", "-m", place / "model", "-o", tmp_path / "out.h5ad")
    found = ad.read_h5ad(tmp_path / "out.h5ad")
    assert found.obs["age"].tolist() == [1.5] * 40
    assert found.obsm["X_geneformer"].shape == (40, 16)


def test_an_evaluation_is_drawn(place, tmp_path):
    pictures = {name: tmp_path / f"{name}.svg" for name in ("confusion", "calibration", "umap")}
    flags = [part for name, path in pictures.items() for part in (f"--{name}", path)]
    told("classify", "evaluate", place / "labeled.h5ad", "-m", place / "fitted", "-o", tmp_path / "report", *flags)
    words = {"confusion": "predicted", "calibration": "expected calibration error", "umap": "geneformer_kind"}
    for name, path in pictures.items():
        assert words[name] in path.read_text()
