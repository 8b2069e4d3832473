"""`geneformer perturb merge`: parts of a run, made on several machines, into one."""

from pathlib import Path
from typing import Annotated

import typer

from geneformer.cli._model_flags import OVERWRITE
from geneformer.cli._options import with_options
from geneformer.cli._output import Outcome

PARTS = typer.Argument(metavar="PART...", help="Folders of all parts, in any order.", show_default=False)
OUTPUT = typer.Option("--output", "-o", metavar="OUT", help="Folder to make.", show_default=False)


@with_options()
def perturb_merge(
    parts: Annotated[list[Path], PARTS],
    *,
    output: Annotated[Path, OUTPUT],
    overwrite: Annotated[bool, OVERWRITE] = False,
) -> Outcome:
    """Put the parts of a run together."""
    from geneformer.results.perturbation import PerturbationEffects
    from geneformer.tasks.perturbation.run import merge_runs

    merge_runs(parts, output, overwrite=overwrite)
    found = PerturbationEffects.read(output)
    rows: list[tuple[str, object]] = [("Parts", len(parts)), ("Cells", found.cells.num_rows), ("Effects", len(found))]
    return Outcome(f"Effects in {output}", rows, {"output": str(output), "effects": len(found)})
