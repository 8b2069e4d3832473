"""Networks evaluated, exported, and used: activities, roles."""

import json

import numpy as np
import pandas as pd
import pytest
from sklearn.metrics import average_precision_score, roc_auc_score

import geneformer as gf
from geneformer.applications.network_evaluation import BASELINES, known_pairs, null_areas
from geneformer.applications.regulons import univariate_activities
from geneformer.datasets import pbmc3k
from geneformer.errors import (
    DatasetError,
    GeneListError,
    InputNotFoundError,
    MissingExtraError,
    OptionError,
    OutputExistsError,
    UnknownChoiceError,
    UnknownColumnError,
    UnreadableInputError,
    UnsupportedFormatError,
)

REGULATORS = ("SPI1", "CEBPD", "TCF7", "LEF1", "STAT1", "IRF7")


@pytest.fixture(scope="module")
def cells():
    return pbmc3k()[:80].copy()


@pytest.fixture(scope="module")
def known(cells):
    """Pairs of real symbols: 12 random targets for each regulator among 60 genes that the cells have."""
    n_cells = np.asarray((cells.X > 0).sum(axis=0)).ravel()
    genes = cells.var_names[np.argsort(-n_cells)[:60]].drop("MALAT1")  # which has no token
    rng = np.random.default_rng(0)
    return pd.DataFrame([(tf, gene) for tf in REGULATORS for gene in rng.choice(genes, 12, replace=False)]).set_axis(
        ["source", "target"], axis=1
    )


@pytest.fixture(scope="module")
def edges(known):
    """A network that knows most of the pairs."""
    rng = np.random.default_rng(1)
    table = pd.DataFrame([(tf, gene) for tf in REGULATORS for gene in known["target"].unique()])
    table = table.set_axis(["source", "target"], axis=1)
    is_known = pd.MultiIndex.from_frame(table).isin(pd.MultiIndex.from_frame(known))
    return table.assign(
        weight=np.where(is_known, 1.0, 0.0) + rng.random(len(table)), sign=rng.choice([1, -1], len(table)), group="all"
    )


def test_a_network_that_knows_is_told_from_the_baselines_and_from_chance(cells, edges, known):
    table = gf.tl.evaluate_network(edges, known, cells=cells, n_null=40).set_index("score")
    assert list(table.index) == ["network", *BASELINES]
    own = table.loc["network"]
    assert own["auroc"] > 0.9
    assert own["auroc_low"] > table.loc["random", "auroc_high"]
    assert own["difference_low"] > 0
    assert own["p"] <= 1 / 41
    assert own["auroc"] > own["null_high"]
    assert (table.loc[list(BASELINES), "p"] > 0.02).all()
    assert table["pairs"].unique() == [72]
    assert table["share_known"].iloc[0] == pytest.approx(12 / (known["target"].nunique()), abs=0.01)


def test_areas_and_precisions_are_those_of_scikit_learn(edges, known):
    rows = gf.tl.evaluate_network(edges, known, per="regulator").query("score == 'network'").set_index("regulator")
    own = edges[edges["source"] == "SPI1"]
    truth = own["target"].isin(known.loc[known["source"] == "SPI1", "target"])
    assert rows.loc["SPI1", "auroc"] == pytest.approx(roc_auc_score(truth, own["weight"]))
    assert rows.loc["SPI1", "average_precision"] == pytest.approx(average_precision_score(truth, own["weight"]))


def test_popularity_is_what_the_degrees_alone_give():
    rng = np.random.default_rng(0)
    genes = np.array([f"g{i}" for i in range(200)])
    row, column = np.nonzero(rng.random((30, 200)) < rng.beta(0.4, 4, 200))
    truth = pd.DataFrame({"source": genes[row], "target": genes[column]}).query("source != target")
    pairs = known_pairs(truth, genes[:30], genes, universe="truth", min_targets=5)
    scores = {"target popularity": pairs.popularity_without(pairs.known), "oracle": pairs.known.astype(float)}
    popular, oracle = null_areas(scores, pairs, n_null=60, seed=0).T
    observed = gf.tl.evaluate_network(truth, truth, min_targets=5).set_index("score")["auroc"]
    assert abs(observed["target popularity"] - popular.mean()) < 4 * popular.std() + 0.01
    assert observed["target popularity"] > 0.55
    assert oracle.max() < 0.8 < observed["network"]


@pytest.mark.parametrize("universe", ["truth", "all"])
def test_candidates_are_the_targets_of_the_truth_or_all(edges, known, universe):
    extra = pd.DataFrame({"source": list(REGULATORS), "target": "MALAT1", "weight": 9.0})
    table = gf.tl.evaluate_network(pd.concat([edges, extra]), known, universe=universe)
    n = known["target"].nunique() + (universe == "all")
    assert table["candidates"].iloc[0] == 6 * n - sum(tf in set(edges["target"]) for tf in REGULATORS)


def test_truths_come_under_other_columns_names_and_spellings(tmp_path, edges, known):
    expected = gf.tl.evaluate_network(edges, known)
    ensembl = pbmc3k().var["gene_ids"] if "gene_ids" in pbmc3k().var else pbmc3k().var["ensembl_id"]
    renamed = known.rename(columns={"source": "TF", "target": "Gene"}).assign(mor=1)
    renamed["Gene"] = renamed["Gene"].map(ensembl)
    renamed.to_csv(tmp_path / "truth.tsv.gz", sep="\t", index=False)
    pd.testing.assert_frame_equal(gf.tl.evaluate_network(edges, tmp_path / "truth.tsv.gz"), expected)
    lines = ["\t".join([f"{tf} human", "", *own["target"]]) for tf, own in known.groupby("source", sort=False)]
    (tmp_path / "sets.gmt").write_text("\n".join(lines))
    pd.testing.assert_frame_equal(gf.tl.evaluate_network(edges, str(tmp_path / "sets.gmt")), expected)


def test_truths_that_cannot_be_used_are_refused(tmp_path, edges, known):
    with pytest.raises(UnknownColumnError, match="has no column 'source'; it has a, b"):
        gf.tl.evaluate_network(edges, known.set_axis(["a", "b"], axis=1))
    with pytest.raises(GeneListError, match="No target of the truth is in the network"):
        gf.tl.evaluate_network(edges, known.assign(target="Ggene" + known["target"]))
    with pytest.raises(GeneListError, match="No regulator of the truth is in the network"):
        gf.tl.evaluate_network(edges, known.assign(source="GATA1"))
    with pytest.raises(GeneListError, match="none has 50 known targets"):
        gf.tl.evaluate_network(edges, known, min_targets=50)
    with pytest.raises(DatasetError, match="no pair of genes"):
        gf.tl.evaluate_network(edges, known.iloc[:0])
    with pytest.raises(UnknownChoiceError, match="against"):
        gf.tl.evaluate_network(edges, known, against="Pearson")
    with pytest.raises(InputNotFoundError):
        gf.tl.evaluate_network(edges, tmp_path / "none.csv")
    (tmp_path / "odd.parquet").write_bytes(b"PAR1 no")
    with pytest.raises(UnreadableInputError):
        gf.tl.evaluate_network(edges, tmp_path / "odd.parquet")
    (tmp_path / "truth.xlsx").write_bytes(b"x")
    with pytest.raises(UnsupportedFormatError, match="Pairs of genes are read from"):
        gf.tl.evaluate_network(edges, tmp_path / "truth.xlsx")
    with pytest.raises(UnknownColumnError, match=r"Run gf\.tl\.network first"):
        gf.tl.evaluate_network(pbmc3k()[:5].copy(), known)
    with pytest.raises(OptionError, match="Pass cells after"):
        gf.tl.evaluate_network([1, 2], known)


# decoupler 2.2.0: `decoupler.mt.ulm` of these counts and this net, tmin=5.
COUNTS = [
    [1, 0, 0, 3, 3, 1, 1, 2, 1, 0, 2, 3],
    [2, 0, 2, 3, 1, 1, 1, 0, 1, 2, 1, 0],
    [0, 1, 0, 0, 1, 0, 1, 1, 1, 0, 2, 2],
    [3, 2, 1, 3, 3, 3, 3, 0, 2, 1, 1, 2],
]
WEIGHTS = {"A": {0: 1.0, 1: 0, 2: 0.5, 4: 2.0, 5: -1.0, 7: 0.25, 11: -0.5}, "B": dict.fromkeys((1, 3, 4, 8, 9), 1.0)}
ACTIVITIES = [
    [0.6099116453594582, -0.039955275123782094],
    [0.5735705213942802, 0.7122123116119193],
    [-0.22388110592641494, -0.5642660953974588],
    [0.3709113592995469, 0.5423261445466402],
]


def test_activities_equal_those_of_decoupler():
    from scipy.sparse import csr_matrix

    weights = pd.DataFrame(WEIGHTS).reindex(range(12)).fillna(0.0).to_numpy()
    for counts in (np.array(COUNTS, dtype=float), csr_matrix(np.array(COUNTS, dtype=float))):
        np.testing.assert_allclose(univariate_activities(counts, weights), ACTIVITIES, rtol=1e-7)


def test_regulons_are_active_where_their_targets_are(cells):
    lymphoid, myeloid = ["CD3D", "CD3E", "IL7R", "LTB", "CD2"], ["LYZ", "S100A8", "S100A9", "CST3", "FCN1"]
    net = pd.DataFrame(
        {"source": ["TCF7"] * 5 + ["SPI1"] * 5 + ["few"], "target": [*lymphoid, *myeloid, "LYZ"], "weight": 1.0}
    )
    found = gf.tl.regulons(cells, network=net, copy=True).obsm["regulons"]
    assert list(found.columns) == ["SPI1", "TCF7"]
    assert len(found) == cells.n_obs
    is_monocyte = cells.obs["cell_type"].astype(str).str.contains("Monocyte")
    difference = found["SPI1"] - found["TCF7"]
    assert difference[is_monocyte].min() > difference[~is_monocyte].median()
    repressed = gf.tl.regulons(cells, network=net.assign(sign=-1), copy=True).obsm["regulons"]
    np.testing.assert_allclose(repressed, -found, rtol=1e-4, atol=1e-5)
    with pytest.raises(DatasetError, match="No regulator of the network has 6 targets"):
        gf.tl.regulons(cells, network=net, min_targets=6, copy=True)
    with pytest.raises((MissingExtraError, UnknownChoiceError)):
        gf.tl.regulons(cells, network=net, score="mml", copy=True)
    assert "regulons" not in cells.obsm


def test_roles_tell_hubs_from_leaves_and_what_degrees_explain():
    pairs = [("A", f"a{i}") for i in range(12)] + [("B", f"b{i}") for i in range(12)] + [("A", "M"), ("M", "B")]
    table = pd.DataFrame(pairs, columns=["source", "target"]).assign(weight=1.0)
    roles = gf.tl.network_roles(table, share=0.1)
    assert list(roles.index[:2]) == ["A", "B"]
    assert roles.loc["A", ["out_degree", "in_degree"]].tolist() == [13, 0]
    assert roles["betweenness"].idxmax() == "B"
    assert roles.loc["M", "z"] > 1
    assert (roles.loc[["A", "B"], "role"] == "central").all()
    assert roles.loc["a0", "role"] == "peripheral"


def test_exports_are_what_other_programs_read(tmp_path, edges):
    import networkx as nx

    both = pd.concat([edges, edges.assign(group="B", weight=edges["weight"] / 2)])
    with pytest.raises(OptionError, match="several groups"):
        gf.tl.save_network(both, tmp_path / "net.csv", columns="decoupler")
    gf.tl.save_network(both, tmp_path / "net.csv", columns="decoupler", group="B", n_edges=10)
    written = pd.read_csv(tmp_path / "net.csv")
    assert list(written) == ["source", "target", "weight"]
    assert len(written) == 10
    assert not written.duplicated(["source", "target"]).any()
    assert (written["weight"] < 0).any()
    gf.tl.save_network(both, tmp_path / "all.parquet", columns="genernib", n_edges=7)
    written = pd.read_parquet(tmp_path / "all.parquet")
    assert list(written) == ["source", "target", "weight", "cell_type"]
    assert written["cell_type"].value_counts().to_dict() == {"all": 7, "B": 7}
    gf.tl.save_network(edges, tmp_path / "net.graphml", n_edges=20)
    graph = nx.read_graphml(tmp_path / "net.graphml")
    assert graph.number_of_edges() == 20
    assert graph.is_directed()
    tf, gene, kept = next(iter(graph.edges(data=True)))
    own = edges[(edges["source"] == tf) & (edges["target"] == gene)].iloc[0]
    assert kept["weight"] == pytest.approx(own["weight"])
    assert "z" not in kept
    gf.tl.save_network(edges, tmp_path / "net.cyjs", n_edges=20)
    elements = json.loads((tmp_path / "net.cyjs").read_text())["elements"]
    assert len(elements["edges"]) == 20
    assert elements["edges"][0]["data"]["source"] in REGULATORS
    gf.tl.save_network(both, tmp_path / "again.parquet")
    assert len(pd.read_parquet(tmp_path / "again.parquet")) == len(both)
    with pytest.raises(OutputExistsError):
        gf.tl.save_network(edges, tmp_path / "net.csv")
    with pytest.raises(UnsupportedFormatError):
        gf.tl.save_network(edges, tmp_path / "net.xlsx")


def run(*arguments):
    from typer.testing import CliRunner

    from geneformer.cli import app

    return CliRunner().invoke(app, [*map(str, arguments)])


def test_the_commands_evaluate_show_and_export(tmp_path, edges, known):
    gf.tl.save_network(edges, tmp_path / "net.parquet")
    known.rename(columns={"source": "tf"}).to_csv(tmp_path / "truth.csv", index=False)
    arguments = ("network", "evaluate", tmp_path / "net.parquet", "--truth", tmp_path / "truth.csv", "--n-null", 10)
    done = run(*arguments, "-o", tmp_path / "table.csv", "--plot", tmp_path / "dots.png", "--json")
    assert done.exit_code == 0, done.output
    scores = {row["score"]: row["auroc"] for row in json.loads(done.stdout)["scores"]}
    assert scores["network"] == pytest.approx(gf.tl.evaluate_network(edges, known)["auroc"][0])
    assert list(pd.read_csv(tmp_path / "table.csv")["score"]) == list(scores)
    assert (tmp_path / "dots.png").stat().st_size > 3000
    again = run(*arguments, "-o", tmp_path / "table.csv")
    assert again.exit_code == 1
    assert "OutputExistsError" in again.output
    (tmp_path / "odd.csv").write_text("a,b\n1,2\n")
    odd = run(*arguments[:4], tmp_path / "odd.csv", "-o", tmp_path / "new.csv")
    assert odd.exit_code == 1
    assert "UnknownColumnError" in odd.output
    assert not (tmp_path / "new.csv").exists()
    done = run(
        "network", "show", tmp_path / "net.parquet", "-o", tmp_path / "net.graphml", "--n-edges", 15,
        "--plot", tmp_path / "net.png",
    )  # fmt: skip
    assert done.exit_code == 0, done.output
    assert "15 edges to" in done.output.replace("\n", " ")
    assert (tmp_path / "net.graphml").exists()
    for kind in ("heatmap", "regulators", "states"):
        done = run("network", "show", tmp_path / "net.parquet", "--plot", tmp_path / f"{kind}.png", "--kind", kind)
        assert done.exit_code == 0, done.output


def test_central_genes_are_learnt_from_the_cells():
    cells = pbmc3k()
    cells = cells[:60, ~cells.var_names.str.startswith("MT-")].copy()
    genes = cells.var_names[np.argsort(-cells.X.getnnz(axis=0))[:60]].tolist()
    pairs = [(source, target) for place, source in enumerate(genes) for target in genes[place + 1 :: place + 1]]
    edges = pd.DataFrame(pairs, columns=["source", "target"]).assign(weight=1.0)
    edges.loc[len(edges)] = (genes[0], "a name of its own", 1.0)
    classifier = gf.GeneClassifier("mini", strategy="probe", max_length=256, baselines="none", progress=False)
    roles = gf.tl.network_roles(edges, n_null=0, cells=cells, classifier=classifier)
    asked = roles["role"] != ""
    assert np.isnan(roles.loc["a name of its own", "probability"])
    assert roles["probability"].notna().sum() == asked.sum() - 1
    assert roles["probability"].dropna().between(0, 1).all()
    assert roles["probability"][~asked].isna().all()
    assert {"central", "peripheral"} == set(classifier.report_.evaluation.classes)
