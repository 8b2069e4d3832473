"""Pictures of gene networks."""

import numpy as np
import pandas as pd
import pytest

import geneformer as gf
from geneformer.errors import DatasetError, OptionError, OutOfRangeError, UnknownColumnError


@pytest.fixture(autouse=True)
def _closed():
    yield
    import matplotlib.pyplot as plt

    plt.close("all")


@pytest.fixture
def edges():
    rng = np.random.default_rng(0)
    n = 400
    table = pd.DataFrame({"source": rng.choice([f"TF{i}" for i in range(12)], n), "target": rng.integers(150, size=n)})
    table = table.drop_duplicates().astype({"target": str})
    weight = rng.gamma(2, 0.1, len(table))
    return table.assign(
        weight=weight, low=weight - 0.1, high=weight + 0.1, null_mean=0.1, q=rng.random(len(table)),
        z=rng.normal(size=len(table)), sign=rng.choice([1, -1, np.nan], len(table)),
    )  # fmt: skip


def test_a_graph_draws_the_heaviest_edges_and_names_their_regulators(edges, tmp_path):
    axes = gf.pl.network(edges, n_edges=20, save=tmp_path / "net.png")
    heaviest = edges.nlargest(20, "weight")
    assert {text.get_text() for text in axes.texts} == {*heaviest["source"], *heaviest["target"]}
    assert len(axes.patches) == 20
    assert (tmp_path / "net.png").stat().st_size > 5000
    own = gf.pl.network(edges, n_edges=20, genes="TF3")
    assert "TF3" in {text.get_text() for text in own.texts}


def test_no_two_genes_of_a_graph_cover_each_other(edges):
    axes = gf.pl.network(edges, n_edges=200)
    points = np.asarray(axes.collections[0].get_offsets())
    distance = np.linalg.norm(points[:, None] - points[None], axis=-1) + np.eye(len(points)) * 1e9
    assert distance.min() > 0.01 * np.ptp(points, axis=0).max()


def test_graphs_refuse_what_they_cannot_draw(edges):
    with pytest.raises(OutOfRangeError, match="n_edges"):
        gf.pl.network(edges, n_edges=201)
    with pytest.raises(OptionError, match="several groups"):
        gf.pl.network(pd.concat([edges.assign(group="a"), edges.assign(group="b")]))
    with pytest.raises(DatasetError, match="no edge from or to"):
        gf.pl.network(edges, genes="GATA4")
    with pytest.raises(DatasetError, match="nothing to draw"):
        gf.pl.network(edges.assign(weight=0.0))
    with pytest.raises(UnknownColumnError):
        gf.pl.network(edges.drop(columns="target"))


def test_heatmaps_show_signed_weights_or_z(edges):
    axes = gf.pl.network_heatmap(edges, n_regulators=5, n_targets=8)
    shown = axes.images[0].get_array()
    assert shown.shape == (5, 8)
    assert shown.min() < 0
    assert gf.pl.network_heatmap(edges, value="z", regulators=["TF1", "TF2"]).images[0].get_array().shape[0] == 2
    with pytest.raises(DatasetError, match="has a z"):
        gf.pl.network_heatmap(edges.assign(z=np.nan), value="z")


def test_regulators_are_ranked_by_their_heaviest_edges(edges):
    axes = gf.pl.network_regulators(edges, n_regulators=4, top=5)
    means = edges.groupby("source")["weight"].apply(lambda weights: weights.nlargest(5).mean())
    assert [label.get_text() for label in axes.get_yticklabels()] == means.nlargest(4).index.tolist()


def test_states_keep_the_places_of_genes(edges):
    table = pd.concat([edges.assign(group=name).sample(100, random_state=place) for place, name in enumerate("ab")])
    first, second = gf.pl.network_states(table, n_edges=40)
    assert [axes.get_title(loc="left") for axes in (first, second)] == ["a", "b"]
    assert np.array_equal(first.collections[0].get_offsets(), second.collections[0].get_offsets())
    with pytest.raises(UnknownColumnError, match="no group 'c'"):
        gf.pl.network_states(table, groups=["a", "c"])
    with pytest.raises(OutOfRangeError):
        gf.pl.network_states(table, n_edges=101)


def test_benchmarks_show_bands_and_all_truths(edges):
    truth = edges.sample(150, random_state=0)
    table = gf.tl.evaluate_network(edges, truth, n_null=10)
    axes = gf.pl.network_benchmark({"one": table, "two": table})
    assert [ax.get_title(loc="left") for ax in axes] == ["one", "two"]
    assert len(axes[0].collections) == len(table)
    assert gf.pl.network_benchmark(table, measure="average_precision")[0].get_xlabel() == "mean average precision"
    with pytest.raises(DatasetError, match="evaluate_network"):
        gf.pl.network_benchmark(edges)
    with pytest.raises(OptionError):
        gf.pl.network_benchmark({})
