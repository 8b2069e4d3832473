"""`gf.pl.perturbation`."""

import dataclasses
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import NDArray

from geneformer import keys
from geneformer.errors import DatasetError, StateError
from geneformer.options._fields import check_choice, check_range, nearest
from geneformer.perturbation.effects import PerturbationEffects, PerturbationRanking, effects_of
from geneformer.pl._figures import (
    FAINT,
    GRAY,
    INK,
    SAFE,
    SMALL_TEXT,
    check_save,
    draw_matrix,
    figure_axes,
    label_axes,
    open_frame,
    plotting_library,
    save_figure,
    side_legend,
    spread,
)

if TYPE_CHECKING:
    import pandas as pd
    from anndata import AnnData
    from matplotlib.axes import Axes

UP, DOWN, NEITHER = SAFE[6], SAFE[3], "#b5b5b5"
LONGEST = 26
"""Letters of a name that are shown."""

ENDS = {"delete": -1.2, "overexpress": 1.2}
"""Where edits without a dose stand."""

_DOSE = re.compile(r"(inhibit|activate)@([0-9.e-]+)")


@dataclass(frozen=True, slots=True, eq=False)
class Shown:
    """Effects to draw: `table` has `gene`, `name`, `edit`, `effect`, `low`, `high`, `fdr` and `significant`."""

    table: "pd.DataFrame"
    by_state: "pd.DataFrame"
    axis: str
    test: str
    threshold: float
    n_genes: int

    def strongest(self) -> "pd.DataFrame":
        """The strongest effects, from the highest down."""
        finite = self.table[np.isfinite(self.table["effect"])]
        order = np.argsort(-finite["effect"].abs().to_numpy(), kind="stable")
        rows: pd.DataFrame = finite.iloc[order[: self.n_genes]]
        return rows.sort_values("effect", ascending=False, kind="stable")


def gene_name(entry: Any) -> str:
    """The symbols of a perturbation, shortened."""
    name = "+".join(map(str, entry)) if isinstance(entry, tuple | list) else str(entry)
    return name if len(name) <= LONGEST else f"{name[: LONGEST - 1]}…"


def _draw_ranked(shown: Shown, ax: "Axes | None") -> "Axes":
    """Strongest effects with their intervals, as rows."""
    rows = shown.strongest()
    ax = figure_axes(ax, (6.0, 1.3 + 0.24 * max(len(rows), 4)))
    ax.axvline(0, color=GRAY, linewidth=1, zorder=0)
    row: Any
    for place, row in enumerate(rows.itertuples()):
        color = UP if row.effect >= 0 else DOWN
        if np.isfinite([row.low, row.high]).all():
            ax.plot([row.low, row.high], [place, place], color=color, linewidth=1.8, solid_capstyle="round")
        fill = color if row.significant else "white"
        ax.plot(row.effect, place, marker="o", markersize=6, color=color, markerfacecolor=fill)
    ax.set_yticks(range(len(rows)), rows["name"], fontsize=9, color=INK)
    ax.set_ylim(len(rows) - 0.4, -0.6)
    _dress(ax, shown.axis, None)
    ax.grid(axis="x", color="#eeeeee")
    if rows["significant"].any():
        _corner(ax, f"full: FDR < {shown.threshold:g}")
    return ax


def _draw_volcano(shown: Shown, ax: "Axes | None") -> "Axes":
    """All effects against their false discovery rates."""
    has_rate = np.isfinite(shown.table["fdr"])
    if not has_rate.any():
        msg = (
            "There are no false discovery rates to draw: no perturbation has any. Rank with a null run, more genes "
            'or donors, or draw kind="ranked".'
        )
        raise DatasetError(msg)
    rows = shown.table[has_rate & np.isfinite(shown.table["effect"])]
    height = -np.log10(np.maximum(rows["fdr"].to_numpy(), 1e-300))
    effect, significant = rows["effect"].to_numpy(), rows["significant"].to_numpy()
    ax = figure_axes(ax, (6.4, 5.2))
    ax.axhline(-np.log10(shown.threshold), color=GRAY, linewidth=1, linestyle="--", zorder=0)
    ax.axvline(0, color=FAINT, linewidth=1, zorder=0)
    sides = (~significant, NEITHER), (significant & (effect > 0), UP), (significant & (effect <= 0), DOWN)
    for some, color in sides:
        ax.scatter(effect[some], height[some], s=16, color=color, linewidths=0, alpha=0.9)
    named = np.lexsort((-np.abs(effect), -height))[: shown.n_genes]
    ax.margins(x=0.18, y=0.06)
    ax.set_ylim(bottom=-0.02 * max(float(height.max()), 1.0))
    _name_points(ax, effect[named], height[named], rows["name"].iloc[named].tolist())
    _dress(ax, shown.axis, f"-log10 of the FDR ({shown.test})")
    _corner(ax, f"FDR < {shown.threshold:g}: {significant.sum():,} of {len(rows):,}")
    return ax


def _draw_response(shown: Shown, ax: "Axes | None") -> "Axes":
    """Effects of each gene against the dose."""
    table = shown.table.assign(dose=shown.table["edit"].map(_dose_of)).dropna(subset=["dose", "effect"])
    genes = [(gene, rows.sort_values("dose", kind="stable")) for gene, rows in table.groupby("gene", sort=False)]
    lines = [(gene, rows) for gene, rows in genes if rows["dose"].nunique() > 1]
    if not lines:
        msg = (
            f"No gene was perturbed in more than one dose; the edits are {sorted(set(shown.table['edit']))[:8]}. "
            "Perturb it as inhibit@0.25:GENE, inhibit@0.5:GENE and so on."
        )
        raise DatasetError(msg)
    lines = sorted(lines, key=lambda line: -line[1]["effect"].abs().max())[: shown.n_genes]
    ax = figure_axes(ax, (7.4, 4.6))
    ax.axhline(0, color=GRAY, linewidth=1, zorder=0)
    for (gene, rows), color in zip(lines, spread(len(lines)), strict=True):
        # An edit that moves nothing has no effect.
        within = rows.loc[rows["dose"].abs() <= 1, ["dose", "effect"]].to_numpy()
        curve = np.concatenate([within, [[0.0, 0.0]]])
        curve = curve[np.argsort(curve[:, 0], kind="stable")]
        ax.plot(curve[:, 0], curve[:, 1], color=color, linewidth=1.8, label=gene)
        ax.plot(rows["dose"], rows["effect"], linestyle="none", marker="o", markersize=5, color=color)
        if np.isfinite(rows["low"]).any():
            ax.vlines(rows["dose"], rows["low"], rows["high"], color=color, linewidth=1.2, alpha=0.7)
    places = sorted({*np.round(np.concatenate([rows["dose"] for _, rows in lines]), 6).tolist(), 0.0})
    edit_at = {place: edit for edit, place in ENDS.items()}
    ax.set_xticks(places, [edit_at.get(place, f"{place:+g}" if place else "0") for place in places])
    _dress(ax, "share of the cell's genes moved past: down (inhibit), up (activate)", shown.axis)
    ax.grid(color="#eeeeee")
    side_legend(ax, fontsize=9)
    return ax


def _dose_of(edit: str) -> float:
    """Where an edit stands on the axis of doses; NaN for edits one after the other."""
    dosed = _DOSE.fullmatch(edit)
    if dosed is None:
        return ENDS.get(edit, np.nan)
    return float(dosed[2]) * (-1 if dosed[1] == "inhibit" else 1)


def _draw_heatmap(shown: Shown, ax: "Axes | None") -> "Axes":
    """Mean shifts of the strongest perturbations towards every state."""
    from matplotlib.colors import LinearSegmentedColormap

    if not shown.by_state.shape[1]:
        msg = 'kind="heatmap" draws shifts towards states, and there are none. Perturb cells with start and goal.'
        raise DatasetError(msg)
    rows = shown.strongest()
    values = shown.by_state.loc[rows.index].to_numpy(dtype=float)
    ax = figure_axes(ax, (2.8 + 0.95 * values.shape[1], 1.8 + 0.26 * max(len(rows), 4)))
    most = float(np.nanmax(np.abs(values), initial=0)) or 1.0
    colors = LinearSegmentedColormap.from_list("geneformer_shifts", ["#882255", DOWN, "#f7f7f7", UP, "#117733"])
    draw_matrix(
        ax,
        values,
        colors.with_extremes(bad=FAINT),
        columns=shown.by_state.columns.tolist(),
        bar="change of cosine",
        limits=(-most, most),
        aspect="auto",
    )
    ax.set_yticks(range(len(rows)), rows["name"], fontsize=9, color=INK)
    if len(rows) <= SMALL_TEXT:
        power = int(np.floor(np.log10(most)))
        for row, column in np.argwhere(np.isfinite(values)):
            shade = "white" if abs(values[row, column]) > 0.65 * most else INK
            number = f"{round(values[row, column] / 10.0**power, 1) + 0.0:.1f}"
            ax.text(column, row, number, ha="center", va="center", fontsize=7.5, color=shade)
        _corner(ax, f"numbers in 1e{power}")
    return ax


DRAWN: dict[str, Callable[[Shown, "Axes | None"], "Axes"]] = {
    "ranked": _draw_ranked,
    "volcano": _draw_volcano,
    "response": _draw_response,
    "heatmap": _draw_heatmap,
}


def _corner(ax: "Axes", text: str) -> None:
    """A small line above the axes, on the right."""
    ax.text(1, 1.005, text, transform=ax.transAxes, ha="right", va="bottom", fontsize=8, color=INK)


def _name_points(ax: "Axes", x: NDArray[np.float64], y: NDArray[np.float64], names: list[str]) -> None:
    """Names next to their points, moved up or down until none of a side covers another."""
    low, high = ax.get_ylim()
    least = 0.034 * (high - low)
    for sign in (1, -1):
        side = np.flatnonzero((x >= 0) == (sign > 0))
        taken = np.inf
        for row in side[np.argsort(-y[side], kind="stable")]:
            at = min(y[row], taken - least)
            taken = at
            moved = abs(at - y[row]) > least / 4
            ax.annotate(
                names[row],
                (x[row], y[row]),
                xytext=(x[row] + sign * (0.035 if moved else 0.012) * np.ptp(ax.get_xlim()), at),
                ha="left" if sign > 0 else "right",
                va="center",
                fontsize=8,
                color=INK,
                arrowprops={"arrowstyle": "-", "color": "#bbbbbb", "linewidth": 0.6} if moved else None,
            )


def _dress(ax: "Axes", x: str, y: str | None) -> None:
    from matplotlib.ticker import AutoLocator

    label_axes(ax, x, y)
    open_frame(ax)
    if isinstance(ax.xaxis.get_major_locator(), AutoLocator):
        ax.locator_params(axis="x", nbins=6)  # small effects have long numbers


TESTS = {
    "published": ("rank-sum test", ("Goal_end_FDR", "Test_vs_null_FDR")),
    "matched": ("matched genes", ("matched_fdr",)),
    "donor": ("donors", ("donor_fdr",)),
}
"""What each test is called, and its columns with false discovery rates."""


def perturbation(
    ranking: "PerturbationRanking | pd.DataFrame | PerturbationEffects | AnnData | str | Path",
    *,
    kind: Literal["ranked", "volcano", "response", "heatmap"] = "ranked",
    n_genes: int = 20,
    goal: str | None = None,
    test: Literal["auto", "published", "matched", "donor"] = "auto",
    key: str = keys.PERTURBATION,
    title: str | None = None,
    ax: "Axes | None" = None,
    save: str | Path | None = None,
) -> "Axes":
    """Effects of in silico perturbations: ranked, against their significance, against the dose, or by state.

    "ranked" draws the strongest effects with their intervals; full dots are significant. "volcano" draws all effects
    against their false discovery rate, and names those with the lowest. "response" draws effects against the dose of
    edits such as `inhibit@0.25`, with deletion and overexpression at the ends. "heatmap" draws mean shifts of the
    strongest perturbations towards every state.

    Parameters
    ----------
    ranking
        What `gf.tl.rank_perturbations` returned; or effects, cells after `gf.tl.perturb`, or the folder of a run, which
        are ranked first.
    kind
        What to draw.
    n_genes
        Most perturbations drawn by name; of a response, most genes.
    goal
        State to draw shifts towards; that of the run by default.
    test
        Whose false discovery rates decide: the published rank-sum test, matched genes, or donors. "auto" takes the
        first that there is.
    key
        Slot of `uns` with the effects.
    title, ax
        Heading; axes to draw on.
    save
        File to write: .png, .pdf, .svg, .jpg or .tif. What is there is replaced.

    Raises
    ------
    UnknownChoiceError
        No such kind or test.
    StateError
        No shifts towards that state.
    DatasetError
        The table has no row per perturbation, or lacks what the kind needs.
    MissingExtraError
        matplotlib is not installed.

    Examples
    --------
    >>> import geneformer as gf
    >>> import pyarrow as pa
    >>> from geneformer.perturbation.effects import EFFECT_COLUMNS, PerturbationEffects
    >>> rows = [("c1", g, g, "delete", "similarity", "", v, "exact") for g, v in (("ENSG1", 0.9), ("ENSG2", 0.7))]
    >>> table = pa.table(dict(zip(EFFECT_COLUMNS, zip(*rows))))
    >>> genes = pa.table({"gene": ["ENSG1", "ENSG2"], "symbol": ["A", "B"], "token": [4, 5]})
    >>> axes = gf.pl.perturbation(PerturbationEffects(table, pa.table({"cell_id": ["c1"]}), genes))
    >>> [label.get_text() for label in axes.get_yticklabels()]
    ['B', 'A']
    """
    check_save(save)
    check_choice("kind", kind, DRAWN)
    check_choice("test", test, ("auto", *TESTS))
    check_range("n_genes", n_genes, low=1)
    shown = _shown(_ranked(ranking, key, goal), goal, test, n_genes)
    plotting_library("matplotlib.pyplot")
    ax = DRAWN[kind](shown, ax)
    if title:
        ax.set_title(title, fontsize=13, color=INK, loc="left")
    save_figure(ax.figure, save)
    return ax


def _ranked(
    ranking: "PerturbationRanking | pd.DataFrame | PerturbationEffects | AnnData | str | Path",
    key: str,
    goal: str | None,
) -> PerturbationRanking:
    """A ranking with one row per perturbation."""
    import pandas as pd

    if isinstance(ranking, pd.DataFrame):
        ranking = PerturbationRanking.from_frame(ranking)
    if isinstance(ranking, PerturbationRanking):
        if ranking.mode in ("aggregate", "aggregate_gene_shifts"):
            msg = (
                f'The table of mode "{ranking.mode}" has no single row per perturbation. Pass the '
                "effects themselves, or rank them in another mode."
            )
            raise DatasetError(msg)
        return ranking
    from geneformer.perturbation.statistics import rank_for_plots

    effects = effects_of(ranking, key)
    if goal in list(effects.states)[2:]:
        # Ranked towards that state, so that it has intervals too.
        order = [effects.start, goal, *(state for state in effects.states if state not in (effects.start, goal))]
        effects = dataclasses.replace(effects, states={str(state): effects.states[str(state)] for state in order})
    return rank_for_plots(effects)


def _shown(ranking: PerturbationRanking, goal: str | None, test: str, n_genes: int) -> Shown:
    """The effects to draw."""
    import pandas as pd

    frame = ranking.frame
    own = next((state for state, column in ranking.states.items() if column == "Shift_to_goal_end"), None)
    if goal is not None and (goal not in ranking.states or own is None):
        states = list(ranking.states) if own is not None else []
        msg = (
            f"There are no shifts towards {goal!r}; there are some towards {states or 'no state'}."
            f"{nearest(goal, states)} Perturb cells with that state as goal or alternate."
        )
        raise StateError(msg)
    is_own = goal is None or goal == own
    rated = {
        column: name
        for test_name, (name, columns) in TESTS.items()
        for column in columns
        if is_own and test in ("auto", test_name) and column in frame and frame[column].notna().any()
    }
    if test != "auto" and not rated:
        msg = f'The table has no false discovery rates for test="{test}". Leave test out, or rank accordingly.'
        raise DatasetError(msg)
    rates = next(iter(rated), None)
    ends: dict[str, Any] = {"low": np.nan, "high": np.nan}
    if is_own and {"ci_low", "ci_high"} <= set(frame.columns):
        ends = {"low": frame["ci_low"], "high": frame["ci_high"]}
    threshold = float(ranking.provenance.get("ranking", {}).get("options", {}).get("fdr", 0.05))
    genes, edits = frame["Gene_name"].map(gene_name), frame["edit"].astype(str)
    table = pd.DataFrame(
        {
            "gene": genes,
            # With the edit where one gene has several.
            "name": genes.where(~genes.duplicated(keep=False), genes + " " + edits),
            "edit": edits,
            "effect": frame["effect" if is_own else ranking.states[str(goal)]],
            **ends,
            "fdr": np.nan if rates is None else frame[rates],
        }
    ).reset_index(drop=True)
    table["significant"] = table["fdr"] < threshold
    axis = "distance moved (1 - cosine)"
    if (goal or own) is not None:
        axis = f"shift towards {goal or own} (change of cosine)"
    elif ranking.mode == "vs_null":
        axis = "distance moved, less that in the null run"
    has_shifts = (goal or own) is not None or len(ranking.states) > 1
    columns = {state: frame[column] for state, column in ranking.states.items() if has_shifts}
    by_state = pd.DataFrame(columns, index=frame.index).reset_index(drop=True)
    return Shown(table, by_state, axis, rated.get(str(rates), "rank-sum test"), threshold, n_genes)
