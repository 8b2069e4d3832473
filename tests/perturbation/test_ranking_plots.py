"""Pictures of perturbations compared as data: what is drawn where, and what the labels say."""

import dataclasses

import anndata as ad
import matplotlib as mpl
import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from matplotlib.colors import to_hex

import geneformer as gf
from geneformer.errors import DatasetError, OutOfRangeError, StateError, UnknownChoiceError, UnknownColumnError
from geneformer.keys import PERTURBATION as SLOT
from geneformer.options import RankOptions
from geneformer.perturbation.effects import to_uns
from geneformer.perturbation.statistics import rank_effects
from geneformer.pl._perturbation import DOWN, NEITHER, UP
from small_perturbations import made_run

mpl.use("agg")
from matplotlib import pyplot as plt

FAST = {"permutations": 20}


@pytest.fixture(autouse=True)
def _close_figures():
    settings = dict(mpl.rcParams)
    yield
    plt.close("all")
    assert dict(mpl.rcParams) == settings


@pytest.fixture(scope="module")
def run():
    return made_run(spread=0.5)


@pytest.fixture(scope="module")
def ranking(run):
    return rank_effects(run, RankOptions(**FAST))


def doses(run):
    """Two genes in several doses, one in one."""
    edits_of = {
        "ENSG00001": ("inhibit@0.25", "inhibit@1", "activate@0.5", "delete", "overexpress"),
        "ENSG00002": ("inhibit@0.5", "inhibit@0.25"),
        "ENSG00003": ("inhibit@0.5",),
    }
    parts = []
    for gene, edits in edits_of.items():
        rows = run.to_frame().query("genes == @gene")
        for times, edit in enumerate(edits, 1):
            parts.append(rows.assign(edit=edit, perturbation=f"{edit}:{gene}", value=rows["value"] * times))
    return dataclasses.replace(run, effects=pa.Table.from_pandas(pd.concat(parts), preserve_index=False))


def ticks(axis):
    return [label.get_text() for label in axis.get_ticklabels()]


def dots(ax):
    return [line for line in ax.lines if line.get_marker() == "o"]


def test_strongest_effects_are_ranked_with_their_intervals(ranking, tmp_path):
    ax = gf.pl.perturbation(ranking, n_genes=10, title="Deletions", save=tmp_path / "ranked.png")
    frame = ranking.frame
    shown = frame.loc[frame["effect"].abs().nlargest(10).index].sort_values("effect", ascending=False)
    assert ticks(ax.yaxis) == list(shown["Gene_name"])
    np.testing.assert_allclose([line.get_xdata()[0] for line in dots(ax)], shown["effect"])
    bars = [line.get_xdata() for line in ax.lines if line.get_marker() == "None" and len(set(line.get_ydata())) == 1]
    np.testing.assert_allclose(bars, shown[["ci_low", "ci_high"]])
    colors = [line.get_color() for line in dots(ax)]
    assert colors == [UP if effect >= 0 else DOWN for effect in shown["effect"]]
    full = [line.get_markerfacecolor() != "white" for line in dots(ax)]
    assert full == list(shown["Sig"] == 1)
    assert ax.get_xlabel() == "shift towards well (change of cosine)"
    assert ax.get_title(loc="left") == "Deletions"
    assert (tmp_path / "ranked.png").stat().st_size > 5000


@pytest.mark.parametrize("form", ["frame", "effects", "adata", "folder"])
def test_the_ranking_may_be_given_in_any_form(run, ranking, form, tmp_path):
    given = {"frame": ranking.to_frame(), "effects": run, "adata": ad.AnnData(uns={SLOT: to_uns(run)})}.get(form)
    if form == "folder":
        run.save(tmp_path)
        given = tmp_path
    ax = gf.pl.perturbation(given, n_genes=5)
    assert ticks(ax.yaxis) == ticks(gf.pl.perturbation(ranking, n_genes=5).yaxis)


def test_shifts_towards_another_state(run, ranking):
    means = run.to_frame().query("target == 'other'").groupby("genes")["value"].mean()
    for given, has_intervals in ((run, True), (ranking, False)):
        ax = gf.pl.perturbation(given, goal="other", n_genes=1)
        assert dots(ax)[0].get_xdata()[0] == pytest.approx(means[means.abs().idxmax()])
        assert (len(ax.lines) == 3) is has_intervals
        assert "towards other" in ax.get_xlabel()
    with pytest.raises(StateError, match=r"Did you mean .other"):
        gf.pl.perturbation(ranking, goal="othr")


def test_a_volcano_shows_every_perturbation(ranking):
    ax = gf.pl.perturbation(ranking, kind="volcano", n_genes=3)
    frame = ranking.frame
    points = {
        to_hex(group.get_facecolor()[0]): group.get_offsets() for group in ax.collections if len(group.get_offsets())
    }
    significant = frame["Goal_end_FDR"] < 0.05
    for color, some in (
        (NEITHER, frame[~significant]),
        (UP, frame[significant & (frame["effect"] > 0)]),
        (DOWN, frame[significant & (frame["effect"] <= 0)]),
    ):
        wanted = np.column_stack([some["effect"], -np.log10(some["Goal_end_FDR"])])
        np.testing.assert_allclose(points[color], wanted)
    named = {text.get_text() for text in ax.texts if text.get_text().startswith("G")}
    assert named == set(frame.nsmallest(3, "Goal_end_FDR")["Gene_name"])
    assert f"{significant.sum()} of 40" in ax.texts[-1].get_text()
    other = gf.pl.perturbation(ranking, kind="volcano", test="matched")
    assert "matched genes" in other.get_ylabel()


def test_a_response_goes_through_the_untouched_cell(run):
    ax = gf.pl.perturbation(doses(run), kind="response")
    means = run.to_frame().query("target == 'well'").groupby("genes")["value"].mean()
    curves = {line.get_label(): line for line in ax.lines if not line.get_label().startswith("_")}
    assert set(curves) == {"G1", "G2"}
    np.testing.assert_allclose(curves["G1"].get_xdata(), [-1, -0.25, 0, 0.5])
    np.testing.assert_allclose(curves["G1"].get_ydata(), means["ENSG00001"] * np.array([2, 1, 0, 3]), rtol=1e-5)
    np.testing.assert_allclose(curves["G2"].get_xdata(), [-0.5, -0.25, 0])
    assert ticks(ax.xaxis) == ["delete", "-1", "-0.5", "-0.25", "0", "+0.5", "overexpress"]
    assert len(gf.pl.perturbation(doses(run), kind="response", n_genes=1).get_legend().get_texts()) == 1


def test_one_gene_with_several_edits_is_named_with_them(run):
    names = ticks(gf.pl.perturbation(doses(run)).yaxis)
    assert {"G1 inhibit@0.25", "G1 delete", "G3"} <= set(names)
    assert len(names) == 8


def test_a_heatmap_shows_every_state(ranking):
    ax = gf.pl.perturbation(ranking, kind="heatmap", n_genes=4)
    frame = ranking.frame
    shown = frame.loc[frame["effect"].abs().nlargest(4).index].sort_values("effect", ascending=False)
    assert ticks(ax.xaxis) == ["sick", "well", "other"]
    assert ticks(ax.yaxis) == list(shown["Gene_name"])
    values = shown[["shift_to_start", "Shift_to_goal_end", "Shift_to_alt_end_other"]].to_numpy()
    np.testing.assert_allclose(ax.images[0].get_array(), values)
    assert ax.images[0].norm.vmin == -ax.images[0].norm.vmax == -np.abs(values).max()
    assert len([text for text in ax.texts if "numbers" not in text.get_text()]) == 12


def test_distances_and_differences_are_called_so():
    similar = made_run(25, states=(), spread=0.5)
    ax = gf.pl.perturbation(similar, n_genes=2)
    assert ax.get_xlabel() == "distance moved (1 - cosine)"
    null = rank_effects(similar, RankOptions(**FAST), made_run(25, states=(), seed=1))
    assert "less that in the null run" in gf.pl.perturbation(null).get_xlabel()
    mixture = gf.tl.rank_perturbations(similar, mode="mixture_model", **FAST)
    assert "matched genes" in gf.pl.perturbation(mixture, kind="volcano").get_ylabel()


def test_pictures_are_drawn_on_given_axes(ranking):
    axes = plt.subplots(2, 2)[1].ravel()
    for kind, ax in zip(("ranked", "volcano", "heatmap"), axes, strict=False):
        assert gf.pl.perturbation(ranking, kind=kind, ax=ax) is ax


def test_what_cannot_be_drawn(run, ranking):
    with pytest.raises(DatasetError, match="more than one dose; the edits are"):
        gf.pl.perturbation(ranking, kind="response")
    with pytest.raises(DatasetError, match="no single row per perturbation"):
        gf.pl.perturbation(gf.tl.rank_perturbations(made_run(3, states=())))
    with pytest.raises(DatasetError, match="there are none"):
        gf.pl.perturbation(made_run(3, states=()), kind="heatmap")
    with pytest.raises(StateError, match="no shifts towards 'well'; there are some towards no state"):
        gf.pl.perturbation(made_run(3, states=()), goal="well")
    with pytest.raises(DatasetError, match="no false discovery rates to draw"):
        gf.pl.perturbation(made_run(1, states=()), kind="volcano")
    with pytest.raises(DatasetError, match='test="donor"'):
        gf.pl.perturbation(ranking, test="donor")
    with pytest.raises(UnknownChoiceError, match="kind"):
        gf.pl.perturbation(ranking, kind="vulcano")
    with pytest.raises(UnknownChoiceError, match="suffix"):
        gf.pl.perturbation(ranking, save="a.bmp")
    with pytest.raises(OutOfRangeError, match="n_genes"):
        gf.pl.perturbation(ranking, n_genes=0)
    with pytest.raises(UnknownColumnError, match=r"gf\.tl\.perturb"):
        gf.pl.perturbation(ad.AnnData())
    assert plt.get_fignums() == []
