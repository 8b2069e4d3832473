"""`geneformer network`: what a network will take, the network, how true it is, and what it looks like."""

import shutil
from contextlib import nullcontext
from dataclasses import asdict, replace
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from geneformer.cli._options import CellsAndModel, Overwrite, TableFile, flag, output_option, with_options
from geneformer.cli._output import Outcome, Rows, duration, written
from geneformer.cli._pictures import check_pictures, given_pictures, picture
from geneformer.errors import OutputExistsError
from geneformer.files.progress import inform, progress_bar
from geneformer.options import NetworkEvaluateOptions, NetworkOptions, RuntimeOptions
from geneformer.options._fields import some_of

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
    if saved is not None and saved.is_begun() and not (resume or overwrite):
        msg = (
            f'An interrupted run lies in "{saved.folder}". Go on with it by --resume, or drop it with --overwrite. '
            "Nothing was changed."
        )
        raise OutputExistsError(msg)
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


NETWORK = typer.Argument(metavar="NETWORK", help="Table of edges: .parquet or .csv.", show_default=False)


@with_options(
    "network evaluate net.parquet --truth collectri.csv --cells cells.h5ad -o agreement.csv --plot agreement.png",
    "network evaluate net.csv --truth trrust.gmt --universe all",
)
def network_evaluate(
    network: Annotated[Path, NETWORK],
    *,
    truth: Annotated[
        Path,
        flag(
            "Known pairs: source (tf, regulator) and target in .csv, .tsv or .parquet; or sets in .gmt.", metavar="FILE"
        ),
    ],
    cells: Annotated[Path | None, flag("Raw counts, for the baselines of expression.", metavar="FILE")] = None,
    output: Annotated[Path | None, output_option("OUT", "Table to make: .parquet or .csv.")] = None,
    plot: Annotated[Path | None, picture("the areas over the band of the null")] = None,
    options: NetworkEvaluateOptions,
    overwrite: Overwrite = False,
) -> Outcome:
    """Compare a network with known pairs, beside baselines and a null that keeps all degrees."""
    from geneformer.files.atomic import check_output
    from geneformer.inference.tables import check_suffix, save_table

    if output is not None:
        check_output(check_suffix(output), overwrite=overwrite)
    pictures = given_pictures(plot=plot)
    check_pictures(pictures, overwrite=overwrite)
    import geneformer.tl as tools

    table = tools.evaluate_network(network, truth, cells=cells, **asdict(options))
    if output is not None:
        save_table(table, output, {}, overwrite=overwrite)
    if plot is not None:
        import geneformer.pl as drawing

        drawing.network_benchmark(table, save=plot)
    first = table.iloc[0]
    rows: Rows = [
        ("Regulators judged", int(first["regulators"])),
        ("Known pairs", int(first["pairs"])),
        ("Candidates", int(first["candidates"])),
        *([] if output is None else [("Table", output)]),
        *(("Picture", path) for path in pictures.values()),
    ]
    head = ("score", "AUROC", "interval", "null", "p", f"less {options.against}", "average precision")
    lines = [
        (
            row.score,
            f"{row.auroc:.3f}",
            f"{row.auroc_low:.3f} to {row.auroc_high:.3f}",
            f"{row.null_low:.3f} to {row.null_high:.3f}",
            f"{row.p:.2g}",
            f"{row.difference:+.3f}",
            f"{row.average_precision:.3f}",
        )
        for row in table.itertuples()
    ]
    data = {"scores": table.to_dict("records")} | ({} if output is None else {"output": str(output)})
    return Outcome(f"{network} against {truth}", rows, data, [head, *lines])


class NetworkDrawing(StrEnum):
    """Kinds of pictures of a network."""

    graph = "graph"
    heatmap = "heatmap"
    regulators = "regulators"
    states = "states"


class ExportedColumns(StrEnum):
    """Columns of a table that other programs read."""

    all = "all"
    decoupler = "decoupler"
    genernib = "genernib"


@with_options(
    "network show net.parquet --plot net.png --n-edges 80",
    "network show net.parquet -o regulons.csv --columns decoupler --method embedding",
)
def network_show(
    network: Annotated[Path, NETWORK],
    *,
    output: Annotated[
        Path | None, output_option("OUT", "Write it for other programs: .graphml, .cyjs (Cytoscape), .parquet or .csv.")
    ] = None,
    columns: Annotated[ExportedColumns, flag("Columns of a table, as other programs read them.")] = ExportedColumns.all,
    plot: Annotated[Path | None, picture("the network")] = None,
    kind: Annotated[NetworkDrawing, flag("What the picture shows.")] = NetworkDrawing.graph,
    n_edges: Annotated[int | None, flag("Most edges written, or drawn.", min=1)] = None,
    group: Annotated[str | None, flag("Group, where there are several.")] = None,
    method: Annotated[str | None, flag("Method, where there are several.")] = None,
    overwrite: Overwrite = False,
) -> Outcome:
    """Show the strongest edges of a network, draw it, or write it for other programs."""
    from geneformer.applications.network_exports import export_network
    from geneformer.applications.networks import read_network
    from geneformer.files.atomic import check_output

    if output is not None:
        check_output(output, overwrite=overwrite)
    pictures = given_pictures(plot=plot)
    check_pictures(pictures, overwrite=overwrite)
    found = read_network(network)
    chosen: dict[str, Any] = {"group": group, "method": method}
    if plot is not None:
        _draw(found.edges, kind, plot, n_edges, chosen)
    rows: Rows = [
        ("Edges", len(found.edges)),
        ("Methods", ", ".join(found.edges["method"].unique())),
        ("Groups", ", ".join(found.groups)),
        (f"FDR below {SIGNIFICANT:g}", int((found.edges["q"] < SIGNIFICANT).sum())),
    ]
    data: dict[str, Any] = {"edges": len(found.edges), "groups": found.groups}
    if output is not None:
        written_rows = export_network(
            found.edges, output, columns=columns.value, n_edges=n_edges, overwrite=overwrite, **chosen
        )
        rows.append(("Written", f"{len(written_rows):,} edges to {output}"))
        data |= {"output": str(output), "written": len(written_rows)}
    rows += [("Picture", path) for path in pictures.values()]
    shown = found.summary_of()
    return Outcome(str(network), rows, data, [shown.header, *shown.rows])


def _draw(edges: Any, kind: NetworkDrawing, path: Path, n_edges: int | None, chosen: dict[str, Any]) -> None:
    import geneformer.pl as drawing

    if kind is NetworkDrawing.graph:
        drawing.network(edges, n_edges=n_edges or 60, save=path, **chosen)
    elif kind is NetworkDrawing.states:
        groups = chosen["group"]
        drawing.network_states(edges, groups=groups, n_edges=n_edges or 30, method=chosen["method"], save=path)
    else:
        draw = drawing.network_heatmap if kind is NetworkDrawing.heatmap else drawing.network_regulators
        draw(edges, save=path, **chosen)


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
        gene_ids=cells.gene_ids,
        accept_normalized=cells.accept_normalized,
        counts=True,
    )
    return plan_network(opened, loaded, options, runtime)


def _planned(plan: "NetworkPlan") -> tuple[Rows, dict[str, Any]]:
    """What a network will take, as lines and as data."""
    from geneformer.applications.network_inference import network_cost

    cost = network_cost(plan)
    panel = plan.panel.record()
    left_out = panel["left_out"]
    rows: Rows = [
        ("Cells", ", ".join(f"{len(group.rows):,} {group.name}" for group in plan.groups)),
        ("Regulators", plan.genes.n_regulators),
        *([("Left out", f"{len(left_out):,}: {some_of(left_out)}")] if left_out else []),
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
