"""Figures compared as data: where points are, in which color, what the legends say."""

import json
import subprocess
import sys

import anndata as ad
import matplotlib as mpl
import numpy as np
import pandas as pd
import pytest
from matplotlib.colors import to_hex

import geneformer as gf
from geneformer.errors import (
    DatasetError,
    InputNotFoundError,
    MissingExtraError,
    NoCellsError,
    OptionError,
    UnknownChoiceError,
    UnknownColumnError,
    UnreadableInputError,
)
from geneformer.pl._embedding import umap_layout
from geneformer.pl._figures import FAINT, GRAY, SAFE, Categories, spread

mpl.use("agg")
from matplotlib import pyplot as plt

pytestmark = pytest.mark.contract


@pytest.fixture(autouse=True)
def _close_figures():
    settings = dict(mpl.rcParams)
    yield
    plt.close("all")
    assert dict(mpl.rcParams) == settings


@pytest.fixture
def cells():
    rng = np.random.default_rng(0)
    obs = pd.DataFrame(
        {
            "cell_type": pd.Categorical(["B", "T", "NK"] * 20, categories=["T", "NK", "B", "unused"]),
            "n_counts": rng.integers(500, 5000, 60).astype(float),
            "treated": [True, False] * 30,
        },
        index=[f"cell{i}" for i in range(60)],
    )
    values = rng.normal(size=(60, 8)).astype(np.float32)
    return ad.AnnData(obs=obs, obsm={"X_umap": values[:, :2].copy(), "X_geneformer": values})


def drawn(ax):
    """Color of every point, by its place."""
    points = {}
    for collection in ax.collections:
        colors = collection.get_facecolors()
        places = np.asarray(collection.get_offsets())
        for place, color in zip(places, np.broadcast_to(colors, (len(places), 4)), strict=True):
            points[tuple(np.round(place, 5))] = to_hex(color)
    return points


def legend_of(ax):
    return [text.get_text() for text in ax.get_legend().get_texts()]


def test_importing_plots_loads_neither_matplotlib_nor_torch():
    code = "import sys, geneformer.pl; print(sorted({'matplotlib', 'scanpy', 'seaborn', 'torch'} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "[]\n"


def test_every_cell_is_drawn_in_the_color_of_its_category(cells):
    before = cells.copy()
    ax = gf.pl.embedding(cells, color="cell_type", basis="X_umap")
    points = drawn(ax)
    color = dict(zip(["T", "NK", "B"], SAFE, strict=False))
    expected = {
        tuple(np.round(place, 5)): color[kind]
        for place, kind in zip(cells.obsm["X_umap"].astype(float), cells.obs["cell_type"], strict=True)
    }
    assert points == expected
    assert legend_of(ax) == ["T", "NK", "B"]
    assert ax.get_title(loc="left") == "cell_type"
    pd.testing.assert_frame_equal(cells.obs, before.obs)
    assert list(cells.obsm) == list(before.obsm)
    assert dict(cells.uns) == {}


def test_chosen_colors_are_kept_to(cells):
    cells.uns["cell_type_colors"] = np.array(["#111111", "#222222", "#333333", "#444444"])
    ax = gf.pl.embedding(cells, color="cell_type", basis="X_umap")
    assert set(drawn(ax).values()) == {"#111111", "#222222", "#333333"}


def test_cells_without_a_value_are_gray_and_those_without_an_embedding_are_left_out(cells):
    cells.obs.loc[["cell0", "cell1"], "cell_type"] = np.nan
    cells.obsm["X_umap"][5] = np.nan
    ax = gf.pl.embedding(cells, color="cell_type", basis="X_umap")
    colors = list(drawn(ax).values())
    assert len(colors) == 59
    assert colors.count(FAINT) == 2
    assert legend_of(ax)[-1] == "no label"


def test_quantities_get_a_color_bar(cells):
    cells.obs.loc["cell3", "n_counts"] = np.nan
    ax = gf.pl.embedding(cells, color="n_counts", basis="X_umap")
    assert ax.get_legend() is None
    shown = ax.collections[1].get_array()
    assert sorted(shown) == sorted(cells.obs["n_counts"].dropna())
    assert len(ax.figure.axes) == 2


def test_several_columns_make_several_maps(cells, tmp_path):
    axes = gf.pl.embedding(cells, color=["treated", "n_counts"], basis="X_umap", save=tmp_path / "maps.png")
    assert [ax.get_title(loc="left") for ax in axes] == ["treated", "n_counts"]
    assert legend_of(axes[0]) == ["False", "True"]
    assert (tmp_path / "maps.png").read_bytes().startswith(b"\x89PNG")


def test_many_categories_are_numbered_on_the_map(cells):
    cells.obs["donor"] = pd.Categorical([f"donor {i % 12:02d}" for i in range(60)])
    ax = gf.pl.embedding(cells, color="donor", basis="X_umap")
    assert sorted(int(text.get_text()) for text in ax.texts) == list(range(1, 13))
    assert legend_of(ax)[0] == "1  donor 00"
    assert len(set(drawn(ax).values())) == 12


def test_short_names_stand_on_the_map_themselves(cells):
    cells.obs["cluster"] = pd.Categorical([str(i % 12) for i in range(60)])
    ax = gf.pl.embedding(cells, color="cluster", basis="X_umap")
    assert {text.get_text() for text in ax.texts} == {str(i) for i in range(12)}
    assert legend_of(ax) == sorted({str(i) for i in range(12)})


def test_an_endless_legend_is_left_out():
    names = [f"sample {i}" for i in range(150)]
    adata = ad.AnnData(
        obs=pd.DataFrame({"sample": names}, index=names), obsm={"X_umap": np.random.default_rng(0).random((150, 2))}
    )
    ax = gf.pl.embedding(adata, color="sample", basis="X_umap")
    assert ax.get_legend() is None
    assert "150 categories" in [text.get_text() for text in ax.texts]


def test_axes_of_a_caller_are_drawn_on(cells):
    figure = mpl.figure.Figure()
    ax = figure.subplots()
    assert gf.pl.embedding(cells, basis="X_umap", ax=ax) is ax
    assert plt.get_fignums() == []


@pytest.mark.parametrize("draw", [gf.pl.embedding, gf.pl.heatmap])
def test_what_is_missing_is_named(cells, draw, tmp_path):
    column = "color" if draw is gf.pl.embedding else "groupby"
    with pytest.raises(UnknownColumnError, match=r"no column 'celltype'.*Did you mean .cell_type"):
        draw(cells, **{column: "celltype"})
    with pytest.raises(UnknownColumnError, match=r"no 'X_gf'; it has .*'X_geneformer'"):
        draw(cells, basis="X_gf")
    with pytest.raises(UnknownChoiceError, match="suffix"):
        draw(cells, save=tmp_path / "map.h5ad")
    del cells.obsm["X_geneformer"]
    with pytest.raises(UnknownColumnError, match=r"Run `gf\.tl\.embed"):
        draw(cells)
    cells.obsm["X_geneformer"] = np.full((60, 8), np.nan)
    with pytest.raises(NoCellsError, match="None of the 60 cells"):
        draw(cells)
    assert plt.get_fignums() == []
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("draw", [gf.pl.embedding, gf.pl.heatmap])
def test_without_the_libraries_the_extra_is_named(cells, draw, monkeypatch):
    for library in ("matplotlib.pyplot", "seaborn"):
        monkeypatch.setitem(sys.modules, library, None)
    with pytest.raises(MissingExtraError, match=r'pip install "geneformer\[plot\]"'):
        draw(cells, basis="X_umap")


def test_titles_and_columns_must_match(cells):
    with pytest.raises(OptionError, match="2 columns to color by, 1 titles"):
        gf.pl.embedding(cells, color=["cell_type", "treated"], title=["one"], basis="X_umap")


@pytest.mark.slow
def test_the_map_is_reproducible_and_keeps_neighbors_together(cells):
    rng = np.random.default_rng(1)
    centers = np.repeat(10 * rng.normal(size=(3, 8)), 20, axis=0)
    values = (centers + rng.normal(size=(60, 8))).astype(np.float32)
    layout = umap_layout(values, n_neighbors=10, seed=3)
    np.testing.assert_array_equal(layout, umap_layout(values, n_neighbors=10, seed=3))
    apart = np.linalg.norm(layout[:, None] - layout[None], axis=2) + np.diag(np.full(60, np.inf))
    group = np.repeat([0, 1, 2], 20)
    assert (group[apart.argmin(axis=1)] == group).mean() > 0.95
    cells.obsm["X_geneformer"] = values
    assert len(drawn(gf.pl.embedding(cells, color="cell_type", seed=3))) == 60
    with pytest.raises(NoCellsError, match="at least 4 cells"):
        umap_layout(values[:3])
    assert umap_layout(values[:5]).shape == (5, 2)


def test_a_heatmap_shows_standardized_cells_beside_their_labels(cells, tmp_path):
    grid = gf.pl.heatmap(cells, groupby=["cell_type", "n_counts"], title="Cells", save=tmp_path / "heat.pdf")
    assert (tmp_path / "heat.pdf").read_bytes().startswith(b"%PDF")
    shown = grid.data.to_numpy()
    values = cells.obsm["X_geneformer"].astype(float)
    np.testing.assert_allclose(shown, (values - values.mean(0)) / values.std(0), atol=1e-5)
    assert list(grid.data.index) == list(cells.obs_names)
    sides = np.asarray(grid.row_colors)
    color = dict(zip(["T", "NK", "B"], SAFE, strict=False))
    assert [to_hex(c) for c in sides[0]] == [color[kind] for kind in cells.obs["cell_type"]]
    legends = {
        artist.get_title().get_text(): [text.get_text() for text in artist.get_texts()]
        for artist in grid.figure.legends
    }
    assert legends["cell_type"] == ["T", "NK", "B"]
    assert len(legends["n_counts"]) == 5


def test_a_heatmap_draws_the_same_cells_for_the_same_seed(cells):
    first, second, other = (list(gf.pl.heatmap(cells, n_cells=20, seed=seed).data.index) for seed in (1, 1, 2))
    assert first == second != other
    assert len(set(first)) == 20
    assert set(first) < set(cells.obs_names)


def test_a_dimension_that_never_changes_is_drawn_as_zero(cells):
    cells.obsm["X_geneformer"][:, 2] = 4.0
    assert (gf.pl.heatmap(cells).data.to_numpy()[:, 2] == 0).all()


def test_categories_count_only_what_occurs():
    found = Categories(pd.Series(pd.Categorical(["b", None, "a"], categories=["a", "b", "c"])))
    assert found.names == ["a", "b", "no label"]
    assert found.codes.tolist() == [1, 2, 0]
    assert found.colors == [SAFE[0], SAFE[1], FAINT]
    assert len(set(spread(60))) == 60


HISTORY = {
    "metrics": {"baseline_top1": 0.02, "baseline_top10": 0.1},
    "history": [
        {"step": 10, "loss": 10.0, "masked_loss": 9.0},
        {"step": 20, "loss": 9.0, "masked_loss": 8.0},
        {"step": 20, "eval_loss": 8.5, "eval_top1": 0.05, "eval_top10": 0.2},
        {"step": 40, "eval_loss": 7.5, "eval_top1": 0.1, "eval_top10": 0.3},
        {"train_runtime": 3.0},
    ],
}


@pytest.mark.parametrize("form", ["content", "file", "folder"])
def test_a_training_curve_shows_losses_and_accuracies(form, tmp_path):
    (tmp_path / "pretraining.json").write_text(json.dumps(HISTORY))
    given = {"content": HISTORY, "file": tmp_path / "pretraining.json", "folder": tmp_path}[form]
    loss, accuracy = gf.pl.training_curve(given, title="mini", save=tmp_path / "curve.svg")
    lines = {line.get_label(): (list(line.get_xdata()), list(line.get_ydata())) for line in loss.lines}
    assert lines == {"training": ([10, 20], [9.0, 8.0]), "held-out cells": ([20, 40], [8.5, 7.5])}
    lines = {line.get_label(): list(line.get_ydata()) for line in accuracy.lines}
    assert lines == {
        "first 10 guesses": [0.2, 0.3],
        "first 10 guesses, baseline": [0.1, 0.1],
        "first guess": [0.05, 0.1],
        "first guess, baseline": [0.02, 0.02],
    }
    assert "<svg" in (tmp_path / "curve.svg").read_text()


def test_a_training_curve_needs_a_history(tmp_path):
    with pytest.raises(InputNotFoundError, match=r"pretraining\.json"):
        gf.pl.training_curve(tmp_path)
    (tmp_path / "pretraining.json").write_text("{")
    with pytest.raises(UnreadableInputError, match="not valid JSON"):
        gf.pl.training_curve(tmp_path)
    with pytest.raises(DatasetError, match="no line with a step and a loss"):
        gf.pl.training_curve({"history": []})


def test_truth_and_prediction_have_the_same_colors(cells):
    types = cells.obs["cell_type"].astype(str)
    called = types.where(types != types.iloc[0], "unknown")  # one type is never called
    cells.obs["geneformer_cell_type"] = pd.Categorical(called)
    truth, prediction = gf.pl.embedding(cells, color=["cell_type", "geneformer_cell_type"], basis="X_umap")
    colors = [
        {text.get_text(): mark.get_color() for text, mark in zip(legend.texts, legend.legend_handles, strict=True)}
        for legend in (truth.get_legend(), prediction.get_legend())
    ]
    shared = set(colors[0]) & set(colors[1])
    assert len(shared) == len(set(types)) - 1
    assert all(colors[0][name] == colors[1][name] for name in shared)
    assert len(set(colors[1].values())) == len(colors[1])
    assert colors[1]["unknown"] == GRAY


def test_a_map_is_colored_by_a_gene_under_any_of_its_names(tmp_path):
    from geneformer.datasets import pbmc3k

    adata = pbmc3k()[:40].copy()
    adata.obsm["X_umap"] = np.random.default_rng(0).normal(size=(40, 2))
    counts = adata[:, "LYZ"].X.toarray().ravel()
    expected = np.log1p(1e4 * counts / np.asarray(adata.X.sum(axis=1)).ravel())
    normalized = adata.copy()
    normalized.X = np.log1p(normalized.X.toarray())
    for cells, name, values in (
        (adata, "LYZ", expected),
        (adata, "ENSG00000090382", expected),
        (adata, "ENSG00000090382.7", expected),  # a version, as another file has it
        (normalized, "LYZ", np.log1p(counts)),
    ):
        axes = gf.pl.embedding(cells, color=name, basis="X_umap")
        drawn = np.concatenate([points.get_array() for points in axes.collections if np.size(points.get_array()) == 40])
        np.testing.assert_allclose(np.sort(np.asarray(drawn)), np.sort(values), rtol=1e-5)
        assert axes.get_title(loc="left") == name
    with pytest.raises(UnknownColumnError, match="no column 'LYZZ'"):
        gf.pl.embedding(adata, color="LYZZ", basis="X_umap")
