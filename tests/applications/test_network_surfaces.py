"""`gf.tl.network` and `geneformer network`: slots, files, groups, donors, resumption, and what is refused."""

import json

import anndata as ad
import numpy as np
import pandas as pd
import pytest
from scipy.io import mmwrite
from scipy.sparse import csr_matrix
from typer.testing import CliRunner

import geneformer as gf
from geneformer.applications import network_perturbation
from geneformer.applications.networks import COLUMNS, GeneNetwork, as_edges, read_network, rewired
from geneformer.cli import app
from geneformer.errors import (
    AbsentGeneError,
    ConstantLabelError,
    CountsError,
    GeneformerWarning,
    NoCellsError,
    OptionError,
    OutputExistsError,
    UnknownChoiceError,
    UnknownColumnError,
    UnknownGeneError,
    UnreadableInputError,
)
from golden import save_tiny_checkpoint
from small_cells import blood

QUIET = {"device": "cpu", "dtype": "float32", "progress": False, "n_null": 10, "n_bootstrap": 8, "min_cells": 5}
FEW = {"regulators": ["SPI1", "CEBPD", "FOS", "JUN", "STAT1", "KLF6"], "max_edges": 300}

pytestmark = pytest.mark.filterwarnings("ignore::geneformer.errors.GeneformerWarning")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return save_tiny_checkpoint("V1", tmp_path_factory.mktemp("V1"))


@pytest.fixture
def adata():
    found = blood(48)
    found.obs["kind"] = ["a/b", "c"] * 24
    found.obs["donor"] = [f"d{number % 5}" for number in range(48)]
    return found


def test_edges_weights_and_provenance_are_in_their_slots(adata, folder, tmp_path):
    gf.tl.network(adata, folder, method=["embedding", "correlation"], **FEW, **QUIET)
    edges = adata.uns["network"]
    assert list(edges.columns) == list(COLUMNS)
    assert set(edges["method"]) == {"embedding", "correlation", "consensus"}
    for _, part in edges.groupby(["method"]):
        assert len(part) == 300
        assert part["weight"].is_monotonic_decreasing
    signed = edges["sign"].notna()
    assert set(edges["method"][signed]) == {"correlation"}
    tested = edges[edges["method"] != "consensus"]
    assert tested["p"].between(0, 1).all()
    assert (tested["q"] >= tested["p"] - 1e-12).all()
    assert (tested["low"] <= tested["high"]).all()
    assert (edges["source"] != edges["target"]).all()
    best = edges[edges["method"] == "consensus"].iloc[0]
    row, column = adata.var_names.get_indexer([best["source"], best["target"]])
    assert adata.varp["network"][row, column] == best["weight"]
    assert adata.varp["network"].nnz == 300
    noted = adata.uns["geneformer"]["network"]
    assert noted["stability"]["method"] == ["embedding", "correlation"]
    assert noted["panel"]["used"] == len(set(edges["source"])) + noted["panel"]["used"] - edges["source"].nunique()
    adata.write_h5ad(tmp_path / "with.h5ad")
    again = ad.read_h5ad(tmp_path / "with.h5ad").uns["network"]
    pd.testing.assert_frame_equal(again.reset_index(drop=True).astype(edges.dtypes), edges)


def test_every_group_has_a_network_and_differences(adata, folder):
    regulator, target = "ENSG00000066336", "ENSG00000090382"  # SPI1, LYZ
    is_b = (adata.obs["kind"] == "c").to_numpy()
    counts = np.asarray(adata.X.todense())
    level = np.random.default_rng(0).poisson(3, len(counts))
    place, other = adata.var_names.get_indexer([regulator, target])
    counts[:, place], counts[:, other] = level, np.where(is_b, level * 3, np.random.default_rng(1).permutation(level))
    adata.X = csr_matrix(counts)
    gf.tl.network(adata, folder, method="correlation", groupby="kind", n_permutations=50, **FEW, **QUIET)
    assert set(adata.uns["network"]["group"]) == {"a/b", "c"}
    assert {"network_a|b", "network_c"} <= set(adata.varp)
    differing = adata.uns["network_differential"].set_index(["source", "target", "group"])
    row = differing.loc[(regulator, target, "c")]
    assert row["difference"] > 0.4
    assert row["p"] < 0.05
    wanted = adata.uns["network"].set_index(["source", "target", "group"])["weight"].sort_index()
    pair = wanted.loc[(regulator, target)]
    if "a/b" in pair:
        assert row["difference"] == pytest.approx(pair["c"] - pair["a/b"], abs=1e-5)


def test_donors_give_intervals_and_networks_without_each(adata, folder):
    gf.tl.network(adata, folder, method="correlation", donor_key="donor", **FEW, **QUIET)
    edges = adata.uns["network"]
    donors = adata.obs["donor"]
    columns = (
        adata.var_names.get_indexer(edges["source"].head(20)),
        adata.var_names.get_indexer(edges["target"].head(20)),
    )
    has = np.asarray((adata.X > 0).todense())
    for number, one, other in zip(edges["n_donors"].head(20), *columns, strict=True):
        assert number == donors[has[:, one] & has[:, other]].nunique()
    stability = adata.uns["geneformer"]["network"]["stability"]
    assert 0 < stability["leave_donor_out_lowest"][0] <= stability["leave_donor_out_jaccard"][0] <= 1


def test_few_cells_and_few_donors_are_warned_about(adata, folder):
    adata.obs["donor"] = ["d0", "d1"] * 24
    with pytest.warns(GeneformerWarning) as warned:
        gf.tl.network(adata, folder, method="correlation", donor_key="donor", **FEW, **QUIET)
    texts = " ".join(str(one.message) for one in warned)
    assert "fewer than 500 cells are not stable: all (48)" in texts
    assert "fewer than 3 donors: all (2)" in texts


def test_genes_without_a_token_are_left_out_and_listed(adata, folder):
    with pytest.warns(GeneformerWarning, match="NOGENE"):
        gf.tl.network(adata, folder, method="correlation", **QUIET | {"regulators": ["SPI1", "NOGENE", "FOS"]})
    assert adata.uns["geneformer"]["network"]["panel"]["left_out"] == ["NOGENE"]
    gf.tl.network(adata, folder, method="correlation", targets=["ENSG00000090382"], **QUIET)
    panel = adata.uns["geneformer"]["network"]["panel"]
    assert panel["asked"] == 1176
    assert 50 < panel["used"] < 1176


BAD = {
    "method": ({"method": "telepathy"}, UnknownChoiceError),
    "no method": ({"method": []}, OptionError),
    "twice": ({"method": ["correlation", "correlation"]}, OptionError),
    "no token": ({"regulators": ["NOGENE"]}, UnknownGeneError),
    "in no cell": ({"regulators": ["ENSG00000000003"], "min_cells": 40}, AbsentGeneError),
    "targets": ({"targets": ["NOGENE"]}, UnknownGeneError),
    "column": ({"groupby": "tissue"}, UnknownColumnError),
    "one group": ({"groupby": "one"}, ConstantLabelError),
    "pairs": ({"pairs": ["FOS+JUN"]}, OptionError),
    "one of a pair": ({"method": "perturbation", "pairs": ["FOS"]}, OptionError),
    "absent pair": ({"method": "perturbation", "pairs": ["FOS+ENSG00000000003"], "min_cells": 40}, AbsentGeneError),
    "screen": ({"method": "perturbation", "deletions": "screen", "edit": "overexpress"}, OptionError),
    "option": ({"n_nulls": 3}, OptionError),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_input_is_refused_and_nothing_written(adata, folder, name):
    options, error = BAD[name]
    adata.obs["one"] = "x"
    with pytest.raises(error):
        gf.tl.network(adata, folder, **QUIET | {"method": "correlation", **FEW} | options)
    assert not adata.uns
    assert not adata.varp


def test_one_cell_and_names_that_are_there_twice_are_refused(adata, folder):
    with pytest.raises(NoCellsError, match="1"):
        gf.tl.network(adata[:1].copy(), folder, method="correlation", **FEW, **QUIET)
    adata.var["ensembl_id"] = adata.var_names.to_numpy()
    adata.var_names = ["SAME", "SAME", *adata.var_names[2:]]
    with pytest.raises(CountsError, match="'SAME'"):
        gf.tl.network(adata, folder, method="correlation", **FEW, **QUIET)
    assert not adata.uns


def run(*arguments):
    return CliRunner().invoke(app, [*map(str, arguments)])


def write_10x(adata, folder):
    """A folder as Cell Ranger writes it."""
    folder.mkdir()
    mmwrite(folder / "matrix.mtx", csr_matrix(adata.X).T)
    genes = [f"{gene}\tS{number}\tGene Expression" for number, gene in enumerate(adata.var_names)]
    (folder / "features.tsv").write_text("\n".join(genes) + "\n")
    (folder / "barcodes.tsv").write_text("\n".join(adata.obs_names) + "\n")
    return folder


def test_a_10x_folder_becomes_a_network(adata, folder, tmp_path):
    inputs = write_10x(adata, tmp_path / "matrix")
    output = tmp_path / "net.parquet"
    options = ["--method", "correlation", "--regulators", "SPI1,FOS,JUN", "--min-cells", 5, "--n-null", 10]
    done = run("network", "infer", inputs, "-o", output, "--model", folder, "--no-progress", "--json", *options)
    assert done.exit_code == 0, done.output
    report = json.loads(done.stdout.splitlines()[-1])
    network = read_network(output)
    assert report["edges"] == len(network.edges) > 100
    assert set(network.edges["source"]) == {"SPI1", "FOS", "JUN"}
    assert "versions" in network.provenance
    assert run("network", "infer", inputs, "-o", output, "--model", folder, *options).exit_code == 1
    assert run("verify", output).exit_code == 0


def test_a_perturbation_network_goes_on_where_it_was_killed(adata, folder, tmp_path, monkeypatch):
    path, output = tmp_path / "cells.h5ad", tmp_path / "net.csv"
    adata[:24].copy().write_h5ad(path)
    options = ["--method", "perturbation", "--regulators", "SPI1,FOS", "--targets", "JUN,LYZ,FTL,B2M", "--min-cells", 3]
    options += ["--n-null", 4, "--n-bootstrap", 2, "--model", folder, "--no-progress", "--dtype", "float32"]
    planned = run("network", "plan", path, *options, "--json")
    assert json.loads(planned.stdout.splitlines()[-1])["passes"] > 10
    assert run("network", "infer", path, "-o", tmp_path / "whole.csv", *options).exit_code == 0
    monkeypatch.setattr(network_perturbation, "_SECONDS", 0)
    real, calls = network_perturbation.run_edits, []

    def killed(*arguments):
        calls.append(1)
        if len(calls) == 2:
            raise KeyboardInterrupt
        real(*arguments)

    monkeypatch.setattr(network_perturbation, "run_edits", killed)
    assert run("network", "infer", path, "-o", output, *options).exit_code == 130
    assert not output.exists()
    refused = run("network", "infer", path, "-o", output, *options)
    assert isinstance(refused.exception, SystemExit)
    assert OutputExistsError.code in refused.output
    calls[:] = [1] * 5
    assert run("network", "infer", path, "-o", output, *options, "--resume").exit_code == 0
    assert len(calls) == 5 + 1
    pd.testing.assert_frame_equal(pd.read_csv(output), pd.read_csv(tmp_path / "whole.csv"))
    assert not (tmp_path / "net.csv.partial").exists()


def test_swaps_keep_every_degree():
    generator = np.random.default_rng(0)
    pairs = {(f"g{a}", f"g{b}") for a, b in generator.integers(30, size=(200, 2)) if a != b}
    source, target = map(np.array, zip(*sorted(pairs), strict=True))
    swapped = rewired(source, target, seed=1)
    assert sorted(swapped) == sorted(target)
    assert len(set(zip(source, swapped, strict=True))) == len(source)
    assert (source != swapped).all()
    assert (target != swapped).mean() > 0.5


def test_tables_of_others_are_read_as_networks(tmp_path):
    edges = as_edges(pd.DataFrame({"source": ["A"], "target": ["B"]}))
    assert list(edges.columns) == list(COLUMNS)
    assert edges.loc[0, ["weight", "group"]].tolist() == [1.0, "all"]
    GeneNetwork(edges, edges.iloc[:0], {}).save(tmp_path / "net.csv")
    pd.testing.assert_frame_equal(read_network(tmp_path / "net.csv").edges, edges)
    (tmp_path / "other.csv").write_text("tf,gene\nA,B\n")
    with pytest.raises(UnknownColumnError, match="'source'"):
        read_network(tmp_path / "other.csv")
    (tmp_path / "broken.parquet").write_text("no table")
    with pytest.raises(UnreadableInputError):
        read_network(tmp_path / "broken.parquet")
