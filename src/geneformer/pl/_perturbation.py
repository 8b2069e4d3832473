"""`gf.pl.perturbation`."""

import dataclasses
import re
from collections import Counter
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
    """Effects to draw."""

    frame: "pd.DataFrame"
    effect: NDArray[np.float64]
    interval: NDArray[np.float64] | None
    rates: str | None
    threshold: float
    goal: str | None
    states: dict[str, str]
    n_genes: int
    difference: bool

    @property
    def fdr(self) -> NDArray[np.float64]:
        """False discovery rate of each, NaN where there is none."""
        if self.rates is None:
            return np.full(len(self.effect), np.nan)
        return self.frame[self.rates].to_numpy(dtype=float)

    @property
    def significant(self) -> NDArray[np.bool_]:
        """Which have a rate below the threshold."""
        return self.fdr < self.threshold

    @property
    def axis(self) -> str:
        """What the effect is called."""
        if self.goal is not None:
            return f"shift towards {self.goal} (change of cosine)"
        return "distance moved, less that in the null run" if self.difference else "distance moved (1 - cosine)"

    def strongest(self) -> NDArray[np.intp]:
        """Rows of the strongest effects, from the highest down."""
        size = np.where(np.isfinite(self.effect), np.abs(self.effect), -1)
        rows = np.argsort(-size, kind="stable")[: self.n_genes]
        rows = rows[size[rows] >= 0]
        return rows[np.argsort(-self.effect[rows], kind="stable")]

    def names(self) -> list[str]:
        """Short names, with the edit where one gene has several."""
        listed = [gene_name(entry) for entry in self.frame["Gene_name"]]
        twice = {name for name, number in Counter(listed).items() if number > 1}
        edits = self.frame["edit"].astype(str)
        return [f"{name} {edit}" if name in twice else name for name, edit in zip(listed, edits, strict=True)]


def gene_name(entry: Any) -> str:
    """The symbols of a perturbation, shortened."""
    name = "+".join(map(str, entry)) if isinstance(entry, tuple | list) else str(entry)
    return name if len(name) <= LONGEST else f"{name[: LONGEST - 1]}…"


def _draw_ranked(shown: Shown, ax: "Axes | None") -> "Axes":
    """Strongest effects with their intervals, as rows."""
    rows, names, significant = shown.strongest(), shown.names(), shown.significant
    ax = figure_axes(ax, (6.0, 1.3 + 0.24 * max(len(rows), 4)))
    ax.axvline(0, color=GRAY, linewidth=1, zorder=0)
    for place, row in enumerate(rows):
        color = UP if shown.effect[row] >= 0 else DOWN
        if shown.interval is not None and np.isfinite(shown.interval[row]).all():
            ax.plot(shown.interval[row], [place, place], color=color, linewidth=1.8, solid_capstyle="round")
        fill = color if significant[row] else "white"
        ax.plot(shown.effect[row], place, marker="o", markersize=6, color=color, markerfacecolor=fill)
    ax.set_yticks(range(len(rows)), [names[row] for row in rows], fontsize=9, color=INK)
    ax.set_ylim(len(rows) - 0.4, -0.6)
    _dress(ax, shown.axis, None)
    ax.grid(axis="x", color="#eeeeee")
    if significant[rows].any():
        _corner(ax, f"full: FDR < {shown.threshold:g}")
    return ax


def _draw_volcano(shown: Shown, ax: "Axes | None") -> "Axes":
    """All effects against their false discovery rates."""
    fdr = shown.fdr
    if not np.isfinite(fdr).any():
        msg = (
            "There are no false discovery rates to draw: no perturbation has any. Rank with a null run, more genes "
            'or donors, or draw kind="ranked".'
        )
        raise DatasetError(msg)
    rows = np.flatnonzero(np.isfinite(fdr) & np.isfinite(shown.effect))
    height = -np.log10(np.maximum(fdr[rows], 1e-300))
    effect, significant = shown.effect[rows], shown.significant[rows]
    ax = figure_axes(ax, (6.4, 5.2))
    ax.axhline(-np.log10(shown.threshold), color=GRAY, linewidth=1, linestyle="--", zorder=0)
    ax.axvline(0, color=FAINT, linewidth=1, zorder=0)
    sides = (~significant, NEITHER), (significant & (effect > 0), UP), (significant & (effect <= 0), DOWN)
    for some, color in sides:
        ax.scatter(effect[some], height[some], s=16, color=color, linewidths=0, alpha=0.9)
    names = shown.names()
    named = np.lexsort((-np.abs(effect), -height))[: shown.n_genes]
    ax.margins(x=0.18, y=0.06)
    ax.set_ylim(bottom=-0.02 * max(float(height.max()), 1.0))
    _name_points(ax, effect[named], height[named], [names[row] for row in rows[named]])
    test = {"matched_fdr": "matched genes", "donor_fdr": "donors"}.get(str(shown.rates), "rank-sum test")
    _dress(ax, shown.axis, f"-log10 of the FDR ({test})")
    _corner(ax, f"FDR < {shown.threshold:g}: {significant.sum():,} of {len(rows):,}")
    return ax


def _draw_response(shown: Shown, ax: "Axes | None") -> "Axes":
    """Effects of each gene against the dose."""
    lines = _dose_lines(shown)
    ax = figure_axes(ax, (7.4, 4.6))
    ax.axhline(0, color=GRAY, linewidth=1, zorder=0)
    for (name, rows, dose), color in zip(lines, spread(len(lines)), strict=True):
        effect = shown.effect[rows]
        within = np.abs(dose) <= 1
        # An edit that moves nothing has no effect.
        curve = np.append(dose[within], 0.0), np.append(effect[within], 0.0)
        order = np.argsort(curve[0], kind="stable")
        ax.plot(curve[0][order], curve[1][order], color=color, linewidth=1.8, label=name)
        ax.plot(dose, effect, linestyle="none", marker="o", markersize=5, color=color)
        if shown.interval is not None:
            ax.vlines(dose, *shown.interval[rows].T, color=color, linewidth=1.2, alpha=0.7)
    places = sorted({*np.round(np.concatenate([dose for _, _, dose in lines]), 6).tolist(), 0.0})
    edit_at = {place: edit for edit, place in ENDS.items()}
    ax.set_xticks(places, [edit_at.get(place, f"{place:+g}" if place else "0") for place in places])
    _dress(ax, "share of the cell's genes moved past: down (inhibit), up (activate)", shown.axis)
    ax.grid(color="#eeeeee")
    side_legend(ax, fontsize=9)
    return ax


def _dose_lines(shown: Shown) -> list[tuple[str, NDArray[np.intp], NDArray[np.float64]]]:
    """Name, rows and doses of each gene with several doses, the strongest first."""
    edits = shown.frame["edit"].astype(str).tolist()
    dose = np.array([_dose_of(edit) for edit in edits])
    names = np.array([gene_name(entry) for entry in shown.frame["Gene_name"]], dtype=object)
    lines = []
    for name in dict.fromkeys(names):
        rows = np.flatnonzero((names == name) & np.isfinite(dose) & np.isfinite(shown.effect))
        if len({dose[row] for row in rows}) > 1:
            rows = rows[np.argsort(dose[rows], kind="stable")]
            lines.append((str(name), rows, dose[rows]))
    if not lines:
        msg = (
            f"No gene was perturbed in more than one dose; the edits are {sorted(set(edits))[:8]}. Perturb it as "
            "inhibit@0.25:GENE, inhibit@0.5:GENE and so on."
        )
        raise DatasetError(msg)
    return sorted(lines, key=lambda line: -np.abs(shown.effect[line[1]]).max())[: shown.n_genes]


def _dose_of(edit: str) -> float:
    """Where an edit stands on the axis of doses; NaN for edits one after the other."""
    dosed = _DOSE.fullmatch(edit)
    if dosed is None:
        return ENDS.get(edit, np.nan)
    return float(dosed[2]) * (-1 if dosed[1] == "inhibit" else 1)


def _draw_heatmap(shown: Shown, ax: "Axes | None") -> "Axes":
    """Mean shifts of the strongest perturbations towards every state."""
    from matplotlib.colors import LinearSegmentedColormap

    if shown.goal is None and len(shown.states) < 2:
        msg = 'kind="heatmap" draws shifts towards states, and there are none. Perturb cells with start and goal.'
        raise DatasetError(msg)
    rows, names = shown.strongest(), shown.names()
    values = shown.frame[list(shown.states.values())].to_numpy(dtype=float)[rows]
    ax = figure_axes(ax, (2.8 + 0.95 * values.shape[1], 1.8 + 0.26 * max(len(rows), 4)))
    most = float(np.nanmax(np.abs(values), initial=0)) or 1.0
    colors = LinearSegmentedColormap.from_list("geneformer_shifts", ["#882255", DOWN, "#f7f7f7", UP, "#117733"])
    draw_matrix(
        ax,
        values,
        colors.with_extremes(bad=FAINT),
        columns=list(shown.states),
        bar="change of cosine",
        limits=(-most, most),
        aspect="auto",
    )
    ax.set_yticks(range(len(rows)), [names[row] for row in rows], fontsize=9, color=INK)
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


FDR_COLUMNS = {
    "published": ("Goal_end_FDR", "Test_vs_null_FDR"),
    "matched": ("matched_fdr",),
    "donor": ("donor_fdr",),
}
"""Columns with false discovery rates, by the test they belong to."""


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
    check_choice("test", test, ("auto", *FDR_COLUMNS))
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
                f'The table was made with mode="{ranking.mode}" and has no single row per perturbation. Pass the '
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
    has_interval = is_own and {"ci_low", "ci_high"} <= set(frame.columns)
    names = FDR_COLUMNS if test == "auto" else {test: FDR_COLUMNS[test]}
    columns = [column for some in names.values() for column in some if column in frame and is_own]
    rates = next((column for column in columns if frame[column].notna().any()), None)
    if test != "auto" and rates is None:
        msg = f'The table has no false discovery rates for test="{test}". Leave test out, or rank accordingly.'
        raise DatasetError(msg)
    options = ranking.provenance.get("ranking", {}).get("options", {})
    return Shown(
        frame=frame,
        effect=frame["effect" if is_own else ranking.states[str(goal)]].to_numpy(dtype=float),
        interval=frame[["ci_low", "ci_high"]].to_numpy(dtype=float) if has_interval else None,
        rates=rates,
        threshold=float(options.get("fdr", 0.05)),
        goal=own if goal is None else goal,
        states=dict(ranking.states),
        n_genes=n_genes,
        difference=ranking.mode == "vs_null",
    )
