"""`geneformer perturb rank`: a finished perturbation run in, ranked perturbations out."""

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from geneformer.cli._model_flags import OVERWRITE
from geneformer.cli._options import with_options
from geneformer.cli._output import Outcome
from geneformer.options import RankOptions


class Drawing(StrEnum):
    """Kinds of pictures."""

    ranked = "ranked"
    volcano = "volcano"
    response = "response"
    heatmap = "heatmap"


FOLDER = typer.Argument(metavar="FOLDER", help="Folder of a finished perturbation run.", show_default=False)
OUTPUT = typer.Option(
    "--output", "-o", metavar="OUT", help="Table to make: .csv, .parquet or .h5ad.", show_default=False
)
NULL = typer.Option("--null", metavar="FOLDER", help="Folder of a run to compare with.", show_default=False)
PLOT = typer.Option("--plot", metavar="FILE", help="Picture to make: .png, .pdf or .svg.", show_default=False)
KIND = typer.Option("--kind", help="What the picture shows.")
N_GENES = typer.Option("--n-genes", min=1, help="Most perturbations the picture names.")


@with_options()
def perturb_rank(
    folder: Annotated[Path, FOLDER],
    *,
    output: Annotated[Path, OUTPUT],
    null: Annotated[Path | None, NULL] = None,
    plot: Annotated[Path | None, PLOT] = None,
    kind: Annotated[Drawing, KIND] = Drawing.ranked,
    n_genes: Annotated[int, N_GENES] = 20,
    options: RankOptions,
    overwrite: Annotated[bool, OVERWRITE] = False,
) -> Outcome:
    """Test and rank the perturbations of a finished run."""
    from geneformer.results.perturbation import PerturbationEffects
    from geneformer.results.perturbation_ranking import SUFFIXES
    from geneformer.results.tables import check_suffix
    from geneformer.runs.files import check_output
    from geneformer.tasks.perturbation.statistics import rank_effects

    check_output(check_suffix(output, SUFFIXES), overwrite=overwrite)
    if plot is not None:
        from geneformer.pl._figures import check_save

        check_save(plot)
        check_output(plot, overwrite=overwrite)
    effects = PerturbationEffects.read(folder)
    compared = None if null is None else PerturbationEffects.read(null)
    ranking = rank_effects(effects, options, compared)
    if plot is not None:
        import geneformer.pl as drawing

        per_cell = ranking.mode in ("aggregate", "aggregate_gene_shifts")
        drawing.perturbation(effects if per_cell else ranking, kind=kind.value, n_genes=n_genes, save=plot)
    ranking.save(output, overwrite=overwrite)
    told = ranking.provenance["ranking"]["perturbations"]
    rows: list[tuple[str, object]] = [("Statistics", ranking.mode), ("Perturbations", told["tested"])]
    rows += [("Rows", len(ranking)), ("Left out", told["left_out"])]
    data = {"output": str(output), "mode": ranking.mode, "n": len(ranking), **told}
    if "Sig" in ranking.frame:
        significant = int(ranking.frame["Sig"].sum())
        rows.append((f"FDR below {options.fdr:g}", significant))
        data["significant"] = significant
    if plot is not None:
        rows.append(("Picture", plot))
        data["plot"] = str(plot)
    return Outcome(f"Perturbations in {output}", rows, data)
