"""`geneformer perturb`: what a run will take, the run, its parts put together, and its statistics."""

from collections.abc import Mapping
from dataclasses import asdict
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from geneformer.cli._options import CellsAndModel, Overwrite, flag, output_option, with_options
from geneformer.cli._output import Outcome, Rows, duration, panel_rows, written
from geneformer.cli._pictures import check_pictures, given_pictures
from geneformer.errors import OptionError
from geneformer.files.progress import progress_bar
from geneformer.options import PerturbOptions, RankOptions, RuntimeOptions

if TYPE_CHECKING:
    from geneformer.perturbation.plan import PerturbationPlan


@with_options(
    "perturb plan cells.h5ad --genes ISG15,STAT1",
    "perturb plan cells.h5ad --start diseased --goal healthy --max-cells 100",
)
def perturb_plan(
    cells: CellsAndModel,
    *,
    calibrate: Annotated[bool, flag("Run a few edits to estimate the time.")] = True,
    options: PerturbOptions,
    runtime: RuntimeOptions,
) -> Outcome:
    """Check a perturbation run, and say what it will take."""
    from geneformer.perturbation.plan import estimate_cost

    plan = _open_plan(cells, options, runtime)
    cost = estimate_cost(plan, calibrate=calibrate)
    panel = plan.provenance.get("panel")
    rows: Rows = [
        ("Cells", cost.cells),
        ("Perturbations", cost.perturbations),
        *panel_rows(panel),
        ("Forward passes", cost.passes),
        ("Tokens", cost.tokens),
        *([] if cost.seconds is None else [("Time on this machine", duration(cost.seconds))]),
        ("Memory, about", _size(cost.peak_bytes)),
        ("Result, about", f"{cost.rows:,} rows, {_size(cost.bytes_on_disk)}"),
        ("Shards", plan.n_shards),
        ("Model", plan.model.name),
    ]
    return Outcome("Nothing was run yet", rows, {**asdict(cost), "shards": plan.n_shards, **_reported(panel)})


EffectsFolder = Annotated[Path, output_option("OUT", "Folder to make.")]
PART = flag("Run one of N parts, for several machines; `perturb merge` puts them together.", metavar="I/N")


@with_options(
    "perturb run cells.h5ad --genes panel.txt --start diseased --goal healthy -o run",
    "perturb run cells.h5ad --edit overexpress --genes GATA4+TBX5 --part 1/2 -o part1",
)
def perturb_run(
    cells: CellsAndModel,
    *,
    output: EffectsFolder,
    part: Annotated[str, PART] = "1/1",
    resume: Annotated[bool, flag("Go on with a run that was interrupted.", "--resume")] = False,
    options: PerturbOptions,
    runtime: RuntimeOptions,
    overwrite: Overwrite = False,
) -> Outcome:
    """Perturb genes of cells, and write what that changes."""
    from geneformer.files.atomic import check_output
    from geneformer.perturbation.effects import PerturbationEffects

    check_output(output, overwrite=overwrite)
    chosen = _part(part)
    from geneformer.perturbation.run import run_to_folder  # not before the checks: it takes seconds

    plan = _open_plan(cells, options, runtime)
    with progress_bar("Perturbing", shown=runtime.progress, unit="shards") as update:
        run_to_folder(
            plan,
            output,
            part=chosen,
            resume=resume,
            overwrite=overwrite,
            inputs=cells.sources(),
            progress=update,
        )
    effects = PerturbationEffects.read(output)
    rows: Rows = [
        ("Cells", effects.cells.num_rows),
        ("Effects", len(effects)),
        ("Model", plan.model.name),
        ("Next", _next_step(output, chosen)),
    ]
    screen, panel = effects.provenance.get("screen"), effects.provenance.get("panel")
    rows[2:2] = panel_rows(panel)
    if screen:
        rows[2:2] = [(f"Screen, {name.replace('_', ' ')}", value) for name, value in screen.items()]
    screened = ({"screen": screen} if screen else {}) | _reported(panel)
    return written("Effects", output, rows, cells=effects.cells.num_rows, effects=len(effects), **screened)


def _next_step(output: Path, part: tuple[int, int]) -> str:
    """The command line that goes on from a finished run."""
    number, parts = part
    if parts == 1:
        return f"geneformer perturb rank {output} -o ranking.csv"
    others = " ".join(f"PART{other}" for other in range(1, parts + 1) if other != number)
    return f"when all {parts} parts are there: geneformer perturb merge {output} {others} -o run; then perturb rank"


def _reported(panel: Mapping[str, Any] | None) -> dict[str, Any]:
    """The genes of a run that were named, used and left out, for `--json`."""
    return {} if panel is None else {"panel": panel}


def _part(text: str) -> tuple[int, int]:
    number, slash, parts = text.partition("/")
    if not slash or not number.strip().isdecimal() or not parts.strip().isdecimal():
        msg = f'--part "{text}" is not understood. Write I/N, such as 2/4.'
        raise OptionError(msg)
    return int(number), int(parts)


@with_options(
    "perturb merge part1 part2 -o run",
    "perturb merge part*/ -o run --overwrite",
)
def perturb_merge(
    parts: Annotated[
        list[Path], typer.Argument(metavar="PART...", help="Folders of all parts, in any order.", show_default=False)
    ],
    *,
    output: EffectsFolder,
    overwrite: Overwrite = False,
) -> Outcome:
    """Put the parts of a run together."""
    from geneformer.files.atomic import check_output
    from geneformer.perturbation.effects import PerturbationEffects

    check_output(output, overwrite=overwrite)
    from geneformer.perturbation.run import merge_runs

    merge_runs(parts, output, overwrite=overwrite)
    effects = PerturbationEffects.read(output)
    rows: Rows = [
        ("Parts", len(parts)),
        ("Cells", effects.cells.num_rows),
        ("Effects", len(effects)),
    ]
    return written("Effects", output, rows, effects=len(effects))


class Drawing(StrEnum):
    """Kinds of pictures."""

    ranked = "ranked"
    volcano = "volcano"
    response = "response"
    heatmap = "heatmap"


FOLDER = typer.Argument(metavar="FOLDER", help="Folder of a finished perturbation run.", show_default=False)


@with_options(
    "perturb rank run -o ranking.csv --plot ranking.png",
    "perturb rank run -o ranking.csv --donor donor --plot volcano.png --kind volcano",
)
def perturb_rank(
    folder: Annotated[Path, FOLDER],
    *,
    output: Annotated[Path, output_option("OUT", "Table to make: .csv, .parquet or .h5ad.")],
    null: Annotated[Path | None, flag("Folder of a run to compare with.", metavar="FOLDER")] = None,
    plot: Annotated[Path | None, flag("Picture to make: .png, .pdf or .svg.", metavar="FILE")] = None,
    kind: Annotated[Drawing, flag("What the picture shows.")] = Drawing.ranked,
    n_genes: Annotated[int, flag("Most perturbations the picture names.", min=1)] = 20,
    options: RankOptions,
    overwrite: Overwrite = False,
) -> Outcome:
    """Test and rank the perturbations of a finished run."""
    from geneformer.files.atomic import check_output
    from geneformer.inference.tables import check_suffix
    from geneformer.perturbation.effects import RANKING_SUFFIXES, PerturbationEffects
    from geneformer.perturbation.statistics import rank_effects

    check_output(check_suffix(output, RANKING_SUFFIXES), overwrite=overwrite)
    pictures = given_pictures(plot=plot)
    check_pictures(pictures, overwrite=overwrite)
    effects = PerturbationEffects.read(folder)
    compared = None if null is None else PerturbationEffects.read(null)
    ranking = rank_effects(effects, options, compared)
    if plot is not None:
        import geneformer.pl as drawing

        per_cell = ranking.mode in ("aggregate", "aggregate_gene_shifts")
        drawing.perturbation(effects if per_cell else ranking, kind=kind.value, n_genes=n_genes, save=plot)
    ranking.save(output, overwrite=overwrite)
    numbers = ranking.provenance["ranking"]["perturbations"]
    rows: Rows = [("Statistics", ranking.mode), ("Perturbations", numbers["tested"])]
    rows += [("Rows", len(ranking)), ("Not tested", numbers["left_out"])]
    panel = effects.provenance.get("panel")
    rows += panel_rows(panel)
    data = {"output": str(output), "mode": ranking.mode, "n": len(ranking), **numbers, **_reported(panel)}
    if "Sig" in ranking.frame:
        significant = int(ranking.frame["Sig"].sum())
        rows.append((f"FDR below {options.fdr:g}", significant))
        data["significant"] = significant
    if plot is not None:
        rows.append(("Picture", pictures["plot"]))
        data["plot"] = str(pictures["plot"])
    shown = ranking.summary_of()
    return Outcome(f"Perturbations in {output}", rows, data, [shown.header, *shown.rows])


def _open_plan(cells: CellsAndModel, options: PerturbOptions, runtime: RuntimeOptions) -> "PerturbationPlan":
    """Cells, model and options, checked."""
    from geneformer.perturbation.plan import open_perturbed_model, plan_perturbation

    loaded = open_perturbed_model(cells.model, vocabulary=cells.vocabulary, revision=cells.revision)
    return plan_perturbation(cells.tokens_for(loaded, runtime, counts=True), loaded, options, runtime)


def _size(n_bytes: float) -> str:
    """A size for people."""
    return f"{n_bytes / 2**20:,.0f} MiB" if n_bytes < 2**30 else f"{n_bytes / 2**30:.1f} GiB"
