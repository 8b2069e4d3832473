"""`gf.pl.perturbation`."""

import dataclasses
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from geneformer import keys
from geneformer.errors import DatasetError, StateError
from geneformer.options import RankOptions
from geneformer.options._check import check_choice, check_range, nearest
from geneformer.pl._figures import INK, check_save, plotting_library, save_figure
from geneformer.pl._perturbation_kinds import DRAWN, Shown
from geneformer.results.perturbation import PerturbationEffects
from geneformer.results.perturbation_ranking import PerturbationRanking
from geneformer.results.perturbation_slots import effects_of

if TYPE_CHECKING:
    import pandas as pd
    from anndata import AnnData
    from matplotlib.axes import Axes

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
    title
        Heading.
    ax
        Axes to draw on.
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
    >>> from geneformer.results.perturbation import EFFECT_COLUMNS, PerturbationEffects
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
    ranked = _ranked(ranking, key, goal)
    shown = _shown(ranked, goal, test, n_genes)
    draw = DRAWN[kind]
    found = draw.select(shown)
    pyplot = plotting_library("matplotlib.pyplot")
    if ax is None:
        ax = pyplot.subplots(figsize=draw.size(found), layout="constrained")[1]
    draw.draw(ax, found, shown)
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
    from geneformer.tasks.perturbation.statistics import summarize

    effects = effects_of(ranking, key)
    if goal in list(effects.states)[2:]:
        # Ranked towards that state, so that it has intervals too.
        order = [effects.start, goal, *(state for state in effects.states if state not in (effects.start, goal))]
        effects = dataclasses.replace(effects, states={str(state): effects.states[str(state)] for state in order})
    return summarize(effects, RankOptions())


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
    known = is_own and {"ci_low", "ci_high"} <= set(frame.columns)
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
        interval=frame[["ci_low", "ci_high"]].to_numpy(dtype=float) if known else None,
        rates=rates,
        threshold=float(options.get("fdr", 0.05)),
        goal=own if goal is None else goal,
        states=dict(ranking.states),
        n_genes=n_genes,
        difference=ranking.mode == "vs_null",
    )
