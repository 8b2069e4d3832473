"""`geneformer network`: gene networks, what one will take, and the network."""

import shutil
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from geneformer.cli._options import CellsAndModel, Overwrite, TableFile, flag, with_options
from geneformer.cli._output import Outcome, Rows, duration, panel_rows, written
from geneformer.files.progress import inform, progress_bar
from geneformer.options import NetworkOptions, RuntimeOptions

if TYPE_CHECKING:
    from geneformer.applications.network_plan import NetworkPlan

SIGNIFICANT = 0.05
"""False discovery rate below which edges are counted."""

_STABILITY = {
    "half_split_jaccard": "Strongest edges in both halves",
    "leave_donor_out_jaccard": "Strongest edges without a donor",
}
"""How much of the strongest edges is found again, and how the closing table says so."""


@with_options(
    "network plan cells.h5ad --method perturbation --regulators tf",
    "network plan cells.h5ad --method perturbation --deletions screen --groupby cell_type",
)
def network_plan(cells: CellsAndModel, *, options: NetworkOptions, runtime: RuntimeOptions) -> Outcome:
    """Check the inference of a network, and say what it will take."""
    plan = _open_plan(cells, options, runtime)
    rows, data = _planned(plan)
    return Outcome("Nothing was run yet", rows, data)


@with_options(
    "network infer cells.h5ad -o net.parquet --method embedding --regulators tf --groupby cell_type",
    "network infer filtered_matrix/ -o net.csv --method perturbation --deletions screen --regulators STAT1,IRF9",
)
def network_infer(
    cells: CellsAndModel,
    *,
    output: TableFile,
    differential: Annotated[
        Path | None, flag("Table to make of edges that differ between groups: .parquet or .csv.", metavar="FILE")
    ] = None,
    resume: Annotated[bool, flag("Go on with a run that was interrupted.", "--resume")] = False,
    options: NetworkOptions,
    runtime: RuntimeOptions,
    overwrite: Overwrite = False,
) -> Outcome:
    """Infer directed edges from regulators to genes, each against matched genes."""
    from geneformer.files.atomic import LOCK, check_output, lock, partial_folder
    from geneformer.inference.tables import check_suffix, save_table

    for path in filter(None, (output, differential)):
        check_output(check_suffix(path), overwrite=overwrite)
    from geneformer.applications.network_inference import infer_network
    from geneformer.applications.network_perturbation import Saved

    keeps = "perturbation" in options.method
    saved = Saved(partial_folder(output), resume, overwrite) if keeps else None
    if saved is not None:
        saved.check()
    plan = _open_plan(cells, options, runtime)
    rows, data = _planned(plan)
    inform(", ".join(f"{name.lower()}: {value}" for name, value in rows))
    if saved is not None:
        saved.folder.mkdir(exist_ok=True)
    with (
        nullcontext() if saved is None else lock(saved.folder / LOCK),
        progress_bar("Inferring a network", shown=runtime.progress, unit="steps") as update,
    ):
        network = infer_network(plan, saved=saved, progress=update)
        provenance = cells.recorded(network.provenance)
        save_table(network.edges, output, provenance, overwrite=overwrite)
        if differential is not None:
            save_table(network.differential, differential, provenance, overwrite=overwrite)
    if saved is not None:
        shutil.rmtree(saved.folder, ignore_errors=True)
    significant = int((network.edges["q"] < SIGNIFICANT).sum())
    stable = network.provenance["stability"]
    rows += [("Edges kept", len(network.edges)), (f"FDR below {SIGNIFICANT:g}", significant)]
    rows += [
        (f"{_STABILITY[name]}, {method}, {group}", f"{value:.2f}")
        for name in _STABILITY
        for group, method, value in zip(stable["group"], stable["method"], stable.get(name, ()), strict=False)
        if value == value  # noqa: PLR0124 NaN where it was not measured
    ]
    shown = network.summary_of()
    outcome = written(
        "Network", output, rows, edges=len(network.edges), significant=significant, stability=stable, **data
    )
    return replace(outcome, table=[shown.header, *shown.rows])


def _open_plan(cells: CellsAndModel, options: NetworkOptions, runtime: RuntimeOptions) -> "NetworkPlan":
    """Cells, model and options, checked."""
    from geneformer.applications.network_plan import plan_network
    from geneformer.inference.cells import open_cells
    from geneformer.models.loading import load_model

    loaded = load_model(cells.model, vocabulary=cells.vocabulary, revision=cells.revision)
    opened = open_cells(
        cells.inputs,
        loaded,
        counts_layer=cells.counts_layer,
        accept_normalized=cells.accept_normalized,
        counts=True,
    )
    return plan_network(opened, loaded, options, runtime)


def _planned(plan: "NetworkPlan") -> tuple[Rows, dict[str, Any]]:
    """What a network will take, as lines and as data."""
    from geneformer.applications.network_inference import network_cost

    cost = network_cost(plan)
    panel = plan.panel.record()
    rows: Rows = [
        ("Cells", ", ".join(f"{len(group.rows):,} {group.name}" for group in plan.groups)),
        ("Regulators", plan.genes.n_regulators),
        *panel_rows(panel),
        ("Matched genes", len(plan.genes.sources) - plan.genes.n_regulators),
        ("Targets", len(plan.genes.targets)),
        ("Edges", plan.genes.n_regulators * len(plan.genes.targets)),
        ("Method", ", ".join(plan.options.method)),
        *([("Forward passes, about", cost.passes)] if cost.passes else []),
        *([("Time on this machine, about", duration(cost.seconds))] if cost.seconds else []),
        ("Model", plan.model.name),
    ]
    numbers = {"regulators": plan.genes.n_regulators, "targets": len(plan.genes.targets)}
    cells = {group.name: len(group.rows) for group in plan.groups}
    return rows, {"cells": cells, **numbers, "passes": cost.passes, "seconds": cost.seconds, "panel": panel}
