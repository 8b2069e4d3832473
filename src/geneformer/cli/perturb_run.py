"""`geneformer perturb run`: cells in, a folder with the effects of every perturbation out."""

from pathlib import Path
from typing import Annotated

import typer

from geneformer.cli._model_flags import COUNTS_LAYER, INPUTS, MODEL, OVERWRITE, REVISION, VOCABULARY
from geneformer.cli._options import with_options
from geneformer.cli._output import Outcome, progress_bar
from geneformer.cli._perturbing import open_plan
from geneformer.errors import OptionError
from geneformer.options import PerturbOptions, RuntimeOptions

OUTPUT = typer.Option("--output", "-o", metavar="OUT", help="Folder to make.", show_default=False)
PART = typer.Option(metavar="I/N", help="Run one of N parts, for several machines; `perturb merge` puts them together.")
RESUME = typer.Option("--resume", help="Go on with a run that was interrupted.")


@with_options()
def perturb_run(  # noqa: PLR0913
    inputs: Annotated[list[Path], INPUTS],
    *,
    output: Annotated[Path, OUTPUT],
    model: Annotated[str, MODEL] = "mini",
    vocabulary: Annotated[str | None, VOCABULARY] = None,
    revision: Annotated[str | None, REVISION] = None,
    counts_layer: Annotated[str | None, COUNTS_LAYER] = None,
    part: Annotated[str, PART] = "1/1",
    resume: Annotated[bool, RESUME] = False,
    options: PerturbOptions,
    runtime: RuntimeOptions,
    overwrite: Annotated[bool, OVERWRITE] = False,
) -> Outcome:
    """Perturb genes of cells, and write what that changes."""
    from geneformer.results.perturbation import PerturbationEffects
    from geneformer.runs.files import check_output
    from geneformer.tasks.perturbation.run import run_to_folder

    check_output(output, overwrite=overwrite)
    chosen = _part(part)
    plan = open_plan(
        inputs, model, options, runtime, vocabulary=vocabulary, revision=revision, counts_layer=counts_layer
    )
    with progress_bar("Perturbing (shards)", shown=runtime.progress) as update:
        run_to_folder(plan, output, part=chosen, resume=resume, overwrite=overwrite, progress=update)
    found = PerturbationEffects.read(output)
    rows: list[tuple[str, object]] = [
        ("Cells", found.cells.num_rows),
        ("Effects", len(found)),
        ("Model", plan.model.name),
        ("Next", f"geneformer perturb rank {output} -o ranking.csv"),
    ]
    screen = found.provenance.get("screen")
    if screen:
        rows[2:2] = [(f"Screen, {name.replace('_', ' ')}", value) for name, value in screen.items()]
    data = {"output": str(output), "cells": found.cells.num_rows, "effects": len(found)}
    return Outcome(f"Effects in {output}", rows, data | ({"screen": screen} if screen else {}))


def _part(text: str) -> tuple[int, int]:
    number, slash, parts = text.partition("/")
    if not slash or not number.strip().isdigit() or not parts.strip().isdigit():
        msg = f'--part "{text}" is not understood. Write I/N, such as 2/4.'
        raise OptionError(msg)
    return int(number), int(parts)
